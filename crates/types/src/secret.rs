//! Secrets: values of a project that its sandboxes get as environment variables (spec 08 §2).

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{ProjectId, SecretId, UnixMillis};

/// Says why a text cannot name a secret. It does not repeat the text: who mixes up name and value
/// must not find the value in an answer or a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SecretNameError {
    /// The name has no characters.
    #[error("a secret's name must not be empty")]
    Empty,
    /// The name is too long.
    #[error("a secret's name has at most {} characters", SecretName::LONGEST)]
    TooLong,
    /// The name is not that of an environment variable.
    #[error("a secret's name begins with a letter or `_` and holds only letters, digits and `_`")]
    BadCharacter,
}

/// Says why a text cannot be a secret, without repeating it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SecretValueError {
    /// No environment can hold it.
    #[error("must not hold a NUL character")]
    Nul,
    /// It is too long.
    #[error("{0} bytes; at most {most}", most = SecretValue::LONGEST)]
    TooLong(usize),
}

/// Names a secret within its project, and the variable it becomes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(Arc<str>);

/// The secret itself. `Debug` hides it, and its memory is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<String>);

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRecord {
    /// Its id, which stays when its value changes.
    pub id: SecretId,
    /// Whose it is.
    pub project: ProjectId,
    /// Its name, unique in the project.
    pub name: SecretName,
    /// When it was first made.
    pub created_at: UnixMillis,
    /// When its value was last set.
    pub updated_at: UnixMillis,
}

// === impl SecretName ===

impl SecretName {
    /// The longest name, in characters.
    pub const LONGEST: usize = 128;

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = SecretNameError;

    fn from_str(text: &str) -> Result<Self, SecretNameError> {
        let Some(first) = text.bytes().next() else { return Err(SecretNameError::Empty) };
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if first.is_ascii_digit() || !text.bytes().all(good) {
            return Err(SecretNameError::BadCharacter);
        }
        if text.len() > Self::LONGEST {
            return Err(SecretNameError::TooLong);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for SecretName {
    type Error = SecretNameError;

    fn try_from(text: String) -> Result<Self, SecretNameError> {
        text.parse()
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl SecretValue ===

impl SecretValue {
    /// The longest value, in bytes.
    pub const LONGEST: usize = 64 << 10;

    /// How long those of one sandbox may be together, with their names, in bytes: they travel in
    /// one request and stand before every program, and both have bounds of a few MiB.
    pub const MOST_TOGETHER: usize = 512 << 10;

    /// Takes a value.
    ///
    /// # Errors
    /// Fails for one that is too long, or that no environment can hold.
    pub fn new(text: String) -> Result<Self, SecretValueError> {
        let text = Zeroizing::new(text);
        if text.contains('\0') {
            return Err(SecretValueError::Nul);
        }
        if text.len() > Self::LONGEST {
            return Err(SecretValueError::TooLong(text.len()));
        }
        Ok(Self(text))
    }

    /// Returns the secret itself, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_variables() {
        for good in ["A", "_", "a1", "API_KEY", &"x".repeat(128)] {
            assert_eq!(good.parse::<SecretName>().map(|name| name.to_string()), Ok(good.into()));
        }
        let table = [
            ("", SecretNameError::Empty),
            ("1A", SecretNameError::BadCharacter),
            ("A-B", SecretNameError::BadCharacter),
            ("A=B", SecretNameError::BadCharacter),
            ("É", SecretNameError::BadCharacter),
            (&"x".repeat(129), SecretNameError::TooLong),
        ];
        for (bad, expected) in table {
            assert_eq!(bad.parse::<SecretName>(), Err(expected), "{bad}");
        }
    }

    #[test]
    fn a_value_shows_itself_only_when_asked() {
        let value = SecretValue::new("hush".to_owned()).expect("a value");
        assert_eq!((value.reveal(), format!("{value:?}").as_str()), ("hush", "SecretValue(…)"));
        assert!(SecretValue::new(String::new()).is_ok(), "an empty variable is one");
        let longest = SecretValue::LONGEST;
        assert!(SecretValue::new("x".repeat(longest)).is_ok());
        let long = SecretValue::new("x".repeat(longest + 1));
        assert_eq!(long, Err(SecretValueError::TooLong(longest + 1)));
        let nul = SecretValue::new("hush\0".to_owned()).expect_err("no variable");
        assert!(!nul.to_string().contains("hush"));
    }
}
