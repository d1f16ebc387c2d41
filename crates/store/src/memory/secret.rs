//! Secrets, and the keys that they are sealed with.

use tarn_types::{ProjectId, SecretId, SecretRecord};

use super::Tables;
use crate::{DataKeyRecord, SealedSecret, StoreError};

// === impl Tables ===

impl Tables {
    pub(super) fn data_key_ensure(&mut self, candidate: &DataKeyRecord) -> DataKeyRecord {
        let keys = &mut self.data_keys;
        keys.entry(candidate.project.clone()).or_insert_with(|| candidate.clone()).clone()
    }

    pub(super) fn data_key_rewrap(&mut self, keys: &[DataKeyRecord]) -> Result<(), StoreError> {
        if !keys.iter().all(|key| self.data_keys.contains_key(&key.project)) {
            return Err(StoreError::NotFound { what: "data key" });
        }
        let anew = keys.iter().map(|key| (key.project.clone(), key.clone()));
        self.data_keys.extend(anew);
        Ok(())
    }

    pub(super) fn secret_put(
        &mut self,
        secrets: &[SealedSecret],
    ) -> Result<Vec<SecretRecord>, StoreError> {
        let mut changed = self.secrets.clone();
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
        self.secrets = changed;
        Ok(stored)
    }

    pub(super) fn secret_fetch(
        &self,
        project: &ProjectId,
        id: &SecretId,
    ) -> Result<SecretRecord, StoreError> {
        let mut theirs = self.secrets_of(project);
        let found = theirs.find(|secret| secret.record.id == *id);
        found.map(|secret| secret.record.clone()).ok_or(StoreError::NotFound { what: "secret" })
    }

    pub(super) fn secret_delete(
        &mut self,
        project: &ProjectId,
        id: &SecretId,
    ) -> Result<(), StoreError> {
        let found = self.secrets_of(project).find(|secret| secret.record.id == *id);
        let name = found.map(|secret| secret.record.name.clone());
        let name = name.ok_or(StoreError::NotFound { what: "secret" })?;
        self.secrets.remove(&(project.clone(), name));
        Ok(())
    }

    /// Returns the secrets of a project, by name.
    pub(super) fn secrets_of(&self, project: &ProjectId) -> impl Iterator<Item = &SealedSecret> {
        let theirs = self.secrets.values();
        theirs.filter(move |secret| secret.record.project == *project)
    }
}
