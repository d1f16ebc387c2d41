//! Builds of images, and what their steps led to.

use sqlx::{SqliteConnection, SqlitePool};
use tarn_store::{StoreError, format};
use tarn_types::{BuildId, BuildRecord, IdError, KeptStep, ProjectId, UnixMillis};

use super::{error::failed, writer::Verb};

/// Adds or replaces a build.
pub(super) struct Put {
    id: BuildId,
    project: ProjectId,
    created_at: UnixMillis,
    text: String,
}

/// Removes a build.
pub(super) struct Delete(pub(super) BuildId);

/// Adds or replaces what a step led to.
pub(super) struct PutStep(pub(super) KeptStep);

/// Removes what a step led to.
pub(super) struct DeleteStep {
    pub(super) project: ProjectId,
    pub(super) key: String,
}

// === impl Put ===

impl Put {
    pub(super) fn new(record: &BuildRecord) -> Result<Self, StoreError> {
        Ok(Self {
            id: record.id.clone(),
            project: record.project.clone(),
            created_at: record.created_at,
            text: format::encode_build(record)?,
        })
    }
}

impl Verb for Put {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let put = sqlx::query(
            "INSERT INTO build (id, project, created_at, format_version, record)
             VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET
             format_version = excluded.format_version, record = excluded.record",
        )
        .bind(self.id.as_str())
        .bind(self.project.as_str())
        .bind(self.created_at.0)
        .bind(i64::from(format::BUILD_FORMAT))
        .bind(&self.text)
        .execute(connection)
        .await;
        put.map(drop).map_err(|error| failed("store a build", &error))
    }
}

// === impl Delete ===

impl Verb for Delete {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let deleted = sqlx::query("DELETE FROM build WHERE id = ?").bind(self.0.as_str());
        let deleted = deleted.execute(connection).await;
        deleted.map(drop).map_err(|error| failed("delete a build", &error))
    }
}

// === impl PutStep ===

impl Verb for PutStep {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let Self(step) = self;
        let put = sqlx::query(
            "INSERT INTO kept_step (project, key, snapshot, used_at) VALUES (?, ?, ?, ?)
             ON CONFLICT (project, key) DO UPDATE SET
             snapshot = excluded.snapshot, used_at = excluded.used_at",
        )
        .bind(step.project.as_str())
        .bind(&step.key)
        .bind(step.snapshot.as_str())
        .bind(step.used_at.0)
        .execute(connection)
        .await;
        put.map(drop).map_err(|error| failed("store a kept step", &error))
    }
}

// === impl DeleteStep ===

impl Verb for DeleteStep {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let deleted = sqlx::query("DELETE FROM kept_step WHERE project = ? AND key = ?")
            .bind(self.project.as_str())
            .bind(&self.key)
            .execute(connection)
            .await;
        deleted.map(drop).map_err(|error| failed("delete a kept step", &error))
    }
}

/// Reads every build, oldest first.
pub(super) async fn list(readers: &SqlitePool) -> Result<Vec<BuildRecord>, StoreError> {
    let rows: Vec<(String, i64, String)> =
        sqlx::query_as("SELECT id, format_version, record FROM build ORDER BY created_at, id")
            .fetch_all(readers)
            .await
            .map_err(|error| failed("list builds", &error))?;
    let record = |(id, version, text): (String, i64, String)| {
        format::decode_build(u32::try_from(version).unwrap_or(u32::MAX), &id, &text)
    };
    rows.into_iter().map(record).collect()
}

/// Reads what steps led to, by project and key.
pub(super) async fn list_steps(readers: &SqlitePool) -> Result<Vec<KeptStep>, StoreError> {
    let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
        "SELECT project, key, snapshot, used_at FROM kept_step ORDER BY project, key",
    )
    .fetch_all(readers)
    .await
    .map_err(|error| failed("list kept steps", &error))?;
    let damaged = |error: IdError| StoreError::Internal {
        detail: format!("a stored step of a build is damaged: {error}"),
    };
    let step = |(project, key, snapshot, used_at): (String, String, String, i64)| {
        Ok(KeptStep {
            project: project.parse().map_err(damaged)?,
            key,
            snapshot: snapshot.parse().map_err(damaged)?,
            used_at: UnixMillis(used_at),
        })
    };
    rows.into_iter().map(step).collect()
}
