//! What a node made, on disk: one directory a sandbox with `sandbox.json` in it.
//!
//! An entry is written to a temporary file, which then changes places with the one before: that is
//! what the next one is written into. Making a file and removing one for each step of a life would
//! cost more than what is written; and so the directory of an entry that goes is kept for one that
//! comes. [`Durability::Synced`] adds the fsyncs that survive a crash of the host;
//! [`Durability::Renamed`] survives the death of the server, which is enough for facts that a
//! reboot makes void anyway. Of a sandbox that outlasts a reboot the file itself is always synced:
//! a crash leaves an earlier entry then, never a torn one.

mod file;
mod spare;

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tarn_host::SlotId;
use tarn_runtime::Started;
use tarn_types::{
    BootId, DaemonToken, EndCause, Generation, GpuId, Launch, ProjectId, SandboxId, UnixMillis,
};
use thiserror::Error;

use self::{
    file::{put_in_place, sync_dir, write_file},
    spare::Spares,
};

/// The newest version; a reader refuses newer ones.
pub(crate) const FORMAT_VERSION: u32 = 4;

/// The version of entries of sandboxes that are their layer (see [`Kept::Layer`]).
const LAYER_VERSION: u32 = 3;

/// The version of entries in which nothing is that its readers do not know.
const COMMON_VERSION: u32 = 2;

/// What is said of a sandbox that the host's restart has suspended.
const REBOOTED: &str = "the host restarted while the sandbox ran: its files are kept, its memory \
                        and processes are lost; the next resume boots it from its files";

/// What is said of a sandbox whose limit has suspended it, and that has GPUs.
const UNPLUGGED: &str = "a sandbox with GPUs is suspended with its files alone: its memory and \
                         processes have ended, its GPUs are free for others; the next resume boots \
                         it from its files";

const FILE_NAME: &str = "sandbox.json";
const TEMP_NAME: &str = "sandbox.json.new";

/// Says which step on the ledger failed.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// A file could not be read or written.
    #[error("{step} {path}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// An entry is damaged or from a newer tarn.
    #[error("{path} cannot be understood: {detail}; nothing of that sandbox is touched")]
    Unreadable {
        /// The entry.
        path: PathBuf,
        /// Why.
        detail: String,
    },
}

/// Where a sandbox is in its life on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum State {
    /// Being built; everything of it may be half there.
    Starting,
    /// It serves.
    Running {
        /// Since when: its absolute clock starts here.
        since: UnixMillis,
    },
    /// It is suspended. Its frozen processes may still be there, which make a resume quick; they
    /// may be dropped at any time.
    Suspended {
        /// Since when.
        at: UnixMillis,
        /// What it goes on from.
        #[serde(default)]
        kept: Kept,
    },
    /// It has ended; what is left of it is being removed, or control has not heard yet.
    Ended {
        /// Why.
        cause: EndCause,
        /// When.
        at: UnixMillis,
    },
}

/// What there is of a suspended sandbox; nothing else of it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kept {
    /// A capture of its name, with its files and its memory.
    #[default]
    Capture,
    /// Its layer, as the restart of the host left it, or its time limit if it has GPUs. Format 3:
    /// an older reader would remove it.
    Layer,
}

/// All that a node must know of a sandbox to adopt it or to clean up after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) format_version: u32,
    pub(crate) id: SandboxId,
    pub(crate) project: ProjectId,
    pub(crate) generation: Generation,
    /// The boot of the host in which it was built.
    pub(crate) boot_id: BootId,
    pub(crate) launch: Launch,
    #[serde(flatten)]
    pub(crate) state: State,
    pub(crate) slot: Option<SlotId>,
    pub(crate) token: DaemonToken,
    /// The host's copy of `tarnd` that is bound into it.
    pub(crate) tarnd: PathBuf,
    pub(crate) started: Option<Started>,
    /// Since when control's store does not know it.
    pub(crate) orphaned: Option<UnixMillis>,
    /// The digest of the template below its layer; entries of format 1 have none.
    #[serde(default)]
    pub(crate) template: Option<String>,
    /// A capture may have paused it and sealed its daemon.
    #[serde(default)]
    pub(crate) held: bool,
    /// It is held because it has been suspended and is about to go on, not by a capture.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) resuming: bool,
    /// What its idle clock is set back to by a restart of the server: how long it had been idle
    /// when this was written, in ms.
    #[serde(default)]
    pub(crate) idle_ms: u64,
    /// It is frozen, or about to be, because the pool has no room. On disk it is `held` then, too,
    /// so that an older reader lets it go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) frozen: bool,
    /// Its resources are on their way to an intent's: it has them, or what it had, or some of each,
    /// and of nothing more than `launch` says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) resizing: bool,
    /// The GPUs that it has, or is about to have. Format 4: an older server would forget them, and
    /// a later one give them away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) gpus: Vec<GpuId>,
}

/// An entry, or why it cannot be understood.
pub(crate) type ReadEntry = Result<Entry, LedgerError>;

/// How long a written entry must last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Beyond a crash of the host.
    Synced,
    /// Beyond the death of the server.
    Renamed,
}

/// The directory of all entries.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    dir: PathBuf,
    spares: Arc<Spares>,
}

// === impl Entry ===

impl Entry {
    /// Returns what it goes on from, if it is suspended.
    pub(crate) fn kept(&self) -> Option<Kept> {
        match self.state {
            State::Suspended { kept, .. } => Some(kept),
            State::Starting | State::Running { .. } | State::Ended { .. } => None,
        }
    }

    /// Returns what a caller should know about where it is.
    pub(crate) fn notice(&self) -> Option<&'static str> {
        let notice = if self.launch.resources.gpus.is_some() { UNPLUGGED } else { REBOOTED };
        (self.kept() == Some(Kept::Layer)).then_some(notice)
    }

    /// Says whether a restart of the host leaves something of it.
    fn outlasts_reboot(&self) -> bool {
        match self.state {
            State::Running { .. } => self.launch.named,
            State::Suspended { .. } => true,
            State::Starting | State::Ended { .. } => false,
        }
    }

    /// Refuses an entry that lies where another one's should: a host that lost its power may
    /// bring back a name of a directory that was another's since.
    fn of(self, id: &SandboxId, path: &Path) -> Result<Self, LedgerError> {
        if self.id == *id {
            return Ok(self);
        }
        let detail = format!("it is the entry of {}", self.id);
        Err(LedgerError::Unreadable { path: path.to_owned(), detail })
    }

    /// Returns the version that its readers must know.
    fn version(&self) -> u32 {
        if self.launch.resources.gpus.is_some() {
            return FORMAT_VERSION;
        }
        match self.kept() {
            Some(Kept::Layer) => LAYER_VERSION,
            Some(Kept::Capture) | None => COMMON_VERSION,
        }
    }
}

// === impl Ledger ===

impl Ledger {
    /// Opens the ledger of a directory, making it if need be.
    pub(crate) fn open(dir: &Path) -> Result<Self, LedgerError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|source| io_error("make directory", dir, source))?;
        let spares = Spares::open(dir)
            .map_err(|source| io_error("remove the spare directories of", dir, source))?;
        Ok(Self { dir: dir.to_owned(), spares: Arc::new(spares) })
    }

    /// Writes an entry, replacing the one before.
    pub(crate) fn write(&self, entry: &Entry, durability: Durability) -> Result<(), LedgerError> {
        let dir = self.dir.join(entry.id.as_str());
        // Where it is new it is written first, and has its name when it is whole.
        let spare = if dir.exists() { None } else { self.spares.take() };
        let written = self.write_in(spare.as_deref(), &dir, entry, durability);
        if let Some(spare) = spare.filter(|_| written.is_err()) {
            self.spares.take_back(spare);
        }
        written
    }

    fn write_in(
        &self,
        spare: Option<&Path>,
        dir: &Path,
        entry: &Entry,
        durability: Durability,
    ) -> Result<(), LedgerError> {
        let home = spare.unwrap_or(dir);
        let temp = home.join(TEMP_NAME);
        if spare.is_none() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(home);
            made.map_err(|source| io_error("make directory", home, source))?;
        }
        let versioned = Entry {
            format_version: entry.version(),
            held: entry.held || entry.frozen,
            ..entry.clone()
        };
        let text = serde_json::to_vec_pretty(&versioned)
            .map_err(|source| io_error("encode", &temp, source.into()))?;
        let content = if entry.outlasts_reboot() { Durability::Synced } else { durability };
        write_file(&temp, &text, content).map_err(|source| io_error("write", &temp, source))?;
        let file = home.join(FILE_NAME);
        put_in_place(&temp, &file).map_err(|source| io_error("rename", &temp, source))?;
        if let Some(spare) = spare {
            fs::rename(spare, dir).map_err(|source| io_error("rename", spare, source))?;
        }
        if durability == Durability::Synced {
            for dir in [dir, &self.dir] {
                sync_dir(dir).map_err(|source| io_error("sync", dir, source))?;
            }
        }
        Ok(())
    }

    /// Removes an entry; does nothing when there is none.
    pub(crate) fn remove(&self, id: &SandboxId) -> Result<(), LedgerError> {
        let dir = self.dir.join(id.as_str());
        match self.spares.give(&dir) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &dir, source))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Reads every entry; a damaged one is returned as its error, so that nobody cleans up what
    /// belongs to it.
    pub(crate) fn read_all(&self) -> Result<Vec<(SandboxId, ReadEntry)>, LedgerError> {
        let mut entries = Vec::new();
        let listing =
            fs::read_dir(&self.dir).map_err(|source| io_error("list", &self.dir, source))?;
        for item in listing {
            let item = item.map_err(|source| io_error("list", &self.dir, source))?;
            let Some(id) = item.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let path = item.path().join(FILE_NAME);
            match fs::read(&path) {
                // The directory was made and the server died before the first entry: no host
                // object is older than its entry, so there is nothing to know.
                Err(source) if source.kind() == io::ErrorKind::NotFound => {
                    fs::remove_dir_all(item.path())
                        .map_err(|source| io_error("remove", &item.path(), source))?;
                }
                Err(source) => entries.push((id, Err(io_error("read", &path, source)))),
                Ok(text) => {
                    let entry = parse(&path, &text).and_then(|entry| entry.of(&id, &path));
                    entries.push((id, entry));
                }
            }
        }
        Ok(entries)
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Entry, LedgerError> {
    let unreadable = |detail: String| LedgerError::Unreadable { path: path.to_owned(), detail };
    let mut entry: Entry =
        serde_json::from_slice(text).map_err(|source| unreadable(source.to_string()))?;
    if entry.format_version > FORMAT_VERSION {
        let detail =
            format!("format version {} is newer than {FORMAT_VERSION}", entry.format_version);
        return Err(unreadable(detail));
    }
    // What is held is not frozen on top of that.
    entry.held &= !entry.frozen;
    Ok(entry)
}

fn io_error(step: &'static str, path: &Path, source: io::Error) -> LedgerError {
    LedgerError::Io { step, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use tarn_types::{EgressPolicy, Gpus, Resources, Restore, SnapshotId, SnapshotKind};

    use super::*;

    fn entry() -> Entry {
        Entry {
            format_version: COMMON_VERSION,
            id: SandboxId::from_random([1; 21]),
            project: ProjectId::from_random([2; 16]),
            generation: Generation(3),
            boot_id: BootId::new("boot\n"),
            launch: Launch {
                image: "tensorlake/ubuntu-minimal".parse().expect("a good name"),
                resources: Resources::default(),
                entrypoint: None,
                egress: EgressPolicy::OPEN,
                named: false,
                timeout_secs: 600,
                restore: None,
                claimed_at: None,
                secret_names: Vec::new(),
            },
            state: State::Running { since: UnixMillis(5) },
            slot: Some(SlotId(7)),
            token: DaemonToken::from_random([9; 32]),
            tarnd: PathBuf::from("/data/tarnd/1/tarnd"),
            started: None,
            orphaned: None,
            template: None,
            held: false,
            resuming: false,
            idle_ms: 0,
            frozen: false,
            resizing: false,
            gpus: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(dir.path()).expect("it opens");
        for durability in [Durability::Synced, Durability::Renamed] {
            ledger.write(&entry(), durability).expect("it writes");
        }
        let all = ledger.read_all().expect("it lists");
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].1.as_ref().expect("it reads"), &entry());
        ledger.remove(&entry().id).expect("it removes");
        ledger.remove(&entry().id).expect("twice");
        assert!(ledger.read_all().expect("it lists").is_empty());
    }

    #[test]
    fn the_last_entry_counts_and_the_one_before_is_written_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(dir.path()).expect("it opens");
        let own = dir.path().join(entry().id.as_str());
        let read = || ledger.read_all().expect("it lists").remove(0).1.expect("it reads");
        let inode = || {
            let state = fs::metadata(own.join(FILE_NAME)).expect("it is there");
            std::os::unix::fs::MetadataExt::ino(&state)
        };
        let mut inodes = Vec::new();
        for idle_ms in [1, 1 << 40, 3, 4] {
            let written = Entry { idle_ms, ..entry() };
            ledger.write(&written, Durability::Renamed).expect("it writes");
            assert_eq!(read(), written);
            inodes.push(inode());
            // Where a server died in the middle of the next.
            if own.join(TEMP_NAME).exists() {
                fs::write(own.join(TEMP_NAME), "{").expect("it writes");
                assert_eq!(read(), written);
            }
        }
        assert_ne!(inodes[0], inodes[1]);
        assert_eq!(inodes[..2], inodes[2..], "two files take turns");
    }

    #[test]
    fn a_new_entry_takes_the_directory_of_one_that_has_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(dir.path()).expect("it opens");
        let read = || ledger.read_all().expect("it lists");
        let inode = |id: &SandboxId| {
            let meta = fs::metadata(dir.path().join(id.as_str())).expect("it is there");
            std::os::unix::fs::MetadataExt::ino(&meta)
        };
        let other = Entry { id: SandboxId::from_random([2; 21]), ..entry() };
        ledger.write(&entry(), Durability::Renamed).expect("it writes");
        let first = inode(&entry().id);
        ledger.remove(&entry().id).expect("it removes");
        assert!(read().is_empty() && !dir.path().join(entry().id.as_str()).exists());
        for durability in [Durability::Synced, Durability::Renamed] {
            ledger.write(&other, durability).expect("it writes");
            assert_eq!(inode(&other.id), first);
            assert_eq!(read().remove(0).1.expect("it reads"), other);
        }
        // Nobody knows what a server that died was doing to one.
        ledger.remove(&other.id).expect("it removes");
        assert_eq!(fs::read_dir(dir.path()).expect("it lists").count(), 1);
        Ledger::open(dir.path()).expect("it opens");
        assert_eq!(fs::read_dir(dir.path()).expect("it lists").count(), 0);
    }

    #[test]
    fn a_damaged_or_newer_entry_is_reported_and_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(dir.path()).expect("it opens");
        ledger.write(&entry(), Durability::Renamed).expect("it writes");
        let file = dir.path().join(entry().id.as_str()).join(FILE_NAME);
        let newer = fs::read_to_string(&file)
            .expect("it reads")
            .replace("\"format_version\": 2", "\"format_version\": 5");
        let moved = newer
            .replace("\"format_version\": 5", "\"format_version\": 2")
            .replace(entry().id.as_str(), SandboxId::from_random([2; 21]).as_str());
        for text in ["{", &newer, &moved] {
            fs::write(&file, text).expect("it writes");
            let all = ledger.read_all().expect("it lists");
            assert!(matches!(all[0].1, Err(LedgerError::Unreadable { .. })), "{text}");
            assert!(file.exists());
        }
    }

    /// The bytes of format 1 as they were first written; never edit.
    const GOLDEN: &str = include_str!("../tests/golden/ledger-1.json");

    #[test]
    fn format_1_is_read_for_ever() {
        let read = parse(Path::new("golden"), GOLDEN.as_bytes()).expect("it reads");
        assert_eq!(read, Entry { format_version: 1, ..entry() });
    }

    /// The bytes of format 2 as they were first written; never edit.
    const GOLDEN_2: &str = include_str!("../tests/golden/ledger-2.json");

    #[test]
    fn format_2_is_read_for_ever() {
        let read = parse(Path::new("golden"), GOLDEN_2.as_bytes()).expect("it reads");
        let first = entry();
        let restore =
            Restore { snapshot: SnapshotId::from_random([3; 16]), kind: SnapshotKind::Memory };
        let expected = Entry {
            format_version: 2,
            generation: Generation(4),
            launch: Launch { named: true, restore: Some(restore), ..first.launch.clone() },
            state: State::Suspended { at: UnixMillis(5), kept: Kept::Capture },
            template: Some("sha256:00".to_owned()),
            held: true,
            idle_ms: 250,
            ..first
        };
        assert_eq!(read, expected);
    }

    /// The bytes of format 3 as they were first written; never edit.
    const GOLDEN_3: &str = include_str!("../tests/golden/ledger-3.json");

    #[test]
    fn format_3_is_read_for_ever() {
        let read = parse(Path::new("golden"), GOLDEN_3.as_bytes()).expect("it reads");
        let first = entry();
        let expected = Entry {
            format_version: 3,
            launch: Launch { named: true, ..first.launch.clone() },
            state: State::Suspended { at: UnixMillis(5), kept: Kept::Layer },
            template: Some("sha256:00".to_owned()),
            ..first
        };
        assert_eq!(read, expected);
        assert!(read.notice().is_some_and(|said| said.contains("host restarted")));
    }

    /// The bytes of format 4 as they were first written; never edit.
    const GOLDEN_4: &str = include_str!("../tests/golden/ledger-4.json");

    #[test]
    fn format_4_is_read_for_ever() {
        let read = parse(Path::new("golden"), GOLDEN_4.as_bytes()).expect("it reads");
        assert_eq!(read, Entry { format_version: 4, ..with_gpus() });
    }

    fn with_gpus() -> Entry {
        let first = entry();
        let gpus = Some(Gpus { model: "H100".parse().expect("a name"), count: 2 });
        let resources = Resources { gpus, ..Resources::default() };
        Entry {
            launch: Launch { resources, ..first.launch.clone() },
            template: Some("sha256:00".to_owned()),
            gpus: vec![GpuId::new("GPU-1"), GpuId::new("GPU-2")],
            ..first
        }
    }

    #[test]
    fn an_older_reader_leaves_alone_what_has_gpus() {
        assert_eq!(with_gpus().version(), 4);
        let asleep = State::Suspended { at: UnixMillis(5), kept: Kept::Layer };
        let asleep = Entry { state: asleep, gpus: Vec::new(), ..with_gpus() };
        assert_eq!(asleep.version(), 4, "nor does it boot without them");
        assert!(asleep.notice().is_some_and(|said| said.contains("GPUs")));
    }

    #[test]
    fn a_frozen_entry_is_held_for_older_readers() {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(dir.path()).expect("it opens");
        let frozen = Entry { frozen: true, ..entry() };
        ledger.write(&frozen, Durability::Renamed).expect("it writes");
        let text = fs::read(dir.path().join(entry().id.as_str()).join(FILE_NAME));
        let json: serde_json::Value =
            serde_json::from_slice(&text.expect("a file")).expect("it is JSON");
        assert_eq!((&json["held"], &json["frozen"]), (&true.into(), &true.into()));
        assert_eq!(ledger.read_all().expect("it lists")[0].1.as_ref().expect("it reads"), &frozen);
    }

    #[test]
    fn an_entry_is_of_the_least_version_that_says_it() {
        let at = UnixMillis(5);
        for (state, version) in [
            (State::Starting, 2),
            (State::Running { since: at }, 2),
            (State::Suspended { at, kept: Kept::Capture }, 2),
            (State::Suspended { at, kept: Kept::Layer }, 3),
        ] {
            assert_eq!(Entry { state: state.clone(), ..entry() }.version(), version, "{state:?}");
        }
    }
}
