//! Who is in the sandbox, and which start each process comes from.
//!
//! A process can leave its tree: `setsid` leaves the group and the session, a double fork leaves
//! the parent, `env -i` sheds the environment. Any one trace can be wiped, so four are used, and
//! what was once learnt is remembered by pid, because a trace is usually wiped one at a time:
//!
//! 1. it is the started process itself;
//! 2. its parent is known to belong to a start;
//! 3. `TARN_PROCESS_ID` in its initial environment, which survives any number of forks;
//! 4. its session, which survives `env -i`.
//!
//! Only processes not seen before are looked at, so a scan of an unchanged sandbox is one
//! directory read. Rejected: a child subreaper per start (an extra process each, which costs two
//! on the host), and a cgroup per start (a tenant's root may leave it, and other
//! runtimes have none).

use std::{collections::HashMap, fs, io};

use nix::unistd::Pid;

use super::ProcessTable;
use crate::{environment::MARK, sys::read_small_file};

/// An environment may be 2 MiB; ours is put last, so a larger one is read from its end.
const MAX_ENVIRON_BYTES: usize = 4 << 20;

const MAX_STAT_BYTES: usize = 4096;

/// All processes but the daemon.
pub(crate) struct Census {
    own_pid: i32,
    scope: Scope,
    instance: String,
    known: HashMap<i32, Member>,
}

/// Which processes are the daemon's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All: it is PID 1.
    Everything,
    /// Its descendants: it is an ordinary process in a test.
    Descendants,
}

/// Where a process comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    /// From the start with this handle.
    Started(u64),
    /// From inside the sandbox, nobody knows how.
    Unknown,
    /// From outside; only with [`Scope::Descendants`].
    Foreign,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    start_time: u64,
    origin: Origin,
}

/// The fields of `/proc/<pid>/stat` that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    state: u8,
    parent: i32,
    session: i32,
    /// In clock ticks since boot; with the pid it names a process for ever.
    start_time: u64,
}

// === impl Census ===

impl Census {
    /// Starts with nobody known. `instance` tells the marks of two daemons apart.
    pub(crate) fn new(own_pid: Pid, scope: Scope, instance: String) -> Self {
        Self { own_pid: own_pid.as_raw(), scope, instance, known: HashMap::new() }
    }

    /// Returns the value of the mark for a start.
    pub(crate) fn mark(&self, handle: u64) -> String {
        format!("{}-{handle}", self.instance)
    }

    /// Looks at `/proc` again; if it can't be read, what was known stays.
    pub(crate) fn refresh(&mut self, table: &ProcessTable) {
        let Ok(mut pids) = list_pids() else { return };
        pids.retain(|pid| *pid != self.own_pid);
        pids.sort_unstable();
        self.known.retain(|pid, _| pids.binary_search(pid).is_ok());
        let mut fresh: HashMap<i32, Stat> = HashMap::new();
        for pid in pids {
            if !self.known.contains_key(&pid)
                && let Some(stat) = read_stat(pid)
            {
                fresh.insert(pid, stat);
            }
        }
        let mut order: Vec<i32> = fresh.keys().copied().collect();
        // Parents before children, but for the rare wrap of pids, which `learn` follows.
        order.sort_unstable();
        for pid in order {
            self.learn(pid, &fresh, table, 0);
        }
    }

    /// Returns everybody who is the daemon's business.
    pub(crate) fn guests(&self) -> impl Iterator<Item = (Pid, Origin)> {
        self.known
            .iter()
            .filter(|(_, member)| member.origin != Origin::Foreign)
            .map(|(pid, member)| (Pid::from_raw(*pid), member.origin))
    }

    /// Returns how many that are.
    pub(crate) fn guest_count(&self) -> usize {
        self.guests().count()
    }

    /// Returns those of one origin.
    pub(crate) fn of(&self, origin: Origin) -> Vec<Pid> {
        self.guests().filter(|(_, of)| *of == origin).map(|(pid, _)| pid).collect()
    }

    /// Returns whether a process is still there, and not just as a zombie.
    pub(crate) fn is_alive(&mut self, pid: Pid) -> bool {
        let Some(member) = self.known.get(&pid.as_raw()) else { return false };
        match read_stat(pid.as_raw()) {
            Some(stat) if stat.start_time == member.start_time => stat.is_alive(),
            // Gone; another process may have its pid.
            _ => {
                self.known.remove(&pid.as_raw());
                false
            }
        }
    }

    /// Finds out where a new process comes from.
    fn learn(
        &mut self,
        pid: i32,
        fresh: &HashMap<i32, Stat>,
        table: &ProcessTable,
        depth: usize,
    ) -> Origin {
        if let Some(member) = self.known.get(&pid) {
            return member.origin;
        }
        let Some(stat) = fresh.get(&pid) else { return self.origin_of_stranger() };
        // A bound for a /proc that changes under us: nobody's ancestry is that long.
        let inherited = if depth > 64 || stat.parent == 0 {
            self.origin_of_stranger()
        } else if stat.parent == self.own_pid {
            Origin::Unknown
        } else {
            self.learn(stat.parent, fresh, table, depth + 1)
        };
        let started = |handle: Option<u64>| handle.map(Origin::Started);
        let itself =
            table.running_handle(Pid::from_raw(pid)).filter(|_| stat.parent == self.own_pid);
        let origin = match (started(itself), inherited) {
            (Some(origin), _) | (None, origin @ Origin::Started(_)) => origin,
            (None, Origin::Unknown | Origin::Foreign) => started(self.read_mark(pid))
                .or_else(|| match inherited {
                    Origin::Foreign => None,
                    Origin::Unknown | Origin::Started(_) => {
                        started(table.handle_of(Pid::from_raw(stat.session)))
                    }
                })
                .unwrap_or(inherited),
        };
        self.known.insert(pid, Member { start_time: stat.start_time, origin });
        origin
    }

    fn origin_of_stranger(&self) -> Origin {
        match self.scope {
            Scope::Everything => Origin::Unknown,
            Scope::Descendants => Origin::Foreign,
        }
    }

    fn read_mark(&self, pid: i32) -> Option<u64> {
        let environ = read_small_file(&format!("/proc/{pid}/environ"), MAX_ENVIRON_BYTES).ok()?;
        parse_mark(&environ, &self.instance)
    }
}

// === impl Stat ===

impl Stat {
    fn is_alive(self) -> bool {
        !matches!(self.state, b'Z' | b'X')
    }
}

/// Returns a process's resident memory.
pub(crate) fn resident_bytes(pid: Pid) -> Option<u64> {
    let statm = read_small_file(&format!("/proc/{pid}/statm"), MAX_STAT_BYTES).ok()?;
    let pages: u64 = std::str::from_utf8(&statm).ok()?.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(4096)
}

fn list_pids() -> io::Result<Vec<i32>> {
    Ok(fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

fn read_stat(pid: i32) -> Option<Stat> {
    let content = read_small_file(&format!("/proc/{pid}/stat"), MAX_STAT_BYTES).ok()?;
    parse_stat(&content)
}

/// The name in the second field may hold anything, so fields count from the last bracket.
fn parse_stat(content: &[u8]) -> Option<Stat> {
    let end = content.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(content.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let start_time = fields.nth(15)?.parse().ok()?;
    Some(Stat { state, parent, session, start_time })
}

fn parse_mark(environ: &[u8], instance: &str) -> Option<u64> {
    environ
        .split(|byte| *byte == 0)
        .filter_map(|variable| std::str::from_utf8(variable).ok()?.strip_prefix(MARK))
        .filter_map(|rest| rest.strip_prefix('=')?.strip_prefix(instance)?.strip_prefix('-'))
        .find_map(|handle| handle.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_parsed_after_the_last_bracket() {
        let line = b"42 (a) R (b) S 7 40 39 0 0 0 1 2 3 4 5 6 7 8 20 0 1 0 12345 99 1\n";
        let expected = Stat { state: b'S', parent: 7, session: 39, start_time: 12345 };
        assert_eq!(parse_stat(line), Some(expected));
        for broken in [&b""[..], b"42", b"42 (x", b"42 (x)", b"42 (x) S 1 2", b"42 (x) S a b c"] {
            assert_eq!(parse_stat(broken), None);
        }
    }

    #[test]
    fn marks_of_this_instance_are_found() {
        let table: &[(&[u8], Option<u64>)] = &[
            (b"A=1\0TARN_PROCESS_ID=i1-7\0B=2\0", Some(7)),
            (b"TARN_PROCESS_ID=i2-7\0", None),
            (b"TARN_PROCESS_ID=i1-\0", None),
            (b"TARN_PROCESS_ID=i1-x\0", None),
            (b"TARN_PROCESS_ID\0", None),
            (b"\xff\0TARN_PROCESS_ID=i1-9", Some(9)),
            (b"", None),
        ];
        for (environ, expected) in table {
            assert_eq!(parse_mark(environ, "i1"), *expected);
        }
    }

    #[test]
    fn a_test_daemon_leaves_strangers_alone() {
        let own = Pid::from_raw(i32::try_from(std::process::id()).expect("small"));
        let mut census = Census::new(own, Scope::Descendants, "none".to_owned());
        census.refresh(&ProcessTable::default());
        assert!(census.known.contains_key(&1));
        assert!(census.guests().all(|(pid, _)| pid.as_raw() != 1));
    }
}
