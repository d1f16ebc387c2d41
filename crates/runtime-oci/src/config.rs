//! What the driver is told by whoever starts it.

use std::{path::PathBuf, time::Duration};

use tarn_types::InstanceTag;

/// Where gVisor is, where its state goes, and how long it may take.
#[derive(Debug, Clone)]
pub struct GvisorConfig {
    /// One version of gVisor: a directory with `runsc` and `gvisor-bin/` in it.
    pub runsc_dir: PathBuf,
    /// Where the driver keeps its state; absolute. It outlives the server, not the host.
    pub state_dir: PathBuf,
    /// Marks the cgroups.
    pub tag: InstanceTag,
    /// How long each operation may take.
    pub deadlines: GvisorDeadlines,
    /// How many sandboxes are created at one time; the rest wait.
    pub parallel_creates: usize,
}

/// How long each operation may take before it counts as failed.
#[derive(Debug, Clone, Copy)]
pub struct GvisorDeadlines {
    /// Making a sandbox, from the spawn of the command to its end.
    pub create: Duration,
    /// Starting a sandbox.
    pub start: Duration,
    /// Pausing or resuming a sandbox. A process that waits for the disk is waited for.
    pub pause: Duration,
    /// Writing an empty sandbox down; memory adds to it.
    pub checkpoint: Duration,
    /// Restoring an empty sandbox; memory adds to it.
    pub restore: Duration,
    /// Ending every process of a sandbox, and then removing its cgroups.
    pub delete: Duration,
}

// === impl GvisorConfig ===

impl GvisorConfig {
    /// Takes the three places that have no default.
    #[must_use]
    pub fn new(runsc_dir: PathBuf, state_dir: PathBuf, tag: InstanceTag) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            runsc_dir,
            state_dir,
            tag,
            deadlines: GvisorDeadlines::default(),
            parallel_creates: cores.saturating_mul(2),
        }
    }
}

// === impl GvisorDeadlines ===

impl Default for GvisorDeadlines {
    /// Hundreds of times what an idle machine needs: reached when something hangs, not when much
    /// is going on.
    fn default() -> Self {
        Self {
            create: Duration::from_secs(30),
            start: Duration::from_secs(30),
            pause: Duration::from_secs(10),
            checkpoint: Duration::from_secs(30),
            restore: Duration::from_secs(12),
            delete: Duration::from_secs(10),
        }
    }
}
