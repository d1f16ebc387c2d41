//! A node that keeps what it was told and answers when the test says so.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_control::{Control, ControlConfig, ControlParts, CreateAsk, SandboxView};
use tarn_host::sim::SimImages;
use tarn_node_api::{
    ApplyError, Endpoint, Node, NodeIntent, NodeTarget, NodeView, Report, ReportSink, Unfound,
};
use tarn_store::{MemoryStore, Store, log::MemoryLogStore};
use tarn_task::{ManualClock, SeededEntropy, Tasks};
use tarn_types::{
    ByteSize, DaemonToken, EndCause, Generation, MilliCpu, NodeId, Observed, ObservedPhase,
    ProjectId, SandboxId, UnixMillis,
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
    pub(crate) memory_available: Mutex<ByteSize>,
}

/// A control plane with its surroundings.
pub(crate) struct World {
    pub(crate) control: Control,
    pub(crate) node: Arc<FakeNode>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) project: ProjectId,
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
            memory_available: Mutex::new(ByteSize::from_mib(8192)),
        })
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
        let observed =
            Observed { generation: Generation(generation), phase, at: UnixMillis(1_000_001) };
        Report { id: id.clone(), node: self.id.clone(), observed, endpoint }
    }

    /// Says that a sandbox is somewhere.
    pub(crate) async fn say(&self, id: &SandboxId, generation: u64, phase: ObservedPhase) {
        let report = self.report_of(id, generation, phase);
        self.has.lock().insert(id.clone(), report.clone());
        let control = self.control.lock().clone();
        if let Some(control) = control {
            control.report(report).await;
        }
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
                NodeTarget::Terminated(cause) => ObservedPhase::Ended(cause),
            };
            self.say(&intent.id, intent.generation.0, phase).await;
        }
        Ok(())
    }

    async fn view(&self) -> NodeView {
        NodeView {
            id: self.id.clone(),
            cpu: MilliCpu::from_milli(4000),
            cpu_promised: MilliCpu::from_milli(0),
            memory: ByteSize::from_mib(16_384),
            memory_available: *self.memory_available.lock(),
            starts_in_flight: 0,
            disk_available: ByteSize::from_mib(500_000),
            disk: ByteSize::from_mib(1_000_000),
            draining: false,
        }
    }

    async fn list(&self) -> Vec<Report> {
        self.has.lock().values().cloned().collect()
    }

    async fn forget(&self, id: &SandboxId, _generation: Generation) {
        self.has.lock().remove(id);
    }

    async fn orphan(&self, id: &SandboxId) {
        self.orphaned.lock().push(id.clone());
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
        let clock = Arc::new(ManualClock::at(UnixMillis(1_000_000)));
        let control = Control::start(
            ControlParts {
                logs: Arc::new(MemoryLogStore::default()),
                store: seen,
                images: Arc::new(SimImages::new(&["tensorlake/ubuntu-minimal", "other"])),
                clock: Arc::clone(&clock) as _,
                entropy: Arc::new(SeededEntropy::new(42)),
                tasks: Tasks::new(),
            },
            ControlConfig::default(),
        )
        .await
        .expect("an empty store is read");
        *node.control.lock() = Some(control.clone());
        control.attach(Arc::clone(&node) as _).await.expect("the node is attached");
        let project = ProjectId::from_random([2; 16]);
        Self { control, node, store, clock, project }
    }

    pub(crate) async fn create(&self, ask: CreateAsk) -> SandboxView {
        let hold = Duration::from_secs(5);
        self.control.sandbox_create(&self.project, ask, hold).await.expect("accepted")
    }
}

pub(crate) fn named(name: &str) -> CreateAsk {
    CreateAsk { name: Some(name.parse().expect("a good name")), ..CreateAsk::default() }
}

pub(crate) fn timed_out() -> ObservedPhase {
    ObservedPhase::Ended(EndCause::TimedOut)
}
