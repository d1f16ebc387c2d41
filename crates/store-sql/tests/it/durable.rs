//! Commits: how many, when, and what happens at the end.

use std::{sync::Arc, time::Duration};

use sqlx::Row as _;
use tarn_store::{Store as _, StoreError};
use tarn_store_sql::WriteCounts;
use tarn_types::{Lasting, SandboxStatus};
use tokio::task::JoinSet;

use crate::support::{Database, record};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn one_verb_at_a_time_is_one_commit_each() {
    let database = Database::new();
    let (store, _tasks) = database.open().await;
    for number in 0..10 {
        store.sandbox_insert(&record(number), SandboxStatus::Pending).await.expect("inserted");
    }
    assert_eq!(store.write_counts(), WriteCounts { verbs: 10, commits: 10, lasting: 10 });
}

#[tokio::test]
async fn verbs_that_wait_together_share_a_commit() {
    let database = Database::new();
    let (store, _tasks) = database.open().await;
    let store = Arc::new(store);
    let mut callers = JoinSet::new();
    for number in 0..200 {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            store.sandbox_insert(&record(number), SandboxStatus::Pending).await.expect("inserted");
        });
    }
    callers.join_all().await;
    let WriteCounts { verbs, commits, .. } = store.write_counts();
    assert_eq!(verbs, 200);
    assert!(commits <= 20, "200 inserts took {commits} commits");
    assert_eq!(store.sandbox_list_live().await.expect("a list").len(), 200);
}

#[tokio::test]
async fn an_insert_is_in_the_log_when_it_is_answered() {
    let database = Database::new();
    let (store, _tasks) = database.open().await;
    let wal = database.path().with_extension("db-wal");
    for number in 0..5 {
        let before = std::fs::metadata(&wal).map_or(0, |log| log.len());
        store.sandbox_insert(&record(number), SandboxStatus::Pending).await.expect("inserted");
        let after = std::fs::metadata(&wal).expect("there is a log").len();
        assert!(after > before, "insert {number} left the log at {after} bytes");
    }
    let mut raw = database.raw().await;
    let mode = sqlx::query("PRAGMA journal_mode").fetch_one(&mut raw).await.expect("read");
    assert_eq!(mode.get::<String, _>(0), "wal");
}

#[tokio::test]
async fn a_change_for_this_boot_does_not_wait_for_the_disk() {
    let database = Database::new();
    let (store, tasks) = database.open().await;
    let mut record = record(1);
    store.sandbox_insert(&record, SandboxStatus::Pending).await.expect("inserted");
    // Both ways in turn, then several of one after the other.
    let ways = [Lasting::Boot, Lasting::Always, Lasting::Boot, Lasting::Boot, Lasting::Always];
    let mut waited = 1;
    for lasting in ways {
        record.sequence += 1;
        store.sandbox_update(&record, SandboxStatus::Pending, lasting).await.expect("updated");
        waited += u64::from(lasting == Lasting::Always);
        assert_eq!(store.write_counts().lasting, waited, "{lasting:?}");
        let stored = database.raw().await;
        let stored = stored_sequence(stored).await;
        assert_eq!(stored, record.sequence, "others see it at once");
    }
    assert_eq!(store.write_counts(), WriteCounts { verbs: 6, commits: 6, lasting: 3 });
    assert_eq!(tasks.shutdown(PATIENCE).await, 0);
    let (store, _tasks) = database.open().await;
    assert_eq!(store.sandbox_fetch(&record.id).await.expect("it is there"), record);
}

async fn stored_sequence(mut raw: sqlx::SqliteConnection) -> u64 {
    let row = sqlx::query("SELECT sequence FROM sandbox").fetch_one(&mut raw).await.expect("read");
    u64::try_from(row.get::<i64, _>(0)).expect("small")
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_take_its_verb_along() {
    let database = Database::new();
    let (store, _tasks) = database.open().await;
    let first = record(1);
    // Polled once, the verb is queued.
    tokio::select! {
        biased;
        done = store.sandbox_insert(&first, SandboxStatus::Pending) => {
            unreachable!("it cannot be on disk at once: {done:?}")
        }
        () = std::future::ready(()) => {}
    }
    store.ping().await.expect("whatever was queued before is done");
    assert_eq!(store.sandbox_fetch(&first.id).await.expect("it is there"), first);
}

#[tokio::test]
async fn a_stop_finishes_what_is_queued_and_refuses_the_rest() {
    let database = Database::new();
    let (store, tasks) = database.open().await;
    let store = Arc::new(store);
    let mut callers = JoinSet::new();
    for number in 0..50 {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            store.sandbox_insert(&record(number), SandboxStatus::Pending).await
        });
    }
    // Every caller gets to queue its verb before the stop is seen.
    tokio::task::yield_now().await;
    assert_eq!(tasks.shutdown(PATIENCE).await, 0, "the writer ends");
    let answers = callers.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 50);
    assert_eq!(store.sandbox_list_live().await.expect("readers go on").len(), 50);
    let refused = store.sandbox_insert(&record(99), SandboxStatus::Pending).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable { .. })), "not ready");
}
