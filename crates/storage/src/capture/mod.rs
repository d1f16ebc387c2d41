//! The captures of a node: drafted, made whole, opened, removed.
//!
//! Every step blocks on the host, so each runs on the blocking pool, a bounded number at a time,
//! and holds its capture's lock until it ends, though the caller gave up.
//!
//! # How long a sandbox stands still
//!
//! A clone costs 15 µs for each extent of the layer: a second for one that was written at
//! scattered places. But it takes the layer as it is when it begins, because it keeps writers off
//! until it is complete. So [`Captures::clone_layer`] returns when the clone is seen to have
//! begun, and [`Captures::commit`] waits for its end; what the sandbox writes meanwhile stays in
//! memory. See decision 15.
//!
//! # What is checked
//!
//! The manifest has a checksum of itself, of small files those are in it: both are compared at each
//! opening. Large files are read in the background half a minute after the commit, one capture at
//! a time, and compared by [`Captures::verify`].
//!
//! # What is not durable at once
//!
//! A capture for copies is thrown away as soon as they run, and they end with their host. So
//! [`Captures::commit_for_boot`] syncs nothing, and marks it with this boot of the host: the store
//! of another boot removes it. One that is still there after half a minute is made durable. See
//! decision 23.
//!
//! # The journal
//!
//! The clone of a layer in use has a journal that each mount of it replays. That is done once for
//! all before anybody reads the whole layer: half a minute after the commit, or for an upload. A
//! sandbox that is built from it sooner does it for itself. `e2fsck` would take longer than all the
//! rest of a snapshot of files. Where a clone is a copy, it is done in the draft. See decision 17.

mod digest;
mod disk;
mod exchange;
mod manifest;

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_host::{Capture, CaptureDraft, CaptureError, CaptureName, Captures};
use tarn_task::Tasks;
use tarn_types::{BootId, ByteSize, Pace, SandboxId};
use tokio::sync::Semaphore;

#[cfg(test)]
pub(crate) use self::digest::data_bytes;
use self::disk::CaptureDisk;
pub(crate) use self::{
    digest::{BlockReader, PageCache, is_zero},
    disk::LAYER,
    exchange::{Export, ExportedFile, Origin},
};
use crate::{
    Pool, durable, ext4,
    key_lock::KeyLocks,
    layer::LayerDisk,
    step::{HostStepError, StepContext as _, chain},
};

/// How many jobs block at once.
const JOBS: usize = 16;
/// How often a clone is looked at until it has begun; most are complete by then.
const LOOK: Duration = Duration::from_micros(100);
/// How long a new capture is left alone. Most are the base of something at once, and many go again
/// by then: what is written to the disk and read before would only be in the way.
const QUIET: Duration = Duration::from_secs(30);
/// How long reading in the background rests after each MiB: it takes at most 200 MiB/s of the disk
/// and little of a CPU from the sandboxes.
const REST: Duration = Duration::from_millis(5);
/// How many sandboxes built from a capture replay its journal in less time than `e2fsck` takes.
const FEW: u32 = 2;
/// What a capture takes besides memory: its manifest, directories, the clone's extents.
const MARGIN: ByteSize = ByteSize::from_mib(16);

/// The captures in a pool, on the real host.
#[derive(Debug)]
pub struct HostCaptures {
    shared: Arc<Shared>,
    tasks: Tasks,
    jobs: Arc<Semaphore>,
}

/// What the jobs need.
#[derive(Debug)]
struct Shared {
    pool: Arc<Pool>,
    captures: PathBuf,
    boot: BootId,
    layers: PathBuf,
    locks: KeyLocks<String>,
    /// The clones that have begun, by the name of their draft.
    clones: Mutex<HashMap<String, CloneJob>>,
    /// Whose layers stay as they are, because somebody reads them.
    fixed: Mutex<HashSet<String>>,
    /// Reading large files takes the whole disk: one at a time.
    reader: Semaphore,
}

/// A capture, or why it was not made.
type Made = Result<Capture, CaptureError>;

/// A clone that goes on by itself, and says at its end how it went.
#[derive(Debug)]
struct CloneJob(mpsc::Receiver<Result<(), HostStepError>>);

// === impl HostCaptures ===

impl HostCaptures {
    /// Takes charge of a pool's captures: removes the drafts of an earlier server and what lasts
    /// for another boot of the host alone, and begins to settle the others. Blocks for some
    /// renames.
    ///
    /// # Errors
    /// Fails when the directory cannot be read, or a draft not be moved.
    pub fn start(pool: Arc<Pool>, tasks: &Tasks, boot: BootId) -> Result<Self, HostStepError> {
        let captures = pool.dir().join("captures");
        let mut trashed = disk::trash_drafts(&captures, pool.trash())?;
        trashed.extend(disk::trash_void(&captures, &boot, pool.trash())?);
        let whole = disk::whole_names(&captures)?;
        let shared = Arc::new(Shared {
            layers: pool.dir().join("layers"),
            captures,
            boot,
            pool,
            locks: KeyLocks::default(),
            clones: Mutex::default(),
            fixed: Mutex::default(),
            reader: Semaphore::new(1),
        });
        let this = Self { shared, tasks: tasks.clone(), jobs: Arc::new(Semaphore::new(JOBS)) };
        this.remove(trashed);
        this.settle(whole, Duration::ZERO);
        Ok(this)
    }

    /// Runs blocking work on a capture, alone for its name.
    async fn job<T: Send + 'static>(
        &self,
        name: &CaptureName,
        work: impl FnOnce(&Shared, &CaptureDisk) -> Result<T, CaptureError> + Send + 'static,
    ) -> Result<T, CaptureError> {
        let disk = CaptureDisk::at(&self.shared.captures, name)?;
        let guard = self.shared.locks.lock(&name.to_owned()).await;
        self.blocking(move |shared| {
            let _held = guard;
            work(shared, &disk)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, CaptureError> + Send + 'static,
    ) -> Result<T, CaptureError> {
        let permit = self.jobs.clone().acquire_owned().await.expect("it is never closed");
        let shared = self.shared.clone();
        let job = self.tasks.spawn_blocking(move || {
            let _held = permit;
            work(&shared)
        });
        job.await.unwrap_or_else(|error| Err(ended_early(&self.shared.captures, error).into()))
    }

    /// Waits for a clone that has begun. It is none of the jobs: that of a scattered layer takes
    /// minutes, and nobody else's capture shall wait for it.
    async fn end_clone(&self, name: &CaptureName) -> Result<(), CaptureError> {
        if !self.shared.clones.lock().contains_key(name) {
            return Ok(());
        }
        let disk = CaptureDisk::at(&self.shared.captures, name)?;
        let guard = self.shared.locks.lock(&name.to_owned()).await;
        let shared = self.shared.clone();
        let job = self.tasks.spawn_blocking(move || {
            let _held = guard;
            shared.end_clone(&disk)
        });
        let ended = job.await;
        Ok(ended.unwrap_or_else(|error| Err(ended_early(&self.shared.captures, error)))?)
    }

    /// Removes what was moved to the trash; nobody waits for it.
    fn remove(&self, trashed: impl IntoIterator<Item = PathBuf>) {
        for path in trashed {
            let shared = self.shared.clone();
            self.tasks.spawn_blocking(move || shared.pool.trash().remove(&path));
        }
    }

    /// Makes captures durable and reads their large files, to know their checksums, after a while;
    /// nobody waits for it.
    fn settle(&self, names: Vec<String>, after: Duration) {
        let (shared, tasks) = (self.shared.clone(), self.tasks.clone());
        self.tasks.spawn("capture-settler", async move {
            tokio::select! {
                () = tasks.stopping() => return,
                () = tokio::time::sleep(after) => {}
            }
            for name in names {
                if tasks.is_stopping() {
                    return;
                }
                let settled = match settle_on_disk(&shared, &tasks, &name).await {
                    Ok(()) => settle_checksums(&shared, &tasks, &name, Pace::Background).await,
                    failed => failed,
                };
                match settled {
                    Ok(()) | Err(CaptureError::Missing { .. }) => {}
                    Err(error) => {
                        let error = chain(&error);
                        tracing::error!(capture.name = name, error, "a snapshot cannot be read");
                    }
                }
            }
        });
    }

    /// Makes a draft whole, from which so many sandboxes are to be built at once.
    async fn commit_by(
        &self,
        name: &CaptureName,
        uses: u32,
        commit: impl FnOnce(&Shared, &CaptureDisk) -> Made + Send + 'static,
    ) -> Made {
        self.end_clone(name).await?;
        let work = move |shared: &Shared, disk: &CaptureDisk| {
            shared.end_clone(disk)?;
            if uses > FEW || !shared.pool.clones_at_once()? {
                replay_draft(&disk.draft_layer());
            }
            let capture = commit(shared, disk)?;
            shared.fixed.lock().remove(disk.name());
            shared.pool.end_promise(&disk.draft_memory());
            // The one that it replaces lies there now. It is not worth an error that it stays.
            let trashed = disk.trash_draft(shared.pool.trash()).unwrap_or_else(|error| {
                tracing::warn!(error = chain(&error), "a replaced snapshot is still there");
                None
            });
            Ok((capture, trashed))
        };
        let (capture, trashed) = self.job(name, work).await?;
        self.remove(trashed);
        self.settle(vec![name.to_owned()], QUIET);
        Ok(capture)
    }
}

#[async_trait]
impl Captures for HostCaptures {
    async fn begin(
        &self,
        name: &CaptureName,
        memory: ByteSize,
    ) -> Result<CaptureDraft, CaptureError> {
        let needed = memory.saturating_add(MARGIN);
        let (dir, trashed) = self
            .job(name, move |shared, disk| {
                let dir = disk.draft_memory();
                shared.forget(disk, &dir);
                let trashed = disk.trash_draft(shared.pool.trash())?;
                shared.pool.promise(&dir, needed)?;
                let made = disk.make_draft();
                made.inspect_err(|_| shared.pool.end_promise(&dir))?;
                Ok((dir, trashed))
            })
            .await?;
        self.remove(trashed);
        Ok(CaptureDraft { memory: dir, room: needed })
    }

    async fn extend(&self, name: &CaptureName, memory: ByteSize) -> Result<(), CaptureError> {
        let needed = memory.saturating_add(MARGIN);
        let promise = move |shared: &Shared, disk: &CaptureDisk| {
            shared.pool.promise(&disk.draft_memory(), needed)
        };
        self.job(name, promise).await
    }

    async fn clone_layer(&self, name: &CaptureName, id: &SandboxId) -> Result<(), CaptureError> {
        let (layer, tasks) = (LayerDisk::at(self.shared.layers.join(id.as_str())), &self.tasks);
        let (tasks, shared) = (tasks.clone(), self.shared.clone());
        self.job(name, move |_, disk| shared.clone().clone_layer(disk, &layer, &tasks)).await
    }

    async fn commit(
        &self,
        name: &CaptureName,
        note: serde_json::Value,
    ) -> Result<Capture, CaptureError> {
        self.commit_by(name, 0, move |_, disk| disk.commit(note)).await
    }

    async fn commit_for_boot(
        &self,
        name: &CaptureName,
        note: serde_json::Value,
        uses: u32,
    ) -> Result<Capture, CaptureError> {
        let commit =
            move |shared: &Shared, disk: &CaptureDisk| disk.commit_for_boot(note, &shared.boot);
        self.commit_by(name, uses, commit).await
    }

    async fn open(&self, name: &CaptureName) -> Result<Capture, CaptureError> {
        self.job(name, |_, disk| Ok(disk.open()?.0)).await
    }

    async fn verify(&self, name: &CaptureName, pace: Pace) -> Result<ByteSize, CaptureError> {
        settle_checksums(&self.shared, &self.tasks, name, pace).await?;
        let _reader = self.shared.reader.acquire().await.expect("it is never closed");
        let disk = CaptureDisk::at(&self.shared.captures, name)?;
        // Without the lock: nobody should wait minutes to discard it.
        let (read, tasks) = (disk.clone(), self.tasks.clone());
        let verified = self.blocking(move |_| {
            let (capture, manifest) = read.open()?;
            let known = read.checksums(&manifest)?;
            let found = read.read_large(&read.place(), &manifest, &|| {
                rest(pace);
                !tasks.is_stopping()
            })?;
            let Some(found) = found else { return Err(stopping("read", &read.place()).into()) };
            // Without: it was replaced a moment ago by one that nobody has read yet.
            known.map_or(Ok(()), |known| read.compare_large(&known.files, &found))?;
            Ok(capture.layer_size.saturating_add(capture.memory_size))
        });
        let error = match verified.await {
            Ok(read) => return Ok(read),
            Err(error) => error,
        };
        // It may have gone meanwhile.
        self.blocking(move |_| disk.open().map(drop)).await?;
        Err(error)
    }

    async fn discard(&self, name: &CaptureName) -> Result<(), CaptureError> {
        let trashed = self
            .job(name, |shared, disk| {
                shared.forget(disk, &disk.draft_memory());
                let trash = shared.pool.trash();
                shared.fixed.lock().remove(disk.name());
                Ok([disk.trash_draft(trash)?, disk.trash_whole(trash)?])
            })
            .await?;
        self.remove(trashed.into_iter().flatten());
        Ok(())
    }

    async fn list(&self) -> Result<Vec<String>, CaptureError> {
        self.blocking(|shared| Ok(disk::whole_names(&shared.captures)?)).await
    }
}

// === impl Shared ===

impl Shared {
    /// Forgets what belongs to a draft that goes.
    fn forget(&self, disk: &CaptureDisk, memory: &Path) {
        self.pool.end_promise(memory);
        self.pool.end_promise(&disk.draft());
        // It ends by itself, in a file without a name.
        drop(self.clones.lock().remove(disk.name()));
    }

    fn clone_layer(
        self: Arc<Self>,
        disk: &CaptureDisk,
        layer: &LayerDisk,
        tasks: &Tasks,
    ) -> Result<(), CaptureError> {
        // Of an earlier try, whatever came of it.
        drop(self.end_clone(disk));
        let image = layer.image();
        if !layer.is_mounted()? {
            let absent = io::Error::new(io::ErrorKind::NotConnected, "nothing is mounted there");
            return Err(HostStepError::new("find the mount of", &layer.root(), absent).into());
        }
        let source = File::open(&image).step("open", &image)?;
        self.pool.check_room_for_copy(&source.metadata().step("look at", &image)?)?;
        self.pool.copy_by_block(&image);
        let (target, to) = (disk.make_layer()?, disk.draft_layer());
        layer.sync()?;
        if !self.pool.clones_at_once()? {
            return Ok(self.pool.fill_clone(&source, &target, &to)?);
        }
        let seen = target.try_clone().step("open", &to)?;
        let (pool, (say, hear)) = (self.pool.clone(), mpsc::sync_channel(1));
        drop(tasks.spawn_blocking(move || {
            // Nobody hears it when the draft was discarded.
            drop(say.send(pool.fill_clone(&source, &target, &to)));
        }));
        loop {
            match hear.recv_timeout(LOOK) {
                Ok(outcome) => return Ok(outcome?),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(stopping("clone", &image).into());
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            // A target with blocks was given them under the lock that keeps writers off the source.
            if seen.metadata().step("look at", &image)?.blocks() > 0 {
                self.clones.lock().insert(disk.name().to_owned(), CloneJob(hear));
                return Ok(());
            }
        }
    }

    /// Replays the journal of a capture's layer, unless somebody reads the layer already: it stays
    /// as it is from then on. Under the capture's lock.
    fn fix(&self, disk: &CaptureDisk) {
        let first = disk.is_whole() && self.fixed.lock().insert(disk.name().to_owned());
        let layer = disk.layer();
        if !first || disk.has_checksums() || !needs_replay(&layer) {
            return;
        }
        if let Err(error) = self.replay_apart(&layer) {
            // Each mount does it then.
            tracing::warn!(error = chain(&error), "a snapshot keeps what its journal holds");
        }
    }

    /// Replays the journal in a clone that then takes the layer's place: who clones or reads the
    /// layer meanwhile has it as it was, whole.
    fn replay_apart(&self, layer: &Path) -> Result<(), HostStepError> {
        let apart = layer.with_extension("replayed");
        // Of a server that died.
        durable::remove(&apart)?;
        let replay = || {
            let source = File::open(layer).step("open", layer)?;
            let mut options = OpenOptions::new();
            let target = options.write(true).create_new(true).mode(0o600).open(&apart);
            let target = target.step("make", &apart)?;
            self.pool.fill_clone(&source, &target, &apart)?;
            ext4::replay_journal(&apart)?;
            target.sync_all().step("sync", &apart)?;
            fs::rename(&apart, layer).step("rename", &apart)
        };
        if let Err(error) = replay() {
            durable::remove(&apart)?;
            return Err(error);
        }
        layer.parent().map_or(Ok(()), durable::sync)
    }

    /// Waits for the end of a clone that was begun for a draft; one that failed leaves none.
    fn end_clone(&self, disk: &CaptureDisk) -> Result<(), HostStepError> {
        let clone = self.clones.lock().remove(disk.name());
        let Some(CloneJob(hear)) = clone else { return Ok(()) };
        let to = disk.draft_layer();
        let outcome = hear.recv().unwrap_or_else(|_| Err(stopping("clone", &to)));
        if outcome.is_err() {
            disk.remove_layer()?;
        }
        outcome
    }
}

/// Has a draft that was in use begin like one that was not, for all that are built from it.
fn replay_draft(layer: &Path) {
    if needs_replay(layer)
        && let Err(error) = ext4::replay_journal(layer)
    {
        // Each mount does it then.
        tracing::warn!(error = chain(&error), "a snapshot keeps what its journal holds");
    }
}

/// Says whether there is something to replay. A layer that is not there is somebody else's to
/// complain of.
fn needs_replay(layer: &Path) -> bool {
    ext4::needs_recovery(layer).unwrap_or(false)
}

/// Leaves the disk to others for a moment, where nobody waits.
fn rest(pace: Pace) {
    match pace {
        Pace::Full => {}
        Pace::Background => thread::sleep(REST),
    }
}

fn stopping(step: &'static str, path: &Path) -> HostStepError {
    HostStepError::new(step, path, io::Error::other("the server is stopping"))
}

/// Makes sure that a capture is durable.
async fn settle_on_disk(
    shared: &Arc<Shared>,
    tasks: &Tasks,
    name: &CaptureName,
) -> Result<(), CaptureError> {
    let disk = CaptureDisk::at(&shared.captures, name)?;
    let sync = disk.clone();
    // Without the lock: nobody should wait for the disk to discard it.
    let synced = tasks.spawn_blocking(move || match sync.is_for_boot() {
        true => sync.sync().map(|()| true),
        false => Ok(false),
    });
    let synced =
        synced.await.unwrap_or_else(|error| Err(ended_early(&shared.captures, error).into()));
    // A capture that goes meanwhile is missing, nothing worse.
    let synced = synced.or_else(|error| if disk.is_whole() { Err(error) } else { Ok(false) })?;
    if !synced {
        return Ok(());
    }
    let guard = shared.locks.lock(&name.to_owned()).await;
    let note = tasks.spawn_blocking(move || {
        let _held = guard;
        // One that lasts for a boot is never replaced: its name is of one use.
        if disk.is_for_boot() { Ok(disk.outlasts_boot()?) } else { Ok(()) }
    });
    note.await.unwrap_or_else(|error| Err(ended_early(&shared.captures, error).into()))
}

/// Makes sure that the checksums of a capture's large files are known, or the server is stopping.
async fn settle_checksums(
    shared: &Arc<Shared>,
    tasks: &Tasks,
    name: &CaptureName,
    pace: Pace,
) -> Result<(), CaptureError> {
    let _reader = shared.reader.acquire().await.expect("it is never closed");
    let disk = CaptureDisk::at(&shared.captures, name)?;
    let guard = shared.locks.lock(&name.to_owned()).await;
    let (read, stopping, fixer) = (disk.clone(), tasks.clone(), shared.clone());
    let found = tasks.spawn_blocking(move || {
        fixer.fix(&read);
        let (_, manifest) = read.open()?;
        if read.checksums(&manifest)?.is_some() {
            return Ok(None);
        }
        // Read without the lock: nobody should wait for that to discard it.
        drop(guard);
        let found = read.read_large(&read.place(), &manifest, &|| {
            rest(pace);
            !stopping.is_stopping() && read.is_whole()
        });
        // A capture that goes while it is read is missing, nothing worse.
        found.map_err(|error| read.open().err().unwrap_or_else(|| error.into()))
    });
    let found =
        found.await.unwrap_or_else(|error| Err(ended_early(&shared.captures, error).into()));
    let Some(found) = found? else { return Ok(()) };
    let guard = shared.locks.lock(&name.to_owned()).await;
    let write = tasks.spawn_blocking(move || {
        let _held = guard;
        disk.write_checksums(&found)
    });
    write.await.unwrap_or_else(|error| Err(ended_early(&shared.captures, error).into()))
}

fn ended_early(path: &Path, error: tokio::task::JoinError) -> HostStepError {
    HostStepError::new("work on", path, io::Error::other(error))
}
