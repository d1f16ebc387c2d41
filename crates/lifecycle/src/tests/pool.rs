//! Containers of pools: claimed once, ended only as long as nobody has claimed them.

use tarn_types::{PoolId, PoolMember};

use super::*;
use crate::Step;

/// Returns a container that nobody has claimed, at generation 1.
fn unclaimed() -> SandboxRecord {
    let member = PoolMember { pool: PoolId::from_random([4; 16]), claimed_at: None };
    let mut record = SandboxRecord { member: Some(member), ..fresh() };
    record.asked.timeout_secs = 0;
    record
}

fn then(record: &SandboxRecord, event: Event) -> SandboxRecord {
    step(record, event, T0).expect("it changes something").record
}

#[test]
fn a_claim_changes_the_record_once() {
    let waits = then(&then(&unclaimed(), Event::Placed(node())), seen(1, ObservedPhase::Running));
    let later = T0.plus_secs(90);
    let claim = Event::Claimed { timeout_secs: 30 };
    let Step { record, effects } = step(&waits, claim.clone(), later).expect("it waits");
    assert_eq!(effects, [Effect::Apply], "its node starts the clock");
    assert_eq!((record.created_at, record.asked.timeout_secs), (later, 30));
    assert_eq!(record.intent.generation, Generation(2));
    assert_eq!(status(&record), SandboxStatus::Running);
    assert_eq!(record.launch().claimed_at, Some(later));
    assert!(waits.is_unclaimed() && !record.is_unclaimed());
    assert_eq!(step(&record, claim.clone(), later), Err(Ignored::NoChange), "by one only");
    assert_eq!(step(&record, Event::Retired, later), Err(Ignored::NoChange), "it is somebody's");
    // Its node still speaks of the generation before.
    let known = then(&record, seen(2, ObservedPhase::Running));
    assert_eq!(status(&known), SandboxStatus::Running);
    // What is of no pool cannot be claimed.
    for event in [claim, Event::Retired] {
        assert_eq!(step(&fresh(), event, T0), Err(Ignored::NoChange));
    }
}

#[test]
fn what_nobody_has_claimed_is_retired() {
    let starting = then(&unclaimed(), Event::Placed(node()));
    let ended = then(&starting, Event::Retired);
    assert_eq!(ended.end, Some(EndCause::Cancelled));
    let claim = Event::Claimed { timeout_secs: 30 };
    assert_eq!(step(&ended, claim, T0), Err(Ignored::Ended(vec![])), "too late");
    let waits = then(&starting, seen(1, ObservedPhase::Running));
    let Step { record, effects } = step(&waits, Event::Retired, T0).expect("it goes");
    assert_eq!((record.end, effects), (Some(EndCause::Deleted), vec![Effect::Apply]));
}

#[test]
fn a_claim_may_find_one_that_is_being_started() {
    let starting = then(&unclaimed(), Event::Placed(node()));
    let claimed = then(&starting, Event::Claimed { timeout_secs: 30 });
    assert_eq!(status(&claimed), SandboxStatus::Pending);
    // Its node starts it as it was told first, and then hears of the claim.
    let running = then(&claimed, seen(1, ObservedPhase::Running));
    assert_eq!(status(&running), SandboxStatus::Running);
}

#[test]
fn the_limit_of_a_claimed_one_suspends_it() {
    let waits = then(&then(&unclaimed(), Event::Placed(node())), seen(1, ObservedPhase::Running));
    let claimed = then(&waits, Event::Claimed { timeout_secs: 30 });
    let suspending = then(&claimed, seen(2, ObservedPhase::Suspending));
    assert_eq!(status(&suspending), SandboxStatus::Suspending);
    let suspended = then(&suspending, seen(2, ObservedPhase::Suspended));
    assert_eq!(status(&suspended), SandboxStatus::Suspended);
    assert_eq!((suspended.end.clone(), suspended.intent.target.clone()), (None, Target::Suspended));
    let resumed = then(&suspended, Event::ResumeAsked);
    assert_eq!(resumed.intent.generation, Generation(3));
}

proptest! {
    #[test]
    fn a_claim_is_the_only_way_and_there_is_none_back(
        events in prop::collection::vec(any_event(), 0..32),
    ) {
        let mut record = unclaimed();
        for (n, event) in (0_u64..).zip(events) {
            let before = record.clone();
            let Ok(step) = step(&record, event.clone(), T0.plus_secs(n)) else { continue };
            record = step.record;
            let claim = matches!(event, Event::Claimed { .. });
            prop_assert_eq!(before.is_unclaimed() && !record.is_unclaimed(), claim);
            prop_assert!(before.is_unclaimed() || !record.is_unclaimed(), "it went back");
            prop_assert!(record.created_at == before.created_at || claim);
            let claimed_at = record.member.as_ref().and_then(|member| member.claimed_at);
            prop_assert!(claimed_at.is_none_or(|at| at == record.created_at));
        }
    }
}
