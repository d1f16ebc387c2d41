//! A server with an object store, and what the tests of archives look at.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    future::Future,
    io::ErrorKind,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::json;
use tarn_host::{Archive as _, ArchiveError, Archived, Captures as _, Layers as _, Progress};
use tarn_storage::{HostCaptures, MasterKey, ObjectArchive, ObjectStoreConfig};
use tarn_types::{ByteSize, ErrorClass, ProjectId};
use tokio::sync::Notify;

use crate::stage::{Server, Stage, id, until};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// A server with a sandbox, and an object store in a directory.
pub(super) struct Scene {
    pub(super) stage: Stage,
    pub(super) server: Server,
    pub(super) captures: Arc<HostCaptures>,
    /// The root of sandbox 1.
    pub(super) root: PathBuf,
}

/// The middle of a transfer: after so many of its steps.
pub(super) struct Middle {
    pub(super) steps: AtomicUsize,
    pub(super) reached: Notify,
}

impl Middle {
    pub(super) fn after(steps: usize) -> Self {
        Self { steps: AtomicUsize::new(steps), reached: Notify::new() }
    }

    pub(super) fn count(&self) {
        if self.steps.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.reached.notify_one();
        }
    }

    /// Drops a transfer in its middle.
    pub(super) async fn cut<T: std::fmt::Debug>(
        &self,
        transfer: impl Future<Output = T>,
    ) -> Result<()> {
        tokio::select! {
            biased;
            () = self.reached.notified() => Ok(()),
            done = transfer => anyhow::bail!("it was too fast: {done:?}"),
        }
    }
}

/// Nobody wants to know.
pub(super) fn silent(_: Progress) {}

pub(super) fn project(number: u8) -> ProjectId {
    ProjectId::from_random([number; 16])
}

/// Bytes that do not shrink, and are others for each seed.
pub(super) fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

impl Scene {
    pub(super) async fn new() -> Result<Self> {
        let stage = Stage::new()?;
        let server = stage.server()?;
        let size = ByteSize::from_mib(128);
        let root = server.layers.build(&id(1), &stage.template(), size).await?.path;
        Ok(Self { stage, captures: server.captures.clone(), server, root })
    }

    pub(super) fn store(&self) -> PathBuf {
        self.stage.data().join("objects")
    }

    pub(super) fn config(&self) -> ObjectStoreConfig {
        ObjectStoreConfig::new(format!("file://{}", self.store().display()))
    }

    pub(super) fn key(&self) -> Result<MasterKey> {
        Ok(MasterKey::open_or_create(&self.stage.data().join("key"))?)
    }

    pub(super) fn archive(&self) -> Result<ObjectArchive> {
        Ok(ObjectArchive::open(&self.config(), self.key()?, self.captures.clone())?)
    }

    /// Captures sandbox 1 as it is now, with a memory image.
    pub(super) async fn capture(&self, name: &str) -> Result<()> {
        let draft = self.captures.begin(name, ByteSize::from_mib(20)).await?;
        fs::write(draft.memory.join("checkpoint.img"), noise(100, 1000))?;
        let pages = File::create(draft.memory.join("pages.img"))?;
        pages.set_len(40 * MIB)?;
        pages.write_all_at(&noise(101, 6 << 20), 9 * MIB)?;
        self.captures.clone_layer(name, &id(1)).await?;
        self.captures.commit(name, json!({"of": name})).await?;
        Ok(())
    }

    /// Lists the objects beneath a folder of the object store.
    pub(super) fn objects(&self, folder: &str) -> Result<BTreeSet<PathBuf>> {
        files(&self.store().join(folder))
    }

    /// Makes all objects older.
    pub(super) fn age(&self, by: Duration) -> Result<()> {
        for path in files(&self.store())? {
            let file = File::options().write(true).open(&path)?;
            file.set_modified(file.metadata()?.modified()? - by)?;
        }
        Ok(())
    }

    pub(super) async fn end(self) {
        drop(self.captures);
        self.server.stop().await;
    }
}

pub(super) fn files(dir: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    // What is removed meanwhile has none.
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(gone) if gone.kind() == ErrorKind::NotFound => return Ok(found),
        Err(failed) => return Err(failed.into()),
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.insert(path);
        }
    }
    Ok(found)
}

/// Reads all that a capture on the node consists of.
pub(super) fn content(server: &Server, name: &str) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let dir = server.pool.dir().join("captures").join(name);
    let read = |path: &PathBuf| Ok((path.strip_prefix(&dir)?.to_owned(), fs::read(path)?));
    files(&dir)?.iter().map(read).collect()
}

pub(super) async fn send(archive: &ObjectArchive, name: &str) -> Result<Archived> {
    Ok(archive.store(&project(1), name, &silent).await?)
}

pub(super) async fn bring(archive: &ObjectArchive, name: &str) -> Result<(), ArchiveError> {
    archive.fetch(&project(1), name, &silent).await
}

/// Says what is damaged in a capture, and that nothing of it is left on the node.
pub(super) async fn damage(scene: &Scene, archive: &ObjectArchive, name: &str) -> Result<String> {
    let verified = archive.verify(&project(1), name).await;
    let before = files(&scene.server.pool.dir().join("captures"))?;
    let fetched = bring(archive, name).await;
    let details = [verified, fetched].map(|outcome| outcome.expect_err("it is damaged"));
    for error in &details {
        ensure!(matches!(error, ArchiveError::Damaged { .. }), "{error:?}");
        assert_eq!(error.class(), ErrorClass::Internal);
    }
    let captures = scene.server.pool.dir().join("captures");
    until("the draft to go", || Ok(files(&captures)? == before)).await?;
    let [verified, fetched] = details.map(|error| error.to_string());
    assert_eq!(verified, fetched);
    Ok(verified)
}
