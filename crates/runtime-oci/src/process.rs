//! Host processes: recognising, ending and waiting for them.

use std::{fs, io, os::fd::OwnedFd, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;

use crate::{cgroup::SandboxCgroup, sys};

/// Between two tries to remove a cgroup, at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// A process that cannot be mistaken for another of the same number.
#[derive(Debug)]
pub(crate) struct Process {
    descriptor: AsyncFd<OwnedFd>,
}

// === impl Process ===

impl Process {
    /// Takes hold of a process. `None`: there is none of that number.
    pub(crate) fn open(pid: u32) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(descriptor) => {
                let descriptor = sys::readable(descriptor)?;
                Ok(Some(Self { descriptor }))
            }
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills it. Does nothing when it has ended.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(self.descriptor.get_ref(), Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Resolves when it has ended, whoever its parent is. Cancel safe.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        self.descriptor.readable().await.map(drop)
    }
}

/// Kills every process of a sandbox and waits for their end.
///
/// Membership in the sandbox's cgroup decides who is killed, so a number used again by somebody
/// else is safe.
pub(crate) async fn end_all(cgroup: &SandboxCgroup) -> io::Result<()> {
    loop {
        let pids = cgroup.processes()?;
        if pids.is_empty() {
            return Ok(());
        }
        let mut held = Vec::with_capacity(pids.len());
        for pid in pids {
            held.extend(Process::open(pid)?.map(|process| (pid, process)));
        }
        // What is still a member now is what was taken hold of above.
        let members = cgroup.processes()?;
        held.retain(|(pid, _)| members.binary_search(pid).is_ok());
        for (_, process) in &held {
            process.kill()?;
        }
        // On version 1 a frozen process dies only when it is thawed.
        match cgroup.thaw() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for (_, process) in &held {
            process.ended().await?;
        }
    }
}

/// Ends every process of a sandbox and removes its cgroups. The caller sets the deadline.
///
/// A command that a server spawned just before it was killed may enter the groups at any moment
/// until they are gone, and is ended then; after that it finds no way in and gives up. So nobody
/// of the sandbox's past is left when this returns.
pub(crate) async fn end_for_good(cgroup: &SandboxCgroup) -> io::Result<()> {
    let mut pause = Duration::from_millis(1);
    loop {
        // Aside, what is to end would wait for everybody else on the host.
        bring_in(cgroup).await;
        end_all(cgroup).await?;
        let group = cgroup.clone();
        if apart(move || group.try_remove()).await? {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

/// Brings what is being started aside among the others, as far as it comes.
pub(crate) async fn bring_in(cgroup: &SandboxCgroup) {
    if !cgroup.is_aside() {
        return;
    }
    let group = cgroup.clone();
    if let Err(error) = apart(move || group.come_in()).await {
        tracing::debug!(%error, "what is started aside stays there");
    }
}

/// Does what waits for the kernel, whose lock on cgroups is held for some 10 ms when a process is
/// moved.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Returns the start time of a process in clock ticks since boot; `None` when there is none.
pub(crate) fn start_time(pid: u32) -> io::Result<Option<u64>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => Ok(parse_start_time(&stat)),
        Err(error) if is_over(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says whether an error means that the process asked about is there no more.
pub(crate) fn is_over(error: &io::Error) -> bool {
    let gone = rustix::io::Errno::SRCH.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(gone)
}

/// Field 22 of `proc_pid_stat(5)`. The name, field 2, may hold anything, parentheses included.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        for name in ["a", "a b) S 1", "((("] {
            assert_eq!(parse_start_time(&format!("12 ({name}) {tail}")), Some(4711), "{name}");
        }
        assert_eq!(parse_start_time("12 (a) S 1"), None);
        assert!(start_time(std::process::id()).unwrap().is_some());
        // Above every number that a kernel gives.
        assert_eq!(start_time(1 << 30).unwrap(), None);
    }
}
