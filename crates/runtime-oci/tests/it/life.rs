//! From create to delete.

use std::sync::Arc;

use tarn_runtime::{CpuShare, Runtime as _, RuntimeSpec};

use crate::host::{Host, answers, ask, boot, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_lives_and_leaves_nothing() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let spec = host.prepare();
    let started = boot(&runtime, &spec).await;
    assert_eq!(ask(started.daemon, "/").await.unwrap(), "hello");
    runtime.delete(&spec.id).await.unwrap();
    assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_starts_aside_and_comes_in() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let least = || RuntimeSpec { share: CpuShare::Least, ..host.prepare() };
    for promoted in [false, true] {
        let spec = least();
        runtime.create(&spec).await.unwrap();
        assert_eq!(host.members_aside(&spec.id).len() > 1, host.has_aside(), "it waits there");
        if promoted {
            runtime.promote(&spec.id).await.unwrap();
            assert!(host.members_aside(&spec.id).is_empty(), "it has come, for somebody waits");
        }
        let started = runtime.start(&spec.id).await.unwrap();
        assert_eq!(host.group_aside(&spec.id), None, "it is started");
        assert!(host.cpu_members(&spec.id).contains(&started.pid));
        answers(&started).await;
        runtime.delete(&spec.id).await.unwrap();
        assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
    }

    // What waits for an image has nothing before it to do; what was never started goes as well.
    let (staged, created) = (least(), least());
    runtime.stage(&staged).await.unwrap();
    assert_eq!(host.group_aside(&staged.id), None);
    runtime.create(&created).await.unwrap();
    for spec in [staged, created] {
        runtime.delete(&spec.id).await.unwrap();
        assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_promoted_while_it_starts_keeps_its_share() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let (own, spec) = (host.prepare(), host.prepare());
    let spec = RuntimeSpec { share: CpuShare::Least, ..spec };
    boot(&runtime, &own).await;
    runtime.create(&spec).await.unwrap();
    // Its start waits, before or behind the door.
    host.hold(&spec.id);
    let start = {
        let (runtime, id) = (Arc::clone(&runtime), spec.id.clone());
        host.spawn(async move { runtime.start(&id).await })
    };
    let command = format!("start {}", spec.id);
    until("the command runs", || {
        std::future::ready(host.leftovers(&spec.id).iter().any(|left| left.contains(&command)))
    })
    .await;
    runtime.promote(&spec.id).await.unwrap();
    // An error means that it is started before the answer.
    drop(runtime.thaw(&spec.id).await);
    answers(&start.await.unwrap().unwrap()).await;
    // Which sets what is known of it.
    runtime.resize(&spec.id, &spec.resources).await.unwrap();
    assert_eq!(host.cpu_limits(&spec.id), host.cpu_limits(&own.id));
    for spec in [own, spec] {
        runtime.delete(&spec.id).await.unwrap();
        assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
    }
}
