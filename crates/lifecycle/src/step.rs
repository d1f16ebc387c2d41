//! The state machine of a sandbox, as control sees it.

use tarn_types::{
    EgressPolicy, EndCause, Generation, Intent, NodeId, Observed, ObservedPhase, PendingReason,
    PortAccess, SandboxName, SandboxRecord, SandboxStatus, Target, UnixMillis,
};

/// Something that happened to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The scheduler chose a node.
    Placed(NodeId),
    /// The scheduler found no room.
    NotPlaced(PendingReason),
    /// A node reported.
    Reported(Observed),
    /// Somebody asked for its end.
    DeleteAsked,
    /// `max_pending_secs` passed.
    PendingExpired,
    /// Somebody changed it.
    Patched(Patch),
    /// Its node has no trace of it although it ran there.
    LostByNode,
}

/// A change of what was asked; `None` keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patch {
    /// A new name.
    pub name: Option<SandboxName>,
    /// New port access.
    pub ports: Option<PortAccess>,
    /// Whether traffic wakes it.
    pub auto_resume: Option<bool>,
    /// A new policy; `Some(None)` clears it.
    pub network: Option<Option<EgressPolicy>>,
}

/// What a driver must do once the new record is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Send the record's intent to its node.
    Apply,
    /// Let the node forget the sandbox, whose end is stored.
    Forget(Generation),
}

/// A record after an event, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The record to store; its sequence is one higher.
    pub record: SandboxRecord,
    /// What to do afterwards.
    pub effects: Vec<Effect>,
}

/// Says why an event changes nothing. That is never an error of the event's sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ignored {
    /// The sandbox has ended already; a late report of its end still lets the node forget it.
    Ended(Vec<Effect>),
    /// The report is older than what is known.
    Stale,
    /// Everything is already as the event would make it.
    NoChange,
}

/// Composes the public status (spec 01 §6).
#[must_use]
pub fn status(record: &SandboxRecord) -> SandboxStatus {
    if record.end.is_some() {
        return SandboxStatus::Terminated;
    }
    match &record.observed {
        Some(Observed { phase: ObservedPhase::Running, .. }) => SandboxStatus::Running,
        Some(Observed { phase: ObservedPhase::Ended(_), .. }) => SandboxStatus::Terminated,
        Some(Observed { phase: ObservedPhase::Starting, .. }) | None => SandboxStatus::Pending,
    }
}

/// Applies an event to a record.
///
/// # Errors
/// Returns why nothing changes; the record stays as it is then.
pub fn step(record: &SandboxRecord, event: Event, now: UnixMillis) -> Result<Step, Ignored> {
    if record.end.is_some() {
        return Err(after_the_end(&event));
    }
    match event {
        Event::Placed(node) => placed(record, node),
        Event::NotPlaced(reason) => not_placed(record, reason),
        Event::Reported(observed) => reported(record, observed),
        Event::DeleteAsked => Ok(delete(record, now)),
        Event::PendingExpired => pending_expired(record, now),
        Event::Patched(patch) => patched(record, patch),
        Event::LostByNode => Ok(lost(record, now)),
    }
}

/// The end is stored: nothing changes it, but a node may be waiting to forget.
fn after_the_end(event: &Event) -> Ignored {
    let effects = match event {
        Event::Reported(Observed { generation, phase: ObservedPhase::Ended(_), .. }) => {
            vec![Effect::Forget(*generation)]
        }
        // It should be gone and is not: say so again.
        Event::Reported(_) => vec![Effect::Apply],
        Event::Placed(_)
        | Event::NotPlaced(_)
        | Event::DeleteAsked
        | Event::PendingExpired
        | Event::Patched(_)
        | Event::LostByNode => vec![],
    };
    Ignored::Ended(effects)
}

fn placed(record: &SandboxRecord, node: NodeId) -> Result<Step, Ignored> {
    if record.intent.node.is_some() {
        return Err(Ignored::NoChange);
    }
    let mut next = advance(record);
    next.intent.node = Some(node);
    next.intent.pending_reason = Some(PendingReason::WaitingForContainer);
    Ok(Step { record: next, effects: vec![Effect::Apply] })
}

fn not_placed(record: &SandboxRecord, reason: PendingReason) -> Result<Step, Ignored> {
    if record.intent.node.is_some() || record.intent.pending_reason == Some(reason) {
        return Err(Ignored::NoChange);
    }
    let mut next = advance(record);
    next.intent.pending_reason = Some(reason);
    Ok(Step { record: next, effects: vec![] })
}

fn reported(record: &SandboxRecord, observed: Observed) -> Result<Step, Ignored> {
    if let Some(known) = &record.observed {
        if observed.generation < known.generation {
            return Err(Ignored::Stale);
        }
        let back_to_starting = known.phase == ObservedPhase::Running
            && observed.phase == ObservedPhase::Starting
            && observed.generation == known.generation;
        if back_to_starting {
            return Err(Ignored::Stale);
        }
        if observed.generation == known.generation && observed.phase == known.phase {
            return Err(Ignored::NoChange);
        }
    }
    if observed.generation > record.intent.generation {
        return Err(Ignored::Stale);
    }
    let mut next = advance(record);
    let mut effects = Vec::new();
    match &observed.phase {
        ObservedPhase::Starting => {}
        ObservedPhase::Running => {
            next.running_at = next.running_at.or(Some(observed.at));
            next.intent.pending_reason = None;
        }
        ObservedPhase::Ended(cause) => {
            effects.push(Effect::Forget(observed.generation));
            end(&mut next, cause.clone(), observed.at);
        }
    }
    next.observed = Some(observed);
    Ok(Step { record: next, effects })
}

fn delete(record: &SandboxRecord, now: UnixMillis) -> Step {
    let cause = match status(record) {
        SandboxStatus::Pending => EndCause::Cancelled,
        SandboxStatus::Running
        | SandboxStatus::Snapshotting
        | SandboxStatus::Suspending
        | SandboxStatus::Suspended
        | SandboxStatus::Terminated => EndCause::Deleted,
    };
    terminate(record, cause, now)
}

/// Only a sandbox without a node has waited for room in vain; one that a node is building will run
/// or fail within the node's own deadlines.
fn pending_expired(record: &SandboxRecord, now: UnixMillis) -> Result<Step, Ignored> {
    if record.intent.node.is_some() {
        return Err(Ignored::NoChange);
    }
    Ok(terminate(record, EndCause::NoCapacity, now))
}

fn patched(record: &SandboxRecord, patch: Patch) -> Result<Step, Ignored> {
    let mut next = advance(record);
    if let Some(name) = patch.name {
        next.asked.name = Some(name);
    }
    if let Some(ports) = patch.ports {
        next.asked.ports = ports;
    }
    if let Some(auto_resume) = patch.auto_resume {
        next.asked.auto_resume = auto_resume;
    }
    if let Some(network) = patch.network {
        next.asked.network = network;
    }
    if next.asked == record.asked {
        return Err(Ignored::NoChange);
    }
    // Only what the node knows of makes a new generation.
    let concerns_node = next.asked.launch() != record.asked.launch();
    if !concerns_node {
        return Ok(Step { record: next, effects: vec![] });
    }
    next.intent.generation = next.intent.generation.next();
    let effects = if next.intent.node.is_some() { vec![Effect::Apply] } else { vec![] };
    Ok(Step { record: next, effects })
}

fn lost(record: &SandboxRecord, now: UnixMillis) -> Step {
    let mut next = advance(record);
    end(&mut next, EndCause::RuntimeDied { reason: "lost_by_node".to_owned() }, now);
    Step { record: next, effects: vec![] }
}

fn terminate(record: &SandboxRecord, cause: EndCause, now: UnixMillis) -> Step {
    let mut next = advance(record);
    next.intent.generation = next.intent.generation.next();
    end(&mut next, cause, now);
    let effects = if next.intent.node.is_some() { vec![Effect::Apply] } else { vec![] };
    Step { record: next, effects }
}

fn end(record: &mut SandboxRecord, cause: EndCause, at: UnixMillis) {
    let Intent { target, pending_reason, .. } = &mut record.intent;
    *target = Target::Terminated(cause.clone());
    *pending_reason = None;
    record.end = Some(cause);
    record.terminated_at = Some(at);
}

fn advance(record: &SandboxRecord) -> SandboxRecord {
    SandboxRecord { sequence: record.sequence + 1, ..record.clone() }
}
