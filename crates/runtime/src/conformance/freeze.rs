//! Freeze and thaw, for runtimes that can.

use super::{
    Case, Outcome,
    harness::{Harness, SILENCE},
    probe::answers,
};
use crate::{Adopted, RuntimeError};

pub(super) const CASES: &[Case] = &[
    Case::new("a frozen sandbox is silent until it is thawed", |h| Box::pin(silent(h))),
    Case::new("freezing and thawing twice is once", |h| Box::pin(twice(h))),
    Case::new("a sandbox outlives many a freeze", |h| Box::pin(often(h))),
    Case::new("a frozen sandbox can be deleted", |h| Box::pin(deleted(h))),
    Case::new("a frozen sandbox is adopted frozen, and thawed", |h| Box::pin(adopted(h))),
    Case::new("a runtime that cannot freeze says so", |h| Box::pin(refused(h))),
];

const CANNOT: Outcome = Outcome::Skipped("the runtime does not freeze");

fn can(harness: &Harness) -> bool {
    harness.runtime().capabilities().freeze
}

async fn silent(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, started) = harness.start().await;
    let runtime = harness.runtime();
    for _ in 0..2 {
        runtime.freeze(&spec.id).await.expect("it freezes");
        assert!(!answers(started.daemon, SILENCE).await, "it answers although it is frozen");
        assert_eq!(harness.list().await, std::slice::from_ref(&spec.id), "frozen is listed");
        runtime.stats(&spec.id).await.expect("a frozen one has stats");
        runtime.thaw(&spec.id).await.expect("it thaws");
        harness.expect_reachable(&started).await;
    }
    harness.expect_no_event().await;
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn twice(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, started) = harness.start().await;
    let runtime = harness.runtime();
    runtime.thaw(&spec.id).await.expect("thawing what is not frozen does nothing");
    for _ in 0..2 {
        runtime.freeze(&spec.id).await.expect("it freezes");
    }
    for _ in 0..2 {
        runtime.thaw(&spec.id).await.expect("it thaws");
        harness.expect_reachable(&started).await;
    }
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn often(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, started) = harness.start().await;
    let runtime = harness.runtime();
    // Several while it has nothing to do, and one while it has.
    for _ in 0..5 {
        for _ in 0..3 {
            runtime.freeze(&spec.id).await.expect("it freezes");
            runtime.thaw(&spec.id).await.expect("it thaws");
        }
        for _ in 0..3 {
            harness.expect_reachable(&started).await;
        }
    }
    harness.expect_no_event().await;
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn deleted(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, _) = harness.start().await;
    harness.runtime().freeze(&spec.id).await.expect("it freezes");
    harness.delete(&spec).await;
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn adopted(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, started) = harness.start().await;
    harness.runtime().freeze(&spec.id).await.expect("it freezes");
    harness.restart().await;
    let adopted = harness.runtime().adopt(&spec).await.expect("its state is known");
    assert_eq!(adopted, Adopted::Running(started.clone()));
    assert!(!answers(started.daemon, SILENCE).await, "adopting does not thaw");
    harness.runtime().thaw(&spec.id).await.expect("it thaws");
    harness.expect_reachable(&started).await;
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn refused(harness: &mut Harness) -> Outcome {
    if can(harness) {
        return Outcome::Skipped("the runtime freezes");
    }
    let (spec, started) = harness.start().await;
    let refused = harness.runtime().freeze(&spec.id).await;
    assert!(matches!(refused, Err(RuntimeError::NotSupported { .. })), "{refused:?}");
    harness.expect_reachable(&started).await;
    harness.delete(&spec).await;
    Outcome::Passed
}
