//! Taking away: what an entry replaces, and what whiteouts name.

use rustix::{
    fs::{AtFlags, Mode, OFlags, RawDir, fstat, openat, unlinkat},
    io::Errno,
};

use crate::OciError;

use super::{Dir, Missing, Tree, TreePath};

/// How often each of the most entries that there may be may stand under a whiteout. Honest images
/// have a handful of whiteouts; thousands over the same thousands of files would take for ever.
const VISITS: u64 = 4;

/// Which files go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// Those that the present layer did not make.
    OfLowerLayers,
}

// === impl Tree ===

impl Tree {
    /// Applies a whiteout: takes a name of lower layers away.
    pub(crate) fn whiteout(&mut self, dir: &TreePath, name: &[u8]) -> Result<(), OciError> {
        let Some(dir_fd) = self.open_dir(dir, Missing::Leave)? else { return Ok(()) };
        self.last = None;
        self.take(&dir_fd, name, Which::OfLowerLayers, dir)
    }

    /// Applies an opaque whiteout: takes all that lower layers have in a directory away.
    pub(crate) fn opaque(&mut self, dir: &TreePath) -> Result<(), OciError> {
        let Some(dir_fd) = self.open_dir(dir, Missing::Leave)? else { return Ok(()) };
        self.last = None;
        self.take_all(&dir_fd, Which::OfLowerLayers, dir)
    }

    /// Takes away what stands in the place of an entry.
    pub(super) fn remove(
        &mut self,
        parent: &Dir,
        name: &[u8],
        path: &TreePath,
    ) -> Result<(), OciError> {
        self.last = None;
        self.take(parent, name, Which::All, path)
    }

    /// Takes a name away, and what is below it. As deep as the tree may be, and no deeper.
    fn take(
        &mut self,
        dir: &Dir,
        name: &[u8],
        which: Which,
        path: &TreePath,
    ) -> Result<(), OciError> {
        self.visits += 1;
        if self.visits / VISITS > self.bounds.entries {
            let limit = self.bounds.entries.saturating_mul(VISITS);
            return Err(OciError::TooLarge {
                what: "the number of files under its whiteouts",
                limit,
            });
        }
        let stays = which == Which::OfLowerLayers && self.is_ours(dir.inode, name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&dir.fd, name, flags, Mode::empty()) {
            Ok(fd) => {
                let inode = fstat(&fd).map_err(|error| self.fail("look at", path, error))?.st_ino;
                self.take_all(&Dir { fd: fd.into(), inode }, which, path)?;
                if stays {
                    return Ok(());
                }
                match unlinkat(&dir.fd, name, AtFlags::REMOVEDIR) {
                    // What the present layer made in it keeps it.
                    Err(Errno::NOTEMPTY | Errno::EXIST) if which == Which::OfLowerLayers => Ok(()),
                    removed => removed.map_err(|error| self.fail("remove", path, error)),
                }
            }
            Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) if stays => Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => unlinkat(&dir.fd, name, AtFlags::empty())
                .map_err(|error| self.fail("remove", path, error)),
            Err(error) => Err(self.fail("open", path, error)),
        }
    }

    fn take_all(&mut self, dir: &Dir, which: Which, path: &TreePath) -> Result<(), OciError> {
        for name in self.names(dir, path)? {
            self.take(dir, &name, which, path)?;
        }
        Ok(())
    }

    fn names(&self, dir: &Dir, path: &TreePath) -> Result<Vec<Vec<u8>>, OciError> {
        let fail = |error| self.fail("list", path, error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // What resolved the path may not be read from.
        let fd = openat(&dir.fd, ".", flags, Mode::empty()).map_err(fail)?;
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(&fd, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let name = entry.map_err(fail)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        Ok(names)
    }
}
