//! The file of persisted output: private, its own, and there again after reopening.

use std::os::unix::fs::PermissionsExt as _;

use tarn_store::{
    StoreError,
    log::{LogAppended, LogFilter, LogLimits, LogQuery, LogStart, LogStore as _},
};
use tarn_store_sql::{SqliteLogStore, SqliteOpenError, SqliteStore};
use tarn_task::Tasks;
use tarn_types::{LogBatch, LogLevel, LogLine, LogProcess, ProjectId, SandboxId, UnixMillis};

use crate::support::Database;

const LIMITS: LogLimits = LogLimits { sandbox_bytes: 1 << 20, total_bytes: 1 << 30 };

fn batch(number: u64) -> LogBatch {
    LogBatch {
        sandbox: SandboxId::from_random([1; 21]),
        project: ProjectId::from_random([2; 16]),
        boot: "boot".to_owned(),
        number,
        processes: vec![LogProcess {
            id: 7,
            pid: 42,
            command: "x".to_owned(),
            managed_id: None,
            managed_name: None,
        }],
        lines: vec![LogLine {
            process: 7,
            level: LogLevel::Info,
            at: UnixMillis(1),
            dropped: 0,
            body: number.to_string(),
        }],
    }
}

fn query() -> LogQuery {
    LogQuery {
        sandbox: SandboxId::from_random([1; 21]),
        filter: LogFilter::default(),
        start: LogStart::After(0),
        most: None,
    }
}

#[tokio::test]
async fn what_was_stored_is_there_and_known_after_reopening() {
    let database = Database::new();
    for number in 1..=3 {
        let tasks = Tasks::new();
        let store = SqliteLogStore::open(&database.path(), LIMITS, &tasks).await.expect("opens");
        if number > 1 {
            let again = store.log_append(&batch(number - 1), UnixMillis(1)).await;
            assert_eq!(again.expect("taken"), LogAppended::Repeated);
        }
        store.log_append(&batch(number), UnixMillis(1)).await.expect("stored");
        let page = store.log_read(&query()).await.expect("read");
        let bodies: Vec<_> = page.records.into_iter().map(|record| record.line.body).collect();
        assert_eq!(bodies, (1..=number).map(|n| n.to_string()).collect::<Vec<_>>());
        drop(store);
        assert_eq!(tasks.shutdown(std::time::Duration::from_secs(20)).await, 0);
    }
}

#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    let database = Database::new();
    let (tasks, path) = (Tasks::new(), database.path());
    let store = SqliteLogStore::open(&path, LIMITS, &tasks).await.expect("opens");
    store.log_append(&batch(1), UnixMillis(1)).await.expect("stored");
    let mut seen = 0;
    for entry in std::fs::read_dir(path.parent().expect("a directory")).expect("a list") {
        let mode = entry.expect("an entry").metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        seen += 1;
    }
    assert_eq!(seen, 3, "the database, its log and the index of that");
}

#[tokio::test]
async fn the_two_kinds_of_store_do_not_open_each_other() {
    let database = Database::new();
    drop(database.open().await);
    let refused = SqliteLogStore::open(&database.path(), LIMITS, &Tasks::new()).await;
    assert!(matches!(refused, Err(SqliteOpenError::Foreign { .. })), "{refused:?}");
    let database = Database::new();
    let path = database.path();
    drop(SqliteLogStore::open(&path, LIMITS, &Tasks::new()).await.expect("opens"));
    let refused = SqliteStore::open(&path, &Tasks::new()).await;
    assert!(matches!(refused, Err(SqliteOpenError::Foreign { .. })), "{refused:?}");
}

#[tokio::test]
async fn damaged_lines_are_told_and_do_not_hide_the_rest() {
    let database = Database::new();
    let path = database.path();
    let store = SqliteLogStore::open(&path, LIMITS, &Tasks::new()).await.expect("opens");
    for number in 1..=2 {
        store.log_append(&batch(number), UnixMillis(1)).await.expect("stored");
    }
    let mut raw = database.raw().await;
    let damage = sqlx::query("UPDATE log_chunk SET lines = '[' WHERE first = 1");
    damage.execute(&mut raw).await.expect("changed");
    match store.log_read(&query()).await {
        Err(StoreError::Internal { detail }) => assert!(detail.contains("damaged"), "{detail}"),
        other => unreachable!("{other:?}"),
    }
    let later = LogQuery { start: LogStart::After(1), ..query() };
    assert_eq!(store.log_read(&later).await.expect("read").records.len(), 1);
}
