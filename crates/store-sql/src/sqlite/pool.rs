//! Pools: the record as JSON, and the columns that updates need.

use sqlx::{SqliteConnection, SqlitePool};
use tarn_store::{StoreError, format, rule};
use tarn_types::{PoolId, PoolRecord, UnixMillis};

use super::{error::failed, row::StoredRow, writer::Verb};

/// A row as it is written.
pub(super) struct Row {
    record: PoolRecord,
    sequence: i64,
    text: String,
}

/// Adds a row.
pub(super) struct Insert(pub(super) Row);

/// Replaces a row.
pub(super) struct Update(pub(super) Row);

/// Removes a row.
pub(super) struct Delete(pub(super) PoolId);

// === impl Row ===

impl Row {
    pub(super) fn new(record: &PoolRecord) -> Result<Self, StoreError> {
        let text = format::encode_pool(record)?;
        // A sequence beyond that cannot follow any stored one.
        let sequence = i64::try_from(record.sequence)
            .map_err(|_huge| StoreError::PoolConflict { id: record.id.clone() })?;
        Ok(Self { record: record.clone(), sequence, text })
    }
}

// === impl Insert ===

impl Verb for Insert {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let Self(row) = self;
        let inserted = sqlx::query(
            "INSERT INTO pool (id, project, created_at, sequence, format_version, record)
             VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        )
        .bind(row.record.id.as_str())
        .bind(row.record.project.as_str())
        .bind(row.record.created_at.0)
        .bind(row.sequence)
        .bind(i64::from(format::POOL_FORMAT))
        .bind(&row.text)
        .execute(connection)
        .await;
        match inserted {
            Ok(done) if done.rows_affected() == 1 => Ok(()),
            Ok(_) => Err(StoreError::Exists { what: "pool" }),
            Err(error) => Err(failed("insert a pool", &error)),
        }
    }
}

// === impl Update ===

impl Verb for Update {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let Self(row) = self;
        // Everything that `rule::check_pool_change` demands is in the condition.
        let updated = sqlx::query(
            "UPDATE pool SET sequence = ?1, format_version = ?2, record = ?3
             WHERE id = ?4 AND sequence = ?1 - 1 AND project = ?5 AND created_at = ?6",
        )
        .bind(row.sequence)
        .bind(i64::from(format::POOL_FORMAT))
        .bind(&row.text)
        .bind(row.record.id.as_str())
        .bind(row.record.project.as_str())
        .bind(row.record.created_at.0)
        .execute(&mut *connection)
        .await;
        match updated {
            Ok(done) if done.rows_affected() == 1 => Ok(()),
            Ok(_) => Err(self.refused(connection).await),
            Err(error) => Err(failed("update a pool", &error)),
        }
    }
}

impl Update {
    /// Finds out why no row was changed.
    async fn refused(&self, connection: &mut SqliteConnection) -> StoreError {
        let Self(row) = self;
        let stored: Result<Option<(String, i64, i64)>, _> =
            sqlx::query_as("SELECT project, created_at, sequence FROM pool WHERE id = ?")
                .bind(row.record.id.as_str())
                .fetch_optional(connection)
                .await;
        let (project, created_at, sequence) = match stored {
            Ok(Some(stored)) => stored,
            Ok(None) => return StoreError::NotFound { what: "pool" },
            Err(error) => return failed("read a pool", &error),
        };
        if row.sequence - 1 != sequence {
            return StoreError::PoolConflict { id: row.record.id.clone() };
        }
        let stored = rule::StoredPool { project: &project, created_at: UnixMillis(created_at) };
        match rule::check_pool_change(&stored, &row.record) {
            Err(error) => error,
            Ok(()) => StoreError::Internal {
                detail: format!("pool {} was not updated for no known reason", row.record.id),
            },
        }
    }
}

// === impl Delete ===

impl Verb for Delete {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let Self(id) = self;
        let deleted = sqlx::query("DELETE FROM pool WHERE id = ?").bind(id.as_str());
        let deleted = deleted.execute(connection).await;
        deleted.map(drop).map_err(|error| failed("delete a pool", &error))
    }
}

/// Reads every pool, oldest first.
pub(super) async fn list(readers: &SqlitePool) -> Result<Vec<PoolRecord>, StoreError> {
    let stored: Vec<StoredRow> =
        sqlx::query_as("SELECT id, format_version, record FROM pool ORDER BY created_at, id")
            .fetch_all(readers)
            .await
            .map_err(|error| failed("list pools", &error))?;
    stored.into_iter().map(|row| row.read(format::decode_pool)).collect()
}
