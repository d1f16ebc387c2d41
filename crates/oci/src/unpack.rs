//! Layers, unpacked one above the other to a tree.
//!
//! What an entry may be: a file, a directory, a symbolic link, a hard link. Devices below `/dev`
//! are passed over, because every sandbox gets its own `/dev`; elsewhere they are refused, and so
//! are named pipes, at which whoever opens the tree would hang. A tar knows no sockets.

use std::{
    io::Read,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::fs::{SeekFrom, ftruncate, seek};

use crate::{Bounds, Digest, OciError};

use self::{
    path::{Meaning, TreePath, shown},
    plain::Plain,
    tar::{Entry, Extent, Kind, TarReader},
    tree::Tree,
};

mod field;
pub(crate) mod path;
mod pax;
pub(crate) mod plain;
pub(crate) mod tar;
mod tree;
mod xattr;

/// Unpacks the layers of one image.
#[derive(Debug)]
pub(crate) struct Unpacker {
    tree: Tree,
    bounds: Bounds,
    entries: u64,
    /// The bytes of all files.
    bytes: u64,
    /// What the layers may still unpack to.
    left: u64,
    stop: Arc<AtomicBool>,
}

// === impl Unpacker ===

impl Unpacker {
    /// Makes an empty tree at a place where nothing is. It gives up soon after `stop` is set.
    pub(crate) fn create(
        place: &Path,
        bounds: &Bounds,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, OciError> {
        let tree = Tree::create(place, bounds)?;
        let left = bounds.unpacked_bytes;
        Ok(Self { tree, bounds: bounds.clone(), entries: 0, bytes: 0, left, stop })
    }

    /// Unpacks the next layer; `diff_id` is the digest of it uncompressed. Reads it to its end.
    pub(crate) fn layer<R: Read>(&mut self, layer: R, diff_id: &Digest) -> Result<(), OciError> {
        let plain = Plain::new(layer, self.left, diff_id, &self.bounds)?;
        let mut tar = TarReader::new(plain, &self.bounds);
        while let Some(entry) = tar.next_entry()? {
            if self.stop.load(Ordering::Relaxed) {
                return Err(OciError::Cancelled);
            }
            self.entries += 1;
            if self.entries > self.bounds.entries {
                let limit = self.bounds.entries;
                return Err(OciError::TooLarge { what: "the number of its entries", limit });
            }
            self.entry(&entry, &mut tar)?;
        }
        let (made, found) = tar.finish()?.finish();
        self.left = self.left.saturating_sub(made);
        if found != *diff_id {
            let (what, expected) = ("an unpacked layer".to_owned(), diff_id.clone());
            return Err(OciError::BadDigest { what, expected, found });
        }
        self.tree.end_layer()
    }

    /// Waits for the disk; returns the bytes of all files and the number of entries.
    pub(crate) fn finish(self) -> Result<(u64, u64), OciError> {
        self.tree.sync()?;
        Ok((self.bytes, self.entries))
    }

    fn entry<R: Read>(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<Plain<R>>,
    ) -> Result<(), OciError> {
        let path = TreePath::parse(&entry.path, &self.bounds)?;
        match path.meaning()? {
            Meaning::Nothing => return Ok(()),
            Meaning::Whiteout(dir, name) => return self.tree.whiteout(&dir, &name),
            Meaning::Opaque(dir) => return self.tree.opaque(&dir),
            Meaning::Entry => {}
        }
        let hostile = |what| Err(OciError::Hostile { entry: shown(&entry.path), what });
        match entry.kind {
            Kind::Dir => self.tree.dir(&path, entry),
            Kind::File => self.file(&path, entry, tar),
            Kind::Symlink => self.tree.symlink(&path, entry),
            Kind::HardLink => {
                self.tree.hard_link(&path, &TreePath::parse(&entry.target, &self.bounds)?)
            }
            Kind::CharDevice | Kind::BlockDevice if path.is_below(b"dev") => Ok(()),
            Kind::CharDevice | Kind::BlockDevice => hostile("is a device"),
            Kind::Fifo => hostile("is a named pipe"),
        }
    }

    fn file<R: Read>(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        tar: &mut TarReader<Plain<R>>,
    ) -> Result<(), OciError> {
        if entry.stored > self.left || entry.size > self.bounds.unpacked_bytes {
            let limit = self.bounds.unpacked_bytes;
            return Err(OciError::TooLarge { what: "the size of a file", limit });
        }
        let file = self.tree.file(path)?;
        let fail =
            |step, error: rustix::io::Errno| OciError::disk(step, shown(path.as_bytes()), error);
        match &entry.extents {
            None => self.write(&file, path, u64::MAX, tar)?,
            Some(extents) => {
                for Extent { offset, length } in extents {
                    seek(&file, SeekFrom::Start(*offset))
                        .map_err(|error| fail("seek in", error))?;
                    self.write(&file, path, *length, tar)?;
                }
                ftruncate(&file, entry.size).map_err(|error| fail("set the size of", error))?;
            }
        }
        self.bytes = self.bytes.saturating_add(entry.stored);
        self.tree.finish_file(&file, path, entry)
    }

    /// Writes at most so many of the bytes of an entry.
    fn write<R: Read>(
        &self,
        file: &std::os::fd::OwnedFd,
        path: &TreePath,
        mut most: u64,
        tar: &mut TarReader<Plain<R>>,
    ) -> Result<(), OciError> {
        while most > 0 {
            if self.stop.load(Ordering::Relaxed) {
                return Err(OciError::Cancelled);
            }
            let data = tar.data()?;
            let count = usize::try_from(most).unwrap_or(usize::MAX).min(data.len());
            if count == 0 {
                break;
            }
            let written = loop {
                match rustix::io::write(file, &data[..count]) {
                    Err(rustix::io::Errno::INTR) => {}
                    written => break written,
                }
            };
            let written =
                written.map_err(|error| OciError::disk("write", shown(path.as_bytes()), error))?;
            tar.consume(written);
            most -= written as u64;
        }
        Ok(())
    }
}
