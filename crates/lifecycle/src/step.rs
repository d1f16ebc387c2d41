//! The state machine of a sandbox, as control sees it.

use tarn_types::{
    EgressPolicy, EndCause, ExposedPorts, Generation, Intent, Lasting, NodeId, Observed,
    ObservedPhase, PendingReason, PoolMember, Resources, SandboxName, SandboxRecord, SandboxStatus,
    SnapshotId, Target, UnixMillis,
};

use crate::resize::{self, may_resize};

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
    /// Somebody asked for it to be suspended.
    SuspendAsked,
    /// Somebody, or traffic, asked for it to go on, and there is room.
    ResumeAsked,
    /// It was asked to go on, and there is no room for it.
    ResumeWaits(PendingReason),
    /// A snapshot of it is wanted.
    CaptureBegun(SnapshotId),
    /// That snapshot was taken, failed, or was given up.
    CaptureSettled(SnapshotId),
    /// Somebody claims it from its pool, with this time limit in seconds.
    Claimed {
        /// The limit; 0 = unlimited.
        timeout_secs: u64,
    },
    /// Somebody wants it to have other resources, and there is room for them.
    ResizeAsked(Resources),
    /// Its pool no longer needs it, if nobody has claimed it.
    Retired,
}

/// A change of what was asked; `None` keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patch {
    /// A new name.
    pub name: Option<SandboxName>,
    /// New exposed ports; an empty list clears.
    pub exposed_ports: Option<ExposedPorts>,
    /// Whether exposed ports answer without credentials.
    pub unauthenticated_ports: Option<bool>,
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
    /// It is not possible in the state that the sandbox is in.
    Refused(Refusal),
}

/// Why a sandbox cannot do what is asked of it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It does not run.
    NotRunning,
    /// It has no name.
    Ephemeral,
    /// A snapshot of it is being taken, or it is being resized.
    Busy,
}

/// Composes the public status (spec 01 §6).
#[must_use]
pub fn status(record: &SandboxRecord) -> SandboxStatus {
    if record.end.is_some() {
        return SandboxStatus::Terminated;
    }
    match &record.observed {
        Some(Observed { phase: ObservedPhase::Running, .. }) => running_status(record),
        Some(observed) if resize::rests_to_grow(record, observed) => running_status(record),
        Some(Observed { phase: ObservedPhase::Suspending, .. }) => SandboxStatus::Suspending,
        Some(Observed { phase: ObservedPhase::Suspended, .. }) => SandboxStatus::Suspended,
        Some(Observed { phase: ObservedPhase::Ended(_), .. }) => SandboxStatus::Terminated,
        Some(Observed { phase: ObservedPhase::Starting, .. }) | None => SandboxStatus::Pending,
    }
}

/// Tells apart what a sandbox may be while its processes run.
fn running_status(record: &SandboxRecord) -> SandboxStatus {
    match (&record.intent.target, &record.capturing) {
        // A snapshot that was begun before is finished first.
        (_, Some(_)) => SandboxStatus::Snapshotting,
        (Target::Suspended, None) => SandboxStatus::Suspending,
        (Target::Running | Target::Terminated(_), None) => SandboxStatus::Running,
    }
}

/// Says what a change of a record has to outlast.
///
/// What a node has reported it reports again, after a crash of the host as after any other, and
/// what is being captured the snapshot's record says, too. Whatever somebody asked for lasts, and
/// every end; and so does that it ran for the first time: one that never did is built again.
#[must_use]
pub fn lasting(before: &SandboxRecord, after: &SandboxRecord) -> Lasting {
    let mut intent = before.intent.clone();
    if before.observed != after.observed && after.intent.pending_reason.is_none() {
        // It is where it was to be.
        intent.pending_reason = None;
    }
    let reported = SandboxRecord {
        intent,
        observed: after.observed.clone(),
        capturing: after.capturing.clone(),
        sequence: after.sequence,
        ..before.clone()
    };
    if reported == *after { Lasting::Boot } else { Lasting::Always }
}

/// Says whether a suspended sandbox was asked to go on and waits for room.
#[must_use]
pub fn waits_to_resume(record: &SandboxRecord) -> bool {
    record.end.is_none()
        && record.intent.target == Target::Suspended
        && record.intent.pending_reason.is_some()
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
        Event::SuspendAsked => suspend(record),
        Event::ResumeAsked => resume(record),
        Event::ResumeWaits(reason) => resume_waits(record, reason),
        Event::CaptureBegun(snapshot) => capture_begun(record, snapshot),
        Event::CaptureSettled(snapshot) => capture_settled(record, &snapshot),
        Event::Claimed { timeout_secs } => claimed(record, timeout_secs, now),
        Event::ResizeAsked(wanted) => resize_asked(record, wanted),
        Event::Retired if record.is_unclaimed() => Ok(delete(record, now)),
        Event::Retired => Err(Ignored::NoChange),
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
        | Event::LostByNode
        | Event::SuspendAsked
        | Event::ResumeAsked
        | Event::ResumeWaits(_)
        | Event::CaptureBegun(_)
        | Event::CaptureSettled(_)
        | Event::Claimed { .. }
        | Event::ResizeAsked(_)
        | Event::Retired => vec![],
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

fn reported(record: &SandboxRecord, mut observed: Observed) -> Result<Step, Ignored> {
    if let Some(known) = &record.observed {
        if is_late(known, &observed) {
            return Err(Ignored::Stale);
        }
        if observed.phase == known.phase && observed.trouble.is_none() {
            // Repeating where it is, a node takes back nothing.
            observed.trouble.clone_from(&known.trouble);
        }
        let same = observed.generation == known.generation
            && observed.phase == known.phase
            && observed.trouble == known.trouble
            && observed.frozen == known.frozen;
        if same {
            return Err(Ignored::NoChange);
        }
    }
    if observed.generation > record.intent.generation {
        return Err(Ignored::Stale);
    }
    let mut next = advance(record);
    let mut effects = Vec::new();
    let shape = observed.shape.take();
    match &observed.phase {
        ObservedPhase::Starting | ObservedPhase::Suspending => {}
        ObservedPhase::Running => {
            next.running_at = next.running_at.or(Some(observed.at));
            next.intent.pending_reason = None;
            resize::settle(&mut next, &observed, shape);
            if gives_up(&next, &observed, &Target::Suspended) {
                // What was patched while it should be suspended never reached the node.
                next.intent.generation = next.intent.generation.next();
                next.intent.target = Target::Running;
                effects.push(Effect::Apply);
            }
        }
        ObservedPhase::Suspended => {
            resize::settle(&mut next, &observed, shape);
            if gives_up(&next, &observed, &Target::Running) {
                next.intent.target = Target::Suspended;
            }
        }
        ObservedPhase::Ended(cause) => {
            effects.push(Effect::Forget(observed.generation));
            end(&mut next, cause.clone(), observed.at);
        }
    }
    next.observed = Some(observed);
    Ok(Step { record: next, effects })
}

/// Says whether a report tells of something that is over already.
fn is_late(known: &Observed, observed: &Observed) -> bool {
    if observed.generation < known.generation {
        return true;
    }
    match (&known.phase, &observed.phase) {
        // Once it was there it is never built again, and a resume does not show.
        (
            ObservedPhase::Running
            | ObservedPhase::Suspending
            | ObservedPhase::Suspended
            | ObservedPhase::Ended(_),
            ObservedPhase::Starting,
        ) => true,
        // It goes on from there at a newer generation only.
        (ObservedPhase::Suspended, ObservedPhase::Running | ObservedPhase::Suspending) => {
            observed.generation == known.generation
        }
        (
            ObservedPhase::Starting
            | ObservedPhase::Running
            | ObservedPhase::Suspending
            | ObservedPhase::Suspended
            | ObservedPhase::Ended(_),
            _,
        ) => false,
    }
}

/// Says whether a node reports that it did not reach a target: a suspend or resume that failed, or
/// the idle limit that suspended what should run. What is wanted at a newer generation stays
/// wanted.
fn gives_up(record: &SandboxRecord, observed: &Observed, target: &Target) -> bool {
    observed.generation == record.intent.generation && record.intent.target == *target
}

fn suspend(record: &SandboxRecord) -> Result<Step, Ignored> {
    if record.asked.name.is_none() {
        return Err(Ignored::Refused(Refusal::Ephemeral));
    }
    match (status(record), &record.intent.target) {
        (SandboxStatus::Pending | SandboxStatus::Terminated, _) => {
            Err(Ignored::Refused(Refusal::NotRunning))
        }
        // It waits for room to go on, and no longer should.
        (SandboxStatus::Suspended, Target::Suspended) if record.intent.pending_reason.is_some() => {
            let mut next = advance(record);
            next.intent.pending_reason = None;
            Ok(Step { record: next, effects: vec![] })
        }
        (_, Target::Suspended | Target::Terminated(_)) => Err(Ignored::NoChange),
        (
            SandboxStatus::Running
            | SandboxStatus::Snapshotting
            | SandboxStatus::Suspending
            | SandboxStatus::Suspended,
            Target::Running,
        ) => Ok(aim(record, Target::Suspended)),
    }
}

fn resume(record: &SandboxRecord) -> Result<Step, Ignored> {
    match (status(record), &record.intent.target) {
        (SandboxStatus::Terminated, _) => Err(Ignored::Refused(Refusal::NotRunning)),
        (_, Target::Suspended) => {
            let mut next = aim(record, Target::Running);
            next.record.intent.pending_reason = None;
            take_back_trouble(&mut next.record);
            Ok(next)
        }
        // The next generation wakes it again.
        (SandboxStatus::Suspending, Target::Running) if is_idle_suspend(record) => {
            Ok(aim(record, Target::Running))
        }
        (_, Target::Running | Target::Terminated(_)) => Err(Ignored::NoChange),
    }
}

/// Says whether a node suspends it by its idle limit: at the generation that wants it to run.
fn is_idle_suspend(record: &SandboxRecord) -> bool {
    record.observed.as_ref().is_some_and(|observed| {
        observed.phase == ObservedPhase::Suspending
            && observed.generation == record.intent.generation
    })
}

fn resume_waits(record: &SandboxRecord, reason: PendingReason) -> Result<Step, Ignored> {
    let waits = record.intent.target == Target::Suspended;
    if !waits || record.intent.pending_reason == Some(reason) {
        return Err(Ignored::NoChange);
    }
    let mut next = advance(record);
    next.intent.pending_reason = Some(reason);
    take_back_trouble(&mut next);
    Ok(Step { record: next, effects: vec![] })
}

/// Forgets what was said of an earlier resume, or of how the sandbox came to be suspended: who
/// waits for this one would take it for its answer.
fn take_back_trouble(record: &mut SandboxRecord) {
    if let Some(observed) = &mut record.observed {
        observed.trouble = None;
    }
}

/// Gives the sandbox a new target, at a new generation.
fn aim(record: &SandboxRecord, target: Target) -> Step {
    let mut next = advance(record);
    next.intent.generation = next.intent.generation.next();
    next.intent.target = target;
    Step { record: next, effects: vec![Effect::Apply] }
}

fn capture_begun(record: &SandboxRecord, snapshot: SnapshotId) -> Result<Step, Ignored> {
    match status(record) {
        // Its layer may be larger already than what its record says.
        SandboxStatus::Running if record.is_resizing() => {
            return Err(Ignored::Refused(Refusal::Busy));
        }
        SandboxStatus::Running => {}
        SandboxStatus::Snapshotting => return Err(Ignored::Refused(Refusal::Busy)),
        SandboxStatus::Pending
        | SandboxStatus::Suspending
        | SandboxStatus::Suspended
        | SandboxStatus::Terminated => return Err(Ignored::Refused(Refusal::NotRunning)),
    }
    let mut next = advance(record);
    next.capturing = Some(snapshot);
    Ok(Step { record: next, effects: vec![] })
}

fn capture_settled(record: &SandboxRecord, snapshot: &SnapshotId) -> Result<Step, Ignored> {
    if record.capturing.as_ref() != Some(snapshot) {
        return Err(Ignored::NoChange);
    }
    let mut next = advance(record);
    next.capturing = None;
    Ok(Step { record: next, effects: vec![] })
}

fn resize_asked(record: &SandboxRecord, wanted: Resources) -> Result<Step, Ignored> {
    may_resize(record).map_err(Ignored::Refused)?;
    let mut next = aim(record, Target::Running);
    resize::begin(&mut next.record, wanted);
    Ok(next)
}

/// From here on it is somebody's, and its clock runs. Of any number of claims one finds it
/// unclaimed.
fn claimed(record: &SandboxRecord, timeout_secs: u64, now: UnixMillis) -> Result<Step, Ignored> {
    let Some(member) = record.member.as_ref().filter(|member| member.claimed_at.is_none()) else {
        return Err(Ignored::NoChange);
    };
    let mut next = advance(record);
    next.created_at = now;
    next.asked.timeout_secs = timeout_secs;
    next.member = Some(PoolMember { claimed_at: Some(now), ..member.clone() });
    next.intent.generation = next.intent.generation.next();
    let effects = if next.intent.node.is_some() { vec![Effect::Apply] } else { vec![] };
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
    if let Some(exposed) = patch.exposed_ports {
        next.asked.ports.exposed = Some(exposed);
    }
    if let Some(unauthenticated) = patch.unauthenticated_ports {
        next.asked.ports.unauthenticated = unauthenticated;
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
    record.capturing = None;
    resize::give_up(record);
}

fn advance(record: &SandboxRecord) -> SandboxRecord {
    SandboxRecord { sequence: record.sequence + 1, ..record.clone() }
}
