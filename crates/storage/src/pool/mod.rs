//! The pool: a file system that can clone files by reflink, in which layers live.
//!
//! Its directory is always `<data>/pool`. What lies there is decided once, when the pool is first
//! made: a plain directory where the data directory's own file system clones; else an XFS image,
//! `<data>/pool.img`, mounted over it; else a plain directory into which blanks are copied.
//!
//! The image is really allocated: a sparse one would fail *every* sandbox when the disk below
//! fills. It grows online. It stays mounted when the server stops, because sandboxes live on.

mod growth;
mod image;

use std::{
    collections::HashMap,
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::{
    fs::{FlockOperation, flock, ioctl_ficlone, statvfs},
    io::Errno,
};
use tarn_host::{CaptureError, LayerError, PoolSpace};
use tarn_types::{ByteSize, ErrorClass, InstanceTag};
use thiserror::Error;

pub use self::growth::PoolSizing;
pub(crate) use self::growth::reserve;
use self::{growth::PoolFill, image::PoolImage};
use crate::{
    loopdev, mount,
    step::{HostStepError, StepContext as _, chain},
    straggler,
    trash::Trash,
    xfs,
};

/// How often a pool that seems full is looked at again, and after which pause.
const LOOKS: usize = 5;
const LOOK_PAUSE: Duration = Duration::from_millis(2);

/// How the pool clones a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolKind {
    /// The data directory's own file system clones.
    DataDir,
    /// An XFS image of ours, mounted by a loop device.
    XfsImage,
    /// Nothing clones: files are copied.
    PlainCopies,
}

/// Which kinds a new pool may be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PoolChoice {
    /// The best that the host can do.
    #[default]
    Best,
    /// Never an image: the data directory's file system, by clones or copies.
    NoImage,
}

/// What a pool is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolOptions {
    /// Which kinds it may be of.
    pub choice: PoolChoice,
    /// How large its image is and becomes.
    pub sizing: PoolSizing,
}

/// Says why the pool cannot be opened.
#[derive(Debug, Error)]
pub enum PoolError {
    /// A step on the host failed.
    #[error("cannot open the pool")]
    Step(#[from] HostStepError),
    /// The disk has no room for a pool worth having.
    #[error(
        "the disk of {path} has room for a pool of {available}, and the least is {least}; free disk space or put the data directory on another disk"
    )]
    NoRoom {
        /// Where the pool should be.
        path: PathBuf,
        /// What the pool could have.
        available: ByteSize,
        /// What it must have.
        least: ByteSize,
    },
}

/// The open pool of a data directory.
#[derive(Debug)]
pub struct Pool {
    dir: PathBuf,
    tag: InstanceTag,
    kind: PoolKind,
    sizing: PoolSizing,
    /// Why it is not of a better kind.
    shortcoming: Option<String>,
    image: Option<PoolImage>,
    /// Held while the image grows; whether it could not the last time.
    growing: Mutex<()>,
    stuck: AtomicBool,
    /// Room that is spoken for, by the directory whose files will take it.
    promised: Mutex<HashMap<PathBuf, u64>>,
    trash: Trash,
}

// === impl PoolError ===

impl PoolError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Step(error) => error.class(),
            Self::NoRoom { .. } => ErrorClass::Unavailable,
        }
    }
}

// === impl Pool ===

impl Pool {
    /// Opens the pool of a data directory, making it at the first time and mounting it again after
    /// a reboot. Blocks; at the first time for well under a second.
    ///
    /// # Errors
    /// Fails when a pool that exists cannot be brought back, or a new one has no room. A host that
    /// cannot have an image is no error: the pool then copies, see [`Pool::shortcoming`].
    pub fn open(
        data_dir: &Path,
        tag: &InstanceTag,
        options: PoolOptions,
    ) -> Result<Self, PoolError> {
        fs::create_dir_all(data_dir).step("make", data_dir)?;
        let data_dir = data_dir.canonicalize().step("resolve", data_dir)?;
        // Two servers starting at once on one directory must not both make the image.
        let _lock = lock(&data_dir.join("pool.lock"))?;
        let step = "wait for programs of an earlier server in";
        match straggler::outlast(&data_dir).step(step, &data_dir)? {
            0 => {}
            programs => tracing::info!(programs, "programs of an earlier server have ended"),
        }
        let dir = data_dir.join("pool");
        fs::create_dir_all(&dir).step("make", &dir)?;
        let image = PoolImage::new(&data_dir.join("pool.img"), &dir, tag);
        let mut pool = Self {
            trash: Trash::new(dir.join("trash")),
            dir,
            tag: tag.clone(),
            kind: PoolKind::PlainCopies,
            sizing: options.sizing,
            shortcoming: None,
            image: None,
            growing: Mutex::new(()),
            stuck: AtomicBool::new(false),
            promised: Mutex::default(),
        };
        pool.settle(image, options.choice)?;
        for part in ["layers", "blanks", "captures", "trash"] {
            let path = pool.dir.join(part);
            fs::create_dir_all(&path).step("make", &path)?;
        }
        tracing::info!(kind = ?pool.kind, "pool open");
        for fact in pool.facts().into_iter().filter(|fact| !fact.ok) {
            tracing::warn!(remedy = fact.remedy, "{}: {}", fact.name, fact.detail);
        }
        Ok(pool)
    }

    /// Decides of which kind the pool is, and makes it so.
    fn settle(&mut self, image: PoolImage, choice: PoolChoice) -> Result<(), PoolError> {
        if image.exists() {
            image.ensure_mounted()?;
            self.kind = PoolKind::XfsImage;
            self.image = Some(image);
            return Ok(());
        }
        if can_clone(&self.dir)? {
            self.kind = PoolKind::DataDir;
            return Ok(());
        }
        // Layers already in the plain directory would vanish below an image mounted over it.
        let in_use = fs::read_dir(self.dir.join("layers")).is_ok_and(|mut it| it.next().is_some());
        let obstacle = match choice {
            _ if in_use => Some("it already holds copied layers".to_owned()),
            PoolChoice::NoImage => Some("the configuration wants no image".to_owned()),
            PoolChoice::Best => image::obstacle(),
        };
        if let Some(obstacle) = obstacle {
            self.shortcoming = Some(obstacle);
            return Ok(());
        }
        image.create(&self.sizing)?;
        image.ensure_mounted()?;
        self.kind = PoolKind::XfsImage;
        self.image = Some(image);
        Ok(())
    }

    /// Returns the pool's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the mark that its host objects carry.
    #[must_use]
    pub fn tag(&self) -> &InstanceTag {
        &self.tag
    }

    /// Returns how it clones.
    #[must_use]
    pub fn kind(&self) -> PoolKind {
        self.kind
    }

    /// Returns why it cannot clone, when it cannot.
    #[must_use]
    pub fn shortcoming(&self) -> Option<&str> {
        self.shortcoming.as_deref()
    }

    pub(crate) fn trash(&self) -> &Trash {
        &self.trash
    }

    /// Returns how much room there is, counting what the image can still grow by and not what is
    /// promised.
    ///
    /// # Errors
    /// Fails when the file system cannot be asked.
    pub fn space(&self) -> Result<PoolSpace, HostStepError> {
        let promised = self.promised.lock().clone();
        let space = self.space_beside(outstanding(&promised))?;
        let drafts = promised.keys().map(|dir| taken(dir)).sum();
        Ok(PoolSpace { drafts: ByteSize::from_bytes(drafts), ..space })
    }

    /// Looks again where there seems to be little: for the moment in which XFS clones a hole, it
    /// counts as much as taken as the hole is large.
    fn space_beside(&self, promised: u64) -> Result<PoolSpace, HostStepError> {
        let mut space = self.space_now(promised)?;
        for _ in 0..LOOKS {
            if space.available >= reserve(space.total).max(space.floor) {
                break;
            }
            thread::sleep(LOOK_PAUSE);
            let again = self.space_now(promised)?;
            if again.available > space.available {
                space = again;
            }
        }
        Ok(space)
    }

    fn space_now(&self, promised: u64) -> Result<PoolSpace, HostStepError> {
        let (size, free) = room(&self.dir)?;
        let (free, growth) = match &self.image {
            Some(image) => {
                let fill = self.fill(image)?;
                // What cannot be had is no room, whatever the disk below says.
                let stuck = self.stuck.load(Ordering::Relaxed);
                (fill.writable(), if stuck { 0 } else { self.sizing.room_to_grow(fill) })
            }
            None => (free, 0),
        };
        let total = ByteSize::from_bytes(size + growth);
        Ok(PoolSpace {
            total,
            available: ByteSize::from_bytes((free + growth).saturating_sub(promised)),
            floor: growth::floor(total, self.sizing.freeze_below),
            drafts: ByteSize::default(),
        })
    }

    /// Refuses when a new layer would use up the reserve.
    ///
    /// # Errors
    /// Fails when less than the reserve is free, or it cannot be asked.
    pub fn check_room(&self) -> Result<(), LayerError> {
        let space = self.space()?;
        let reserve = reserve(space.total);
        if space.available < reserve {
            return Err(LayerError::PoolFull { available: space.available, reserve });
        }
        Ok(())
    }

    /// Refuses like [`Pool::check_room`], and where a copy of a file would take room of its own and
    /// with that use up the reserve.
    pub(crate) fn check_room_for_clone(&self, source: &Metadata) -> Result<(), LayerError> {
        self.check_room()?;
        let PoolKind::PlainCopies = self.kind else { return Ok(()) };
        let space = self.space()?;
        let reserve = reserve(space.total);
        if space.available < reserve.saturating_add(allocated(source)) {
            return Err(LayerError::PoolFull { available: space.available, reserve });
        }
        Ok(())
    }

    /// Refuses a copy of a file that would take room of its own and with that use up the reserve.
    pub(crate) fn check_room_for_copy(&self, source: &Metadata) -> Result<(), CaptureError> {
        let PoolKind::PlainCopies = self.kind else { return Ok(()) };
        let space = self.space()?;
        let (available, reserve) = (space.available, reserve(space.total));
        let needed = allocated(source);
        if available < reserve.saturating_add(needed) {
            return Err(CaptureError::PoolFull { needed, available, reserve });
        }
        Ok(())
    }

    /// Promises room to the files of a directory, in place of what was promised before, until
    /// [`Pool::end_promise`]; what they take meanwhile is counted off. Grows the image ahead of it.
    /// Where it fails, nothing is promised.
    pub(crate) fn promise(&self, dir: &Path, needed: ByteSize) -> Result<(), CaptureError> {
        {
            let mut promised = self.promised.lock();
            promised.remove(dir);
            let space = self.space_beside(outstanding(&promised))?;
            let (available, reserve) = (space.available, reserve(space.total));
            if available < reserve.saturating_add(needed) {
                return Err(CaptureError::PoolFull { needed, available, reserve });
            }
            promised.insert(dir.to_owned(), needed.bytes());
        }
        let Err(error) = self.grow_if_low() else { return Ok(()) };
        let enough = room(&self.dir).is_ok_and(|(_, free)| free >= needed.bytes());
        if enough {
            // The watcher of the pool says that it cannot grow.
            return Ok(());
        }
        self.end_promise(dir);
        Err(error.into())
    }

    pub(crate) fn end_promise(&self, dir: &Path) {
        self.promised.lock().remove(dir);
    }

    /// Says whether a clone keeps writers off its source until it is complete, and is seen to have
    /// begun by the blocks of its target. Only what was tried counts.
    pub(crate) fn clones_at_once(&self) -> Result<bool, HostStepError> {
        match self.kind {
            PoolKind::PlainCopies => Ok(false),
            PoolKind::XfsImage | PoolKind::DataDir => mount::is_on(&self.dir, mount::XFS_MAGIC),
        }
    }

    /// Grows the image when too little is free in it; returns whether it grew. Blocks.
    ///
    /// # Errors
    /// Fails when the image cannot be enlarged; it then is as large as it was.
    pub fn grow_if_low(&self) -> Result<bool, HostStepError> {
        let Some(image) = &self.image else { return Ok(false) };
        let _growing = self.growing.lock();
        let promised = outstanding(&self.promised.lock());
        let size = self.sizing.next_size(self.fill(image)?, promised);
        let Some(size) = size else { return Ok(false) };
        let grown = image.grow(size);
        self.stuck.store(grown.is_err(), Ordering::Relaxed);
        grown?;
        tracing::info!(size = %ByteSize::from_bytes(size), "pool grown");
        Ok(true)
    }

    /// Has a file that shares much with its clones copy no more than what is written.
    pub(crate) fn copy_by_block(&self, file: &Path) {
        if let Ok(true) = self.clones_at_once()
            && let Err(error) = xfs::copy_by_block(file)
        {
            let error = chain(&error);
            tracing::warn!(error, "writes to a layer may take much more room than they need");
        }
    }

    /// Copies a file within the pool, sharing its blocks where the file system can.
    pub(crate) fn clone_file(&self, source: &File, to: &Path) -> Result<(), HostStepError> {
        let target = OpenOptions::new().write(true).create_new(true).open(to).step("make", to)?;
        self.fill_clone(source, &target, to)
    }

    /// Makes an empty file what another is, as [`Pool::clone_file`]; `to` is for the error.
    pub(crate) fn fill_clone(
        &self,
        source: &File,
        target: &File,
        to: &Path,
    ) -> Result<(), HostStepError> {
        match self.kind {
            PoolKind::DataDir | PoolKind::XfsImage => {
                ioctl_ficlone(target, source).step("clone into", to)
            }
            PoolKind::PlainCopies => copy_sparse(source, target).step("copy into", to),
        }
    }

    fn fill(&self, image: &PoolImage) -> Result<PoolFill, HostStepError> {
        let (_, free) = room(&self.dir)?;
        let (_, disk_free) = room(image.disk())?;
        Ok(PoolFill { size: image.size()?, free, disk_free, holes: image.holes()? })
    }

    /// Returns where something is mounted beneath a data directory, whoever mounted it. The path
    /// is the directory's real one.
    ///
    /// # Errors
    /// Fails when the host does not say what is mounted.
    pub fn mounts_beneath(data_dir: &Path) -> Result<Vec<PathBuf>, HostStepError> {
        let mounts = mount::mounts_beneath(data_dir)?.into_iter().map(|entry| entry.target);
        Ok(mounts.filter(|target| target != data_dir).collect())
    }
}

/// Unmounts what this crate mounted beneath a data directory: roots, layers, the pool's image.
///
/// For tests, and for taking a data directory away; no file is removed. Blocks.
///
/// # Errors
/// Fails when a mount is still in use after 5 s, or a step on the host fails.
pub fn remove_all_mounts(data_dir: &Path) -> Result<(), HostStepError> {
    let data_dir = match data_dir.canonicalize() {
        Ok(data_dir) => data_dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(HostStepError::new("resolve", data_dir, error)),
    };
    let (dir, image) = (data_dir.join("pool"), data_dir.join("pool.img"));
    let image_loops = loopdev::attached_beneath(&image)?;
    let mut lingering = None;
    for entry in mount::mounts_beneath(&dir)?.into_iter().rev() {
        let is_image = image_loops.iter().any(|it| *it.device == *entry.source);
        if entry.target == dir && !is_image {
            // The operator gave the pool a disk of its own.
            continue;
        }
        if mount::unmount(&entry.target)? == mount::Unmounted::Detached {
            lingering = Some(entry.target);
            continue;
        }
        // Takes the copies in other mount namespaces along.
        mount::remove_mount_point(&entry.target)?;
        match fs::create_dir(&entry.target) {
            // A pool that is full must be possible to take away above all.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            outcome => outcome.step("make", &entry.target)?,
        }
    }
    let is_ours = |backing: &Path| backing.starts_with(&dir) || *backing == image;
    let gone = mount::wait_until(|| {
        let attached = loopdev::attached_beneath(&data_dir)?;
        Ok(!attached.iter().any(|it| is_ours(&it.backing)))
    })?;
    match lingering {
        Some(target) => Err(HostStepError::new("unmount", &target, Errno::BUSY)),
        None if !gone => Err(HostStepError::new("detach the loops of", &data_dir, Errno::BUSY)),
        None => Ok(()),
    }
}

/// Returns the size of a file system and what is free in it, in bytes.
pub(crate) fn room(path: &Path) -> Result<(u64, u64), HostStepError> {
    let stat = statvfs(path).step("ask the room of", path)?;
    Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

/// Returns what a file takes on its disk; blocks that it shares count in full.
pub(crate) fn allocated(file: &Metadata) -> ByteSize {
    // stat(2): in units of 512 bytes, whatever the file system's blocks are.
    ByteSize::from_bytes(file.blocks() * 512)
}

/// Adds up what is promised and not taken yet.
fn outstanding(promised: &HashMap<PathBuf, u64>) -> u64 {
    promised.iter().map(|(dir, bytes)| bytes.saturating_sub(taken(dir))).sum()
}

/// Adds up what the files of a directory take; what cannot be read takes nothing.
fn taken(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| allocated(&file).bytes()).sum()
}

/// Tries whether files in a directory can be cloned.
fn can_clone(dir: &Path) -> Result<bool, HostStepError> {
    let names = [".probe-from", ".probe-to"].map(|name| dir.join(name));
    let [from, to] = &names;
    fs::write(from, [7; 4096]).step("write", from)?;
    let source = File::open(from).step("open", from)?;
    let target = File::create(to).step("make", to)?;
    let answer = ioctl_ficlone(&target, &source);
    for name in &names {
        fs::remove_file(name).step("remove", name)?;
    }
    match answer {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS) => {
            Ok(false)
        }
        Err(errno) => Err(HostStepError::new("clone into", to, errno)),
    }
}

/// Copies a file, leaving its holes.
fn copy_sparse(source: &File, target: &File) -> io::Result<()> {
    use rustix::fs::{SeekFrom, seek};
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut at = 0;
    while at < length {
        let start = match seek(source, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(source, SeekFrom::Hole(start))?;
        seek(source, SeekFrom::Start(start))?;
        seek(target, SeekFrom::Start(start))?;
        io::copy(&mut io::Read::take(source, end - start), &mut { target })?;
        at = end;
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, HostStepError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .step("open", path)?;
    flock(&file, FlockOperation::LockExclusive).step("lock", path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_content_and_holes() -> anyhow::Result<()> {
        use std::os::unix::fs::{FileExt as _, MetadataExt as _};
        let dir = tempfile::tempdir()?;
        let paths = ["from", "to"].map(|name| dir.path().join(name));
        let from = File::create_new(&paths[0])?;
        from.set_len(64 << 20)?;
        from.write_all_at(b"middle", 20 << 20)?;
        copy_sparse(&File::open(&paths[0])?, &File::create_new(&paths[1])?)?;
        assert_eq!(fs::read(&paths[0])?, fs::read(&paths[1])?);
        assert!(fs::metadata(&paths[1])?.blocks() * 512 < 1 << 20);
        Ok(())
    }
}
