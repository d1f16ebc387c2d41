//! tarn-api.
