//! From create to delete, by whatever way.

use std::{collections::BTreeSet, sync::Arc};

use tarn_types::{ByteSize, Resources, SandboxId};

use super::{
    Case, Outcome,
    harness::{Harness, all_at_once, expect_reachable},
    probe::answers,
};
use crate::{Adopted, CpuShare, RuntimeError, RuntimeExit, RuntimeSpec};

pub(super) const CASES: &[Case] = &[
    Case::new("a life: create, start, answer, delete", |h| Box::pin(life(h))),
    Case::new("what never was is not found, and deleted at once", |h| Box::pin(never_was(h))),
    Case::new("a created sandbox can be deleted, twice", |h| Box::pin(delete_created(h))),
    Case::new("a running sandbox can be deleted, twice", |h| Box::pin(delete_running(h))),
    Case::new("a deleted sandbox can be made again", |h| Box::pin(make_again(h))),
    Case::new("the same id is refused and the first unharmed", |h| Box::pin(create_twice(h))),
    Case::new("a second start is refused and the first unharmed", |h| Box::pin(start_twice(h))),
    Case::new("a failed start leaves nothing after its delete", |h| Box::pin(failed_start(h))),
    Case::new("a killed sandbox is reported once", |h| Box::pin(killed(h))),
    Case::new("stats are of now, and cpu time only grows", |h| Box::pin(stats(h))),
    Case::new("one that nobody waits for is promoted", |h| Box::pin(promote(h))),
    Case::new("one that runs is given other limits", |h| Box::pin(resize(h))),
    Case::new("ten at once", |h| Box::pin(ten_at_once(h))),
];

async fn life(harness: &mut Harness) -> Outcome {
    let spec = harness.prepare().await;
    let runtime = harness.runtime();
    runtime.create(&spec).await.expect("a prepared sandbox is created");
    assert_eq!(harness.list().await, std::slice::from_ref(&spec.id), "created is listed");
    let started = runtime.start(&spec.id).await.expect("a created sandbox starts");
    harness.expect_reachable(&started).await;
    assert_eq!(harness.list().await, std::slice::from_ref(&spec.id), "running is listed");
    harness.delete(&spec).await;
    assert!(!answers(started.daemon, super::harness::SILENCE).await, "its daemon is gone");
    assert_eq!(harness.list().await, []);
    Outcome::Passed
}

async fn never_was(harness: &mut Harness) -> Outcome {
    let spec = harness.prepare().await;
    let runtime = harness.runtime();
    expect_not_found(&runtime.start(&spec.id).await, &spec.id);
    expect_not_found(&runtime.stats(&spec.id).await, &spec.id);
    expect_not_found(&runtime.promote(&spec.id).await, &spec.id);
    if runtime.capabilities().live_resize {
        expect_not_found(&runtime.resize(&spec.id, &spec.resources).await, &spec.id);
    }
    if runtime.capabilities().freeze {
        expect_not_found(&runtime.freeze(&spec.id).await, &spec.id);
        expect_not_found(&runtime.thaw(&spec.id).await, &spec.id);
    }
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn promote(harness: &mut Harness) -> Outcome {
    let spec = RuntimeSpec { share: CpuShare::Least, ..harness.prepare().await };
    let runtime = harness.runtime();
    runtime.create(&spec).await.expect("it is created");
    let started = runtime.start(&spec.id).await.expect("it starts");
    harness.expect_reachable(&started).await;
    for _ in 0..2 {
        runtime.promote(&spec.id).await.expect("it gets its share");
    }
    harness.expect_reachable(&started).await;
    harness.delete(&spec).await;
    expect_not_found(&runtime.promote(&spec.id).await, &spec.id);
    Outcome::Passed
}

async fn resize(harness: &mut Harness) -> Outcome {
    let (spec, started) = harness.start().await;
    let runtime = harness.runtime();
    if !runtime.capabilities().live_resize {
        let refused = runtime.resize(&spec.id, &spec.resources).await;
        assert!(matches!(refused, Err(RuntimeError::NotSupported { .. })), "{refused:?}");
        harness.delete(&spec).await;
        return Outcome::Skipped("the runtime has no live resize");
    }
    let had = spec.resources;
    let large = Resources { memory: had.memory.saturating_add(had.memory), ..had };
    for resources in [large, large, had] {
        runtime.resize(&spec.id, &resources).await.expect("it has other limits");
        harness.expect_reachable(&started).await;
    }
    harness.delete(&spec).await;
    expect_not_found(&runtime.resize(&spec.id, &had).await, &spec.id);
    Outcome::Passed
}

async fn delete_created(harness: &mut Harness) -> Outcome {
    let spec = harness.prepare().await;
    harness.runtime().create(&spec).await.expect("a prepared sandbox is created");
    harness.delete(&spec).await;
    harness.delete(&spec).await;
    expect_not_found(&harness.runtime().start(&spec.id).await, &spec.id);
    Outcome::Passed
}

async fn delete_running(harness: &mut Harness) -> Outcome {
    let (spec, _) = harness.start().await;
    harness.delete(&spec).await;
    harness.delete(&spec).await;
    expect_not_found(&harness.runtime().stats(&spec.id).await, &spec.id);
    Outcome::Passed
}

async fn make_again(harness: &mut Harness) -> Outcome {
    let (spec, first) = harness.start().await;
    let runtime = harness.runtime();
    runtime.delete(&spec.id).await.expect("a delete succeeds");
    runtime.create(&spec).await.expect("the id is free again");
    let second = runtime.start(&spec.id).await.expect("a created sandbox starts");
    harness.expect_reachable(&second).await;
    let process = |started: &crate::Started| (started.pid, started.pid_started);
    assert_ne!(process(&first), process(&second), "another process");
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn create_twice(harness: &mut Harness) -> Outcome {
    let spec = harness.prepare().await;
    let runtime = harness.runtime();
    runtime.create(&spec).await.expect("a prepared sandbox is created");
    expect_exists(&runtime.create(&spec).await, &spec.id);
    let started = runtime.start(&spec.id).await.expect("the first starts all the same");
    harness.expect_reachable(&started).await;
    expect_exists(&runtime.create(&spec).await, &spec.id);
    harness.expect_reachable(&started).await;
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn start_twice(harness: &mut Harness) -> Outcome {
    let (spec, started) = harness.start().await;
    let second = harness.runtime().start(&spec.id).await;
    assert!(second.is_err(), "{second:?}");
    harness.expect_reachable(&started).await;
    harness.expect_no_event().await;
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn failed_start(harness: &mut Harness) -> Outcome {
    let Some(spec) = harness.prepare_unstartable().await else {
        return Outcome::Skipped("the fixture knows no sandbox that cannot start");
    };
    let runtime = harness.runtime();
    if runtime.create(&spec).await.is_err() {
        // A failed create has undone itself already.
        harness.expect_gone(&spec).await;
        return Outcome::Passed;
    }
    let started = runtime.start(&spec.id).await;
    assert!(started.is_err(), "it was prepared to fail: {started:?}");
    harness.delete(&spec).await;
    assert_eq!(runtime.adopt(&spec).await.expect("its state is known"), Adopted::Gone);
    Outcome::Passed
}

async fn killed(harness: &mut Harness) -> Outcome {
    let (spec, started) = harness.start().await;
    harness.kill(&spec, &started).await;
    let exit = harness.expect_exit(&spec.id).await;
    assert!(matches!(exit, RuntimeExit::Died(_)), "{exit:?}");
    expect_not_found(&harness.runtime().stats(&spec.id).await, &spec.id);
    let adopted = harness.runtime().adopt(&spec).await;
    assert_eq!(adopted.expect("its state is known"), Adopted::Gone);
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn stats(harness: &mut Harness) -> Outcome {
    let (spec, started) = harness.start().await;
    let runtime = harness.runtime();
    let first = runtime.stats(&spec.id).await.expect("stats");
    assert!(first.memory > ByteSize::from_bytes(0), "{first:?}");
    assert!(first.memory <= spec.resources.memory, "{first:?}");
    assert!(first.cpu_micros > 0, "{first:?}");
    harness.expect_reachable(&started).await;
    let second = runtime.stats(&spec.id).await.expect("stats");
    assert!(second.cpu_micros >= first.cpu_micros, "{first:?}, then {second:?}");
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn ten_at_once(harness: &mut Harness) -> Outcome {
    let mut specs = Vec::new();
    for _ in 0..10 {
        specs.push(harness.prepare().await);
    }
    let runtime = harness.runtime();
    all_at_once(specs.clone(), |spec| {
        let (runtime, fixture) = (Arc::clone(&runtime), harness.fixture());
        async move {
            runtime.create(&spec).await.expect("a prepared sandbox is created");
            let started = runtime.start(&spec.id).await.expect("a created sandbox starts");
            expect_reachable(&*fixture, &started).await;
        }
    })
    .await;
    let listed: BTreeSet<SandboxId> = harness.list().await.into_iter().collect();
    assert_eq!(listed, specs.iter().map(|spec| spec.id.clone()).collect());
    all_at_once(specs.clone(), |spec| {
        let runtime = Arc::clone(&runtime);
        async move { runtime.delete(&spec.id).await.expect("a delete succeeds") }
    })
    .await;
    assert_eq!(harness.list().await, []);
    for spec in &specs {
        harness.expect_gone(spec).await;
    }
    Outcome::Passed
}

pub(super) fn expect_not_found<T: std::fmt::Debug>(got: &Result<T, RuntimeError>, id: &SandboxId) {
    assert!(matches!(got, Err(RuntimeError::NotFound { id: missing }) if missing == id), "{got:?}");
}

pub(super) fn expect_exists<T: std::fmt::Debug>(got: &Result<T, RuntimeError>, id: &SandboxId) {
    assert!(matches!(got, Err(RuntimeError::Exists { id: there }) if there == id), "{got:?}");
}
