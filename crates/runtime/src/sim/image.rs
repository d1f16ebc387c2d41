//! The memory image of a simulated sandbox: one file of JSON.

use std::{fs, io, io::Write as _, path::Path};

use serde::{Deserialize, Serialize};
use tarn_types::UnixMillis;

use super::{
    daemon::{Identity, LogImage},
    file::FileTree,
    process::ProcessesImage,
};

const FILE: &str = "sim.json";

/// All that a daemon has in memory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DaemonImage {
    pub(super) booted_at: UnixMillis,
    pub(super) identity: Option<Identity>,
    pub(super) sealed: bool,
    pub(super) files: FileTree,
    pub(super) processes: ProcessesImage,
    pub(super) log: LogImage,
}

// === impl DaemonImage ===

impl DaemonImage {
    /// Returns what a daemon has that booted just now.
    pub(super) fn empty(now: UnixMillis) -> Self {
        Self {
            booted_at: now,
            identity: None,
            sealed: false,
            files: FileTree::new("/workspace"),
            processes: ProcessesImage::default(),
            log: LogImage::new(format!("sim-{now}")),
        }
    }

    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let mut file = fs::File::create_new(dir.join(FILE))?;
        file.write_all(&serde_json::to_vec(self)?)
    }

    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(dir.join(FILE))?)?)
    }
}
