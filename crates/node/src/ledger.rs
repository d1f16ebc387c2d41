//! What a node made, on disk: one directory a sandbox with `sandbox.json` in it.
//!
//! A file has two places, and an entry is written into the one that does not hold the entry before
//! it; a crash in the middle leaves that one. The directory of an entry that goes is kept for one
//! that comes: making files and removing them for each step of a life would cost more than what is
//! written. [`Durability::Synced`] waits for the disk and survives a crash of the host;
//! [`Durability::Written`] survives the death of the server, which is enough for facts that a
//! reboot makes void anyway. Of a sandbox that outlasts a reboot every write waits for the disk, so
//! that a crash leaves an entry that is whole.

mod entry;
mod file;
mod spare;

use std::{
    collections::HashMap,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use tarn_types::SandboxId;
use thiserror::Error;

pub(crate) use self::entry::{Entry, Kept, State};
use self::{
    file::{Turn, sync_dir},
    spare::Spares,
};

/// The version that is written; a reader refuses newer ones.
pub(crate) const FORMAT_VERSION: u32 = 5;

/// The newest version of which a file holds one entry and nothing else, without a checksum.
const LAST_WITHOUT_PLACES: u32 = 4;

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

/// An entry, or why it cannot be understood.
pub(crate) type ReadEntry = Result<Entry, LedgerError>;

/// How long a written entry must last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Beyond a crash of the host.
    Synced,
    /// Beyond the death of the server.
    Written,
}

/// The directory of all entries.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    dir: PathBuf,
    spares: Arc<Spares>,
    /// Where there is nothing of an entry, its file tells.
    files: Arc<Mutex<HashMap<SandboxId, KnownFile>>>,
}

/// What is known of the file of an entry, if anything; who writes it holds this.
type KnownFile = Arc<Mutex<Option<Known>>>;

/// What is known of the file of an entry.
#[derive(Debug, Clone, Copy)]
struct Known {
    turn: Turn,
    /// Whether the disk has the names that lead to it.
    named: bool,
}

// === impl Ledger ===

impl Ledger {
    /// Opens the ledger of a directory, making it if need be.
    pub(crate) fn open(dir: &Path) -> Result<Self, LedgerError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|source| io_error("make directory", dir, source))?;
        let spares = Spares::open(dir)
            .map_err(|source| io_error("remove the spare directories of", dir, source))?;
        Ok(Self { dir: dir.to_owned(), spares: Arc::new(spares), files: Arc::default() })
    }

    /// Writes an entry, replacing the one before.
    pub(crate) fn write(&self, entry: &Entry, durability: Durability) -> Result<(), LedgerError> {
        let dir = self.dir.join(entry.id.as_str());
        let path = dir.join(FILE_NAME);
        let known = Arc::clone(self.files.lock().entry(entry.id.clone()).or_default());
        let mut known = known.lock();
        let entry_now = Entry { format_version: FORMAT_VERSION, ..entry.clone() };
        let text = serde_json::to_vec(&entry_now)
            .map_err(|source| io_error("encode", &path, source.into()))?;
        let synced = entry.outlasts_reboot() || durability == Durability::Synced;
        let before = known.or_else(|| look(&path));
        let room = before.and_then(|it| Some((it, it.turn.fill(&text)?)));
        let written = room.map(|(before, place)| {
            let next = Known { turn: before.turn.next(), ..before };
            file::write_place(&path, before.turn, &place, synced).map(|()| next)
        });
        let written = match written {
            // Somebody has removed it.
            Some(Err(gone)) if gone.kind() == io::ErrorKind::NotFound => None,
            written => written.transpose().map_err(|bad| io_error("write", &path, bad))?,
        };
        let now = match written {
            Some(now) => now,
            None => self.write_new(&dir, &text, synced)?,
        };
        // What is there now is known, whether the disk takes its names or not.
        let now = known.insert(now);
        if synced && !now.named {
            for dir in [&dir, &self.dir] {
                sync_dir(dir).map_err(|source| io_error("sync", dir, source))?;
            }
            now.named = true;
        }
        Ok(())
    }

    /// Writes an entry into a file of its own, in place of one that is there.
    fn write_new(&self, dir: &Path, text: &[u8], synced: bool) -> Result<Known, LedgerError> {
        let (content, turn) = file::new_file(text).expect("an entry is an object of JSON");
        let known = Known { turn, named: false };
        let write = |path: &Path| {
            file::write_new(path, &content, synced)
                .map_err(|source| io_error("write", path, source))
        };
        let rename = |from: &Path, to: &Path| {
            fs::rename(from, to).map_err(|source| io_error("rename", from, source))
        };
        // It has its name when it is whole.
        let spare = if dir.exists() { None } else { self.spares.take() };
        if let Some(spare) = spare {
            let written = write(&spare.join(FILE_NAME)).and_then(|()| rename(&spare, dir));
            if written.is_err() {
                self.spares.take_back(spare);
            }
            return written.map(|()| known);
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|source| io_error("make directory", dir, source))?;
        let temp = dir.join(TEMP_NAME);
        write(&temp)?;
        rename(&temp, &dir.join(FILE_NAME))?;
        Ok(known)
    }

    /// Removes an entry; does nothing when there is none.
    pub(crate) fn remove(&self, id: &SandboxId) -> Result<(), LedgerError> {
        let dir = self.dir.join(id.as_str());
        let known = Arc::clone(self.files.lock().entry(id.clone()).or_default());
        // Nobody is in the middle of writing it, and who comes now finds nothing.
        let mut known = known.lock();
        *known = None;
        let given = self.spares.give(&dir);
        self.files.lock().remove(id);
        match given {
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
                    let entry = parse(&path, &text).and_then(|entry| of(entry, &id, &path));
                    entries.push((id, entry));
                }
            }
        }
        Ok(entries)
    }
}

/// Looks into the file of an entry that another server wrote.
fn look(path: &Path) -> Option<Known> {
    let content = fs::read(path).ok()?;
    let (_, turn) = file::newest(&content)?;
    Some(Known { turn, named: false })
}

/// Refuses an entry that lies where another one's should: a host that lost its power may bring back
/// a name of a directory that was another's since.
fn of(entry: Entry, id: &SandboxId, path: &Path) -> ReadEntry {
    if entry.id == *id {
        return Ok(entry);
    }
    let detail = format!("it is the entry of {}", entry.id);
    Err(LedgerError::Unreadable { path: path.to_owned(), detail })
}

fn parse(path: &Path, content: &[u8]) -> Result<Entry, LedgerError> {
    let unreadable = |detail: String| LedgerError::Unreadable { path: path.to_owned(), detail };
    let newest = file::newest(content).map(|(entry, _)| entry);
    let mut entry: Entry = serde_json::from_slice(newest.unwrap_or(content))
        .map_err(|source| unreadable(format!("no whole entry is in it: {source}")))?;
    let version = entry.format_version;
    if version > FORMAT_VERSION {
        return Err(unreadable(format!("format version {version} is newer than {FORMAT_VERSION}")));
    }
    if newest.is_none() && version > LAST_WITHOUT_PLACES {
        return Err(unreadable("it differs from its own checksum".to_owned()));
    }
    if version <= LAST_WITHOUT_PLACES {
        // What was frozen was not held on top of that; it was once written as both.
        entry.held &= !entry.frozen;
    }
    Ok(entry)
}

fn io_error(step: &'static str, path: &Path, source: io::Error) -> LedgerError {
    LedgerError::Io { step, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use tarn_host::SlotId;
    use tarn_types::{
        BootId, DaemonToken, EgressPolicy, Generation, GpuId, Gpus, Launch, ProjectId, Resources,
        Restore, SnapshotId, SnapshotKind, UnixMillis,
    };

    use super::*;

    fn entry() -> Entry {
        Entry {
            format_version: FORMAT_VERSION,
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
        for durability in [Durability::Synced, Durability::Written] {
            ledger.write(&entry(), durability).expect("it writes");
        }
        let all = ledger.read_all().expect("it lists");
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].1.as_ref().expect("it reads"), &entry());
        ledger.remove(&entry().id).expect("it removes");
        ledger.remove(&entry().id).expect("twice");
        assert!(ledger.read_all().expect("it lists").is_empty());
    }

    /// What is in the file of the entry.
    fn content(dir: &Path) -> String {
        let file = dir.join(entry().id.as_str()).join(FILE_NAME);
        fs::read_to_string(file).expect("it is there")
    }

    #[test]
    fn the_last_entry_counts_and_leaves_the_one_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(entry().id.as_str()).join(FILE_NAME);
        let mut ledger = Ledger::open(dir.path()).expect("it opens");
        let read =
            |ledger: &Ledger| ledger.read_all().expect("it lists").remove(0).1.expect("it reads");
        let inode = || {
            let state = fs::metadata(&file).expect("it is there");
            std::os::unix::fs::MetadataExt::ino(&state)
        };
        let entry = |idle_ms| Entry { idle_ms, ..entry() };
        ledger.write(&entry(0), Durability::Written).expect("it writes");
        let first = inode();
        for number in 1..8 {
            ledger.write(&entry(number), Durability::Written).expect("it writes");
            assert_eq!(read(&ledger), entry(number));
            let whole = content(dir.path());
            let sequence = format!("{{\"sequence\":{},", number + 1);
            let at = whole.find(&sequence).expect("where it was written");
            let mut torn = whole.clone().into_bytes();
            torn[at + 200] ^= 1;
            fs::write(&file, &torn).expect("it writes");
            assert_eq!(read(&ledger), entry(number - 1));
            // The next server goes on from that one, or where all is well from this one.
            if number % 2 == 0 {
                fs::write(&file, &whole).expect("it writes");
            }
            ledger = Ledger::open(dir.path()).expect("it opens");
            ledger.write(&entry(number), Durability::Synced).expect("it writes");
            ledger.write(&entry(number), Durability::Synced).expect("it writes");
            fs::write(&file, whole).expect("it writes");
            ledger = Ledger::open(dir.path()).expect("it opens");
        }
        assert_eq!(inode(), first);
    }

    #[test]
    fn an_entry_that_grows_gets_a_longer_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(dir.path()).expect("it opens");
        for names in [0, 1000, 10, 5000] {
            let secret = |it: usize| format!("SECRET_{it}").parse().expect("a name");
            let launch =
                Launch { secret_names: (0..names).map(secret).collect(), ..entry().launch };
            let written = Entry { launch, ..entry() };
            for durability in [Durability::Written, Durability::Synced, Durability::Written] {
                ledger.write(&written, durability).expect("it writes");
                let read = ledger.read_all().expect("it lists").remove(0).1;
                assert_eq!(read.expect("it reads"), written);
            }
        }
        let own = dir.path().join(entry().id.as_str());
        assert_eq!(fs::read_dir(own).expect("it lists").count(), 1);
    }

    #[test]
    fn what_was_not_written_is_not_believed_and_costs_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = dir.path().join(entry().id.as_str());
        let ledger = Ledger::open(dir.path()).expect("it opens");
        let read = || ledger.read_all().expect("it lists").remove(0).1.expect("it reads");
        let entry = |names: usize, idle_ms| {
            let secret = |it: usize| format!("SECRET_{it}").parse().expect("a name");
            let launch =
                Launch { secret_names: (0..names).map(secret).collect(), ..entry().launch };
            Entry { launch, idle_ms, ..entry() }
        };
        ledger.write(&entry(1, 1), Durability::Written).expect("it writes");
        ledger.write(&entry(1, 2), Durability::Written).expect("it writes");
        // A directory is in the way of the longer file: the one before stays, and is written on.
        fs::create_dir(own.join(TEMP_NAME)).expect("it is made");
        ledger.write(&entry(1000, 3), Durability::Synced).expect_err("there is no room for it");
        assert_eq!(read(), entry(1, 2));
        fs::remove_dir(own.join(TEMP_NAME)).expect("it is empty");
        ledger.write(&entry(1000, 4), Durability::Written).expect("it writes");
        for idle_ms in 5..9 {
            ledger.write(&entry(1, idle_ms), Durability::Synced).expect("it writes");
            assert_eq!(read(), entry(1, idle_ms));
        }
        // Somebody removes the file, or all of it.
        fs::remove_file(own.join(FILE_NAME)).expect("it is there");
        ledger.write(&entry(1, 9), Durability::Synced).expect("it writes");
        assert_eq!(read(), entry(1, 9));
        fs::remove_dir_all(&own).expect("it is there");
        ledger.write(&entry(1, 10), Durability::Synced).expect("it writes");
        assert_eq!(read(), entry(1, 10));
    }

    #[test]
    fn an_entry_of_an_older_server_is_written_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = dir.path().join(entry().id.as_str());
        fs::create_dir(&own).expect("it is made");
        for older in [GOLDEN, GOLDEN_2] {
            fs::write(own.join(FILE_NAME), older).expect("it writes");
            fs::write(own.join(TEMP_NAME), "what was before").expect("it writes");
            let ledger = Ledger::open(dir.path()).expect("it opens");
            let read = || ledger.read_all().expect("it lists").remove(0).1.expect("it reads");
            let found = read();
            assert!(found.format_version < FORMAT_VERSION);
            ledger.write(&found, Durability::Synced).expect("it writes");
            assert_eq!(read(), Entry { format_version: FORMAT_VERSION, ..found });
        }
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
        ledger.write(&entry(), Durability::Written).expect("it writes");
        let first = inode(&entry().id);
        ledger.remove(&entry().id).expect("it removes");
        assert!(read().is_empty() && !dir.path().join(entry().id.as_str()).exists());
        for durability in [Durability::Synced, Durability::Written] {
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
        ledger.write(&entry(), Durability::Written).expect("it writes");
        let file = dir.path().join(entry().id.as_str()).join(FILE_NAME);
        let older = |entry: &Entry| serde_json::to_string(entry).expect("it is JSON");
        let newer = Entry { format_version: FORMAT_VERSION + 1, ..entry() };
        let id = SandboxId::from_random([2; 21]);
        let moved = Entry { format_version: LAST_WITHOUT_PLACES, id, ..entry() };
        let changed = content(dir.path()).replace("ubuntu-minimal", "ubuntu-maximal");
        for (text, why) in [
            ("{", "no whole entry"),
            ("", "no whole entry"),
            (&older(&newer), "is newer than"),
            (&older(&moved), "is the entry of"),
            (&changed, "its own checksum"),
        ] {
            fs::write(&file, text).expect("it writes");
            let said = ledger.read_all().expect("it lists").remove(0).1.expect_err(text);
            assert!(said.to_string().contains(why), "{said}");
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
    fn what_has_gpus_says_so_when_it_sleeps() {
        let asleep = State::Suspended { at: UnixMillis(5), kept: Kept::Layer };
        let asleep = Entry { state: asleep, gpus: Vec::new(), ..with_gpus() };
        assert!(asleep.notice().is_some_and(|said| said.contains("GPUs")));
    }

    #[test]
    fn a_frozen_entry_was_once_written_as_held() {
        let both = Entry { format_version: 4, frozen: true, held: true, ..entry() };
        let text = serde_json::to_vec(&both).expect("it is JSON");
        let read = parse(Path::new("older"), &text).expect("it reads");
        assert_eq!(read, Entry { held: false, ..both });
    }

    /// The bytes of format 5 as they were first written; never edit.
    const GOLDEN_5: &str = include_str!("../tests/golden/ledger-5.json");

    #[test]
    fn format_5_is_read_for_ever() {
        let read = parse(Path::new("golden"), GOLDEN_5.as_bytes()).expect("it reads");
        assert_eq!(read, Entry { idle_ms: 3, ..entry() });
    }
}
