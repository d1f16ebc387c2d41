//! Keys and what is sealed with them: AES-256-GCM, key files that only their owner can read, and
//! the contract of services that hold keys.
//!
//! Knows neither what is sealed nor where that is kept.

mod file;
mod key;
mod service;

pub use file::open_or_create;
pub use key::{KEY_LENGTH, Key, OVERHEAD, Unopened};
pub use service::{KeyService, KeyServiceError};
