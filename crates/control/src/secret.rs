//! Secrets: set, listed and deleted by callers, and revealed to nodes that boot a sandbox.
//!
//! Values are sealed before they reach the store, and leave this module only for a node.

mod key;
mod opened;
#[cfg(test)]
mod service_tests;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use tarn_node_api::{SecretSource, SecretSourceError};
use tarn_seal::{Key, OVERHEAD};
use tarn_store::{SealedSecret, StoreError};
use tarn_types::{ProjectId, RegistryLogin, SecretId, SecretName, SecretRecord, SecretValue};

pub use self::key::{SecretKeyError, SecretKeys, ServiceKey};
use crate::{Control, ControlError, project::check_count};

// === impl Control ===

impl Control {
    /// Sets secrets of a project, all or none. Sandboxes that boot later have the new values.
    ///
    /// # Errors
    /// Fails when the project would have more than it may, or the store or the key does; nothing is
    /// set then.
    pub async fn secret_put(
        &self,
        project: &ProjectId,
        secrets: Vec<(SecretName, SecretValue)>,
    ) -> Result<Vec<SecretRecord>, ControlError> {
        let (control, project) = (self.clone(), project.clone());
        self.finish("secret_put", async move { control.put(&project, &secrets).await }).await
    }

    /// Returns the secrets of a project, without their values, by name.
    ///
    /// # Errors
    /// Fails only when the store does.
    pub async fn secret_list(
        &self,
        project: &ProjectId,
    ) -> Result<Vec<SecretRecord>, ControlError> {
        Ok(self.0.parts.store.secret_list(project).await?)
    }

    /// Returns a secret, without its value.
    ///
    /// # Errors
    /// Fails when the project has none of that id.
    pub async fn secret_fetch(
        &self,
        project: &ProjectId,
        id: &SecretId,
    ) -> Result<SecretRecord, ControlError> {
        let fetched = self.0.parts.store.secret_fetch(project, id).await;
        fetched.map_err(|failed| missing(failed, id))
    }

    /// Deletes a secret. Sandboxes that have it keep it until they boot again.
    ///
    /// # Errors
    /// Fails when the project has none of that id.
    pub async fn secret_delete(
        &self,
        project: &ProjectId,
        id: &SecretId,
    ) -> Result<(), ControlError> {
        let deleted = self.0.parts.store.secret_delete(project, id).await;
        deleted.map_err(|failed| missing(failed, id))?;
        tracing::info!(secret.id = %id, project.id = %project, "secret deleted");
        Ok(())
    }

    /// Replaces the key that all data keys are sealed with, and returns how many those are. Goes on
    /// if the caller leaves: with a key service that may take a second for each.
    ///
    /// # Errors
    /// Fails when a file or the store does; it may then be tried again, and secrets can be used.
    pub async fn secret_key_rotate(&self) -> Result<usize, SecretKeyError> {
        let control = self.clone();
        let work = async move { control.rotate_secret_key().await };
        let done = self.0.parts.tasks.spawn("secret_key_rotate", work).await;
        done.unwrap_or_else(|lost| Err(SecretKeyError::Lost { detail: lost.to_string() }))
    }

    async fn rotate_secret_key(&self) -> Result<usize, SecretKeyError> {
        let (parts, keys) = (&self.0.parts, &self.0.parts.secret_keys);
        let _no_new_ones = keys.creation.write().await;
        keys.begin().await?;
        let mut anew = Vec::new();
        for record in parts.store.data_key_list().await? {
            let key = keys.unwrap(&record, parts.clock.now()).await?;
            anew.push(keys.wrap(&record.project, &key, &*parts.entropy).await?);
        }
        parts.store.data_key_rewrap(&anew).await?;
        keys.finish().await?;
        tracing::info!(projects = anew.len(), "the key of the secrets was replaced");
        Ok(anew.len())
    }

    /// Ends a replacement of the key that was cut off, and checks that every data key opens. A key
    /// service is not asked.
    ///
    /// # Errors
    /// Names the first that does not.
    pub async fn secret_keys_check(&self) -> Result<(), SecretKeyError> {
        let keys = &self.0.parts.secret_keys;
        let mut others = 0;
        for record in self.0.parts.store.data_key_list().await? {
            keys.check(&record).await?;
            others += usize::from(!keys.is_of_master(&record));
        }
        if keys.is_changing().await {
            self.secret_key_rotate().await?;
        } else if others > 0 {
            tracing::warn!(
                projects = others,
                "the keys of some projects are not yet sealed by what secrets.master says; `tarn \
                 secret rotate-key` does that"
            );
        }
        Ok(())
    }

    /// Checks that a project has the secrets that a sandbox is to have.
    pub(crate) async fn check_secrets(
        &self,
        project: &ProjectId,
        names: &[SecretName],
    ) -> Result<(), ControlError> {
        if names.is_empty() {
            return Ok(());
        }
        let found = self.0.parts.store.secret_find(project, names).await?;
        let there: BTreeSet<_> = found.iter().map(|secret| &secret.record.name).collect();
        if let Some(name) = names.iter().find(|name| !there.contains(name)) {
            return Err(ControlError::NoSuchSecret(name.clone()));
        }
        let sizes = found.iter().map(|secret| {
            secret.record.name.as_str().len() + secret.sealed.len().saturating_sub(OVERHEAD)
        });
        let (bytes, most) = (sizes.sum::<usize>(), SecretValue::MOST_TOGETHER);
        if bytes > most {
            return Err(ControlError::LimitExceeded {
                field: "secret_names",
                value: format!("{bytes} bytes in all"),
                limit: format!("at most {most}"),
            });
        }
        // A sandbox that could not boot for want of a key service is not begun.
        self.data_key(project).await.map(drop)
    }

    async fn put(
        &self,
        project: &ProjectId,
        secrets: &[(SecretName, SecretValue)],
    ) -> Result<Vec<SecretRecord>, ControlError> {
        let parts = &self.0.parts;
        // Asks a key service, and holds up nobody else meanwhile.
        let key = self.data_key(project).await?;
        let _turn = self.0.quotas.turn().await;
        self.check_secret_count(project, secrets).await?;
        let now = parts.clock.now();
        let seal = |(name, value): &(SecretName, SecretValue)| SealedSecret {
            record: SecretRecord {
                id: SecretId::from_random(parts.entropy.bytes()),
                project: project.clone(),
                name: name.clone(),
                created_at: now,
                updated_at: now,
            },
            sealed: key.seal(&place(project, name), value.reveal().as_bytes(), &*parts.entropy),
        };
        let sealed: Vec<_> = secrets.iter().map(seal).collect();
        let stored = parts.store.secret_put(&sealed).await?;
        for secret in &stored {
            tracing::info!(secret.id = %secret.id, project.id = %project, "secret set");
        }
        Ok(stored)
    }

    async fn check_secret_count(
        &self,
        project: &ProjectId,
        secrets: &[(SecretName, SecretValue)],
    ) -> Result<(), ControlError> {
        let most = self.0.config.secrets_per_project;
        if most == 0 {
            return Ok(());
        }
        let stored = self.0.parts.store.secret_list(project).await?;
        let there: BTreeSet<_> = stored.iter().map(|secret| &secret.name).collect();
        let named: BTreeSet<_> = secrets.iter().map(|(name, _)| name).collect();
        let new = named.difference(&there).count();
        check_count(("secrets", "quota.secrets"), there.len(), new, most)
    }

    /// Returns the data key of a project, making it first if there is none.
    pub(crate) async fn data_key(&self, project: &ProjectId) -> Result<Key, ControlError> {
        match self.find_data_key(project).await {
            // Its key was replaced between the look at the store and the one at the key.
            Err(SecretKeyError::Foreign { .. }) => self.find_data_key(project).await,
            found => found,
        }
        .map_err(key_error)
    }

    async fn find_data_key(&self, project: &ProjectId) -> Result<Key, SecretKeyError> {
        let (parts, keys) = (&self.0.parts, &self.0.parts.secret_keys);
        let record = match parts.store.data_key_fetch(project).await {
            Err(StoreError::NotFound { .. }) => {
                let _no_replacement = keys.creation.read().await;
                let key = Key::random(&*parts.entropy);
                let candidate = keys.wrap(project, &key, &*parts.entropy).await?;
                parts.store.data_key_ensure(&candidate).await?
            }
            fetched => fetched?,
        };
        keys.unwrap(&record, parts.clock.now()).await
    }

    async fn open(
        &self,
        project: &ProjectId,
        names: &[SecretName],
    ) -> Result<BTreeMap<SecretName, SecretValue>, ControlError> {
        let found = self.0.parts.store.secret_find(project, names).await?;
        if found.is_empty() {
            return Ok(BTreeMap::new());
        }
        let key = self.data_key(project).await?;
        let open = |secret: SealedSecret| {
            let SecretRecord { id, name, .. } = secret.record;
            let damaged = |detail: &str| ControlError::Internal {
                detail: format!("the stored secret {id} does not open: {detail}"),
            };
            let bytes = key.open(&place(project, &name), &secret.sealed);
            let bytes = bytes.map_err(|unopened| damaged(&unopened.to_string()))?;
            let text = std::str::from_utf8(&bytes).map_err(|_bytes| damaged("it is no text"))?;
            let value = SecretValue::new(text.to_owned());
            Ok((name, value.map_err(|_value| damaged("it is no value"))?))
        };
        found.into_iter().map(open).collect()
    }
}

#[async_trait]
impl SecretSource for Control {
    async fn reveal(
        &self,
        project: &ProjectId,
        names: &[SecretName],
    ) -> Result<Vec<(SecretName, SecretValue)>, SecretSourceError> {
        let opened = self.open(project, names).await.map_err(source_error)?;
        Ok(opened.into_iter().collect())
    }

    async fn registry_login(
        &self,
        project: &ProjectId,
        registry: &str,
    ) -> Result<Option<RegistryLogin>, SecretSourceError> {
        self.open_login(project, registry).await.map_err(source_error)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn source_error(failed: ControlError) -> SecretSourceError {
    let detail = failed.detail().map_or_else(|| failed.to_string(), str::to_owned);
    SecretSourceError { detail }
}

/// Says what is sealed, so that no row can take the place of another.
fn place(project: &ProjectId, name: &SecretName) -> String {
    format!("secret {project} {name}")
}

fn missing(failed: StoreError, id: &SecretId) -> ControlError {
    if matches!(failed, StoreError::NotFound { .. }) {
        return ControlError::SecretNotFound(id.to_string());
    }
    failed.into()
}

#[allow(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn key_error(failed: SecretKeyError) -> ControlError {
    let detail = failed.to_string();
    match failed {
        SecretKeyError::Service { source, .. } => {
            ControlError::KeysUnavailable { detail: format!("{detail}: {source}") }
        }
        SecretKeyError::WrongAnswer { .. } => ControlError::KeysUnavailable { detail },
        SecretKeyError::Store(failed) => failed.into(),
        SecretKeyError::Lost { .. }
        | SecretKeyError::File { .. }
        | SecretKeyError::Foreign { .. }
        | SecretKeyError::NoService { .. }
        | SecretKeyError::Damaged { .. } => ControlError::Internal { detail },
    }
}
