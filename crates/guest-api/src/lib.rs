//! tarn-guest-api.
