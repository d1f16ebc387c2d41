//! tarn-daemon-api.
