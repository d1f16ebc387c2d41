//! tarn-node.
