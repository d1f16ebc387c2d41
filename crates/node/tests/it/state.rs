//! Snapshots, restores, suspend and resume on a simulated host.

use std::{sync::Arc, time::Duration};

use tarn_host::{Captures as _, Layers as _, SlotId};
use tarn_node_api::{Node as _, NodeTarget};
use tarn_route_api::Activity;
use tarn_runtime::{
    Runtime as _, RuntimeExit,
    sim::{SimRuntime, SimStep},
};
use tarn_types::{
    ByteSize, EgressPolicy, EndCause, Generation, Launch, ObservedPhase, Restore, SnapshotKind,
    UnixMillis,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{Host, World, answers, id, launch, snapshot_id};

fn named() -> Launch {
    Launch { named: true, ..launch() }
}

async fn run_named(world: &World) {
    world.apply(&id(1), 1, NodeTarget::Running(named())).await;
    world.reach(&id(1), 1, ObservedPhase::Running).await;
}

async fn suspend(world: &World, generation: u64) {
    world.apply(&id(1), generation, NodeTarget::Suspended).await;
    let report = world.reach(&id(1), generation, ObservedPhase::Suspended).await;
    assert_eq!((report.endpoint, report.observed.trouble), (None, None));
}

async fn resume(world: &World, generation: u64) {
    world.apply(&id(1), generation, NodeTarget::Running(named())).await;
    let report = world.reach(&id(1), generation, ObservedPhase::Running).await;
    assert!(answers(report.endpoint.expect("an endpoint").daemon).await);
}

fn cold() -> Arc<Host> {
    let host = Host::new();
    *host.keep_warm.lock() = Duration::ZERO;
    host
}

#[tokio::test]
async fn a_warm_one_goes_on_where_it_is() {
    let world = World::new().await;
    run_named(&world).await;
    let before = world.node_endpoint(&id(1)).await;
    suspend(&world, 2).await;
    assert!(world.sink.phases(&id(1)).contains(&ObservedPhase::Suspending), "on its way");
    resume(&world, 3).await;
    assert_eq!(world.node_endpoint(&id(1)).await.daemon, before.daemon);
    for generation in [4, 6, 8] {
        suspend(&world, generation).await;
        resume(&world, generation + 1).await;
    }
    world.apply(&id(1), 10, NodeTarget::Terminated(EndCause::Deleted)).await;
    world.wait_end(&id(1)).await;
    world.assert_clean(1).await;
    assert_eq!(world.host.captures.list().await.expect("a list"), Vec::<String>::new());
}

#[tokio::test]
async fn a_cold_one_takes_nothing_of_the_host_but_its_capture() {
    let world = World::over(cold()).await;
    run_named(&world).await;
    for generation in [2, 4] {
        suspend(&world, generation).await;
        world.assert_clean(1).await;
        let captures = world.host.captures.list().await.expect("a list");
        assert_eq!(captures, [id(1).to_string()]);
        resume(&world, generation + 1).await;
    }
    assert_eq!(world.host.layers.list().await.expect("a list"), [id(1)]);
}

#[tokio::test]
async fn what_is_suspended_outlives_server_and_host() {
    for reboot in [false, true] {
        let world = World::new().await;
        run_named(&world).await;
        suspend(&world, 2).await;
        if reboot {
            *world.host.boot.lock() = "boot-2";
        }
        let world = world.restart().await;
        let report = world.node.list().await.remove(0);
        assert_eq!(report.observed.phase, ObservedPhase::Suspended, "reboot: {reboot}");
        // What was kept warm is dropped.
        world.assert_clean(1).await;
        resume(&world, 3).await;
        // It is of this boot now, so the next server finds it running.
        let world = world.restart().await;
        let report = world.node.list().await.remove(0);
        assert_eq!(report.observed.phase, ObservedPhase::Running, "reboot: {reboot}");
        assert!(answers(report.endpoint.expect("an endpoint").daemon).await);
        assert_eq!(world.host.captures.list().await.expect("a list"), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_capture_that_no_suspend_needs_goes_with_the_next_start() {
    let world = World::new().await;
    run_named(&world).await;
    world.apply(&id(2), 1, NodeTarget::Running(named())).await;
    world.reach(&id(2), 1, ObservedPhase::Running).await;
    world.apply(&id(2), 2, NodeTarget::Suspended).await;
    world.reach(&id(2), 2, ObservedPhase::Suspended).await;
    // A server died between the capture of the first and the word that it is suspended, or between
    // its resume and the removal.
    let captures = &world.host.captures;
    captures.begin(id(1).as_str(), ByteSize::from_bytes(0)).await.expect("a draft");
    captures.clone_layer(id(1).as_str(), &id(1)).await.expect("a layer");
    captures.commit(id(1).as_str(), serde_json::Value::Null).await.expect("a capture");
    let world = world.restart().await;
    let captures = world.host.captures.list().await.expect("a list");
    assert_eq!(captures, [id(2).to_string()]);
    for report in world.node.list().await {
        let awake = report.id == id(1);
        let phase = if awake { ObservedPhase::Running } else { ObservedPhase::Suspended };
        assert_eq!((report.observed.phase, report.endpoint.is_some()), (phase, awake));
    }
}

#[tokio::test]
async fn a_suspend_that_fails_leaves_it_running_and_says_why() {
    let steps = [SimStep::Seal, SimStep::Pause, SimStep::Checkpoint];
    for step in steps {
        let world = World::new().await;
        run_named(&world).await;
        world.host.sim.faults().fail(step, 1);
        world.apply(&id(1), 2, NodeTarget::Suspended).await;
        let report = world.wait(&id(1), |report| report.observed.trouble.is_some()).await;
        assert_eq!(report.observed.phase, ObservedPhase::Running, "{step:?}");
        assert_eq!(report.observed.generation, Generation(2), "{step:?}");
        assert!(answers(report.endpoint.expect("it serves").daemon).await, "{step:?}");
        suspend(&world, 3).await;
        resume(&world, 4).await;
    }
}

#[tokio::test]
async fn a_resume_that_fails_leaves_it_suspended_and_can_be_tried_again() {
    for (warm, step) in [
        (false, SimStep::Restore),
        (false, SimStep::Unseal),
        (true, SimStep::Resume),
        (true, SimStep::Unseal),
    ] {
        let world = World::over(if warm { Host::new() } else { cold() }).await;
        run_named(&world).await;
        suspend(&world, 2).await;
        // A restore is tried twice.
        world.host.sim.faults().fail(step, if step == SimStep::Restore { 2 } else { 1 });
        world.apply(&id(1), 3, NodeTarget::Running(named())).await;
        let report = world.wait(&id(1), |report| report.observed.trouble.is_some()).await;
        assert_eq!(report.observed.phase, ObservedPhase::Suspended, "{step:?}");
        assert_eq!(report.observed.generation, Generation(3), "{step:?}");
        resume(&world, 4).await;
    }
}

#[tokio::test]
async fn a_restore_that_fails_once_is_tried_again() {
    let world = World::over(cold()).await;
    run_named(&world).await;
    suspend(&world, 2).await;
    world.host.sim.faults().fail(SimStep::Restore, 1);
    resume(&world, 3).await;
    assert_eq!(world.host.layers.list().await.expect("a list"), [id(1)]);
    world.snapshot(&id(1), 7, SnapshotKind::Memory).await.outcome.expect("it is taken");
    world.host.sim.faults().fail(SimStep::Restore, 1);
    let restore = Some(Restore { snapshot: snapshot_id(7), kind: SnapshotKind::Memory });
    world.apply(&id(2), 1, NodeTarget::Running(Launch { restore, ..launch() })).await;
    world.reach(&id(2), 1, ObservedPhase::Running).await;
}

#[tokio::test]
async fn frozen_processes_that_die_cost_nothing() {
    let world = World::new().await;
    run_named(&world).await;
    suspend(&world, 2).await;
    assert!(world.host.sim.kill(&id(1), RuntimeExit::OutOfMemory).await);
    world.assert_clean(1).await;
    assert_eq!(world.node.list().await.remove(0).observed.phase, ObservedPhase::Suspended);
    resume(&world, 3).await;
}

#[tokio::test]
async fn a_suspended_one_can_be_deleted() {
    for host in [Host::new(), cold()] {
        let world = World::over(host).await;
        run_named(&world).await;
        suspend(&world, 2).await;
        world.apply(&id(1), 3, NodeTarget::Terminated(EndCause::Deleted)).await;
        assert_eq!(world.wait_end(&id(1)).await, EndCause::Deleted);
        world.node.forget(&id(1), Generation(3)).await;
        world.assert_clean(0).await;
        assert_eq!(world.host.captures.list().await.expect("a list"), Vec::<String>::new());
    }
}

#[tokio::test]
async fn snapshots_outlive_their_source_and_can_be_restored_often() {
    for kind in [SnapshotKind::Filesystem, SnapshotKind::Memory] {
        let world = World::new().await;
        world.run(&id(1)).await;
        let source = world.node_endpoint(&id(1)).await;
        let facts = world.snapshot(&id(1), 7, kind).await.outcome.expect("it is taken");
        assert!(facts.size >= facts.layer, "{kind:?}");
        assert!(answers(source.daemon).await, "the source goes on");
        let held = world.node.snapshots().await.remove(0);
        assert_eq!((held.snapshot, held.sandbox, held.kind), (snapshot_id(7), id(1), kind));
        world.apply(&id(1), 2, NodeTarget::Terminated(EndCause::Deleted)).await;
        world.wait_end(&id(1)).await;
        let world = world.restart().await;
        for n in [2, 3] {
            let restore = Some(Restore { snapshot: snapshot_id(7), kind });
            world.apply(&id(n), 1, NodeTarget::Running(Launch { restore, ..launch() })).await;
            let report = world.reach(&id(n), 1, ObservedPhase::Running).await;
            let endpoint = report.endpoint.expect("an endpoint");
            assert!(answers(endpoint.daemon).await);
            assert_ne!(endpoint.token, source.token, "a token of its own");
        }
        world.node.discard(&snapshot_id(7)).await.expect("it is removed");
        assert!(world.node.snapshots().await.is_empty());
        assert!(answers(world.node_endpoint(&id(2)).await.daemon).await, "it does not need it");
    }
}

#[tokio::test]
async fn a_snapshot_that_fails_says_why_and_harms_nothing() {
    let world = World::new().await;
    world.run(&id(1)).await;
    for step in [SimStep::Seal, SimStep::Pause, SimStep::Checkpoint] {
        world.host.sim.faults().fail(step, 1);
        let report = world.snapshot(&id(1), 7, SnapshotKind::Memory).await;
        let said = report.outcome.expect_err("it was made to fail");
        assert!(!said.is_empty(), "{step:?}");
        assert!(answers(world.node_endpoint(&id(1)).await.daemon).await, "{step:?}");
        assert!(world.node.snapshots().await.is_empty(), "{step:?}");
    }
    world.snapshot(&id(1), 7, SnapshotKind::Memory).await.outcome.expect("then it is taken");
    let nobody = world.snapshot(&id(9), 8, SnapshotKind::Filesystem).await;
    assert_eq!(nobody.outcome, Err("the sandbox is not on this node".to_owned()));
}

#[tokio::test]
async fn a_snapshot_of_files_leaves_no_daemon_sealed_that_an_earlier_one_sealed() {
    let world = World::new().await;
    world.run(&id(1)).await;
    world.host.sim.faults().fail(SimStep::Unseal, 1000);
    let sealed = world.snapshot(&id(1), 7, SnapshotKind::Memory).await;
    sealed.outcome.expect_err("its daemon is not unsealed");
    let report = world.snapshot(&id(1), 8, SnapshotKind::Filesystem).await;
    let said = report.outcome.expect_err("it is held still");
    assert!(said.contains("earlier capture"), "{said}");
    world.wait_entry(&id(1), |entry| entry["held"] == true).await;
    world.host.sim.faults().fail(SimStep::Unseal, 0);
    world.snapshot(&id(1), 9, SnapshotKind::Filesystem).await.outcome.expect("it is taken");
    world.wait_entry(&id(1), |entry| entry["held"] == false).await;
    assert!(answers(world.node_endpoint(&id(1)).await.daemon).await);
}

#[tokio::test]
async fn a_suspend_that_its_server_did_not_live_to_see_is_asked_for_again() {
    let world = World::new().await;
    run_named(&world).await;
    world.host.sim.faults().delay(SimStep::Checkpoint, Duration::from_secs(3600));
    world.apply(&id(1), 2, NodeTarget::Suspended).await;
    world.reach(&id(1), 2, ObservedPhase::Suspending).await;
    world.wait_entry(&id(1), |entry| entry["held"] == true).await;
    // Else the old server, whose tasks go on here, would do it after all.
    let host = Arc::clone(&world.host);
    world.until("the checkpoint", || host.sim.faults().delayed(SimStep::Checkpoint) == 1).await;
    // As a kill does it: nothing is finished.
    world.tasks.stop();
    drop(world);
    host.sim.faults().delay(SimStep::Checkpoint, Duration::ZERO);
    let world = World::over(host).await;
    let report = world.node.list().await.remove(0);
    assert_eq!(report.observed.phase, ObservedPhase::Running);
    assert_eq!(report.observed.generation, Generation(1), "so control knows that it is to do");
    suspend(&world, 2).await;
    resume(&world, 3).await;
}

#[tokio::test]
async fn a_suspended_one_has_no_snapshots() {
    let world = World::new().await;
    run_named(&world).await;
    suspend(&world, 2).await;
    let report = world.snapshot(&id(1), 7, SnapshotKind::Filesystem).await;
    assert_eq!(report.outcome, Err("the sandbox does not run".to_owned()));
}

#[tokio::test]
async fn a_restore_from_nothing_ends_and_names_the_snapshot() {
    let world = World::new().await;
    let restore = Some(Restore { snapshot: snapshot_id(7), kind: SnapshotKind::Memory });
    world.apply(&id(1), 1, NodeTarget::Running(Launch { restore, ..launch() })).await;
    let cause = world.wait_end(&id(1)).await;
    let message = cause.error_message().expect("a message");
    assert!(message.contains(snapshot_id(7).as_str()), "{message}");
    world.assert_clean(1).await;
}

#[tokio::test]
async fn one_that_a_dead_server_held_goes_on() {
    let world = World::new().await;
    world.run(&id(1)).await;
    let daemon = world.node_endpoint(&id(1)).await.daemon;
    let host = Arc::clone(&world.host);
    world.tasks.shutdown(Duration::from_secs(5)).await;
    world.edit_entry(&id(1), |entry| entry["held"] = true.into());
    let (events, _inbox) = tokio::sync::mpsc::channel(1);
    SimRuntime::on(&host.sim, events).pause(&id(1)).await.expect("it is paused");
    let world = World::over(host).await;
    assert!(world.node.list().await.remove(0).endpoint.is_some(), "found at the first look");
    assert!(answers(daemon).await);
    suspend(&world, 2).await;
}

#[tokio::test]
async fn an_idle_one_with_a_name_is_suspended_at_its_own_generation() {
    let world = World::new().await;
    run_named(&world).await;
    let now = UnixMillis(1_000_000);
    *world.host.activity.0.lock() = Some(Activity { open: 1, last: now });
    world.host.clock.advance_millis(3_600_000);
    let world = settle(world).await;
    assert_eq!(world.node.list().await.remove(0).observed.phase, ObservedPhase::Running, "in use");
    let last = now.plus_secs(3600);
    *world.host.activity.0.lock() = Some(Activity { open: 0, last });
    world.host.clock.advance_millis(599_000);
    let world = settle(world).await;
    assert_eq!(world.node.list().await.remove(0).observed.phase, ObservedPhase::Running);
    world.host.clock.advance_millis(1_001);
    world.reach(&id(1), 1, ObservedPhase::Suspended).await;
    resume(&world, 2).await;
}

/// Lets the sandbox's task look at the clock a few times.
async fn settle(world: World) -> World {
    tokio::time::pause();
    for _ in 0..4 {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
    world
}

#[tokio::test]
async fn the_idle_clock_goes_on_over_a_restart() {
    let world = World::new().await;
    run_named(&world).await;
    world.host.clock.advance_millis(400_000);
    world
        .wait_entry(&id(1), |entry| entry["idle_ms"].as_u64().is_some_and(|idle| idle >= 400_000))
        .await;
    let world = world.restart().await;
    // As long as the server was away counts for nothing.
    world.host.clock.advance_millis(200_001);
    world.reach(&id(1), 1, ObservedPhase::Suspended).await;
}

#[tokio::test]
async fn processes_that_cannot_go_on_are_restored_in_the_same_resume() {
    let world = World::new().await;
    run_named(&world).await;
    suspend(&world, 2).await;
    // Its network is gone, so the policy that is wanted now cannot be put in force.
    world.host.slots.lose(SlotId(0));
    let closed = Launch { egress: EgressPolicy::CLOSED, ..named() };
    world.apply(&id(1), 3, NodeTarget::Running(closed)).await;
    let report = world.reach(&id(1), 3, ObservedPhase::Running).await;
    assert_eq!(report.observed.trouble, None);
    assert!(answers(report.endpoint.expect("an endpoint").daemon).await);
    assert_eq!(world.host.slots.policy(SlotId(0)), Some(EgressPolicy::CLOSED));
    assert_eq!(world.host.captures.list().await.expect("a list"), Vec::<String>::new());
}

#[tokio::test]
async fn a_resume_that_its_server_did_not_live_to_see_ends_what_was_open_before() {
    let world = World::new().await;
    run_named(&world).await;
    let daemon = world.node_endpoint(&id(1)).await.daemon;
    let mut open = tokio::net::TcpStream::connect(daemon).await.expect("it listens");
    open.write_all(b"GET /unknown HTTP/1.1\r\nHost: tarnd\r\n\r\n").await.expect("it is sent");
    open.read_u8().await.expect("an answer");
    suspend(&world, 2).await;
    world.host.sim.faults().delay(SimStep::Resume, Duration::from_secs(3600));
    world.apply(&id(1), 3, NodeTarget::Running(named())).await;
    world.wait_entry(&id(1), |entry| entry["state"] == "running" && entry["held"] == true).await;
    let host = Arc::clone(&world.host);
    world.tasks.stop();
    drop(world);
    host.sim.faults().delay(SimStep::Resume, Duration::ZERO);
    let world = World::over(host).await;
    let report = world.node.list().await.remove(0);
    assert_eq!(report.observed.phase, ObservedPhase::Running);
    assert!(answers(report.endpoint.expect("an endpoint").daemon).await);
    let mut bytes = Vec::new();
    let rest = tokio::time::timeout(Duration::from_secs(30), open.read_to_end(&mut bytes));
    rest.await.expect("it is a resume, and drops what was open").expect("in an orderly way");
    world.wait_entry(&id(1), |entry| entry["held"] == false && entry["resuming"].is_null()).await;
    suspend(&world, 4).await;
    resume(&world, 5).await;
}
