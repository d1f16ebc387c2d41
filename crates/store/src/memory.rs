//! The in-memory model: what a store means, said in the simplest way.
//!
//! It is stricter than a real one: records go through their stored bytes, so a field that does not
//! survive them is noticed; and every verb first gives way to other tasks, so callers meet the
//! interleavings that a real store would show them.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_types::{
    BootImage, BuildId, BuildRecord, ImageId, ImageName, ImageNameRecord, ImageRecord, KeptStep,
    KeyId, Lasting, PoolId, PoolRecord, ProjectId, RegistryLoginRecord, SandboxId, SandboxName,
    SandboxRecord, SandboxStatus, SecretId, SecretName, SecretRecord, SnapshotId, SnapshotRecord,
    SshKeyId, SshKeyRecord, UnixMillis,
};

use crate::{
    DataKeyRecord, KeyHash, KeyRecord, ListQuery, Order, Page, PageKey, ProjectRecord, QuotaRecord,
    SealedLogin, SealedSecret, Store, StoreError, format, rule,
};

mod tables;

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

/// A sandbox as its bytes, and what is looked up without reading them.
#[derive(Debug)]
struct Row {
    id: SandboxId,
    project: ProjectId,
    name: Option<SandboxName>,
    status: SandboxStatus,
    created_at: UnixMillis,
    terminated_at: Option<UnixMillis>,
    sequence: u64,
    unclaimed: bool,
    bytes: String,
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
        self.with(|tables| {
            if tables.sandboxes.contains_key(&row.id) {
                return Err(StoreError::Exists { what: "sandbox" });
            }
            tables.check_name(&row)?;
            tables.sandboxes.insert(row.id.clone(), row);
            Ok(())
        })
        .await
    }

    async fn sandbox_update(
        &self,
        record: &SandboxRecord,
        status: SandboxStatus,
        _lasting: Lasting,
    ) -> Result<(), StoreError> {
        let row = Row::new(record, status)?;
        self.with(|tables| {
            let stored = tables.sandbox(&row.id)?;
            if record.sequence.checked_sub(1) != Some(stored.sequence) {
                return Err(StoreError::Conflict { id: row.id });
            }
            rule::check_change(&stored.fixed(), record)?;
            tables.check_name(&row)?;
            tables.sandboxes.insert(row.id.clone(), row);
            Ok(())
        })
        .await
    }

    async fn sandbox_fetch(&self, id: &SandboxId) -> Result<SandboxRecord, StoreError> {
        self.with(|tables| tables.sandbox(id)?.record()).await
    }

    async fn sandbox_fetch_by_name(
        &self,
        project: &ProjectId,
        name: &SandboxName,
    ) -> Result<SandboxRecord, StoreError> {
        self.with(|tables| {
            let holder = tables.sandboxes.values().find(|row| row.holds(project, name));
            holder.ok_or(StoreError::NotFound { what: "sandbox" })?.record()
        })
        .await
    }

    async fn sandbox_list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        self.with(|tables| {
            let mut rows: Vec<_> =
                tables.sandboxes.values().filter(|row| row.matches(query)).collect();
            rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.key()));
            let (start, end) = bounds(&rows, query);
            let items =
                rows[start..end].iter().map(|row| row.record()).collect::<Result<_, _>>()?;
            Ok(Page { items, has_newer: start > 0, has_older: end < rows.len() })
        })
        .await
    }

    async fn sandbox_list_live(&self) -> Result<Vec<SandboxRecord>, StoreError> {
        self.with(|tables| {
            let mut rows: Vec<_> =
                tables.sandboxes.values().filter(|row| row.terminated_at.is_none()).collect();
            rows.sort_unstable_by_key(|row| row.key());
            rows.into_iter().map(Row::record).collect()
        })
        .await
    }

    async fn sandbox_purge(&self, before: UnixMillis, limit: usize) -> Result<usize, StoreError> {
        self.with(|tables| {
            let mut ended: Vec<_> = tables
                .sandboxes
                .values()
                .filter_map(|row| Some((row.terminated_at?, row.id.clone())))
                .filter(|(at, _)| *at < before)
                .collect();
            ended.sort_unstable();
            ended.truncate(limit);
            for (_, id) in &ended {
                tables.sandboxes.remove(id);
            }
            Ok(ended.len())
        })
        .await
    }

    async fn snapshot_insert(&self, record: &SnapshotRecord) -> Result<(), StoreError> {
        let bytes = format::encode_snapshot(record)?;
        self.with(|tables| {
            if tables.snapshots.contains_key(&record.id) {
                return Err(StoreError::Exists { what: "snapshot" });
            }
            tables.snapshots.insert(record.id.clone(), bytes);
            Ok(())
        })
        .await
    }

    async fn snapshot_update(&self, record: &SnapshotRecord) -> Result<(), StoreError> {
        let bytes = format::encode_snapshot(record)?;
        self.with(|tables| {
            let stored = tables.snapshot(&record.id)?;
            if record.sequence.checked_sub(1) != Some(stored.sequence) {
                return Err(StoreError::SnapshotConflict { id: stored.id });
            }
            let fixed = rule::StoredSnapshot {
                project: stored.project.as_str(),
                sandbox: stored.sandbox.as_str(),
                created_at: stored.created_at,
            };
            rule::check_snapshot_change(&fixed, record)?;
            tables.snapshots.insert(stored.id, bytes);
            Ok(())
        })
        .await
    }

    async fn snapshot_fetch(&self, id: &SnapshotId) -> Result<SnapshotRecord, StoreError> {
        self.with(|tables| tables.snapshot(id)).await
    }

    async fn snapshot_list(
        &self,
        project: &ProjectId,
        sandbox: Option<&SandboxId>,
    ) -> Result<Vec<SnapshotRecord>, StoreError> {
        self.with(|tables| {
            let mut found = tables.snapshots_that(|record| {
                !record.hidden
                    && record.project == *project
                    && sandbox.is_none_or(|sandbox| record.sandbox == *sandbox)
            })?;
            found.reverse();
            Ok(found)
        })
        .await
    }

    async fn snapshot_list_unsettled(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        self.with(|tables| {
            let images: BTreeSet<_> = tables.images()?.into_iter().map(|it| it.snapshot).collect();
            tables.snapshots_that(|record| {
                let unneeded = record.hidden && !images.contains(&record.id);
                unneeded || record.is_on_the_way()
            })
        })
        .await
    }

    async fn snapshot_images(&self) -> Result<Vec<BootImage>, StoreError> {
        self.with(|tables| {
            let all = tables.snapshots_that(|_| true)?;
            let images: BTreeSet<_> = all.into_iter().map(|record| record.captured.image).collect();
            Ok(images.into_iter().collect())
        })
        .await
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
        self.with(|tables| {
            if tables.pools.contains_key(&record.id) {
                return Err(StoreError::Exists { what: "pool" });
            }
            tables.pools.insert(record.id.clone(), bytes);
            Ok(())
        })
        .await
    }

    async fn pool_update(&self, record: &PoolRecord) -> Result<(), StoreError> {
        let bytes = format::encode_pool(record)?;
        self.with(|tables| {
            let stored = tables.pool(&record.id)?;
            if record.sequence.checked_sub(1) != Some(stored.sequence) {
                return Err(StoreError::PoolConflict { id: stored.id });
            }
            let fixed = rule::StoredPool {
                project: stored.project.as_str(),
                created_at: stored.created_at,
            };
            rule::check_pool_change(&fixed, record)?;
            tables.pools.insert(stored.id, bytes);
            Ok(())
        })
        .await
    }

    async fn pool_delete(&self, id: &PoolId) -> Result<(), StoreError> {
        self.with(|tables| {
            tables.pools.remove(id);
            Ok(())
        })
        .await
    }

    async fn pool_list(&self) -> Result<Vec<PoolRecord>, StoreError> {
        self.with(|tables| {
            let all = tables.pools.keys().map(|id| tables.pool(id));
            let mut all = all.collect::<Result<Vec<_>, _>>()?;
            all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
            Ok(all)
        })
        .await
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
        self.with(|tables| {
            let keys = &mut tables.data_keys;
            Ok(keys.entry(candidate.project.clone()).or_insert_with(|| candidate.clone()).clone())
        })
        .await
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
        self.with(|tables| {
            if !keys.iter().all(|key| tables.data_keys.contains_key(&key.project)) {
                return Err(StoreError::NotFound { what: "data key" });
            }
            let anew = keys.iter().map(|key| (key.project.clone(), key.clone()));
            tables.data_keys.extend(anew);
            Ok(())
        })
        .await
    }

    async fn secret_put(&self, secrets: &[SealedSecret]) -> Result<Vec<SecretRecord>, StoreError> {
        self.with(|tables| {
            let mut changed = tables.secrets.clone();
            let mut stored = Vec::new();
            for secret in secrets {
                let SecretRecord { id, project, name, updated_at, .. } = &secret.record;
                let key = (project.clone(), name.clone());
                let mut record = secret.record.clone();
                if let Some(known) = changed.get(&key) {
                    record = SecretRecord { updated_at: *updated_at, ..known.record.clone() };
                } else if changed.values().any(|other| other.record.id == *id) {
                    return Err(StoreError::Exists { what: "secret" });
                }
                stored.push(record.clone());
                changed.insert(key, SealedSecret { record, sealed: secret.sealed.clone() });
            }
            tables.secrets = changed;
            Ok(stored)
        })
        .await
    }

    async fn secret_fetch(
        &self,
        project: &ProjectId,
        id: &SecretId,
    ) -> Result<SecretRecord, StoreError> {
        self.with(|tables| {
            let mut theirs = tables.secrets_of(project);
            let found = theirs.find(|secret| secret.record.id == *id);
            found.map(|secret| secret.record.clone()).ok_or(StoreError::NotFound { what: "secret" })
        })
        .await
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
        self.with(|tables| {
            let found = tables.secrets_of(project).find(|secret| secret.record.id == *id);
            let name = found.map(|secret| secret.record.name.clone());
            let name = name.ok_or(StoreError::NotFound { what: "secret" })?;
            tables.secrets.remove(&(project.clone(), name));
            Ok(())
        })
        .await
    }

    async fn image_name_put(
        &self,
        record: &ImageNameRecord,
    ) -> Result<ImageNameRecord, StoreError> {
        self.with(|tables| {
            let key = (record.project.clone(), record.name.clone());
            let mut stored = record.clone();
            if let Some(known) = tables.image_names.get(&key) {
                stored.created_at = known.created_at;
            }
            tables.image_names.insert(key, stored.clone());
            Ok(stored)
        })
        .await
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
        self.with(|tables| {
            let all = tables.images()?;
            let same = all
                .iter()
                .find(|known| known.scope() == record.scope() && known.name == record.name);
            let mut stored = record.clone();
            match same {
                Some(known) if known.project != record.project => {
                    return Err(StoreError::Exists { what: "image" });
                }
                Some(known) => {
                    (stored.id, stored.created_at) = (known.id.clone(), known.created_at)
                }
                None if tables.images.contains_key(&record.id) => {
                    return Err(StoreError::Exists { what: "image" });
                }
                None => {}
            }
            tables.images.insert(stored.id.clone(), format::encode_image(&stored)?);
            tables.image_names.remove(&(stored.scope().cloned(), stored.name.clone()));
            Ok(stored)
        })
        .await
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
        self.with(|tables| {
            if let Some(known) = tables.projects.values().find(|p| p.name == candidate.name) {
                return Ok(known.clone());
            }
            if tables.projects.contains_key(&candidate.id) {
                let detail = format!("project {} exists under another name", candidate.id);
                return Err(StoreError::Internal { detail });
            }
            tables.projects.insert(candidate.id.clone(), candidate.clone());
            Ok(candidate.clone())
        })
        .await
    }

    async fn project_fetch(&self, id: &ProjectId) -> Result<ProjectRecord, StoreError> {
        self.with(|tables| tables.project(id).cloned()).await
    }

    async fn project_list(&self) -> Result<Vec<ProjectRecord>, StoreError> {
        self.with(|tables| {
            let mut all: Vec<_> = tables.projects.values().cloned().collect();
            all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
            Ok(all)
        })
        .await
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
        self.with(|tables| {
            let same = |known: &SshKeyRecord| {
                known.project == key.project && known.key.fingerprint == key.key.fingerprint
            };
            if tables.ssh_keys.contains_key(&key.id) || tables.ssh_keys.values().any(same) {
                return Err(StoreError::Exists { what: "SSH key" });
            }
            tables.ssh_keys.insert(key.id.clone(), key.clone());
            Ok(())
        })
        .await
    }

    async fn ssh_key_list(&self, project: &ProjectId) -> Result<Vec<SshKeyRecord>, StoreError> {
        self.with(|tables| {
            let theirs = tables.ssh_keys.values().filter(|key| key.project == *project);
            let mut theirs: Vec<_> = theirs.cloned().collect();
            theirs.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
            Ok(theirs)
        })
        .await
    }

    async fn ssh_key_delete(&self, project: &ProjectId, id: &SshKeyId) -> Result<(), StoreError> {
        self.with(|tables| {
            let theirs = tables.ssh_keys.get(id).is_some_and(|key| key.project == *project);
            if !theirs {
                return Err(StoreError::NotFound { what: "SSH key" });
            }
            tables.ssh_keys.remove(id);
            Ok(())
        })
        .await
    }

    async fn key_insert(&self, key: &KeyRecord) -> Result<(), StoreError> {
        self.with(|tables| {
            tables.project(&key.project)?;
            let taken = tables.keys.values().any(|k| k.id == key.id || k.hash == key.hash);
            if taken {
                return Err(StoreError::Exists { what: "key" });
            }
            let row = KeyRecord { project_name: String::new(), ..key.clone() };
            tables.keys.insert(key.id.clone(), row);
            Ok(())
        })
        .await
    }

    async fn key_fetch(&self, hash: &KeyHash) -> Result<KeyRecord, StoreError> {
        self.with(|tables| {
            let key = tables.keys.values().find(|key| key.hash == *hash);
            tables.with_project_name(key.ok_or(StoreError::NotFound { what: "key" })?)
        })
        .await
    }

    async fn key_list(&self) -> Result<Vec<KeyRecord>, StoreError> {
        self.with(|tables| {
            let mut keys = tables
                .keys
                .values()
                .map(|key| tables.with_project_name(key))
                .collect::<Result<Vec<_>, _>>()?;
            keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
            Ok(keys)
        })
        .await
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

/// Returns which of the rows, newest first, a page holds.
fn bounds(rows: &[&Row], query: &ListQuery) -> (usize, usize) {
    let from = query.from.as_ref().map(|PageKey { created_at, id }| (*created_at, id));
    match query.order {
        Order::Forward => {
            let start = from.map_or(0, |from| rows.partition_point(|row| row.key() >= from));
            (start, start.saturating_add(query.limit).min(rows.len()))
        }
        Order::Backward => {
            let end = from.map_or(rows.len(), |from| rows.partition_point(|row| row.key() > from));
            (end.saturating_sub(query.limit), end)
        }
    }
}
