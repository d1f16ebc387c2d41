//! The server goes, the sandboxes stay, another server comes.

use super::{Case, Outcome, harness::Harness};
use crate::{Adopted, RuntimeExit};

pub(super) const CASES: &[Case] = &[
    Case::new("a running sandbox is adopted as it is", |h| Box::pin(running(h))),
    Case::new("an adopted sandbox is watched", |h| Box::pin(watched(h))),
    Case::new("an adopted sandbox can be deleted without an event", |h| Box::pin(deleted(h))),
    Case::new("a created sandbox is adopted and started", |h| Box::pin(created(h))),
    Case::new("a sandbox that died unwatched is gone", |h| Box::pin(died_unwatched(h))),
    Case::new("a sandbox that never was is gone", |h| Box::pin(never_was(h))),
    Case::new("a sandbox nobody adopted is listed and can be deleted", |h| Box::pin(orphan(h))),
    Case::new("adopting twice changes nothing", |h| Box::pin(twice(h))),
];

async fn running(harness: &mut Harness) -> Outcome {
    let (spec, started) = harness.start().await;
    harness.restart().await;
    harness.expect_reachable(&started).await;
    assert_eq!(harness.list().await, std::slice::from_ref(&spec.id));
    assert!(harness.lives(&spec).await, "it has its processes");
    let adopted = harness.runtime().adopt(&spec).await.expect("its state is known");
    assert_eq!(adopted, Adopted::Running(started.clone()));
    harness.expect_reachable(&started).await;
    harness.runtime().stats(&spec.id).await.expect("an adopted one has stats");
    harness.expect_no_event().await;
    Outcome::Passed
}

async fn watched(harness: &mut Harness) -> Outcome {
    let (spec, started) = harness.start().await;
    harness.restart().await;
    harness.runtime().adopt(&spec).await.expect("its state is known");
    harness.kill(&spec, &started).await;
    let exit = harness.expect_exit(&spec.id).await;
    assert!(matches!(exit, RuntimeExit::Died(_)), "{exit:?}");
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn deleted(harness: &mut Harness) -> Outcome {
    let (spec, _) = harness.start().await;
    harness.restart().await;
    harness.runtime().adopt(&spec).await.expect("its state is known");
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn created(harness: &mut Harness) -> Outcome {
    let spec = harness.prepare().await;
    harness.runtime().create(&spec).await.expect("a prepared sandbox is created");
    harness.restart().await;
    assert!(harness.lives(&spec).await, "one that waits for its start lives too");
    let adopted = harness.runtime().adopt(&spec).await.expect("its state is known");
    assert_eq!(adopted, Adopted::Created);
    let started = harness.runtime().start(&spec.id).await.expect("an adopted one starts");
    harness.expect_reachable(&started).await;
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn died_unwatched(harness: &mut Harness) -> Outcome {
    let (spec, started) = harness.start().await;
    harness.restart().await;
    harness.kill(&spec, &started).await;
    assert!(!harness.lives(&spec).await, "whatever it left");
    let adopted = harness.runtime().adopt(&spec).await.expect("its state is known");
    assert_eq!(adopted, Adopted::Gone);
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn never_was(harness: &mut Harness) -> Outcome {
    let spec = harness.prepare().await;
    assert!(!harness.lives(&spec).await);
    let adopted = harness.runtime().adopt(&spec).await.expect("its state is known");
    assert_eq!(adopted, Adopted::Gone);
    assert_eq!(harness.list().await, []);
    Outcome::Passed
}

async fn orphan(harness: &mut Harness) -> Outcome {
    let (spec, _) = harness.start().await;
    harness.restart().await;
    assert_eq!(harness.list().await, std::slice::from_ref(&spec.id));
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn twice(harness: &mut Harness) -> Outcome {
    let (spec, started) = harness.start().await;
    for _ in 0..2 {
        let adopted = harness.runtime().adopt(&spec).await.expect("its state is known");
        assert_eq!(adopted, Adopted::Running(started.clone()));
    }
    harness.kill(&spec, &started).await;
    harness.expect_exit(&spec.id).await;
    // A second watcher would report the exit again; the delete checks that nobody does.
    harness.delete(&spec).await;
    Outcome::Passed
}
