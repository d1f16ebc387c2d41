//! The way from an intent to a serving sandbox, and back.
//!
//! Claim or build: layer and slot side by side, then the runtime, then the daemon. Every step has
//! its undo in [`clean`], which is idempotent and serves failures, ends and restarts alike.

mod init;
mod policy;
mod steps;

use std::{error::Error, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use tarn_guest_api::{Continues, InitRequest, UnsealRequest};
use tarn_host::{Capture, ImageError, RootFs, Slot, SlotId, Template};
use tarn_node_api::Endpoint;
use tarn_runtime::{CpuShare, RuntimeExit, RuntimeSpec, Started};
use tarn_types::{
    DaemonToken, EgressPolicy, EndCause, FailedStep, Launch, SnapshotKind, StartFailure,
};
use tokio::sync::watch;

pub(crate) use self::policy::renew_policy;
use self::{init::init_request, policy::with_newest_policy, steps::Steps};
use crate::{
    capture::{Note, unseal, unseal_request},
    daemon::{self, DaemonError, knock},
    gpu,
    handle::Wanted,
    image,
    ledger::{Durability, Entry, Kept},
    prestart::Ready,
    remains, room,
    service::Shared,
    stage::{self, Stage},
};

/// How long a daemon may take from the runtime's start to its first answer.
const DAEMON_DEADLINE: Duration = Duration::from_secs(20);

/// Builds a sandbox up to its open daemon. On failure everything made is still to be cleaned.
pub(crate) async fn start(
    shared: &Arc<Shared>,
    entry: &mut Entry,
    wanted: watch::Receiver<Wanted>,
) -> Result<Endpoint, EndCause> {
    let source = find_source(shared, &entry.launch).await?;
    if let Some(ready) = shared.prestarts.take(&entry.id).await
        && let Some(claimed) = claim(shared, entry, &source, ready, &wanted).await
    {
        return claimed;
    }
    let template = &source.template;
    entry.template = Some(template.digest.clone());
    if let Some((_, note, _)) = source.memory() {
        // The memory knows which program its first process is.
        entry.tarnd = note.tarnd.clone();
    }
    build(shared, entry, &source, &wanted, Written::Beside).await
}

/// Makes a sandbox out of one that was started ahead; `None` if it is of no use. Then nothing of it
/// is left and the sandbox is built as any other.
async fn claim(
    shared: &Shared,
    entry: &mut Entry,
    source: &Source,
    ready: Ready,
    wanted: &watch::Receiver<Wanted>,
) -> Option<Result<Endpoint, EndCause>> {
    let mut steps = Steps::begin();
    let Ready { entry: ready, died } = ready;
    let fits = !died
        && ready.launch.resources == entry.launch.resources
        && ready.template.as_ref() == Some(&source.template.digest)
        && ready.tarnd == entry.tarnd
        && matches!(source.files, Files::New);
    (entry.slot, entry.started, entry.template) = (ready.slot, ready.started, ready.template);
    let claimed = match (fits, entry.slot, entry.started.clone()) {
        (true, Some(slot), Some(started)) => {
            let ((written, opened), policy) = {
                let write = shared.write(entry.clone(), Durability::Synced);
                let open = open(shared, entry, source, slot, &started, wanted.clone(), &mut steps);
                let both = pin!(async { tokio::join!(write, open) });
                with_newest_policy(shared, entry, wanted.clone(), both).await
            };
            entry.launch.egress = policy;
            steps.end(&entry.id, "what was beside");
            written.map_err(|bad| failed(FailedStep::Layer, &bad)).and(opened)
        }
        _ => Err(EndCause::StartFailed {
            step: FailedStep::Daemon,
            failure: StartFailure::Internal,
            message: "it has ended, or is not what is asked for".to_owned(),
        }),
    };
    match claimed {
        // What is wrong is what was asked for.
        Err(EndCause::StartFailed { failure: StartFailure::Configuration, .. }) | Ok(_) => {
            Some(claimed)
        }
        Err(cause) => {
            let message = cause.error_message();
            tracing::info!(
                sandbox.id = %entry.id, message, "one that was started ahead is of no use"
            );
            entry.started = None;
            match clean(shared, entry).await {
                Ok(()) => {
                    // Its end is not that of what is built now.
                    if let Some(handle) = shared.handles.read().get(&entry.id) {
                        handle.want(|wanted| wanted.exit = None);
                    }
                    None
                }
                Err(trouble) => {
                    tracing::warn!(sandbox.id = %entry.id, trouble, "and it is not removed");
                    Some(Err(cause))
                }
            }
        }
    }
}

/// Makes one that was started ahead somebody's. Its policy is in force before it knows of anything.
async fn open(
    shared: &Shared,
    entry: &Entry,
    source: &Source,
    slot: SlotId,
    started: &Started,
    wanted: watch::Receiver<Wanted>,
    steps: &mut Steps,
) -> Result<Endpoint, EndCause> {
    let (slots, runtime) = (&shared.parts.slots, &shared.parts.runtime);
    let policy = async {
        if entry.launch.egress == EgressPolicy::CLOSED {
            return Ok(());
        }
        slots.set_policy(slot, &entry.id, &entry.launch.egress).await
    };
    let (policy, promoted) = tokio::join!(policy, runtime.promote(&entry.id));
    policy.map_err(|bad| failed(FailedStep::Slot, &bad))?;
    promoted.map_err(|bad| failed(FailedStep::Start, &bad))?;
    steps.end(&entry.id, "policy and share");
    let request = init_request(shared, entry, source, None).await?;
    open_daemon(started.daemon, &request, wanted).await?;
    steps.end(&entry.id, "daemon init");
    Ok(Endpoint { daemon: started.daemon, token: entry.token.clone() })
}

/// When a new sandbox's ledger entry is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// While the runtime works: it must be on disk before anybody is told that the sandbox runs,
    /// not before it starts.
    Beside,
    /// Afterwards, by the caller: until then the one on disk says that it is suspended.
    Later,
}

/// Builds a sandbox from its source; from memory, once more if the runtime did not bring it back.
/// That has been seen to hang on a busy machine, and to work the next time.
async fn build(
    shared: &Arc<Shared>,
    entry: &mut Entry,
    source: &Source,
    wanted: &watch::Receiver<Wanted>,
    written: Written,
) -> Result<Endpoint, EndCause> {
    let first = build_once(shared, entry, source, wanted.clone(), written).await;
    let Err(EndCause::StartFailed { step: FailedStep::Restore, message, .. }) = &first else {
        return first;
    };
    tracing::warn!(sandbox.id = %entry.id, message, "memory was not restored; trying once more");
    if let Err(trouble) = clean(shared, entry).await {
        tracing::warn!(sandbox.id = %entry.id, trouble, "what a failed restore left is not removed");
        return first;
    }
    build_once(shared, entry, source, wanted.clone(), written).await
}

async fn build_once(
    shared: &Arc<Shared>,
    entry: &mut Entry,
    source: &Source,
    wanted: watch::Receiver<Wanted>,
    written: Written,
) -> Result<Endpoint, EndCause> {
    let _making = shared.prestarts.making();
    let mut steps = Steps::begin();
    let (rootfs, slot) = match take_stage(shared, entry, source).await {
        Some(stage) => {
            steps.end(&entry.id, "what was made before");
            let placed = move_in(shared, entry, stage).await?;
            steps.end(&entry.id, "policy");
            placed
        }
        None => {
            let placed = place(shared, entry, source).await?;
            steps.end(&entry.id, "layer and slot");
            placed
        }
    };
    let gpus = gpu::equip(shared, entry).await?;
    renew_policy(shared, entry, &wanted).await.map_err(|bad| failed(FailedStep::Slot, &bad))?;
    let spec = RuntimeSpec { gpus, ..runtime_spec(shared, entry, &rootfs, &slot) };
    let ((written, ran), policy) = {
        let write = async {
            match written {
                Written::Beside => shared.write(entry.clone(), Durability::Synced).await,
                Written::Later => Ok(()),
            }
        };
        let ran = run(shared, entry, &spec, source, wanted.clone(), &mut steps);
        let both = pin!(async { tokio::join!(write, ran) });
        with_newest_policy(shared, entry, wanted, both).await
    };
    entry.launch.egress = policy;
    steps.end(&entry.id, "what was beside");
    written.map_err(|bad| failed(FailedStep::Layer, &bad))?;
    let (started, endpoint) = ran?;
    entry.started = Some(started);
    Ok(endpoint)
}

/// Takes the stage that was made under a sandbox's id. What is not what the sandbox is restored
/// into is removed, and all is made anew.
async fn take_stage(shared: &Arc<Shared>, entry: &Entry, source: &Source) -> Option<Stage> {
    let stage = stage::take(shared, &entry.id).await?;
    let fits = source.capture_of(entry) == Some(&stage.capture)
        && stage.entry.launch.resources == entry.launch.resources
        && stage.entry.template.as_ref() == Some(&source.template.digest)
        && stage.entry.tarnd == entry.tarnd;
    if fits {
        return Some(stage);
    }
    tracing::info!(sandbox.id = %entry.id, "what was made ready is not what is asked for");
    // What resists is in the way of what is built now, which says so.
    drop(remains::remove(shared, stage.entry).await);
    None
}

/// Makes a stage a sandbox's. Its policy is in force before anything is in it.
async fn move_in(
    shared: &Shared,
    entry: &mut Entry,
    stage: Stage,
) -> Result<(RootFs, Slot), EndCause> {
    entry.slot = Some(stage.slot.id);
    if entry.launch.egress != EgressPolicy::CLOSED {
        let policy = &entry.launch.egress;
        let set = shared.parts.slots.set_policy(stage.slot.id, &entry.id, policy).await;
        set.map_err(|bad| failed(FailedStep::Slot, &bad))?;
    }
    Ok((stage.rootfs, stage.slot))
}

/// Brings a suspended sandbox back from its capture, or boots it from its layer. On failure
/// everything made is still to be cleaned, and the capture is as it was.
pub(crate) async fn resume_cold(
    shared: &Arc<Shared>,
    entry: &mut Entry,
    wanted: watch::Receiver<Wanted>,
) -> Result<Endpoint, String> {
    let source = match entry.kept() {
        Some(Kept::Layer) => own_files(shared, entry).await?,
        Some(Kept::Capture) | None => own_capture(shared, entry).await?,
    };
    let built = build(shared, entry, &source, &wanted, Written::Later).await;
    built.map_err(|cause| cause.error_message().unwrap_or_default())
}

/// Removes everything of a sandbox from the host but what it goes on from. What cannot be removed
/// now is said, and the call may be repeated.
pub(crate) async fn clean(shared: &Shared, entry: &mut Entry) -> Result<(), String> {
    let mut trouble = Vec::new();
    if let Err(bad) = shared.parts.runtime.delete(&entry.id).await {
        // Its processes may still use layer and slot.
        return Err(chain(&bad));
    }
    if let Some(slot) = entry.slot.take() {
        shared.parts.slots.release(slot, &entry.id).await;
    }
    entry.gpus.clear();
    shared.gpus.release(&entry.id).await;
    let layers = &shared.parts.layers;
    let removed = match entry.kept() {
        // All that there is of it.
        Some(Kept::Layer) => layers.close(&entry.id).await,
        Some(Kept::Capture) | None => layers.release(&entry.id).await,
    };
    if let Err(bad) = removed {
        trouble.push(chain(&bad));
    }
    if trouble.is_empty() { Ok(()) } else { Err(trouble.join("; ")) }
}

/// Makes what the runtime must be told; the same for a new sandbox and for an adopted one.
pub(crate) fn runtime_spec(
    shared: &Shared,
    entry: &Entry,
    rootfs: &RootFs,
    slot: &Slot,
) -> RuntimeSpec {
    RuntimeSpec {
        id: entry.id.clone(),
        rootfs: rootfs.path.clone(),
        netns: slot.netns.clone(),
        address: slot.address,
        hostname: shared.config.hostname.clone(),
        resources: entry.launch.resources,
        tarnd: entry.tarnd.clone(),
        processes: shared.config.processes,
        share: CpuShare::Own,
        gpus: None,
    }
}

async fn find_template(shared: &Shared, launch: &Launch) -> Result<Template, EndCause> {
    image::find_template(shared, &launch.image).await.map_err(|bad| {
        let failure = match bad {
            ImageError::NotFound { .. }
            | ImageError::NotBuilt { .. }
            | ImageError::Unusable { .. }
            | ImageError::Pull { .. } => StartFailure::Image,
        };
        EndCause::StartFailed { step: FailedStep::Image, failure, message: chain(&bad) }
    })
}

/// What a sandbox is made from.
pub(crate) struct Source {
    template: Template,
    files: Files,
}

/// What the files of a sandbox are.
enum Files {
    /// Those of its template.
    New,
    /// Those of a capture, and whatever else that has.
    Captured {
        capture: Capture,
        /// What its maker wrote down.
        note: Box<Note>,
        /// What the sandbox is, if there is memory.
        continues: Continues,
    },
    /// Those that it has already.
    Own,
}

impl Source {
    /// Finds the template that a launch names.
    pub(crate) async fn of_template(shared: &Shared, launch: &Launch) -> Result<Self, EndCause> {
        Ok(Self { template: find_template(shared, launch).await?, files: Files::New })
    }

    /// Finds what a capture of memory was made over, and what its maker wrote down.
    pub(crate) async fn of_memory(shared: &Shared, name: &str) -> Result<(Self, Note), String> {
        let (capture, note) = open_capture(shared, name).await?;
        if note.kind != SnapshotKind::Memory {
            return Err("it holds no memory".to_owned());
        }
        let template = shared.parts.images.resolve_digest(&note.template, note.image_name()).await;
        let template = template.map_err(|bad| chain(&bad))?;
        let (held, continues) = (Box::new(note.clone()), Continues::Copy);
        let files = Files::Captured { capture, note: held, continues };
        Ok((Self { template, files }, note))
    }

    /// Returns the name of the capture whose memory a sandbox is restored from.
    fn capture_of<'a>(&self, entry: &'a Entry) -> Option<&'a str> {
        match self.memory()?.2 {
            Continues::Suspended => Some(entry.id.as_str()),
            Continues::Copy => Some(entry.launch.restore.as_ref()?.snapshot.as_str()),
            Continues::Itself => None,
        }
    }

    pub(crate) fn digest(&self) -> &str {
        &self.template.digest
    }

    /// Returns the capture if it holds memory, and what the sandbox is that goes on from it.
    fn memory(&self) -> Option<(&Capture, &Note, Continues)> {
        match &self.files {
            Files::Captured { capture, note, continues } if note.kind == SnapshotKind::Memory => {
                Some((capture, note, *continues))
            }
            Files::Captured { .. } | Files::New | Files::Own => None,
        }
    }
}

/// Finds what a suspend wrote down.
async fn own_capture(shared: &Shared, entry: &Entry) -> Result<Source, String> {
    let (capture, note) = open_capture(shared, entry.id.as_str()).await?;
    let template = shared.parts.images.resolve_digest(&note.template, note.image_name()).await;
    let template = template.map_err(|bad| chain(&bad))?;
    let (note, continues) = (Box::new(note), Continues::Suspended);
    Ok(Source { template, files: Files::Captured { capture, note, continues } })
}

/// Finds what the restart of the host left.
async fn own_files(shared: &Shared, entry: &mut Entry) -> Result<Source, String> {
    let image = &entry.launch.image;
    let template = match &entry.template {
        Some(digest) => shared.parts.images.resolve_digest(digest, &image.name).await,
        None => image::find_template(shared, image).await,
    };
    let template = template.map_err(|bad| chain(&bad))?;
    // Nothing of it remembers an older one.
    entry.tarnd = shared.config.tarnd.clone();
    Ok(Source { template, files: Files::Own })
}

async fn find_source(shared: &Shared, launch: &Launch) -> Result<Source, EndCause> {
    let Some(restore) = &launch.restore else {
        return Source::of_template(shared, launch).await;
    };
    let (capture, note) = open_capture(shared, restore.snapshot.as_str())
        .await
        .map_err(|message| no_snapshot(format!("snapshot {}: {message}", restore.snapshot)))?;
    let template = shared
        .parts
        .images
        .resolve_digest(&note.template, note.image_name())
        .await
        .map_err(|bad| no_snapshot(chain(&bad)))?;
    let (note, continues) = (Box::new(note), Continues::Copy);
    Ok(Source { template, files: Files::Captured { capture, note, continues } })
}

/// Opens a capture and checks that its memory, if it has any, can go on here.
pub(crate) async fn open_capture(shared: &Shared, name: &str) -> Result<(Capture, Note), String> {
    let capture = shared.parts.captures.open(name).await.map_err(|bad| chain(&bad))?;
    let note = Note::of(&capture)?;
    match note.obstacle(&shared.parts.runtime.image_facts()) {
        None => Ok((capture, note)),
        Some(obstacle) => Err(obstacle),
    }
}

fn no_snapshot(message: String) -> EndCause {
    let failure = StartFailure::Internal;
    EndCause::StartFailed { step: FailedStep::Snapshot, failure, message }
}

/// Makes the layer of a sandbox and claims its slot, where nothing else is left under its id.
pub(crate) async fn place(
    shared: &Shared,
    entry: &mut Entry,
    source: &Source,
) -> Result<(RootFs, Slot), EndCause> {
    remains::clear(shared, &entry.id).await.map_err(|trouble| in_the_way(&trouble))?;
    let disk = entry.launch.resources.disk;
    let (layers, template) = (&shared.parts.layers, &source.template);
    let layer = async {
        match &source.files {
            Files::New => layers.build(&entry.id, template, disk).await,
            Files::Captured { capture, .. } => {
                layers.build_from(&entry.id, template, &capture.layer, disk).await
            }
            Files::Own => layers.reopen(&entry.id, template, disk).await,
        }
    };
    let slot = shared.parts.slots.claim(&entry.id, &entry.launch.egress);
    let (layer, slot) = tokio::join!(layer, slot);
    // Whatever was claimed is known before anything fails, so that it is released again.
    if let Ok(slot) = &slot {
        entry.slot = Some(slot.id);
    }
    let slot = slot.map_err(|bad| failed(FailedStep::Slot, &bad))?;
    let layer = layer.map_err(|bad| failed(FailedStep::Layer, &bad))?;
    Ok((layer, slot))
}

async fn run(
    shared: &Shared,
    entry: &Entry,
    spec: &RuntimeSpec,
    source: &Source,
    wanted: watch::Receiver<Wanted>,
    steps: &mut Steps,
) -> Result<(Started, Endpoint), EndCause> {
    let runtime = &shared.parts.runtime;
    let endpoint =
        |started: &Started| Endpoint { daemon: started.daemon, token: entry.token.clone() };
    if let Some((capture, note, continues)) = source.memory() {
        let started = runtime.restore(spec, &capture.memory).await;
        let started = started.map_err(|bad| failed(FailedStep::Restore, &bad))?;
        steps.end(&entry.id, "runtime restore");
        let sealed = Endpoint { daemon: started.daemon, token: note.token.clone() };
        let request = unseal_request(shared, &entry.id, continues, &entry.token);
        let full = room::gone(shared.room.subscribe());
        unseal_new(&sealed, &entry.token, &request, wanted, full).await?;
        steps.end(&entry.id, "daemon unseal");
        let endpoint = endpoint(&started);
        return Ok((started, endpoint));
    }
    let request = init_request(shared, entry, source, spec.gpus.as_ref()).await?;
    runtime.create(spec).await.map_err(|bad| failed(FailedStep::Create, &bad))?;
    steps.end(&entry.id, "runtime create");
    let started = runtime.start(&entry.id).await.map_err(|bad| failed(FailedStep::Start, &bad))?;
    steps.end(&entry.id, "runtime start");
    open_daemon(started.daemon, &request, wanted).await?;
    steps.end(&entry.id, "daemon init");
    let endpoint = endpoint(&started);
    Ok((started, endpoint))
}

/// Knocks until the daemon is open, the sandbox has ended by itself, or the deadline has passed.
async fn open_daemon(
    daemon: SocketAddr,
    request: &InitRequest,
    mut wanted: watch::Receiver<Wanted>,
) -> Result<(), EndCause> {
    let knock = knock(|| daemon::init(daemon, request));
    let answered = tokio::select! {
        answered = tokio::time::timeout(DAEMON_DEADLINE, knock) => answered,
        exit = exited(&mut wanted) => return Err(died_at_start(exit.as_ref())),
    };
    match answered {
        Err(_elapsed) => Err(EndCause::StartFailed {
            step: FailedStep::Daemon,
            failure: StartFailure::Internal,
            message: format!("no answer within {} s", DAEMON_DEADLINE.as_secs()),
        }),
        Ok(Ok(_opened)) => Ok(()),
        Ok(Err(DaemonError::Configuration(message))) => Err(EndCause::StartFailed {
            step: FailedStep::Init,
            failure: StartFailure::Configuration,
            message,
        }),
        Ok(Err(bad)) => Err(failed(FailedStep::Init, &bad)),
    }
}

async fn exited(wanted: &mut watch::Receiver<Wanted>) -> Option<RuntimeExit> {
    match wanted.wait_for(|wanted| wanted.exit.is_some()).await {
        Ok(wanted) => wanted.exit.clone(),
        Err(_handle_gone) => None,
    }
}

/// Tells a restored daemon who it is now.
async fn unseal_new(
    sealed: &Endpoint,
    token: &DaemonToken,
    request: &UnsealRequest,
    mut wanted: watch::Receiver<Wanted>,
    full: impl Future<Output = ()>,
) -> Result<(), EndCause> {
    let not_unsealed = |message| {
        let (step, failure) = (FailedStep::Init, StartFailure::Internal);
        EndCause::StartFailed { step, failure, message }
    };
    tokio::select! {
        biased;
        unsealed = unseal(sealed, token, request) => unsealed.map_err(not_unsealed),
        // Its programs run already, and nobody could freeze them before its daemon answers.
        () = full => Err(not_unsealed(room::STOOD_STILL.to_owned())),
        exit = exited(&mut wanted) => Err(died_at_start(exit.as_ref())),
    }
}

fn died_at_start(exit: Option<&RuntimeExit>) -> EndCause {
    let message = match exit {
        Some(RuntimeExit::OutOfMemory) => "it ran out of memory before its daemon answered",
        Some(RuntimeExit::Died(reason)) => reason,
        None => "it ended before its daemon answered",
    };
    EndCause::StartFailed {
        step: FailedStep::Daemon,
        failure: StartFailure::Internal,
        message: message.to_owned(),
    }
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn in_the_way(trouble: &str) -> EndCause {
    let (step, failure) = (FailedStep::Layer, StartFailure::Internal);
    let message = format!("what was made under its id before is not removed yet: {trouble}");
    EndCause::StartFailed { step, failure, message }
}

pub(crate) fn failed(step: FailedStep, bad: &(dyn Error + 'static)) -> EndCause {
    EndCause::StartFailed { step, failure: StartFailure::Internal, message: chain(bad) }
}

/// Writes an error and its causes in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
