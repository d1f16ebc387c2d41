//! Pulling: looking an image up, and making a tree of it.

use std::{
    collections::HashMap,
    io::Read,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tarn_task::Tasks;
use tarn_types::{ErrorClass, ImageConfig};
use tokio::sync::{OnceCell, watch};

use crate::{
    Bounds, Credentials, Digest, OciError, Phase, Progress, Reference, RegistryOptions,
    config::Config,
    import,
    manifest::{Descriptor, Document, Manifest, Platform, choose},
    registry::{self, Clients, Session, Trust, blob::Blob},
    unpack::Unpacker,
    work::Work,
};

/// How many indexes may stand before a manifest.
const MOST_INDEXES: usize = 3;

/// An image as a registry has it now, pinned by the digest of its manifest for this machine.
#[derive(Debug, Clone)]
pub struct Found {
    reference: Reference,
    digest: Digest,
    manifest: Manifest,
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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: RegistryOptions,
    bounds: Bounds,
    tasks: Tasks,
    machine: Platform,
    /// Made when it is first needed: that reads certificates.
    http: OnceCell<Clients>,
}

/// Tells whoever works on a pull to stop, when it is dropped.
#[derive(Debug, Default)]
struct Stop {
    flag: Arc<AtomicBool>,
    blobs: Vec<Arc<Blob>>,
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
        &self.digest
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
        let (machine, http) = (Platform::here(), OnceCell::new());
        Self { shared: Arc::new(Shared { options, bounds, tasks, machine, http }) }
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
        let Shared { options, bounds, machine, .. } = &*self.shared;
        let http = self.http().await?;
        let session = Session::new(http, options, reference, credentials, Trust::Mirrors)?;
        let mut pinned = reference.digest().cloned();
        for _ in 0..=MOST_INDEXES {
            let tag = reference.tag().unwrap_or_default();
            let (digest, bytes) = session.manifest(tag, pinned.as_ref(), bounds).await?;
            match Document::parse(&bytes)? {
                Document::Index(manifests) => {
                    let chosen = choose(&manifests, machine)?;
                    tracing::debug!(image = %reference, manifest = %chosen.digest, "chose of an index");
                    pinned = Some(chosen.digest.clone());
                }
                Document::Manifest(manifest) => {
                    manifest.check(bounds)?;
                    let layer_bytes = manifest.layers.iter().map(|layer| layer.size).collect();
                    return Ok(Found {
                        reference: reference.clone(),
                        digest,
                        manifest,
                        layer_bytes,
                    });
                }
            }
        }
        Err(OciError::malformed("an index", "it leads to indexes without end"))
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
        let Shared { options, tasks, .. } = &*self.shared;
        let http = self.http().await?;
        let mut stopping = pin!(tasks.stopping());
        progress.send_modify(|progress| {
            progress.layers_total = found.manifest.layers.len();
            progress.bytes_total = found.layer_bytes.iter().sum();
        });
        let work = self.lock(work).await?;
        for trust in [Trust::Mirrors, Trust::RegistryAlone] {
            let session = Session::new(http, options, &found.reference, credentials, trust)?;
            let mut doubtful = session.has_mirrors();
            let attempt = self.attempt(&session, found, &work, &progress, &mut doubtful);
            let done = tokio::select! {
                done = attempt => done,
                () = &mut stopping => Err(OciError::Cancelled),
            };
            match done {
                // A mirror, or what an earlier pull left, may be to blame.
                Err(error @ (OciError::BadDigest { .. } | OciError::BadSize { .. }))
                    if doubtful && trust == Trust::Mirrors =>
                {
                    tracing::warn!(image = %found.reference, %error, "an image is fetched anew");
                    self.block(&work, |work| work.forget_blobs()).await?;
                }
                done => return done,
            }
        }
        Err(OciError::Cancelled)
    }

    /// Makes a tree of an image in a file or directory: an OCI layout, as a directory or a tar, or
    /// what `docker save` writes. `choose` names one of several: its reference or its tag. Dropping
    /// the future tells everything to stop, at the next block.
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
        let work = self.lock(work).await?;
        let stop = Stop::default();
        let flag = Arc::clone(&stop.flag);
        let shared = Arc::clone(&self.shared);
        let (source, choose) = (source.to_owned(), choose.map(str::to_owned));
        let (mut stopping, work) = (pin!(self.shared.tasks.stopping()), work.clone());
        let importing = self.shared.tasks.spawn_blocking(move || {
            let Shared { bounds, machine, .. } = &*shared;
            let effort = import::Effort { work: &work, bounds, stop: &flag };
            let image = import::open(&source, choose.as_deref(), effort, machine)?;
            progress.send_modify(|progress| {
                progress.layers_total = image.layers.len();
                progress.bytes_total = image.layers.iter().map(import::Layer::size).sum();
            });
            let (bytes, entries) =
                unpack(&work, &image.config, &shared.bounds, &progress, flag, |index| {
                    let reader = image.layers[index].open();
                    let size = image.layers[index].size();
                    progress.send_modify(|progress| progress.bytes_done += size);
                    Ok(reader)
                })?;
            work.forget_blobs()?;
            progress.send_modify(|progress| progress.phase = Phase::Done);
            Ok(Unpacked { manifest: image.digest, config: image.config.run, bytes, entries })
        });
        tokio::select! {
            done = importing => done.unwrap_or_else(|_panicked| Err(OciError::Cancelled)),
            () = &mut stopping => Err(OciError::Cancelled),
        }
    }

    /// Pulls once. `doubtful` is set when some of it was not fetched from the registry now.
    async fn attempt(
        &self,
        session: &Session<'_>,
        found: &Found,
        work: &Arc<Work>,
        progress: &watch::Sender<Progress>,
        doubtful: &mut bool,
    ) -> Result<Unpacked, OciError> {
        let Shared { bounds, tasks, machine, options, .. } = &*self.shared;
        let what = "the size of its configuration";
        let config = session.blob(&found.manifest.config, what, bounds.config_bytes).await?;
        let config = Config::parse(&config, found.manifest.layers.len(), machine)?;
        let layers = found.manifest.layers.clone();
        let opened = self.block(work, move |work| open_blobs(work, &layers)).await?;
        let (distinct, by_layer) = opened;
        *doubtful |= distinct.iter().any(|blob| blob.inherited() > 0);
        let stop = Stop { flag: Arc::default(), blobs: distinct.clone() };
        progress.send_modify(|progress| {
            (progress.phase, progress.bytes_done, progress.layers_done) = (Phase::Fetching, 0, 0);
        });
        let mut unpacking = tasks.spawn_blocking({
            let (flag, progress) = (Arc::clone(&stop.flag), progress.clone());
            let (work, bounds) = (Arc::clone(work), bounds.clone());
            let manifest = found.digest.clone();
            move || {
                let open = |index: usize| {
                    let blob: &Arc<Blob> = &by_layer[index];
                    blob.reader()
                };
                let (bytes, entries) = unpack(&work, &config, &bounds, &progress, flag, open)?;
                Ok::<_, OciError>(Unpacked { manifest, config: config.run, bytes, entries })
            }
        });
        let arrived = &|count| progress.send_modify(|progress| progress.bytes_done += count);
        let mut fetching = pin!(
            // Owned, so that whoever pulls can be a task.
            stream::iter(distinct.clone())
                .map(|blob| async move { session.fetch(&blob, tasks, arrived).await })
                .buffer_unordered(options.parallel.max(1))
                .try_collect::<()>()
        );
        let unpacked = tokio::select! {
            fetched = &mut fetching => {
                if fetched.is_err() {
                    stop.now();
                }
                progress.send_if_modified(|progress| {
                    let begins = progress.phase == Phase::Fetching && fetched.is_ok();
                    if begins {
                        progress.phase = Phase::Unpacking;
                    }
                    begins
                });
                let unpacked = (&mut unpacking).await;
                fetched?;
                unpacked
            }
            unpacked = &mut unpacking => {
                // The one waits for the other: what came over the line may explain what the
                // other met.
                match &unpacked {
                    Ok(Err(error)) if error.class() != ErrorClass::Cancelled => {}
                    Ok(_) | Err(_) => fetching.await?,
                }
                unpacked
            }
        };
        let unpacked = unpacked.unwrap_or_else(|_panicked| Err(OciError::Cancelled))?;
        self.block(work, |work| work.forget_blobs()).await?;
        progress.send_modify(|progress| progress.phase = Phase::Done);
        Ok(unpacked)
    }

    async fn http(&self) -> Result<&Clients, OciError> {
        let make = || async {
            let shared = Arc::clone(&self.shared);
            let made = self.shared.tasks.spawn_blocking(move || registry::clients(&shared.options));
            made.await.unwrap_or_else(|_panicked| Err(OciError::Cancelled))
        };
        self.shared.http.get_or_try_init(make).await
    }

    async fn lock(&self, work: &Path) -> Result<Arc<Work>, OciError> {
        let work = work.to_owned();
        let locked = self.shared.tasks.spawn_blocking(move || Work::lock(work));
        locked.await.unwrap_or_else(|_panicked| Err(OciError::Cancelled)).map(Arc::new)
    }

    async fn block<T: Send + 'static>(
        &self,
        work: &Arc<Work>,
        block: impl FnOnce(&Arc<Work>) -> Result<T, OciError> + Send + 'static,
    ) -> Result<T, OciError> {
        let work = Arc::clone(work);
        let done = self.shared.tasks.spawn_blocking(move || block(&work));
        done.await.unwrap_or_else(|_panicked| Err(OciError::Cancelled))
    }
}

// === impl Stop ===

impl Stop {
    fn now(&self) {
        self.flag.store(true, Ordering::Relaxed);
        for blob in &self.blobs {
            blob.give_up();
        }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.now();
    }
}

/// The distinct blobs of an image, and which of them each layer is.
type Opened = (Vec<Arc<Blob>>, Vec<Arc<Blob>>);

/// Opens the blobs of layers; many images have the same layer twice.
fn open_blobs(work: &Arc<Work>, layers: &[Descriptor]) -> Result<Opened, OciError> {
    let dir = work.blobs(layers)?;
    let mut known: HashMap<&Digest, Arc<Blob>> = HashMap::new();
    let (mut distinct, mut by_layer) = (Vec::new(), Vec::new());
    for layer in layers {
        let blob = match known.get(&layer.digest) {
            Some(blob) if blob.size() == layer.size => Arc::clone(blob),
            Some(blob) => {
                let (what, expected) = (format!("the layer {}", layer.digest), layer.size);
                return Err(OciError::BadSize { what, expected, found: blob.size() });
            }
            None => {
                let blob = Arc::new(Blob::open(work, &dir, layer)?);
                known.insert(&layer.digest, Arc::clone(&blob));
                distinct.push(Arc::clone(&blob));
                blob
            }
        };
        by_layer.push(blob);
    }
    Ok((distinct, by_layer))
}

/// Unpacks all layers, each as soon as it can be read; returns the bytes of all files and the
/// number of entries. Blocks. Leaves no half tree.
fn unpack<R: Read>(
    work: &Work,
    config: &Config,
    bounds: &Bounds,
    progress: &watch::Sender<Progress>,
    stop: Arc<AtomicBool>,
    open: impl Fn(usize) -> Result<R, OciError>,
) -> Result<(u64, u64), OciError> {
    let root: PathBuf = work.empty_root()?;
    let all = || {
        let mut unpacker = Unpacker::create(&root, bounds, stop)?;
        for (index, diff_id) in config.diff_ids.iter().enumerate() {
            let mut reader = open(index)?;
            if let Err(error) = unpacker.layer(&mut reader, diff_id) {
                // Whether the layer is what its digest says comes before what is in it.
                let in_it = error.class() == ErrorClass::Invalid;
                let read = if in_it { read_on(&mut reader) } else { Ok(()) };
                return Err(read.err().unwrap_or(error));
            }
            progress.send_modify(|progress| progress.layers_done = index + 1);
        }
        progress.send_modify(|progress| progress.phase = Phase::Syncing);
        unpacker.finish()
    };
    let done = all();
    if done.is_err()
        && let Err(error) = work.empty_root()
    {
        tracing::warn!(%error, "a half tree cannot be removed");
    }
    done
}

/// Reads a blob to its end, where it is verified.
fn read_on(reader: &mut impl Read) -> Result<(), OciError> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(crate::unpack::tar::unwrap(error)),
        }
    }
}
