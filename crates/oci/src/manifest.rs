//! Manifests and indexes: what an image is made of.
//!
//! Source: the OCI image specification 1.1; Docker's "Image Manifest V 2, Schema 2".

use serde::Deserialize;

use crate::{Bounds, Digest, OciError, digest::shown};

/// What a manifest is asked for by, and what it may be.
pub(crate) const MEDIA_TYPES: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// What a configuration must be; anything else is an artifact that is no image.
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// What a layer's type begins with. How it is compressed its bytes tell better.
const LAYERS: [&str; 3] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
];
/// Layers of Windows, which are elsewhere.
const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";

/// Refers to content by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
}

/// What machine content is for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) variant: Option<String>,
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    /// The lowest first.
    pub(crate) layers: Vec<Descriptor>,
}

/// A manifest or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentFile {
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

// === impl Platform ===

impl Platform {
    /// Returns this machine's.
    pub(crate) fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { architecture: architecture.to_owned(), os: "linux".to_owned(), variant: None }
    }

    /// Says whether content for it runs on a machine. Of 64-bit ARM there are variants in name
    /// only; those of x86-64 above the first want a newer processor than each has.
    pub(crate) fn runs_on(&self, machine: &Self) -> bool {
        let variant = match machine.architecture.as_str() {
            "amd64" => matches!(self.variant.as_deref(), None | Some("" | "v1")),
            _ => true,
        };
        self.os == machine.os && self.architecture == machine.architecture && variant
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", shown(&self.os), shown(&self.architecture))?;
        match &self.variant {
            Some(variant) => write!(f, "/{}", shown(variant)),
            None => Ok(()),
        }
    }
}

// === impl Document ===

impl Document {
    /// Reads a document, whatever its sender calls it: its own words count.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, OciError> {
        let file: DocumentFile = serde_json::from_slice(bytes)
            .map_err(|error| OciError::malformed("a manifest", error.to_string()))?;
        if file.schema_version != 2 {
            return Err(OciError::Unsupported {
                what: format!("a manifest of schema {}", file.schema_version),
                advice: "push the image again with a client that writes schema 2 or OCI",
            });
        }
        match (file.config, file.layers, file.manifests) {
            // Whatever is both could be read as the one by a check and as the other by us.
            (None, None, Some(manifests)) => {
                expect_type(file.media_type.as_deref(), [OCI_INDEX, DOCKER_LIST])?;
                Ok(Self::Index(manifests))
            }
            (Some(config), Some(layers), None) => {
                expect_type(file.media_type.as_deref(), [OCI_MANIFEST, DOCKER_MANIFEST])?;
                let no_image = file.artifact_type.filter(|_| !is_config(&config.media_type));
                if let Some(artifact) = no_image {
                    return Err(unsupported("an artifact of type", &artifact));
                }
                Ok(Self::Manifest(Manifest { config, layers }))
            }
            _ => Err(OciError::malformed(
                "a manifest",
                "it has neither `config` and `layers` nor `manifests`, or all of them",
            )),
        }
    }
}

/// Chooses what runs on a machine from an index, the first of several.
pub(crate) fn choose<'a>(
    manifests: &'a [Descriptor],
    machine: &Platform,
) -> Result<&'a Descriptor, OciError> {
    let fits = |it: &&Descriptor| it.platform.as_ref().is_some_and(|it| it.runs_on(machine));
    if let Some(found) = manifests.iter().find(fits) {
        return Ok(found);
    }
    // One image that does not say what it is for: its configuration does.
    if let [only] = manifests
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let mut offered: Vec<String> =
        manifests.iter().filter_map(|it| it.platform.as_ref()).map(Platform::to_string).collect();
    offered.truncate(20);
    let offered = if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") };
    Err(OciError::NoPlatform { wanted: machine.to_string(), offered })
}

// === impl Manifest ===

impl Manifest {
    /// Checks that it is an image that may be pulled.
    pub(crate) fn check(&self, bounds: &Bounds) -> Result<(), OciError> {
        if !is_config(&self.config.media_type) {
            return Err(unsupported(
                "content with a configuration of type",
                &self.config.media_type,
            ));
        }
        if self.layers.len() > bounds.layers {
            let limit = bounds.layers as u64;
            return Err(OciError::TooLarge { what: "the number of its layers", limit });
        }
        if self.config.size > bounds.config_bytes {
            let limit = bounds.config_bytes;
            return Err(OciError::TooLarge { what: "the size of its configuration", limit });
        }
        let mut total: u64 = 0;
        for layer in &self.layers {
            if layer.media_type.starts_with(FOREIGN) {
                return Err(unsupported("a layer of Windows of type", &layer.media_type));
            }
            if !LAYERS.iter().any(|known| layer.media_type.starts_with(known)) {
                return Err(unsupported("a layer of type", &layer.media_type));
            }
            total = total.saturating_add(layer.size);
        }
        if total > bounds.fetched_bytes {
            let limit = bounds.fetched_bytes;
            return Err(OciError::TooLarge { what: "the size of its layers", limit });
        }
        Ok(())
    }
}

fn is_config(media_type: &str) -> bool {
    CONFIGS.contains(&media_type)
}

fn expect_type(media_type: Option<&str>, known: [&str; 2]) -> Result<(), OciError> {
    match media_type {
        Some(other) if !known.contains(&other) => Err(unsupported("a manifest of type", other)),
        Some(_) | None => Ok(()),
    }
}

fn unsupported(what: &str, media_type: &str) -> OciError {
    OciError::Unsupported {
        what: format!("{what} `{}`", shown(media_type)),
        advice: "name a container image for Linux",
    }
}

#[cfg(test)]
mod tests;
