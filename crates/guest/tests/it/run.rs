//! `processes/run`: the frames, the time limit, the slow reader, the reader who leaves.

use std::net::Shutdown;

use serde_json::{Value, json};

use crate::daemon::{TestDaemon, pid, wait_until};

fn shell(script: &str) -> Value {
    json!({"command": "sh", "args": ["-c", script]})
}

#[test]
fn a_run_is_start_lines_and_exit() {
    let daemon = TestDaemon::open();
    let mut stream =
        daemon.stream("POST", "/processes/run", &shell("echo; echo hi; echo e >&2; exit 4"));
    assert!(stream.head.contains("content-type: text/event-stream"), "{}", stream.head);
    let frames = stream.frames();
    let first = &frames[0];
    assert_eq!(first["handle"], 1);
    assert!(first["pid"].is_i64() && first["started_at"].is_u64());
    let mut lines: Vec<_> = frames[1..4]
        .iter()
        .map(|frame| {
            assert!(frame["timestamp"].is_u64());
            (frame["stream"].as_str().expect("a stream"), frame["line"].as_str().expect("a line"))
        })
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, [("stderr", "e"), ("stdout", ""), ("stdout", "hi")]);
    assert_eq!(frames[4], json!({"exit_code": 4, "reason": "exited"}));
    assert_eq!(frames.len(), 5);
}

#[test]
fn lines_come_as_they_are_written() {
    let daemon = TestDaemon::open();
    let gate = daemon.dir.path().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).expect("made");
    let script = "echo first; cat gate; echo last";
    let mut stream = daemon.stream("POST", "/processes/run", &shell(script));
    assert!(stream.next_frame().expect("a start frame")["pid"].is_i64());
    assert_eq!(stream.next_frame().expect("a line")["line"], "first");
    // Only now may it go on: the line before did not wait for the end.
    std::fs::write(&gate, "second\n").expect("opened");
    let rest: Vec<_> = stream.frames().iter().map(|frame| frame["line"].clone()).collect();
    assert_eq!(rest, [json!("second"), json!("last"), Value::Null]);
}

#[test]
fn signals_are_told() {
    let daemon = TestDaemon::open();
    let (_, exit) = daemon.run_shell("kill -TERM $$");
    assert_eq!(exit, json!({"signal": 15, "reason": "signaled"}));
}

#[test]
fn nothing_is_lost_and_the_last_line_needs_no_newline() {
    let daemon = TestDaemon::open();
    let (lines, exit) = daemon.run_shell("seq 1 200000; printf last");
    assert_eq!(exit["exit_code"], 0);
    assert_eq!(lines.len(), 200_001);
    assert_eq!(lines.last().map(String::as_str), Some("last"));
    assert!((1..=200_000).zip(&lines).all(|(number, line)| *line == number.to_string()));
}

#[test]
fn the_time_limit_ends_the_whole_tree() {
    let daemon = TestDaemon::open();
    let request = json!({
        "command": "sh",
        "args": ["-c", "setsid sleep 1000 & echo started; sleep 1000"],
        "timeout": 0.3,
    });
    let frames = daemon.stream("POST", "/processes/run", &request).frames();
    assert_eq!(frames[1]["line"], "started");
    assert_eq!(frames.last(), Some(&json!({"signal": 9, "reason": "timed_out"})));
    wait_until("nobody is left", || daemon.guest_processes() == 0);
}

#[test]
fn time_limits_are_checked() {
    let daemon = TestDaemon::open();
    for (limit, field) in
        [(json!(-1), "timeout"), (json!("5"), "timeout"), (json!([]), "timeout_secs")]
    {
        let answer =
            daemon.api("POST", "/processes/run", &json!({"command": "true", field: limit}));
        assert_eq!(answer.refusal(), (400, "INVALID_REQUEST".to_owned()), "{limit}");
    }
    for limit in [json!(1e300), json!(60), json!(null)] {
        let request = json!({"command": "true", "timeout_secs": limit});
        let frames = daemon.stream("POST", "/processes/run", &request).frames();
        assert_eq!(frames.last(), Some(&json!({"exit_code": 0, "reason": "exited"})));
    }
}

#[test]
fn a_background_child_does_not_keep_the_run_open() {
    let daemon = TestDaemon::open();
    let (lines, exit) = daemon.run_shell("sleep 1000 & echo done");
    assert_eq!(lines, ["done"]);
    assert_eq!(exit["exit_code"], 0);
    assert_eq!(daemon.guest_processes(), 1, "the child lives on");
}

#[test]
fn lines_of_a_child_that_outlives_the_process_a_little_are_there() {
    let daemon = TestDaemon::open();
    let request = json!({"command": "bash", "args": ["-c", "exec > >(cat); echo one; echo two"]});
    let frames = daemon.stream("POST", "/processes/run", &request).frames();
    let lines: Vec<_> = frames.iter().filter_map(|frame| frame["line"].as_str()).collect();
    assert_eq!(lines, ["one", "two"]);
}

#[test]
fn a_slow_reader_slows_the_process_and_misses_nothing() {
    let daemon = TestDaemon::open();
    let script = "seq 1 1000000 && touch finished";
    let mut stream = daemon.stream("POST", "/processes/run", &shell(script));
    assert!(stream.next_frame().is_some());
    // Something else goes through meanwhile, several times: were nobody slowed, it would finish.
    for _ in 0..50 {
        assert_eq!(daemon.run_shell("true").1["exit_code"], 0);
    }
    assert!(!daemon.dir.path().join("finished").exists(), "the process waits for its reader");
    let frames = stream.frames();
    assert_eq!(frames.len(), 1_000_001);
    assert!(daemon.dir.path().join("finished").exists());
}

#[test]
fn without_its_reader_a_run_goes_on() {
    let daemon = TestDaemon::open();
    let mut socket = daemon.connect();
    let body = shell("seq 1 500000; echo end").to_string();
    let head = format!(
        "POST /api/v1/processes/run HTTP/1.1\r\nhost: t\r\nx-tarn-token: {}\r\ncontent-length: {}\r\n\r\n",
        crate::daemon::TOKEN,
        body.len()
    );
    std::io::Write::write_all(&mut socket, head.as_bytes()).expect("sent");
    std::io::Write::write_all(&mut socket, body.as_bytes()).expect("sent");
    wait_until("it has started", || daemon.get("/info").json()["total_processes"] == 1);
    socket.shutdown(Shutdown::Both).expect("hung up");
    let pid = pid(&daemon.get("/processes").json()["processes"][0]);
    assert_eq!(daemon.wait_end(pid)["exit_code"], 0);
    wait_until("all is read", || {
        daemon.lines(pid, "stdout").last().map(String::as_str) == Some("end")
    });
}

#[test]
fn mode_fields_are_ignored() {
    let daemon = TestDaemon::open();
    let request = json!({
        "command": "sh", "args": ["-c", "cat; echo out"],
        "stdin_mode": "pipe", "stdout_mode": "discard", "stderr_mode": "discard",
    });
    let frames = daemon.stream("POST", "/processes/run", &request).frames();
    assert_eq!(frames[1]["line"], "out");
}
