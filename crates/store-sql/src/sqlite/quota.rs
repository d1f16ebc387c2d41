//! Quotas of projects, where they differ from the server's default.

use sqlx::{SqliteConnection, SqlitePool};
use tarn_store::{QuotaRecord, StoreError};
use tarn_types::{IdError, ProjectId};

use super::{error::failed, writer::Verb};

/// Sets a quota, or takes it back.
pub(super) struct Set {
    pub(super) project: ProjectId,
    pub(super) sandboxes: Option<u32>,
}

// === impl Set ===

impl Verb for Set {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let project = self.project.as_str();
        let set = match self.sandboxes {
            Some(sandboxes) => {
                sqlx::query(
                    "INSERT INTO quota (project, sandboxes) VALUES (?, ?)
                     ON CONFLICT (project) DO UPDATE SET sandboxes = excluded.sandboxes",
                )
                .bind(project)
                .bind(sandboxes)
                .execute(connection)
                .await
            }
            None => {
                let delete = sqlx::query("DELETE FROM quota WHERE project = ?");
                delete.bind(project).execute(connection).await
            }
        };
        set.map(drop).map_err(|error| failed("set a quota", &error))
    }
}

/// Reads every quota that was set.
pub(super) async fn list(readers: &SqlitePool) -> Result<Vec<QuotaRecord>, StoreError> {
    let rows: Vec<(String, u32)> =
        sqlx::query_as("SELECT project, sandboxes FROM quota ORDER BY project")
            .fetch_all(readers)
            .await
            .map_err(|error| failed("list quotas", &error))?;
    let record = |(project, sandboxes): (String, u32)| {
        let project = project.parse().map_err(|error: IdError| StoreError::Internal {
            detail: format!("a stored quota is damaged: {error}"),
        })?;
        Ok(QuotaRecord { project, sandboxes })
    };
    rows.into_iter().map(record).collect()
}
