//! The checksum of a large file, most of which may be holes.
//!
//! It is made from what the file holds, not from how it is allocated: of each block of 1 MiB that
//! is not all zeros its number and its bytes, after the length of the file. So it stays the same
//! in a copy that has other holes, and a 10 GiB layer costs what is written in it.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use rustix::{
    fs::{Advice, SeekFrom, fadvise, seek},
    io::Errno,
};

const BLOCK: usize = 1 << 20;

/// Whether a file should stay in the page cache after it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageCache {
    /// It is read again soon, as a memory image is.
    Keep,
    /// Its pages would drive out others for nothing.
    Spare,
}

/// Reads a file and returns its checksum as hex; `None` when `go_on`, asked before each block, said
/// no.
pub(super) fn digest(
    path: &Path,
    cache: PageCache,
    go_on: &dyn Fn() -> bool,
) -> io::Result<Option<String>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&length.to_le_bytes());
    let (zeros, mut block) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut at = 0;
    while let Some(start) = next_block(&file, at, length)? {
        if !go_on() {
            return Ok(None);
        }
        let size = usize::try_from(length - start).unwrap_or(BLOCK).min(BLOCK);
        let block = &mut block[..size];
        file.read_exact_at(block, start)?;
        if *block != zeros[..size] {
            hasher.update(&(start / BLOCK as u64).to_le_bytes());
            hasher.update(block);
        }
        if cache == PageCache::Spare {
            fadvise(&file, start, std::num::NonZeroU64::new(size as u64), Advice::DontNeed)?;
        }
        at = start + size as u64;
    }
    Ok(Some(hasher.finalize().to_hex().to_string()))
}

/// Finds the next block with anything but holes in it, from the start of one.
fn next_block(file: &File, at: u64, length: u64) -> io::Result<Option<u64>> {
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
