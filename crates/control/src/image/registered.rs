//! Registered images: made, found, listed, deleted.
//!
//! An image is a filesystem snapshot, what counts of it, and a name (spec 06). That one row says so
//! is all there is to a registration, and that it is gone all there is to a deletion: a snapshot
//! that nobody is shown stays exactly as long as an image is made of it (or a pool, or a sandbox
//! that is pending), so a death at any moment leaves nothing half-done.
//!
//! Images are few and asked for by every create, so they are kept in memory, too.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tarn_lifecycle::ObjectStore;
use tarn_store::StoreError;
use tarn_types::{
    Archival, BootImage, ImageConfig, ImageFamily, ImageId, ImageName, ImageRecord, ProjectId,
    SnapshotId, SnapshotKind, SnapshotRecord, TemplateId, UnixMillis,
};

use super::{FoundImage, ImageTable, check_name};
use crate::{
    Control, ControlError, project::check_count, snapshot::SnapshotUse, text::check_config,
};

/// The longest text of a Dockerfile that is kept with its image, in bytes.
pub const DOCKERFILE_MAX: usize = 256 << 10;

/// The longest tag of a name.
const TAG_MAX: usize = 128;

/// How often an image is looked up anew when it changed meanwhile.
const ROUNDS: usize = 8;

/// What an image is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageAsk {
    /// Who makes it.
    pub project: ProjectId,
    /// Whether its name is to count in every project that has none of its own like it.
    pub global: bool,
    /// Its name.
    pub name: ImageName,
    /// Through which family it is made.
    pub family: ImageFamily,
    /// What counts of it when it runs; `None` = what counts of what its files were taken of.
    pub config: Option<ImageConfig>,
    /// The text that it is made by.
    pub dockerfile: Option<String>,
}

/// What a caller calls an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageKey {
    /// By its name.
    Name(ImageName),
    /// By its id.
    Id(ImageId),
}

/// A place in a list of images, which is ordered by creation time, then id, newest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImagePlace {
    /// When it was made.
    pub created_at: UnixMillis,
    /// Its id.
    pub id: ImageId,
}

/// A page of images, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePage {
    /// The images.
    pub items: Vec<ImageRecord>,
    /// Where the next page begins, exclusive; `None` at the oldest.
    pub next: Option<ImagePlace>,
}

/// The files that an image is made of, or is to be. They stay until this is dropped.
pub struct ImageFiles {
    snapshot: SnapshotRecord,
    _used: SnapshotUse,
}

/// Every registered image, and what finds it.
#[derive(Debug, Default)]
pub(super) struct Registered {
    by_id: BTreeMap<ImageId, Arc<ImageRecord>>,
    by_name: HashMap<(Option<ProjectId>, ImageName), ImageId>,
    by_snapshot: HashMap<SnapshotId, usize>,
}

// === impl ImageFiles ===

impl std::fmt::Debug for ImageFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageFiles").field("snapshot", &self.snapshot.id).finish_non_exhaustive()
    }
}

impl ImageFiles {
    pub(crate) fn new(snapshot: SnapshotRecord, used: SnapshotUse) -> Self {
        Self { snapshot, _used: used }
    }

    /// Returns the snapshot.
    #[must_use]
    pub fn snapshot(&self) -> &SnapshotRecord {
        &self.snapshot
    }
}

// === impl Registered ===

impl Registered {
    /// Adds an image, in the place of one of its id.
    pub(super) fn insert(&mut self, record: ImageRecord) {
        self.remove(&record.id);
        *self.by_snapshot.entry(record.snapshot.clone()).or_default() += 1;
        self.by_name.insert((record.scope().cloned(), record.name.clone()), record.id.clone());
        self.by_id.insert(record.id.clone(), Arc::new(record));
    }

    fn remove(&mut self, id: &ImageId) {
        let Some(record) = self.by_id.remove(id) else { return };
        self.by_name.remove(&(record.scope().cloned(), record.name.clone()));
        if let Some(count) = self.by_snapshot.get_mut(&record.snapshot) {
            *count -= 1;
            if *count == 0 {
                self.by_snapshot.remove(&record.snapshot);
            }
        }
    }

    pub(super) fn find(
        &self,
        scope: Option<&ProjectId>,
        name: &ImageName,
    ) -> Option<Arc<ImageRecord>> {
        if self.by_id.is_empty() {
            return None;
        }
        let id = self.by_name.get(&(scope.cloned(), in_lower_case(name)))?;
        self.by_id.get(id).cloned()
    }
}

// === impl ImageTable ===

impl ImageTable {
    /// Says whether a registered image is made of a snapshot.
    pub(crate) fn is_made_of(&self, snapshot: &SnapshotId) -> bool {
        self.registered.read().by_snapshot.contains_key(snapshot)
    }

    /// Returns what registered images are made of.
    pub(crate) fn snapshots(&self) -> Vec<SnapshotId> {
        self.registered.read().by_snapshot.keys().cloned().collect()
    }

    /// Finds an image by its id.
    pub(super) fn by_id(&self, id: &ImageId) -> Option<Arc<ImageRecord>> {
        self.registered.read().by_id.get(id).cloned()
    }

    /// Finds an image by its id that a project may use.
    pub(crate) fn visible(&self, project: &ProjectId, id: &ImageId) -> Option<Arc<ImageRecord>> {
        let registered = self.registered.read();
        let found = registered.by_id.get(id).filter(|it| it.global || it.project == *project);
        found.cloned()
    }
}

// === impl Control ===

impl Control {
    /// Says whether an image could be made, before there is anything to make it of.
    ///
    /// # Errors
    /// Fails when the name cannot be one, or the project may not do that.
    pub async fn image_check(&self, ask: &ImageAsk) -> Result<(), ControlError> {
        let name = registered_name(ask)?;
        if ask.global {
            self.check_publisher(&ask.project, &name).await?;
        }
        self.check_count(ask, &name)
    }

    /// Makes an image of files that were captured for it, in the place of one of that name.
    ///
    /// # Errors
    /// Fails when the name cannot be one or is another project's, or the project may not do that.
    pub async fn image_publish(
        &self,
        ask: ImageAsk,
        files: ImageFiles,
    ) -> Result<ImageRecord, ControlError> {
        let control = self.clone();
        self.finish("image_publish", async move { control.publish(ask, &files).await }).await
    }

    /// Makes an image of a snapshot that the project has. It is the project's still, and when that
    /// deletes it, it stays for the image.
    ///
    /// # Errors
    /// Fails as [`Control::image_publish`] does, and when there is no such snapshot, it is not
    /// ready, or it holds memory.
    pub async fn image_register(
        &self,
        ask: ImageAsk,
        snapshot: &SnapshotId,
    ) -> Result<ImageRecord, ControlError> {
        let used = self.use_snapshot(snapshot);
        let record = self.snapshot_fetch(&ask.project, snapshot).await?;
        self.image_publish(ask, ImageFiles::new(record, used)).await
    }

    /// Returns an image that the project may use.
    ///
    /// # Errors
    /// Fails when it sees none of that name or id.
    pub fn image_fetch(
        &self,
        project: &ProjectId,
        key: &ImageKey,
    ) -> Result<ImageRecord, ControlError> {
        let images = &self.0.images;
        let found = match key {
            ImageKey::Id(id) => images.visible(project, id),
            ImageKey::Name(name) => {
                let registered = images.registered.read();
                registered.find(Some(project), name).or_else(|| registered.find(None, name))
            }
        };
        found.map(|record| record.as_ref().clone()).ok_or_else(|| key.unknown())
    }

    /// Returns a page of the images that a project made through a family.
    #[must_use]
    pub fn image_page(
        &self,
        project: &ProjectId,
        family: ImageFamily,
        after: Option<&ImagePlace>,
        limit: usize,
    ) -> ImagePage {
        let registered = self.0.images.registered.read();
        let theirs = |it: &&Arc<ImageRecord>| it.project == *project && it.family == family;
        let mut all: Vec<_> = registered.by_id.values().filter(theirs).collect();
        all.sort_by_key(|record| std::cmp::Reverse(place(record)));
        all.retain(|record| after.is_none_or(|after| place(record) < *after));
        let more = all.len() > limit;
        all.truncate(limit);
        ImagePage {
            next: all.last().filter(|_| more).map(|record| place(record)),
            items: all.into_iter().map(|record| record.as_ref().clone()).collect(),
        }
    }

    /// Returns every registered image of every project, by name, and how many sandboxes there are
    /// of each that are not terminated.
    #[must_use]
    pub fn image_registered(&self) -> Vec<(ImageRecord, usize)> {
        let mut counts: HashMap<ImageId, usize> = HashMap::new();
        for record in self.0.table.all().iter().map(|entry| entry.now().record) {
            if let Some(registered) = &record.asked.image.registered {
                *counts.entry(registered.id.clone()).or_default() += 1;
            }
        }
        let registered = self.0.images.registered.read();
        let count = |it: &Arc<ImageRecord>| counts.get(&it.id).copied().unwrap_or_default();
        let all = registered.by_id.values().map(|it| (it.as_ref().clone(), count(it)));
        let mut all: Vec<_> = all.collect();
        all.sort_by(|(a, _), (b, _)| (&a.name, a.scope()).cmp(&(&b.name, b.scope())));
        all
    }

    /// Deletes an image that the project made. What was made from it is not affected.
    ///
    /// # Errors
    /// Fails when it made none of that name or id.
    pub async fn image_delete(
        &self,
        project: &ProjectId,
        key: &ImageKey,
    ) -> Result<(), ControlError> {
        let (control, project, key) = (self.clone(), project.clone(), key.clone());
        self.finish("image_delete", async move {
            let images = &control.0.images;
            let _turn = images.turn.lock().await;
            let record = control.image_fetch(&project, &key)?;
            if record.project != project {
                return Err(key.unknown());
            }
            match control.0.parts.store.image_delete(&record.id).await {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(failed) => return Err(failed.into()),
            }
            images.registered.write().remove(&record.id);
            control.0.snapshots.notify_one();
            let ImageRecord { id, name, .. } = &record;
            tracing::info!(image.id = %id, image = %name, project.id = %project, "image deleted");
            Ok(())
        })
        .await
    }

    /// Finds the image that a create names by its id.
    pub(crate) fn find_template(
        &self,
        project: &ProjectId,
        text: Option<&str>,
    ) -> Result<Option<(TemplateId, ImageName)>, ControlError> {
        let Some(text) = text else { return Ok(None) };
        let unknown = || ControlError::TemplateNotFound(text.chars().take(80).collect());
        let id: TemplateId = text.parse().map_err(|_no_id| unknown())?;
        let record = self.0.images.visible(project, &id.image).ok_or_else(unknown)?;
        Ok(Some((id, record.name.clone())))
    }

    /// Finds the image that a create names by its id, ready to be started from.
    pub(crate) async fn find_image_of(
        &self,
        project: &ProjectId,
        id: &TemplateId,
        name: &ImageName,
    ) -> Result<FoundImage, ControlError> {
        let found = self.open_image(name, || self.0.images.visible(project, &id.image)).await?;
        found.ok_or_else(|| ControlError::TemplateNotFound(id.to_string()))
    }

    /// Takes hold of a registered image, looked up again should it change meanwhile; `None` if
    /// there is none.
    pub(super) async fn open_image(
        &self,
        name: &ImageName,
        look_up: impl Fn() -> Option<Arc<ImageRecord>>,
    ) -> Result<Option<FoundImage>, ControlError> {
        for _ in 0..ROUNDS {
            let Some(record) = look_up() else { return Ok(None) };
            let used = self.use_snapshot(&record.snapshot);
            // From here on its files stay, if it still is made of them.
            if !self.0.images.is_made_of(&record.snapshot) {
                continue;
            }
            let snapshot = match self.0.parts.store.snapshot_fetch(&record.snapshot).await {
                Ok(snapshot) => snapshot,
                Err(StoreError::NotFound { .. }) => {
                    let detail = format!("image {} is of no snapshot", record.id);
                    return Err(ControlError::Internal { detail });
                }
                Err(failed) => return Err(failed.into()),
            };
            if !snapshot.status.is_ready() {
                let why = snapshot.error.unwrap_or_default();
                let reason = format!("`{name}` cannot be used any more, make it again: {why}");
                return Err(ControlError::Invalid { field: "image", reason });
            }
            let image = BootImage {
                name: name.clone(),
                pin: snapshot.captured.image.pin.clone(),
                registered: Some(Box::new(record.registered())),
            };
            let files = ImageFiles::new(snapshot, used);
            return Ok(Some(FoundImage::registered(image, files)));
        }
        let detail = format!("image `{name}` changed {ROUNDS} times while it was looked up");
        Err(ControlError::Unavailable { detail })
    }

    async fn publish(
        &self,
        ask: ImageAsk,
        files: &ImageFiles,
    ) -> Result<ImageRecord, ControlError> {
        let snapshot = files.snapshot();
        check_files(snapshot)?;
        let name = registered_name(&ask)?;
        if ask.global {
            self.check_publisher(&ask.project, &name).await?;
        }
        if ask.dockerfile.as_ref().is_some_and(|text| text.len() > DOCKERFILE_MAX) {
            let reason = format!("at most {DOCKERFILE_MAX} bytes of it are kept; shorten it");
            return Err(ControlError::Invalid { field: "dockerfile", reason });
        }
        ask.config.as_ref().map_or(Ok(()), check_config)?;
        let _turn = self.0.images.turn.lock().await;
        self.check_count(&ask, &name)?;
        let now = self.0.parts.clock.now();
        let record = ImageRecord {
            id: ImageId::from_random(self.0.parts.entropy.bytes()),
            project: ask.project,
            global: ask.global,
            name,
            family: ask.family,
            snapshot: snapshot.id.clone(),
            sandbox: snapshot.sandbox.clone(),
            config: ask.config.or_else(|| snapshot.captured.image.config().cloned()),
            dockerfile: ask.dockerfile,
            size: snapshot.facts.map_or_else(Default::default, |facts| facts.layer),
            disk: snapshot.captured.resources.disk,
            created_at: now,
            updated_at: now,
        };
        let stored = match self.0.parts.store.image_put(&record).await {
            Ok(stored) => stored,
            Err(StoreError::Exists { .. }) => {
                return Err(ControlError::ImageNameTaken(record.name));
            }
            Err(failed) => return Err(failed.into()),
        };
        self.0.images.registered.write().insert(stored.clone());
        self.0.images.names.write().remove(&(stored.scope().cloned(), stored.name.clone()));
        tracing::info!(
            image.id = %stored.id, image = %stored.name, project.id = %stored.project,
            snapshot.id = %stored.snapshot, global = stored.global, "image registered"
        );
        // Another may have had the name, and files that nothing needs any more.
        self.0.snapshots.notify_one();
        self.0.images.unneeded.notify_one();
        let there = self.object_store(&snapshot.node) == ObjectStore::There;
        if there && snapshot.archive == Archival::Nothing {
            // What fails here is done when the node is attached the next time.
            if let Err(failed) = self.archive(snapshot).await {
                let detail = failed.detail().unwrap_or_default();
                tracing::warn!(snapshot.id = %snapshot.id, error = %failed, detail, "an image's files are not in the object store yet");
            }
        }
        Ok(stored)
    }

    /// Refuses a name for all to who may give none, and names that are promised to mean others.
    async fn check_publisher(
        &self,
        project: &ProjectId,
        name: &ImageName,
    ) -> Result<(), ControlError> {
        match self.0.parts.store.project_fetch(project).await {
            Ok(project) if self.0.config.image_publishers.contains(&project.name) => {}
            Ok(_) | Err(StoreError::NotFound { .. }) => return Err(ControlError::NoPublisher),
            Err(failed) => return Err(failed.into()),
        }
        if name.as_str().starts_with(super::resolve::STOCK) {
            let reason = format!(
                "names that begin with `{}` are those of stock images in all projects",
                super::resolve::STOCK
            );
            return Err(ControlError::Invalid { field: "name", reason });
        }
        Ok(())
    }

    fn check_count(&self, ask: &ImageAsk, name: &ImageName) -> Result<(), ControlError> {
        let registered = self.0.images.registered.read();
        let scope = (!ask.global).then_some(&ask.project);
        let replaces = registered.find(scope, name).is_some();
        let theirs = registered.by_id.values().filter(|it| it.project == ask.project).count();
        let most = self.0.config.images_per_project;
        let kind = ("registered images", "images.per_project");
        check_count(kind, theirs, usize::from(!replaces), most)
    }
}

// === impl ImageKey ===

impl ImageKey {
    fn unknown(&self) -> ControlError {
        ControlError::NoSuchImage(match self {
            Self::Name(name) => name.to_string(),
            Self::Id(id) => id.to_string(),
        })
    }
}

fn place(record: &ImageRecord) -> ImagePlace {
    ImagePlace { created_at: record.created_at, id: record.id.clone() }
}

fn check_files(snapshot: &SnapshotRecord) -> Result<(), ControlError> {
    if !snapshot.status.is_ready() {
        return Err(ControlError::not_ready(snapshot));
    }
    match snapshot.kind {
        SnapshotKind::Filesystem => Ok(()),
        SnapshotKind::Memory => Err(ControlError::Invalid {
            field: "snapshotId",
            reason: format!(
                "{} holds memory, and an image is files alone; take a `filesystem` snapshot",
                snapshot.id
            ),
        }),
    }
}

/// Returns the name as images have it. What is made through the CAS family keeps to its grammar
/// (spec 06 §2), the other family's names are any that an image can be asked for by.
fn registered_name(ask: &ImageAsk) -> Result<ImageName, ControlError> {
    let name = in_lower_case(&ask.name);
    check_name(&name)?;
    if ask.family == ImageFamily::Cas && !keeps_to_grammar(name.as_str()) {
        let reason = format!(
            "`{name}` is no image name: parts of a-z and 0-9 with single `.`, `_` or `-` within, \
             `/` between them, and a `:tag` of at most {TAG_MAX} characters"
        );
        return Err(ControlError::Invalid { field: "name", reason });
    }
    Ok(name)
}

fn in_lower_case(name: &ImageName) -> ImageName {
    let text = name.as_str();
    if !text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return name.clone();
    }
    text.to_ascii_lowercase().parse().unwrap_or_else(|_never| name.clone())
}

fn keeps_to_grammar(name: &str) -> bool {
    let (path, tag) = match name.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (name, None),
    };
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |part: &str| {
        let words = part.split(['.', '_', '-']);
        words.into_iter().all(|word| !word.is_empty() && word.chars().all(alphanumeric))
    };
    let good_tag = |tag: &str| {
        let rest = |c: char| alphanumeric(c) || "._-".contains(c);
        let first = tag.chars().next().is_some_and(|c| alphanumeric(c) || c == '_');
        first && tag.len() <= TAG_MAX && tag.chars().all(rest)
    };
    path.split('/').all(part) && tag.is_none_or(good_tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_cas_family_keep_to_its_grammar() {
        let long = "a".repeat(TAG_MAX);
        for (name, good) in [
            ("app", true),
            ("team/app.v1-x_y", true),
            ("app:v1.2-rc_3", true),
            (&format!("app:{long}"), true),
            (&format!("app:{long}a"), false),
            ("app:", false),
            ("app:-x", false),
            ("a--b", false),
            ("a._b", false),
            ("-a", false),
            ("a-", false),
            ("a//b", false),
            ("/a", false),
            ("a/", false),
            ("h:5000/a", false),
        ] {
            assert_eq!(keeps_to_grammar(name), good, "{name}");
        }
    }

    #[test]
    fn names_are_kept_in_lower_case() {
        let name: ImageName = "Team/App:V1".parse().expect("a name");
        assert_eq!(in_lower_case(&name).as_str(), "team/app:v1");
    }
}
