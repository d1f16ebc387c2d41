//! A host in memory that outlives the nodes run over it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_host::{
    Layers as _,
    sim::{SimArchive, SimCaptures, SimGpus, SimImages, SimLayers, SimSlots},
};
use tarn_node::{
    FixedMemory, LogRate, MemoryFacts, NodeArchive, NodeConfig, NodeParts, NodeService,
    PrestartConfig,
};
use tarn_node_api::{
    ArchiveReport, CaptureOrder, CaptureReport, Endpoint, LogSink, LogSinkError, Node as _,
    NodeIntent, NodeTarget, Report, ReportSink, SecretSource, SecretSourceError,
};
use tarn_route_api::{Activity, ActivityGauge};
use tarn_runtime::{
    Runtime as _,
    sim::{SimHost, SimRuntime},
};
use tarn_scheduler::{PrestartRule, StageRule};
use tarn_task::{ManualClock, SeededEntropy, Tasks};
use tarn_types::{
    BootId, ByteSize, EgressPolicy, EndCause, Generation, GpuModel, Lasting, Launch, LogBatch,
    MilliCpu, NodeId, ObservedPhase, ProjectId, RegistryLogin, Resources, SandboxId, SecretName,
    SecretValue, SnapshotId, SnapshotKind, UnixMillis,
};
use tokio::sync::watch;

/// Keeps the reports of one node.
#[derive(Debug)]
pub(crate) struct Sink {
    slots: Arc<SimSlots>,
    /// Which policy the first slot had at each report.
    pub(crate) policies: Mutex<Vec<(ObservedPhase, Option<EgressPolicy>)>>,
    pub(crate) reports: Mutex<Vec<Report>>,
    captures: Mutex<Vec<CaptureReport>>,
    pub(crate) archived: Mutex<Vec<ArchiveReport>>,
    count: watch::Sender<usize>,
}

/// Keeps lines as a store does: each batch once. It survives the server.
#[derive(Debug)]
pub(crate) struct Logs {
    taken: Mutex<Vec<LogBatch>>,
    repeated: Mutex<usize>,
    /// How many calls are still to fail.
    failures: Mutex<usize>,
    count: watch::Sender<usize>,
}

/// What survives a server.
pub(crate) struct Host {
    dir: tempfile::TempDir,
    pub(crate) sim: SimHost,
    pub(crate) images: Arc<SimImages>,
    pub(crate) layers: Arc<SimLayers>,
    pub(crate) slots: Arc<SimSlots>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) boot: Mutex<&'static str>,
    /// How many servers there were.
    servers: AtomicU64,
    pub(crate) captures: Arc<SimCaptures>,
    pub(crate) archive: Arc<SimArchive>,
    pub(crate) activity: Arc<Traffic>,
    /// How long the next nodes keep the processes of suspended sandboxes.
    pub(crate) keep_warm: Mutex<Duration>,
    pub(crate) logs: Arc<Logs>,
    pub(crate) secrets: Arc<Secrets>,
    /// The models of GPUs that the next nodes find.
    pub(crate) gpus: Mutex<Vec<GpuModel>>,
    /// How many the next nodes start ahead; none to begin with.
    pub(crate) prestart: Mutex<PrestartRule>,
    pub(crate) stages: Mutex<StageRule>,
}

/// What a test says went to its sandboxes: to all of them the same.
#[derive(Debug, Default)]
pub(crate) struct Traffic(pub(crate) Mutex<Option<Activity>>);

/// A node over a host.
pub(crate) struct World {
    pub(crate) host: Arc<Host>,
    pub(crate) node: NodeService,
    pub(crate) sink: Arc<Sink>,
    pub(crate) tasks: Tasks,
}

// === impl Sink ===

#[async_trait]
impl ReportSink for Sink {
    async fn report(&self, report: Report) {
        let policy = self.slots.policy(tarn_host::SlotId(0));
        self.policies.lock().push((report.observed.phase.clone(), policy));
        self.reports.lock().push(report);
        self.count.send_modify(|count| *count += 1);
    }

    async fn captured(&self, report: CaptureReport) {
        self.captures.lock().push(report);
        self.count.send_modify(|count| *count += 1);
    }

    async fn archived(&self, report: ArchiveReport) {
        self.archived.lock().push(report);
        self.count.send_modify(|count| *count += 1);
    }
}

impl Sink {
    /// Returns every phase that was reported of a sandbox, in order.
    pub(crate) fn phases(&self, id: &SandboxId) -> Vec<ObservedPhase> {
        let reports = self.reports.lock();
        let own = reports.iter().filter(|report| report.id == *id);
        own.map(|report| report.observed.phase.clone()).collect()
    }

    fn last(&self, id: &SandboxId) -> Option<Report> {
        self.reports.lock().iter().rev().find(|report| report.id == *id).cloned()
    }
}

/// The secrets there are, whosever.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    pub(crate) values: Mutex<BTreeMap<String, String>>,
    /// What is shown to every registry.
    pub(crate) login: Mutex<Option<RegistryLogin>>,
}

#[async_trait]
impl SecretSource for Secrets {
    async fn reveal(
        &self,
        _project: &ProjectId,
        names: &[SecretName],
    ) -> Result<Vec<(SecretName, SecretValue)>, SecretSourceError> {
        let values = self.values.lock();
        let value = |name: &SecretName| {
            let value = values.get(name.as_str())?.clone();
            Some((name.clone(), SecretValue::new(value).expect("a value")))
        };
        Ok(names.iter().filter_map(value).collect())
    }

    async fn registry_login(
        &self,
        _project: &ProjectId,
        _registry: &str,
    ) -> Result<Option<RegistryLogin>, SecretSourceError> {
        Ok(self.login.lock().clone())
    }
}

// === impl Logs ===

#[async_trait]
impl LogSink for Logs {
    async fn store(&self, batch: &LogBatch) -> Result<(), LogSinkError> {
        {
            let mut failures = self.failures.lock();
            if *failures > 0 {
                *failures -= 1;
                return Err(LogSinkError { detail: "it was made to fail".to_owned() });
            }
        }
        let version = |batch: &LogBatch| (batch.sandbox.clone(), batch.boot.clone(), batch.number);
        let mut taken = self.taken.lock();
        if taken.iter().any(|earlier| version(earlier) == version(batch)) {
            *self.repeated.lock() += 1;
        } else {
            taken.push(batch.clone());
        }
        self.count.send_modify(|count| *count += 1);
        Ok(())
    }
}

impl Logs {
    fn new() -> Self {
        let (count, _) = watch::channel(0);
        Self {
            taken: Mutex::default(),
            repeated: Mutex::default(),
            failures: Mutex::default(),
            count,
        }
    }

    /// Makes the next calls fail.
    pub(crate) fn fail(&self, calls: usize) {
        *self.failures.lock() = calls;
    }

    /// Returns what processes of a sandbox printed, in order.
    pub(crate) fn texts(&self, id: &SandboxId) -> Vec<String> {
        let taken = self.taken.lock();
        let lines = taken.iter().filter(|batch| batch.sandbox == *id).flat_map(|b| &b.lines);
        lines.map(|line| line.body.clone()).collect()
    }

    /// Waits until so many lines of a sandbox are there.
    pub(crate) async fn wait(&self, id: &SandboxId, lines: usize) -> Vec<String> {
        let mut count = self.count.subscribe();
        let found = async {
            loop {
                let texts = self.texts(id);
                if texts.len() >= lines {
                    break texts;
                }
                count.changed().await.expect("the sink lives");
            }
        };
        tokio::time::timeout(Duration::from_secs(30), found).await.expect("the lines come")
    }

    /// Returns every batch that was taken.
    pub(crate) fn batches(&self) -> Vec<LogBatch> {
        self.taken.lock().clone()
    }
}

// === impl Traffic ===

impl ActivityGauge for Traffic {
    fn activity(&self, _sandbox: &SandboxId) -> Option<Activity> {
        *self.0.lock()
    }
}

// === impl Host ===

impl Host {
    pub(crate) fn new() -> Arc<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let captures = Arc::new(SimCaptures::new(&dir.path().join("captures")));
        Arc::new(Self {
            archive: Arc::new(SimArchive::new(&captures)),
            captures,
            activity: Arc::default(),
            keep_warm: Mutex::new(Duration::from_secs(3600)),
            dir,
            sim: SimHost::new(Tasks::new()),
            images: Arc::new(SimImages::new(&["img"])),
            layers: Arc::default(),
            slots: Arc::default(),
            clock: Arc::new(ManualClock::at(UnixMillis(1_000_000))),
            boot: Mutex::new("boot-1"),
            servers: AtomicU64::new(1),
            logs: Arc::new(Logs::new()),
            secrets: Arc::default(),
            gpus: Mutex::default(),
            prestart: Mutex::new(PrestartRule { most: 0, ..PrestartRule::default() }),
            stages: Mutex::new(StageRule { most: 0, ..StageRule::default() }),
        })
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.dir.path().join("ledger")
    }

    pub(crate) fn entry_file(&self, id: &SandboxId) -> PathBuf {
        self.ledger().join(id.as_str()).join("sandbox.json")
    }

    /// Reads the ledger's entry of a sandbox, if there is one: the newer of two, or the only one.
    pub(crate) fn entry(&self, id: &SandboxId) -> Option<serde_json::Value> {
        let content = std::fs::read(self.entry_file(id)).ok()?;
        let (first, second) = content.split_at(content.len() / 2);
        let read = |text| serde_json::from_slice::<serde_json::Value>(text).ok();
        [first, second, &content]
            .into_iter()
            .filter_map(read)
            .max_by_key(|entry| entry["sequence"].as_u64())
    }

    /// Where a file named after a GPU says what is wrong with it.
    pub(crate) fn gpu_faults(&self) -> PathBuf {
        self.dir.path().join("gpu-faults")
    }

    pub(crate) fn entries(&self) -> usize {
        let named = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.ok()?.file_name();
            name.to_str()?.parse::<SandboxId>().ok()
        };
        std::fs::read_dir(self.ledger()).map_or(0, |found| found.filter_map(named).count())
    }
}

// === impl World ===

impl World {
    pub(crate) async fn new() -> Self {
        Self::over(Host::new()).await
    }

    /// Starts a node over a host that may have a past.
    pub(crate) async fn over(host: Arc<Host>) -> Self {
        let tasks = Tasks::new();
        let (count, _) = watch::channel(0);
        let sink = Arc::new(Sink {
            slots: Arc::clone(&host.slots),
            policies: Mutex::default(),
            reports: Mutex::default(),
            captures: Mutex::default(),
            archived: Mutex::default(),
            count,
        });
        let (events, inbox) = tokio::sync::mpsc::channel(64);
        let config = NodeConfig {
            id: NodeId::from_random([5; 16]),
            ledger_dir: host.ledger(),
            tarnd: PathBuf::from("/sim/tarnd"),
            hostname: "tl-sbx".to_owned(),
            processes: 64,
            cpu: MilliCpu::from_milli(2000),
            boot_id: BootId::new(*host.boot.lock()),
            orphan_grace_secs: 100,
            keep_warm: *host.keep_warm.lock(),
            log_rate: LogRate { bytes_per_sec: 1 << 30, burst_bytes: 1 << 30 },
            prestart: PrestartConfig {
                rule: *host.prestart.lock(),
                image: "img".parse().expect("a good name"),
                resources: launch().resources,
            },
            stages: *host.stages.lock(),
        };
        let gib = ByteSize::from_mib(16 * 1024);
        let gpus = SimGpus::new(&host.gpus.lock(), Some(host.gpu_faults()));
        let parts = NodeParts {
            gpus: Arc::new(gpus),
            runtime: Arc::new(SimRuntime::on(&host.sim, events)),
            images: Arc::clone(&host.images) as _,
            layers: Arc::clone(&host.layers) as _,
            slots: Arc::clone(&host.slots) as _,
            captures: Arc::clone(&host.captures) as _,
            archive: Some(NodeArchive {
                archive: Arc::clone(&host.archive) as _,
                place: "sim://".to_owned(),
            }),
            activity: Arc::clone(&host.activity) as _,
            memory: Arc::new(FixedMemory(MemoryFacts { total: gib, available: gib })),
            sink: Arc::clone(&sink) as _,
            log_sink: Arc::clone(&host.logs) as _,
            secrets: Arc::clone(&host.secrets) as _,
            clock: Arc::clone(&host.clock) as _,
            entropy: Arc::new(SeededEntropy::new(host.servers.fetch_add(1, Ordering::Relaxed))),
            tasks: tasks.clone(),
        };
        let node = NodeService::start(config, parts, inbox).await.expect("the node starts");
        Self { host, node, sink, tasks }
    }

    /// Ends the server and starts another over the same host.
    pub(crate) async fn restart(self) -> Self {
        assert_eq!(self.tasks.shutdown(Duration::from_secs(5)).await, 0, "tasks hang");
        Self::over(self.host).await
    }

    /// Restarts the host, and starts another server on it.
    pub(crate) async fn reboot(self) -> Self {
        self.host.sim.reboot().await;
        self.host.layers.reboot();
        *self.host.boot.lock() = "boot-2";
        self.restart().await
    }

    pub(crate) async fn run(&self, id: &SandboxId) -> Report {
        self.apply(id, 1, NodeTarget::Running(launch())).await;
        self.wait(id, |report| report.observed.phase != ObservedPhase::Starting).await
    }

    pub(crate) async fn apply(&self, id: &SandboxId, generation: u64, target: NodeTarget) {
        let intent = NodeIntent {
            id: id.clone(),
            project: ProjectId::from_random([2; 16]),
            generation: Generation(generation),
            target,
        };
        self.node.apply(intent).await.expect("the intent is taken");
    }

    /// Waits for a report of a sandbox that satisfies a condition.
    pub(crate) async fn wait(&self, id: &SandboxId, wanted: impl Fn(&Report) -> bool) -> Report {
        let mut count = self.sink.count.subscribe();
        let found = async {
            loop {
                if let Some(report) = self.sink.last(id).filter(|report| wanted(report)) {
                    break report;
                }
                count.changed().await.expect("the sink lives");
            }
        };
        let limit = Duration::from_secs(30);
        tokio::time::timeout(limit, found).await.expect("the report comes")
    }

    /// Waits for a sandbox to be in a phase at a generation.
    pub(crate) async fn reach(
        &self,
        id: &SandboxId,
        generation: u64,
        phase: ObservedPhase,
    ) -> Report {
        let there = |report: &Report| {
            report.observed.generation == Generation(generation) && report.observed.phase == phase
        };
        self.wait(id, there).await
    }

    /// Has a snapshot taken, and waits for what becomes of it.
    pub(crate) async fn snapshot(
        &self,
        sandbox: &SandboxId,
        n: u8,
        kind: SnapshotKind,
    ) -> CaptureReport {
        let snapshot = snapshot_id(n);
        let order = CaptureOrder {
            snapshot: snapshot.clone(),
            sandbox: sandbox.clone(),
            kind,
            lasting: Lasting::Always,
            copies: 0,
        };
        let mut count = self.sink.count.subscribe();
        let before = self.sink.captures.lock().len();
        self.node.capture(order).await.expect("the order is taken");
        let found = async {
            loop {
                let report = self.sink.captures.lock().get(before).cloned();
                if let Some(report) = report {
                    assert_eq!((&report.snapshot, &report.sandbox), (&snapshot, sandbox));
                    break report;
                }
                count.changed().await.expect("the sink lives");
            }
        };
        tokio::time::timeout(Duration::from_secs(30), found).await.expect("the report comes")
    }

    /// Returns how a running sandbox is reached.
    pub(crate) async fn node_endpoint(&self, id: &SandboxId) -> Endpoint {
        let list = self.node.list().await;
        let report = list.into_iter().find(|report| report.id == *id).expect("listed");
        report.endpoint.expect("it runs")
    }

    pub(crate) async fn wait_end(&self, id: &SandboxId) -> EndCause {
        let ended = |report: &Report| matches!(report.observed.phase, ObservedPhase::Ended(_));
        match self.wait(id, ended).await.observed.phase {
            ObservedPhase::Ended(cause) => cause,
            ObservedPhase::Starting
            | ObservedPhase::Running
            | ObservedPhase::Suspending
            | ObservedPhase::Suspended => unreachable!("waited for an end"),
        }
    }

    /// Waits until something holds that no report tells.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let there = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), there).await;
        assert!(waited.is_ok(), "not within 30 s: {what}");
    }

    /// Waits until the ledger's entry of a sandbox is as wanted.
    pub(crate) async fn wait_entry(
        &self,
        id: &SandboxId,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) {
        let there = async {
            while !self.host.entry(id).is_some_and(|entry| wanted(&entry)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), there).await.expect("the entry comes");
    }

    /// Changes the ledger's entry of a sandbox behind the node's back.
    pub(crate) fn edit_entry(&self, id: &SandboxId, change: impl FnOnce(&mut serde_json::Value)) {
        let mut entry = self.host.entry(id).expect("an entry");
        change(&mut entry);
        entry["format_version"] = 4.into();
        // As an older server wrote it, without places, but as long as before.
        let file = self.host.entry_file(id);
        let mut text = entry.to_string().into_bytes();
        let length = std::fs::metadata(&file).expect("it is there").len();
        text.resize(usize::try_from(length).expect("it is short"), b' ');
        std::fs::write(file, text).expect("it is written");
    }

    /// Asserts that the host has nothing of any sandbox, once the ledger is as small as said.
    pub(crate) async fn assert_clean(&self, ledger_entries: usize) {
        let last = Mutex::new(None);
        let (events, _inbox) = tokio::sync::mpsc::channel(1);
        let runtime = SimRuntime::on(&self.host.sim, events);
        let wait_until_clean = async {
            loop {
                let layers = self.host.layers.list().await.expect("a list");
                let slot = self.host.slots.policy(tarn_host::SlotId(0));
                let left = runtime.list().await.expect("a list");
                let entries = self.host.entries();
                let found = (entries, layers, slot, left);
                if found == (ledger_entries, vec![], None, vec![]) {
                    break;
                }
                *last.lock() = Some(format!("{found:?}"));
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(10), wait_until_clean).await.is_err() {
            unreachable!("something is left: {:?}", last.lock());
        }
    }
}

pub(crate) fn id(n: u8) -> SandboxId {
    SandboxId::from_random([n; 21])
}

pub(crate) fn snapshot_id(n: u8) -> SnapshotId {
    SnapshotId::from_random([n; 16])
}

pub(crate) fn launch() -> Launch {
    Launch {
        image: "img".parse().expect("a good name"),
        resources: Resources::default(),
        entrypoint: None,
        egress: EgressPolicy::OPEN,
        named: false,
        timeout_secs: 600,
        restore: None,
        claimed_at: None,
        secret_names: Vec::new(),
    }
}

/// Says whether a daemon port takes connections.
pub(crate) async fn answers(daemon: SocketAddr) -> bool {
    tokio::net::TcpStream::connect(daemon).await.is_ok()
}
