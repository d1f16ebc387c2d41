//! Programs of the operator's that the server runs: what it should know of the operator's world and
//! does not, such as how to change a DNS zone.
//!
//! A program gets arguments, which everybody on the machine can read, and bytes on its standard
//! input, which nobody else can. It answers with its exit status and, where asked, with bytes on
//! its standard output. It has a deadline, after which it and all that it started is ended. Knows
//! nothing of what programs are for. No program of a tenant's ever runs here.

mod check;
mod run;

pub use check::HookCheckError;
pub use run::{Hook, HookError};
