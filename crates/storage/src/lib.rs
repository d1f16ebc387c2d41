//! tarn-storage.
