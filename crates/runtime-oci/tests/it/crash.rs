//! The server is killed in the middle.

use std::{sync::Arc, time::Duration};

use tarn_runtime::{Adopted, Runtime as _};
use tarn_runtime_oci::remove_all;

use crate::host::{Host, boot, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_create_cut_short_anywhere_can_be_deleted() {
    let host = Host::new();
    for millis in [0, 1, 3, 6, 10, 15, 22, 30, 45, 70] {
        let (runtime, _events) = host.runtime().await;
        let spec = host.prepare();
        let cut = {
            let (runtime, spec) = (Arc::clone(&runtime), spec.clone());
            host.spawn(async move { runtime.create(&spec).await })
        };
        // The one thing that this test is about is time.
        tokio::time::sleep(Duration::from_millis(millis)).await;
        cut.abort();
        drop(cut.await);
        drop(runtime);
        let (runtime, _events) = host.runtime().await;
        let listed = runtime.list().await.unwrap();
        let is_left = !host.leftovers(&spec.id).is_empty();
        assert_eq!(listed.contains(&spec.id), is_left, "after {millis} ms");
        assert!(listed.len() <= 1, "{listed:?} after {millis} ms");
        runtime.delete(&spec.id).await.unwrap();
        assert_eq!(host.leftovers(&spec.id), Vec::<String>::new(), "after {millis} ms");
        host.release(&spec);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_outlives_its_server_does_not_outlive_the_sandbox() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let (spec, other) = (host.prepare(), host.prepare());
    boot(&runtime, &other).await;
    runtime.create(&spec).await.unwrap();
    // Its command waits for the sandbox, which answers nobody.
    host.hold(&spec.id);
    let start = {
        let (runtime, id) = (Arc::clone(&runtime), spec.id.clone());
        host.spawn(async move { runtime.start(&id).await })
    };
    let command = format!("start {}", spec.id);
    let runs = || host.leftovers(&spec.id).iter().any(|left| left.contains(&command));
    until("the command runs", || std::future::ready(runs())).await;

    // The next server knows nothing of that command, and builds again.
    let (next, _events) = host.runtime().await;
    assert!(!runs(), "it ends before anything is adopted or removed");
    assert!(next.lives(&spec.id).await.unwrap(), "what it was to start is not ended with it");
    assert!(matches!(next.adopt(&other).await.unwrap(), Adopted::Running(_)), "nor any other");
    next.delete(&spec.id).await.unwrap();
    assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
    assert!(start.await.unwrap().is_err());
    boot(&next, &spec).await;
    next.delete(&spec.id).await.unwrap();
    next.delete(&other.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_half_made_is_not_adopted() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let spec = host.prepare();
    std::fs::create_dir(host.state_dir().join("bundle").join(spec.id.as_str())).unwrap();
    assert_eq!(runtime.list().await.unwrap(), std::slice::from_ref(&spec.id));
    assert_eq!(runtime.adopt(&spec).await.unwrap(), Adopted::Gone);
    runtime.delete(&spec.id).await.unwrap();
    assert_eq!(runtime.list().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_create_says_why_and_leaves_nothing() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let mut spec = host.prepare();
    spec.netns = "/run/netns/no-such-namespace".into();
    let error = runtime.create(&spec).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("no-such-namespace"), "{text}");
    assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_run_is_named() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let mut spec = host.prepare();
    spec.tarnd = "/etc/hostname".into();
    runtime.create(&spec).await.unwrap();
    let error = runtime.start(&spec.id).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/.tarn/tarnd"), "{text}");
    runtime.delete(&spec.id).await.unwrap();
    assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_sandboxes_leaves_no_cgroup() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let spec = host.prepare();
    boot(&runtime, &spec).await;
    host.stop().await;
    assert!(host.has_parent_groups(), "a sandbox lives in them");
    let (runtime, _events) = host.runtime().await;
    runtime.delete(&spec.id).await.unwrap();
    host.stop().await;
    assert!(!host.has_parent_groups());
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_of_an_instance_can_be_removed_without_a_server() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let (running, created) = (host.prepare(), host.prepare());
    boot(&runtime, &running).await;
    runtime.create(&created).await.unwrap();
    host.stop().await;
    for _ in 0..2 {
        remove_all(&host.state_dir(), host.tag()).await.unwrap();
        for spec in [&running, &created] {
            assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
        }
        assert!(!host.has_parent_groups());
        assert!(!host.state_dir().exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_running_sandboxes_need_is_mounted_after_shutdown_and_nothing_else() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let spec = host.prepare();
    boot(&runtime, &spec).await;
    host.stop().await;
    let mounted = || {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let ours = host.state_dir().to_string_lossy().into_owned();
        points.filter(|point| point.starts_with(&ours)).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(mounted(), [host.state_dir().to_string_lossy()]);
    let (runtime, _events) = host.runtime().await;
    assert!(matches!(runtime.adopt(&spec).await.unwrap(), Adopted::Running(_)));
    runtime.delete(&spec.id).await.unwrap();
    host.stop().await;
    assert_eq!(mounted(), [""; 0]);
}
