//! Names of images, and what projects show to registries.

use sqlx::{FromRow, Row as _, SqliteConnection, SqlitePool, sqlite::SqliteRow};
use tarn_store::{SealedLogin, StoreError};
use tarn_types::{
    BootImage, ImageName, ImageNameRecord, ImagePin, ProjectId, RegistryLoginRecord, UnixMillis,
};

use super::{error::failed, writer::Verb};

/// Gives a name.
pub(super) struct PutName(pub(super) ImageNameRecord);

/// Takes a name away.
pub(super) struct DeleteName {
    pub(super) project: Option<ProjectId>,
    pub(super) name: ImageName,
}

/// Sets what is shown to a registry.
pub(super) struct PutLogin(pub(super) SealedLogin);

/// Removes what is shown to a registry.
pub(super) struct DeleteLogin {
    pub(super) project: ProjectId,
    pub(super) registry: String,
}

/// A name as it is read.
struct StoredName {
    project: String,
    name: String,
    digest: String,
    source: Option<String>,
    created_at: i64,
    updated_at: i64,
}

/// A login as it is read.
struct StoredLogin {
    project: String,
    registry: String,
    username: String,
    updated_at: i64,
    sealed: Vec<u8>,
}

// === impl PutName ===

impl Verb for PutName {
    type Output = ImageNameRecord;

    async fn apply(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<ImageNameRecord, StoreError> {
        let Self(record) = self;
        let row: StoredName = sqlx::query_as(
            "INSERT INTO image_name (project, name, digest, source, created_at, updated_at)
             VALUES (?, ?, ?, ?, ?, ?)
             ON CONFLICT (project, name) DO UPDATE
             SET digest = excluded.digest, source = excluded.source,
                 updated_at = excluded.updated_at
             RETURNING project, name, digest, source, created_at, updated_at",
        )
        .bind(scope(record.project.as_ref()))
        .bind(record.name.as_str())
        .bind(record.pin.digest.as_str())
        .bind(record.pin.source.as_deref())
        .bind(record.created_at.0)
        .bind(record.updated_at.0)
        .fetch_one(connection)
        .await
        .map_err(|error| failed("give an image a name", &error))?;
        row.record()
    }
}

// === impl DeleteName ===

impl Verb for DeleteName {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let deleted = sqlx::query("DELETE FROM image_name WHERE project = ? AND name = ?")
            .bind(scope(self.project.as_ref()))
            .bind(self.name.as_str())
            .execute(connection)
            .await
            .map_err(|error| failed("take an image's name away", &error))?;
        if deleted.rows_affected() == 0 {
            return Err(StoreError::NotFound { what: "image name" });
        }
        Ok(())
    }
}

// === impl PutLogin ===

impl Verb for PutLogin {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let SealedLogin { record, sealed } = &self.0;
        sqlx::query(
            "INSERT INTO registry_login (project, registry, username, updated_at, sealed)
             VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (project, registry) DO UPDATE
             SET username = excluded.username, updated_at = excluded.updated_at,
                 sealed = excluded.sealed",
        )
        .bind(record.project.as_str())
        .bind(&record.registry)
        .bind(&record.username)
        .bind(record.updated_at.0)
        .bind(sealed.as_slice())
        .execute(connection)
        .await
        .map(drop)
        .map_err(|error| failed("set a registry login", &error))
    }
}

// === impl DeleteLogin ===

impl Verb for DeleteLogin {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let deleted = sqlx::query("DELETE FROM registry_login WHERE project = ? AND registry = ?")
            .bind(self.project.as_str())
            .bind(&self.registry)
            .execute(connection)
            .await
            .map_err(|error| failed("delete a registry login", &error))?;
        if deleted.rows_affected() == 0 {
            return Err(StoreError::NotFound { what: "registry login" });
        }
        Ok(())
    }
}

// === impl StoredName ===

impl FromRow<'_, SqliteRow> for StoredName {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            project: row.try_get("project")?,
            name: row.try_get("name")?,
            digest: row.try_get("digest")?,
            source: row.try_get("source")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}

impl StoredName {
    fn record(self) -> Result<ImageNameRecord, StoreError> {
        let damaged = |detail: String| StoreError::Internal {
            detail: format!("the stored image name `{}` is damaged: {detail}", self.name),
        };
        let project = match self.project.as_str() {
            "" => None,
            id => Some(id.parse().map_err(|e: tarn_types::IdError| damaged(e.to_string()))?),
        };
        let name = self.name.parse();
        let digest = self.digest.parse();
        Ok(ImageNameRecord {
            project,
            name: name.map_err(|e: tarn_types::ImageNameError| damaged(e.to_string()))?,
            pin: ImagePin {
                digest: digest.map_err(|e: tarn_types::ImageDigestError| damaged(e.to_string()))?,
                source: self.source,
            },
            created_at: UnixMillis(self.created_at),
            updated_at: UnixMillis(self.updated_at),
        })
    }
}

// === impl StoredLogin ===

impl FromRow<'_, SqliteRow> for StoredLogin {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            project: row.try_get("project")?,
            registry: row.try_get("registry")?,
            username: row.try_get("username")?,
            updated_at: row.try_get("updated_at")?,
            sealed: row.try_get("sealed")?,
        })
    }
}

impl StoredLogin {
    fn login(self) -> Result<SealedLogin, StoreError> {
        let project = self.project.parse();
        let project = project.map_err(|error: tarn_types::IdError| StoreError::Internal {
            detail: format!("a stored registry login is damaged: {error}"),
        })?;
        let record = RegistryLoginRecord {
            project,
            registry: self.registry,
            username: self.username,
            updated_at: UnixMillis(self.updated_at),
        };
        Ok(SealedLogin { record, sealed: self.sealed })
    }
}

/// Reads every name.
pub(super) async fn list_names(readers: &SqlitePool) -> Result<Vec<ImageNameRecord>, StoreError> {
    let stored: Vec<StoredName> = sqlx::query_as(
        "SELECT project, name, digest, source, created_at, updated_at FROM image_name
         ORDER BY project, name",
    )
    .fetch_all(readers)
    .await
    .map_err(|error| failed("list image names", &error))?;
    stored.into_iter().map(StoredName::record).collect()
}

/// Reads what a project shows to a registry.
pub(super) async fn find_login(
    readers: &SqlitePool,
    project: &ProjectId,
    registry: &str,
) -> Result<Option<SealedLogin>, StoreError> {
    let stored: Option<StoredLogin> = sqlx::query_as(
        "SELECT project, registry, username, updated_at, sealed FROM registry_login
         WHERE project = ? AND registry = ?",
    )
    .bind(project.as_str())
    .bind(registry)
    .fetch_optional(readers)
    .await
    .map_err(|error| failed("read a registry login", &error))?;
    stored.map(StoredLogin::login).transpose()
}

/// Reads what all projects show to registries.
pub(super) async fn list_logins(
    readers: &SqlitePool,
) -> Result<Vec<RegistryLoginRecord>, StoreError> {
    let stored: Vec<StoredLogin> = sqlx::query_as(
        "SELECT project, registry, username, updated_at, sealed FROM registry_login
         ORDER BY project, registry",
    )
    .fetch_all(readers)
    .await
    .map_err(|error| failed("list registry logins", &error))?;
    stored.into_iter().map(|stored| Ok(stored.login()?.record)).collect()
}

/// Reads which images are below snapshots, hidden ones too.
pub(super) async fn below_snapshots(readers: &SqlitePool) -> Result<Vec<BootImage>, StoreError> {
    let stored: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT record -> '$.captured.image' FROM snapshot ORDER BY 1")
            .fetch_all(readers)
            .await
            .map_err(|error| failed("read the images of snapshots", &error))?;
    let read = |text: &String| {
        serde_json::from_str(text).map_err(|error| StoreError::Internal {
            detail: format!("the stored image of a snapshot is damaged: {error}"),
        })
    };
    stored.iter().map(read).collect()
}

/// Writes whose name it is.
pub(super) fn scope(project: Option<&ProjectId>) -> &str {
    project.map_or("", ProjectId::as_str)
}
