//! What is made ready before memory is restored.

use std::{sync::Arc, time::Duration};

use tarn_host::{Layers as _, SlotId};
use tarn_node::AheadCounts;
use tarn_node_api::{CaptureOrder, Node as _, NodeTarget};
use tarn_runtime::sim::SimStep;
use tarn_scheduler::StageRule;
use tarn_types::{
    EgressPolicy, EndCause, Lasting, Launch, MilliCpu, ObservedPhase, Restore, SandboxId,
    SnapshotId, SnapshotKind,
};

use crate::world::{Host, World, answers, id, launch, snapshot_id};

/// A host whose nodes make ready, and keep no processes of suspended sandboxes.
fn host() -> Arc<Host> {
    let host = Host::new();
    *host.stages.lock() = StageRule::default();
    *host.keep_warm.lock() = Duration::ZERO;
    host
}

fn counts(world: &World) -> AheadCounts {
    world.node.stage_counts()
}

/// Waits until so many are ready and nothing is under way.
async fn settled(world: &World, ready: u64) {
    let there = || {
        let now = counts(world);
        (now.ready, now.building) == (ready, 0)
    };
    world.until(&format!("{ready} are ready"), there).await;
}

fn named() -> Launch {
    Launch { named: true, ..launch() }
}

fn restored(snapshot: &SnapshotId) -> Launch {
    let kind = SnapshotKind::Memory;
    Launch { restore: Some(Restore { snapshot: snapshot.clone(), kind }), ..launch() }
}

/// A node with a suspended sandbox, whose resume is made ready for.
async fn asleep(host: Arc<Host>) -> World {
    let world = World::over(host).await;
    world.apply(&id(1), 1, NodeTarget::Running(named())).await;
    world.reach(&id(1), 1, ObservedPhase::Running).await;
    world.apply(&id(1), 2, NodeTarget::Suspended).await;
    world.reach(&id(1), 2, ObservedPhase::Suspended).await;
    world
}

/// A node with a snapshot of a running sandbox's memory.
async fn captured(host: Arc<Host>) -> (World, SnapshotId) {
    let world = World::over(host).await;
    world.run(&id(1)).await;
    let report = world.snapshot(&id(1), 1, SnapshotKind::Memory).await;
    report.outcome.expect("it is taken");
    (world, snapshot_id(1))
}

async fn resume(world: &World, launch: Launch, generation: u64) {
    world.apply(&id(1), generation, NodeTarget::Running(launch)).await;
    let report = world.reach(&id(1), generation, ObservedPhase::Running).await;
    assert!(answers(report.endpoint.expect("an endpoint").daemon).await);
}

/// Restores under an id.
async fn restore(world: &World, id: &SandboxId, snapshot: &SnapshotId) {
    world.apply(id, 1, NodeTarget::Running(restored(snapshot))).await;
    let report = world.reach(id, 1, ObservedPhase::Running).await;
    assert!(answers(report.endpoint.expect("an endpoint").daemon).await);
}

#[tokio::test]
async fn a_resume_finds_what_was_made_ready_for_it() {
    let world = asleep(host()).await;
    for generation in [3, 5, 7] {
        settled(&world, 1).await;
        assert_eq!(world.host.slots.policy(SlotId(0)), Some(EgressPolicy::CLOSED));
        assert_eq!(world.host.entries(), 1, "the ledger knows nothing of it");
        resume(&world, named(), generation).await;
        assert_eq!(world.host.slots.policy(SlotId(0)), Some(EgressPolicy::OPEN));
        world.apply(&id(1), generation + 1, NodeTarget::Suspended).await;
        world.reach(&id(1), generation + 1, ObservedPhase::Suspended).await;
    }
    settled(&world, 1).await;
    let now = counts(&world);
    assert_eq!((now.hits, now.joined, now.misses, now.built, now.dropped), (3, 0, 0, 4, 0));
    // One that ends takes it along.
    world.apply(&id(1), 9, NodeTarget::Terminated(EndCause::Deleted)).await;
    world.wait_end(&id(1)).await;
    world.assert_clean(1).await;
    assert_eq!(counts(&world).dropped, 1);
}

#[tokio::test]
async fn a_resume_waits_for_what_is_being_made_and_goes_on_without_it() {
    for fails in [false, true] {
        let host = host();
        host.sim.faults().delay(SimStep::Stage, Duration::from_millis(200));
        host.sim.faults().fail(SimStep::Stage, usize::from(fails));
        let world = asleep(host).await;
        world.until("one is being made", || counts(&world).building == 1).await;
        resume(&world, named(), 3).await;
        let now = counts(&world);
        assert_eq!((now.joined, now.hits, now.failed), (1, 0, u64::from(fails)));
        assert_eq!(world.host.layers.list().await.expect("a list"), [id(1)]);
    }
}

#[tokio::test]
async fn what_does_not_fit_or_work_is_made_anew() {
    for fault in ["another shape", "another shape, and it resists", "restore"] {
        let world = asleep(host()).await;
        settled(&world, 1).await;
        let mut wanted = named();
        match fault {
            "another shape" => wanted.resources.cpu = MilliCpu::from_milli(250),
            "another shape, and it resists" => {
                wanted.resources.cpu = MilliCpu::from_milli(250);
                world.host.sim.faults().fail(SimStep::Delete, 1);
            }
            "restore" => world.host.sim.faults().fail(SimStep::Restore, 1),
            _ => {}
        }
        resume(&world, wanted, 3).await;
        assert_eq!(world.host.layers.list().await.expect("a list"), [id(1)], "{fault}");
        assert_eq!(world.host.slots.policy(SlotId(1)), None, "{fault}: it has the only slot");
    }
}

#[tokio::test]
async fn one_that_resists_is_removed_later_and_gives_its_slot_back() {
    let world = asleep(host()).await;
    settled(&world, 1).await;
    // Its own removal, that of its sandbox, and the next try.
    world.host.sim.faults().fail(SimStep::Delete, 3);
    world.apply(&id(1), 3, NodeTarget::Terminated(EndCause::Deleted)).await;
    assert_eq!(world.wait_end(&id(1)).await, EndCause::Deleted);
    world.assert_clean(1).await;
}

#[tokio::test]
async fn nothing_is_restored_where_a_stage_is_left() {
    let world = asleep(host()).await;
    settled(&world, 1).await;
    world.host.sim.faults().fail(SimStep::Delete, 1000);
    let mut wanted = named();
    wanted.resources.cpu = MilliCpu::from_milli(250);
    world.apply(&id(1), 3, NodeTarget::Running(wanted.clone())).await;
    let report = world.wait(&id(1), |report| report.observed.trouble.is_some()).await;
    assert_eq!(report.observed.phase, ObservedPhase::Suspended);
    world.host.sim.faults().fail(SimStep::Delete, 0);
    resume(&world, wanted, 4).await;
    assert_eq!(world.host.layers.list().await.expect("a list"), [id(1)]);
    assert_eq!(world.host.slots.policy(SlotId(1)), None, "it has the only slot");
}

#[tokio::test]
async fn a_new_snapshot_is_made_ready_for_and_none_is_handed_out_twice() {
    let (world, snapshot) = captured(host()).await;
    settled(&world, 1).await;
    let first = world.node.reserve_stage(&snapshot).await.expect("one is ready");
    restore(&world, &first, &snapshot).await;
    settled(&world, 1).await;
    // Nothing comes after.
    world.host.sim.faults().fail(SimStep::Stage, 1000);
    let second = world.node.reserve_stage(&snapshot).await.expect("another");
    assert_eq!(world.node.reserve_stage(&snapshot).await, None, "to one alone");
    world.node.give_back(&second).await;
    assert_eq!(world.node.reserve_stage(&snapshot).await.as_ref(), Some(&second));
    assert_ne!(first, second);
    restore(&world, &second, &snapshot).await;
    assert_eq!((counts(&world).hits, counts(&world).misses), (3, 1));
    // A restore without one goes on as before.
    restore(&world, &id(7), &snapshot).await;
}

#[tokio::test]
async fn what_is_reserved_for_another_snapshot_is_no_use() {
    let (world, snapshot) = captured(host()).await;
    settled(&world, 1).await;
    let staged = world.node.reserve_stage(&snapshot).await.expect("one is ready");
    let other = world.snapshot(&id(1), 2, SnapshotKind::Memory).await;
    other.outcome.expect("it is taken");
    restore(&world, &staged, &snapshot_id(2)).await;
}

#[tokio::test]
async fn a_deleted_snapshot_is_made_ready_for_no_more() {
    let (world, snapshot) = captured(host()).await;
    settled(&world, 1).await;
    world.node.discard(&snapshot).await.expect("it is removed");
    settled(&world, 0).await;
    assert_eq!(counts(&world).dropped, 1);
    assert_eq!(world.host.layers.list().await.expect("a list"), [id(1)]);
}

#[tokio::test]
async fn copies_find_as_many_as_there_are_cpus() {
    let world = World::over(host()).await;
    world.run(&id(1)).await;
    world.host.sim.faults().delay(SimStep::Stage, Duration::from_millis(100));
    let snapshot = snapshot_id(1);
    let order = CaptureOrder {
        snapshot: snapshot.clone(),
        sandbox: id(1),
        kind: SnapshotKind::Memory,
        lasting: Lasting::Boot,
        copies: 3,
    };
    world.node.capture(order).await.expect("it is taken");
    world.until("they are being made", || counts(&world).building == 2).await;
    let mut ids = Vec::new();
    for n in 0..3 {
        let staged = world.node.reserve_stage(&snapshot).await;
        assert_eq!(staged.is_some(), n < 2, "{n}");
        ids.push(staged.unwrap_or_else(|| id(10)));
    }
    assert_eq!((counts(&world).joined, counts(&world).misses), (2, 1));
    for copy in &ids {
        restore(&world, copy, &snapshot).await;
    }
    world.node.discard(&snapshot).await.expect("it is removed");
    settled(&world, 0).await;
    assert_eq!(world.host.layers.list().await.expect("a list").len(), 4);
}

#[tokio::test]
async fn a_server_that_stops_leaves_none() {
    let host = host();
    let (world, snapshot) = captured(Arc::clone(&host)).await;
    settled(&world, 1).await;
    let reserved = world.node.reserve_stage(&snapshot).await.expect("one is ready");
    *host.stages.lock() = StageRule { most: 0, ..StageRule::default() };
    let world = world.restart().await;
    assert_eq!(world.host.layers.list().await.expect("a list"), [id(1)], "{reserved} is gone");
    assert_eq!(world.node.reserve_stage(&snapshot).await, None);
}
