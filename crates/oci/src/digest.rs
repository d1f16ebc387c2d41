//! Names of content.

use std::{fmt, str::FromStr, sync::Arc};

use aws_lc_rs::digest::{Context, SHA256, SHA512};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Says why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DigestError {
    /// The algorithm is none that verifies anything.
    #[error("`{0}` is not a digest: it must begin with `sha256:` or `sha512:`")]
    Algorithm(String),
    /// What follows is not the hexadecimal digits of that algorithm.
    #[error("`{0}` is not a digest: after the colon must stand {1} lower-case hexadecimal digits")]
    Digits(String, usize),
}

/// Names content by its hash: `sha256:` and 64 hexadecimal digits, or `sha512:` and 128.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(Arc<str>);

/// Hashes content as it comes by.
#[derive(Clone)]
pub(crate) struct Hasher {
    context: Context,
    prefix: &'static str,
}

// === impl Digest ===

impl Digest {
    /// Returns the name of the algorithm.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        if self.0.starts_with("sha512:") { "sha512" } else { "sha256" }
    }

    /// Returns the hexadecimal digits: fit for a file name.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// Returns the whole digest as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Hashes bytes by SHA-256.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::sha256();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns a hasher of the same algorithm.
    pub(crate) fn hasher(&self) -> Hasher {
        match self.algorithm() {
            "sha512" => Hasher { context: Context::new(&SHA512), prefix: "sha512:" },
            _ => Hasher::sha256(),
        }
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (digits, count) = match text.split_once(':') {
            Some(("sha256", digits)) => (digits, 64),
            Some(("sha512", digits)) => (digits, 128),
            _ => return Err(DigestError::Algorithm(shown(text))),
        };
        let good = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() != count || !digits.bytes().all(good) {
            return Err(DigestError::Digits(shown(text), count));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0.as_ref().to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Hasher ===

impl Hasher {
    pub(crate) fn sha256() -> Self {
        Self { context: Context::new(&SHA256), prefix: "sha256:" }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let hash = self.context.finish();
        let mut text = String::from(self.prefix);
        for byte in hash.as_ref() {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        Digest(text.into())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Returns a text from outside as it may stand in a message.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut shown: String =
        text.chars().take(LONGEST).flat_map(|character| character.escape_debug()).collect();
    if text.chars().count() > LONGEST {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_digests_of_known_algorithms_pass() {
        let good = Digest::of(b"");
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(good.as_str(), empty);
        assert_eq!(empty.parse::<Digest>().unwrap(), good);
        assert_eq!((good.algorithm(), good.hex()), ("sha256", &empty[7..]));
        let long = format!("sha512:{}", "0".repeat(128));
        let mut hasher = long.parse::<Digest>().unwrap().hasher();
        hasher.update(b"abc");
        assert!(hasher.finish().as_str().starts_with("sha512:ddaf35a193617aba"));
        let bad = [
            String::new(),
            "sha256".to_owned(),
            "sha256:".to_owned(),
            format!("sha256:{}", "0".repeat(63)),
            format!("sha256:{}", "0".repeat(65)),
            format!("sha256:{}", "A".repeat(64)),
            format!("sha256:{}/", "0".repeat(63)),
            format!("sha1:{}", "0".repeat(40)),
            format!("md5:{}", "0".repeat(32)),
            format!("sha512:{}", "0".repeat(64)),
            format!("../sha256:{}", "0".repeat(64)),
        ];
        for text in bad {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
