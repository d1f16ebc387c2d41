//! The daemon's batches: fetched within bounds, and read with distrust.

use std::{sync::Arc, time::Duration};

use tarn_daemon_api::{MAX_LINE_BYTES, OutputStream};
use tarn_guest_api::{LOGS_PATH, LogsRequest, LogsResponse, MAX_LOGGED_COMMAND_BYTES};
use tarn_types::{
    DaemonToken, LogBatch, LogLevel, LogLine, LogProcess, ProjectId, SandboxId, UnixMillis,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::daemon::{DaemonConnection, DaemonError};

/// The largest answer that is read: a batch of control characters, each of which takes six bytes.
const MAX_ANSWER: usize = 4 << 20;

/// The longest line: text of which every byte was invalid takes three times its bytes.
const MAX_BODY: usize = 3 * MAX_LINE_BYTES;

/// The longest name of a boot or of a managed process.
const MAX_NAME: usize = 256;

/// Lines in one batch; an honest daemon charges 48 bytes for each.
const MAX_LINES: usize = 16 << 10;

/// Answers that are read and stored at one time, by all pumps together: what bounds the memory
/// that a host full of floods takes.
pub(crate) const ROOM: usize = 32;

/// How long the body of an answer may take, so that nobody keeps the room who drips.
const BODY_DEADLINE: Duration = Duration::from_secs(2);

/// Asks, and reads the answer when there is room for it, which the permit keeps.
pub(super) async fn fetch(
    connection: &mut DaemonConnection,
    token: &DaemonToken,
    request: &LogsRequest,
    room: &Arc<Semaphore>,
) -> Result<(LogsResponse, OwnedSemaphorePermit), DaemonError> {
    let broken = |text: String| DaemonError::Broken(text);
    let answer = connection.post(LOGS_PATH, token, request).await?;
    let room = Arc::clone(room).acquire_owned().await.map_err(|bad| broken(bad.to_string()))?;
    let body = tokio::time::timeout(BODY_DEADLINE, connection.read(answer, MAX_ANSWER)).await;
    Ok((body.map_err(|late| broken(late.to_string()))??, room))
}

/// Makes what is stored of an answer; `None` when it brings nothing.
pub(super) fn batch(
    sandbox: &SandboxId,
    project: &ProjectId,
    answer: LogsResponse,
) -> Option<LogBatch> {
    if answer.batch == 0 || answer.lines.is_empty() {
        return None;
    }
    let lines: Vec<_> = answer
        .lines
        .into_iter()
        .take(MAX_LINES)
        .map(|line| LogLine {
            process: line.handle,
            level: match line.stream {
                OutputStream::Stdout => LogLevel::Info,
                OutputStream::Stderr => LogLevel::Error,
            },
            at: UnixMillis(i64::try_from(line.at_ms).unwrap_or(i64::MAX)),
            dropped: line.dropped,
            body: shortened(line.text, MAX_BODY),
        })
        .collect();
    let processes = answer.processes.into_iter().take(lines.len()).map(|process| LogProcess {
        id: process.handle,
        pid: process.pid,
        command: shortened(process.command, MAX_LOGGED_COMMAND_BYTES),
        managed_id: process.managed_id.map(|id| shortened(id, MAX_NAME)),
        managed_name: process.managed_name.map(|name| shortened(name, MAX_NAME)),
    });
    Some(LogBatch {
        sandbox: sandbox.clone(),
        project: project.clone(),
        boot: shortened(answer.boot, MAX_NAME),
        number: answer.batch,
        processes: processes.collect(),
        lines,
    })
}

fn shortened(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    text
}

#[cfg(test)]
mod tests {
    use tarn_guest_api::{LoggedLine, LoggedProcess};

    use super::*;

    fn answer(lines: usize, text: &str) -> LogsResponse {
        let line = LoggedLine {
            handle: 7,
            stream: OutputStream::Stderr,
            at_ms: u64::MAX,
            dropped: 0,
            text: text.to_owned(),
        };
        let process = LoggedProcess {
            handle: 7,
            pid: 42,
            command: "ä".repeat(1000),
            managed_id: Some("i".repeat(1000)),
            managed_name: None,
        };
        LogsResponse {
            boot: "b".repeat(1000),
            batch: 3,
            processes: vec![process; 40_000],
            lines: vec![line; lines],
        }
    }

    fn read(answer: LogsResponse) -> Option<LogBatch> {
        batch(&SandboxId::from_random([1; 21]), &ProjectId::from_random([2; 16]), answer)
    }

    #[test]
    fn what_a_daemon_says_is_bounded() {
        let batch = read(answer(20_000, "x")).expect("lines");
        assert_eq!((batch.lines.len(), batch.processes.len()), (MAX_LINES, MAX_LINES));
        assert_eq!((batch.boot.len(), batch.number), (MAX_NAME, 3));
        assert_eq!(batch.processes[0].command.len(), MAX_LOGGED_COMMAND_BYTES);
        assert_eq!(batch.processes[0].managed_id.as_ref().map(String::len), Some(MAX_NAME));
        assert_eq!(batch.lines[0].level, LogLevel::Error);
        assert_eq!(batch.lines[0].at, UnixMillis(i64::MAX));
        let batch = read(answer(1, &"ä".repeat(MAX_BODY))).expect("lines");
        assert_eq!((batch.lines[0].body.len(), batch.processes.len()), (MAX_BODY, 1));
    }

    #[test]
    fn an_empty_answer_is_no_batch() {
        assert_eq!(read(answer(0, "x")), None);
        assert_eq!(read(LogsResponse { batch: 0, ..answer(1, "x") }), None);
    }
}
