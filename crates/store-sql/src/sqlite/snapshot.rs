//! Snapshots: the record as JSON, and the columns that queries need.

use sqlx::{SqliteConnection, SqlitePool};
use tarn_store::{StoreError, format, rule};
use tarn_types::{ProjectId, SandboxId, SnapshotId, SnapshotRecord, UnixMillis};

use super::{error::failed, row::StoredRow, writer::Verb};

/// A row as it is written.
pub(super) struct Row {
    record: SnapshotRecord,
    sequence: i64,
    text: String,
}

/// Adds a row.
pub(super) struct Insert(pub(super) Row);

/// Replaces a row.
pub(super) struct Update(pub(super) Row);

/// Removes a row.
pub(super) struct Delete(pub(super) SnapshotId);

// === impl Row ===

impl Row {
    pub(super) fn new(record: &SnapshotRecord) -> Result<Self, StoreError> {
        let text = format::encode_snapshot(record)?;
        // A sequence beyond that cannot follow any stored one.
        let sequence = i64::try_from(record.sequence)
            .map_err(|_huge| StoreError::SnapshotConflict { id: record.id.clone() })?;
        Ok(Self { record: record.clone(), sequence, text })
    }
}

// === impl Insert ===

impl Verb for Insert {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let Self(row) = self;
        let inserted = sqlx::query(
            "INSERT INTO snapshot (id, project, sandbox, created_at, hidden, unsettled,
                                   sequence, format_version, record)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        )
        .bind(row.record.id.as_str())
        .bind(row.record.project.as_str())
        .bind(row.record.sandbox.as_str())
        .bind(row.record.created_at.0)
        .bind(row.record.hidden)
        .bind(row.record.is_unsettled())
        .bind(row.sequence)
        .bind(i64::from(format::SNAPSHOT_FORMAT))
        .bind(&row.text)
        .execute(connection)
        .await;
        match inserted {
            Ok(done) if done.rows_affected() == 1 => Ok(()),
            Ok(_) => Err(StoreError::Exists { what: "snapshot" }),
            Err(error) => Err(failed("insert a snapshot", &error)),
        }
    }
}

// === impl Update ===

impl Verb for Update {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let Self(row) = self;
        // Everything that `rule::check_snapshot_change` demands is in the condition.
        let updated = sqlx::query(
            "UPDATE snapshot SET hidden = ?1, unsettled = ?2, sequence = ?3,
                                 format_version = ?4, record = ?5
             WHERE id = ?6 AND sequence = ?3 - 1 AND project = ?7 AND sandbox = ?8
               AND created_at = ?9",
        )
        .bind(row.record.hidden)
        .bind(row.record.is_unsettled())
        .bind(row.sequence)
        .bind(i64::from(format::SNAPSHOT_FORMAT))
        .bind(&row.text)
        .bind(row.record.id.as_str())
        .bind(row.record.project.as_str())
        .bind(row.record.sandbox.as_str())
        .bind(row.record.created_at.0)
        .execute(&mut *connection)
        .await;
        match updated {
            Ok(done) if done.rows_affected() == 1 => Ok(()),
            Ok(_) => Err(self.refused(connection).await),
            Err(error) => Err(failed("update a snapshot", &error)),
        }
    }
}

impl Update {
    /// Finds out why no row was changed.
    async fn refused(&self, connection: &mut SqliteConnection) -> StoreError {
        let Self(row) = self;
        /// Project, sandbox, creation, sequence.
        type Fixed = (String, String, i64, i64);
        let stored: Result<Option<Fixed>, _> = sqlx::query_as(
            "SELECT project, sandbox, created_at, sequence FROM snapshot WHERE id = ?",
        )
        .bind(row.record.id.as_str())
        .fetch_optional(connection)
        .await;
        let (project, sandbox, created_at, sequence) = match stored {
            Ok(Some(stored)) => stored,
            Ok(None) => return StoreError::NotFound { what: "snapshot" },
            Err(error) => return failed("read a snapshot", &error),
        };
        if row.sequence - 1 != sequence {
            return StoreError::SnapshotConflict { id: row.record.id.clone() };
        }
        let stored = rule::StoredSnapshot {
            project: &project,
            sandbox: &sandbox,
            created_at: UnixMillis(created_at),
        };
        match rule::check_snapshot_change(&stored, &row.record) {
            Err(error) => error,
            Ok(()) => StoreError::Internal {
                detail: format!("snapshot {} was not updated for no known reason", row.record.id),
            },
        }
    }
}

// === impl Delete ===

impl Verb for Delete {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let Self(id) = self;
        let deleted = sqlx::query("DELETE FROM snapshot WHERE id = ?").bind(id.as_str());
        let deleted = deleted.execute(connection).await;
        deleted.map(drop).map_err(|error| failed("delete a snapshot", &error))
    }
}

/// Reads a snapshot.
pub(super) async fn fetch(
    readers: &SqlitePool,
    id: &SnapshotId,
) -> Result<SnapshotRecord, StoreError> {
    let stored: Option<StoredRow> =
        sqlx::query_as("SELECT id, format_version, record FROM snapshot WHERE id = ?")
            .bind(id.as_str())
            .fetch_optional(readers)
            .await
            .map_err(|error| failed("read a snapshot", &error))?;
    stored.ok_or(StoreError::NotFound { what: "snapshot" })?.read(format::decode_snapshot)
}

/// Reads the snapshots of a project or of one sandbox, newest first.
pub(super) async fn list(
    readers: &SqlitePool,
    project: &ProjectId,
    sandbox: Option<&SandboxId>,
) -> Result<Vec<SnapshotRecord>, StoreError> {
    // Two statements, so that each has its index.
    let stored = match sandbox {
        None => sqlx::query_as(
            "SELECT id, format_version, record FROM snapshot
             WHERE project = ? AND hidden = 0 ORDER BY created_at DESC, id DESC",
        )
        .bind(project.as_str()),
        Some(sandbox) => sqlx::query_as(
            "SELECT id, format_version, record FROM snapshot
             WHERE project = ? AND sandbox = ? AND hidden = 0 ORDER BY created_at DESC, id DESC",
        )
        .bind(project.as_str())
        .bind(sandbox.as_str()),
    };
    all(stored.fetch_all(readers).await)
}

/// Reads every snapshot that somebody must look after, oldest first.
pub(super) async fn list_unsettled(
    readers: &SqlitePool,
) -> Result<Vec<SnapshotRecord>, StoreError> {
    let stored = sqlx::query_as(
        "SELECT id, format_version, record FROM snapshot
         WHERE unsettled = 1
           AND (hidden = 0 OR id NOT IN (SELECT snapshot FROM image)
                OR record ->> '$.status' IN ('in_progress', 'local_ready')
                OR (record ->> '$.status' = 'completed' AND record ->> '$.archive.is' = 'begun'))
         ORDER BY created_at, id",
    );
    all(stored.fetch_all(readers).await)
}

fn all(read: Result<Vec<StoredRow>, sqlx::Error>) -> Result<Vec<SnapshotRecord>, StoreError> {
    let read = read.map_err(|error| failed("list snapshots", &error))?;
    read.into_iter().map(|row| row.read(format::decode_snapshot)).collect()
}
