//! The commands about snapshots.

use std::time::Duration;

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};
use tarn_api::response::{CreateSnapshotResponse, SnapshotInfo, SnapshotList, SnapshotVerdict};

use crate::{
    CliError, ListOptions,
    client::AdminClient,
    command::{check_id, pretty},
    progress::Progress,
    state::check_sandbox,
    table::{table, time},
};

/// How long all of a snapshot may take to be read: a TiB at 100 MiB/s.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(3 * 3600);

/// What can be done with snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum SnapshotCommand {
    /// Take a snapshot of a running sandbox, which runs on; stdout is its id
    Create {
        /// The sandbox's id or name
        sandbox: String,
        /// Keep memory and processes too, so that what is restored goes on
        #[arg(long)]
        memory: bool,
        /// Return only when it is taken
        #[arg(long)]
        wait: bool,
    },
    /// List the snapshots of all projects, each project's newest first
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Show a snapshot, as JSON
    Get {
        /// The snapshot's id
        id: String,
    },
    /// Read all of a snapshot and compare it with what was taken; a damaged one is not restored
    /// any more
    Verify {
        /// The snapshot's id
        id: String,
    },
    /// Remove a snapshot; what was restored from it goes on
    #[command(visible_alias = "remove")]
    Rm {
        /// The snapshot's id
        id: String,
    },
}

/// Runs a command; returns what goes to stdout.
pub(crate) async fn run(
    client: &AdminClient,
    command: SnapshotCommand,
) -> Result<String, CliError> {
    match command {
        SnapshotCommand::Create { sandbox, memory, wait } => {
            create(client, &sandbox, memory, wait).await
        }
        SnapshotCommand::List(options) => list(client, options).await,
        SnapshotCommand::Get { id } => Ok(pretty(&fetch(client, &id).await?)),
        SnapshotCommand::Verify { id } => verify(client, &id).await,
        SnapshotCommand::Rm { id } => {
            client.call::<Value>(Method::DELETE, &path(&id)?, None).await?;
            Ok(String::new())
        }
    }
}

async fn create(
    client: &AdminClient,
    sandbox: &str,
    memory: bool,
    wait: bool,
) -> Result<String, CliError> {
    let path = format!("/tarn/v1/sandboxes/{}/snapshot", check_sandbox(sandbox)?);
    let body = json!({"snapshot_type": if memory { "memory" } else { "filesystem" }});
    let begun: CreateSnapshotResponse = client.call(Method::POST, &path, Some(&body)).await?;
    let id = begun.snapshot_id;
    let (mut status, mut error) = (begun.status, None);
    let mut progress = Progress::new(format!("snapshot {id} of {sandbox}"));
    while wait && status == "in_progress" {
        progress.pause(&status).await;
        let now = fetch(client, &id).await?;
        (status, error) = (now.status, now.error);
    }
    if wait && status == "failed" {
        let reason = error.unwrap_or_else(|| "the server's log says why".to_owned());
        return Err(CliError::CameToNothing { what: format!("snapshot {id}"), reason });
    }
    Ok(format!("{id}\n"))
}

async fn list(client: &AdminClient, options: ListOptions) -> Result<String, CliError> {
    let list: SnapshotList = client.call(Method::GET, "/tarn/v1/snapshots", None).await?;
    if options.json {
        return Ok(pretty(&list));
    }
    let rows: Vec<_> = list
        .snapshots
        .into_iter()
        .map(|snapshot| {
            let size = snapshot.size_bytes.map_or_else(|| "-".to_owned(), mebibytes);
            let created = time(snapshot.created_at);
            let (kind, status) = (snapshot.snapshot_type, snapshot.status);
            [snapshot.id, snapshot.namespace, snapshot.sandbox_id, kind, status, size, created]
        })
        .collect();
    let head = ["ID", "PROJECT", "SANDBOX", "TYPE", "STATUS", "SIZE", "CREATED"];
    Ok(table(head, &rows))
}

async fn verify(client: &AdminClient, id: &str) -> Result<String, CliError> {
    let path = format!("{}/verify", path(id)?);
    let found: SnapshotVerdict =
        client.patient(VERIFY_TIMEOUT).call(Method::POST, &path, None).await?;
    match found.damage {
        None => Ok(format!("ok, {} read\n", mebibytes(found.bytes_read.unwrap_or_default()))),
        Some(damage) => {
            let reason = format!("damaged: {damage}; it is not restored any more");
            Err(CliError::CameToNothing { what: format!("snapshot {id}"), reason })
        }
    }
}

async fn fetch(client: &AdminClient, id: &str) -> Result<SnapshotInfo, CliError> {
    client.call(Method::GET, &path(id)?, None).await
}

fn path(id: &str) -> Result<String, CliError> {
    let what = "id of a snapshot; `tarn snapshot list` shows them";
    check_id(id, what, "SNAPSHOT_NOT_FOUND")?;
    Ok(format!("/tarn/v1/snapshots/{id}"))
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
