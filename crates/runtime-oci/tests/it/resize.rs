//! Other limits for a running sandbox.

use std::time::Duration;

use tarn_runtime::{Adopted, Runtime as _, RuntimeError, RuntimeEvent, RuntimeSpec};
use tarn_types::{ByteSize, MilliCpu, Resources};
use tokio::sync::mpsc;

use crate::{
    host::{Host, PATIENCE, ask, boot, until},
    memory::play_node,
};

/// What a sandbox of so much memory is limited to: its overhead and headroom on top.
const fn limit(mib: u64) -> u64 {
    (mib + 24 + mib / 64 + 64) << 20
}

fn shape(mib: u64, milli: u32, spec: &RuntimeSpec) -> Resources {
    let (memory, cpu) = (ByteSize::from_mib(mib), MilliCpu::from_milli(milli));
    Resources { memory, cpu, ..spec.resources }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_move_both_ways_and_nothing_is_ended_for_it() {
    let host = Host::new();
    let (runtime, mut events) = host.runtime().await;
    let spec = host.prepare();
    let daemon = boot(&runtime, &spec).await.daemon;
    let cpu_before = host.cpu_limits(&spec.id);
    let large = shape(768, 2000, &spec);
    runtime.resize(&spec.id, &large).await.unwrap();
    assert_eq!(host.memory_limit(&spec.id), limit(768));
    let [quota, share] = host.cpu_limits(&spec.id);
    assert_eq!([quota, share / 2], [200_000, cpu_before[1]], "before {cpu_before:?}");

    // Twice what it could have had before, and nobody is told that memory ran out.
    let pid = ask(daemon, "/spawn/hog/500").await.unwrap();
    until("it has its memory", || async {
        runtime.stats(&spec.id).await.unwrap().memory.mib() >= 499
    })
    .await;
    // What is in use is not taken away.
    let refused = runtime.resize(&spec.id, &shape(256, 500, &spec)).await;
    let Err(RuntimeError::MemoryInUse { used, wanted }) = refused else { panic!("{refused:?}") };
    assert!(used.mib() >= 499 && wanted.mib() == 256, "{used} {wanted}");
    assert_eq!(host.memory_limit(&spec.id), limit(768));
    assert_eq!(host.cpu_limits(&spec.id)[0], 200_000, "all or nothing");
    assert_eq!(ask(daemon, &format!("/alive/{pid}")).await.unwrap(), "true");
    assert!(events.try_recv().is_err());

    // Once it is given back, it is.
    let (told, mut announced) = mpsc::channel::<RuntimeEvent>(64);
    let node = host.spawn(play_node(events, daemon, told));
    assert_ne!(ask(daemon, "/kill-largest").await.unwrap(), "");
    until("the memory is back", || async {
        runtime.stats(&spec.id).await.unwrap().memory.mib() < 100
    })
    .await;
    runtime.resize(&spec.id, &shape(128, 500, &spec)).await.unwrap();
    assert_eq!((host.memory_limit(&spec.id), host.cpu_limits(&spec.id)[0]), (limit(128), 50_000));

    // The new bound is the one at which the largest process is ended.
    ask(daemon, "/spawn/hog/4096").await.unwrap();
    let event = tokio::time::timeout(PATIENCE, announced.recv()).await.unwrap();
    assert_eq!(event, Some(RuntimeEvent::MemoryPressure { id: spec.id.clone() }));
    until("the limit is restored", || async { host.memory_limit(&spec.id) == limit(128) }).await;
    assert_eq!(ask(daemon, "/").await.unwrap(), "hello");
    node.abort();
    runtime.delete(&spec.id).await.unwrap();
    assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_server_sets_what_its_ledger_says() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let spec = host.prepare();
    boot(&runtime, &spec).await;
    let large = RuntimeSpec { resources: shape(512, 1500, &spec), ..spec.clone() };
    let (next, _events) = host.runtime().await;
    // The server died after it wrote that down.
    assert!(matches!(next.adopt(&large).await.unwrap(), Adopted::Running(_)));
    assert_eq!(host.cpu_limits(&spec.id)[0], 150_000);
    assert!(host.memory_limit(&spec.id) >= limit(512));
    // And another before it took any of it back.
    let (last, _events) = host.runtime().await;
    assert!(matches!(last.adopt(&spec).await.unwrap(), Adopted::Running(_)));
    assert_eq!(host.cpu_limits(&spec.id)[0], 100_000);
    until("the limit is lowered", || async { host.memory_limit(&spec.id) == limit(256) }).await;
    last.delete(&spec.id).await.unwrap();
    let gone = last.resize(&spec.id, &spec.resources).await;
    assert!(matches!(gone, Err(RuntimeError::NotFound { .. })), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_memory_ends_pressure() {
    let host = Host::new();
    let (runtime, mut events) = host.runtime().await;
    let spec = host.prepare();
    let daemon = boot(&runtime, &spec).await.daemon;
    // Beyond what it may have, and short of its limit; nobody ends it here.
    let pid = ask(daemon, "/spawn/hog/290").await.unwrap();
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap();
    assert_eq!(event, Some(RuntimeEvent::MemoryPressure { id: spec.id.clone() }));
    runtime.resize(&spec.id, &shape(512, 1000, &spec)).await.unwrap();
    until("it has its memory", || async {
        runtime.stats(&spec.id).await.unwrap().memory.mib() >= 289
    })
    .await;
    until("loans are back", || async { host.memory_limit(&spec.id) == limit(512) }).await;
    while events.try_recv().is_ok() {}
    let more = tokio::time::timeout(Duration::from_millis(300), events.recv()).await;
    assert!(more.is_err(), "{more:?}");
    assert_eq!(ask(daemon, &format!("/alive/{pid}")).await.unwrap(), "true");
    runtime.delete(&spec.id).await.unwrap();
}
