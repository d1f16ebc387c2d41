//! Memory images of real sandboxes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use tarn_runtime::{Adopted, Runtime as _, RuntimeError, RuntimeEvent, RuntimeSpec, Started};
use tarn_runtime_oci::GvisorRuntime;
use tokio::{sync::mpsc, time::Instant};

use crate::host::{Host, PATIENCE, answers, ask, boot, give_address, meminfo_kib, until};

/// 256 MiB, the overhead of 24 MiB and 1/64, and the headroom.
const LIMIT: u64 = (256 + 24 + 4 + 64) << 20;

async fn capture(host: &Host, runtime: &GvisorRuntime, spec: &RuntimeSpec) -> PathBuf {
    let image = host.make_dir("image");
    runtime.pause(&spec.id).await.unwrap();
    runtime.checkpoint(&spec.id, &image).await.unwrap();
    image
}

async fn restore(runtime: &GvisorRuntime, spec: &RuntimeSpec, image: &Path) -> Started {
    let started = runtime.restore(spec, image).await.unwrap();
    answers(&started).await;
    started
}

/// Lets a process take memory and waits until it has it; returns its number.
async fn occupy(daemon: SocketAddr, mib: u64) -> String {
    let pid = ask(daemon, &format!("/spawn/hog/{mib}")).await.unwrap();
    until("it has its memory", || async {
        let statm = ask(daemon, &format!("/read/proc/{pid}/statm")).await.unwrap();
        let resident: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        resident >= mib << 8
    })
    .await;
    pid
}

/// What the witness says: steps, ticks, damaged pages, content of its deleted file.
async fn testimony(daemon: SocketAddr) -> (u64, u64, String) {
    let said = ask(daemon, "/witness").await.unwrap();
    let words: Vec<&str> = said.splitn(3, ' ').collect();
    let [steps, ticks, rest] = words[..] else { panic!("{said}") };
    (steps.parse().unwrap(), ticks.parse().unwrap(), rest.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_inside_goes_on_in_a_copy() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let (source, copy) = (host.prepare(), host.prepare());
    let daemon = boot(&runtime, &source).await.daemon;
    ask(daemon, "/spawn/witness/64").await.unwrap();
    until("the witness is ready", || async {
        ask(daemon, "/witness").await.unwrap().contains("here")
    })
    .await;
    let before = testimony(daemon).await;
    let image = capture(&host, &runtime, &source).await;
    let other = restore(&runtime, &copy, &image).await.daemon;
    let went_on = testimony(other).await;
    assert!(went_on.0 >= before.0 && went_on.1 >= before.1, "{before:?}, then {went_on:?}");
    assert_eq!(went_on.2, "0 still-here");
    until("its processes and timers go on", || async {
        let now = testimony(other).await;
        now.0 > went_on.0 && now.1 > went_on.1
    })
    .await;
    runtime.resume(&source.id).await.unwrap();
    assert_eq!(testimony(daemon).await.2, "0 still-here");
    let hostname = ask(other, "/read/proc/sys/kernel/hostname").await.unwrap();
    assert_eq!(hostname, "tl-sbx\n");
    for spec in [&source, &copy] {
        runtime.delete(&spec.id).await.unwrap();
        assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_images_near_the_limit_harm_nobody() {
    let host = Host::new();
    let (runtime, mut events) = host.runtime().await;
    let spec = host.prepare();
    let daemon = boot(&runtime, &spec).await.daemon;
    // With the sentry and the daemon this is all that the sandbox may use, but for what the sentry
    // needs more on a busy machine.
    let pid = occupy(daemon, 228).await;
    let mut took = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        let image = capture(&host, &runtime, &spec).await;
        took.push(began.elapsed().as_millis());
        runtime.resume(&spec.id).await.unwrap();
        assert_eq!(ask(daemon, &format!("/alive/{pid}")).await.unwrap(), "true");
        fs::remove_dir_all(image).unwrap();
    }
    println!("images near the limit: ms {took:?}");
    until("the loan is back", || async { host.memory_limit(&spec.id) == LIMIT }).await;
    let event = tokio::time::timeout(Duration::from_millis(300), events.recv()).await;
    assert!(event.is_err(), "{event:?}");
    // The last one is whole.
    let (image, copy) = (capture(&host, &runtime, &spec).await, host.prepare());
    let other = restore(&runtime, &copy, &image).await.daemon;
    assert_eq!(ask(other, &format!("/alive/{pid}")).await.unwrap(), "true");
    until("the loan is back", || async { host.memory_limit(&copy.id) == LIMIT }).await;
    let event = tokio::time::timeout(Duration::from_millis(300), events.recv()).await;
    assert!(event.is_err(), "{event:?}");
    runtime.delete(&copy.id).await.unwrap();
    runtime.delete(&spec.id).await.unwrap();
}

/// How one that ran out of memory got on.
enum Bout {
    /// After so many captures its hog was dead.
    Relieved(u32),
    /// It ended: at its limit the kernel refuses a sentry what it cannot do without.
    Ended,
}

/// Captures one without a pause until its hog is dead, or it is itself.
async fn capture_amid_want(host: &Host, runtime: &GvisorRuntime, spec: &RuntimeSpec) -> Bout {
    let daemon = SocketAddr::new(spec.address, tarn_guest_api::PORT);
    let pid = ask(daemon, "/spawn/hog/4096").await.unwrap();
    for count in 1.. {
        let image = host.make_dir("image");
        let captured = async {
            runtime.pause(&spec.id).await?;
            match runtime.checkpoint(&spec.id, &image).await {
                // More than a restore would take: it lives on loans.
                Err(large) if large.to_string().contains("give it more memory") => {}
                written => written?,
            }
            runtime.resume(&spec.id).await
        };
        if let Err(error) = captured.await {
            println!("its end: {error:?}");
            return Bout::Ended;
        }
        fs::remove_dir_all(image).unwrap();
        let path = format!("/alive/{pid}");
        let alive = tokio::time::timeout(Duration::from_secs(1), ask(daemon, &path)).await;
        if matches!(alive, Ok(Ok(alive)) if alive == "false") {
            return Bout::Relieved(count);
        }
    }
    unreachable!("it goes on until then")
}

#[tokio::test(flavor = "multi_thread")]
async fn captures_amid_a_want_of_memory_do_not_keep_it_from_being_relieved() {
    const BOUTS: usize = 5;
    let host = Host::new();
    let (mut captures, mut ended) = (Vec::new(), 0);
    while captures.len() + ended < BOUTS {
        let (runtime, events) = host.runtime().await;
        let spec = host.prepare();
        let daemon = boot(&runtime, &spec).await.daemon;
        let (told, mut announced) = mpsc::channel(256);
        let node = host.spawn(crate::memory::play_node(events, daemon, told));
        let before = ended;
        while captures.len() + ended < BOUTS && ended == before {
            match capture_amid_want(&host, &runtime, &spec).await {
                Bout::Relieved(count) => captures.push(count),
                Bout::Ended => ended += 1,
            }
        }
        if ended == before {
            until("the loans are back", || async { host.memory_limit(&spec.id) == LIMIT }).await;
            while let Ok(event) = announced.try_recv() {
                assert_eq!(event, RuntimeEvent::MemoryPressure { id: spec.id.clone() });
            }
            assert_eq!(ask(daemon, "/").await.unwrap(), "hello");
        } else {
            let end = async {
                loop {
                    if let RuntimeEvent::Exited { id, .. } = announced.recv().await.unwrap() {
                        return id;
                    }
                }
            };
            let reported = tokio::time::timeout(PATIENCE, end).await.unwrap();
            assert_eq!(reported, spec.id, "its end is reported");
        }
        node.abort();
        runtime.delete(&spec.id).await.unwrap();
    }
    println!("captures until each hog was dead: {captures:?}; {ended} ended");
    assert!(ended <= 2, "{ended} of {BOUTS} ended");
}

/// One that once had no memory for a connection takes none for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_sentry_that_takes_no_connections_takes_calls() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let spec = host.prepare();
    let daemon = boot(&runtime, &spec).await.daemon;
    until("the server is connected", || async { host.is_connected(&spec.id) }).await;
    host.hide_sentry(&spec.id);
    for _ in 0..2 {
        capture(&host, &runtime, &spec).await;
        runtime.resume(&spec.id).await.unwrap();
        assert_eq!(ask(daemon, "/").await.unwrap(), "hello");
    }
    runtime.delete(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_its_own_limit() {
    let host = Host::new();
    let (runtime, mut events) = host.runtime().await;
    let source = host.prepare();
    let daemon = boot(&runtime, &source).await.daemon;
    // More than the smaller one may have before it stands still.
    occupy(daemon, 160).await;
    let image = capture(&host, &runtime, &source).await;
    runtime.delete(&source.id).await.unwrap();

    // Too little to hold it: said at once, not waited for.
    let small = host.prepare_shape(64, 1000);
    let error = runtime.restore(&small, &image).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Backend { .. }), "{error:?}");
    assert!(error.to_string().contains("give it more memory"), "{error}");
    assert_eq!(host.leftovers(&small.id), Vec::<String>::new());

    let copy = host.prepare_shape(224, 1000);
    let daemon = restore(&runtime, &copy, &image).await.daemon;
    let meminfo = ask(daemon, "/read/proc/meminfo").await.unwrap();
    assert_eq!(meminfo_kib(&meminfo, "MemTotal"), 224 << 10, "{meminfo}");
    assert!(events.try_recv().is_err());
    let pid = ask(daemon, "/spawn/hog/4096").await.unwrap();
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap();
    assert_eq!(event, Some(RuntimeEvent::MemoryPressure { id: copy.id.clone() }));
    let (told, mut announced) = mpsc::channel(64);
    let node = host.spawn(crate::memory::play_node(events, daemon, told));
    until("the hog dies", || async {
        ask(daemon, &format!("/alive/{pid}")).await.is_ok_and(|alive| alive == "false")
    })
    .await;
    while announced.try_recv().is_ok() {}
    assert_eq!(ask(daemon, "/").await.unwrap(), "hello");
    node.abort();
    runtime.delete(&copy.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_under_pressure_is_restored_under_the_same_limit() {
    let host = Host::new();
    let (runtime, mut events) = host.runtime().await;
    let spec = host.prepare();
    let daemon = boot(&runtime, &spec).await.daemon;
    // Beyond what it may have, and short of its limit; nobody ends it here.
    let pid = ask(daemon, "/spawn/hog/290").await.unwrap();
    until("it has its memory", || async {
        runtime.stats(&spec.id).await.unwrap().memory.mib() >= 300
    })
    .await;
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap();
    assert_eq!(event, Some(RuntimeEvent::MemoryPressure { id: spec.id.clone() }));
    let image = capture(&host, &runtime, &spec).await;
    runtime.delete(&spec.id).await.unwrap();
    while events.try_recv().is_ok() {}

    give_address(&spec);
    let daemon = restore(&runtime, &spec, &image).await.daemon;
    assert_eq!(ask(daemon, &format!("/alive/{pid}")).await.unwrap(), "true");
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap();
    assert_eq!(event, Some(RuntimeEvent::MemoryPressure { id: spec.id.clone() }));
    assert_ne!(ask(daemon, "/kill-largest").await.unwrap(), "");
    until("the loan is back", || async { host.memory_limit(&spec.id) == LIMIT }).await;
    assert_eq!(ask(daemon, "/").await.unwrap(), "hello");
    runtime.delete(&spec.id).await.unwrap();
}

/// A file system in memory that is full soon; unmounted at the end.
struct Narrow(PathBuf);

impl Narrow {
    fn new(host: &Host) -> Self {
        Self::over(host.make_dir("narrow"), "size=4m")
    }

    fn over(dir: PathBuf, options: &str) -> Self {
        let words = ["-t", "tmpfs", "-o", options, "narrow"];
        assert!(Command::new("mount").args(words).arg(&dir).status().unwrap().success());
        Self(dir)
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_the_image_and_nothing_else() {
    let host = Host::new();
    let (runtime, mut events) = host.runtime().await;
    let spec = host.prepare();
    let daemon = boot(&runtime, &spec).await.daemon;
    let pid = occupy(daemon, 64).await;
    runtime.pause(&spec.id).await.unwrap();
    let narrow = Narrow::new(&host);
    let error = runtime.checkpoint(&spec.id, &narrow.0).await.unwrap_err();
    println!("a full disk: {error}");
    assert!(error.to_string().contains("no space left"), "{error}");
    drop(narrow);
    let silent = tokio::time::timeout(Duration::from_millis(300), ask(daemon, "/")).await;
    assert!(silent.is_err(), "it is paused still");
    let image = host.make_dir("image");
    runtime.checkpoint(&spec.id, &image).await.unwrap();
    runtime.resume(&spec.id).await.unwrap();
    assert_eq!(ask(daemon, &format!("/alive/{pid}")).await.unwrap(), "true");
    let copy = host.prepare();
    let other = restore(&runtime, &copy, &image).await.daemon;
    assert_eq!(ask(other, &format!("/alive/{pid}")).await.unwrap(), "true");
    assert!(events.try_recv().is_err());
    runtime.delete(&copy.id).await.unwrap();
    runtime.delete(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_and_an_empty_tmp_keep_nobody_from_going_on() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let spec = host.prepare();
    let _disk = Narrow::over(spec.rootfs.clone(), "size=4m,nr_inodes=64");
    for dir in ["tmp", "proc", "sys", "dev", ".tarn"] {
        fs::create_dir(spec.rootfs.join(dir)).unwrap();
    }
    boot(&runtime, &spec).await;
    let image = capture(&host, &runtime, &spec).await;
    runtime.delete(&spec.id).await.unwrap();
    fs::remove_dir(spec.rootfs.join("tmp/.X11-unix")).unwrap();
    let full = (0..).find_map(|number| fs::create_dir(spec.rootfs.join(format!("{number}"))).err());
    assert_eq!(full.unwrap().kind(), std::io::ErrorKind::StorageFull);

    give_address(&spec);
    restore(&runtime, &spec, &image).await;
    runtime.delete(&spec.id).await.unwrap();

    // One that begins anew has it in memory.
    give_address(&spec);
    let daemon = boot(&runtime, &spec).await.daemon;
    assert_eq!(ask(daemon, "/write/tmp/file").await.unwrap(), "written");
    assert!(!spec.rootfs.join("tmp/file").exists());
    runtime.delete(&spec.id).await.unwrap();
    assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_at_any_moment_of_a_capture_leaves_what_can_be_resumed() {
    let host = Host::new();
    let (mut runtime, _events) = host.runtime().await;
    let spec = host.prepare();
    let started = boot(&runtime, &spec).await;
    let pid = occupy(started.daemon, 150).await;
    for millis in [0, 0, 1, 1, 2, 4, 8, 12, 16, 20, 25, 30, 40, 60, 90, 130] {
        let cut = {
            let (runtime, id) = (Arc::clone(&runtime), spec.id.clone());
            let image = host.make_dir("image");
            host.spawn(async move {
                runtime.pause(&id).await?;
                runtime.checkpoint(&id, &image).await?;
                runtime.resume(&id).await?;
                fs::remove_dir_all(image).map_err(|source| {
                    let step = "remove the image";
                    RuntimeError::Host { step, id, source }
                })
            })
        };
        // The one thing that this test is about is time.
        tokio::time::sleep(Duration::from_millis(millis)).await;
        // What it did in the background is cut where it is, and then its calls are.
        host.stop().await;
        cut.abort();
        drop(cut.await);
        (runtime, _) = host.runtime().await;
        let adopted = runtime.adopt(&spec).await.unwrap();
        assert_eq!(adopted, Adopted::Running(started.clone()), "after {millis} ms");
        runtime.resume(&spec.id).await.unwrap();
        answers(&started).await;
        let alive = ask(started.daemon, &format!("/alive/{pid}")).await.unwrap();
        assert_eq!(alive, "true", "after {millis} ms");
    }
    runtime.delete(&spec.id).await.unwrap();
    assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_known_to_be_paused() {
    let host = Host::new();
    let (mut runtime, _events) = host.runtime().await;
    let spec = host.prepare();
    let started = boot(&runtime, &spec).await;
    let pid = ask(started.daemon, "/spawn/threads/2000").await.unwrap();
    let status = format!("/read/proc/{pid}/status");
    until("they all run", || async {
        ask(started.daemon, &status).await.unwrap().contains("Threads:\t2001")
    })
    .await;
    for _ in 0..3 {
        runtime.pause(&spec.id).await.unwrap();
        (runtime, _) = host.runtime().await;
        runtime.adopt(&spec).await.unwrap();
        let began = Instant::now();
        runtime.resume(&spec.id).await.unwrap();
        println!("looked at 2000 threads and resumed: {:?}", began.elapsed());
        (runtime, _) = host.runtime().await;
        runtime.adopt(&spec).await.unwrap();
        runtime.resume(&spec.id).await.unwrap();
        assert!(ask(started.daemon, &status).await.unwrap().contains("Threads:\t2001"));
    }
    runtime.delete(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_cut_short_anywhere_has_run_or_is_nothing() {
    let host = Host::new();
    let (mut runtime, _events) = host.runtime().await;
    let source = host.prepare();
    let daemon = boot(&runtime, &source).await.daemon;
    let pid = occupy(daemon, 50).await;
    let image = capture(&host, &runtime, &source).await;
    runtime.delete(&source.id).await.unwrap();
    let mut ran = 0;
    for millis in [0, 5, 10, 20, 30, 45, 60, 80, 110, 150, 200, 300, 2000] {
        let copy = host.prepare();
        let cut = {
            let (runtime, copy, image) = (Arc::clone(&runtime), copy.clone(), image.clone());
            host.spawn(async move { runtime.restore(&copy, &image).await.map(drop) })
        };
        // The one thing that this test is about is time.
        tokio::time::sleep(Duration::from_millis(millis)).await;
        cut.abort();
        drop(cut.await);
        (runtime, _) = host.runtime().await;
        match runtime.adopt(&copy).await.unwrap() {
            Adopted::Running(started) => {
                ran += 1;
                runtime.resume(&copy.id).await.unwrap();
                answers(&started).await;
                let alive = ask(started.daemon, &format!("/alive/{pid}")).await.unwrap();
                assert_eq!(alive, "true", "after {millis} ms");
            }
            Adopted::Gone => {}
            Adopted::Created => panic!("after {millis} ms it would begin anew"),
        }
        runtime.delete(&copy.id).await.unwrap();
        assert_eq!(host.leftovers(&copy.id), Vec::<String>::new(), "after {millis} ms");
        host.release(&copy);
    }
    assert!(ran > 0, "none was done in two seconds");
}

fn median(name: &str, mut millis: Vec<f64>) {
    millis.sort_by(f64::total_cmp);
    let (first, last) = (millis[0], millis[millis.len() - 1]);
    println!(
        "{name:>24}: min {first:6.2}  median {:6.2}  max {last:6.2} ms",
        millis[millis.len() / 2]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_it_takes() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let millis = |since: Instant| since.elapsed().as_secs_f64() * 1000.0;
    for mib in [0, 200] {
        let spec = host.prepare_shape(512, 1000);
        let daemon = boot(&runtime, &spec).await.daemon;
        if mib > 0 {
            occupy(daemon, mib).await;
        }
        let mut phases: [(&str, Vec<f64>); 5] =
            ["pause", "checkpoint", "resume", "restore", "restore to answer"].map(|n| (n, vec![]));
        for _ in 0..10 {
            let image = host.make_dir("image");
            let began = Instant::now();
            runtime.pause(&spec.id).await.unwrap();
            phases[0].1.push(millis(began));
            let began = Instant::now();
            runtime.checkpoint(&spec.id, &image).await.unwrap();
            phases[1].1.push(millis(began));
            let began = Instant::now();
            runtime.resume(&spec.id).await.unwrap();
            phases[2].1.push(millis(began));
            let copy = host.prepare_shape(512, 1000);
            let began = Instant::now();
            let started = runtime.restore(&copy, &image).await.unwrap();
            phases[3].1.push(millis(began));
            answers(&started).await;
            phases[4].1.push(millis(began));
            runtime.delete(&copy.id).await.unwrap();
            host.release(&copy);
            fs::remove_dir_all(image).unwrap();
        }
        println!("with {mib} MiB:");
        for (name, values) in phases {
            median(name, values);
        }
        runtime.delete(&spec.id).await.unwrap();
    }
}
