//! Suspend, resume and copy.

use std::time::Duration;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tarn_api::response::AdminSandbox;

use crate::{
    CliError,
    client::AdminClient,
    command::{ChangeOptions, check_id},
    progress::Progress,
};

/// How long a copy may take: its capture's limit (spec 02 §2), and what the server holds on for.
const COPY_TIMEOUT: Duration = Duration::from_secs(660);

/// The reason of what has none that is told.
const LOG_KNOWS: &str = "the server's log says why";

/// For how long the server holds each request of a command that waits.
const HOLD_MS: u64 = 1000;

/// What is to become of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Suspend,
    Resume,
}

/// What the command line reads of a copy's answer.
#[derive(Debug, Deserialize)]
pub(crate) struct Copied {
    sandboxes: Vec<Copy>,
}

#[derive(Debug, Deserialize)]
struct Copy {
    sandbox_id: String,
    status: String,
}

// === impl Change ===

impl Change {
    const fn verb(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Resume => "resume",
        }
    }

    /// The status that is waited for.
    const fn goal(self) -> &'static str {
        match self {
            Self::Suspend => "suspended",
            Self::Resume => "running",
        }
    }
}

// === impl Copied ===

impl Copied {
    /// Returns the ids of the copies, one a line.
    pub(crate) fn ids(&self) -> String {
        self.sandboxes.iter().map(|copy| format!("{}\n", copy.sandbox_id)).collect()
    }
}

/// Suspends or resumes a sandbox; the output is its status then.
pub(crate) async fn change(
    client: &AdminClient,
    options: &ChangeOptions,
    change: Change,
) -> Result<String, CliError> {
    let (sandbox, verb) = (check_sandbox(&options.sandbox)?, change.verb());
    let hold = if options.wait { HOLD_MS } else { 0 };
    let path = format!("/tarn/v1/sandboxes/{sandbox}/{verb}?wait_ms={hold}");
    let (answer, _body) = client.call_status::<Value>(Method::POST, &path, None).await?;
    if answer == StatusCode::OK {
        return Ok(format!("{}\n", change.goal()));
    }
    let mut progress = Progress::new(format!("{verb} {sandbox}"));
    loop {
        let now = fetch(client, sandbox).await?;
        if !options.wait || now.status == change.goal() {
            return Ok(format!("{}\n", now.status));
        }
        if let Some(reason) = came_to_nothing(change, &now) {
            let what = format!("{sandbox} is {} still", now.status);
            return Err(CliError::CameToNothing { what, reason });
        }
        progress.pause(&now.status).await;
    }
}

/// Copies a sandbox.
pub(crate) async fn copy(
    client: &AdminClient,
    sandbox: &str,
    times: u32,
) -> Result<Copied, CliError> {
    let path = format!("/tarn/v1/sandboxes/{}/copy?times={times}", check_sandbox(sandbox)?);
    client.patient(COPY_TIMEOUT).call(Method::POST, &path, None).await
}

/// Waits until all copies of a sandbox run or have ended. That some have is an error, with the
/// reason of each.
pub(crate) async fn await_copies(
    client: &AdminClient,
    sandbox: &str,
    copies: Copied,
) -> Result<(), CliError> {
    let mut progress = Progress::new(format!("copy {sandbox}"));
    let (count, mut ended) = (copies.sandboxes.len(), Vec::new());
    for Copy { sandbox_id: id, mut status } in copies.sandboxes {
        while status == "pending" {
            progress.pause(&format!("{id} is {status}")).await;
            status = fetch(client, &id).await?.status;
        }
        if status == "terminated" {
            let trouble = fetch(client, &id).await?.trouble;
            ended.push(format!("{id}: {}", trouble.unwrap_or_else(|| LOG_KNOWS.to_owned())));
        }
    }
    if ended.is_empty() {
        return Ok(());
    }
    let what = format!("{} of {count} copies of {sandbox} have ended", ended.len());
    Err(CliError::CameToNothing { what, reason: ended.join("; ") })
}

/// Takes what names a sandbox.
pub(crate) fn check_sandbox(sandbox: &str) -> Result<&str, CliError> {
    let what = "id or name of a sandbox; `tarn sandbox list` shows them";
    check_id(sandbox, what, "SANDBOX_NOT_FOUND").map(|()| sandbox)
}

async fn fetch(client: &AdminClient, sandbox: &str) -> Result<AdminSandbox, CliError> {
    client.call(Method::GET, &format!("/tarn/v1/sandboxes/{sandbox}"), None).await
}

/// Says why a change will not come any more, if it will not. What waits for room still may.
fn came_to_nothing(change: Change, now: &AdminSandbox) -> Option<String> {
    let back = match change {
        Change::Suspend => now.status == "running",
        Change::Resume => now.status == "suspended" && now.trouble.is_some(),
    };
    let ended = now.status == "terminated";
    (back || ended).then(|| now.trouble.clone().unwrap_or_else(|| LOG_KNOWS.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_still_come_is_waited_for() {
        let sandbox = |status: &str, trouble: Option<&str>| AdminSandbox {
            id: "id".to_owned(),
            name: None,
            project_name: "default".to_owned(),
            status: status.to_owned(),
            image: "debian".to_owned(),
            created_at: 0,
            trouble: trouble.map(str::to_owned),
        };
        let table = [
            (Change::Suspend, sandbox("suspending", None), None),
            (Change::Suspend, sandbox("snapshotting", Some("old")), None),
            (Change::Suspend, sandbox("running", Some("no disk")), Some("no disk")),
            (Change::Suspend, sandbox("terminated", None), Some("the server's log says why")),
            (Change::Resume, sandbox("suspended", None), None),
            (Change::Resume, sandbox("suspended", Some("no image")), Some("no image")),
            (Change::Resume, sandbox("pending", None), None),
        ];
        for (change, now, expected) in table {
            assert_eq!(came_to_nothing(change, &now).as_deref(), expected, "{change:?} {now:?}");
        }
    }
}
