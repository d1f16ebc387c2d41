//! What projects show to registries. Passwords are sealed as the values of secrets are.

use tarn_store::{SealedLogin, StoreError};
use tarn_types::{ProjectId, RegistryLogin, RegistryLoginRecord, SecretValue};

use super::refusal;
use crate::{Control, ControlError};

// === impl Control ===

impl Control {
    /// Sets what a project shows to a registry; the registry is not asked.
    ///
    /// # Errors
    /// Fails when there can be no such registry, or the store or the key fails.
    pub async fn login_put(
        &self,
        project: &ProjectId,
        registry: &str,
        login: RegistryLogin,
    ) -> Result<RegistryLoginRecord, ControlError> {
        let registry = self.registry(registry)?;
        let (control, project) = (self.clone(), project.clone());
        self.finish("login_put", async move {
            let parts = &control.0.parts;
            let key = control.data_key(&project).await?;
            let record = RegistryLoginRecord {
                project: project.clone(),
                registry,
                username: login.username,
                updated_at: parts.clock.now(),
            };
            let password = login.password.reveal().as_bytes();
            let sealed = key.seal(&place(&record), password, &*parts.entropy);
            parts.store.login_put(&SealedLogin { record: record.clone(), sealed }).await?;
            control.0.images.forget_answers(&project);
            tracing::info!(project.id = %project, registry = record.registry, "registry login set");
            Ok(record)
        })
        .await
    }

    /// Returns what all projects show to registries, without the passwords.
    ///
    /// # Errors
    /// Fails only when the store does.
    pub async fn login_list(&self) -> Result<Vec<RegistryLoginRecord>, ControlError> {
        Ok(self.0.parts.store.login_list().await?)
    }

    /// Removes what a project shows to a registry.
    ///
    /// # Errors
    /// Fails when it shows nothing.
    pub async fn login_delete(
        &self,
        project: &ProjectId,
        registry: &str,
    ) -> Result<(), ControlError> {
        // One that the configuration does not allow any more can be removed, too.
        let registry = self.registry(registry).unwrap_or_else(|_| registry.to_owned());
        let (control, project) = (self.clone(), project.clone());
        self.finish("login_delete", async move {
            let deleted = control.0.parts.store.login_delete(&project, &registry).await;
            deleted.map_err(|failed| {
                if matches!(failed, StoreError::NotFound { .. }) {
                    let what = "login; `tarn image logins` shows those there are";
                    return ControlError::NotFound(what);
                }
                failed.into()
            })?;
            control.0.images.forget_answers(&project);
            tracing::info!(project.id = %project, registry, "registry login removed");
            Ok(())
        })
        .await
    }

    /// Returns what a project shows to the registry of a reference, if anything.
    pub(crate) async fn login_for(
        &self,
        project: &ProjectId,
        reference: &str,
    ) -> Result<Option<RegistryLogin>, ControlError> {
        let registry = self.0.parts.images.registry_of(reference);
        let registry = registry.map_err(|bad| match reference.parse() {
            Ok(name) => refusal(&name, bad),
            Err(_no_name) => ControlError::Internal { detail: bad.to_string() },
        })?;
        self.open_login(project, &registry).await
    }

    /// Returns what a project shows to a registry, if anything.
    pub(crate) async fn open_login(
        &self,
        project: &ProjectId,
        registry: &str,
    ) -> Result<Option<RegistryLogin>, ControlError> {
        let found = self.0.parts.store.login_find(project, registry).await?;
        let Some(SealedLogin { record, sealed }) = found else { return Ok(None) };
        let key = self.data_key(project).await?;
        let damaged = |detail: &str| ControlError::Internal {
            detail: format!("the stored login of {project} at {registry} does not open: {detail}"),
        };
        let bytes = key.open(&place(&record), &sealed);
        let bytes = bytes.map_err(|unopened| damaged(&unopened.to_string()))?;
        let text = std::str::from_utf8(&bytes).map_err(|_bytes| damaged("it is no text"))?;
        let password = SecretValue::new(text.to_owned());
        let password = password.map_err(|_value| damaged("it is no password"))?;
        Ok(Some(RegistryLogin { username: record.username, password }))
    }

    /// Returns a registry as references name it.
    fn registry(&self, text: &str) -> Result<String, ControlError> {
        let registry = self.0.parts.images.registry_of(&format!("{text}/any/image"));
        registry.map_err(|bad| ControlError::Invalid { field: "registry", reason: bad.to_string() })
    }
}

/// Says what is sealed, so that no row can take the place of another.
fn place(record: &RegistryLoginRecord) -> String {
    let RegistryLoginRecord { project, registry, username, .. } = record;
    format!("registry login {project} {registry} {username}")
}
