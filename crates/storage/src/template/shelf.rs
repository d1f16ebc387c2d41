//! The templates on disk, and what is known of them in memory. Nobody else writes there.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tarn_host::{StoredImage, Template};
use tarn_types::{ByteSize, ImageConfig, ImageDigest, UnixMillis};

use crate::{
    durable,
    step::{HostStepError, StepContext as _, chain},
    trash::Trash,
};

/// How long what a pull fetched is kept when nobody goes on.
pub(super) const WORK_KEPT_MS: i64 = 24 * 3_600_000;

/// How old the last note of a use may be before there is another.
const NOTE_EVERY_MS: i64 = 60_000;

/// The version of `image.json` that is written; the same as that of stock images.
const FORMAT_VERSION: u32 = 1;

const DESCRIPTION: &str = "image.json";
const USED: &str = "used";

/// The templates below one directory.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    trash: Trash,
    here: Mutex<BTreeMap<ImageDigest, Entry>>,
    /// Held while something is put there or taken away, which waits for the disk.
    changing: Mutex<()>,
}

#[derive(Debug)]
struct Entry {
    template: Template,
    origin: String,
    size: ByteSize,
    used_at: UnixMillis,
    /// When that was last written down.
    noted_at: UnixMillis,
}

/// What makes a template of a tree.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) digest: ImageDigest,
    pub(super) config: ImageConfig,
    pub(super) origin: String,
    pub(super) size: ByteSize,
}

/// That a template was used, to be written down.
#[derive(Debug)]
pub(super) struct Note(PathBuf, UnixMillis);

/// `image.json`, in the words of the stock images' and with what is known of a pull.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    format_version: u32,
    digest: ImageDigest,
    config: DescribedConfig,
    origin: String,
    size_bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct DescribedConfig {
    env: Vec<String>,
    user: Option<String>,
    working_dir: Option<String>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
}

// === impl Shelf ===

impl Shelf {
    /// Reads what is there; removes what was not finished, but keeps what pulls have fetched.
    pub(super) fn open(dir: &Path) -> Result<Self, HostStepError> {
        for dir in [dir, &dir.join(".work"), &dir.join(".trash")] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.step("make", dir)?;
        }
        let shelf = Self {
            dir: dir.to_owned(),
            trash: Trash::new(dir.join(".trash")),
            here: Mutex::default(),
            changing: Mutex::default(),
        };
        for entry in fs::read_dir(dir).step("list", dir)? {
            let entry = entry.step("list", dir)?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let digest = name.to_str().and_then(digest_of);
            match digest.map(|digest| read(&entry.path(), &digest).map(|read| (digest, read))) {
                Some(Ok((digest, entry))) => drop(shelf.here.lock().insert(digest, entry)),
                Some(Err(reason)) => {
                    tracing::warn!(path = %entry.path().display(), reason, "no whole image; removed");
                    shelf.bin(&entry.path(), "half")?;
                }
                // Not of ours.
                None => {}
            }
        }
        let works = dir.join(".work");
        for entry in fs::read_dir(&works).step("list", &works)? {
            let path = entry.step("list", &works)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if digest_of(name).is_none() {
                shelf.bin(&path, "import")?;
            } else if path.join("rootfs").exists() {
                shelf.bin(&path.join("rootfs"), "half")?;
            }
        }
        Ok(shelf)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn has(&self, digest: &ImageDigest) -> bool {
        self.here.lock().contains_key(digest)
    }

    /// Returns a template that is about to be used, and from time to time a note of that.
    pub(super) fn take(
        &self,
        digest: &ImageDigest,
        now: UnixMillis,
    ) -> Option<(Template, Option<Note>)> {
        let mut here = self.here.lock();
        let entry = here.get_mut(digest)?;
        entry.used_at = now;
        let due = now.0.saturating_sub(entry.noted_at.0) >= NOTE_EVERY_MS;
        let note = due.then(|| {
            entry.noted_at = now;
            Note(self.place(digest).join(USED), now)
        });
        Some((entry.template.clone(), note))
    }

    pub(super) fn list(&self) -> Vec<StoredImage> {
        let here = self.here.lock();
        let stored = here.iter().map(|(digest, entry)| StoredImage {
            digest: digest.clone(),
            origin: entry.origin.clone(),
            size: entry.size,
            used_at: entry.used_at,
            progress: None,
        });
        stored.collect()
    }

    /// Returns the directory in which a pull of an image works, made if it is not there.
    pub(super) fn work(&self, digest: &ImageDigest) -> Result<PathBuf, HostStepError> {
        let work = self.dir.join(".work").join(name_of(digest));
        match DirBuilder::new().mode(0o700).create(&work) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(HostStepError::new("make", &work, error))
            }
            Ok(()) | Err(_) => Ok(work),
        }
    }

    /// Makes a directory for an import, which no other server finds.
    pub(super) fn import_work(&self) -> Result<PathBuf, HostStepError> {
        let place = self.trash.place("import");
        let name = place.file_name().unwrap_or_default();
        let work = self.dir.join(".work").join(name);
        DirBuilder::new().mode(0o700).create(&work).step("make", &work)?;
        Ok(work)
    }

    /// Makes a template of the tree in a work directory, whole after a power cut or not there; the
    /// tree itself is on disk already. Removes the work directory.
    pub(super) fn place_tree(
        &self,
        work: &Path,
        made: Made,
        now: UnixMillis,
    ) -> Result<(), HostStepError> {
        let place = self.place(&made.digest);
        // Two could come by the same image in two ways.
        let changing = self.changing.lock();
        if !self.has(&made.digest) {
            if place.exists() {
                self.bin(&place, "half")?;
            }
            DirBuilder::new().mode(0o700).create(&place).step("make", &place)?;
            let root = place.join("rootfs");
            fs::rename(work.join("rootfs"), &root).step("move", &root)?;
            durable::sync(&place)?;
            let text = Description::of(&made).to_text();
            durable::write_file(&place.join(DESCRIPTION), text.as_bytes(), 0o600)?;
            durable::sync(&self.dir)?;
            let Made { digest, config, origin, size } = made;
            let template = Template { digest: digest.to_string(), root, config };
            let entry = Entry { template, origin, size, used_at: now, noted_at: now };
            self.here.lock().insert(digest, entry);
        }
        drop(changing);
        self.bin(work, "work")
    }

    /// Takes a template away; says whether there was one.
    pub(super) fn discard(&self, digest: &ImageDigest) -> Result<bool, HostStepError> {
        let _changing = self.changing.lock();
        if !self.has(digest) {
            return Ok(false);
        }
        self.bin(&self.place(digest), "image")?;
        self.here.lock().remove(digest);
        Ok(true)
    }

    /// Returns the images of which pulls have fetched something, the last time before a moment.
    pub(super) fn works_before(&self, before: UnixMillis) -> Vec<ImageDigest> {
        let Ok(entries) = fs::read_dir(self.dir.join(".work")) else { return Vec::new() };
        let old = |entry: &fs::DirEntry| {
            let touched = ["blobs", "."].map(|part| modified(&entry.path().join(part)));
            touched.into_iter().max().is_some_and(|at| at <= before)
        };
        let entries = entries.flatten().filter(old);
        entries.filter_map(|entry| digest_of(entry.file_name().to_str()?)).collect()
    }

    /// Moves away what pulls of an image have fetched.
    pub(super) fn bin_work(&self, digest: &ImageDigest) {
        let work = self.dir.join(".work").join(name_of(digest));
        if work.exists()
            && let Err(bad) = self.bin(&work, "work")
        {
            tracing::warn!(error = chain(&bad), "what a pull left is not removed");
        }
    }

    pub(super) fn empty_trash(&self) {
        self.trash.empty();
    }

    fn place(&self, digest: &ImageDigest) -> PathBuf {
        self.dir.join(name_of(digest))
    }

    /// Moves something away at once; it is removed later.
    pub(super) fn bin(&self, path: &Path, name: &str) -> Result<(), HostStepError> {
        fs::rename(path, self.trash.place(name)).step("move to the trash", path)
    }
}

// === impl Note ===

impl Note {
    pub(super) fn write(self) {
        let Self(path, at) = self;
        let millis = u64::try_from(at.0).unwrap_or(0);
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let written = fs::File::create(&path).and_then(|file| file.set_modified(time));
        if let Err(error) = written {
            // Whoever is removing it was quicker.
            tracing::debug!(path = %path.display(), %error, "a use of an image is not noted");
        }
    }
}

// === impl Description ===

impl Description {
    fn of(made: &Made) -> Self {
        let ImageConfig { env, user, working_dir, entrypoint, cmd } = made.config.clone();
        Self {
            format_version: FORMAT_VERSION,
            digest: made.digest.clone(),
            config: DescribedConfig {
                env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
                user,
                working_dir,
                entrypoint,
                cmd,
            },
            origin: made.origin.clone(),
            size_bytes: made.size.bytes(),
        }
    }

    fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers are JSON")
    }
}

/// Reads a template; says what is wrong with one that is not whole.
fn read(dir: &Path, digest: &ImageDigest) -> Result<Entry, String> {
    let path = dir.join(DESCRIPTION);
    let text = fs::read_to_string(&path).map_err(|error| format!("{DESCRIPTION}: {error}"))?;
    let description: Description =
        serde_json::from_str(&text).map_err(|error| format!("{DESCRIPTION}: {error}"))?;
    let root = dir.join("rootfs");
    if description.format_version != FORMAT_VERSION || description.digest != *digest {
        return Err(format!("{DESCRIPTION} is of another version, or of another image"));
    }
    if !root.is_dir() {
        return Err("rootfs is missing".to_owned());
    }
    let DescribedConfig { env, user, working_dir, entrypoint, cmd } = description.config;
    let pair = |line: &String| {
        line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let config = ImageConfig {
        env: env.iter().filter_map(pair).collect(),
        user,
        working_dir,
        entrypoint,
        cmd,
    };
    let used_at = modified(&path).max(modified(&dir.join(USED)));
    Ok(Entry {
        template: Template { digest: digest.to_string(), root, config },
        origin: description.origin,
        size: ByteSize::from_bytes(description.size_bytes),
        used_at,
        noted_at: used_at,
    })
}

fn modified(path: &Path) -> UnixMillis {
    let modified = fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let since = modified.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    UnixMillis(since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}

/// Writes a digest as a file name without a colon, which overlayfs reads as a list.
fn name_of(digest: &ImageDigest) -> String {
    digest.as_str().replacen(':', "-", 1)
}

fn digest_of(name: &str) -> Option<ImageDigest> {
    name.replacen('-', ":", 1).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> ImageDigest {
        format!("sha256:{}", "a".repeat(64)).parse().expect("a good digest")
    }

    fn made() -> Made {
        Made {
            digest: digest(),
            config: ImageConfig {
                env: vec![("A".to_owned(), "1=2".to_owned()), ("B".to_owned(), String::new())],
                user: Some("1000:1000".to_owned()),
                working_dir: None,
                entrypoint: vec!["/e".to_owned()],
                cmd: vec!["c".to_owned()],
            },
            origin: "h/r:1".to_owned(),
            size: ByteSize::from_mib(3),
        }
    }

    fn tree(shelf: &Shelf) -> PathBuf {
        let work = shelf.work(&digest()).expect("a work directory");
        for dir in ["rootfs/etc", "blobs"] {
            fs::create_dir_all(work.join(dir)).expect("made");
        }
        fs::write(work.join("blobs/1"), "fetched").expect("written");
        work
    }

    #[test]
    fn a_template_is_there_again_after_a_restart_with_all_that_is_known_of_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let shelf = Shelf::open(dir.path()).expect("it opens");
        let work = tree(&shelf);
        shelf.place_tree(&work, made(), UnixMillis(5)).expect("placed");
        assert!(!work.exists());
        let (template, note) = shelf.take(&digest(), UnixMillis(2_000_000_000_000)).expect("here");
        note.expect("the last one is old").write();
        assert!(template.root.join("etc").is_dir());
        assert_eq!(template.config, made().config);
        let again = Shelf::open(dir.path()).expect("it opens");
        assert_eq!(again.list(), shelf.list());
        assert_eq!(again.list()[0].used_at, UnixMillis(2_000_000_000_000));
        let (reread, note) = again.take(&digest(), UnixMillis(2_000_000_000_001)).expect("here");
        assert_eq!((reread, note.is_none()), (template, true));
        assert!(again.discard(&digest()).expect("discarded"));
        assert!(!again.discard(&digest()).expect("nothing to do"));
        again.empty_trash();
        let shelf = Shelf::open(dir.path()).expect("it opens");
        assert_eq!(shelf.list(), []);
        assert_eq!(fs::read_dir(dir.path()).expect("a list").count(), 2, "only .work and .trash");
    }

    #[test]
    fn what_was_not_finished_is_removed_and_what_was_fetched_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let shelf = Shelf::open(dir.path()).expect("it opens");
        let work = tree(&shelf);
        let import = shelf.import_work().expect("a work directory");
        // Of one that died before the last step, and of one with damage.
        let other = dir.path().join(format!("sha256-{}", "b".repeat(64)));
        fs::create_dir_all(other.join("rootfs")).expect("made");
        let third = dir.path().join(format!("sha256-{}", "c".repeat(64)));
        fs::create_dir_all(third.join("rootfs")).expect("made");
        fs::write(third.join(DESCRIPTION), Description::of(&made()).to_text()).expect("written");
        let shelf = Shelf::open(dir.path()).expect("it opens");
        assert_eq!(shelf.list(), []);
        assert!(!other.exists() && !third.exists() && !import.exists());
        assert!(!work.join("rootfs").exists() && work.join("blobs/1").exists());
        assert_eq!(shelf.works_before(UnixMillis(1)), []);
        assert_eq!(shelf.works_before(UnixMillis(i64::MAX)), [digest()]);
        shelf.bin_work(&digest());
        assert!(!work.exists());
    }
}
