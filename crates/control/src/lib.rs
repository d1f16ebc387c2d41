//! The control plane: application services and reconcilers. It knows no HTTP and no host.

mod ask;
mod error;

pub use ask::{Caller, CreateAsk, ListAsk, ListPage, NetworkPatch, NewKey, PatchAsk, SandboxView};
pub use error::ControlError;
