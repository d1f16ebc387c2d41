//! The simulated runtime passes the suite of all runtimes.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use async_trait::async_trait;
use tarn_runtime::{
    Runtime, RuntimeEvent, RuntimeExit, RuntimeSpec, Started,
    conformance::{self, Fixture},
    sim::{SimHost, SimRuntime, SimStep},
};
use tarn_task::Tasks;
use tokio::sync::mpsc;

use crate::support;

struct SimFixture {
    host: SimHost,
    prepared: AtomicU16,
    dir: tempfile::TempDir,
}

#[async_trait]
impl Fixture for SimFixture {
    async fn runtime(&self, events: mpsc::Sender<RuntimeEvent>) -> Arc<dyn Runtime> {
        Arc::new(SimRuntime::on(&self.host, events))
    }

    async fn prepare(&self) -> RuntimeSpec {
        support::spec(self.prepared.fetch_add(1, Ordering::SeqCst))
    }

    async fn prepare_unstartable(&self) -> Option<RuntimeSpec> {
        self.host.faults().fail(SimStep::Start, 1);
        Some(self.prepare().await)
    }

    async fn empty_dir(&self) -> PathBuf {
        // Removed with the directory around it.
        tempfile::tempdir_in(self.dir.path()).expect("a writable directory").keep()
    }

    async fn release(&self, _spec: &RuntimeSpec) {}

    async fn kill(&self, spec: &RuntimeSpec, _started: &Started) {
        assert!(self.host.kill(&spec.id, RuntimeExit::Died("killed")).await, "it ran");
    }

    async fn leftovers(&self, _spec: &RuntimeSpec) -> Vec<String> {
        Vec::new()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let fixture = SimFixture {
        host: SimHost::new(Tasks::new()),
        prepared: AtomicU16::new(0),
        dir: tempfile::tempdir().expect("a writable directory"),
    };
    let skipped = conformance::run(Arc::new(fixture)).await;
    assert_eq!(
        skipped,
        [
            ("a runtime that cannot freeze says so", "the runtime freezes"),
            ("a runtime without memory snapshots says so", "the runtime has them"),
        ]
    );
}
