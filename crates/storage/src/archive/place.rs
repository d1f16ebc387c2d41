//! Where things are in the object store.
//!
//! ```text
//!  snapshots/<project>/<name>      what a capture consists of; written last
//!  chunks/<project>/<aa>/<id>      its bytes; <aa> is how the id begins
//!  probes/<random>                 for an instant
//!  marks/store                     tells whose it is, and with which key
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};
use tarn_types::ProjectId;

/// Where the descriptions of captures are.
pub(super) const SNAPSHOTS: &str = "snapshots";
/// Where their bytes are.
pub(super) const CHUNKS: &str = "chunks";
/// Where what is written to be deleted is.
pub(super) const PROBES: &str = "probes";
/// Where the mark is, and what it lies beneath.
pub(super) const MARK: &str = "marks/store";
pub(super) const MARKS: &str = "marks";
const ID_LENGTH: usize = 32;

/// Names what a chunk holds; only the project's key makes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct ChunkId([u8; ID_LENGTH]);

/// The text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chunk's id is 64 hex digits")]
pub(super) struct NoChunkId;

pub(super) fn snapshot(project: &ProjectId, name: &str) -> String {
    format!("{SNAPSHOTS}/{project}/{name}")
}

/// Where the descriptions of a project's captures are.
pub(super) fn snapshots(project: &ProjectId) -> String {
    format!("{SNAPSHOTS}/{project}")
}

pub(super) fn chunk(project: &ProjectId, id: ChunkId) -> String {
    let id = id.to_string();
    let (first, _) = id.split_at(2);
    format!("{CHUNKS}/{project}/{first}/{id}")
}

/// Reads the path of a capture's description back.
pub(super) fn parse_snapshot(path: &str) -> Option<(ProjectId, &str)> {
    let rest = path.strip_prefix(SNAPSHOTS)?.strip_prefix('/')?;
    let (project, name) = rest.split_once('/')?;
    (!name.contains('/')).then_some((project.parse().ok()?, name))
}

/// Reads the path of a chunk back.
pub(super) fn parse_chunk(path: &str) -> Option<(ProjectId, ChunkId)> {
    let rest = path.strip_prefix(CHUNKS)?.strip_prefix('/')?;
    let (project, rest) = rest.split_once('/')?;
    let (_, id) = rest.split_once('/')?;
    let (project, id) = (project.parse().ok()?, ChunkId::try_from(id.to_owned()).ok()?);
    // Only what we would have written there.
    (chunk(&project, id) == path).then_some((project, id))
}

// === impl ChunkId ===

impl ChunkId {
    pub(super) const fn new(bytes: [u8; ID_LENGTH]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<ChunkId> for String {
    fn from(id: ChunkId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ChunkId {
    type Error = NoChunkId;

    fn try_from(text: String) -> Result<Self, NoChunkId> {
        let digits = text.as_bytes();
        let lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != 2 * ID_LENGTH || !digits.iter().all(lower) {
            return Err(NoChunkId);
        }
        let mut bytes = [0; ID_LENGTH];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte =
                u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_digits| NoChunkId)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROJECT: &str = "project_7777777777777777";

    #[test]
    fn paths_are_read_back() {
        let project = ProjectId::from_random([7; 16]);
        let id = ChunkId::new([0xab; ID_LENGTH]);
        let path = chunk(&project, id);
        assert_eq!(path, format!("chunks/{PROJECT}/ab/{}", "ab".repeat(ID_LENGTH)));
        assert_eq!(parse_chunk(&path), Some((project.clone(), id)));
        assert_eq!(parse_snapshot(&snapshot(&project, "snap_1")), Some((project, "snap_1")));
    }

    #[test]
    fn what_we_did_not_write_is_not_ours() {
        let id = "ab".repeat(ID_LENGTH);
        for path in [
            format!("chunks/{PROJECT}/cd/{id}"),
            format!("chunks/{PROJECT}/ab/{}", id.to_uppercase()),
            format!("chunks/{PROJECT}/ab/{id}/more"),
            format!("chunks/{PROJECT}/{id}"),
            format!("chunks/{PROJECT}/ab/{}", &id[2..]),
            format!("chunks//ab/{id}"),
            format!("snapshots/{PROJECT}/ab/{id}"),
            "chunks".to_owned(),
        ] {
            assert_eq!(parse_chunk(&path), None, "{path}");
        }
        for path in [
            "snapshots".to_owned(),
            format!("snapshots/{PROJECT}"),
            format!("snapshots/{PROJECT}/b/c"),
            "snapshots/other/b".to_owned(),
            format!("chunks/{PROJECT}/b"),
        ] {
            assert_eq!(parse_snapshot(&path), None, "{path}");
        }
    }
}
