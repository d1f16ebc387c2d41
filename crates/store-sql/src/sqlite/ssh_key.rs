//! Registered SSH keys.

use sqlx::{FromRow, Row as _, SqliteConnection, SqlitePool, sqlite::SqliteRow};
use tarn_store::StoreError;
use tarn_types::{IdError, ProjectId, SshKeyId, SshKeyRecord, SshPublicKey, UnixMillis};

use super::{
    error::{failed, is_duplicate},
    writer::Verb,
};

/// Adds a key.
pub(super) struct Insert(pub(super) SshKeyRecord);

/// Removes a key.
pub(super) struct Delete {
    pub(super) project: ProjectId,
    pub(super) id: SshKeyId,
}

/// A key as it is read.
struct Stored {
    id: String,
    name: String,
    key: SshPublicKey,
    created_at: i64,
    last_used_at: Option<i64>,
}

// === impl Insert ===

impl Verb for Insert {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let Self(record) = self;
        let inserted = sqlx::query(
            "INSERT INTO ssh_key (id, project, name, algorithm, fingerprint, line, created_at,
                                  last_used_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(record.id.as_str())
        .bind(record.project.as_str())
        .bind(&record.name)
        .bind(&record.key.algorithm)
        .bind(&record.key.fingerprint)
        .bind(&record.key.line)
        .bind(record.created_at.0)
        .bind(record.last_used_at.map(|at| at.0))
        .execute(connection)
        .await;
        match inserted {
            Ok(_) => Ok(()),
            Err(error) if is_duplicate(&error) => Err(StoreError::Exists { what: "SSH key" }),
            Err(error) => Err(failed("insert an SSH key", &error)),
        }
    }
}

// === impl Delete ===

impl Verb for Delete {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let deleted = sqlx::query("DELETE FROM ssh_key WHERE id = ? AND project = ?")
            .bind(self.id.as_str())
            .bind(self.project.as_str())
            .execute(connection)
            .await
            .map_err(|error| failed("delete an SSH key", &error))?;
        if deleted.rows_affected() == 0 {
            return Err(StoreError::NotFound { what: "SSH key" });
        }
        Ok(())
    }
}

// === impl Stored ===

impl FromRow<'_, SqliteRow> for Stored {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            key: SshPublicKey {
                algorithm: row.try_get("algorithm")?,
                fingerprint: row.try_get("fingerprint")?,
                line: row.try_get("line")?,
            },
            created_at: row.try_get("created_at")?,
            last_used_at: row.try_get("last_used_at")?,
        })
    }
}

impl Stored {
    fn record(self, project: &ProjectId) -> Result<SshKeyRecord, StoreError> {
        let id = self.id.parse().map_err(|error: IdError| StoreError::Internal {
            detail: format!("a stored SSH key is damaged: {error}"),
        })?;
        Ok(SshKeyRecord {
            id,
            project: project.clone(),
            name: self.name,
            key: self.key,
            created_at: UnixMillis(self.created_at),
            last_used_at: self.last_used_at.map(UnixMillis),
        })
    }
}

/// Reads a project's keys, oldest first.
pub(super) async fn list(
    readers: &SqlitePool,
    project: &ProjectId,
) -> Result<Vec<SshKeyRecord>, StoreError> {
    let stored: Vec<Stored> = sqlx::query_as(
        "SELECT id, name, algorithm, fingerprint, line, created_at, last_used_at FROM ssh_key
         WHERE project = ? ORDER BY created_at, id",
    )
    .bind(project.as_str())
    .fetch_all(readers)
    .await
    .map_err(|error| failed("list SSH keys", &error))?;
    stored.into_iter().map(|key| key.record(project)).collect()
}
