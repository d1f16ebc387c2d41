//! Databases in directories of their own.

use std::path::{Path, PathBuf};

use sqlx::{ConnectOptions as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tarn_store_sql::SqliteStore;
use tarn_task::Tasks;
use tarn_types::{
    Generation, Intent, PendingReason, PortAccess, ProjectId, Resources, SandboxId, SandboxRecord,
    SandboxSpec, Target, UnixMillis,
};
use tempfile::TempDir;

/// A directory with a database in it.
pub(crate) struct Database {
    directory: TempDir,
}

impl Database {
    pub(crate) fn new() -> Self {
        Self { directory: TempDir::new().expect("a directory") }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("tarn.db")
    }

    pub(crate) async fn open(&self) -> (SqliteStore, Tasks) {
        let tasks = Tasks::new();
        let store = SqliteStore::open(&self.path(), &tasks).await.expect("the database opens");
        (store, tasks)
    }

    /// Opens the file as somebody else would.
    pub(crate) async fn raw(&self) -> SqliteConnection {
        raw(&self.path()).await
    }
}

pub(crate) async fn raw(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    options.connect().await.expect("SQLite opens the file")
}

/// Returns a pending sandbox.
pub(crate) fn record(number: u32) -> SandboxRecord {
    let mut random = [0; SandboxId::LENGTH];
    for (place, digit) in random.iter_mut().zip(format!("{number:010}").bytes()) {
        *place = digit - b'0';
    }
    SandboxRecord {
        id: SandboxId::from_random(random),
        project: ProjectId::from_random([1; 16]),
        created_at: UnixMillis(1_800_000_000_000 + i64::from(number)),
        asked: SandboxSpec {
            name: None,
            image: "tensorlake/ubuntu-minimal".parse().expect("a good image name"),
            resources: Resources::default(),
            timeout_secs: 600,
            entrypoint: None,
            network: None,
            ports: PortAccess::default(),
            auto_resume: true,
            max_pending_secs: None,
            restore: None,
            secret_names: Vec::new(),
            template_id: None,
        },
        intent: Intent {
            generation: Generation::FIRST,
            target: Target::Running,
            node: None,
            pending_reason: Some(PendingReason::Scheduling),
        },
        observed: None,
        sequence: 1,
        running_at: None,
        terminated_at: None,
        end: None,
        capturing: None,
        member: None,
        resize: None,
    }
}
