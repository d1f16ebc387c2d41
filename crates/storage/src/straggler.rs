//! Programs of an earlier server that go on without it.
//!
//! A server that is killed leaves the programs that it ran (see [`crate::tool`]) running. A check
//! or an enlargement works on what may be a sandbox's only disk: it must not go on beside another,
//! or beneath a mount; nor is it cut short, as what it leaves then may be more than the next check
//! mends by itself. So a new server waits, before it touches anything, as long as the earlier one
//! would have, and ends what is later than that. What only formats a draft, which is thrown away,
//! is ended at once.
//!
//! Not by a signal at the death of the parent: that would cut them short, and is set in the child,
//! between fork and exec of the whole server.

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::MetadataExt as _,
        },
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::tool::DEADLINE_SECS;

/// What makes a draft.
const MAKERS: [&str; 2] = ["mkfs.ext4", "mkfs.xfs"];

/// What works on an image that may be in use afterwards.
const MENDERS: [&str; 2] = ["e2fsck", "resize2fs"];

/// How often it is looked whether they have ended, and how many times before they are late.
const TICK: Duration = Duration::from_millis(50);
const TICKS: u32 = DEADLINE_SECS * 20;

/// How many times it is looked after a kill: who waits for the disk ends later.
const TICKS_AFTER_KILL: u32 = 200;

/// A program that was taken hold of, which cannot be mistaken for another of the same number.
#[derive(Debug)]
struct Straggler {
    process: OwnedFd,
    fate: Fate,
}

/// What is to become of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It may go on to its end.
    Waited,
    /// Nobody needs what it makes.
    Ended,
}

/// Waits for the end of every program that works on a file beneath a directory, and returns how
/// many there were. The caller has seen to it that no server is left that could run another.
/// Blocks, as a rule for no time at all.
///
/// # Errors
/// Fails when one does not end even by a kill.
pub(crate) fn outlast(beneath: &Path) -> io::Result<usize> {
    outlast_for(TICKS, beneath)
}

fn outlast_for(ticks: u32, beneath: &Path) -> io::Result<usize> {
    let mut held = find(beneath)?;
    let count = held.len();
    for straggler in &held {
        if straggler.fate == Fate::Ended {
            straggler.kill()?;
        }
    }
    if wait(&mut held, ticks) {
        return Ok(count);
    }
    tracing::warn!(programs = held.len(), "programs of an earlier server are late, and are ended");
    for straggler in &held {
        straggler.kill()?;
    }
    if wait(&mut held, TICKS_AFTER_KILL) {
        return Ok(count);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "one of them does not end"))
}

// === impl Straggler ===

impl Straggler {
    fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.process, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn has_ended(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&self.process, PollFlags::IN)], Some(&now));
        ready.is_ok_and(|ready| ready > 0)
    }
}

/// Says whether all have ended in time; keeps those that have not.
fn wait(held: &mut Vec<Straggler>, ticks: u32) -> bool {
    for _ in 0..ticks {
        held.retain(|straggler| !straggler.has_ended());
        if held.is_empty() {
            return true;
        }
        thread::sleep(TICK);
    }
    held.retain(|straggler| !straggler.has_ended());
    held.is_empty()
}

fn find(beneath: &Path) -> io::Result<Vec<Straggler>> {
    let mut held = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().into_vec();
        let pid = std::str::from_utf8(&name).ok().and_then(|name| name.parse::<i32>().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
        if fate_of(pid, beneath).is_none() {
            continue;
        }
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => continue,
            opened => opened?,
        };
        // What still is one now is what was taken hold of.
        if let Some(fate) = fate_of(pid, beneath) {
            held.push(Straggler { process, fate });
        }
    }
    Ok(held)
}

/// Says what is to become of a process, if it is one of ours. One that has ended is none.
fn fate_of(pid: Pid, beneath: &Path) -> Option<Fate> {
    let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let line = fs::read(process.join("cmdline")).ok()?;
    let (fate, path) = read_command(&line, beneath)?;
    // Another mount namespace, such as a container's, may have a file of that name as well.
    let theirs = fs::metadata(process.join("root").join(path.strip_prefix("/").ok()?)).ok()?;
    let ours = fs::metadata(path).ok()?;
    ((theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino())).then_some(fate)
}

/// Reads from a command line (proc_pid_cmdline(5)) which file beneath a directory the program works
/// on, if it is one of those that we run; that is its last word.
fn read_command<'a>(line: &'a [u8], beneath: &Path) -> Option<(Fate, &'a Path)> {
    let line = line.strip_suffix(b"\0")?;
    let mut words = line.split(|byte| *byte == 0).map(OsStr::from_bytes);
    let program = words.next().map(Path::new)?.file_name()?;
    let path = words.next_back().map(Path::new).filter(|path| path.starts_with(beneath))?;
    if MAKERS.iter().any(|maker| program == *maker) {
        return Some((Fate::Ended, path));
    }
    MENDERS.iter().any(|mender| program == *mender).then_some((Fate::Waited, path))
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::{CommandExt as _, ExitStatusExt as _},
        process::{Child, Command, Stdio},
    };

    use super::*;

    #[test]
    fn a_program_of_ours_is_told_from_others() {
        for (line, expected) in [
            ("/usr/sbin/e2fsck -f -p /d/pool/layers/a/disk.img", Some(Fate::Waited)),
            ("resize2fs /d/pool/layers/a/disk.img", Some(Fate::Waited)),
            ("/sbin/mkfs.ext4 -q -F /d/pool/blanks/draft.img", Some(Fate::Ended)),
            ("/sbin/mkfs.xfs -q /d/pool.img.new", Some(Fate::Ended)),
            ("/sbin/e2fsck -f -p /d2/pool/layers/a/disk.img", None),
            ("/sbin/e2fsck /d/pool/layers/a/disk.img -f", None),
            ("/bin/cat /d/pool/layers/a/disk.img", None),
            ("/d/e2fsck", None),
            ("e2fsck", None),
            ("", None),
        ] {
            let words = line.replace(' ', "\0") + "\0";
            let read = read_command(words.as_bytes(), Path::new("/d")).map(|(fate, _)| fate);
            assert_eq!(read, expected, "{line}");
        }
        assert_eq!(read_command(b"", Path::new("/d")), None, "that of one that has ended");
    }

    /// A program that calls itself one of ours, and ends when its input does.
    fn run(name: &str, path: &Path) -> io::Result<Child> {
        let mut shell = Command::new("/bin/sh");
        shell.arg0(name).args(["-c", "read line; exit 0"]).arg(path);
        shell.stdin(Stdio::piped()).spawn()
    }

    fn is_found(child: &Child, beneath: &Path) -> bool {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| fate_of(pid, beneath).is_some())
    }

    #[test]
    fn what_formats_is_ended_and_what_mends_is_waited_for() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let (image, other) = (dir.path().join("disk.img"), tempfile::tempdir()?);
        fs::write(&image, "")?;
        let mut maker = run("mkfs.ext4", &image)?;
        let mut mender = run("/sbin/e2fsck", &image)?;
        // A program has its own command line a moment after it is spawned.
        while !is_found(&maker, dir.path()) || !is_found(&mender, dir.path()) {
            thread::yield_now();
        }
        assert_eq!(outlast(other.path())?, 0, "they are somebody else's");
        let waited: anyhow::Result<usize> = thread::scope(|scope| {
            let waiting = scope.spawn(|| outlast(dir.path()));
            // To wait closes it, and a program whose input has ended comes to its end.
            let input = maker.stdin.take();
            let killed = maker.wait()?;
            drop(input);
            assert_eq!(killed.signal(), Some(9));
            drop(mender.stdin.take());
            assert!(mender.wait()?.success(), "it came to its end");
            Ok(waiting.join().map_err(|_panic| anyhow::anyhow!("it panicked"))??)
        });
        assert_eq!(waited?, 2);

        let mut late = run("resize2fs", &image)?;
        while !is_found(&late, dir.path()) {
            thread::yield_now();
        }
        assert_eq!(outlast_for(1, dir.path())?, 1);
        assert_eq!(late.wait()?.signal(), Some(9));
        assert_eq!(outlast(dir.path())?, 0);
        Ok(())
    }
}
