//! tarn-prewarmer.
fn main() {}
