//! One sandbox from intent to forgotten, and every way that can fail.

use std::time::Duration;

use tarn_host::SlotId;
use tarn_node_api::{ApplyError, Node as _, NodeIntent, NodeTarget};
use tarn_runtime::{RuntimeExit, sim::SimStep};
use tarn_types::{
    EgressPolicy, EndCause, FailedStep, Generation, Launch, ObservedPhase, ProjectId, StartFailure,
};

use crate::world::{World, answers, id, launch};

#[tokio::test]
async fn it_runs_ends_and_is_forgotten() {
    let world = World::new().await;
    let report = world.run(&id(1)).await;
    assert_eq!(report.observed.phase, ObservedPhase::Running);
    let endpoint = report.endpoint.expect("an endpoint");
    assert!(answers(endpoint.daemon).await);
    assert_eq!(world.host.slots.policy(SlotId(0)), Some(EgressPolicy::OPEN));
    assert_eq!(world.node.view().await.cpu_promised.milli(), 1000);

    world.apply(&id(1), 2, NodeTarget::Terminated(EndCause::Deleted)).await;
    assert_eq!(world.wait_end(&id(1)).await, EndCause::Deleted);
    assert!(!answers(endpoint.daemon).await);
    world.assert_clean(1).await;
    world.node.forget(&id(1), Generation(1)).await;
    assert_eq!(world.node.list().await.len(), 1, "an older generation forgets nothing");
    world.node.forget(&id(1), Generation(2)).await;
    world.assert_clean(0).await;
    assert_eq!(world.node.view().await.cpu_promised.milli(), 0);
}

#[tokio::test]
async fn each_failed_step_names_itself_and_leaves_nothing() {
    for (step, named) in [
        (SimStep::Create, FailedStep::Create),
        (SimStep::Start, FailedStep::Start),
        (SimStep::Init, FailedStep::Init),
    ] {
        let world = World::new().await;
        world.host.sim.faults().fail(step, 1);
        world.run(&id(1)).await;
        let EndCause::StartFailed { step, failure, message } = world.wait_end(&id(1)).await else {
            panic!("the start failed")
        };
        assert_eq!((step, failure), (named, StartFailure::Internal), "{message}");
        assert!(!message.is_empty());
        world.assert_clean(1).await;
        world.node.forget(&id(1), Generation(1)).await;
        world.assert_clean(0).await;
    }
}

#[tokio::test]
async fn an_unknown_image_fails_before_anything_is_made() {
    let world = World::new().await;
    let image = "nope".parse().expect("a good name");
    world.apply(&id(1), 1, NodeTarget::Running(Launch { image, ..launch() })).await;
    let cause = world.wait_end(&id(1)).await;
    let failure = StartFailure::Image;
    assert!(matches!(cause, EndCause::StartFailed { failure: f, .. } if f == failure), "{cause:?}");
    world.assert_clean(1).await;
}

#[tokio::test]
async fn its_own_death_is_reported_with_the_reason() {
    for (exit, cause) in [
        (RuntimeExit::OutOfMemory, EndCause::OutOfMemory),
        (RuntimeExit::Died("killed"), EndCause::RuntimeDied { reason: "killed".to_owned() }),
    ] {
        let world = World::new().await;
        world.run(&id(1)).await;
        assert!(world.host.sim.kill(&id(1), exit).await);
        assert_eq!(world.wait_end(&id(1)).await, cause);
        world.assert_clean(1).await;
        // Nobody is sent to its address any more before that can be another's.
        let (reports, slots) = (world.sink.reports.lock(), world.sink.policies.lock());
        let [.., withdrawn, _ended] = reports.as_slice() else { unreachable!("it ran and ended") };
        assert_eq!(withdrawn.observed.phase, ObservedPhase::Running);
        assert!(withdrawn.endpoint.is_none() && slots[slots.len() - 2].1.is_some());
    }
}

#[tokio::test]
async fn a_resisting_clean_up_is_tried_again() {
    let world = World::new().await;
    world.run(&id(1)).await;
    world.host.sim.faults().fail(SimStep::Delete, 1);
    world.apply(&id(1), 2, NodeTarget::Terminated(EndCause::Deleted)).await;
    world.wait_end(&id(1)).await;
    world.node.forget(&id(1), Generation(2)).await;
    world.assert_clean(0).await;
}

#[tokio::test]
async fn a_new_policy_is_in_the_slot_before_the_report() {
    let world = World::new().await;
    world.run(&id(1)).await;
    let closed = Launch { egress: EgressPolicy::CLOSED, ..launch() };
    world.apply(&id(1), 2, NodeTarget::Running(closed)).await;
    let report = world.wait(&id(1), |report| report.observed.generation == Generation(2)).await;
    assert_eq!(report.observed.phase, ObservedPhase::Running);
    assert_eq!(world.host.slots.policy(SlotId(0)), Some(EgressPolicy::CLOSED));
}

#[tokio::test]
async fn a_policy_that_comes_during_a_start_is_in_force_when_it_is_said_to_run() {
    let world = World::new().await;
    let faults = world.host.sim.faults();
    faults.delay(SimStep::Init, Duration::from_millis(200));
    world.apply(&id(1), 1, NodeTarget::Running(named())).await;
    world.until("the start", || faults.delayed(SimStep::Init) == 1).await;
    let closed = NodeTarget::Running(Launch { egress: EgressPolicy::CLOSED, ..named() });
    world.apply(&id(1), 2, closed.clone()).await;
    world.reach(&id(1), 2, ObservedPhase::Running).await;
    // The same while it goes on from memory.
    world.apply(&id(1), 3, NodeTarget::Suspended).await;
    world.reach(&id(1), 3, ObservedPhase::Suspended).await;
    faults.delay(SimStep::Unseal, Duration::from_millis(200));
    world.apply(&id(1), 4, NodeTarget::Running(named())).await;
    world.until("the resume", || faults.delayed(SimStep::Unseal) > 0).await;
    world.apply(&id(1), 5, closed).await;
    world.reach(&id(1), 5, ObservedPhase::Running).await;
    let policies = world.sink.policies.lock();
    let running: Vec<_> =
        policies.iter().filter(|(phase, _)| *phase == ObservedPhase::Running).collect();
    assert!(running.len() >= 4, "{policies:?}");
    for (_, policy) in running {
        assert_eq!(*policy, Some(EgressPolicy::CLOSED), "{policies:?}");
    }
}

#[tokio::test]
async fn a_policy_that_is_taken_back_during_a_start_is_not_in_force() {
    let world = World::new().await;
    let faults = world.host.sim.faults();
    faults.delay(SimStep::Init, Duration::from_millis(500));
    world.apply(&id(1), 1, NodeTarget::Running(named())).await;
    world.until("the start", || faults.delayed(SimStep::Init) == 1).await;
    let policy = || world.host.slots.policy(SlotId(0));
    let closed = Launch { egress: EgressPolicy::CLOSED, ..named() };
    world.apply(&id(1), 2, NodeTarget::Running(closed)).await;
    world.until("the new policy", || policy() == Some(EgressPolicy::CLOSED)).await;
    world.apply(&id(1), 3, NodeTarget::Running(named())).await;
    world.reach(&id(1), 3, ObservedPhase::Running).await;
    assert_eq!(policy(), Some(EgressPolicy::OPEN));
}

fn named() -> Launch {
    Launch { named: true, ..launch() }
}

#[tokio::test]
async fn older_intents_are_refused_and_equal_ones_repeat_the_report() {
    let world = World::new().await;
    world.run(&id(1)).await;
    world.apply(&id(1), 5, NodeTarget::Terminated(EndCause::Deleted)).await;
    world.wait_end(&id(1)).await;
    let stale = NodeIntent {
        id: id(1),
        project: ProjectId::from_random([2; 16]),
        generation: Generation(4),
        target: NodeTarget::Running(launch()),
    };
    let refused = world.node.apply(stale).await;
    assert!(matches!(refused, Err(ApplyError::Stale { .. })), "{refused:?}");
    world.apply(&id(1), 5, NodeTarget::Terminated(EndCause::Deleted)).await;
    assert_eq!(world.wait_end(&id(1)).await, EndCause::Deleted);
    world.apply(&id(2), 3, NodeTarget::Terminated(EndCause::Deleted)).await;
    assert_eq!(world.wait_end(&id(2)).await, EndCause::Deleted, "it was never here");
}

#[tokio::test]
async fn the_absolute_limit_ends_only_what_has_no_name() {
    let world = World::new().await;
    world.run(&id(1)).await;
    let named = Launch { named: true, ..launch() };
    world.apply(&id(2), 1, NodeTarget::Running(named)).await;
    world.wait(&id(2), |report| report.observed.phase == ObservedPhase::Running).await;
    world.host.clock.advance_millis(599_000);
    assert_eq!(world.node.list().await.iter().filter(|r| r.endpoint.is_some()).count(), 2);
    world.host.clock.advance_millis(1_001);
    assert_eq!(world.wait_end(&id(1)).await, EndCause::TimedOut);
    // Its clock is an idle one.
    world.wait(&id(2), |report| report.observed.phase == ObservedPhase::Suspended).await;
}

#[tokio::test]
async fn memory_pressure_reaches_the_daemon() {
    let world = World::new().await;
    world.run(&id(1)).await;
    assert!(world.host.sim.memory_pressure(&id(1)).await);
    // The simulated daemon has nothing to end; the sandbox must live on.
    let report = world.node.list().await.remove(0);
    assert_eq!(report.observed.phase, ObservedPhase::Running);
}

#[tokio::test]
async fn twenty_at_once_run_and_end() {
    let world = World::new().await;
    for n in 1..=20 {
        world.apply(&id(n), 1, NodeTarget::Running(launch())).await;
    }
    for n in 1..=20 {
        world.wait(&id(n), |report| report.observed.phase == ObservedPhase::Running).await;
    }
    assert_eq!(world.node.view().await.starts_in_flight, 0);
    for n in 1..=20 {
        world.apply(&id(n), 2, NodeTarget::Terminated(EndCause::Deleted)).await;
    }
    for n in 1..=20 {
        world.wait_end(&id(n)).await;
        world.node.forget(&id(n), Generation(2)).await;
    }
    world.assert_clean(0).await;
}
