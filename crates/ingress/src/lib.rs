//! tarn-ingress.
