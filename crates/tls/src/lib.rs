//! TLS for the listeners: certificates, kept current, and handshakes, bounded.
//!
//! ```text
//!  two files ──▶ Pair ─┐                        ┌─▶ ServerStream (TLS)
//!  local CA  ──▶ Pair ─┴▶ Certificates ─▶ Acceptor ─▶ 400 to plain HTTP
//!                 ▲           │ check(): read again, renew
//!                 └───────────┘
//! ```
//!
//! One provider of cryptography: aws-lc-rs. Certificates are read by webpki, the same code that
//! judges them in clients; there is no parser of our own here. This crate knows no HTTP beyond the
//! one answer to clients that do not speak TLS, no routes and no configuration file.

mod acceptor;
mod authority;
mod certificates;
mod name;
mod pair;
mod stats;
mod stream;
mod watch;

pub use acceptor::{AcceptError, Acceptor, Protocols};
pub use authority::{AuthorityCertificate, AuthorityError, LocalAuthority};
pub use certificates::Certificates;
pub use name::{NameError, ServerNames};
pub use pair::{CertificateFiles, PairError};
pub use stats::{HandshakeCounts, HandshakeStats};
pub use stream::ServerStream;
