//! A node that is nothing but its reports.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_control::Control;
use tarn_node_api::{
    ApplyError, ArchiveOrder, ArchiveReport, ArchiveView, CaptureOrder, CaptureReport, Direction,
    DiscardError, Endpoint, GpuView, HeldSnapshot, Node, NodeIntent, NodeTarget, NodeView, Report,
    ReportSink as _, Transfer, Unfound, VerifyError,
};
use tarn_types::{
    ArchiveFacts, BootImage, ByteSize, CaptureFacts, DaemonToken, EndCause, FailedStep, Generation,
    ImageDigest, MilliCpu, NetworkLog, NodeId, Observed, ObservedPhase, Pace, Resources, SandboxId,
    Shape, SnapshotId, StartFailure, UnixMillis,
};

/// What the node does with an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It brings it about at once.
    Prompt,
    /// It takes it and says nothing.
    Silent,
    /// Every start fails.
    Failing,
}

pub(crate) struct FakeNode {
    id: NodeId,
    pub(crate) manner: Mutex<Manner>,
    pub(crate) control: Mutex<Option<Control>>,
    pub(crate) orphans: Mutex<Vec<SandboxId>>,
    pub(crate) unfound: Mutex<Vec<Unfound>>,
    /// What every sandbox has done with the network.
    pub(crate) network: Mutex<Option<NetworkLog>>,
    /// What its object store makes of uploads, if it has one.
    pub(crate) archive: Mutex<Option<Manner>>,
}

// === impl FakeNode ===

impl FakeNode {
    pub(crate) fn new() -> Self {
        Self {
            id: NodeId::from_random([5; 16]),
            manner: Mutex::new(Manner::Prompt),
            control: Mutex::default(),
            orphans: Mutex::default(),
            unfound: Mutex::default(),
            network: Mutex::default(),
            archive: Mutex::default(),
        }
    }

    fn phase(&self, target: NodeTarget) -> Option<ObservedPhase> {
        match (*self.manner.lock(), target) {
            (Manner::Silent, _) => None,
            (_, NodeTarget::Terminated(cause)) => Some(ObservedPhase::Ended(cause)),
            (_, NodeTarget::Suspended) => Some(ObservedPhase::Suspended),
            (Manner::Prompt, NodeTarget::Running(_)) => Some(ObservedPhase::Running),
            (Manner::Failing, NodeTarget::Running(_)) => {
                Some(ObservedPhase::Ended(EndCause::StartFailed {
                    step: FailedStep::Init,
                    failure: StartFailure::Configuration,
                    message: "entrypoint: no such file `nope`".to_owned(),
                }))
            }
        }
    }
}

#[async_trait]
impl Node for FakeNode {
    fn id(&self) -> &NodeId {
        &self.id
    }

    async fn apply(&self, intent: NodeIntent) -> Result<(), ApplyError> {
        let shape = match &intent.target {
            NodeTarget::Running(launch) => {
                Some(Shape { resources: launch.resources, trouble: None })
            }
            NodeTarget::Suspended | NodeTarget::Terminated(_) => None,
        };
        let Some(phase) = self.phase(intent.target) else { return Ok(()) };
        let endpoint = (phase == ObservedPhase::Running).then(|| Endpoint {
            daemon: SocketAddr::from((Ipv4Addr::LOCALHOST, 9501)),
            token: DaemonToken::from_random([1; 32]),
        });
        let observed = Observed {
            generation: intent.generation,
            phase,
            at: UnixMillis(1_700_000_000_001),
            trouble: None,
            frozen: None,
            shape,
        };
        let report = Report { id: intent.id, node: self.id.clone(), observed, endpoint };
        let control = self.control.lock().clone();
        if let Some(control) = control {
            control.report(report).await;
        }
        Ok(())
    }

    async fn reserve(&self, _image: &BootImage, _resources: &Resources) -> Option<SandboxId> {
        None
    }

    async fn reserve_stage(&self, _snapshot: &SnapshotId) -> Option<SandboxId> {
        None
    }

    async fn give_back(&self, _id: &SandboxId) {}

    fn resizes(&self) -> bool {
        true
    }

    async fn view(&self) -> NodeView {
        NodeView {
            id: self.id.clone(),
            cpu: MilliCpu::from_milli(4000),
            cpu_promised: MilliCpu::from_milli(0),
            memory: ByteSize::from_mib(16_384),
            memory_available: ByteSize::from_mib(16_000),
            starts_in_flight: 0,
            disk_available: ByteSize::from_mib(900_000),
            disk: ByteSize::from_mib(1_000_000),
            draining: false,
            gpus: Vec::new(),
        }
    }

    fn gpus(&self) -> Vec<GpuView> {
        Vec::new()
    }

    async fn verify(&self, _snapshot: &SnapshotId, _pace: Pace) -> Result<ByteSize, VerifyError> {
        match *self.manner.lock() {
            Manner::Failing => {
                Err(VerifyError::Damaged { detail: "layer.img has changed".to_owned() })
            }
            Manner::Silent | Manner::Prompt => Ok(ByteSize::from_mib(5)),
        }
    }

    async fn list(&self) -> Vec<Report> {
        Vec::new()
    }

    async fn forget(&self, _id: &SandboxId, _generation: Generation) {}

    async fn orphan(&self, id: &SandboxId) {
        self.orphans.lock().push(id.clone());
    }

    async fn capture(&self, order: CaptureOrder) -> Result<(), ApplyError> {
        let outcome = match *self.manner.lock() {
            Manner::Silent => return Ok(()),
            Manner::Failing => Err("the disk is full".to_owned()),
            Manner::Prompt => Ok(CaptureFacts {
                size: ByteSize::from_mib(5),
                layer: ByteSize::from_mib(4),
                standstill_micros: 7_000,
            }),
        };
        let (snapshot, sandbox) = (order.snapshot, order.sandbox);
        let report = CaptureReport { snapshot, sandbox, node: self.id.clone(), outcome };
        let control = self.control.lock().clone();
        if let Some(control) = control {
            control.captured(report).await;
        }
        Ok(())
    }

    async fn snapshots(&self) -> Vec<HeldSnapshot> {
        Vec::new()
    }

    async fn discard(&self, _snapshot: &SnapshotId) -> Result<(), DiscardError> {
        Ok(())
    }

    async fn brings(&self, _id: &SandboxId) -> Option<ByteSize> {
        None
    }

    async fn obstacle(&self, _snapshot: &SnapshotId) -> Option<String> {
        None
    }

    fn has_archive(&self) -> bool {
        self.archive.lock().is_some()
    }

    async fn mend_archived(&self, _order: ArchiveOrder) -> Result<(), ApplyError> {
        Ok(())
    }

    async fn archive(&self, order: ArchiveOrder) -> Result<(), ApplyError> {
        let size = ByteSize::from_mib(5);
        let outcome = match *self.archive.lock() {
            None | Some(Manner::Silent) => return Ok(()),
            Some(Manner::Failing) => Err("the bucket is gone".to_owned()),
            Some(Manner::Prompt) => Ok(ArchiveFacts {
                uri: format!("sim://bucket/{}", order.snapshot),
                size,
                sent: size,
            }),
        };
        let report = ArchiveReport { snapshot: order.snapshot, node: self.id.clone(), outcome };
        let control = self.control.lock().clone();
        if let Some(control) = control {
            control.archived(report).await;
        }
        Ok(())
    }

    async fn verify_archived(&self, _order: &ArchiveOrder) -> Result<(), VerifyError> {
        Err(VerifyError::Missing)
    }

    async fn remove_archived(&self, _order: &ArchiveOrder) -> Result<(), String> {
        Ok(())
    }

    async fn archive_view(&self) -> Option<ArchiveView> {
        let transfer = Transfer {
            snapshot: SnapshotId::from_random([6; 16]),
            direction: Direction::Fetch,
            active: true,
            done: ByteSize::from_mib(1),
            total: ByteSize::from_mib(4),
        };
        let view = ArchiveView { place: "sim://bucket".to_owned(), transfers: vec![transfer] };
        self.has_archive().then_some(view)
    }

    async fn network_log(&self, _id: &SandboxId) -> Result<Option<NetworkLog>, String> {
        Ok(self.network.lock().clone())
    }

    async fn images_in_use(&self) -> Result<BTreeSet<ImageDigest>, String> {
        Ok(BTreeSet::new())
    }

    async fn orphans(&self) -> Vec<SandboxId> {
        self.orphans.lock().clone()
    }

    async fn unfound(&self) -> Vec<Unfound> {
        self.unfound.lock().clone()
    }
}
