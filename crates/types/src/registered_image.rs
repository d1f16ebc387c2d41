//! Registered images: files that a sandbox had, kept under a name (spec 06).
//!
//! An image is an immutable filesystem snapshot, what counts of it when it runs, and a name. Both
//! families of the API show the same images; the id of one is written in two ways.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    ByteSize, IdError, ImageConfig, ImageId, ImageName, ProjectId, SandboxId, SnapshotId,
    UnixMillis,
};

/// Through which family of the API an image was made.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum ImageFamily {
    /// `/images/v4`: ids begin with `image_`.
    #[default]
    Cas,
    /// `/platform/v1/…sandbox-templates`: ids begin with `sandbox_template_`.
    Legacy,
}

/// The id of a registered image as a caller wrote it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateId {
    /// In which of the two ways.
    pub family: ImageFamily,
    /// The image.
    pub image: ImageId,
}

/// What a sandbox that is made from a registered image has of it, whatever becomes of the image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RegisteredImage {
    /// The image.
    pub id: ImageId,
    /// Whose it is, and so whose its files are.
    pub project: ProjectId,
    /// The files that it was made of then.
    pub snapshot: SnapshotId,
    /// What counted of it then; `None` = what the image says that it was built on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ImageConfig>,
}

/// All that is stored of a registered image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Its id. Another image that takes the name takes the id, too.
    pub id: ImageId,
    /// The project that made it, and may delete it.
    pub project: ProjectId,
    /// Whether its name counts in every project that has none of its own like it.
    pub global: bool,
    /// Its name, in lower case.
    pub name: ImageName,
    /// Through which family it was made: that one lists it.
    pub family: ImageFamily,
    /// Its files.
    pub snapshot: SnapshotId,
    /// What those were taken of.
    pub sandbox: SandboxId,
    /// What counts of it when it runs; `None` = what the image says that it was built on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ImageConfig>,
    /// The text that it was made by, as a caller gave it; it is shown and not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<String>,
    /// The bytes that its files occupy, beside the image that it was built on.
    pub size: ByteSize,
    /// The size of its disk: no sandbox made from it has a smaller one.
    pub disk: ByteSize,
    /// When the name was first given to an image of the project.
    pub created_at: UnixMillis,
    /// When it was last given to one.
    pub updated_at: UnixMillis,
}

const TEMPLATE_PREFIX: &str = "sandbox_template_";
const IMAGE_PREFIX: &str = "image_";

// === impl TemplateId ===

impl TemplateId {
    /// Writes the id of an image in the way of a family.
    #[must_use]
    pub const fn new(family: ImageFamily, image: ImageId) -> Self {
        Self { family, image }
    }
}

impl FromStr for TemplateId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let rule = "`sandbox_template_` or `image_`, and 16 characters of 0-9 and a-z";
        let wrong = |_inner: IdError| IdError::new("template id", text, rule);
        match text.strip_prefix(TEMPLATE_PREFIX) {
            Some(rest) => {
                let image = format!("{IMAGE_PREFIX}{rest}").parse().map_err(wrong)?;
                Ok(Self::new(ImageFamily::Legacy, image))
            }
            None => Ok(Self::new(ImageFamily::Cas, text.parse().map_err(wrong)?)),
        }
    }
}

impl TryFrom<String> for TemplateId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<TemplateId> for String {
    fn from(id: TemplateId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for TemplateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = self.image.as_str();
        match self.family {
            ImageFamily::Cas => f.write_str(image),
            ImageFamily::Legacy => {
                let key = image.strip_prefix(IMAGE_PREFIX).unwrap_or(image);
                write!(f, "{TEMPLATE_PREFIX}{key}")
            }
        }
    }
}

// === impl ImageRecord ===

impl ImageRecord {
    /// Returns whose name it is; `None` = it counts in every project.
    #[must_use]
    pub fn scope(&self) -> Option<&ProjectId> {
        (!self.global).then_some(&self.project)
    }

    /// Returns what a sandbox has of it that is made from it now.
    #[must_use]
    pub fn registered(&self) -> RegisteredImage {
        RegisteredImage {
            id: self.id.clone(),
            project: self.project.clone(),
            snapshot: self.snapshot.clone(),
            config: self.config.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_in_two_ways() {
        let image = ImageId::from_random([3; 16]);
        let key = &image.as_str()["image_".len()..];
        let template = format!("sandbox_template_{key}");
        let parsed: TemplateId = template.parse().expect("a template id");
        assert_eq!(parsed, TemplateId::new(ImageFamily::Legacy, image.clone()));
        assert_eq!(parsed.to_string(), template);
        let parsed: TemplateId = image.as_str().parse().expect("an image id");
        assert_eq!(parsed, TemplateId::new(ImageFamily::Cas, image.clone()));
        assert_eq!(parsed.to_string(), image.as_str());
        for bad in ["", "image_", "sandbox_template_image_3333333333333333", "python", key] {
            assert!(bad.parse::<TemplateId>().is_err(), "{bad}");
        }
    }
}
