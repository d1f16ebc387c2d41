//! Who is in the sandbox, and which start each process comes from.
//!
//! A process can leave its tree: `setsid` leaves the group and the session, a double fork leaves
//! the parent, `env -i` sheds the environment, and a daemon does all of that before anybody could
//! look. So each start is marked by a resource limit that nothing enforces ([`sys::limit_mark`]):
//! it survives forks, sessions, `env -i` and `sudo`, and is read with one system call. A process
//! that has changed even that limit is traced by what it may have kept:
//!
//! 1. its parent is known to belong to a start;
//! 2. `TARN_PROCESS_ID` in its initial environment, which survives any number of forks;
//! 3. its session, which survives `env -i`.
//!
//! What was learnt is remembered by pid, because traces are usually wiped one at a time. Only
//! processes not seen before are looked at, so a scan of an unchanged sandbox is one directory
//! read; before a kill all are looked at, since a pid may have been used again. `/proc/<pid>/stat`
//! is for those without a mark: in gVisor it costs 0.4 ms, the mark 0.01 ms.
//!
//! Rejected: a child subreaper per start (an extra process each, which costs two on the host),
//! and a cgroup per start (a tenant's root may leave it, and other runtimes have none).

use std::{collections::HashMap, fs::File, io, time::Duration};

use nix::unistd::Pid;
use rustix::fs::RawDir;
use tokio::time::Instant;

use super::ProcessTable;
use crate::{
    environment::MARK,
    sys::{self, read_small_file},
};

/// An environment may be 2 MiB; ours is put last, so a larger one is read from its end.
const MAX_ENVIRON_BYTES: usize = 4 << 20;

const MAX_STAT_BYTES: usize = 4096;

/// The part of a limit mark that holds the handle.
const HANDLE_BITS: u64 = 0xffff_ffff;

/// Holds the names of two thousand processes.
const LIST_BYTES: usize = 64 << 10;

/// How long a glance looks at new processes. To learn of one takes 0.01 to 0.4 ms in gVisor, and
/// many times as much while a bomb's thousand others want the processors.
const GLANCE: Duration = Duration::from_millis(5);

/// So many are looked at all the same: to list them all anew for each costs more.
const MIN_NEW_AT_A_GLANCE: usize = 16;

/// All processes but the daemon.
pub(crate) struct Census {
    own_pid: i32,
    scope: Scope,
    instance: String,
    known: HashMap<i32, Member>,
}

/// What a bounded look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Glance {
    /// How many processes there are, the daemon not among them.
    pub(crate) processes: usize,
    /// Whether all of them are known now.
    pub(crate) is_whole: bool,
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
    origin: Origin,
    identity: Identity,
}

/// By which a pid is seen to mean the same process as before, as far as that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    /// It has this mark, so it comes from the same start.
    Marked(u64),
    /// It was born at this time, so it is the same.
    Born(u64),
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

    /// Returns the limit that marks a start, see [`sys::limit_mark`].
    pub(crate) fn limit_mark(&self, handle: u64) -> u64 {
        limit_mark(&self.instance, handle)
    }

    /// Forgets whom a known pid does not mean any more.
    pub(crate) fn forget_the_gone(&mut self) {
        self.known.retain(|pid, member| member.identity.holds(*pid));
    }

    /// Returns the pids of all who are known.
    pub(crate) fn known_pids(&self) -> Vec<i32> {
        self.known.keys().copied().collect()
    }

    /// The same as [`Self::forget_the_gone`], of some pids.
    pub(crate) fn forget_the_gone_of(&mut self, pids: &[i32]) {
        for pid in pids {
            if self.known.get(pid).is_some_and(|member| !member.identity.holds(*pid)) {
                self.known.remove(pid);
            }
        }
    }

    /// Looks at `/proc` again; if it can't be read, what was known stays.
    pub(crate) fn refresh(&mut self, table: &ProcessTable) {
        self.refresh_some(table, None);
    }

    /// The same, but looks at new processes for so short a time that nobody waits for it: a fork
    /// bomb has a thousand others by the next time.
    pub(crate) fn glance(&mut self, table: &ProcessTable) -> Glance {
        let nothing = Glance { processes: self.known.len(), is_whole: true };
        self.refresh_some(table, Some(GLANCE)).unwrap_or(nothing)
    }

    fn refresh_some(&mut self, table: &ProcessTable, limit: Option<Duration>) -> Option<Glance> {
        let begun = Instant::now();
        let mut pids = list_pids().ok()?;
        pids.retain(|pid| *pid != self.own_pid);
        pids.sort_unstable();
        self.known.retain(|pid, _| pids.binary_search(pid).is_ok());
        let processes = pids.len();
        pids.retain(|pid| !self.known.contains_key(pid));
        let mut unmarked: HashMap<i32, Stat> = HashMap::new();
        let mut looked_at = 0;
        for pid in &pids {
            let is_late = limit.is_some_and(|limit| begun.elapsed() >= limit);
            if is_late && looked_at >= MIN_NEW_AT_A_GLANCE {
                break;
            }
            looked_at += 1;
            if let Some(member) = self.read_limit_mark(*pid, table) {
                self.known.insert(*pid, member);
            } else if let Some(stat) = read_stat(*pid) {
                unmarked.insert(*pid, stat);
            }
        }
        let is_whole = looked_at == pids.len();
        pids.truncate(looked_at);
        // Parents before children, but for the rare wrap of pids, which `learn` follows.
        for pid in pids {
            if unmarked.contains_key(&pid) {
                self.learn(pid, &unmarked, table, 0);
            }
        }
        Some(Glance { processes, is_whole })
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
        let pid = pid.as_raw();
        let Some(member) = self.known.get(&pid) else { return false };
        if member.identity.holds(pid) {
            return read_stat(pid).is_some_and(Stat::is_alive);
        }
        // Gone; another process may have its pid.
        self.known.remove(&pid);
        false
    }

    /// Finds out where a new process without a mark comes from.
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
        let identity = Identity::Born(stat.start_time);
        self.known.insert(pid, Member { origin, identity });
        origin
    }

    fn origin_of_stranger(&self) -> Origin {
        match self.scope {
            Scope::Everything => Origin::Unknown,
            Scope::Descendants => Origin::Foreign,
        }
    }

    fn read_limit_mark(&self, pid: i32, table: &ProcessTable) -> Option<Member> {
        let mark = sys::limit_mark(Pid::from_raw(pid))?;
        let handle = mark & HANDLE_BITS;
        let ours = mark == limit_mark(&self.instance, handle) && handle <= table.last_handle();
        ours.then_some(Member { origin: Origin::Started(handle), identity: Identity::Marked(mark) })
    }

    fn read_mark(&self, pid: i32) -> Option<u64> {
        let environ = read_small_file(&format!("/proc/{pid}/environ"), MAX_ENVIRON_BYTES).ok()?;
        parse_mark(&environ, &self.instance)
    }
}

// === impl Identity ===

impl Identity {
    fn holds(self, pid: i32) -> bool {
        match self {
            Self::Marked(mark) => sys::limit_mark(Pid::from_raw(pid)) == Some(mark),
            Self::Born(time) => read_stat(pid).is_some_and(|stat| stat.start_time == time),
        }
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

/// With a large buffer: gVisor gathers and sorts all processes anew for every read of the
/// directory, and the C library's buffer holds 80 of them.
fn list_pids() -> io::Result<Vec<i32>> {
    let proc = File::open("/proc")?;
    let mut buffer = Vec::with_capacity(LIST_BYTES);
    let mut entries = RawDir::new(&proc, buffer.spare_capacity_mut());
    let mut pids = Vec::new();
    while let Some(entry) = entries.next() {
        pids.extend(entry?.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(pids)
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

/// A limit that no program would choose: the highest bit that a signed limit may have, the
/// instance, the handle.
fn limit_mark(instance: &str, handle: u64) -> u64 {
    let hash = instance.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    1 << 62 | (hash >> 34) << 32 | (handle & HANDLE_BITS)
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
    fn limit_marks_tell_starts_and_daemons_apart() {
        assert_eq!(limit_mark("i1", 7) & HANDLE_BITS, 7);
        assert_ne!(limit_mark("i1", 7), limit_mark("i1", 8));
        assert_ne!(limit_mark("i1", 7), limit_mark("i2", 7));
        for mark in [limit_mark("", 0), limit_mark("i1", u64::MAX)] {
            // Between every sensible limit and infinity.
            assert!((1 << 62..1 << 63).contains(&mark), "{mark:x}");
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
