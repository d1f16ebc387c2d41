//! The server goes and another comes: what is adopted, what has ended, what is removed.

use std::time::Duration;

use tarn_host::{Layers as _, SlotId};
use tarn_node_api::{Node as _, NodeTarget};
use tarn_runtime::{RuntimeExit, sim::SimStep};
use tarn_types::{EgressPolicy, EndCause, Generation, ObservedPhase};

use crate::world::{World, answers, id, launch};

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

#[tokio::test]
async fn a_reboot_of_the_host_ends_it() {
    let world = World::new().await;
    world.run(&id(1)).await;
    world.host.sim.reboot().await;
    *world.host.boot.lock() = "boot-2";
    let world = world.restart().await;
    let phase = world.node.list().await.remove(0).observed.phase;
    let reason = "host_restarted".to_owned();
    assert_eq!(phase, ObservedPhase::Ended(EndCause::RuntimeDied { reason }));
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

#[tokio::test]
async fn a_damaged_entry_protects_its_sandbox() {
    let world = World::new().await;
    let report = world.run(&id(1)).await;
    let file = world.host.ledger().join(id(1).as_str()).join("sandbox.json");
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
