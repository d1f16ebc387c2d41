//! Snapshots are read: what is sound stays, what is damaged is not restored and not removed.

use std::{sync::Arc, time::Duration};

use tarn_control::{ControlError, CreateAsk, Verdict};
use tarn_store::Store as _;
use tarn_types::{Pace, SandboxRef, SnapshotId, SnapshotKind, SnapshotRecord, SnapshotStatus};

use crate::fake::{Manner, World, facts, named};

const WEEK_MILLIS: i64 = 7 * 24 * 3600 * 1000;

async fn take(world: &World, name: &str) -> SnapshotId {
    let id = world.create(named(name)).await.record.id;
    let sandbox = SandboxRef::Id(id);
    let kind = SnapshotKind::Filesystem;
    let taken = world.control.snapshot_create(&world.project, &sandbox, kind).await;
    taken.expect("it runs").id
}

async fn fetch(world: &World, id: &SnapshotId) -> SnapshotRecord {
    world.control.snapshot_fetch(&world.project, id).await.expect("it is there")
}

async fn verify(world: &World, id: &SnapshotId) -> Result<Verdict, ControlError> {
    world.control.snapshot_verify(&world.project, id).await
}

fn damage(world: &World, id: &SnapshotId) {
    let detail = Some("the content of layer.img has changed".to_owned());
    world.node.damage.lock().insert(id.clone(), detail);
}

#[tokio::test(start_paused = true)]
async fn a_sound_one_stays_what_it_is() {
    let world = World::new(Manner::Prompt).await;
    let id = take(&world, "box").await;
    let before = fetch(&world, &id).await;
    assert_eq!(before.verified_at, None);
    world.clock.advance_millis(5);
    let read = facts().size;
    assert_eq!(verify(&world, &id).await.expect("it is read"), Verdict::Sound { read });
    assert_eq!(*world.node.verified.lock(), [(id.clone(), Pace::Full)]);
    let after = fetch(&world, &id).await;
    assert_eq!(after.verified_at.map(|at| at.millis_since(before.created_at)), Some(5));
    assert_eq!((after.status, after.error), (SnapshotStatus::Completed, None));
    let counts = world.control.snapshot_counts();
    let found = (counts.sound, counts.damaged, counts.unverified, counts.verified_bytes);
    assert_eq!(found, (1, 0, 0, read.bytes()));
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_lost_in_the_object_store_is_sent_again_when_somebody_asks() {
    let world = World::new(Manner::Prompt).await;
    *world.node.archives.lock() = true;
    let id = take(&world, "box").await;
    let is_archived = async || world.node.archived.lock().contains(&id);
    world.until("archived", is_archived).await;
    world.node.archived.lock().clear();
    world.clock.advance_millis(2 * WEEK_MILLIS);
    world.until_scrubbed().await;
    assert!(!is_archived().await, "reading it costs its owner");
    let read = facts().size;
    assert_eq!(verify(&world, &id).await.expect("it is read"), Verdict::Sound { read });
    assert!(is_archived().await);
    // One that fails is nothing that is tried again.
    world.node.finish_archive(Err("it went away")).await;
    assert_eq!(world.control.archive_status().await.troubles, []);
    *world.node.archive_away.lock() = true;
    assert_eq!(verify(&world, &id).await.expect("it is read"), Verdict::Sound { read });
}

#[tokio::test(start_paused = true)]
async fn a_damaged_one_is_not_restored_and_kept_until_it_is_deleted() {
    let world = World::new(Manner::Prompt).await;
    let id = take(&world, "box").await;
    damage(&world, &id);
    let Verdict::Damaged { detail } = verify(&world, &id).await.expect("it is read") else {
        unreachable!("it is damaged")
    };
    assert!(detail.contains("layer.img"), "{detail}");
    let record = fetch(&world, &id).await;
    assert_eq!((record.status, record.facts), (SnapshotStatus::Failed, Some(facts())));
    assert_eq!(record.error, Some(format!("damaged: {detail}")));
    let ask = CreateAsk { restore: Some(id.clone()), ..CreateAsk::default() };
    let refused = world.control.sandbox_create(&world.project, ask, Duration::ZERO).await;
    let refused = refused.expect_err("it is damaged");
    assert!(matches!(refused, ControlError::SnapshotNotReady { .. }), "{refused:?}");
    assert!(refused.to_string().contains("layer.img"), "{refused}");
    let again = verify(&world, &id).await.expect_err("that is known");
    assert!(again.to_string().contains("layer.img"), "{again}");
    // Nor does the next start remove what is left of it.
    world.until_reconciled().await;
    let (store, node) = (Arc::clone(&world.store), Arc::clone(&world.node));
    world.control_dies();
    let world = World::over(store, node).await;
    world.until_reconciled().await;
    assert_eq!(*world.node.discarded.lock(), []);
    assert_eq!(fetch(&world, &id).await, record);
    world.control.snapshot_delete(&world.project, &id).await.expect("deleted");
    assert_eq!(*world.node.discarded.lock(), [id]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_not_called_damaged() {
    let world = World::new(Manner::Prompt).await;
    let id = take(&world, "box").await;
    world.node.damage.lock().insert(id.clone(), None);
    let refused = verify(&world, &id).await.expect_err("its node does not have it");
    assert!(matches!(refused, ControlError::Unavailable { .. }), "{refused:?}");
    let record = fetch(&world, &id).await;
    assert_eq!((record.status, record.verified_at), (SnapshotStatus::Completed, None));
    assert_eq!(world.control.snapshot_counts().unverified, 1);

    let sandbox = SandboxRef::Id(world.create(named("other")).await.record.id);
    world.node.behave(Manner::Silent);
    let kind = SnapshotKind::Filesystem;
    let begun = world.control.snapshot_create(&world.project, &sandbox, kind).await;
    let id = begun.expect("it runs").id;
    let refused = verify(&world, &id).await.expect_err("it is being taken");
    assert!(matches!(refused, ControlError::SnapshotNotReady { .. }), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn all_are_read_in_the_background_from_time_to_time() {
    let mut world = World::new(Manner::Prompt).await;
    // It looks into projects that have a key.
    world.project = world.control.key_create("work").await.expect("a key").project;
    let (sound, bad) = (take(&world, "one").await, take(&world, "two").await);
    damage(&world, &bad);
    world.until_scrubbed().await;
    assert_eq!(*world.node.verified.lock(), [], "not yet");
    world.clock.advance_millis(WEEK_MILLIS);
    world.until_scrubbed().await;
    let mut read = world.node.verified.lock().clone();
    read.sort_by(|one, other| one.0.cmp(&other.0));
    let mut both = [(sound.clone(), Pace::Background), (bad.clone(), Pace::Background)];
    both.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(read, both);
    assert_eq!(fetch(&world, &bad).await.status, SnapshotStatus::Failed);
    world.clock.advance_millis(WEEK_MILLIS - 1);
    world.until_scrubbed().await;
    assert_eq!(world.node.verified.lock().len(), 2, "not again so soon");
    world.clock.advance_millis(1);
    world.until_scrubbed().await;
    let last = world.node.verified.lock().last().cloned();
    assert_eq!(last, Some((sound, Pace::Background)), "only what is ready");
}

#[tokio::test(start_paused = true)]
async fn a_memory_that_goes_on_nowhere_is_refused_before_anything_starts() {
    let world = World::new(Manner::Prompt).await;
    let sandbox = SandboxRef::Id(world.create(named("box")).await.record.id);
    let reason = "this node's CPU lacks avx512f".to_owned();
    for (kind, refused) in [(SnapshotKind::Filesystem, false), (SnapshotKind::Memory, true)] {
        *world.node.obstacle.lock() = None;
        let taken = world.control.snapshot_create(&world.project, &sandbox, kind).await;
        let id = taken.expect("it runs").id;
        *world.node.obstacle.lock() = Some(reason.clone());
        let ask = CreateAsk { restore: Some(id.clone()), ..CreateAsk::default() };
        let before = world.node.told.lock().len();
        let made = world.control.sandbox_create(&world.project, ask, Duration::ZERO).await;
        match made {
            Ok(_) => assert!(!refused, "{kind:?}"),
            Err(ControlError::SnapshotIncompatible { id: named, reason: why }) => {
                assert!(refused && named == id && why == reason, "{kind:?} {why}");
                assert_eq!(world.node.told.lock().len(), before, "nothing was started");
            }
            Err(other) => unreachable!("{kind:?}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_fails_is_repeated_and_holds_up_no_other() {
    let world = World::new(Manner::Prompt).await;
    let ids = [take(&world, "one").await, take(&world, "two").await];
    *world.node.discard_failures.lock() = 2;
    for id in &ids {
        world.control.snapshot_delete(&world.project, id).await.expect("it is gone for callers");
    }
    let gone = async || {
        let left = world.store.snapshot_list_unsettled().await.expect("a list");
        left.is_empty() && world.node.discarded.lock().len() == 2
    };
    assert!(!gone().await, "the records stay as long as the data does");
    world.until("both are removed", gone).await;
    assert!(world.node.held.lock().is_empty());
}
