//! A node is attached: what both know, what one knows, what neither should.

use std::sync::Arc;

use tarn_control::CreateAsk;
use tarn_node_api::NodeTarget;
use tarn_store::{Loss, MemoryStore, Store as _, UnreliableStore};
use tarn_types::{EndCause, ObservedPhase, SandboxId, SandboxRef, SandboxStatus};

use crate::fake::{FakeNode, Manner, World, named};

#[tokio::test(start_paused = true)]
async fn running_sandboxes_are_adopted_with_their_endpoint() {
    let before = World::new(Manner::Prompt).await;
    let id = before.create(named("box")).await.record.id;
    let after = World::over(before.store, before.node).await;
    let view = after.control.sandbox_fetch(&after.project, &SandboxRef::Id(id)).await;
    assert_eq!(view.expect("it is there").status, SandboxStatus::Running);
    assert!(after.node.orphaned.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_and_never_ran_is_built() {
    let before = World::new(Manner::Silent).await;
    let create = before.control.sandbox_create(
        &before.project,
        CreateAsk::default(),
        std::time::Duration::ZERO,
    );
    let id = create.await.expect("accepted").record.id;
    let node = FakeNode::new(Manner::Prompt);
    let after = World::over(before.store, node).await;
    let view = after.control.sandbox_fetch(&after.project, &SandboxRef::Id(id)).await;
    assert_eq!(view.expect("it is there").status, SandboxStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn what_ran_and_is_gone_has_ended() {
    let before = World::new(Manner::Prompt).await;
    let id = before.create(CreateAsk::default()).await.record.id;
    let node = FakeNode::new(Manner::Prompt);
    let after = World::over(before.store, node).await;
    let view = after.control.sandbox_fetch(&after.project, &SandboxRef::Id(id)).await;
    let end = view.expect("it is there").record.end.expect("it ended");
    assert_eq!(end, EndCause::RuntimeDied { reason: "lost_by_node".to_owned() });
}

#[tokio::test(start_paused = true)]
async fn what_should_be_gone_is_told_so_again() {
    let before = World::new(Manner::Prompt).await;
    let id = before.create(CreateAsk::default()).await.record.id;
    let node = FakeNode::new(Manner::Prompt);
    node.has.lock().insert(id.clone(), node.report_of(&id, 1, ObservedPhase::Running));
    before.control.sandbox_delete(&before.project, &SandboxRef::Id(id.clone())).await.expect("ok");
    let after = World::over(before.store, node).await;
    let told = after.node.told.lock().get(&id).cloned().expect("it was told");
    assert!(matches!(told.target, NodeTarget::Terminated(EndCause::Deleted)));
    assert!(after.node.has.lock().is_empty(), "and then forgot it");
}

#[tokio::test(start_paused = true)]
async fn an_empty_store_deletes_nobodys_work() {
    let before = World::new(Manner::Prompt).await;
    let id = before.create(CreateAsk::default()).await.record.id;
    let empty = Arc::new(MemoryStore::default());
    let after = World::over(Arc::clone(&empty), before.node).await;
    assert_eq!(after.control.orphans().await, std::slice::from_ref(&id));
    assert!(after.node.has.lock().contains_key(&id));
    assert!(empty.sandbox_list_live().await.expect("a list").is_empty());
    let told = after.node.told.lock().get(&id).cloned().expect("from its first life");
    assert!(matches!(told.target, NodeTarget::Running(_)), "it was never told to end");
}

#[tokio::test(start_paused = true)]
async fn late_and_doubled_reports_move_nothing_back() {
    let world = World::new(Manner::Prompt).await;
    let id: SandboxId = world.create(CreateAsk::default()).await.record.id;
    world.node.say(&id, 1, ObservedPhase::Starting).await;
    world.node.say(&id, 1, ObservedPhase::Running).await;
    world.node.say(&id, 7, ObservedPhase::Ended(EndCause::TimedOut)).await;
    let sandbox = SandboxRef::Id(id);
    let view = world.control.sandbox_fetch(&world.project, &sandbox).await.expect("it is there");
    assert_eq!(view.status, SandboxStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn a_report_outlives_a_store_that_is_away() {
    let node = FakeNode::new(Manner::Prompt);
    let store = Arc::new(MemoryStore::default());
    // The start itself asks four times.
    let flaky = Arc::new(UnreliableStore::new(Arc::clone(&store) as _, 7, Loss::Request));
    let world = World::on(flaky, store, node).await;
    for _ in 0..20 {
        let hold = std::time::Duration::from_secs(60);
        let asked = world.control.sandbox_create(&world.project, CreateAsk::default(), hold).await;
        if let Ok(view) = asked {
            assert_eq!(view.status, SandboxStatus::Running);
        }
    }
    let stored = world.store.sandbox_list_live().await.expect("a list");
    assert!(!stored.is_empty(), "some creates met a store that was there");
    assert!(stored.iter().all(|record| record.running_at.is_some()), "each report was stored");
}
