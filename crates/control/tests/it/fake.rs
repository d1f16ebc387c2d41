//! A node that keeps what it was told and answers when the test says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_control::{Control, ControlConfig, ControlParts, CreateAsk, SandboxView, SecretKeys};
use tarn_host::sim::SimImages;
use tarn_node_api::{
    ApplyError, ArchiveOrder, ArchiveReport, ArchiveView, CaptureOrder, CaptureReport,
    DiscardError, Endpoint, GpuView, HeldSnapshot, Node, NodeIntent, NodeTarget, NodeView, Report,
    ReportSink, Unfound, VerifyError,
};
use tarn_store::{MemoryStore, Store, log::MemoryLogStore};
use tarn_task::{ManualClock, SeededEntropy, Tasks};
use tarn_types::{
    ArchiveFacts, BootImage, ByteSize, CaptureFacts, Captured, DaemonToken, EndCause, Generation,
    GpuModel, GpuStock, ImageDigest, MilliCpu, NetworkLog, NodeId, Observed, ObservedPhase, Pace,
    ProjectId, Resources, SandboxId, SandboxRef, SandboxStatus, Shape, SnapshotId, UnixMillis,
};

/// How a fake node behaves on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It brings everything about at once.
    Prompt,
    /// It takes intents and says nothing until told.
    Silent,
}

pub(crate) struct FakeNode {
    id: NodeId,
    manner: Mutex<Manner>,
    control: Mutex<Option<Control>>,
    pub(crate) told: Mutex<BTreeMap<SandboxId, NodeIntent>>,
    pub(crate) has: Mutex<BTreeMap<SandboxId, Report>>,
    pub(crate) orphaned: Mutex<Vec<SandboxId>>,
    pub(crate) memory: Mutex<ByteSize>,
    pub(crate) memory_available: Mutex<ByteSize>,
    pub(crate) starts_in_flight: Mutex<u32>,
    /// What it has started ahead.
    pub(crate) ready: Mutex<Vec<SandboxId>>,
    /// What was to be reserved.
    pub(crate) reserved: Mutex<Vec<(BootImage, Resources)>>,
    pub(crate) staged: Mutex<Vec<SnapshotId>>,
    /// What it says that it needs.
    pub(crate) images: Mutex<Result<BTreeSet<ImageDigest>, String>>,
    pub(crate) orders: Mutex<Vec<CaptureOrder>>,
    pub(crate) held: Mutex<BTreeMap<SnapshotId, HeldSnapshot>>,
    pub(crate) discarded: Mutex<Vec<SnapshotId>>,
    /// Whether it has an object store.
    pub(crate) archives: Mutex<bool>,
    pub(crate) archive_orders: Mutex<Vec<ArchiveOrder>>,
    /// What the object store has.
    pub(crate) archived: Mutex<BTreeSet<SnapshotId>>,
    /// Whether the object store answers removals.
    pub(crate) archive_away: Mutex<bool>,
    /// What is damaged, and how; `None` = it is not there.
    pub(crate) damage: Mutex<BTreeMap<SnapshotId, Option<String>>>,
    pub(crate) verified: Mutex<Vec<(SnapshotId, Pace)>>,
    /// How many of the next removals fail.
    pub(crate) discard_failures: Mutex<usize>,
    /// What a suspended sandbox brings into memory.
    pub(crate) brings: Mutex<Option<ByteSize>>,
    /// Why no memory goes on here.
    pub(crate) obstacle: Mutex<Option<String>>,
    /// How many GPUs of which models it has; sandboxes that are to run take them.
    pub(crate) gpus: Mutex<Vec<(&'static str, u32)>>,
}

/// A control plane with its surroundings.
pub(crate) struct World {
    pub(crate) control: Control,
    pub(crate) node: Arc<FakeNode>,
    pub(crate) images: Arc<SimImages>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) project: ProjectId,
    tasks: Tasks,
}

// === impl FakeNode ===

impl FakeNode {
    pub(crate) fn new(manner: Manner) -> Arc<Self> {
        Arc::new(Self {
            id: NodeId::from_random([5; 16]),
            manner: Mutex::new(manner),
            control: Mutex::default(),
            told: Mutex::default(),
            has: Mutex::default(),
            orphaned: Mutex::default(),
            memory: Mutex::new(ByteSize::from_mib(16_384)),
            memory_available: Mutex::new(ByteSize::from_mib(8192)),
            starts_in_flight: Mutex::default(),
            ready: Mutex::default(),
            images: Mutex::new(Ok(BTreeSet::new())),
            reserved: Mutex::default(),
            staged: Mutex::default(),
            orders: Mutex::default(),
            held: Mutex::default(),
            discarded: Mutex::default(),
            archives: Mutex::new(false),
            archive_orders: Mutex::default(),
            archived: Mutex::default(),
            archive_away: Mutex::new(false),
            damage: Mutex::default(),
            verified: Mutex::default(),
            discard_failures: Mutex::default(),
            brings: Mutex::default(),
            obstacle: Mutex::default(),
            gpus: Mutex::default(),
        })
    }

    /// Returns its GPUs, less those of what it was told to run.
    fn stock(&self) -> Vec<GpuStock> {
        let told = self.told.lock();
        let taken = |model: GpuModel| -> u32 {
            let wanted = told.values().filter_map(|intent| match &intent.target {
                NodeTarget::Running(launch) => launch.resources.gpus,
                NodeTarget::Suspended | NodeTarget::Terminated(_) => None,
            });
            wanted.filter(|gpus| gpus.model == model).map(|gpus| gpus.count).sum()
        };
        let stock = |(name, total): &(&str, u32)| {
            let model = name.parse().expect("a name");
            GpuStock { model, total: *total, free: total.checked_sub(taken(model)).expect("free") }
        };
        self.gpus.lock().iter().map(stock).collect()
    }

    pub(crate) fn report_of(
        &self,
        id: &SandboxId,
        generation: u64,
        phase: ObservedPhase,
    ) -> Report {
        let endpoint = (phase == ObservedPhase::Running).then(|| Endpoint {
            daemon: SocketAddr::from((Ipv4Addr::LOCALHOST, 9501)),
            token: DaemonToken::from_random([1; 32]),
        });
        let observed = Observed {
            generation: Generation(generation),
            phase,
            at: UnixMillis(1_000_001),
            trouble: None,
            frozen: None,
            shape: self.shape_of(id),
        };
        Report { id: id.clone(), node: self.id.clone(), observed, endpoint }
    }

    /// Behaves in another way from now on.
    pub(crate) fn behave(&self, manner: Manner) {
        *self.manner.lock() = manner;
    }

    /// Says that a sandbox is somewhere.
    pub(crate) async fn say(&self, id: &SandboxId, generation: u64, phase: ObservedPhase) {
        self.tell(self.report_of(id, generation, phase)).await;
    }

    /// Says that a sandbox stayed where it was.
    pub(crate) async fn say_trouble(&self, id: &SandboxId, generation: u64, phase: ObservedPhase) {
        let mut report = self.report_of(id, generation, phase);
        report.observed.trouble = Some("the disk is full".to_owned());
        self.tell(report).await;
    }

    /// What it was told to make of a sandbox, it has made of it.
    fn shape_of(&self, id: &SandboxId) -> Option<Shape> {
        match &self.told.lock().get(id)?.target {
            NodeTarget::Running(launch) => {
                Some(Shape { resources: launch.resources, trouble: None })
            }
            NodeTarget::Suspended | NodeTarget::Terminated(_) => None,
        }
    }

    pub(crate) async fn tell(&self, report: Report) {
        let id = &report.id;
        self.has.lock().insert(id.clone(), report.clone());
        let control = self.control.lock().clone();
        if let Some(control) = control {
            control.report(report).await;
        }
    }

    /// Finishes the last snapshot ordered, well or not, and says so.
    pub(crate) async fn finish_capture(&self, outcome: Result<CaptureFacts, String>) {
        let order = self.orders.lock().last().cloned().expect("an order");
        if let Ok(facts) = outcome {
            self.hold(&order, facts);
        }
        self.say_captured(&order, outcome).await;
    }

    /// Has a snapshot on disk without saying so.
    pub(crate) fn hold(&self, order: &CaptureOrder, facts: CaptureFacts) {
        let held = HeldSnapshot {
            snapshot: order.snapshot.clone(),
            sandbox: order.sandbox.clone(),
            project: ProjectId::from_random([2; 16]),
            kind: order.kind,
            captured: Captured {
                image: "tensorlake/ubuntu-minimal".parse().expect("a good name"),
                resources: Resources::default(),
                entrypoint: None,
                secret_names: Vec::new(),
            },
            facts,
        };
        self.held.lock().insert(order.snapshot.clone(), held);
    }

    /// Finishes the last upload ordered, well or not, and says so.
    pub(crate) async fn finish_archive(&self, outcome: Result<(), &str>) {
        let snapshot = self.archive_orders.lock().last().cloned().expect("an order").snapshot;
        if outcome.is_ok() {
            self.archived.lock().insert(snapshot.clone());
        }
        let size = ByteSize::from_mib(300);
        let outcome = outcome.map_err(str::to_owned).map(|()| ArchiveFacts {
            uri: format!("sim://{snapshot}"),
            size,
            sent: size,
        });
        let report = ArchiveReport { snapshot, node: self.id.clone(), outcome };
        let control = self.control.lock().clone();
        if let Some(control) = control {
            control.archived(report).await;
        }
    }

    pub(crate) async fn say_captured(
        &self,
        order: &CaptureOrder,
        outcome: Result<CaptureFacts, String>,
    ) {
        let report = CaptureReport {
            snapshot: order.snapshot.clone(),
            sandbox: order.sandbox.clone(),
            node: self.id.clone(),
            outcome,
        };
        let control = self.control.lock().clone();
        if let Some(control) = control {
            control.captured(report).await;
        }
    }
}

/// What a capture took.
pub(crate) fn facts() -> CaptureFacts {
    CaptureFacts {
        size: ByteSize::from_mib(300),
        layer: ByteSize::from_mib(100),
        standstill_micros: 900,
    }
}

#[async_trait]
impl Node for FakeNode {
    fn id(&self) -> &NodeId {
        &self.id
    }

    async fn apply(&self, intent: NodeIntent) -> Result<(), ApplyError> {
        self.told.lock().insert(intent.id.clone(), intent.clone());
        if *self.manner.lock() == Manner::Prompt {
            let phase = match intent.target {
                NodeTarget::Running(_) => ObservedPhase::Running,
                NodeTarget::Suspended => ObservedPhase::Suspended,
                NodeTarget::Terminated(cause) => ObservedPhase::Ended(cause),
            };
            self.say(&intent.id, intent.generation.0, phase).await;
        }
        Ok(())
    }

    async fn reserve(&self, image: &BootImage, resources: &Resources) -> Option<SandboxId> {
        self.reserved.lock().push((image.clone(), *resources));
        self.ready.lock().pop()
    }

    async fn reserve_stage(&self, snapshot: &SnapshotId) -> Option<SandboxId> {
        self.staged.lock().push(snapshot.clone());
        self.ready.lock().pop()
    }

    async fn give_back(&self, id: &SandboxId) {
        self.ready.lock().push(id.clone());
    }

    fn resizes(&self) -> bool {
        true
    }

    async fn view(&self) -> NodeView {
        NodeView {
            id: self.id.clone(),
            cpu: MilliCpu::from_milli(4000),
            cpu_promised: MilliCpu::from_milli(0),
            memory: *self.memory.lock(),
            memory_available: *self.memory_available.lock(),
            starts_in_flight: *self.starts_in_flight.lock(),
            disk_available: ByteSize::from_mib(500_000),
            disk: ByteSize::from_mib(1_000_000),
            draining: false,
            gpus: self.stock(),
        }
    }

    fn gpus(&self) -> Vec<GpuView> {
        Vec::new()
    }

    async fn list(&self) -> Vec<Report> {
        self.has.lock().values().cloned().collect()
    }

    async fn forget(&self, id: &SandboxId, _generation: Generation) {
        self.has.lock().remove(id);
    }

    async fn capture(&self, order: CaptureOrder) -> Result<(), ApplyError> {
        self.orders.lock().push(order);
        if *self.manner.lock() == Manner::Prompt {
            self.finish_capture(Ok(facts())).await;
        }
        Ok(())
    }

    async fn verify(&self, snapshot: &SnapshotId, pace: Pace) -> Result<ByteSize, VerifyError> {
        self.verified.lock().push((snapshot.clone(), pace));
        match self.damage.lock().get(snapshot) {
            Some(None) => Err(VerifyError::Missing),
            Some(Some(detail)) => Err(VerifyError::Damaged { detail: detail.clone() }),
            None => Ok(facts().size),
        }
    }

    async fn snapshots(&self) -> Vec<HeldSnapshot> {
        self.held.lock().values().cloned().collect()
    }

    async fn discard(&self, snapshot: &SnapshotId) -> Result<(), DiscardError> {
        {
            let mut failures = self.discard_failures.lock();
            if *failures > 0 {
                *failures -= 1;
                return Err(DiscardError { detail: "it was made to fail".to_owned() });
            }
        }
        self.held.lock().remove(snapshot);
        self.discarded.lock().push(snapshot.clone());
        Ok(())
    }

    async fn brings(&self, _id: &SandboxId) -> Option<ByteSize> {
        *self.brings.lock()
    }

    async fn obstacle(&self, _snapshot: &SnapshotId) -> Option<String> {
        self.obstacle.lock().clone()
    }

    fn has_archive(&self) -> bool {
        *self.archives.lock()
    }

    async fn archive(&self, order: ArchiveOrder) -> Result<(), ApplyError> {
        self.archive_orders.lock().push(order);
        if *self.manner.lock() == Manner::Prompt {
            self.finish_archive(Ok(())).await;
        }
        Ok(())
    }

    async fn mend_archived(&self, order: ArchiveOrder) -> Result<(), ApplyError> {
        self.archived.lock().insert(order.snapshot);
        Ok(())
    }

    async fn verify_archived(&self, order: &ArchiveOrder) -> Result<(), VerifyError> {
        if *self.archive_away.lock() {
            return Err(VerifyError::Failed { detail: "it does not answer".to_owned() });
        }
        if self.archived.lock().contains(&order.snapshot) {
            Ok(())
        } else {
            Err(VerifyError::Missing)
        }
    }

    async fn remove_archived(&self, order: &ArchiveOrder) -> Result<(), String> {
        if *self.archive_away.lock() {
            return Err("it does not answer".to_owned());
        }
        self.archived.lock().remove(&order.snapshot);
        Ok(())
    }

    async fn archive_view(&self) -> Option<ArchiveView> {
        let view = ArchiveView { place: "sim://".to_owned(), transfers: Vec::new() };
        self.has_archive().then_some(view)
    }

    async fn orphan(&self, id: &SandboxId) {
        self.orphaned.lock().push(id.clone());
    }

    async fn network_log(&self, _id: &SandboxId) -> Result<Option<NetworkLog>, String> {
        Ok(None)
    }

    async fn images_in_use(&self) -> Result<BTreeSet<ImageDigest>, String> {
        self.images.lock().clone()
    }

    async fn orphans(&self) -> Vec<SandboxId> {
        self.orphaned.lock().clone()
    }

    async fn unfound(&self) -> Vec<Unfound> {
        Vec::new()
    }
}

// === impl World ===

impl World {
    pub(crate) async fn new(manner: Manner) -> Self {
        let node = FakeNode::new(manner);
        Self::over(Arc::new(MemoryStore::default()), node).await
    }

    /// Starts one that is configured.
    pub(crate) async fn configured(config: ControlConfig) -> Self {
        let store = Arc::new(MemoryStore::default());
        let seen = Arc::clone(&store) as _;
        let world = Self::apart(seen, store, FakeNode::new(Manner::Prompt), config).await;
        world.attach(Arc::clone(&world.node)).await;
        world
    }

    /// Starts a control plane over a store and a node that may have a past.
    pub(crate) async fn over(store: Arc<MemoryStore>, node: Arc<FakeNode>) -> Self {
        Self::on(Arc::clone(&store) as _, store, node).await
    }

    /// Starts one whose store is seen through another.
    pub(crate) async fn on(
        seen: Arc<dyn Store>,
        store: Arc<MemoryStore>,
        node: Arc<FakeNode>,
    ) -> Self {
        let world = Self::apart(seen, store, node, ControlConfig::default()).await;
        world.attach(Arc::clone(&world.node)).await;
        world
    }

    /// Starts one that has no node.
    pub(crate) async fn detached(store: Arc<MemoryStore>) -> Self {
        let (seen, node) = (Arc::clone(&store) as _, FakeNode::new(Manner::Silent));
        Self::apart(seen, store, node, ControlConfig::default()).await
    }

    pub(crate) async fn attach(&self, node: Arc<FakeNode>) {
        *node.control.lock() = Some(self.control.clone());
        // A store that is away now and then is asked again, as the server does.
        let mut attached = self.control.attach(Arc::clone(&node) as _).await;
        for _ in 0..5 {
            if attached.is_ok() {
                break;
            }
            attached = self.control.attach(Arc::clone(&node) as _).await;
        }
        attached.expect("the node is attached");
    }

    /// Ends the background work, as a death of the server does.
    pub(crate) fn control_dies(&self) {
        self.tasks.stop();
    }

    async fn apart(
        seen: Arc<dyn Store>,
        store: Arc<MemoryStore>,
        node: Arc<FakeNode>,
        config: ControlConfig,
    ) -> Self {
        let tasks = Tasks::new();
        // Each run over a store draws other ids.
        let runs = store.fact_fetch("runs").await.expect("it is in memory");
        let run = runs.map_or(0, |runs| runs.len()) + 1;
        store.fact_set("runs", &"x".repeat(run)).await.expect("it is in memory");
        let clock = Arc::new(ManualClock::at(UnixMillis(1_000_000)));
        let images = Arc::new(SimImages::new(&["tensorlake/ubuntu-minimal", "other"]));
        let control = Control::start(
            ControlParts {
                logs: Arc::new(MemoryLogStore::default()),
                store: seen,
                images: Arc::clone(&images) as _,
                clock: Arc::clone(&clock) as _,
                secret_keys: secret_keys(),
                entropy: Arc::new(SeededEntropy::new(run as u64)),
                tasks: tasks.clone(),
            },
            config,
        )
        .await
        .expect("an empty store is read");
        let project = ProjectId::from_random([2; 16]);
        Self { control, node, images, store, clock, project, tasks }
    }

    pub(crate) async fn create(&self, ask: CreateAsk) -> SandboxView {
        let hold = Duration::from_secs(5);
        self.control.sandbox_create(&self.project, ask, hold).await.expect("accepted")
    }
}

// === impl World (what most tests ask) ===

impl World {
    pub(crate) async fn view(&self, id: &SandboxId) -> SandboxView {
        let sandbox = SandboxRef::Id(id.clone());
        self.control.sandbox_fetch(&self.project, &sandbox).await.expect("it is there")
    }

    pub(crate) async fn status(&self, id: &SandboxId) -> SandboxStatus {
        self.view(id).await.status
    }

    /// Waits until every reconciler had its turn, whether anything rang or not: time is paused, and
    /// passes only when nobody has anything left to do.
    pub(crate) async fn until_reconciled(&self) {
        tokio::time::sleep(Duration::from_secs(30)).await;
    }

    /// Waits until snapshots that are due were read; time is paused as above.
    pub(crate) async fn until_scrubbed(&self) {
        tokio::time::sleep(Duration::from_secs(3700)).await;
    }

    /// Waits, for a while of paused time, until something holds.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let level = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), level).await;
        assert!(waited.is_ok(), "not within a minute: {what}");
    }
}

pub(crate) fn named(name: &str) -> CreateAsk {
    CreateAsk { name: Some(name.parse().expect("a good name")), ..CreateAsk::default() }
}

pub(crate) fn timed_out() -> ObservedPhase {
    ObservedPhase::Ended(EndCause::TimedOut)
}

/// Returns a key for secrets; its file is gone, as nobody needs it again.
fn secret_keys() -> Arc<SecretKeys> {
    let dir = tempfile::tempdir().expect("a directory");
    Arc::new(SecretKeys::open(&dir.path().join("secrets.key")).expect("it is made"))
}
