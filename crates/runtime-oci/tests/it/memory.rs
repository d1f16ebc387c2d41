//! Out of memory. The test plays the node: it has the largest process ended when the driver says
//! so.

use std::{net::SocketAddr, time::Duration};

use tarn_runtime::{Runtime as _, RuntimeEvent, RuntimeExit};
use tarn_types::SandboxId;
use tokio::{sync::mpsc, time::Instant};

use crate::host::{Host, PATIENCE, ask, boot, meminfo_kib, until};

/// Ends the largest process at each announcement, like a node; returns when the sandbox ends, or
/// the runtime does.
pub(crate) async fn play_node(
    mut events: mpsc::Receiver<RuntimeEvent>,
    daemon: SocketAddr,
    told: mpsc::Sender<RuntimeEvent>,
) {
    while let Some(event) = events.recv().await {
        if matches!(event, RuntimeEvent::MemoryPressure { .. }) {
            drop(tokio::time::timeout(Duration::from_secs(5), ask(daemon, "/kill-largest")).await);
        }
        if told.send(event).await.is_err() {
            return;
        }
    }
}

fn of(id: &SandboxId) -> RuntimeEvent {
    RuntimeEvent::MemoryPressure { id: id.clone() }
}

async fn alive(daemon: SocketAddr, pid: &str) -> bool {
    let path = format!("/alive/{pid}");
    match tokio::time::timeout(Duration::from_secs(1), ask(daemon, &path)).await {
        Ok(Ok(answer)) => answer != "false",
        // Standing still: it will answer later.
        _ => true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hog_is_ended_and_the_sandbox_lives() {
    let host = Host::new();
    let (runtime, events) = host.runtime().await;
    let spec = host.prepare();
    let daemon = boot(&runtime, &spec).await.daemon;
    let (told, mut announced) = mpsc::channel(64);
    let node = host.spawn(play_node(events, daemon, told));
    let mut took = Vec::new();
    for _ in 0..5 {
        let pid = ask(daemon, "/spawn/hog/4096").await.unwrap();
        let began = Instant::now();
        let event = tokio::time::timeout(PATIENCE, announced.recv()).await.unwrap();
        assert_eq!(event, Some(of(&spec.id)));
        let heard = began.elapsed();
        until("the hog dies", || async { !alive(daemon, &pid).await }).await;
        until("the memory is back", || async {
            runtime.stats(&spec.id).await.unwrap().memory.mib() < 100
        })
        .await;
        took.push((heard.as_millis(), (began.elapsed() - heard).as_millis()));
        while announced.try_recv().is_ok() {}
    }
    println!("hog: ms to the first announcement, ms from it to health: {took:?}");
    // Whatever was lent is back, and the sandbox can be used as before.
    until("the limit is restored", || async { host.memory_limit(&spec.id) == LIMIT }).await;
    assert_eq!(ask(daemon, "/").await.unwrap(), "hello");
    node.abort();
    runtime.delete(&spec.id).await.unwrap();
    assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
}

/// 256 MiB, the overhead of 24 MiB and 1/64, and the headroom.
const LIMIT: u64 = (256 + 24 + 4 + 64) << 20;

#[tokio::test(flavor = "multi_thread")]
async fn four_hogs_at_once_are_ended() {
    let host = Host::new();
    let (runtime, events) = host.runtime().await;
    let spec = host.prepare_shape(256, 2000);
    let daemon = boot(&runtime, &spec).await.daemon;
    let (told, mut announced) = mpsc::channel(256);
    let node = host.spawn(play_node(events, daemon, told));
    let mut pids = Vec::new();
    for _ in 0..4 {
        // Standing still, the sandbox answers late.
        pids.push(ask(daemon, "/spawn/hog/4096").await.unwrap());
    }
    let began = Instant::now();
    let mut count = 0;
    let mut hear = || {
        while let Ok(event) = announced.try_recv() {
            // Anything else is its end.
            assert_eq!(
                event,
                of(&spec.id),
                "after {} ms, {count} announcements",
                began.elapsed().as_millis()
            );
            count += 1;
        }
    };
    for pid in &pids {
        until("every hog dies", || {
            hear();
            async { !alive(daemon, pid).await }
        })
        .await;
    }
    hear();
    println!("four hogs: {} ms, {count} announcements", began.elapsed().as_millis());
    assert!((1..40).contains(&count), "{count} announcements");
    until("the limit is restored", || async { host.memory_limit(&spec.id) == LIMIT }).await;
    node.abort();
    runtime.delete(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_can_use_what_it_sees() {
    let host = Host::new();
    let (runtime, mut events) = host.runtime().await;
    let spec = host.prepare();
    let daemon = boot(&runtime, &spec).await.daemon;
    let meminfo = ask(daemon, "/read/proc/meminfo").await.unwrap();
    let available = meminfo_kib(&meminfo, "MemAvailable") / 1024;
    assert!(available >= 240, "{meminfo}");
    let pid = ask(daemon, &format!("/spawn/hog/{}", available - 1)).await.unwrap();
    until("it has its memory", || async {
        runtime.stats(&spec.id).await.unwrap().memory.mib() >= available - 1
    })
    .await;
    // It holds it for a while without being noticed.
    let event = tokio::time::timeout(Duration::from_millis(300), events.recv()).await;
    assert!(event.is_err(), "{event:?}");
    assert!(alive(daemon, &pid).await);
    runtime.delete(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_cache_is_no_pressure_and_hides_none() {
    let host = Host::new();
    let (runtime, mut events) = host.runtime().await;
    let spec = host.prepare();
    let daemon = boot(&runtime, &spec).await.daemon;
    assert_eq!(ask(daemon, "/fill/600/tmp/file").await.unwrap(), "written");
    assert!(events.try_recv().is_err(), "files are not memory");
    let (told, mut announced) = mpsc::channel(64);
    let node = host.spawn(play_node(events, daemon, told));
    let pid = ask(daemon, "/spawn/hog/4096").await.unwrap();
    let event = tokio::time::timeout(PATIENCE, announced.recv()).await.unwrap();
    assert_eq!(event, Some(of(&spec.id)));
    until("the hog dies", || async { !alive(daemon, &pid).await }).await;
    until("the limit is restored", || async { host.memory_limit(&spec.id) == LIMIT }).await;
    node.abort();
    runtime.delete(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_sandbox_is_saved_too() {
    let host = Host::new();
    let (runtime, events) = host.runtime().await;
    let spec = host.prepare_shape(64, 1000);
    let daemon = boot(&runtime, &spec).await.daemon;
    let (told, mut announced) = mpsc::channel(64);
    let node = host.spawn(play_node(events, daemon, told));
    let pid = ask(daemon, "/spawn/hog/4096").await.unwrap();
    let event = tokio::time::timeout(PATIENCE, announced.recv()).await.unwrap();
    assert_eq!(event, Some(of(&spec.id)));
    until("the hog dies", || async { !alive(daemon, &pid).await }).await;
    assert_eq!(ask(daemon, "/").await.unwrap(), "hello");
    node.abort();
    runtime.delete(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_nobody_saves_is_ended() {
    let host = Host::new();
    let (runtime, mut events) = host.runtime().await;
    let spec = host.prepare();
    let daemon = boot(&runtime, &spec).await.daemon;
    ask(daemon, "/spawn/hog/4096").await.unwrap();
    let began = Instant::now();
    let ended = async {
        let mut announcements = 0;
        loop {
            match events.recv().await.unwrap() {
                RuntimeEvent::MemoryPressure { .. } => announcements += 1,
                RuntimeEvent::Exited { id, exit } => return (id, exit, announcements),
            }
        }
    };
    let (id, exit, announcements) = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    println!("nobody saves: {} ms, {announcements} announcements", began.elapsed().as_millis());
    assert_eq!((id, exit), (spec.id.clone(), RuntimeExit::OutOfMemory));
    runtime.delete(&spec.id).await.unwrap();
    assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_ran_out_while_the_server_was_away_is_saved_later() {
    let host = Host::new();
    let (runtime, events) = host.runtime().await;
    let spec = host.prepare();
    let daemon = boot(&runtime, &spec).await.daemon;
    host.stop().await;
    drop((runtime, events));
    let pid = ask(daemon, "/spawn/hog/4096").await.unwrap();
    until("it stands still at its limit", || async { host.is_stuck(&spec.id) }).await;
    let (runtime, events) = host.runtime().await;
    let (told, mut announced) = mpsc::channel(64);
    let node = host.spawn(play_node(events, daemon, told));
    runtime.adopt(&spec).await.unwrap();
    let event = tokio::time::timeout(PATIENCE, announced.recv()).await.unwrap();
    assert_eq!(event, Some(of(&spec.id)));
    until("the hog dies", || async { !alive(daemon, &pid).await }).await;
    until("the limit is restored", || async { host.memory_limit(&spec.id) == LIMIT }).await;
    node.abort();
    runtime.delete(&spec.id).await.unwrap();
}
