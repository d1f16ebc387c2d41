//! What processes print, from the daemon to the sink.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tarn_node_api::{Endpoint, NodeTarget};
use tarn_types::{EndCause, Launch, LogLevel, ObservedPhase, ProjectId};

use crate::world::{World, id, launch};

/// Starts a command in a sandbox, as a client does.
async fn start(endpoint: &Endpoint, script: &str) {
    let stream = tokio::net::TcpStream::connect(endpoint.daemon).await.expect("connects");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("speaks");
    let body = json!({"command": "sh", "args": ["-c", script]}).to_string();
    let request = http::Request::post("/api/v1/processes")
        .header("host", "tarnd")
        .header(tarn_guest_api::TOKEN_HEADER, endpoint.token.reveal())
        .body(Full::new(bytes::Bytes::from(body)))
        .expect("a request");
    let exchange = async {
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), 201);
        answer.into_body().collect().await.expect("a body");
    };
    tokio::select! { () = exchange => {}, _ended = connection => unreachable!("it answers") }
}

async fn running(world: &World, n: u8) -> Endpoint {
    world.run(&id(n)).await.endpoint.expect("it runs")
}

#[tokio::test]
async fn lines_arrive_with_their_process() {
    let world = World::new().await;
    let entrypoint = Some(vec!["echo".to_owned(), "hello".to_owned()]);
    let target = NodeTarget::Running(Launch { entrypoint, ..launch() });
    world.apply(&id(1), 1, target).await;
    world.wait(&id(1), |report| report.observed.phase == ObservedPhase::Running).await;
    assert_eq!(world.host.logs.wait(&id(1), 1).await, ["hello"]);
    let batch = world.host.logs.batches().remove(0);
    assert_eq!((batch.project, batch.number), (ProjectId::from_random([2; 16]), 1));
    let process = &batch.processes[0];
    assert_eq!((process.id, process.command.as_str()), (batch.lines[0].process, "echo hello"));
    assert_eq!((batch.lines[0].level, batch.lines[0].dropped), (LogLevel::Info, 0));

    let endpoint = world.node_endpoint(&id(1)).await;
    start(&endpoint, "echo worse >&2").await;
    assert_eq!(world.host.logs.wait(&id(1), 2).await, ["hello", "worse"]);
    assert_eq!(world.host.logs.batches()[1].lines[0].level, LogLevel::Error);
}

#[tokio::test]
async fn an_end_brings_the_last_lines() {
    let world = World::new().await;
    // Too quick for the pump's first question.
    let endpoint = running(&world, 1).await;
    start(&endpoint, "echo a; echo b").await;
    world.apply(&id(1), 2, NodeTarget::Terminated(EndCause::Deleted)).await;
    world.wait_end(&id(1)).await;
    assert_eq!(world.host.logs.texts(&id(1)), ["a", "b"]);
    world.assert_clean(1).await;
}

#[tokio::test]
async fn a_sink_that_fails_loses_nothing_and_hears_nothing_twice() {
    let world = World::new().await;
    let endpoint = running(&world, 1).await;
    world.host.logs.fail(3);
    start(&endpoint, "echo a").await;
    assert_eq!(world.host.logs.wait(&id(1), 1).await, ["a"]);
    start(&endpoint, "echo b").await;
    assert_eq!(world.host.logs.wait(&id(1), 2).await, ["a", "b"]);
    let numbers: Vec<_> = world.host.logs.batches().iter().map(|batch| batch.number).collect();
    assert_eq!(numbers, [1, 2]);
}

#[tokio::test]
async fn a_restart_goes_on_where_it_was() {
    let world = World::new().await;
    let endpoint = running(&world, 1).await;
    start(&endpoint, "echo before").await;
    world.host.logs.wait(&id(1), 1).await;
    // The acknowledgement of the last batch is lost with the server: it comes again.
    let world = world.restart().await;
    start(&endpoint, "echo after").await;
    assert_eq!(world.host.logs.wait(&id(1), 2).await, ["before", "after"]);
    assert_eq!(world.tasks.shutdown(Duration::from_secs(5)).await, 0, "the pump hangs");
}

#[tokio::test]
async fn a_dead_sandbox_is_not_asked_for_long() {
    let world = World::new().await;
    running(&world, 1).await;
    assert!(world.host.sim.kill(&id(1), tarn_runtime::RuntimeExit::Died("killed")).await);
    world.wait_end(&id(1)).await;
    world.assert_clean(1).await;
    assert_eq!(world.tasks.shutdown(Duration::from_secs(5)).await, 0, "the pump hangs");
}
