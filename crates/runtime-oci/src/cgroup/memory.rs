//! Reads a sandbox's memory, moves its limit, and hears when it runs out.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::PathBuf,
};

use rustix::{
    event::{EventfdFlags, eventfd},
    fs::inotify,
};
use tokio::io::unix::AsyncFd;

use super::{CgroupVersion, at, value};
use crate::{pressure::Reading, sys};

/// Reads and sets the memory of one sandbox, or reads that of all.
#[derive(Debug, Clone)]
pub(crate) struct MemoryGauge {
    version: CgroupVersion,
    dir: PathBuf,
}

/// Wakes when a sandbox nears or reaches its limit.
///
/// It only says "look": what is the matter is read from the [`MemoryGauge`].
#[derive(Debug)]
pub(crate) struct MemoryAlarm {
    descriptors: Vec<AsyncFd<OwnedFd>>,
    /// The kernel holds on to what it watches only while somebody has it open.
    _watched: Vec<File>,
}

/// On version 2 the throttle bites a little before the number.
const V2_THROTTLE_SLACK: u64 = 1 << 20;

// === impl MemoryGauge ===

impl MemoryGauge {
    pub(super) fn new(version: CgroupVersion, dir: PathBuf) -> Self {
        Self { version, dir }
    }

    /// Says whether there is a group still.
    pub(crate) fn exists(&self) -> bool {
        self.dir.is_dir()
    }

    fn read_file(&self, name: &str) -> io::Result<String> {
        let path = self.dir.join(name);
        fs::read_to_string(&path).map_err(|error| at(&path, &error))
    }

    fn read_number(&self, name: &str) -> io::Result<u64> {
        self.read_file(name).map(|text| value::number(&text))
    }

    /// Returns what is charged now.
    pub(crate) fn usage(&self) -> io::Result<u64> {
        self.read_number(match self.version {
            CgroupVersion::V1 => "memory.usage_in_bytes",
            CgroupVersion::V2 => "memory.current",
        })
    }

    /// Returns all the policy judges by.
    pub(crate) fn read(&self) -> io::Result<Reading> {
        let usage = self.usage()?;
        let stat = self.read_file("memory.stat")?;
        // Memory of programs is shared memory of the sentry, which does not count as file.
        let file = |name| value::field(&stat, name).unwrap_or(0);
        let demand = usage.saturating_sub(file("inactive_file") + file("active_file"));
        let stuck = match self.version {
            CgroupVersion::V1 => {
                value::field(&self.read_file("memory.oom_control")?, "under_oom") == Some(1)
            }
            CgroupVersion::V2 => {
                demand.saturating_add(V2_THROTTLE_SLACK) >= self.read_number("memory.high")?
            }
        };
        Ok(Reading { usage, demand, stuck })
    }

    /// Returns how many bytes of files the group and those below it have written that are in
    /// memory only, or on their way to the disk.
    pub(crate) fn unwritten(&self) -> io::Result<u64> {
        let stat = self.read_file("memory.stat")?;
        let names = match self.version {
            CgroupVersion::V1 => ["total_dirty", "total_writeback"],
            CgroupVersion::V2 => ["file_dirty", "file_writeback"],
        };
        Ok(names.into_iter().filter_map(|name| value::field(&stat, name)).sum())
    }

    /// Says whether the kernel has killed for lack of memory.
    pub(crate) fn has_killed(&self) -> bool {
        let file = match self.version {
            CgroupVersion::V1 => "memory.oom_control",
            CgroupVersion::V2 => "memory.events",
        };
        let text = self.read_file(file).unwrap_or_default();
        value::field(&text, "oom_kill").is_some_and(|count| count > 0)
    }

    /// Moves the limit. Lowering it pushes page cache out first, and may take a while.
    ///
    /// # Errors
    /// Fails when more than the new limit is in use and cannot be pushed out.
    pub(crate) fn set_limit(&self, bytes: u64) -> io::Result<()> {
        let write = |name: &str| {
            let path = self.dir.join(name);
            fs::write(&path, bytes.to_string()).map_err(|error| at(&path, &error))
        };
        if self.version == CgroupVersion::V2 {
            return write("memory.high");
        }
        let with_swap = "memory.memsw.limit_in_bytes";
        let counts_swap = self.dir.join(with_swap).exists();
        // The limit with swap must never be the lower one.
        let rises = bytes > self.read_number("memory.limit_in_bytes")?;
        if counts_swap && rises {
            write(with_swap)?;
        }
        write("memory.limit_in_bytes")?;
        if counts_swap && !rises {
            write(with_swap)?;
        }
        Ok(())
    }

    /// Moves the limit, and on version 2 the one at which the kernel kills, for a new hard bound.
    ///
    /// # Errors
    /// Fails when more than that is in use and cannot be pushed out now; the limit may be the new
    /// one or the old one then.
    pub(crate) fn rebound(&self, limit: u64, hard: u64) -> io::Result<()> {
        if self.version == CgroupVersion::V1 {
            return self.set_limit(limit);
        }
        let (kill, path) = (value::v2_kill_limit(hard), self.dir.join("memory.max"));
        let set_kill = || fs::write(&path, kill.to_string()).map_err(|error| at(&path, &error));
        if kill > self.read_number("memory.max")? {
            set_kill()?;
            return self.set_limit(limit);
        }
        self.set_limit(limit)?;
        if self.usage()? >= kill {
            // The kernel would not refuse, but kill.
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        set_kill()
    }

    /// Makes sure that the limits admit a hard bound; lowers none.
    pub(crate) fn admit(&self, hard: u64) -> io::Result<()> {
        let file = match self.version {
            CgroupVersion::V1 => "memory.limit_in_bytes",
            CgroupVersion::V2 => "memory.high",
        };
        if self.read_number(file)? < hard { self.rebound(hard, hard) } else { Ok(()) }
    }

    /// Asks to be woken at a level of usage and when the limit is reached.
    pub(crate) fn alarm(&self, level: u64) -> io::Result<MemoryAlarm> {
        match self.version {
            CgroupVersion::V1 => self.alarm_v1(level),
            CgroupVersion::V2 => self.alarm_v2(),
        }
    }

    /// See `Documentation/admin-guide/cgroup-v1/memory.rst`, sections 9 and 10.
    fn alarm_v1(&self, level: u64) -> io::Result<MemoryAlarm> {
        let mut alarm = MemoryAlarm { descriptors: Vec::new(), _watched: Vec::new() };
        for (file, argument) in
            [("memory.oom_control", String::new()), ("memory.usage_in_bytes", level.to_string())]
        {
            let path = self.dir.join(file);
            let watched = File::open(&path).map_err(|error| at(&path, &error))?;
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let line = format!("{} {} {argument}", event.as_raw_fd(), watched.as_fd().as_raw_fd());
            let control = self.dir.join("cgroup.event_control");
            fs::write(&control, line.trim_end()).map_err(|error| at(&control, &error))?;
            alarm.descriptors.push(sys::readable(event)?);
            alarm._watched.push(watched);
        }
        Ok(alarm)
    }

    fn alarm_v2(&self) -> io::Result<MemoryAlarm> {
        let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&events, self.dir.join("memory.events"), inotify::WatchFlags::MODIFY)?;
        Ok(MemoryAlarm { descriptors: vec![sys::readable(events)?], _watched: Vec::new() })
    }
}

// === impl MemoryAlarm ===

impl MemoryAlarm {
    /// Resolves when somebody should look. Cancel safe: a missed alarm rings again.
    pub(crate) async fn ring(&mut self) -> io::Result<()> {
        let ready = |fd: &AsyncFd<OwnedFd>| {
            // The content counts events; we only want them gone.
            let mut sink = [0; 4096];
            rustix::io::read(fd, &mut sink).map_err(io::Error::from).map(|_| ())
        };
        std::future::poll_fn(|context| {
            for fd in &self.descriptors {
                while let std::task::Poll::Ready(guard) = fd.poll_read_ready(context) {
                    match guard?.try_io(ready) {
                        Ok(result) => return std::task::Poll::Ready(result),
                        // Not ready after all: ask again, which registers us.
                        Err(_would_block) => {}
                    }
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
