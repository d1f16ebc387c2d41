//! The checksum of a large file, most of which may be holes.
//!
//! It is made from what the file holds, not from how it is allocated: of each block of 1 MiB that
//! is not all zeros its number and its bytes, after the length of the file. So it stays the same
//! in a copy that has other holes, and a 10 GiB layer costs what is written in it.

use std::{fs::File, io, num::NonZeroU64, os::unix::fs::FileExt as _, path::Path};

use rustix::{
    fs::{Advice, SeekFrom, fadvise, seek},
    io::Errno,
};

/// How much is read at a time; part of what the checksum is.
pub(crate) const BLOCK: usize = 1 << 20;

/// Whether a file should stay in the page cache after it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageCache {
    /// It is read again soon, as a memory image is.
    Keep,
    /// Its pages would drive out others for nothing.
    Spare,
}

/// Reads what a file has, block after block, and makes its checksum on the way.
#[derive(Debug)]
pub(crate) struct BlockReader {
    file: File,
    cache: PageCache,
    length: u64,
    at: u64,
    block: Vec<u8>,
    hasher: blake3::Hasher,
}

// === impl BlockReader ===

impl BlockReader {
    pub(crate) fn new(file: File, cache: PageCache) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&length.to_le_bytes());
        Ok(Self { file, cache, length, at: 0, block: vec![0; BLOCK], hasher })
    }

    /// Returns the file's length.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Reads the next block that is not a hole; returns where it is, and what is in it.
    pub(crate) fn next_block(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        let Some(start) = next_data(&self.file, self.at, self.length)? else { return Ok(None) };
        let size = usize::try_from(self.length - start).unwrap_or(BLOCK).min(BLOCK);
        let block = &mut self.block[..size];
        self.file.read_exact_at(block, start)?;
        if !is_zero(block) {
            self.hasher.update(&(start / BLOCK as u64).to_le_bytes());
            self.hasher.update(block);
        }
        if self.cache == PageCache::Spare {
            fadvise(&self.file, start, NonZeroU64::new(size as u64), Advice::DontNeed)?;
        }
        self.at = start + size as u64;
        Ok(Some((start, block)))
    }

    /// Returns the checksum as hex, of a file that was read to its end.
    pub(crate) fn digest(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

/// Says whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|part| *part == ZEROS[..part.len()])
}

/// Adds up the blocks of a file that are not holes: what reading it takes.
pub(crate) fn data_bytes(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let (mut at, mut sum) = (0, 0);
    while let Some(start) = next_data(file, at, length)? {
        let hole = seek(file, SeekFrom::Hole(start)).map_err(io::Error::from)?;
        let end = hole.max(start + 1).next_multiple_of(BLOCK as u64).min(length);
        sum += end - start;
        at = end;
    }
    Ok(sum)
}

/// Reads a file and returns its checksum as hex; `None` when `go_on`, asked before each block, said
/// no.
pub(super) fn digest(
    path: &Path,
    cache: PageCache,
    go_on: &dyn Fn() -> bool,
) -> io::Result<Option<String>> {
    let mut blocks = BlockReader::new(File::open(path)?, cache)?;
    loop {
        if !go_on() {
            return Ok(None);
        }
        if blocks.next_block()?.is_none() {
            return Ok(Some(blocks.digest()));
        }
    }
}

/// Finds the next block with anything but holes in it, from the start of one.
fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<u64>> {
    if at >= length {
        return Ok(None);
    }
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data / BLOCK as u64 * BLOCK as u64)),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn of(path: &Path) -> anyhow::Result<String> {
        let digest = digest(path, PageCache::Spare, &|| true)?;
        digest.ok_or_else(|| anyhow::anyhow!("nobody stopped it"))
    }

    #[test]
    fn holes_and_zeros_are_alike_and_all_else_counts() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("file");
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        file.set_len(8 * MIB + 5)?;
        let empty = of(&path)?;
        file.write_all_at(&[7; 100], 3 * MIB + 17)?;
        let sparse = of(&path)?;
        assert_ne!(sparse, empty);
        // The same content, all of it allocated.
        let copy = dir.path().join("copy");
        std::fs::write(&copy, std::fs::read(&path)?)?;
        assert_eq!(of(&copy)?, sparse);

        let changes: [&dyn Fn() -> io::Result<()>; 4] = [
            &|| file.write_all_at(&[8], 3 * MIB + 17),
            &|| file.write_all_at(&[1], 8 * MIB + 4),
            &|| file.set_len(8 * MIB + 6),
            &|| file.set_len(8 * MIB),
        ];
        let mut seen = vec![empty, sparse];
        for change in changes {
            change()?;
            let now = of(&path)?;
            assert!(!seen.contains(&now));
            seen.push(now);
        }
        Ok(())
    }

    #[test]
    fn the_same_bytes_elsewhere_are_another_file() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let digests = [0, 2].map(|block| {
            let path = dir.path().join(format!("{block}"));
            let file = File::create_new(&path)?;
            file.set_len(4 * MIB)?;
            file.write_all_at(b"bytes", block * MIB)?;
            of(&path)
        });
        let [first, second] = digests;
        assert_ne!(first?, second?);
        Ok(())
    }

    #[test]
    fn it_stops_when_told() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("file");
        std::fs::write(&path, "content")?;
        assert_eq!(digest(&path, PageCache::Keep, &|| false)?, None);
        Ok(())
    }
}
