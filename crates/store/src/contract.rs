//! What every store does, and the words it uses.

use async_trait::async_trait;
use tarn_types::{
    BootImage, BuildId, BuildRecord, ErrorClass, ImageId, ImageName, ImageNameRecord, ImageRecord,
    KeptStep, KeyId, Lasting, PoolId, PoolRecord, ProjectId, RegistryLoginRecord, SandboxId,
    SandboxName, SandboxRecord, SandboxStatus, SecretId, SecretName, SecretRecord, SnapshotId,
    SnapshotRecord, SshKeyId, SshKeyRecord, UnixMillis,
};
use thiserror::Error;

use crate::record::{
    DataKeyRecord, KeyHash, KeyRecord, ProjectRecord, QuotaRecord, SealedLogin, SealedSecret,
};

/// A place in the list of sandboxes, which is ordered by creation time, then id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageKey {
    /// When the sandbox was accepted.
    pub created_at: UnixMillis,
    /// Its id.
    pub id: SandboxId,
}

/// Which way a page goes from its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Newest first: older ones than the key.
    Forward,
    /// Back toward newer ones than the key. The page itself is newest first all the same.
    Backward,
}

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Whose sandboxes.
    pub project: ProjectId,
    /// Whether the archived ones (ended at or before `archived_before`) or the others are meant.
    pub archived: bool,
    /// Sandboxes that ended at or before this time are archived.
    pub archived_before: UnixMillis,
    /// Only those with this status, as `lifecycle` computed it when the record was written.
    pub status: Option<SandboxStatus>,
    /// Where the page starts, exclusive; `None` = at the newest (or, backward, at the oldest).
    pub from: Option<PageKey>,
    /// Which way.
    pub order: Order,
    /// At most so many.
    pub limit: usize,
}

/// A page, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The sandboxes.
    pub items: Vec<SandboxRecord>,
    /// Whether newer ones exist before the first.
    pub has_newer: bool,
    /// Whether older ones exist after the last.
    pub has_older: bool,
}

/// Says why a verb did nothing.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another live sandbox of the project has the name.
    #[error("the name `{name}` is taken by sandbox {holder}")]
    NameTaken {
        /// The name.
        name: SandboxName,
        /// Who has it.
        holder: SandboxId,
    },
    /// The record changed since it was read: read again and decide again.
    #[error("sandbox {id} changed meanwhile")]
    Conflict {
        /// The sandbox.
        id: SandboxId,
    },
    /// The snapshot's record changed since it was read: read again and decide again.
    #[error("snapshot {id} changed meanwhile")]
    SnapshotConflict {
        /// The snapshot.
        id: SnapshotId,
    },
    /// The pool's record changed since it was read: read again and decide again.
    #[error("pool {id} changed meanwhile")]
    PoolConflict {
        /// The pool.
        id: PoolId,
    },
    /// There is no such record.
    #[error("no such {what}")]
    NotFound {
        /// What was looked for.
        what: &'static str,
    },
    /// The same id exists already.
    #[error("{what} exists already")]
    Exists {
        /// What was to be inserted.
        what: &'static str,
    },
    /// The store does not take work just now: full disk, closed, locked.
    #[error("the store is not available: {detail}")]
    Unavailable {
        /// What it said.
        detail: String,
    },
    /// The store is damaged, or ours to mend.
    #[error("the store failed: {detail}")]
    Internal {
        /// What it said.
        detail: String,
    },
}

/// Keeps what control must not forget.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Inserts a new sandbox, whose status is `status`.
    ///
    /// # Errors
    /// `NameTaken` when a sandbox of the project that is not terminated has its name; `Exists`.
    async fn sandbox_insert(
        &self,
        record: &SandboxRecord,
        status: SandboxStatus,
    ) -> Result<(), StoreError>;

    /// Replaces a sandbox's record if its stored sequence is `record.sequence - 1`. By a claim it
    /// gets another `created_at`, and so another place in lists. A change that outlasts only this
    /// boot of the host need not wait for the disk; a crash of the host takes it back together with
    /// whatever came later, or not at all.
    ///
    /// # Errors
    /// `Conflict` when the sequence is another; `NameTaken` when a changed name is; `NotFound`.
    async fn sandbox_update(
        &self,
        record: &SandboxRecord,
        status: SandboxStatus,
        lasting: Lasting,
    ) -> Result<(), StoreError>;

    /// Returns a sandbox of whatever state.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    async fn sandbox_fetch(&self, id: &SandboxId) -> Result<SandboxRecord, StoreError>;

    /// Returns the sandbox of that name that is not terminated.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    async fn sandbox_fetch_by_name(
        &self,
        project: &ProjectId,
        name: &SandboxName,
    ) -> Result<SandboxRecord, StoreError>;

    /// Returns a page of a project's sandboxes; no containers of pools that nobody has claimed.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn sandbox_list(&self, query: &ListQuery) -> Result<Page, StoreError>;

    /// Returns every sandbox of every project that is not terminated, oldest first.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn sandbox_list_live(&self) -> Result<Vec<SandboxRecord>, StoreError>;

    /// Removes at most `limit` sandboxes that ended before `before`; returns how many.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn sandbox_purge(&self, before: UnixMillis, limit: usize) -> Result<usize, StoreError>;

    /// Inserts a new snapshot.
    ///
    /// # Errors
    /// `Exists` for the same id.
    async fn snapshot_insert(&self, record: &SnapshotRecord) -> Result<(), StoreError>;

    /// Replaces a snapshot's record if its stored sequence is `record.sequence - 1`.
    ///
    /// # Errors
    /// `SnapshotConflict` when the sequence is another; `NotFound`.
    async fn snapshot_update(&self, record: &SnapshotRecord) -> Result<(), StoreError>;

    /// Returns a snapshot, hidden or not.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    async fn snapshot_fetch(&self, id: &SnapshotId) -> Result<SnapshotRecord, StoreError>;

    /// Returns a project's snapshots, or those it has of one sandbox, newest first; no hidden ones.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn snapshot_list(
        &self,
        project: &ProjectId,
        sandbox: Option<&SandboxId>,
    ) -> Result<Vec<SnapshotRecord>, StoreError>;

    /// Returns every snapshot of every project that somebody must still look after, oldest first:
    /// those in progress, those on their way to the object store, and hidden ones that no
    /// registered image is made of.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn snapshot_list_unsettled(&self) -> Result<Vec<SnapshotRecord>, StoreError>;

    /// Returns the images below all snapshots, hidden ones too, each once.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn snapshot_images(&self) -> Result<Vec<BootImage>, StoreError>;

    /// Removes a snapshot's record; a second time changes nothing.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn snapshot_delete(&self, id: &SnapshotId) -> Result<(), StoreError>;

    /// Inserts a new pool.
    ///
    /// # Errors
    /// `Exists` for the same id.
    async fn pool_insert(&self, record: &PoolRecord) -> Result<(), StoreError>;

    /// Replaces a pool's record if its stored sequence is `record.sequence - 1`.
    ///
    /// # Errors
    /// `PoolConflict` when the sequence is another; `NotFound`.
    async fn pool_update(&self, record: &PoolRecord) -> Result<(), StoreError>;

    /// Removes a pool's record; a second time changes nothing. Its containers stay.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn pool_delete(&self, id: &PoolId) -> Result<(), StoreError>;

    /// Returns every pool of every project, oldest first.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn pool_list(&self) -> Result<Vec<PoolRecord>, StoreError>;

    /// Inserts or replaces a build's record.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn build_put(&self, record: &BuildRecord) -> Result<(), StoreError>;

    /// Removes a build's record; a second time changes nothing.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn build_delete(&self, id: &BuildId) -> Result<(), StoreError>;

    /// Returns every build of every project, oldest first.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn build_list(&self) -> Result<Vec<BuildRecord>, StoreError>;

    /// Notes what a step of a build led to, or when that was last used.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn kept_step_put(&self, step: &KeptStep) -> Result<(), StoreError>;

    /// Forgets what a step led to; a second time changes nothing.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn kept_step_delete(&self, project: &ProjectId, key: &str) -> Result<(), StoreError>;

    /// Returns what steps of builds led to, by project and key.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn kept_step_list(&self) -> Result<Vec<KeptStep>, StoreError>;

    /// Returns the data key of a project, inserting `candidate` (which is of that project) if it
    /// has none.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn data_key_ensure(&self, candidate: &DataKeyRecord)
    -> Result<DataKeyRecord, StoreError>;

    /// Returns the data key of a project.
    ///
    /// # Errors
    /// `NotFound` when it has none.
    async fn data_key_fetch(&self, project: &ProjectId) -> Result<DataKeyRecord, StoreError>;

    /// Returns every data key, in the order of their projects.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn data_key_list(&self) -> Result<Vec<DataKeyRecord>, StoreError>;

    /// Replaces data keys by the same, sealed anew: all or none.
    ///
    /// # Errors
    /// `NotFound` when a project has none.
    async fn data_key_rewrap(&self, keys: &[DataKeyRecord]) -> Result<(), StoreError>;

    /// Sets secrets, all or none, and returns what is stored. One whose project and name are there
    /// keeps its id and the time it was made.
    ///
    /// # Errors
    /// `Exists` when a new one's id is taken.
    async fn secret_put(&self, secrets: &[SealedSecret]) -> Result<Vec<SecretRecord>, StoreError>;

    /// Returns a secret of a project.
    ///
    /// # Errors
    /// `NotFound` when it has none of that id.
    async fn secret_fetch(
        &self,
        project: &ProjectId,
        id: &SecretId,
    ) -> Result<SecretRecord, StoreError>;

    /// Returns the secrets of a project, by name.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn secret_list(&self, project: &ProjectId) -> Result<Vec<SecretRecord>, StoreError>;

    /// Returns those secrets of a project that have one of these names, by name, each once.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn secret_find(
        &self,
        project: &ProjectId,
        names: &[SecretName],
    ) -> Result<Vec<SealedSecret>, StoreError>;

    /// Removes a secret of a project.
    ///
    /// # Errors
    /// `NotFound` when it has none of that id.
    async fn secret_delete(&self, project: &ProjectId, id: &SecretId) -> Result<(), StoreError>;

    /// Gives an image a name, and returns what is stored. A name that is there keeps the time at
    /// which it was first given.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn image_name_put(&self, record: &ImageNameRecord)
    -> Result<ImageNameRecord, StoreError>;

    /// Takes a name away that is a project's, or for `None` counts in all.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    async fn image_name_delete(
        &self,
        project: Option<&ProjectId>,
        name: &ImageName,
    ) -> Result<(), StoreError>;

    /// Returns every name of an image.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn image_name_list(&self) -> Result<Vec<ImageNameRecord>, StoreError>;

    /// Registers an image, and returns what is stored. One of the same scope and name keeps its id
    /// and the time it was made; a name of a pulled image that is the same goes, both at once.
    ///
    /// # Errors
    /// `Exists` when a new one's id is taken, or another project has the name for all.
    async fn image_put(&self, record: &ImageRecord) -> Result<ImageRecord, StoreError>;

    /// Removes a registered image. Its snapshot stays.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    async fn image_delete(&self, id: &ImageId) -> Result<(), StoreError>;

    /// Returns every registered image of every project, oldest first.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn image_list(&self) -> Result<Vec<ImageRecord>, StoreError>;

    /// Sets what a project shows to a registry.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn login_put(&self, login: &SealedLogin) -> Result<(), StoreError>;

    /// Returns what a project shows to a registry, if anything.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn login_find(
        &self,
        project: &ProjectId,
        registry: &str,
    ) -> Result<Option<SealedLogin>, StoreError>;

    /// Returns what all projects show to registries, by project and registry.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn login_list(&self) -> Result<Vec<RegistryLoginRecord>, StoreError>;

    /// Removes what a project shows to a registry.
    ///
    /// # Errors
    /// `NotFound` when it shows nothing.
    async fn login_delete(&self, project: &ProjectId, registry: &str) -> Result<(), StoreError>;

    /// Returns the project of a name, inserting `candidate` (which has that name) if there is none.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn project_ensure(&self, candidate: &ProjectRecord) -> Result<ProjectRecord, StoreError>;

    /// Returns a project.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    async fn project_fetch(&self, id: &ProjectId) -> Result<ProjectRecord, StoreError>;

    /// Returns every project, oldest first.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn project_list(&self) -> Result<Vec<ProjectRecord>, StoreError>;

    /// Sets the quota of a project, or with `None` gives it back the default.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn quota_set(
        &self,
        project: &ProjectId,
        sandboxes: Option<u32>,
    ) -> Result<(), StoreError>;

    /// Returns the quotas that were set, in the order of their projects.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn quota_list(&self) -> Result<Vec<QuotaRecord>, StoreError>;

    /// Registers an SSH key.
    ///
    /// # Errors
    /// `Exists` for the same id, and when the project has a key of that fingerprint.
    async fn ssh_key_insert(&self, key: &SshKeyRecord) -> Result<(), StoreError>;

    /// Returns the SSH keys of a project, oldest first.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn ssh_key_list(&self, project: &ProjectId) -> Result<Vec<SshKeyRecord>, StoreError>;

    /// Removes an SSH key of a project.
    ///
    /// # Errors
    /// `NotFound` when it has none of that id.
    async fn ssh_key_delete(&self, project: &ProjectId, id: &SshKeyId) -> Result<(), StoreError>;

    /// Inserts a key. Its project must exist; `project_name` is not stored with it.
    ///
    /// # Errors
    /// `Exists` for the same id or hash; `NotFound` for an unknown project.
    async fn key_insert(&self, key: &KeyRecord) -> Result<(), StoreError>;

    /// Returns the key of a hash, revoked or not.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    async fn key_fetch(&self, hash: &KeyHash) -> Result<KeyRecord, StoreError>;

    /// Returns all keys, oldest first.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn key_list(&self) -> Result<Vec<KeyRecord>, StoreError>;

    /// Revokes a key; a second time changes nothing.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    async fn key_revoke(&self, id: &KeyId, at: UnixMillis) -> Result<(), StoreError>;

    /// Returns a value of the small table of server facts (instance id, node id), if set.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn fact_fetch(&self, name: &str) -> Result<Option<String>, StoreError>;

    /// Sets a value of the small table of server facts.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn fact_set(&self, name: &str, value: &str) -> Result<(), StoreError>;

    /// Says whether the store answers; for `/readyz`.
    ///
    /// # Errors
    /// Says why not.
    async fn ping(&self) -> Result<(), StoreError>;
}

// === impl StoreError ===

impl StoreError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NameTaken { .. }
            | Self::Conflict { .. }
            | Self::SnapshotConflict { .. }
            | Self::PoolConflict { .. }
            | Self::Exists { .. } => ErrorClass::Conflict,
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Unavailable { .. } => ErrorClass::Unavailable,
            Self::Internal { .. } => ErrorClass::Internal,
        }
    }
}
