//! Builds of the legacy family (spec 06 §3).
//!
//! ```text
//!  create ─▶ pending ──the client's sandbox is created, and asks──▶ running ──▶ built, held
//!               │                                                      │            │ complete
//!               └── cancelled ◀── nobody asks in time; the sandbox ends; cancel ◀───┤
//!                                                                                   ▼
//!                                                                               succeeded
//! ```
//!
//! The client creates a sandbox, lays the context there, and runs `tarnd rootfs-build` in it, which
//! asks over a bridge (`tarnd rootfs-bridge`) for the build and repeats its log. The build itself
//! is one like any other. Nothing that the sandbox says is trusted: which build it may ask for is
//! known from the image that it was created from, and all that it names lies within it or is looked
//! up with its project's rights.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tarn_control::{AwaitedSandbox, ImageKey};
use tarn_guest_api::{
    CopyOut, DAEMON_PATH, ROOTFS_LINE_BYTES, RootfsAsk, RootfsMetadata, RootfsNews,
};
use tarn_types::{
    BuildId, BuildKind, BuildPhase, BuildRecord, BuildStatus, ByteSize, ImageFamily, ImageName,
    ImageRecord, ProjectId, RegistryLogin, Resources, SandboxId,
};
use tokio::{
    fs,
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    sync::watch,
};

use super::{
    Builder, BuilderError,
    run::{End, publish_ask},
};
use crate::{
    daemon::{Daemon, RunStream},
    engine::Outcome,
    journal::Lines,
    site::SandboxBench,
    workshop::{Bench as _, Parcel, StepError},
};

/// What the names of images begin with that clients create their sandboxes from.
const BUILDER_IMAGE: &str = "tensorlake/rootfs-builder";

/// How long the client's sandbox may take to take a line.
const LINE_PATIENCE: Duration = Duration::from_secs(30);

/// The longest first line of a copy.
const HEAD_BYTES: u64 = 4096;

/// Reads a docker configuration: what registries are shown, by their hosts.
pub type LoginReader =
    Arc<dyn Fn(&str) -> Result<BTreeMap<String, RegistryLogin>, String> + Send + Sync>;

/// What only builds of the legacy family ask for.
#[derive(Clone)]
pub struct LegacyAsk {
    /// The text of the Dockerfile.
    pub dockerfile: String,
    /// Reads what the client's sandbox has to show to registries.
    pub read_logins: LoginReader,
}

/// A client that waits in its sandbox for its build.
pub(super) struct Client {
    pub(super) news: OwnedWriteHalf,
    pub(super) hearing: Hearing,
}

/// What tells that a client has gone.
pub(super) struct Hearing {
    sandbox: SandboxId,
    asks: BufReader<OwnedReadHalf>,
    /// The bridge, which ends when this does.
    _bridge: RunStream,
}

// === impl Hearing ===

impl Hearing {
    /// Waits until the client does not wait any more.
    pub(super) async fn end(&mut self, builder: &Builder) {
        let mut rest = [0; 256];
        let silent = async {
            // It has nothing more to ask.
            while self.asks.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {}
        };
        tokio::select! {
            () = silent => {}
            () = builder.0.control.build_sandbox_ended(&self.sandbox) => {}
        }
    }
}

// === impl Builder ===

impl Builder {
    /// Returns the image that the client of a build creates its sandbox from.
    #[must_use]
    pub fn legacy_image(id: &BuildId) -> String {
        format!("{BUILDER_IMAGE}:{id}")
    }

    /// Returns the command that the client runs there.
    #[must_use]
    pub fn legacy_command() -> String {
        format!("{DAEMON_PATH} rootfs-build")
    }

    /// Registers the image of a build that is done, whatever becomes of the caller; again, it
    /// returns the same.
    ///
    /// # Errors
    /// Fails when there is no such build, it is not done, or the snapshot is not what it led to.
    pub async fn complete(
        &self,
        project: &ProjectId,
        id: &str,
        snapshot: &str,
    ) -> Result<ImageRecord, BuilderError> {
        let (builder, project) = (self.clone(), project.clone());
        let (id, snapshot) = (id.to_owned(), snapshot.to_owned());
        let work = async move { builder.register_built(&project, &id, &snapshot).await };
        self.finish("build_complete", work).await
    }

    async fn register_built(
        &self,
        project: &ProjectId,
        id: &str,
        snapshot: &str,
    ) -> Result<ImageRecord, BuilderError> {
        let _turn = self.0.turn.lock().await;
        let record = self.fetch(project, id)?.record;
        if record.family != ImageFamily::Legacy {
            return Err(BuilderError::NotFound(record.id.to_string()));
        }
        let other = |right: &dyn std::fmt::Display| {
            let text = format!("snapshotId: build {} led to {right}", record.id);
            Err(BuilderError::Context(text))
        };
        if let Some(image) = &record.image {
            return match image.snapshot.as_str() == snapshot {
                true => Ok(self.with_text(image)),
                false => other(&image.snapshot),
            };
        }
        let built = {
            let builds = self.0.builds.lock();
            builds.get(&record.id).and_then(|entry| entry.built.clone())
        };
        let Some(built) = built else {
            return Err(BuilderError::NotBuilt { id: record.id, status: record.status });
        };
        if built.snapshot.as_str() != snapshot {
            return other(&built.snapshot);
        }
        Ok(self.register(&record.id, built).await??)
    }

    /// Returns an image that a build led to with the text of its Dockerfile, which is not kept with
    /// the build, as long as it is the image of its name.
    fn with_text(&self, image: &ImageRecord) -> ImageRecord {
        let key = ImageKey::Id(image.id.clone());
        let now = self.0.control.image_fetch(&image.project, &key).ok();
        let same = now.filter(|now| now.snapshot == image.snapshot);
        same.unwrap_or_else(|| image.clone())
    }

    /// Says whether a build waits for a sandbox that nobody has created yet.
    pub(super) fn is_unmet(&self, record: &BuildRecord) -> bool {
        let builds = self.0.builds.lock();
        record.family == ImageFamily::Legacy
            && record.status == BuildStatus::Pending
            && builds.get(&record.id).is_some_and(|entry| entry.client.is_none())
    }

    /// Awaits the client of a build, and builds.
    pub(super) fn spawn_attend(&self, record: &BuildRecord) -> Result<(), BuilderError> {
        let name = Self::legacy_image(&record.id).parse::<ImageName>();
        let name = name.map_err(|bad| BuilderError::Unavailable(format!("its image: {bad}")))?;
        let awaited = self.0.control.build_await_sandbox(&record.project, &name);
        let (builder, record) = (self.clone(), record.clone());
        drop(self.0.tasks.spawn("build_attend", async move {
            if let Err(failed) = builder.attend(&record, awaited).await {
                tracing::error!(
                    build.id = %record.id, error = %failed, "a build cannot be changed in the store"
                );
            }
        }));
        Ok(())
    }

    async fn attend(
        &self,
        record: &BuildRecord,
        awaited: AwaitedSandbox,
    ) -> Result<(), BuilderError> {
        let met = tokio::select! {
            met = self.meet(record, awaited) => met,
            _ended = self.ended(&record.id) => return Ok(()),
            () = self.0.tasks.stopping() => return Ok(()),
        };
        let _turn = self.0.turn.lock().await;
        match met {
            Ok((client, kind, resources)) => {
                let deadline = self.0.clock.now().plus_secs(self.0.config.operation_secs);
                if self.record(&record.id).is_none_or(|now| now.status != BuildStatus::Pending) {
                    return Ok(());
                }
                self.change(&record.id, |record| {
                    record.kind = kind;
                    record.resources = resources;
                    record.status = BuildStatus::Running;
                    record.phase = BuildPhase::StartingBuilder;
                    record.deadline = deadline;
                })
                .await?;
                self.spawn_run(record.id.clone(), Some(client));
                Ok(())
            }
            // Whoever ended the build meanwhile has said why.
            Err(_) if self.record(&record.id).is_none_or(|now| now.status.is_terminal()) => Ok(()),
            Err(None) => self.end(&record.id, BuildStatus::Cancelled, None).await,
            Err(Some(failed)) => {
                if let StepError::Internal(detail) = &failed {
                    tracing::error!(build.id = %record.id, detail, "a build does not begin");
                }
                let text = super::run::text_of(&failed);
                self.end(&record.id, BuildStatus::Failed, Some(text)).await
            }
        }
    }

    /// Waits for the client's sandbox, and for what it asks. `None` as the error: it has gone.
    async fn meet(
        &self,
        record: &BuildRecord,
        mut awaited: AwaitedSandbox,
    ) -> Result<(Client, BuildKind, Resources), Option<StepError>> {
        let Some(sandbox) = awaited.created().await else { return Err(None) };
        if let Some(entry) = self.0.builds.lock().get_mut(&record.id) {
            entry.client = Some(sandbox.clone());
        }
        drop(awaited);
        let control = &self.0.control;
        let Ok(endpoint) = control.build_sandbox_ready(&sandbox).await else { return Err(None) };
        let Some(its) = control.build_sandbox_resources(&sandbox) else { return Err(None) };
        let bench = SandboxBench {
            control: control.clone(),
            tasks: self.0.tasks.clone(),
            project: record.project.clone(),
            id: sandbox.clone(),
            daemon: Daemon { address: endpoint.daemon, token: endpoint.token },
        };
        tokio::select! {
            met = self.hear(record, &bench, its) => met.map_err(Some),
            () = control.build_sandbox_ended(&sandbox) => Err(None),
        }
    }

    async fn hear(
        &self,
        record: &BuildRecord,
        bench: &SandboxBench,
        its: Resources,
    ) -> Result<(Client, BuildKind, Resources), StepError> {
        let (bridge, peer) = bench.copier(&["rootfs-bridge".to_owned()]).await?;
        let (asks, mut news) = peer.into_split();
        let mut asks = BufReader::new(asks);
        let mut line = String::new();
        let heard = (&mut asks).take(ROOTFS_LINE_BYTES).read_line(&mut line).await;
        heard.map_err(|error| StepError::Failed(format!("the builder sandbox: {error}")))?;
        let prepared = self.prepare(record, bench, &line).await;
        let hearing = Hearing { sandbox: bench.id.clone(), asks, _bridge: bridge };
        match prepared {
            Ok((kind, disk)) => {
                let resources = Resources { disk, gpus: None, ..its };
                Ok((Client { news, hearing }, kind, resources))
            }
            Err(failed) => {
                let line = format!("[error] {}", super::run::text_of(&failed));
                // If nobody hears it, the build's record says it.
                drop(send(&mut news, &RootfsNews::Line(line)).await);
                self.dismiss(Client { news, hearing }, false).await;
                Err(failed)
            }
        }
    }

    /// Takes what the client's sandbox has for its build.
    async fn prepare(
        &self,
        record: &BuildRecord,
        bench: &SandboxBench,
        line: &str,
    ) -> Result<(BuildKind, ByteSize), StepError> {
        let failed = |text: String| StepError::Failed(text);
        let ask: RootfsAsk = serde_json::from_str(line)
            .map_err(|bad| failed(format!("the builder sandbox asks for nothing: {bad}")))?;
        if ask.build_id != record.id.as_str() {
            return Err(failed(format!(
                "the spec is that of another build; this sandbox was created for {}",
                record.id
            )));
        }
        let read_logins = {
            let builds = self.0.builds.lock();
            let entry = builds.get(&record.id);
            entry.and_then(|it| it.legacy.as_ref()).map(|it| Arc::clone(&it.read_logins))
        };
        if let (Some(text), Some(read)) = (ask.docker_config, read_logins) {
            let logins = read(&text).map_err(failed)?;
            if let Some(entry) = self.0.builds.lock().get_mut(&record.id) {
                entry.logins = logins;
            }
        }
        let kind = match ask.import {
            Some(reference) => {
                let reference: ImageName = reference
                    .trim()
                    .parse()
                    .map_err(|bad| failed(format!("`{}`: {bad}", reference.trim())))?;
                BuildKind::Import { reference: reference.to_string() }
            }
            None => {
                let ask = CopyOut { sources: vec![ask.context_dir] };
                let parcel = bench.copy_out(&ask).await?;
                self.receive(&record.id, parcel).await?;
                record.kind.clone()
            }
        };
        Ok((kind, ByteSize::from_mib(ask.disk_bytes.div_ceil(1 << 20))))
    }

    /// Writes what comes out of a sandbox where contexts are.
    async fn receive(&self, id: &BuildId, parcel: Parcel) -> Result<(), StepError> {
        let broken = |error: std::io::Error| StepError::Internal(format!("take context: {error}"));
        let Parcel { stream, done } = parcel;
        let mut stream = BufReader::with_capacity(256 << 10, stream);
        // The archive stands for all that the head says.
        let mut head = Vec::new();
        (&mut stream).take(HEAD_BYTES).read_until(b'\n', &mut head).await.map_err(broken)?;
        let refused = |refused: BuilderError| StepError::Failed(refused.to_string());
        let mut incoming = self.incoming(id).await.map_err(refused)?;
        let mut file = fs::File::create(self.context_path(id)).await.map_err(broken)?;
        loop {
            let bytes = stream.fill_buf().await.map_err(broken)?;
            let count = bytes.len();
            if count == 0 {
                break;
            }
            incoming.take(count).await.map_err(refused)?;
            file.write_all(bytes).await.map_err(broken)?;
            stream.consume(count);
        }
        file.flush().await.map_err(broken)?;
        {
            // It may have ended just now, and what it had on the disk be removed.
            let _turn = self.0.turn.lock().await;
            self.awaiting(id).map_err(refused)?;
            incoming.keep();
        }
        drop(stream);
        match done.await {
            Ok(done) => done,
            Err(_gone) => Err(StepError::Internal("the context's source went away".to_owned())),
        }
    }

    /// Tells the client what became of its build. What was built is held until it is completed, or
    /// nobody is there any more to do that.
    pub(super) async fn conclude(
        &self,
        record: &BuildRecord,
        end: End,
        client: Client,
        mut cancelled: watch::Receiver<bool>,
    ) -> Result<(), BuilderError> {
        let Client { mut news, hearing } = client;
        let id = &record.id;
        let (outcome, dockerfile) = match end {
            End::Done(outcome, dockerfile) => (outcome, dockerfile),
            End::Failed(_) | End::Late | End::Cancelled => {
                let out_of_memory = matches!(end, End::Failed(StepError::OutOfMemory(_)));
                self.settle(record, end).await?;
                self.clear_at_last(id, None).await?;
                self.dismiss(Client { news, hearing }, out_of_memory).await;
                return Ok(());
            }
        };
        self.clear_at_last(id, None).await?;
        let metadata = self.hold(record, outcome, dockerfile).await?;
        drop(send(&mut news, &RootfsNews::Done(metadata)).await);
        tokio::select! {
            _ended = self.ended(id) => return Ok(()),
            () = self.0.control.build_sandbox_ended(&hearing.sandbox) => {}
            _ = cancelled.wait_for(|wanted| *wanted) => {}
            () = tokio::time::sleep(self.deadline_in(record.deadline)) => {}
            () = self.0.tasks.stopping() => return Ok(()),
        }
        let _turn = self.0.turn.lock().await;
        match self.record(id) {
            Some(now) if !now.status.is_terminal() => {
                self.end(id, BuildStatus::Cancelled, None).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Tells a client that its build failed, and lets it go once it has heard that.
    async fn dismiss(&self, client: Client, out_of_memory: bool) {
        let Client { mut news, mut hearing } = client;
        let told = async {
            send(&mut news, &RootfsNews::Failed { out_of_memory }).await?;
            news.shutdown().await?;
            hearing.end(self).await;
            Ok::<(), std::io::Error>(())
        };
        // Whoever has gone does not hear it.
        drop(tokio::time::timeout(LINE_PATIENCE, told).await);
    }

    async fn hold(
        &self,
        record: &BuildRecord,
        outcome: Outcome,
        dockerfile: Option<String>,
    ) -> Result<RootfsMetadata, BuilderError> {
        let _turn = self.0.turn.lock().await;
        let (size, disk) = self.0.control.build_sizes(&outcome.snapshot).await?;
        let metadata = RootfsMetadata {
            snapshot_id: outcome.snapshot.to_string(),
            snapshot_uri: format!("snapshot://{}", outcome.snapshot),
            snapshot_format_version: "durable_archive_v1".to_owned(),
            snapshot_size_bytes: size,
            rootfs_disk_bytes: disk,
            rootfs_node_kind: "base".to_owned(),
        };
        self.change(&record.id, |now| now.phase = BuildPhase::Publishing).await?;
        let built = publish_ask(record, outcome, dockerfile);
        if let Some(entry) = self.0.builds.lock().get_mut(&record.id) {
            entry.built = Some(built);
        }
        Ok(metadata)
    }
}

/// Repeats the log to a client, and returns what it is told the end by.
pub(super) async fn repeat(mut news: OwnedWriteHalf, mut lines: Lines) -> OwnedWriteHalf {
    while let Some(line) = lines.recv().await {
        if send(&mut news, &RootfsNews::Line(line)).await.is_err() {
            break;
        }
    }
    news
}

async fn send(news: &mut OwnedWriteHalf, said: &RootfsNews) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    let sent = tokio::time::timeout(LINE_PATIENCE, news.write_all(&line)).await;
    sent.unwrap_or_else(|_elapsed| Err(std::io::ErrorKind::TimedOut.into()))
}
