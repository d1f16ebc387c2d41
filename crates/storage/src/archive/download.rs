//! A capture on its way out of the object store.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tarn_host::{ArchiveError, CaptureError, CaptureName, Captures as _, OnProgress, Progress};
use tarn_types::{ByteSize, ProjectId};

use super::{
    IN_FLIGHT, ObjectArchive,
    cut::write,
    manifest::{ArchiveManifest, ArchivedFile},
    place,
    vault::Vault,
};
use crate::{
    capture::{LAYER, Origin},
    step::{HostStepError, StepContext as _, chain},
};

// === impl ObjectArchive ===

impl ObjectArchive {
    pub(super) async fn download(
        &self,
        project: &ProjectId,
        name: &CaptureName,
        progress: OnProgress<'_>,
    ) -> Result<(), ArchiveError> {
        let vault = self.vault(project, &self.urgent);
        let alone = self.locks.lock(&place::snapshot(project, name)).await;
        match self.captures.open(name).await {
            Ok(_) => return Ok(()),
            Err(CaptureError::Missing { .. }) => {}
            Err(error @ CaptureError::Damaged { .. }) => {
                let error = chain(&error);
                tracing::warn!(error, "a snapshot is fetched again from the object store");
            }
            Err(error @ (CaptureError::PoolFull { .. } | CaptureError::Step { .. })) => {
                return Err(error.into());
            }
        }
        let manifest = present(vault.manifest(name).await?, name)?;
        let size = |layer: bool| {
            let files = manifest.files.iter().filter(|file| (file.path == LAYER) == layer);
            ByteSize::from_bytes(files.map(ArchivedFile::data_bytes).sum())
        };
        let inbound = self.captures.receive(name, size(true), size(false), alone).await?;
        let total = ByteSize::from_bytes(manifest.data_bytes());
        let mut done = ByteSize::default();
        progress(Progress { done, total });
        for file in &manifest.files {
            let (place, size) = (inbound.place(&file.path), file.size);
            let made = vault.crew.work(move || make(&place, size)).await?;
            let target = made.map_err(CaptureError::from)?;
            let mut told = |bytes| {
                done = done.saturating_add(ByteSize::from_bytes(bytes));
                progress(Progress { done, total });
            };
            let read = read_chunks(&vault, name, file, Some(target), &mut told).await;
            self.or_gone(&vault, name, read).await?;
        }
        let digests = manifest.files.into_iter().map(|file| (file.path, file.digest));
        let origin = Origin { manifest: manifest.capture, digests: digests.collect() };
        Ok(inbound.adopt(origin).await?)
    }

    pub(super) async fn check_whole(
        &self,
        project: &ProjectId,
        name: &CaptureName,
    ) -> Result<(), ArchiveError> {
        let vault = self.vault(project, &self.background);
        let manifest: ArchiveManifest = present(vault.manifest(name).await?, name)?;
        for file in &manifest.files {
            let read = read_chunks(&vault, name, file, None, &mut drop).await;
            self.or_gone(&vault, name, read).await?;
        }
        Ok(())
    }

    /// A capture that was removed while it was read is missing, nothing worse.
    async fn or_gone(
        &self,
        vault: &Vault,
        name: &CaptureName,
        read: Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let Err(error @ ArchiveError::Damaged { .. }) = read else { return read };
        present(vault.bucket.look(&place::snapshot(&vault.project, name)).await?, name)?;
        Err(error)
    }
}

/// Reads and checks the chunks of a file, and writes them if there is something to write to.
async fn read_chunks(
    vault: &Vault,
    name: &CaptureName,
    file: &ArchivedFile,
    target: Option<Arc<File>>,
    tell: &mut (dyn FnMut(u64) + Send),
) -> Result<(), ArchiveError> {
    let read = |(chunk, pieces): (super::manifest::ChunkRef, Vec<super::manifest::Piece>)| {
        let (target, path) = (target.clone(), file.path.clone());
        async move {
            let then = move |plain: &[u8]| {
                let Some(target) = target else { return Ok(()) };
                Ok(write(&target, plain, &pieces).step("write", Path::new(&path))?)
            };
            vault.chunk(name, chunk, then).await?;
            Ok::<_, ArchiveError>(u64::from(chunk.length))
        }
    };
    let mut reads =
        std::pin::pin!(stream::iter(file.pieces().map(read)).buffer_unordered(IN_FLIGHT));
    while let Some(bytes) = reads.try_next().await? {
        tell(bytes);
    }
    Ok(())
}

/// Makes a file that is one hole.
fn make(path: &Path, size: u64) -> Result<Arc<File>, HostStepError> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let file = options.open(path).step("make", path)?;
    file.set_len(size).step("size", path)?;
    Ok(Arc::new(file))
}

fn present<T>(found: Option<T>, name: &CaptureName) -> Result<T, ArchiveError> {
    found.ok_or_else(|| ArchiveError::Missing { name: name.to_owned() })
}
