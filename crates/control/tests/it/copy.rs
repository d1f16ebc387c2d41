//! Copies of a running sandbox.

use std::time::Duration;

use tarn_control::{ControlError, CreateAsk, SandboxView};
use tarn_node_api::NodeTarget;
use tarn_store::Store as _;
use tarn_types::{
    ByteSize, EgressPolicy, ObservedPhase, PendingReason, SandboxId, SandboxRef, SandboxStatus,
    SnapshotKind,
};

use crate::fake::{Manner, World, facts, named};

async fn copy(
    world: &World,
    id: &SandboxId,
    times: u32,
    hold: Duration,
) -> Result<Vec<SandboxView>, ControlError> {
    let sandbox = SandboxRef::Id(id.clone());
    let (source, copies) =
        world.control.sandbox_copy(&world.project, &sandbox, times, hold).await?;
    assert_eq!(source, *id);
    Ok(copies)
}

async fn source(world: &World) -> SandboxId {
    let ask = CreateAsk {
        memory: Some(ByteSize::from_mib(512)),
        network: Some(EgressPolicy::CLOSED),
        timeout_secs: Some(77),
        auto_resume: Some(false),
        max_pending_secs: Some(9),
        ..named("source")
    };
    world.create(ask).await.record.id
}

#[tokio::test(start_paused = true)]
async fn copies_are_what_their_source_is_without_its_name() {
    let world = World::new(Manner::Prompt).await;
    let id = source(&world).await;
    let copies = copy(&world, &id, 3, Duration::from_secs(5)).await.expect("it runs");
    assert_eq!(copies.len(), 3);
    let original = world.view(&id).await;
    assert_eq!(original.status, SandboxStatus::Running);
    for copy in &copies {
        assert_eq!(copy.status, SandboxStatus::Running);
        let asked = &copy.record.asked;
        assert_eq!((&asked.name, asked.auto_resume, asked.max_pending_secs), (&None, true, None));
        assert_eq!((asked.timeout_secs, &asked.network), (77, &original.record.asked.network));
        assert_eq!(asked.resources, original.record.asked.resources);
        let NodeTarget::Running(launch) = world.node.told.lock()[&copy.record.id].target.clone()
        else {
            panic!("it runs")
        };
        assert_eq!(launch.restore.map(|restore| restore.kind), Some(SnapshotKind::Memory));
    }
    assert_eq!(world.node.orders.lock().len(), 1, "one capture for all");
    let listed = world.control.snapshot_list(&world.project, None).await.expect("a list");
    assert_eq!(listed, [], "nobody is shown it");
    let removed = async || world.node.held.lock().is_empty();
    world.until("nobody needs it", removed).await;
    let left = async || world.store.snapshot_list_unsettled().await.expect("a list").is_empty();
    world.until("nothing is left", left).await;
    assert_eq!(world.control.snapshot_counts().copies, 3);
}

#[tokio::test(start_paused = true)]
async fn how_often_and_of_what() {
    let world = World::new(Manner::Prompt).await;
    let id = source(&world).await;
    let none = copy(&world, &id, 0, Duration::ZERO).await;
    assert!(matches!(none, Err(ControlError::Invalid { field: "times", .. })), "{none:?}");
    let many = copy(&world, &id, 101, Duration::ZERO).await.expect_err("too many");
    assert_eq!(many.to_string(), "times: 101 is outside the limit; at most 100");
    let sandbox = SandboxRef::Id(id.clone());
    world.node.behave(Manner::Silent);
    let kind = SnapshotKind::Filesystem;
    world.control.snapshot_create(&world.project, &sandbox, kind).await.expect("it runs");
    let busy = copy(&world, &id, 1, Duration::ZERO).await;
    assert!(matches!(busy, Err(ControlError::Busy { .. })), "{busy:?}");
    world.node.finish_capture(Ok(facts())).await;
    world.control.sandbox_suspend(&world.project, &sandbox, None).await.expect("it may");
    let asleep = copy(&world, &id, 1, Duration::ZERO).await;
    assert!(matches!(asleep, Err(ControlError::NotRunning { .. })), "{asleep:?}");
}

#[tokio::test(start_paused = true)]
async fn a_capture_that_fails_makes_no_copy() {
    let world = World::new(Manner::Prompt).await;
    let id = source(&world).await;
    world.node.behave(Manner::Silent);
    let (failed, ()) = tokio::join!(copy(&world, &id, 2, Duration::from_secs(5)), async {
        world.until("the order", async || !world.node.orders.lock().is_empty()).await;
        world.node.finish_capture(Err("no room on the disk".to_owned())).await;
    });
    let failed = failed.expect_err("no capture");
    assert!(matches!(failed, ControlError::CaptureFailed { .. }), "{failed:?}");
    assert!(failed.to_string().contains("no room on the disk"), "{failed}");
    assert_eq!(world.status(&id).await, SandboxStatus::Running);
    let left = async || world.store.snapshot_list_unsettled().await.expect("a list").is_empty();
    world.until("nothing is left", left).await;
}

#[tokio::test(start_paused = true)]
async fn copies_without_room_are_pending_until_there_is_some() {
    let world = World::new(Manner::Prompt).await;
    let id = source(&world).await;
    *world.node.memory_available.lock() = ByteSize::from_mib(1700);
    let copies = copy(&world, &id, 2, Duration::from_secs(1)).await.expect("it runs");
    for copy in &copies {
        assert_eq!(copy.status, SandboxStatus::Pending);
        let reason = Some(PendingReason::NoResourcesAvailable);
        assert_eq!(copy.record.intent.pending_reason, reason);
    }
    world.until_reconciled().await;
    assert_eq!(world.node.held.lock().len(), 1, "they need it");
    *world.node.memory_available.lock() = ByteSize::from_mib(8192);
    for copy in copies {
        let runs = async || world.status(&copy.record.id).await == SandboxStatus::Running;
        world.until("there is room", runs).await;
    }
    world.until("nobody needs it", async || world.node.held.lock().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_finished_when_its_caller_goes_away() {
    let world = World::new(Manner::Prompt).await;
    let id = source(&world).await;
    world.node.behave(Manner::Silent);
    let gone =
        tokio::time::timeout(Duration::from_secs(1), copy(&world, &id, 2, Duration::from_secs(60)));
    assert!(gone.await.is_err(), "the capture is not done yet");
    world.node.behave(Manner::Prompt);
    world.node.finish_capture(Ok(facts())).await;
    let both = async || {
        let live = world.store.sandbox_list_live().await.expect("a list");
        live.iter().filter(|record| record.running_at.is_some()).count() == 3
    };
    world.until("both run beside their source", both).await;
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_copy_leaves_nothing_but_the_copies_that_were_made() {
    let before = World::new(Manner::Prompt).await;
    let id = source(&before).await;
    before.node.behave(Manner::Silent);
    let gone = tokio::time::timeout(
        Duration::from_secs(1),
        copy(&before, &id, 2, Duration::from_secs(60)),
    );
    assert!(gone.await.is_err(), "the capture is not done yet");
    // The capture was done, and nobody was told before the server died.
    let order = before.node.orders.lock()[0].clone();
    before.node.hold(&order, facts());
    before.control_dies();
    let after = World::over(before.store, before.node).await;
    assert!(after.node.held.lock().is_empty(), "no copy needs it");
    assert!(after.store.snapshot_fetch(&order.snapshot).await.is_err());
    assert_eq!(after.status(&id).await, SandboxStatus::Running);

    // Here one copy was stored, and waits.
    let copies = tokio::join!(copy(&after, &id, 1, Duration::ZERO), async {
        after.until("the order", async || after.node.orders.lock().len() == 2).await;
        after.node.finish_capture(Ok(facts())).await;
    });
    let child = copies.0.expect("it runs")[0].record.id.clone();
    let held = |world: &World| world.node.held.lock().len();
    let last = World::over(after.store, after.node).await;
    assert_eq!(held(&last), 1, "its copy is pending");
    last.node.say(&child, 1, ObservedPhase::Running).await;
    last.until("nobody needs it", async || held(&last) == 0).await;
}
