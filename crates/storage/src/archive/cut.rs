//! Cuts what a file holds into chunks, by content, and writes chunks back into files.
//!
//! Holes and zeros are left out first, in pieces of 64 KiB: what remains is cut as one row of
//! bytes, so that a layer that is written at thousands of scattered places becomes few chunks. An
//! insertion moves the cuts only until the content is what it was.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _};

use fastcdc::v2020::{FastCDC, Normalization};

use super::{
    key::ProjectKey,
    manifest::{ChunkRef, Extent, LONGEST_CHUNK, Piece},
    place::ChunkId,
};
use crate::capture::{BlockReader, PageCache, is_zero};

/// What is a hole is decided by pieces of this size, so that there are not too many of them.
const GRAIN: usize = 64 << 10;
/// The size of a page: zeros of this size become holes again when chunks are written.
const PAGE: usize = 4 << 10;
/// The sizes of chunks; with [`LONGEST_CHUNK`] part of what makes equal data equal chunks.
const LEAST: usize = 256 << 10;
const USUAL: usize = 1 << 20;

/// Cuts one file.
#[derive(Debug)]
pub(super) struct Cutter {
    blocks: BlockReader,
    key: ProjectKey,
    /// Data that was read; cut up to `cut`.
    data: Vec<u8>,
    cut: usize,
    ended: bool,
    extents: Vec<Extent>,
    chunks: Vec<ChunkRef>,
    /// What was read since the last chunk, zeros included.
    read: u64,
}

/// One chunk.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) id: ChunkId,
    pub(super) plain: Vec<u8>,
}

/// What a file was cut into.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) extents: Vec<Extent>,
    pub(super) chunks: Vec<ChunkRef>,
    pub(super) digest: String,
}

/// The next of a file's parts.
#[derive(Debug)]
pub(super) enum Step {
    /// A chunk, and how much was read for it.
    Chunk(Cut, u64),
    /// There is no more; how much was read since the last.
    End(Row, u64),
}

// === impl Cutter ===

impl Cutter {
    pub(super) fn new(file: File, cache: PageCache, key: ProjectKey) -> io::Result<Self> {
        Ok(Self {
            blocks: BlockReader::new(file, cache)?,
            key,
            data: Vec::new(),
            cut: 0,
            ended: false,
            extents: Vec::new(),
            chunks: Vec::new(),
            read: 0,
        })
    }

    /// Returns the file's length.
    pub(super) fn size(&self) -> u64 {
        self.blocks.length()
    }

    /// Reads on until it has a chunk. Blocks. Not to be asked again after the end.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        while !self.ended && self.data.len() - self.cut < LONGEST_CHUNK {
            self.read_block()?;
        }
        let read = std::mem::take(&mut self.read);
        let uncut = &self.data[self.cut..];
        if uncut.is_empty() {
            let row = Row {
                extents: std::mem::take(&mut self.extents),
                chunks: std::mem::take(&mut self.chunks),
                digest: self.blocks.digest(),
            };
            return Ok(Step::End(row, read));
        }
        let plain = uncut[..cut_length(uncut, self.key.cuts())].to_vec();
        self.cut += plain.len();
        let id = self.key.id(&plain);
        let length = u32::try_from(plain.len()).expect("a chunk is at most 4 MiB");
        self.chunks.push(ChunkRef { id, length });
        Ok(Step::Chunk(Cut { id, plain }, read))
    }

    fn read_block(&mut self) -> io::Result<()> {
        // What is cut goes away seldom, so that moving the rest costs little.
        if self.cut >= LONGEST_CHUNK {
            self.data.drain(..self.cut);
            self.cut = 0;
        }
        let Some((offset, block)) = self.blocks.next_block()? else {
            self.ended = true;
            return Ok(());
        };
        self.read += block.len() as u64;
        for (number, grain) in block.chunks(GRAIN).enumerate() {
            if !is_zero(grain) {
                let offset = offset + (number * GRAIN) as u64;
                add_extent(&mut self.extents, offset, grain.len() as u64);
                self.data.extend_from_slice(grain);
            }
        }
        Ok(())
    }
}

/// Adds an extent behind the others, joining it to one that it touches.
fn add_extent(extents: &mut Vec<Extent>, offset: u64, length: u64) {
    match extents.last_mut() {
        Some(last) if last.offset + last.length == offset => last.length += length,
        Some(_) | None => extents.push(Extent { offset, length }),
    }
}

/// Returns the length of the first chunk of some data, of which there must be the longest chunk's
/// length, or all.
fn cut_length(data: &[u8], seed: u64) -> usize {
    let level = Normalization::Level1;
    let cuts = FastCDC::with_level_and_seed(data, LEAST, USUAL, LONGEST_CHUNK, level, seed);
    cuts.cut(0, data.len()).1
}

/// Writes a chunk to where its bytes belong in a file of holes; zeros stay holes. Blocks.
pub(super) fn write(file: &File, plain: &[u8], pieces: &[Piece]) -> io::Result<()> {
    for piece in pieces {
        let bytes = &plain[piece.bytes.clone()];
        for run in runs(bytes, piece.offset) {
            file.write_all_at(&bytes[run.clone()], piece.offset + run.start as u64)?;
        }
    }
    Ok(())
}

/// Finds the runs of a file's pages that are not all zeros, in bytes that belong at an offset.
fn runs(bytes: &[u8], offset: u64) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let into_page = usize::try_from((offset + at as u64) % PAGE as u64).unwrap_or(0);
        let end = (at + PAGE - into_page).min(bytes.len());
        if !is_zero(&bytes[at..end]) {
            match runs.last_mut() {
                Some(last) if last.end == at => last.end = end,
                Some(_) | None => runs.push(at..end),
            }
        }
        at = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::{
        super::{key::testing, manifest::ArchivedFile},
        *,
    };

    /// Fills with bytes that look random, and are others for each seed.
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Cuts a file, and returns the chunks and what they say of it.
    fn cut(path: &std::path::Path) -> anyhow::Result<(Vec<Cut>, ArchivedFile)> {
        let (file, size) = (File::open(path)?, fs::metadata(path)?.len());
        let expected = crate::capture::data_bytes(&file)?;
        let mut cutter = Cutter::new(file, PageCache::Keep, testing::key(1))?;
        let (mut cuts, mut sum) = (Vec::new(), 0);
        loop {
            match cutter.step()? {
                Step::Chunk(cut, read) => {
                    sum += read;
                    cuts.push(cut);
                }
                Step::End(Row { extents, chunks, digest }, read) => {
                    assert_eq!(sum + read, expected, "all that was read is counted");
                    let path = "x".to_owned();
                    return Ok((cuts, ArchivedFile { path, size, digest, extents, chunks }));
                }
            }
        }
    }

    /// Cuts a file and puts it together again; returns its chunks.
    fn round_trip(from: &std::path::Path) -> anyhow::Result<Vec<Cut>> {
        use std::os::unix::fs::MetadataExt as _;
        let (cuts, archived) = cut(from)?;
        let manifest = super::super::manifest::ArchiveManifest::new(String::new(), vec![archived]);
        let decoded = super::super::manifest::ArchiveManifest::decode(&manifest.encode());
        let archived = decoded.map_err(anyhow::Error::msg)?.files.remove(0);
        let to = from.with_extension("to");
        let file = File::create(&to)?;
        file.set_len(archived.size)?;
        // In any order.
        let pieces: Vec<_> = cuts.iter().zip(archived.pieces()).collect();
        for (cut, (chunk, pieces)) in pieces.into_iter().rev() {
            assert_eq!((cut.id, cut.plain.len()), (chunk.id, chunk.length as usize));
            write(&file, &cut.plain, &pieces)?;
        }
        assert!(fs::read(from)? == fs::read(&to)?, "the content is the same");
        // The file system may note down the same extents in another block of its own.
        let (took, takes) = (fs::metadata(from)?.blocks(), fs::metadata(&to)?.blocks());
        assert!(takes <= took + 64, "no hole is filled: {takes}, {took}");
        Ok(cuts)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn what_is_cut_is_put_together_again(
            size in 0_u64..12 << 20,
            writes in prop::collection::vec((0_u64..12 << 20, 1_usize..3 << 20, 0_u64..4), 0..8),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("from");
            let file = File::create(&path).unwrap();
            for (at, length, kind) in writes {
                // Kind 0: zeros that are written.
                let bytes = if kind == 0 { vec![0; length] } else { noise(at, length) };
                file.write_all_at(&bytes, at).unwrap();
            }
            file.set_len(size).unwrap();
            round_trip(&path).unwrap();
        }
    }

    #[test]
    fn zeros_and_holes_are_no_chunks() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("from");
        let file = File::create(&path)?;
        file.set_len(64 << 20)?;
        file.write_all_at(&vec![0; 3 << 20], 5 << 20)?;
        assert_eq!(round_trip(&path)?.len(), 0);
        // Scattered: one chunk, not a hundred.
        for number in 0..100 {
            file.write_all_at(b"x", number * 500_000)?;
        }
        assert!(round_trip(&path)?.len() < 12);
        Ok(())
    }

    #[test]
    fn chunks_have_their_size_and_an_insertion_changes_few() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("from");
        let content = noise(1, 40 << 20);
        fs::write(&path, &content)?;
        let before = round_trip(&path)?;
        let (last, others) = before.split_last().expect("there are some");
        assert!(others.iter().all(|cut| (LEAST..=LONGEST_CHUNK).contains(&cut.plain.len())));
        assert!(last.plain.len() <= LONGEST_CHUNK && (20..80).contains(&before.len()));

        let mut longer = content[..10 << 20].to_vec();
        longer.extend(noise(2, GRAIN));
        longer.extend(&content[10 << 20..]);
        fs::write(&path, &longer)?;
        let after = round_trip(&path)?;
        let known: std::collections::BTreeSet<_> = before.iter().map(|cut| cut.id).collect();
        let new = after.iter().filter(|cut| !known.contains(&cut.id)).count();
        assert!((1..=4).contains(&new), "{new} of {}", after.len());
        Ok(())
    }

    /// Equal data must be cut equally for ever, else it is stored twice after an update.
    #[test]
    fn the_cuts_stay_where_they_are() {
        let data = noise(3, LONGEST_CHUNK);
        let lengths = [testing::key(1), testing::key(2)].map(|key| cut_length(&data, key.cuts()));
        assert_eq!(lengths, [301_286, 834_422]);
    }

    #[test]
    fn runs_follow_the_pages_of_the_file() {
        let mut bytes = vec![0; 5 * PAGE];
        bytes[10] = 1;
        bytes[PAGE] = 1;
        bytes[4 * PAGE - 1] = 1;
        assert_eq!(runs(&bytes, 0), [0..2 * PAGE, 3 * PAGE..4 * PAGE]);
        assert_eq!(runs(&bytes, PAGE as u64 - 5), [5..PAGE + 5, 3 * PAGE + 5..4 * PAGE + 5]);
        assert_eq!(runs(&[], 7), []);
        assert_eq!(runs(&[1], 7).len(), 1);
    }
}
