//! Reading pages, processes and owners. A reader takes one batch at a time, so that a long search
//! holds neither a connection nor much memory.

use std::collections::BTreeMap;

use sqlx::SqlitePool;
use tarn_store::{
    StoreError,
    log::{
        LogPage, LogProcessRecord, LogQuery, LogStart, PROCESS_LIMIT, PageBuilder, Progress,
        cut_note, start_of_last,
    },
};
use tarn_types::{LogLine, LogProcess, ProjectId, SandboxId, UnixMillis};

use super::{super::error::failed, chunk};

/// What is known of a sandbox's lines as a whole.
struct Head {
    key: i64,
    next: i64,
    cut_lines: i64,
    cut_at: i64,
}

/// A batch that was read: the sequence of its first line, and the lines.
struct Chunk {
    first: u64,
    last: i64,
    lines: Vec<LogLine>,
}

/// Pid, command, managed id, managed name, first seen, last seen, lines; the process before.
type ProcessRow = (i64, i32, String, Option<String>, Option<String>, i64, i64, i64);

const PROCESSES: &str = "SELECT process, pid, command, managed_id, managed_name, first_seen,
    last_seen, lines FROM log_process WHERE sandbox = ?1";

/// Reads a page.
pub(super) async fn page(readers: &SqlitePool, query: &LogQuery) -> Result<LogPage, StoreError> {
    let Some(head) = head(readers, &query.sandbox).await? else { return Ok(LogPage::default()) };
    let before = oldest(readers, &head).await?.saturating_sub(1);
    let (after, most) = match query.start {
        LogStart::After(after) => (after, query.most),
        LogStart::Last(count) => (start_of(readers, &head, query, before).await?, Some(count)),
    };
    let mut page = PageBuilder::new(query, most);
    let mut progress = Progress::More;
    if head.cut_lines > 0 && before > after {
        let note = cut_note(unsigned(head.cut_lines), UnixMillis(head.cut_at));
        progress = page.push_cut(before, note);
    }
    let mut chunk = next_chunk(readers, &head, after).await?;
    while let Some(Chunk { first, last, lines }) = chunk {
        for (sequence, line) in (first..).zip(lines) {
            if sequence > after && progress == Progress::More {
                progress = page.push(sequence, line);
            }
        }
        if progress == Progress::Full {
            break;
        }
        chunk = next_chunk(readers, &head, unsigned(last)).await?;
    }
    let mut page = page.finish();
    name_processes(readers, &head, &mut page).await?;
    Ok(page)
}

/// Finds behind which line the last ones begin.
async fn start_of(
    readers: &SqlitePool,
    head: &Head,
    query: &LogQuery,
    before: u64,
) -> Result<u64, StoreError> {
    let LogStart::Last(mut wanted) = query.start else { return Ok(0) };
    let mut end = head.next;
    while let Some(Chunk { first, lines, .. }) = chunk_before(readers, head, end).await? {
        let newest_first = (first..).zip(&lines).collect::<Vec<_>>().into_iter().rev();
        if let Some(after) = start_of_last(&query.filter, &mut wanted, newest_first) {
            return Ok(after);
        }
        end = i64::try_from(first).unwrap_or(i64::MAX);
    }
    // With as many as asked the note on those before is not one of them.
    Ok(if wanted == 0 { before } else { 0 })
}

/// Adds what is known of each line's process.
async fn name_processes(
    readers: &SqlitePool,
    head: &Head,
    page: &mut LogPage,
) -> Result<(), StoreError> {
    let mut numbers: Vec<u64> = page.records.iter().map(|record| record.line.process).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let numbers = serde_json::to_string(&numbers).unwrap_or_default();
    let query = format!("{PROCESSES} AND process IN (SELECT value FROM json_each(?2))");
    let rows: Vec<ProcessRow> = sqlx::query_as(sqlx::AssertSqlSafe(query))
        .bind(head.key)
        .bind(numbers)
        .fetch_all(readers)
        .await
        .map_err(|error| failed("read the processes of log lines", &error))?;
    let known: BTreeMap<_, _> =
        rows.into_iter().map(record).map(|known| (known.process.id, known.process)).collect();
    for record in &mut page.records {
        record.process = known.get(&record.line.process).cloned();
    }
    Ok(())
}

/// Reads the processes that have lines.
pub(super) async fn processes(
    readers: &SqlitePool,
    sandbox: &SandboxId,
) -> Result<Vec<LogProcessRecord>, StoreError> {
    let Some(head) = head(readers, sandbox).await? else { return Ok(Vec::new()) };
    let query = format!("{PROCESSES} ORDER BY process DESC LIMIT ?2");
    let mut rows: Vec<ProcessRow> = sqlx::query_as(sqlx::AssertSqlSafe(query))
        .bind(head.key)
        .bind(i64::try_from(PROCESS_LIMIT).unwrap_or(i64::MAX))
        .fetch_all(readers)
        .await
        .map_err(|error| failed("list the processes of log lines", &error))?;
    rows.reverse();
    Ok(rows.into_iter().map(record).collect())
}

/// Reads whose lines those of a sandbox are.
pub(super) async fn owner(
    readers: &SqlitePool,
    sandbox: &SandboxId,
) -> Result<ProjectId, StoreError> {
    let project = sqlx::query_scalar("SELECT project FROM log_sandbox WHERE id = ?");
    let project: Option<String> = project
        .bind(sandbox.as_str())
        .fetch_optional(readers)
        .await
        .map_err(|error| failed("read the owner of log lines", &error))?;
    let project = project.ok_or(StoreError::NotFound { what: "log" })?;
    project.parse().map_err(|error: tarn_types::IdError| StoreError::Internal {
        detail: format!("a stored log is damaged: {error}"),
    })
}

async fn head(readers: &SqlitePool, sandbox: &SandboxId) -> Result<Option<Head>, StoreError> {
    let query = "SELECT key, next, cut_lines, cut_at FROM log_sandbox WHERE id = ?";
    let found: Option<(i64, i64, i64, i64)> = sqlx::query_as(query)
        .bind(sandbox.as_str())
        .fetch_optional(readers)
        .await
        .map_err(|error| failed("read a log", &error))?;
    Ok(found.map(|(key, next, cut_lines, cut_at)| Head { key, next, cut_lines, cut_at }))
}

/// Reads the sequence of the oldest line that is there, or of the next one to come.
async fn oldest(readers: &SqlitePool, head: &Head) -> Result<u64, StoreError> {
    let query = "SELECT first FROM log_chunk WHERE sandbox = ? ORDER BY last LIMIT 1";
    let first: Option<i64> = sqlx::query_scalar(query)
        .bind(head.key)
        .fetch_optional(readers)
        .await
        .map_err(|error| failed("read log lines", &error))?;
    Ok(unsigned(first.unwrap_or(head.next)))
}

/// Reads the batch that has the line after a sequence.
async fn next_chunk(
    readers: &SqlitePool,
    head: &Head,
    after: u64,
) -> Result<Option<Chunk>, StoreError> {
    let query = "SELECT first, last, format_version, lines FROM log_chunk
        WHERE sandbox = ? AND last > ? ORDER BY last LIMIT 1";
    fetch_chunk(readers, query, head.key, i64::try_from(after).unwrap_or(i64::MAX)).await
}

/// Reads the batch that ends before a sequence.
async fn chunk_before(
    readers: &SqlitePool,
    head: &Head,
    end: i64,
) -> Result<Option<Chunk>, StoreError> {
    let query = "SELECT first, last, format_version, lines FROM log_chunk
        WHERE sandbox = ? AND last < ? ORDER BY last DESC LIMIT 1";
    fetch_chunk(readers, query, head.key, end).await
}

async fn fetch_chunk(
    readers: &SqlitePool,
    query: &'static str,
    sandbox: i64,
    place: i64,
) -> Result<Option<Chunk>, StoreError> {
    let found: Option<(i64, i64, i64, String)> = sqlx::query_as(query)
        .bind(sandbox)
        .bind(place)
        .fetch_optional(readers)
        .await
        .map_err(|error| failed("read log lines", &error))?;
    let Some((first, last, version, text)) = found else { return Ok(None) };
    Ok(Some(Chunk { first: unsigned(first), last, lines: chunk::decode(version, &text)? }))
}

fn record(row: ProcessRow) -> LogProcessRecord {
    let (id, pid, command, managed_id, managed_name, first_seen, last_seen, lines) = row;
    LogProcessRecord {
        process: LogProcess { id: unsigned(id), pid, command, managed_id, managed_name },
        first_seen: UnixMillis(first_seen),
        last_seen: UnixMillis(last_seen),
        lines: unsigned(lines),
    }
}

/// What was stored unsigned is read so; nothing else is in these columns.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
