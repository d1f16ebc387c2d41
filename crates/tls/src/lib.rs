//! TLS for the listeners: certificates, kept current, and handshakes, bounded.
//!
//! ```text
//!  two files ──▶ Pair ─┐                        ┌─▶ ServerStream (TLS)
//!  local CA  ──▶ Pair ─┼▶ Certificates ─▶ Acceptor ─▶ 400 to plain HTTP
//!  issued    ──▶ Pair ─┘      │ check(): read again, renew
//!                 ▲           │ reload(): issued anew
//!                 └───────────┘
//! ```
//!
//! One provider of cryptography: aws-lc-rs. Certificates are read by webpki, the same code that
//! judges them in clients; there is no parser of our own here. This crate knows no HTTP beyond the
//! one answer to clients that do not speak TLS, no routes and no configuration file.

mod acceptor;
mod authority;
mod certificates;
mod challenge;
mod name;
mod pair;
mod stats;
mod stream;
mod temporary;
mod watch;

pub use acceptor::{AcceptError, Acceptor, Protocols};
pub use authority::{AuthorityCertificate, AuthorityError, LocalAuthority};
pub use certificates::{Certificates, IssuedCertificate};
pub use challenge::ChallengeAnswer;
pub use name::{NameError, ServerNames};
pub use pair::{CertificateFiles, PairError, date};
pub use stats::{HandshakeCounts, HandshakeStats};
pub use stream::ServerStream;
