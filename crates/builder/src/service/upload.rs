//! Contexts: streamed into a file of ours, bounded, and hashed on the way.

use std::{fmt::Write as _, path::PathBuf};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tarn_types::{BuildId, BuildStatus};
use tokio::{fs, io::AsyncWriteExt as _};

use super::{Builder, BuilderError};

/// A context on its way. What is not finished is removed.
pub struct Upload {
    builder: Builder,
    id: BuildId,
    path: PathBuf,
    file: fs::File,
    hash: Sha256,
    size: u64,
}

// === impl Upload ===

impl Upload {
    /// Takes what came.
    ///
    /// # Errors
    /// Fails when that is more than a context may have, or the host does not write.
    pub async fn write(&mut self, bytes: &Bytes) -> Result<(), BuilderError> {
        self.size = self.size.saturating_add(bytes.len() as u64);
        let most = self.builder.0.config.context_max_bytes;
        if self.size > most {
            return Err(BuilderError::TooLarge(most));
        }
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
        let builder = self.builder.clone();
        let _turn = builder.0.turn.lock().await;
        builder.awaiting(&self.id)?;
        let whole = builder.context_path(&self.id);
        fs::rename(&self.path, &whole).await.map_err(|error| unavailable(&error))?;
        if let Some(entry) = builder.0.builds.lock().get_mut(&self.id) {
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

// === impl Builder ===

impl Builder {
    /// Begins to take the context of a build from whoever shows its token.
    ///
    /// # Errors
    /// Fails when the token is not the one, or the build takes no context any more.
    pub async fn upload(&self, id: &str, token: &str) -> Result<Upload, BuilderError> {
        let id: BuildId = id.parse().map_err(|_bad| BuilderError::Denied)?;
        let wanted = self.record(&id).and_then(|record| record.upload_token);
        if !wanted.is_some_and(|wanted| same(&wanted, token)) {
            return Err(BuilderError::Denied);
        }
        self.awaiting(&id)?;
        let random: [u8; 8] = self.0.entropy.bytes();
        let path = self.0.config.dir.join(format!("{id}.{}.part", hex(&random)));
        let file = fs::File::create(&path).await.map_err(|error| unavailable(&error))?;
        Ok(Upload { builder: self.clone(), id, path, file, hash: Sha256::new(), size: 0 })
    }

    fn awaiting(&self, id: &BuildId) -> Result<(), BuilderError> {
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
