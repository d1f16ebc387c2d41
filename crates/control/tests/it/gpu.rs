//! GPUs: refused where no node has them, waited for where others have, given to one at a time.

use std::time::Duration;

use tarn_control::{ControlError, CreateAsk, GpuAsk, SandboxView};
use tarn_node_api::NodeTarget;
use tarn_types::{Gpus, ObservedPhase, PendingReason, SandboxRef, SandboxStatus, SnapshotKind};

use tokio::task::JoinSet;

use crate::fake::{Manner, World};

/// Starts a control plane over a node with some GPUs.
async fn world(gpus: &[(&'static str, u32)]) -> World {
    let world = World::new(Manner::Prompt).await;
    *world.node.gpus.lock() = gpus.to_vec();
    world
}

fn ask(model: &str, count: u32) -> CreateAsk {
    CreateAsk {
        gpus: Some(vec![GpuAsk { model: model.to_owned(), count }]),
        max_pending_secs: None,
        ..CreateAsk::default()
    }
}

async fn create(world: &World, ask: CreateAsk) -> Result<SandboxView, ControlError> {
    // Time is paused; what waits for room is not waited for.
    world.control.sandbox_create(&world.project, ask, Duration::from_millis(1)).await
}

fn of(view: &SandboxView) -> SandboxRef {
    SandboxRef::Id(view.record.id.clone())
}

#[tokio::test(start_paused = true)]
async fn what_no_node_has_is_refused_before_anything_is_stored() {
    let world = world(&[("H100", 2), ("A10", 1)]).await;
    for (model, count, expected) in [
        ("A100-80GB", 1, "resources.gpus[0].model: no node has a GPU of model `A100-80GB`"),
        ("h100", 1, "resources.gpus[0].model: no node has a GPU of model `h100`"),
        (
            "H100",
            3,
            "resources.gpus[0].count: 3 is outside the limit; at most 2, which is how many of \
             model `H100` one node has",
        ),
    ] {
        let refused = create(&world, ask(model, count)).await.expect_err("none has it");
        assert_eq!(refused.to_string(), expected);
    }
    assert!(world.node.told.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_finds_all_of_them_busy_waits_for_the_end_of_another() {
    let world = world(&[("H100", 2)]).await;
    let first = create(&world, ask("H100", 2)).await.expect("accepted");
    assert_eq!(first.status, SandboxStatus::Running);
    let gpus = Some(Gpus { model: "H100".parse().expect("a name"), count: 2 });
    assert_eq!(first.record.asked.resources.gpus, gpus);
    let second = create(&world, ask("H100", 1)).await.expect("accepted");
    let reason = |view: &SandboxView| view.record.intent.pending_reason;
    assert_eq!(second.status, SandboxStatus::Pending);
    assert_eq!(reason(&second), Some(PendingReason::NoResourcesAvailable));
    let now = CreateAsk { max_pending_secs: Some(0), ..ask("H100", 1) };
    let gave_up = create(&world, now).await.expect("accepted");
    assert_eq!(gave_up.status, SandboxStatus::Terminated);
    // Who wants none does not wait.
    let plain = create(&world, CreateAsk::default()).await.expect("accepted");
    assert_eq!(plain.status, SandboxStatus::Running);
    world.control.sandbox_delete(&world.project, &of(&first)).await.expect("it ends");
    world.until_reconciled().await;
    assert_eq!(world.status(&second.record.id).await, SandboxStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn many_at_once_never_share_one() {
    let world = world(&[("A10", 3)]).await;
    let mut creates = JoinSet::new();
    for _ in 0..8 {
        let (control, project) = (world.control.clone(), world.project.clone());
        creates.spawn(async move {
            control.sandbox_create(&project, ask("A10", 1), Duration::from_millis(1)).await
        });
    }
    let made = creates.join_all().await;
    let running = made.iter().flatten().filter(|view| view.status == SandboxStatus::Running);
    assert_eq!(running.count(), 3, "the node would have said that there are too few");
    // Nor was any of them one that was started ahead.
    assert!(world.node.reserved.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_suspended_one_waits_for_a_gpu_to_go_on() {
    let world = world(&[("A10", 1)]).await;
    let named = CreateAsk { name: Some("box".parse().expect("a name")), ..ask("A10", 1) };
    let first = create(&world, named).await.expect("accepted");
    let (sandbox, project) = (of(&first), &world.project);
    let refused = world.control.sandbox_suspend(project, &sandbox, None).await;
    let said = refused.expect_err("its memory is not all of it").to_string();
    assert!(said.contains("has GPUs") && said.contains("idle limit"), "{said}");
    // Its node suspends it by its limit.
    world.node.told.lock().clear();
    world.node.say(&first.record.id, 1, ObservedPhase::Suspended).await;
    let second = create(&world, ask("A10", 1)).await.expect("accepted");
    assert_eq!(second.status, SandboxStatus::Running);
    world.control.sandbox_resume(project, &sandbox, None).await.expect("it is wanted");
    assert_eq!(world.status(&first.record.id).await, SandboxStatus::Suspended);
    world.control.sandbox_delete(project, &of(&second)).await.expect("it ends");
    world.until_reconciled().await;
    assert_eq!(world.status(&first.record.id).await, SandboxStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn only_files_of_one_with_gpus_are_captured_and_its_gpus_return_with_them() {
    let world = world(&[("A10", 2)]).await;
    let source = create(&world, ask("A10", 1)).await.expect("accepted");
    let (sandbox, project) = (of(&source), &world.project);
    let take = |kind| world.control.snapshot_create(project, &sandbox, kind);
    let said = take(SnapshotKind::Memory).await.expect_err("memory").to_string();
    assert!(said.contains("has GPUs") && said.contains("filesystem"), "{said}");
    let copied = world.control.sandbox_copy(project, &sandbox, 1, Duration::from_secs(1)).await;
    assert!(copied.is_err_and(|why| why.to_string().contains("GPUs")));
    let snapshot = take(SnapshotKind::Filesystem).await.expect("files");
    for (gpus, expected) in [(None, source.record.asked.resources.gpus), (Some(vec![]), None)] {
        let restore = Some(snapshot.id.clone());
        let restored = create(&world, CreateAsk { restore, gpus, ..CreateAsk::default() }).await;
        let restored = restored.expect("accepted");
        assert_eq!(restored.record.asked.resources.gpus, expected);
        let told = world.node.told.lock()[&restored.record.id].clone();
        let NodeTarget::Running(launch) = told.target else { unreachable!("it is to run") };
        assert_eq!(launch.resources.gpus, expected);
    }
}
