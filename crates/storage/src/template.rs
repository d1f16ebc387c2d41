//! Images that were pulled or imported, as templates beside the stock images.
//!
//! They lie on the data directory's own file system, not in the pool: what they take is not there
//! for sandboxes to write to, and a template is read like any file of the host.
//!
//! ```text
//!  <data>/images/sha256-<hex>/   rootfs/, then image.json: a template, found by its digest
//!                .work/<hex>/    what a pull has fetched; the next one goes on with it
//!                .trash/         what is removed
//! ```
//!
//! Which of them are needed is not known here.

mod pull;
mod rules;
mod shelf;

use std::{
    collections::BTreeSet,
    fmt,
    path::Path,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use tarn_host::{ImageError, ImageHolds, Images, PullTrouble, Removal, StoredImage, Template};
use tarn_oci::Puller;
use tarn_task::{Clock, Tasks};
use tarn_types::{ImageDigest, ImageName, ImagePin, RegistryLogin};

pub use self::rules::ImageRules;
use self::{
    pull::{Pulls, credentials},
    rules::{trouble, trouble_of},
    shelf::Shelf,
};
use crate::{
    StockImages,
    step::{HostStepError, chain},
};

/// The images of a node: the stock images, and those that were pulled or imported.
#[derive(Clone)]
pub struct HostImages(Arc<Shared>);

struct Shared {
    stock: StockImages,
    shelf: Shelf,
    pulls: Pulls,
    puller: Puller,
    rules: ImageRules,
    holds: ImageHolds,
    tasks: Tasks,
    clock: Arc<dyn Clock>,
    /// Itself, for the pulls that outlast who asked for them.
    own: OnceLock<std::sync::Weak<Shared>>,
}

// === impl HostImages ===

impl HostImages {
    /// Takes charge of `<data_dir>/images`: removes what an earlier server left half made. Blocks.
    ///
    /// # Errors
    /// Fails when the directory cannot be made or read.
    pub fn open(
        stock: StockImages,
        data_dir: &Path,
        rules: ImageRules,
        tasks: Tasks,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, HostStepError> {
        let shelf = Shelf::open(&data_dir.join("images"))?;
        let puller = Puller::new(rules.registries.clone(), rules.bounds.clone(), tasks.clone());
        let shared = Arc::new(Shared {
            stock,
            shelf,
            pulls: Pulls::new(rules.at_once),
            puller,
            rules,
            holds: ImageHolds::default(),
            tasks,
            clock,
            own: OnceLock::new(),
        });
        // It is set once, here.
        drop(shared.own.set(Arc::downgrade(&shared)));
        let trash = Arc::clone(&shared);
        shared.tasks.spawn_blocking(move || trash.shelf.empty_trash());
        Ok(Self(shared))
    }
}

impl fmt::Debug for HostImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostImages").field("shelf", &self.0.shelf).finish_non_exhaustive()
    }
}

#[async_trait]
impl Images for HostImages {
    async fn resolve(&self, name: &ImageName) -> Result<Template, ImageError> {
        self.0.stock.resolve(name).await
    }

    async fn resolve_digest(&self, digest: &str, name: &ImageName) -> Result<Template, ImageError> {
        let shared = &self.0;
        let parsed: Option<ImageDigest> = digest.parse().ok();
        let template = parsed.and_then(|digest| {
            // Before it is looked for, so that it is not removed in between.
            shared.holds.note(&digest);
            shared.template(&digest)
        });
        match template {
            Some(template) => Ok(template),
            None => shared.stock.resolve_digest(digest, name).await,
        }
    }

    async fn names(&self) -> Vec<ImageName> {
        self.0.stock.names().await
    }

    fn default_image(&self) -> ImageName {
        self.0.stock.default_image()
    }

    fn registry_of(&self, reference: &str) -> Result<String, ImageError> {
        let reference = self.0.rules.check(reference)?;
        Ok(reference.registry().to_owned())
    }

    async fn look_up(
        &self,
        reference: &str,
        login: Option<&RegistryLogin>,
    ) -> Result<ImagePin, ImageError> {
        let reference = self.0.rules.check(reference)?;
        let credentials = login.map(credentials);
        let found = self.0.puller.look_up(&reference, credentials.as_ref()).await;
        let found = found.map_err(|bad| trouble_of(&reference.to_string(), &bad))?;
        let digest = found.manifest();
        let pin = digest.as_str().parse().map_err(|bad: tarn_types::ImageDigestError| {
            trouble(&reference.to_string(), PullTrouble::Unusable, bad.to_string())
        })?;
        let source = Some(reference.pinned(digest.clone()).to_string());
        Ok(ImagePin { digest: pin, source })
    }

    fn is_here(&self, digest: &ImageDigest) -> bool {
        self.0.shelf.has(digest)
    }

    async fn pull(&self, pin: &ImagePin, login: Option<&RegistryLogin>) -> Result<(), ImageError> {
        self.0.holds.note(&pin.digest);
        if self.0.shelf.has(&pin.digest) {
            return Ok(());
        }
        self.0.join_pull(pin, login).await
    }

    async fn import(&self, file: &Path, choose: Option<&str>) -> Result<ImagePin, ImageError> {
        let digest = self.0.import(file, choose).await?;
        Ok(ImagePin { digest, source: None })
    }

    async fn stored(&self) -> Vec<StoredImage> {
        let mut stored = self.0.pulls.list();
        stored.extend(self.0.shelf.list());
        stored
    }

    fn holds(&self) -> &ImageHolds {
        &self.0.holds
    }

    async fn remove(&self, digest: &ImageDigest, mark: u64) -> Result<Removal, ImageError> {
        let (shared, digest) = (Arc::clone(&self.0), digest.clone());
        let removing = self.0.tasks.spawn_blocking(move || {
            let moved = shared.holds.if_free(&digest, mark, || shared.shelf.discard(&digest));
            let removal = match moved {
                None => Ok(Removal::Needed),
                Some(Ok(true)) => Ok(Removal::Done),
                Some(Ok(false)) => Ok(Removal::Absent),
                Some(Err(bad)) => Err(trouble(digest.as_str(), PullTrouble::Internal, chain(&bad))),
            };
            shared.shelf.empty_trash();
            removal
        });
        removing.await.unwrap_or_else(|lost| {
            Err(trouble("to be removed", PullTrouble::Internal, lost.to_string()))
        })
    }

    async fn is_short(&self) -> bool {
        self.0.is_short().await
    }

    async fn has_remains(&self) -> bool {
        !self.0.remains().await.is_empty()
    }

    async fn forget_pulls(&self, needed: &BTreeSet<ImageDigest>) {
        let mut remains = self.0.remains().await;
        remains.retain(|digest| !needed.contains(digest));
        let shared = Arc::clone(&self.0);
        let removing = self.0.tasks.spawn_blocking(move || {
            for digest in &remains {
                shared.pulls.if_idle(digest, || shared.shelf.bin_work(digest));
            }
            shared.shelf.empty_trash();
        });
        // It says itself what it could not remove.
        drop(removing.await);
    }
}

// === impl Shared ===

impl Shared {
    fn template(&self, digest: &ImageDigest) -> Option<Template> {
        let now = self.clock.now();
        let (template, note) = self.shelf.take(digest, now)?;
        if let Some(note) = note {
            self.tasks.spawn_blocking(move || note.write());
        }
        Some(template)
    }

    async fn free(&self) -> Option<u64> {
        let dir = self.shelf.dir().to_owned();
        let look = self.tasks.spawn_blocking(move || rustix::fs::statvfs(&dir));
        let stat = look.await.ok()?.ok()?;
        Some(rules::usable(
            stat.f_bavail.saturating_mul(stat.f_frsize),
            stat.f_files,
            stat.f_favail,
        ))
    }

    async fn is_short(&self) -> bool {
        let enough = self.rules.reserve.bytes().saturating_mul(2);
        self.free().await.is_some_and(|free| free < enough)
    }

    /// Returns the images of which something was fetched, too long ago for anybody to go on.
    async fn remains(&self) -> Vec<ImageDigest> {
        let patience = if self.is_short().await { 0 } else { shelf::WORK_KEPT_MS };
        let before = tarn_types::UnixMillis(self.clock.now().0.saturating_sub(patience));
        let mut remains = self.shelf.works_before(before);
        remains.retain(|digest| !self.pulls.has(digest));
        remains
    }
}
