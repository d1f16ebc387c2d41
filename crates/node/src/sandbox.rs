//! The task that owns one sandbox of this node.
//!
//! ```text
//!  Starting ──▶ Running ◀──▶ Suspended ──▶ Ended ──▶ (forgotten)
//!      └───────────┴──────────────────────▲
//! ```
//!
//! What others want lies in its [`Handle`]. The task compares, acts, writes the ledger, reports.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tarn_node_api::{Endpoint, NodeIntent, NodeTarget};
use tarn_runtime::RuntimeExit;
use tarn_types::{
    DaemonToken, EndCause, FailedStep, Generation, Launch, ObservedPhase, ProjectId, SandboxId,
    UnixMillis,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    adopt::{Found, died_unwatched, find, warn_sought},
    archive::Brought,
    handle::{Handle, Known, Wanted, known_of},
    ledger::{Durability, Entry, FORMAT_VERSION, State},
    log::LogPump,
    resize::Fitted,
    room::Room,
    service::Shared,
    stage,
    start::{chain, clean, failed, renew_policy, start},
    suspend::{Warm, Why},
};

/// How long after a start or a resume a word of the processes of before may still come.
const LATE_WORD: Duration = Duration::from_secs(5);

/// Owns one sandbox of this node.
pub(crate) struct SandboxTask {
    pub(crate) shared: Arc<Shared>,
    pub(crate) handle: Arc<Handle>,
    pub(crate) wanted: watch::Receiver<Wanted>,
    /// Whether it may write to the pool.
    pub(crate) room: watch::Receiver<Room>,
    pub(crate) entry: Entry,
    pub(crate) endpoint: Option<Endpoint>,
    /// How many of `Wanted::repeats` were answered.
    repeated: u64,
    pub(crate) past: Past,
    /// Reads what its processes print, while it runs.
    pub(crate) pump: Option<LogPump>,
    /// Where it is between two states of the ledger.
    pub(crate) phase: Option<ObservedPhase>,
    /// Why the last intent was not brought about.
    pub(crate) trouble: Option<String>,
    /// Why it has other resources than the last intent wants.
    pub(crate) unfit: Option<String>,
    /// Its processes, while it is suspended and they are still there.
    pub(crate) warm: Option<Warm>,
    /// Before this its idle limit does not try again.
    pub(crate) not_before: Option<Instant>,
    /// When it last began to run: at its start, or after a suspend.
    pub(crate) begun: Option<Instant>,
    /// When this server took it over from an earlier one.
    pub(crate) adopted_at: Option<UnixMillis>,
    /// The ledger could not be written the last time.
    pub(crate) unsaved: bool,
    /// It was suspended when it ended.
    ended_suspended: bool,
    /// When its idle time was last written down.
    pub(crate) idle_saved: Option<Instant>,
}

/// What is still open of a sandbox's past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Past {
    /// Nothing.
    Settled,
    /// It runs or has run under an earlier server, and could not be found again so many times. It
    /// is touched by nothing but what is wanted of it.
    Sought {
        /// How often it was looked for.
        tries: u32,
        /// What kept it from being found the last time.
        trouble: String,
    },
    /// An earlier server was building it; that is undone before it is built as it is wanted.
    HalfBuilt,
    /// It has ended, and something of it may still be on the host.
    Unclean,
    /// It is suspended, and something besides what is kept of it may still be on the host.
    Dormant,
}

// === impl SandboxTask ===

impl SandboxTask {
    /// Begins to build a sandbox. Its handle is there when this returns.
    pub(crate) fn spawn_new(shared: &Arc<Shared>, intent: NodeIntent) {
        let NodeTarget::Running(launch) = intent.target.clone() else { return };
        let entry = new_entry(shared, &intent, launch);
        let wanted = Wanted { intent: Some(intent), ..Wanted::default() };
        let Some(mut task) = Self::new(shared, entry, wanted, None) else { return };
        shared.starts_in_flight.fetch_add(1, Ordering::Relaxed);
        drop(shared.parts.tasks.spawn("sandbox", async move {
            task.build().await;
            task.run().await;
        }));
    }

    /// Takes over a sandbox that the ledger knows.
    pub(crate) fn spawn_adopted(
        shared: &Arc<Shared>,
        entry: Entry,
        endpoint: Option<Endpoint>,
        past: Past,
    ) {
        let wanted = Wanted { orphaned: entry.orphaned.is_some(), ..Wanted::default() };
        let Some(mut task) = Self::new(shared, entry, wanted, endpoint) else { return };
        task.set_past(past);
        task.adopted_at = Some(shared.parts.clock.now());
        drop(shared.parts.tasks.spawn("sandbox", async move { task.run().await }));
    }

    /// Registers a handle; `None` when somebody else was quicker.
    fn new(
        shared: &Arc<Shared>,
        entry: Entry,
        wanted: Wanted,
        endpoint: Option<Endpoint>,
    ) -> Option<Self> {
        let (sender, receiver) = watch::channel(wanted);
        let handle = Arc::new(Handle {
            id: entry.id.clone(),
            wanted: sender,
            known: Mutex::new(known_of(shared, &entry, endpoint.clone())),
            unfound: Mutex::default(),
            warm: AtomicBool::new(false),
            relief: Arc::default(),
        });
        let mut handles = shared.handles.write();
        if handles.contains_key(&entry.id) {
            return None;
        }
        handles.insert(entry.id.clone(), Arc::clone(&handle));
        Some(Self {
            shared: Arc::clone(shared),
            handle,
            wanted: receiver,
            room: shared.room.subscribe(),
            entry,
            endpoint,
            repeated: 0,
            past: Past::Settled,
            pump: None,
            phase: None,
            trouble: None,
            unfit: None,
            warm: None,
            not_before: None,
            begun: None,
            adopted_at: None,
            unsaved: false,
            ended_suspended: false,
            idle_saved: None,
        })
    }

    /// Builds it. The start is counted already.
    async fn build(&mut self) {
        let brought = match self.bring_image().await {
            Brought::Here => self.bring().await,
            other @ (Brought::Moot | Brought::Failed(_)) => other,
        };
        let started = match brought {
            Brought::Here => Some(self.start().await),
            // Nothing was built: what is wanted is done now, or the next server builds it.
            Brought::Moot => None,
            Brought::Failed(cause) => Some(Err(cause)),
        };
        match started {
            None => {}
            Some(Ok(endpoint)) => {
                self.endpoint = Some(endpoint);
                self.renew_policy().await;
                self.report().await;
            }
            Some(Err(cause)) => {
                tracing::warn!(
                    sandbox.id = %self.entry.id, message = cause.error_message(),
                    "a sandbox did not start"
                );
                self.end(cause).await;
            }
        }
        self.shared.starts_in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Starts it, and has the ledger say that it runs before anybody else does: what is only said
    /// to be starting is built anew by the next server.
    async fn start(&mut self) -> Result<Endpoint, EndCause> {
        let wanted = self.wanted.clone();
        let endpoint = start(&self.shared, &mut self.entry, wanted).await?;
        // A word of what was started ahead under its id may still come.
        self.begun = Some(Instant::now());
        self.entry.state = State::Running { since: self.shared.parts.clock.now() };
        // A crash of the host ends one without a name, whatever this file says then. What has a
        // name keeps its files, so the word that it runs must outlast one.
        let named = self.entry.launch.named;
        let durability = if named { Durability::Synced } else { Durability::Written };
        let written = self.shared.write(self.entry.clone(), durability).await;
        written.map_err(|bad| failed(FailedStep::Layer, &bad))?;
        Ok(endpoint)
    }

    async fn run(&mut self) {
        // Before an end that is wanted already, so that the last lines are read.
        self.keep_pump();
        self.fit_after_crash().await;
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            if self.compare(wanted).await == Progress::Forgotten {
                self.shared.handles.write().remove(&self.entry.id);
                return;
            }
            self.keep_pump();
            let stopping = self.shared.parts.tasks.stopping();
            let next_look = tokio::time::sleep(self.next_look());
            tokio::select! {
                // The server stops; the sandbox lives on.
                () = stopping => return,
                changed = self.wanted.changed() => if changed.is_err() { return },
                changed = self.room.changed() => if changed.is_err() { return },
                () = next_look => self.look().await,
            }
        }
    }

    /// Brings the sandbox nearer to what is wanted.
    async fn compare(&mut self, wanted: Wanted) -> Progress {
        if self.past == Past::HalfBuilt {
            return self.build_again(wanted).await;
        }
        if self.is_ended() {
            if self.past == Past::Unclean {
                self.clean().await;
            }
            if self.past == Past::Settled && wanted.forget >= Some(self.entry.generation) {
                return self.forget().await;
            }
        } else {
            if self.past == Past::Dormant && !self.unsaved {
                self.clean().await;
            }
            if let Some(exit) = &wanted.exit {
                self.heed_exit(exit).await;
            }
            if !self.is_ended() && wanted.orphaned != self.entry.orphaned.is_some() {
                self.set_orphaned(wanted.orphaned).await;
            }
            self.heed_room().await;
        }
        // Before a suspend, or an end, that was asked for later.
        for order in wanted.captures {
            self.handle.want(|wanted| wanted.captures.retain(|other| *other != order));
            self.snapshot(order).await;
        }
        if let Some(intent) = wanted.intent {
            self.follow(intent).await;
        }
        if wanted.repeats > self.repeated {
            self.repeated = wanted.repeats;
            self.report().await;
        }
        Progress::Here
    }

    /// Undoes what an earlier server had begun to build, then does what is wanted now.
    async fn build_again(&mut self, wanted: Wanted) -> Progress {
        self.clean().await;
        if self.past != Past::Settled {
            return Progress::Here;
        }
        let Some(intent) = wanted.intent else {
            if wanted.orphaned {
                // Nobody has ever seen it, and nobody waits for it.
                return self.forget().await;
            }
            // Control has not compared yet.
            self.set_past(Past::HalfBuilt);
            return Progress::Here;
        };
        self.repeated = wanted.repeats;
        match intent.target.clone() {
            NodeTarget::Running(launch) => {
                self.entry = new_entry(&self.shared, &intent, launch);
                self.shared.starts_in_flight.fetch_add(1, Ordering::Relaxed);
                self.build().await;
            }
            // It never ran, so there is nothing to suspend: control does not ask for it.
            NodeTarget::Suspended => self.set_past(Past::HalfBuilt),
            NodeTarget::Terminated(cause) => {
                self.entry.generation = intent.generation;
                self.end(cause).await;
            }
        }
        Progress::Here
    }

    /// Its processes are gone. A suspended sandbox can do without.
    async fn heed_exit(&mut self, exit: &RuntimeExit) {
        self.handle.want(|wanted| wanted.exit = None);
        if matches!(self.entry.state, State::Suspended { .. }) {
            self.drop_warm().await;
        } else if self.begun.is_some_and(|at| at.elapsed() < LATE_WORD)
            && let Ok(true) = self.shared.parts.runtime.lives(&self.entry.id).await
        {
            // Those of before: it has others now.
            tracing::debug!(sandbox.id = %self.entry.id, ?exit, "a late word of earlier processes");
        } else {
            self.end(cause_of(exit)).await;
        }
    }

    pub(crate) fn set_past(&mut self, past: Past) {
        *self.handle.unfound.lock() = match &past {
            Past::Sought { trouble, .. } => Some(trouble.clone()),
            Past::Settled | Past::HalfBuilt | Past::Unclean | Past::Dormant => None,
        };
        self.past = past;
    }

    /// Looks once more for a sandbox of an earlier server.
    pub(crate) async fn seek(&mut self, tries: u32) {
        match find(&self.shared, &self.entry).await {
            Ok(Found::Alive(endpoint)) => {
                tracing::info!(sandbox.id = %self.entry.id, tries, "a sandbox was found again");
                self.set_past(Past::Settled);
                self.endpoint = Some(endpoint);
                self.report().await;
            }
            Ok(Found::Dead) => self.end(died_unwatched(&self.entry.id)).await,
            Err(trouble) => {
                let tries = tries.saturating_add(1);
                warn_sought(&self.entry.id, &trouble, tries);
                self.set_past(Past::Sought { tries, trouble });
            }
        }
    }

    async fn follow(&mut self, intent: NodeIntent) {
        if intent.generation <= self.entry.generation {
            return;
        }
        if matches!(self.entry.state, State::Suspended { .. }) {
            return self.follow_suspended(intent.target, intent.generation).await;
        }
        match intent.target {
            NodeTarget::Running(launch) if !self.is_ended() => {
                self.relaunch(launch, intent.generation).await;
            }
            NodeTarget::Suspended if !self.is_ended() => {
                self.suspend(intent.generation, Why::Asked).await
            }
            NodeTarget::Running(_) | NodeTarget::Suspended => {
                self.entry.generation = intent.generation;
                self.save(Durability::Written).await;
                self.report().await;
            }
            NodeTarget::Terminated(cause) => {
                self.entry.generation = intent.generation;
                if self.is_ended() {
                    self.save(Durability::Written).await;
                    self.report().await;
                } else {
                    // Control sends nobody there any more.
                    self.endpoint = None;
                    self.end(cause).await;
                }
            }
        }
    }

    /// Before anybody hears that it runs.
    pub(crate) async fn renew_policy(&mut self) {
        if let Err(bad) = renew_policy(&self.shared, &mut self.entry, &self.wanted).await {
            // The comparison that follows tries again.
            tracing::warn!(sandbox.id = %self.entry.id, error = %bad, "the policy was not replaced");
        }
    }

    /// Changes what can change in place: policy, clock and resources.
    async fn relaunch(&mut self, launch: Launch, generation: Generation) {
        let slots = &self.shared.parts.slots;
        if launch.egress != self.entry.launch.egress
            && let Some(slot) = self.entry.slot
            && let Err(bad) = slots.set_policy(slot, &self.entry.id, &launch.egress).await
        {
            // The old policy stays; the next look tries again, and control waits for the report.
            tracing::warn!(sandbox.id = %self.entry.id, error = %bad, "the policy was not replaced");
            return;
        }
        if launch.named && !self.entry.launch.named {
            // Its idle clock starts now.
            self.adopted_at = Some(self.shared.parts.clock.now());
            self.entry.idle_ms = 0;
        }
        let had = self.entry.launch.resources;
        match self.fit(launch.resources).await {
            Fitted::AtRest => self.grow_at_rest(launch, generation, had).await,
            fitted @ (Fitted::Done | Fitted::Stays(..)) => {
                self.fitted(launch, generation, fitted).await;
            }
        }
    }

    /// Has the output read while there is somebody to read it from.
    fn keep_pump(&mut self) {
        let still = self.entry.orphaned.is_some() || self.entry.frozen;
        let readable = self.endpoint.as_ref().filter(|_| !still);
        match readable {
            None => self.pump = None,
            Some(endpoint) if self.pump.is_none() => {
                let Entry { id, project, .. } = &self.entry;
                self.pump = Some(LogPump::spawn(&self.shared, id, project, endpoint.clone()));
            }
            Some(_) => {}
        }
    }

    pub(crate) async fn end(&mut self, cause: EndCause) {
        if self.endpoint.take().is_some() {
            // Its slot, and with it its address, may be another's before the end is told.
            self.report().await;
        }
        let died = matches!(cause, EndCause::OutOfMemory | EndCause::RuntimeDied { .. });
        self.ended_suspended = matches!(self.entry.state, State::Suspended { .. });
        self.entry.state = State::Ended { cause, at: self.shared.parts.clock.now() };
        self.entry.frozen = false;
        self.phase = None;
        self.trouble = None;
        drop(self.set_warm(None));
        self.set_past(Past::Unclean);
        self.save(Durability::Written).await;
        if let Some(pump) = self.pump.take().filter(|_| !died) {
            // Its last lines. Whoever asked for the end has the answer already.
            pump.drain().await;
        }
        self.clean().await;
        self.report().await;
    }

    /// Removes what is on the host of a sandbox that has ended or is suspended; of one that has
    /// ended its capture, too.
    pub(crate) async fn clean(&mut self) {
        let ended = self.is_ended();
        // Under its id, it would be taken for the sandbox's own.
        let withdrawn = stage::withdraw(&self.shared, &self.entry.id).await;
        let mut cleaned = withdrawn.and(clean(&self.shared, &mut self.entry).await);
        if cleaned.is_ok() && ended {
            let discarded = self.shared.parts.captures.discard(self.entry.id.as_str()).await;
            cleaned = discarded.map_err(|bad| chain(&bad));
        }
        match cleaned {
            Ok(()) => {
                self.entry.started = self.entry.started.take().filter(|_| ended);
                self.set_past(Past::Settled);
                self.save(Durability::Written).await;
            }
            Err(trouble) => {
                if matches!(self.entry.state, State::Suspended { .. }) {
                    self.set_past(Past::Dormant);
                }
                tracing::warn!(
                    sandbox.id = %self.entry.id, trouble,
                    "something of a sandbox could not be removed; trying again"
                );
            }
        }
    }

    async fn forget(&mut self) -> Progress {
        // An intent that came too late may have given it some.
        self.shared.gpus.release(&self.entry.id).await;
        match self.shared.remove(self.entry.id.clone()).await {
            Ok(()) => Progress::Forgotten,
            Err(bad) => {
                tracing::warn!(sandbox.id = %self.entry.id, error = chain(&bad), "ledger entry kept");
                Progress::Here
            }
        }
    }

    async fn set_orphaned(&mut self, orphaned: bool) {
        let runtime = &self.shared.parts.runtime;
        let done = match self.entry.state {
            State::Suspended { .. } => Ok(()),
            State::Starting | State::Running { .. } | State::Ended { .. } if orphaned => {
                runtime.freeze(&self.entry.id).await
            }
            // As long as there is no room.
            State::Running { .. } if self.entry.frozen => Ok(()),
            State::Starting | State::Running { .. } | State::Ended { .. } => {
                runtime.thaw(&self.entry.id).await
            }
        };
        if let Err(bad) = done {
            tracing::warn!(sandbox.id = %self.entry.id, orphaned, error = %bad, "not frozen or thawed");
        }
        self.entry.orphaned = orphaned.then(|| self.shared.parts.clock.now());
        self.save(Durability::Synced).await;
        self.publish();
    }

    /// Says whether the ledger is behind.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.unsaved
    }

    pub(crate) fn is(&self, past: &Past) -> bool {
        self.past == *past
    }

    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.entry.state, State::Ended { .. })
    }

    pub(crate) async fn save(&mut self, durability: Durability) {
        // What a reboot does not make void must outlast one.
        let lasts = matches!(self.entry.state, State::Suspended { .. }) || self.ended_suspended;
        let durability = if lasts { Durability::Synced } else { durability };
        let written = self.shared.write(self.entry.clone(), durability).await;
        self.unsaved = written.is_err();
        if let Err(bad) = written {
            tracing::error!(
                sandbox.id = %self.entry.id, error = chain(&bad),
                "the ledger cannot be written; free space or mend the data directory"
            );
        }
    }

    /// Lets others see the sandbox as it is now.
    fn publish(&self) -> Known {
        let mut known = known_of(&self.shared, &self.entry, self.endpoint.clone());
        if self.trouble.is_some() {
            known.observed.trouble.clone_from(&self.trouble);
        }
        if let Some(shape) = &mut known.observed.shape {
            shape.trouble.clone_from(&self.unfit);
        }
        if let Some(phase) = &self.phase {
            known.observed.phase = phase.clone();
            known.endpoint = None;
        }
        *self.handle.known.lock() = known.clone();
        known
    }

    pub(crate) async fn report(&self) {
        let known = self.publish();
        self.shared.report(&self.entry.id, known.observed, known.endpoint).await;
    }
}

/// What a comparison led to.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// The sandbox is still this node's.
    Here,
    /// Nothing of it is left.
    Forgotten,
}

/// Makes the first entry of a sandbox.
fn new_entry(shared: &Shared, intent: &NodeIntent, launch: Launch) -> Entry {
    blank_entry(shared, intent.id.clone(), intent.project.clone(), intent.generation, launch)
}

/// Makes an entry of which nothing is there yet.
pub(crate) fn blank_entry(
    shared: &Shared,
    id: SandboxId,
    project: ProjectId,
    generation: Generation,
    launch: Launch,
) -> Entry {
    Entry {
        format_version: FORMAT_VERSION,
        id,
        project,
        generation,
        boot_id: shared.config.boot_id.clone(),
        launch,
        state: State::Starting,
        slot: None,
        token: DaemonToken::from_random(shared.parts.entropy.bytes()),
        tarnd: shared.config.tarnd.clone(),
        started: None,
        orphaned: None,
        template: None,
        held: false,
        resuming: false,
        idle_ms: 0,
        frozen: false,
        resizing: false,
        gpus: Vec::new(),
    }
}

fn cause_of(exit: &RuntimeExit) -> EndCause {
    match exit {
        RuntimeExit::OutOfMemory => EndCause::OutOfMemory,
        RuntimeExit::Died(reason) => EndCause::RuntimeDied { reason: (*reason).to_owned() },
    }
}
