//! tarn-cli.
