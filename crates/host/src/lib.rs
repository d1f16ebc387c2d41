//! tarn-host.
