//! The in-memory model: what a store means, said in the simplest way.
//!
//! It is stricter than a real one: records go through their stored bytes, so a field that does not
//! survive them is noticed; and every verb first gives way to other tasks, so callers meet the
//! interleavings that a real store would show them.
//!
//! What takes more than one look at a table stands in the file of its kind of record.

use std::collections::BTreeMap;

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_types::{
    BootImage, BuildId, BuildRecord, ImageId, ImageName, ImageNameRecord, ImageRecord, KeptStep,
    KeyId, Lasting, PoolId, PoolRecord, ProjectId, RegistryLoginRecord, SandboxId, SandboxName,
    SandboxRecord, SandboxStatus, SecretId, SecretName, SecretRecord, SnapshotId, SnapshotRecord,
    SshKeyId, SshKeyRecord, UnixMillis,
};

use crate::{
    DataKeyRecord, KeyHash, KeyRecord, ListQuery, Page, ProjectRecord, QuotaRecord, SealedLogin,
    SealedSecret, Store, StoreError, format,
};

use self::sandbox::Row;

mod image;
mod pool;
mod project;
mod sandbox;
mod secret;
mod snapshot;

/// Keeps everything in memory, for tests and for comparison with real stores.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    sandboxes: BTreeMap<SandboxId, Row>,
    /// Each as its bytes, as pools are.
    snapshots: BTreeMap<SnapshotId, String>,
    pools: BTreeMap<PoolId, String>,
    builds: BTreeMap<BuildId, String>,
    kept_steps: BTreeMap<(ProjectId, String), KeptStep>,
    projects: BTreeMap<ProjectId, ProjectRecord>,
    quotas: BTreeMap<ProjectId, u32>,
    ssh_keys: BTreeMap<SshKeyId, SshKeyRecord>,
    keys: BTreeMap<KeyId, KeyRecord>,
    data_keys: BTreeMap<ProjectId, DataKeyRecord>,
    secrets: BTreeMap<(ProjectId, SecretName), SealedSecret>,
    /// Each as its bytes.
    images: BTreeMap<ImageId, String>,
    image_names: BTreeMap<(Option<ProjectId>, ImageName), ImageNameRecord>,
    logins: BTreeMap<(ProjectId, String), SealedLogin>,
    facts: BTreeMap<String, String>,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a verb on the tables, after every other task had a chance to come first.
    async fn with<T>(
        &self,
        verb: impl FnOnce(&mut Tables) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        tokio::task::yield_now().await;
        verb(&mut self.tables.lock())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn sandbox_insert(
        &self,
        record: &SandboxRecord,
        status: SandboxStatus,
    ) -> Result<(), StoreError> {
        let row = Row::new(record, status)?;
        self.with(|tables| tables.sandbox_insert(row)).await
    }

    async fn sandbox_update(
        &self,
        record: &SandboxRecord,
        status: SandboxStatus,
        _lasting: Lasting,
    ) -> Result<(), StoreError> {
        let row = Row::new(record, status)?;
        self.with(|tables| tables.sandbox_update(record, row)).await
    }

    async fn sandbox_fetch(&self, id: &SandboxId) -> Result<SandboxRecord, StoreError> {
        self.with(|tables| tables.sandbox(id)?.record()).await
    }

    async fn sandbox_fetch_by_name(
        &self,
        project: &ProjectId,
        name: &SandboxName,
    ) -> Result<SandboxRecord, StoreError> {
        self.with(|tables| tables.sandbox_fetch_by_name(project, name)).await
    }

    async fn sandbox_list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        self.with(|tables| tables.sandbox_list(query)).await
    }

    async fn sandbox_list_live(&self) -> Result<Vec<SandboxRecord>, StoreError> {
        self.with(|tables| tables.sandbox_list_live()).await
    }

    async fn sandbox_purge(&self, before: UnixMillis, limit: usize) -> Result<usize, StoreError> {
        self.with(|tables| Ok(tables.sandbox_purge(before, limit))).await
    }

    async fn snapshot_insert(&self, record: &SnapshotRecord) -> Result<(), StoreError> {
        let bytes = format::encode_snapshot(record)?;
        self.with(|tables| tables.snapshot_insert(record, bytes)).await
    }

    async fn snapshot_update(&self, record: &SnapshotRecord) -> Result<(), StoreError> {
        let bytes = format::encode_snapshot(record)?;
        self.with(|tables| tables.snapshot_update(record, bytes)).await
    }

    async fn snapshot_fetch(&self, id: &SnapshotId) -> Result<SnapshotRecord, StoreError> {
        self.with(|tables| tables.snapshot(id)).await
    }

    async fn snapshot_list(
        &self,
        project: &ProjectId,
        sandbox: Option<&SandboxId>,
    ) -> Result<Vec<SnapshotRecord>, StoreError> {
        self.with(|tables| tables.snapshot_list(project, sandbox)).await
    }

    async fn snapshot_list_unsettled(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        self.with(|tables| tables.snapshot_list_unsettled()).await
    }

    async fn snapshot_images(&self) -> Result<Vec<BootImage>, StoreError> {
        self.with(|tables| tables.snapshot_images()).await
    }

    async fn snapshot_delete(&self, id: &SnapshotId) -> Result<(), StoreError> {
        self.with(|tables| {
            tables.snapshots.remove(id);
            Ok(())
        })
        .await
    }

    async fn pool_insert(&self, record: &PoolRecord) -> Result<(), StoreError> {
        let bytes = format::encode_pool(record)?;
        self.with(|tables| tables.pool_insert(record, bytes)).await
    }

    async fn pool_update(&self, record: &PoolRecord) -> Result<(), StoreError> {
        let bytes = format::encode_pool(record)?;
        self.with(|tables| tables.pool_update(record, bytes)).await
    }

    async fn pool_delete(&self, id: &PoolId) -> Result<(), StoreError> {
        self.with(|tables| {
            tables.pools.remove(id);
            Ok(())
        })
        .await
    }

    async fn pool_list(&self) -> Result<Vec<PoolRecord>, StoreError> {
        self.with(|tables| tables.pool_list()).await
    }

    async fn build_put(&self, record: &BuildRecord) -> Result<(), StoreError> {
        let bytes = format::encode_build(record)?;
        self.with(|tables| {
            tables.builds.insert(record.id.clone(), bytes);
            Ok(())
        })
        .await
    }

    async fn build_delete(&self, id: &BuildId) -> Result<(), StoreError> {
        self.with(|tables| {
            tables.builds.remove(id);
            Ok(())
        })
        .await
    }

    async fn build_list(&self) -> Result<Vec<BuildRecord>, StoreError> {
        self.with(|tables| tables.builds()).await
    }

    async fn kept_step_put(&self, step: &KeptStep) -> Result<(), StoreError> {
        self.with(|tables| {
            let key = (step.project.clone(), step.key.clone());
            tables.kept_steps.insert(key, step.clone());
            Ok(())
        })
        .await
    }

    async fn kept_step_delete(&self, project: &ProjectId, key: &str) -> Result<(), StoreError> {
        self.with(|tables| {
            tables.kept_steps.remove(&(project.clone(), key.to_owned()));
            Ok(())
        })
        .await
    }

    async fn kept_step_list(&self) -> Result<Vec<KeptStep>, StoreError> {
        self.with(|tables| Ok(tables.kept_steps.values().cloned().collect())).await
    }

    async fn data_key_ensure(
        &self,
        candidate: &DataKeyRecord,
    ) -> Result<DataKeyRecord, StoreError> {
        self.with(|tables| Ok(tables.data_key_ensure(candidate))).await
    }

    async fn data_key_fetch(&self, project: &ProjectId) -> Result<DataKeyRecord, StoreError> {
        self.with(|tables| {
            let key = tables.data_keys.get(project).cloned();
            key.ok_or(StoreError::NotFound { what: "data key" })
        })
        .await
    }

    async fn data_key_list(&self) -> Result<Vec<DataKeyRecord>, StoreError> {
        self.with(|tables| Ok(tables.data_keys.values().cloned().collect())).await
    }

    async fn data_key_rewrap(&self, keys: &[DataKeyRecord]) -> Result<(), StoreError> {
        self.with(|tables| tables.data_key_rewrap(keys)).await
    }

    async fn secret_put(&self, secrets: &[SealedSecret]) -> Result<Vec<SecretRecord>, StoreError> {
        self.with(|tables| tables.secret_put(secrets)).await
    }

    async fn secret_fetch(
        &self,
        project: &ProjectId,
        id: &SecretId,
    ) -> Result<SecretRecord, StoreError> {
        self.with(|tables| tables.secret_fetch(project, id)).await
    }

    async fn secret_list(&self, project: &ProjectId) -> Result<Vec<SecretRecord>, StoreError> {
        self.with(|tables| {
            Ok(tables.secrets_of(project).map(|secret| secret.record.clone()).collect())
        })
        .await
    }

    async fn secret_find(
        &self,
        project: &ProjectId,
        names: &[SecretName],
    ) -> Result<Vec<SealedSecret>, StoreError> {
        self.with(|tables| {
            let asked = |secret: &&SealedSecret| names.contains(&secret.record.name);
            Ok(tables.secrets_of(project).filter(asked).cloned().collect())
        })
        .await
    }

    async fn secret_delete(&self, project: &ProjectId, id: &SecretId) -> Result<(), StoreError> {
        self.with(|tables| tables.secret_delete(project, id)).await
    }

    async fn image_name_put(
        &self,
        record: &ImageNameRecord,
    ) -> Result<ImageNameRecord, StoreError> {
        self.with(|tables| Ok(tables.image_name_put(record))).await
    }

    async fn image_name_delete(
        &self,
        project: Option<&ProjectId>,
        name: &ImageName,
    ) -> Result<(), StoreError> {
        self.with(|tables| {
            let removed = tables.image_names.remove(&(project.cloned(), name.clone()));
            removed.map(drop).ok_or(StoreError::NotFound { what: "image name" })
        })
        .await
    }

    async fn image_name_list(&self) -> Result<Vec<ImageNameRecord>, StoreError> {
        self.with(|tables| Ok(tables.image_names.values().cloned().collect())).await
    }

    async fn image_put(&self, record: &ImageRecord) -> Result<ImageRecord, StoreError> {
        self.with(|tables| tables.image_put(record)).await
    }

    async fn image_delete(&self, id: &ImageId) -> Result<(), StoreError> {
        self.with(|tables| {
            let removed = tables.images.remove(id);
            removed.map(drop).ok_or(StoreError::NotFound { what: "image" })
        })
        .await
    }

    async fn image_list(&self) -> Result<Vec<ImageRecord>, StoreError> {
        self.with(|tables| tables.images()).await
    }

    async fn login_put(&self, login: &SealedLogin) -> Result<(), StoreError> {
        self.with(|tables| {
            let RegistryLoginRecord { project, registry, .. } = &login.record;
            tables.logins.insert((project.clone(), registry.clone()), login.clone());
            Ok(())
        })
        .await
    }

    async fn login_find(
        &self,
        project: &ProjectId,
        registry: &str,
    ) -> Result<Option<SealedLogin>, StoreError> {
        self.with(|tables| Ok(tables.logins.get(&(project.clone(), registry.to_owned())).cloned()))
            .await
    }

    async fn login_list(&self) -> Result<Vec<RegistryLoginRecord>, StoreError> {
        self.with(|tables| Ok(tables.logins.values().map(|login| login.record.clone()).collect()))
            .await
    }

    async fn login_delete(&self, project: &ProjectId, registry: &str) -> Result<(), StoreError> {
        self.with(|tables| {
            let removed = tables.logins.remove(&(project.clone(), registry.to_owned()));
            removed.map(drop).ok_or(StoreError::NotFound { what: "registry login" })
        })
        .await
    }

    async fn project_ensure(&self, candidate: &ProjectRecord) -> Result<ProjectRecord, StoreError> {
        self.with(|tables| tables.project_ensure(candidate)).await
    }

    async fn project_fetch(&self, id: &ProjectId) -> Result<ProjectRecord, StoreError> {
        self.with(|tables| tables.project(id).cloned()).await
    }

    async fn project_list(&self) -> Result<Vec<ProjectRecord>, StoreError> {
        self.with(|tables| Ok(tables.project_list())).await
    }

    async fn quota_set(
        &self,
        project: &ProjectId,
        sandboxes: Option<u32>,
    ) -> Result<(), StoreError> {
        self.with(|tables| {
            match sandboxes {
                Some(sandboxes) => tables.quotas.insert(project.clone(), sandboxes),
                None => tables.quotas.remove(project),
            };
            Ok(())
        })
        .await
    }

    async fn quota_list(&self) -> Result<Vec<QuotaRecord>, StoreError> {
        let record = |(project, sandboxes): (&ProjectId, &u32)| QuotaRecord {
            project: project.clone(),
            sandboxes: *sandboxes,
        };
        self.with(|tables| Ok(tables.quotas.iter().map(record).collect())).await
    }

    async fn ssh_key_insert(&self, key: &SshKeyRecord) -> Result<(), StoreError> {
        self.with(|tables| tables.ssh_key_insert(key)).await
    }

    async fn ssh_key_list(&self, project: &ProjectId) -> Result<Vec<SshKeyRecord>, StoreError> {
        self.with(|tables| Ok(tables.ssh_key_list(project))).await
    }

    async fn ssh_key_delete(&self, project: &ProjectId, id: &SshKeyId) -> Result<(), StoreError> {
        self.with(|tables| tables.ssh_key_delete(project, id)).await
    }

    async fn key_insert(&self, key: &KeyRecord) -> Result<(), StoreError> {
        self.with(|tables| tables.key_insert(key)).await
    }

    async fn key_fetch(&self, hash: &KeyHash) -> Result<KeyRecord, StoreError> {
        self.with(|tables| tables.key_fetch(hash)).await
    }

    async fn key_list(&self) -> Result<Vec<KeyRecord>, StoreError> {
        self.with(|tables| tables.key_list()).await
    }

    async fn key_revoke(&self, id: &KeyId, at: UnixMillis) -> Result<(), StoreError> {
        self.with(|tables| {
            let key = tables.keys.get_mut(id).ok_or(StoreError::NotFound { what: "key" })?;
            key.revoked_at.get_or_insert(at);
            Ok(())
        })
        .await
    }

    async fn fact_fetch(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.with(|tables| Ok(tables.facts.get(name).cloned())).await
    }

    async fn fact_set(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.with(|tables| {
            tables.facts.insert(name.to_owned(), value.to_owned());
            Ok(())
        })
        .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.with(|_| Ok(())).await
    }
}
