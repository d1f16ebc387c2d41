//! The scripted part of spec 05.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tarn_guest_api::{INIT_PATH, MEMORY_PRESSURE_PATH, SHUTDOWN_PATH, STATS_PATH};
use tarn_runtime::{Runtime as _, RuntimeSpec, sim::SimRuntime};

use crate::support::{Client, PATIENCE, TOKEN, init_request, runtime, started};

async fn open() -> (SimRuntime, RuntimeSpec, Client) {
    let (runtime, _events) = runtime();
    let (spec, started) = started(&runtime, 1).await;
    let client = Client::open(started.daemon).await;
    (runtime, spec, client)
}

fn exit(frames: &[Value]) -> &Value {
    frames.last().expect("a run has an exit frame")
}

#[tokio::test]
async fn only_init_is_answered_before_init_and_only_the_token_after() {
    let (runtime, _events) = runtime();
    let (_, started) = started(&runtime, 1).await;
    let mut client = Client::connect(started.daemon).await;
    for path in ["/api/v1/health", STATS_PATH, "/"] {
        let (status, body) = client.get(path).await;
        assert_eq!((status, &body["code"]), (503, &json!("SANDBOX_NOT_READY")), "{path}");
    }
    assert_eq!(client.post(INIT_PATH, &init_request()).await.0, 200);
    for token in [None, Some("cd")] {
        client.with_token(token);
        let (status, body) = client.get("/api/v1/health").await;
        assert_eq!((status, &body["code"]), (401, &json!("UNAUTHENTICATED")));
    }
    client.with_token(Some(TOKEN));
    assert_eq!(client.get("/api/v1/health").await, (200, json!({"healthy": true})));
    let (status, body) = client.post(INIT_PATH, &init_request()).await;
    assert_eq!((status, &body["code"]), (409, &json!("ALREADY_INITIALIZED")));
}

#[tokio::test]
async fn an_init_that_cannot_be_done_leaves_the_daemon_closed() {
    let (runtime, _events) = runtime();
    let (_, started) = started(&runtime, 1).await;
    let mut client = Client::connect(started.daemon).await;
    for (field, value, code) in [
        ("protocol", json!(2), "UNSUPPORTED_PROTOCOL"),
        ("token", json!("ab"), "INVALID_REQUEST"),
        ("default_user", json!("nobody-here"), "CONFIGURATION_ERROR"),
        ("entrypoint", json!(["/no/such"]), "CONFIGURATION_ERROR"),
        ("env", json!(7), "INVALID_REQUEST"),
    ] {
        let mut request = init_request();
        request[field] = value;
        let (status, body) = client.post(INIT_PATH, &request).await;
        assert_eq!((status, &body["code"]), (400, &json!(code)), "{field}");
    }
    let mut request = init_request();
    request["entrypoint"] = json!(["sleep", "infinity"]);
    let (status, body) = client.post(INIT_PATH, &request).await;
    assert_eq!((status, &body["protocol"]), (200, &json!(1)));
    client.with_token(Some(TOKEN));
    let (_, list) = client.get("/api/v1/processes").await;
    assert_eq!(list["processes"][0]["pid"], body["entrypoint_pid"]);
    assert_eq!(list["processes"][0]["command"], "sleep");
}

#[tokio::test]
async fn a_run_streams_started_lines_and_exit() {
    let (_runtime, _, mut client) = open().await;
    let run = json!({"command": "sh", "args": ["-c", "echo out; echo err >&2; exit 3"]});
    let frames = client.run(&run).await;
    assert_eq!(frames.len(), 4, "{frames:?}");
    assert!(frames[0]["pid"].is_i64() && frames[0]["handle"].is_i64(), "{frames:?}");
    assert_eq!((&frames[1]["line"], &frames[1]["stream"]), (&json!("out"), &json!("stdout")));
    assert_eq!((&frames[2]["line"], &frames[2]["stream"]), (&json!("err"), &json!("stderr")));
    assert_eq!(exit(&frames), &json!({"exit_code": 3, "reason": "exited"}));

    let frames = client.run(&json!({"command": "env", "env": {"A": "1"}})).await;
    let lines: Vec<_> = frames.iter().filter_map(|frame| frame["line"].as_str()).collect();
    assert_eq!(lines, ["A=1", "LANG=C.UTF-8"]);

    let body = json!({"command": "no-such"});
    let (status, body) = client.post("/api/v1/processes/run", &body).await;
    assert_eq!((status, &body["code"]), (400, &json!("PROCESS_START_FAILED")));
}

#[tokio::test]
async fn a_run_is_streamed_as_it_goes_and_ended_by_its_limit() {
    let (_runtime, _, mut client) = open().await;
    let script =
        json!({"command": "sh", "args": ["-c", "echo first; sleep infinity"], "timeout": 0.2});
    let response = client.send("POST", "/api/v1/processes/run", script.to_string()).await;
    let response = response.expect("an answer");
    assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
    let mut body = response.into_body();
    let first = body.frame().await.expect("a frame").expect("no error").into_data();
    let first = String::from_utf8(first.expect("data").to_vec()).expect("text");
    assert!(first.contains("first") && !first.contains("reason"), "{first}");
    let rest = body.collect().await.expect("the rest").to_bytes();
    assert_eq!(rest, "data: {\"signal\":9,\"reason\":\"timed_out\"}\n\n");
}

#[tokio::test]
async fn processes_are_started_listed_and_killed() {
    let (_runtime, _, mut client) = open().await;
    let (status, one) =
        client.post("/api/v1/processes", &json!({"command": "sleep", "args": ["infinity"]})).await;
    assert_eq!((status, &one["status"]), (201, &json!("running")));
    let (_, two) =
        client.post("/api/v1/processes", &json!({"command": "echo", "args": ["hi"]})).await;
    assert_eq!((&two["status"], &two["exit_code"]), (&json!("exited"), &json!(0)));
    let path = format!("/api/v1/processes/{}", two["pid"]);
    let (_, output) = client.get(&format!("{path}/output")).await;
    assert_eq!(output, json!({"pid": two["pid"], "lines": ["hi"], "line_count": 1}));
    let (_, output) = client.get(&format!("{path}/stderr")).await;
    assert_eq!(output["line_count"], 0);
    let (_, list) = client.get("/api/v1/processes").await;
    assert_eq!(list, json!({"processes": [one, two]}));

    let path = format!("/api/v1/processes/{}", one["pid"]);
    assert_eq!(client.call("DELETE", &path, "").await.0, 204);
    let (_, killed) = client.get(&path).await;
    assert_eq!((&killed["status"], &killed["signal"]), (&json!("signaled"), &json!(9)));
    assert_eq!(client.call("DELETE", &path, "").await.0, 204, "a finished one too");
    let (_, info) = client.get("/api/v1/info").await;
    assert_eq!((&info["running_processes"], &info["total_processes"]), (&json!(0), &json!(2)));
    for pid in ["99", "x"] {
        let (status, body) = client.get(&format!("/api/v1/processes/{pid}")).await;
        assert_eq!((status, &body["code"]), (404, &json!("PROCESS_NOT_FOUND")));
    }
}

#[tokio::test]
async fn private_routes_count_end_and_stop_processes() {
    let (_runtime, _, mut client) = open().await;
    let sleep = json!({"command": "sleep", "args": ["infinity"]});
    let nothing = client.post(MEMORY_PRESSURE_PATH, &json!({})).await;
    assert_eq!(nothing, (200, json!({"killed": null})));
    let mut pids = Vec::new();
    for _ in 0..3 {
        pids.push(client.post("/api/v1/processes", &sleep).await.1["pid"].clone());
    }
    let (_, killed) = client.post(MEMORY_PRESSURE_PATH, &json!({})).await;
    assert_eq!(killed["killed"]["pid"], pids[2], "the newest counts as the largest");
    let (_, victim) = client.get(&format!("/api/v1/processes/{}", pids[2])).await;
    assert_eq!((&victim["status"], &victim["oom_killed"]), (&json!("oom_killed"), &json!(true)));
    let (_, stats) = client.get(STATS_PATH).await;
    let expected = json!({"running_processes": 2, "total_processes": 3, "guest_processes": 2});
    assert_eq!(stats, expected);
    assert_eq!(client.post(SHUTDOWN_PATH, &json!({})).await.1, json!({"signaled": 2}));
}

#[tokio::test]
async fn files_go_in_and_come_out() {
    let (runtime, spec, mut client) = open().await;
    let content = vec![b'x'; 1_000_000];
    let before = runtime.stats(&spec.id).await.expect("stats").memory;
    let put = client.bytes("PUT", "/api/v1/files?path=/tmp/d/a+b.txt", content.clone()).await;
    assert_eq!(put.0, 204);
    let after = runtime.stats(&spec.id).await.expect("stats").memory;
    assert_eq!(after.bytes() - before.bytes(), 1_000_000, "files count as memory");
    let got = client.bytes("GET", "/api/v1/files?path=/tmp/d/a%20b.txt", "").await;
    assert_eq!(got, (200, content.into()));
    let (_, list) = client.get("/api/v1/files/list?path=/tmp").await;
    assert_eq!(list["path"], "/tmp");
    assert_eq!(
        (&list["entries"][0]["name"], &list["entries"][0]["is_dir"]),
        (&json!("d"), &json!(true))
    );
    assert_eq!(list["entries"][0]["size"], Value::Null);
    let cat = json!({"command": "cat", "args": ["rel.txt"]});
    assert_eq!(client.bytes("PUT", "/api/v1/files?path=rel.txt", "one\n").await.0, 204);
    assert_eq!(client.run(&cat).await[1]["line"], "one", "relative to the working directory");
    assert_eq!(client.call("DELETE", "/api/v1/files?path=/workspace/rel.txt", "").await.0, 204);
    assert_eq!(exit(&client.run(&cat).await)["exit_code"], 1);
}

#[tokio::test]
async fn bad_requests_get_their_status_and_code() {
    let (_runtime, _, mut client) = open().await;
    assert_eq!(client.bytes("PUT", "/api/v1/files?path=/tmp/f", "x").await.0, 204);
    let huge = format!("{{\"command\": \"{}\"}}", "x".repeat(4 << 20));
    for (method, path, body, status, code) in [
        ("GET", "/api/v1/files?path=/nope", "", 404, "NOT_FOUND"),
        ("GET", "/api/v1/files?path=/tmp", "", 400, "IS_DIRECTORY"),
        ("GET", "/api/v1/files?path=/tmp/../etc", "", 403, "PATH_TRAVERSAL"),
        ("PUT", "/api/v1/files?path=..", "", 403, "PATH_TRAVERSAL"),
        ("PUT", "/api/v1/files?path=/tmp/f/g", "", 400, "NOT_A_DIRECTORY"),
        ("GET", "/api/v1/files", "", 400, "INVALID_REQUEST"),
        ("GET", "/api/v1/files?path=", "", 400, "INVALID_REQUEST"),
        ("GET", "/api/v1/files/list?path=/tmp/f", "", 400, "NOT_A_DIRECTORY"),
        ("DELETE", "/api/v1/files?path=/tmp", "", 400, "IS_DIRECTORY"),
        ("POST", "/api/v1/processes", "{", 400, "INVALID_REQUEST"),
        ("POST", "/api/v1/processes", &huge, 413, "PAYLOAD_TOO_LARGE"),
        (
            "POST",
            "/api/v1/processes/run",
            r#"{"command":"true","timeout":-1}"#,
            400,
            "INVALID_REQUEST",
        ),
        ("POST", "/api/v1/pty", "{}", 400, "NOT_SUPPORTED"),
        ("GET", "/api/v1/processes/2/stdout/follow", "", 400, "NOT_SUPPORTED"),
        ("GET", "/elsewhere", "", 404, "NOT_FOUND"),
    ] {
        let (got, answer) = client.call(method, path, body.to_owned()).await;
        assert_eq!((got, &answer["code"]), (status, &json!(code)), "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn a_frozen_process_waits_for_the_thaw() {
    let (runtime, spec, mut client) = open().await;
    let nap = json!({"command": "sh", "args": ["-c", "sleep 1; echo awake"]});
    let running = client.send("POST", "/api/v1/processes/run", nap.to_string()).await;
    runtime.freeze(&spec.id).await.expect("frozen");
    let body = running.expect("it began before the freeze").into_body();
    let mut rest = Box::pin(body.collect());
    tokio::select! {
        _ = &mut rest => panic!("it went on although it is frozen"),
        () = tokio::time::sleep(Duration::from_millis(1200)) => {}
    }
    runtime.thaw(&spec.id).await.expect("thawed");
    let rest = tokio::time::timeout(PATIENCE, rest).await.expect("in time").expect("whole");
    assert!(String::from_utf8_lossy(&rest.to_bytes()).contains("awake"));
}
