//! SSH keys: registered per project, since whoever has a key of a project is that project to us.

use tarn_store::StoreError;
use tarn_types::{ProjectId, SshKeyId, SshKeyRecord, SshPublicKey};

use crate::{Control, ControlError, project::check_count};

// === impl Control ===

impl Control {
    /// Registers an SSH key.
    ///
    /// # Errors
    /// Fails when the project has that key already, or as many as it may.
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
            let _turn = control.0.quotas.turn().await;
            control.check_ssh_key_count(&record).await?;
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

    async fn check_ssh_key_count(&self, key: &SshKeyRecord) -> Result<(), ControlError> {
        let most = self.0.config.ssh_keys_per_project;
        if most == 0 {
            return Ok(());
        }
        let there = self.0.parts.store.ssh_key_list(&key.project).await?;
        // One that is there is refused as that.
        let new = there.iter().all(|known| known.key.fingerprint != key.key.fingerprint);
        check_count(("SSH keys", "quota.ssh_keys"), there.len(), usize::from(new), most)
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
