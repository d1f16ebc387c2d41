//! Contexts: streamed into a file of ours, bounded, and hashed on the way. One of a build comes at
//! a time, and none comes into what the disk must keep free.

use std::{fmt::Write as _, path::PathBuf};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tarn_types::{BuildId, BuildStatus};
use tokio::{fs, io::AsyncWriteExt as _};

use super::{Builder, BuilderError, stock::has_room};

/// How much is set aside at a time for a context on its way, and how often is looked for room.
const GRANT_BYTES: u64 = 16 << 20;

/// A context on its way. What is not finished is removed.
pub struct Upload {
    path: PathBuf,
    file: fs::File,
    hash: Sha256,
    /// Ends when the file is removed.
    incoming: Incoming,
}

/// The room for a context on its way.
pub(super) struct Incoming {
    builder: Builder,
    id: BuildId,
    size: u64,
    granted: u64,
    is_whole: bool,
}

// === impl Upload ===

impl Upload {
    /// Takes what came.
    ///
    /// # Errors
    /// Fails when that is more than a context may have, the build takes none any more, there is no
    /// room, or the host does not write.
    pub async fn write(&mut self, bytes: &Bytes) -> Result<(), BuilderError> {
        self.incoming.take(bytes.len()).await?;
        self.hash.update(bytes);
        self.file.write_all(bytes).await.map_err(|error| unavailable(&error))
    }

    /// Takes it as whole; it replaces what was uploaded before.
    ///
    /// # Errors
    /// Fails when the build takes none any more, or the host does not write.
    pub async fn finish(mut self) -> Result<(), BuilderError> {
        self.file.flush().await.map_err(|error| unavailable(&error))?;
        let digest = hex(&self.hash.finalize_reset());
        let (builder, id) = (self.incoming.builder.clone(), self.incoming.id.clone());
        let _turn = builder.0.turn.lock().await;
        builder.awaiting(&id)?;
        let whole = builder.context_path(&id);
        fs::rename(&self.path, &whole).await.map_err(|error| unavailable(&error))?;
        self.incoming.keep();
        if let Some(entry) = builder.0.builds.lock().get_mut(&id) {
            entry.uploaded = Some(digest);
        }
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Once it is whole it is elsewhere. What stays goes at the next start.
        drop(std::fs::remove_file(&self.path));
    }
}

// === impl Incoming ===

impl Incoming {
    /// Takes account of bytes before they are written.
    pub(super) async fn take(&mut self, bytes: usize) -> Result<(), BuilderError> {
        self.size = self.size.saturating_add(bytes as u64);
        let most = self.builder.0.config.context_max_bytes;
        if self.size > most {
            return Err(BuilderError::TooLarge(most));
        }
        while self.size > self.granted {
            self.grow().await?;
        }
        Ok(())
    }

    async fn grow(&mut self) -> Result<(), BuilderError> {
        self.builder.awaiting(&self.id)?;
        let config = &self.builder.0.config;
        let free = self.builder.free().await;
        if !has_room(free, GRANT_BYTES, config.reserve_bytes) {
            tracing::warn!(build.id = %self.id, free, "a context is refused: the disk is full");
            return Err(BuilderError::Unavailable("the disk is full".to_owned()));
        }
        let most = config.contexts_max_bytes;
        self.builder.0.contexts.lock().grow(&self.id, GRANT_BYTES, most)?;
        self.granted += GRANT_BYTES;
        Ok(())
    }

    /// Takes the context as whole: it lies in its place.
    pub(super) fn keep(&mut self) {
        self.is_whole = true;
        self.builder.0.contexts.lock().keep(&self.id, self.size);
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.is_whole {
            self.builder.0.contexts.lock().give_up(&self.id);
        }
    }
}

// === impl Builder ===

impl Builder {
    /// Begins to take the context of a build from whoever shows its token.
    ///
    /// # Errors
    /// Fails when the token is not the one, the build takes no context any more or another one
    /// comes, or there is no room.
    pub async fn upload(&self, id: &str, token: &str) -> Result<Upload, BuilderError> {
        let id: BuildId = id.parse().map_err(|_bad| BuilderError::Denied)?;
        let wanted = self.record(&id).and_then(|record| record.upload_token);
        if !wanted.is_some_and(|wanted| same(&wanted, token)) {
            return Err(BuilderError::Denied);
        }
        let incoming = self.incoming(&id).await?;
        let random: [u8; 8] = self.0.entropy.bytes();
        let path = self.0.config.dir.join(format!("{id}.{}.part", hex(&random)));
        let file = fs::File::create(&path).await.map_err(|error| unavailable(&error))?;
        Ok(Upload { path, file, hash: Sha256::new(), incoming })
    }

    /// Sees to it that there is room for a context of a build.
    pub(super) async fn incoming(&self, id: &BuildId) -> Result<Incoming, BuilderError> {
        let missing = || BuilderError::NotFound(id.to_string());
        let project = self.record(id).ok_or_else(missing)?.project;
        self.awaiting(id)?;
        self.0.contexts.lock().begin(id, &project)?;
        let (builder, id) = (self.clone(), id.clone());
        let mut incoming = Incoming { builder, id, size: 0, granted: 0, is_whole: false };
        incoming.grow().await?;
        Ok(incoming)
    }

    /// Returns how much is free on the disk that contexts are on.
    async fn free(&self) -> Option<u64> {
        let dir = self.0.config.dir.clone();
        let look = self.0.tasks.spawn_blocking(move || rustix::fs::statvfs(&dir));
        let stat = look.await.ok()?.ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    pub(super) fn awaiting(&self, id: &BuildId) -> Result<(), BuilderError> {
        match self.record(id).map(|record| record.status) {
            Some(BuildStatus::Pending) => Ok(()),
            Some(status) => Err(BuilderError::NotAwaiting { id: id.clone(), status }),
            None => Err(BuilderError::NotFound(id.to_string())),
        }
    }

    pub(super) fn context_path(&self, id: &BuildId) -> PathBuf {
        self.0.config.dir.join(format!("{id}.tar"))
    }

    pub(super) async fn remove_context(&self, id: &BuildId) {
        match fs::remove_file(self.context_path(id)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(build.id = %id, %error, "a context stays until the next start");
            }
            Ok(()) | Err(_) => {}
        }
        self.0.contexts.lock().remove(id);
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Into a string it cannot fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// Compares without telling by its time where the two differ.
fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

fn unavailable(error: &std::io::Error) -> BuilderError {
    BuilderError::Unavailable(format!("write the context: {error}"))
}

#[cfg(test)]
mod tests;
