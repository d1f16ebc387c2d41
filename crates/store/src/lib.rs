//! tarn-store.
