//! Other resources for a running sandbox, on a simulated host.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tarn_host::Captures as _;
use tarn_node_api::{Node as _, NodeTarget, Report};
use tarn_runtime::sim::SimStep;
use tarn_types::{ByteSize, Launch, MilliCpu, ObservedPhase, Resources, Shape};

use crate::world::{World, answers, id, launch};

fn large() -> Resources {
    Resources {
        cpu: MilliCpu::from_milli(2000),
        memory: ByteSize::from_mib(2048),
        disk: ByteSize::from_mib(20_480),
        gpus: None,
    }
}

fn with(resources: Resources) -> NodeTarget {
    NodeTarget::Running(Launch { resources, ..launch() })
}

fn shape(report: &Report) -> Shape {
    report.observed.shape.clone().expect("every report has one")
}

async fn resized(world: &World, generation: u64) -> Report {
    let report = world.reach(&id(1), generation, ObservedPhase::Running).await;
    assert!(answers(report.endpoint.clone().expect("an endpoint").daemon).await);
    world
        .wait_entry(&id(1), |entry| {
            let settled =
                entry.get("resizing").is_none() && entry["generation"] == json!(generation);
            settled && entry["launch"]["resources"] == json!(shape(&report).resources)
        })
        .await;
    report
}

#[tokio::test]
async fn a_sandbox_has_what_it_shall_and_the_ledger_says_so() {
    let world = World::new().await;
    let first = world.run(&id(1)).await;
    assert_eq!(shape(&first), Shape { resources: launch().resources, trouble: None });
    world.apply(&id(1), 2, with(large())).await;
    let report = resized(&world, 2).await;
    assert_eq!(shape(&report), Shape { resources: large(), trouble: None });
    assert_eq!(report.endpoint, first.endpoint, "nothing moved");
    assert_eq!(world.node.view().await.cpu_promised, large().cpu);

    // A server that comes next has it so, too.
    let world = world.restart().await;
    let adopted = world.node.list().await.remove(0);
    assert_eq!(shape(&adopted).resources, large());
    let small = Resources { disk: large().disk, ..launch().resources };
    world.apply(&id(1), 3, with(small)).await;
    assert_eq!(shape(&resized(&world, 3).await).resources, small);
}

#[tokio::test]
async fn what_fails_leaves_what_there_was() {
    let world = World::new().await;
    let (faults, layers) = (world.host.sim.faults(), world.host.layers.clone());
    world.run(&id(1)).await;
    faults.fail(SimStep::Resize, 1);
    world.apply(&id(1), 2, with(large())).await;
    let report = resized(&world, 2).await;
    assert_eq!(shape(&report).resources, launch().resources);
    assert!(shape(&report).trouble.is_some_and(|why| why.contains("it was made to fail")));

    layers.fail_grow(1);
    world.apply(&id(1), 3, with(large())).await;
    let report = resized(&world, 3).await;
    assert_eq!(shape(&report).resources, launch().resources, "the limits went back, too");
    assert!(shape(&report).trouble.is_some_and(|why| why.contains("enlarge")));

    let tiny = Resources { memory: ByteSize::from_bytes(1), ..launch().resources };
    world.apply(&id(1), 4, with(tiny)).await;
    let report = resized(&world, 4).await;
    assert_eq!(shape(&report).resources, launch().resources);
    assert!(shape(&report).trouble.is_some_and(|why| why.contains("end some of them")));

    world.apply(&id(1), 5, with(large())).await;
    let report = resized(&world, 5).await;
    assert_eq!(shape(&report), Shape { resources: large(), trouble: None });
}

#[tokio::test]
async fn where_it_may_not_grow_in_use_it_rests() {
    let world = World::new().await;
    world.host.layers.forbid_grow();
    let first = world.run(&id(1)).await;
    world.apply(&id(1), 2, with(large())).await;
    let report = resized(&world, 2).await;
    assert_eq!(shape(&report), Shape { resources: large(), trouble: None });
    let phases = world.sink.phases(&id(1));
    assert!(phases.contains(&ObservedPhase::Suspending), "requests wait: {phases:?}");
    assert!(!phases.contains(&ObservedPhase::Suspended), "nobody is told of it: {phases:?}");
    assert_eq!(report.observed.at, first.observed.at, "its clock goes on");
    let gone = async {
        while !world.host.captures.list().await.expect("a list").is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.expect("its capture is gone");

    // Without a larger disk there is no need.
    let more = Resources { memory: ByteSize::from_mib(4096), ..large() };
    let before = world.sink.phases(&id(1)).len();
    world.apply(&id(1), 3, with(more)).await;
    resized(&world, 3).await;
    assert_eq!(world.sink.phases(&id(1))[before..], [ObservedPhase::Running]);
}

#[tokio::test]
async fn one_that_cannot_come_back_larger_comes_back_as_it_was() {
    let world = World::new().await;
    world.host.layers.forbid_grow();
    world.run(&id(1)).await;
    // Each restore is tried twice.
    world.host.sim.faults().fail(SimStep::Restore, 2);
    world.apply(&id(1), 2, with(large())).await;
    let report = resized(&world, 2).await;
    assert_eq!(shape(&report).resources, launch().resources);
    assert!(shape(&report).trouble.is_some_and(|why| why.contains("it was made to fail")));

    // One that cannot be written down never stood still.
    world.host.sim.faults().fail(SimStep::Checkpoint, 1);
    world.apply(&id(1), 3, with(large())).await;
    let report = resized(&world, 3).await;
    assert_eq!(shape(&report).resources, launch().resources);
    assert!(shape(&report).trouble.is_some());

    world.host.sim.faults().fail(SimStep::Restore, 4);
    world.apply(&id(1), 4, with(large())).await;
    let report = world.reach(&id(1), 4, ObservedPhase::Suspended).await;
    assert!(report.observed.trouble.is_some());
    world.apply(&id(1), 5, with(launch().resources)).await;
    resized(&world, 5).await;
}

#[tokio::test]
async fn a_death_on_the_way_is_made_up_for() {
    for step in [SimStep::Resize, SimStep::Checkpoint, SimStep::Restore] {
        let world = World::new().await;
        world.host.layers.forbid_grow();
        world.run(&id(1)).await;
        let faults = world.host.sim.faults();
        faults.delay(step, Duration::from_secs(3600));
        world.apply(&id(1), 2, with(large())).await;
        world.until("it is on its way", || faults.delayed(step) == 1).await;
        assert_eq!(world.node.view().await.cpu_promised, large().cpu, "{step:?}");
        let host = Arc::clone(&world.host);
        // As a kill does it: nothing is finished.
        world.tasks.stop();
        drop(world);
        faults.delay(step, Duration::ZERO);
        let world = World::over(host).await;
        // Its generation is the old one, so control tells the intent again.
        assert_eq!(world.node.list().await[0].observed.generation.0, 1, "{step:?}");
        world.apply(&id(1), 2, with(large())).await;
        assert_eq!(shape(&resized(&world, 2).await), Shape { resources: large(), trouble: None });
    }
}

#[tokio::test]
async fn a_suspend_that_overtakes_it_keeps_what_there_is() {
    let world = World::new().await;
    let named = |resources| NodeTarget::Running(Launch { resources, named: true, ..launch() });
    world.apply(&id(1), 1, named(launch().resources)).await;
    world.reach(&id(1), 1, ObservedPhase::Running).await;
    world.apply(&id(1), 3, NodeTarget::Suspended).await;
    let report = world.reach(&id(1), 3, ObservedPhase::Suspended).await;
    assert_eq!(shape(&report), Shape { resources: launch().resources, trouble: None });
    // Other resources are those of other processes.
    world.apply(&id(1), 4, named(large())).await;
    assert_eq!(shape(&resized(&world, 4).await).resources, large());
}
