//! GPUs: whole devices of named models (spec 01 §8).

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// The longest name of a model.
const MODEL_MAX: usize = 40;

/// The model of a GPU, by the name that requests use. Small enough to be copied.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GpuModel {
    /// Unused bytes are 0.
    bytes: [u8; MODEL_MAX],
    len: u8,
}

/// Says why a text names no model of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no name of a GPU model: 1 to 40 of A-Z, a-z, 0-9, `-` and `.`")]
pub struct GpuModelError(String);

/// Some whole GPUs of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gpus {
    /// Which.
    pub model: GpuModel,
    /// How many; at least one.
    pub count: u32,
}

/// One device, by the name that its driver gives it for ever, such as `GPU-8f6d…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GpuId(String);

/// What a node has of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuStock {
    /// The model.
    pub model: GpuModel,
    /// How many there are, those in use and out of use included.
    pub total: u32,
    /// How many can be given out now.
    pub free: u32,
}

/// What a sandbox must be given of its host to use its GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GpuFiles {
    /// Device nodes.
    pub devices: Vec<GpuDeviceNode>,
    /// Files of the driver, bound read-only.
    pub mounts: Vec<GpuMount>,
    /// Directories inside in which programs find the driver's libraries.
    pub library_dirs: Vec<PathBuf>,
    /// Variables that every process of the sandbox gets, before those of its image.
    pub env: Vec<(String, String)>,
}

/// A character device of the host that a sandbox sees.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GpuDeviceNode {
    /// Where it is, on the host and inside.
    pub path: PathBuf,
    /// Its major number on the host.
    pub major: u32,
    /// Its minor number on the host.
    pub minor: u32,
}

/// A file of the host that a sandbox sees.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GpuMount {
    /// Where it is on the host.
    pub source: PathBuf,
    /// Where it is inside.
    pub destination: PathBuf,
}

// === impl GpuModel ===

impl GpuModel {
    /// The model of a request that names none (spec 01 §8).
    pub const DEFAULT: &'static str = "A10";

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let used = &self.bytes[..usize::from(self.len)];
        // It was made of text.
        std::str::from_utf8(used).unwrap_or_default()
    }
}

impl FromStr for GpuModel {
    type Err = GpuModelError;

    fn from_str(text: &str) -> Result<Self, GpuModelError> {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
        if text.is_empty() || text.len() > MODEL_MAX || !text.bytes().all(is_fine) {
            return Err(GpuModelError(text.chars().take(80).collect()));
        }
        let mut bytes = [0; MODEL_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes, len })
    }
}

impl fmt::Display for GpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for GpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GpuModel({self})")
    }
}

impl Serialize for GpuModel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for GpuModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

// === impl GpuId ===

impl GpuId {
    /// Takes what the driver says.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_its_name() {
        for name in ["A10", "A100-80GB", "RTX-PRO-6000", &"x".repeat(40)] {
            let model: GpuModel = name.parse().expect("a name");
            assert_eq!(model.as_str(), name);
            let text = serde_json::to_string(&model).expect("it is written");
            assert_eq!(text, format!("\"{name}\""));
            assert_eq!(serde_json::from_str::<GpuModel>(&text).expect("it is read"), model);
        }
        for bad in ["", "A 10", "A10\n", "Ä", &"x".repeat(41)] {
            assert!(bad.parse::<GpuModel>().is_err(), "{bad}");
        }
        let short: GpuModel = "A1".parse().expect("a name");
        assert_ne!(Ok(short), "A10".parse());
    }
}
