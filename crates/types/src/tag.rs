//! The mark that a server puts on everything it makes on a host.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::IdError;

/// Marks the host objects of one server: six characters of `[0-9a-z]`, from its data directory.
///
/// Interfaces, namespaces, tables, cgroups and loop files carry it, so two servers on one host
/// never touch each other's (design §8). Six characters leave room for an index within the 15
/// characters of an interface name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceTag(Arc<str>);

impl InstanceTag {
    /// The length of every tag, in characters.
    pub const LENGTH: usize = 6;

    /// Derives a tag from at least six bytes, usually a hash of the data directory's path.
    #[must_use]
    pub fn from_hash(hash: [u8; 6]) -> Self {
        const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let text: String =
            hash.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % 36])).collect();
        Self(text.into())
    }

    /// Returns the tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InstanceTag {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let good = text.len() == Self::LENGTH
            && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
        if good {
            return Ok(Self(text.into()));
        }
        Err(IdError::new("instance tag", text, "six characters of 0-9 and a-z"))
    }
}

impl fmt::Display for InstanceTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
