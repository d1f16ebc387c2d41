//! `tarn`: the server and its command line, one binary.
//!
//! This crate reads the configuration, names the concrete adapters, wires them and waits for a
//! signal. Everything else lives elsewhere.

mod acme;
mod addresses;
mod ca;
mod config;
mod doctor;
mod gpu;
mod host;
mod identity;
mod images;
mod listen;
mod metric;
mod object_store;
mod prestart;
mod purge;
mod secrets;
mod serve;
mod tls;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Agent sandboxes on your own machines.
#[derive(Debug, Parser)]
#[command(name = "tarn", version, about, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    data: tarn_cli::DataDirArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server in the foreground.
    Up(up::UpArgs),
    /// Check what the server needs on this machine, and what it would cost to lack it.
    Doctor(doctor::DoctorArgs),
    /// Show the certificate of the local CA (tls.mode = "local_ca"), and how clients trust it.
    Ca(ca::CaArgs),
    /// Remove everything that the server of a data directory left on this machine: its sandboxes,
    /// mounts, network slots and files. No server may be running on it.
    Purge(purge::PurgeArgs),
    /// Print the OpenAPI document of the API.
    #[command(hide = true)]
    Openapi,
    #[command(flatten)]
    Client(tarn_cli::ClientCommand),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let data_dir = match cli.data.resolve() {
        Ok(root) => config::DataDir { root },
        Err(bad) => return fail(&bad.into()),
    };
    let done = match cli.command {
        Command::Up(args) => up::run(&args, &data_dir),
        Command::Doctor(args) => return doctor::run(&args, &data_dir),
        Command::Ca(args) => ca::run(&args, &data_dir),
        Command::Purge(args) => purge::run(&args, &data_dir),
        Command::Openapi => {
            tarn_cli::print(tarn_http::openapi_json().as_bytes()).map_err(anyhow::Error::from)
        }
        Command::Client(command) => return client(command, &data_dir),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(bad) => fail(&bad),
    }
}

/// Runs a command against a running server; its exit code says what kind of trouble there was.
#[allow(clippy::print_stderr, reason = "this is the command line")]
fn client(command: tarn_cli::ClientCommand, data: &config::DataDir) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    let done = identity::block_on(async {
        if let Err(bad) = tarn_cli::run(command, &data.root).await {
            code = ExitCode::from(bad.exit_code());
            eprintln!("tarn: {:#}", anyhow::Error::from(bad));
        }
        Ok(())
    });
    match done {
        Ok(()) => code,
        Err(bad) => fail(&bad),
    }
}

#[allow(clippy::print_stderr, reason = "this is the command line")]
fn fail(bad: &anyhow::Error) -> ExitCode {
    eprintln!("tarn: {bad:#}");
    ExitCode::FAILURE
}
