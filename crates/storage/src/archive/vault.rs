//! The objects of one project: sealed on their way out, opened on their way in.

use tarn_host::{ArchiveError, CaptureError};
use tarn_task::{Entropy, OsEntropy};
use tarn_types::ProjectId;

use super::{
    bucket::{Bucket, Got},
    crew::Crew,
    key::ProjectKey,
    manifest::{self, ArchiveManifest, ChunkRef, LONGEST_CHUNK},
    place,
    sealed::{self, OVERHEAD},
};

/// What of the object store belongs to one project.
#[derive(Debug, Clone)]
pub(super) struct Vault {
    pub(super) bucket: Bucket,
    pub(super) crew: Crew,
    pub(super) project: ProjectId,
    pub(super) key: ProjectKey,
}

// === impl Vault ===

impl Vault {
    /// Seals and writes an object; returns how many bytes that were.
    pub(super) async fn put(&self, path: &str, plain: Vec<u8>) -> Result<u64, ArchiveError> {
        let (key, place) = (self.key.clone(), path.to_owned());
        let entropy: &dyn Entropy = &OsEntropy;
        let nonce = entropy.bytes();
        let seal = move || sealed::seal(&key, &place, nonce, &plain);
        let body = self.crew.work(seal).await?;
        let sent = body.len() as u64;
        self.bucket.put(path, body).await?;
        Ok(sent)
    }

    /// Reads what is written down about a capture; `None` when there is nothing.
    pub(super) async fn manifest(
        &self,
        name: &str,
    ) -> Result<Option<ArchiveManifest>, ArchiveError> {
        let path = place::snapshot(&self.project, name);
        let longest = manifest::LONGEST;
        let body = match self.bucket.get(&path, longest).await? {
            Got::Absent => return Ok(None),
            Got::TooLarge(size) => return Err(damaged(name, &path, &too_large(size))),
            Got::Whole(body) => body,
        };
        let (key, place) = (self.key.clone(), path.clone());
        let read = move || {
            let plain = sealed::open(&key, &place, &body, longest);
            ArchiveManifest::decode(&plain.map_err(|error| error.to_string())?)
        };
        let read: Result<_, String> = self.crew.work(read).await?;
        read.map(Some).map_err(|detail| damaged(name, &path, &detail))
    }

    /// Reads and checks a chunk of a capture, and does something with what it holds; that may
    /// block.
    pub(super) async fn chunk(
        &self,
        name: &str,
        chunk: ChunkRef,
        then: impl FnOnce(&[u8]) -> Result<(), CaptureError> + Send + 'static,
    ) -> Result<(), ArchiveError> {
        let path = place::chunk(&self.project, chunk.id);
        let length = chunk.length as usize;
        let body = match self.bucket.get(&path, LONGEST_CHUNK + OVERHEAD).await? {
            Got::Absent => return Err(damaged(name, &path, "it is missing")),
            Got::TooLarge(size) => return Err(damaged(name, &path, &too_large(size))),
            Got::Whole(body) => body,
        };
        let (key, place) = (self.key.clone(), path.clone());
        let read = move || {
            let plain = sealed::open(&key, &place, &body, length);
            let plain = plain.map_err(|error| error.to_string())?;
            if plain.len() != length || key.id(&plain) != chunk.id {
                return Err("it holds something else".to_owned());
            }
            Ok(then(&plain))
        };
        match self.crew.work(read).await? {
            Ok(done) => Ok(done?),
            Err(detail) => Err(damaged(name, &path, &detail)),
        }
    }
}

fn too_large(size: u64) -> String {
    format!("it has {size} bytes, and nothing that is written there has so many")
}

fn damaged(name: &str, path: &str, detail: &str) -> ArchiveError {
    ArchiveError::Damaged { name: name.to_owned(), detail: format!("{path}: {detail}") }
}
