//! Tables and properties of the state machine.

use proptest::prelude::*;
use tarn_types::{
    ByteSize, EgressPolicy, EndCause, ExposedPorts, FailedStep, Generation, Intent, Lasting,
    Launch, NodeId, Observed, ObservedPhase, PendingReason, PortAccess, ProjectId, Resources,
    SandboxId, SandboxRecord, SandboxSpec, SandboxStatus, Shape, SnapshotId, StartFailure, Target,
    UnixMillis,
};

use crate::{Effect, Event, Ignored, Limit, Patch, lasting, limit, status, step, waits_to_resume};

mod pool;
mod resize;
mod state;

const T0: UnixMillis = UnixMillis(1_000_000);

fn node() -> NodeId {
    NodeId::from_random([3; 16])
}

fn fresh() -> SandboxRecord {
    SandboxRecord {
        id: SandboxId::from_random([1; 21]),
        project: ProjectId::from_random([2; 16]),
        created_at: T0,
        asked: SandboxSpec {
            name: None,
            image: "tensorlake/ubuntu-minimal".parse().expect("a good name"),
            resources: Resources { memory: ByteSize::from_mib(256), ..Resources::default() },
            timeout_secs: 600,
            entrypoint: None,
            network: None,
            ports: PortAccess::default(),
            auto_resume: true,
            max_pending_secs: None,
            restore: None,
            secret_names: Vec::new(),
            template_id: None,
        },
        intent: Intent {
            generation: Generation::FIRST,
            target: Target::Running,
            node: None,
            pending_reason: Some(PendingReason::Scheduling),
        },
        observed: None,
        sequence: 1,
        running_at: None,
        terminated_at: None,
        end: None,
        capturing: None,
        member: None,
        resize: None,
    }
}

fn seen(generation: u64, phase: ObservedPhase) -> Event {
    Event::Reported(Observed {
        generation: Generation(generation),
        phase,
        at: T0.plus_secs(1),
        trouble: None,
        frozen: None,
        shape: None,
    })
}

fn snapshot(number: u8) -> SnapshotId {
    SnapshotId::from_random([number; 16])
}

fn after(events: Vec<Event>) -> SandboxRecord {
    let mut record = fresh();
    for event in events {
        if let Ok(step) = step(&record, event, T0) {
            record = step.record;
        }
    }
    record
}

fn failed() -> EndCause {
    EndCause::StartFailed {
        step: FailedStep::Slot,
        failure: StartFailure::Internal,
        message: "no room".to_owned(),
    }
}

#[test]
fn the_status_table() {
    use ObservedPhase::{Ended, Running, Starting};
    let placed = || Event::Placed(node());
    let table: Vec<(&str, Vec<Event>, SandboxStatus)> = vec![
        ("new", vec![], SandboxStatus::Pending),
        ("placed", vec![placed()], SandboxStatus::Pending),
        ("starting", vec![placed(), seen(1, Starting)], SandboxStatus::Pending),
        ("running", vec![placed(), seen(1, Starting), seen(1, Running)], SandboxStatus::Running),
        (
            "late starting",
            vec![placed(), seen(1, Running), seen(1, Starting)],
            SandboxStatus::Running,
        ),
        ("failed", vec![placed(), seen(1, Ended(failed()))], SandboxStatus::Terminated),
        ("deleted early", vec![Event::DeleteAsked], SandboxStatus::Terminated),
        (
            "deleted",
            vec![placed(), seen(1, Running), Event::DeleteAsked],
            SandboxStatus::Terminated,
        ),
        (
            "late running",
            vec![placed(), Event::DeleteAsked, seen(1, Running)],
            SandboxStatus::Terminated,
        ),
        ("expired", vec![Event::PendingExpired], SandboxStatus::Terminated),
        ("placed in time", vec![placed(), Event::PendingExpired], SandboxStatus::Pending),
        ("lost", vec![placed(), seen(1, Running), Event::LostByNode], SandboxStatus::Terminated),
    ];
    for (name, events, expected) in table {
        assert_eq!(status(&after(events)), expected, "{name}");
    }
}

#[test]
fn what_was_reported_need_not_outlast_the_host_and_what_was_asked_does() {
    use ObservedPhase::{Ended, Running, Starting, Suspended, Suspending};
    let placed = || Event::Placed(node());
    let ran = || vec![placed(), seen(1, Running)];
    let named =
        Event::Patched(Patch { name: Some("a".parse().expect("a name")), ..Patch::default() });
    let with = |mut events: Vec<Event>, more: Vec<Event>| {
        events.extend(more);
        events
    };
    let asleep = || with(ran(), vec![named.clone(), Event::SuspendAsked, seen(2, Suspended)]);
    let table: Vec<(&str, Vec<Event>, Event, Lasting)> = vec![
        ("placed", vec![], placed(), Lasting::Always),
        ("starting", vec![placed()], seen(1, Starting), Lasting::Boot),
        ("running", vec![placed()], seen(1, Running), Lasting::Always),
        ("running again", with(ran(), vec![seen(1, Suspending)]), seen(1, Running), Lasting::Boot),
        ("failed", vec![placed()], seen(1, Ended(failed())), Lasting::Always),
        ("ended", ran(), seen(1, Ended(failed())), Lasting::Always),
        ("deleted", ran(), Event::DeleteAsked, Lasting::Always),
        ("named", ran(), named.clone(), Lasting::Always),
        ("captured", ran(), Event::CaptureBegun(snapshot(1)), Lasting::Boot),
        (
            "not captured any more",
            with(ran(), vec![Event::CaptureBegun(snapshot(1))]),
            Event::CaptureSettled(snapshot(1)),
            Lasting::Boot,
        ),
        ("to be suspended", with(ran(), vec![named.clone()]), Event::SuspendAsked, Lasting::Always),
        ("idle", ran(), seen(1, Suspending), Lasting::Boot),
        ("suspended by its limit", ran(), seen(1, Suspended), Lasting::Always),
        ("to be resumed", asleep(), Event::ResumeAsked, Lasting::Always),
        (
            "to be resumed later",
            asleep(),
            Event::ResumeWaits(PendingReason::MaxCapacityReached),
            Lasting::Always,
        ),
        (
            "to be resumed no more",
            with(asleep(), vec![Event::ResumeWaits(PendingReason::MaxCapacityReached)]),
            Event::SuspendAsked,
            Lasting::Always,
        ),
        ("resumed", with(asleep(), vec![Event::ResumeAsked]), seen(3, Running), Lasting::Boot),
    ];
    for (name, events, event, expected) in table {
        let before = after(events);
        let next = step(&before, event, T0).expect(name).record;
        assert_eq!(lasting(&before, &next), expected, "{name}");
    }
}

#[test]
fn a_delete_is_a_cancel_until_it_runs() {
    assert_eq!(after(vec![Event::DeleteAsked]).end, Some(EndCause::Cancelled));
    let ran = vec![Event::Placed(node()), seen(1, ObservedPhase::Running), Event::DeleteAsked];
    let record = after(ran);
    assert_eq!(record.end, Some(EndCause::Deleted));
    assert_eq!(record.intent.generation, Generation(2));
}

#[test]
fn effects_reach_the_node_only_when_there_is_one() {
    let placed = step(&fresh(), Event::Placed(node()), T0).expect("an unplaced one is placed");
    assert_eq!(placed.effects, [Effect::Apply]);
    let unplaced = step(&fresh(), Event::DeleteAsked, T0).expect("a live one is deleted");
    assert_eq!(unplaced.effects, []);
    let deleted = step(&placed.record, Event::DeleteAsked, T0).expect("a live one is deleted");
    assert_eq!(deleted.effects, [Effect::Apply]);
    let gone = step(&deleted.record, seen(2, ObservedPhase::Ended(EndCause::Deleted)), T0);
    assert_eq!(gone, Err(Ignored::Ended(vec![Effect::Forget(Generation(2))])));
    let still_there = step(&deleted.record, seen(1, ObservedPhase::Running), T0);
    assert_eq!(still_there, Err(Ignored::Ended(vec![Effect::Apply])));
}

#[test]
fn a_patch_makes_a_generation_only_when_the_node_is_concerned() {
    let running = after(vec![Event::Placed(node()), seen(1, ObservedPhase::Running)]);
    let patch = |patch| step(&running, Event::Patched(patch), T0);

    let exposed_ports = ExposedPorts::parse([80]).ok();
    let ports = patch(Patch { exposed_ports, ..Patch::default() }).expect("a change");
    assert_eq!((ports.record.intent.generation, ports.effects.len()), (Generation(1), 0));
    let opened = Patch { unauthenticated_ports: Some(true), ..Patch::default() };
    let opened = step(&ports.record, Event::Patched(opened), T0).expect("a change");
    let access = opened.record.asked.ports;
    assert!(access.unauthenticated && access.exposes(80), "what is absent stays: {access:?}");

    let closed = Patch { network: Some(Some(EgressPolicy::CLOSED)), ..Patch::default() };
    let closed = patch(closed).expect("a change");
    assert_eq!(closed.record.intent.generation, Generation(2));
    assert_eq!(closed.effects, [Effect::Apply]);
    assert_eq!(status(&closed.record), SandboxStatus::Running);

    let explicit = Patch { network: Some(Some(EgressPolicy::OPEN)), ..Patch::default() };
    let explicit = patch(explicit).expect("it shows in network_policy");
    assert_eq!(explicit.effects, []);

    assert_eq!(patch(Patch::default()), Err(Ignored::NoChange));
}

#[test]
fn limits_follow_the_clock_table() {
    let mut launch = fresh().asked.launch();
    assert_eq!(limit(&launch, T0), Limit::EndsAt(T0.plus_secs(600)));
    let claimed = |secs| Launch { claimed_at: Some(T0.plus_secs(secs)), ..launch.clone() };
    assert_eq!(limit(&claimed(50), T0), Limit::SuspendsAt(T0.plus_secs(650)), "from the claim");
    let resumed = limit(&claimed(50), T0.plus_secs(90));
    assert_eq!(resumed, Limit::SuspendsAt(T0.plus_secs(690)), "anew after a resume");
    launch.named = true;
    launch.claimed_at = Some(T0);
    assert_eq!(limit(&launch, T0), Limit::SuspendsWhenIdle { secs: 600 });
    launch.timeout_secs = 0;
    assert_eq!(limit(&launch, T0), Limit::None);
    launch.named = false;
    assert_eq!(limit(&launch, T0), Limit::None);
}

fn any_event() -> impl Strategy<Value = Event> {
    let phase = prop_oneof![
        Just(ObservedPhase::Starting),
        Just(ObservedPhase::Running),
        Just(ObservedPhase::Suspending),
        Just(ObservedPhase::Suspended),
        Just(ObservedPhase::Ended(EndCause::TimedOut)),
    ];
    let trouble = prop_oneof![Just(None), Just(Some("no room".to_owned()))];
    let patch = prop_oneof![
        Just(Patch { network: Some(Some(EgressPolicy::CLOSED)), ..Patch::default() }),
        Just(Patch { network: Some(None), ..Patch::default() }),
        Just(Patch { name: "box".parse().ok(), ..Patch::default() }),
        Just(Patch { auto_resume: Some(false), ..Patch::default() }),
    ];
    let snapshot = (1_u8..3).prop_map(snapshot);
    prop_oneof![
        2 => Just(Event::Placed(node())),
        1 => Just(Event::NotPlaced(PendingReason::NoResourcesAvailable)),
        6 => (0_u64..8, phase, trouble).prop_map(|(generation, phase, trouble)| {
            let generation = Generation(generation);
            let at = T0.plus_secs(1);
            let shape = Some(Shape { resources: Resources::default(), trouble: None });
            Event::Reported(Observed { generation, phase, at, trouble, frozen: None, shape })
        }),
        1 => Just(Event::DeleteAsked),
        1 => Just(Event::PendingExpired),
        3 => patch.prop_map(Event::Patched),
        1 => Just(Event::LostByNode),
        3 => Just(Event::SuspendAsked),
        3 => Just(Event::ResumeAsked),
        1 => Just(Event::ResumeWaits(PendingReason::NoResourcesAvailable)),
        2 => snapshot.clone().prop_map(Event::CaptureBegun),
        2 => snapshot.prop_map(Event::CaptureSettled),
        1 => (0_u64..9).prop_map(|timeout_secs| Event::Claimed { timeout_secs }),
        1 => Just(Event::Retired),
        3 => Just(Event::ResizeAsked(Resources::default())),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_nothing_moves_back(events in prop::collection::vec(any_event(), 0..32)) {
        let mut record = fresh();
        for event in events {
            let before = record.clone();
            let Ok(step) = step(&record, event.clone(), T0) else { continue };
            record = step.record;
            prop_assert_eq!(record.sequence, before.sequence + 1);
            prop_assert!(record.intent.generation >= before.intent.generation);
            prop_assert!(before.end.is_none(), "a step after the end");
            prop_assert_eq!(record.end.is_some(), record.terminated_at.is_some());
            prop_assert_eq!(
                record.end.is_some(),
                matches!(record.intent.target, Target::Terminated(_))
            );
            prop_assert!(status(&before) == SandboxStatus::Pending
                || status(&record) != SandboxStatus::Pending, "what was there is built again");
            prop_assert!(before.intent.node.is_none() || record.intent.node == before.intent.node);
            let observed = record.observed.as_ref().map(|observed| observed.generation);
            prop_assert!(observed.is_none_or(|seen| seen <= record.intent.generation));
            // The node is told of a new target by a new generation, unless it chose that itself.
            prop_assert!(record.intent.target == before.intent.target
                || record.intent.generation > before.intent.generation
                || matches!(event, Event::Reported(_) | Event::PendingExpired | Event::LostByNode));
            prop_assert!(record.intent.generation == before.intent.generation
                || record.intent.node.is_none()
                || step.effects.contains(&Effect::Apply), "a new generation that nobody sends");
            prop_assert!(!waits_to_resume(&record) || status(&record) != SandboxStatus::Running);
            prop_assert!(record.capturing.is_none() || record.end.is_none());
            prop_assert!(!record.is_resizing() || record.end.is_none());
            prop_assert!(record.is_resizing() || before.is_resizing()
                || record.asked.resources == before.asked.resources, "resized by itself");
        }
    }
}
