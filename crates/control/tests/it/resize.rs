//! Resizes: what is refused, ordered, answered and told again.

use std::sync::Arc;

use tarn_control::{ControlError, CreateAsk, ResizeAsk, SandboxView};
use tarn_node_api::NodeTarget;
use tarn_types::{
    ByteSize, MilliCpu, ObservedPhase, ResizeOutcome, Resources, SandboxId, SandboxRef,
    SandboxStatus, Shape, SnapshotKind,
};

use crate::fake::{Manner, World, named};

fn cpus(milli: u32) -> ResizeAsk {
    ResizeAsk { cpu: Some(MilliCpu::from_milli(milli)), ..ResizeAsk::default() }
}

fn memory(mib: u64) -> ResizeAsk {
    ResizeAsk { memory: Some(ByteSize::from_mib(mib)), ..ResizeAsk::default() }
}

fn disk(mib: u64) -> ResizeAsk {
    ResizeAsk { disk: Some(ByteSize::from_mib(mib)), ..ResizeAsk::default() }
}

async fn resize(
    world: &World,
    id: &SandboxId,
    ask: ResizeAsk,
) -> Result<SandboxView, ControlError> {
    world.control.sandbox_resize(&world.project, &SandboxRef::Id(id.clone()), ask).await
}

async fn refused(world: &World, id: &SandboxId, ask: ResizeAsk) -> ControlError {
    resize(world, id, ask).await.expect_err("it must be refused")
}

fn outcome(view: &SandboxView) -> ResizeOutcome {
    view.record.resize.clone().expect("a resize").outcome
}

/// What the node was last told to have.
fn told(world: &World, id: &SandboxId) -> Resources {
    match &world.node.told.lock().get(id).expect("an intent").target {
        NodeTarget::Running(launch) => launch.resources,
        NodeTarget::Suspended | NodeTarget::Terminated(_) => unreachable!("it should run"),
    }
}

/// The node says what it made of the last intent.
async fn say(world: &World, id: &SandboxId, generation: u64, shape: Shape) {
    let mut report = world.node.report_of(id, generation, ObservedPhase::Running);
    report.observed.shape = Some(shape);
    world.node.tell(report).await;
}

#[tokio::test(start_paused = true)]
async fn a_resize_is_answered_with_what_came_of_it() {
    let world = World::new(Manner::Prompt).await;
    let id = world.create(CreateAsk::default()).await.record.id;
    let view = resize(&world, &id, cpus(2000)).await.expect("it may");
    assert_eq!(outcome(&view), ResizeOutcome::Succeeded);
    let shape = Resources { cpu: MilliCpu::from_milli(2000), ..Resources::default() };
    assert_eq!((view.record.asked.resources, told(&world, &id)), (shape, shape));
    let first = view.record.resize.expect("one").generation;
    // What it has already is a resize as well: whoever asks has a generation to wait for.
    let view = resize(&world, &id, cpus(2000)).await.expect("it may");
    assert_eq!(outcome(&view), ResizeOutcome::Succeeded);
    assert!(view.record.resize.expect("another").generation > first);
}

#[tokio::test(start_paused = true)]
async fn a_slow_one_is_pending_and_alone() {
    let world = World::new(Manner::Prompt).await;
    let id = world.create(named("box")).await.record.id;
    world.node.behave(Manner::Silent);
    let view = resize(&world, &id, disk(20_480)).await.expect("taken");
    assert_eq!((outcome(&view), view.status), (ResizeOutcome::Pending, SandboxStatus::Running));
    assert_eq!(view.record.asked.resources, Resources::default());
    let busy = refused(&world, &id, cpus(2000)).await;
    assert!(
        matches!(&busy, ControlError::Busy { what, .. } if what.contains("generation 2")),
        "{busy}"
    );
    let sandbox = SandboxRef::Id(id.clone());
    let snapshot =
        world.control.snapshot_create(&world.project, &sandbox, SnapshotKind::Filesystem);
    assert!(matches!(snapshot.await, Err(ControlError::Busy { .. })));

    // The server dies; the next one tells the node again.
    world.control_dies();
    let again = World::over(Arc::clone(&world.store), Arc::clone(&world.node)).await;
    assert_eq!(told(&again, &id).disk, ByteSize::from_mib(20_480));
    assert_eq!(outcome(&again.view(&id).await), ResizeOutcome::Pending);
    let kept = Shape { resources: Resources::default(), trouble: Some("no room".to_owned()) };
    say(&again, &id, 2, kept).await;
    let view = again.view(&id).await;
    assert_eq!(outcome(&view), ResizeOutcome::Failed { message: "no room".to_owned() });
    assert_eq!(view.record.asked.resources, Resources::default());
    again.node.behave(Manner::Prompt);
    let view = resize(&again, &id, disk(20_480)).await.expect("it may");
    assert_eq!(outcome(&view), ResizeOutcome::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_refused_and_nothing_changes() {
    let world = World::new(Manner::Prompt).await;
    let id = world.create(named("box")).await.record.id;
    let shrink = refused(&world, &id, disk(1024)).await;
    assert!(matches!(shrink, ControlError::DiskShrinkForbidden { .. }), "{shrink}");
    let large = refused(&world, &id, cpus(4001)).await;
    assert!(matches!(large, ControlError::LimitExceeded { .. }), "{large}");
    *world.node.memory_available.lock() = ByteSize::from_mib(1000);
    let full = refused(&world, &id, memory(2048)).await;
    assert!(matches!(full, ControlError::NoRoom { .. }), "{full}");
    assert!(full.to_string().contains("no memory to spare"), "{full}");
    assert_eq!(world.view(&id).await.record.resize, None);
    // What gives memory back needs no room.
    assert_eq!(
        outcome(&resize(&world, &id, memory(512)).await.expect("it may")),
        ResizeOutcome::Succeeded
    );

    let sandbox = SandboxRef::Id(id.clone());
    world.control.sandbox_suspend(&world.project, &sandbox, None).await.expect("it may");
    let asleep = refused(&world, &id, memory(256)).await;
    assert!(matches!(asleep, ControlError::NotRunning { .. }), "{asleep}");
    world.control.sandbox_delete(&world.project, &sandbox).await.expect("it may");
    let gone = refused(&world, &id, memory(256)).await;
    assert!(matches!(gone, ControlError::Terminated(_)), "{gone}");
}
