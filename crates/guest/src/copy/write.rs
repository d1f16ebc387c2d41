//! Files into the sandbox.
//!
//! Directories that are there stay what they are, links to directories included, so `/bin` may be
//! a link to `/usr/bin`; everything else that is in the way of a file is replaced.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, BufReader, Read},
    os::unix::fs::{
        MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, lchown, symlink,
    },
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use tar::Archive;
use tarn_guest_api::{CopyHead, CopyIn};

use crate::account::AccountFiles;

/// Where files go, and whose they become.
pub(super) struct Target {
    dest: PathBuf,
    is_dir: bool,
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
}

// === impl Target ===

impl Target {
    pub(super) fn new(ask: &CopyIn) -> Result<Self, String> {
        let owner = match &ask.chown {
            None => None,
            Some(user) => {
                let account = AccountFiles::read().resolve_text(user);
                let account = account.map_err(|unknown| format!("--chown: {unknown}"))?;
                Some((account.identity.uid, account.identity.gid))
            }
        };
        let is_dir = ask.dest.ends_with('/');
        Ok(Self { dest: PathBuf::from(&ask.dest), is_dir, owner, mode: ask.mode })
    }

    /// Unpacks an archive whose paths lie below the destination; one file alone may be meant to
    /// become the destination itself.
    pub(super) fn unpack(&self, head: &CopyHead, input: impl Read) -> Result<(), String> {
        let becomes_dest = head.is_one_file && !self.is_dir && !self.dest.is_dir();
        let base = if becomes_dest { self.dest.parent() } else { Some(self.dest.as_path()) };
        let base = base.unwrap_or(Path::new("/"));
        self.make_dirs(base)?;
        let mut archive = Archive::new(Counted { inner: input, zeros: 0 });
        let entries = archive.entries().map_err(|error| format!("the archive: {error}"))?;
        let mut dirs = Vec::new();
        for entry in entries {
            let mut entry = entry.map_err(|error| format!("the archive: {error}"))?;
            let path = entry.path().map_err(|error| format!("the archive: {error}"))?.into_owned();
            let Some(path) = relative(&path) else {
                return Err(format!("the archive: {} leads out", path.display()));
            };
            let to = if becomes_dest { self.dest.clone() } else { base.join(path) };
            let failed = |error: io::Error| format!("{}: {error}", to.display());
            if let Some(parent) = to.parent() {
                self.make_dirs(parent)?;
            }
            let kind = entry.header().entry_type();
            let facts = self.facts(entry.header());
            if kind.is_dir() {
                if make_dir(&to).map_err(failed)? {
                    dirs.push((to, facts));
                }
            } else if kind.is_symlink() {
                let Ok(Some(target)) = entry.link_name() else {
                    return Err(format!("the archive: the link {} has no end", to.display()));
                };
                clear(&to).map_err(failed)?;
                symlink(&*target, &to).map_err(failed)?;
                lchown(&to, Some(facts.owner.0), Some(facts.owner.1)).map_err(failed)?;
                facts.date_link(&to);
            } else if kind.is_file() || kind.is_contiguous() {
                write_file(&to, &mut entry, &facts).map_err(failed)?;
            } else {
                return Err(format!("the archive: {} is of kind {kind:?}", to.display()));
            }
        }
        // Files in them would change their times, and what is read-only could not be filled.
        for (dir, facts) in dirs.iter().rev() {
            facts.apply_to_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        // The end of an archive is two blocks of zeros; a connection that broke has none.
        if archive.into_inner().zeros < 512 {
            return Err("the archive is cut off".to_owned());
        }
        Ok(())
    }

    fn facts(&self, header: &tar::Header) -> Facts {
        let id = |id: io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
        // An archive may say any time; one that there cannot be counts as none.
        let since = Duration::from_secs(header.mtime().unwrap_or(0));
        let modified = SystemTime::UNIX_EPOCH.checked_add(since);
        Facts {
            owner: self.owner.unwrap_or_else(|| (id(header.uid()), id(header.gid()))),
            mode: self.mode.unwrap_or_else(|| header.mode().unwrap_or(0o644) & 0o7777),
            modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }

    /// Makes the directories above what is copied, for whom it is copied.
    fn make_dirs(&self, dir: &Path) -> Result<(), String> {
        if dir.is_dir() {
            return Ok(());
        }
        if let Some(parent) = dir.parent() {
            self.make_dirs(parent)?;
        }
        let failed = |error: io::Error| format!("{}: {error}", dir.display());
        if make_dir(dir).map_err(failed)? {
            let (uid, gid) = self.owner.unwrap_or((0, 0));
            chown(dir, Some(uid), Some(gid)).map_err(failed)?;
            fs::set_permissions(dir, Permissions::from_mode(0o755)).map_err(failed)?;
        }
        Ok(())
    }
}

struct Facts {
    owner: (u32, u32),
    mode: u32,
    modified: SystemTime,
}

// === impl Facts ===

impl Facts {
    fn apply_to_dir(&self, dir: &Path) -> io::Result<()> {
        chown(dir, Some(self.owner.0), Some(self.owner.1))?;
        fs::set_permissions(dir, Permissions::from_mode(self.mode))?;
        File::open(dir)?.set_modified(self.modified)
    }

    /// Sets the time of a link itself, where that can be done: no copy fails for it.
    fn date_link(&self, link: &Path) {
        let since = self.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = Timespec { tv_sec: i64::try_from(since.as_secs()).unwrap_or(0), tv_nsec: 0 };
        let times = Timestamps { last_access: at, last_modification: at };
        _ = utimensat(CWD, link, &times, AtFlags::SYMLINK_NOFOLLOW);
    }
}

/// Makes a directory unless one is there; says whether it did.
fn make_dir(dir: &Path) -> io::Result<bool> {
    if dir.is_dir() {
        return Ok(false);
    }
    clear(dir)?;
    fs::create_dir(dir)?;
    Ok(true)
}

/// Removes what is in the way; a directory that is not empty stays, and is an error.
fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => fs::remove_dir(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn write_file(to: &Path, from: &mut impl Read, facts: &Facts) -> io::Result<()> {
    clear(to)?;
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut BufReader::with_capacity(128 << 10, from), &mut file)?;
    // Changing the owner takes set-user-id bits away, so the mode comes after it.
    let owner = file.metadata()?;
    if (owner.uid(), owner.gid()) != facts.owner {
        std::os::unix::fs::fchown(&file, Some(facts.owner.0), Some(facts.owner.1))?;
    }
    file.set_permissions(Permissions::from_mode(facts.mode))?;
    file.set_modified(facts.modified)
}

/// Takes a path of an archive as one below the destination.
fn relative(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

/// Counts the zeros that an input ends with.
struct Counted<R> {
    inner: R,
    zeros: usize,
}

// === impl Counted ===

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let read = &buffer[..count];
        let tail = read.iter().rev().take_while(|byte| **byte == 0).count();
        self.zeros = if tail == count { self.zeros + tail } else { tail };
        Ok(count)
    }
}
