//! A capture on its way into the object store.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{TryStreamExt as _, stream};
use tarn_host::{ArchiveError, Archived, CaptureError, CaptureName, OnProgress, Progress};
use tarn_types::{ByteSize, ProjectId};
use thiserror::Error;
use tokio::{sync::OnceCell, time::Instant};

use super::{
    IN_FLIGHT, ObjectArchive,
    bucket::ObjectAge,
    crew::Crew,
    cut::{Cut, Cutter, Row, Step},
    in_use::{Held, UploadHold},
    key::ProjectKey,
    manifest::{ArchiveManifest, ArchivedFile, ChunkRef},
    place,
    vault::Vault,
};
use crate::{
    capture::{Export, ExportedFile},
    step::StepContext as _,
};

/// What shows that something need not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// There is an object of that name: nothing else is ever written there.
    Name,
    /// It was read, and is what it should be. Who deletes or damages objects leaves names.
    Content,
}

/// What the uploads of one capture's chunks share.
#[derive(Debug)]
struct Upload {
    name: String,
    proof: Proof,
    vault: Vault,
    hold: UploadHold,
    /// A chunk that is older is renewed.
    renew_ms: i64,
    /// The object store's time, once it was asked.
    now: OnceCell<i64>,
    sent: AtomicU64,
}

#[derive(Debug, Error)]
#[error(
    "what was sent before it took longer than half of the grace; send it again, that is faster"
)]
struct TooLate;

#[derive(Debug, Error)]
#[error("what is on this node is not what was sent before")]
struct OtherFiles;

/// What became of a step: how much was read for it, and at the end what the file consists of.
#[derive(Debug)]
struct Stepped {
    read: u64,
    row: Option<Row>,
}

// === impl ObjectArchive ===

impl ObjectArchive {
    pub(super) async fn upload(
        &self,
        project: &ProjectId,
        name: &CaptureName,
        proof: Proof,
        progress: OnProgress<'_>,
    ) -> Result<Archived, ArchiveError> {
        let vault = self.vault(project, &self.background);
        let place = place::snapshot(project, name);
        let _alone = self.locks.lock(&place).await;
        let export = self.captures.export(name).await?;
        let uri = format!("{}/{place}", self.url);
        // One of another capture of that name, or one that is of no use, is replaced.
        let there = match vault.manifest(name).await {
            Ok(there) => there.filter(|there| there.capture == export.manifest),
            Err(ArchiveError::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        if let (Some(there), Proof::Name) = (&there, proof) {
            let size = ByteSize::from_bytes(there.data_bytes());
            return Ok(Archived { uri, size, sent: ByteSize::default() });
        }
        let renew_ms = i64::try_from(self.grace.as_millis() / 2).unwrap_or(i64::MAX);
        let (hold, begun) = (self.in_use.upload(), Instant::now());
        let (now, sent) = (OnceCell::new(), AtomicU64::new(0));
        let upload = Arc::new(Upload {
            name: name.to_owned(),
            proof,
            vault: vault.clone(),
            hold,
            renew_ms,
            now,
            sent,
        });
        let manifest = upload.files(name, &export, progress).await?;
        if there.is_some_and(|there| !there.has_files_of(&manifest)) {
            // Most of it may be whole there still, and here something has rotted unseen.
            let (step, object) = ("mend", place);
            return Err(ArchiveError::Store { step, object, source: Box::new(OtherFiles) });
        }
        self.captures.still_has(name, &export).await?;
        if begun.elapsed() >= self.grace / 2 {
            // Another server may have collected what was young when it was looked at.
            return Err(too_late(&place));
        }
        let size = ByteSize::from_bytes(manifest.data_bytes());
        let written = vault.put(&place, manifest.encode()).await?;
        let sent = ByteSize::from_bytes(upload.sent.load(Ordering::Relaxed) + written);
        Ok(Archived { uri, size, sent })
    }
}

// === impl Upload ===

impl Upload {
    async fn files(
        self: &Arc<Self>,
        name: &CaptureName,
        export: &Export,
        progress: OnProgress<'_>,
    ) -> Result<ArchiveManifest, ArchiveError> {
        let total = ByteSize::from_bytes(export.files.iter().map(|file| file.data).sum());
        let mut done = ByteSize::default();
        progress(Progress { done, total });
        let mut files = Vec::new();
        for file in &export.files {
            let mut tell = |read| {
                done = done.saturating_add(ByteSize::from_bytes(read));
                progress(Progress { done, total });
            };
            files.push(self.file(name, file, &mut tell).await?);
        }
        Ok(ArchiveManifest::new(export.manifest.clone(), files))
    }

    async fn file(
        self: &Arc<Self>,
        name: &CaptureName,
        exported: &ExportedFile,
        tell: &mut (dyn FnMut(u64) + Send),
    ) -> Result<ArchivedFile, ArchiveError> {
        let path = PathBuf::from(&exported.name);
        let cutter = open(exported, &self.vault.key).step("read", &path).map_err(capture)?;
        let size = cutter.size();
        let crew = self.vault.crew.clone();
        let steps = stream::try_unfold(Some(cutter), move |cutter| {
            next_step(crew.clone(), cutter, path.clone())
        });
        let mut stepped = std::pin::pin!(
            steps.map_ok(|step| self.clone().take(step)).try_buffer_unordered(IN_FLIGHT)
        );
        let mut end = None;
        while let Some(Stepped { read, row }) = stepped.try_next().await? {
            tell(read);
            end = end.or(row);
        }
        let Row { extents, chunks, digest } = end.expect("a file is read to its end");
        if exported.digest.as_ref().is_some_and(|known| *known != digest) {
            let detail = format!("the content of {} has changed", exported.name);
            return Err(CaptureError::Damaged { name: name.to_owned(), detail }.into());
        }
        Ok(ArchivedFile { path: exported.name.clone(), size, digest, extents, chunks })
    }

    async fn take(self: Arc<Self>, step: Step) -> Result<Stepped, ArchiveError> {
        match step {
            Step::Chunk(cut, read) => {
                self.chunk(cut).await?;
                Ok(Stepped { read, row: None })
            }
            Step::End(row, read) => Ok(Stepped { read, row: Some(row) }),
        }
    }

    /// Makes sure that a chunk is there, and young enough to stay until it is written down that it
    /// is needed.
    async fn chunk(&self, cut: Cut) -> Result<(), ArchiveError> {
        if self.hold.hold(cut.id).await == Held::Before {
            return Ok(());
        }
        let path = place::chunk(&self.vault.project, cut.id);
        let is_there = match self.vault.bucket.look(&path).await? {
            Some(there) if self.is_young(there).await? => self.is_whole(&cut).await?,
            Some(_) | None => false,
        };
        if !is_there {
            let sent = self.vault.put(&path, cut.plain).await?;
            self.sent.fetch_add(sent, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Says whether the object of a chunk holds it, as far as that is to be shown.
    async fn is_whole(&self, cut: &Cut) -> Result<bool, ArchiveError> {
        if self.proof == Proof::Name {
            return Ok(true);
        }
        // None is so long: it would be written again.
        let length = u32::try_from(cut.plain.len()).unwrap_or(u32::MAX);
        let chunk = ChunkRef { id: cut.id, length };
        match self.vault.chunk(&self.name, chunk, |_plain| Ok(())).await {
            Ok(()) => Ok(true),
            Err(ArchiveError::Damaged { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn is_young(&self, there: ObjectAge) -> Result<bool, ArchiveError> {
        let now = self.now.get_or_try_init(|| self.vault.bucket.probe()).await?;
        Ok(now - there.written < self.renew_ms)
    }
}

fn open(exported: &ExportedFile, key: &ProjectKey) -> io::Result<Cutter> {
    Cutter::new(exported.file.try_clone()?, exported.cache, key.clone())
}

/// Cuts on, in a thread that may block; there is no cutter any more after the end.
async fn next_step(
    crew: Crew,
    cutter: Option<Cutter>,
    path: PathBuf,
) -> Result<Option<(Step, Option<Cutter>)>, ArchiveError> {
    let Some(mut cutter) = cutter else { return Ok(None) };
    let (step, cutter) = crew.work(move || (cutter.step(), cutter)).await?;
    let step = step.step("read", &path).map_err(capture)?;
    let rest = match step {
        Step::Chunk(..) => Some(cutter),
        Step::End(..) => None,
    };
    Ok(Some((step, rest)))
}

fn too_late(place: &str) -> ArchiveError {
    ArchiveError::Store { step: "put", object: place.to_owned(), source: Box::new(TooLate) }
}

fn capture(error: impl Into<CaptureError>) -> ArchiveError {
    ArchiveError::Capture(error.into())
}
