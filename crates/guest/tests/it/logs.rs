//! What the node reads of all output: waiting, batches, acknowledgement, who may ask.

use serde_json::{Value, json};

use crate::daemon::{TestDaemon, wait_until};

const LOGS: &str = "/internal/v1/logs";

fn ask(daemon: &TestDaemon, ack: u64, wait_ms: u64) -> Value {
    let body = json!({"ack": ack, "wait_ms": wait_ms, "gather_ms": 20});
    let answer = daemon.request("POST", LOGS, body.to_string().as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Reads until a number of lines is there; each as stream, text and handle.
fn read(daemon: &TestDaemon, lines: usize) -> Vec<(String, String, u64)> {
    let (mut ack, mut seen) = (0, Vec::new());
    wait_until("the lines come", || {
        let batch = ask(daemon, ack, 1000);
        if batch["batch"] != 0 {
            ack = batch["batch"].as_u64().expect("a number");
        }
        for line in batch["lines"].as_array().expect("a list") {
            let text = |key: &str| line[key].as_str().expect("a text").to_owned();
            seen.push((text("stream"), text("text"), line["handle"].as_u64().expect("a number")));
        }
        seen.len() >= lines
    });
    seen
}

#[test]
fn every_kind_of_start_is_logged_and_discarded_output_is_not() {
    let daemon = TestDaemon::closed();
    let entrypoint = json!({"entrypoint": ["sh", "-c", "echo first"]});
    assert_eq!(daemon.init(&entrypoint).status, 200);
    daemon.run_shell("echo run; printf half");
    daemon.start_shell("echo started >&2");
    let discarded = json!({
        "command": "sh", "args": ["-c", "echo never; echo kept >&2"], "stdout_mode": "discard",
    });
    daemon.start(&discarded);
    let mut seen = read(&daemon, 5);
    seen.sort_by_key(|(_, _, handle)| *handle);
    let expected = [
        ("stdout", "first", 1),
        ("stdout", "run", 2),
        ("stdout", "half", 2),
        ("stderr", "started", 3),
        ("stderr", "kept", 4),
    ];
    let expected = expected.map(|(stream, text, handle)| (stream.into(), text.into(), handle));
    assert_eq!(seen, expected);
    assert_eq!(ask(&daemon, 999, 0)["batch"], ask(&daemon, 0, 0)["batch"], "still unacknowledged");
}

#[test]
fn a_managed_process_is_named_in_all_its_runs() {
    let daemon = TestDaemon::open();
    daemon.start(&json!({
        "command": "sh", "args": ["-c", "echo run; exit 1"], "name": "web",
        "restart": {"policy": "on_failure", "max_restarts": 1, "initial_backoff_ms": 1},
    }));
    let (mut ack, mut handles) = (0, Vec::new());
    wait_until("both runs are logged", || {
        let batch = ask(&daemon, ack, 1000);
        if batch["batch"] != 0 {
            ack = batch["batch"].as_u64().expect("a number");
        }
        for process in batch["processes"].as_array().expect("a list") {
            assert_eq!(
                (&process["managed_id"], &process["managed_name"]),
                (&json!("web"), &json!("web"))
            );
            handles.push(process["handle"].as_u64().expect("a number"));
        }
        handles.len() >= 2
    });
    assert_ne!(handles[0], handles[1]);
}

#[test]
fn hundreds_of_short_commands_lose_nothing() {
    let daemon = TestDaemon::open();
    for number in 0..300 {
        let (lines, _) = daemon.run_shell(&format!("echo {number}"));
        assert_eq!(lines, [number.to_string()]);
    }
    let seen = read(&daemon, 300);
    let texts: Vec<_> = seen.iter().map(|(_, text, _)| text.clone()).collect();
    assert_eq!(texts.len(), 300);
    let mut numbers: Vec<u32> = texts.iter().map(|text| text.parse().expect("a number")).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..300).collect::<Vec<_>>());
}

#[test]
fn a_dropped_call_loses_nothing() {
    let daemon = TestDaemon::open();
    // The node hangs up in the middle of its wait.
    let waiting = daemon.connect();
    let body = json!({"ack": 0, "wait_ms": 60_000, "gather_ms": 0}).to_string();
    let head = format!(
        "POST {LOGS} HTTP/1.1\r\nhost: t\r\nx-tarn-token: {}\r\ncontent-length: {}\r\n\r\n{body}",
        crate::daemon::TOKEN,
        body.len(),
    );
    std::io::Write::write_all(&mut &waiting, head.as_bytes()).expect("sent");
    drop(waiting);
    daemon.start_shell("echo survived");
    assert_eq!(read(&daemon, 1)[0].1, "survived");
}

#[test]
fn bad_calls_are_refused() {
    let daemon = TestDaemon::open();
    assert_eq!(daemon.request("GET", LOGS, b"").refusal().0, 405);
    assert_eq!(daemon.request("POST", LOGS, b"{}").refusal(), (400, "INVALID_REQUEST".into()));
    assert_eq!(daemon.request_with("POST", LOGS, "", b"{}").refusal().0, 401);
}
