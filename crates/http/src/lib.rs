//! The control plane over HTTP: routing, authentication, limits, and nothing else.
//!
//! A handler parses (`tarn_api::request`), calls `tarn_control::Control` once, and writes the
//! answer (`tarn_api::response`). No business rule lives here: what a request may ask for is
//! control's to say. Two routers are made from the one route table: [`router`] for clients, with
//! keys, and [`admin_router`] for the unix socket, whose file mode is its only lock.

mod admin;
mod admin_state;
mod app;
mod authorise;
mod body;
mod build;
mod deadline;
mod failure;
mod frame;
mod image;
mod log;
mod metric;
mod places;
mod platform;
mod pool;
mod probe;
mod project;
mod rate;
mod registered_image;
mod router;
mod sandbox;
mod secret;
mod serve;
mod snapshot;
mod ssh_key;
mod state;

pub use app::{HttpConfig, HttpParts, MetricsSource};
pub use rate::RateLimit;
pub use router::{admin_router, router};
pub use serve::{ServeConfig, bind_unix, serve_tcp, serve_unix};
pub use tarn_api::openapi_json;
