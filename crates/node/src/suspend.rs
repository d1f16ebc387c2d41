//! Suspend and resume, and snapshots: what a sandbox's task does with captures.
//!
//! ```text
//!  Running ──▶ (captured, durable) ──▶ Suspended, warm ──▶ Suspended, cold
//!     ▲                                   │ resume            │ restore
//!     └───────────────────────────────────┴───────────────────┘
//! ```
//!
//! A suspended sandbox is its capture and nothing else; one that the restart of its host has
//! suspended is its layer, and its resume a boot. Its paused processes are kept for a while
//! only to make a resume quick. Before they go on, the ledger durably says that the sandbox runs:
//! from then on the capture is older than the files, and is never restored.

use std::{net::SocketAddr, pin::pin, sync::atomic::Ordering, time::Duration};

use tarn_guest_api::Continues;
use tarn_node_api::{CaptureOrder, CaptureReport, Endpoint, NodeTarget};
use tarn_types::{
    ByteSize, CaptureFacts, Generation, Lasting, Launch, ObservedPhase, SnapshotKind,
};

use tokio::time::Instant;

use crate::{
    capture::{self, Purpose, unseal, unseal_on, unseal_request},
    daemon::DaemonConnection,
    gauge::MemoryFacts,
    ledger::{Durability, Entry, Kept, State},
    room::{Room, STOOD_STILL},
    sandbox::{Past, SandboxTask},
    service::Shared,
    stage,
    start::{chain, clean, resume_cold},
};

/// How long after a suspend by the idle limit that failed the next one is tried.
const IDLE_RETRY: Duration = Duration::from_secs(30);

/// The least memory that is kept free by dropping paused processes, and the share of all memory.
const RESERVE_MIN: ByteSize = ByteSize::from_mib(1024);
const RESERVE_PERCENT: u64 = 10;

/// Why the memory of a sandbox stays where it is.
const NO_MEMORY_OF_GPUS: &str = "what is in its GPUs cannot be written down with its memory";

/// Who wants a sandbox suspended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Why {
    /// An intent.
    Asked,
    /// Its idle limit.
    Idle {
        /// The limit, in seconds.
        secs: u64,
    },
    /// The limit of a sandbox that was claimed from a pool.
    Limit,
}

/// What keeps a suspended sandbox's processes.
#[derive(Debug)]
pub(crate) struct Warm {
    since: Instant,
    /// Where its daemon listens.
    daemon: SocketAddr,
    /// What its daemon was sealed on: it is there, and need not be accepted.
    sealed_on: Option<DaemonConnection>,
}

/// Why paused processes did not go on.
#[derive(Debug)]
enum WarmFailure {
    /// For certain they did nothing since they were captured.
    NeverRan(String),
    /// They may have: nothing else can stand for what they did.
    MayHaveRun(String),
}

// === impl Warm ===

impl Warm {
    /// Says whether the processes are to be dropped.
    fn is_over(&self, keep: Duration, memory: MemoryFacts) -> bool {
        self.since.elapsed() >= keep || is_short(memory)
    }
}

/// Says whether paused processes cost memory that others need.
fn is_short(memory: MemoryFacts) -> bool {
    let share = memory.total.bytes() / 100 * RESERVE_PERCENT;
    memory.available.bytes() < share.max(RESERVE_MIN.bytes())
}

// === impl SandboxTask ===

impl SandboxTask {
    /// Suspends a running sandbox, for an intent or a limit. After a failure it runs on, and the
    /// report says why.
    pub(crate) async fn suspend(&mut self, generation: Generation, why: Why) {
        let before = std::mem::replace(&mut self.entry.generation, generation);
        if self.entry.frozen {
            return self.not_suspended(STOOD_STILL.to_owned()).await;
        }
        let Some(endpoint) = self.endpoint.clone() else {
            let trouble = "the sandbox cannot be reached just now".to_owned();
            return self.not_suspended(trouble).await;
        };
        self.trouble = None;
        self.phase = Some(ObservedPhase::Suspending);
        self.report().await;
        // A request is either seen here, or it sees that report and waits.
        if let Why::Idle { secs } = why
            && !self.is_idle(secs)
        {
            self.phase = None;
            return self.report().await;
        }
        // What it printed and nobody read yet is in its memory, and read after the resume.
        self.pump = None;
        let begun = Instant::now();
        let unplugged = self.entry.launch.resources.gpus.is_some();
        let put = match unplugged {
            true => self.put_aside().await.map(|()| None),
            false => self.put_down(&endpoint, before).await,
        };
        let sealed_on = match put {
            Ok(sealed_on) => sealed_on,
            Err(trouble) => return self.not_suspended(trouble).await,
        };
        self.endpoint = None;
        self.phase = None;
        tracing::info!(
            sandbox.id = %self.entry.id, millis = millis(begun.elapsed()), "a sandbox was suspended"
        );
        self.report().await;
        if unplugged {
            return self.clean().await;
        }
        self.keep_warm_or_drop(endpoint.daemon, sealed_on).await;
    }

    /// Has the ledger durably say that a sandbox with GPUs is its layer and nothing else: what is
    /// in a GPU cannot be written down, and memory without it is of no use. After a failure it
    /// runs.
    async fn put_aside(&mut self) -> Result<(), String> {
        let running = self.entry.state.clone();
        let at = self.shared.parts.clock.now();
        self.entry.state = State::Suspended { at, kept: Kept::Layer };
        let written = self.shared.write(self.entry.clone(), Durability::Synced).await;
        written.map_err(|bad| {
            self.entry.state = running;
            chain(&bad)
        })
    }

    /// Writes a running sandbox down, and has the ledger durably say that it is suspended. Returns
    /// what its daemon was sealed on. After a failure it runs, and may be held.
    pub(crate) async fn put_down(
        &mut self,
        endpoint: &Endpoint,
        durable: Generation,
    ) -> Result<Option<DaemonConnection>, String> {
        let sealed_on = self.write_down(endpoint, durable).await?;
        let running = self.entry.state.clone();
        let at = self.shared.parts.clock.now();
        self.entry.state = State::Suspended { at, kept: Kept::Capture };
        self.entry.held = false;
        let written = self.shared.write(self.entry.clone(), Durability::Synced).await;
        written.map(|()| sealed_on).map_err(|bad| {
            self.entry.state = running;
            self.entry.held = true;
            chain(&bad)
        })
    }

    async fn write_down(
        &mut self,
        endpoint: &Endpoint,
        durable: Generation,
    ) -> Result<Option<DaemonConnection>, String> {
        if self.entry.launch.resources.gpus.is_some() {
            return Err(NO_MEMORY_OF_GPUS.to_owned());
        }
        if !self.shared.parts.runtime.capabilities().memory_snapshots {
            return Err("this runtime cannot write down memory".to_owned());
        }
        let held = self.hold(durable);
        let name = self.entry.id.as_str().to_owned();
        let (kind, purpose) = (SnapshotKind::Memory, Purpose::Suspend);
        let mut draft =
            capture::capture(&self.shared, &self.entry, endpoint, &name, kind, purpose, held)
                .await?;
        let sealed_on = draft.sealed_on.take();
        capture::commit(&self.shared, draft, Lasting::Always, 0).await?;
        Ok(sealed_on)
    }

    /// Has the ledger say that a capture holds the sandbox, before one does. It stays at the
    /// generation `durable`: an intent is not followed before it is brought about, so a server
    /// that comes next is told it again.
    fn hold(
        &mut self,
        durable: Generation,
    ) -> impl Future<Output = Result<(), String>> + Send + use<> {
        self.entry.held = true;
        let entry = Entry { generation: durable, ..self.entry.clone() };
        let shared = std::sync::Arc::clone(&self.shared);
        async move { shared.write(entry, Durability::Written).await.map_err(|bad| chain(&bad)) }
    }

    /// Makes sure that a sandbox goes on which a capture may hold still. Where that fails now, the
    /// ledger goes on to say so, and the next look tries again.
    pub(crate) async fn let_go(&mut self) {
        let Some(endpoint) = self.endpoint.clone().filter(|_| self.entry.held) else { return };
        if *self.room.borrow() != Room::Enough {
            // It would be frozen at once.
            return;
        }
        match capture::go_on(&self.shared, &self.entry, &endpoint).await {
            Ok(()) => self.freed().await,
            Err(trouble) => tracing::error!(
                sandbox.id = %self.entry.id, trouble,
                "a sandbox does not go on after a capture; trying again"
            ),
        }
    }

    /// Notes that nothing holds the sandbox any more.
    async fn freed(&mut self) {
        self.entry.resuming = false;
        if std::mem::take(&mut self.entry.held) {
            self.save(Durability::Written).await;
        }
    }

    async fn not_suspended(&mut self, trouble: String) {
        tracing::warn!(sandbox.id = %self.entry.id, trouble, "a sandbox was not suspended; it runs on");
        self.let_go().await;
        self.phase = None;
        self.trouble = Some(trouble);
        self.not_before = Some(Instant::now() + IDLE_RETRY);
        self.report().await;
    }

    /// Keeps the paused processes of a suspended sandbox while there is memory for them.
    async fn keep_warm_or_drop(&mut self, daemon: SocketAddr, sealed_on: Option<DaemonConnection>) {
        let keep = self.shared.config.keep_warm;
        if keep.is_zero() || is_short(self.shared.parts.memory.read()) {
            self.clean().await;
            return self.expect_resume();
        }
        // They are paused, and stay so whoever dies.
        drop(self.set_warm(Some(Warm { since: Instant::now(), daemon, sealed_on })));
    }

    /// Keeps paused processes, or none, and returns those that were kept.
    pub(crate) fn set_warm(&mut self, warm: Option<Warm>) -> Option<Warm> {
        self.handle.warm.store(warm.is_some(), Ordering::Relaxed);
        std::mem::replace(&mut self.warm, warm)
    }

    /// Drops the processes of a suspended sandbox if they have been kept for long enough.
    pub(crate) async fn drop_warm_if_over(&mut self) {
        let Some(warm) = &self.warm else { return };
        if warm.is_over(self.shared.config.keep_warm, self.shared.parts.memory.read()) {
            self.drop_warm().await;
        }
    }

    pub(crate) async fn drop_warm(&mut self) {
        drop(self.set_warm(None));
        self.set_past(Past::Dormant);
        // As long as the ledger says that it runs, its processes are all that there is of it.
        if !self.is_unsaved() {
            self.clean().await;
            self.expect_resume();
        }
    }

    /// Has something made ready for the resume of a sandbox whose processes are gone.
    fn expect_resume(&self) {
        let captured = self.entry.kept() == Some(Kept::Capture);
        if captured && self.is(&Past::Settled) {
            self.shared.stages.note_suspended(&self.entry.id);
        }
    }

    /// Has a suspended sandbox go on at a new generation. After a failure it is suspended still, as
    /// it was captured.
    pub(crate) async fn resume(&mut self, launch: Launch, generation: Generation) {
        match self.try_resume(launch, generation).await {
            Ok(()) => {
                self.renew_policy().await;
                self.report().await;
                self.freed().await;
                self.discard_capture().await;
            }
            Err(trouble) => {
                self.trouble = Some(trouble);
                self.report().await;
            }
        }
    }

    /// Does what [`SandboxTask::resume`] does, but tells nobody; one that was kept warm is still
    /// noted as held.
    pub(crate) async fn try_resume(
        &mut self,
        launch: Launch,
        generation: Generation,
    ) -> Result<(), String> {
        let begun = Instant::now();
        let before = self.entry.clone();
        self.entry.generation = generation;
        // Whatever it was made from, it goes on from its own capture.
        self.entry.launch = launch;
        self.entry.resizing = false;
        (self.trouble, self.unfit) = (None, None);
        let warm = self.set_warm(None);
        let was_warm = warm.is_some();
        self.shared.starts_in_flight.fetch_add(1, Ordering::Relaxed);
        let resumed = match warm {
            Some(warm) => match self.go_on(warm, &before.launch).await {
                Ok(endpoint) => Ok(endpoint),
                Err(WarmFailure::MayHaveRun(trouble)) => Err(trouble),
                // What it was captured as is still all that it ever was.
                Err(WarmFailure::NeverRan(trouble)) => self.restore_instead(trouble).await,
            },
            None => self.restore().await,
        };
        self.shared.starts_in_flight.fetch_sub(1, Ordering::Relaxed);
        match resumed {
            Ok(endpoint) => {
                self.endpoint = Some(endpoint);
                self.not_before = None;
                self.adopted_at = None;
                self.begun = Some(Instant::now());
                tracing::info!(
                    sandbox.id = %self.entry.id, warm = was_warm,
                    millis = millis(begun.elapsed()),
                    "a sandbox was resumed"
                );
                Ok(())
            }
            Err(trouble) => {
                tracing::warn!(sandbox.id = %self.entry.id, trouble, "a sandbox was not resumed; it stays suspended");
                // Nobody was told that it runs. Whatever it did since, its capture is what it is.
                self.entry = Entry { generation, slot: self.entry.slot, ..before };
                self.save(Durability::Synced).await;
                self.drop_warm().await;
                Err(trouble)
            }
        }
    }

    /// The processes are there: they go on where they were paused. Their daemon's connection is
    /// made and asked while they stand still: gVisor's network does not.
    async fn go_on(&mut self, warm: Warm, before: &Launch) -> Result<Endpoint, WarmFailure> {
        let id = self.entry.id.clone();
        let token = self.entry.token.clone();
        let endpoint = Endpoint { daemon: warm.daemon, token: token.clone() };
        let request = unseal_request(&self.shared, &id, Continues::Suspended, &token);
        let thaw = async {
            self.make_ready(before).await.map_err(WarmFailure::NeverRan)?;
            // A server that dies from here on leaves a running sandbox, not one to bring back.
            self.run_from_now(true).await.map_err(WarmFailure::MayHaveRun)?;
            let resumed = self.shared.parts.runtime.resume(&id).await;
            resumed.map_err(|bad| WarmFailure::MayHaveRun(chain(&bad)))
        };
        let early = unseal_on(warm.sealed_on, &endpoint, &request);
        let again = || unseal(&endpoint, &token, &request);
        thaw_beside(thaw, early, again).await?;
        Ok(endpoint)
    }

    /// Makes sure that the processes are there, and puts the policy in force that is wanted now.
    async fn make_ready(&self, before: &Launch) -> Result<(), String> {
        let (parts, id) = (&self.shared.parts, &self.entry.id);
        if let Ok(false) = parts.runtime.lives(id).await {
            return Err("its processes are gone".to_owned());
        }
        let slot = self.entry.slot.ok_or("the ledger names no network slot of it")?;
        if before.resources != self.entry.launch.resources {
            // Its limits are set when it is built.
            return Err("it is to have other resources".to_owned());
        }
        if before.egress != self.entry.launch.egress {
            let set = parts.slots.set_policy(slot, id, &self.entry.launch.egress).await;
            set.map_err(|bad| chain(&bad))?;
        }
        Ok(())
    }

    /// Restores the sandbox from its capture, in place of processes that never went on.
    async fn restore_instead(&mut self, trouble: String) -> Result<Endpoint, String> {
        tracing::warn!(sandbox.id = %self.entry.id, trouble, "a sandbox does not go on where it was paused; it is restored");
        clean(&self.shared, &mut self.entry).await?;
        self.restore().await
    }

    /// The processes are gone: they are restored from the capture, or booted from its files.
    async fn restore(&mut self) -> Result<Endpoint, String> {
        let wanted = self.wanted.clone();
        let endpoint = resume_cold(&self.shared, &mut self.entry, wanted).await?;
        self.run_from_now(false).await?;
        Ok(endpoint)
    }

    /// Has the ledger durably say that the sandbox runs in this boot of the host, and not that it
    /// is suspended.
    async fn run_from_now(&mut self, held: bool) -> Result<(), String> {
        let suspended = self.entry.state.clone();
        self.entry.state = State::Running { since: self.shared.parts.clock.now() };
        self.entry.boot_id = self.shared.config.boot_id.clone();
        self.entry.idle_ms = 0;
        (self.entry.held, self.entry.resuming) = (held, held);
        let written = self.shared.write(self.entry.clone(), Durability::Synced).await;
        written.map_err(|bad| {
            self.entry.state = suspended;
            (self.entry.held, self.entry.resuming) = (false, false);
            chain(&bad)
        })
    }

    /// Removes the capture of a sandbox that does not need it any more.
    pub(crate) async fn discard_capture(&self) {
        let id = &self.entry.id;
        if let Err(bad) = self.shared.parts.captures.discard(id.as_str()).await {
            tracing::warn!(sandbox.id = %id, error = chain(&bad), "an old capture is not removed; the next start tries again");
        }
    }

    /// Takes a snapshot of a running sandbox. It goes on before the snapshot is whole.
    pub(crate) async fn snapshot(&mut self, order: CaptureOrder) {
        let taken = self.take_snapshot(&order).await;
        let shared = std::sync::Arc::clone(&self.shared);
        match taken {
            Ok(draft) => {
                let is_held = draft.is_held;
                let commit = async move {
                    let (lasting, copies) = (order.lasting, order.copies);
                    let outcome = capture::commit(&shared, draft, lasting, copies).await;
                    if outcome.is_ok() && order.kind == SnapshotKind::Memory {
                        match order.copies {
                            0 => shared.stages.note_taken(&order.snapshot),
                            copies => stage::begin_copies(&shared, &order.snapshot, copies),
                        }
                    }
                    report_capture(&shared, &order, outcome).await;
                };
                drop(self.shared.parts.tasks.spawn("snapshot_commit", commit));
                if !is_held {
                    self.freed().await;
                }
            }
            Err(trouble) => {
                tracing::warn!(sandbox.id = %self.entry.id, snapshot.id = %order.snapshot, trouble, "a snapshot was not taken");
                report_capture(&shared, &order, Err(trouble)).await;
            }
        }
    }

    /// Returns the parts of a snapshot. The sandbox goes on, the ledger does not say so yet.
    async fn take_snapshot(&mut self, order: &CaptureOrder) -> Result<capture::Draft, String> {
        if self.entry.frozen {
            return Err(STOOD_STILL.to_owned());
        }
        // Whatever still holds it, its daemon may be sealed, and a snapshot of files unseals none.
        self.let_go().await;
        if self.entry.held {
            return Err("the sandbox does not go on after an earlier capture".to_owned());
        }
        let running = matches!(self.entry.state, State::Running { .. });
        let Some(endpoint) = self.endpoint.clone().filter(|_| running) else {
            return Err("the sandbox does not run".to_owned());
        };
        let memory_snapshots = self.shared.parts.runtime.capabilities().memory_snapshots;
        if order.kind == SnapshotKind::Memory && !memory_snapshots {
            return Err("this runtime cannot write down memory".to_owned());
        }
        if order.kind == SnapshotKind::Memory && self.entry.launch.resources.gpus.is_some() {
            return Err(NO_MEMORY_OF_GPUS.to_owned());
        }
        let held = self.hold(self.entry.generation);
        let (name, kind, purpose) = (order.snapshot.as_str(), order.kind, Purpose::Snapshot);
        let draft =
            capture::capture(&self.shared, &self.entry, &endpoint, name, kind, purpose, held).await;
        if draft.is_err() {
            self.let_go().await;
        }
        draft
    }

    /// Follows an intent while the sandbox is suspended.
    pub(crate) async fn follow_suspended(&mut self, target: NodeTarget, generation: Generation) {
        match target {
            // What is left of before is removed first; that is tried again soon.
            NodeTarget::Running(_) if self.is(&Past::Dormant) => {}
            NodeTarget::Running(launch) => self.resume(launch, generation).await,
            NodeTarget::Suspended => {
                self.entry.generation = generation;
                self.save(Durability::Written).await;
                self.report().await;
            }
            NodeTarget::Terminated(cause) => {
                self.entry.generation = generation;
                self.end(cause).await;
            }
        }
    }

    /// Says whether the idle limit suspends the sandbox now.
    pub(crate) fn is_idle(&self, secs: u64) -> bool {
        self.rested() && self.idle_ms().is_some_and(|idle| idle >= secs.saturating_mul(1000))
    }

    /// Says whether its limit may suspend it now.
    pub(crate) fn may_suspend(&self) -> bool {
        self.rested() && self.past == Past::Settled
    }

    /// Says whether it runs, and no suspend failed just now.
    fn rested(&self) -> bool {
        !self.entry.frozen && self.not_before.is_none_or(|at| Instant::now() >= at)
    }

    /// Returns for how long nothing went to a running sandbox; `None` while something does.
    pub(crate) fn idle_ms(&self) -> Option<u64> {
        let State::Running { since } = self.entry.state else { return None };
        let now = self.shared.parts.clock.now();
        let (since, before) = match self.adopted_at {
            Some(adopted) => (adopted, self.entry.idle_ms),
            None => (since, 0),
        };
        match self.shared.parts.activity.activity(&self.entry.id) {
            Some(activity) if activity.open > 0 => None,
            Some(activity) if activity.last >= since => Some(now.millis_since(activity.last)),
            Some(_) | None => Some(now.millis_since(since).saturating_add(before)),
        }
    }
}

/// Tells control what became of an order.
pub(crate) async fn report_capture(
    shared: &Shared,
    order: &CaptureOrder,
    outcome: Result<CaptureFacts, String>,
) {
    let report = CaptureReport {
        snapshot: order.snapshot.clone(),
        sandbox: order.sandbox.clone(),
        node: shared.config.id.clone(),
        outcome,
    };
    shared.parts.sink.captured(report).await;
}

/// Does both at once, the first to its end. What the second waits for does not come when the first
/// fails, and may come late: one that gave up before is asked again.
async fn thaw_beside<U: Future<Output = Result<(), String>>>(
    thaw: impl Future<Output = Result<(), WarmFailure>>,
    unseal: impl Future<Output = Result<(), String>>,
    again: impl FnOnce() -> U,
) -> Result<(), WarmFailure> {
    let (mut thaw, mut early) = (pin!(thaw), pin!(unseal));
    let unsealed = tokio::select! {
        biased;
        thawed = &mut thaw => {
            thawed?;
            early.await
        }
        unsealed = &mut early => {
            thaw.await?;
            match unsealed {
                Ok(()) => Ok(()),
                Err(_gave_up) => again().await,
            }
        }
    };
    unsealed.map_err(WarmFailure::MayHaveRun)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
