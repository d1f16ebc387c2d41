//! Where a sandbox that nobody waits for is started, on version 1: in a CPU group outside the
//! parent of all sandboxes, `tarn_<tag>_aside/<id>`.
//!
//! A group that is marked idle gives way at once to the groups beside it, but only to those. The
//! server, and whatever else runs on the host, are beside the parent of all sandboxes, which is
//! not idle: they waited for up to 40 ms while something idle ran within it. The parent here is
//! idle itself, and gives way to everybody.
//!
//! What has been started goes over to the group among the others, before anybody is told of it.
//! On version 2 it could not: what moves leaves its memory behind, charged to where it was.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{at, create_group, is_gone};

/// How often what is there is asked to come, and the pause before the next time: for 2 s and more,
/// because what is dying does not come.
const ROUNDS: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(2);

const PROCESSES: &str = "cgroup.procs";

/// The parent of all that is started aside.
#[derive(Debug, Clone)]
pub(crate) struct Aside(PathBuf);

/// The place of one sandbox, which may not exist.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    dir: PathBuf,
    /// Its CPU group among the others.
    home: PathBuf,
}

// === impl Aside ===

impl Aside {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    /// Makes it, unless the kernel knows no idle groups (before 5.15).
    pub(crate) fn open(&self) -> io::Result<()> {
        create_group(&self.0)?;
        let idle = self.0.join("cpu.idle");
        if !idle.exists() {
            return fs::remove_dir(&self.0);
        }
        fs::write(&idle, "1").map_err(|error| at(&idle, &error))
    }

    /// Removes it, unless there are sandboxes.
    pub(crate) fn close(&self) {
        drop(fs::remove_dir(&self.0));
    }

    /// Returns the names of the places in it.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    pub(crate) fn place(&self, name: &str, home: PathBuf) -> Place {
        Place { dir: self.0.join(name), home }
    }
}

// === impl Place ===

impl Place {
    /// Makes it, if anything can be started aside here.
    pub(crate) fn create(&self) -> io::Result<()> {
        match fs::create_dir(&self.dir) {
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                ) =>
            {
                Err(at(&self.dir, &error))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn exists(&self) -> bool {
        self.dir.is_dir()
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Moves what is there to its group among the others. Blocks for some 10 ms if anything is:
    /// the kernel lets an RCU grace period pass.
    pub(crate) fn come_in(&self) -> io::Result<()> {
        self.until(|place| place.is_empty())
    }

    /// Moves what is there, and removes it.
    pub(crate) fn end(&self) -> io::Result<()> {
        self.until(Self::try_remove)
    }

    /// Moves what is there until something is so.
    fn until(&self, is_so: impl Fn(&Self) -> io::Result<bool>) -> io::Result<()> {
        for _ in 0..ROUNDS {
            self.move_all()?;
            // Whatever they have begun meanwhile is where they were.
            if is_so(self)? {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
        Err(at(&self.dir, &io::Error::other("its processes stay there")))
    }

    fn move_all(&self) -> io::Result<()> {
        let door = self.home.join(PROCESSES);
        for process in self.members()?.lines() {
            match fs::write(&door, process) {
                // It has ended.
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                other => other.map_err(|error| at(&door, &error))?,
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.members()?.is_empty())
    }

    /// Returns the processes that are there, a line for each. No group: none.
    fn members(&self) -> io::Result<String> {
        match fs::read_to_string(self.dir.join(PROCESSES)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_gone(&error) => {
                Ok(String::new())
            }
            other => other.map_err(|error| at(&self.dir, &error)),
        }
    }

    /// Says no while it is busy.
    pub(crate) fn try_remove(&self) -> io::Result<bool> {
        match fs::remove_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&self.dir, &error)),
            Ok(()) | Err(_) => Ok(true),
        }
    }
}
