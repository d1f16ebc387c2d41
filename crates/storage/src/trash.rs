//! The trash of a pool: what is removed is first moved there, so that it is gone at once.
//!
//! Unlinking a large file takes its time; nobody needs to wait for it. What a server leaves here
//! when it ends, the next one removes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// The directory, and how many places in it were handed out.
#[derive(Debug)]
pub(crate) struct Trash {
    dir: PathBuf,
    count: AtomicU64,
}

// === impl Trash ===

impl Trash {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, count: AtomicU64::new(0) }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns a free place; the name stays readable, up to its first dot.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        loop {
            let number = self.count.fetch_add(1, Ordering::Relaxed);
            let place = self.dir.join(format!("{name}.{}.{number}", std::process::id()));
            // In a container an earlier server often had the same process id.
            if !place.exists() {
                return place;
            }
        }
    }

    pub(crate) fn empty(&self) {
        match fs::read_dir(&self.dir) {
            Ok(entries) => entries.flatten().for_each(|entry| self.remove(&entry.path())),
            Err(error) => tracing::warn!(%error, path = %self.dir.display(), "trash unreadable"),
        }
    }

    #[allow(clippy::unused_self, reason = "only what lies in the trash is removed like this")]
    pub(crate) fn remove(&self, path: &Path) {
        match fs::remove_dir_all(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It stays for the next start.
            Err(error) => tracing::warn!(%error, path = %path.display(), "trash not removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_though_an_earlier_server_left_its_own() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let taken = Trash::new(dir.path().to_owned()).place("x");
        fs::create_dir(&taken)?;
        let trash = Trash::new(dir.path().to_owned());
        let place = trash.place("x");
        assert_ne!(place, taken);
        trash.empty();
        assert!(!taken.exists());
        Ok(())
    }
}
