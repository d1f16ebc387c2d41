//! A data directory of its own for each test, taken down whatever happens in it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::{io::Errno, mount::UnmountFlags};
use tarn_host::Template;
use tarn_storage::{HostCaptures, HostLayers, Pool, PoolOptions, PoolSizing, remove_all_mounts};
use tarn_task::Tasks;
use tarn_types::{BootId, ByteSize, ImageConfig, InstanceTag, SandboxId};

/// A data directory and a template.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
}

/// One life of a server: a pool, its layers, its tasks.
pub(crate) struct Server {
    pub(crate) pool: Arc<Pool>,
    pub(crate) layers: HostLayers,
    pub(crate) captures: Arc<HostCaptures>,
    pub(crate) tasks: Tasks,
}

/// What of a data directory is on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) mounts: usize,
    pub(crate) loops: usize,
    pub(crate) files: usize,
}

impl Stage {
    pub(crate) fn new() -> Result<Self> {
        Self::named("tarn-storage-")
    }

    pub(crate) fn named(prefix: &str) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "these tests mount file systems: run as root"
        );
        // Not /tmp, which may be a tmpfs that cannot carry a pool.
        let dir = tempfile::Builder::new().prefix(prefix).tempdir_in("/var/tmp")?;
        let stage = Self { dir };
        fs::create_dir_all(stage.lower().join("etc/deep"))?;
        fs::write(stage.lower().join("etc/name"), "template")?;
        Ok(stage)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn lower(&self) -> PathBuf {
        self.dir.path().join("template")
    }

    pub(crate) fn template(&self) -> Template {
        Template {
            digest: format!("sha256:{}", "0".repeat(64)),
            root: self.lower(),
            config: ImageConfig::default(),
        }
    }

    /// Starts a server with a small pool.
    pub(crate) fn server(&self) -> Result<Server> {
        self.server_with(small())
    }

    pub(crate) fn server_with(&self, options: PoolOptions) -> Result<Server> {
        self.server_of(options, "this boot")
    }

    /// A server in some boot of the host.
    pub(crate) fn server_of(&self, options: PoolOptions, boot: &str) -> Result<Server> {
        let tag = InstanceTag::from_hash([1, 2, 3, 4, 5, 6]);
        let pool = Arc::new(Pool::open(&self.data(), &tag, options)?);
        let tasks = Tasks::new();
        let layers = HostLayers::start(pool.clone(), &tasks);
        let captures = Arc::new(HostCaptures::start(pool.clone(), &tasks, BootId::new(boot))?);
        Ok(Server { pool, layers, captures, tasks })
    }

    /// Counts what the host holds of this data directory.
    pub(crate) fn census(&self) -> Result<Census> {
        let data = self.data();
        let prefix = data.to_str().context("a UTF-8 path")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mounts = mounts
            .lines()
            .filter(|line| line.split(' ').nth(4).is_some_and(|target| target.starts_with(prefix)));
        let pool = data.join("pool");
        let mut files = 0;
        for part in ["layers", "captures", "trash"] {
            files += fs::read_dir(pool.join(part)).map_or(0, Iterator::count);
        }
        Ok(Census { mounts: mounts.count(), loops: loops_beneath(&data)?, files })
    }

    /// Waits until the host holds exactly that of this data directory.
    pub(crate) async fn settles_at(&self, expected: &Census) -> Result<()> {
        until("the host to settle", || Ok(self.census()? == *expected))
            .await
            .with_context(|| format!("wanted {expected:?}, have {:?}", self.census()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Not a panic: it would hide what made the test fail.
        #[allow(clippy::print_stderr, reason = "a test has no other place to say it")]
        if let Err(error) = remove_all_mounts(&self.data()) {
            eprintln!("{}: {error:?}", self.data().display());
        }
    }
}

impl Server {
    /// Ends the server as SIGKILL would, as far as the host is concerned: nothing is undone.
    pub(crate) async fn stop(self) {
        let left = self.tasks.shutdown(Duration::from_secs(20)).await;
        assert_eq!(left, 0, "every task ends");
    }
}

/// A pool of 512 MiB that does not grow.
pub(crate) fn small() -> PoolOptions {
    let sizing = PoolSizing {
        initial: ByteSize::from_mib(512),
        max: Some(ByteSize::from_mib(512)),
        ..PoolSizing::default()
    };
    PoolOptions { sizing, ..PoolOptions::default() }
}

pub(crate) fn id(number: u8) -> SandboxId {
    SandboxId::from_random([number; SandboxId::LENGTH])
}

/// Waits up to 20 s for a level.
pub(crate) async fn until(what: &str, mut reached: impl FnMut() -> Result<bool>) -> Result<()> {
    let wait = async {
        while !reached()? {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .with_context(|| format!("waited 20 s for {what}"))?
}

/// Unmounts behind the server's back.
pub(crate) async fn unmount(target: &Path) -> Result<()> {
    // What was open there a moment ago is held by a program that another test is just starting.
    until("an unmount", || match rustix::mount::unmount(target, UnmountFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::BUSY) => Ok(false),
        Err(errno) => Err(errno).with_context(|| target.display().to_string()),
    })
    .await
}

fn loops_beneath(dir: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir("/sys/block")? {
        let backing = fs::read_to_string(entry?.path().join("loop/backing_file"));
        count += usize::from(backing.is_ok_and(|it| Path::new(&it).starts_with(dir)));
    }
    Ok(count)
}
