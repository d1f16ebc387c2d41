//! Records that only a store and control know.

use serde::{Deserialize, Serialize};
use tarn_types::{KeyId, ProjectId, RegistryLoginRecord, SecretRecord, UnixMillis};

/// SHA-256 of an API key; the key itself is never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(pub [u8; 32]);

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRecord {
    /// Its id.
    pub id: ProjectId,
    /// Its name, unique.
    pub name: String,
    /// When it was made.
    pub created_at: UnixMillis,
}

/// What a project may have, where that differs from the server's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaRecord {
    /// Whose.
    pub project: ProjectId,
    /// How many sandboxes that are not suspended; 0 = without limit.
    pub sandboxes: u32,
}

/// An API key, without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Its id.
    pub id: KeyId,
    /// The project it opens.
    pub project: ProjectId,
    /// The name of that project.
    pub project_name: String,
    /// What finds it.
    pub hash: KeyHash,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it was revoked; a revoked key opens nothing.
    pub revoked_at: Option<UnixMillis>,
}

/// The key that a project's secrets are sealed with, itself sealed: a store cannot read either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataKeyRecord {
    /// Whose secrets.
    pub project: ProjectId,
    /// Names the key that it is sealed with.
    pub wrapping: String,
    /// The sealed key.
    pub wrapped: Vec<u8>,
}

/// A secret and its sealed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// All but the value.
    pub record: SecretRecord,
    /// The value, sealed.
    pub sealed: Vec<u8>,
}

/// What a project shows to a registry, its password sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedLogin {
    /// All but the password.
    pub record: RegistryLoginRecord,
    /// The password, sealed.
    pub sealed: Vec<u8>,
}
