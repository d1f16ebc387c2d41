//! tarn-runtime.
