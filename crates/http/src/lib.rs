//! tarn-http.
