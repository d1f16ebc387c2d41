//! Files (spec 05 §3); contents travel as raw bytes.

use serde::{Deserialize, Serialize};

/// `GET /files/list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryListing {
    /// The path as it was asked for.
    pub path: String,
    /// Directories first, then by name.
    pub entries: Vec<DirectoryEntry>,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryEntry {
    /// The name alone.
    pub name: String,
    /// Whether it is a directory, links followed.
    pub is_dir: bool,
    /// Bytes; `null` for directories.
    pub size: Option<u64>,
    /// Last change of the content, ms since 1970.
    pub modified_at: i64,
}
