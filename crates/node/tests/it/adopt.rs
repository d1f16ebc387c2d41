//! The server goes and another comes: what is adopted, what has ended, what is removed.

use std::time::Duration;

use tarn_host::{Layers as _, SlotId};
use tarn_node_api::{Node as _, NodeTarget, Report};
use tarn_runtime::{RuntimeExit, sim::SimStep};
use tarn_types::{EgressPolicy, EndCause, Generation, ObservedPhase};

use crate::world::{Host, World, answers, id, launch};

#[tokio::test]
async fn running_sandboxes_live_on_and_keep_their_endpoint() {
    let world = World::new().await;
    let before = world.run(&id(1)).await;
    let world = world.restart().await;
    let after = world.node.list().await.remove(0);
    assert_eq!(after.observed.phase, ObservedPhase::Running);
    assert_eq!(after.endpoint, before.endpoint);
    assert!(answers(after.endpoint.expect("an endpoint").daemon).await);
    world.apply(&id(1), 2, NodeTarget::Terminated(EndCause::Deleted)).await;
    world.wait_end(&id(1)).await;
    world.assert_clean(1).await;
}

#[tokio::test]
async fn the_limit_goes_on_through_a_restart() {
    let world = World::new().await;
    world.run(&id(1)).await;
    let world = world.restart().await;
    world.host.clock.advance_millis(600_001);
    assert_eq!(world.wait_end(&id(1)).await, EndCause::TimedOut);
}

#[tokio::test]
async fn what_died_unwatched_has_ended() {
    let world = World::new().await;
    world.run(&id(1)).await;
    let host = std::sync::Arc::clone(&world.host);
    world.tasks.shutdown(Duration::from_secs(5)).await;
    host.sim.kill(&id(1), RuntimeExit::Died("killed")).await;
    let world = World::over(host).await;
    let phase = world.node.list().await.remove(0).observed.phase;
    let reason = "died_unwatched".to_owned();
    assert_eq!(phase, ObservedPhase::Ended(EndCause::RuntimeDied { reason }));
    world.node.forget(&id(1), Generation(1)).await;
    world.assert_clean(0).await;
}

/// A passing fault of a host, and what brings so many of it about.
type Fault = (&'static str, fn(&Host, usize));

const FAULTS: [Fault; 4] = [
    ("the processes cannot be looked for", |host, n| host.sim.faults().fail(SimStep::Lives, n)),
    ("the runtime does not answer", |host, n| host.sim.faults().fail(SimStep::Adopt, n)),
    ("the slot cannot be opened", |host, n| host.slots.fail_adopt(n)),
    ("the layer cannot be looked at", |host, n| host.layers.fail_adopt(n)),
];

#[tokio::test]
async fn a_fault_that_passes_costs_no_sandbox() {
    for (what, bring_about) in FAULTS {
        let world = World::new().await;
        let before = world.run(&id(1)).await;
        bring_about(&world.host, 2);
        let world = world.restart().await;
        let now = world.node.list().await.remove(0);
        assert_eq!(now.observed.phase, ObservedPhase::Running, "{what}");
        assert_eq!(now.endpoint, None, "{what}: not before it is found");
        let after = world.wait(&id(1), |report| report.endpoint.is_some()).await;
        assert_eq!(after.endpoint, before.endpoint, "{what}");
        assert_eq!(after.observed.phase, ObservedPhase::Running, "{what}");
        assert!(answers(after.endpoint.expect("an endpoint").daemon).await, "{what}");
        assert!(world.node.unfound().await.is_empty(), "{what}");
        assert_eq!(world.host.slots.policy(SlotId(0)), Some(EgressPolicy::OPEN), "{what}");
        world.host.sim.kill(&id(1), RuntimeExit::Died("killed")).await;
        let reason = "killed".to_owned();
        assert_eq!(world.wait_end(&id(1)).await, EndCause::RuntimeDied { reason }, "{what}");
        world.assert_clean(1).await;
    }
}

#[tokio::test]
async fn one_that_dies_while_it_is_sought_has_ended() {
    for (what, bring_about) in FAULTS {
        let world = World::new().await;
        world.run(&id(1)).await;
        bring_about(&world.host, 1);
        let world = world.restart().await;
        world.host.sim.kill(&id(1), RuntimeExit::Died("killed")).await;
        let reason = "died_unwatched".to_owned();
        assert_eq!(world.wait_end(&id(1)).await, EndCause::RuntimeDied { reason }, "{what}");
        world.assert_clean(1).await;
    }
}

#[tokio::test]
async fn one_that_cannot_be_found_again_is_left_alone_until_its_end_is_wanted() {
    let world = World::new().await;
    let report = world.run(&id(1)).await;
    let daemon = report.endpoint.expect("an endpoint").daemon;
    world.host.slots.lose(SlotId(0));
    let world = world.restart().await;
    let world = world.restart().await;
    // Longer than every pause between two looks.
    tokio::time::pause();
    for _ in 0..120 {
        tokio::time::advance(Duration::from_millis(500)).await;
    }
    tokio::time::resume();
    assert_eq!(world.node.list().await.remove(0).observed.phase, ObservedPhase::Running);
    let unfound = world.node.unfound().await.remove(0);
    assert_eq!((unfound.id, unfound.trouble), (id(1), "network slot 0 is gone".to_owned()));
    assert!(answers(daemon).await, "its processes are not touched");
    assert_eq!(world.host.layers.list().await.expect("a list"), [id(1)], "nor its files");
    world.apply(&id(1), 2, NodeTarget::Terminated(EndCause::Deleted)).await;
    assert_eq!(world.wait_end(&id(1)).await, EndCause::Deleted);
    world.assert_clean(1).await;
}

#[tokio::test]
async fn the_limit_of_one_that_is_sought_holds() {
    let world = World::new().await;
    world.run(&id(1)).await;
    world.host.slots.lose(SlotId(0));
    let world = world.restart().await;
    world.host.clock.advance_millis(600_001);
    assert_eq!(world.wait_end(&id(1)).await, EndCause::TimedOut);
}

#[tokio::test]
async fn what_was_told_of_is_never_built_again() {
    let world = World::new().await;
    let before = world.run(&id(1)).await;
    // As if the server had died between the daemon's yes and the next line of the ledger.
    world.edit_entry(&id(1), |entry| entry["state"] = "starting".into());
    let world = world.restart().await;
    assert_eq!(world.node.list().await.remove(0).observed.phase, ObservedPhase::Running);
    world.host.sim.faults().fail(SimStep::Adopt, 1);
    let world = world.restart().await;
    let after = world.wait(&id(1), |report| report.endpoint.is_some()).await;
    assert_eq!(after.endpoint, before.endpoint, "it is the same one");
}

#[tokio::test]
async fn what_was_half_built_and_resists_is_built_when_it_is_gone() {
    let world = World::new().await;
    let before = world.run(&id(1)).await;
    world.edit_entry(&id(1), |entry| entry["state"] = "starting".into());
    world.host.sim.faults().fail(SimStep::Adopt, 1);
    world.host.sim.faults().fail(SimStep::Delete, 2);
    let world = world.restart().await;
    assert_eq!(world.node.list().await.remove(0).observed.phase, ObservedPhase::Starting);
    world.apply(&id(1), 1, NodeTarget::Running(launch())).await;
    let running = |report: &Report| report.observed.phase == ObservedPhase::Running;
    let after = world.wait(&id(1), running).await;
    assert_ne!(after.endpoint, before.endpoint, "a new one");
    assert!(answers(after.endpoint.expect("an endpoint").daemon).await);
    world.apply(&id(1), 2, NodeTarget::Terminated(EndCause::Deleted)).await;
    assert_eq!(world.wait_end(&id(1)).await, EndCause::Deleted);
    world.assert_clean(1).await;
}

#[tokio::test]
async fn what_was_half_built_and_resists_is_not_built_where_nobody_wants_it() {
    for orphaned in [false, true] {
        let world = World::new().await;
        world.run(&id(1)).await;
        world.edit_entry(&id(1), |entry| entry["state"] = "starting".into());
        world.host.sim.faults().fail(SimStep::Adopt, 1);
        world.host.sim.faults().fail(SimStep::Delete, 2);
        let world = world.restart().await;
        if orphaned {
            world.node.orphan(&id(1)).await;
            world.assert_clean(0).await;
        } else {
            world.apply(&id(1), 2, NodeTarget::Terminated(EndCause::Cancelled)).await;
            assert_eq!(world.wait_end(&id(1)).await, EndCause::Cancelled);
            world.assert_clean(1).await;
        }
    }
}

#[tokio::test]
async fn nothing_is_said_to_run_before_the_ledger_says_so() {
    let world = World::new().await;
    world.host.sim.faults().delay(SimStep::Start, Duration::from_secs(2));
    world.apply(&id(1), 1, NodeTarget::Running(launch())).await;
    let file = world.host.entry_file(&id(1));
    let begun = async {
        while !file.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), begun).await.expect("its entry is written");
    // A directory in the way of the next line.
    std::fs::remove_file(&file).expect("it is there");
    std::fs::create_dir(&file).expect("nobody is writing");
    let cause = world.wait_end(&id(1)).await;
    assert!(matches!(cause, EndCause::StartFailed { .. }), "{cause:?}");
}

#[tokio::test]
async fn what_ended_before_a_restart_takes_no_slot_from_another() {
    let world = World::new().await;
    world.run(&id(1)).await;
    world.host.sim.reboot().await;
    *world.host.boot.lock() = "boot-2";
    // Its clean-up comes after the next sandbox has got the slot that its entry names.
    world.host.sim.faults().fail(SimStep::Delete, 1);
    let world = world.restart().await;
    world.run(&id(2)).await;
    world.node.forget(&id(1), Generation(1)).await;
    let cleaned = async {
        while world.host.entries() != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), cleaned).await.expect("it is cleaned up");
    assert_eq!(world.host.slots.policy(SlotId(0)), Some(EgressPolicy::OPEN), "still the second's");
}

#[tokio::test]
async fn strays_without_an_entry_are_removed() {
    let world = World::new().await;
    world.run(&id(1)).await;
    std::fs::remove_dir_all(world.host.ledger()).expect("the ledger is lost");
    let world = world.restart().await;
    assert!(world.node.list().await.is_empty());
    world.assert_clean(0).await;
}

/// Starts a server over strays of these sandboxes that cannot be removed.
async fn over_strays_that_resist(numbers: &[u8]) -> World {
    let world = World::new().await;
    for n in numbers {
        world.run(&id(*n)).await;
    }
    std::fs::remove_dir_all(world.host.ledger()).expect("the ledger is lost");
    world.host.sim.faults().fail(SimStep::Delete, 1000);
    world.restart().await
}

#[tokio::test]
async fn strays_that_resist_keep_no_server_from_its_start_and_are_removed_later() {
    let world = over_strays_that_resist(&[1, 2]).await;
    assert!(world.node.list().await.is_empty());
    assert_eq!(world.host.layers.list().await.expect("a list"), [id(1), id(2)], "may be in use");
    assert_eq!(world.run(&id(3)).await.observed.phase, ObservedPhase::Running);
    world.apply(&id(3), 2, NodeTarget::Terminated(EndCause::Deleted)).await;
    world.host.sim.faults().fail(SimStep::Delete, 0);
    assert_eq!(world.wait_end(&id(3)).await, EndCause::Deleted);
    world.assert_clean(1).await;
}

#[tokio::test]
async fn what_is_built_under_the_id_of_a_stray_is_not_taken_for_it() {
    let world = over_strays_that_resist(&[1]).await;
    // Its create was cut off: control asks again.
    world.host.sim.faults().fail(SimStep::Delete, 0);
    let report = world.run(&id(1)).await;
    assert_eq!(report.observed.phase, ObservedPhase::Running);
    // Longer than the pauses before the next two tries.
    let begun = tokio::time::Instant::now();
    let waited = || begun.elapsed() > Duration::from_millis(400);
    world.until("the stray would be tried again", waited).await;
    assert_eq!(world.node.list().await.remove(0).observed.phase, ObservedPhase::Running);
    assert!(answers(report.endpoint.expect("an endpoint").daemon).await);
}

#[tokio::test]
async fn nothing_is_built_where_a_stray_is_left() {
    let world = over_strays_that_resist(&[1]).await;
    world.apply(&id(1), 1, NodeTarget::Running(launch())).await;
    let cause = world.wait_end(&id(1)).await;
    assert!(matches!(cause, EndCause::StartFailed { .. }), "{cause:?}");
    world.host.sim.faults().fail(SimStep::Delete, 0);
    world.assert_clean(1).await;
}

#[tokio::test]
async fn a_damaged_entry_protects_its_sandbox() {
    let world = World::new().await;
    let report = world.run(&id(1)).await;
    let file = world.host.entry_file(&id(1));
    std::fs::write(&file, "{ half").expect("it is damaged");
    let world = world.restart().await;
    assert!(world.node.list().await.is_empty(), "nobody pretends to know it");
    assert_eq!(world.host.layers.list().await.expect("a list"), [id(1)]);
    assert!(answers(report.endpoint.expect("an endpoint").daemon).await);
}

#[tokio::test]
async fn an_orphan_is_frozen_kept_and_given_back() {
    let world = World::new().await;
    world.run(&id(1)).await;
    world.node.orphan(&id(1)).await;
    let orphaned = async {
        while world.node.orphans().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, orphaned).await.expect("it is frozen");
    world.host.clock.advance_millis(50_000);
    let world = world.restart().await;
    assert_eq!(world.node.orphans().await, [id(1)], "it is kept through a restart");
    world.apply(&id(1), 1, NodeTarget::Running(launch())).await;
    let given_back = async {
        while !world.node.orphans().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(limit, given_back).await.expect("it is thawed");
    assert_eq!(world.node.list().await.remove(0).observed.phase, ObservedPhase::Running);
}

#[tokio::test]
async fn an_orphan_is_removed_after_its_grace() {
    let world = World::new().await;
    world.run(&id(1)).await;
    world.node.orphan(&id(1)).await;
    let limit = Duration::from_secs(30);
    let orphaned = async {
        while world.node.orphans().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(limit, orphaned).await.expect("it is frozen");
    world.host.clock.advance_millis(100_001);
    world.wait_end(&id(1)).await;
    world.assert_clean(0).await;
}
