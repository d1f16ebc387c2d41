//! An object store in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_types::{ByteSize, ProjectId};
use tokio::sync::watch;

use super::{Faults, MADE_TO_FAIL, SimCaptures, SimDraft};
use crate::{
    Archive, ArchiveError, Archived, CaptureName, Captures as _, Collected, OnProgress, Progress,
};

/// Captures in memory, taken from and brought back to a simulated node.
#[derive(Debug)]
pub struct SimArchive {
    captures: Arc<SimCaptures>,
    table: Mutex<BTreeMap<(ProjectId, String), Kept>>,
    faults: Faults,
    away: watch::Sender<bool>,
    held: watch::Sender<bool>,
}

/// A capture as it is kept.
#[derive(Debug, Clone)]
struct Kept {
    note: serde_json::Value,
    layer: Vec<u8>,
    memory: BTreeMap<String, Vec<u8>>,
    size: ByteSize,
}

// === impl SimArchive ===

impl SimArchive {
    /// Makes an empty one for the captures of a node.
    #[must_use]
    pub fn new(captures: &Arc<SimCaptures>) -> Self {
        Self {
            captures: Arc::clone(captures),
            table: Mutex::default(),
            faults: Faults::default(),
            away: watch::Sender::new(false),
            held: watch::Sender::new(false),
        }
    }

    /// Makes the next `times` of any call fail.
    pub fn fail(&self, times: usize) {
        self.faults.plan(times);
    }

    /// Makes every call fail, or none any more.
    pub fn set_away(&self, away: bool) {
        self.away.send_replace(away);
    }

    /// Has transfers stop half-way until they are let go.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Returns the names of everything that is kept.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        self.table.lock().keys().map(|(_, name)| name.clone()).collect()
    }

    fn reach(&self, step: &'static str, object: &str) -> Result<(), ArchiveError> {
        if self.faults.meet() || *self.away.borrow() {
            let source = Box::new(io::Error::other(MADE_TO_FAIL));
            return Err(ArchiveError::Store { step, object: object.to_owned(), source });
        }
        Ok(())
    }

    async fn pass(&self, size: ByteSize, progress: OnProgress<'_>) {
        progress(Progress { done: ByteSize::from_bytes(size.bytes() / 2), total: size });
        let mut held = self.held.subscribe();
        // The sender is `self`'s.
        drop(held.wait_for(|held| !*held).await);
        progress(Progress { done: size, total: size });
    }

    fn kept(&self, project: &ProjectId, name: &CaptureName) -> Result<Kept, ArchiveError> {
        let kept = self.table.lock().get(&(project.clone(), name.to_owned())).cloned();
        kept.ok_or_else(|| ArchiveError::Missing { name: name.to_owned() })
    }
}

#[async_trait]
impl Archive for SimArchive {
    async fn store(
        &self,
        project: &ProjectId,
        name: &CaptureName,
        progress: OnProgress<'_>,
    ) -> Result<Archived, ArchiveError> {
        self.reach("put", name)?;
        let uri = format!("sim://{project}/{name}");
        if let Ok(kept) = self.kept(project, name) {
            return Ok(Archived { uri, size: kept.size, sent: ByteSize::default() });
        }
        let capture = self.captures.open(name).await?;
        let size = capture.layer_size.saturating_add(capture.memory_size);
        let failed = |error| SimCaptures::step("read", capture.memory.clone(), error);
        let kept = Kept {
            layer: fs::read(&capture.layer).map_err(failed)?,
            memory: read_all(&capture.memory).map_err(failed)?,
            note: capture.note.clone(),
            size,
        };
        self.pass(size, progress).await;
        self.reach("put", name)?;
        self.table.lock().insert((project.clone(), name.to_owned()), kept);
        Ok(Archived { uri, size, sent: size })
    }

    async fn mend(
        &self,
        project: &ProjectId,
        name: &CaptureName,
        progress: OnProgress<'_>,
    ) -> Result<Archived, ArchiveError> {
        self.captures.open(name).await?;
        self.table.lock().remove(&(project.clone(), name.to_owned()));
        self.store(project, name, progress).await
    }

    async fn fetch(
        &self,
        project: &ProjectId,
        name: &CaptureName,
        progress: OnProgress<'_>,
    ) -> Result<(), ArchiveError> {
        if self.captures.open(name).await.is_ok() {
            return Ok(());
        }
        self.reach("get", name)?;
        let kept = self.kept(project, name)?;
        self.pass(kept.size, progress).await;
        let draft = self.captures.begin(name, kept.size).await?;
        let dir = draft.memory.parent().unwrap_or(&draft.memory).to_owned();
        let write = || {
            fs::write(dir.join("layer.img"), &kept.layer)?;
            kept.memory
                .iter()
                .try_for_each(|(file, bytes)| fs::write(draft.memory.join(file), bytes))
        };
        write().map_err(|error| SimCaptures::step("write", dir.clone(), error))?;
        if let Some(entry) = self.captures.table.lock().get_mut(name) {
            entry.draft = Some(SimDraft { dir, cloned: true });
        }
        self.captures.commit(name, kept.note).await?;
        Ok(())
    }

    async fn verify(&self, project: &ProjectId, name: &CaptureName) -> Result<(), ArchiveError> {
        self.reach("get", name)?;
        self.kept(project, name).map(drop)
    }

    async fn remove(&self, project: &ProjectId, name: &CaptureName) -> Result<(), ArchiveError> {
        self.reach("delete", name)?;
        self.table.lock().remove(&(project.clone(), name.to_owned()));
        Ok(())
    }

    async fn collect(&self, _grace: Duration) -> Result<Collected, ArchiveError> {
        self.reach("list", "chunks")?;
        let kept = u64::try_from(self.table.lock().len()).unwrap_or(u64::MAX);
        Ok(Collected { kept, removed: 0, freed: ByteSize::default() })
    }

    async fn list(&self, project: &ProjectId) -> Result<BTreeSet<String>, ArchiveError> {
        self.reach("list", project.as_str())?;
        let table = self.table.lock();
        let own = table.keys().filter(|(owner, _)| owner == project);
        Ok(own.map(|(_, name)| name.clone()).collect())
    }
}

fn read_all(dir: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let read = |file: io::Result<fs::DirEntry>| {
        let file = file?;
        Ok((file.file_name().to_string_lossy().into_owned(), fs::read(file.path())?))
    };
    fs::read_dir(dir)?.map(read).collect()
}
