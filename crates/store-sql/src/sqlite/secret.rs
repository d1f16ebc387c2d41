//! Secrets and the keys they are sealed with: bytes that nobody here can read.

use sqlx::{FromRow, Row as _, SqliteConnection, SqlitePool, sqlite::SqliteRow};
use tarn_store::{DataKeyRecord, SealedSecret, StoreError};
use tarn_types::{ProjectId, SecretId, SecretName, SecretRecord, UnixMillis};

use super::{
    error::{failed, is_duplicate},
    writer::Verb,
};

/// Adds a project's data key if it has none; returns the one it has.
pub(super) struct EnsureKey(pub(super) DataKeyRecord);

/// Replaces how data keys are wrapped.
pub(super) struct Rewrap(pub(super) Vec<DataKeyRecord>);

/// Sets secrets, all or none.
pub(super) struct Put(pub(super) Vec<SealedSecret>);

/// Removes a secret.
pub(super) struct Delete {
    pub(super) project: ProjectId,
    pub(super) id: SecretId,
}

/// A data key as it is read.
struct StoredKey(DataKeyRecord);

/// A secret as it is read, without its value.
struct Stored {
    id: String,
    project: String,
    name: String,
    created_at: i64,
    updated_at: i64,
}

// === impl EnsureKey ===

impl Verb for EnsureKey {
    type Output = DataKeyRecord;

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<DataKeyRecord, StoreError> {
        let Self(key) = self;
        sqlx::query(
            "INSERT INTO data_key (project, wrapping, wrapped) VALUES (?, ?, ?)
             ON CONFLICT (project) DO NOTHING",
        )
        .bind(key.project.as_str())
        .bind(&key.wrapping)
        .bind(key.wrapped.as_slice())
        .execute(&mut *connection)
        .await
        .map_err(|error| failed("insert a data key", &error))?;
        let stored: StoredKey =
            sqlx::query_as("SELECT project, wrapping, wrapped FROM data_key WHERE project = ?")
                .bind(key.project.as_str())
                .fetch_one(connection)
                .await
                .map_err(|error| failed("read a data key", &error))?;
        Ok(stored.0)
    }
}

// === impl Rewrap ===

impl Verb for Rewrap {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        for key in &self.0 {
            let done =
                sqlx::query("UPDATE data_key SET wrapping = ?, wrapped = ? WHERE project = ?")
                    .bind(&key.wrapping)
                    .bind(key.wrapped.as_slice())
                    .bind(key.project.as_str())
                    .execute(&mut *connection)
                    .await
                    .map_err(|error| failed("rewrap a data key", &error))?;
            if done.rows_affected() == 0 {
                return Err(StoreError::NotFound { what: "data key" });
            }
        }
        Ok(())
    }
}

// === impl Put ===

impl Verb for Put {
    type Output = Vec<SecretRecord>;

    async fn apply(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Vec<SecretRecord>, StoreError> {
        let mut stored = Vec::with_capacity(self.0.len());
        for SealedSecret { record, sealed } in &self.0 {
            let row: Stored = sqlx::query_as(
                "INSERT INTO secret (id, project, name, created_at, updated_at, sealed)
                 VALUES (?, ?, ?, ?, ?, ?)
                 ON CONFLICT (project, name) DO UPDATE
                 SET updated_at = excluded.updated_at, sealed = excluded.sealed
                 RETURNING id, project, name, created_at, updated_at",
            )
            .bind(record.id.as_str())
            .bind(record.project.as_str())
            .bind(record.name.as_str())
            .bind(record.created_at.0)
            .bind(record.updated_at.0)
            .bind(sealed.as_slice())
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| match is_duplicate(&error) {
                true => StoreError::Exists { what: "secret" },
                false => failed("set a secret", &error),
            })?;
            stored.push(row.record()?);
        }
        Ok(stored)
    }
}

// === impl Delete ===

impl Verb for Delete {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let deleted = sqlx::query("DELETE FROM secret WHERE id = ? AND project = ?")
            .bind(self.id.as_str())
            .bind(self.project.as_str())
            .execute(connection)
            .await
            .map_err(|error| failed("delete a secret", &error))?;
        if deleted.rows_affected() == 0 {
            return Err(StoreError::NotFound { what: "secret" });
        }
        Ok(())
    }
}

// === impl StoredKey ===

impl FromRow<'_, SqliteRow> for StoredKey {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let project: String = row.try_get("project")?;
        let project = project.parse().map_err(|error| sqlx::Error::ColumnDecode {
            index: "project".to_owned(),
            source: Box::<tarn_types::IdError>::new(error),
        })?;
        Ok(Self(DataKeyRecord {
            project,
            wrapping: row.try_get("wrapping")?,
            wrapped: row.try_get("wrapped")?,
        }))
    }
}

// === impl Stored ===

impl FromRow<'_, SqliteRow> for Stored {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            project: row.try_get("project")?,
            name: row.try_get("name")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}

impl Stored {
    fn record(self) -> Result<SecretRecord, StoreError> {
        let damaged = |detail: String| StoreError::Internal {
            detail: format!("the stored secret {} is damaged: {detail}", self.id),
        };
        Ok(SecretRecord {
            id: self.id.parse().map_err(|error: tarn_types::IdError| damaged(error.to_string()))?,
            project: self
                .project
                .parse()
                .map_err(|error: tarn_types::IdError| damaged(error.to_string()))?,
            name: self
                .name
                .parse()
                .map_err(|error: tarn_types::SecretNameError| damaged(error.to_string()))?,
            created_at: UnixMillis(self.created_at),
            updated_at: UnixMillis(self.updated_at),
        })
    }
}

/// Reads a project's data key.
pub(super) async fn fetch_key(
    readers: &SqlitePool,
    project: &ProjectId,
) -> Result<DataKeyRecord, StoreError> {
    let stored: Option<StoredKey> =
        sqlx::query_as("SELECT project, wrapping, wrapped FROM data_key WHERE project = ?")
            .bind(project.as_str())
            .fetch_optional(readers)
            .await
            .map_err(|error| failed("read a data key", &error))?;
    stored.map(|key| key.0).ok_or(StoreError::NotFound { what: "data key" })
}

/// Reads every data key.
pub(super) async fn list_keys(readers: &SqlitePool) -> Result<Vec<DataKeyRecord>, StoreError> {
    let stored: Vec<StoredKey> =
        sqlx::query_as("SELECT project, wrapping, wrapped FROM data_key ORDER BY project")
            .fetch_all(readers)
            .await
            .map_err(|error| failed("list data keys", &error))?;
    Ok(stored.into_iter().map(|key| key.0).collect())
}

/// Reads a secret without its value.
pub(super) async fn fetch(
    readers: &SqlitePool,
    project: &ProjectId,
    id: &SecretId,
) -> Result<SecretRecord, StoreError> {
    let stored: Option<Stored> = sqlx::query_as(
        "SELECT id, project, name, created_at, updated_at FROM secret
         WHERE id = ? AND project = ?",
    )
    .bind(id.as_str())
    .bind(project.as_str())
    .fetch_optional(readers)
    .await
    .map_err(|error| failed("read a secret", &error))?;
    stored.ok_or(StoreError::NotFound { what: "secret" })?.record()
}

/// Reads a project's secrets without their values.
pub(super) async fn list(
    readers: &SqlitePool,
    project: &ProjectId,
) -> Result<Vec<SecretRecord>, StoreError> {
    let stored: Vec<Stored> = sqlx::query_as(
        "SELECT id, project, name, created_at, updated_at FROM secret
         WHERE project = ? ORDER BY name",
    )
    .bind(project.as_str())
    .fetch_all(readers)
    .await
    .map_err(|error| failed("list secrets", &error))?;
    stored.into_iter().map(Stored::record).collect()
}

/// Reads those of some names, with their values.
pub(super) async fn find(
    readers: &SqlitePool,
    project: &ProjectId,
    names: &[SecretName],
) -> Result<Vec<SealedSecret>, StoreError> {
    // One statement, so that all values are of one moment.
    let names: Vec<&str> = names.iter().map(SecretName::as_str).collect();
    let names = serde_json::to_string(&names).map_err(|error| StoreError::Internal {
        detail: format!("write the names of secrets: {error}"),
    })?;
    let rows = sqlx::query(
        "SELECT id, project, name, created_at, updated_at, sealed FROM secret
         WHERE project = ? AND name IN (SELECT value FROM json_each(?)) ORDER BY name",
    )
    .bind(project.as_str())
    .bind(names)
    .fetch_all(readers)
    .await
    .map_err(|error| failed("read secrets", &error))?;
    let read = |row: &SqliteRow| -> Result<(Stored, Vec<u8>), sqlx::Error> {
        Ok((Stored::from_row(row)?, row.try_get("sealed")?))
    };
    rows.iter()
        .map(|row| {
            let (stored, sealed) = read(row).map_err(|error| failed("read secrets", &error))?;
            Ok(SealedSecret { record: stored.record()?, sealed })
        })
        .collect()
}
