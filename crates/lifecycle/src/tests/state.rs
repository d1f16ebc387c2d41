//! Suspend, resume and snapshots: every cell of spec 02 §1, and what may come in between.

use super::*;
use crate::{Refusal, Step};

/// Returns a named sandbox that runs at generation 1.
fn running() -> SandboxRecord {
    let mut named = fresh();
    named.asked.name = "box".parse().ok();
    then(named, vec![Event::Placed(node()), seen(1, ObservedPhase::Running)])
}

/// Returns one that was suspended by request, at generation 2.
fn suspended() -> SandboxRecord {
    then(running(), vec![Event::SuspendAsked, seen(2, ObservedPhase::Suspended)])
}

/// Applies events each of which must change something.
fn then(mut record: SandboxRecord, events: Vec<Event>) -> SandboxRecord {
    for event in events {
        let name = format!("{event:?}");
        record = step(&record, event, T0).unwrap_or_else(|why| panic!("{name}: {why:?}")).record;
    }
    record
}

fn trouble(generation: u64, phase: ObservedPhase) -> Event {
    Event::Reported(Observed {
        generation: Generation(generation),
        phase,
        at: T0.plus_secs(1),
        trouble: Some("the disk is full".to_owned()),
        frozen: None,
        shape: None,
    })
}

/// What an event does: the generation, target and status afterwards, or why nothing.
type Cell = Result<(u64, Target, SandboxStatus), Ignored>;

fn cell(record: &SandboxRecord, event: Event) -> Cell {
    let Step { record, effects } = step(record, event, T0)?;
    assert_eq!(effects, [Effect::Apply], "the node hears of it");
    Ok((record.intent.generation.0, record.intent.target.clone(), status(&record)))
}

#[test]
fn suspend_and_resume_in_every_state() {
    use ObservedPhase::{Running, Suspended, Suspending};
    use SandboxStatus as S;
    use Target::{Running as Run, Suspended as Sleep};
    let pending =
        then(SandboxRecord { asked: running().asked, ..fresh() }, vec![Event::Placed(node())]);
    let capturing = then(running(), vec![Event::CaptureBegun(snapshot(1))]);
    let asked = then(running(), vec![Event::SuspendAsked]);
    let suspending = then(asked.clone(), vec![seen(2, Suspending)]);
    let idle = then(running(), vec![seen(1, Suspending)]);
    let turned = then(suspending.clone(), vec![Event::ResumeAsked]);
    let resuming = then(suspended(), vec![Event::ResumeAsked]);
    let idle_suspended = then(running(), vec![seen(1, Suspended)]);
    let no_change = || Err(Ignored::NoChange);
    let refused = |why| Err(Ignored::Refused(why));
    let (running, suspended) = (running(), suspended());
    let table: Vec<(&str, &SandboxRecord, Cell, Cell)> = vec![
        ("running", &running, Ok((2, Sleep, S::Suspending)), no_change()),
        ("snapshotting", &capturing, Ok((2, Sleep, S::Snapshotting)), no_change()),
        ("asked to suspend", &asked, no_change(), Ok((3, Run, S::Running))),
        ("suspending", &suspending, no_change(), Ok((3, Run, S::Suspending))),
        ("suspending by itself", &idle, Ok((2, Sleep, S::Suspending)), Ok((2, Run, S::Suspending))),
        ("suspending, to be resumed", &turned, Ok((4, Sleep, S::Suspending)), no_change()),
        ("suspended", &suspended, no_change(), Ok((3, Run, S::Suspended))),
        ("suspended by itself", &idle_suspended, no_change(), Ok((2, Run, S::Suspended))),
        ("being resumed", &resuming, Ok((4, Sleep, S::Suspended)), no_change()),
        ("pending", &pending, refused(Refusal::NotRunning), no_change()),
    ];
    for (name, record, suspend, resume) in table {
        assert_eq!(cell(record, Event::SuspendAsked), suspend, "suspend: {name}");
        assert_eq!(cell(record, Event::ResumeAsked), resume, "resume: {name}");
        let mut unnamed = record.clone();
        unnamed.asked.name = None;
        let ephemeral = refused(Refusal::Ephemeral);
        assert_eq!(cell(&unnamed, Event::SuspendAsked), ephemeral, "suspend, unnamed: {name}");
        assert_eq!(cell(&unnamed, Event::ResumeAsked), resume, "resume, unnamed: {name}");
    }
    let ended = then(suspended, vec![Event::DeleteAsked]);
    for event in [Event::SuspendAsked, Event::ResumeAsked, Event::CaptureBegun(snapshot(1))] {
        assert_eq!(step(&ended, event, T0), Err(Ignored::Ended(vec![])));
    }
    assert_eq!(status(&then(running, vec![seen(1, Suspending), seen(1, Running)])), S::Running);
}

#[test]
fn the_status_follows_a_suspend_and_a_resume() {
    use ObservedPhase::{Running, Suspended, Suspending};
    let mut record = running();
    for (event, expected) in [
        (Event::SuspendAsked, SandboxStatus::Suspending),
        (seen(2, Suspending), SandboxStatus::Suspending),
        (seen(2, Suspended), SandboxStatus::Suspended),
        (Event::ResumeAsked, SandboxStatus::Suspended),
        (seen(3, Running), SandboxStatus::Running),
        (seen(3, Suspending), SandboxStatus::Suspending),
        (seen(3, Suspended), SandboxStatus::Suspended),
        (Event::ResumeAsked, SandboxStatus::Suspended),
        (seen(4, Running), SandboxStatus::Running),
    ] {
        let name = format!("{event:?}");
        record = then(record, vec![event]);
        assert_eq!(status(&record), expected, "{name}");
    }
    assert_eq!(record.intent.target, Target::Running);
}

#[test]
fn the_idle_limit_suspends_at_the_generation_that_wants_it_to_run() {
    let idle = then(running(), vec![seen(1, ObservedPhase::Suspended)]);
    assert_eq!((idle.intent.generation, &idle.intent.target), (Generation(1), &Target::Suspended));
    // Control had changed something meanwhile: that generation still wants it to run.
    let closed = Patch { network: Some(Some(EgressPolicy::CLOSED)), ..Patch::default() };
    let patched = then(running(), vec![Event::Patched(closed), seen(1, ObservedPhase::Suspended)]);
    assert_eq!(patched.intent.target, Target::Running);
    assert_eq!(status(&patched), SandboxStatus::Suspended);
}

#[test]
fn a_failed_suspend_leaves_it_running_with_what_was_patched() {
    let suspending = then(running(), vec![Event::SuspendAsked, seen(2, ObservedPhase::Suspending)]);
    let failed = step(&suspending, trouble(2, ObservedPhase::Running), T0).expect("it is stored");
    assert_eq!(status(&failed.record), SandboxStatus::Running);
    assert_eq!(failed.record.intent.target, Target::Running);
    assert_eq!(failed.record.intent.generation, Generation(3));
    assert_eq!(failed.effects, [Effect::Apply], "a policy that came meanwhile is put in force");
    let said = |record: &SandboxRecord| record.observed.clone().and_then(|seen| seen.trouble);
    assert_eq!(said(&failed.record).as_deref(), Some("the disk is full"));
    let after = then(failed.record, vec![seen(3, ObservedPhase::Running)]);
    assert!(said(&after).is_some(), "it did not change its state");
    assert_eq!(step(&after, seen(3, ObservedPhase::Running), T0), Err(Ignored::NoChange));
    let again = then(after, vec![Event::SuspendAsked, seen(4, ObservedPhase::Suspending)]);
    assert_eq!(said(&again), None);
}

#[test]
fn a_failed_resume_leaves_it_suspended_and_may_be_tried_again() {
    let failed = then(suspended(), vec![Event::ResumeAsked, trouble(3, ObservedPhase::Suspended)]);
    assert_eq!(status(&failed), SandboxStatus::Suspended);
    assert_eq!(failed.intent.target, Target::Suspended);
    let again = then(failed, vec![Event::ResumeAsked]);
    assert_eq!(again.intent.generation, Generation(4));
    let runs = then(again, vec![seen(4, ObservedPhase::Running)]);
    assert_eq!(runs.observed.and_then(|seen| seen.trouble), None);
}

#[test]
fn late_and_doubled_reports_of_a_suspend_change_nothing() {
    use ObservedPhase::{Running, Starting, Suspended, Suspending};
    let resumed = then(suspended(), vec![Event::ResumeAsked, seen(3, Running)]);
    let table = [
        ("doubled", suspended(), seen(2, Suspended), Ignored::NoChange),
        ("late running", suspended(), seen(2, Running), Ignored::Stale),
        ("late suspending", suspended(), seen(2, Suspending), Ignored::Stale),
        ("of the run before", suspended(), seen(1, Running), Ignored::Stale),
        ("starting", suspended(), seen(2, Starting), Ignored::Stale),
        ("of the suspend before", resumed.clone(), seen(2, Suspended), Ignored::Stale),
        ("starting anew", resumed, seen(3, Starting), Ignored::Stale),
        ("of the future", suspended(), seen(3, Running), Ignored::Stale),
    ];
    for (name, record, event, expected) in table {
        assert_eq!(step(&record, event, T0), Err(expected), "{name}");
    }
    // A resume that shows how it goes does not make it pending.
    let resuming = then(suspended(), vec![Event::ResumeAsked]);
    assert_eq!(step(&resuming, seen(3, Starting), T0), Err(Ignored::Stale));
}

#[test]
fn a_resume_without_room_waits_until_it_is_suspended_again() {
    let reason = PendingReason::NoResourcesAvailable;
    let waits = step(&suspended(), Event::ResumeWaits(reason), T0).expect("it waits");
    assert_eq!(waits.effects, []);
    assert!(waits_to_resume(&waits.record));
    assert_eq!(status(&waits.record), SandboxStatus::Suspended);
    let again = step(&waits.record, Event::ResumeWaits(reason), T0);
    assert_eq!(again, Err(Ignored::NoChange));

    let resumed = then(waits.record.clone(), vec![Event::ResumeAsked]);
    assert!(!waits_to_resume(&resumed));
    assert_eq!(step(&resumed, Event::ResumeWaits(reason), T0), Err(Ignored::NoChange));

    let given_up = step(&waits.record, Event::SuspendAsked, T0).expect("it no longer waits");
    assert!(!waits_to_resume(&given_up.record) && given_up.effects.is_empty());
    let deleted = then(waits.record, vec![Event::DeleteAsked]);
    assert!(!waits_to_resume(&deleted));
    assert_eq!(step(&running(), Event::ResumeWaits(reason), T0), Err(Ignored::NoChange));
}

#[test]
fn a_delete_ends_it_in_every_state() {
    use ObservedPhase::Suspending;
    let states = [
        running(),
        then(running(), vec![Event::CaptureBegun(snapshot(1))]),
        then(running(), vec![Event::SuspendAsked]),
        then(running(), vec![Event::SuspendAsked, seen(2, Suspending)]),
        then(running(), vec![seen(1, Suspending)]),
        suspended(),
        then(suspended(), vec![Event::ResumeAsked]),
    ];
    for state in states {
        let before = state.intent.generation;
        let deleted = step(&state, Event::DeleteAsked, T0).expect("it is deleted");
        assert_eq!(deleted.effects, [Effect::Apply]);
        assert_eq!(deleted.record.end, Some(EndCause::Deleted), "{:?}", status(&state));
        assert_eq!(status(&deleted.record), SandboxStatus::Terminated);
        assert!(deleted.record.intent.generation > before);
        assert_eq!(deleted.record.capturing, None);
    }
}

#[test]
fn a_patch_keeps_a_suspended_sandbox_suspended() {
    let closed = Patch { network: Some(Some(EgressPolicy::CLOSED)), ..Patch::default() };
    let patched = step(&suspended(), Event::Patched(closed), T0).expect("a change");
    assert_eq!(patched.effects, [Effect::Apply]);
    assert_eq!(patched.record.intent.generation, Generation(3));
    assert_eq!(patched.record.intent.target, Target::Suspended);
    let told = then(patched.record, vec![seen(3, ObservedPhase::Suspended)]);
    assert_eq!(
        (status(&told), &told.intent.target),
        (SandboxStatus::Suspended, &Target::Suspended)
    );
    let renamed = Patch { name: "other".parse().ok(), ..Patch::default() };
    let renamed = step(&told, Event::Patched(renamed), T0).expect("a change");
    assert_eq!(renamed.effects, [], "nothing that the node knows of");
}

#[test]
fn a_snapshot_is_taken_of_a_running_sandbox_one_at_a_time() {
    let begin = |record: &SandboxRecord| step(record, Event::CaptureBegun(snapshot(1)), T0);
    let capturing = begin(&running()).expect("it begins");
    assert_eq!(capturing.effects, [], "the order goes to the node by itself");
    let capturing = capturing.record;
    assert_eq!(status(&capturing), SandboxStatus::Snapshotting);
    assert_eq!(begin(&capturing), Err(Ignored::Refused(Refusal::Busy)));
    let not_running = [
        fresh(),
        then(running(), vec![Event::SuspendAsked]),
        then(running(), vec![seen(1, ObservedPhase::Suspending)]),
        suspended(),
    ];
    for record in not_running {
        assert_eq!(begin(&record), Err(Ignored::Refused(Refusal::NotRunning)));
    }

    let other = step(&capturing, Event::CaptureSettled(snapshot(2)), T0);
    assert_eq!(other, Err(Ignored::NoChange));
    let settled = then(capturing.clone(), vec![Event::CaptureSettled(snapshot(1))]);
    assert_eq!(status(&settled), SandboxStatus::Running);
    let doubled = step(&settled, Event::CaptureSettled(snapshot(1)), T0);
    assert_eq!(doubled, Err(Ignored::NoChange));

    // A suspend waits for the snapshot; its last part may come after it.
    let asked = then(capturing, vec![Event::SuspendAsked]);
    assert_eq!(status(&asked), SandboxStatus::Snapshotting);
    let slept = then(asked.clone(), vec![seen(2, ObservedPhase::Suspended)]);
    assert_eq!(status(&slept), SandboxStatus::Suspended);
    for record in [asked, slept] {
        let settled = then(record, vec![Event::CaptureSettled(snapshot(1))]);
        assert_eq!((&settled.capturing, &settled.intent.target), (&None, &Target::Suspended));
    }
}

/// Returns what was said of a sandbox the last time.
fn said(record: &SandboxRecord) -> Option<&str> {
    record.observed.as_ref().and_then(|observed| observed.trouble.as_deref())
}

#[test]
fn a_reboot_suspends_what_should_run_and_a_resume_takes_back_what_was_said() {
    let rebooted = then(running(), vec![trouble(1, ObservedPhase::Suspended)]);
    assert_eq!(status(&rebooted), SandboxStatus::Suspended);
    assert_eq!(rebooted.intent.target, Target::Suspended);
    assert!(said(&rebooted).is_some());
    let repeated = step(&rebooted, seen(1, ObservedPhase::Suspended), T0);
    assert_eq!(repeated, Err(Ignored::NoChange), "a repeated report takes back nothing");
    let resuming = then(rebooted.clone(), vec![Event::ResumeAsked]);
    assert_eq!((said(&resuming), status(&resuming)), (None, SandboxStatus::Suspended));
    let waits = Event::ResumeWaits(PendingReason::NoResourcesAvailable);
    let waiting = then(rebooted, vec![waits]);
    assert_eq!(said(&waiting), None, "who waits for room has its reason");
    assert!(waits_to_resume(&waiting));
}

#[test]
fn a_frozen_one_runs_until_a_report_says_otherwise() {
    let why = Some("the disk is almost full".to_owned());
    let report = |frozen| {
        let at = T0.plus_secs(1);
        let (generation, phase) = (Generation(1), ObservedPhase::Running);
        Event::Reported(Observed { generation, phase, at, trouble: None, frozen, shape: None })
    };
    let frozen = then(running(), vec![report(why.clone())]);
    assert_eq!(status(&frozen), SandboxStatus::Running);
    assert_eq!(frozen.observed.as_ref().and_then(|seen| seen.frozen.clone()), why);
    assert_eq!(step(&frozen, report(why), T0), Err(Ignored::NoChange));
    let thawed = then(frozen, vec![report(None)]);
    assert_eq!(thawed.observed.and_then(|seen| seen.frozen), None);
}
