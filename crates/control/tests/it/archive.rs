//! Snapshots on their way to the object store, and out of it.

use std::sync::Arc;

use tarn_control::{Attempt, ControlError, CreateAsk, Verdict};
use tarn_node_api::ArchiveOrder;
use tarn_store::{Loss, MemoryStore, Store as _, UnreliableStore};
use tarn_types::{
    Archival, SandboxRef, SandboxStatus, SnapshotId, SnapshotKind, SnapshotRecord, SnapshotStatus,
};

use crate::fake::{FakeNode, Manner, World, facts, named};

async fn take(world: &World) -> SnapshotId {
    let sandbox = SandboxRef::Name("box".parse().expect("a name"));
    let kind = SnapshotKind::Filesystem;
    world.control.snapshot_create(&world.project, &sandbox, kind).await.expect("it runs").id
}

async fn fetch(world: &World, id: &SnapshotId) -> SnapshotRecord {
    world.control.snapshot_fetch(&world.project, id).await.expect("it is shown")
}

fn orders(world: &World) -> usize {
    world.node.archive_orders.lock().len()
}

/// Returns a world with an object store and a snapshot that is on its node.
async fn local_ready() -> (World, SnapshotId) {
    let world = World::new(Manner::Prompt).await;
    *world.node.archives.lock() = true;
    world.create(named("box")).await;
    world.node.behave(Manner::Silent);
    let id = take(&world).await;
    world.node.finish_capture(Ok(facts())).await;
    world.until("the order", async || orders(&world) == 1).await;
    (world, id)
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_ready_on_its_node_and_completed_in_the_object_store() {
    let (world, id) = local_ready().await;
    let record = fetch(&world, &id).await;
    assert_eq!((record.status, &record.archive), (SnapshotStatus::LocalReady, &Archival::Begun));
    assert_eq!(record.facts, Some(facts()));
    let order = ArchiveOrder { snapshot: id.clone(), project: world.project.clone() };
    assert_eq!(*world.node.archive_orders.lock(), [order]);
    // From what is ready a sandbox is restored.
    world.node.behave(Manner::Prompt);
    let ask = CreateAsk { restore: Some(id.clone()), ..CreateAsk::default() };
    assert_eq!(world.create(ask).await.status, SandboxStatus::Running);

    world.node.finish_archive(Ok(())).await;
    let record = fetch(&world, &id).await;
    assert_eq!(record.status, SnapshotStatus::Completed);
    assert_eq!(record.archive, Archival::Whole { uri: format!("sim://{id}") });
    world.node.finish_archive(Ok(())).await;
    assert_eq!(fetch(&world, &id).await, record, "told twice");
    assert_eq!(world.store.snapshot_list_unsettled().await.expect("a list"), []);
    let before = orders(&world);
    world.until_reconciled().await;
    assert_eq!(orders(&world), before, "nothing is left to do");
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_fails_is_tried_again_ever_more_rarely() {
    let (world, id) = local_ready().await;
    world.node.finish_archive(Err("no room in the bucket")).await;
    let status = world.control.archive_status().await;
    assert_eq!(status.place.as_deref(), Some("sim://"));
    let trouble = &status.troubles[0];
    assert_eq!((&trouble.snapshot, trouble.attempt, trouble.failures), (&id, Attempt::Upload, 1));
    assert_eq!(trouble.error, "no room in the bucket");
    assert_eq!(fetch(&world, &id).await.status, SnapshotStatus::LocalReady);
    let began = tokio::time::Instant::now();
    for failures in 2..6 {
        let ordered = orders(&world);
        world.until("the next try", async || orders(&world) > ordered).await;
        world.node.finish_archive(Err("still no room")).await;
        assert_eq!(world.control.archive_status().await.troubles[0].failures, failures);
    }
    let secs = began.elapsed().as_secs();
    assert!((30..40).contains(&secs), "2 + 4 + 8 + 16 s, not {secs}");
    world.until_reconciled().await;
    world.until_reconciled().await;
    world.node.finish_archive(Ok(())).await;
    assert_eq!(fetch(&world, &id).await.status, SnapshotStatus::Completed);
    assert_eq!(world.control.archive_status().await.troubles, []);
}

#[tokio::test(start_paused = true)]
async fn a_restart_orders_again_what_was_under_way() {
    let (before, id) = local_ready().await;
    let after = World::over(before.store, before.node).await;
    after.until("ordered again", async || orders(&after) >= 2).await;
    after.node.finish_archive(Ok(())).await;
    assert_eq!(fetch(&after, &id).await.status, SnapshotStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn an_object_store_that_comes_later_gets_what_was_taken_before() {
    let before = World::new(Manner::Prompt).await;
    before.create(named("box")).await;
    let id = take(&before).await;
    let record = fetch(&before, &id).await;
    assert_eq!((record.status, record.archive), (SnapshotStatus::Completed, Archival::Nothing));
    assert_eq!(orders(&before), 0);
    before.node.behave(Manner::Silent);
    *before.node.archives.lock() = true;
    let after = World::over(before.store, before.node).await;
    after.until("ordered", async || orders(&after) >= 1).await;
    assert_eq!(fetch(&after, &id).await.status, SnapshotStatus::Completed, "it never moves back");
    after.node.finish_archive(Err("not now")).await;
    let ordered = orders(&after);
    after.until("ordered again", async || orders(&after) > ordered).await;
    after.node.finish_archive(Ok(())).await;
    let archive = fetch(&after, &id).await.archive;
    assert_eq!(archive, Archival::Whole { uri: format!("sim://{id}") });
}

#[tokio::test(start_paused = true)]
async fn without_an_object_store_any_more_it_is_where_it_stays() {
    let (before, id) = local_ready().await;
    *before.node.archives.lock() = false;
    let after = World::over(before.store, before.node).await;
    let record = fetch(&after, &id).await;
    assert_eq!((record.status, record.archive), (SnapshotStatus::Completed, Archival::Begun));
    // A part of it may be there, so its removal waits for that.
    after.control.snapshot_delete(&after.project, &id).await.expect("deleted");
    after.until("tried", async || !after.control.archive_status().await.troubles.is_empty()).await;
    let trouble = after.control.archive_status().await.troubles.remove(0);
    assert_eq!(trouble.attempt, Attempt::Removal);
    assert!(trouble.error.contains("no object store is configured"), "{}", trouble.error);
    assert!(after.node.held.lock().is_empty(), "its bytes here are gone");
    *after.node.archives.lock() = true;
    let removed = async || after.store.snapshot_fetch(&id).await.is_err();
    after.until("removed", removed).await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_snapshot_goes_from_the_object_store_too() {
    for uploaded in [true, false] {
        let (world, id) = local_ready().await;
        if uploaded {
            world.node.finish_archive(Ok(())).await;
        }
        *world.node.archive_away.lock() = true;
        world.control.snapshot_delete(&world.project, &id).await.expect("deleted");
        let shown = world.control.snapshot_fetch(&world.project, &id).await;
        assert!(matches!(shown, Err(ControlError::SnapshotNotFound(_))), "at once: {shown:?}");
        assert!(world.node.held.lock().is_empty(), "on its node at once");
        let failed = async || {
            let troubles = world.control.archive_status().await.troubles;
            troubles.iter().any(|t| t.attempt == Attempt::Removal && t.failures >= 2)
        };
        world.until("tried twice", failed).await;
        if !uploaded {
            // It was on its way already.
            world.node.finish_archive(Ok(())).await;
        }
        assert!(world.store.snapshot_fetch(&id).await.expect("known still").hidden);
        *world.node.archive_away.lock() = false;
        let removed = async || world.store.snapshot_fetch(&id).await.is_err();
        world.until("removed", removed).await;
        assert!(world.node.archived.lock().is_empty());
        assert_eq!(world.control.archive_status().await.troubles, []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_goes_on_after_a_restart() {
    let (before, id) = local_ready().await;
    before.node.finish_archive(Ok(())).await;
    *before.node.archive_away.lock() = true;
    before.control.snapshot_delete(&before.project, &id).await.expect("deleted");
    *before.node.archive_away.lock() = false;
    before.control_dies();
    let after = World::over(before.store, before.node).await;
    let removed = async || after.store.snapshot_fetch(&id).await.is_err();
    after.until("removed", removed).await;
    assert!(after.node.archived.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_made_for_a_copy_is_never_uploaded() {
    let world = World::new(Manner::Prompt).await;
    *world.node.archives.lock() = true;
    *world.node.archive_away.lock() = true;
    let id = world.create(named("box")).await.record.id;
    let hold = std::time::Duration::from_secs(5);
    let copied = world.control.sandbox_copy(&world.project, &SandboxRef::Id(id), 2, hold).await;
    assert_eq!(copied.expect("copied").1.len(), 2);
    world.until_reconciled().await;
    assert_eq!(orders(&world), 0);
    assert_eq!(world.store.snapshot_list_unsettled().await.expect("a list"), []);
}

#[tokio::test(start_paused = true)]
async fn uploads_outlive_a_store_that_is_away() {
    for loss in [Loss::Request, Loss::Answer] {
        let store = Arc::new(MemoryStore::default());
        let node = FakeNode::new(Manner::Prompt);
        let world = World::over(Arc::clone(&store), node).await;
        world.create(named("box")).await;
        *world.node.archives.lock() = true;
        let flaky = Arc::new(UnreliableStore::new(Arc::clone(&store) as _, 7, loss));
        let world = World::on(flaky, store, world.node).await;
        let sandbox = SandboxRef::Name("box".parse().expect("a name"));
        for _ in 0..8 {
            world.clock.advance_millis(1);
            let kind = SnapshotKind::Filesystem;
            drop(world.control.snapshot_create(&world.project, &sandbox, kind).await);
            world.until_reconciled().await;
        }
        world.clock.advance_millis(600_000);
        let settled =
            async || world.store.snapshot_list_unsettled().await.expect("a list").is_empty();
        world.until("every one is settled", settled).await;
        let found = world.store.snapshot_list(&world.project, None).await.expect("a list");
        let done: Vec<_> =
            found.iter().filter(|record| record.status == SnapshotStatus::Completed).collect();
        assert!(!done.is_empty(), "{loss:?}: some were taken");
        for record in done {
            assert!(matches!(record.archive, Archival::Whole { .. }), "{loss:?}: {record:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_node_has_lost_is_sound_as_long_as_the_object_store_has_it() {
    let loss = |detail: &str| Some(detail.to_owned());
    for damage in [None, loss("the content of layer.img has changed")] {
        let (world, id) = local_ready().await;
        world.node.finish_archive(Ok(())).await;
        world.node.damage.lock().insert(id.clone(), damage.clone());
        world.node.archived.lock().insert(id.clone());
        let verdict = world.control.snapshot_verify(&world.project, &id).await;
        assert_eq!(verdict.expect("it is read"), Verdict::Sound { read: facts().size });
        assert_eq!(
            *world.node.discarded.lock(),
            std::slice::from_ref(&id),
            "so that it is fetched"
        );
        assert_eq!(fetch(&world, &id).await.status, SnapshotStatus::Completed);

        world.node.archived.lock().clear();
        *world.node.archive_away.lock() = true;
        let unsaid = world.control.snapshot_verify(&world.project, &id).await;
        let status = fetch(&world, &id).await.status;
        if damage.is_some() {
            // Nobody goes on from that.
            assert!(matches!(unsaid, Ok(Verdict::Damaged { .. })), "{unsaid:?}");
            assert_eq!(status, SnapshotStatus::Failed);
        } else {
            assert!(matches!(unsaid, Err(ControlError::Unavailable { .. })), "{unsaid:?}");
            assert_eq!(status, SnapshotStatus::Completed);
        }
        *world.node.archive_away.lock() = false;
        let verdict = world.control.snapshot_verify(&world.project, &id).await;
        let Verdict::Damaged { detail } = verdict.expect("it is read") else {
            unreachable!("nobody has it")
        };
        assert!(detail.contains("object store"), "{detail}");
        assert_eq!(fetch(&world, &id).await.status, SnapshotStatus::Failed);

        // It was another object store: the right one is back.
        world.node.archived.lock().insert(id.clone());
        let verdict = world.control.snapshot_verify(&world.project, &id).await;
        assert_eq!(verdict.expect("it is read"), Verdict::Sound { read: facts().size });
        let record = fetch(&world, &id).await;
        assert_eq!((record.status, record.error), (SnapshotStatus::Completed, None));
    }
}
