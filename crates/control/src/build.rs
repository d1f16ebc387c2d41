//! What builds of images need of the control plane: bases, sandboxes, snapshots that are kept as
//! what a step led to, and their records (spec 06 §2).
//!
//! How a build goes is the builder's to say; this is only what it may do, always within the
//! project that it belongs to.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use parking_lot::Mutex;
use tarn_lifecycle::{Event, status};
use tarn_node_api::Endpoint;
use tarn_scheduler::place;
use tarn_types::{
    BootImage, BuildId, BuildRecord, ImageConfig, ImageFamily, ImageName, ImagePin, ImageRecord,
    KeptStep, PortAccess, ProjectId, RegistryLogin, Resources, Restore, SandboxId, SandboxSpec,
    SandboxStatus, SnapshotId, SnapshotKind, UnixMillis,
};

use crate::{
    Control, ControlError, ImageAsk, ImageFiles,
    image::{FoundImage, refusal},
    sandbox::largest,
    snapshot::Shown,
};

/// How long a sandbox of a build may take to start, waiting for room included.
const START: Duration = Duration::from_secs(300);

/// How many steps of a project are kept at most, and for how long one that nothing uses.
const MOST_STEPS: usize = 256;
const KEEP_STEP_SECS: u64 = 7 * 24 * 3600;

/// What steps led to.
#[derive(Debug, Default)]
pub(crate) struct KeptSteps(Mutex<Steps>);

#[derive(Debug, Default)]
struct Steps {
    by_key: HashMap<(ProjectId, String), KeptStep>,
    snapshots: HashSet<SnapshotId>,
}

/// An image that a build begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildBase {
    /// Which one.
    pub image: BootImage,
    /// Names its files: equal ones are the same.
    pub identity: String,
    /// What it says about running it.
    pub config: ImageConfig,
    /// The user of the stock image below it, if it is made of one.
    pub stock_user: Option<String>,
}

/// A sandbox that a build asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildSandbox {
    /// The image that it begins with; `None` = the default one, or the one below the snapshot.
    pub image: Option<BootImage>,
    /// The files that it begins with, instead of an image's.
    pub snapshot: Option<SnapshotId>,
    /// What it has.
    pub resources: Resources,
    /// When it ends, whatever becomes of the build.
    pub timeout_secs: u64,
}

/// An image that a build made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishAsk {
    /// Whose it is.
    pub project: ProjectId,
    /// The name that it is to have.
    pub name: ImageName,
    /// Whether that name is to count in every project.
    pub global: bool,
    /// Through which family of the API it was asked for.
    pub family: ImageFamily,
    /// Its files.
    pub snapshot: SnapshotId,
    /// What counts of it when it runs.
    pub config: ImageConfig,
    /// The text that it was made by, if by one.
    pub dockerfile: Option<String>,
}

// === impl KeptSteps ===

impl KeptSteps {
    pub(crate) fn new(steps: Vec<KeptStep>) -> Self {
        let kept = Self::default();
        for step in steps {
            kept.insert(step);
        }
        kept
    }

    /// Says whether a snapshot is what a step led to.
    pub(crate) fn holds(&self, snapshot: &SnapshotId) -> bool {
        self.0.lock().snapshots.contains(snapshot)
    }

    fn insert(&self, step: KeptStep) -> Option<KeptStep> {
        let mut steps = self.0.lock();
        let snapshot = step.snapshot.clone();
        let old = steps.by_key.insert((step.project.clone(), step.key.clone()), step);
        if let Some(old) = &old {
            steps.snapshots.remove(&old.snapshot);
        }
        steps.snapshots.insert(snapshot);
        old
    }

    fn get(&self, project: &ProjectId, key: &str) -> Option<KeptStep> {
        self.0.lock().by_key.get(&(project.clone(), key.to_owned())).cloned()
    }

    fn remove(&self, step: &KeptStep) {
        let mut steps = self.0.lock();
        let key = (step.project.clone(), step.key.clone());
        if steps.by_key.get(&key).is_some_and(|there| there.snapshot == step.snapshot) {
            steps.by_key.remove(&key);
            steps.snapshots.remove(&step.snapshot);
        }
    }

    /// Returns what need not be kept any more: what nothing used for long, and of each project
    /// what was used the longest ago beyond so many.
    fn expired(&self, now: UnixMillis) -> Vec<KeptStep> {
        let mut by_project: HashMap<ProjectId, Vec<KeptStep>> = HashMap::new();
        for step in self.0.lock().by_key.values() {
            by_project.entry(step.project.clone()).or_default().push(step.clone());
        }
        let mut expired = Vec::new();
        for mut steps in by_project.into_values() {
            steps.sort_by(|a, b| (b.used_at, &b.key).cmp(&(a.used_at, &a.key)));
            let old = |step: &KeptStep| step.used_at.plus_secs(KEEP_STEP_SECS) <= now;
            let first = steps.iter().position(old).unwrap_or(steps.len()).min(MOST_STEPS);
            expired.extend(steps.drain(first..));
        }
        expired
    }
}

// === impl Control ===

impl Control {
    /// Finds an image that a build begins with, and brings it here. `login` is what the build shows
    /// to the registry that the name may mean, if it comes to asking that; otherwise it is what the
    /// project shows. An import asks the registry alone, whatever has the name here.
    ///
    /// # Errors
    /// Fails when there is no such image, or it does not come.
    pub async fn build_base(
        &self,
        project: &ProjectId,
        name: &ImageName,
        login: Option<RegistryLogin>,
        is_import: bool,
    ) -> Result<BuildBase, ControlError> {
        let found = if is_import {
            let pin = self.ask_registry(project, name, login.as_ref()).await?;
            self.found(name, pin, true)
        } else {
            self.find_image_with(project, name, login.as_ref()).await?
        };
        let FoundImage { image, files, asked, .. } = &found;
        let images = &self.0.parts.images;
        let needed = |pin: &&ImagePin| files.is_none() && !images.is_here(&pin.digest);
        if let Some(pin) = image.pin.as_ref().filter(needed) {
            let login = match (login.filter(|_| *asked), &pin.source) {
                (None, Some(source)) => self.login_for(project, source).await?,
                (login, _) => login,
            };
            images.pull(pin, login.as_ref()).await.map_err(|bad| refusal(name, bad))?;
        }
        // Of a registered image, the one that it was built on.
        let below = files.as_ref().map_or(image, |files| &files.snapshot().captured.image);
        let template = match &image.pin {
            Some(pin) => images.resolve_digest(pin.digest.as_str(), name).await,
            None if below.registered.is_none() => images.resolve(&below.name).await,
            None => images.resolve(&images.default_image()).await,
        };
        let template = template.map_err(|bad| refusal(name, bad))?;
        let stock_user = image.pin.is_none().then(|| template.config.user.clone()).flatten();
        let identity = match files {
            Some(files) => files.snapshot().id.to_string(),
            None => template.digest,
        };
        let config = image.config().cloned().unwrap_or(template.config);
        Ok(BuildBase { image: image.clone(), identity, config, stock_user })
    }

    /// Returns the host of the registry that a reference names, if images may be pulled from it.
    #[must_use]
    pub fn registry_of(&self, reference: &str) -> Option<String> {
        self.0.parts.images.registry_of(reference).ok()
    }

    /// Begins a sandbox of a build. It runs nothing of its image by itself.
    ///
    /// # Errors
    /// Fails when the project's quota or the limits do not allow it.
    pub async fn build_sandbox(
        &self,
        project: &ProjectId,
        ask: BuildSandbox,
    ) -> Result<SandboxId, ControlError> {
        let (control, project) = (self.clone(), project.clone());
        self.finish("build_sandbox", async move { control.enter_build(project, ask).await }).await
    }

    async fn enter_build(
        &self,
        project: ProjectId,
        ask: BuildSandbox,
    ) -> Result<SandboxId, ControlError> {
        let BuildSandbox { image, snapshot, resources, timeout_secs } = ask;
        let rooms = self.rooms().await;
        let mut resources = self.0.config.limits.check_build(&resources, &largest(&rooms))?;
        // A registered image is the files of a snapshot.
        let registered = image.as_ref().and_then(|image| image.registered.as_ref());
        let snapshot = snapshot.or_else(|| registered.map(|it| it.snapshot.clone()));
        let _needed = snapshot.as_ref().map(|id| self.use_snapshot(id));
        let (image, placement) = match &snapshot {
            None => {
                let placement = place(&self.0.config.admission, &resources, &rooms);
                let default = || self.0.parts.images.default_image().into();
                (image.unwrap_or_else(default), placement)
            }
            Some(id) => {
                let record = self.0.parts.store.snapshot_fetch(id).await?;
                resources.disk = resources.disk.max(record.captured.resources.disk);
                let placement = self.choose_for(&resources, &record, &rooms);
                (record.captured.image, placement)
            }
        };
        let kind = SnapshotKind::Filesystem;
        let spec = SandboxSpec {
            name: None,
            image,
            resources,
            timeout_secs,
            entrypoint: Some(Vec::new()),
            network: None,
            ports: PortAccess::default(),
            auto_resume: true,
            max_pending_secs: Some(START.as_secs()),
            restore: snapshot.map(|snapshot| Restore { snapshot, kind }),
            secret_names: Vec::new(),
            template_id: None,
        };
        let in_quota = self.promise(&project, 1)?.pop();
        let seen = self.enter(project, spec, placement, None, in_quota).await?;
        let id = seen.borrow().record.id.clone();
        Ok(id)
    }

    /// Waits until a sandbox of a build runs, and says how to reach it.
    ///
    /// # Errors
    /// Says why it does not run.
    pub async fn build_sandbox_ready(&self, id: &SandboxId) -> Result<Endpoint, ControlError> {
        let gone =
            || ControlError::NotRunning { id: id.clone(), status: SandboxStatus::Terminated };
        let Some(entry) = self.0.table.get(id) else { return Err(gone()) };
        let mut seen = entry.subscribe();
        let settled = seen.wait_for(|live| {
            status(&live.record) != SandboxStatus::Pending
                && (live.endpoint.is_some() || live.record.end.is_some())
        });
        match tokio::time::timeout(START, settled).await {
            Ok(Ok(live)) => match &live.endpoint {
                Some(endpoint) => Ok(endpoint.clone()),
                None => Err(gone()),
            },
            Ok(Err(_closed)) => Err(gone()),
            Err(_elapsed) => {
                let detail = format!("sandbox {id} of a build does not start");
                Err(ControlError::Unavailable { detail })
            }
        }
    }

    /// Returns how many CPUs and how much memory and disk a sandbox of a build has.
    #[must_use]
    pub fn build_sandbox_resources(&self, id: &SandboxId) -> Option<Resources> {
        Some(self.0.table.get(id)?.now().record.asked.resources)
    }

    /// Waits until a sandbox of a build has ended.
    pub async fn build_sandbox_ended(&self, id: &SandboxId) {
        let Some(entry) = self.0.table.get(id) else { return };
        // Should its sender go, it is gone, too.
        drop(entry.subscribe().wait_for(|live| live.record.end.is_some()).await);
    }

    /// Returns the bytes that a snapshot of a build occupies beside its image, and those of its
    /// disk.
    ///
    /// # Errors
    /// Fails when it is gone.
    pub async fn build_sizes(&self, id: &SnapshotId) -> Result<(u64, u64), ControlError> {
        let record = self.0.parts.store.snapshot_fetch(id).await?;
        let layer = record.facts.map_or(0, |facts| facts.layer.bytes());
        Ok((layer, record.captured.resources.disk.bytes()))
    }

    /// Says why a sandbox of a build has ended, if it has.
    pub async fn build_sandbox_end(&self, id: &SandboxId) -> Option<tarn_types::EndCause> {
        let live = self.0.table.get(id).map(|entry| entry.now().record);
        match live {
            Some(record) => record.end.clone(),
            None => self.0.parts.store.sandbox_fetch(id).await.ok()?.end,
        }
    }

    /// Ends a sandbox of a build; one that has ended stays as it is.
    pub async fn build_sandbox_delete(&self, id: &SandboxId) {
        let (control, id) = (self.clone(), id.clone());
        let deleted = self.finish("build_sandbox_delete", async move {
            control.transition(&id, Event::DeleteAsked).await.map(|_moved| ())
        });
        match deleted.await {
            Ok(()) | Err(ControlError::NotFound(_)) => {}
            Err(failed) => {
                let detail = failed.detail().unwrap_or_default();
                tracing::warn!(error = %failed, detail, "a sandbox of a build is left to its limit");
            }
        }
    }

    /// Keeps the files of a sandbox of a build as what a step led to.
    ///
    /// # Errors
    /// Fails when they cannot be captured.
    pub async fn build_keep(
        &self,
        project: &ProjectId,
        sandbox: &SandboxId,
        key: String,
    ) -> Result<SnapshotId, ControlError> {
        let (control, project, sandbox) = (self.clone(), project.clone(), sandbox.clone());
        self.finish("build_keep", async move {
            let id = control.new_snapshot_id();
            // Until the step says that it is needed.
            let _needed = control.use_snapshot(&id);
            control.capture(&sandbox, id.clone(), SnapshotKind::Filesystem, Shown::AsImage).await?;
            let failed =
                |reason: String| ControlError::CaptureFailed { id: sandbox.clone(), reason };
            let Some(record) = control.concluded(&id).await? else {
                return Err(failed("its snapshot vanished".to_owned()));
            };
            if !record.status.is_ready() {
                return Err(failed(record.error.unwrap_or_default()));
            }
            let used_at = control.0.parts.clock.now();
            let step = KeptStep { project, key, snapshot: id.clone(), used_at };
            control.0.parts.store.kept_step_put(&step).await?;
            control.0.kept_steps.insert(step);
            control.forget_steps().await?;
            Ok(id)
        })
        .await
    }

    /// Returns what a step led to, if that is kept and can be used.
    pub async fn build_kept(&self, project: &ProjectId, key: &str) -> Option<SnapshotId> {
        let step = self.0.kept_steps.get(project, key)?;
        let _needed = self.use_snapshot(&step.snapshot);
        let found = self.0.parts.store.snapshot_fetch(&step.snapshot).await;
        if !found.is_ok_and(|record| record.status.is_ready()) {
            // Another one takes its place when the step is done again.
            self.forget_step(&step).await.ok()?;
            return None;
        }
        let used = KeptStep { used_at: self.0.parts.clock.now(), ..step };
        self.0.parts.store.kept_step_put(&used).await.ok()?;
        let snapshot = used.snapshot.clone();
        self.0.kept_steps.insert(used);
        Some(snapshot)
    }

    /// Forgets the steps that nobody has used for long, or that are too many.
    pub(crate) async fn forget_steps(&self) -> Result<(), ControlError> {
        for step in self.0.kept_steps.expired(self.0.parts.clock.now()) {
            self.forget_step(&step).await?;
        }
        Ok(())
    }

    async fn forget_step(&self, step: &KeptStep) -> Result<(), ControlError> {
        self.0.parts.store.kept_step_delete(&step.project, &step.key).await?;
        self.0.kept_steps.remove(step);
        self.0.snapshots.notify_one();
        Ok(())
    }

    /// Registers the image of a build.
    ///
    /// # Errors
    /// Fails when the name belongs to somebody else, or the store does not take it.
    pub async fn build_publish(&self, ask: PublishAsk) -> Result<ImageRecord, ControlError> {
        let PublishAsk { project, name, global, family, snapshot, config, dockerfile } = ask;
        let used = self.use_snapshot(&snapshot);
        let files = self.0.parts.store.snapshot_fetch(&snapshot).await?;
        let config = Some(config);
        let ask = ImageAsk { project, global, name, family, config, dockerfile };
        self.image_publish(ask, ImageFiles::new(files, used)).await
    }

    /// Stores a build's record.
    ///
    /// # Errors
    /// Fails only when the store does.
    pub async fn build_put(&self, record: &BuildRecord) -> Result<(), ControlError> {
        Ok(self.0.parts.store.build_put(record).await?)
    }

    /// Removes a build's record.
    ///
    /// # Errors
    /// Fails only when the store does.
    pub async fn build_delete(&self, id: &BuildId) -> Result<(), ControlError> {
        Ok(self.0.parts.store.build_delete(id).await?)
    }

    /// Returns every build's record.
    ///
    /// # Errors
    /// Fails only when the store does.
    pub async fn build_list(&self) -> Result<Vec<BuildRecord>, ControlError> {
        Ok(self.0.parts.store.build_list().await?)
    }
}
