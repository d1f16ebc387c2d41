//! tarn-lifecycle.
