//! API keys, by the hash of what their owners hold.

use sqlx::{FromRow, Row as _, SqliteConnection, SqlitePool, sqlite::SqliteRow};
use tarn_store::{KeyHash, KeyRecord, StoreError};
use tarn_types::{IdError, KeyId, UnixMillis};

use super::{
    error::{failed, is_duplicate},
    writer::Verb,
};

/// Adds a key.
pub(super) struct Insert(pub(super) KeyRecord);

/// Marks a key as revoked, the first time.
pub(super) struct Revoke {
    pub(super) id: KeyId,
    pub(super) at: UnixMillis,
}

struct Stored {
    id: String,
    project: String,
    project_name: String,
    hash: Vec<u8>,
    created_at: i64,
    revoked_at: Option<i64>,
}

// === impl Insert ===

impl Verb for Insert {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let Self(key) = self;
        // Selecting from the project makes "no such project" the row that is not inserted.
        let inserted = sqlx::query(
            "INSERT INTO api_key (id, project, hash, created_at, revoked_at)
             SELECT ?, id, ?, ?, ? FROM project WHERE id = ?",
        )
        .bind(key.id.as_str())
        .bind(key.hash.0.as_slice())
        .bind(key.created_at.0)
        .bind(key.revoked_at.map(|at| at.0))
        .bind(key.project.as_str())
        .execute(connection)
        .await;
        match inserted {
            Ok(done) if done.rows_affected() == 1 => Ok(()),
            Ok(_) => Err(StoreError::NotFound { what: "project" }),
            Err(error) if is_duplicate(&error) => Err(StoreError::Exists { what: "key" }),
            Err(error) => Err(failed("insert a key", &error)),
        }
    }
}

// === impl Revoke ===

impl Verb for Revoke {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let revoked =
            sqlx::query("UPDATE api_key SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?")
                .bind(self.at.0)
                .bind(self.id.as_str())
                .execute(connection)
                .await
                .map_err(|error| failed("revoke a key", &error))?;
        if revoked.rows_affected() == 0 {
            return Err(StoreError::NotFound { what: "key" });
        }
        Ok(())
    }
}

// === impl Stored ===

impl FromRow<'_, SqliteRow> for Stored {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            project: row.try_get("project")?,
            project_name: row.try_get("project_name")?,
            hash: row.try_get("hash")?,
            created_at: row.try_get("created_at")?,
            revoked_at: row.try_get("revoked_at")?,
        })
    }
}

impl Stored {
    fn record(self) -> Result<KeyRecord, StoreError> {
        let damaged = |detail: String| StoreError::Internal {
            detail: format!("the stored key {} is damaged: {detail}", self.id),
        };
        let hash = self.hash.as_slice().try_into();
        Ok(KeyRecord {
            id: self.id.parse().map_err(|error: IdError| damaged(error.to_string()))?,
            project: self.project.parse().map_err(|error: IdError| damaged(error.to_string()))?,
            hash: KeyHash(hash.map_err(|_length| damaged("its hash is not 32 bytes".to_owned()))?),
            project_name: self.project_name,
            created_at: UnixMillis(self.created_at),
            revoked_at: self.revoked_at.map(UnixMillis),
        })
    }
}

/// Reads the key of a hash.
pub(super) async fn fetch(readers: &SqlitePool, hash: &KeyHash) -> Result<KeyRecord, StoreError> {
    let stored: Option<Stored> = sqlx::query_as(
        "SELECT k.id, k.project, p.name AS project_name, k.hash, k.created_at, k.revoked_at
         FROM api_key k JOIN project p ON p.id = k.project WHERE k.hash = ?",
    )
    .bind(hash.0.as_slice())
    .fetch_optional(readers)
    .await
    .map_err(|error| failed("read a key", &error))?;
    stored.ok_or(StoreError::NotFound { what: "key" })?.record()
}

/// Reads every key, oldest first.
pub(super) async fn list(readers: &SqlitePool) -> Result<Vec<KeyRecord>, StoreError> {
    let stored: Vec<Stored> = sqlx::query_as(
        "SELECT k.id, k.project, p.name AS project_name, k.hash, k.created_at, k.revoked_at
         FROM api_key k JOIN project p ON p.id = k.project ORDER BY k.created_at, k.id",
    )
    .fetch_all(readers)
    .await
    .map_err(|error| failed("list keys", &error))?;
    stored.into_iter().map(Stored::record).collect()
}
