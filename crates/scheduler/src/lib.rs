//! tarn-scheduler.
