//! Who this server is: its data directory, the lock on it, its tag, its node id, its default key.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    future::Future,
    io::{Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};
use tarn_task::Entropy;
use tarn_types::{BootId, InstanceTag, NodeId};

use crate::config::DataDir;

/// The lock that keeps a second server off a data directory, as long as it lives.
#[derive(Debug)]
pub(crate) struct DataLock {
    _file: Flock<File>,
}

/// Returns the assets directory of a user who named none.
#[allow(clippy::disallowed_methods, reason = "the server crate reads the environment")]
pub(crate) fn default_assets_dir() -> anyhow::Result<PathBuf> {
    if let Some(data) = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from)
        // The XDG specification: a relative path there is to be ignored.
        && data.is_absolute()
    {
        return Ok(data.join("tarn"));
    }
    let home = std::env::home_dir().filter(|home| home.is_absolute());
    let home = home.ok_or_else(|| anyhow!("there is no home directory; say --assets-dir DIR"))?;
    Ok(home.join(".local/share/tarn"))
}

/// Makes the data directory if need be, and returns its real path.
pub(crate) fn open_data_dir(asked: &DataDir) -> anyhow::Result<DataDir> {
    let root = &asked.root;
    for dir in [root.clone(), asked.run(), asked.root.join("store")] {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("make the directory {}", dir.display()))?;
    }
    let root = fs::canonicalize(root)
        .with_context(|| format!("find the real path of {}", root.display()))?;
    Ok(DataDir { root })
}

/// Closes the data directory to everybody but its owner, whoever made it: sandboxes' files lie in
/// it, and what an image has setuid-root is root's on this machine, too.
///
/// # Errors
/// Fails when it belongs to somebody else, who could open it again.
pub(crate) fn close_to_others(data: &DataDir) -> anyhow::Result<()> {
    let root = data.root.display();
    let meta = fs::metadata(&data.root).with_context(|| format!("look at {root}"))?;
    let (owner, own) = (meta.uid(), nix::unistd::geteuid().as_raw());
    if owner != own {
        bail!(
            "the data directory {root} belongs to user {owner}, who could read and replace what is \
             in it; say `chown {own} {root}`, or give another --data-dir"
        );
    }
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(&data.root, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("close {root} to other users"))?;
    tracing::warn!(
        path = %root,
        mode = %format_args!("{mode:o}"),
        "the data directory was open to other users of this machine; its mode is 0700 now",
    );
    Ok(())
}

/// How long the lock of a server that is dead is waited for. A child that it was about to spawn
/// shares the lock until it runs its own program, which takes milliseconds.
const DEAD_HOLDER_PATIENCE: Duration = Duration::from_secs(10);

/// How often a lock is tried again meanwhile.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Takes the data directory for this process. Blocks for a while if its last server has just been
/// killed. `or` is what can be done besides when a living one has it.
///
/// # Errors
/// Fails when a living server has it.
pub(crate) fn lock(data: &DataDir, or: &str) -> anyhow::Result<DataLock> {
    let mut waited = Duration::ZERO;
    loop {
        match try_lock(data)? {
            Ok(lock) => return Ok(lock),
            Err(holder) if lives(&holder) || waited >= DEAD_HOLDER_PATIENCE => bail!(
                "the data directory {} is in use by the tarn server with pid {}; stop that one{or}",
                data.root.display(),
                if holder.is_empty() { "unknown" } else { &holder },
            ),
            Err(_dead) => {
                std::thread::sleep(LOCK_PAUSE);
                waited += LOCK_PAUSE;
            }
        }
    }
}

/// Says whether a process is there that could hold a lock.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state stands behind the name, which may hold anything but is closed by the last `)`.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
    state.is_some_and(|state| !matches!(state, "Z" | "X"))
}

/// Takes the lock, or returns the pid that its holder has written into it.
fn try_lock(data: &DataDir) -> anyhow::Result<Result<DataLock, String>> {
    let path = data.lock();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    let mut holder = String::new();
    file.read_to_string(&mut holder).with_context(|| format!("read {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            file.set_len(0).context("clear the lock file")?;
            write!(file, "{}", std::process::id()).context("write the lock file")?;
            Ok(Ok(DataLock { _file: file }))
        }
        Err((_file, _errno)) => Ok(Err(holder.trim().to_owned())),
    }
}

/// Derives the tag of all host objects from the data directory's real path.
pub(crate) fn tag(data: &DataDir) -> InstanceTag {
    use std::os::unix::ffi::OsStrExt as _;
    let hash = Sha256::digest(data.root.as_os_str().as_bytes());
    let mut first = [0; 6];
    first.copy_from_slice(&hash[..6]);
    InstanceTag::from_hash(first)
}

/// Returns the id of this node, making it at the first start.
pub(crate) fn node_id(data: &DataDir, entropy: &dyn Entropy) -> anyhow::Result<NodeId> {
    let path = data.node_id();
    let text = read_or_make(&path, || NodeId::from_random(entropy.bytes()).to_string())?;
    text.trim().parse().with_context(|| format!("understand {}", path.display()))
}

/// Returns the default key, making it at the first start.
pub(crate) fn default_key(data: &DataDir, make: impl FnOnce() -> String) -> anyhow::Result<String> {
    let text = read_or_make(&data.default_key(), make)?;
    Ok(text.trim().to_owned())
}

/// Puts another default key in the place of the one that was.
pub(crate) fn replace_default_key(data: &DataDir, key: &str) -> anyhow::Result<()> {
    write_private(&data.default_key(), &format!("{key}\n"))
}

/// Returns the running boot of the host.
pub(crate) fn boot_id() -> anyhow::Result<BootId> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(BootId::new(&fs::read_to_string(path).with_context(|| format!("read {path}"))?))
}

/// Runs one future on a small runtime of its own.
pub(crate) fn block_on<F: Future<Output = anyhow::Result<()>>>(future: F) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(future)
}

/// Writes a file that only its owner may read, in one step.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let temp = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temp, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

fn read_or_make(path: &Path, make: impl FnOnce() -> String) -> anyhow::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => Ok(text),
        Ok(_) => {
            let text = make();
            write_private(path, &format!("{text}\n"))?;
            Ok(text)
        }
        Err(absent) if absent.kind() == std::io::ErrorKind::NotFound => {
            let text = make();
            write_private(path, &format!("{text}\n"))?;
            Ok(text)
        }
        Err(bad) => Err(bad).with_context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use tarn_task::SeededEntropy;

    use super::*;

    fn data() -> (tempfile::TempDir, DataDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let data = open_data_dir(&DataDir { root: dir.path().join("data") }).expect("it is made");
        (dir, data)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    #[test]
    fn one_server_a_directory() {
        let (_dir, data) = data();
        let first = lock(&data, "").expect("free");
        let refused = lock(&data, "").expect_err("taken").to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        assert!(refused.ends_with("; stop that one"), "{refused}");
        drop(first);
        drop(lock(&data, "").expect("free again"));
    }

    #[test]
    fn the_lock_of_a_dead_server_is_waited_for() {
        let (_dir, data) = data();
        let first = try_lock(&data).expect("readable").expect("free");
        // As a child between its fork and its program would hold it on behalf of a dead one.
        fs::write(data.lock(), "4194305").expect("written");
        let second = std::thread::scope(|scope| {
            let second = scope.spawn(|| lock(&data, ""));
            drop(first);
            second.join().expect("no panic")
        });
        drop(second.expect("free in the end"));
        assert!(lives(&std::process::id().to_string()));
        assert!(!lives("4194305") && !lives(""), "beyond the largest pid");
    }

    #[test]
    fn identity_is_made_once() {
        let (_dir, data) = data();
        let id = |seed| node_id(&data, &SeededEntropy::new(seed)).expect("an id");
        assert_eq!(id(1), id(2));
        let key = default_key(&data, || "tl_apiKey_1".to_owned()).expect("a key");
        let again = default_key(&data, || "tl_apiKey_2".to_owned()).expect("a key");
        assert_eq!((key.as_str(), again.as_str()), ("tl_apiKey_1", "tl_apiKey_1"));
        assert_eq!(mode(&data.default_key()), 0o600);
        replace_default_key(&data, "tl_apiKey_3").expect("written");
        let replaced = default_key(&data, || "tl_apiKey_4".to_owned()).expect("a key");
        assert_eq!(replaced, "tl_apiKey_3");
        assert_eq!(mode(&data.default_key()), 0o600);
    }

    #[test]
    fn a_directory_made_beforehand_is_closed_to_others() {
        let (_dir, data) = data();
        assert_eq!(mode(&data.root), 0o700);
        for open in [0o755, 0o750, 0o701, 0o2770] {
            fs::set_permissions(&data.root, fs::Permissions::from_mode(open)).expect("changed");
            open_data_dir(&data).expect("it is there");
            close_to_others(&data).expect("it is ours");
            assert_eq!(mode(&data.root), 0o700, "{open:o}");
        }
    }

    #[test]
    fn tags_differ_by_directory() {
        let tag = |path: &str| tag(&DataDir { root: path.into() });
        assert_ne!(tag("/a"), tag("/b"));
        assert_eq!(tag("/a"), tag("/a"));
    }
}
