//! Captures in an object store: a directory, or S3.
//!
//! ```text
//!  layer.img   ──▶ holes left out ──▶ cut by content ──▶ chunks ──▶ compressed, encrypted ──▶ put
//!  memory/*    ──▶      (cut)             (cut)        (key: ids)       (sealed)
//! ```
//!
//! - `cut`: files to chunks and back; `manifest`: what is written down about them; `sealed`: what
//!   an object holds; `key`: who can read it; `place`: where it is.
//! - `upload`, `download`, `collect`: what is done with all that; `mark`: whose it is.
//! - `bucket`: requests; `vault`: those of one project; `crew`: work; `in_use`: what stays.
//!
//! # What holds at any moment, whoever is killed
//!
//! A description is written last, so what it needs is there. A chunk is never changed: writing it
//! again writes what it held. Only `collect` removes chunks; see `in_use` for why it takes none
//! that an upload counts on. See decision 18 for the formats and for what the object store learns.

mod bucket;
mod collect;
mod config;
mod crew;
mod cut;
mod download;
mod in_use;
mod key;
mod manifest;
mod mark;
mod place;
mod sealed;
mod upload;
mod vault;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use tarn_host::{Archive, ArchiveError, Archived, CaptureName, Collected, OnProgress};
use tarn_types::ProjectId;
use tokio::sync::Mutex as AsyncMutex;

use self::{
    bucket::Bucket, config::Patience, crew::Crew, in_use::InUse, upload::Proof, vault::Vault,
};
pub use self::{
    config::{ObjectStoreConfig, ObjectStoreConfigError},
    key::MasterKey,
    mark::{Claimed, ExpectedMark},
};
use crate::{HostCaptures, key_lock::KeyLocks};

/// How many chunks of a transfer are on their way at once: at 50 ms a request, 100 MB/s; in memory,
/// some 10 MiB and at most 64.
const IN_FLIGHT: usize = 8;

/// Keeps the captures of a node in an object store.
#[derive(Debug)]
pub struct ObjectArchive {
    url: String,
    grace: Duration,
    bucket: Bucket,
    /// Tries each request once, to say at once what is wrong.
    impatient: Bucket,
    key: MasterKey,
    /// Whether nothing is believed to be lost without our mark.
    insists: bool,
    captures: Arc<HostCaptures>,
    /// Does what nobody waits for.
    background: Crew,
    /// Does what a sandbox waits for.
    urgent: Crew,
    in_use: InUse,
    /// By the place of a capture's description: one transfer at a time.
    locks: KeyLocks<String>,
    collecting: Arc<AsyncMutex<()>>,
}

// === impl ObjectArchive ===

impl ObjectArchive {
    /// Makes what speaks with an object store; asks it nothing. Blocks for the making of a
    /// directory.
    ///
    /// # Errors
    /// Fails when the configuration is wrong.
    pub fn open(
        config: &ObjectStoreConfig,
        key: MasterKey,
        captures: Arc<HostCaptures>,
    ) -> Result<Self, ArchiveError> {
        let (bucket, impatient) = (config.open(Patience::Retries)?, config.open(Patience::None)?);
        Ok(Self {
            url: config.url.trim_end_matches('/').to_owned(),
            grace: config.grace,
            bucket,
            impatient,
            key,
            insists: false,
            background: Crew::of(1, captures.tasks().clone()),
            urgent: Crew::of(2, captures.tasks().clone()),
            captures,
            in_use: InUse::default(),
            locks: KeyLocks::default(),
            collecting: Arc::default(),
        })
    }

    /// Writes, reads and deletes an object, to know that it can. Tries each request once.
    ///
    /// # Errors
    /// Says which of it the object store refuses.
    pub async fn check(&self) -> Result<(), ArchiveError> {
        self.impatient.probe().await.map(drop)
    }

    fn vault(&self, project: &ProjectId, crew: &Crew) -> Vault {
        Vault {
            bucket: self.bucket.clone(),
            crew: crew.clone(),
            project: project.clone(),
            key: self.key.of_project(project),
        }
    }
}

#[async_trait]
impl Archive for ObjectArchive {
    async fn store(
        &self,
        project: &ProjectId,
        name: &CaptureName,
        progress: OnProgress<'_>,
    ) -> Result<Archived, ArchiveError> {
        self.upload(project, name, Proof::Name, progress).await
    }

    async fn mend(
        &self,
        project: &ProjectId,
        name: &CaptureName,
        progress: OnProgress<'_>,
    ) -> Result<Archived, ArchiveError> {
        self.upload(project, name, Proof::Content, progress).await
    }

    async fn fetch(
        &self,
        project: &ProjectId,
        name: &CaptureName,
        progress: OnProgress<'_>,
    ) -> Result<(), ArchiveError> {
        self.download(project, name, progress).await
    }

    async fn verify(&self, project: &ProjectId, name: &CaptureName) -> Result<(), ArchiveError> {
        match self.check_whole(project, name).await {
            Err(lost @ (ArchiveError::Missing { .. } | ArchiveError::Damaged { .. })) => {
                Err(self.believe(lost).await)
            }
            read => read,
        }
    }

    async fn remove(&self, project: &ProjectId, name: &CaptureName) -> Result<(), ArchiveError> {
        let place = place::snapshot(project, name);
        let _alone = self.locks.lock(&place).await;
        self.bucket.remove(&place).await?;
        let bucket = self.bucket.clone();
        self.urgent.work(move || bucket.sync_removed(&place)).await?
    }

    async fn collect(&self, grace: Duration) -> Result<Collected, ArchiveError> {
        self.collect_chunks(grace).await
    }

    async fn list(&self, project: &ProjectId) -> Result<BTreeSet<String>, ArchiveError> {
        let names = self.bucket.names(&place::snapshots(project)).await?;
        Ok(names.into_iter().collect())
    }
}
