//! The secret between the ingress and one sandbox's daemon.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Opens one sandbox's daemon: 32 random bytes as 64 hex digits. `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DaemonToken(Arc<str>);

impl DaemonToken {
    /// Makes a token from 32 random bytes.
    #[must_use]
    pub fn from_random(random: [u8; 32]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(64);
        for byte in random {
            // Writing to a `String` cannot fail.
            _ = write!(text, "{byte:02x}");
        }
        Self(text.into())
    }

    /// Returns the secret itself, for the one header that carries it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DaemonToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DaemonToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_secret() {
        let token = DaemonToken::from_random([0xab; 32]);
        assert_eq!(token.reveal(), "ab".repeat(32));
        assert_eq!(format!("{token:?}"), "DaemonToken(…)");
    }
}
