//! tarn-task.
