//! tarn-hostnet.
