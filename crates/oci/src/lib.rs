//! OCI images: fetched from registries, verified, and unpacked into directory trees.
//!
//! ```text
//!  Reference ──look_up──▶ Found ──pull──▶ <work>/blobs ─┐  verified while they come,
//!                                                       ├▶ <work>/rootfs   + Unpacked
//!  layout directory, layout tar, `docker save` ──import─┘  unpacked in order
//! ```
//!
//! Whoever makes an image, serves it or cuts its line is taken for an attacker: nothing that comes
//! from there is written outside the work directory, followed out of it, or kept without a bound.
//! This crate knows no store, no project and no API; where a template lives is its caller's affair.

mod bounds;
mod config;
mod credentials;
mod digest;
mod error;
mod import;
mod manifest;
mod options;
mod progress;
mod pull;
mod reach;
mod reference;
mod registry;
mod unpack;
mod work;

pub use bounds::Bounds;
pub use credentials::Credentials;
pub use digest::{Digest, DigestError};
pub use error::OciError;
pub use options::RegistryOptions;
pub use progress::{Phase, Progress};
pub use pull::{Found, Puller, Unpacked};
pub use reach::Reach;
pub use reference::{Reference, ReferenceError};
