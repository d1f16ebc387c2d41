//! The layers of a node: built, found again, removed.
//!
//! Every step blocks on the host, so each job runs on the blocking pool, a bounded number at a
//! time, and holds its sandbox's lock until it ends. A caller who gives up therefore leaves a job
//! that ends by itself, and a [`Layers::release`] that follows waits for it.
//!
//! There is no stock of mounted layers: a build takes 4 ms from a blank (measured; the decision
//! would be another if it took 20).

mod disk;
mod forget;
mod grow;
mod machine_id;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tarn_host::{LayerError, Layers, PoolSpace, RootFs, Template};
use tarn_task::Tasks;
use tarn_types::{ByteSize, SandboxId};
use tokio::sync::Semaphore;

pub(crate) use self::disk::LayerDisk;
use crate::{
    Pool,
    blank::Blanks,
    ext4,
    key_lock::KeyLocks,
    loopdev, mount,
    step::{HostStepError, StepContext as _, chain},
};

/// How many jobs of a kind block at once: mounts wait on the disk more than they compute.
const JOBS: usize = 16;
/// How often the pool is looked at; see [`crate::PoolSizing`] for what must hold until then.
const LOOK: Duration = Duration::from_millis(500);
/// ext4 counts in blocks of this size.
const BLOCK: u64 = 4096;

/// The layers in a pool, on the real host.
#[derive(Debug)]
pub struct HostLayers {
    shared: Arc<Shared>,
    tasks: Tasks,
    makers: Arc<Semaphore>,
    removers: Arc<Semaphore>,
    syncers: Arc<Semaphore>,
    locks: KeyLocks<SandboxId>,
}

/// Which bound a job counts against.
#[derive(Debug, Clone, Copy)]
enum JobKind {
    Make,
    /// Removals can wait seconds for a last user or a slow disk; no build shall wait for them.
    Remove,
    /// A sync takes as long as the disk takes for what a sandbox has in memory: neither for that.
    Sync,
}

/// What the jobs need.
#[derive(Debug)]
struct Shared {
    pool: Arc<Pool>,
    blanks: Blanks,
    layers: PathBuf,
}

/// What a layer is made of.
#[derive(Debug)]
struct LayerSource {
    file: File,
    /// What the layer is to have, no less than the file.
    size: ByteSize,
    /// Whether nothing is in it.
    is_blank: bool,
}

// === impl HostLayers ===

impl HostLayers {
    /// Takes charge of a pool's layers: starts growing the pool when it runs low, and removes
    /// what an earlier server left in the trash.
    #[must_use]
    pub fn start(pool: Arc<Pool>, tasks: &Tasks) -> Self {
        let shared = Arc::new(Shared {
            blanks: Blanks::new(pool.dir().join("blanks")),
            layers: pool.dir().join("layers"),
            pool,
        });
        let this = Self {
            shared,
            tasks: tasks.clone(),
            makers: Arc::new(Semaphore::new(JOBS)),
            removers: Arc::new(Semaphore::new(JOBS)),
            syncers: Arc::new(Semaphore::new(JOBS)),
            locks: KeyLocks::default(),
        };
        let shared = this.shared.clone();
        tasks.spawn_blocking(move || shared.pool.trash().empty());
        tasks.spawn("pool-watcher", watch_pool(this.shared.clone(), tasks.clone()));
        this
    }

    /// Makes the blank of a size now, so that the first sandbox of that size need not wait.
    ///
    /// # Errors
    /// Fails when the blank cannot be formatted.
    pub async fn prepare(&self, size: ByteSize) -> Result<(), LayerError> {
        self.job(JobKind::Make, None, move |shared| {
            shared.blanks.open(whole_blocks(size))?;
            Ok(())
        })
        .await
    }

    /// Runs blocking work, alone for its sandbox.
    async fn job<T: Send + 'static>(
        &self,
        kind: JobKind,
        id: Option<&SandboxId>,
        work: impl FnOnce(&Shared) -> Result<T, LayerError> + Send + 'static,
    ) -> Result<T, LayerError> {
        let guard = match id {
            Some(id) => Some(self.locks.lock(id).await),
            None => None,
        };
        let jobs = match kind {
            JobKind::Make => &self.makers,
            JobKind::Remove => &self.removers,
            JobKind::Sync => &self.syncers,
        };
        let permit = jobs.clone().acquire_owned().await.expect("it is never closed");
        let shared = self.shared.clone();
        let job = self.tasks.spawn_blocking(move || {
            let _held = (guard, permit);
            work(&shared)
        });
        job.await.unwrap_or_else(|error| Err(self.ended_early(error)))
    }

    fn ended_early(&self, error: tokio::task::JoinError) -> LayerError {
        HostStepError::new("work on", &self.shared.layers, io::Error::other(error)).into()
    }
}

#[async_trait]
impl Layers for HostLayers {
    async fn build(
        &self,
        id: &SandboxId,
        template: &Template,
        size: ByteSize,
    ) -> Result<RootFs, LayerError> {
        let (name, lower) = (id.clone(), template.root.clone());
        self.job(JobKind::Make, Some(id), move |shared| shared.build(&name, &lower, size)).await
    }

    async fn build_from(
        &self,
        id: &SandboxId,
        template: &Template,
        source: &Path,
        size: ByteSize,
    ) -> Result<RootFs, LayerError> {
        let (name, lower, source) = (id.clone(), template.root.clone(), source.to_owned());
        let work = move |shared: &Shared| shared.build_from(&name, &lower, &source, size);
        self.job(JobKind::Make, Some(id), work).await
    }

    async fn reopen(
        &self,
        id: &SandboxId,
        template: &Template,
        size: ByteSize,
    ) -> Result<RootFs, LayerError> {
        let (name, lower) = (id.clone(), template.root.clone());
        self.job(JobKind::Make, Some(id), move |shared| shared.reopen(&name, &lower, size)).await
    }

    async fn grow(&self, id: &SandboxId, size: ByteSize) -> Result<(), LayerError> {
        let name = id.clone();
        self.job(JobKind::Make, Some(id), move |shared| shared.grow(&name, size)).await
    }

    async fn close(&self, id: &SandboxId) -> Result<(), LayerError> {
        let name = id.clone();
        let work = move |shared: &Shared| Ok(shared.disk(&name).close()?);
        self.job(JobKind::Remove, Some(id), work).await
    }

    async fn sync(&self, id: &SandboxId) -> Result<(), LayerError> {
        let name = id.clone();
        self.job(JobKind::Sync, Some(id), move |shared| {
            shared.adopt(&name)?;
            Ok(shared.disk(&name).sync()?)
        })
        .await
    }

    async fn adopt(&self, id: &SandboxId) -> Result<RootFs, LayerError> {
        let name = id.clone();
        self.job(JobKind::Make, Some(id), move |shared| shared.adopt(&name)).await
    }

    async fn release(&self, id: &SandboxId) -> Result<(), LayerError> {
        let name = id.clone();
        let trash =
            self.job(JobKind::Remove, Some(id), move |shared| shared.release(&name)).await?;
        // Unlinking a large image takes its time; nobody needs to wait for it.
        let shared = self.shared.clone();
        self.tasks.spawn_blocking(move || shared.pool.trash().remove(&trash));
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxId>, LayerError> {
        self.job(JobKind::Make, None, |shared| shared.list()).await
    }

    async fn space(&self) -> Result<PoolSpace, LayerError> {
        // Without a turn: who looks whether room runs out cannot wait for those who take it.
        let shared = self.shared.clone();
        let look = self.tasks.spawn_blocking(move || Ok(shared.pool.space()?)).await;
        look.unwrap_or_else(|error| Err(self.ended_early(error)))
    }
}

// === impl Shared ===

impl Shared {
    fn disk(&self, id: &SandboxId) -> LayerDisk {
        LayerDisk::at(self.layers.join(id.as_str()))
    }

    fn build(&self, id: &SandboxId, template: &Path, size: ByteSize) -> Result<RootFs, LayerError> {
        self.pool.check_room()?;
        let size = whole_blocks(size);
        let blank = self.blanks.open(size)?;
        self.raise(id, template, &LayerSource { file: blank, size, is_blank: true })
    }

    fn build_from(
        &self,
        id: &SandboxId,
        template: &Path,
        source: &Path,
        size: ByteSize,
    ) -> Result<RootFs, LayerError> {
        let file = File::open(source).step("open", source)?;
        let meta = file.metadata().step("look at", source)?;
        let (size, least) = (whole_blocks(size), ByteSize::from_bytes(meta.len()));
        if size < least {
            return Err(LayerError::TooSmall { size, least });
        }
        self.pool.check_room_for_clone(&meta)?;
        self.raise(id, template, &LayerSource { file, size, is_blank: false })
    }

    fn raise(
        &self,
        id: &SandboxId,
        template: &Path,
        source: &LayerSource,
    ) -> Result<RootFs, LayerError> {
        let disk = self.disk(id);
        disk.make_dirs()?;
        if let Err(error) = self.fill(&disk, source, template, id) {
            let trash = self.pool.trash().place(id.as_str());
            match disk.remove(&trash) {
                Ok(()) => self.pool.trash().remove(&trash),
                Err(undo) => {
                    let undo = chain(&undo);
                    tracing::warn!(sandbox.id = %id, error = undo, "undoing a layer failed");
                }
            }
            return Err(error.into());
        }
        Ok(RootFs { path: disk.root() })
    }

    fn fill(
        &self,
        disk: &LayerDisk,
        source: &LayerSource,
        template: &Path,
        id: &SandboxId,
    ) -> Result<(), HostStepError> {
        self.pool.clone_file(&source.file, &disk.image())?;
        if !source.is_blank {
            self.pool.copy_by_block(&disk.image());
        }
        ext4::enlarge(&disk.image(), source.size)?;
        disk.mount(template, &self.loop_name(id))?;
        machine_id::assign(&disk.root(), id);
        Ok(())
    }

    fn loop_name(&self, id: &SandboxId) -> String {
        format!("tarn-{}/{id}", self.pool.tag())
    }

    fn reopen(
        &self,
        id: &SandboxId,
        template: &Path,
        size: ByteSize,
    ) -> Result<RootFs, LayerError> {
        let disk = self.disk(id);
        if !disk.image().exists() {
            return Err(LayerError::Missing { id: id.clone() });
        }
        // Of an earlier try.
        disk.close()?;
        ext4::enlarge(&disk.image(), whole_blocks(size))?;
        disk.make_mount_points()?;
        if let Err(error) = disk.mount(template, &self.loop_name(id)) {
            if let Err(undo) = disk.close() {
                tracing::warn!(sandbox.id = %id, error = chain(&undo), "undoing a mount failed");
            }
            return Err(error.into());
        }
        Ok(RootFs { path: disk.root() })
    }

    fn grow(&self, id: &SandboxId, size: ByteSize) -> Result<(), LayerError> {
        self.adopt(id)?;
        self.pool.check_room()?;
        self.disk(id).grow(whole_blocks(size))
    }

    fn adopt(&self, id: &SandboxId) -> Result<RootFs, LayerError> {
        let disk = self.disk(id);
        if !disk.exists() {
            return Err(LayerError::Missing { id: id.clone() });
        }
        if !disk.is_mounted()? {
            let absent = io::Error::new(io::ErrorKind::NotConnected, "nothing is mounted there");
            return Err(HostStepError::new("find the mount of", &disk.root(), absent).into());
        }
        Ok(RootFs { path: disk.root() })
    }

    fn release(&self, id: &SandboxId) -> Result<PathBuf, LayerError> {
        let trash = self.pool.trash().place(id.as_str());
        self.disk(id).remove(&trash)?;
        Ok(trash)
    }

    fn list(&self) -> Result<Vec<SandboxId>, LayerError> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(&self.layers).step("list", &self.layers)? {
            let entry = entry.step("list", &self.layers)?;
            found.extend(id_of(&self.layers, &entry.path()));
        }
        for entry in mount::mounts_beneath(&self.layers)? {
            found.extend(id_of(&self.layers, &entry.target));
        }
        for attached in loopdev::attached_beneath(self.pool.dir())? {
            found.extend(id_of(&self.layers, &attached.backing));
            found.extend(id_of(self.pool.trash().dir(), &attached.backing));
        }
        Ok(found.into_iter().collect())
    }
}

/// Keeps room in the pool until shutdown.
async fn watch_pool(shared: Arc<Shared>, tasks: Tasks) {
    let mut stopping = std::pin::pin!(tasks.stopping());
    let mut trouble = None;
    loop {
        let look = shared.clone();
        let grown = tasks.spawn_blocking(move || look.pool.grow_if_low()).await;
        let now = grown.ok().and_then(Result::err).map(|error| chain(&error));
        // Twice a second the same line would drown the others.
        if now != trouble {
            match &now {
                Some(error) => tracing::error!(error, "the pool runs low and cannot grow"),
                None => tracing::info!("the pool can grow again"),
            }
            trouble = now;
        }
        tokio::select! {
            () = &mut stopping => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Reads the sandbox id from the first part of a path below a directory.
fn id_of(dir: &Path, path: &Path) -> Option<SandboxId> {
    let first = path.strip_prefix(dir).ok()?.components().next()?;
    let text = first.as_os_str().to_str()?;
    // A place in the trash adds to the id.
    text.split('.').next()?.parse().ok()
}

fn whole_blocks(size: ByteSize) -> ByteSize {
    ByteSize::from_bytes(size.bytes().div_ceil(BLOCK) * BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_paths() {
        let id = "abcdefghijklmnopqrstu";
        let dir = Path::new("/data/pool/layers");
        for (path, expected) in [
            ("/data/pool/layers/abcdefghijklmnopqrstu", Some(id)),
            ("/data/pool/layers/abcdefghijklmnopqrstu/layer", Some(id)),
            ("/data/pool/layers/abcdefghijklmnopqrstu.17.0/disk.img", Some(id)),
            ("/data/pool/layers", None),
            ("/data/pool/layers/other/disk.img", None),
            ("/data/pool/blanks/abcdefghijklmnopqrstu", None),
        ] {
            let read = id_of(dir, Path::new(path)).map(|it| it.to_string());
            assert_eq!(read.as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn sizes_are_rounded_up_to_blocks() {
        for (size, whole) in [(0, 0), (1, 4096), (4096, 4096), (4097, 8192)] {
            assert_eq!(whole_blocks(ByteSize::from_bytes(size)).bytes(), whole);
        }
    }
}
