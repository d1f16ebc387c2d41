//! Memory pressure, stats, shutdown: the node's calls.

use serde_json::{Value, json};

use crate::daemon::{Answer, TestDaemon, wait_until};

const PRESSURE: &str = "/internal/v1/memory-pressure";

/// A process of about 64 MiB that says when it is that large.
const HOG: &str =
    "import sys,time; b=bytearray(b'x')*(64<<20); print('full',flush=True); time.sleep(1000)";

fn press(daemon: &TestDaemon) -> Answer {
    daemon.request("POST", PRESSURE, b"{}")
}

#[test]
fn the_largest_goes_and_is_told_so() {
    let daemon = TestDaemon::open();
    let small = daemon.start_shell("exec sleep 1000");
    let hog = daemon.start(&json!({"command": "python3", "args": ["-c", HOG]}));
    let hog = crate::daemon::pid(&hog);
    wait_until("it is large", || daemon.lines(hog, "stdout") == ["full"]);
    let killed = press(&daemon).json()["killed"].clone();
    assert_eq!(killed["pid"], hog);
    assert!(killed["rss_bytes"].as_u64() > Some(60 << 20), "{killed}");
    let ended = daemon.wait_end(hog);
    assert_eq!(ended["status"], "oom_killed");
    assert_eq!((&ended["oom_killed"], &ended["signal"]), (&json!(true), &json!(9)));
    assert_eq!(daemon.info(small)["status"], "running");
}

#[test]
fn a_run_ends_with_the_reason() {
    let daemon = TestDaemon::open();
    let request = json!({"command": "python3", "args": ["-c", HOG], "timeout": 100});
    let mut stream = daemon.stream("POST", "/processes/run", &request);
    assert!(stream.next_frame().is_some());
    assert_eq!(stream.next_frame().expect("a line")["line"], "full");
    assert_eq!(press(&daemon).status, 200);
    let expected = json!({"signal": 9, "reason": "oom_killed", "oom_killed": true});
    assert_eq!(stream.frames(), [expected]);
}

#[test]
fn a_process_that_fails_for_its_child_is_told_so() {
    let daemon = TestDaemon::open();
    let request = json!({
        "command": "sh", "args": ["-c", format!("python3 -c \"{HOG}\"; exit $1"), "sh", "7"],
    });
    for (code, oom_killed) in [("7", Some(true)), ("0", None)] {
        let mut request = request.clone();
        request["args"][3] = json!(code);
        let pid = crate::daemon::pid(&daemon.start(&request));
        wait_until("it is large", || daemon.lines(pid, "stdout") == ["full"]);
        assert_ne!(press(&daemon).json()["killed"]["pid"], pid);
        let ended = daemon.wait_end(pid);
        assert_eq!(ended["status"], "exited");
        assert_eq!(ended.get("oom_killed").and_then(Value::as_bool), oom_killed);
    }
}

#[test]
fn there_may_be_nobody_to_end() {
    let daemon = TestDaemon::open();
    assert_eq!(press(&daemon).json(), json!({"killed": null}));
    let answer = daemon.request("POST", PRESSURE, b"[]");
    assert_eq!(answer.status, 200, "an empty sequence is an empty struct");
    let answer = daemon.request("POST", PRESSURE, b"5");
    assert_eq!(answer.refusal(), (400, "INVALID_REQUEST".to_owned()));
}

#[test]
fn stats_count_descendants_too() {
    let daemon = TestDaemon::open();
    daemon.start_shell("sleep 1000; :");
    wait_until("both are there", || daemon.guest_processes() == 2);
    let stats = daemon.request("GET", "/internal/v1/stats", b"").json();
    let expected = json!({"running_processes": 1, "total_processes": 1, "guest_processes": 2});
    assert_eq!(stats, expected);
}

#[test]
fn shutdown_asks_everybody_to_end() {
    let daemon = TestDaemon::open();
    let pid = daemon
        .start_shell("trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    wait_until("it is ready", || daemon.lines(pid, "stdout") == ["ready"]);
    let answer = daemon.request("POST", "/internal/v1/shutdown", b"");
    assert!(answer.json()["signaled"].as_u64() >= Some(1));
    assert_eq!(daemon.wait_end(pid)["exit_code"], 5);
}
