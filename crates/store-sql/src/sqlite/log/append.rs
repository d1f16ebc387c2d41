//! Appending a batch.

use sqlx::SqliteConnection;
use tarn_store::{
    StoreError,
    log::{LogAppended, LogLimits, cost, counts},
};
use tarn_types::{LogBatch, UnixMillis};

use super::{
    super::{error::failed, writer::Verb},
    chunk, cut,
};

/// Appends a batch, unless it was before, and makes room for it.
pub(super) struct Append {
    sandbox: String,
    project: String,
    boot: String,
    batch: i64,
    at: i64,
    limits: LogLimits,
    /// `None` for a batch without lines.
    chunk: Option<Chunk>,
}

/// What is written of the lines.
struct Chunk {
    count: i64,
    last_at: i64,
    bytes: i64,
    counts: String,
    lines: String,
    /// `[[process, pid, command, managed_id, managed_name, first_seen, last_seen, lines], …]`
    processes: String,
}

// === impl Append ===

impl Append {
    pub(super) fn new(
        batch: &LogBatch,
        at: UnixMillis,
        limits: LogLimits,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            sandbox: batch.sandbox.to_string(),
            project: batch.project.to_string(),
            boot: batch.boot.clone(),
            batch: signed(batch.number),
            at: at.0,
            limits,
            chunk: if batch.lines.is_empty() { None } else { Some(Chunk::new(batch)?) },
        })
    }

    /// Returns the sandbox's key and the sequence of its next line; `None` if it has this batch.
    async fn find(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Option<(i64, i64)>, sqlx::Error> {
        let query = "SELECT key, next, boot, batch FROM log_sandbox WHERE id = ?";
        let found: Option<(i64, i64, String, i64)> =
            sqlx::query_as(query).bind(&self.sandbox).fetch_optional(&mut *connection).await?;
        match found {
            Some((_, _, boot, batch)) if boot == self.boot && self.batch <= batch => Ok(None),
            Some((key, next, ..)) => Ok(Some((key, next))),
            None => {
                let insert = "INSERT INTO log_sandbox
                    (id, project, boot, batch, appended_at, next, bytes, cut_lines, cut_at)
                    VALUES (?, ?, '', 0, 0, 1, 0, 0, 0)";
                let made = sqlx::query(insert).bind(&self.sandbox).bind(&self.project);
                let key = made.execute(connection).await?.last_insert_rowid();
                Ok(Some((key, 1)))
            }
        }
    }

    async fn note(&self, connection: &mut SqliteConnection, key: i64) -> Result<(), sqlx::Error> {
        let (count, bytes) = self.chunk.as_ref().map_or((0, 0), |chunk| (chunk.count, chunk.bytes));
        let update = "UPDATE log_sandbox SET boot = ?, batch = ?, appended_at = ?,
            next = next + ?, bytes = bytes + ? WHERE key = ?";
        sqlx::query(update)
            .bind(&self.boot)
            .bind(self.batch)
            .bind(self.at)
            .bind(count)
            .bind(bytes)
            .bind(key)
            .execute(&mut *connection)
            .await?;
        let total = sqlx::query("UPDATE log_total SET bytes = bytes + ?").bind(bytes);
        total.execute(connection).await.map(drop)
    }

    async fn apply_all(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<LogAppended, sqlx::Error> {
        let Some((key, next)) = self.find(connection).await? else {
            return Ok(LogAppended::Repeated);
        };
        if let Some(chunk) = &self.chunk {
            chunk.insert(connection, key, next, self.at).await?;
        }
        self.note(connection, key).await?;
        let cut_lines = cut::to_limits(connection, key, self.limits).await?;
        Ok(LogAppended::Stored { cut_lines })
    }
}

impl Verb for Append {
    type Output = LogAppended;

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<LogAppended, StoreError> {
        self.apply_all(connection).await.map_err(|error| failed("append log lines", &error))
    }
}

// === impl Chunk ===

impl Chunk {
    fn new(batch: &LogBatch) -> Result<Self, StoreError> {
        let counts = counts(batch);
        let json = |value: serde_json::Result<String>| {
            value.map_err(|error| StoreError::Internal { detail: format!("write log: {error}") })
        };
        let of = |process: u64| batch.lines.iter().filter(move |line| line.process == process);
        let mut processes = Vec::new();
        for (number, lines) in &counts {
            let described = batch.processes.iter().find(|process| process.id == *number);
            let Some(process) = described else { continue };
            processes.push((
                signed(process.id),
                process.pid,
                &process.command,
                &process.managed_id,
                &process.managed_name,
                of(*number).map(|line| line.at.0).min(),
                of(*number).map(|line| line.at.0).max(),
                signed(*lines),
            ));
        }
        Ok(Self {
            count: signed(batch.lines.len() as u64),
            last_at: batch.lines.last().map_or(0, |line| line.at.0),
            bytes: signed(cost(batch)),
            counts: json(serde_json::to_string(&counts))?,
            lines: chunk::encode(&batch.lines)?,
            processes: json(serde_json::to_string(&processes))?,
        })
    }

    async fn insert(
        &self,
        connection: &mut SqliteConnection,
        sandbox: i64,
        first: i64,
        at: i64,
    ) -> Result<(), sqlx::Error> {
        let insert = "INSERT INTO log_chunk
            (sandbox, first, last, stored_at, last_at, bytes, counts, format_version, lines)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
        sqlx::query(insert)
            .bind(sandbox)
            .bind(first)
            .bind(first + self.count - 1)
            .bind(at)
            .bind(self.last_at)
            .bind(self.bytes)
            .bind(&self.counts)
            .bind(chunk::FORMAT)
            .bind(&self.lines)
            .execute(&mut *connection)
            .await?;
        // `WHERE true` keeps SQLite from reading ON CONFLICT as the end of a join.
        let upsert = "INSERT INTO log_process (sandbox, process, pid, command, managed_id,
                managed_name, first_seen, last_seen, lines)
            SELECT ?, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
                value ->> 6, value ->> 7
            FROM json_each(?) WHERE true
            ON CONFLICT (sandbox, process) DO UPDATE SET pid = excluded.pid,
                command = excluded.command, managed_id = excluded.managed_id,
                managed_name = excluded.managed_name,
                first_seen = min(first_seen, excluded.first_seen),
                last_seen = max(last_seen, excluded.last_seen), lines = lines + excluded.lines";
        let upserted = sqlx::query(upsert).bind(sandbox).bind(&self.processes);
        upserted.execute(connection).await.map(drop)
    }
}

/// SQLite's integers are signed; nothing here comes near the end of their range honestly.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
