//! Images that are no stock images: which one a name means, the names given to them, and what is
//! done about them by the operator.
//!
//! What a name means is decided once, when it is asked for; from then on the digest counts. The
//! names are few and asked for by every create, so they are kept in memory.

mod awaited;
mod collect;
mod login;
mod registered;
mod resolve;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

pub use self::awaited::AwaitedSandbox;
pub use self::registered::{DOCKERFILE_MAX, ImageAsk, ImageFiles, ImageKey, ImagePage, ImagePlace};
pub(crate) use self::resolve::FoundImage;
use self::{awaited::AwaitedImages, registered::Registered};
use parking_lot::{Mutex, RwLock};
use tarn_host::{ImageError, StoredImage};
use tarn_store::StoreError;
use tarn_types::{
    ImageDigest, ImageName, ImageNameRecord, ImagePin, ImageRecord, ProjectId, SandboxRecord,
    SandboxStatus, TemplateId,
};
use tokio::{sync::Notify, time::Instant};

use crate::{Control, ControlError};

/// What control knows of images.
#[derive(Debug, Default)]
pub(crate) struct ImageTable {
    names: RwLock<BTreeMap<NameKey, ImageNameRecord>>,
    registered: RwLock<Registered>,
    /// Held while a name is given or taken, so that store and memory agree.
    turn: tokio::sync::Mutex<()>,
    /// Counts how often what registries said came to count no more, of whichever project.
    forgets: AtomicU64,
    /// What registries said lately.
    answers: Mutex<HashMap<AskKey, Answer>>,
    /// Held while a registry is asked, so that those who come meanwhile share its answer.
    asking: Mutex<HashMap<AskKey, Turn>>,
    /// What builds await sandboxes of.
    pub(crate) awaited: AwaitedImages,
    /// Rung when there may be an image to remove.
    pub(crate) unneeded: Notify,
    /// What an operator wants gone as soon as nothing needs it.
    unwanted: Mutex<Vec<ImageDigest>>,
}

type NameKey = (Option<ProjectId>, ImageName);
type AskKey = (ProjectId, ImageName);
/// Holds what the last one who had it was told.
type Turn = Arc<tokio::sync::Mutex<Option<Told>>>;

/// What a registry said that a reference means.
#[derive(Debug, Clone)]
struct Answer {
    pin: ImagePin,
    at: Instant,
    /// When it was asked since, and did not answer.
    in_vain: Option<Instant>,
}

/// What somebody was told who asked a registry while others waited.
#[derive(Debug)]
struct Told {
    at: Instant,
    /// How often answers had been forgotten when it was asked.
    forgets: u64,
    said: Result<ImagePin, ImageError>,
}

/// What has a name.
#[derive(Debug, Clone)]
enum Named {
    /// A pulled or imported image.
    Pulled(ImagePin),
    /// A registered one.
    Registered(Arc<ImageRecord>),
}

/// A pulled or imported image, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageView {
    /// The image.
    pub stored: StoredImage,
    /// Its names.
    pub names: Vec<ImageNameRecord>,
    /// How many sandboxes there are of it that are not terminated.
    pub sandboxes: usize,
}

/// What an operator calls an image that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageTarget {
    /// One name, of a project or for `None` of all.
    Name(Option<ProjectId>, ImageName),
    /// The image itself, by the first digits of its digest, with all its names.
    Digits(String),
}

// === impl ImageTable ===

impl ImageTable {
    pub(crate) fn new(names: Vec<ImageNameRecord>, registered: Vec<ImageRecord>) -> Self {
        let table = Self::default();
        for record in names {
            table.insert(record);
        }
        for record in registered {
            table.registered.write().insert(record);
        }
        table
    }

    fn insert(&self, record: ImageNameRecord) {
        let key = (record.project.clone(), record.name.clone());
        self.names.write().insert(key, record);
    }

    /// Finds what a project means by a name: its own comes before one that counts in all.
    fn find(&self, project: &ProjectId, name: &ImageName) -> Option<Named> {
        let own = self.find_in(Some(project), name);
        own.or_else(|| self.find_in(None, name))
    }

    /// Finds the image that has a name, of a project or for `None` of all; never two have it.
    fn find_in(&self, scope: Option<&ProjectId>, name: &ImageName) -> Option<Named> {
        if let Some(record) = self.registered.read().find(scope, name) {
            return Some(Named::Registered(record));
        }
        let names = self.names.read();
        if names.is_empty() {
            return None;
        }
        let record = names.get(&(scope.cloned(), name.clone()))?;
        Some(Named::Pulled(record.pin.clone()))
    }

    fn all(&self) -> Vec<ImageNameRecord> {
        self.names.read().values().cloned().collect()
    }
}

// === impl Control ===

impl Control {
    /// Pulls an image and gives it a name, which is its reference unless another is said.
    ///
    /// # Errors
    /// Fails when the name cannot be one, or the image does not come.
    pub async fn image_pull(
        &self,
        project: Option<&ProjectId>,
        reference: &ImageName,
        name: Option<&ImageName>,
    ) -> Result<ImageNameRecord, ControlError> {
        let name = name.unwrap_or(reference).clone();
        check_name(&name)?;
        let (control, project, reference) = (self.clone(), project.cloned(), reference.clone());
        self.finish("image_pull", async move {
            let text = reference.as_str();
            let login = match &project {
                Some(project) => control.login_for(project, text).await?,
                None => None,
            };
            let images = &control.0.parts.images;
            let pin = images.look_up(text, login.as_ref()).await;
            let pin = pin.map_err(|bad| refusal(&reference, bad))?;
            let _hold = images.holds().hold(&pin.digest);
            let pulled = images.pull(&pin, login.as_ref()).await;
            pulled.map_err(|bad| refusal(&reference, bad))?;
            control.give_name(project, name, pin).await
        })
        .await
    }

    /// Takes an image out of a file on the server's host and gives it a name.
    ///
    /// # Errors
    /// Fails when the name cannot be one, or the file holds no image that can be used.
    pub async fn image_import(
        &self,
        project: Option<&ProjectId>,
        file: &Path,
        choose: Option<&str>,
        name: &ImageName,
    ) -> Result<ImageNameRecord, ControlError> {
        check_name(name)?;
        let (control, project, name) = (self.clone(), project.cloned(), name.clone());
        let (file, choose) = (file.to_owned(), choose.map(str::to_owned));
        self.finish("image_import", async move {
            let images = &control.0.parts.images;
            let pin = images.import(&file, choose.as_deref()).await;
            let pin = pin.map_err(|bad| refusal(&name, bad))?;
            let _hold = images.holds().hold(&pin.digest);
            control.give_name(project, name, pin).await
        })
        .await
    }

    /// Returns the pulled and imported images, those on their way, and names whose image is gone.
    pub async fn image_list(&self) -> Vec<ImageView> {
        let mut views: BTreeMap<ImageDigest, ImageView> = BTreeMap::new();
        for stored in self.0.parts.images.stored().await {
            let view = ImageView { stored, names: Vec::new(), sandboxes: 0 };
            views.insert(view.stored.digest.clone(), view);
        }
        for record in self.0.images.all() {
            if let Some(view) = views.get_mut(&record.pin.digest) {
                view.names.push(record);
            }
        }
        for record in self.0.table.all().iter().map(|entry| entry.now().record) {
            if let Some(digest) = live_image(&record)
                && let Some(view) = views.get_mut(digest)
            {
                view.sandboxes += 1;
            }
        }
        views.into_values().collect()
    }

    /// Takes a name, or all names of an image, away. The image goes when nothing needs it.
    /// Returns the names that were taken of such images; a registered one is deleted.
    ///
    /// # Errors
    /// Fails when there is no such name or image, or several begin with the same digits.
    pub async fn image_forget(
        &self,
        target: &ImageTarget,
    ) -> Result<Vec<ImageNameRecord>, ControlError> {
        if let Some(record) = self.find_target(target) {
            self.image_delete(&record.project, &ImageKey::Id(record.id.clone())).await?;
            return Ok(Vec::new());
        }
        let names = self.0.images.all();
        let (digest, taken): (ImageDigest, Vec<_>) = match target {
            ImageTarget::Name(project, name) => {
                let same =
                    |record: &ImageNameRecord| record.project == *project && record.name == *name;
                let found = names.into_iter().find(same);
                let found = found.ok_or(ControlError::NotFound(
                    "image name; `tarn image ls` shows those there are",
                ))?;
                (found.pin.digest.clone(), vec![found])
            }
            ImageTarget::Digits(digits) => {
                let digest = self.find_digits(digits).await?;
                let of = |record: &ImageNameRecord| record.pin.digest == digest;
                let taken = names.into_iter().filter(of).collect();
                (digest, taken)
            }
        };
        let (control, records) = (self.clone(), taken.clone());
        self.finish("image_forget", async move {
            let _turn = control.0.images.turn.lock().await;
            for ImageNameRecord { project, name, .. } in records {
                let deleted = control.0.parts.store.image_name_delete(project.as_ref(), &name);
                match deleted.await {
                    Ok(()) | Err(StoreError::NotFound { .. }) => {}
                    Err(failed) => return Err(failed.into()),
                }
                control.0.images.names.write().remove(&(project, name));
            }
            control.0.images.answers.lock().retain(|_, answer| answer.pin.digest != digest);
            control.0.images.unwanted.lock().push(digest);
            control.collect_images().await;
            Ok(())
        })
        .await?;
        Ok(taken)
    }

    /// Finds the registered image that an operator means, by its name or its id.
    fn find_target(&self, target: &ImageTarget) -> Option<Arc<ImageRecord>> {
        let ImageTarget::Name(scope, name) = target else { return None };
        if let Ok(id) = name.as_str().parse::<TemplateId>() {
            return self.0.images.by_id(&id.image);
        }
        match self.0.images.find_in(scope.as_ref(), name)? {
            Named::Registered(record) => Some(record),
            Named::Pulled(_) => None,
        }
    }

    async fn find_digits(&self, digits: &str) -> Result<ImageDigest, ControlError> {
        let stored = self.0.parts.images.stored().await;
        let begins = |digest: &ImageDigest| {
            digest.as_str() == digits
                || digest.as_str().split_once(':').is_some_and(|(_, hex)| hex.starts_with(digits))
        };
        let named = self.0.images.all().into_iter().map(|record| record.pin.digest);
        let all = stored.into_iter().map(|stored| stored.digest).chain(named);
        let mut found: Vec<_> = all.filter(begins).collect();
        found.sort();
        found.dedup();
        match (found.pop(), found.is_empty()) {
            (Some(digest), true) => Ok(digest),
            (Some(_), false) => Err(ControlError::Invalid {
                field: "digest",
                reason: "several images begin like that; give more digits".to_owned(),
            }),
            (None, _) => {
                Err(ControlError::NotFound("image; `tarn image ls` shows those there are"))
            }
        }
    }

    async fn give_name(
        &self,
        project: Option<ProjectId>,
        name: ImageName,
        pin: ImagePin,
    ) -> Result<ImageNameRecord, ControlError> {
        let _turn = self.0.images.turn.lock().await;
        if let Some(Named::Registered(_)) = self.0.images.find_in(project.as_ref(), &name) {
            let reason = format!(
                "`{name}` is the name of a registered image; `tarn image rm {name}` deletes that, \
                 or choose another name"
            );
            return Err(ControlError::Invalid { field: "name", reason });
        }
        let now = self.0.parts.clock.now();
        let record = ImageNameRecord { project, name, pin, created_at: now, updated_at: now };
        let stored = self.0.parts.store.image_name_put(&record).await?;
        self.0.images.unwanted.lock().retain(|digest| *digest != stored.pin.digest);
        self.0.images.insert(stored.clone());
        tracing::info!(image = %stored.name, digest = %stored.pin.digest, "an image was named");
        Ok(stored)
    }
}

/// Returns the image of a sandbox that is not terminated, if it is no stock image.
fn live_image(record: &SandboxRecord) -> Option<&ImageDigest> {
    let ended = tarn_lifecycle::status(record) == SandboxStatus::Terminated;
    record.asked.image.pin.as_ref().filter(|_| !ended).map(|pin| &pin.digest)
}

/// Refuses names that mean something else (spec 06 §2).
fn check_name(name: &ImageName) -> Result<(), ControlError> {
    let text = name.as_str();
    let taken = ["image_", "sandbox_template_", "cas-v1:", "sha256:", "sha512:"];
    let reason = if let Some(prefix) = taken.iter().find(|prefix| text.starts_with(**prefix)) {
        format!("`{text}` begins with `{prefix}`, which ids do; choose another name")
    } else if text.contains('@') {
        format!("`{text}` holds a digest, so that it can name one image alone; give another name")
    } else if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        "64 hex digits look like an id; choose another name".to_owned()
    } else {
        return Ok(());
    };
    Err(ControlError::Invalid { field: "name", reason })
}

/// Says why an image that somebody named did not come.
pub(crate) fn refusal(name: &ImageName, bad: ImageError) -> ControlError {
    use tarn_host::PullTrouble;
    match bad {
        ImageError::Pull { trouble, image, reason } => match trouble {
            PullTrouble::Refused | PullTrouble::NotFound => {
                ControlError::ImageNotFound { name: name.clone(), tried: reason }
            }
            PullTrouble::Unusable => {
                ControlError::Invalid { field: "image", reason: format!("{image}: {reason}") }
            }
            PullTrouble::Unreachable | PullTrouble::NoRoom => {
                ControlError::ImageUnavailable { name: name.clone(), reason }
            }
            PullTrouble::Internal => {
                ControlError::Internal { detail: format!("image {image}: {reason}") }
            }
        },
        ImageError::NotFound { name } => {
            ControlError::ImageNotFound { name, tried: "nothing has that name".to_owned() }
        }
        ImageError::NotBuilt { name, command } => ControlError::ImageNotBuilt { name, command },
        unusable @ ImageError::Unusable { .. } => {
            ControlError::Internal { detail: unusable.to_string() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_something_else_are_refused() {
        let digits = "a".repeat(64);
        for (name, good) in [
            ("app", true),
            ("127.0.0.1:5000/team/app:V1", true),
            ("image_1", false),
            ("sandbox_template_1", false),
            ("cas-v1:0", false),
            (&format!("sha256:{digits}"), false),
            (&format!("app@sha256:{digits}"), false),
            (&digits, false),
        ] {
            let parsed = name.parse().expect("a name");
            assert_eq!(check_name(&parsed).is_ok(), good, "{name}");
        }
    }
}
