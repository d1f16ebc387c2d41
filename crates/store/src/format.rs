//! The bytes of a stored sandbox record.
//!
//! JSON, with the format's version kept beside it. Fields that this program does not know are
//! ignored, so a record written by a newer patch release is still read; a change that an older
//! program must not misread gets a new version.

use tarn_types::SandboxRecord;

use crate::StoreError;

/// The version that [`encode`] writes.
pub const RECORD_FORMAT: u32 = 1;

/// Writes a record.
///
/// # Errors
/// `Internal` when it cannot be written as JSON.
pub fn encode(record: &SandboxRecord) -> Result<String, StoreError> {
    serde_json::to_string(record).map_err(|error| StoreError::Internal {
        detail: format!("write the record of sandbox {}: {error}", record.id),
    })
}

/// Reads a record of a stored version.
///
/// # Errors
/// `Internal` when the version is newer than this program, or the bytes are damaged.
pub fn decode(version: u32, id: &str, text: &str) -> Result<SandboxRecord, StoreError> {
    if version != RECORD_FORMAT {
        return Err(StoreError::Internal {
            detail: format!(
                "the record of sandbox {id} has format {version}, this program reads {RECORD_FORMAT}; start the release that wrote it"
            ),
        });
    }
    serde_json::from_str(text).map_err(|error| StoreError::Internal {
        detail: format!("the record of sandbox {id} is damaged: {error}"),
    })
}
