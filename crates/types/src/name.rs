//! Names that users choose: of sandboxes and of images.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::SandboxId;

/// Says which rule of spec 01 §1 a sandbox name breaks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("a name must not be empty")]
    Empty,
    /// The name has more than 63 characters.
    #[error("a name has at most 63 characters, this one has {0}")]
    TooLong(usize),
    /// The name starts with something else than a lower-case letter.
    #[error("a name starts with a lower-case letter a-z")]
    BadStart,
    /// The name holds a character outside `[a-z0-9-]`.
    #[error("a name holds only a-z, 0-9 and `-`, not `{0}`")]
    BadCharacter(char),
    /// The name ends in `-`.
    #[error("a name must not end in `-`")]
    BadEnd,
    /// The name could be taken for an id.
    #[error("a name of exactly 21 letters and digits could be an id; make it longer or shorter")]
    LooksLikeId,
}

/// Names a sandbox within its project; having one is what makes a sandbox *named*.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxName(Arc<str>);

/// What a caller writes where a sandbox is meant: an id or a name (spec 01 §1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SandboxRef {
    /// The text has the shape of an id.
    Id(SandboxId),
    /// The text is a possible name.
    Name(SandboxName),
}

/// Says why a text cannot name an image.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImageNameError {
    /// The name has no characters.
    #[error("an image name must not be empty")]
    Empty,
    /// The name has more than 255 characters.
    #[error("an image name has at most 255 characters")]
    TooLong,
    /// The name holds a character that no image name has.
    #[error("an image name holds only letters, digits and `.`, `_`, `-`, `/`, `:`, `@`, not `{0}`")]
    BadCharacter(char),
}

/// Names an image as the caller wrote it, lower-cased (spec 06) but for a tag: registries tell the
/// cases of tags apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(Arc<str>);

// === impl SandboxName ===

impl SandboxName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some(first) = text.chars().next() else { return Err(NameError::Empty) };
        if text.len() > 63 {
            return Err(NameError::TooLong(text.chars().count().max(64)));
        }
        if let Some(bad) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
            return Err(NameError::BadCharacter(bad));
        }
        if !first.is_ascii_lowercase() {
            return Err(NameError::BadStart);
        }
        if text.ends_with('-') {
            return Err(NameError::BadEnd);
        }
        if SandboxId::has_shape(text) {
            return Err(NameError::LooksLikeId);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for SandboxName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<SandboxName> for String {
    fn from(name: SandboxName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for SandboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl SandboxRef ===

impl FromStr for SandboxRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.parse::<SandboxId>() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_not_an_id) => text.parse().map(Self::Name),
        }
    }
}

impl fmt::Display for SandboxRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

// === impl ImageName ===

impl ImageName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        if text.is_empty() {
            return Err(ImageNameError::Empty);
        }
        if text.len() > 255 {
            return Err(ImageNameError::TooLong);
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
        if let Some(bad) = text.chars().find(|c| !allowed(*c)) {
            return Err(ImageNameError::BadCharacter(bad));
        }
        let (path, tag) = text.split_at(tag_start(text));
        Ok(Self(format!("{}{tag}", path.to_ascii_lowercase()).into()))
    }
}

impl TryFrom<String> for ImageName {
    type Error = ImageNameError;

    fn try_from(text: String) -> Result<Self, ImageNameError> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns where a tag begins, with its colon; the end if there is none. A colon before a `/` is
/// that of a port, and one after an `@` that of a digest.
fn tag_start(text: &str) -> usize {
    let end = text.find('@').unwrap_or(text.len());
    let name = text[..end].rfind('/').map_or(0, |slash| slash + 1);
    if end < text.len() {
        // A tag before a digest says nothing that the digest does not.
        return text.len();
    }
    text[name..].find(':').map_or(text.len(), |colon| name + colon)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_the_spec() {
        let long = "a".repeat(64);
        let cases: [(&str, Option<NameError>); 12] = [
            ("a", None),
            ("my-box-1", None),
            ("a23456789012345678901", Some(NameError::LooksLikeId)),
            ("a2345678901234567890-b", None),
            ("a234567890-2345678901", None),
            ("", Some(NameError::Empty)),
            ("1a", Some(NameError::BadStart)),
            ("-a", Some(NameError::BadStart)),
            ("a-", Some(NameError::BadEnd)),
            ("A", Some(NameError::BadCharacter('A'))),
            ("a b", Some(NameError::BadCharacter(' '))),
            (&long, Some(NameError::TooLong(64))),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<SandboxName>().err(), expected, "{text}");
        }
    }

    #[test]
    fn a_reference_is_an_id_by_its_shape_alone() {
        assert!(matches!("012345678901234567890".parse(), Ok(SandboxRef::Id(_))));
        assert!(matches!("box".parse(), Ok(SandboxRef::Name(_))));
        assert!("../etc".parse::<SandboxRef>().is_err());
    }

    #[test]
    fn image_names_are_lower_cased() {
        let name: ImageName = "Tensorlake/Ubuntu-Minimal".parse().expect("a good name");
        assert_eq!(name.as_str(), "tensorlake/ubuntu-minimal");
        assert_eq!("a b".parse::<ImageName>(), Err(ImageNameError::BadCharacter(' ')));
        for (text, kept) in [
            ("Python:3.12-Slim", "python:3.12-Slim"),
            ("Host:5000/A/B", "host:5000/a/b"),
            ("Host:5000/A/B:V1", "host:5000/a/b:V1"),
            ("A@SHA256:0A", "a@sha256:0a"),
        ] {
            assert_eq!(text.parse::<ImageName>().expect("a name").as_str(), kept);
        }
    }
}
