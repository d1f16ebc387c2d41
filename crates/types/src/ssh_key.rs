//! Registered SSH keys: public ones, so nothing here is secret.

use crate::{ProjectId, SshKeyId, UnixMillis};

/// A public key, checked when it was registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshPublicKey {
    /// Its algorithm, such as `ssh-ed25519`.
    pub algorithm: String,
    /// `SHA256:` and the base64 of the SHA-256 of its blob, as `ssh-keygen -l` shows it.
    pub fingerprint: String,
    /// The algorithm and the base64 of the blob, as in `authorized_keys`; no comment.
    pub line: String,
}

/// A registered key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKeyRecord {
    /// Its id.
    pub id: SshKeyId,
    /// The project whose sandboxes it is to open.
    pub project: ProjectId,
    /// What its owner calls it; not unique.
    pub name: String,
    /// The key; registered once in a project.
    pub key: SshPublicKey,
    /// When it was registered.
    pub created_at: UnixMillis,
    /// When it last opened a session.
    pub last_used_at: Option<UnixMillis>,
}
