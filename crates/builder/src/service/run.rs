//! A build from its context to its image.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tarn_build::{BuildConfig, Dockerfile};
use tarn_control::{BuildSandbox, ControlError, DOCKERFILE_MAX, PublishAsk};
use tarn_daemon_api::{RunRequest, StartRequest, StdinMode, UserSpec};
use tarn_types::{
    BuildId, BuildKind, BuildPhase, BuildRecord, BuildStatus, ImageConfig, ImageRecord, Resources,
    SandboxId,
};
use tokio::{
    net::tcp::OwnedWriteHalf,
    sync::{Notify, oneshot},
};

use super::{
    Builder, BuilderError,
    legacy::{Client, repeat},
};
use crate::{
    aside::aside,
    context::Context,
    daemon::{Daemon, RunEvent},
    engine::{Engine, Outcome},
    journal::{Journal, Lines},
    site::Site,
    workshop::StepError,
};

/// How much longer than its build a sandbox of it may live.
const GRACE_SECS: u64 = 120;

/// What clients look for among the processes of the sandbox that tells the log (spec 06 §2).
const LOG_PROGRAM: &str = "/usr/local/bin/tl-image-builder";

/// How long that sandbox stays when the build has ended, for those who read the last lines.
const LOG_LINGER: Duration = Duration::from_secs(5);

/// How many bytes of lines go into one request.
const LOG_BATCH: usize = 64 << 10;

/// How long it is until the store is asked again to keep the end of a build: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What is said of a build that cannot be finished.
const INTERNAL: &str = "internal error; the server's log says more. Build the image again";

/// How a build ended.
pub(super) enum End {
    Done(Outcome, Option<String>),
    Failed(StepError),
    Late,
    Cancelled,
}

/// Who was told the log.
enum Told {
    /// Whoever reads it in a sandbox, which lives on for a while; `None` = nothing was to be told.
    Sandbox(Option<SandboxId>),
    /// A client that waits.
    Client(OwnedWriteHalf),
}

/// The pauses between the tries of what must be done in the end.
struct Patience(Duration);

// === impl Patience ===

impl Patience {
    fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    /// Waits until it may be tried again. Gives back what failed when that is of no use, or the
    /// server stops: the next start ends what is left.
    async fn wait(
        &mut self,
        builder: &Builder,
        id: &BuildId,
        failed: BuilderError,
    ) -> Result<(), BuilderError> {
        if matches!(failed, BuilderError::NotFound(_)) {
            return Err(failed);
        }
        tracing::warn!(build.id = %id, error = %failed, "a build's end is not stored; trying again");
        tokio::select! {
            () = builder.0.tasks.stopping() => return Err(failed),
            () = tokio::time::sleep(self.0) => {}
        }
        self.0 = self.0.saturating_mul(2).min(LONGEST_PAUSE);
        Ok(())
    }
}

// === impl Builder ===

impl Builder {
    /// Has a build run to its end.
    pub(super) fn spawn_run(&self, id: BuildId, client: Option<Client>) {
        let builder = self.clone();
        drop(self.0.tasks.spawn("build", async move {
            let Err(failed) = builder.run(&id, client).await else { return };
            let over = builder.record(&id).is_none_or(|record| record.status.is_terminal());
            if over || builder.0.tasks.is_stopping() {
                tracing::debug!(build.id = %id, error = %failed, "a build is looked after no more");
                return;
            }
            tracing::error!(build.id = %id, error = %failed, "a build cannot be finished");
            // Nobody else does it.
            let ended = builder.end_at_last(&id, BuildStatus::Failed, Some(INTERNAL.to_owned()));
            let done = match ended.await {
                Ok(()) => builder.clear_at_last(&id, None).await,
                left => left,
            };
            if let Err(failed) = done {
                tracing::debug!(build.id = %id, error = %failed, "the next start ends a build");
            }
        }));
    }

    async fn run(&self, id: &BuildId, client: Option<Client>) -> Result<(), BuilderError> {
        let Some(record) = self.record(id) else { return Ok(()) };
        let cancelled = {
            let builds = self.0.builds.lock();
            builds.get(id).map(|entry| entry.cancel.subscribe())
        };
        let Some(mut cancelled) = cancelled else { return Ok(()) };
        let opened = Arc::new(Notify::new());
        let (journal, lines) = Journal::new();
        let (unfinished, finished) = oneshot::channel();
        let (news, mut hearing) = client.map(|Client { news, hearing }| (news, hearing)).unzip();
        let log = self.0.tasks.spawn("build_log", {
            let (builder, id, opened) = (self.clone(), id.clone(), Arc::clone(&opened));
            async move {
                match news {
                    Some(news) => Told::Client(repeat(news, lines).await),
                    None => Told::Sandbox(builder.tell(&id, &opened, finished, lines).await),
                }
            }
        });
        let end = {
            let building = self.build(&record, &journal, opened);
            let late = tokio::time::sleep(self.deadline_in(record.deadline));
            let gone = async {
                match &mut hearing {
                    Some(hearing) => hearing.end(self).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = building => match done {
                    Ok((outcome, text)) => End::Done(outcome, text),
                    Err(failed) => End::Failed(failed),
                },
                () = late => End::Late,
                _ = cancelled.wait_for(|wanted| *wanted) => End::Cancelled,
                () = gone => End::Cancelled,
                // What is left of it is ended at the next start.
                () = self.0.tasks.stopping() => return Ok(()),
            }
        };
        if let End::Failed(failed) = &end {
            journal.note(format!("[error] {}", text_of(failed)));
        }
        // The log ends before the build does, so that nobody misses its last lines.
        drop((journal, unfinished));
        let log = match (log.await, hearing) {
            (Ok(Told::Client(news)), Some(hearing)) => {
                let client = Client { news, hearing };
                return self.conclude(&record, end, client, cancelled).await;
            }
            (Ok(Told::Sandbox(log)), _) => log,
            (Ok(Told::Client(_)), None) | (Err(_), _) => None,
        };
        // Whoever cancels it does not read on.
        let log = log.filter(|_| !matches!(end, End::Cancelled));
        self.settle(&record, end).await?;
        self.clear_at_last(id, log.as_ref()).await?;
        if let Some(sandbox) = log {
            self.linger(id.clone(), sandbox);
        }
        Ok(())
    }

    /// Registers what a build led to, and ends the build as that went. The turn must be held.
    pub(super) async fn register(
        &self,
        id: &BuildId,
        ask: PublishAsk,
    ) -> Result<Result<ImageRecord, ControlError>, BuilderError> {
        let registered = self.0.control.build_publish(ask).await;
        self.note_registered(id, &registered).await?;
        Ok(registered)
    }

    /// Ends a build as the registering of its image went. The turn must be held.
    async fn note_registered(
        &self,
        id: &BuildId,
        registered: &Result<ImageRecord, ControlError>,
    ) -> Result<(), BuilderError> {
        match registered {
            Ok(image) => {
                // The text of the Dockerfile is kept with the image alone.
                let image = ImageRecord { dockerfile: None, ..image.clone() };
                self.change(id, |now| now.image = Some(image)).await?;
                self.end(id, BuildStatus::Succeeded, None).await
            }
            Err(failed) => {
                let detail = failed.detail().unwrap_or_default();
                tracing::warn!(build.id = %id, error = %failed, detail, "an image is not registered");
                self.end(id, BuildStatus::Failed, Some(failed.to_string())).await
            }
        }
    }

    /// Stores how a build ended, however often that must be tried. From `publishing` on it can no
    /// longer be cancelled.
    pub(super) async fn settle(&self, record: &BuildRecord, end: End) -> Result<(), BuilderError> {
        let id = &record.id;
        match end {
            End::Cancelled => self.end_at_last(id, BuildStatus::Cancelled, None).await,
            End::Late => {
                let said = format!(
                    "the build took longer than {} s, which is the most; do less in one image",
                    self.0.config.operation_secs
                );
                self.end_at_last(id, BuildStatus::Failed, Some(said)).await
            }
            End::Failed(failed) => {
                if let StepError::Internal(detail) = &failed {
                    tracing::error!(build.id = %id, detail, "a build failed for a reason of ours");
                }
                self.end_at_last(id, BuildStatus::Failed, Some(text_of(&failed))).await
            }
            End::Done(outcome, dockerfile) => {
                self.publish(id, publish_ask(record, outcome, dockerfile)).await
            }
        }
    }

    /// Registers what a build led to, once, and ends the build as that went, however often that
    /// must be tried.
    async fn publish(&self, id: &BuildId, ask: PublishAsk) -> Result<(), BuilderError> {
        let mut patience = Patience::new();
        while let Err(failed) = self.enter(id, BuildPhase::Publishing).await {
            patience.wait(self, id, failed).await?;
        }
        let turn = self.0.turn.lock().await;
        let registered = self.0.control.build_publish(ask).await;
        let mut noted = self.note_registered(id, &registered).await;
        drop(turn);
        let mut patience = Patience::new();
        while let Err(failed) = noted {
            patience.wait(self, id, failed).await?;
            let _turn = self.0.turn.lock().await;
            noted = self.note_registered(id, &registered).await;
        }
        Ok(())
    }

    /// Ends a build, however often that must be tried.
    async fn end_at_last(
        &self,
        id: &BuildId,
        status: BuildStatus,
        error: Option<String>,
    ) -> Result<(), BuilderError> {
        let mut patience = Patience::new();
        loop {
            let ended = {
                let _turn = self.0.turn.lock().await;
                self.end(id, status, error.clone()).await
            };
            match ended {
                Ok(()) => return Ok(()),
                Err(failed) => patience.wait(self, id, failed).await?,
            }
        }
    }

    /// Does the work; returns what it led to, and the text of the Dockerfile.
    async fn build(
        &self,
        record: &BuildRecord,
        journal: &Journal,
        opened: Arc<Notify>,
    ) -> Result<(Outcome, Option<String>), StepError> {
        let given = {
            let builds = self.0.builds.lock();
            let entry = builds.get(&record.id);
            entry.and_then(|it| Some(it.legacy.as_ref()?.dockerfile.clone()))
        };
        let (file, context, text) = match &record.kind {
            BuildKind::Import { reference } => (Dockerfile::of_image(reference), None, given),
            BuildKind::Dockerfile { path, args } => {
                let (file, context, text) = self.context(&record.id, path, args, given).await?;
                (file, Some(Arc::new(context)), Some(text))
            }
        };
        let (logins, parents) = {
            let builds = self.0.builds.lock();
            let entry = builds.get(&record.id);
            entry.map(|it| (it.logins.clone(), it.parents.clone())).unwrap_or_default()
        };
        let left = self.deadline_in(record.deadline).as_secs();
        let site = Site {
            builder: self.clone(),
            build: record.id.clone(),
            project: record.project.clone(),
            resources: record.resources,
            timeout_secs: left + GRACE_SECS,
            logins,
            is_import: matches!(record.kind, BuildKind::Import { .. }),
            parents,
            opened,
            tasks: self.0.tasks.clone(),
        };
        self.advance(&record.id, BuildPhase::Executing).await?;
        let engine = Engine {
            file: &Arc::new(file),
            context,
            workshop: &site,
            journal,
            disk_bytes: record.resources.disk.bytes(),
            begun: record.created_at,
            tasks: &self.0.tasks,
        };
        let outcome = engine.run().await?;
        self.advance(&record.id, BuildPhase::Snapshotting).await?;
        Ok((outcome, text))
    }

    async fn advance(&self, id: &BuildId, phase: BuildPhase) -> Result<(), StepError> {
        let entered = self.enter(id, phase).await;
        entered.map_err(|failed| StepError::Internal(failed.to_string()))
    }

    async fn enter(&self, id: &BuildId, phase: BuildPhase) -> Result<(), BuilderError> {
        let _turn = self.0.turn.lock().await;
        self.change(id, |record| record.phase = phase).await.map(drop)
    }

    /// Reads the context, and the Dockerfile in it unless its text was given.
    async fn context(
        &self,
        id: &BuildId,
        path: &str,
        args: &BTreeMap<String, String>,
        given: Option<String>,
    ) -> Result<(Dockerfile, Context, String), StepError> {
        let (file, path, args) = (self.context_path(id), path.to_owned(), args.clone());
        let read = aside(&self.0.tasks, move |stop| {
            let context = Context::read(&file, stop)?;
            let text = given.map_or_else(|| context.dockerfile(&path), Ok)?;
            let file = Dockerfile::parse(&text, &args).map_err(|bad| bad.to_string())?;
            Ok((file, context, text))
        });
        read.await?.map_err(StepError::Failed)
    }

    /// Ends the sandboxes of a build but that of its log, however often that must be tried.
    pub(super) async fn clear_at_last(
        &self,
        id: &BuildId,
        log: Option<&SandboxId>,
    ) -> Result<(), BuilderError> {
        let mut patience = Patience::new();
        while let Err(failed) = self.clear_sandboxes_but(id, log).await {
            patience.wait(self, id, failed).await?;
        }
        Ok(())
    }

    pub(super) async fn clear_sandboxes_but(
        &self,
        id: &BuildId,
        log: Option<&SandboxId>,
    ) -> Result<(), BuilderError> {
        let Some(record) = self.record(id) else { return Ok(()) };
        let stays = |sandbox: &SandboxId| log == Some(sandbox);
        for sandbox in record.sandboxes.iter().filter(|sandbox| !stays(sandbox)) {
            self.0.control.build_sandbox_delete(sandbox).await;
        }
        let _turn = self.0.turn.lock().await;
        // What came meanwhile is not ended yet.
        let left = |sandbox: &SandboxId| stays(sandbox) || !record.sandboxes.contains(sandbox);
        self.change(id, |now| now.sandboxes.retain(left)).await.map(drop)
    }

    /// Ends the sandbox that told the log, a little later.
    fn linger(&self, id: BuildId, sandbox: SandboxId) {
        let builder = self.clone();
        drop(self.0.tasks.spawn("build_log_linger", async move {
            tokio::select! {
                () = builder.0.tasks.stopping() => return,
                () = tokio::time::sleep(LOG_LINGER) => {}
            }
            if let Err(failed) = builder.clear_at_last(&id, None).await {
                // It may be gone already, and its sandboxes with it.
                builder.0.control.build_sandbox_delete(&sandbox).await;
                tracing::debug!(build.id = %id, error = %failed, "a build was forgotten meanwhile");
            }
        }));
    }

    /// Tells the log by a process of a sandbox, once there is something to tell of. Returns that
    /// sandbox when the log has ended.
    async fn tell(
        &self,
        id: &BuildId,
        opened: &Notify,
        finished: oneshot::Receiver<()>,
        mut lines: Lines,
    ) -> Option<SandboxId> {
        tokio::select! {
            () = opened.notified() => {}
            _ = finished => return None,
        }
        match self.open_log(id).await {
            Ok((sandbox, daemon, pid)) => {
                while let Some(first) = lines.recv().await {
                    let mut batch = first + "\n";
                    while batch.len() < LOG_BATCH
                        && let Some(line) = lines.try_recv()
                    {
                        batch.push_str(&line);
                        batch.push('\n');
                    }
                    if daemon.write(pid, Bytes::from(batch)).await.is_err() {
                        break;
                    }
                }
                // If it cannot be told, its sandbox has ended, and so has the log.
                drop(daemon.end_input(pid).await);
                Some(sandbox)
            }
            Err(failed) => {
                tracing::warn!(build.id = %id, error = %failed, "a build goes on without a log");
                None
            }
        }
    }

    async fn open_log(&self, id: &BuildId) -> Result<(SandboxId, Daemon, i32), StepError> {
        let Some(record) = self.record(id) else {
            return Err(StepError::Internal("the build is gone".to_owned()));
        };
        let ask = BuildSandbox {
            image: None,
            snapshot: None,
            resources: Resources::default(),
            timeout_secs: self.deadline_in(record.deadline).as_secs() + GRACE_SECS,
        };
        let internal = |failed: &dyn std::fmt::Display| StepError::Internal(failed.to_string());
        let control = &self.0.control;
        let sandbox = control.build_sandbox(&record.project, ask).await;
        let sandbox = sandbox.map_err(|failed| internal(&failed))?;
        self.note_sandbox(id, &sandbox).await?;
        let endpoint = control.build_sandbox_ready(&sandbox).await;
        let endpoint = endpoint.map_err(|failed| internal(&failed))?;
        let daemon = Daemon { address: endpoint.daemon, token: endpoint.token };
        // It repeats what it is given, under the name that clients look for.
        let copy = RunRequest {
            command: "cp".to_owned(),
            args: vec!["/bin/cat".to_owned(), LOG_PROGRAM.to_owned()],
            user: Some(UserSpec::Ids { uid: 0, gid: Some(0) }),
            ..RunRequest::default()
        };
        let mut run = daemon.run(&copy).await.map_err(|failed| internal(&failed))?;
        while let RunEvent::Line(_) = run.next().await.map_err(|failed| internal(&failed))? {}
        let start = StartRequest {
            command: LOG_PROGRAM.to_owned(),
            stdin_mode: StdinMode::Pipe,
            ..StartRequest::default()
        };
        let process = daemon.start(&start).await.map_err(|failed| internal(&failed))?;
        let _turn = self.0.turn.lock().await;
        let noted = self.change(id, |record| record.log_sandbox = Some(sandbox.clone())).await;
        noted.map_err(|failed| internal(&failed))?;
        Ok((sandbox, daemon, process.pid))
    }
}

pub(super) fn text_of(failed: &StepError) -> String {
    match failed {
        StepError::Failed(text) | StepError::OutOfMemory(text) | StepError::DiskFull(text) => {
            text.clone()
        }
        StepError::Internal(_) => INTERNAL.to_owned(),
    }
}

/// What is registered of what a build led to. The text of a Dockerfile that is too long to be shown
/// is left out: all that it asked for is done.
pub(super) fn publish_ask(
    record: &BuildRecord,
    outcome: Outcome,
    dockerfile: Option<String>,
) -> PublishAsk {
    PublishAsk {
        project: record.project.clone(),
        name: record.name.clone(),
        global: record.global,
        family: record.family,
        snapshot: outcome.snapshot,
        config: image_config(outcome.config),
        dockerfile: dockerfile.filter(|text| text.len() <= DOCKERFILE_MAX),
    }
}

fn image_config(config: BuildConfig) -> ImageConfig {
    let BuildConfig { env, user, working_dir, entrypoint, cmd, .. } = config;
    ImageConfig { env, user, working_dir, entrypoint, cmd }
}

#[cfg(test)]
mod tests {
    use tarn_types::SnapshotId;

    use super::{super::testing::Site, *};

    #[tokio::test]
    async fn the_text_of_a_dockerfile_is_shown_unless_it_is_too_long() {
        let site = Site::start(0).await;
        let build = site.build("a").await;
        let shown = |bytes: usize| {
            let snapshot = SnapshotId::from_random([1; 16]);
            let outcome = Outcome { snapshot, config: BuildConfig::default() };
            publish_ask(&build, outcome, Some("x".repeat(bytes))).dockerfile.is_some()
        };
        assert!(shown(DOCKERFILE_MAX));
        assert!(!shown(DOCKERFILE_MAX + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_the_store_does_not_take_is_stored_a_moment_later() {
        // How many calls there are until the build's end.
        let calls = {
            let site = Site::start(0).await;
            site.build("a").await;
            site.store.calls()
        };
        let site = Site::start(calls + 1).await;
        let build = site.build("a").await;
        site.builder.settle(&build, End::Late).await.expect("it is stored in the end");
        assert!(site.store.calls() > calls + 1, "the first try failed");
        let view = site.builder.fetch(&build.project, build.id.as_str()).expect("it is kept");
        assert_eq!(view.record.status, BuildStatus::Failed);
        let stored = site.builder.0.control.build_list().await.expect("a list");
        assert_eq!(stored, [view.record]);
    }
}
