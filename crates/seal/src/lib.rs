//! Keys and what is sealed with them: AES-256-GCM, and key files that only their owner can read.
//!
//! Knows neither what is sealed nor where that is kept.

mod file;
mod key;

pub use file::open_or_create;
pub use key::{KEY_LENGTH, Key, OVERHEAD, Unopened};
