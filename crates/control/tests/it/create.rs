//! Create, fetch, patch and delete through the service.

use std::time::Duration;

use tarn_control::{ControlError, CreateAsk, ListAsk, NetworkPatch, PatchAsk};
use tarn_node_api::NodeTarget;
use tarn_store::Order;
use tarn_types::{
    ByteSize, EgressPolicy, EndCause, FailedStep, ObservedPhase, PendingReason, SandboxId,
    SandboxRef, SandboxStatus, StartFailure,
};

use crate::fake::{Manner, World, named, timed_out};

#[tokio::test(start_paused = true)]
async fn a_create_answers_when_it_runs() {
    let world = World::new(Manner::Prompt).await;
    let view = world.create(CreateAsk::default()).await;
    assert_eq!(view.status, SandboxStatus::Running);
    assert!(view.record.running_at.is_some());
    let sandbox = SandboxRef::Id(view.record.id.clone());
    let again = world.control.sandbox_fetch(&world.project, &sandbox).await;
    assert_eq!(again.expect("it is there"), view);
}

#[tokio::test(start_paused = true)]
async fn a_create_out_of_time_stays_queued_and_goes_on() {
    let world = World::new(Manner::Silent).await;
    let hold = Duration::from_millis(10);
    let view = world.control.sandbox_create(&world.project, CreateAsk::default(), hold).await;
    let view = view.expect("accepted");
    assert_eq!(view.status, SandboxStatus::Pending);
    assert_eq!(view.record.intent.pending_reason, Some(PendingReason::WaitingForContainer));
    world.node.say(&view.record.id, 1, ObservedPhase::Running).await;
    let now = world.control.sandbox_fetch(&world.project, &SandboxRef::Id(view.record.id)).await;
    assert_eq!(now.expect("it is there").status, SandboxStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_is_an_answer() {
    let world = World::new(Manner::Silent).await;
    let create = world.create(CreateAsk::default());
    let fail = async {
        let told = || world.node.told.lock().keys().next().cloned();
        let id = loop {
            tokio::task::yield_now().await;
            if let Some(id) = told() {
                break id;
            }
        };
        let cause = EndCause::StartFailed {
            step: FailedStep::Init,
            failure: StartFailure::Configuration,
            message: "sh: nope: not found".to_owned(),
        };
        world.node.say(&id, 1, ObservedPhase::Ended(cause)).await;
    };
    let (view, ()) = tokio::join!(create, fail);
    assert_eq!(view.status, SandboxStatus::Terminated);
    let end = view.record.end.expect("it ended");
    assert_eq!(end.error_message().as_deref(), Some("init: sh: nope: not found"));
    assert!(world.node.has.lock().is_empty(), "the node may forget it");
}

#[tokio::test(start_paused = true)]
async fn a_create_takes_what_its_node_has_started_ahead() {
    let world = World::new(Manner::Prompt).await;
    let ready = SandboxId::from_random([7; 21]);
    world.node.ready.lock().push(ready.clone());
    let view = world.create(named("box")).await;
    assert_eq!((view.status, &view.record.id), (SandboxStatus::Running, &ready));
    let asked = (view.record.asked.image.clone(), view.record.asked.resources);
    assert_eq!(*world.node.reserved.lock(), [asked]);
    // It goes back if nothing comes of the request.
    let other = SandboxId::from_random([8; 21]);
    world.node.ready.lock().push(other.clone());
    let hold = Duration::from_secs(1);
    let taken = world.control.sandbox_create(&world.project, named("box"), hold).await;
    assert!(matches!(taken, Err(ControlError::NameTaken { .. })), "{taken:?}");
    assert_eq!(*world.node.ready.lock(), std::slice::from_ref(&other));
    // Without room none is taken.
    *world.node.memory_available.lock() = ByteSize::from_mib(100);
    let at_once = CreateAsk { max_pending_secs: Some(0), ..CreateAsk::default() };
    assert_ne!(world.create(at_once).await.record.id, other);
    assert_eq!(world.node.reserved.lock().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn names_are_taken_until_the_end() {
    let world = World::new(Manner::Prompt).await;
    let first = world.create(named("box")).await;
    let hold = Duration::from_secs(1);
    let taken = world.control.sandbox_create(&world.project, named("box"), hold).await;
    assert!(matches!(taken, Err(ControlError::NameTaken { .. })), "{taken:?}");
    let by_name: SandboxRef = "box".parse().expect("a name");
    let found = world.control.sandbox_fetch(&world.project, &by_name).await.expect("by name");
    assert_eq!(found.record.id, first.record.id);
    world.control.sandbox_delete(&world.project, &by_name).await.expect("deleted");
    let gone = world.control.sandbox_fetch(&world.project, &by_name).await;
    assert!(matches!(gone, Err(ControlError::SandboxNotFound(_))), "{gone:?}");
    let by_id = SandboxRef::Id(first.record.id);
    let ended = world.control.sandbox_fetch(&world.project, &by_id).await.expect("by id");
    assert_eq!(ended.status, SandboxStatus::Terminated);
    world.control.sandbox_delete(&world.project, &by_id).await.expect("twice is fine");
    assert_eq!(world.create(named("box")).await.status, SandboxStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn another_project_sees_nothing() {
    let world = World::new(Manner::Prompt).await;
    let view = world.create(named("box")).await;
    let other = tarn_types::ProjectId::from_random([9; 16]);
    for sandbox in [SandboxRef::Id(view.record.id), "box".parse().expect("a name")] {
        let seen = world.control.sandbox_fetch(&other, &sandbox).await;
        assert!(matches!(seen, Err(ControlError::SandboxNotFound(_))), "{sandbox}");
        let deleted = world.control.sandbox_delete(&other, &sandbox).await;
        assert!(matches!(deleted, Err(ControlError::SandboxNotFound(_))), "{sandbox}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_in_force_before_the_answer() {
    let world = World::new(Manner::Prompt).await;
    let id = world.create(CreateAsk::default()).await.record.id;
    let closed = NetworkPatch::Replace(EgressPolicy::CLOSED);
    let patch = PatchAsk { network: closed, ..PatchAsk::default() };
    let sandbox = SandboxRef::Id(id.clone());
    let view =
        world.control.sandbox_patch(&world.project, &sandbox, patch.clone(), Duration::ZERO).await;
    let view = view.expect("patched");
    let told = world.node.told.lock().get(&id).cloned().expect("the node was told");
    assert_eq!(told.generation, view.record.intent.generation);
    let NodeTarget::Running(launch) = told.target else { panic!("not an end") };
    assert_eq!(launch.egress, EgressPolicy::CLOSED);
    assert_eq!(view.record.observed.map(|seen| seen.generation), Some(told.generation));

    world.control.sandbox_delete(&world.project, &sandbox).await.expect("deleted");
    let late = world.control.sandbox_patch(&world.project, &sandbox, patch, Duration::ZERO).await;
    assert!(matches!(late, Err(ControlError::Terminated(_))), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_policy_for_what_is_about_to_run_is_in_force_when_it_runs() {
    let world = World::new(Manner::Silent).await;
    let created =
        world.control.sandbox_create(&world.project, CreateAsk::default(), Duration::ZERO);
    let id = created.await.expect("accepted").record.id;
    world.until("the order", async || world.node.told.lock().contains_key(&id)).await;
    let sandbox = SandboxRef::Id(id.clone());
    let patch = |policy| PatchAsk { network: NetworkPatch::Replace(policy), ..PatchAsk::default() };
    let generation = |id: &SandboxId| world.node.told.lock()[id].generation.0;
    // It may run with the old one until its node has said that it has the new one.
    let closed = world.control.sandbox_patch(
        &world.project,
        &sandbox,
        patch(EgressPolicy::CLOSED),
        Duration::ZERO,
    );
    let (closed, ()) = tokio::join!(closed, async {
        world.until("the new policy", async || generation(&id) == 2).await;
        world.node.say(&id, 1, ObservedPhase::Running).await;
        world.node.say(&id, 2, ObservedPhase::Running).await;
    });
    let seen = closed.expect("patched").record.observed.clone();
    assert_eq!(seen.map(|seen| seen.generation.0), Some(2));

    // What stays on its way is not waited for; nor is anything but a policy.
    let created =
        world.control.sandbox_create(&world.project, CreateAsk::default(), Duration::ZERO);
    let sandbox = SandboxRef::Id(created.await.expect("accepted").record.id);
    let begun = tokio::time::Instant::now();
    let ports = PatchAsk { allow_unauthenticated_access: Some(true), ..PatchAsk::default() };
    for (patch, secs) in [(ports, 0), (patch(EgressPolicy::CLOSED), 2)] {
        let patched = world.control.sandbox_patch(&world.project, &sandbox, patch, Duration::ZERO);
        assert_eq!(patched.await.expect("patched").status, SandboxStatus::Pending);
        assert_eq!(begun.elapsed().as_secs(), secs);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_image_names_those_there_are() {
    let world = World::new(Manner::Prompt).await;
    let ask = CreateAsk { image: "nope".parse().ok(), ..CreateAsk::default() };
    let refused = world.control.sandbox_create(&world.project, ask, Duration::ZERO).await;
    let text = refused.expect_err("refused").to_string();
    assert!(text.contains("`nope`") && text.contains("`tensorlake/ubuntu-minimal`"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn without_room_it_waits_or_gives_up() {
    let world = World::new(Manner::Prompt).await;
    *world.node.memory_available.lock() = ByteSize::from_mib(100);
    let at_once = CreateAsk { max_pending_secs: Some(0), ..CreateAsk::default() };
    let view = world.create(at_once).await;
    assert_eq!(view.record.end, Some(EndCause::NoCapacity));

    let hold = Duration::from_millis(1);
    let waits = world.control.sandbox_create(&world.project, CreateAsk::default(), hold).await;
    let waits = waits.expect("accepted");
    assert_eq!(waits.record.intent.pending_reason, Some(PendingReason::NoResourcesAvailable));
    *world.node.memory_available.lock() = ByteSize::from_mib(8192);
    let placed = async {
        loop {
            let sandbox = SandboxRef::Id(waits.record.id.clone());
            let now = world.control.sandbox_fetch(&world.project, &sandbox).await;
            if now.expect("it is there").status == SandboxStatus::Running {
                break;
            }
            tokio::time::advance(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), placed).await.expect("it was placed");
}

#[tokio::test(start_paused = true)]
async fn the_list_is_newest_first_and_splits_off_the_archive() {
    let world = World::new(Manner::Prompt).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        world.clock.advance_millis(1);
        ids.push(world.create(CreateAsk::default()).await.record.id);
    }
    world.node.say(&ids[0], 1, timed_out()).await;
    let ask =
        ListAsk { archived: false, status: None, from: None, order: Order::Forward, limit: 2 };
    let page = world.control.sandbox_list(&world.project, &ask).await.expect("a page");
    let listed: Vec<_> = page.items.iter().map(|view| view.record.id.clone()).collect();
    assert_eq!(listed, [ids[2].clone(), ids[1].clone()]);
    assert!(page.prev.is_none());
    let rest = ListAsk { from: page.next, ..ask.clone() };
    let rest = world.control.sandbox_list(&world.project, &rest).await.expect("a page");
    assert_eq!(rest.items.len(), 1);
    assert_eq!(rest.items[0].status, SandboxStatus::Terminated);

    world.clock.advance_millis(25 * 3600 * 1000);
    let archive = ListAsk { archived: true, limit: 10, ..ask };
    let archive = world.control.sandbox_list(&world.project, &archive).await.expect("a page");
    assert_eq!(archive.items.len(), 1);
    let old = SandboxRef::Id(ids[0].clone());
    assert!(world.control.sandbox_fetch(&world.project, &old).await.is_err(), "it moved");
    assert!(world.control.sandbox_fetch_archived(&world.project, &ids[0]).await.is_ok());
}
