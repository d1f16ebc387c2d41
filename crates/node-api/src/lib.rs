//! tarn-node-api.
