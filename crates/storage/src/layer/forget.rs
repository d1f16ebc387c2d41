//! Drops what a layer has not yet written to disk, before it is removed.
//!
//! Unmounting writes back every dirty page, for nobody: a sandbox that had just written 1 GiB
//! would take seconds to remove on a slow disk, and slow down all others meanwhile. Truncating
//! its large files first drops their pages. The rejected alternative, shutting the file system
//! down by ioctl, does so for small files too, but raises a kernel alert each time.
//!
//! The tree is hostile: its owner may still be running, by mistake, and swap directories for
//! links. So each step opens one name in an open directory and follows no link.

use std::{ffi::CStr, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ftruncate, openat, statat},
    io,
};

/// Files that hold less are left to be written: they would cost more than they save.
const LARGE_BYTES: u64 = 1 << 20;
/// How many names are looked at: some 20 ms; whoever has more files has mostly small ones.
const NAMES: usize = 10_000;
/// How deep the tree is followed; each level holds a descriptor.
const LEVELS: usize = 32;

/// Truncates the large files of a tree, as far as the bounds reach; returns how many.
///
/// Nothing depends on it, so what fails is passed over.
pub(super) fn forget_large_files(tree: &Path) -> usize {
    let Ok(root) = openat(CWD, tree, dir_flags(), Mode::empty()) else { return 0 };
    let mut walk = Walk { names_left: NAMES, truncated: 0 };
    // A tree that changes below the walk, or a name that vanishes, ends its branch alone.
    _ = walk.dir(&root, LEVELS);
    walk.truncated
}

#[derive(Debug)]
struct Walk {
    names_left: usize,
    truncated: usize,
}

// === impl Walk ===

impl Walk {
    fn dir(&mut self, dir: &OwnedFd, levels_left: usize) -> io::Result<()> {
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if self.names_left == 0 {
                return Ok(());
            }
            self.names_left -= 1;
            match entry.file_type() {
                FileType::Directory if levels_left > 0 => {
                    if let Ok(child) = openat(dir, name, dir_flags(), Mode::empty()) {
                        _ = self.dir(&child, levels_left - 1);
                    }
                }
                FileType::RegularFile => _ = self.file(dir, name),
                FileType::Directory
                | FileType::Symlink
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, dir: &OwnedFd, name: &CStr) -> io::Result<()> {
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if u64::try_from(stat.st_blocks).unwrap_or(0) * 512 < LARGE_BYTES {
            return Ok(());
        }
        // By now it may be a fifo, which must not block, or a link, which must not be followed.
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        ftruncate(openat(dir, name, flags, Mode::empty())?, 0)?;
        self.truncated += 1;
        Ok(())
    }
}

fn dir_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn large_files_are_emptied_and_links_never_followed() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        fs::create_dir_all(tree.join("a/b"))?;
        fs::create_dir(&outside)?;
        let large = vec![1; 2 << 20];
        fs::write(outside.join("host"), &large)?;
        fs::write(tree.join("a/b/large"), &large)?;
        fs::write(tree.join("a/small"), "kept")?;
        symlink(outside.join("host"), tree.join("link"))?;
        symlink(&outside, tree.join("a/dir-link"))?;

        assert_eq!(forget_large_files(&tree), 1);
        assert_eq!(fs::metadata(tree.join("a/b/large"))?.len(), 0);
        assert_eq!(fs::read(tree.join("a/small"))?, b"kept");
        assert_eq!(fs::read(outside.join("host"))?, large);
        assert_eq!(forget_large_files(&dir.path().join("absent")), 0);
        Ok(())
    }

    #[test]
    fn a_tree_beyond_the_bounds_is_left_as_it_is() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let deep = dir.path().join(vec!["d"; LEVELS + 1].join("/"));
        fs::create_dir_all(&deep)?;
        fs::write(deep.join("large"), vec![1; 2 << 20])?;
        assert_eq!(forget_large_files(dir.path()), 0);
        Ok(())
    }
}
