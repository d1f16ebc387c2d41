//! Stored bytes: the golden record of each format version must be read for ever.

use tarn_store::{StoreError, format};
use tarn_types::{Archival, EndCause, SandboxRecord};

const GOLDEN_1: &str = include_str!("golden/record-1.json");
const GOLDEN_SNAPSHOT_1: &str = include_str!("golden/snapshot-1.json");
/// The same, in an object store.
const GOLDEN_SNAPSHOT_1_ARCHIVED: &str = include_str!("golden/snapshot-1-archived.json");

const GOLDEN_1_CLAIMED: &str = include_str!("golden/record-1-claimed.json");
const GOLDEN_POOL_1: &str = include_str!("golden/pool-1.json");

fn golden() -> SandboxRecord {
    format::decode(1, "golden", GOLDEN_1.trim_end()).expect("the golden record is read")
}

#[test]
fn the_golden_record_is_written_byte_for_byte() {
    assert_eq!(format::encode(&golden()).expect("it is written"), GOLDEN_1.trim_end());
}

#[test]
fn the_golden_record_says_what_it_always_said() {
    let record = golden();
    assert_eq!(record.id.as_str(), "golden000000000000001");
    assert_eq!(record.asked.name.as_ref().map(|name| name.as_str()), Some("my-box"));
    assert_eq!(record.sequence, 5);
    assert!(matches!(record.end, Some(EndCause::StartFailed { .. })), "{:?}", record.end);
}

#[test]
fn an_old_reader_ignores_fields_of_a_newer_writer() {
    let mut newer: serde_json::Value = serde_json::from_str(GOLDEN_1).expect("JSON");
    for object in ["", "/asked", "/asked/resources", "/asked/ports", "/intent", "/observed"] {
        let object = newer.pointer_mut(object).and_then(|value| value.as_object_mut());
        object.expect("an object").insert("later".to_owned(), serde_json::json!({"x": [1]}));
    }
    let read = format::decode(1, "golden", &newer.to_string()).expect("unknown fields are ignored");
    assert_eq!(read, golden());
}

#[test]
fn a_newer_version_and_damaged_bytes_are_told_apart() {
    let detail = |got: Result<SandboxRecord, StoreError>| match got {
        Err(StoreError::Internal { detail }) => detail,
        other => unreachable!("{other:?}"),
    };
    assert!(detail(format::decode(2, "abc", GOLDEN_1)).contains("has format 2"));
    assert!(detail(format::decode(1, "abc", "{")).contains("abc is damaged"));
}

#[test]
fn the_golden_snapshot_is_read_and_written_byte_for_byte() {
    let golden = GOLDEN_SNAPSHOT_1.trim_end();
    let record = format::decode_snapshot(1, "golden", golden).expect("it is read");
    assert_eq!(record.id.as_str(), "snap_golden0000000001");
    assert_eq!(record.facts.map(|facts| facts.standstill_micros), Some(1500));
    assert_eq!(format::encode_snapshot(&record).expect("it is written"), golden);
    let mut newer: serde_json::Value = serde_json::from_str(golden).expect("JSON");
    for object in ["", "/captured", "/captured/resources", "/facts"] {
        let object = newer.pointer_mut(object).and_then(|value| value.as_object_mut());
        object.expect("an object").insert("later".to_owned(), serde_json::json!(1));
    }
    let read = format::decode_snapshot(1, "golden", &newer.to_string());
    assert_eq!(read.expect("unknown fields are ignored"), record);
}

#[test]
fn the_golden_archived_snapshot_is_read_and_written_byte_for_byte() {
    let golden = GOLDEN_SNAPSHOT_1_ARCHIVED.trim_end();
    let record = format::decode_snapshot(1, "golden", golden).expect("it is read");
    let uri = "s3://bucket/prefix/snap_golden0000000001".to_owned();
    assert_eq!(record.archive, Archival::Whole { uri });
    assert_eq!(format::encode_snapshot(&record).expect("it is written"), golden);
    let before = format::decode_snapshot(1, "golden", GOLDEN_SNAPSHOT_1).expect("it is read");
    assert_eq!(before.archive, Archival::Nothing, "written before there were object stores");
}

#[test]
fn the_golden_pool_is_read_and_written_byte_for_byte() {
    let golden = GOLDEN_POOL_1.trim_end();
    let pool = format::decode_pool(1, "golden", golden).expect("it is read");
    assert_eq!(pool.id.as_str(), "pool_golden0000000001");
    assert_eq!((pool.max_containers, pool.warm_containers), (Some(5), None));
    assert_eq!(format::encode_pool(&pool).expect("it is written"), golden);
    let mut newer: serde_json::Value = serde_json::from_str(golden).expect("JSON");
    for object in ["", "/definition", "/definition/resources"] {
        let object = newer.pointer_mut(object).and_then(|value| value.as_object_mut());
        object.expect("an object").insert("later".to_owned(), serde_json::json!(1));
    }
    let read = format::decode_pool(1, "golden", &newer.to_string());
    assert_eq!(read.expect("unknown fields are ignored"), pool);
}

#[test]
fn the_golden_claimed_record_is_read_and_written_byte_for_byte() {
    let golden = GOLDEN_1_CLAIMED.trim_end();
    let record = format::decode(1, "golden", golden).expect("it is read");
    assert!(!record.is_unclaimed());
    assert_eq!(record.launch().claimed_at, Some(record.created_at));
    assert_eq!(format::encode(&record).expect("it is written"), golden);
}
