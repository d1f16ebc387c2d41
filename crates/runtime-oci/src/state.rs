//! The backend's state file. Pure.

use std::path::PathBuf;

use serde::Deserialize;

/// How far the backend says a sandbox has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackendStatus {
    /// Made, not started.
    Created,
    /// Started; it may have ended since, as nobody writes that down.
    Running,
    /// Started, and told to stand still.
    Paused,
    /// Anything else: half made, or over.
    Other,
}

/// What we read of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackendState {
    pub(crate) status: BackendStatus,
    /// The sentry on the host.
    pub(crate) pid: u32,
    /// Where the sentry takes calls. The backend puts it elsewhere when our path is too long.
    pub(crate) socket: PathBuf,
}

#[derive(Deserialize)]
struct StateFile {
    status: serde_json::Value,
    sandbox: Option<SandboxPart>,
}

#[derive(Deserialize)]
struct SandboxPart {
    pid: u32,
    #[serde(default, rename = "controlSocketPath")]
    socket: PathBuf,
}

// === impl BackendState ===

impl BackendState {
    /// Reads the text of a state file. `None`: it names no process.
    ///
    /// # Errors
    /// Fails when the text is not the JSON of a state file.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, serde_json::Error> {
        let file: StateFile = serde_json::from_str(text)?;
        let status = match file.status.as_str() {
            Some("created") => BackendStatus::Created,
            Some("running") => BackendStatus::Running,
            Some("paused") => BackendStatus::Paused,
            _ => BackendStatus::Other,
        };
        let sandbox = file.sandbox.filter(|sandbox| sandbox.pid != 0);
        Ok(sandbox.map(|SandboxPart { pid, socket }| Self { status, pid, socket }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_process_are_read_and_the_rest_ignored() {
        for (text, expected) in [
            (r#"{"id":"x","status":"created","sandbox":{"pid":7,"uid":-1}}"#, Some(("c", 7, ""))),
            (
                r#"{"status":"running","sandbox":{"pid":9,"controlSocketPath":"/s"},"goferPid":3}"#,
                Some(("r", 9, "/s")),
            ),
            (r#"{"status":"paused","sandbox":{"pid":9}}"#, Some(("p", 9, ""))),
            (r#"{"status":"stopped","sandbox":{"pid":9}}"#, Some(("o", 9, ""))),
            (r#"{"status":"stopped","sandbox":{"pid":0}}"#, None),
            (r#"{"status":"creating","sandbox":null}"#, None),
            (r#"{"status":3}"#, None),
        ] {
            let read = BackendState::parse(text).unwrap().map(|state| {
                let status = match state.status {
                    BackendStatus::Created => "c",
                    BackendStatus::Running => "r",
                    BackendStatus::Paused => "p",
                    BackendStatus::Other => "o",
                };
                (status, state.pid, state.socket)
            });
            let expected = expected.map(|(status, pid, socket)| (status, pid, socket.into()));
            assert_eq!(read, expected, "{text}");
        }
        assert!(BackendState::parse("").unwrap_err().is_eof());
        assert!(BackendState::parse(r#"{"status":"runn"#).unwrap_err().is_eof());
        assert!(BackendState::parse("{}").is_err());
    }
}
