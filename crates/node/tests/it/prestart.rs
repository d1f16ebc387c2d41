//! Sandboxes that are started before anybody asks.

use std::time::Duration;

use tarn_host::SlotId;
use tarn_node::AheadCounts;
use tarn_node_api::{Node as _, NodeTarget};
use tarn_runtime::{
    Runtime as _, RuntimeExit,
    sim::{SimRuntime, SimStep},
};
use tarn_scheduler::PrestartRule;
use tarn_types::{EgressPolicy, EndCause, Launch, ObservedPhase, Resources, SandboxId};

use crate::world::{Host, World, answers, launch};

/// A node that keeps so many of the default shape.
async fn keeping(kept: u32) -> World {
    let host = Host::new();
    *host.prestart.lock() = PrestartRule { kept, ..PrestartRule::default() };
    let world = World::over(host).await;
    settled(&world, u64::from(kept)).await;
    world
}

/// Waits until so many are ready and nothing is under way.
async fn settled(world: &World, ready: u64) {
    let there = || {
        let now = world.node.prestart_counts();
        (now.ready, now.building) == (ready, 0)
    };
    world.until(&format!("{ready} are ready"), there).await;
}

async fn reserve(world: &World) -> Option<SandboxId> {
    let Launch { image, resources, .. } = launch();
    world.node.reserve(&image, &resources).await
}

/// Returns every sandbox that the host has.
async fn on_host(world: &World) -> Vec<SandboxId> {
    let (events, _inbox) = tokio::sync::mpsc::channel(1);
    SimRuntime::on(&world.host.sim, events).list().await.expect("it lists")
}

fn counts(world: &World) -> AheadCounts {
    world.node.prestart_counts()
}

#[tokio::test]
async fn a_claimed_one_is_a_sandbox_like_any_other_and_is_replaced() {
    let world = keeping(2).await;
    assert_eq!(on_host(&world).await.len(), 2);
    assert_eq!(world.host.entries(), 0, "nobody's is in no ledger");
    assert!(world.node.list().await.is_empty() && world.node.orphans().await.is_empty());
    let id = reserve(&world).await.expect("one is ready");
    assert!(on_host(&world).await.contains(&id), "it is there already");
    let report = world.run(&id).await;
    assert_eq!(report.observed.phase, ObservedPhase::Running);
    assert!(answers(report.endpoint.expect("an endpoint").daemon).await);
    settled(&world, 2).await;
    let policies = (0..3).filter_map(|slot| world.host.slots.policy(SlotId(slot)));
    let (open, closed): (Vec<_>, Vec<_>) = policies.partition(|it| *it == EgressPolicy::OPEN);
    assert_eq!((open.len(), closed), (1, vec![EgressPolicy::CLOSED; 2]));
    assert_eq!(counts(&world).built, 3);
    assert_eq!((counts(&world).hits, counts(&world).misses), (1, 0));
    world.apply(&id, 2, NodeTarget::Terminated(EndCause::Deleted)).await;
    assert_eq!(world.wait_end(&id).await, EndCause::Deleted);
    assert!(!on_host(&world).await.contains(&id));
}

#[tokio::test]
async fn none_is_handed_out_twice() {
    let world = keeping(3).await;
    // Nothing comes after.
    world.host.sim.faults().fail(SimStep::Create, 1000);
    let mut ids = Vec::new();
    while let Some(id) = reserve(&world).await {
        ids.push(id);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    assert_eq!((counts(&world).hits, counts(&world).misses), (3, 1));
    world.node.give_back(&ids[1]).await;
    assert_eq!(reserve(&world).await.as_ref(), Some(&ids[1]), "given back, it is to be had");
    for id in &ids {
        assert_eq!(world.run(id).await.observed.phase, ObservedPhase::Running);
    }
}

#[tokio::test]
async fn a_request_waits_for_one_that_is_being_built() {
    for (fails, resists) in [(false, false), (true, false), (true, true)] {
        let host = Host::new();
        *host.prestart.lock() = PrestartRule { kept: 1, ..PrestartRule::default() };
        host.sim.faults().delay(SimStep::Create, Duration::from_millis(200));
        host.sim.faults().fail(SimStep::Start, usize::from(fails));
        host.sim.faults().fail(SimStep::Delete, usize::from(resists));
        let world = World::over(host).await;
        world.until("one is being built", || counts(&world).building == 1).await;
        let id = reserve(&world).await.expect("it is promised");
        assert_eq!(reserve(&world).await, None, "to one alone");
        // If it fails, it is built as any other.
        assert_eq!(world.run(&id).await.observed.phase, ObservedPhase::Running);
        let now = counts(&world);
        assert_eq!((now.joined, now.hits, now.failed), (1, 0, u64::from(fails)));
    }
}

#[tokio::test]
async fn another_shape_finds_none_and_is_started_ahead_once_it_is_asked_for() {
    let world = keeping(1).await;
    let Launch { image, .. } = launch();
    let other = Resources { cpu: tarn_types::MilliCpu::from_milli(500), ..Resources::default() };
    for _ in 0..2 {
        assert_eq!(world.node.reserve(&image, &other).await, None);
    }
    settled(&world, 3).await;
    assert!(world.node.reserve(&image, &other).await.is_some());
}

#[tokio::test]
async fn one_that_does_not_fit_or_does_not_work_is_built_anew_under_its_id() {
    for fault in ["another shape", "promote", "init", "death before", "death after"] {
        let world = keeping(1).await;
        let faults = world.host.sim.faults();
        let kill = async |id: &SandboxId| {
            assert!(world.host.sim.kill(id, RuntimeExit::Died("killed")).await, "it ran");
        };
        if fault == "death before" {
            kill(&on_host(&world).await[0]).await;
            world.until("its end is seen", || counts(&world).dropped == 1).await;
            settled(&world, 1).await;
        }
        let id = reserve(&world).await.expect("one is ready");
        let mut wanted = launch();
        match fault {
            "another shape" => wanted.resources.cpu = tarn_types::MilliCpu::from_milli(250),
            "promote" => faults.fail(SimStep::Promote, 1),
            "init" => faults.fail(SimStep::Init, 1),
            "death after" => kill(&id).await,
            _ => {}
        }
        world.apply(&id, 1, NodeTarget::Running(wanted)).await;
        let report = world.reach(&id, 1, ObservedPhase::Running).await;
        assert!(answers(report.endpoint.expect("an endpoint").daemon).await, "{fault}");
    }
}

#[tokio::test]
async fn what_resists_is_removed_later_and_gives_its_slot_back() {
    let world = keeping(1).await;
    let first = on_host(&world).await.remove(0);
    world.host.sim.faults().fail(SimStep::Delete, 2);
    assert!(world.host.sim.kill(&first, RuntimeExit::Died("killed")).await, "it ran");
    // It holds up nothing.
    world.until("another is built", || counts(&world).built == 2).await;
    let slots = || (0..4).filter(|n| world.host.slots.policy(SlotId(*n)).is_some()).count();
    world.until("its slot comes back", || slots() == 1).await;
    settled(&world, 1).await;
    assert!(!on_host(&world).await.contains(&first));
}

#[tokio::test]
async fn what_cannot_be_started_ahead_is_said_and_harms_no_request() {
    let host = Host::new();
    *host.prestart.lock() = PrestartRule::default();
    host.sim.faults().fail(SimStep::Start, 1);
    let world = World::over(host).await;
    world.until("a failure", || counts(&world).failed == 1).await;
    assert_eq!(reserve(&world).await, None);
    assert_eq!(on_host(&world).await, [], "nothing of it is left");
    let id = crate::world::id(1);
    assert_eq!(world.run(&id).await.observed.phase, ObservedPhase::Running);
}

#[tokio::test]
async fn a_server_that_stops_leaves_none() {
    let world = keeping(3).await;
    let mine = reserve(&world).await.expect("one is ready");
    assert_eq!(world.run(&mine).await.observed.phase, ObservedPhase::Running);
    let reserved = reserve(&world).await.expect("another");
    *world.host.prestart.lock() = PrestartRule { most: 0, ..PrestartRule::default() };
    let world = world.restart().await;
    assert_eq!(on_host(&world).await, std::slice::from_ref(&mine), "{reserved} is gone, too");
    assert_eq!(reserve(&world).await, None);
    world.node_endpoint(&mine).await;
}
