//! Resizes: when one may begin, and what becomes of it.

use tarn_types::{MilliCpu, ResizeOutcome, Shape};

use super::*;
use crate::{Refusal, may_resize};

fn large() -> Resources {
    Resources { cpu: MilliCpu::from_milli(2000), ..fresh().asked.resources }
}

fn running() -> SandboxRecord {
    after(vec![Event::Placed(node()), seen(1, ObservedPhase::Running)])
}

fn then(record: SandboxRecord, events: Vec<Event>) -> SandboxRecord {
    events.into_iter().fold(record, |record, event| match step(&record, event, T0) {
        Ok(step) => step.record,
        Err(_) => record,
    })
}

/// A report of what it has.
fn has(generation: u64, phase: ObservedPhase, resources: Resources, why: Option<&str>) -> Event {
    let Event::Reported(observed) = seen(generation, phase) else { unreachable!() };
    let shape = Some(Shape { resources, trouble: why.map(str::to_owned) });
    Event::Reported(Observed { shape, ..observed })
}

fn outcome(record: &SandboxRecord) -> &ResizeOutcome {
    &record.resize.as_ref().expect("a resize was asked for").outcome
}

#[test]
fn a_resize_is_a_generation_and_the_shape_waits_for_the_node() {
    let asked = step(&running(), Event::ResizeAsked(large()), T0).expect("it runs");
    assert_eq!(asked.effects, [Effect::Apply]);
    let record = asked.record;
    assert_eq!(record.intent.generation, Generation(2));
    assert_eq!(record.resize.as_ref().map(|resize| resize.generation), Some(Generation(2)));
    assert_eq!(
        (record.asked.resources, record.launch().resources),
        (fresh().asked.resources, large())
    );
    assert_eq!(status(&record), SandboxStatus::Running);

    // What the node says of an earlier generation is no answer.
    let early = then(record, vec![has(1, ObservedPhase::Running, fresh().asked.resources, None)]);
    assert!(early.is_resizing());
    let done = then(early, vec![has(2, ObservedPhase::Running, large(), None)]);
    assert_eq!(outcome(&done), &ResizeOutcome::Succeeded);
    assert_eq!(done.asked.resources, large());
    assert_eq!(done.observed.and_then(|seen| seen.shape), None, "it is said once");
}

#[test]
fn what_becomes_of_a_resize() {
    use ObservedPhase::{Ended, Running, Suspended};
    let (old, new) = (fresh().asked.resources, large());
    let failed = |text: &str| ResizeOutcome::Failed { message: text.to_owned() };
    let overtaken = "the sandbox was suspended before it was resized, and has what it had; \
                     resume it, then ask again";
    let named = || Event::Patched(Patch { name: "box".parse().ok(), ..Patch::default() });
    let table: Vec<(&str, Vec<Event>, ResizeOutcome, Resources)> = vec![
        ("refused", vec![has(2, Running, old, Some("in use"))], failed("in use"), old),
        ("later", vec![named(), has(3, Running, new, None)], ResizeOutcome::Succeeded, new),
        (
            "overtaken",
            vec![named(), Event::SuspendAsked, has(4, Suspended, old, None)],
            failed(overtaken),
            old,
        ),
        (
            "before a suspend",
            vec![named(), Event::SuspendAsked, has(4, Suspended, new, None)],
            ResizeOutcome::Succeeded,
            new,
        ),
        (
            "deleted",
            vec![Event::DeleteAsked],
            failed("the sandbox ended before it was resized"),
            old,
        ),
        (
            "died",
            vec![seen(1, Ended(EndCause::OutOfMemory))],
            failed("the sandbox ended before it was resized"),
            old,
        ),
        ("not yet", vec![has(1, Running, new, None)], ResizeOutcome::Pending, old),
    ];
    for (name, events, expected, shape) in table {
        let record = then(running(), vec![Event::ResizeAsked(new)]);
        let record = then(record, events);
        assert_eq!(outcome(&record), &expected, "{name}");
        assert_eq!(record.asked.resources, shape, "{name}");
    }
}

#[test]
fn only_what_runs_and_is_not_busy_is_resized_or_captured() {
    use ObservedPhase::Suspended;
    let resizing = then(running(), vec![Event::ResizeAsked(large())]);
    let table: Vec<(&str, SandboxRecord, Result<(), Refusal>)> = vec![
        ("pending", fresh(), Err(Refusal::NotRunning)),
        ("running", running(), Ok(())),
        ("resizing", resizing.clone(), Err(Refusal::Busy)),
        ("captured", then(running(), vec![Event::CaptureBegun(snapshot(1))]), Err(Refusal::Busy)),
        ("suspended", then(running(), vec![seen(1, Suspended)]), Err(Refusal::NotRunning)),
        ("terminated", then(running(), vec![Event::DeleteAsked]), Err(Refusal::NotRunning)),
    ];
    for (name, record, expected) in table {
        assert_eq!(may_resize(&record), expected, "{name}");
    }
    let captured = step(&resizing, Event::CaptureBegun(snapshot(1)), T0);
    assert_eq!(captured, Err(Ignored::Refused(Refusal::Busy)));
    let twice = step(&resizing, Event::ResizeAsked(large()), T0);
    assert_eq!(twice, Err(Ignored::Refused(Refusal::Busy)));
}

#[test]
fn what_stands_still_to_grow_runs_to_the_world() {
    use ObservedPhase::{Running, Suspended, Suspending};
    let record = then(running(), vec![Event::ResizeAsked(large())]);
    for phase in [Suspending, Suspended] {
        let rests = then(record.clone(), vec![seen(1, phase)]);
        assert_eq!(status(&rests), SandboxStatus::Running);
        let done = then(rests, vec![has(2, Running, large(), None)]);
        assert_eq!(outcome(&done), &ResizeOutcome::Succeeded);
    }
    // One that did not come back is suspended, and says so.
    let stays = then(record, vec![has(2, Suspended, large(), None)]);
    assert_eq!(status(&stays), SandboxStatus::Suspended);
    assert_eq!(stays.intent.target, Target::Suspended);
}
