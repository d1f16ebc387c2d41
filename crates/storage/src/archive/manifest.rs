//! What is written down about a capture in the object store.
//!
//! JSON, sealed as every object is. It holds the capture's own `manifest.json` byte for byte, and
//! for each file where its data is and which chunks that is:
//!
//! ```text
//!  file      ..DDDDDD......DDD.....DDDDDDDDD...     D: data, .: holes
//!  extents     └─────┐     └─┐     └────────┐       [offset, length] in the file
//!  data        DDDDDDDDDDDDDDDDDD                   one after another
//!  chunks      └──1──┘└────2────┘                   by content, whatever the extents are
//! ```

use std::{collections::BTreeMap, ops::Range, path::Path};

use serde::{Deserialize, Serialize};

use super::place::ChunkId;

/// The version that this code writes and reads.
const FORMAT_VERSION: u64 = 1;
/// The longest description that is read: that of some TiB of data.
pub(super) const LONGEST: usize = 256 << 20;
/// The largest chunk, in bytes of what it holds.
pub(super) const LONGEST_CHUNK: usize = 4 << 20;

/// What is written down about a capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ArchiveManifest {
    format_version: u64,
    /// The capture's own `manifest.json`.
    pub(super) capture: String,
    /// All else that it consists of.
    pub(super) files: Vec<ArchivedFile>,
}

/// One file of a capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ArchivedFile {
    /// Its path in the capture's directory.
    pub(super) path: String,
    pub(super) size: u64,
    /// Its checksum, as the capture's own are made.
    pub(super) digest: String,
    /// Where its data is.
    pub(super) extents: Vec<Extent>,
    /// What its data is, in order.
    pub(super) chunks: Vec<ChunkRef>,
}

/// A part of a file that is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// One chunk of a file's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChunkRef {
    pub(super) id: ChunkId,
    pub(super) length: u32,
}

/// A place in a file, and which bytes of a chunk belong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) bytes: Range<usize>,
}

#[derive(Deserialize)]
struct Version {
    format_version: u64,
}

// === impl ArchiveManifest ===

impl ArchiveManifest {
    pub(super) fn new(capture: String, files: Vec<ArchivedFile>) -> Self {
        Self { format_version: FORMAT_VERSION, capture, files }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("it has no maps with odd keys, and nothing else fails")
    }

    /// Reads one back; says what is wrong with it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let unreadable = |error| format!("it cannot be read: {error}");
        let Version { format_version } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if format_version != FORMAT_VERSION {
            return Err(format!(
                "it has format {format_version} and this server reads format {FORMAT_VERSION}; use the version of the server that wrote it, or a newer one"
            ));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        manifest.files.iter().try_for_each(ArchivedFile::check)?;
        Ok(manifest)
    }

    /// Adds up what is not a hole.
    pub(super) fn data_bytes(&self) -> u64 {
        self.files.iter().map(ArchivedFile::data_bytes).sum()
    }

    /// Says whether another describes the same files with the same content, however they were cut.
    pub(super) fn has_files_of(&self, other: &Self) -> bool {
        self.digests() == other.digests()
    }

    fn digests(&self) -> BTreeMap<&str, &str> {
        self.files.iter().map(|file| (file.path.as_str(), file.digest.as_str())).collect()
    }
}

// === impl ArchivedFile ===

impl ArchivedFile {
    pub(super) fn data_bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.length).sum()
    }

    /// Refuses what would be written elsewhere than in the file, or what is no file of ours.
    fn check(&self) -> Result<(), String> {
        let path = Path::new(&self.path);
        let inside = path.is_relative()
            && path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let mut end = 0;
        let mut data: u64 = 0;
        let ordered = self.extents.iter().all(|extent| {
            let after = extent.offset >= end && extent.length > 0;
            end = extent.offset.saturating_add(extent.length);
            data = data.saturating_add(extent.length);
            after
        });
        let chunks: u64 = self.chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        let fit = self
            .chunks
            .iter()
            .all(|chunk| (1..=LONGEST_CHUNK as u64).contains(&u64::from(chunk.length)));
        if inside && ordered && end <= self.size && fit && chunks == data {
            return Ok(());
        }
        Err(format!("what it says of the file {} does not fit together", self.path))
    }

    /// Returns for each chunk where its bytes belong.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (ChunkRef, Vec<Piece>)> {
        let mut extents = self.extents.iter().copied();
        let mut open = None;
        self.chunks.iter().map(move |chunk| {
            let (mut pieces, mut at) = (Vec::new(), 0);
            let length = chunk.length as usize;
            while at < length {
                let Some(extent) = open.take().or_else(|| extents.next()) else { break };
                let Extent { offset, length: room } = extent;
                let take = usize::try_from(room).unwrap_or(usize::MAX).min(length - at);
                pieces.push(Piece { offset, bytes: at..at + take });
                at += take;
                let rest = Extent { offset: offset + take as u64, length: room - take as u64 };
                open = (rest.length > 0).then_some(rest);
            }
            (*chunk, pieces)
        })
    }
}

// === impl Extent ===

impl From<(u64, u64)> for Extent {
    fn from((offset, length): (u64, u64)) -> Self {
        Self { offset, length }
    }
}

impl From<Extent> for (u64, u64) {
    fn from(extent: Extent) -> Self {
        (extent.offset, extent.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A description as the first version wrote it: it must be readable for ever.
    const GOLDEN: &str = include_str!("golden/manifest-v1.json");

    fn chunk(byte: u8, length: u32) -> ChunkRef {
        ChunkRef { id: ChunkId::new([byte; 32]), length }
    }

    fn file(size: u64, extents: &[(u64, u64)], lengths: &[u32]) -> ArchivedFile {
        ArchivedFile {
            path: "memory/pages.img".to_owned(),
            size,
            digest: "d".repeat(64),
            extents: extents.iter().copied().map(Extent::from).collect(),
            chunks: lengths.iter().map(|length| chunk(1, *length)).collect(),
        }
    }

    #[test]
    fn the_format_stays_what_it_is() {
        let files = vec![file(1 << 20, &[(0, 65_536), (131_072, 65_536)], &[100_000, 31_072])];
        let manifest = ArchiveManifest::new("{\"x\":\"y\"}\n".to_owned(), files);
        let golden = GOLDEN.trim_end();
        assert_eq!(String::from_utf8(manifest.encode()).unwrap(), golden);
        assert_eq!(ArchiveManifest::decode(golden.as_bytes()), Ok(manifest));
        let later = golden.replace("{\"format_version\":1,", "{\"format_version\":1,\"added\":2,");
        assert!(ArchiveManifest::decode(later.as_bytes()).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("{\"format_version\":2}", "it has format 2 and this server reads format 1"),
            ("{}", "it cannot be read: missing field `format_version`"),
            ("{\"format_version\":1}", "it cannot be read: missing field `capture`"),
            ("", "it cannot be read"),
        ] {
            let error = ArchiveManifest::decode(text.as_bytes()).expect_err(text);
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let most = u64::MAX;
        for (file, good) in [
            (file(10, &[(0, 4), (6, 4)], &[8]), true),
            (file(10, &[], &[]), true),
            (file(0, &[], &[]), true),
            (file(10, &[(6, 4), (0, 4)], &[8]), false),
            (file(10, &[(0, 4), (3, 4)], &[8]), false),
            (file(10, &[(0, 4), (6, 5)], &[9]), false),
            (file(10, &[(0, 4)], &[5]), false),
            (file(10, &[(0, 4)], &[3]), false),
            (file(10, &[(0, 0)], &[]), false),
            (file(10, &[(most, most)], &[8]), false),
            (file(10, &[(0, 4)], &[4, 0]), false),
            (file(9 << 20, &[(0, 5 << 20)], &[5 << 20]), false),
            (ArchivedFile { path: "../x".to_owned(), ..file(0, &[], &[]) }, false),
            (ArchivedFile { path: "/x".to_owned(), ..file(0, &[], &[]) }, false),
            (ArchivedFile { path: "a/../../x".to_owned(), ..file(0, &[], &[]) }, false),
        ] {
            assert_eq!(file.check().is_ok(), good, "{file:?}");
        }
    }

    #[test]
    fn each_byte_of_a_chunk_has_its_place() {
        let file = file(100, &[(0, 4), (10, 2), (50, 6)], &[5, 5, 2]);
        let piece = |offset, bytes| Piece { offset, bytes };
        let pieces: Vec<_> = file.pieces().map(|(_, pieces)| pieces).collect();
        assert_eq!(
            pieces,
            [
                vec![piece(0, 0..4), piece(10, 4..5)],
                vec![piece(11, 0..1), piece(50, 1..5)],
                vec![piece(54, 0..2)],
            ]
        );
    }
}
