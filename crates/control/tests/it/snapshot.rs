//! Snapshots: taken, failed, given up, deleted, and found again after a restart.

use std::{sync::Arc, time::Duration};

use tarn_control::{ControlError, CreateAsk, NetworkPatch, PatchAsk};
use tarn_node_api::{CaptureOrder, Node as _};
use tarn_store::{Loss, MemoryStore, Store as _, UnreliableStore};
use tarn_types::{
    EgressPolicy, Lasting, ObservedPhase, ProjectId, SandboxId, SandboxRef, SandboxStatus,
    SnapshotId, SnapshotKind, SnapshotRecord, SnapshotStatus,
};

use crate::fake::{FakeNode, Manner, World, facts, named};

async fn take(world: &World, id: &SandboxId) -> Result<SnapshotRecord, ControlError> {
    let sandbox = SandboxRef::Id(id.clone());
    world.control.snapshot_create(&world.project, &sandbox, SnapshotKind::Filesystem).await
}

async fn fetch(world: &World, id: &SnapshotId) -> Result<SnapshotRecord, ControlError> {
    world.control.snapshot_fetch(&world.project, id).await
}

async fn list(world: &World, sandbox: Option<&SandboxId>) -> Vec<SnapshotId> {
    let sandbox = sandbox.cloned().map(SandboxRef::Id);
    let found = world.control.snapshot_list(&world.project, sandbox.as_ref()).await;
    found.expect("a list").into_iter().map(|record| record.id).collect()
}

/// Returns a world with a sandbox of which a snapshot is being taken.
async fn capturing() -> (World, SandboxId, SnapshotId) {
    let world = World::new(Manner::Prompt).await;
    let id = world.create(named("box")).await.record.id;
    world.node.behave(Manner::Silent);
    let snapshot = take(&world, &id).await.expect("it runs").id;
    (world, id, snapshot)
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_taken_while_its_source_runs_on() {
    let (world, id, snapshot) = capturing().await;
    assert_eq!(
        fetch(&world, &snapshot).await.expect("it is there").status,
        SnapshotStatus::InProgress
    );
    assert_eq!(world.status(&id).await, SandboxStatus::Snapshotting);
    let busy = take(&world, &id).await.expect_err("one at a time");
    assert!(matches!(busy, ControlError::Busy { .. }), "{busy:?}");
    assert!(busy.to_string().contains(snapshot.as_str()), "{busy}");
    let order = world.node.orders.lock().clone();
    let kind = SnapshotKind::Filesystem;
    assert_eq!(
        order,
        [CaptureOrder {
            snapshot: snapshot.clone(),
            sandbox: id.clone(),
            kind,
            lasting: Lasting::Always,
            copies: 0,
        }]
    );

    world.node.finish_capture(Ok(facts())).await;
    let record = fetch(&world, &snapshot).await.expect("it is there");
    assert_eq!((record.status, record.facts), (SnapshotStatus::Completed, Some(facts())));
    assert_eq!(world.status(&id).await, SandboxStatus::Running);
    world.node.finish_capture(Err("late and wrong".to_owned())).await;
    assert_eq!(fetch(&world, &snapshot).await.expect("it is there"), record);

    world.clock.advance_millis(5);
    world.node.behave(Manner::Prompt);
    let second = take(&world, &id).await.expect("it runs").id;
    let newest_first = [second.clone(), snapshot.clone()];
    assert_eq!(list(&world, None).await, newest_first);
    let sandbox = SandboxRef::Id(id.clone());
    world.control.sandbox_delete(&world.project, &sandbox).await.expect("deleted");
    assert_eq!(list(&world, Some(&id)).await, newest_first, "of an ended one too");
    world.clock.advance_millis(25 * 3600 * 1000);
    assert_eq!(list(&world, Some(&id)).await, newest_first, "of an archived one too");
    let counts = world.control.snapshot_counts();
    assert_eq!((counts.taken, counts.failed, counts.cancelled), (2, 0, 0));
    assert_eq!((counts.bytes, counts.standstill_micros_max), (600 << 20, 900));
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_in_force_before_the_answer_during_a_snapshot_too() {
    let (world, id, _) = capturing().await;
    let closed = NetworkPatch::Replace(EgressPolicy::CLOSED);
    let patch = PatchAsk { network: closed, ..PatchAsk::default() };
    let sandbox = SandboxRef::Id(id.clone());
    let patched = world.control.sandbox_patch(&world.project, &sandbox, patch, Duration::ZERO);
    let (patched, ()) = tokio::join!(patched, async {
        world.until("the order", async || world.node.told.lock()[&id].generation.0 == 2).await;
        world.node.say(&id, 2, ObservedPhase::Running).await;
    });
    let view = patched.expect("it may");
    assert_eq!(view.status, SandboxStatus::Snapshotting);
    assert_eq!(view.record.observed.map(|seen| seen.generation.0), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_patch_outlasts_a_long_snapshot() {
    let (world, id, _) = capturing().await;
    let closed = NetworkPatch::Replace(EgressPolicy::CLOSED);
    let patch = PatchAsk { network: closed, ..PatchAsk::default() };
    let (sandbox, hold) = (SandboxRef::Id(id.clone()), Duration::from_secs(60));
    let patched = world.control.sandbox_patch(&world.project, &sandbox, patch, hold);
    let (patched, ()) = tokio::join!(patched, async {
        world.until("the order", async || world.node.told.lock()[&id].generation.0 == 2).await;
        tokio::time::advance(Duration::from_secs(30)).await;
        world.node.finish_capture(Err("no room on the disk".to_owned())).await;
        // The node follows it from here on, and says so a moment later.
        tokio::time::advance(Duration::from_secs(5)).await;
        world.node.say(&id, 2, ObservedPhase::Running).await;
    });
    let view = patched.expect("it may");
    assert_eq!(view.record.observed.map(|seen| seen.generation.0), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_failed_snapshot_says_why_and_its_source_runs_on() {
    let (world, id, snapshot) = capturing().await;
    world.node.finish_capture(Err("no room on the disk".to_owned())).await;
    let record = fetch(&world, &snapshot).await.expect("failed ones are shown");
    assert_eq!(record.status, SnapshotStatus::Failed);
    assert_eq!(record.error.as_deref(), Some("no room on the disk"));
    assert_eq!(list(&world, None).await, [snapshot]);
    assert_eq!(world.status(&id).await, SandboxStatus::Running);
    assert_eq!(world.control.snapshot_counts().failed, 1);
}

#[tokio::test(start_paused = true)]
async fn only_a_running_sandbox_is_captured_and_nothing_is_stored_of_a_refusal() {
    let world = World::new(Manner::Prompt).await;
    let id = world.create(named("box")).await.record.id;
    let sandbox = SandboxRef::Id(id.clone());
    let hold = Some(Duration::from_secs(1));
    world.control.sandbox_suspend(&world.project, &sandbox, hold).await.expect("it may");
    let refused = take(&world, &id).await;
    assert!(
        matches!(refused, Err(ControlError::NotRunning { status: SandboxStatus::Suspended, .. })),
        "{refused:?}"
    );
    world.control.sandbox_delete(&world.project, &sandbox).await.expect("deleted");
    let refused = take(&world, &id).await;
    assert!(
        matches!(refused, Err(ControlError::NotRunning { status: SandboxStatus::Terminated, .. })),
        "{refused:?}"
    );
    assert_eq!(list(&world, None).await, []);
    assert_eq!(world.store.snapshot_list_unsettled().await.expect("a list"), []);
    let unknown = SandboxRef::Id(SandboxId::from_random([35; 21]));
    let refused = world.control.snapshot_list(&world.project, Some(&unknown)).await;
    assert!(matches!(refused, Err(ControlError::SandboxNotFound(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn another_project_sees_no_snapshot() {
    let (world, id, snapshot) = capturing().await;
    world.node.finish_capture(Ok(facts())).await;
    let stranger = ProjectId::from_random([9; 16]);
    let seen = world.control.snapshot_fetch(&stranger, &snapshot).await;
    assert!(matches!(seen, Err(ControlError::SnapshotNotFound(_))), "{seen:?}");
    let deleted = world.control.snapshot_delete(&stranger, &snapshot).await;
    assert!(matches!(deleted, Err(ControlError::SnapshotNotFound(_))), "{deleted:?}");
    let listed = world.control.snapshot_list(&stranger, Some(&SandboxRef::Id(id))).await;
    assert!(matches!(listed, Err(ControlError::SandboxNotFound(_))), "{listed:?}");
    assert!(fetch(&world, &snapshot).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_snapshot_is_gone_at_once_here_and_on_its_node() {
    let (world, _, snapshot) = capturing().await;
    world.node.finish_capture(Ok(facts())).await;
    world.control.snapshot_delete(&world.project, &snapshot).await.expect("deleted");
    assert!(matches!(fetch(&world, &snapshot).await, Err(ControlError::SnapshotNotFound(_))));
    assert_eq!(list(&world, None).await, []);
    assert!(world.node.held.lock().is_empty());
    assert!(world.store.snapshot_fetch(&snapshot).await.is_err(), "nothing is left");
    let again = world.control.snapshot_delete(&world.project, &snapshot).await;
    assert!(matches!(again, Err(ControlError::SnapshotNotFound(_))), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_deleted_in_progress_is_cancelled() {
    let (world, id, snapshot) = capturing().await;
    world.control.snapshot_delete(&world.project, &snapshot).await.expect("cancelled");
    assert_eq!(*world.node.discarded.lock(), std::slice::from_ref(&snapshot));
    assert_eq!(world.status(&id).await, SandboxStatus::Running);
    world.node.finish_capture(Err("cancelled".to_owned())).await;
    assert!(matches!(fetch(&world, &snapshot).await, Err(ControlError::SnapshotNotFound(_))));
    let counts = world.control.snapshot_counts();
    assert_eq!((counts.cancelled, counts.failed), (1, 0));
    assert!(take(&world, &id).await.is_ok(), "the next one");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_takes_too_long_has_failed() {
    let (world, id, snapshot) = capturing().await;
    world.clock.advance_millis(599_999);
    world.until_reconciled().await;
    assert_eq!(world.status(&id).await, SandboxStatus::Snapshotting);
    world.clock.advance_millis(1);
    let running = async || world.status(&id).await == SandboxStatus::Running;
    world.until("given up", running).await;
    let record = fetch(&world, &snapshot).await.expect("it is shown");
    assert_eq!(record.status, SnapshotStatus::Failed);
    assert!(record.error.is_some_and(|why| why.contains("600 s")));
    let discards = || world.node.discarded.lock().len();
    assert_eq!(discards(), 1);
    // It is done all the same, too late.
    world.node.finish_capture(Ok(facts())).await;
    assert_eq!(discards(), 2);
    assert!(world.node.held.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_a_snapshot_that_was_done() {
    let (before, id, snapshot) = capturing().await;
    let order = before.node.orders.lock()[0].clone();
    before.node.hold(&order, facts());
    let after = World::over(before.store, before.node).await;
    let record = fetch(&after, &snapshot).await.expect("it is there");
    assert_eq!((record.status, record.facts), (SnapshotStatus::Completed, Some(facts())));
    assert_eq!(after.status(&id).await, SandboxStatus::Running);
    assert!(after.node.discarded.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_restart_fails_a_snapshot_that_was_not_done() {
    let (before, id, snapshot) = capturing().await;
    let after = World::over(before.store, before.node).await;
    let record = fetch(&after, &snapshot).await.expect("it is there");
    assert_eq!(record.status, SnapshotStatus::Failed);
    assert!(record.error.is_some_and(|why| why.contains("restarted")));
    assert_eq!(after.status(&id).await, SandboxStatus::Running);
    assert_eq!(*after.node.discarded.lock(), [snapshot]);
}

#[tokio::test(start_paused = true)]
async fn a_death_between_two_writes_is_repaired() {
    // The snapshot was stored, and the sandbox not yet told.
    let (before, _, snapshot) = capturing().await;
    let stored = before.store.snapshot_fetch(&snapshot).await.expect("it is there");
    let empty = Arc::new(MemoryStore::default());
    empty.snapshot_insert(&stored).await.expect("inserted");
    let after = World::over(Arc::clone(&empty), FakeNode::new(Manner::Prompt)).await;
    let record = fetch(&after, &snapshot).await.expect("it is there");
    assert_eq!(record.status, SnapshotStatus::Failed);

    // The snapshot was settled, and the sandbox not yet told.
    before.store.snapshot_delete(&snapshot).await.expect("deleted");
    let id = stored.sandbox;
    let after = World::over(before.store, before.node).await;
    assert_eq!(after.status(&id).await, SandboxStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn who_knows_that_a_snapshot_is_done_can_take_the_next() {
    let (world, id, first) = capturing().await;
    // Everybody can read it; the sandbox is not told yet.
    let before = world.store.snapshot_fetch(&first).await.expect("it is there");
    let done = SnapshotRecord {
        status: SnapshotStatus::Completed,
        facts: Some(facts()),
        sequence: before.sequence + 1,
        ..before
    };
    world.store.snapshot_update(&done).await.expect("stored");
    assert_eq!(world.status(&id).await, SandboxStatus::Snapshotting);
    let second = take(&world, &id).await.expect("the first is done").id;
    assert_ne!(second, first);
    assert_eq!(world.status(&id).await, SandboxStatus::Snapshotting, "by the second");
}

#[tokio::test(start_paused = true)]
async fn a_node_keeps_what_an_empty_store_does_not_know() {
    let (before, _, snapshot) = capturing().await;
    before.node.finish_capture(Ok(facts())).await;
    let after = World::over(Arc::new(MemoryStore::default()), before.node).await;
    assert!(after.node.held.lock().contains_key(&snapshot));
    assert!(after.node.discarded.lock().is_empty());
    assert_eq!(list(&after, None).await, []);
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_while_its_node_was_away_is_removed_when_it_comes() {
    let (before, _, snapshot) = capturing().await;
    before.node.finish_capture(Ok(facts())).await;
    let other = World::detached(before.store).await;
    other.control.snapshot_delete(&other.project, &snapshot).await.expect("deleted");
    assert!(matches!(fetch(&other, &snapshot).await, Err(ControlError::SnapshotNotFound(_))));
    assert!(before.node.held.lock().contains_key(&snapshot), "it cannot be told yet");
    let after = World::over(other.store, before.node).await;
    assert!(after.node.held.lock().is_empty());
    assert!(after.store.snapshot_fetch(&snapshot).await.is_err(), "nothing is left");
}

#[tokio::test(start_paused = true)]
async fn a_failed_snapshot_that_is_there_all_the_same_is_removed_at_the_start() {
    let (before, _, snapshot) = capturing().await;
    let order = before.node.orders.lock()[0].clone();
    before.node.say_captured(&order, Err("given up".to_owned())).await;
    before.node.hold(&order, facts());
    let after = World::over(before.store, before.node).await;
    assert!(after.node.held.lock().is_empty());
    assert_eq!(fetch(&after, &snapshot).await.expect("shown").status, SnapshotStatus::Failed);
}

#[tokio::test(start_paused = true)]
async fn what_became_of_a_snapshot_outlives_a_store_that_is_away() {
    for loss in [Loss::Request, Loss::Answer] {
        let store = Arc::new(MemoryStore::default());
        let node = FakeNode::new(Manner::Prompt);
        let world = World::over(Arc::clone(&store), node).await;
        let id = world.create(CreateAsk::default()).await.record.id;
        let flaky = Arc::new(UnreliableStore::new(Arc::clone(&store) as _, 7, loss));
        let world = World::on(flaky, store, world.node).await;
        let mut taken = 0;
        for round in 0..20 {
            world.clock.advance_millis(1);
            taken += usize::from(take(&world, &id).await.is_ok());
            if round % 3 == 0 {
                // Others ask too, so that another call is unlucky each time.
                drop(world.control.ready().await);
            }
            // What an unlucky one left behind is looked after.
            world.until_reconciled().await;
        }
        assert!(taken > 0, "{loss:?}: some met a store that was there");
        world.clock.advance_millis(600_000);
        let settled = async || {
            let left = world.store.snapshot_list_unsettled().await.expect("a list");
            left.is_empty() && world.store.sandbox_fetch(&id).await.expect("it").capturing.is_none()
        };
        world.until("every one is settled", settled).await;
        let found = world.store.snapshot_list(&world.project, None).await.expect("a list");
        for record in found.iter().filter(|record| record.status == SnapshotStatus::Completed) {
            assert!(world.node.held.lock().contains_key(&record.id), "{loss:?}");
        }
        assert_eq!(world.node.snapshots().await.len(), world.node.held.lock().len());
    }
}
