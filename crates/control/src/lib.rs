//! tarn-control.
