//! What is written down about a capture: `manifest.json`, never changed, and `checksums.json`,
//! added when the large files were read.
//!
//! Both are JSON whose first line holds the version of the format and the checksum of all that
//! follows it, so that a damaged one is known before it is believed:
//!
//! ```text
//! {"format_version":1,"blake3":"…64 hex digits…",
//!   "name": "…", …}
//! ```

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tarn_types::ByteSize;

use crate::durable;
use crate::step::{HostStepError, StepContext as _};

/// The version of both files that this code writes and reads.
const FORMAT_VERSION: u64 = 1;
/// The most of such a file that is read; what is in them is bounded by what makers note down.
const LONGEST: u64 = 16 << 20;

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// The capture's name.
    pub(super) name: String,
    /// The clone of the layer.
    pub(super) layer: LayerPart,
    /// The files of the memory image, sorted by name.
    pub(super) memory: Vec<MemoryPart>,
    /// What the maker wrote down.
    pub(super) note: serde_json::Value,
}

/// The clone of the layer, as it was when the capture became whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerPart {
    pub(super) size: ByteSize,
    /// Another file system may allocate it differently: not compared.
    pub(super) allocated: ByteSize,
}

/// One file of the memory image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemoryPart {
    pub(super) name: String,
    pub(super) size: ByteSize,
    /// Its checksum, if it is small enough to be read each time the capture is opened.
    pub(super) blake3: Option<String>,
}

/// `checksums.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checksums {
    /// The checksum of the manifest that these belong to.
    pub(super) manifest: String,
    /// By path in the capture's directory.
    pub(super) files: BTreeMap<String, String>,
}

/// A file that was read, with its own checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sealed<T> {
    pub(super) content: T,
    pub(super) blake3: String,
}

/// Why such a file gives nothing.
#[derive(Debug)]
pub(super) enum Unreadable {
    Absent,
    /// It says what is wrong, naming the file.
    Damaged(String),
    Step(HostStepError),
}

#[derive(Debug, Deserialize)]
struct Version {
    format_version: u64,
}

/// Writes a file whole or not at all, and durably.
pub(super) fn write(path: &Path, content: &impl Serialize) -> Result<(), HostStepError> {
    let text = seal(content).step("write", path)?;
    durable::write_file(path, text.as_bytes(), 0o600)
}

/// Writes a new file, and does not wait for the disk.
pub(super) fn write_new(path: &Path, content: &impl Serialize) -> Result<(), HostStepError> {
    let text = seal(content).step("write", path)?;
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(0o600).open(path).step("make", path)?;
    file.write_all(text.as_bytes()).step("write", path)
}

/// Reads a file back.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Sealed<T>, Unreadable> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Unreadable::Absent);
        }
        Err(error) => return Err(Unreadable::Step(HostStepError::new("open", path, error))),
    };
    let mut bytes = Vec::new();
    let read = file.take(LONGEST).read_to_end(&mut bytes).step("read", path);
    read.map_err(Unreadable::Step)?;
    parse(path, &bytes)
}

/// Reads what such a file holds, or is to hold.
pub(super) fn parse<T: DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
) -> Result<Sealed<T>, Unreadable> {
    unseal(bytes).map_err(|detail| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Unreadable::Damaged(format!("{name} {detail}"))
    })
}

fn seal(content: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string_pretty(content)?;
    // The brace that opens it goes to the first line.
    let rest = format!("{}\n", text.trim_start_matches('{').trim_start_matches('\n'));
    Ok(first_line(&checksum(rest.as_bytes())) + &rest)
}

fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<Sealed<T>, String> {
    let version: Version =
        serde_json::from_slice(bytes).map_err(|error| format!("cannot be read: {error}"))?;
    let version = version.format_version;
    if version != FORMAT_VERSION {
        return Err(format!(
            "has format {version} and this server reads format {FORMAT_VERSION}; use the version of the server that wrote it, or a newer one"
        ));
    }
    let after_line = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    let (line, rest) = bytes.split_at(after_line);
    let blake3 = checksum(rest);
    if line != first_line(&blake3).as_bytes() {
        return Err("differs from its own checksum".to_owned());
    }
    let content =
        serde_json::from_slice(bytes).map_err(|error| format!("cannot be read: {error}"))?;
    Ok(Sealed { content, blake3 })
}

fn first_line(blake3: &str) -> String {
    format!("{{\"format_version\":{FORMAT_VERSION},\"blake3\":\"{blake3}\",\n")
}

fn checksum(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A manifest as the first version wrote it: it must be readable for ever.
    const GOLDEN: &str = include_str!("golden/manifest-v1.json");

    fn sample() -> Manifest {
        Manifest {
            name: "snap_1".to_owned(),
            layer: LayerPart {
                size: ByteSize::from_mib(64),
                allocated: ByteSize::from_bytes(8192),
            },
            memory: vec![
                MemoryPart {
                    name: "checkpoint.img".to_owned(),
                    size: ByteSize::from_bytes(3),
                    blake3: Some(checksum(b"abc")),
                },
                MemoryPart {
                    name: "pages.img".to_owned(),
                    size: ByteSize::from_mib(512),
                    blake3: None,
                },
            ],
            note: json!({"ratio": 0.1, "text": "\n{\"x\":1}"}),
        }
    }

    #[test]
    fn the_format_stays_what_it_is() -> anyhow::Result<()> {
        assert_eq!(seal(&sample())?, GOLDEN);
        let read = unseal::<Manifest>(GOLDEN.as_bytes()).map_err(anyhow::Error::msg)?;
        assert_eq!(read.content, sample());
        Ok(())
    }

    #[test]
    fn fields_of_a_later_server_pass() -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct Later {
            added: u8,
            #[serde(flatten)]
            manifest: Manifest,
        }
        let text = seal(&Later { added: 1, manifest: sample() })?;
        let read = unseal::<Manifest>(text.as_bytes()).map_err(anyhow::Error::msg)?;
        assert_eq!(read.content, sample());
        Ok(())
    }

    #[test]
    fn every_changed_byte_is_seen() -> anyhow::Result<()> {
        let text = seal(&Checksums { manifest: "m".to_owned(), files: BTreeMap::new() })?;
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(unseal::<Checksums>(&bytes).is_err(), "{at}");
            assert!(unseal::<Checksums>(&text.as_bytes()[..at]).is_err(), "cut at {at}");
        }
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            (
                "{\"format_version\":2,\"blake3\":\"\"}",
                "has format 2 and this server reads format 1",
            ),
            ("{}", "missing field `format_version`"),
            ("{\"format_version\":1}", "differs from its own checksum"),
            ("", "cannot be read"),
        ] {
            let error = unseal::<Manifest>(text.as_bytes()).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
