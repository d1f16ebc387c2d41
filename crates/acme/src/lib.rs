//! Certificates from an authority that speaks ACME (RFC 8555): ordered, proved for, kept, renewed.
//!
//! ```text
//!  AcmeKeeper ── when? ──▶ schedule (pure)
//!      │ try
//!      ├─ account.json ──────▶ the authority ◀── does the name answer? ── TLS-ALPN-01: tarn-tls
//!      ├─ set / unset ───────▶ the operator's hook ─▶ DNS zone           (or DNS-01)
//!      └─ certificate.pem ───▶ Certificates::reload
//! ```
//!
//! A try that fails changes nothing but the time of the next one: what is served stays. Knows no
//! provider of DNS, no listener and no configuration file.

mod account;
mod certificate_id;
mod config;
mod error;
mod file;
mod http;
mod keeper;
mod order;
mod proof;
mod schedule;
mod state;
mod stats;

pub use config::{AccountBinding, AcmeConfig, Proof};
pub use error::AcmeError;
pub use keeper::AcmeKeeper;
pub use state::{AcmeFailure, AcmeStanding, AcmeStateError};
pub use stats::{AcmeCounts, AcmeStats};
