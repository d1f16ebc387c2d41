//! Projects, and the keys by which somebody is let into them.

use tarn_types::{ProjectId, SshKeyId, SshKeyRecord};

use super::Tables;
use crate::{KeyHash, KeyRecord, ProjectRecord, StoreError};

// === impl Tables ===

impl Tables {
    pub(super) fn project(&self, id: &ProjectId) -> Result<&ProjectRecord, StoreError> {
        self.projects.get(id).ok_or(StoreError::NotFound { what: "project" })
    }

    pub(super) fn project_ensure(
        &mut self,
        candidate: &ProjectRecord,
    ) -> Result<ProjectRecord, StoreError> {
        if let Some(known) = self.projects.values().find(|p| p.name == candidate.name) {
            return Ok(known.clone());
        }
        if self.projects.contains_key(&candidate.id) {
            let detail = format!("project {} exists under another name", candidate.id);
            return Err(StoreError::Internal { detail });
        }
        self.projects.insert(candidate.id.clone(), candidate.clone());
        Ok(candidate.clone())
    }

    pub(super) fn project_list(&self) -> Vec<ProjectRecord> {
        let mut all: Vec<_> = self.projects.values().cloned().collect();
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        all
    }

    pub(super) fn key_insert(&mut self, key: &KeyRecord) -> Result<(), StoreError> {
        self.project(&key.project)?;
        let taken = self.keys.values().any(|k| k.id == key.id || k.hash == key.hash);
        if taken {
            return Err(StoreError::Exists { what: "key" });
        }
        let row = KeyRecord { project_name: String::new(), ..key.clone() };
        self.keys.insert(key.id.clone(), row);
        Ok(())
    }

    pub(super) fn key_fetch(&self, hash: &KeyHash) -> Result<KeyRecord, StoreError> {
        let key = self.keys.values().find(|key| key.hash == *hash);
        self.with_project_name(key.ok_or(StoreError::NotFound { what: "key" })?)
    }

    pub(super) fn key_list(&self) -> Result<Vec<KeyRecord>, StoreError> {
        let mut keys = self
            .keys
            .values()
            .map(|key| self.with_project_name(key))
            .collect::<Result<Vec<_>, _>>()?;
        keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(keys)
    }

    pub(super) fn ssh_key_insert(&mut self, key: &SshKeyRecord) -> Result<(), StoreError> {
        let same = |known: &SshKeyRecord| {
            known.project == key.project && known.key.fingerprint == key.key.fingerprint
        };
        if self.ssh_keys.contains_key(&key.id) || self.ssh_keys.values().any(same) {
            return Err(StoreError::Exists { what: "SSH key" });
        }
        self.ssh_keys.insert(key.id.clone(), key.clone());
        Ok(())
    }

    pub(super) fn ssh_key_list(&self, project: &ProjectId) -> Vec<SshKeyRecord> {
        let theirs = self.ssh_keys.values().filter(|key| key.project == *project);
        let mut theirs: Vec<_> = theirs.cloned().collect();
        theirs.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        theirs
    }

    pub(super) fn ssh_key_delete(
        &mut self,
        project: &ProjectId,
        id: &SshKeyId,
    ) -> Result<(), StoreError> {
        let theirs = self.ssh_keys.get(id).is_some_and(|key| key.project == *project);
        if !theirs {
            return Err(StoreError::NotFound { what: "SSH key" });
        }
        self.ssh_keys.remove(id);
        Ok(())
    }

    fn with_project_name(&self, key: &KeyRecord) -> Result<KeyRecord, StoreError> {
        let project_name = self.project(&key.project)?.name.clone();
        Ok(KeyRecord { project_name, ..key.clone() })
    }
}
