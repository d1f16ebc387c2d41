//! The tree that layers are unpacked to, and the only code that writes in it.
//!
//! Every directory is opened by the kernel with `openat2` and `RESOLVE_IN_ROOT`: links of the image
//! are followed as its own processes would follow them, and end at the tree's root whatever they
//! say. The last part of a path is never followed; files are made with `O_EXCL`. So no entry
//! reaches anything outside, whatever came before it. Walking part by part with `O_NOFOLLOW` was
//! the other way; it would have to follow links within the tree by hand.

use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    ffi::OsStr,
    hash::BuildHasher as _,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::{
    fs::{
        AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chownat, fchmod,
        fchown, fstat, futimens, linkat, mkdirat, open, openat, openat2, symlinkat, syncfs,
        utimensat,
    },
    io::Errno,
};

use crate::{Bounds, OciError};

use super::{
    path::{TreePath, shown},
    tar::Entry,
    xattr,
};

mod remove;

/// How often a resolution is tried that something else disturbed.
const TRIES: u32 = 100;

/// A tree being made.
#[derive(Debug)]
pub(crate) struct Tree {
    place: PathBuf,
    root: Rc<OwnedFd>,
    bounds: Bounds,
    /// Every directory by its inode: how deep it is, and how long its path is. Links may lead an
    /// entry with a short path to a deep place.
    dirs: HashMap<u64, Deep>,
    /// The names that the present layer gave, as hashes of directory and name.
    ours: HashSet<u64>,
    hasher: RandomState,
    /// The directory of the entry before: most are in the same.
    last: Option<(TreePath, Dir)>,
    /// How many names were looked at to be taken away: a whiteout costs as much as it spares.
    visits: u64,
    /// The times of the present layer's directories by their inodes, set when nothing more is made
    /// in them.
    times: HashMap<u64, (TreePath, Timespec)>,
    /// How many bytes these take.
    times_bytes: u64,
}

/// How deep a directory is.
#[derive(Debug, Clone, Copy)]
struct Deep {
    parts: usize,
    bytes: usize,
}

/// An open directory of the tree.
#[derive(Debug, Clone)]
struct Dir {
    fd: Rc<OwnedFd>,
    inode: u64,
}

/// Whether directories that are missing on the way are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Leave,
}

// === impl Tree ===

impl Tree {
    /// Makes an empty tree at a place where nothing is.
    pub(crate) fn create(place: &Path, bounds: &Bounds) -> Result<Self, OciError> {
        let fail = |error: Errno| OciError::disk("make the tree", place, error);
        let work = place.parent().unwrap_or(Path::new("/"));
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let work = open(work, flags, Mode::empty()).map_err(fail)?;
        let name = place.file_name().unwrap_or_default();
        mkdirat(&work, name, Mode::from_raw_mode(0o700)).map_err(fail)?;
        let root = openat(&work, name, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(fail)?;
        fchmod(&root, Mode::from_raw_mode(0o755)).map_err(fail)?;
        let inode = fstat(&root).map_err(fail)?.st_ino;
        Ok(Self {
            place: place.to_owned(),
            root: Rc::new(root),
            bounds: bounds.clone(),
            dirs: HashMap::from([(inode, Deep { parts: 0, bytes: 0 })]),
            ours: HashSet::new(),
            hasher: RandomState::new(),
            last: None,
            visits: 0,
            times: HashMap::new(),
            times_bytes: 0,
        })
    }

    /// Ends a layer: what was made until now is below the next one.
    pub(crate) fn end_layer(&mut self) -> Result<(), OciError> {
        self.times_bytes = 0;
        for (inode, (path, time)) in std::mem::take(&mut self.times) {
            // Later entries may have put something else in its place.
            match self.open_dir(&path, Missing::Leave)?.filter(|dir| dir.inode == inode) {
                Some(dir) => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    let dir = openat(&dir.fd, ".", flags, Mode::empty())
                        .map_err(|error| self.fail("open", &path, error))?;
                    futimens(&dir, &at(time))
                        .map_err(|error| self.fail("set the time of", &path, error))?;
                }
                None => continue,
            }
        }
        self.ours = HashSet::new();
        Ok(())
    }

    /// Waits until all of it is on disk.
    pub(crate) fn sync(&self) -> Result<(), OciError> {
        syncfs(&self.root).map_err(|error| OciError::disk("sync", &self.place, error))
    }

    /// Makes a directory, or gives one that is there another owner and mode.
    pub(crate) fn dir(&mut self, path: &TreePath, entry: &Entry) -> Result<(), OciError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match path.split() {
            None => openat(&self.root, ".", flags, Mode::empty())
                .map_err(|error| self.fail("open", path, error))?,
            Some((dir, name)) => {
                let parent = self.parent(&dir)?;
                self.claim(&parent, name);
                match mkdirat(&parent.fd, name, Mode::from_raw_mode(0o700)) {
                    Ok(()) => self.new_dir(&parent, name, path)?,
                    Err(Errno::EXIST) => match openat(&parent.fd, name, flags, Mode::empty()) {
                        Ok(fd) => fd,
                        Err(Errno::NOTDIR | Errno::LOOP) => {
                            self.remove(&parent, name, path)?;
                            mkdirat(&parent.fd, name, Mode::from_raw_mode(0o700))
                                .map_err(|error| self.fail("make directory", path, error))?;
                            self.new_dir(&parent, name, path)?
                        }
                        Err(error) => return Err(self.fail("open", path, error)),
                    },
                    Err(error) => return Err(self.fail("make directory", path, error)),
                }
            }
        };
        self.dress(fd.as_fd(), path, entry)?;
        self.keep_time(&fd, path, time_of(entry))
    }

    /// Makes an empty file, in the place of whatever is there; its content is the caller's.
    pub(crate) fn file(&mut self, path: &TreePath) -> Result<OwnedFd, OciError> {
        let (parent, name) = self.place_of(path)?;
        let make = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(&parent.fd, &name, flags, Mode::from_raw_mode(0o600))
        };
        let made = match make() {
            Err(Errno::EXIST) => {
                self.remove(&parent, &name, path)?;
                make()
            }
            made => made,
        };
        made.map_err(|error| self.fail("make", path, error))
    }

    /// Gives a file its owner, mode, attributes and time: after its content, which changes them.
    pub(crate) fn finish_file(
        &self,
        file: &OwnedFd,
        path: &TreePath,
        entry: &Entry,
    ) -> Result<(), OciError> {
        self.dress(file.as_fd(), path, entry)?;
        futimens(file, &at(time_of(entry)))
            .map_err(|error| self.fail("set the time of", path, error))
    }

    /// Makes a symbolic link, wherever it leads: only the image's own processes follow it.
    pub(crate) fn symlink(&mut self, path: &TreePath, entry: &Entry) -> Result<(), OciError> {
        let target = entry.target.as_slice();
        if target.is_empty() || target.contains(&0) {
            let what = "is a link to nothing";
            return Err(OciError::Hostile { entry: shown(path.as_bytes()), what });
        }
        if target.len() > self.bounds.path_bytes {
            let limit = self.bounds.path_bytes as u64;
            return Err(OciError::TooLarge { what: "the length of a link", limit });
        }
        let (parent, name) = self.place_of(path)?;
        // A path through what was there may lead elsewhere now.
        self.last = None;
        let made = match symlinkat(target, &parent.fd, &name) {
            Err(Errno::EXIST) => {
                self.remove(&parent, &name, path)?;
                symlinkat(target, &parent.fd, &name)
            }
            made => made,
        };
        made.map_err(|error| self.fail("make link", path, error))?;
        let (uid, gid) = owner_of(entry);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        chownat(&parent.fd, &name, uid, gid, flags)
            .map_err(|error| self.fail("give an owner to", path, error))?;
        utimensat(&parent.fd, &name, &at(time_of(entry)), flags)
            .map_err(|error| self.fail("set the time of", path, error))
    }

    /// Gives a file of this or a lower layer a further name.
    pub(crate) fn hard_link(&mut self, path: &TreePath, target: &TreePath) -> Result<(), OciError> {
        let hostile = |what| OciError::Hostile { entry: shown(path.as_bytes()), what };
        let missing = || hostile("is a hard link to a file that is not there");
        let (target_dir, target_name) =
            target.split().ok_or_else(|| hostile("is a hard link to the root"))?;
        let target_dir = self.open_dir(&target_dir, Missing::Leave)?.ok_or_else(missing)?;
        let (parent, name) = self.place_of(path)?;
        self.last = None;
        let link = || linkat(&target_dir.fd, target_name, &parent.fd, &name, AtFlags::empty());
        let made = match link() {
            Err(Errno::EXIST) => {
                self.remove(&parent, &name, path)?;
                link()
            }
            made => made,
        };
        match made {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(missing()),
            Err(Errno::PERM) => Err(hostile("is a hard link to a directory")),
            Err(Errno::MLINK) => Err(hostile("is one of too many hard links to a file")),
            Err(error) => Err(self.fail("make hard link", path, error)),
        }
    }

    /// Returns the directory and the name of an entry to be made.
    fn place_of(&mut self, path: &TreePath) -> Result<(Dir, Vec<u8>), OciError> {
        let Some((dir, name)) = path.split() else {
            let what = "takes the place of the root";
            return Err(OciError::Hostile { entry: "/".to_owned(), what });
        };
        let parent = self.parent(&dir)?;
        self.claim(&parent, name);
        Ok((parent, name.to_vec()))
    }

    /// Opens the directory that an entry is made in; it is made if it is missing.
    fn parent(&mut self, path: &TreePath) -> Result<Dir, OciError> {
        let missing = || OciError::Hostile {
            entry: shown(path.as_bytes()),
            what: "is a link that leads nowhere, and has entries below it",
        };
        self.open_dir(path, Missing::Make)?.ok_or_else(missing)
    }

    /// Opens a directory as a process in the tree would.
    fn open_dir(&mut self, path: &TreePath, missing: Missing) -> Result<Option<Dir>, OciError> {
        if let Some((last, dir)) = &self.last
            && last == path
        {
            return Ok(Some(dir.clone()));
        }
        let fd = match self.resolve(path) {
            Ok(fd) => Rc::new(fd),
            Err(Errno::NOENT) => match (missing, path.split()) {
                (Missing::Leave, _) | (_, None) => return Ok(None),
                (Missing::Make, Some((dir, name))) => {
                    let Some(parent) = self.open_dir(&dir, Missing::Make)? else { return Ok(None) };
                    match mkdirat(&parent.fd, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) => {}
                        // A link without an end.
                        Err(Errno::EXIST) => return Ok(None),
                        Err(error) => return Err(self.fail("make directory", path, error)),
                    }
                    self.claim(&parent, name);
                    let fd = self.new_dir(&parent, name, path)?;
                    let mode = Mode::from_raw_mode(0o755);
                    fchmod(&fd, mode).map_err(|error| self.fail("set the mode of", path, error))?;
                    Rc::new(fd)
                }
            },
            Err(Errno::NOTDIR) if missing == Missing::Leave => return Ok(None),
            Err(Errno::NOTDIR) => {
                let what = "is no directory, but has entries below it";
                return Err(OciError::Hostile { entry: shown(path.as_bytes()), what });
            }
            Err(Errno::LOOP | Errno::NAMETOOLONG) => {
                let what = "is reached through too many links";
                return Err(OciError::Hostile { entry: shown(path.as_bytes()), what });
            }
            Err(error) => return Err(self.fail("open", path, error)),
        };
        let inode = fstat(&fd).map_err(|error| self.fail("look at", path, error))?.st_ino;
        let dir = Dir { fd, inode };
        self.last = Some((path.clone(), dir.clone()));
        Ok(Some(dir))
    }

    fn resolve(&self, path: &TreePath) -> Result<OwnedFd, Errno> {
        if path.is_root() {
            return self
                .root
                .try_clone()
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        }
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for _ in 0..TRIES {
            let path = OsStr::from_bytes(path.as_bytes());
            match openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // Something was renamed somewhere while links were followed.
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Opens a directory that was just made, and notes how deep it is.
    fn new_dir(&mut self, parent: &Dir, name: &[u8], path: &TreePath) -> Result<OwnedFd, OciError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&parent.fd, name, flags, Mode::empty())
            .map_err(|error| self.fail("open", path, error))?;
        let inode = fstat(&fd).map_err(|error| self.fail("look at", path, error))?.st_ino;
        let above = self.dirs.get(&parent.inode).copied();
        let above = above.ok_or_else(|| self.fail("know the depth of", path, Errno::STALE))?;
        let deep = Deep { parts: above.parts + 1, bytes: above.bytes + 1 + name.len() };
        if deep.parts > self.bounds.depth {
            let limit = self.bounds.depth as u64;
            return Err(OciError::TooLarge { what: "the depth of the tree", limit });
        }
        if deep.bytes > self.bounds.path_bytes {
            let limit = self.bounds.path_bytes as u64;
            return Err(OciError::TooLarge { what: "the length of a path", limit });
        }
        self.dirs.insert(inode, deep);
        Ok(fd)
    }

    /// Notes the time that a directory is to have; the last one counts.
    fn keep_time(
        &mut self,
        dir: &OwnedFd,
        path: &TreePath,
        time: Timespec,
    ) -> Result<(), OciError> {
        let inode = fstat(dir).map_err(|error| self.fail("look at", path, error))?.st_ino;
        let bytes = |path: &TreePath| {
            (path.as_bytes().len() + size_of::<(u64, (TreePath, Timespec))>()) as u64
        };
        self.times_bytes += bytes(path);
        if let Some((before, _)) = self.times.insert(inode, (path.clone(), time)) {
            self.times_bytes -= bytes(&before);
        }
        let limit = self.bounds.dir_bytes;
        if self.times_bytes > limit {
            let what = "the length of all directories' paths in a layer";
            return Err(OciError::TooLarge { what, limit });
        }
        Ok(())
    }

    /// Sets owner, mode and attributes; in this order, because a new owner takes the latter away.
    fn dress(&self, fd: BorrowedFd<'_>, path: &TreePath, entry: &Entry) -> Result<(), OciError> {
        let (uid, gid) = owner_of(entry);
        fchown(fd, uid, gid).map_err(|error| self.fail("give an owner to", path, error))?;
        fchmod(fd, Mode::from_raw_mode(entry.mode))
            .map_err(|error| self.fail("set the mode of", path, error))?;
        xattr::set(fd, &entry.xattrs).map_err(|error| match error {
            Errno::INVAL | Errno::RANGE | Errno::TOOBIG | Errno::NAMETOOLONG => OciError::Hostile {
                entry: shown(path.as_bytes()),
                what: "has extended attributes that the kernel does not take",
            },
            error => self.fail("set the extended attributes of", path, error),
        })
    }

    /// Notes that the present layer gave a name.
    fn claim(&mut self, dir: &Dir, name: &[u8]) {
        let hash = self.hasher.hash_one((dir.inode, name));
        self.ours.insert(hash);
    }

    fn is_ours(&self, dir_inode: u64, name: &[u8]) -> bool {
        self.ours.contains(&self.hasher.hash_one((dir_inode, name)))
    }

    fn fail(&self, step: &'static str, path: &TreePath, error: Errno) -> OciError {
        OciError::disk(
            step,
            self.place.join(OsStr::from_bytes(path.as_bytes())),
            io::Error::from(error),
        )
    }
}

fn owner_of(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

fn time_of(entry: &Entry) -> Timespec {
    Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.into() }
}

fn at(time: Timespec) -> Timestamps {
    Timestamps { last_access: time, last_modification: time }
}
