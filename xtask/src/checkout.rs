//! The checkout: where it is, which files belong to it, what cargo says of its packages.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

/// The working tree that the command was called in.
#[derive(Debug, Clone)]
pub(crate) struct Checkout {
    root: PathBuf,
}

// === impl Checkout ===

impl Checkout {
    /// Finds the root of the working tree around the current directory.
    pub(crate) fn locate() -> anyhow::Result<Self> {
        let top = output(Command::new("git").args(["rev-parse", "--show-toplevel"]))?;
        Ok(Self { root: PathBuf::from(top.trim_end()) })
    }

    /// Returns the absolute place of a file.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Lists tracked files, and new ones that git does not ignore, relative to the root.
    pub(crate) fn files(&self) -> anyhow::Result<Vec<String>> {
        let listing = output(self.git().args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "--deduplicate",
        ]))?;
        let listed = listing.split('\0').filter(|path| !path.is_empty()).map(str::to_owned);
        // A file that was removed and not yet committed is still listed.
        Ok(listed.filter(|path| self.path(path).symlink_metadata().is_ok()).collect())
    }

    /// Asks cargo about the packages and all their dependencies.
    pub(crate) fn metadata(&self) -> anyhow::Result<String> {
        let mut command = Command::new("cargo");
        command.current_dir(&self.root).args([
            "metadata",
            "--format-version=1",
            "--filter-platform=x86_64-unknown-linux-gnu",
        ]);
        output(&mut command)
    }

    fn git(&self) -> Command {
        let mut command = Command::new("git");
        command.current_dir::<&Path>(&self.root);
        command
    }
}

/// Runs a command to its end and returns what it printed.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let done = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(
        done.status.success(),
        "{command:?} ended with {}: {}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).with_context(|| format!("read the output of {command:?}"))
}
