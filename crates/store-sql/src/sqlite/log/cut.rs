//! Removing batches: beyond a cap, and after their time.

use sqlx::{FromRow, Row as _, SqliteConnection, sqlite::SqliteRow};
use tarn_store::{StoreError, log::LogLimits};
use tarn_types::UnixMillis;

use super::super::{error::failed, writer::Verb};

/// Batches that one append removes of other sandboxes at most; the next append goes on.
const OTHERS_PER_APPEND: usize = 16;

/// Pages of the file that one expiry gives back to the file system at most.
const VACUUM: &str = "PRAGMA incremental_vacuum(1024)";

/// Removes old batches.
pub(super) struct Expire {
    pub(super) before: UnixMillis,
    pub(super) limit: usize,
}

/// What is told of a batch that goes.
struct Doomed {
    key: i64,
    sandbox: i64,
    first: i64,
    last: i64,
    last_at: i64,
    bytes: i64,
    counts: String,
}

/// Why a batch goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// A cap; a note stands in its place.
    Cap,
    /// Its time is over, and with it that of all that was before it.
    Age,
}

const DOOMED: &str = "SELECT key, sandbox, first, last, last_at, bytes, counts FROM log_chunk";

/// Lets the oldest batches go that are over a limit; returns how many lines that were.
///
/// The newest batch of `sandbox`, which was just stored, stays.
pub(super) async fn to_limits(
    connection: &mut SqliteConnection,
    sandbox: i64,
    limits: LogLimits,
) -> Result<u64, sqlx::Error> {
    let mut lines = 0;
    let cap = i64::try_from(limits.sandbox_bytes).unwrap_or(i64::MAX);
    while bytes_of(connection, sandbox).await? > cap {
        let Some(doomed) = oldest(connection, sandbox, 1).await? else { break };
        lines += remove(connection, &doomed, Reason::Cap).await?;
    }
    let cap = i64::try_from(limits.total_bytes).unwrap_or(i64::MAX);
    for _ in 0..OTHERS_PER_APPEND {
        let total: i64 =
            sqlx::query_scalar("SELECT bytes FROM log_total").fetch_one(&mut *connection).await?;
        if total <= cap {
            break;
        }
        let Some(silent) = silent_longest(connection, sandbox).await? else { break };
        let keep = i64::from(silent == sandbox);
        let Some(doomed) = oldest(connection, silent, keep).await? else { break };
        lines += remove(connection, &doomed, Reason::Cap).await?;
    }
    Ok(lines)
}

async fn bytes_of(connection: &mut SqliteConnection, sandbox: i64) -> Result<i64, sqlx::Error> {
    let bytes = sqlx::query_scalar("SELECT bytes FROM log_sandbox WHERE key = ?").bind(sandbox);
    bytes.fetch_one(connection).await
}

/// Returns the sandbox with lines that was silent longest; `writing` itself comes last.
async fn silent_longest(
    connection: &mut SqliteConnection,
    writing: i64,
) -> Result<Option<i64>, sqlx::Error> {
    let other = "SELECT key FROM log_sandbox WHERE bytes > 0 AND key <> ?
        ORDER BY appended_at, id LIMIT 1";
    let other: Option<i64> =
        sqlx::query_scalar(other).bind(writing).fetch_optional(connection).await?;
    Ok(Some(other.unwrap_or(writing)))
}

/// Returns the oldest batch of a sandbox, unless it is among the newest `keep`.
async fn oldest(
    connection: &mut SqliteConnection,
    sandbox: i64,
    keep: i64,
) -> Result<Option<Doomed>, sqlx::Error> {
    let query = format!(
        "{DOOMED} WHERE sandbox = ?1
         AND (SELECT count(*) FROM (SELECT 1 FROM log_chunk WHERE sandbox = ?1 LIMIT ?2 + 1)) > ?2
         ORDER BY last LIMIT 1"
    );
    let query = sqlx::query_as(sqlx::AssertSqlSafe(query)).bind(sandbox).bind(keep);
    query.fetch_optional(connection).await
}

/// Removes a batch and what was counted of it; returns its lines.
async fn remove(
    connection: &mut SqliteConnection,
    doomed: &Doomed,
    reason: Reason,
) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query("DELETE FROM log_chunk WHERE key = ?").bind(doomed.key);
    gone.execute(&mut *connection).await?;
    let uncount = "UPDATE log_process SET lines = lines - (
            SELECT each.value ->> 1 FROM json_each(?2) AS each
            WHERE each.value ->> 0 = log_process.process)
        WHERE sandbox = ?1 AND process IN (SELECT value ->> 0 FROM json_each(?2))";
    let uncount = sqlx::query(uncount).bind(doomed.sandbox).bind(&doomed.counts);
    uncount.execute(&mut *connection).await?;
    let unnamed = "DELETE FROM log_process WHERE sandbox = ?1 AND lines <= 0
        AND process IN (SELECT value ->> 0 FROM json_each(?2))";
    let unnamed = sqlx::query(unnamed).bind(doomed.sandbox).bind(&doomed.counts);
    unnamed.execute(&mut *connection).await?;
    let lines = doomed.last - doomed.first + 1;
    let update = match reason {
        Reason::Cap => {
            "UPDATE log_sandbox SET bytes = bytes - ?2, cut_lines = cut_lines + ?3, cut_at = ?4
             WHERE key = ?1"
        }
        Reason::Age => {
            "UPDATE log_sandbox SET bytes = bytes - ?2, cut_lines = 0 * ?3, cut_at = 0 * ?4
             WHERE key = ?1"
        }
    };
    sqlx::query(update)
        .bind(doomed.sandbox)
        .bind(doomed.bytes)
        .bind(lines)
        .bind(doomed.last_at)
        .execute(&mut *connection)
        .await?;
    let total = sqlx::query("UPDATE log_total SET bytes = bytes - ?").bind(doomed.bytes);
    total.execute(connection).await?;
    Ok(u64::try_from(lines).unwrap_or(0))
}

// === impl Doomed ===

impl FromRow<'_, SqliteRow> for Doomed {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            key: row.try_get("key")?,
            sandbox: row.try_get("sandbox")?,
            first: row.try_get("first")?,
            last: row.try_get("last")?,
            last_at: row.try_get("last_at")?,
            bytes: row.try_get("bytes")?,
            counts: row.try_get("counts")?,
        })
    }
}

// === impl Expire ===

impl Expire {
    async fn apply_all(&self, connection: &mut SqliteConnection) -> Result<usize, sqlx::Error> {
        let query = format!("{DOOMED} WHERE stored_at < ? ORDER BY stored_at, key LIMIT ?");
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        let query = sqlx::query_as(sqlx::AssertSqlSafe(query)).bind(self.before.0).bind(limit);
        let old: Vec<Doomed> = query.fetch_all(&mut *connection).await?;
        for doomed in &old {
            remove(connection, doomed, Reason::Age).await?;
        }
        // All of its batches are gone, so all of its processes are.
        let empty = "DELETE FROM log_sandbox WHERE bytes = 0 AND appended_at < ?
            AND NOT EXISTS (SELECT 1 FROM log_chunk WHERE sandbox = log_sandbox.key)";
        sqlx::query(empty).bind(self.before.0).execute(&mut *connection).await?;
        if !old.is_empty() {
            sqlx::query(VACUUM).fetch_all(connection).await?;
        }
        Ok(old.len())
    }
}

impl Verb for Expire {
    type Output = usize;

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<usize, StoreError> {
        self.apply_all(connection).await.map_err(|error| failed("remove old log lines", &error))
    }
}
