//! tarn-route-api.
