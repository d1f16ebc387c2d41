//! SQLite, in one file beside the server.
//!
//! ```text
//!  write verbs ──▶ queue ──▶ writer (one connection) ──▶ BEGIN … COMMIT ──▶ answers
//!  read verbs  ──▶ pool of readers, each on the last commit
//! ```
//!
//! SQLite takes one writer at a time anyway; with a single one nobody waits for a lock, and verbs
//! that queue while the disk is busy share the next commit (group commit). WAL with
//! `synchronous=FULL`: a commit is one fsync of the log, and is on disk when a verb answers. One of
//! nothing but changes that outlast only this boot of the host is `NORMAL`, and waits for no fsync.

mod build;
mod error;
mod fact;
mod image;
mod key;
mod log;
mod pool;
mod project;
mod quota;
mod registered_image;
mod row;
mod sandbox;
mod schema;
mod secret;
mod snapshot;
mod ssh_key;
mod writer;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{
    ConnectOptions as _, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tarn_store::{
    DataKeyRecord, KeyHash, KeyRecord, ListQuery, Page, ProjectRecord, QuotaRecord, SealedLogin,
    SealedSecret, Store, StoreError,
};
use tarn_task::Tasks;
use tarn_types::{
    BootImage, BuildId, BuildRecord, ImageId, ImageName, ImageNameRecord, ImageRecord, KeptStep,
    KeyId, Lasting, PoolId, PoolRecord, ProjectId, RegistryLoginRecord, SandboxId, SandboxName,
    SandboxRecord, SandboxStatus, SecretId, SecretName, SecretRecord, SnapshotId, SnapshotRecord,
    SshKeyId, SshKeyRecord, UnixMillis,
};
use thiserror::Error;

use self::{error::failed, writer::Writer};
pub use self::{log::SqliteLogStore, writer::WriteCounts};

/// Connections for reading. Reads are short; more only make the page cache smaller for each.
const READERS: u32 = 4;

/// How long somebody else (a backup, a shell) may hold the database before a verb fails.
const BUSY: Duration = Duration::from_secs(5);

/// How long a read waits for a free connection.
const ACQUIRE: Duration = Duration::from_secs(5);

/// Says why a database cannot be used.
#[derive(Debug, Error)]
pub enum SqliteOpenError {
    /// The file cannot be opened, or is no database.
    #[error("open the database {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: sqlx::Error,
    },
    /// The file is a database of another program.
    #[error("{} is a database, but not one of tarn's", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A newer tarn wrote the file.
    #[error(
        "the database {} has schema {found}, this program knows up to {known}; start the newer release, or restore a backup",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The schema it has.
        found: i64,
        /// The newest schema this program knows.
        known: i64,
    },
    /// A migration failed; the schema is as it was before it.
    #[error("bring the database {} to schema {version}", path.display())]
    Migrate {
        /// The file.
        path: PathBuf,
        /// The schema that was to be reached.
        version: i64,
        /// What SQLite said.
        #[source]
        source: sqlx::Error,
    },
}

/// Keeps what control must not forget in one SQLite file.
///
/// Exactly one process may have the file open for writing; the server's lock on its data
/// directory sees to that.
#[derive(Debug)]
pub struct SqliteStore {
    readers: SqlitePool,
    writer: Writer,
}

// === impl SqliteStore ===

impl SqliteStore {
    /// Opens a database, making it if it is not there, and brings it to the present schema.
    ///
    /// The writer is a task of `tasks`: when those stop it finishes what is queued, and every
    /// later write is refused. Whoever shuts down therefore stops the store's tasks last.
    ///
    /// # Errors
    /// Says why the file cannot be used. A file that was there is unchanged then.
    pub async fn open(path: &Path, tasks: &Tasks) -> Result<Self, SqliteOpenError> {
        Self::open_with(options(path), tasks).await
    }

    async fn open_with(
        options: SqliteConnectOptions,
        tasks: &Tasks,
    ) -> Result<Self, SqliteOpenError> {
        let path = options.get_filename();
        let mut connection = options
            .connect()
            .await
            .map_err(|source| SqliteOpenError::Open { path: path.to_owned(), source })?;
        schema::migrate(&mut connection, path, &schema::STORE).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE)
            // A file does not hang up.
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options.clone().create_if_missing(false).pragma("query_only", "on"));
        let writer = Writer::spawn(connection, tasks);
        Ok(Self { readers, writer })
    }

    /// Returns how many verbs were written, and in how many commits.
    #[must_use]
    pub fn write_counts(&self) -> WriteCounts {
        self.writer.counts()
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .disable_statement_logging()
}

#[async_trait]
impl Store for SqliteStore {
    async fn sandbox_insert(
        &self,
        record: &SandboxRecord,
        status: SandboxStatus,
    ) -> Result<(), StoreError> {
        self.writer.write(sandbox::Insert(sandbox::Row::new(record, status)?)).await
    }

    async fn sandbox_update(
        &self,
        record: &SandboxRecord,
        status: SandboxStatus,
        lasting: Lasting,
    ) -> Result<(), StoreError> {
        let row = sandbox::Row::new(record, status)?;
        self.writer.write(sandbox::Update { row, lasting }).await
    }

    async fn sandbox_fetch(&self, id: &SandboxId) -> Result<SandboxRecord, StoreError> {
        sandbox::fetch(&self.readers, id).await
    }

    async fn sandbox_fetch_by_name(
        &self,
        project: &ProjectId,
        name: &SandboxName,
    ) -> Result<SandboxRecord, StoreError> {
        sandbox::fetch_by_name(&self.readers, project, name).await
    }

    async fn sandbox_list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        sandbox::list(&self.readers, query).await
    }

    async fn sandbox_list_live(&self) -> Result<Vec<SandboxRecord>, StoreError> {
        sandbox::list_live(&self.readers).await
    }

    async fn sandbox_purge(&self, before: UnixMillis, limit: usize) -> Result<usize, StoreError> {
        self.writer.write(sandbox::Purge { before, limit }).await
    }

    async fn snapshot_insert(&self, record: &SnapshotRecord) -> Result<(), StoreError> {
        self.writer.write(snapshot::Insert(snapshot::Row::new(record)?)).await
    }

    async fn snapshot_update(&self, record: &SnapshotRecord) -> Result<(), StoreError> {
        self.writer.write(snapshot::Update(snapshot::Row::new(record)?)).await
    }

    async fn snapshot_fetch(&self, id: &SnapshotId) -> Result<SnapshotRecord, StoreError> {
        snapshot::fetch(&self.readers, id).await
    }

    async fn snapshot_list(
        &self,
        project: &ProjectId,
        sandbox: Option<&SandboxId>,
    ) -> Result<Vec<SnapshotRecord>, StoreError> {
        snapshot::list(&self.readers, project, sandbox).await
    }

    async fn snapshot_list_unsettled(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        snapshot::list_unsettled(&self.readers).await
    }

    async fn snapshot_images(&self) -> Result<Vec<BootImage>, StoreError> {
        image::below_snapshots(&self.readers).await
    }

    async fn snapshot_delete(&self, id: &SnapshotId) -> Result<(), StoreError> {
        self.writer.write(snapshot::Delete(id.clone())).await
    }

    async fn pool_insert(&self, record: &PoolRecord) -> Result<(), StoreError> {
        self.writer.write(pool::Insert(pool::Row::new(record)?)).await
    }

    async fn pool_update(&self, record: &PoolRecord) -> Result<(), StoreError> {
        self.writer.write(pool::Update(pool::Row::new(record)?)).await
    }

    async fn pool_delete(&self, id: &PoolId) -> Result<(), StoreError> {
        self.writer.write(pool::Delete(id.clone())).await
    }

    async fn pool_list(&self) -> Result<Vec<PoolRecord>, StoreError> {
        pool::list(&self.readers).await
    }

    async fn build_put(&self, record: &BuildRecord) -> Result<(), StoreError> {
        self.writer.write(build::Put::new(record)?).await
    }

    async fn build_delete(&self, id: &BuildId) -> Result<(), StoreError> {
        self.writer.write(build::Delete(id.clone())).await
    }

    async fn build_list(&self) -> Result<Vec<BuildRecord>, StoreError> {
        build::list(&self.readers).await
    }

    async fn kept_step_put(&self, step: &KeptStep) -> Result<(), StoreError> {
        self.writer.write(build::PutStep(step.clone())).await
    }

    async fn kept_step_delete(&self, project: &ProjectId, key: &str) -> Result<(), StoreError> {
        self.writer.write(build::DeleteStep { project: project.clone(), key: key.to_owned() }).await
    }

    async fn kept_step_list(&self) -> Result<Vec<KeptStep>, StoreError> {
        build::list_steps(&self.readers).await
    }

    async fn data_key_ensure(
        &self,
        candidate: &DataKeyRecord,
    ) -> Result<DataKeyRecord, StoreError> {
        self.writer.write(secret::EnsureKey(candidate.clone())).await
    }

    async fn data_key_fetch(&self, project: &ProjectId) -> Result<DataKeyRecord, StoreError> {
        secret::fetch_key(&self.readers, project).await
    }

    async fn data_key_list(&self) -> Result<Vec<DataKeyRecord>, StoreError> {
        secret::list_keys(&self.readers).await
    }

    async fn data_key_rewrap(&self, keys: &[DataKeyRecord]) -> Result<(), StoreError> {
        self.writer.write(secret::Rewrap(keys.to_vec())).await
    }

    async fn secret_put(&self, secrets: &[SealedSecret]) -> Result<Vec<SecretRecord>, StoreError> {
        self.writer.write(secret::Put(secrets.to_vec())).await
    }

    async fn secret_fetch(
        &self,
        project: &ProjectId,
        id: &SecretId,
    ) -> Result<SecretRecord, StoreError> {
        secret::fetch(&self.readers, project, id).await
    }

    async fn secret_list(&self, project: &ProjectId) -> Result<Vec<SecretRecord>, StoreError> {
        secret::list(&self.readers, project).await
    }

    async fn secret_find(
        &self,
        project: &ProjectId,
        names: &[SecretName],
    ) -> Result<Vec<SealedSecret>, StoreError> {
        secret::find(&self.readers, project, names).await
    }

    async fn secret_delete(&self, project: &ProjectId, id: &SecretId) -> Result<(), StoreError> {
        self.writer.write(secret::Delete { project: project.clone(), id: id.clone() }).await
    }

    async fn image_name_put(
        &self,
        record: &ImageNameRecord,
    ) -> Result<ImageNameRecord, StoreError> {
        self.writer.write(image::PutName(record.clone())).await
    }

    async fn image_name_delete(
        &self,
        project: Option<&ProjectId>,
        name: &ImageName,
    ) -> Result<(), StoreError> {
        let (project, name) = (project.cloned(), name.clone());
        self.writer.write(image::DeleteName { project, name }).await
    }

    async fn image_name_list(&self) -> Result<Vec<ImageNameRecord>, StoreError> {
        image::list_names(&self.readers).await
    }

    async fn image_put(&self, record: &ImageRecord) -> Result<ImageRecord, StoreError> {
        self.writer.write(registered_image::Put(record.clone())).await
    }

    async fn image_delete(&self, id: &ImageId) -> Result<(), StoreError> {
        self.writer.write(registered_image::Delete(id.clone())).await
    }

    async fn image_list(&self) -> Result<Vec<ImageRecord>, StoreError> {
        registered_image::list(&self.readers).await
    }

    async fn login_put(&self, login: &SealedLogin) -> Result<(), StoreError> {
        self.writer.write(image::PutLogin(login.clone())).await
    }

    async fn login_find(
        &self,
        project: &ProjectId,
        registry: &str,
    ) -> Result<Option<SealedLogin>, StoreError> {
        image::find_login(&self.readers, project, registry).await
    }

    async fn login_list(&self) -> Result<Vec<RegistryLoginRecord>, StoreError> {
        image::list_logins(&self.readers).await
    }

    async fn login_delete(&self, project: &ProjectId, registry: &str) -> Result<(), StoreError> {
        let (project, registry) = (project.clone(), registry.to_owned());
        self.writer.write(image::DeleteLogin { project, registry }).await
    }

    async fn project_ensure(&self, candidate: &ProjectRecord) -> Result<ProjectRecord, StoreError> {
        self.writer.write(project::Ensure(candidate.clone())).await
    }

    async fn project_fetch(&self, id: &ProjectId) -> Result<ProjectRecord, StoreError> {
        project::fetch(&self.readers, id).await
    }

    async fn project_list(&self) -> Result<Vec<ProjectRecord>, StoreError> {
        project::list(&self.readers).await
    }

    async fn quota_set(
        &self,
        project: &ProjectId,
        sandboxes: Option<u32>,
    ) -> Result<(), StoreError> {
        self.writer.write(quota::Set { project: project.clone(), sandboxes }).await
    }

    async fn quota_list(&self) -> Result<Vec<QuotaRecord>, StoreError> {
        quota::list(&self.readers).await
    }

    async fn ssh_key_insert(&self, key: &SshKeyRecord) -> Result<(), StoreError> {
        self.writer.write(ssh_key::Insert(key.clone())).await
    }

    async fn ssh_key_list(&self, project: &ProjectId) -> Result<Vec<SshKeyRecord>, StoreError> {
        ssh_key::list(&self.readers, project).await
    }

    async fn ssh_key_delete(&self, project: &ProjectId, id: &SshKeyId) -> Result<(), StoreError> {
        self.writer.write(ssh_key::Delete { project: project.clone(), id: id.clone() }).await
    }

    async fn key_insert(&self, key: &KeyRecord) -> Result<(), StoreError> {
        self.writer.write(key::Insert(key.clone())).await
    }

    async fn key_fetch(&self, hash: &KeyHash) -> Result<KeyRecord, StoreError> {
        key::fetch(&self.readers, hash).await
    }

    async fn key_list(&self) -> Result<Vec<KeyRecord>, StoreError> {
        key::list(&self.readers).await
    }

    async fn key_revoke(&self, id: &KeyId, at: UnixMillis) -> Result<(), StoreError> {
        self.writer.write(key::Revoke { id: id.clone(), at }).await
    }

    async fn fact_fetch(&self, name: &str) -> Result<Option<String>, StoreError> {
        fact::fetch(&self.readers, name).await
    }

    async fn fact_set(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.writer.write(fact::Set { name: name.to_owned(), value: value.to_owned() }).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.writer.write(writer::Nothing).await?;
        let one = sqlx::query("SELECT 1").execute(&self.readers).await;
        one.map(drop).map_err(|error| failed("ask the database", &error))
    }
}

#[cfg(test)]
mod tests;
