//! The public wire: requests, answers, error codes, the table of routes and the OpenAPI document.
//!
//! Requests are parsed strictly, from JSON to values that cannot hold anything invalid; a refusal
//! names the JSON path (spec 00 §5). Answers are plain structs whose bytes the official clients
//! accept. The crate does no I/O and knows neither the HTTP server nor the control plane.

mod cursor;
mod error;
mod openapi;
pub mod request;
pub mod response;
mod route;

pub use cursor::{Cursor, CursorError};
pub use error::{ErrorBody, ErrorCode, Refusal};
pub use openapi::openapi_json;
pub use route::{
    Access, BuildOperation, Family, ImageOperation, Method, NamespaceSecretOperation, Operation,
    ROUTES, Route, Serving,
};
