//! The host restarts under running sandboxes: what has a name keeps its files and boots from them.

use std::{sync::Arc, time::Duration};

use tarn_host::{Captures as _, Layers as _};
use tarn_node_api::{Node as _, NodeTarget, Report};
use tarn_runtime::sim::SimStep;
use tarn_types::{ByteSize, EgressPolicy, EndCause, Generation, Launch, ObservedPhase};

use crate::world::{World, answers, id, launch};

fn named() -> Launch {
    Launch { named: true, egress: EgressPolicy::CLOSED, ..launch() }
}

/// Returns a world in which a named sandbox ran when the host restarted.
async fn rebooted() -> World {
    let world = World::new().await;
    world.apply(&id(1), 1, NodeTarget::Running(named())).await;
    world.reach(&id(1), 1, ObservedPhase::Running).await;
    let world = world.reboot().await;
    assert_suspended(&world, 1).await;
    world
}

/// Asserts that it is suspended, that this says why, and that its files are there.
async fn assert_suspended(world: &World, generation: u64) {
    let observed = world.node.list().await.remove(0).observed;
    let at = (observed.phase, observed.generation);
    assert_eq!(at, (ObservedPhase::Suspended, Generation(generation)));
    let trouble = observed.trouble.expect("a reason");
    assert!(trouble.contains("host restarted") && trouble.contains("files are kept"), "{trouble}");
    assert_eq!(world.host.layers.list().await.expect("a list"), [id(1)]);
}

async fn resume(world: &World, generation: u64) -> Report {
    world.apply(&id(1), generation, NodeTarget::Running(named())).await;
    let report = world.reach(&id(1), generation, ObservedPhase::Running).await;
    assert_eq!(report.observed.trouble, None);
    let endpoint = report.endpoint.clone().expect("an endpoint");
    assert!(answers(endpoint.daemon).await);
    assert_eq!(world.host.slots.policy(tarn_host::SlotId(0)), Some(EgressPolicy::CLOSED));
    report
}

#[tokio::test]
async fn one_with_a_name_is_suspended_and_boots_from_its_files() {
    // Any number of servers may come and go before somebody wants it.
    let world = rebooted().await.restart().await;
    assert_suspended(&world, 1).await;
    world.wait_entry(&id(1), |entry| entry["kept"] == "layer").await;
    let before = resume(&world, 2).await;
    // Then it is as any other.
    world.wait_entry(&id(1), |entry| entry["kept"].is_null()).await;
    let world = world.restart().await;
    let report = world.node.list().await.remove(0);
    assert_eq!(
        (report.observed.phase, &report.endpoint),
        (ObservedPhase::Running, &before.endpoint)
    );
    world.apply(&id(1), 3, NodeTarget::Suspended).await;
    let report = world.reach(&id(1), 3, ObservedPhase::Suspended).await;
    assert_eq!(report.observed.trouble, None);
    resume(&world, 4).await;
}

#[tokio::test]
async fn one_without_a_name_has_ended() {
    let world = World::new().await;
    world.run(&id(1)).await;
    let world = world.reboot().await;
    let phase = world.node.list().await.remove(0).observed.phase;
    let reason = "host_restarted".to_owned();
    assert_eq!(phase, ObservedPhase::Ended(EndCause::RuntimeDied { reason }));
    world.assert_clean(1).await;
}

#[tokio::test]
async fn a_boot_that_fails_keeps_the_files() {
    for step in [SimStep::Create, SimStep::Start] {
        let world = rebooted().await;
        world.host.sim.faults().fail(step, 1);
        world.apply(&id(1), 2, NodeTarget::Running(named())).await;
        let failed = |report: &Report| report.observed.generation == Generation(2);
        let observed = world.wait(&id(1), failed).await.observed;
        assert_eq!(observed.phase, ObservedPhase::Suspended, "{step:?}");
        let trouble = observed.trouble.expect("a reason");
        assert!(trouble.contains("runtime"), "{step:?}: {trouble}");
        let world = world.restart().await;
        assert_suspended(&world, 2).await;
        resume(&world, 3).await;
    }
}

#[tokio::test]
async fn a_boot_in_which_the_server_dies_keeps_the_files() {
    let world = rebooted().await;
    world.host.sim.faults().delay(SimStep::Start, Duration::from_secs(3600));
    world.apply(&id(1), 2, NodeTarget::Running(named())).await;
    let claimed = async {
        while world.host.slots.policy(tarn_host::SlotId(0)).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), claimed).await.expect("it is being built");
    let host = Arc::clone(&world.host);
    // As a kill does it: nothing is finished.
    world.tasks.stop();
    drop(world);
    host.sim.faults().delay(SimStep::Start, Duration::ZERO);
    let world = World::over(host).await;
    assert_suspended(&world, 1).await;
    resume(&world, 2).await;
}

#[tokio::test]
async fn a_capture_older_than_the_files_is_not_restored() {
    let world = World::new().await;
    world.apply(&id(1), 1, NodeTarget::Running(named())).await;
    world.reach(&id(1), 1, ObservedPhase::Running).await;
    // Its server died between a resume and the removal of what it was resumed from.
    let captures = &world.host.captures;
    captures.begin(id(1).as_str(), ByteSize::from_bytes(0)).await.expect("a draft");
    captures.clone_layer(id(1).as_str(), &id(1)).await.expect("a layer");
    captures.commit(id(1).as_str(), serde_json::Value::Null).await.expect("a capture");
    let world = world.reboot().await;
    assert_suspended(&world, 1).await;
    assert_eq!(world.host.captures.list().await.expect("a list"), Vec::<String>::new());
    world.host.sim.faults().fail(SimStep::Restore, 2);
    resume(&world, 2).await;
}

#[tokio::test]
async fn it_can_be_deleted_and_orphaned() {
    let world = rebooted().await;
    world.apply(&id(1), 2, NodeTarget::Terminated(EndCause::Deleted)).await;
    assert_eq!(world.wait_end(&id(1)).await, EndCause::Deleted);
    world.assert_clean(1).await;

    let world = rebooted().await;
    world.node.orphan(&id(1)).await;
    world.wait_entry(&id(1), |entry| !entry["orphaned"].is_null()).await;
    let world = world.restart().await;
    assert_suspended(&world, 1).await;
    assert_eq!(world.node.orphans().await, [id(1)]);
}
