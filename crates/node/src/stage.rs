//! Stages: all of a sandbox but its memory, made before anybody asks for the restore.
//!
//! ```text
//!  building ──▶ ready ──▶ reserved ──▶ taken: memory is restored into it
//!      └──────────┴──────────┴──▶ removed
//! ```
//!
//! A stage belongs to one capture, because the layer below it is a clone of that capture's. That of
//! a snapshot has an id of its own, which becomes the id of the sandbox that is restored into it.
//! That of a suspended sandbox is made under the sandbox's id, so nobody else can have it.
//!
//! The ledger knows nothing of stages. What a killed server leaves of one is a stray under an id
//! that nobody has, or the remains of a suspended sandbox, which the next server removes before
//! that is brought back. So none is ever taken twice. See decision 37.

mod shelf;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tarn_host::{RootFs, Slot};
use tarn_runtime::CpuShare;
use tarn_scheduler::{StageRule, stages};
use tarn_types::{EgressPolicy, Generation, Launch, ProjectId, SandboxId, SnapshotId};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use self::shelf::{Next, Shelf, Surroundings, Taken, Use};
use crate::{
    ahead::AheadCounts,
    ledger::Entry,
    prestart::has_disk,
    remains,
    room::Room,
    sandbox::blank_entry,
    service::Shared,
    start::{self, Source, chain},
};

/// How often the shelf is looked at when nothing happens, and while what is in the way may end.
const LOOK: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_millis(200);

/// The stages of a node.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    shelf: Mutex<Shelf>,
    /// Wakes who keeps the shelf.
    changed: Notify,
    /// Changes whenever one is gone, or is built.
    moved: watch::Sender<u64>,
}

/// A whole stage.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Never written to the ledger.
    pub(crate) entry: Entry,
    /// The capture that it is for.
    pub(crate) capture: String,
    pub(crate) rootfs: RootFs,
    pub(crate) slot: Slot,
}

/// Why there is no stage, and what there is of one.
struct Unmade {
    trouble: String,
    left: Option<Box<Entry>>,
}

// === impl Stages ===

impl Stages {
    /// Notes a new snapshot of memory.
    pub(crate) fn note_taken(&self, snapshot: &SnapshotId) {
        self.shelf.lock().note_taken(snapshot.as_str());
        self.changed.notify_one();
    }

    /// Notes a suspended sandbox whose processes are gone.
    pub(crate) fn note_suspended(&self, id: &SandboxId) {
        self.shelf.lock().note_suspended(id);
        self.changed.notify_one();
    }

    /// Forgets a capture that is removed; what is reserved stays.
    pub(crate) fn forget(&self, capture: &str) {
        self.shelf.lock().forget(capture);
        self.changed.notify_one();
    }

    /// Reserves one of a snapshot for a restore; says whether it is still being built.
    fn reserve(&self, snapshot: &SnapshotId) -> Option<(SandboxId, bool)> {
        let found = self.shelf.lock().reserve(snapshot.as_str());
        self.changed.notify_one();
        found
    }

    /// Gives back what was reserved for a sandbox that is not created after all.
    pub(crate) fn give_back(&self, id: &SandboxId) {
        self.shelf.lock().give_back(id);
        self.changed.notify_one();
    }

    /// Returns the digests of the templates that stages are made of.
    pub(crate) fn templates(&self) -> Vec<String> {
        self.shelf.lock().templates()
    }

    pub(crate) fn counts(&self) -> AheadCounts {
        self.shelf.lock().counts()
    }

    fn note_gone(&self, id: &SandboxId) {
        self.shelf.lock().note_gone(id);
        self.moved.send_modify(|count| *count += 1);
        self.changed.notify_one();
    }
}

/// Reserves a stage for a restore: one that is ready, or else one that is being built, which is not
/// kept waiting for others from now on.
pub(crate) async fn reserve(shared: &Shared, snapshot: &SnapshotId) -> Option<SandboxId> {
    let (id, building) = shared.stages.reserve(snapshot)?;
    if building && let Err(early) = shared.parts.runtime.promote(&id).await {
        tracing::debug!(sandbox.id = %id, error = chain(&early), "not promoted yet");
    }
    Some(id)
}

/// Hands over the stage that was made under an id, to be restored into. While it is being built or
/// removed this waits; none is built under that id from now on.
pub(crate) async fn take(shared: &Shared, id: &SandboxId) -> Option<Stage> {
    take_for(shared, id, Use::Restore).await
}

async fn take_for(shared: &Shared, id: &SandboxId, purpose: Use) -> Option<Stage> {
    let mut moved = shared.stages.moved.subscribe();
    let mut hurried = false;
    loop {
        let taken = shared.stages.shelf.lock().take(id, purpose);
        match taken {
            Taken::Stage(stage) => {
                shared.stages.changed.notify_one();
                return Some(*stage);
            }
            Taken::Nothing => return None,
            Taken::Later if !hurried => {
                hurried = true;
                if let Err(early) = shared.parts.runtime.promote(id).await {
                    tracing::debug!(sandbox.id = %id, error = chain(&early), "not promoted yet");
                }
            }
            Taken::Later => {}
        }
        if moved.changed().await.is_err() {
            return None;
        }
    }
}

/// Begins to make stages for copies that are about to be made of a capture: as many as there are
/// CPUs, since more would only keep each other waiting.
pub(crate) fn begin_copies(shared: &Arc<Shared>, capture: &SnapshotId, copies: u32) {
    let cores = (shared.config.cpu.milli() / 1000).max(1);
    let most = shared.config.stages.most;
    if most == 0 || shared.parts.tasks.is_stopping() || !shared.remains.are_few() {
        return;
    }
    let new = || SandboxId::from_random(shared.parts.entropy.bytes());
    let begun = shared.stages.shelf.lock().begin_copies(capture.as_str(), copies.min(cores), new);
    for id in begun {
        spawn_build(shared, id, capture.as_str().to_owned());
    }
}

/// Removes the stage of a sandbox, if there is one, and has none made. What cannot be removed is
/// said, and the call may be repeated.
pub(crate) async fn withdraw(shared: &Arc<Shared>, id: &SandboxId) -> Result<(), String> {
    match take_for(shared, id, Use::Removal).await {
        Some(stage) => remains::remove(shared, stage.entry).await,
        None => remains::clear(shared, id).await,
    }
}

/// Keeps the stages that are wanted until the server stops, and removes them then.
pub(crate) async fn keep(shared: Arc<Shared>, rule: StageRule) {
    let tasks = shared.parts.tasks.clone();
    let stopping = tasks.stopping();
    tokio::pin!(stopping);
    loop {
        let around = look_around(&shared, &rule).await;
        let pause = loop {
            let id = || SandboxId::from_random(shared.parts.entropy.bytes());
            let next = shared.stages.shelf.lock().next(&around, id);
            match next {
                Next::Rest => break LOOK,
                Next::Wait(least) => break least.max(SOON),
                Next::Build(id, capture) => spawn_build(&shared, id, capture),
                Next::Remove(stage) => remove(&shared, stage.entry).await,
            }
        };
        tokio::select! {
            () = &mut stopping => break,
            () = shared.stages.changed.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    remove_all(&shared).await;
}

async fn look_around(shared: &Shared, rule: &StageRule) -> Surroundings {
    let (captures, demands, ready) = shared.stages.shelf.lock().demands();
    let memory = shared.parts.memory.read();
    let targets = stages(rule, &demands, ready, memory.total, memory.available);
    let short = *shared.room.borrow() != Room::Enough;
    let room = has_disk(shared).await && !short && shared.remains.are_few();
    Surroundings {
        targets: captures.into_iter().zip(targets).collect(),
        may_build: room && !shared.parts.tasks.is_stopping(),
        // Whoever waits for a sandbox comes first.
        busy: shared.prestarts.is_making(),
    }
}

fn spawn_build(shared: &Arc<Shared>, id: SandboxId, capture: String) {
    let own = Arc::clone(shared);
    drop(shared.parts.tasks.spawn("stage", async move { build(&own, id, capture).await }));
}

async fn build(shared: &Arc<Shared>, id: SandboxId, capture: String) {
    let begun = Instant::now();
    let made = make(shared, &id, &capture).await;
    let stopping = shared.parts.tasks.is_stopping();
    let useless = match made {
        Ok(stage) => shared.stages.shelf.lock().note_built(stage, begun.elapsed(), stopping),
        Err(Unmade { trouble, left }) => {
            if !stopping {
                tracing::warn!(
                    capture,
                    trouble,
                    "nothing was made ready for a restore; those go on without"
                );
            }
            shared.stages.shelf.lock().note_failed(&id, &capture);
            match left {
                Some(left) => Some(*left),
                None => return shared.stages.note_gone(&id),
            }
        }
    };
    match useless {
        Some(entry) => remove(shared, entry).await,
        None => {
            shared.stages.moved.send_modify(|count| *count += 1);
            shared.stages.changed.notify_one();
        }
    }
}

async fn make(shared: &Shared, id: &SandboxId, capture: &str) -> Result<Stage, Unmade> {
    let found = Source::of_memory(shared, capture).await;
    let (source, note) = found.map_err(|trouble| Unmade { trouble, left: None })?;
    let launch = Launch {
        image: note.captured.image.clone(),
        resources: note.captured.resources,
        entrypoint: None,
        egress: EgressPolicy::CLOSED,
        named: false,
        timeout_secs: 0,
        restore: None,
        claimed_at: None,
        secret_names: Vec::new(),
    };
    let nobody = ProjectId::from_random([0; 16]);
    let mut entry = blank_entry(shared, id.clone(), nobody, Generation::FIRST, launch);
    entry.tarnd = note.tarnd;
    entry.template = Some(source.digest().to_owned());
    match fit_out(shared, &mut entry, &source).await {
        Ok((rootfs, slot)) => Ok(Stage { entry, capture: capture.to_owned(), rootfs, slot }),
        Err(trouble) => Err(Unmade { trouble, left: Some(Box::new(entry)) }),
    }
}

async fn fit_out(
    shared: &Shared,
    entry: &mut Entry,
    source: &Source,
) -> Result<(RootFs, Slot), String> {
    let placed = start::place(shared, entry, source).await;
    let (rootfs, slot) = placed.map_err(|cause| cause.error_message().unwrap_or_default())?;
    let mut spec = start::runtime_spec(shared, entry, &rootfs, &slot);
    if !shared.stages.shelf.lock().is_promised(&entry.id) {
        spec.share = CpuShare::Least;
    }
    shared.parts.runtime.stage(&spec).await.map_err(|bad| chain(&bad))?;
    Ok((rootfs, slot))
}

/// Removes what is noted as leaving. What resists leaves the shelf, too, and is removed in the
/// background: whoever waits for its id finds what is left of it.
async fn remove(shared: &Arc<Shared>, entry: Entry) {
    let id = entry.id.clone();
    drop(remains::remove(shared, entry).await);
    shared.stages.note_gone(&id);
}

/// Removes all, side by side: the server waits for it.
async fn remove_all(shared: &Arc<Shared>) {
    let all = shared.stages.shelf.lock().take_all();
    let removals: Vec<_> = all
        .into_iter()
        .map(|stage| {
            let own = Arc::clone(shared);
            let removal = async move { remove(&own, stage.entry).await };
            shared.parts.tasks.spawn("stage", removal)
        })
        .collect();
    for removal in removals {
        // It says itself what it could not remove.
        drop(removal.await);
    }
}
