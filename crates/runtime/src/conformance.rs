//! What every runtime must do, as cases that any runtime can be run through.
//!
//! The suite knows no technology: a [`Fixture`] prepares what a sandbox needs and does what the
//! [`Runtime`] trait has no verb for. The daemon is only ever asked whether it answers at all, so
//! any HTTP server on the daemon's port will do.

mod adopt;
mod freeze;
mod harness;
mod image;
mod life;
mod probe;

use std::{any::Any, panic::AssertUnwindSafe, path::PathBuf, pin::Pin, sync::Arc};

use async_trait::async_trait;
use futures::FutureExt as _;
use tokio::sync::mpsc;

use self::harness::Harness;
pub use self::probe::answers;
use crate::{Runtime, RuntimeEvent, RuntimeSpec, Started};

/// Does for the suite what a host does for a runtime.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// Makes a runtime over the one backend of this fixture.
    ///
    /// Each call stands for a start of the server: what an earlier runtime object of this fixture
    /// still has going in the background must be ended, and no sandbox with it.
    async fn runtime(&self, events: mpsc::Sender<RuntimeEvent>) -> Arc<dyn Runtime>;

    /// Prepares everything a new sandbox needs, under an id never used before.
    async fn prepare(&self) -> RuntimeSpec;

    /// Prepares a sandbox whose `create` or `start` must fail, such as one without a daemon
    /// program; `None` skips the cases that need it.
    async fn prepare_unstartable(&self) -> Option<RuntimeSpec> {
        None
    }

    /// Makes a new empty directory for a memory image; it may live as long as the fixture.
    async fn empty_dir(&self) -> PathBuf;

    /// Gives back what was prepared, after the sandbox was deleted.
    async fn release(&self, spec: &RuntimeSpec);

    /// Ends the backend of a running sandbox from outside, as a crash would.
    async fn kill(&self, spec: &RuntimeSpec, started: &Started);

    /// Names whatever the host still has of a deleted sandbox: processes, cgroups, directories.
    async fn leftovers(&self, spec: &RuntimeSpec) -> Vec<String>;

    /// Says what the host sees of a running sandbox that does not answer.
    async fn describe(&self, _started: &Started) -> String {
        String::new()
    }
}

/// What became of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The runtime does what is demanded.
    Passed,
    /// The runtime or its fixture says that it cannot.
    Skipped(&'static str),
}

type CaseFuture<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// One named demand on a runtime.
#[derive(Clone, Copy)]
pub struct Case {
    /// What is demanded.
    pub name: &'static str,
    body: for<'a> fn(&'a mut Harness) -> CaseFuture<'a>,
}

/// Returns every case.
#[must_use]
pub fn cases() -> Vec<Case> {
    [life::CASES, adopt::CASES, freeze::CASES, image::CASES].concat()
}

/// Runs every case, one after the other, and fails with the names of those that failed and what
/// each said.
///
/// After each case all its sandboxes are deleted and released, failed or not. Returns the names of
/// the skipped cases with the reasons.
///
/// # Panics
/// Panics when a case failed.
pub async fn run(fixture: Arc<dyn Fixture>) -> Vec<(&'static str, &'static str)> {
    let mut failed = Vec::new();
    let mut skipped = Vec::new();
    for case in cases() {
        let mut harness = Harness::new(Arc::clone(&fixture)).await;
        // One failure must not hide the others, nor leave its sandboxes behind.
        let outcome = AssertUnwindSafe((case.body)(&mut harness)).catch_unwind().await;
        let tidy = AssertUnwindSafe(harness.tear_down()).catch_unwind().await;
        match (outcome, tidy) {
            (Ok(Outcome::Passed), Ok(())) => {}
            (Ok(Outcome::Skipped(reason)), Ok(())) => skipped.push((case.name, reason)),
            (Err(panicked), _) | (_, Err(panicked)) => {
                failed.push(format!("{}: {}", case.name, said(&*panicked)));
            }
        }
    }
    assert!(failed.is_empty(), "the runtime fails these cases:\n{}", failed.join("\n"));
    skipped
}

/// Returns what a panic said.
fn said(panicked: &(dyn Any + Send)) -> &str {
    let text = panicked.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panicked.downcast_ref().copied()).unwrap_or("no reason")
}

// === impl Case ===

impl Case {
    const fn new(name: &'static str, body: for<'a> fn(&'a mut Harness) -> CaseFuture<'a>) -> Self {
        Self { name, body }
    }
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}
