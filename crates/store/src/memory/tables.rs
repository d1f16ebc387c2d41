//! What the tables in memory are read by.

use tarn_types::{
    BuildId, BuildRecord, ImageId, ImageRecord, PoolId, PoolRecord, ProjectId, SandboxId,
    SandboxName, SandboxRecord, SandboxStatus, SnapshotId, SnapshotRecord, UnixMillis,
};

use super::{Row, Tables};
use crate::{KeyRecord, ListQuery, ProjectRecord, SealedSecret, StoreError, format, rule};

// === impl Tables ===

impl Tables {
    pub(super) fn sandbox(&self, id: &SandboxId) -> Result<&Row, StoreError> {
        self.sandboxes.get(id).ok_or(StoreError::NotFound { what: "sandbox" })
    }

    pub(super) fn snapshot(&self, id: &SnapshotId) -> Result<SnapshotRecord, StoreError> {
        let bytes = self.snapshots.get(id).ok_or(StoreError::NotFound { what: "snapshot" })?;
        format::decode_snapshot(format::SNAPSHOT_FORMAT, id.as_str(), bytes)
    }

    /// Returns the snapshots of a kind, oldest first.
    pub(super) fn snapshots_that(
        &self,
        wanted: impl Fn(&SnapshotRecord) -> bool,
    ) -> Result<Vec<SnapshotRecord>, StoreError> {
        let all = self.snapshots.keys().map(|id| self.snapshot(id));
        let mut found = all.collect::<Result<Vec<_>, _>>()?;
        found.retain(wanted);
        found.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(found)
    }

    /// Returns the registered images, oldest first.
    pub(super) fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let decode = |(id, bytes): (&ImageId, &String)| {
            format::decode_image(format::IMAGE_FORMAT, id.as_str(), bytes)
        };
        let mut all = self.images.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(all)
    }

    /// Returns the builds of images, oldest first.
    pub(super) fn builds(&self) -> Result<Vec<BuildRecord>, StoreError> {
        let decode = |(id, text): (&BuildId, &String)| {
            format::decode_build(format::BUILD_FORMAT, id.as_str(), text)
        };
        let mut all = self.builds.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(all)
    }

    pub(super) fn pool(&self, id: &PoolId) -> Result<PoolRecord, StoreError> {
        let bytes = self.pools.get(id).ok_or(StoreError::NotFound { what: "pool" })?;
        format::decode_pool(format::POOL_FORMAT, id.as_str(), bytes)
    }

    /// Returns the secrets of a project, by name.
    pub(super) fn secrets_of(&self, project: &ProjectId) -> impl Iterator<Item = &SealedSecret> {
        let theirs = self.secrets.values();
        theirs.filter(move |secret| secret.record.project == *project)
    }

    pub(super) fn project(&self, id: &ProjectId) -> Result<&ProjectRecord, StoreError> {
        self.projects.get(id).ok_or(StoreError::NotFound { what: "project" })
    }

    pub(super) fn with_project_name(&self, key: &KeyRecord) -> Result<KeyRecord, StoreError> {
        let project_name = self.project(&key.project)?.name.clone();
        Ok(KeyRecord { project_name, ..key.clone() })
    }

    /// Refuses a live row whose name another live row of the project has.
    pub(super) fn check_name(&self, row: &Row) -> Result<(), StoreError> {
        let (Some(name), None) = (&row.name, row.terminated_at) else { return Ok(()) };
        let mut others = self.sandboxes.values().filter(|other| other.id != row.id);
        match others.find(|other| other.holds(&row.project, name)) {
            Some(other) => {
                Err(StoreError::NameTaken { name: name.clone(), holder: other.id.clone() })
            }
            None => Ok(()),
        }
    }
}

// === impl Row ===

impl Row {
    pub(super) fn new(record: &SandboxRecord, status: SandboxStatus) -> Result<Self, StoreError> {
        rule::check_record(record, status)?;
        Ok(Self {
            id: record.id.clone(),
            project: record.project.clone(),
            name: record.asked.name.clone(),
            status,
            created_at: record.created_at,
            terminated_at: record.terminated_at,
            sequence: record.sequence,
            unclaimed: record.is_unclaimed(),
            bytes: format::encode(record)?,
        })
    }

    pub(super) fn record(&self) -> Result<SandboxRecord, StoreError> {
        format::decode(format::RECORD_FORMAT, self.id.as_str(), &self.bytes)
    }

    pub(super) fn key(&self) -> (UnixMillis, &SandboxId) {
        (self.created_at, &self.id)
    }

    pub(super) fn fixed(&self) -> rule::Stored<'_> {
        rule::Stored {
            project: self.project.as_str(),
            created_at: self.created_at,
            terminated_at: self.terminated_at,
            unclaimed: self.unclaimed,
        }
    }

    pub(super) fn holds(&self, project: &ProjectId, name: &SandboxName) -> bool {
        self.terminated_at.is_none() && self.project == *project && self.name.as_ref() == Some(name)
    }

    pub(super) fn matches(&self, query: &ListQuery) -> bool {
        let archived = self.terminated_at.is_some_and(|at| at <= query.archived_before);
        !self.unclaimed
            && self.project == query.project
            && archived == query.archived
            && query.status.is_none_or(|status| status == self.status)
    }
}
