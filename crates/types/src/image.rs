//! Which image a sandbox boots: the name that was asked for, and which image that was then.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    ImageName, ImageNameError, ProjectId, RegisteredImage, Restore, SecretValue, SnapshotKind,
    UnixMillis,
};

/// Says why a text is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a digest is `sha256:` and 64, or `sha512:` and 128, hex digits in lower case")]
pub struct ImageDigestError;

/// The digest of an image's manifest, which names its content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageDigest(Arc<str>);

/// The image that a name meant when it was asked for. Another image may have the name since.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ImagePin {
    /// Which image.
    pub digest: ImageDigest,
    /// The reference that it can be pulled by again, digest included; `None` = it was imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// The run-time part of an image's configuration (spec 01 §10).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `ENV`, in order.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// `USER`; `None` = root.
    #[serde(default)]
    pub user: Option<String>,
    /// `WORKDIR`; `None` = the user's home.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// `ENTRYPOINT`.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// `CMD`.
    #[serde(default)]
    pub cmd: Vec<String>,
}

/// What a sandbox boots. Without a pin its template is that of a stock image, which its node finds
/// by its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct BootImage {
    /// The image as the caller named it.
    pub name: ImageName,
    /// Which one that was; of a registered image, the one that it was built on.
    pub pin: Option<ImagePin>,
    /// The registered image that the name meant, if it was one.
    pub registered: Option<Box<RegisteredImage>>,
}

/// A name that was given to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageNameRecord {
    /// Whose name it is; `None` = every project's that has none of its own like it.
    pub project: Option<ProjectId>,
    /// The name.
    pub name: ImageName,
    /// The image.
    pub pin: ImagePin,
    /// When the name was first given.
    pub created_at: UnixMillis,
    /// When it was last given.
    pub updated_at: UnixMillis,
}

/// How a project proves to a registry who it is, without the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryLoginRecord {
    /// Whose it is.
    pub project: ProjectId,
    /// The registry's host, with its port if it has one.
    pub registry: String,
    /// The user's name there.
    pub username: String,
    /// When it was last set.
    pub updated_at: UnixMillis,
}

/// How a project proves to a registry who it is. `Debug` hides the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryLogin {
    /// The user's name.
    pub username: String,
    /// The password or token.
    pub password: SecretValue,
}

/// A boot image as it is stored: a stock image is its name alone.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Name(ImageName),
    Full {
        name: ImageName,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pin: Option<ImagePin>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        registered: Option<Box<RegisteredImage>>,
    },
}

// === impl ImageDigest ===

impl ImageDigest {
    /// Returns the digest as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the first twelve digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        let digits = self.0.split_once(':').map_or("", |(_, digits)| digits);
        digits.get(..12).unwrap_or(digits)
    }
}

impl FromStr for ImageDigest {
    type Err = ImageDigestError;

    fn from_str(text: &str) -> Result<Self, ImageDigestError> {
        let (algorithm, digits) = text.split_once(':').ok_or(ImageDigestError)?;
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(ImageDigestError),
        };
        let good = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != length || !digits.bytes().all(good) {
            return Err(ImageDigestError);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for ImageDigest {
    type Error = ImageDigestError;

    fn try_from(text: String) -> Result<Self, ImageDigestError> {
        text.parse()
    }
}

impl From<ImageDigest> for String {
    fn from(digest: ImageDigest) -> Self {
        digest.0.as_ref().to_owned()
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl BootImage ===

impl BootImage {
    /// Returns what counts of the image when it runs, if its template does not say that.
    #[must_use]
    pub fn config(&self) -> Option<&ImageConfig> {
        self.registered.as_ref().and_then(|registered| registered.config.as_ref())
    }

    /// Returns what a sandbox is restored from that boots the image; `None` = its template alone.
    #[must_use]
    pub fn files(&self) -> Option<Restore> {
        let snapshot = self.registered.as_ref()?.snapshot.clone();
        Some(Restore { snapshot, kind: SnapshotKind::Filesystem })
    }
}

impl From<ImageName> for BootImage {
    fn from(name: ImageName) -> Self {
        Self { name, pin: None, registered: None }
    }
}

impl FromStr for BootImage {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        text.parse().map(|name: ImageName| name.into())
    }
}

impl fmt::Display for BootImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl From<Stored> for BootImage {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Name(name) => name.into(),
            Stored::Full { name, pin, registered } => Self { name, pin, registered },
        }
    }
}

impl From<BootImage> for Stored {
    fn from(image: BootImage) -> Self {
        match image {
            BootImage { name, pin: None, registered: None } => Self::Name(name),
            BootImage { name, pin, registered } => Self::Full { name, pin, registered },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImageId, SnapshotId};

    fn digest() -> ImageDigest {
        format!("sha256:{}", "0123456789abcdef".repeat(4)).parse().expect("a digest")
    }

    #[test]
    fn digests_are_of_known_kinds_and_can_be_file_names() {
        assert_eq!(digest().short(), "0123456789ab");
        let long = "a".repeat(128);
        assert!(format!("sha512:{long}").parse::<ImageDigest>().is_ok());
        for bad in ["", "sha256:", "sha256:ab", &format!("sha256:{long}"), "md5:00", "sha256:../.."]
        {
            assert_eq!(bad.parse::<ImageDigest>(), Err(ImageDigestError), "{bad}");
        }
        let upper = digest().as_str().to_uppercase().replace("SHA", "sha");
        assert_eq!(upper.parse::<ImageDigest>(), Err(ImageDigestError));
    }

    #[test]
    fn a_stock_image_is_stored_as_its_name() {
        let plain: BootImage = "tensorlake/ubuntu-minimal".parse().expect("a name");
        let text = serde_json::to_string(&plain).expect("text");
        assert_eq!(text, r#""tensorlake/ubuntu-minimal""#);
        let pin = ImagePin { digest: digest(), source: Some("h/r@sha256:0".to_owned()) };
        let registered = RegisteredImage {
            id: ImageId::from_random([1; 16]),
            project: ProjectId::from_random([3; 16]),
            snapshot: SnapshotId::from_random([2; 16]),
            config: Some(ImageConfig { user: Some("u".to_owned()), ..ImageConfig::default() }),
        };
        let built = BootImage { registered: Some(Box::new(registered)), ..plain.clone() };
        let pinned = BootImage { pin: Some(pin.clone()), ..plain.clone() };
        let both = BootImage { pin: Some(pin), ..built.clone() };
        for image in [plain, pinned, built, both] {
            let text = serde_json::to_string(&image).expect("text");
            assert_eq!(serde_json::from_str::<BootImage>(&text).expect("it is read"), image);
        }
    }
}
