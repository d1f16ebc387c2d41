//! The daemon's binaries: one directory per version, bind-mounted into sandboxes read-only.
//!
//! `<data>/tarnd/<version>/tarnd`, where the version is the start of the binary's hash. A version
//! stays while a sandbox or snapshot refers to it, so a new server never changes the file below a
//! running sandbox.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    durable,
    step::{HostStepError, StepContext as _},
};

/// How much of the hash names a version, in hex digits.
const VERSION_DIGITS: usize = 16;
const BINARY: &str = "tarnd";

/// The installed versions of the daemon.
#[derive(Debug, Clone)]
pub struct Daemons {
    dir: PathBuf,
}

// === impl Daemons ===

impl Daemons {
    /// Takes the versions below `<data_dir>/tarnd`; there need not be any yet.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.join("tarnd") }
    }

    /// Installs a binary unless this very version is installed, and returns its path. Blocks.
    ///
    /// # Errors
    /// Fails when the binary cannot be read or the copy not written.
    pub fn install(&self, binary: &Path) -> Result<PathBuf, HostStepError> {
        let content = fs::read(binary).step("read", binary)?;
        let hash = blake3::hash(&content).to_hex();
        let home = self.dir.join(&hash.as_str()[..VERSION_DIGITS]);
        let installed = home.join(BINARY);
        // Whole as soon as it has its name; still, a disk may have lost what was in it.
        let intact = fs::read(&installed).is_ok_and(|there| there == content);
        if !intact {
            fs::create_dir_all(&home).step("make", &home)?;
            durable::write_file(&installed, &content, 0o555)?;
            durable::sync(&self.dir)?;
            tracing::info!(path = %installed.display(), "daemon installed");
        }
        Ok(installed)
    }

    /// Removes every version but those whose path, as [`Daemons::install`] gave it, is listed.
    /// Blocks; returns how many it removed.
    ///
    /// # Errors
    /// Fails when a version cannot be removed.
    pub fn prune(&self, keep: &[PathBuf]) -> Result<usize, HostStepError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(HostStepError::new("list", &self.dir, error)),
        };
        let mut removed = 0;
        for entry in entries {
            let home = entry.step("list", &self.dir)?.path();
            if keep.iter().any(|path| path.starts_with(&home)) {
                continue;
            }
            fs::remove_dir_all(&home).step("remove", &home)?;
            removed += 1;
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn versions_live_side_by_side_until_pruned() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let daemons = Daemons::new(&dir.path().join("data"));
        assert_eq!(daemons.prune(&[])?, 0);
        let source = dir.path().join("built");
        fs::write(&source, "one")?;
        let one = daemons.install(&source)?;
        let inode = fs::metadata(&one)?.ino();
        assert_eq!(daemons.install(&source)?, one);
        assert_eq!(fs::metadata(&one)?.ino(), inode, "an installed version is left alone");
        assert_eq!(fs::metadata(&one)?.mode() & 0o7777, 0o555);

        fs::write(&source, "two")?;
        let two = daemons.install(&source)?;
        assert_eq!((fs::read(&one)?, fs::read(&two)?), (b"one".to_vec(), b"two".to_vec()));
        assert_eq!(daemons.prune(std::slice::from_ref(&two))?, 1);
        assert!(!one.exists() && two.exists());
        Ok(())
    }

    #[test]
    fn a_damaged_copy_is_mended() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let daemons = Daemons::new(dir.path());
        let source = dir.path().join("built");
        fs::write(&source, "whole")?;
        let installed = daemons.install(&source)?;
        fs::write(installed.with_extension("new"), "left by a crash")?;
        fs::remove_file(&installed)?;
        fs::write(&installed, "half")?;
        assert_eq!(daemons.install(&source)?, installed);
        assert_eq!(fs::read(&installed)?, b"whole");
        Ok(())
    }
}
