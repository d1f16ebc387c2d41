//! Faults, deaths and restarts of the simulated machine.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use serde_json::json;
use tarn_guest_api::INIT_PATH;
use tarn_runtime::{
    Adopted, Runtime as _, RuntimeError, RuntimeEvent, RuntimeExit,
    conformance::answers,
    sim::{SimHost, SimRuntime, SimStep},
};
use tarn_task::Tasks;
use tokio::{net::TcpStream, sync::mpsc};

use crate::support::{Client, PATIENCE, init_request, runtime, spec, started};

fn backend_step(got: Result<(), RuntimeError>) -> &'static str {
    match got {
        Err(RuntimeError::Backend { step, .. }) => step,
        other => unreachable!("{other:?}"),
    }
}

#[tokio::test]
async fn each_step_fails_as_often_as_told_and_leaves_the_state_before() {
    let (runtime, _events) = runtime();
    let spec = spec(1);
    runtime.faults().fail(SimStep::Create, 2);
    for _ in 0..2 {
        assert_eq!(backend_step(runtime.create(&spec).await), "create");
    }
    assert_eq!(runtime.list().await.expect("a list"), []);
    runtime.create(&spec).await.expect("the third time it works");

    runtime.faults().fail(SimStep::Start, 1);
    assert_eq!(backend_step(runtime.start(&spec.id).await.map(drop)), "start");
    assert_eq!(runtime.adopt(&spec).await.expect("its state"), Adopted::Created);
    let started = runtime.start(&spec.id).await.expect("the second time it works");

    runtime.faults().fail(SimStep::Freeze, 1);
    assert_eq!(backend_step(runtime.freeze(&spec.id).await), "freeze");
    assert!(answers(started.daemon, PATIENCE).await, "it is not frozen");

    runtime.faults().fail(SimStep::Delete, 1);
    assert_eq!(backend_step(runtime.delete(&spec.id).await), "delete");
    assert!(answers(started.daemon, PATIENCE).await, "it is still there");
    runtime.delete(&spec.id).await.expect("the second time it works");
}

#[tokio::test]
async fn a_failed_init_leaves_the_daemon_closed_for_another() {
    let (runtime, _events) = runtime();
    let (_, started) = started(&runtime, 1).await;
    runtime.faults().fail(SimStep::Init, 1);
    let mut client = Client::connect(started.daemon).await;
    let (status, body) = client.post(INIT_PATH, &init_request()).await;
    assert_eq!((status, &body["code"]), (500, &json!("INTERNAL_ERROR")));
    assert_eq!(client.get("/api/v1/health").await.0, 503);
    assert_eq!(client.post(INIT_PATH, &init_request()).await.0, 200);
}

#[tokio::test]
async fn a_mute_daemon_takes_connections_and_never_answers() {
    let (runtime, _events) = runtime();
    runtime.faults().fail(SimStep::Daemon, 1);
    let (spec, started) = started(&runtime, 1).await;
    let mut client = Client::connect(started.daemon).await;
    let asked = client.send("GET", "/api/v1/health", "");
    tokio::select! {
        answer = asked => panic!("a mute daemon said {answer:?}"),
        () = tokio::time::sleep(Duration::from_millis(50)) => {}
    }
    runtime.delete(&spec.id).await.expect("deleted");
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_in_tokio_time() {
    let (runtime, _events) = runtime();
    runtime.faults().delay(SimStep::Create, Duration::from_secs(60));
    let created = tokio::time::timeout(Duration::from_secs(59), runtime.create(&spec(1))).await;
    assert!(created.is_err(), "it is not there before its time");
    assert_eq!(runtime.list().await.expect("a list"), []);
    runtime.create(&spec(1)).await.expect("after a minute");
    runtime.faults().delay(SimStep::Create, Duration::ZERO);
    tokio::time::timeout(Duration::ZERO, runtime.create(&spec(2)))
        .await
        .expect("at once")
        .expect("ok");
}

#[tokio::test]
async fn a_start_given_up_can_be_tried_again() {
    let (runtime, _events) = runtime();
    let spec = spec(1);
    runtime.create(&spec).await.expect("created");
    runtime.faults().delay(SimStep::Start, PATIENCE);
    let given_up = tokio::time::timeout(Duration::from_millis(5), runtime.start(&spec.id)).await;
    assert!(given_up.is_err());
    runtime.faults().delay(SimStep::Start, Duration::ZERO);
    runtime.start(&spec.id).await.expect("started");
}

#[tokio::test]
async fn events_go_to_who_watches() {
    let host = SimHost::new(Tasks::new());
    let (sender, mut first) = mpsc::channel(4);
    let runtime = SimRuntime::on(&host, sender);
    let (spec, started) = started(&runtime, 1).await;
    assert!(host.memory_pressure(&spec.id).await);
    assert_eq!(first.recv().await, Some(RuntimeEvent::MemoryPressure { id: spec.id.clone() }));

    drop(runtime);
    assert!(host.memory_pressure(&spec.id).await, "it runs without a server");
    assert_eq!(first.recv().await, None, "nobody watches");

    let (sender, mut second) = mpsc::channel(4);
    let runtime = SimRuntime::on(&host, sender);
    assert_eq!(runtime.adopt(&spec).await.expect("its state"), Adopted::Running(started));
    assert!(host.kill(&spec.id, RuntimeExit::OutOfMemory).await);
    let exit = RuntimeEvent::Exited { id: spec.id.clone(), exit: RuntimeExit::OutOfMemory };
    assert_eq!(second.recv().await, Some(exit));
    assert!(!host.kill(&spec.id, RuntimeExit::OutOfMemory).await, "it can die once");
    assert!(!host.memory_pressure(&spec.id).await);
}

#[tokio::test]
async fn a_death_breaks_connections_and_closes_the_port() {
    let (runtime, _events) = runtime();
    let (spec, started) = started(&runtime, 1).await;
    let mut client = Client::open(started.daemon).await;
    assert!(runtime.host().kill(&spec.id, RuntimeExit::Died("test")).await);
    assert!(client.send("GET", "/api/v1/health", "").await.is_err());
    assert!(TcpStream::connect(started.daemon).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn a_reboot_loses_everything_silently() {
    let (runtime, mut events) = runtime();
    let (spec, started) = started(&runtime, 1).await;
    runtime.host().reboot().await;
    assert_eq!(runtime.adopt(&spec).await.expect("its state"), Adopted::Gone);
    assert_eq!(runtime.list().await.expect("a list"), []);
    assert!(TcpStream::connect(started.daemon).await.is_err());
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn sandboxes_end_with_their_host_and_with_its_tasks() {
    for end_by_tasks in [true, false] {
        let tasks = Tasks::new();
        let (sender, _events) = mpsc::channel(4);
        let runtime = Arc::new(SimRuntime::new(tasks.clone(), sender));
        let (_, started) = started(&runtime, 1).await;
        let mut client = Client::open(started.daemon).await;
        let sleep = json!({"command": "sleep", "args": ["infinity"]});
        assert_eq!(client.post("/api/v1/processes", &sleep).await.0, StatusCode::CREATED.as_u16());
        if !end_by_tasks {
            drop(runtime);
        }
        assert_eq!(tasks.shutdown(PATIENCE).await, 0, "no task is left");
        assert!(TcpStream::connect(started.daemon).await.is_err());
    }
}
