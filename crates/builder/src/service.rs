//! The service: builds are asked for, get their context, run, are cancelled and looked at.

mod cancel;
mod error;
mod forget;
mod legacy;
mod record;
mod restart;
mod run;
mod stock;
#[cfg(test)]
mod testing;
mod upload;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tarn_control::{Control, ControlError, ImageAsk, PublishAsk};
use tarn_task::{Clock, Entropy, Tasks};
use tarn_types::{
    BuildId, BuildKind, BuildPhase, BuildRecord, BuildStatus, ImageFamily, ImageName, ProjectId,
    RegistryLogin, Resources, SandboxId, UnixMillis,
};
use tokio::sync::watch;

use self::stock::Stock;
pub use self::{
    cancel::Cancel,
    error::BuilderError,
    legacy::{LegacyAsk, LoginReader},
    upload::Upload,
};

/// How many builds of a project may be under way.
const MOST_ACTIVE: usize = 16;

/// How often builds are looked for whose time is over.
const JANITOR_PERIOD: Duration = Duration::from_secs(10);

/// How many times that is until it is looked for builds that can be forgotten.
const FORGET_ROUNDS: u32 = 6;

/// The numbers and places of builds; all are configuration.
#[derive(Debug, Clone)]
pub struct BuilderConfig {
    /// Where contexts are until their build has ended. It is emptied at the start.
    pub dir: PathBuf,
    /// The largest context. Default: 2 GiB.
    pub context_max_bytes: u64,
    /// What all contexts of a project may take until their builds have ended. Default: 8 GiB.
    pub contexts_max_bytes: u64,
    /// What contexts leave free on the disk that they are on. Default: 2 GiB, or a twentieth of a
    /// small disk.
    pub reserve_bytes: u64,
    /// How long a context may be awaited, in seconds. Default: 30 min.
    pub unsealed_secs: u64,
    /// How long a build may take from then on, in seconds. Default: 1 h.
    pub operation_secs: u64,
}

/// A build that is asked for: every field parsed, none checked against limits yet.
#[derive(Clone)]
pub struct BuildAsk {
    /// What the caller names the request by.
    pub request_id: Option<String>,
    /// What the image is made from.
    pub source: BuildSource,
    /// The name that the image is to have.
    pub name: ImageName,
    /// Whether that name is to count in every project.
    pub global: bool,
    /// What the sandboxes have that it runs in.
    pub resources: Resources,
    /// What it shows to registries, by their hosts; kept in memory alone.
    pub logins: BTreeMap<String, RegistryLogin>,
    /// The images that references in the Dockerfile are to mean, by their ids.
    pub parents: BTreeMap<String, String>,
    /// What only the legacy family asks for; `None` = it is of the other one.
    pub legacy: Option<LegacyAsk>,
}

/// What an image is made from.
pub type BuildSource = BuildKind;

/// A build as a caller may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildView {
    /// Everything stored of it.
    pub record: BuildRecord,
    /// The largest context.
    pub context_max_bytes: u64,
}

/// Builds images. Clones share it.
#[derive(Clone)]
pub struct Builder(Arc<Inner>);

struct Inner {
    control: Control,
    config: BuilderConfig,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    tasks: Tasks,
    builds: Mutex<HashMap<BuildId, Entry>>,
    contexts: Mutex<Stock>,
    /// Held while a record is changed and stored.
    turn: tokio::sync::Mutex<()>,
    /// Counts changes, for those who wait for one.
    changes: watch::Sender<u64>,
}

/// A build in memory.
struct Entry {
    record: BuildRecord,
    /// Set when nobody wants it any more.
    cancel: watch::Sender<bool>,
    logins: BTreeMap<String, RegistryLogin>,
    parents: BTreeMap<String, String>,
    /// The SHA-256 of the context that was last uploaded, in hex.
    uploaded: Option<String>,
    /// What only the legacy family asks for.
    legacy: Option<LegacyAsk>,
    /// The sandbox in which the client of a build of that family is.
    client: Option<SandboxId>,
    /// What such a build led to, until it is completed.
    built: Option<PublishAsk>,
}

// === impl BuilderConfig ===

impl BuilderConfig {
    /// Takes a directory, and defaults for the rest.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        let reserve_bytes = reserve(&dir);
        Self {
            dir,
            context_max_bytes: 2 << 30,
            contexts_max_bytes: 8 << 30,
            reserve_bytes,
            unsealed_secs: 30 * 60,
            operation_secs: 60 * 60,
        }
    }
}

/// Returns what contexts leave free on the disk of a directory: 2 GiB, or a twentieth of a small
/// one.
fn reserve(dir: &Path) -> u64 {
    let disk = dir.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok());
    let total = disk.map_or(u64::MAX, |disk| disk.f_blocks.saturating_mul(disk.f_frsize));
    (total / 20).min(2 << 30)
}

// === impl Builder ===

impl Builder {
    /// Reads the builds, ends those that an earlier run left, and begins to look after the rest.
    /// The nodes must be attached.
    ///
    /// # Errors
    /// Fails when the store cannot be read, or the directory cannot be made.
    pub async fn start(
        control: Control,
        config: BuilderConfig,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        tasks: Tasks,
    ) -> Result<Self, BuilderError> {
        let unavailable = |error: std::io::Error| BuilderError::Unavailable(error.to_string());
        match std::fs::remove_dir_all(&config.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(unavailable(error));
            }
            Ok(()) | Err(_) => {}
        }
        std::fs::create_dir_all(&config.dir).map_err(unavailable)?;
        let mut records = control.build_list().await?;
        for record in &mut records {
            // The image itself has it.
            if record.image.as_mut().is_some_and(|image| image.dockerfile.take().is_some()) {
                control.build_put(record).await?;
            }
        }
        let builds = records.into_iter().map(|record| (record.id.clone(), Entry::new(record)));
        let builder = Self(Arc::new(Inner {
            control,
            config,
            clock,
            entropy,
            tasks,
            builds: Mutex::new(builds.collect()),
            contexts: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
            changes: watch::Sender::new(0),
        }));
        builder.end_lost().await?;
        builder.spawn_janitor();
        Ok(builder)
    }

    /// Begins a build, whatever becomes of the caller; the same request again is the same build.
    ///
    /// # Errors
    /// Fails when one of that name is under way, or too many are.
    pub async fn create(
        &self,
        project: &ProjectId,
        ask: BuildAsk,
    ) -> Result<BuildView, BuilderError> {
        let (builder, project) = (self.clone(), project.clone());
        self.finish("build_create", async move { builder.admit(&project, ask).await }).await
    }

    /// Runs accepted work to its end even if the caller goes away meanwhile.
    async fn finish<T, F>(&self, name: &'static str, work: F) -> Result<T, BuilderError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, BuilderError>> + Send + 'static,
    {
        match self.0.tasks.spawn(name, work).await {
            Ok(result) => result,
            Err(lost) => {
                let detail = format!("task {name}: {lost}");
                Err(ControlError::Internal { detail }.into())
            }
        }
    }

    async fn admit(&self, project: &ProjectId, ask: BuildAsk) -> Result<BuildView, BuilderError> {
        let _turn = self.0.turn.lock().await;
        if let Some(request) = &ask.request_id
            && let Some(known) = self.find_request(project, request)
        {
            return Ok(self.view(known));
        }
        let family = ask.legacy.as_ref().map_or(ImageFamily::Cas, |_| ImageFamily::Legacy);
        let image = ImageAsk {
            project: project.clone(),
            global: ask.global,
            name: ask.name.clone(),
            family,
            config: None,
            dockerfile: None,
        };
        self.0.control.image_check(&image).await?;
        self.make_room(project, &ask.name).await?;
        let now = self.0.clock.now();
        let awaits = matches!(ask.source, BuildKind::Dockerfile { .. });
        let token: [u8; 32] = self.0.entropy.bytes();
        let config = &self.0.config;
        let (status, phase, secs) = if awaits {
            (BuildStatus::Pending, BuildPhase::AwaitingContext, config.unsealed_secs)
        } else {
            (BuildStatus::Running, BuildPhase::StartingBuilder, config.operation_secs)
        };
        let record = BuildRecord {
            id: BuildId::from_random(self.0.entropy.bytes()),
            project: project.clone(),
            request_id: ask.request_id,
            kind: ask.source,
            name: ask.name,
            global: ask.global,
            family,
            resources: ask.resources,
            status,
            phase,
            upload_token: (awaits && family == ImageFamily::Cas).then(|| upload::hex(&token)),
            log_sandbox: None,
            sandboxes: Vec::new(),
            error: None,
            image: None,
            created_at: now,
            updated_at: now,
            deadline: now.plus_secs(secs),
        };
        self.0.control.build_put(&record).await?;
        let id = record.id.clone();
        tracing::info!(
            build.id = %id, project.id = %project, image = %record.name,
            kind = record.kind.as_str(), "build accepted"
        );
        let (logins, parents, legacy) = (ask.logins, ask.parents, ask.legacy);
        let entry = Entry { logins, parents, legacy, ..Entry::new(record.clone()) };
        self.0.builds.lock().insert(id.clone(), entry);
        match family {
            ImageFamily::Legacy => self.spawn_attend(&record)?,
            ImageFamily::Cas if awaits => {}
            ImageFamily::Cas => self.spawn_run(id, None),
        }
        Ok(self.view(record))
    }

    /// Refuses a build if one of its name goes on, or too many do.
    async fn make_room(&self, project: &ProjectId, name: &ImageName) -> Result<(), BuilderError> {
        let active =
            |record: &BuildRecord| record.project == *project && !record.status.is_terminal();
        for record in self.records(|record| active(record) && record.name == *name) {
            if !self.is_unmet(&record) {
                return Err(BuilderError::InProgress(Box::new(record)));
            }
            // A client that has begun nothing is not waited for.
            self.end(&record.id, BuildStatus::Cancelled, None).await?;
        }
        match self.records(active).len() < MOST_ACTIVE {
            true => Ok(()),
            false => Err(BuilderError::TooMany),
        }
    }

    /// Returns a build.
    ///
    /// # Errors
    /// Fails when the project has none of that id.
    pub fn fetch(&self, project: &ProjectId, id: &str) -> Result<BuildView, BuilderError> {
        let not_found = || BuilderError::NotFound(id.chars().take(80).collect());
        let parsed: BuildId = id.parse().map_err(|_bad| not_found())?;
        let record = self.record(&parsed).filter(|record| record.project == *project);
        record.map(|record| self.view(record)).ok_or_else(not_found)
    }

    /// Takes a context as it was uploaded, and begins to build.
    ///
    /// # Errors
    /// Fails when it is not what was uploaded; it may be uploaded again then.
    pub async fn seal(
        &self,
        project: &ProjectId,
        id: &str,
        digest: &str,
    ) -> Result<BuildView, BuilderError> {
        // Only what it is from here on counts: another seal, or a cancel, may have come first.
        let _turn = self.0.turn.lock().await;
        let BuildRecord { id, status, .. } = self.fetch(project, id)?.record;
        if status.is_terminal() {
            return Err(BuilderError::NotAwaiting { id, status });
        }
        let uploaded = {
            let builds = self.0.builds.lock();
            builds.get(&id).and_then(|entry| entry.uploaded.clone())
        };
        let Some(uploaded) = uploaded else {
            let said = "no context was uploaded; PUT it to `context_upload.url` first";
            return Err(BuilderError::Context(said.to_owned()));
        };
        if !uploaded.eq_ignore_ascii_case(digest.trim_start_matches("sha256:")) {
            return Err(BuilderError::Context(format!(
                "digest: the context that was uploaded is {uploaded}; upload it again"
            )));
        }
        if status == BuildStatus::Running {
            return self.fetch(project, id.as_str());
        }
        let now = self.0.clock.now();
        let deadline = now.plus_secs(self.0.config.operation_secs);
        self.change(&id, |record| {
            record.status = BuildStatus::Running;
            record.phase = BuildPhase::StartingBuilder;
            record.upload_token = None;
            record.deadline = deadline;
        })
        .await?;
        self.spawn_run(id.clone(), None);
        self.fetch(project, id.as_str())
    }

    /// Returns the largest context.
    #[must_use]
    pub fn context_max_bytes(&self) -> u64 {
        self.0.config.context_max_bytes
    }

    pub(crate) fn control(&self) -> &Control {
        &self.0.control
    }

    fn spawn_janitor(&self) {
        let builder = self.clone();
        drop(self.0.tasks.spawn("build_janitor", async move {
            let stopping = builder.0.tasks.stopping();
            tokio::pin!(stopping);
            let mut rounds = 0_u32;
            loop {
                tokio::select! {
                    () = &mut stopping => break,
                    () = tokio::time::sleep(JANITOR_PERIOD) => {}
                }
                rounds = rounds.wrapping_add(1);
                let mut swept = builder.sweep().await;
                if swept.is_ok() && rounds.is_multiple_of(FORGET_ROUNDS) {
                    swept = builder.forget_old().await;
                }
                if let Err(failed) = swept {
                    tracing::warn!(error = %failed, "builds not looked after; trying again");
                }
            }
        }));
    }

    /// Gives up what awaits its context for too long.
    async fn sweep(&self) -> Result<(), BuilderError> {
        let now = self.0.clock.now();
        let late =
            |record: &BuildRecord| record.status == BuildStatus::Pending && record.deadline <= now;
        for record in self.records(late) {
            self.give_up(&record.id).await?;
        }
        Ok(())
    }

    fn view(&self, record: BuildRecord) -> BuildView {
        BuildView { record, context_max_bytes: self.0.config.context_max_bytes }
    }

    fn deadline_in(&self, deadline: UnixMillis) -> Duration {
        let left = deadline.0.saturating_sub(self.0.clock.now().0);
        Duration::from_millis(u64::try_from(left).unwrap_or(0))
    }
}

// === impl Entry ===

impl Entry {
    fn new(record: BuildRecord) -> Self {
        let cancel = watch::Sender::new(false);
        Self {
            record,
            cancel,
            logins: BTreeMap::new(),
            parents: BTreeMap::new(),
            uploaded: None,
            legacy: None,
            client: None,
            built: None,
        }
    }
}

#[cfg(test)]
mod tests;
