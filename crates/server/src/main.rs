//! tarn-server.
fn main() {}
