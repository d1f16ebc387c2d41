//! Uploads to a simulated object store, and restores from it.

use std::{sync::Arc, time::Duration};

use tarn_host::{Captures as _, Layers as _};
use tarn_node_api::{ArchiveOrder, ArchiveReport, Direction, Node as _, NodeTarget};
use tarn_types::{EndCause, Launch, ObservedPhase, ProjectId, Restore, SnapshotKind};

use crate::world::{Host, World, id, launch, snapshot_id};

fn order(n: u8) -> ArchiveOrder {
    ArchiveOrder { snapshot: snapshot_id(n), project: ProjectId::from_random([2; 16]) }
}

/// Returns a world with snapshot 7 of sandbox 1.
async fn taken(kind: SnapshotKind) -> World {
    let world = World::new().await;
    world.run(&id(1)).await;
    world.snapshot(&id(1), 7, kind).await.outcome.expect("it is taken");
    world
}

async fn upload(world: &World, n: u8) -> ArchiveReport {
    let before = world.sink.archived.lock().len();
    world.node.archive(order(n)).await.expect("it is taken");
    world.until("the upload's report", || world.sink.archived.lock().len() > before).await;
    let idle = || world.node.transfer_counts().uploading == 0;
    world.until("the end of the upload", idle).await;
    world.sink.archived.lock()[before].clone()
}

async fn restore(world: &World, n: u8, kind: SnapshotKind) {
    let restore = Some(Restore { snapshot: snapshot_id(7), kind });
    world.apply(&id(n), 1, NodeTarget::Running(Launch { restore, ..launch() })).await;
}

async fn restore_fails(world: &World, n: u8) -> String {
    restore(world, n, SnapshotKind::Filesystem).await;
    world.wait_end(&id(n)).await.error_message().expect("a message")
}

#[tokio::test]
async fn a_snapshot_comes_back_when_the_node_has_lost_it() {
    for kind in [SnapshotKind::Filesystem, SnapshotKind::Memory] {
        let world = taken(kind).await;
        let report = upload(&world, 7).await;
        let facts = report.outcome.expect("it is uploaded");
        assert!(facts.uri.contains(snapshot_id(7).as_str()), "{}", facts.uri);
        assert_eq!(facts.sent, facts.size);
        let again = upload(&world, 7).await.outcome.expect("it is there");
        assert_eq!((again.uri, again.sent.bytes()), (facts.uri, 0));
        world.node.discard(&snapshot_id(7)).await.expect("it is removed");
        restore(&world, 2, kind).await;
        world.reach(&id(2), 1, ObservedPhase::Running).await;
        assert!(world.host.captures.open(snapshot_id(7).as_str()).await.is_ok(), "it stays now");
        let counts = world.node.transfer_counts();
        assert_eq!((counts.uploads.done, counts.fetches.done), (2, 1));
        assert_eq!(counts.uploads.bytes, facts.size.bytes());
        assert_eq!((counts.queued, counts.uploading, counts.fetching), (0, 0, 0));
    }
}

#[tokio::test]
async fn a_damaged_one_is_fetched_again_if_the_object_store_has_it() {
    let world = taken(SnapshotKind::Filesystem).await;
    let name = snapshot_id(7);
    world.host.captures.damage(name.as_str(), "a bit fell over");
    let message = restore_fails(&world, 2).await;
    assert!(message.contains("a bit fell over"), "{message}");
    world.node.discard(&name).await.expect("it is removed");
    world.snapshot(&id(1), 7, SnapshotKind::Filesystem).await.outcome.expect("taken anew");
    upload(&world, 7).await.outcome.expect("it is uploaded");
    world.host.captures.damage(name.as_str(), "a bit fell over");
    restore(&world, 3, SnapshotKind::Filesystem).await;
    world.reach(&id(3), 1, ObservedPhase::Running).await;
}

#[tokio::test]
async fn a_restore_that_cannot_be_fetched_ends_and_says_why() {
    let world = taken(SnapshotKind::Filesystem).await;
    upload(&world, 7).await.outcome.expect("it is uploaded");
    world.node.discard(&snapshot_id(7)).await.expect("it is removed");
    world.host.archive.set_away(true);
    let message = restore_fails(&world, 2).await;
    assert!(message.contains("object store"), "{message}");
    assert!(message.contains(snapshot_id(7).as_str()), "{message}");
    world.host.archive.set_away(false);
    world.node.remove_archived(&order(7)).await.expect("removed");
    let message = restore_fails(&world, 3).await;
    assert!(message.contains("neither on this node nor in the object store"), "{message}");
    assert_eq!(world.node.transfer_counts().fetches.failed, 2);
    assert_eq!(world.host.layers.list().await.expect("a list"), [id(1)], "nothing is left");
}

/// Returns a world in which a start waits for a fetch that is held up.
async fn fetching() -> World {
    let world = taken(SnapshotKind::Filesystem).await;
    upload(&world, 7).await.outcome.expect("it is uploaded");
    world.node.discard(&snapshot_id(7)).await.expect("it is removed");
    world.host.archive.hold(true);
    restore(&world, 2, SnapshotKind::Filesystem).await;
    world.until("the fetch", || world.node.transfer_counts().fetching == 1).await;
    world
}

#[tokio::test]
async fn a_start_that_waits_for_a_fetch_can_be_ended() {
    let world = fetching().await;
    let transfer = world.node.archive_view().await.expect("there is one").transfers.remove(0);
    assert_eq!((transfer.direction, transfer.active), (Direction::Fetch, true));
    assert_eq!(transfer.done.bytes(), transfer.total.bytes() / 2);
    world.apply(&id(2), 2, NodeTarget::Terminated(EndCause::Cancelled)).await;
    assert_eq!(world.wait_end(&id(2)).await, EndCause::Cancelled);
    world.until("no fetch", || world.node.transfer_counts().fetching == 0).await;
}

#[tokio::test]
async fn a_stop_in_a_fetch_leaves_the_start_to_the_next_server() {
    let world = fetching().await;
    let host = Arc::clone(&world.host);
    let world = world.restart().await;
    assert!(world.sink.phases(&id(2)).is_empty(), "nothing was said to have failed");
    host.archive.hold(false);
    restore(&world, 2, SnapshotKind::Filesystem).await;
    world.reach(&id(2), 1, ObservedPhase::Running).await;
}

#[tokio::test]
async fn an_upload_that_fails_says_why_and_may_be_ordered_again() {
    let world = taken(SnapshotKind::Filesystem).await;
    world.host.archive.fail(1);
    let why = upload(&world, 7).await.outcome.expect_err("it failed");
    assert!(why.contains("it was made to fail"), "{why}");
    assert_eq!(world.node.transfer_counts().uploads.failed, 1);
    upload(&world, 7).await.outcome.expect("now it works");
    let nothing = upload(&world, 9).await.outcome.expect_err("there is none");
    assert!(nothing.contains("there is no snapshot"), "{nothing}");
}

#[tokio::test]
async fn at_most_two_uploads_go_on_and_the_same_once() {
    let world = World::new().await;
    world.run(&id(1)).await;
    world.host.archive.hold(true);
    for n in 7..10 {
        world.snapshot(&id(1), n, SnapshotKind::Filesystem).await.outcome.expect("it is taken");
        for _ in 0..2 {
            world.node.archive(order(n)).await.expect("it is taken");
        }
    }
    world
        .until("two go on and one waits", || {
            let counts = world.node.transfer_counts();
            (counts.uploading, counts.queued) == (2, 1)
        })
        .await;
    world.host.archive.hold(false);
    world.until("all are there", || world.sink.archived.lock().len() >= 3).await;
    assert_eq!(world.host.archive.names().len(), 3);
    assert_eq!(world.sink.archived.lock().len(), 3, "each was told once");
}

#[tokio::test]
async fn a_removal_ends_the_upload_and_leaves_nothing() {
    let world = taken(SnapshotKind::Filesystem).await;
    world.host.archive.hold(true);
    world.node.archive(order(7)).await.expect("it is taken");
    world.until("the upload", || world.node.transfer_counts().uploading == 1).await;
    world.node.discard(&snapshot_id(7)).await.expect("it is removed");
    world.node.remove_archived(&order(7)).await.expect("it is removed");
    world.host.archive.hold(false);
    assert_eq!(world.node.transfer_counts().uploading, 0);
    assert!(world.host.archive.names().is_empty());
    assert!(world.sink.archived.lock().is_empty(), "nobody asked for a report");
    world.host.archive.set_away(true);
    world.node.remove_archived(&order(7)).await.expect_err("it does not answer");
    assert_eq!(world.node.transfer_counts().removals_failed, 1);
}

#[tokio::test]
async fn a_stop_cuts_an_upload_and_the_next_server_does_it_anew() {
    let world = taken(SnapshotKind::Memory).await;
    world.host.archive.hold(true);
    world.node.archive(order(7)).await.expect("it is taken");
    world.until("the upload", || world.node.transfer_counts().uploading == 1).await;
    let host: Arc<Host> = Arc::clone(&world.host);
    let begun = tokio::time::Instant::now();
    let world = world.restart().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "a stop does not wait for it");
    host.archive.hold(false);
    upload(&world, 7).await.outcome.expect("it is uploaded");
}
