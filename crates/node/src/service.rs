//! The node as control sees it, and the start of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tarn_host::{CaptureError, Captures, Gpus, Images, LayerError, Layers, SlotError, Slots};
use tarn_node_api::{
    ApplyError, ArchiveOrder, ArchiveView, CaptureOrder, DiscardError, Endpoint, GpuView,
    HeldSnapshot, LogSink, Node, NodeIntent, NodeTarget, NodeView, Report, ReportSink,
    SecretSource, Unfound, VerifyError,
};
use tarn_route_api::ActivityGauge;
use tarn_runtime::{Runtime, RuntimeError, RuntimeEvent};
use tarn_scheduler::StageRule;
use tarn_task::{Clock, Entropy, Tasks};
use tarn_types::{
    BootId, BootImage, ByteSize, Generation, ImageDigest, MilliCpu, NetworkLog, NodeId, Observed,
    ObservedPhase, Pace, Resources, SandboxId, SnapshotId,
};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::{
    adopt,
    ahead::AheadCounts,
    archive::{self, NodeArchive, TransferCounts, Transfers, Upload},
    capture::Note,
    daemon,
    gauge::MemoryGauge,
    gpu::GpuTable,
    handle::Handle,
    image,
    ledger::{Durability, Entry, Ledger, LedgerError},
    log::{self, LogRate},
    prestart::{self, PrestartConfig, Prestarts},
    remains::Remains,
    room::{self, Room},
    sandbox::SandboxTask,
    stage::{self, Stages},
    start::chain,
    suspend::report_capture,
};

/// How long a daemon is waited for that hangs for want of memory; the runtime gives up sooner.
const RELIEF_PATIENCE: Duration = Duration::from_secs(5);

/// The numbers of a node; all are configuration.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its id, kept in the store.
    pub id: NodeId,
    /// Where the ledger lies.
    pub ledger_dir: PathBuf,
    /// The host's copy of `tarnd` for new sandboxes.
    pub tarnd: PathBuf,
    /// The host name inside every sandbox.
    pub hostname: String,
    /// The most processes inside one sandbox.
    pub processes: u32,
    /// The CPUs of the host.
    pub cpu: MilliCpu,
    /// The running boot of the host.
    pub boot_id: BootId,
    /// How long an orphaned sandbox is kept, in seconds.
    pub orphan_grace_secs: u64,
    /// How long the processes of a suspended sandbox are kept, memory permitting; 0 = not at all.
    pub keep_warm: Duration,
    /// How fast the output of each sandbox is read to be persisted.
    pub log_rate: LogRate,
    /// How many sandboxes are started before anybody asks.
    pub prestart: PrestartConfig,
    /// How much is made ready before anybody restores memory.
    pub stages: StageRule,
}

/// What a node works with.
#[derive(Clone)]
pub struct NodeParts {
    /// Drives the sandboxes.
    pub runtime: Arc<dyn Runtime>,
    /// Finds templates.
    pub images: Arc<dyn Images>,
    /// Makes root file systems.
    pub layers: Arc<dyn Layers>,
    /// Keeps snapshots, and what suspended sandboxes were.
    pub captures: Arc<dyn Captures>,
    /// Keeps snapshots away from the node, too, if there is an object store.
    pub archive: Option<NodeArchive>,
    /// Tells what went to a sandbox through the ingress.
    pub activity: Arc<dyn ActivityGauge>,
    /// Hands out network places.
    pub slots: Arc<dyn Slots>,
    /// Finds the GPUs.
    pub gpus: Arc<dyn Gpus>,
    /// Tells how much memory is left.
    pub memory: Arc<dyn MemoryGauge>,
    /// Takes the reports.
    pub sink: Arc<dyn ReportSink>,
    /// Takes what processes print.
    pub log_sink: Arc<dyn LogSink>,
    /// Knows the secrets of sandboxes.
    pub secrets: Arc<dyn SecretSource>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The source of tokens.
    pub entropy: Arc<dyn Entropy>,
    /// Where sandboxes' tasks run.
    pub tasks: Tasks,
}

/// Says why a node cannot start. Nothing was removed then.
#[derive(Debug, Error)]
pub enum NodeStartError {
    /// The ledger cannot be read.
    #[error("read the ledger")]
    Ledger(#[from] LedgerError),
    /// The slots of the host cannot be put in order.
    #[error("put the network slots in order")]
    Slots(#[from] SlotError),
    /// The layers of the host cannot be listed.
    #[error("list the layers")]
    Layers(#[from] LayerError),
    /// The sandboxes of the runtime cannot be listed.
    #[error("list the runtime's sandboxes")]
    Runtime(#[from] RuntimeError),
}

/// A node. Clones share it.
#[derive(Clone)]
pub struct NodeService(pub(crate) Arc<Shared>);

/// What every sandbox's task shares.
pub(crate) struct Shared {
    pub(crate) config: NodeConfig,
    pub(crate) parts: NodeParts,
    pub(crate) ledger: Ledger,
    pub(crate) handles: RwLock<HashMap<SandboxId, Arc<Handle>>>,
    pub(crate) starts_in_flight: AtomicU32,
    /// The sandboxes whose ledger entries cannot be read, and why not.
    pub(crate) unreadable: Mutex<BTreeMap<SandboxId, String>>,
    /// Snapshots whose memory was seen to fit this host: neither changes while the server runs.
    pub(crate) fitting: Mutex<HashSet<SnapshotId>>,
    /// Whether sandboxes may write to the pool.
    pub(crate) room: watch::Sender<Room>,
    /// Bounds the batches of lines that are in memory.
    pub(crate) log_room: Arc<Semaphore>,
    pub(crate) transfers: Transfers,
    /// What was started before anybody asked.
    pub(crate) prestarts: Prestarts,
    /// What was made ready for restores.
    pub(crate) stages: Stages,
    /// What nobody has and could not be removed yet.
    pub(crate) remains: Remains,
    /// Who has which GPU.
    pub(crate) gpus: Arc<GpuTable>,
}

// === impl Shared ===

impl Shared {
    /// Writes a ledger entry on the blocking pool.
    pub(crate) async fn write(
        &self,
        entry: Entry,
        durability: Durability,
    ) -> Result<(), LedgerError> {
        let ledger = self.ledger.clone();
        let write = self.parts.tasks.spawn_blocking(move || ledger.write(&entry, durability));
        flatten(write.await)
    }

    /// Removes a ledger entry on the blocking pool.
    pub(crate) async fn remove(&self, id: SandboxId) -> Result<(), LedgerError> {
        let ledger = self.ledger.clone();
        flatten(self.parts.tasks.spawn_blocking(move || ledger.remove(&id)).await)
    }

    /// Tells control where a sandbox is.
    pub(crate) async fn report(
        &self,
        id: &SandboxId,
        observed: Observed,
        endpoint: Option<Endpoint>,
    ) {
        let report = Report { id: id.clone(), node: self.config.id.clone(), observed, endpoint };
        self.parts.sink.report(report).await;
    }
}

fn flatten(
    joined: Result<Result<(), LedgerError>, tokio::task::JoinError>,
) -> Result<(), LedgerError> {
    joined.unwrap_or_else(|lost| {
        let source = std::io::Error::other(lost.to_string());
        Err(LedgerError::Io { step: "write", path: PathBuf::from("ledger"), source })
    })
}

// === impl NodeService ===

impl NodeService {
    /// Adopts what the ledger knows, removes what only the host knows, and begins to listen to
    /// the runtime.
    ///
    /// # Errors
    /// Fails when ledger or host cannot be read; nothing was removed then.
    pub async fn start(
        config: NodeConfig,
        parts: NodeParts,
        events: mpsc::Receiver<RuntimeEvent>,
    ) -> Result<Self, NodeStartError> {
        let ledger = Ledger::open(&config.ledger_dir)?;
        let gpus = GpuTable::new(Arc::clone(&parts.gpus), parts.tasks.clone());
        let node = Self(Arc::new(Shared {
            config,
            parts,
            ledger,
            handles: RwLock::default(),
            starts_in_flight: AtomicU32::new(0),
            unreadable: Mutex::default(),
            fitting: Mutex::default(),
            room: watch::Sender::new(Room::Enough),
            log_room: Arc::new(Semaphore::new(log::ROOM)),
            transfers: Transfers::new(),
            prestarts: Prestarts::default(),
            stages: Stages::default(),
            remains: Remains::default(),
            gpus,
        }));
        adopt::adopt_all(&node.0).await?;
        node.listen(events);
        drop(node.0.parts.tasks.spawn("room_watcher", room::watch(Arc::clone(&node.0))));
        let ahead = node.0.config.prestart.clone();
        if ahead.rule.most > 0 {
            let keep = prestart::keep(Arc::clone(&node.0), ahead);
            drop(node.0.parts.tasks.spawn("prestart_keeper", keep));
        }
        let stages = node.0.config.stages;
        if stages.most > 0 && node.0.parts.runtime.capabilities().memory_snapshots {
            let keep = stage::keep(Arc::clone(&node.0), stages);
            drop(node.0.parts.tasks.spawn("stage_keeper", keep));
        }
        Ok(node)
    }

    /// Returns what became of transfers to and from the object store since the start.
    #[must_use]
    pub fn transfer_counts(&self) -> TransferCounts {
        self.0.transfers.counts()
    }

    /// Returns what became of sandboxes that were started ahead.
    #[must_use]
    pub fn prestart_counts(&self) -> AheadCounts {
        self.0.prestarts.counts()
    }

    /// Returns what became of what was made ready for restores.
    #[must_use]
    pub fn stage_counts(&self) -> AheadCounts {
        self.0.stages.counts()
    }

    fn listen(&self, mut events: mpsc::Receiver<RuntimeEvent>) {
        let node = self.clone();
        let stopping = self.0.parts.tasks.stopping();
        drop(self.0.parts.tasks.spawn("runtime_listener", async move {
            tokio::pin!(stopping);
            loop {
                let event = tokio::select! {
                    () = &mut stopping => return,
                    event = events.recv() => event,
                };
                match event {
                    None => return,
                    Some(RuntimeEvent::Exited { id, exit }) => {
                        if let Some(handle) = node.handle(&id) {
                            handle.want(|wanted| wanted.exit = Some(exit));
                        } else if node.0.prestarts.note_exit(&id) {
                            tracing::debug!(sandbox.id = %id, ?exit, "one that waited has ended");
                        }
                    }
                    Some(RuntimeEvent::MemoryPressure { id }) => node.relieve(&id),
                }
            }
        }));
    }

    /// Has the daemon end the largest process; the runtime lends memory meanwhile.
    ///
    /// One request at a time: a daemon that hangs for want of memory would find several when it
    /// goes on, and end a bystander for each after the first. Pressure that lasts is told again.
    fn relieve(&self, id: &SandboxId) {
        let Some(handle) = self.handle(id) else { return };
        let Some(endpoint) = handle.endpoint() else { return };
        let Some(asking) = handle.begin_relief() else { return };
        let id = id.clone();
        drop(self.0.parts.tasks.spawn("memory_relief", async move {
            let _asking = asking;
            let relief = daemon::relieve(endpoint.daemon, &endpoint.token);
            match tokio::time::timeout(RELIEF_PATIENCE, relief).await {
                Ok(Ok(relief)) => {
                    let pid = relief.killed.map(|killed| killed.pid);
                    let rss = relief.killed.map(|killed| killed.rss_bytes);
                    tracing::info!(sandbox.id = %id, pid, rss, "memory ran out; largest process ended");
                }
                Ok(Err(bad)) => {
                    tracing::warn!(sandbox.id = %id, error = %bad, "memory ran out and the daemon did not help");
                }
                Err(_elapsed) => {
                    tracing::warn!(sandbox.id = %id, "memory ran out and the daemon did not answer");
                }
            }
        }));
    }

    pub(crate) fn handle(&self, id: &SandboxId) -> Option<Arc<Handle>> {
        self.0.handles.read().get(id).cloned()
    }
}

/// Returns a whole snapshot of this node; one that cannot be read is logged and not there.
async fn held_snapshot(shared: &Shared, snapshot: &SnapshotId) -> Option<HeldSnapshot> {
    let capture = match shared.parts.captures.open(snapshot.as_str()).await {
        Ok(capture) => capture,
        Err(CaptureError::Missing { .. }) => return None,
        Err(bad) => {
            tracing::error!(snapshot.id = %snapshot, error = chain(&bad), "a snapshot cannot be read");
            return None;
        }
    };
    match Note::of(&capture) {
        Ok(note) => Some(note.held(snapshot, &capture)),
        Err(error) => {
            tracing::error!(snapshot.id = %snapshot, error, "a snapshot cannot be read");
            None
        }
    }
}

#[async_trait]
impl Node for NodeService {
    fn id(&self) -> &NodeId {
        &self.0.config.id
    }

    async fn apply(&self, intent: NodeIntent) -> Result<(), ApplyError> {
        if self.0.parts.tasks.is_stopping() {
            return Err(ApplyError::Stopping);
        }
        let gpus = match &intent.target {
            NodeTarget::Running(launch) => launch.resources.gpus,
            NodeTarget::Suspended | NodeTarget::Terminated(_) => None,
        };
        if let Some(handle) = self.handle(&intent.id) {
            handle.take(intent)?;
            // At once: who looks next must not find them free. One that has ended needs none.
            if let Some(wanted) = gpus.filter(|_| !handle.has_ended()) {
                self.0.gpus.claim(handle.id(), wanted);
            }
            return Ok(());
        }
        if self.0.unreadable.lock().contains_key(&intent.id) {
            // Whatever is wanted, nothing is made in its place and nothing of it is said.
            tracing::error!(
                sandbox.id = %intent.id,
                "nothing is done for a sandbox whose ledger entry cannot be read"
            );
            return Ok(());
        }
        match &intent.target {
            // Not here: control finds that out by the list.
            NodeTarget::Suspended => {}
            NodeTarget::Running(_) => {
                if let Some(wanted) = gpus {
                    self.0.gpus.claim(&intent.id, wanted);
                }
                SandboxTask::spawn_new(&self.0, intent);
            }
            // It is not here, which is what is wanted.
            NodeTarget::Terminated(cause) => {
                let phase = ObservedPhase::Ended(cause.clone());
                let at = self.0.parts.clock.now();
                let observed = Observed {
                    generation: intent.generation,
                    phase,
                    at,
                    trouble: None,
                    frozen: None,
                    shape: None,
                };
                self.0.report(&intent.id, observed, None).await;
            }
        }
        Ok(())
    }

    async fn reserve(&self, image: &BootImage, resources: &Resources) -> Option<SandboxId> {
        let ahead = self.0.config.prestart.rule.most > 0 && resources.gpus.is_none();
        if !ahead || self.0.parts.tasks.is_stopping() {
            return None;
        }
        prestart::reserve(&self.0, image, resources).await
    }

    async fn reserve_stage(&self, snapshot: &SnapshotId) -> Option<SandboxId> {
        if self.0.config.stages.most == 0 || self.0.parts.tasks.is_stopping() {
            return None;
        }
        stage::reserve(&self.0, snapshot).await
    }

    async fn give_back(&self, id: &SandboxId) {
        self.0.prestarts.give_back(id);
        self.0.stages.give_back(id);
    }

    fn resizes(&self) -> bool {
        self.0.parts.runtime.capabilities().live_resize
    }

    async fn view(&self) -> NodeView {
        let memory = self.0.parts.memory.read();
        let pool = self.0.parts.layers.space().await;
        let (disk, mut disk_available) =
            pool.map(|space| (space.total, space.available)).unwrap_or_default();
        if *self.0.room.borrow() != Room::Enough {
            // What came now would be frozen at once.
            disk_available = ByteSize::default();
        }
        let handles: Vec<_> = self.0.handles.read().values().cloned().collect();
        let promised: u64 =
            handles.iter().map(|handle| u64::from(handle.cpu_promised().milli())).sum();
        NodeView {
            id: self.0.config.id.clone(),
            cpu: self.0.config.cpu,
            cpu_promised: MilliCpu::from_milli(u32::try_from(promised).unwrap_or(u32::MAX)),
            memory: memory.total,
            memory_available: memory.available,
            starts_in_flight: self.0.starts_in_flight.load(Ordering::Relaxed),
            disk_available,
            disk,
            draining: self.0.parts.tasks.is_stopping(),
            gpus: self.0.gpus.stock(),
        }
    }

    fn gpus(&self) -> Vec<GpuView> {
        self.0.gpus.views()
    }

    async fn list(&self) -> Vec<Report> {
        let handles: Vec<_> = self.0.handles.read().values().cloned().collect();
        handles.iter().map(|handle| handle.last_report(&self.0.config.id)).collect()
    }

    async fn forget(&self, id: &SandboxId, generation: Generation) {
        if let Some(handle) = self.handle(id) {
            handle.want(|wanted| wanted.forget = wanted.forget.max(Some(generation)));
        }
    }

    async fn orphan(&self, id: &SandboxId) {
        if let Some(handle) = self.handle(id) {
            handle.want(|wanted| wanted.orphaned = true);
        }
    }

    async fn capture(&self, order: CaptureOrder) -> Result<(), ApplyError> {
        if self.0.parts.tasks.is_stopping() {
            return Err(ApplyError::Stopping);
        }
        if let Some(held) = held_snapshot(&self.0, &order.snapshot).await {
            report_capture(&self.0, &order, Ok(held.facts)).await;
            return Ok(());
        }
        match self.handle(&order.sandbox) {
            Some(handle) => handle.want(|wanted| {
                if !wanted.captures.contains(&order) {
                    wanted.captures.push(order);
                }
            }),
            None => {
                let trouble = "the sandbox is not on this node".to_owned();
                report_capture(&self.0, &order, Err(trouble)).await;
            }
        }
        Ok(())
    }

    async fn snapshots(&self) -> Vec<HeldSnapshot> {
        let names = self.0.parts.captures.list().await.unwrap_or_else(|bad| {
            tracing::error!(error = chain(&bad), "the snapshots of this node cannot be listed");
            Vec::new()
        });
        let mut held = Vec::new();
        for snapshot in names.iter().filter_map(|name| name.parse().ok()) {
            held.extend(held_snapshot(&self.0, &snapshot).await);
        }
        held
    }

    async fn verify(&self, snapshot: &SnapshotId, pace: Pace) -> Result<ByteSize, VerifyError> {
        let read = self.0.parts.captures.verify(snapshot.as_str(), pace).await;
        read.map_err(|bad| match bad {
            CaptureError::Missing { .. } => VerifyError::Missing,
            CaptureError::Damaged { detail, .. } => VerifyError::Damaged { detail },
            CaptureError::PoolFull { .. } | CaptureError::Step { .. } => {
                VerifyError::Failed { detail: chain(&bad) }
            }
        })
    }

    async fn discard(&self, snapshot: &SnapshotId) -> Result<(), DiscardError> {
        for handle in self.0.handles.read().values() {
            handle.want(|wanted| wanted.captures.retain(|order| order.snapshot != *snapshot));
        }
        self.0.transfers.cancel(snapshot);
        self.0.fitting.lock().remove(snapshot);
        self.0.stages.forget(snapshot.as_str());
        let discarded = self.0.parts.captures.discard(snapshot.as_str()).await;
        discarded.map_err(|bad| DiscardError { detail: chain(&bad) })
    }

    async fn brings(&self, id: &SandboxId) -> Option<ByteSize> {
        let nothing = ByteSize::from_bytes(0);
        if self.handle(id).is_some_and(|handle| handle.is_warm()) {
            return Some(nothing);
        }
        match self.0.parts.captures.open(id.as_str()).await {
            Ok(capture) => Some(capture.memory_size),
            // Its layer is all that there is of it.
            Err(CaptureError::Missing { .. }) => Some(nothing),
            Err(_unread) => None,
        }
    }

    async fn obstacle(&self, snapshot: &SnapshotId) -> Option<String> {
        if self.0.fitting.lock().contains(snapshot) {
            return None;
        }
        // What cannot be read is said by the start that needs it.
        let capture = self.0.parts.captures.open(snapshot.as_str()).await.ok()?;
        let obstacle = Note::of(&capture).ok()?.obstacle(&self.0.parts.runtime.image_facts());
        if obstacle.is_none() {
            self.0.fitting.lock().insert(snapshot.clone());
        }
        obstacle
    }

    fn has_archive(&self) -> bool {
        self.0.parts.archive.is_some()
    }

    async fn archive(&self, order: ArchiveOrder) -> Result<(), ApplyError> {
        if self.0.parts.tasks.is_stopping() {
            return Err(ApplyError::Stopping);
        }
        archive::upload(&self.0, order, Upload::WhatIsNew);
        Ok(())
    }

    async fn mend_archived(&self, order: ArchiveOrder) -> Result<(), ApplyError> {
        if self.0.parts.tasks.is_stopping() {
            return Err(ApplyError::Stopping);
        }
        archive::upload(&self.0, order, Upload::WhatIsLost);
        Ok(())
    }

    async fn verify_archived(&self, order: &ArchiveOrder) -> Result<(), VerifyError> {
        archive::verify(&self.0, order).await
    }

    async fn remove_archived(&self, order: &ArchiveOrder) -> Result<(), String> {
        archive::remove(&self.0, order).await
    }

    async fn archive_view(&self) -> Option<ArchiveView> {
        archive::view(&self.0)
    }

    async fn network_log(&self, id: &SandboxId) -> Result<Option<NetworkLog>, String> {
        self.0.parts.slots.network_log(id).await.map_err(|bad| chain(&bad))
    }

    async fn images_in_use(&self) -> Result<BTreeSet<ImageDigest>, String> {
        image::in_use(&self.0).await
    }

    async fn orphans(&self) -> Vec<SandboxId> {
        let handles = self.0.handles.read();
        let mut orphans: Vec<_> = handles
            .values()
            .filter(|handle| handle.is_orphaned())
            .map(|handle| handle.id().clone())
            .collect();
        orphans.sort();
        orphans
    }

    async fn unfound(&self) -> Vec<Unfound> {
        let handles = self.0.handles.read();
        let mut unfound: Vec<_> = handles.values().filter_map(|handle| handle.unfound()).collect();
        let unreadable = self.0.unreadable.lock();
        unfound.extend(
            unreadable
                .iter()
                .map(|(id, trouble)| Unfound { id: id.clone(), trouble: trouble.clone() }),
        );
        unfound.sort_by(|a, b| a.id.cmp(&b.id));
        unfound
    }
}
