//! tarn-types.
