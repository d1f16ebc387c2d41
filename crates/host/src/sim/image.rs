//! Images that exist by name alone, and a registry in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_types::{
    ByteSize, ImageConfig, ImageDigest, ImageName, ImagePin, RegistryLogin, UnixMillis,
};
use tokio::sync::watch;

use crate::{ImageError, ImageHolds, Images, PullTrouble, Removal, StoredImage, Template};

/// Stock images that exist by name, and others that a simulated registry has.
#[derive(Debug)]
pub struct SimImages {
    names: Vec<ImageName>,
    registry: Mutex<BTreeMap<String, Offer>>,
    here: Mutex<BTreeMap<ImageDigest, String>>,
    holds: ImageHolds,
    /// Whether pulls come to an end.
    flowing: watch::Sender<bool>,
    pulls: Mutex<usize>,
    /// How often the registry was asked.
    asked: Mutex<usize>,
    unreachable: Mutex<bool>,
    /// Whether the registry says what a reference means.
    answering: watch::Sender<bool>,
}

#[derive(Debug, Clone)]
struct Offer {
    digest: ImageDigest,
    /// Who may have it; `None` = anybody.
    login: Option<RegistryLogin>,
    /// Whether it comes when it is pulled.
    comes: bool,
}

// === impl SimImages ===

impl SimImages {
    /// Makes a set of images; the first is the default.
    ///
    /// # Panics
    /// Panics when `names` is empty or holds a name that is not one: it is written in a test.
    #[must_use]
    pub fn new(names: &[&str]) -> Self {
        let names: Vec<_> = names
            .iter()
            .map(|name| name.parse().expect("a simulated image has a good name"))
            .collect();
        assert!(!names.is_empty(), "a simulated host has at least one image");
        Self {
            names,
            registry: Mutex::default(),
            here: Mutex::default(),
            holds: ImageHolds::default(),
            flowing: watch::Sender::new(true),
            pulls: Mutex::default(),
            asked: Mutex::default(),
            unreachable: Mutex::default(),
            answering: watch::Sender::new(true),
        }
    }

    /// Has the registry offer an image, to anybody or to those with a login.
    pub fn offer(&self, reference: &str, digest: &ImageDigest, login: Option<RegistryLogin>) {
        let offer = Offer { digest: digest.clone(), login, comes: true };
        self.registry.lock().insert(reference.to_owned(), offer);
    }

    /// Has pulls of what is offered under a reference fail.
    pub fn spoil(&self, reference: &str) {
        if let Some(offer) = self.registry.lock().get_mut(reference) {
            offer.comes = false;
        }
    }

    /// Has the registry offer nothing any more.
    pub fn close_registry(&self) {
        self.registry.lock().clear();
    }

    /// Holds pulls up, or lets them go on.
    pub fn set_flowing(&self, flowing: bool) {
        self.flowing.send_replace(flowing);
    }

    /// Cuts the registry off, or lets it be reached again.
    pub fn set_reachable(&self, reachable: bool) {
        *self.unreachable.lock() = !reachable;
    }

    /// Has the registry answer nobody who asks what a reference means, or all who wait.
    pub fn set_answering(&self, answering: bool) {
        self.answering.send_replace(answering);
    }

    /// Returns how often the registry was asked what a reference means.
    pub fn asked(&self) -> usize {
        *self.asked.lock()
    }

    /// Returns how many images were brought here by pulls.
    pub fn pulled(&self) -> usize {
        *self.pulls.lock()
    }

    fn offered(&self, reference: &str, login: Option<&RegistryLogin>) -> Result<Offer, ImageError> {
        if *self.unreachable.lock() {
            return Err(trouble(reference, PullTrouble::Unreachable, "nobody answers"));
        }
        let offer = self.registry.lock().get(reference).cloned();
        let offer = offer.filter(|offer| offer.login.is_none() || offer.login.as_ref() == login);
        offer.ok_or_else(|| trouble(reference, PullTrouble::NotFound, "the registry has none"))
    }
}

#[async_trait]
impl Images for SimImages {
    async fn resolve(&self, name: &ImageName) -> Result<Template, ImageError> {
        if !self.names.contains(name) {
            return Err(ImageError::NotFound { name: name.clone() });
        }
        Ok(template(format!("sha256:{}", "0".repeat(64))))
    }

    async fn resolve_digest(&self, digest: &str, name: &ImageName) -> Result<Template, ImageError> {
        let stored = digest.parse().is_ok_and(|digest| self.here.lock().contains_key(&digest));
        if stored {
            return Ok(template(digest.to_owned()));
        }
        let template = self.resolve(name).await?;
        if template.digest == digest {
            return Ok(template);
        }
        Err(ImageError::NotFound { name: name.clone() })
    }

    async fn names(&self) -> Vec<ImageName> {
        let mut names = self.names.clone();
        names.sort();
        names
    }

    fn default_image(&self) -> ImageName {
        self.names[0].clone()
    }

    fn registry_of(&self, reference: &str) -> Result<String, ImageError> {
        match reference.split_once('/') {
            Some((host, _)) => Ok(host.to_owned()),
            None => Err(trouble(reference, PullTrouble::Refused, "it names no registry")),
        }
    }

    async fn look_up(
        &self,
        reference: &str,
        login: Option<&RegistryLogin>,
    ) -> Result<ImagePin, ImageError> {
        *self.asked.lock() += 1;
        drop(self.answering.subscribe().wait_for(|answering| *answering).await);
        let offer = self.offered(reference, login)?;
        Ok(ImagePin { digest: offer.digest, source: Some(reference.to_owned()) })
    }

    fn is_here(&self, digest: &ImageDigest) -> bool {
        self.here.lock().contains_key(digest)
    }

    async fn pull(&self, pin: &ImagePin, login: Option<&RegistryLogin>) -> Result<(), ImageError> {
        if self.is_here(&pin.digest) {
            return Ok(());
        }
        let Some(source) = &pin.source else {
            return Err(trouble(pin.digest.as_str(), PullTrouble::NotFound, "it was imported"));
        };
        let mut flowing = self.flowing.subscribe();
        drop(flowing.wait_for(|flowing| *flowing).await);
        let offer = self.offered(source, login)?;
        if !offer.comes {
            return Err(trouble(source, PullTrouble::Unusable, "it was spoilt"));
        }
        if self.here.lock().insert(pin.digest.clone(), source.clone()).is_none() {
            *self.pulls.lock() += 1;
        }
        Ok(())
    }

    async fn import(&self, file: &Path, _choose: Option<&str>) -> Result<ImagePin, ImageError> {
        let file = file.display().to_string();
        let digest = self.offered(&file, None)?.digest;
        self.here.lock().insert(digest.clone(), file);
        Ok(ImagePin { digest, source: None })
    }

    async fn stored(&self) -> Vec<StoredImage> {
        let here = self.here.lock();
        let stored = here.iter().map(|(digest, origin)| StoredImage {
            digest: digest.clone(),
            origin: origin.clone(),
            size: ByteSize::from_mib(1),
            used_at: UnixMillis(0),
            progress: None,
        });
        stored.collect()
    }

    fn holds(&self) -> &ImageHolds {
        &self.holds
    }

    async fn remove(&self, digest: &ImageDigest, mark: u64) -> Result<Removal, ImageError> {
        let removed = self.holds.if_free(digest, mark, || self.here.lock().remove(digest));
        Ok(match removed {
            None => Removal::Needed,
            Some(None) => Removal::Absent,
            Some(Some(_)) => Removal::Done,
        })
    }

    async fn is_short(&self) -> bool {
        false
    }

    async fn has_remains(&self) -> bool {
        false
    }

    async fn forget_pulls(&self, _needed: &BTreeSet<ImageDigest>) {}
}

fn template(digest: String) -> Template {
    Template { digest, root: PathBuf::from("/sim/template"), config: ImageConfig::default() }
}

fn trouble(image: &str, trouble: PullTrouble, reason: &str) -> ImageError {
    ImageError::Pull { image: image.to_owned(), trouble, reason: reason.to_owned() }
}
