//! The commands about snapshots.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};
use tarn_api::response::{
    CreateSnapshotResponse, SnapshotInfo, SnapshotList, SnapshotVerdict, TransferEntry,
    TransferList,
};

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
        /// Return only when it can be restored from, or with `--wait=completed` when it is in the
        /// object store
        #[arg(
            long, value_enum, value_name = "STATUS", num_args = 0..=1, require_equals = true,
            default_missing_value = "local_ready"
        )]
        wait: Option<WaitFor>,
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
    /// Show what goes to and comes from the object store, and what it did not take
    Transfers(ListOptions),
}

/// Which status of a new snapshot is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum WaitFor {
    /// It is durable on its node and can be restored from
    LocalReady,
    /// It is in the object store, if there is one
    Completed,
}

// === impl WaitFor ===

impl WaitFor {
    /// Says whether a snapshot of a status is still waited for.
    fn goes_on(self, status: &str) -> bool {
        match self {
            Self::LocalReady => status == "in_progress",
            Self::Completed => matches!(status, "in_progress" | "local_ready"),
        }
    }
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
        SnapshotCommand::Transfers(options) => transfers(client, options).await,
    }
}

async fn create(
    client: &AdminClient,
    sandbox: &str,
    memory: bool,
    wait: Option<WaitFor>,
) -> Result<String, CliError> {
    let path = format!("/tarn/v1/sandboxes/{}/snapshot", check_sandbox(sandbox)?);
    let body = json!({"snapshot_type": if memory { "memory" } else { "filesystem" }});
    let begun: CreateSnapshotResponse = client.call(Method::POST, &path, Some(&body)).await?;
    let id = begun.snapshot_id;
    let (mut status, mut error) = (begun.status, None);
    let mut progress = Progress::new(format!("snapshot {id} of {sandbox}"));
    while wait.is_some_and(|wait| wait.goes_on(&status)) {
        let shown = match status.as_str() {
            "local_ready" => upload_of(client, &id).await?,
            _ => status.clone(),
        };
        progress.pause(&shown).await;
        let now = fetch(client, &id).await?;
        (status, error) = (now.status, now.error);
    }
    if wait.is_some() && status == "failed" {
        let reason = error.unwrap_or_else(|| "the server's log says why".to_owned());
        return Err(CliError::CameToNothing { what: format!("snapshot {id}"), reason });
    }
    Ok(format!("{id}\n"))
}

/// Says how far the upload of a snapshot is, or why there is none.
async fn upload_of(client: &AdminClient, id: &str) -> Result<String, CliError> {
    let list = fetch_transfers(client).await?;
    let upload =
        list.transfers.iter().find(|each| each.snapshot_id == id && each.direction == "upload");
    let trouble = list.troubles.iter().find(|each| each.snapshot_id == id);
    Ok(match (upload, trouble) {
        (Some(upload), _) if upload.state == "active" => format!("uploading {}", far(upload)),
        (_, Some(trouble)) => format!("to be uploaded again after: {}", trouble.error),
        _ => "waiting to be uploaded".to_owned(),
    })
}

/// Draws how far a transfer is.
fn far(transfer: &TransferEntry) -> String {
    const WIDTH: u64 = 20;
    let (done, total) = (transfer.done_bytes.min(transfer.total_bytes), transfer.total_bytes);
    if total == 0 {
        return "…".to_owned();
    }
    let part = |of: u64| u64::try_from(u128::from(done) * u128::from(of) / u128::from(total));
    let filled = usize::try_from(part(WIDTH).unwrap_or(0)).unwrap_or(0);
    let bar: String = (0..20).map(|cell| if cell < filled { '#' } else { '.' }).collect();
    format!("[{bar}] {} % of {}", part(100).unwrap_or(0), mebibytes(total))
}

async fn fetch_transfers(client: &AdminClient) -> Result<TransferList, CliError> {
    client.call(Method::GET, "/tarn/v1/transfers", None).await
}

async fn transfers(client: &AdminClient, options: ListOptions) -> Result<String, CliError> {
    let list = fetch_transfers(client).await?;
    if options.json {
        return Ok(pretty(&list));
    }
    let going = list.transfers.iter().map(|each| {
        let far = if each.state == "active" { far(each) } else { String::new() };
        [each.snapshot_id.clone(), each.direction.clone(), each.state.clone(), far]
    });
    let failed = list.troubles.into_iter().map(|each| {
        let state = format!("failed {} times", each.failures);
        [each.snapshot_id, each.attempt, state, each.error]
    });
    let rows: Vec<_> = going.chain(failed).collect();
    Ok(table(["SNAPSHOT", "WHAT", "STATE", ""], &rows))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_an_upload_is() {
        let far = |done_bytes, total_bytes| {
            let [snapshot_id, direction, state] = ["s", "upload", "active"].map(str::to_owned);
            far(&TransferEntry { snapshot_id, direction, state, done_bytes, total_bytes })
        };
        assert_eq!(far(0, 0), "…");
        assert_eq!(far(0, 5 << 20), "[....................] 0 % of 5 MiB");
        assert_eq!(far(3 << 20, 4 << 20), "[###############.....] 75 % of 4 MiB");
        assert_eq!(far(9, 4), "[####################] 100 % of 1 MiB");
        assert!(far(u64::MAX, u64::MAX).contains("100 %"));
    }

    #[test]
    fn what_is_waited_for() {
        let waits = |wait: WaitFor| {
            ["in_progress", "local_ready", "completed", "failed"].map(|status| wait.goes_on(status))
        };
        assert_eq!(waits(WaitFor::LocalReady), [true, false, false, false]);
        assert_eq!(waits(WaitFor::Completed), [true, true, false, false]);
    }
}
