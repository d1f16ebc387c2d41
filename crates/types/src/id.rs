//! Identifiers. Each kind is a type of its own, so they cannot be mixed up.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Says why a text is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a valid {kind}: {rule}")]
pub struct IdError {
    kind: &'static str,
    text: String,
    rule: &'static str,
}

impl IdError {
    pub(crate) fn new(kind: &'static str, text: &str, rule: &'static str) -> Self {
        Self { kind, text: text.chars().take(80).collect(), rule }
    }
}

/// Identifies a sandbox for ever: 21 characters of `[0-9a-z]` (spec 01 §1).
///
/// The length is fixed because the runtime resolves ids by prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(Arc<str>);

/// Identifies a project, the unit of tenancy and quota: `project_` and 16 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProjectId(Arc<str>);

/// Identifies an API key without revealing it: `key_` and 16 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(Arc<str>);

/// Identifies a node: `node_` and 16 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(Arc<str>);

/// Identifies a snapshot for ever: `snap_` and 16 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(Arc<str>);

/// Identifies a pool of sandboxes: `pool_` and 16 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolId(Arc<str>);

/// Identifies a secret, whatever its value: `secret_` and 16 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretId(Arc<str>);

/// Identifies a registered image, whatever it is made of now: `image_` and 16 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId(Arc<str>);

/// Identifies a build of an image: `build_` and 16 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BuildId(Arc<str>);

/// Identifies a registered SSH key: `ssh_key_` and 16 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SshKeyId(Arc<str>);

const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Writes random bytes as characters of `[0-9a-z]`, one byte a character.
///
/// A byte is taken modulo 36, so the first four characters of the alphabet are a little likelier;
/// 21 characters still carry over 100 bits.
fn base36(random: &[u8]) -> String {
    random.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % 36])).collect()
}

fn is_base36(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
}

fn parse_prefixed(
    kind: &'static str,
    prefix: &str,
    rule: &'static str,
    text: &str,
) -> Result<Arc<str>, IdError> {
    match text.strip_prefix(prefix) {
        Some(rest) if rest.len() == 16 && is_base36(rest) => Ok(text.into()),
        _ => Err(IdError::new(kind, text, rule)),
    }
}

// === impl SandboxId ===

impl SandboxId {
    /// The length of every sandbox id, in characters.
    pub const LENGTH: usize = 21;

    /// Makes an id from 21 random bytes.
    #[must_use]
    pub fn from_random(random: [u8; Self::LENGTH]) -> Self {
        Self(base36(&random).into())
    }

    /// Says whether a text has the shape of an id (names never have it).
    #[must_use]
    pub fn has_shape(text: &str) -> bool {
        text.len() == Self::LENGTH && is_base36(text)
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if Self::has_shape(text) {
            return Ok(Self(text.into()));
        }
        Err(IdError::new("sandbox id", text, "21 characters of 0-9 and a-z"))
    }
}

impl TryFrom<String> for SandboxId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Gives a prefixed id type its constructor, parser and text form.
macro_rules! prefixed_id {
    ($name:ident, $kind:literal, $prefix:literal) => {
        // === impl $name ===

        impl $name {
            /// Makes an id from 16 random bytes.
            #[must_use]
            pub fn from_random(random: [u8; 16]) -> Self {
                Self(format!("{}{}", $prefix, base36(&random)).into())
            }

            /// Returns the id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let rule = concat!("`", $prefix, "` and 16 characters of 0-9 and a-z");
                parse_prefixed($kind, $prefix, rule, text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

prefixed_id!(ProjectId, "project id", "project_");
prefixed_id!(KeyId, "key id", "key_");
prefixed_id!(NodeId, "node id", "node_");
prefixed_id!(SnapshotId, "snapshot id", "snap_");
prefixed_id!(PoolId, "pool id", "pool_");
prefixed_id!(SecretId, "secret id", "secret_");
prefixed_id!(ImageId, "image id", "image_");
prefixed_id!(BuildId, "build id", "build_");
prefixed_id!(SshKeyId, "SSH key id", "ssh_key_");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_id_has_21_characters_of_base36() {
        let id = SandboxId::from_random([255; 21]);
        assert_eq!(id.as_str().len(), 21);
        assert_eq!(id.as_str().parse::<SandboxId>(), Ok(id));
        for bad in
            ["", "abc", "ABCDEFGHIJKLMNOPQRSTU", "abcdefghijklmnopqrst-", "aaaaaaaaaaaaaaaaaaaaaa"]
        {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn prefixed_ids_refuse_each_other() {
        let project = ProjectId::from_random([7; 16]);
        assert_eq!(project.to_string().parse::<ProjectId>(), Ok(project.clone()));
        assert!(project.as_str().parse::<KeyId>().is_err());
        assert!("node_short".parse::<NodeId>().is_err());
    }
}
