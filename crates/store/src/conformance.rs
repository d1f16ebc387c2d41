//! What every store must do, as cases that any store can be run through.
//!
//! Each case gets a fresh, empty store and panics, with the reason, when the store is wrong.

mod build;
mod image;
pub mod log;
mod page;
mod pool;
mod project;
mod quota;
mod race;
mod registered_image;
mod sample;
mod sandbox;
mod secret;
mod snapshot;
mod ssh_key;

use std::{pin::Pin, sync::Arc};

use tokio::task::JoinSet;

use crate::Store;

type CaseFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One named demand on a store.
#[derive(Clone, Copy)]
pub struct Case {
    /// What is demanded.
    pub name: &'static str,
    body: fn(Arc<dyn Store>) -> CaseFuture,
}

/// Returns every case.
#[must_use]
pub fn cases() -> Vec<Case> {
    [
        sandbox::CASES,
        page::CASES,
        snapshot::CASES,
        pool::CASES,
        build::CASES,
        secret::CASES,
        image::CASES,
        registered_image::CASES,
        project::CASES,
        quota::CASES,
        ssh_key::CASES,
        race::CASES,
    ]
    .concat()
}

/// Runs every case, each on a store of its own, and fails with the names of those that failed.
///
/// # Panics
/// Panics when a case failed; what each one said went to stderr before.
pub async fn run(make: impl AsyncFn() -> Arc<dyn Store>) {
    let mut failed = Vec::new();
    for case in cases() {
        let store = make().await;
        // A task of its own, so that one failure does not hide the others.
        let mut task = JoinSet::new();
        task.spawn((case.body)(store));
        if let Some(Err(_panicked)) = task.join_next().await {
            failed.push(case.name);
        }
    }
    assert!(failed.is_empty(), "the store fails these cases: {failed:#?}");
}

// === impl Case ===

impl Case {
    const fn new(name: &'static str, body: fn(Arc<dyn Store>) -> CaseFuture) -> Self {
        Self { name, body }
    }

    /// Runs the case on an empty store.
    ///
    /// # Panics
    /// Panics when the store is wrong.
    pub async fn check(&self, store: Arc<dyn Store>) {
        (self.body)(store).await;
    }
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}
