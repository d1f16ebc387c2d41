//! Snapshots: insert, update, fetch, lists, delete.

use std::sync::Arc;

use tarn_types::{
    Archival, ByteSize, CaptureFacts, Captured, NodeId, Resources, SnapshotId, SnapshotKind,
    SnapshotRecord, SnapshotStatus,
};
use tokio::task::JoinSet;

use super::{
    Case,
    sample::{T0, id, project},
    sandbox::expect_not_found,
};
use crate::{Store, StoreError};

pub(super) const CASES: &[Case] = &[
    Case::new("a snapshot comes back as it was stored", |s| Box::pin(round_trip(s))),
    Case::new("an unknown snapshot is not found", |s| Box::pin(unknown(s))),
    Case::new("the same snapshot id is refused", |s| Box::pin(same_id(s))),
    Case::new("a snapshot's update compares the sequence", |s| Box::pin(compare_and_set(s))),
    Case::new("what is fixed of a snapshot stays", |s| Box::pin(fixed_fields(s))),
    Case::new("snapshots are listed newest first, by project and sandbox", |s| Box::pin(lists(s))),
    Case::new("hidden snapshots are in no list", |s| Box::pin(hidden(s))),
    Case::new("unsettled snapshots are those to look after", |s| Box::pin(unsettled(s))),
    Case::new("a deleted snapshot is gone, and twice is fine", |s| Box::pin(delete(s))),
    Case::new("of 16 racing updates of a snapshot one wins", |s| Box::pin(updates(s))),
];

fn snapshot_id(number: u8) -> SnapshotId {
    let mut random = [0; 16];
    random[0] = number / 36;
    random[1] = number % 36;
    SnapshotId::from_random(random)
}

/// Returns a snapshot in progress of sandbox 1 in project 1; numbers sort as they were taken.
pub(super) fn snapshot(number: u8) -> SnapshotRecord {
    SnapshotRecord {
        id: snapshot_id(number),
        project: project(1),
        sandbox: id(1),
        node: NodeId::from_random([9; 16]),
        created_at: T0.plus_millis(u64::from(number)),
        kind: SnapshotKind::Filesystem,
        status: SnapshotStatus::InProgress,
        hidden: false,
        captured: Captured {
            image: "tensorlake/ubuntu-minimal".parse().expect("a good image name"),
            resources: Resources::default(),
            entrypoint: None,
            secret_names: vec!["API_KEY".parse().expect("a good name")],
        },
        facts: None,
        error: None,
        archive: Archival::Nothing,
        verified_at: None,
        sequence: 1,
    }
}

fn completed(record: &SnapshotRecord) -> SnapshotRecord {
    SnapshotRecord {
        status: SnapshotStatus::Completed,
        facts: Some(CaptureFacts {
            size: ByteSize::from_mib(20),
            layer: ByteSize::from_mib(5),
            standstill_micros: 1_234,
        }),
        ..advance(record)
    }
}

fn advance(record: &SnapshotRecord) -> SnapshotRecord {
    SnapshotRecord { sequence: record.sequence + 1, ..record.clone() }
}

async fn insert(store: &Arc<dyn Store>, record: &SnapshotRecord) {
    store.snapshot_insert(record).await.expect("a fresh snapshot is inserted");
}

fn numbers(found: &[SnapshotRecord]) -> Vec<u8> {
    let number = |record: &SnapshotRecord| (0..=u8::MAX).find(|n| snapshot_id(*n) == record.id);
    found.iter().filter_map(number).collect()
}

async fn round_trip(store: Arc<dyn Store>) {
    let mut full = snapshot(1);
    full.kind = SnapshotKind::Memory;
    full.captured.entrypoint = Some(vec!["sh".to_owned(), "\u{1f980} \"'\0".to_owned()]);
    full.error = Some("no room".to_owned());
    insert(&store, &full).await;
    assert_eq!(store.snapshot_fetch(&full.id).await.expect("it is there"), full);
    let next = completed(&full);
    store.snapshot_update(&next).await.expect("sequence 2 follows 1");
    assert_eq!(store.snapshot_fetch(&full.id).await.expect("it is there"), next);
}

async fn unknown(store: Arc<dyn Store>) {
    expect_not_found(&store.snapshot_fetch(&snapshot_id(1)).await, "snapshot");
    expect_not_found(&store.snapshot_update(&advance(&snapshot(1))).await, "snapshot");
    assert_eq!(store.snapshot_list(&project(1), None).await.expect("an empty list"), []);
    assert_eq!(store.snapshot_list_unsettled().await.expect("an empty list"), []);
}

async fn same_id(store: Arc<dyn Store>) {
    let first = snapshot(1);
    insert(&store, &first).await;
    let mut second = first.clone();
    second.project = project(2);
    let refused = store.snapshot_insert(&second).await;
    assert!(matches!(refused, Err(StoreError::Exists { what: "snapshot" })), "{refused:?}");
    assert_eq!(store.snapshot_fetch(&first.id).await.expect("as before"), first);
}

async fn compare_and_set(store: Arc<dyn Store>) {
    let first = snapshot(1);
    insert(&store, &first).await;
    let second = completed(&first);
    store.snapshot_update(&second).await.expect("sequence 2 follows 1");
    for sequence in [0, 1, 2, 4, u64::MAX] {
        let stale = SnapshotRecord { sequence, ..second.clone() };
        let refused = store.snapshot_update(&stale).await;
        assert!(
            matches!(&refused, Err(StoreError::SnapshotConflict { id }) if *id == first.id),
            "sequence {sequence} after 2: {refused:?}"
        );
    }
    assert_eq!(store.snapshot_fetch(&first.id).await.expect("as before"), second);
}

async fn fixed_fields(store: Arc<dyn Store>) {
    let first = snapshot(1);
    insert(&store, &first).await;
    let next = advance(&first);
    for changed in [
        SnapshotRecord { project: project(2), ..next.clone() },
        SnapshotRecord { sandbox: id(2), ..next.clone() },
        SnapshotRecord { created_at: T0, ..next.clone() },
    ] {
        let refused = store.snapshot_update(&changed).await;
        assert!(matches!(refused, Err(StoreError::Internal { .. })), "{refused:?}");
    }
    assert_eq!(store.snapshot_fetch(&first.id).await.expect("as before"), first);
}

async fn lists(store: Arc<dyn Store>) {
    for (number, sandbox, owner) in [(3, 1, 1), (1, 1, 1), (2, 2, 1), (4, 1, 2)] {
        let mut record = snapshot(number);
        record.sandbox = id(sandbox);
        record.project = project(owner);
        insert(&store, &record).await;
    }
    for number in [11, 10] {
        let mut same_time = completed(&snapshot(number));
        same_time.created_at = T0;
        insert(&store, &same_time).await;
    }
    let list = async |owner, sandbox: Option<u8>| {
        let sandbox = sandbox.map(id);
        let found = store.snapshot_list(&project(owner), sandbox.as_ref()).await;
        numbers(&found.expect("a list"))
    };
    assert_eq!(list(1, None).await, [3, 2, 1, 11, 10], "ties by id");
    assert_eq!(list(1, Some(1)).await, [3, 1, 11, 10]);
    assert_eq!(list(1, Some(2)).await, [2]);
    assert!(list(1, Some(3)).await.is_empty());
    assert_eq!(list(2, None).await, [4]);
    assert!(list(2, Some(2)).await.is_empty(), "the sandbox of another project");
}

async fn hidden(store: Arc<dyn Store>) {
    let mut made_for_a_copy = snapshot(1);
    made_for_a_copy.hidden = true;
    insert(&store, &made_for_a_copy).await;
    let shown = completed(&snapshot(2));
    insert(&store, &shown).await;
    let list =
        async |sandbox| numbers(&store.snapshot_list(&project(1), sandbox).await.expect("a list"));
    assert_eq!(list(None).await, [2]);
    let deleted = SnapshotRecord { hidden: true, ..advance(&shown) };
    store.snapshot_update(&deleted).await.expect("hidden");
    assert!(list(None).await.is_empty());
    assert!(list(Some(&id(1))).await.is_empty());
    assert_eq!(store.snapshot_fetch(&shown.id).await.expect("stored all the same"), deleted);
}

async fn unsettled(store: Arc<dyn Store>) {
    let list =
        async || numbers(&store.snapshot_list_unsettled().await.expect("a list of all projects"));
    let first = snapshot(2);
    insert(&store, &first).await;
    let mut older = snapshot(1);
    older.project = project(2);
    insert(&store, &older).await;
    assert_eq!(list().await, [1, 2], "oldest first");
    let first = completed(&first);
    store.snapshot_update(&first).await.expect("completed");
    let failed = SnapshotRecord { status: SnapshotStatus::Failed, ..advance(&older) };
    store.snapshot_update(&failed).await.expect("failed");
    assert!(list().await.is_empty());
    // On its way to the object store, first as what is not completed yet, then as what is.
    let here = SnapshotRecord { status: SnapshotStatus::LocalReady, ..advance(&first) };
    store.snapshot_update(&here).await.expect("local_ready");
    assert_eq!(list().await, [2]);
    let status = SnapshotStatus::Completed;
    let begun = SnapshotRecord { status, archive: Archival::Begun, ..advance(&here) };
    store.snapshot_update(&begun).await.expect("begun");
    assert_eq!(list().await, [2]);
    let archive = Archival::Whole { uri: "s3://bucket/\u{1f980}".to_owned() };
    let whole = SnapshotRecord { archive, ..advance(&begun) };
    store.snapshot_update(&whole).await.expect("whole");
    assert!(list().await.is_empty());
    assert_eq!(store.snapshot_fetch(&whole.id).await.expect("it is there"), whole);
    let hidden = SnapshotRecord { hidden: true, ..advance(&whole) };
    store.snapshot_update(&hidden).await.expect("hidden");
    assert_eq!(list().await, [2]);
}

async fn delete(store: Arc<dyn Store>) {
    insert(&store, &snapshot(1)).await;
    insert(&store, &snapshot(2)).await;
    for _ in 0..2 {
        store.snapshot_delete(&snapshot_id(1)).await.expect("deleted");
    }
    expect_not_found(&store.snapshot_fetch(&snapshot_id(1)).await, "snapshot");
    expect_not_found(&store.snapshot_update(&advance(&snapshot(1))).await, "snapshot");
    let left = store.snapshot_list(&project(1), None).await.expect("a list");
    assert_eq!(numbers(&left), [2]);
    insert(&store, &snapshot(1)).await;
}

async fn updates(store: Arc<dyn Store>) {
    let first = snapshot(1);
    insert(&store, &first).await;
    let mut racers = JoinSet::new();
    for racer in 0..16 {
        let store = Arc::clone(&store);
        let next = SnapshotRecord { error: Some(format!("racer {racer}")), ..advance(&first) };
        racers.spawn(async move {
            match store.snapshot_update(&next).await {
                Ok(()) => Some(next),
                Err(StoreError::SnapshotConflict { .. }) => None,
                Err(other) => unreachable!("{other:?}"),
            }
        });
    }
    let winners: Vec<_> = racers.join_all().await.into_iter().flatten().collect();
    let stored = store.snapshot_fetch(&first.id).await.expect("it is there");
    assert_eq!(winners, [stored]);
}
