//! The resize of a running sandbox (spec 01 §9).
//!
//! It is an intent like any other, at a generation of its own. Its node answers at that generation
//! with what the sandbox has, which from then on is its shape: all of what was asked, or none.

use tarn_types::{
    Observed, ObservedPhase, Resize, ResizeOutcome, Resources, SandboxRecord, SandboxStatus, Shape,
    Target,
};

use crate::{Refusal, step::status};

/// Said where the node gives no reason: the intent was overtaken by another.
const OVERTAKEN: &str = "the sandbox was suspended before it was resized, and has what it had; \
                         resume it, then ask again";

/// Said of a sandbox that ended meanwhile.
const ENDED: &str = "the sandbox ended before it was resized";

/// Says whether a sandbox can be resized now.
///
/// # Errors
/// Returns why not: it does not run, or is captured or resized already.
pub fn may_resize(record: &SandboxRecord) -> Result<(), Refusal> {
    match status(record) {
        SandboxStatus::Running if record.is_resizing() => Err(Refusal::Busy),
        SandboxStatus::Running => Ok(()),
        SandboxStatus::Snapshotting => Err(Refusal::Busy),
        SandboxStatus::Pending
        | SandboxStatus::Suspending
        | SandboxStatus::Suspended
        | SandboxStatus::Terminated => Err(Refusal::NotRunning),
    }
}

/// Says whether a sandbox stands still only to be given a larger disk: to the world it runs, and
/// what is asked of it waits.
pub(crate) fn rests_to_grow(record: &SandboxRecord, observed: &Observed) -> bool {
    let rests = matches!(observed.phase, ObservedPhase::Suspending | ObservedPhase::Suspended);
    let awaited = record.resize.as_ref().filter(|resize| resize.is_pending());
    rests
        && record.intent.target == Target::Running
        && awaited.is_some_and(|resize| observed.generation < resize.generation)
}

/// Begins a resize at the record's generation, which is new.
pub(crate) fn begin(record: &mut SandboxRecord, requested: Resources) {
    let generation = record.intent.generation;
    record.resize = Some(Resize { generation, requested, outcome: ResizeOutcome::Pending });
}

/// Takes the answer of the node, if this report is it.
pub(crate) fn settle(record: &mut SandboxRecord, observed: &Observed, shape: Option<Shape>) {
    let Some(resize) = record.resize.as_mut().filter(|resize| resize.is_pending()) else { return };
    let Some(shape) = shape.filter(|_| observed.generation >= resize.generation) else { return };
    resize.outcome = if shape.resources == resize.requested {
        ResizeOutcome::Succeeded
    } else {
        ResizeOutcome::Failed { message: shape.trouble.unwrap_or_else(|| OVERTAKEN.to_owned()) }
    };
    record.asked.resources = shape.resources;
}

/// Gives a resize up whose sandbox has ended.
pub(crate) fn give_up(record: &mut SandboxRecord) {
    if let Some(resize) = record.resize.as_mut().filter(|resize| resize.is_pending()) {
        resize.outcome = ResizeOutcome::Failed { message: ENDED.to_owned() };
    }
}
