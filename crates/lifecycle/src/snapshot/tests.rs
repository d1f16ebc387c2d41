//! Every state of a snapshot, with and without an object store.

use tarn_types::{
    ByteSize, Captured, NodeId, ProjectId, Resources, SandboxId, SnapshotId, SnapshotKind,
};

use super::*;

const BEGUN: UnixMillis = UnixMillis(1_000);

fn snapshot(status: SnapshotStatus, archive: Archival) -> SnapshotRecord {
    SnapshotRecord {
        id: SnapshotId::from_random([1; 16]),
        project: ProjectId::from_random([2; 16]),
        sandbox: SandboxId::from_random([3; 21]),
        node: NodeId::from_random([4; 16]),
        created_at: BEGUN,
        kind: SnapshotKind::Memory,
        status,
        hidden: false,
        captured: Captured {
            image: "mine".parse().expect("a good name"),
            resources: Resources::default(),
            entrypoint: None,
            secret_names: Vec::new(),
        },
        facts: None,
        error: None,
        archive,
        verified_at: None,
        sequence: 2,
    }
}

fn facts() -> CaptureFacts {
    CaptureFacts { size: ByteSize::from_mib(3), layer: ByteSize::from_mib(1), standstill_micros: 9 }
}

fn whole() -> Archival {
    Archival::Whole { uri: "s3://bucket/it".to_owned() }
}

const STATUSES: [SnapshotStatus; 4] = [
    SnapshotStatus::InProgress,
    SnapshotStatus::LocalReady,
    SnapshotStatus::Completed,
    SnapshotStatus::Failed,
];

const STORES: [ObjectStore; 3] = [ObjectStore::There, ObjectStore::Absent, ObjectStore::Unknown];

#[test]
fn what_is_to_be_done() {
    use Archival::{Begun, Nothing};
    use SnapshotStatus::{Completed, Failed, LocalReady};
    let table = [
        (LocalReady, Nothing, [Care::Archive, Care::Complete, Care::Nothing]),
        (LocalReady, Begun, [Care::Archive, Care::Complete, Care::Nothing]),
        (Completed, Nothing, [Care::Nothing; 3]),
        // The object store came later, or was away for a while.
        (Completed, Begun, [Care::Archive, Care::Nothing, Care::Nothing]),
        (Completed, whole(), [Care::Nothing; 3]),
        (Failed, Nothing, [Care::Nothing; 3]),
    ];
    for (status, archive, expected) in table {
        let record = snapshot(status, archive);
        for (store, expected) in STORES.into_iter().zip(expected) {
            let hidden = SnapshotRecord { hidden: true, ..record.clone() };
            for (record, kept, expected) in [
                (&record, Kept::ByNobody, expected),
                (&record, Kept::ByImages, expected),
                (&hidden, Kept::ByNobody, Care::Remove),
                (&hidden, Kept::ByImages, expected),
            ] {
                let told = care(record, kept, store, BEGUN);
                assert_eq!(told, expected, "{record:?} {kept:?} {store:?}");
            }
        }
    }
}

#[test]
fn a_capture_that_is_late_is_given_up_if_its_node_is_there() {
    for hidden in [false, true] {
        let record = snapshot(SnapshotStatus::InProgress, Archival::Nothing);
        let record = SnapshotRecord { hidden, ..record };
        let late = BEGUN.plus_millis(CAPTURE_LIMIT_MILLIS);
        let early = UnixMillis(late.0 - 1);
        for store in STORES {
            assert_eq!(care(&record, Kept::ByNobody, store, early), Care::Nothing);
        }
        let care = |store| care(&record, Kept::ByNobody, store, late);
        assert_eq!(care(ObjectStore::There), Care::GiveUp);
        assert_eq!(care(ObjectStore::Absent), Care::GiveUp);
        assert_eq!(care(ObjectStore::Unknown), Care::Nothing);
    }
}

#[test]
fn a_capture_is_concluded_once() {
    let record = snapshot(SnapshotStatus::InProgress, Archival::Nothing);
    let after = |record: &SnapshotRecord, store| {
        let next = captured(record, &Ok(facts()), store).expect("it is the first time");
        assert_eq!((next.facts, &next.error), (Some(facts()), &None));
        next.status
    };
    assert_eq!(after(&record, ObjectStore::There), SnapshotStatus::LocalReady);
    assert_eq!(after(&record, ObjectStore::Unknown), SnapshotStatus::LocalReady);
    assert_eq!(after(&record, ObjectStore::Absent), SnapshotStatus::Completed);
    let for_a_copy = SnapshotRecord { hidden: true, ..record.clone() };
    assert_eq!(after(&for_a_copy, ObjectStore::There), SnapshotStatus::Completed);
    let failed = captured(&record, &Err("no room".to_owned()), ObjectStore::There);
    let failed = failed.expect("it is the first time");
    assert_eq!((failed.status, failed.error.as_deref()), (SnapshotStatus::Failed, Some("no room")));
    for status in [SnapshotStatus::LocalReady, SnapshotStatus::Completed, SnapshotStatus::Failed] {
        let record = snapshot(status, Archival::Nothing);
        assert_eq!(captured(&record, &Ok(facts()), ObjectStore::There), None);
        assert_eq!(captured(&record, &Err(String::new()), ObjectStore::There), None);
    }
}

#[test]
fn nothing_moves_back() {
    let rank = |status| STATUSES.iter().position(|each| *each == status);
    for status in STATUSES {
        for archive in [Archival::Nothing, Archival::Begun, whole()] {
            for hidden in [false, true] {
                let record = snapshot(status, archive.clone());
                let record = SnapshotRecord { hidden, ..record };
                let [first, second] = [Kept::ByNobody, Kept::ByImages]
                    .map(|kept| [begun(&record, kept), archived(&record, kept, "u")]);
                let nexts = first.into_iter().chain(second).chain([completed(&record)]);
                for next in nexts.flatten() {
                    assert!(status.is_ready() && next.status.is_ready());
                    assert!(rank(next.status) >= rank(status), "{next:?} after {record:?}");
                    assert_ne!(next, record);
                }
            }
        }
    }
}

#[test]
fn an_upload_is_known_before_it_begins_and_completes_the_snapshot() {
    let record = snapshot(SnapshotStatus::LocalReady, Archival::Nothing);
    let kept = Kept::ByNobody;
    let next = begun(&record, kept).expect("the first time");
    assert_eq!((next.status, &next.archive), (SnapshotStatus::LocalReady, &Archival::Begun));
    assert_eq!(begun(&next, kept), None);
    let next = archived(&next, kept, "s3://bucket/it").expect("the first time");
    assert_eq!((next.status, &next.archive), (SnapshotStatus::Completed, &whole()));
    assert_eq!(archived(&next, kept, "again"), None);
    let deleted = snapshot(SnapshotStatus::LocalReady, Archival::Begun);
    let deleted = SnapshotRecord { hidden: true, ..deleted };
    assert_eq!((archived(&deleted, kept, "late"), begun(&deleted, kept)), (None, None));
    let of_an_image = SnapshotRecord { archive: Archival::Nothing, ..deleted };
    assert_eq!(begun(&of_an_image, kept), None);
    let next = begun(&of_an_image, Kept::ByImages).expect("the first time");
    assert!(archived(&next, Kept::ByImages, "s3://bucket/it").is_some());
}

#[test]
fn tries_become_rarer_and_never_cease() {
    let delays: Vec<_> = (0..=10).map(retry_delay).collect();
    assert_eq!(delays[..5], [2_000, 2_000, 4_000, 8_000, 16_000]);
    assert!(delays.is_sorted());
    for failures in [9, 33, 64, u32::MAX] {
        assert_eq!(retry_delay(failures), RETRY_LONGEST_MILLIS);
    }
}
