//! GPUs: whole, exclusive, in the ledger, and looked at before they are anybody's again.

use std::{fs, sync::Arc};

use tarn_node_api::{GpuState, Node as _, NodeTarget};
use tarn_runtime::RuntimeExit;
use tarn_types::{
    EndCause, FailedStep, GpuModel, GpuStock, Gpus, Launch, ObservedPhase, Resources, SnapshotKind,
};

use crate::world::{Host, World, id, launch};

fn model(name: &str) -> GpuModel {
    name.parse().expect("a name")
}

/// Starts a node on a host with these GPUs.
async fn world(models: &[&str]) -> World {
    let host = Host::new();
    *host.gpus.lock() = models.iter().map(|name| model(name)).collect();
    World::over(host).await
}

fn with_gpus(name: &str, count: u32) -> Launch {
    let gpus = Some(Gpus { model: model(name), count });
    Launch { resources: Resources { gpus, ..Resources::default() }, ..launch() }
}

/// Writes where each GPU is, in the order of the host: `-` is free, a digit the number of a test's
/// sandbox, `r` returning, `x` out of use.
fn places(world: &World) -> String {
    let place = |state: &GpuState| match state {
        GpuState::Free => '-',
        GpuState::Held { by } => (1..9).find(|n| id(*n) == *by).map_or('?', |n| (b'0' + n).into()),
        GpuState::Returning => 'r',
        GpuState::OutOfUse { .. } => 'x',
    };
    world.node.gpus().iter().map(|view| place(&view.state)).collect()
}

fn died() -> RuntimeExit {
    RuntimeExit::Died("killed")
}

fn break_gpu(world: &World, number: u32, what: &str) {
    let dir = world.host.gpu_faults();
    fs::create_dir_all(&dir).expect("a directory");
    fs::write(dir.join(format!("GPU-sim-{number}")), what).expect("a file");
}

async fn run(world: &World, n: u8, launch: Launch) {
    world.apply(&id(n), 1, NodeTarget::Running(launch)).await;
    world.reach(&id(n), 1, ObservedPhase::Running).await;
}

async fn end(world: &World, n: u8, generation: u64) {
    world.apply(&id(n), generation, NodeTarget::Terminated(EndCause::Deleted)).await;
    world.wait_end(&id(n)).await;
}

#[tokio::test]
async fn a_sandbox_has_its_gpus_until_nothing_of_it_is_left() {
    let world = world(&["H100", "A10", "H100"]).await;
    assert_eq!(places(&world), "---");
    world.apply(&id(1), 1, NodeTarget::Running(with_gpus("H100", 1))).await;
    assert_eq!(places(&world), "1--", "from the intent on");
    world.reach(&id(1), 1, ObservedPhase::Running).await;
    world.wait_entry(&id(1), |entry| entry["gpus"] == serde_json::json!(["GPU-sim-0"])).await;
    run(&world, 2, with_gpus("H100", 1)).await;
    run(&world, 3, launch()).await;
    assert_eq!(places(&world), "1-2");
    let stock = |name, total, free| GpuStock { model: model(name), total, free };
    assert_eq!(world.node.view().await.gpus, [stock("H100", 2, 0), stock("A10", 1, 1)]);
    end(&world, 1, 2).await;
    assert_eq!(places(&world), "--2");
}

#[tokio::test]
async fn a_start_without_a_free_gpu_fails_and_takes_none() {
    let world = world(&["H100", "H100"]).await;
    run(&world, 1, with_gpus("H100", 1)).await;
    world.apply(&id(2), 1, NodeTarget::Running(with_gpus("H100", 2))).await;
    let EndCause::StartFailed { step, message, .. } = world.wait_end(&id(2)).await else {
        unreachable!("it cannot start")
    };
    assert_eq!((step, message.as_str()), (FailedStep::Gpu, "2 of model H100 are not free"));
    assert_eq!(places(&world), "1-");
}

#[tokio::test]
async fn the_next_server_leaves_gpus_to_those_that_live_and_takes_the_others_back() {
    let world = world(&["A10", "A10", "A10"]).await;
    for n in [1, 2] {
        run(&world, n, with_gpus("A10", 1)).await;
    }
    assert_eq!(places(&world), "12-");
    let world = world.restart().await;
    assert_eq!(places(&world), "12-");
    // One dies while no server runs.
    let World { host, tasks, .. } = world;
    assert_eq!(tasks.shutdown(std::time::Duration::from_secs(5)).await, 0);
    host.sim.kill(&id(2), died()).await;
    let world = World::over(Arc::clone(&host)).await;
    world.until("its GPU is free", || places(&world) == "1--").await;
    // And the other one under this server.
    host.sim.kill(&id(1), died()).await;
    world.until("its GPU is free", || places(&world) == "---").await;
}

#[tokio::test]
async fn what_comes_back_broken_is_given_to_nobody_until_the_next_start() {
    let world = world(&["A10", "A10"]).await;
    run(&world, 1, with_gpus("A10", 1)).await;
    break_gpu(&world, 0, "it fell off the bus");
    end(&world, 1, 2).await;
    assert_eq!(places(&world), "x-");
    let out = world.node.gpus().remove(0).state;
    let GpuState::OutOfUse { reason } = out else { unreachable!("{out:?}") };
    assert!(reason.contains("fell off the bus"), "{reason}");
    let stock = GpuStock { model: model("A10"), total: 2, free: 1 };
    assert_eq!(world.node.view().await.gpus, [stock], "it is there, and not free");
    let world = world.restart().await;
    assert_eq!(places(&world), "x-");
    fs::remove_dir_all(world.host.gpu_faults()).expect("it is mended");
    let world = world.restart().await;
    assert_eq!(places(&world), "--");
}

#[tokio::test]
async fn what_is_still_in_use_is_free_once_it_is_not() {
    let world = world(&["A10"]).await;
    run(&world, 1, with_gpus("A10", 1)).await;
    break_gpu(&world, 0, "busy: process 7");
    end(&world, 1, 2).await;
    assert_eq!(places(&world), "r");
    fs::remove_dir_all(world.host.gpu_faults()).expect("the process ends");
    world.until("it is free", || places(&world) == "-").await;
}

#[tokio::test]
async fn memory_with_a_gpu_is_not_written_down() {
    let world = world(&["A10"]).await;
    run(&world, 1, with_gpus("A10", 1)).await;
    let refused = world.snapshot(&id(1), 1, SnapshotKind::Memory).await.outcome;
    assert!(refused.is_err_and(|why| why.contains("GPUs")));
    let taken = world.snapshot(&id(1), 2, SnapshotKind::Filesystem).await.outcome;
    assert!(taken.is_ok(), "{taken:?}");
}

#[tokio::test]
async fn a_suspend_keeps_files_and_gives_the_gpu_back_until_the_resume() {
    let world = world(&["A10"]).await;
    let launch = || Launch { named: true, ..with_gpus("A10", 1) };
    run(&world, 1, launch()).await;
    world.apply(&id(1), 2, NodeTarget::Suspended).await;
    let observed = world.reach(&id(1), 2, ObservedPhase::Suspended).await.observed;
    assert!(observed.trouble.is_some_and(|said| said.contains("files alone")));
    world.until("its GPU is free", || places(&world) == "-").await;
    let world = world.restart().await;
    assert_eq!(places(&world), "-");
    // Another one has it: it stays as it is, and goes on once that has ended.
    run(&world, 2, with_gpus("A10", 1)).await;
    world.apply(&id(1), 3, NodeTarget::Running(launch())).await;
    let stays = world.reach(&id(1), 3, ObservedPhase::Suspended).await.observed;
    assert!(stays.trouble.is_some_and(|said| said.contains("not free")));
    end(&world, 2, 2).await;
    world.apply(&id(1), 4, NodeTarget::Running(launch())).await;
    world.reach(&id(1), 4, ObservedPhase::Running).await;
    assert_eq!(places(&world), "1");
}
