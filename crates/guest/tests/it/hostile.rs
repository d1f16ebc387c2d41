//! Clients that misbehave.

use std::io::{Read as _, Write as _};

use serde_json::json;

use crate::daemon::{Stream, TOKEN, TestDaemon};

#[test]
fn a_json_body_over_four_mebibytes_is_refused() {
    let daemon = TestDaemon::open();
    let body = json!({"command": "true", "args": ["x".repeat(4 << 20)]}).to_string();
    let answer = daemon.request("POST", "/api/v1/processes", body.as_bytes());
    assert_eq!(answer.refusal(), (413, "PAYLOAD_TOO_LARGE".to_owned()));
    let body = json!({"command": "true", "args": ["x".repeat(100_000)]}).to_string();
    assert_eq!(daemon.request("POST", "/api/v1/processes", body.as_bytes()).status, 201);
}

#[test]
fn an_argument_that_the_kernel_refuses_is_a_failed_start() {
    let daemon = TestDaemon::open();
    let answer = daemon.api(
        "POST",
        "/processes",
        &json!({"command": "true", "args": ["x".repeat(3 << 20)]}),
    );
    assert_eq!(answer.refusal(), (400, "PROCESS_START_FAILED".to_owned()));
    assert_eq!(answer.json()["error"], "true: Argument list too long");
}

#[test]
fn deep_json_is_refused() {
    let daemon = TestDaemon::open();
    let body = "[".repeat(1 << 20);
    let answer = daemon.request("POST", "/api/v1/processes", body.as_bytes());
    assert_eq!(answer.refusal(), (400, "INVALID_REQUEST".to_owned()));
    let body = format!(r#"{{"command":"true","later":{}}}"#, "[".repeat(1 << 20));
    let answer = daemon.request("POST", "/api/v1/processes", body.as_bytes());
    assert_eq!(answer.refusal(), (400, "INVALID_REQUEST".to_owned()));
}

#[test]
fn garbage_ends_the_connection_and_nothing_else() {
    let daemon = TestDaemon::open();
    let endless = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &vec![b'x'; 1 << 20]].concat();
    let garbage: [&[u8]; 6] = [
        b"\0\0\0\0",
        b"HELO\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        &endless,
        b"\x16\x03\x01",
    ];
    for bytes in garbage {
        let mut socket = daemon.connect();
        // It may be closed while we still write.
        drop(socket.write_all(bytes));
        drop(socket.shutdown(std::net::Shutdown::Write));
        let mut rest = Vec::new();
        drop(socket.read_to_end(&mut rest));
        let shown = String::from_utf8_lossy(&rest);
        assert!(rest.is_empty() || shown.starts_with("HTTP/1.1 4"), "{shown}");
        assert_eq!(daemon.get("/health").status, 200);
    }
}

#[test]
fn silent_connections_do_not_keep_others_out() {
    let daemon = TestDaemon::open();
    let silent: Vec<_> = (0..50)
        .map(|_| {
            let mut socket = daemon.connect();
            socket.write_all(b"GET /api/v1/hea").expect("sent");
            socket
        })
        .collect();
    assert_eq!(daemon.get("/health").status, 200);
    drop(silent);
}

#[test]
fn a_connection_serves_many_requests() {
    let daemon = TestDaemon::open();
    let mut socket = daemon.connect();
    let request =
        format!("GET /api/v1/health HTTP/1.1\r\nhost: t\r\nx-tarn-token: {TOKEN}\r\n\r\n");
    for _ in 0..100 {
        socket.write_all(request.as_bytes()).expect("sent");
        let head = Stream::read_head(socket.try_clone().expect("cloned")).head;
        assert!(head.starts_with("http/1.1 200"), "{head}");
    }
}

#[test]
fn a_fifo_in_the_way_is_an_error_not_a_hang() {
    let daemon = TestDaemon::open();
    nix::unistd::mkfifo(&daemon.dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU)
        .expect("made");
    let answer =
        daemon.api("POST", "/processes", &json!({"command": "true", "working_dir": "fifo"}));
    assert_eq!(answer.refusal(), (400, "PROCESS_START_FAILED".to_owned()));
    let answer = daemon.api("POST", "/processes", &json!({"command": "./fifo"}));
    assert_eq!(answer.refusal(), (400, "PROCESS_START_FAILED".to_owned()));
}

#[test]
fn an_upload_refused_early_still_gets_its_answer() {
    let daemon = TestDaemon::open();
    let size = 16 << 20;
    let mut socket = daemon.connect();
    let head = format!(
        "PUT /api/v1/files?path=/tmp/../x HTTP/1.1\r\nhost: x\r\nx-tarn-token: {TOKEN}\r\n\
         content-length: {size}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).expect("the head is sent");
    // Whole, whatever the daemon makes of it: only then is the answer looked for.
    socket.write_all(&vec![b'x'; size]).expect("the body is taken or thrown away, not reset");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("the answer is not lost to a reset");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("PATH_TRAVERSAL"), "{answer}");
}
