//! The proxy from outside to sandbox ports (spec 04).
//!
//! ```text
//!  client ──▶ serve ──▶ address ──▶ admit ──▶ forward ──▶ upstream (pool) ──▶ sandbox
//!             accept    which       who may,  headers,    connections by
//!             limits    sandbox,    hold,     body,       generation
//!             drain     port        wake      upgrade
//! ```
//!
//! Nothing is buffered: bodies flow both ways frame by frame, and a slow reader on one side slows
//! the writer on the other. One rule governs the errors: a code that lets a client repeat *any*
//! request ([`IngressCode::is_retry_safe`]) is sent only when not one byte of the request was
//! accepted by the sandbox's socket; the socket wrapper counts them.
//!
//! This crate knows no store and no runtime. What it knows of a sandbox it asks [`Routes`], and
//! that answers from memory.
//!
//! [`Routes`]: tarn_route_api::Routes

mod activity;
mod address;
mod admit;
mod alarm;
mod body;
mod config;
mod cors;
mod error;
mod forward;
mod header;
mod ingress;
mod lane;
mod meter;
mod places;
mod seldom;
mod serve;
mod shape;
mod socket;
mod spin;
mod stats;
mod tunnel;
mod upstream;
mod wake;

pub use activity::ActivityLog;
pub use body::{BodyError, IngressBody};
pub use config::{IngressConfig, PublicScheme};
pub use error::{IngressCode, IngressError};
pub use ingress::{ClientConnection, Ingress};
pub use stats::{IngressStats, IngressStatsSnapshot};
