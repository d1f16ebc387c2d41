//! Names of images, by the grammar and with the defaults that Docker gave them.
//!
//! Source: the OCI distribution specification 1.1, "Pulling manifests", and the package
//! `reference` of Docker's distribution.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Digest, DigestError, digest::shown};

/// The registry of names that name none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of names that have neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// The longest name of a registry, and of a repository with its registry, in bytes.
const LONGEST_NAME: usize = 255;
/// The longest tag, in bytes.
const LONGEST_TAG: usize = 128;

/// Says why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReferenceError {
    /// Nothing is left for the name of the repository.
    #[error("`{0}` names no image: write `[registry/]repository[:tag][@digest]`")]
    Empty(String),
    /// The registry is no host name or address with an optional port.
    #[error("`{0}` is not a registry: write a host name, perhaps with `:` and a port")]
    Registry(String),
    /// The repository has characters that registries do not take.
    #[error(
        "`{0}` is not a repository: its parts, between `/`, hold lower-case letters and digits, with single `.`, `_`, `__` or any number of `-` between them"
    )]
    Repository(String),
    /// Sixty-four hexadecimal digits would be mistaken for an id.
    #[error("`{0}` looks like an id, not like the name of an image")]
    LooksLikeId(String),
    /// The name is too long.
    #[error("a registry and repository have at most {LONGEST_NAME} characters together")]
    TooLong,
    /// The tag has characters that registries do not take, or is too long.
    #[error(
        "`{0}` is not a tag: it holds at most {LONGEST_TAG} letters, digits, `_`, `.` and `-`, and begins with none of the latter two"
    )]
    Tag(String),
    /// The digest is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// Names an image: a registry, a repository in it, and a tag or a digest or both. The digest
/// counts where there are both.
///
/// `alpine` is `docker.io/library/alpine:latest`. [`fmt::Display`] writes everything out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: Arc<str>,
    repository: Arc<str>,
    tag: Option<Arc<str>>,
    digest: Option<Digest>,
}

// === impl Reference ===

impl Reference {
    /// Returns the registry: `host` or `host:port`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the repository within its registry, such as `library/alpine`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag; there is one unless there is a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest that the name pins, if it does.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns the same name, pinned to a digest.
    #[must_use]
    pub fn pinned(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// Says whether the registry is on this machine's loopback: `localhost` or an address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.registry)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon before a slash is that of the registry's port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            Some(_) | None => (name, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag(shown(tag)));
        }
        let (registry, repository) = split_registry(name);
        if repository.is_empty() {
            return Err(ReferenceError::Empty(shown(text)));
        }
        let registry = match registry {
            None | Some("index.docker.io") => DEFAULT_REGISTRY.to_owned(),
            Some(registry) if is_registry(registry) => lower_case(registry),
            Some(registry) => return Err(ReferenceError::Registry(shown(registry))),
        };
        if !repository.split('/').all(is_part) {
            return Err(ReferenceError::Repository(shown(repository)));
        }
        if repository.len() == 64 && repository.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ReferenceError::LooksLikeId(shown(repository)));
        }
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        if registry.len() + 1 + repository.len() > LONGEST_NAME {
            return Err(ReferenceError::TooLong);
        }
        let tag = tag.or(digest.is_none().then_some(DEFAULT_TAG)).map(Into::into);
        Ok(Self { registry: registry.into(), repository: repository.into(), tag, digest })
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Says whether a registry, `host` or `host:port`, is on this machine's loopback.
pub(crate) fn is_loopback(registry: &str) -> bool {
    let (host, _) = split_port(registry);
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Splits a name at its first slash if what stands before can be nothing but a registry.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest)) if is_registry_for_sure(first) => (Some(first), rest),
        Some(_) | None => (None, name),
    }
}

/// Returns a registry as it is compared: in lower case, unless only its capitals make it one.
fn lower_case(registry: &str) -> String {
    let lower = registry.to_ascii_lowercase();
    if is_registry_for_sure(&lower) { lower } else { registry.to_owned() }
}

/// Says whether what stands before a first slash can be nothing but a registry.
fn is_registry_for_sure(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Splits a port off; the colons within brackets are an address's own.
fn split_port(registry: &str) -> (&str, Option<&str>) {
    match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (registry, None),
    }
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = split_port(registry);
    if port.is_some_and(|port| {
        !port.bytes().all(|byte| byte.is_ascii_digit())
            || !port.parse::<u16>().is_ok_and(|it| it > 0)
    }) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(label)
}

/// Says whether a text may stand between the slashes of a repository: letters and digits, parted
/// by `.`, `_`, `__` or dashes.
fn is_part(part: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    if !bytes.first().is_some_and(|byte| is_word(*byte))
        || !bytes.last().is_some_and(|byte| is_word(*byte))
    {
        return false;
    }
    part.split(|character: char| character.is_ascii() && is_word(character as u8))
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|byte| byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests;
