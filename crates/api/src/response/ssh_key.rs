//! Registered SSH keys (spec 08 §5). camelCase.

use serde::Serialize;
use tarn_types::SshKeyRecord;
use utoipa::ToSchema;

use super::platform::rfc3339;

/// A registered SSH key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SshKeyBody {
    /// Its id.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// Its algorithm, such as `ssh-ed25519`.
    pub key_type: String,
    /// `SHA256:` and a hash, as `ssh-keygen -l` shows it.
    pub fingerprint: String,
    /// When it was registered, in RFC 3339.
    pub created_at: String,
    /// When it last opened a session, in RFC 3339; absent before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
}

/// The SSH keys of a project, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SshKeyList {
    /// The keys.
    pub items: Vec<SshKeyBody>,
}

// === impl SshKeyBody ===

impl SshKeyBody {
    /// Makes the answer about one key.
    #[must_use]
    pub fn new(record: &SshKeyRecord) -> Self {
        Self {
            id: record.id.to_string(),
            name: record.name.clone(),
            key_type: record.key.algorithm.clone(),
            fingerprint: record.key.fingerprint.clone(),
            // Required by the clients; a clock that no calendar has is not worth failing for.
            created_at: rfc3339(record.created_at).unwrap_or_default(),
            last_used_at: record.last_used_at.and_then(rfc3339),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tarn_types::{ProjectId, SshKeyId, SshPublicKey, UnixMillis};

    use super::*;

    #[test]
    fn a_key_has_the_keys_the_clients_read() {
        let mut record = SshKeyRecord {
            id: SshKeyId::from_random([1; 16]),
            project: ProjectId::from_random([2; 16]),
            name: "laptop".to_owned(),
            key: SshPublicKey {
                algorithm: "ssh-ed25519".to_owned(),
                fingerprint: "SHA256:x".to_owned(),
                line: "ssh-ed25519 AAAA".to_owned(),
            },
            created_at: UnixMillis(1_700_000_000_000),
            last_used_at: None,
        };
        let fresh = json!({"id": "ssh_key_1111111111111111", "name": "laptop",
            "keyType": "ssh-ed25519", "fingerprint": "SHA256:x",
            "createdAt": "2023-11-14T22:13:20.000Z"});
        assert_eq!(json!(SshKeyBody::new(&record)), fresh);
        record.last_used_at = Some(UnixMillis(1_700_000_001_000));
        assert_eq!(json!(SshKeyBody::new(&record))["lastUsedAt"], "2023-11-14T22:13:21.000Z");
    }
}
