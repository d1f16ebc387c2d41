//! Runs the few external programs that storage needs, with a deadline.
//!
//! They outlive a server that is killed; the next one sees to that (see [`crate::straggler`]).

use std::{
    ffi::OsStr,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// How long a program may take; formatting the largest pool takes well under a second.
pub(crate) const DEADLINE_SECS: u32 = 60;
/// Where system programs are, whatever the server's own environment says.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How much of a program's complaint is kept.
const COMPLAINT_BYTES: u64 = 2048;

/// Runs a program to its end; a failure carries what it wrote to stderr.
pub(crate) fn run(program: &str, arguments: &[&OsStr]) -> io::Result<()> {
    run_to(&[0], program, arguments)
}

/// Runs a program to its end, which is good with some exit codes.
pub(crate) fn run_to(good: &[i32], program: &str, arguments: &[&OsStr]) -> io::Result<()> {
    // By its path: to look a name up in a `PATH` of its own, the standard library forks the whole
    // server, which takes many times as long as to begin a program.
    let path = find(program).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("{program}: it is not installed"))
    })?;
    let mut child = Command::new(path)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        // mke2fs then takes nothing from the distribution's defaults: layers are alike everywhere.
        .env("MKE2FS_CONFIG", "/dev/null")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    if !ends_in_time(&child)? {
        child.kill()?;
        child.wait()?;
        return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{program} did not end")));
    }
    let status = child.wait()?;
    if status.code().is_some_and(|code| good.contains(&code)) {
        return Ok(());
    }
    let mut complaint = String::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(COMPLAINT_BYTES).read_to_string(&mut complaint)?;
    }
    Err(io::Error::other(format!("{program} ended with {status}: {}", complaint.trim())))
}

/// Says whether a program of that name can be run.
pub(crate) fn is_installed(program: &str) -> bool {
    find(program).is_some()
}

fn find(program: &str) -> Option<PathBuf> {
    PATH.split(':').map(|dir| Path::new(dir).join(program)).find(|path| path.is_file())
}

fn ends_in_time(child: &Child) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { return Err(io::Error::other("the child has no process id")) };
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Timespec { tv_sec: DEADLINE_SECS.into(), tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&deadline))?;
    Ok(ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_which_program_and_why() {
        let complaint = |program, arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(OsStr::new).collect();
            run(program, &arguments).map_err(|error| error.to_string()).err()
        };
        assert_eq!(complaint("true", &[]), None);
        let failed = complaint("sh", &["-c", "echo cause >&2; exit 3"]);
        assert_eq!(failed.as_deref(), Some("sh ended with exit status: 3: cause"));
        let absent = complaint("no-such-program", &[]);
        assert_eq!(absent.as_deref(), Some("no-such-program: it is not installed"));
    }
}
