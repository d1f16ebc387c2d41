//! SSH keys: registered per project, since whoever has a key of a project is that project to us.

use tarn_store::StoreError;
use tarn_types::{ProjectId, SshKeyId, SshKeyRecord, SshPublicKey};

use crate::{Control, ControlError};

// === impl Control ===

impl Control {
    /// Registers an SSH key.
    ///
    /// # Errors
    /// Fails when the project has that key already.
    pub async fn ssh_key_create(
        &self,
        project: &ProjectId,
        name: String,
        key: SshPublicKey,
    ) -> Result<SshKeyRecord, ControlError> {
        let record = SshKeyRecord {
            id: SshKeyId::from_random(self.0.parts.entropy.bytes()),
            project: project.clone(),
            name,
            key,
            created_at: self.0.parts.clock.now(),
            last_used_at: None,
        };
        let control = self.clone();
        self.finish("ssh_key_create", async move {
            match control.0.parts.store.ssh_key_insert(&record).await {
                Ok(()) => {}
                Err(StoreError::Exists { .. }) => {
                    let fingerprint = record.key.fingerprint;
                    return Err(ControlError::SshKeyExists { fingerprint });
                }
                Err(failed) => return Err(failed.into()),
            }
            tracing::info!(
                ssh_key.id = %record.id, project.id = %record.project,
                fingerprint = record.key.fingerprint, "SSH key registered"
            );
            Ok(record)
        })
        .await
    }

    /// Returns a project's SSH keys, oldest first.
    ///
    /// # Errors
    /// Fails only when the store does.
    pub async fn ssh_key_list(
        &self,
        project: &ProjectId,
    ) -> Result<Vec<SshKeyRecord>, ControlError> {
        Ok(self.0.parts.store.ssh_key_list(project).await?)
    }

    /// Removes an SSH key.
    ///
    /// # Errors
    /// Fails when the project has none of that id.
    pub async fn ssh_key_delete(
        &self,
        project: &ProjectId,
        id: &SshKeyId,
    ) -> Result<(), ControlError> {
        match self.0.parts.store.ssh_key_delete(project, id).await {
            Ok(()) => {}
            Err(StoreError::NotFound { .. }) => return Err(ControlError::NotFound("SSH key")),
            Err(failed) => return Err(failed.into()),
        }
        tracing::info!(ssh_key.id = %id, project.id = %project, "SSH key removed");
        Ok(())
    }
}
