//! Much of everything: memory stays bounded, nothing is lost, others are answered.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};

use crate::daemon::{Stream, TOKEN, TestDaemon, wait_until};

/// No answer of a healthy daemon takes this long, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(2);

fn shell(script: &str) -> Value {
    json!({"command": "sh", "args": ["-c", script]})
}

/// Sends a request whose answer nobody reads.
fn send_only(
    daemon: &TestDaemon,
    method: &str,
    path: &str,
    length: usize,
    body: &[u8],
) -> TcpStream {
    let mut socket = daemon.connect();
    let head = format!(
        "{method} /api/v1{path} HTTP/1.1\r\nhost: t\r\nx-tarn-token: {TOKEN}\r\ncontent-length: {length}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).expect("sent");
    socket.write_all(body).expect("sent");
    socket
}

fn start_unread_run(daemon: &TestDaemon, script: &str) -> TcpStream {
    let body = shell(script).to_string();
    send_only(daemon, "POST", "/processes/run", body.len(), body.as_bytes())
}

fn running(daemon: &TestDaemon) -> u64 {
    daemon.get("/info").json()["running_processes"].as_u64().expect("a number")
}

fn assert_answers_in_time(daemon: &TestDaemon, rounds: usize) {
    for _ in 0..rounds {
        for path in ["/health", "/info", "/processes", "/files/list?path=/etc"] {
            let socket = send_only(daemon, "GET", path, 0, b"");
            socket.set_read_timeout(Some(PATIENCE)).expect("set");
            assert_eq!(Stream::read_head(socket).status, 200, "{path}");
        }
    }
}

#[test]
fn endless_output_holds_nobody_up_and_keeps_the_retention() {
    let daemon = TestDaemon::open();
    let pids: Vec<i64> = (0..8).map(|_| daemon.start_shell("exec yes")).collect();
    assert_answers_in_time(&daemon, 10);
    wait_until("the oldest lines are dropped", || {
        daemon.lines(pids[0], "stdout").first().is_some_and(|line| line.starts_with("[tarn: "))
    });
    // 64 MiB for all the sandbox, and what is on its way.
    assert!(daemon.resident_bytes() < 110 << 20, "{}", daemon.resident_bytes());
}

#[test]
fn readers_that_never_read_cost_little_and_hold_nobody_up() {
    let daemon = TestDaemon::open();
    let held: Vec<_> =
        (0..48).map(|_| start_unread_run(&daemon, "yes | head -c 3000000")).collect();
    wait_until("all run", || running(&daemon) == 48);
    assert_answers_in_time(&daemon, 5);
    assert!(daemon.resident_bytes() < 100 << 20, "{}", daemon.resident_bytes());
    drop(held);
    wait_until("they go on without their readers", || running(&daemon) == 0);
}

#[test]
fn a_line_without_end_is_split_and_whole() {
    let daemon = TestDaemon::open();
    let request = shell("head -c 20000000 /dev/zero | tr '\\0' '\"'");
    let mut stream = daemon.stream("POST", "/processes/run", &request);
    let mut length = 0;
    while let Some(frame) = stream.next_frame() {
        if let Some(line) = frame["line"].as_str() {
            assert!(line.len() <= 64 << 10 && line.bytes().all(|byte| byte == b'"'));
            length += line.len();
        }
    }
    assert_eq!(length, 20_000_000);
}

#[test]
fn retained_output_of_any_size_is_one_answer() {
    let daemon = TestDaemon::open();
    let pid = daemon.start_shell("seq 1 400000; seq 1 1000 >&2; printf 'rest\\t\"' >&2");
    daemon.wait_end(pid);
    wait_until("all is read", || {
        daemon.lines(pid, "stderr").last().is_some_and(|line| line == "rest\t\"")
    });
    let lines = daemon.lines(pid, "stdout");
    let first = lines[0].strip_prefix("[tarn: ").and_then(|text| text.split(' ').next());
    let dropped: usize = first.expect("a drop line").parse().expect("a number");
    assert_eq!(dropped + lines.len() - 1, 400_000);
    assert_eq!(lines.last().map(String::as_str), Some("400000"));
    assert_eq!(daemon.lines(pid, "output").len(), lines.len() + 1001);
}

#[test]
fn many_runs_leave_nothing() {
    let daemon = TestDaemon::open();
    for _ in 0..300 {
        assert_eq!(daemon.run_shell("echo x").1["exit_code"], 0);
    }
    let (descriptors, resident) = (daemon.descriptors(), daemon.resident_bytes());
    for _ in 0..200 {
        assert_eq!(daemon.run_shell("echo x").1["exit_code"], 0);
    }
    wait_until("no more descriptors", || daemon.descriptors() <= descriptors);
    assert!(daemon.resident_bytes() <= resident + (512 << 10));
    assert_eq!(daemon.guest_processes(), 0);
    assert!(daemon.get("/processes").json()["processes"].as_array().expect("a list").len() <= 256);
}

#[test]
fn large_files_come_and_go_whole_in_little_memory() {
    let daemon = TestDaemon::open();
    let size = 64 << 20;
    let content: Vec<u8> = (0..size / 8_u64).flat_map(u64::to_le_bytes).collect();
    let path = format!("/files?path={}", daemon.dir.path().join("big").display());
    let mut socket = send_only(&daemon, "PUT", &path, content.len(), &content);
    let mut head = [0; 12];
    socket.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 204");
    assert!(fs::read(daemon.dir.path().join("big")).expect("there") == content);
    assert!(daemon.get(&path).body == content);
    assert!(daemon.resident_bytes() < 30 << 20, "{}", daemon.resident_bytes());
}

#[test]
fn unfinished_uploads_keep_nobody_from_the_files() {
    let daemon = TestDaemon::open();
    let at = |name: &str| format!("/files?path={}", daemon.dir.path().join(name).display());
    let held: Vec<_> = (0..16)
        .map(|number| {
            send_only(&daemon, "PUT", &at(&number.to_string()), 1 << 30, &[b'x'; 3 << 20])
        })
        .collect();
    wait_until("they have begun", || fs::read_dir(daemon.dir.path()).expect("there").count() == 16);
    assert_answers_in_time(&daemon, 5);
    drop(held);
    wait_until("they are undone", || fs::read_dir(daemon.dir.path()).expect("there").count() == 0);
}

#[test]
fn a_large_directory_is_listed_whole() {
    let daemon = TestDaemon::open();
    fs::create_dir(daemon.dir.path().join("zz")).expect("made");
    for number in 0..3000 {
        fs::write(daemon.dir.path().join(format!("{number:05} \"ä")), "x").expect("written");
    }
    let path = format!("/files/list?path={}", daemon.dir.path().display());
    let listing = daemon.get(&path).json();
    assert_eq!(listing["path"], daemon.dir.path().to_string_lossy().as_ref());
    let entries = listing["entries"].as_array().expect("an array");
    assert_eq!(entries.len(), 3001);
    assert_eq!((&entries[0]["name"], &entries[0]["size"]), (&json!("zz"), &Value::Null));
    for (number, entry) in entries[1..].iter().enumerate() {
        assert_eq!(entry["name"], format!("{number:05} \"ä"));
        assert_eq!((&entry["is_dir"], &entry["size"]), (&json!(false), &json!(1)));
        assert!(entry["modified_at"].as_i64().is_some_and(|at| at > 1_600_000_000_000));
    }
}

#[test]
fn input_that_is_never_read_waits_and_ends_with_its_process() {
    let daemon = TestDaemon::open();
    let started =
        daemon.start(&json!({"command": "sleep", "args": ["1000"], "stdin_mode": "pipe"}));
    let pid = crate::daemon::pid(&started);
    let body = vec![b'x'; 1 << 20];
    let socket = send_only(&daemon, "POST", &format!("/processes/{pid}/stdin"), body.len(), &body);
    assert_answers_in_time(&daemon, 3);
    assert_eq!(daemon.api("DELETE", &format!("/processes/{pid}"), &Value::Null).status, 204);
    let answer = Stream::read_head(socket);
    assert_eq!(answer.status, 400, "the input was not taken");
}
