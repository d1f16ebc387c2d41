//! The end of a sandbox that others hold.
//!
//! What others want lies in a `watch` channel and is merged there, so wanting never blocks and
//! doubled or late wishes are harmless.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use tarn_node_api::{ApplyError, CaptureOrder, Endpoint, NodeIntent, NodeTarget, Report, Unfound};
use tarn_runtime::RuntimeExit;
use tarn_types::{Generation, Launch, MilliCpu, NodeId, Observed, ObservedPhase, SandboxId, Shape};
use tokio::sync::watch;

use crate::{
    ledger::{Entry, State},
    room::FROZEN,
    service::Shared,
};

/// What is wanted of a sandbox; merged, never queued.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// The newest intent.
    pub(crate) intent: Option<NodeIntent>,
    /// Counts the wishes to hear the last report again.
    pub(crate) repeats: u64,
    /// Control has stored the end at this generation.
    pub(crate) forget: Option<Generation>,
    /// Control's store does not know the sandbox.
    pub(crate) orphaned: bool,
    /// It ended by itself.
    pub(crate) exit: Option<RuntimeExit>,
    /// Snapshots to take, in this order.
    pub(crate) captures: Vec<CaptureOrder>,
}

/// What others may know of a sandbox without asking its task.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) observed: Observed,
    pub(crate) endpoint: Option<Endpoint>,
    launch: Launch,
    orphaned: bool,
}

/// The others' end of a sandbox.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) id: SandboxId,
    pub(crate) wanted: watch::Sender<Wanted>,
    pub(crate) known: Mutex<Known>,
    /// Why it could not be taken over from an earlier run yet.
    pub(crate) unfound: Mutex<Option<String>>,
    /// Whether its processes are there, paused.
    pub(crate) warm: AtomicBool,
    /// Held while the daemon is asked to end its largest process.
    pub(crate) relief: Arc<tokio::sync::Mutex<()>>,
}

/// Says what others may know of a sandbox by its ledger.
pub(crate) fn known_of(shared: &Shared, entry: &Entry, endpoint: Option<Endpoint>) -> Known {
    let (phase, at) = match &entry.state {
        State::Starting => (ObservedPhase::Starting, shared.parts.clock.now()),
        State::Running { since } => (ObservedPhase::Running, *since),
        State::Suspended { at, .. } => (ObservedPhase::Suspended, *at),
        State::Ended { cause, at } => (ObservedPhase::Ended(cause.clone()), *at),
    };
    let trouble = entry.notice().map(str::to_owned);
    Known {
        observed: Observed {
            generation: entry.generation,
            phase,
            at,
            trouble,
            frozen: entry.frozen.then(|| FROZEN.to_owned()),
            shape: Some(Shape { resources: entry.launch.resources, trouble: None }),
        },
        endpoint,
        launch: entry.launch.clone(),
        orphaned: entry.orphaned.is_some(),
    }
}

// === impl Handle ===

impl Handle {
    pub(crate) fn id(&self) -> &SandboxId {
        &self.id
    }

    /// Takes the right to ask the daemon for memory, unless somebody is asking already.
    pub(crate) fn begin_relief(&self) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        Arc::clone(&self.relief).try_lock_owned().ok()
    }

    /// Adds to what is wanted, without waiting.
    pub(crate) fn want(&self, change: impl FnOnce(&mut Wanted)) {
        self.wanted.send_modify(change);
    }

    /// Takes an intent if it is not older than what is known.
    pub(crate) fn take(&self, intent: NodeIntent) -> Result<(), ApplyError> {
        let asked = intent.generation;
        let mut stale = None;
        let observed = self.known.lock().observed.generation;
        self.want(|wanted| {
            let newest = wanted.intent.as_ref().map_or(observed, |have| have.generation);
            let have = newest.max(observed);
            if asked < have {
                stale = Some(have);
                return;
            }
            if asked == have {
                wanted.repeats += 1;
            }
            wanted.orphaned = false;
            wanted.intent = Some(intent);
        });
        match stale {
            Some(have) => Err(ApplyError::Stale { id: self.id.clone(), have, asked }),
            None => Ok(()),
        }
    }

    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        self.known.lock().endpoint.clone()
    }

    pub(crate) fn is_orphaned(&self) -> bool {
        self.known.lock().orphaned
    }

    pub(crate) fn is_warm(&self) -> bool {
        self.warm.load(Ordering::Relaxed)
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.known.lock().observed.phase, ObservedPhase::Ended(_))
    }

    pub(crate) fn unfound(&self) -> Option<Unfound> {
        let trouble = self.unfound.lock().clone()?;
        Some(Unfound { id: self.id.clone(), trouble })
    }

    /// Returns the CPU quota a live sandbox was promised: also what an intent promised that the
    /// sandbox has not got yet.
    pub(crate) fn cpu_promised(&self) -> MilliCpu {
        let wanted = self.wanted.borrow().intent.as_ref().and_then(|intent| match &intent.target {
            NodeTarget::Running(launch) => Some((intent.generation, launch.resources.cpu)),
            NodeTarget::Suspended | NodeTarget::Terminated(_) => None,
        });
        let known = self.known.lock();
        match known.observed.phase {
            ObservedPhase::Starting | ObservedPhase::Running | ObservedPhase::Suspending => {
                let has = known.launch.resources.cpu;
                let newer =
                    wanted.filter(|(generation, _)| *generation > known.observed.generation);
                newer.map_or(has, |(_, cpu)| has.max(cpu))
            }
            ObservedPhase::Suspended | ObservedPhase::Ended(_) => MilliCpu::default(),
        }
    }

    pub(crate) fn last_report(&self, node: &NodeId) -> Report {
        let known = self.known.lock();
        Report {
            id: self.id.clone(),
            node: node.clone(),
            observed: known.observed.clone(),
            endpoint: known.endpoint.clone(),
        }
    }
}
