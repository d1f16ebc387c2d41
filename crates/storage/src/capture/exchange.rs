//! Captures that go to another place, and come from there.

use std::{collections::BTreeMap, fs::File, path::PathBuf};

use tarn_host::{CaptureError, CaptureName};
use tarn_task::Tasks;
use tarn_types::ByteSize;
use tokio::sync::OwnedMutexGuard;

use super::{HostCaptures, MARGIN, digest::PageCache, disk::CaptureDisk};
use crate::step::chain;

/// All that a whole capture consists of, open: it can be read though it is discarded meanwhile.
#[derive(Debug)]
pub(crate) struct Export {
    /// Its `manifest.json`, byte for byte.
    pub(crate) manifest: String,
    /// The checksum in that.
    pub(super) blake3: String,
    pub(crate) files: Vec<ExportedFile>,
}

/// One file of a capture.
#[derive(Debug)]
pub(crate) struct ExportedFile {
    /// Its path in the capture's directory.
    pub(crate) name: String,
    pub(crate) file: File,
    /// Its checksum, if that is known.
    pub(crate) digest: Option<String>,
    pub(crate) cache: PageCache,
    /// What reading it takes, in bytes.
    pub(crate) data: u64,
}

/// What a capture was where it comes from.
#[derive(Debug)]
pub(crate) struct Origin {
    /// Its `manifest.json`, byte for byte.
    pub(crate) manifest: String,
    /// The checksums of its files, by path in its directory.
    pub(crate) digests: BTreeMap<String, String>,
}

/// A draft that is filled with a capture from elsewhere. It goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Inbound<'a> {
    captures: &'a HostCaptures,
    disk: CaptureDisk,
    /// Kept until the draft is gone, so that the next one of that name is not taken for it.
    alone: Option<OwnedMutexGuard<()>>,
}

// === impl HostCaptures ===

impl HostCaptures {
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Opens all that a whole capture consists of. It does not change any more.
    pub(crate) async fn export(&self, name: &CaptureName) -> Result<Export, CaptureError> {
        let open = |shared: &super::Shared, disk: &CaptureDisk| {
            shared.fix(disk);
            disk.export()
        };
        self.job(name, open).await
    }

    /// Fails when what was exported is not what is there any more.
    pub(crate) async fn still_has(
        &self,
        name: &CaptureName,
        export: &Export,
    ) -> Result<(), CaptureError> {
        let blake3 = export.blake3.clone();
        self.job(name, move |_, disk| {
            if disk.open()?.1.blake3 == blake3 {
                return Ok(());
            }
            // Another of that name took its place.
            Err(CaptureError::Missing { name: disk.name().to_owned() })
        })
        .await
    }

    /// Begins a draft for a capture from elsewhere, whose layer and memory have so many bytes that
    /// are not holes: that room is its own. `alone` keeps others from doing the same.
    pub(crate) async fn receive(
        &self,
        name: &CaptureName,
        layer: ByteSize,
        memory: ByteSize,
        alone: OwnedMutexGuard<()>,
    ) -> Result<Inbound<'_>, CaptureError> {
        let disk = CaptureDisk::at(&self.shared.captures, name)?;
        let inbound = Inbound { captures: self, disk, alone: Some(alone) };
        let trashed = self
            .job(name, move |shared, disk| {
                shared.forget(disk, &disk.draft_memory());
                let trashed = disk.trash_draft(shared.pool.trash())?;
                shared.pool.promise(&disk.draft(), layer.saturating_add(MARGIN))?;
                shared.pool.promise(&disk.draft_memory(), memory)?;
                disk.make_draft()?;
                Ok(trashed)
            })
            .await?;
        self.remove(trashed);
        Ok(inbound)
    }
}

// === impl Inbound ===

impl Inbound<'_> {
    /// Returns where a file of the capture is to be made.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.disk.draft().join(name)
    }

    /// Makes the draft whole, if it is what was elsewhere. Reads it all.
    pub(crate) async fn adopt(mut self, origin: Origin) -> Result<(), CaptureError> {
        let work = move |shared: &super::Shared, disk: &CaptureDisk| {
            disk.adopt(&origin)?;
            shared.forget(disk, &disk.draft_memory());
            // A damaged one that it replaces.
            Ok(disk.trash_draft(shared.pool.trash())?)
        };
        let trashed = self.captures.job(self.disk.name(), work).await?;
        self.captures.remove(trashed);
        drop(self.alone.take());
        Ok(())
    }
}

impl Drop for Inbound<'_> {
    fn drop(&mut self) {
        let Some(alone) = self.alone.take() else { return };
        let (shared, disk) = (self.captures.shared.clone(), self.disk.clone());
        let tasks = self.captures.tasks.clone();
        self.captures.tasks.spawn("capture-draft-drop", async move {
            let _alone = alone;
            let held = shared.locks.lock(&disk.name().to_owned()).await;
            let dropping = tasks.spawn_blocking(move || {
                let _held = held;
                shared.forget(&disk, &disk.draft_memory());
                match disk.trash_draft(shared.pool.trash()) {
                    Ok(Some(trashed)) => shared.pool.trash().remove(&trashed),
                    Ok(None) => {}
                    // The next start removes it.
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "a snapshot's draft is still there");
                    }
                }
            });
            // It says itself what went wrong.
            drop(dropping.await);
        });
    }
}
