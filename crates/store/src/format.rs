//! The bytes of stored records.
//!
//! JSON, with the format's version kept beside it. Fields that this program does not know are
//! ignored, so a record written by a newer patch release is still read; a change that an older
//! program must not misread gets a new version.

use std::fmt::Display;

use serde::{Serialize, de::DeserializeOwned};
use tarn_types::{BuildRecord, ImageRecord, PoolRecord, SandboxRecord, SnapshotRecord};

use crate::StoreError;

/// The version that [`encode`] writes.
pub const RECORD_FORMAT: u32 = 1;

/// The version that [`encode_snapshot`] writes.
pub const SNAPSHOT_FORMAT: u32 = 1;

/// The version that [`encode_pool`] writes.
pub const POOL_FORMAT: u32 = 1;

/// The version that [`encode_image`] writes.
pub const IMAGE_FORMAT: u32 = 1;

/// The version that [`encode_build`] writes.
pub const BUILD_FORMAT: u32 = 1;

/// Writes a sandbox's record.
///
/// # Errors
/// `Internal` when it cannot be written as JSON.
pub fn encode(record: &SandboxRecord) -> Result<String, StoreError> {
    write("sandbox", &record.id, record)
}

/// Reads a sandbox's record of a stored version.
///
/// # Errors
/// `Internal` when the version is newer than this program, or the bytes are damaged.
pub fn decode(version: u32, id: &str, text: &str) -> Result<SandboxRecord, StoreError> {
    read("sandbox", RECORD_FORMAT, version, id, text)
}

/// Writes a snapshot's record.
///
/// # Errors
/// `Internal` when it cannot be written as JSON.
pub fn encode_snapshot(record: &SnapshotRecord) -> Result<String, StoreError> {
    write("snapshot", &record.id, record)
}

/// Reads a snapshot's record of a stored version.
///
/// # Errors
/// `Internal` when the version is newer than this program, or the bytes are damaged.
pub fn decode_snapshot(version: u32, id: &str, text: &str) -> Result<SnapshotRecord, StoreError> {
    read("snapshot", SNAPSHOT_FORMAT, version, id, text)
}

/// Writes a pool's record.
///
/// # Errors
/// `Internal` when it cannot be written as JSON.
pub fn encode_pool(record: &PoolRecord) -> Result<String, StoreError> {
    write("pool", &record.id, record)
}

/// Reads a pool's record of a stored version.
///
/// # Errors
/// `Internal` when the version is newer than this program, or the bytes are damaged.
pub fn decode_pool(version: u32, id: &str, text: &str) -> Result<PoolRecord, StoreError> {
    read("pool", POOL_FORMAT, version, id, text)
}

/// Writes a registered image's record.
///
/// # Errors
/// `Internal` when it cannot be written as JSON.
pub fn encode_image(record: &ImageRecord) -> Result<String, StoreError> {
    write("image", &record.id, record)
}

/// Reads a registered image's record of a stored version.
///
/// # Errors
/// `Internal` when the version is newer than this program, or the bytes are damaged.
pub fn decode_image(version: u32, id: &str, text: &str) -> Result<ImageRecord, StoreError> {
    read("image", IMAGE_FORMAT, version, id, text)
}

/// Writes a build's record.
///
/// # Errors
/// `Internal` when it cannot be written as JSON.
pub fn encode_build(record: &BuildRecord) -> Result<String, StoreError> {
    write("build", &record.id, record)
}

/// Reads a build's record of a stored version.
///
/// # Errors
/// `Internal` when the version is newer than this program, or the bytes are damaged.
pub fn decode_build(version: u32, id: &str, text: &str) -> Result<BuildRecord, StoreError> {
    read("build", BUILD_FORMAT, version, id, text)
}

fn write(what: &str, id: impl Display, record: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(record).map_err(|error| StoreError::Internal {
        detail: format!("write the record of {what} {id}: {error}"),
    })
}

fn read<T: DeserializeOwned>(
    what: &str,
    known: u32,
    version: u32,
    id: &str,
    text: &str,
) -> Result<T, StoreError> {
    if version != known {
        return Err(StoreError::Internal {
            detail: format!(
                "the record of {what} {id} has format {version}, this program reads {known}; start the release that wrote it"
            ),
        });
    }
    serde_json::from_str(text).map_err(|error| StoreError::Internal {
        detail: format!("the record of {what} {id} is damaged: {error}"),
    })
}
