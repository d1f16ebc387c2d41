//! Trouble that needs a hand on the connection: a full disk, a lock held elsewhere.

use std::sync::Arc;

use sqlx::Connection as _;
use tarn_types::ErrorClass;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;

async fn store(
    directory: &TempDir,
    tweak: impl FnOnce(SqliteConnectOptions) -> SqliteConnectOptions,
) -> SqliteStore {
    let options = tweak(options(&directory.path().join("tarn.db")));
    SqliteStore::open_with(options, &Tasks::new()).await.expect("a fresh database opens")
}

fn unavailable<T: std::fmt::Debug>(got: Result<T, StoreError>) -> String {
    match got {
        Err(StoreError::Unavailable { detail }) => detail,
        other => unreachable!("not unavailable: {other:?}"),
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_keeps_what_was_answered() {
    let directory = TempDir::new().expect("a directory");
    let store = store(&directory, |options| options.pragma("max_page_count", "60")).await;
    let value = "x".repeat(8000);
    let mut kept = 0;
    let refused = loop {
        match store.fact_set(&format!("fact {kept}"), &value).await {
            Ok(()) => kept += 1,
            refused => break refused,
        }
    };
    let detail = unavailable(refused);
    assert!(detail.contains("disk is full"), "{detail}");
    assert!(kept > 0, "there was room for some");
    assert_eq!(store.fact_fetch(&format!("fact {kept}")).await.expect("read"), None);
    // Many at once share a transaction, and a full disk may end all of it; nobody is told a lie.
    let store = Arc::new(store);
    let mut callers = JoinSet::new();
    for number in 0..64 {
        let (store, value) = (Arc::clone(&store), value.clone());
        callers.spawn(async move {
            let name = format!("more {number}");
            let stored = store.fact_set(&name, &value).await;
            (name, stored.map_err(|error| error.class()))
        });
    }
    for (name, stored) in callers.join_all().await {
        assert!(matches!(stored, Ok(()) | Err(ErrorClass::Unavailable)), "{name}: {stored:?}");
        let found = store.fact_fetch(&name).await.expect("read").is_some();
        assert_eq!(found, stored.is_ok(), "{name}");
    }
    for number in 0..kept {
        let fact = store.fact_fetch(&format!("fact {number}")).await.expect("read");
        assert_eq!(fact.as_deref(), Some(value.as_str()));
    }
    store.fact_set("fact 0", "small").await.expect("what needs no room still works");
}

#[tokio::test]
async fn a_lock_held_elsewhere_refuses_until_it_is_gone() {
    let directory = TempDir::new().expect("a directory");
    let store = store(&directory, |options| options.busy_timeout(Duration::from_millis(20))).await;
    store.fact_set("a", "1").await.expect("set");
    let mut other = options(&directory.path().join("tarn.db")).connect().await.expect("connects");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("locks");
    let detail = unavailable(store.fact_set("a", "2").await);
    assert!(detail.contains("another program holds the database"), "{detail}");
    assert_eq!(store.fact_fetch("a").await.expect("readers do not mind").as_deref(), Some("1"));
    other.close().await.expect("unlocks");
    store.fact_set("a", "3").await.expect("set");
}

/// Asks the writer's connection how it commits.
struct Synchronous(Lasting);

impl writer::Verb for Synchronous {
    type Output = i64;

    fn lasting(&self) -> Lasting {
        self.0
    }

    async fn apply(&self, connection: &mut sqlx::SqliteConnection) -> Result<i64, StoreError> {
        let asked = sqlx::query_scalar("PRAGMA synchronous").fetch_one(connection).await;
        asked.map_err(|error| failed("ask how it commits", &error))
    }
}

#[tokio::test]
async fn what_need_not_last_is_committed_without_waiting_for_the_disk() {
    let directory = TempDir::new().expect("a directory");
    let store = Arc::new(store(&directory, |options| options).await);
    let ways = [Lasting::Always, Lasting::Boot, Lasting::Always, Lasting::Boot, Lasting::Boot];
    for (round, lasting) in ways.into_iter().cycle().take(20).enumerate() {
        let full = store.writer.write(Synchronous(lasting)).await.expect("an answer");
        assert_eq!(full, if lasting == Lasting::Always { 2 } else { 1 }, "{round}");
    }
    // One that lasts takes those along that wait with it.
    let mut callers = JoinSet::new();
    for number in 0..40 {
        let store = Arc::clone(&store);
        let lasting = if number == 39 { Lasting::Always } else { Lasting::Boot };
        callers.spawn(async move { store.writer.write(Synchronous(lasting)).await });
    }
    let before = store.write_counts();
    let answers = callers.join_all().await;
    let after = store.write_counts();
    assert!(answers.iter().any(|full| *full.as_ref().expect("an answer") == 2));
    assert!(after.lasting > before.lasting && after.commits - before.commits <= 3, "{after:?}");
}
