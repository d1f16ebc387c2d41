//! The commands: what the command line says, and what is done about it.

use std::{io::Write, path::Path};

use clap::{Args, Subcommand};
use http::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tarn_api::response::{AdminGpuList, AdminSandboxList, KeyList, NewKeyBody, OrphanList};

use crate::{
    CliError, ImageCommand, NetworkOptions, ProjectCommand, SecretCommand, SnapshotCommand,
    client::AdminClient,
    image, network, output, project, secret, snapshot,
    state::{self, Change},
    table::{table, time},
};

/// A command for a running server.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ClientCommand {
    /// Make, list and revoke API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Look at the sandboxes of all projects and their network; suspend, resume and copy them
    #[command(subcommand)]
    Sandbox(SandboxCommand),
    /// Take, list and remove snapshots
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Set, list and delete secrets, and replace their key
    #[command(subcommand)]
    Secret(SecretCommand),
    /// List projects, and set what each may have
    #[command(subcommand)]
    Project(ProjectCommand),
    /// Pull, import, list and remove images; set what projects show to registries
    #[command(subcommand)]
    Image(ImageCommand),
    /// Look at sandboxes that a node has and the store does not know
    #[command(subcommand)]
    Orphan(OrphanCommand),
    /// Look at the GPUs, and who has them
    #[command(subcommand)]
    Gpu(GpuCommand),
}

/// What can be done with API keys.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum KeyCommand {
    /// Make a key; stdout is the key alone, and it is shown this once
    Create {
        /// The project that the key opens; it is made if there is none of that name
        #[arg(long, value_name = "NAME", default_value = "default")]
        project: String,
    },
    /// List keys, without the keys themselves
    List(ListOptions),
    /// Revoke a key; it opens nothing from then on
    Revoke {
        /// The key's id, as `tarn key list` shows it
        id: String,
    },
}

/// What can be done with sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum SandboxCommand {
    /// List the sandboxes of all projects, each project's newest first
    List(SandboxListOptions),
    /// Suspend a named sandbox: it keeps files, memory and processes, and frees compute
    Suspend(ChangeOptions),
    /// Have a suspended sandbox go on where it was
    Resume(ChangeOptions),
    /// Print what a sandbox reached, what it was denied and why, and counters
    Network(NetworkOptions),
    /// Make sandboxes that go on from where a running one is; stdout is their ids, of those that do
    /// not start, too
    Copy {
        /// The sandbox's id or name
        sandbox: String,
        /// How many
        #[arg(long, value_name = "N", default_value_t = 1)]
        times: u32,
        /// Return only when all of them run
        #[arg(long)]
        wait: bool,
    },
}

/// Which sandbox is to change, and whether that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ChangeOptions {
    /// The sandbox's id or name
    pub sandbox: String,
    /// Return only when it is done
    #[arg(long)]
    pub wait: bool,
}

/// What can be done with orphans.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum OrphanCommand {
    /// List them: they are frozen, and removed after `node.orphan_grace_secs` (7 days)
    List(ListOptions),
}

/// What can be done with GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum GpuCommand {
    /// List the GPUs of all nodes
    #[command(alias = "list")]
    Ls(ListOptions),
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args)]
pub struct ListOptions {
    /// Print JSON instead of columns
    #[arg(long)]
    pub json: bool,
}

/// Which sandboxes are listed, and how that is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args)]
pub struct SandboxListOptions {
    /// Those in the archive, where ended ones go after `retention.archive_after_secs`
    #[arg(long)]
    pub archived: bool,
    /// Print JSON instead of columns
    #[arg(long)]
    pub json: bool,
}

/// Runs a command against the server of a data directory, and prints to stdout.
///
/// # Errors
/// Fails when no server runs there, when it refuses, and when stdout cannot be written.
pub async fn run(command: ClientCommand, data_dir: &Path) -> Result<(), CliError> {
    // Not locked before the answer is there: nothing else may wait for stdout so long.
    let mut text = Vec::new();
    let done = run_to(command, data_dir, &mut text).await;
    // One that failed may have made something all the same.
    output::print(&text)?;
    done
}

/// Runs a command, and prints to a writer, what it made before it failed, too.
///
/// # Errors
/// As [`run`].
pub async fn run_to(
    command: ClientCommand,
    data_dir: &Path,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let client = AdminClient::new(data_dir);
    let text = match command {
        ClientCommand::Key(command) => key(&client, command).await?,
        ClientCommand::Sandbox(command) => sandbox(&client, command, out).await?,
        ClientCommand::Snapshot(command) => snapshot::run(&client, command).await?,
        ClientCommand::Secret(command) => secret::run(&client, command).await?,
        ClientCommand::Project(command) => project::run(&client, command).await?,
        ClientCommand::Image(command) => image::run(&client, command).await?,
        ClientCommand::Gpu(GpuCommand::Ls(options)) => list_gpus(&client, options).await?,
        ClientCommand::Orphan(OrphanCommand::List(options)) => {
            list_orphans(&client, options).await?
        }
    };
    out.write_all(text.as_bytes()).map_err(|source| CliError::Output { source })
}

async fn sandbox(
    client: &AdminClient,
    command: SandboxCommand,
    out: &mut impl Write,
) -> Result<String, CliError> {
    match command {
        SandboxCommand::List(options) => list_sandboxes(client, options).await,
        SandboxCommand::Suspend(options) => state::change(client, &options, Change::Suspend).await,
        SandboxCommand::Resume(options) => state::change(client, &options, Change::Resume).await,
        SandboxCommand::Network(options) => network::network(client, &options).await,
        SandboxCommand::Copy { sandbox, times, wait } => {
            let copies = state::copy(client, &sandbox, times).await?;
            // First of all: whatever becomes of them, they are there.
            out.write_all(copies.ids().as_bytes()).map_err(|source| CliError::Output { source })?;
            if wait {
                state::await_copies(client, &sandbox, copies).await?;
            }
            Ok(String::new())
        }
    }
}

async fn key(client: &AdminClient, command: KeyCommand) -> Result<String, CliError> {
    match command {
        KeyCommand::Create { project } => {
            let body = json!({"project": project});
            let made: NewKeyBody = client.call(Method::POST, "/tarn/v1/keys", Some(&body)).await?;
            Ok(format!("{}\n", made.key))
        }
        KeyCommand::List(options) => list_keys(client, options).await,
        KeyCommand::Revoke { id } => {
            check_id(&id, "id of a key; `tarn key list` shows them", "NOT_FOUND")?;
            let path = format!("/tarn/v1/keys/{id}");
            client.call::<Value>(Method::DELETE, &path, None).await?;
            Ok(String::new())
        }
    }
}

async fn list_keys(client: &AdminClient, options: ListOptions) -> Result<String, CliError> {
    let list: KeyList = client.call(Method::GET, "/tarn/v1/keys", None).await?;
    if options.json {
        return Ok(pretty(&list));
    }
    let rows: Vec<_> = list
        .keys
        .into_iter()
        .map(|key| {
            let state = match key.revoked_at {
                Some(at) => format!("revoked {}", time(at)),
                None => "valid".to_owned(),
            };
            [key.id, key.project_name, time(key.created_at), state]
        })
        .collect();
    Ok(table(["ID", "PROJECT", "CREATED", "STATE"], &rows))
}

async fn list_sandboxes(
    client: &AdminClient,
    options: SandboxListOptions,
) -> Result<String, CliError> {
    let path = format!("/tarn/v1/sandboxes?archived={}", options.archived);
    let list: AdminSandboxList = client.call(Method::GET, &path, None).await?;
    if options.json {
        return Ok(pretty(&list));
    }
    let rows: Vec<_> = list
        .sandboxes
        .into_iter()
        .map(|sandbox| {
            let name = sandbox.name.unwrap_or_else(|| "-".to_owned());
            let created = time(sandbox.created_at);
            [sandbox.id, name, sandbox.project_name, sandbox.status, sandbox.image, created]
        })
        .collect();
    Ok(table(["ID", "NAME", "PROJECT", "STATUS", "IMAGE", "CREATED"], &rows))
}

async fn list_orphans(client: &AdminClient, options: ListOptions) -> Result<String, CliError> {
    let list: OrphanList = client.call(Method::GET, "/tarn/v1/orphans", None).await?;
    if options.json {
        return Ok(pretty(&list));
    }
    let rows: Vec<_> = list.orphans.into_iter().map(|id| [id]).collect();
    Ok(table(["ID"], &rows))
}

async fn list_gpus(client: &AdminClient, options: ListOptions) -> Result<String, CliError> {
    let list: AdminGpuList = client.call(Method::GET, "/tarn/v1/gpus", None).await?;
    if options.json {
        return Ok(pretty(&list));
    }
    let rows: Vec<_> = list
        .gpus
        .into_iter()
        .map(|gpu| {
            let note = gpu.sandbox_id.or(gpu.reason).unwrap_or_else(|| "-".to_owned());
            [gpu.id, gpu.model, gpu.product, gpu.state, note]
        })
        .collect();
    Ok(table(["ID", "MODEL", "PRODUCT", "STATE", "SANDBOX OR REASON"], &rows))
}

/// Checks that what the command line names can be part of a path: letters, digits, `_` and `-`.
/// Anything else would be another path.
pub(crate) fn check_id(id: &str, what: &str, code: &str) -> Result<(), CliError> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !id.is_empty() && id.chars().all(good) {
        return Ok(());
    }
    Err(CliError::Refused { message: format!("`{id}` is no {what}"), code: code.to_owned() })
}

pub(crate) fn pretty(list: &impl Serialize) -> String {
    format!("{:#}\n", json!(list))
}

#[cfg(test)]
mod tests;
