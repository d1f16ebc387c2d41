//! Pulling: looking an image up, and making a tree of it.

use std::path::Path;

use tarn_host::ImageConfig;
use tarn_task::Tasks;
use tokio::sync::watch;

use crate::{Bounds, Credentials, Digest, OciError, Progress, Reference, RegistryOptions};

/// An image as a registry has it now, pinned by the digest of its manifest for this machine.
#[derive(Debug, Clone)]
pub struct Found {
    reference: Reference,
    manifest: Digest,
    layer_bytes: Vec<u64>,
}

/// What became of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The digest of its manifest; of its configuration where an archive has no manifest.
    pub manifest: Digest,
    /// What it says about running it.
    pub config: ImageConfig,
    /// The bytes of its files.
    pub bytes: u64,
    /// The entries of its layers.
    pub entries: u64,
}

/// Talks to registries and unpacks images. Clones share everything.
#[derive(Debug, Clone)]
pub struct Puller {
    options: RegistryOptions,
    bounds: Bounds,
    tasks: Tasks,
}

// === impl Found ===

impl Found {
    /// Returns the name it was found by.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Returns the digest of its manifest for this machine.
    #[must_use]
    pub fn manifest(&self) -> &Digest {
        &self.manifest
    }

    /// Returns the bytes of each layer as it is transferred, lowest first.
    #[must_use]
    pub fn layer_bytes(&self) -> &[u64] {
        &self.layer_bytes
    }
}

// === impl Puller ===

impl Puller {
    /// Makes a puller; asks nothing of the network yet.
    #[must_use]
    pub fn new(options: RegistryOptions, bounds: Bounds, tasks: Tasks) -> Self {
        Self { options, bounds, tasks }
    }

    /// Finds out what a name stands for at its registry: the manifest for this machine.
    ///
    /// # Errors
    /// Fails when there is none, the registry refuses or does not answer, or what it serves is not
    /// what the name pins.
    pub async fn look_up(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Found, OciError> {
        Err(OciError::Cancelled)
    }

    /// Makes a tree of an image at `<work>/rootfs`, whole and on disk when this returns.
    ///
    /// `work` is a directory of the caller's, which must exist; pulls into the same one wait for
    /// each other. What was fetched is kept in `<work>/blobs` when it fails, and a pull of the
    /// same image goes on from there; when it succeeds nothing but the tree stays. Dropping the
    /// future tells everything to stop, at the next block.
    ///
    /// # Errors
    /// Says what the registry, the image or the disk did wrong.
    pub async fn pull(
        &self,
        found: &Found,
        credentials: Option<&Credentials>,
        work: &Path,
        progress: watch::Sender<Progress>,
    ) -> Result<Unpacked, OciError> {
        Err(OciError::Cancelled)
    }

    /// Makes a tree of an image in a file or directory: an OCI layout, as a directory or a tar, or
    /// what `docker save` writes. `choose` names one of several: its reference or its tag.
    ///
    /// # Errors
    /// Says what the archive or the disk did wrong.
    pub async fn import(
        &self,
        source: &Path,
        choose: Option<&str>,
        work: &Path,
        progress: watch::Sender<Progress>,
    ) -> Result<Unpacked, OciError> {
        Err(OciError::Cancelled)
    }
}
