//! The routers, over a control plane with a store in memory and a node that only says what the
//! test tells it to.

mod admin;
mod log;
mod node;
mod openapi;
mod pool;
mod quota;
mod refusal;
mod route;
mod sandbox;
mod secret;
mod serve;
mod server;
mod ssh_key;
mod state;
mod tls;
