//! Commands of an earlier server that go on without it.
//!
//! A server that is killed leaves its commands running. A `create` is in its sandbox's cgroups and
//! ends with them; not all others are, because entering takes a while, and a `start` that goes on
//! could start a sandbox built anew under the same id, or take the addresses out of its network
//! namespace. So a new server ends every command before it looks at anything.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::Path,
};

use crate::{
    paths::Paths,
    process::{Process, is_over},
};

/// The backend's program; so its commands call themselves.
const PROGRAM: &str = "runsc";

/// What stays with a sandbox for life. These call themselves otherwise, but not before they run.
const RESIDENTS: [&str; 2] = ["boot", "gofer"];

/// Ends every command on a server's sandboxes and returns how many there were. The caller sets the
/// deadline, and has seen to it that no server is left that could spawn another.
pub(crate) async fn end_all(paths: &Paths) -> io::Result<usize> {
    let mut ended = 0;
    loop {
        let mut held = Vec::new();
        for pid in processes()? {
            if !is_ours(pid, paths)? {
                continue;
            }
            let Some(process) = Process::open(pid)? else { continue };
            // What still is one now is what was taken hold of.
            if is_ours(pid, paths)? {
                held.push(process);
            }
        }
        if held.is_empty() {
            return Ok(ended);
        }
        for process in &held {
            process.kill()?;
        }
        for process in &held {
            process.ended().await?;
        }
        ended += held.len();
    }
}

fn is_ours(pid: u32, paths: &Paths) -> io::Result<bool> {
    match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(line) => Ok(is_command(&line, paths.root())),
        Err(error) if is_over(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says whether a command line (proc_pid_cmdline(5)) is a command on sandboxes below a root.
fn is_command(line: &[u8], root: &Path) -> bool {
    let mut words = line.split(|byte| *byte == 0).map(OsStr::from_bytes);
    let program = words.next().map(Path::new).and_then(Path::file_name);
    if program != Some(OsStr::new(PROGRAM)) {
        return false;
    }
    let mut ours = OsString::from("--root=");
    ours.push(root);
    let mut named = false;
    for word in words {
        // The last one ends with a zero too.
        if !word.is_empty() && !word.as_bytes().starts_with(b"-") {
            return named && !RESIDENTS.iter().any(|resident| word == *resident);
        }
        named |= word == ours;
    }
    false
}

fn processes() -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().into_vec();
        pids.extend(std::str::from_utf8(&name).ok().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_told_from_what_stays_and_from_what_is_not_ours() {
        for (line, expected) in [
            ("/a/runsc --root=/d/root --log=/x start id", true),
            ("/other/version/runsc --log=/x --root=/d/root create --bundle=/b id", true),
            ("runsc --root=/d/root delete id", true),
            ("/a/runsc --root=/d/root boot --bundle=/b id", false),
            ("runsc-sandbox --root=/d/root boot id", false),
            ("runsc-gofer --root=/d/root gofer --bundle=/b", false),
            ("/a/runsc --root=/d/root gofer", false),
            ("/a/runsc --root=/d/root2 start id", false),
            ("/a/runsc --log=/d/root start --root=/d/root", false),
            ("/a/runsc --root=/d/root --version", false),
            ("/bin/sh --root=/d/root start id", false),
            ("", false),
        ] {
            let words = line.replace(' ', "\0") + "\0";
            assert_eq!(is_command(words.as_bytes(), Path::new("/d/root")), expected, "{line}");
        }
    }
}
