//! API keys: made once, kept as hashes, remembered in memory.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};
use tarn_store::{KeyHash, KeyRecord, ProjectRecord, StoreError};
use tarn_types::{KeyId, ProjectId};

use crate::{Caller, Control, ControlError, NewKey};

/// What every key begins with, as the clients expect it.
const PREFIX: &str = "tl_apiKey_";

/// The longest text that is looked at as a key.
const MAX_KEY_LENGTH: usize = 256;

/// The longest name of a project.
const MAX_PROJECT_NAME: usize = 63;

/// Whose the keys are that were seen before.
#[derive(Debug, Default)]
pub(crate) struct KnownKeys {
    callers: HashMap<KeyHash, Caller>,
    /// How many were revoked since the start.
    revocations: u64,
}

/// When nothing was known of a key. Its record may be read then.
#[derive(Debug, Clone, Copy)]
struct Unknown {
    revocations: u64,
}

// === impl Control ===

impl Control {
    /// Returns whose key this is. Keys seen before are answered from memory.
    ///
    /// # Errors
    /// Fails for a key that is unknown or revoked, and when keys cannot be checked.
    pub async fn authenticate(&self, bearer: &str) -> Result<Caller, ControlError> {
        if bearer.is_empty() || bearer.len() > MAX_KEY_LENGTH {
            return Err(ControlError::Unauthenticated);
        }
        let hash = hash(bearer);
        let seen = match self.0.keys.read().look(&hash) {
            Ok(caller) => return Ok(caller),
            Err(seen) => seen,
        };
        let key = match self.0.parts.store.key_fetch(&hash).await {
            Ok(key) if key.revoked_at.is_none() => key,
            Ok(_) | Err(StoreError::NotFound { .. }) => return Err(ControlError::Unauthenticated),
            Err(failed) => return Err(failed.into()),
        };
        let caller = Caller { key: key.id, project: key.project, project_name: key.project_name };
        self.0.keys.write().note(hash, caller.clone(), seen);
        Ok(caller)
    }

    /// Makes a key for a project, and the project if there is none of that name.
    ///
    /// # Errors
    /// Fails for a name that is not one, and when the store does.
    pub async fn key_create(&self, project_name: &str) -> Result<NewKey, ControlError> {
        let secret = self.new_secret();
        let key = self.insert_key(&secret, project_name).await?;
        tracing::info!(key.id = %key.id, project.id = %key.project, "key made");
        Ok(NewKey { id: key.id, project: key.project, secret })
    }

    /// Makes a key that nobody has yet, without storing it.
    #[must_use]
    pub fn new_secret(&self) -> String {
        use std::fmt::Write as _;
        let random: [u8; 32] = self.0.parts.entropy.bytes();
        let mut secret = PREFIX.to_owned();
        for byte in random {
            // Writing to a `String` cannot fail.
            _ = write!(secret, "{byte:02x}");
        }
        secret
    }

    /// Makes sure that a given key opens a project: the default key of a data directory, whose
    /// store may have been emptied.
    ///
    /// # Errors
    /// Fails for a name that is not one, and when the store does; with
    /// [`ControlError::Unauthenticated`] for a key that was revoked, which nothing makes valid
    /// again.
    pub async fn key_ensure(&self, secret: &str, project_name: &str) -> Result<(), ControlError> {
        match self.0.parts.store.key_fetch(&hash(secret)).await {
            Ok(key) if key.revoked_at.is_none() => Ok(()),
            Ok(_) => Err(ControlError::Unauthenticated),
            Err(StoreError::NotFound { .. }) => {
                self.insert_key(secret, project_name).await.map(|_key| ())
            }
            Err(failed) => Err(failed.into()),
        }
    }

    /// Returns all keys, oldest first.
    ///
    /// # Errors
    /// Fails only when the store does.
    pub async fn key_list(&self) -> Result<Vec<KeyRecord>, ControlError> {
        Ok(self.0.parts.store.key_list().await?)
    }

    /// Revokes a key; it opens nothing from the moment this returns.
    ///
    /// # Errors
    /// Fails when there is none of that id.
    pub async fn key_revoke(&self, id: &KeyId) -> Result<(), ControlError> {
        let (control, id) = (self.clone(), id.clone());
        self.finish("key_revoke", async move {
            match control.0.parts.store.key_revoke(&id, control.0.parts.clock.now()).await {
                Ok(()) => {}
                Err(StoreError::NotFound { .. }) => return Err(ControlError::NotFound("key")),
                Err(failed) => return Err(failed.into()),
            }
            control.0.keys.write().revoke(&id);
            tracing::info!(key.id = %id, "key revoked");
            Ok(())
        })
        .await
    }

    async fn insert_key(
        &self,
        secret: &str,
        project_name: &str,
    ) -> Result<KeyRecord, ControlError> {
        check_project_name(project_name)?;
        let now = self.0.parts.clock.now();
        let candidate = ProjectRecord {
            id: ProjectId::from_random(self.0.parts.entropy.bytes()),
            name: project_name.to_owned(),
            created_at: now,
        };
        let project = self.0.parts.store.project_ensure(&candidate).await?;
        let key = KeyRecord {
            id: KeyId::from_random(self.0.parts.entropy.bytes()),
            project: project.id,
            project_name: project.name,
            hash: hash(secret),
            created_at: now,
            revoked_at: None,
        };
        self.0.parts.store.key_insert(&key).await?;
        Ok(key)
    }
}

// === impl KnownKeys ===

impl KnownKeys {
    fn look(&self, hash: &KeyHash) -> Result<Caller, Unknown> {
        let unknown = Unknown { revocations: self.revocations };
        self.callers.get(hash).cloned().ok_or(unknown)
    }

    /// Notes whose a key is, unless one was revoked since: it may be this one, read before that.
    fn note(&mut self, hash: KeyHash, caller: Caller, unknown: Unknown) {
        if unknown.revocations == self.revocations {
            self.callers.insert(hash, caller);
        }
    }

    fn revoke(&mut self, id: &KeyId) {
        self.revocations += 1;
        self.callers.retain(|_, caller| caller.key != *id);
    }
}

fn hash(secret: &str) -> KeyHash {
    KeyHash(Sha256::digest(secret.as_bytes()).into())
}

fn check_project_name(name: &str) -> Result<(), ControlError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_PROJECT_NAME || !name.chars().all(allowed) {
        let reason = "1 to 63 letters, digits, `-`, `_` or `.`".to_owned();
        return Err(ControlError::Invalid { field: "project", reason });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_a_revocation_is_not_noted() {
        let caller = Caller {
            key: KeyId::from_random([1; 16]),
            project: ProjectId::from_random([2; 16]),
            project_name: "team".to_owned(),
        };
        let (id, key) = (caller.key.clone(), hash("tl_apiKey_x"));
        let mut known = KnownKeys::default();
        let unknown = known.look(&key).expect_err("not seen yet");
        known.revoke(&id);
        known.note(key, caller.clone(), unknown);
        let unknown = known.look(&key).expect_err("it was revoked meanwhile");
        known.note(key, caller, unknown);
        assert!(known.look(&key).is_ok());
        known.revoke(&id);
        assert!(known.look(&key).is_err());
    }
}
