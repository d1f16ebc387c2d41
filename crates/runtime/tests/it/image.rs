//! What the simulated runtime keeps in an image, and its daemon's standing aside around one.

use std::time::Duration;

use serde_json::{Value, json};
use tarn_guest_api::{LOGS_PATH, SEAL_PATH, STATS_PATH, UNSEAL_PATH};
use tarn_runtime::{Runtime as _, RuntimeError, RuntimeSpec, Started, sim::SimStep};

use crate::support::{Client, PATIENCE, TOKEN, runtime, spec, started};

const OTHER: &str = "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd";

/// Long enough for an answer that is not held.
const SHORT: Duration = Duration::from_millis(100);

fn unseal(continues: &str, token: &str) -> Value {
    json!({
        "protocol": 1, "continues": continues, "token": token, "sandbox_id": "sbx2",
        "env": [["WHO", continues]], "entropy": "AAAA", "now_ms": 1_800_000_000_000_u64,
    })
}

async fn start(client: &mut Client, script: &str) -> i64 {
    let body = json!({ "command": "sh", "args": ["-c", script] });
    let (status, info) = client.post("/api/v1/processes", &body).await;
    assert_eq!(status, 201, "{info}");
    info["pid"].as_i64().expect("a pid")
}

async fn until_ended(client: &mut Client, pid: i64) {
    let ended = async {
        while client.get(&format!("/api/v1/processes/{pid}")).await.1["status"] == "running" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("it ends");
}

async fn with_token(started: &Started, token: &'static str) -> Client {
    let mut client = Client::connect(started.daemon).await;
    client.with_token(Some(token));
    client
}

#[tokio::test]
async fn a_copy_has_the_files_and_processes_of_its_source() {
    let (runtime, _events) = runtime();
    let (source, first) = started(&runtime, 1).await;
    let mut client = Client::open(first.daemon).await;
    let put = client.bytes("PUT", "/api/v1/files?path=/tmp/f", vec![0, 255, 7]).await;
    assert_eq!(put.0, 204);
    let asleep = start(&mut client, "echo a; sleep 0.3; echo b").await;
    let forever = start(&mut client, "sleep infinity").await;
    let over = start(&mut client, "echo done; exit 3").await;

    let image = tempfile::tempdir().expect("a writable directory");
    runtime.pause(&source.id).await.expect("it pauses");
    runtime.checkpoint(&source.id, image.path()).await.expect("it is written down");
    // An image is never written over.
    let again = runtime.checkpoint(&source.id, image.path()).await;
    assert!(matches!(again, Err(RuntimeError::Host { .. })), "{again:?}");
    runtime.delete(&source.id).await.expect("a delete succeeds");

    let copy = RuntimeSpec { hostname: "other".to_owned(), ..spec(2) };
    let second = runtime.restore(&copy, image.path()).await.expect("a whole image");
    let mut client = with_token(&second, TOKEN).await;
    let file = client.bytes("GET", "/api/v1/files?path=/tmp/f", "").await;
    assert_eq!(file, (200, vec![0, 255, 7].into()));
    until_ended(&mut client, asleep).await;
    let (_, output) = client.get(&format!("/api/v1/processes/{asleep}/stdout")).await;
    assert_eq!(output["lines"], json!(["a", "b"]));
    let (_, info) = client.get(&format!("/api/v1/processes/{forever}")).await;
    assert_eq!(info["status"], "running");
    let (_, info) = client.get(&format!("/api/v1/processes/{over}")).await;
    assert_eq!((&info["status"], &info["exit_code"]), (&json!("exited"), &json!(3)));
    let next = start(&mut client, "hostname").await;
    assert_eq!(next, over + 1, "numbers go on");
    let (_, output) = client.get(&format!("/api/v1/processes/{next}/stdout")).await;
    assert_eq!(output["lines"], json!(["other"]));
}

#[tokio::test]
async fn a_sealed_daemon_holds_requests_until_it_is_unsealed() {
    let (runtime, _events) = runtime();
    let (_, started) = started(&runtime, 1).await;
    let mut node = Client::open(started.daemon).await;
    for _ in 0..2 {
        assert_eq!(node.post(SEAL_PATH, &json!({})).await, (200, json!({})));
    }
    for path in ["/api/v1/health", STATS_PATH] {
        let mut held = with_token(&started, TOKEN).await;
        let mut answer = Box::pin(held.get(path));
        assert!(tokio::time::timeout(SHORT, answer.as_mut()).await.is_err(), "{path} is held");
        let (status, body) = node.post(UNSEAL_PATH, &unseal("itself", TOKEN)).await;
        assert_eq!((status, &body["protocol"]), (200, &json!(1)), "{body}");
        assert_eq!(answer.as_mut().await.0, 200, "the held one goes on");
        drop(answer);
        // Repeated it does nothing.
        assert_eq!(node.post(UNSEAL_PATH, &unseal("copy", TOKEN)).await.0, 200);
        assert_eq!(held.get("/api/v1/health").await.0, 200, "its connection too");
        assert_eq!(node.post(SEAL_PATH, &json!({})).await.0, 200);
    }
}

#[tokio::test]
async fn another_life_has_another_token_and_no_connection_of_before() {
    let (runtime, _events) = runtime();
    let (_, started) = started(&runtime, 1).await;
    for (continues, old, new) in [("suspended", TOKEN, OTHER), ("copy", OTHER, TOKEN)] {
        let mut node = if old == TOKEN {
            Client::open(started.daemon).await
        } else {
            with_token(&started, old).await
        };
        let mut before = with_token(&started, old).await;
        assert_eq!(before.get("/api/v1/health").await.0, 200);
        assert_eq!(node.post(SEAL_PATH, &json!({})).await.0, 200);
        let mut held = with_token(&started, old).await;
        let answer = held.send("GET", "/api/v1/health", "");
        tokio::pin!(answer);
        assert!(tokio::time::timeout(SHORT, answer.as_mut()).await.is_err());

        assert_eq!(node.post(UNSEAL_PATH, &unseal(continues, new)).await.0, 200);
        assert!(answer.await.is_err(), "its connection is gone");
        let gone = tokio::time::timeout(SHORT * 50, before.send("GET", "/api/v1/health", "")).await;
        assert!(gone.expect("it is told at once").is_err());
        // The one that unsealed lives, with the token of now.
        assert_eq!(node.get("/api/v1/health").await.0, 401);
        node.with_token(Some(new));
        assert_eq!(node.get("/api/v1/health").await.0, 200);
        let frames = node.run(&json!({ "command": "env" })).await;
        assert_eq!(frames[1]["line"], format!("WHO={continues}"));
    }
}

#[tokio::test]
async fn a_copy_hands_over_no_line_of_its_source() {
    let (runtime, _events) = runtime();
    let (_, started) = started(&runtime, 1).await;
    let mut node = Client::open(started.daemon).await;
    start(&mut node, "echo mine").await;
    let ask = json!({ "ack": 0, "wait_ms": 0, "gather_ms": 0 });
    let (_, first) = node.post(LOGS_PATH, &ask).await;
    assert_eq!(first["lines"][0]["text"], "mine", "{first}");

    for (continues, again) in [("suspended", true), ("copy", false)] {
        node.post(SEAL_PATH, &json!({})).await;
        assert_eq!(node.post(UNSEAL_PATH, &unseal(continues, TOKEN)).await.0, 200);
        let (_, batch) = node.post(LOGS_PATH, &ask).await;
        assert_eq!(batch == first, again, "{continues}: {batch}");
        assert_eq!(batch["boot"] == first["boot"], again, "{continues}: {batch}");
    }
    start(&mut node, "echo yours").await;
    let (_, batch) = node.post(LOGS_PATH, &ask).await;
    assert_eq!((&batch["batch"], &batch["lines"][0]["text"]), (&json!(1), &json!("yours")));
}

#[tokio::test]
async fn what_does_not_fit_changes_nothing() {
    let (runtime, _events) = runtime();
    let (_, started) = started(&runtime, 1).await;
    let mut node = Client::open(started.daemon).await;
    let (status, body) = node.post(UNSEAL_PATH, &unseal("copy", OTHER)).await;
    assert_eq!((status, &body["code"]), (409, &json!("NOT_SEALED")));
    runtime.faults().fail(SimStep::Seal, 1);
    assert_eq!(node.post(SEAL_PATH, &json!({})).await.0, 500);
    assert_eq!(node.get("/api/v1/health").await.0, 200, "it is not sealed");

    assert_eq!(node.post(SEAL_PATH, &json!({})).await.0, 200);
    runtime.faults().fail(SimStep::Unseal, 1);
    assert_eq!(node.post(UNSEAL_PATH, &unseal("copy", OTHER)).await.0, 500);
    for (field, value, code) in [
        ("protocol", json!(2), "UNSUPPORTED_PROTOCOL"),
        ("token", json!("ab"), "INVALID_REQUEST"),
        ("continues", json!("someone"), "INVALID_REQUEST"),
    ] {
        let mut request = unseal("copy", OTHER);
        request[field] = value;
        let (status, body) = node.post(UNSEAL_PATH, &request).await;
        assert_eq!((status, &body["code"]), (400, &json!(code)), "{field}");
    }
    let mut stranger = with_token(&started, OTHER).await;
    assert_eq!(stranger.post(UNSEAL_PATH, &unseal("copy", OTHER)).await.0, 401);
    let mut held = with_token(&started, TOKEN).await;
    let answer = tokio::time::timeout(SHORT, held.get("/api/v1/health")).await;
    assert!(answer.is_err(), "it is sealed still");
    assert_eq!(node.post(UNSEAL_PATH, &unseal("copy", OTHER)).await.0, 200);
}

#[tokio::test]
async fn an_image_of_a_sealed_daemon_is_sealed() {
    let (runtime, _events) = runtime();
    let (source, started) = started(&runtime, 1).await;
    let mut node = Client::open(started.daemon).await;
    assert_eq!(node.post(SEAL_PATH, &json!({})).await.0, 200);
    let image = tempfile::tempdir().expect("a writable directory");
    runtime.pause(&source.id).await.expect("it pauses");
    runtime.checkpoint(&source.id, image.path()).await.expect("it is written down");
    runtime.resume(&source.id).await.expect("it resumes");
    for number in 2..4 {
        let copy = runtime.restore(&spec(number), image.path()).await.expect("a whole image");
        let mut early = with_token(&copy, OTHER).await;
        let answer = early.send("GET", "/api/v1/health", "");
        tokio::pin!(answer);
        assert!(tokio::time::timeout(SHORT, answer.as_mut()).await.is_err(), "it serves nobody");
        let mut node = with_token(&copy, TOKEN).await;
        assert_eq!(node.post(UNSEAL_PATH, &unseal("copy", OTHER)).await.0, 200);
        assert!(answer.await.is_err(), "it was there before");
        node.with_token(Some(OTHER));
        assert_eq!(node.get("/api/v1/health").await.0, 200);
    }
    assert_eq!(node.post(UNSEAL_PATH, &unseal("itself", TOKEN)).await.0, 200);
    assert_eq!(node.get("/api/v1/health").await.0, 200);
}

#[tokio::test]
async fn each_step_of_an_image_fails_as_told() {
    let (runtime, _events) = runtime();
    let (source, _) = started(&runtime, 1).await;
    let image = tempfile::tempdir().expect("a writable directory");
    let step = |got: Result<(), RuntimeError>| match got {
        Err(RuntimeError::Backend { step, .. }) => step,
        other => unreachable!("{other:?}"),
    };
    let faults = runtime.faults();
    faults.fail(SimStep::Pause, 1);
    assert_eq!(step(runtime.pause(&source.id).await), "pause");
    assert_eq!(step(runtime.checkpoint(&source.id, image.path()).await), "checkpoint");
    runtime.pause(&source.id).await.expect("the second time it works");
    faults.fail(SimStep::Checkpoint, 1);
    assert_eq!(step(runtime.checkpoint(&source.id, image.path()).await), "checkpoint");
    runtime.checkpoint(&source.id, image.path()).await.expect("the second time it works");
    faults.fail(SimStep::Resume, 1);
    assert_eq!(step(runtime.resume(&source.id).await), "resume");
    runtime.resume(&source.id).await.expect("the second time it works");
    faults.fail(SimStep::Restore, 1);
    let copy = spec(2);
    assert_eq!(step(runtime.restore(&copy, image.path()).await.map(drop)), "restore");
    assert_eq!(runtime.list().await.expect("a list"), std::slice::from_ref(&source.id));
    runtime.restore(&copy, image.path()).await.expect("the second time it works");
}
