//! Directories of entries that are gone, with their files, for entries to come.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

/// What the name of a spare directory begins with; no sandbox's id has a dot.
const PREFIX: &str = ".spare-";
/// How many are kept: as many as may be needed at once on a large host.
const MOST: usize = 64;

/// The spare directories of a ledger.
#[derive(Debug)]
pub(super) struct Spares {
    dir: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    free: Vec<PathBuf>,
    named: u64,
}

// === impl Spares ===

impl Spares {
    /// Takes charge of a ledger's. Those of an earlier server go: nobody knows what it was doing to
    /// them.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        for item in fs::read_dir(dir)? {
            let item = item?;
            if item.file_name().to_string_lossy().starts_with(PREFIX) {
                fs::remove_dir_all(item.path())?;
            }
        }
        Ok(Self { dir: dir.to_owned(), known: Mutex::default() })
    }

    /// Takes one that is to become an entry's.
    pub(super) fn take(&self) -> Option<PathBuf> {
        self.known.lock().free.pop()
    }

    /// Takes one back of which no entry has come; what has got an entry's name is none any more.
    pub(super) fn take_back(&self, spare: PathBuf) {
        if spare.exists() {
            self.known.lock().free.push(spare);
        }
    }

    /// Keeps the directory of an entry under another name, or removes it where enough are kept.
    pub(super) fn give(&self, dir: &Path) -> io::Result<()> {
        let Some(name) = self.new_name() else { return fs::remove_dir_all(dir) };
        fs::rename(dir, &name)?;
        self.known.lock().free.push(name);
        Ok(())
    }

    fn new_name(&self) -> Option<PathBuf> {
        let mut known = self.known.lock();
        if known.free.len() >= MOST {
            return None;
        }
        known.named += 1;
        Some(self.dir.join(format!("{PREFIX}{}", known.named)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_directories_are_kept() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let spares = Spares::open(dir.path())?;
        let gone: Vec<_> = (0..100).map(|it| dir.path().join(format!("entry-{it}"))).collect();
        for entry in &gone {
            fs::create_dir(entry)?;
        }
        for entry in &gone {
            spares.give(entry)?;
        }
        assert_eq!(fs::read_dir(dir.path())?.count(), MOST);
        Ok(())
    }
}
