//! tarn-guest.
fn main() {}
