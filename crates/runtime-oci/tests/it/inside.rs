//! What a program inside sees and may do.

use tarn_runtime::{Runtime as _, RuntimeEvent, RuntimeExit};

use crate::host::{Host, PATIENCE, ask, boot, meminfo_kib, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_sees_its_own_shape() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    for (mib, milli, cpus) in [(256, 500, "1"), (640, 1000, "1"), (1024, 3500, "4")] {
        let spec = host.prepare_shape(mib, milli);
        let daemon = boot(&runtime, &spec).await.daemon;
        let meminfo = ask(daemon, "/read/proc/meminfo").await.unwrap();
        assert_eq!(meminfo_kib(&meminfo, "MemTotal"), mib * 1024, "{meminfo}");
        assert_eq!(ask(daemon, "/cpus").await.unwrap(), cpus);
        assert_eq!(ask(daemon, "/read/proc/sys/kernel/hostname").await.unwrap(), "tl-sbx\n");
        runtime.delete(&spec.id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_temporary_directory_is_on_disk() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let spec = host.prepare();
    let daemon = boot(&runtime, &spec).await.daemon;
    assert_eq!(ask(daemon, "/write/tmp/file").await.unwrap(), "written");
    assert_eq!(std::fs::read_to_string(spec.rootfs.join("tmp/file")).unwrap(), "x");
    assert_eq!(ask(daemon, "/write/dev/shm/file").await.unwrap(), "written");
    runtime.delete(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_file_cannot_be_changed_even_by_root_inside() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let mut spec = host.prepare();
    // A copy, so that a failure harms no other test.
    let copy = host.dir().join("daemon");
    std::fs::copy(&spec.tarnd, &copy).unwrap();
    spec.tarnd.clone_from(&copy);
    let before = std::fs::read(&copy).unwrap();
    let daemon = boot(&runtime, &spec).await.daemon;
    for _ in 0..2 {
        let answer = ask(daemon, "/write/.tarn/tarnd").await.unwrap();
        assert!(answer.starts_with("error"), "{answer}");
        // Whatever the guest kernel says of it, the second write must fail, too.
        ask(daemon, "/remount-daemon").await.unwrap();
    }
    assert!(std::fs::read(&copy).unwrap() == before, "the host's file was changed");
    runtime.delete(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_cpu_is_half_a_cpu() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let spec = host.prepare_shape(256, 500);
    let daemon = boot(&runtime, &spec).await.daemon;
    let cpu = || async { runtime.stats(&spec.id).await.unwrap().cpu_micros };
    let (began, before) = (tokio::time::Instant::now(), cpu().await);
    ask(daemon, "/spun/2000").await.unwrap();
    let wall = u64::try_from(began.elapsed().as_micros()).unwrap();
    let share = (cpu().await - before) * 100 / wall;
    // Less where the machine is busy; more only by the slack of one period.
    assert!(share <= 60, "{share} % of a CPU");
    runtime.delete(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_processes_are_far_from_the_fuse() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let spec = host.prepare();
    let daemon = boot(&runtime, &spec).await.daemon;
    for _ in 0..200 {
        let pid = ask(daemon, "/spawn/sleep").await.unwrap();
        assert!(pid.parse::<u32>().is_ok(), "{pid}");
    }
    assert_eq!(ask(daemon, "/processes").await.unwrap(), "201");
    runtime.delete(&spec.id).await.unwrap();
    assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_that_nobody_bounds_ends_its_own_sandbox_only() {
    let host = Host::new();
    let (runtime, mut events) = host.runtime().await;
    // With room for every process, so that it is the fuse that ends it.
    let (victim, other) = (host.prepare_shape(2048, 1000), host.prepare());
    let daemon = boot(&runtime, &victim).await.daemon;
    let bystander = boot(&runtime, &other).await.daemon;
    // The bomb may leave no time for an answer.
    let lit = host.spawn(async move { ask(daemon, "/spawn/bomb").await });
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    let exit = RuntimeExit::Died("sentry_ended");
    assert_eq!(event, RuntimeEvent::Exited { id: victim.id.clone(), exit });
    drop(lit.await);
    assert_eq!(ask(bystander, "/").await.unwrap(), "hello");
    for spec in [victim, other] {
        runtime.delete(&spec.id).await.unwrap();
        assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_memory_is_bounded_by_the_sandboxs_own_size() {
    let host = Host::new();
    let (runtime, mut events) = host.runtime().await;
    let spec = host.prepare();
    let daemon = boot(&runtime, &spec).await.daemon;
    let answer = ask(daemon, "/fill/1000/dev/shm/file").await.unwrap();
    assert!(answer.contains("No space left"), "{answer}");
    assert!(events.try_recv().is_err());
    runtime.delete(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_threads_are_far_from_the_fuse() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let spec = host.prepare();
    let daemon = boot(&runtime, &spec).await.daemon;
    let pid = ask(daemon, "/spawn/threads/2000").await.unwrap();
    let status = format!("/read/proc/{pid}/status");
    until("they all run", || async {
        ask(daemon, &status).await.unwrap().contains("Threads:\t2001")
    })
    .await;
    println!("2000 threads inside: {} on the host", host.host_processes(&spec.id));
    runtime.delete(&spec.id).await.unwrap();
}
