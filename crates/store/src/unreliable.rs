//! A store that is away now and then, to show that callers cope.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use tarn_types::{
    BootImage, BuildId, BuildRecord, ImageId, ImageName, ImageNameRecord, ImageRecord, KeptStep,
    KeyId, Lasting, PoolId, PoolRecord, ProjectId, RegistryLoginRecord, SandboxId, SandboxName,
    SandboxRecord, SandboxStatus, SecretId, SecretName, SecretRecord, SnapshotId, SnapshotRecord,
    SshKeyId, SshKeyRecord, UnixMillis,
};

use crate::{
    DataKeyRecord, KeyHash, KeyRecord, ListQuery, Page, ProjectRecord, QuotaRecord, SealedLogin,
    SealedSecret, Store, StoreError,
};

/// Answers every nth call with [`StoreError::Unavailable`].
pub struct UnreliableStore {
    inner: Arc<dyn Store>,
    every: u64,
    loss: Loss,
    calls: AtomicU64,
}

/// What is lost on the way of an unlucky call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The request: nothing was done.
    Request,
    /// The answer: the verb was done all the same.
    Answer,
}

// === impl UnreliableStore ===

impl UnreliableStore {
    /// Wraps a store so that calls number `every`, 2 × `every`, … fail. 0 means never, 1 always.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, every: u64, loss: Loss) -> Self {
        Self { inner, every, loss, calls: AtomicU64::new(0) }
    }

    /// Returns how many calls there have been, the failed ones included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    async fn through<T>(
        &self,
        verb: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let unlucky = self.every != 0 && call.is_multiple_of(self.every);
        if unlucky && self.loss == Loss::Request {
            return Err(away(call));
        }
        let answer = verb.await;
        if unlucky { Err(away(call)) } else { answer }
    }
}

fn away(call: u64) -> StoreError {
    StoreError::Unavailable { detail: format!("call {call} was made to fail") }
}

#[async_trait]
impl Store for UnreliableStore {
    async fn sandbox_insert(
        &self,
        record: &SandboxRecord,
        status: SandboxStatus,
    ) -> Result<(), StoreError> {
        self.through(self.inner.sandbox_insert(record, status)).await
    }

    async fn sandbox_update(
        &self,
        record: &SandboxRecord,
        status: SandboxStatus,
        lasting: Lasting,
    ) -> Result<(), StoreError> {
        self.through(self.inner.sandbox_update(record, status, lasting)).await
    }

    async fn sandbox_fetch(&self, id: &SandboxId) -> Result<SandboxRecord, StoreError> {
        self.through(self.inner.sandbox_fetch(id)).await
    }

    async fn sandbox_fetch_by_name(
        &self,
        project: &ProjectId,
        name: &SandboxName,
    ) -> Result<SandboxRecord, StoreError> {
        self.through(self.inner.sandbox_fetch_by_name(project, name)).await
    }

    async fn sandbox_list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        self.through(self.inner.sandbox_list(query)).await
    }

    async fn sandbox_list_live(&self) -> Result<Vec<SandboxRecord>, StoreError> {
        self.through(self.inner.sandbox_list_live()).await
    }

    async fn sandbox_purge(&self, before: UnixMillis, limit: usize) -> Result<usize, StoreError> {
        self.through(self.inner.sandbox_purge(before, limit)).await
    }

    async fn snapshot_insert(&self, record: &SnapshotRecord) -> Result<(), StoreError> {
        self.through(self.inner.snapshot_insert(record)).await
    }

    async fn snapshot_update(&self, record: &SnapshotRecord) -> Result<(), StoreError> {
        self.through(self.inner.snapshot_update(record)).await
    }

    async fn snapshot_fetch(&self, id: &SnapshotId) -> Result<SnapshotRecord, StoreError> {
        self.through(self.inner.snapshot_fetch(id)).await
    }

    async fn snapshot_list(
        &self,
        project: &ProjectId,
        sandbox: Option<&SandboxId>,
    ) -> Result<Vec<SnapshotRecord>, StoreError> {
        self.through(self.inner.snapshot_list(project, sandbox)).await
    }

    async fn snapshot_list_unsettled(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        self.through(self.inner.snapshot_list_unsettled()).await
    }

    async fn snapshot_images(&self) -> Result<Vec<BootImage>, StoreError> {
        self.through(self.inner.snapshot_images()).await
    }

    async fn snapshot_delete(&self, id: &SnapshotId) -> Result<(), StoreError> {
        self.through(self.inner.snapshot_delete(id)).await
    }

    async fn pool_insert(&self, record: &PoolRecord) -> Result<(), StoreError> {
        self.through(self.inner.pool_insert(record)).await
    }

    async fn pool_update(&self, record: &PoolRecord) -> Result<(), StoreError> {
        self.through(self.inner.pool_update(record)).await
    }

    async fn pool_delete(&self, id: &PoolId) -> Result<(), StoreError> {
        self.through(self.inner.pool_delete(id)).await
    }

    async fn pool_list(&self) -> Result<Vec<PoolRecord>, StoreError> {
        self.through(self.inner.pool_list()).await
    }

    async fn build_put(&self, record: &BuildRecord) -> Result<(), StoreError> {
        self.through(self.inner.build_put(record)).await
    }

    async fn build_delete(&self, id: &BuildId) -> Result<(), StoreError> {
        self.through(self.inner.build_delete(id)).await
    }

    async fn build_list(&self) -> Result<Vec<BuildRecord>, StoreError> {
        self.through(self.inner.build_list()).await
    }

    async fn kept_step_put(&self, step: &KeptStep) -> Result<(), StoreError> {
        self.through(self.inner.kept_step_put(step)).await
    }

    async fn kept_step_delete(&self, project: &ProjectId, key: &str) -> Result<(), StoreError> {
        self.through(self.inner.kept_step_delete(project, key)).await
    }

    async fn kept_step_list(&self) -> Result<Vec<KeptStep>, StoreError> {
        self.through(self.inner.kept_step_list()).await
    }

    async fn data_key_ensure(
        &self,
        candidate: &DataKeyRecord,
    ) -> Result<DataKeyRecord, StoreError> {
        self.through(self.inner.data_key_ensure(candidate)).await
    }

    async fn data_key_fetch(&self, project: &ProjectId) -> Result<DataKeyRecord, StoreError> {
        self.through(self.inner.data_key_fetch(project)).await
    }

    async fn data_key_list(&self) -> Result<Vec<DataKeyRecord>, StoreError> {
        self.through(self.inner.data_key_list()).await
    }

    async fn data_key_rewrap(&self, keys: &[DataKeyRecord]) -> Result<(), StoreError> {
        self.through(self.inner.data_key_rewrap(keys)).await
    }

    async fn secret_put(&self, secrets: &[SealedSecret]) -> Result<Vec<SecretRecord>, StoreError> {
        self.through(self.inner.secret_put(secrets)).await
    }

    async fn secret_fetch(
        &self,
        project: &ProjectId,
        id: &SecretId,
    ) -> Result<SecretRecord, StoreError> {
        self.through(self.inner.secret_fetch(project, id)).await
    }

    async fn secret_list(&self, project: &ProjectId) -> Result<Vec<SecretRecord>, StoreError> {
        self.through(self.inner.secret_list(project)).await
    }

    async fn secret_find(
        &self,
        project: &ProjectId,
        names: &[SecretName],
    ) -> Result<Vec<SealedSecret>, StoreError> {
        self.through(self.inner.secret_find(project, names)).await
    }

    async fn secret_delete(&self, project: &ProjectId, id: &SecretId) -> Result<(), StoreError> {
        self.through(self.inner.secret_delete(project, id)).await
    }

    async fn image_name_put(
        &self,
        record: &ImageNameRecord,
    ) -> Result<ImageNameRecord, StoreError> {
        self.through(self.inner.image_name_put(record)).await
    }

    async fn image_name_delete(
        &self,
        project: Option<&ProjectId>,
        name: &ImageName,
    ) -> Result<(), StoreError> {
        self.through(self.inner.image_name_delete(project, name)).await
    }

    async fn image_name_list(&self) -> Result<Vec<ImageNameRecord>, StoreError> {
        self.through(self.inner.image_name_list()).await
    }

    async fn image_put(&self, record: &ImageRecord) -> Result<ImageRecord, StoreError> {
        self.through(self.inner.image_put(record)).await
    }

    async fn image_delete(&self, id: &ImageId) -> Result<(), StoreError> {
        self.through(self.inner.image_delete(id)).await
    }

    async fn image_list(&self) -> Result<Vec<ImageRecord>, StoreError> {
        self.through(self.inner.image_list()).await
    }

    async fn login_put(&self, login: &SealedLogin) -> Result<(), StoreError> {
        self.through(self.inner.login_put(login)).await
    }

    async fn login_find(
        &self,
        project: &ProjectId,
        registry: &str,
    ) -> Result<Option<SealedLogin>, StoreError> {
        self.through(self.inner.login_find(project, registry)).await
    }

    async fn login_list(&self) -> Result<Vec<RegistryLoginRecord>, StoreError> {
        self.through(self.inner.login_list()).await
    }

    async fn login_delete(&self, project: &ProjectId, registry: &str) -> Result<(), StoreError> {
        self.through(self.inner.login_delete(project, registry)).await
    }

    async fn project_ensure(&self, candidate: &ProjectRecord) -> Result<ProjectRecord, StoreError> {
        self.through(self.inner.project_ensure(candidate)).await
    }

    async fn project_fetch(&self, id: &ProjectId) -> Result<ProjectRecord, StoreError> {
        self.through(self.inner.project_fetch(id)).await
    }

    async fn project_list(&self) -> Result<Vec<ProjectRecord>, StoreError> {
        self.through(self.inner.project_list()).await
    }

    async fn quota_set(
        &self,
        project: &ProjectId,
        sandboxes: Option<u32>,
    ) -> Result<(), StoreError> {
        self.through(self.inner.quota_set(project, sandboxes)).await
    }

    async fn quota_list(&self) -> Result<Vec<QuotaRecord>, StoreError> {
        self.through(self.inner.quota_list()).await
    }

    async fn ssh_key_insert(&self, key: &SshKeyRecord) -> Result<(), StoreError> {
        self.through(self.inner.ssh_key_insert(key)).await
    }

    async fn ssh_key_list(&self, project: &ProjectId) -> Result<Vec<SshKeyRecord>, StoreError> {
        self.through(self.inner.ssh_key_list(project)).await
    }

    async fn ssh_key_delete(&self, project: &ProjectId, id: &SshKeyId) -> Result<(), StoreError> {
        self.through(self.inner.ssh_key_delete(project, id)).await
    }

    async fn key_insert(&self, key: &KeyRecord) -> Result<(), StoreError> {
        self.through(self.inner.key_insert(key)).await
    }

    async fn key_fetch(&self, hash: &KeyHash) -> Result<KeyRecord, StoreError> {
        self.through(self.inner.key_fetch(hash)).await
    }

    async fn key_list(&self) -> Result<Vec<KeyRecord>, StoreError> {
        self.through(self.inner.key_list()).await
    }

    async fn key_revoke(&self, id: &KeyId, at: UnixMillis) -> Result<(), StoreError> {
        self.through(self.inner.key_revoke(id, at)).await
    }

    async fn fact_fetch(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.through(self.inner.fact_fetch(name)).await
    }

    async fn fact_set(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.through(self.inner.fact_set(name, value)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.through(self.inner.ping()).await
    }
}
