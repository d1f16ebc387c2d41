//! The commands of `tarn` that talk to a running server, over its administrative socket.
//!
//! They use the HTTP API and nothing else. stdout is data and stderr the rest; a command that
//! fails exits with the code of [`CliError::exit_code`].

mod client;
mod command;
mod data_dir;
mod error;
mod image;
mod input;
mod network;
mod output;
mod progress;
mod project;
mod secret;
mod snapshot;
mod state;
mod table;

pub use command::{
    ChangeOptions, ClientCommand, GpuCommand, KeyCommand, ListOptions, OrphanCommand,
    SandboxCommand, SandboxListOptions, run, run_to,
};
pub use data_dir::{ADMIN_SOCKET, DataDirArgs, DataDirError};
pub use error::CliError;
pub use image::{ImageCommand, ScopeOptions};
pub use network::NetworkOptions;
pub use output::print;
pub use project::{ProjectCommand, Quota};
pub use secret::SecretCommand;
pub use snapshot::{SnapshotCommand, WaitFor};
