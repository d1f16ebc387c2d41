//! The pool runs full: what runs is frozen before, says so, and goes on when there is room.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tarn_host::Captures as _;
use tarn_node_api::{Node as _, NodeTarget, Report};
use tarn_runtime::sim::SimStep;
use tarn_types::{ByteSize, EndCause, Generation, Launch, ObservedPhase, SandboxId, SnapshotKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{World, id, launch};

/// The simulated pool's floor is 2 GiB.
const SHORT: ByteSize = ByteSize::from_mib(2047);
const LITTLE: ByteSize = ByteSize::from_mib(3071);
const ENOUGH: ByteSize = ByteSize::from_mib(3072);

/// How long one that is frozen is listened to.
const SILENCE: Duration = Duration::from_millis(200);

/// Says whether a daemon answers a request, whatever it says.
async fn answers(daemon: SocketAddr) -> bool {
    let asked = async {
        let mut stream = tokio::net::TcpStream::connect(daemon).await.ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: tarnd\r\n\r\n").await.ok()?;
        stream.read_u8().await.ok()
    };
    tokio::time::timeout(SILENCE, asked).await.is_ok_and(|byte| byte.is_some())
}

async fn start(world: &World) -> [SocketAddr; 2] {
    world.apply(&id(1), 1, NodeTarget::Running(Launch { named: true, ..launch() })).await;
    world.reach(&id(1), 1, ObservedPhase::Running).await;
    world.run(&id(2)).await;
    let [one, two] = [id(1), id(2)];
    [world.node_endpoint(&one).await.daemon, world.node_endpoint(&two).await.daemon]
}

async fn wait_frozen(world: &World, id: &SandboxId, frozen: bool) -> Report {
    let report = world.wait(id, |report| report.observed.frozen.is_some() == frozen).await;
    assert_eq!(report.observed.phase, ObservedPhase::Running);
    assert!(report.endpoint.is_some(), "it is reachable as ever");
    if let Some(said) = &report.observed.frozen {
        assert!(said.contains("almost full") && said.contains("frozen"), "{said}");
    }
    report
}

async fn freeze(world: &World, daemons: [SocketAddr; 2]) {
    world.host.layers.set_free(SHORT);
    for (n, daemon) in [1, 2].into_iter().zip(daemons) {
        wait_frozen(world, &id(n), true).await;
        assert!(!answers(daemon).await, "{n} stands still");
    }
    assert_eq!(world.node.view().await.disk_available, ByteSize::default());
}

async fn thaw(world: &World, daemons: [SocketAddr; 2]) {
    world.host.layers.set_free(ENOUGH);
    for (n, daemon) in [1, 2].into_iter().zip(daemons) {
        wait_frozen(world, &id(n), false).await;
        assert!(answers(daemon).await, "{n} goes on");
    }
    assert_eq!(world.node.view().await.disk_available, ENOUGH);
}

#[tokio::test]
async fn what_runs_is_frozen_and_goes_on_when_there_is_more_room() {
    let world = World::new().await;
    let daemons = start(&world).await;
    for _ in 0..2 {
        freeze(&world, daemons).await;
        world.host.layers.set_free(LITTLE);
        let report = world.node.list().await.remove(0);
        assert!(report.observed.frozen.is_some() && !answers(daemons[0]).await, "not yet");
        thaw(&world, daemons).await;
    }
}

#[tokio::test]
async fn what_is_on_its_way_to_the_pool_counts_as_taken() {
    let world = World::new().await;
    let daemons = start(&world).await;
    world.host.layers.set_free(ByteSize::from_mib(8000));
    world.host.sim.set_unwritten(ByteSize::from_mib(5953));
    for (n, daemon) in [1, 2].into_iter().zip(daemons) {
        wait_frozen(&world, &id(n), true).await;
        assert!(!answers(daemon).await, "{n} stands still");
    }
    // It has come, and more room with it.
    world.host.layers.set_free(ENOUGH);
    world.host.sim.set_unwritten(ByteSize::default());
    thaw(&world, daemons).await;
}

#[tokio::test]
async fn a_restart_finds_it_frozen_and_decides_anew() {
    let mut world = World::new().await;
    let daemons = start(&world).await;
    freeze(&world, daemons).await;
    // Less than it takes to go on is too little for the server that comes after, too.
    for free in [SHORT, LITTLE] {
        world.host.layers.set_free(free);
        world = world.restart().await;
        for report in world.node.list().await {
            assert!(report.observed.frozen.is_some(), "{free}: {report:?}");
        }
        assert!(!answers(daemons[0]).await && !answers(daemons[1]).await, "kept at {free}");
    }
    // The room comes while no server runs.
    let host = Arc::clone(&world.host);
    world.tasks.shutdown(Duration::from_secs(5)).await;
    host.layers.set_free(ENOUGH);
    let world = World::over(host).await;
    thaw(&world, daemons).await;
    world.wait_entry(&id(1), |entry| entry["frozen"].is_null() && entry["held"] == false).await;
}

#[tokio::test]
async fn a_frozen_one_is_not_captured_but_can_be_ended() {
    let world = World::new().await;
    let daemons = start(&world).await;
    freeze(&world, daemons).await;
    for kind in [SnapshotKind::Filesystem, SnapshotKind::Memory] {
        let said = world.snapshot(&id(1), 7, kind).await.outcome.expect_err("it is frozen");
        assert!(said.contains("stood still"), "{said}");
    }
    world.apply(&id(1), 2, NodeTarget::Suspended).await;
    let failed = |report: &Report| report.observed.generation == Generation(2);
    let observed = world.wait(&id(1), failed).await.observed;
    assert_eq!(observed.phase, ObservedPhase::Running);
    assert!(observed.trouble.is_some() && observed.frozen.is_some(), "{observed:?}");
    assert!(!answers(daemons[0]).await, "nor thawed by trying");
    assert_eq!(world.host.captures.list().await.expect("a list"), Vec::<String>::new());
    world.apply(&id(2), 2, NodeTarget::Terminated(EndCause::Deleted)).await;
    assert_eq!(world.wait_end(&id(2)).await, EndCause::Deleted);
    world.host.layers.set_free(ENOUGH);
    wait_frozen(&world, &id(1), false).await;
    assert!(answers(daemons[0]).await);
    world.apply(&id(1), 3, NodeTarget::Suspended).await;
    world.reach(&id(1), 3, ObservedPhase::Suspended).await;
}

#[tokio::test]
async fn one_whose_daemon_does_not_answer_a_capture_is_frozen_too() {
    let world = World::new().await;
    let [daemon, _] = start(&world).await;
    world.host.sim.faults().delay(SimStep::Seal, Duration::from_secs(3600));
    let one = id(1);
    let taken = tokio::join!(world.snapshot(&one, 7, SnapshotKind::Memory), async {
        world.wait_entry(&one, |entry| entry["held"] == true).await;
        world.host.layers.set_free(SHORT);
    });
    let said = taken.0.outcome.expect_err("it is frozen");
    assert!(said.contains("stood still"), "{said}");
    wait_frozen(&world, &id(1), true).await;
    assert!(!answers(daemon).await);
    // Nor is it let go while there is no room, or by the next server.
    world.host.sim.faults().delay(SimStep::Seal, Duration::ZERO);
    assert!(!answers(daemon).await);
    let world = world.restart().await;
    assert!(!answers(daemon).await);
    world.host.layers.set_free(ENOUGH);
    wait_frozen(&world, &id(1), false).await;
    assert!(answers(daemon).await);
    world.wait_entry(&id(1), |entry| entry["held"] == false).await;
    let captured = world.snapshot(&id(1), 8, SnapshotKind::Memory).await.outcome;
    assert!(captured.is_ok(), "{captured:?}");
}

#[tokio::test]
async fn a_snapshot_that_was_taken_when_there_is_no_room_any_more_is_kept() {
    let world = World::new().await;
    let [daemon, _] = start(&world).await;
    world.host.sim.faults().delay(SimStep::Unseal, Duration::from_secs(3600));
    let one = id(1);
    let taken = tokio::join!(world.snapshot(&one, 7, SnapshotKind::Memory), async {
        let faults = world.host.sim.faults();
        world.until("its end", || faults.delayed(SimStep::Unseal) == 1).await;
        world.host.layers.set_free(SHORT);
    });
    assert!(taken.0.outcome.is_ok(), "{:?}", taken.0);
    wait_frozen(&world, &one, true).await;
    world.host.sim.faults().delay(SimStep::Unseal, Duration::ZERO);
    world.host.layers.set_free(ENOUGH);
    wait_frozen(&world, &one, false).await;
    world.wait_entry(&one, |entry| entry["held"] == false).await;
    assert!(answers(daemon).await);
}

#[tokio::test]
async fn what_does_not_stand_still_is_ended_when_the_room_is_gone() {
    let world = World::new().await;
    start(&world).await;
    world.host.sim.faults().delay(SimStep::Freeze, Duration::from_secs(3600));
    // There is some left: it may take its time.
    world.host.layers.set_free(ByteSize::from_mib(1024 + 100));
    world.host.sim.set_unwritten(ByteSize::from_mib(100));
    let ended = tokio::time::timeout(Duration::from_secs(2), world.wait_end(&id(1))).await;
    assert!(ended.is_err(), "{ended:?}");
    // Nor is one ended that has written little: the host is only busy.
    world.host.layers.set_free(ByteSize::from_mib(1));
    world.host.sim.set_unwritten(ByteSize::from_mib(63));
    let ended = tokio::time::timeout(Duration::from_secs(3), world.wait_end(&id(1))).await;
    assert!(ended.is_err(), "{ended:?}");
    world.host.sim.set_unwritten(ByteSize::from_mib(64));
    for n in [1, 2] {
        let reason = "node_disk_full".to_owned();
        assert_eq!(world.wait_end(&id(n)).await, EndCause::RuntimeDied { reason });
    }
}

#[tokio::test]
async fn what_fails_is_tried_again() {
    let world = World::new().await;
    let daemons = start(&world).await;
    world.host.sim.faults().fail(SimStep::Freeze, 2);
    freeze(&world, daemons).await;
    world.host.sim.faults().fail(SimStep::Thaw, 2);
    // While the pool cannot be asked, what was decided stays so.
    world.host.layers.fail_space(3);
    thaw(&world, daemons).await;
}

#[tokio::test]
async fn an_orphan_stands_still_for_its_own_reason() {
    let world = World::new().await;
    let daemons = start(&world).await;
    world.node.orphan(&id(1)).await;
    world.wait_entry(&id(1), |entry| !entry["orphaned"].is_null()).await;
    world.host.layers.set_free(SHORT);
    wait_frozen(&world, &id(2), true).await;
    world.host.layers.set_free(ENOUGH);
    wait_frozen(&world, &id(2), false).await;
    assert!(!answers(daemons[0]).await, "it is an orphan still");
    // One that is given back while there is no room.
    world.host.layers.set_free(SHORT);
    wait_frozen(&world, &id(2), true).await;
    world.apply(&id(1), 1, NodeTarget::Running(Launch { named: true, ..launch() })).await;
    wait_frozen(&world, &id(1), true).await;
    thaw(&world, daemons).await;
}

#[tokio::test]
async fn an_orphan_that_was_frozen_keeps_nobody_else_frozen_after_a_restart() {
    let world = World::new().await;
    let daemons = start(&world).await;
    freeze(&world, daemons).await;
    world.node.orphan(&id(1)).await;
    world.wait_entry(&id(1), |entry| !entry["orphaned"].is_null()).await;
    world.host.layers.set_free(ENOUGH);
    wait_frozen(&world, &id(2), false).await;
    world.host.layers.set_free(LITTLE);
    let world = world.restart().await;
    assert_eq!(world.node.view().await.disk_available, LITTLE, "there is room");
    assert!(answers(daemons[1]).await, "it goes on");
}
