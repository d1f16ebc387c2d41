//! Files that are there already: ours, older, newer, somebody else's, damaged.

use std::error::Error as _;

use sqlx::{AssertSqlSafe, Connection as _};
use tarn_store::{ListQuery, Order, Store as _, StoreError};
use tarn_store_sql::{SqliteOpenError, SqliteStore};
use tarn_task::Tasks;
use tarn_types::{SandboxStatus, UnixMillis};

use crate::support::{Database, raw, record};

async fn refusal(database: &Database) -> SqliteOpenError {
    match SqliteStore::open(&database.path(), &Tasks::new()).await {
        Err(error) => error,
        Ok(_) => unreachable!("it must not open"),
    }
}

#[tokio::test]
async fn what_was_stored_is_there_after_reopening() {
    let database = Database::new();
    for number in 0..3 {
        let (store, tasks) = database.open().await;
        store.sandbox_insert(&record(number), SandboxStatus::Pending).await.expect("inserted");
        let live = store.sandbox_list_live().await.expect("a list");
        assert_eq!(live, (0..=number).map(record).collect::<Vec<_>>());
        drop(store);
        assert_eq!(tasks.shutdown(std::time::Duration::from_secs(20)).await, 0);
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let database = Database::new();
    drop(database.open().await);
    let mut raw = database.raw().await;
    sqlx::query("PRAGMA user_version = 9").execute(&mut raw).await.expect("set");
    let error = refusal(&database).await;
    assert!(matches!(error, SqliteOpenError::Newer { found: 9, known: 8, .. }), "{error:?}");
    assert!(error.to_string().contains("start the newer release"), "{error}");
    let version: i64 =
        sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut raw).await.expect("read");
    assert_eq!(version, 9);
}

#[tokio::test]
async fn the_first_schema_is_brought_up_with_what_it_holds() {
    let database = Database::new();
    let mut old = raw(&database.path()).await;
    let first = include_str!("../../migrations/0001_init.sql");
    sqlx::raw_sql(first).execute(&mut old).await.expect("made");
    let mark = "PRAGMA application_id = 0x7461726e; PRAGMA user_version = 1";
    sqlx::raw_sql(mark).execute(&mut old).await.expect("marked");
    let kept = tarn_store::KeyHash([1; 32]);
    sqlx::query("INSERT INTO project VALUES ('project_0000000000000001', 'default', 1)")
        .execute(&mut old)
        .await
        .expect("inserted");
    sqlx::query("INSERT INTO api_key VALUES ('key_0000000000000001', 'project_0000000000000001', ?, 1, NULL)")
        .bind(kept.0.as_slice())
        .execute(&mut old)
        .await
        .expect("inserted");
    old.close().await.expect("closed");

    let (store, _tasks) = database.open().await;
    assert_eq!(store.key_fetch(&kept).await.expect("it is there").project_name, "default");
    assert_eq!(store.snapshot_list_unsettled().await.expect("the new table"), []);
}

#[tokio::test]
async fn the_second_schema_is_brought_up_and_its_sandboxes_are_listed() {
    let database = Database::new();
    let (store, tasks) = database.open().await;
    for number in 0..3 {
        store.sandbox_insert(&record(number), SandboxStatus::Pending).await.expect("inserted");
    }
    drop(store);
    assert_eq!(tasks.shutdown(std::time::Duration::from_secs(20)).await, 0);
    // What the later ones have more is taken away again.
    let mut old = raw(&database.path()).await;
    let back = "DROP TABLE build; DROP TABLE kept_step; DROP TABLE image; DROP TABLE image_name;
         DROP TABLE registry_login; DROP TABLE ssh_key;
         DROP TABLE quota; DROP TABLE secret; DROP TABLE data_key; DROP TABLE pool;
         DROP INDEX sandbox_page;
         ALTER TABLE sandbox DROP COLUMN unclaimed;
         CREATE INDEX sandbox_page ON sandbox (project, created_at, id, terminated_at, status);
         PRAGMA user_version = 2";
    sqlx::raw_sql(back).execute(&mut old).await.expect("taken away");
    old.close().await.expect("closed");

    let (store, _tasks) = database.open().await;
    let query = ListQuery {
        project: record(0).project,
        archived: false,
        archived_before: UnixMillis(0),
        status: None,
        from: None,
        order: Order::Backward,
        limit: 9,
    };
    let page = store.sandbox_list(&query).await.expect("a page");
    assert_eq!(page.items, [2, 1, 0].map(record));
    assert_eq!(store.pool_list().await.expect("the new table"), []);
}

#[tokio::test]
async fn the_database_of_another_program_is_refused_and_left_alone() {
    let database = Database::new();
    let mut other = raw(&database.path()).await;
    sqlx::query("CREATE TABLE theirs (a)").execute(&mut other).await.expect("made");
    let error = refusal(&database).await;
    assert!(matches!(error, SqliteOpenError::Foreign { .. }), "{error:?}");
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema")
        .fetch_one(&mut other)
        .await
        .expect("read");
    assert_eq!(tables, 1);
}

#[tokio::test]
async fn a_file_that_is_no_database_and_a_missing_directory_are_named() {
    let database = Database::new();
    std::fs::write(database.path(), "not a database, ".repeat(100)).expect("written");
    let error = refusal(&database).await;
    assert!(error.to_string().contains("tarn.db"), "{error}");
    assert!(error.source().is_some_and(|source| source.to_string().contains("not a database")));

    let path = database.path().join("no").join("such");
    let error = SqliteStore::open(&path, &Tasks::new()).await.expect_err("no directory");
    assert!(matches!(error, SqliteOpenError::Open { .. }), "{error:?}");
}

#[tokio::test]
async fn a_damaged_file_is_an_error_with_a_remedy() {
    let database = Database::new();
    let (store, tasks) = database.open().await;
    for number in 0..300 {
        store.sandbox_insert(&record(number), SandboxStatus::Pending).await.expect("inserted");
    }
    drop(store);
    assert_eq!(tasks.shutdown(std::time::Duration::from_secs(20)).await, 0);
    let mut bytes = std::fs::read(database.path()).expect("read");
    assert!(bytes.len() > 300_000, "the log was merged when the store closed");
    // The first pages hold the schema; the rest becomes noise.
    bytes.iter_mut().skip(56 * 4096).for_each(|byte| *byte = 0xa5);
    std::fs::write(database.path(), bytes).expect("written");

    let (store, _tasks) = database.open().await;
    match store.sandbox_list_live().await {
        Err(StoreError::Internal { detail }) => {
            assert!(detail.contains("damaged; restore a backup"), "{detail}");
        }
        other => unreachable!("{other:?}"),
    }
}

#[tokio::test]
async fn records_of_another_format_are_told_apart() {
    let database = Database::new();
    let (store, _tasks) = database.open().await;
    let stored = record(1);
    store.sandbox_insert(&stored, SandboxStatus::Pending).await.expect("inserted");
    let mut raw = database.raw().await;
    // What a newer patch release may do: a field that this one does not know.
    let newer = sqlx::query(
        "UPDATE sandbox SET record = json_set(record, '$.later', 1, '$.asked.later', 2)",
    );
    newer.execute(&mut raw).await.expect("changed");
    assert_eq!(store.sandbox_fetch(&stored.id).await.expect("read all the same"), stored);
    for (change, expected) in [
        ("UPDATE sandbox SET format_version = 2", "has format 2"),
        ("UPDATE sandbox SET format_version = 1, record = '{}'", "is damaged"),
    ] {
        sqlx::query(AssertSqlSafe(change.to_owned())).execute(&mut raw).await.expect("changed");
        match store.sandbox_fetch(&stored.id).await {
            Err(StoreError::Internal { detail }) => assert!(detail.contains(expected), "{detail}"),
            other => unreachable!("{other:?}"),
        }
    }
    raw.close().await.expect("closed");
}
