//! How long a start takes. Prints; the bounds are wide, as other work may be going on.

use std::{sync::Arc, time::Duration};

use tarn_runtime::{Runtime as _, RuntimeSpec};
use tarn_runtime_oci::GvisorRuntime;
use tokio::time::Instant;

use crate::host::{Host, answers, boot};

const LIVES: usize = 20;

/// Milliseconds of each phase of one life.
struct Life {
    create: f64,
    start: f64,
    answer: f64,
    total: f64,
    delete: f64,
}

async fn live(runtime: &GvisorRuntime, spec: &RuntimeSpec) -> Life {
    let millis = |since: Instant| since.elapsed().as_secs_f64() * 1000.0;
    let began = Instant::now();
    runtime.create(spec).await.unwrap();
    let create = millis(began);
    let started = runtime.start(&spec.id).await.unwrap();
    let start = millis(began) - create;
    answers(&started).await;
    let total = millis(began);
    let ending = Instant::now();
    runtime.delete(&spec.id).await.unwrap();
    Life { create, start, answer: total - create - start, total, delete: millis(ending) }
}

fn report(name: &str, lives: &[Life], of: impl Fn(&Life) -> f64) -> f64 {
    let mut values: Vec<f64> = lives.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let median = values[values.len() / 2];
    let last = values[values.len() - 1];
    println!("{name:>8}: min {:6.1}  median {median:6.1}  max {last:6.1} ms", values[0]);
    median
}

#[tokio::test(flavor = "multi_thread")]
async fn one_after_the_other() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let mut lives = Vec::new();
    for _ in 0..LIVES {
        let spec = host.prepare();
        lives.push(live(&runtime, &spec).await);
        host.release(&spec);
    }
    report("create", &lives, |life| life.create);
    report("start", &lives, |life| life.start);
    report("answer", &lives, |life| life.answer);
    report("delete", &lives, |life| life.delete);
    let median = report("total", &lives, |life| life.total);
    assert!(median < 1500.0, "{median} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_at_once() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let specs: Vec<RuntimeSpec> = (0..LIVES).map(|_| host.prepare()).collect();
    let began = Instant::now();
    let boots: Vec<_> = specs
        .iter()
        .map(|spec| {
            let (runtime, spec) = (Arc::clone(&runtime), spec.clone());
            host.spawn(async move {
                boot(&runtime, &spec).await;
                began.elapsed()
            })
        })
        .collect();
    let mut ready: Vec<Duration> = Vec::new();
    for boot in boots {
        ready.push(boot.await.unwrap());
    }
    ready.sort();
    println!("20 at once: first {:?}, median {:?}, last {:?}", ready[0], ready[10], ready[19]);
    for spec in &specs {
        runtime.delete(&spec.id).await.unwrap();
    }
    for spec in &specs {
        assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
    }
}
