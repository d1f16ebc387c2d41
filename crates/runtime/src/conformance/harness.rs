//! What every case starts from: a runtime, its events, and the sandboxes made so far.

use std::{future::poll_fn, path::PathBuf, sync::Arc, task::Poll, time::Duration};

use tarn_types::SandboxId;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{Fixture, probe::attempt};
use crate::{Runtime, RuntimeEvent, RuntimeExit, RuntimeSpec, Started};

/// Longer than anything a loaded machine needs; only a failure waits so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a frozen sandbox is watched not answering. The only wait that a success takes.
pub(super) const SILENCE: Duration = Duration::from_millis(300);

/// More events than all cases together bring about, so that no runtime waits for the suite.
const EVENTS: usize = 256;

/// A runtime under test.
pub(super) struct Harness {
    fixture: Arc<dyn Fixture>,
    runtime: Arc<dyn Runtime>,
    events: mpsc::Receiver<RuntimeEvent>,
    prepared: Vec<RuntimeSpec>,
}

// === impl Harness ===

impl Harness {
    pub(super) async fn new(fixture: Arc<dyn Fixture>) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        let runtime = fixture.runtime(sender).await;
        Self { fixture, runtime, events, prepared: Vec::new() }
    }

    pub(super) fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.runtime)
    }

    pub(super) fn fixture(&self) -> Arc<dyn Fixture> {
        Arc::clone(&self.fixture)
    }

    /// Waits until a daemon answers.
    pub(super) async fn expect_reachable(&self, started: &Started) {
        expect_reachable(&*self.fixture, started).await;
    }

    /// Prepares a sandbox without making it.
    pub(super) async fn prepare(&mut self) -> RuntimeSpec {
        let spec = self.fixture.prepare().await;
        self.prepared.push(spec.clone());
        spec
    }

    /// Prepares a sandbox that cannot start, if the fixture knows how.
    pub(super) async fn prepare_unstartable(&mut self) -> Option<RuntimeSpec> {
        let spec = self.fixture.prepare_unstartable().await?;
        self.prepared.push(spec.clone());
        Some(spec)
    }

    pub(super) async fn empty_dir(&self) -> PathBuf {
        self.fixture.empty_dir().await
    }

    /// Makes and starts a sandbox, and waits until its daemon answers.
    pub(super) async fn start(&mut self) -> (RuntimeSpec, Started) {
        let spec = self.prepare().await;
        self.runtime.create(&spec).await.expect("a prepared sandbox is created");
        let started = self.runtime.start(&spec.id).await.expect("a created sandbox starts");
        self.expect_reachable(&started).await;
        (spec, started)
    }

    /// Does what a restart of the server does: another runtime over the same backend.
    pub(super) async fn restart(&mut self) {
        let (sender, events) = mpsc::channel(EVENTS);
        self.events = events;
        self.runtime = self.fixture.runtime(sender).await;
    }

    pub(super) async fn kill(&self, spec: &RuntimeSpec, started: &Started) {
        self.fixture.kill(spec, started).await;
    }

    /// Waits for the event that a sandbox ended by itself.
    pub(super) async fn expect_exit(&mut self, id: &SandboxId) -> RuntimeExit {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        let event = event.expect("an exit is reported in time").expect("the runtime lives");
        let RuntimeEvent::Exited { id: ended, exit } = event else {
            unreachable!("not an exit: {event:?}")
        };
        assert_eq!(ended, *id);
        exit
    }

    /// Deletes a sandbox and checks that nothing of it is left, and no event comes of it.
    pub(super) async fn delete(&mut self, spec: &RuntimeSpec) {
        self.runtime.delete(&spec.id).await.expect("a delete succeeds");
        self.expect_gone(spec).await;
    }

    /// Checks that nothing is left of a sandbox.
    pub(super) async fn expect_gone(&mut self, spec: &RuntimeSpec) {
        let listed = self.list().await;
        assert!(!listed.contains(&spec.id), "{} is still listed", spec.id);
        let leftovers = self.fixture.leftovers(spec).await;
        assert!(leftovers.is_empty(), "left of {}: {leftovers:?}", spec.id);
        self.expect_no_event().await;
    }

    /// Checks that no event is waiting.
    pub(super) async fn expect_no_event(&mut self) {
        // Polls once: an event of what was awaited before is already in the channel.
        let waiting = poll_fn(|context| match self.events.poll_recv(context) {
            Poll::Ready(event) => Poll::Ready(event),
            Poll::Pending => Poll::Ready(None),
        });
        let waiting = waiting.await;
        assert!(waiting.is_none(), "nobody asked for {waiting:?}");
    }

    pub(super) async fn lives(&self, spec: &RuntimeSpec) -> bool {
        self.runtime.lives(&spec.id).await.expect("it can be told")
    }

    pub(super) async fn list(&self) -> Vec<SandboxId> {
        self.runtime.list().await.expect("a list")
    }

    /// Removes whatever the case made.
    pub(super) async fn tear_down(mut self) {
        for spec in std::mem::take(&mut self.prepared) {
            self.runtime.delete(&spec.id).await.expect("a delete succeeds");
            self.fixture.release(&spec).await;
        }
        assert_eq!(self.list().await, [], "the case left sandboxes");
    }
}

/// Waits until a daemon answers.
pub(super) async fn expect_reachable(fixture: &dyn Fixture, started: &Started) {
    let (began, mut tries) = (Instant::now(), 0);
    while let Err(last) = attempt(started.daemon, PATIENCE).await {
        tries += 1;
        assert!(
            began.elapsed() < PATIENCE,
            "{} does not answer in time; try {tries}: {last}; {}",
            started.daemon,
            fixture.describe(started).await
        );
        // The daemon is booting; there is nothing to subscribe to.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs the same thing at once for each of a list.
pub(super) async fn all_at_once<T, F>(items: Vec<T>, body: impl Fn(T) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let tasks: JoinSet<()> = items.into_iter().map(body).collect();
    tasks.join_all().await;
}
