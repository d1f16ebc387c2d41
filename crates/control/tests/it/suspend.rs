//! Suspend, resume and wake.

use std::{sync::Arc, time::Duration};

use tarn_control::{ControlError, CreateAsk, NetworkPatch, PatchAsk, Settled};
use tarn_node_api::NodeTarget;
use tarn_route_api::Routes as _;
use tarn_types::{
    ByteSize, EgressPolicy, EndCause, Generation, ObservedPhase, PendingReason, SandboxId,
    SandboxRef, SandboxStatus,
};

use crate::fake::{FakeNode, Manner, World, named};

const HOLD: Option<Duration> = Some(Duration::from_secs(5));

async fn suspend(
    world: &World,
    id: &SandboxId,
    hold: Option<Duration>,
) -> Result<Settled, ControlError> {
    world.control.sandbox_suspend(&world.project, &SandboxRef::Id(id.clone()), hold).await
}

async fn resume(
    world: &World,
    id: &SandboxId,
    hold: Option<Duration>,
) -> Result<Settled, ControlError> {
    world.control.sandbox_resume(&world.project, &SandboxRef::Id(id.clone()), hold).await
}

/// Returns a world with one suspended sandbox, at generation 2.
async fn suspended() -> (World, SandboxId) {
    let world = World::new(Manner::Prompt).await;
    let id = world.create(named("box")).await.record.id;
    assert_eq!(suspend(&world, &id, HOLD).await.expect("it may"), Settled::Done);
    (world, id)
}

#[tokio::test(start_paused = true)]
async fn a_suspend_and_a_resume_move_the_route() {
    let world = World::new(Manner::Prompt).await;
    let id = world.create(named("box")).await.record.id;
    let sandbox = SandboxRef::Id(id.clone());
    let route = || async { world.control.resolve(&sandbox, None).await.expect("a route") };
    let before = route().await;
    assert!(before.endpoint.is_some() && before.wakes);

    assert_eq!(suspend(&world, &id, HOLD).await.expect("it may"), Settled::Done);
    let asleep = route().await;
    assert_eq!((asleep.status, asleep.endpoint.is_none()), (SandboxStatus::Suspended, true));
    assert_eq!(suspend(&world, &id, None).await.expect("it is"), Settled::Done);

    assert_eq!(resume(&world, &id, HOLD).await.expect("it may"), Settled::Done);
    let after = route().await;
    assert!(after.generation > before.generation, "old connections are told from new ones");
    assert_eq!((after.status, after.endpoint.is_some()), (SandboxStatus::Running, true));
    assert_eq!(resume(&world, &id, None).await.expect("it does"), Settled::Done);
    // A report of before the suspend comes late.
    world.node.say(&id, 1, ObservedPhase::Suspended).await;
    assert!(route().await.endpoint.is_some());
}

#[tokio::test(start_paused = true)]
async fn without_a_hold_nothing_is_waited_for() {
    let world = World::new(Manner::Prompt).await;
    let id = world.create(named("box")).await.record.id;
    world.node.behave(Manner::Silent);
    assert_eq!(suspend(&world, &id, None).await.expect("taken"), Settled::UnderWay);
    assert_eq!(world.status(&id).await, SandboxStatus::Suspending);
    assert_eq!(suspend(&world, &id, HOLD).await.expect("it joins"), Settled::UnderWay);
    let told = world.node.told.lock()[&id].clone();
    assert_eq!((told.generation, told.target), (Generation(2), NodeTarget::Suspended));
    let (settled, ()) = tokio::join!(suspend(&world, &id, HOLD), async {
        world.node.say(&id, 2, ObservedPhase::Suspending).await;
        world.node.say(&id, 2, ObservedPhase::Suspended).await;
    });
    assert_eq!(settled.expect("it is there"), Settled::Done);

    assert_eq!(resume(&world, &id, None).await.expect("taken"), Settled::UnderWay);
    assert_eq!(world.status(&id).await, SandboxStatus::Suspended);
    let (settled, ()) =
        tokio::join!(resume(&world, &id, HOLD), world.node.say(&id, 3, ObservedPhase::Running));
    assert_eq!(settled.expect("it is there"), Settled::Done);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_suspended_or_resumed() {
    let world = World::new(Manner::Prompt).await;
    let unnamed = world.create(CreateAsk::default()).await.record.id;
    let refused = suspend(&world, &unnamed, HOLD).await;
    assert!(matches!(refused, Err(ControlError::Unnamed(_))), "{refused:?}");
    assert_eq!(resume(&world, &unnamed, HOLD).await.expect("it runs"), Settled::Done);

    world.node.behave(Manner::Silent);
    let create = world.control.sandbox_create(&world.project, named("slow"), Duration::ZERO);
    let pending = create.await.expect("accepted").record.id;
    let refused = suspend(&world, &pending, HOLD).await;
    assert!(
        matches!(refused, Err(ControlError::NotRunning { status: SandboxStatus::Pending, .. })),
        "{refused:?}"
    );
    let (joined, ()) = tokio::join!(
        resume(&world, &pending, HOLD),
        world.node.say(&pending, 1, ObservedPhase::Running)
    );
    assert_eq!(joined.expect("it joins the start"), Settled::Done);

    let sandbox = SandboxRef::Id(pending.clone());
    world.control.sandbox_delete(&world.project, &sandbox).await.expect("deleted");
    for refused in [suspend(&world, &pending, HOLD).await, resume(&world, &pending, None).await] {
        assert!(matches!(refused, Err(ControlError::Terminated(_))), "{refused:?}");
    }
    let stranger = tarn_types::ProjectId::from_random([9; 16]);
    let hidden = world.control.sandbox_suspend(&stranger, &sandbox, None).await;
    assert!(matches!(hidden, Err(ControlError::SandboxNotFound(_))), "{hidden:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_suspend_leaves_it_running_and_says_why() {
    let world = World::new(Manner::Prompt).await;
    let id = world.create(named("box")).await.record.id;
    world.node.behave(Manner::Silent);
    let started = tokio::time::Instant::now();
    let (settled, ()) = tokio::join!(suspend(&world, &id, HOLD), async {
        world.until("the order", async || world.node.told.lock()[&id].generation.0 == 2).await;
        world.node.say_trouble(&id, 2, ObservedPhase::Running).await;
    });
    assert_eq!(settled.expect("no error of the request"), Settled::UnderWay);
    assert!(started.elapsed() < Duration::from_secs(4), "nobody waits for what will not come");
    let view = world.view(&id).await;
    assert_eq!(view.status, SandboxStatus::Running);
    assert_eq!(view.trouble.as_deref(), Some("the disk is full"));
    let told = world.node.told.lock()[&id].clone();
    assert!(matches!(told.target, NodeTarget::Running(_)) && told.generation == Generation(3));
}

#[tokio::test(start_paused = true)]
async fn a_failed_resume_leaves_it_suspended_and_may_be_asked_again() {
    let (world, id) = suspended().await;
    world.node.behave(Manner::Silent);
    let (settled, ()) = tokio::join!(resume(&world, &id, HOLD), async {
        world.until("the order", async || world.node.told.lock()[&id].generation.0 == 3).await;
        world.node.say_trouble(&id, 3, ObservedPhase::Suspended).await;
    });
    assert_eq!(settled.expect("no error of the request"), Settled::UnderWay);
    let view = world.view(&id).await;
    assert_eq!((view.status, view.trouble.is_some()), (SandboxStatus::Suspended, true));
    world.node.behave(Manner::Prompt);
    assert_eq!(resume(&world, &id, HOLD).await.expect("again"), Settled::Done);
    assert_eq!(world.view(&id).await.trouble, None);
}

#[tokio::test(start_paused = true)]
async fn a_resume_without_room_goes_on_trying() {
    let (world, id) = suspended().await;
    // Enough for a small start, and not for what it may take.
    *world.node.memory_available.lock() = ByteSize::from_mib(2000);
    assert_eq!(resume(&world, &id, Some(Duration::ZERO)).await.expect("taken"), Settled::UnderWay);
    let waits = world.view(&id).await;
    assert_eq!(waits.status, SandboxStatus::Suspended);
    assert_eq!(waits.record.intent.pending_reason, Some(PendingReason::NoResourcesAvailable));
    *world.node.memory_available.lock() = ByteSize::from_mib(8192);
    assert_eq!(resume(&world, &id, HOLD).await.expect("it joins"), Settled::Done);

    assert_eq!(suspend(&world, &id, HOLD).await.expect("it may"), Settled::Done);
    *world.node.memory_available.lock() = ByteSize::from_mib(2000);
    assert_eq!(resume(&world, &id, None).await.expect("taken"), Settled::UnderWay);
    *world.node.memory_available.lock() = ByteSize::from_mib(8192);
    let runs = async || world.status(&id).await == SandboxStatus::Running;
    world.until("nobody asked again", runs).await;
    assert_eq!(world.view(&id).await.record.intent.pending_reason, None);
}

#[tokio::test(start_paused = true)]
async fn a_resume_needs_room_for_what_it_brings_and_not_for_its_limit() {
    let (world, id) = suspended().await;
    *world.node.memory_available.lock() = ByteSize::from_mib(2000);
    for (mib, settled) in [(1100, Settled::UnderWay), (300, Settled::Done)] {
        *world.node.brings.lock() = Some(ByteSize::from_mib(mib));
        let resumed = resume(&world, &id, Some(Duration::from_millis(10))).await;
        assert_eq!(resumed.expect("taken"), settled, "{mib} MiB");
    }
    assert_eq!(suspend(&world, &id, HOLD).await.expect("it may"), Settled::Done);
    // It is still there, or boots.
    *world.node.brings.lock() = Some(ByteSize::from_mib(0));
    assert_eq!(resume(&world, &id, HOLD).await.expect("taken"), Settled::Done);
}

#[tokio::test(start_paused = true)]
async fn a_suspend_during_a_resume_is_not_done_before_the_node_says_so() {
    let (world, id) = suspended().await;
    world.node.behave(Manner::Silent);
    assert_eq!(resume(&world, &id, None).await.expect("taken"), Settled::UnderWay);
    assert_eq!(suspend(&world, &id, None).await.expect("taken"), Settled::UnderWay);
    world.node.say(&id, 3, ObservedPhase::Running).await;
    assert_eq!(suspend(&world, &id, None).await.expect("taken"), Settled::UnderWay);
    world.node.say(&id, 4, ObservedPhase::Suspended).await;
    assert_eq!(suspend(&world, &id, None).await.expect("it is"), Settled::Done);
}

#[tokio::test(start_paused = true)]
async fn a_suspend_calls_off_a_resume_that_waits() {
    let (world, id) = suspended().await;
    *world.node.memory_available.lock() = ByteSize::from_mib(2000);
    assert_eq!(resume(&world, &id, None).await.expect("taken"), Settled::UnderWay);
    assert_eq!(suspend(&world, &id, None).await.expect("it is"), Settled::Done);
    *world.node.memory_available.lock() = ByteSize::from_mib(8192);
    world.until_reconciled().await;
    assert_eq!(world.status(&id).await, SandboxStatus::Suspended);
}

#[tokio::test(start_paused = true)]
async fn any_number_of_calls_wake_it_once() {
    let (world, id) = suspended().await;
    world.node.behave(Manner::Silent);
    let wake = || world.control.wake(&id);
    let woken = tokio::join!(wake(), wake(), wake());
    assert!(woken.0.is_ok() && woken.1.is_ok() && woken.2.is_ok());
    assert_eq!(world.view(&id).await.record.intent.generation, Generation(3));
    let seen = world.control.resolve(&SandboxRef::Id(id.clone()), None).await.expect("a route");
    let ((), ()) =
        tokio::join!(world.control.changed(&seen), world.node.say(&id, 3, ObservedPhase::Running));
    assert_eq!(world.status(&id).await, SandboxStatus::Running);
    wake().await.expect("it is awake");
    assert_eq!(world.view(&id).await.record.intent.generation, Generation(3));
}

#[tokio::test(start_paused = true)]
async fn traffic_wakes_only_what_may_be_woken() {
    let world = World::new(Manner::Prompt).await;
    let ask = CreateAsk { auto_resume: Some(false), ..named("box") };
    let id = world.create(ask).await.record.id;
    assert_eq!(suspend(&world, &id, HOLD).await.expect("it may"), Settled::Done);
    world.control.wake(&id).await.expect("nothing happens");
    assert_eq!(world.status(&id).await, SandboxStatus::Suspended);
    // An unnamed one that its time limit suspended resumes by request only.
    let unnamed = world.create(CreateAsk::default()).await.record.id;
    world.node.say(&unnamed, 1, ObservedPhase::Suspended).await;
    world.control.wake(&unnamed).await.expect("nothing happens");
    assert_eq!(world.status(&unnamed).await, SandboxStatus::Suspended);
    assert_eq!(resume(&world, &unnamed, HOLD).await.expect("it may"), Settled::Done);
    let unknown = SandboxId::from_random([35; 21]);
    world.control.wake(&unknown).await.expect("nothing happens");
}

#[tokio::test(start_paused = true)]
async fn a_suspended_one_keeps_its_new_policy_for_later() {
    let (world, id) = suspended().await;
    let sandbox = SandboxRef::Id(id.clone());
    let closed = NetworkPatch::Replace(EgressPolicy::CLOSED);
    let patch = PatchAsk { network: closed, ..PatchAsk::default() };
    let patched =
        world.control.sandbox_patch(&world.project, &sandbox, patch, Duration::ZERO).await;
    assert_eq!(patched.expect("it may").status, SandboxStatus::Suspended);
    assert_eq!(world.node.told.lock()[&id].target, NodeTarget::Suspended);
    assert_eq!(resume(&world, &id, HOLD).await.expect("it may"), Settled::Done);
    let NodeTarget::Running(launch) = world.node.told.lock()[&id].target.clone() else {
        panic!("it was resumed")
    };
    assert_eq!(launch.egress, EgressPolicy::CLOSED);
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_what_is_suspended_and_loses_what_the_node_lost() {
    let (before, id) = suspended().await;
    let after = World::over(Arc::clone(&before.store), before.node).await;
    assert_eq!(after.status(&id).await, SandboxStatus::Suspended);
    assert_eq!(resume(&after, &id, HOLD).await.expect("it may"), Settled::Done);
    assert_eq!(suspend(&after, &id, HOLD).await.expect("it may"), Settled::Done);
    let again = World::over(after.store, FakeNode::new(Manner::Prompt)).await;
    let lost = EndCause::RuntimeDied { reason: "lost_by_node".to_owned() };
    assert_eq!(again.view(&id).await.record.end, Some(lost));
}
