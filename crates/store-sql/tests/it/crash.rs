//! The writing process is killed: everything that it said is stored must be stored.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use tarn_store::Store as _;
use tarn_store_sql::SqliteStore;
use tarn_task::Tasks;
use tarn_types::SandboxStatus;
use tokio::task::JoinSet;

use crate::support::{Database, record};

/// Tells the child where to write.
const CHILD_PATH: &str = "TARN_TEST_CRASH_DATABASE";

/// Writers at once, so that the kill meets shared commits.
const WRITERS: u32 = 4;

/// Acknowledgements to read before the kill.
const ENOUGH: usize = 300;

/// The child's part, and by itself a test that what is acknowledged is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_writes_and_acknowledges() {
    let database = Database::new();
    // Only this test reads it, and only the parent below sets it.
    let parent = std::env::var_os(CHILD_PATH).map(PathBuf::from);
    let each = if parent.is_some() { u32::MAX / WRITERS } else { 5 };
    let path = parent.clone().unwrap_or_else(|| database.path());
    let store = SqliteStore::open(&path, &Tasks::new()).await.expect("the database opens");
    let store = Arc::new(store);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        let has_parent = parent.is_some();
        writers.spawn(async move {
            for number in (writer * each..).take(each as usize) {
                let record = record(number);
                let stored = store.sandbox_insert(&record, SandboxStatus::Pending).await;
                stored.expect("inserted");
                if has_parent {
                    // In one piece, past the capture of the test harness.
                    let line = format!("stored {number}\n");
                    std::io::stdout().write_all(line.as_bytes()).expect("the parent listens");
                }
            }
        });
    }
    writers.join_all().await;
    let live = store.sandbox_list_live().await.expect("a list");
    assert_eq!(live.len(), (WRITERS * each) as usize);
}

#[tokio::test]
async fn everything_acknowledged_survives_a_kill() {
    let database = Database::new();
    for round in 1..=3 {
        // The same file again: the second child finds what the first left behind.
        let acknowledged = write_until_killed(&database);
        assert!(acknowledged.len() >= ENOUGH, "round {round}: {}", acknowledged.len());
        let (store, _tasks) = database.open().await;
        for number in &acknowledged {
            let expected = record(*number);
            let found = store.sandbox_fetch(&expected.id).await;
            assert_eq!(found.expect("it was acknowledged"), expected, "round {round}");
        }
        let mut raw = database.raw().await;
        let check: String =
            sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut raw).await.expect("read");
        assert_eq!(check, "ok");
        sqlx::query("DELETE FROM sandbox").execute(&mut raw).await.expect("deleted");
    }
}

/// Runs the child until it has acknowledged enough, kills it, and returns all that it said.
fn write_until_killed(database: &Database) -> Vec<u32> {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "crash::child_writes_and_acknowledges", "--nocapture"])
        .env(CHILD_PATH, database.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut acknowledged = Vec::new();
    while acknowledged.len() < ENOUGH {
        let line = lines.next().expect("the child goes on").expect("text");
        acknowledged.extend(number_of(&line));
    }
    child.kill().expect("killed");
    child.wait().expect("it is gone");
    // What is still in the pipe was said before the kill. A line cut short was not.
    acknowledged.extend(lines.map_while(Result::ok).filter_map(|line| number_of(&line)));
    acknowledged
}

fn number_of(line: &str) -> Option<u32> {
    line.strip_prefix("stored ")?.parse().ok()
}
