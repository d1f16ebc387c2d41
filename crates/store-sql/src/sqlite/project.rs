//! Projects.

use sqlx::{SqliteConnection, SqlitePool};
use tarn_store::{ProjectRecord, StoreError};
use tarn_types::{ProjectId, UnixMillis};

use super::{error::failed, writer::Verb};

/// Adds a project unless there is one of its name.
pub(super) struct Ensure(pub(super) ProjectRecord);

/// Id, name, time of creation.
type Row = (String, String, i64);

// === impl Ensure ===

impl Verb for Ensure {
    type Output = ProjectRecord;

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<ProjectRecord, StoreError> {
        let Self(candidate) = self;
        let error = |error: sqlx::Error| failed("ensure a project", &error);
        sqlx::query(
            "INSERT INTO project (id, name, created_at) VALUES (?, ?, ?)
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(candidate.id.as_str())
        .bind(&candidate.name)
        .bind(candidate.created_at.0)
        .execute(&mut *connection)
        .await
        .map_err(error)?;
        let row = sqlx::query_as("SELECT id, name, created_at FROM project WHERE name = ?")
            .bind(&candidate.name)
            .fetch_one(connection)
            .await
            .map_err(error)?;
        record(row)
    }
}

/// Reads a project.
pub(super) async fn fetch(
    readers: &SqlitePool,
    id: &ProjectId,
) -> Result<ProjectRecord, StoreError> {
    let row = sqlx::query_as("SELECT id, name, created_at FROM project WHERE id = ?")
        .bind(id.as_str())
        .fetch_optional(readers)
        .await
        .map_err(|error| failed("read a project", &error))?;
    record(row.ok_or(StoreError::NotFound { what: "project" })?)
}

/// Reads every project, oldest first.
pub(super) async fn list(readers: &SqlitePool) -> Result<Vec<ProjectRecord>, StoreError> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT id, name, created_at FROM project ORDER BY created_at, id")
            .fetch_all(readers)
            .await
            .map_err(|error| failed("list projects", &error))?;
    rows.into_iter().map(record).collect()
}

fn record((id, name, created_at): Row) -> Result<ProjectRecord, StoreError> {
    let id = id.parse().map_err(|error: tarn_types::IdError| StoreError::Internal {
        detail: format!("a stored project is damaged: {error}"),
    })?;
    Ok(ProjectRecord { id, name, created_at: UnixMillis(created_at) })
}
