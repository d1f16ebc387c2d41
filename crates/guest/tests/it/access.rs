//! Who may call what, and when.

use serde_json::json;

use crate::daemon::{TOKEN, TestDaemon};

#[test]
fn before_init_there_is_nothing_but_init() {
    let daemon = TestDaemon::closed();
    for path in ["/api/v1/health", "/api/v1/processes", "/nothing", "/internal/v1/stats"] {
        let answer = daemon.request("GET", path, b"");
        assert_eq!(answer.refusal(), (503, "SANDBOX_NOT_READY".to_owned()), "{path}");
    }
    let answer = daemon.request("GET", "/internal/v1/init", b"");
    assert_eq!(answer.refusal(), (405, "METHOD_NOT_ALLOWED".to_owned()));
}

#[test]
fn after_init_nothing_answers_without_the_token() {
    let daemon = TestDaemon::open();
    let short = format!("x-tarn-token: {}\r\n", &TOKEN[..63]);
    let wrong = format!("x-tarn-token: {}0\r\n", &TOKEN[..63]);
    for head in ["", "x-tarn-token: \r\n", &short, &wrong] {
        for path in ["/api/v1/health", "/api/v1/nothing", "/internal/v1/stats"] {
            let answer = daemon.request_with("GET", path, head, b"");
            assert_eq!(answer.refusal(), (401, "UNAUTHENTICATED".to_owned()), "{path} {head}");
        }
    }
    let health = daemon.get("/health");
    assert_eq!((health.status, health.body.as_slice()), (200, &br#"{"healthy":true}"#[..]));
}

#[test]
fn a_second_init_is_refused_and_changes_nothing() {
    let daemon = TestDaemon::open();
    let answer = daemon.init(&json!({"token": "f".repeat(64)}));
    assert_eq!(answer.refusal(), (409, "ALREADY_INITIALIZED".to_owned()));
    assert_eq!(daemon.get("/health").status, 200);
}

#[test]
fn a_bad_init_is_refused_and_a_better_one_may_follow() {
    let daemon = TestDaemon::closed();
    let table = [
        (json!({"protocol": 2}), "UNSUPPORTED_PROTOCOL"),
        (json!({"token": "abc"}), "INVALID_REQUEST"),
        (json!({"token": "g".repeat(64)}), "INVALID_REQUEST"),
        (json!({"entropy": "AAAA"}), "INVALID_REQUEST"),
        (json!({"entropy": 5}), "INVALID_REQUEST"),
        (json!({"hostname": ""}), "INVALID_REQUEST"),
        (json!({"limits": {"processes": 0, "output_bytes": 1}}), "INVALID_REQUEST"),
        (json!({"limits": {"processes": -1, "output_bytes": 1}}), "INVALID_REQUEST"),
        (json!({"env": [["A=B", "x"]]}), "CONFIGURATION_ERROR"),
        (json!({"env": [["A"]]}), "INVALID_REQUEST"),
        (json!({"default_user": "no-such-user"}), "CONFIGURATION_ERROR"),
        (json!({"working_dir": "/etc/passwd"}), "CONFIGURATION_ERROR"),
        (json!({"entrypoint": ["/no/such/program"]}), "CONFIGURATION_ERROR"),
        (json!({"entrypoint": []}), "CONFIGURATION_ERROR"),
    ];
    for (changes, code) in table {
        let answer = daemon.init(&changes);
        assert_eq!(answer.refusal(), (400, code.to_owned()), "{changes}");
        assert_eq!(daemon.get("/health").status, 503, "{changes}");
    }
    assert_eq!(daemon.init(&json!({})).status, 200);
}

#[test]
fn the_entrypoint_is_an_ordinary_process() {
    let daemon = TestDaemon::closed();
    let entrypoint = json!(["sh", "-c", "echo \"$LANG in $(pwd)\"; sleep 1000"]);
    let answer = daemon.init(&json!({"entrypoint": entrypoint})).json();
    assert_eq!(answer["protocol"], 1);
    let pid = answer["entrypoint_pid"].as_i64().expect("a pid");
    let list = daemon.get("/processes").json();
    assert_eq!(list["processes"][0]["pid"], pid);
    assert_eq!(list["processes"][0]["status"], "running");
    let expected = format!("C.UTF-8 in {}", daemon.dir.path().display());
    crate::daemon::wait_until("it prints", || daemon.lines(pid, "stdout") == [expected.as_str()]);
}

#[test]
fn a_missing_working_directory_is_made() {
    let daemon = TestDaemon::closed();
    let path = daemon.dir.path().join("a/b");
    assert_eq!(daemon.init(&json!({"working_dir": path})).status, 200);
    assert_eq!(daemon.run_shell("pwd").0, [path.display().to_string()]);
}

#[test]
fn routes_that_are_not_there_say_so() {
    let daemon = TestDaemon::open();
    let table = [
        ("GET", "/", 404, "NOT_FOUND"),
        ("GET", "/api/v1/nothing", 404, "NOT_FOUND"),
        ("GET", "/api/v1/processes/1/nothing", 404, "NOT_FOUND"),
        ("PATCH", "/api/v1/processes", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/api/v1/health", 405, "METHOD_NOT_ALLOWED"),
        ("PUT", "/api/v1/pty", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/api/v1/tunnels/udp?port=1", 404, "NOT_FOUND"),
        ("GET", "/api/v1/ssh/status", 400, "NOT_SUPPORTED"),
    ];
    for (method, path, status, code) in table {
        let answer = daemon.request(method, path, b"");
        assert_eq!(answer.refusal(), (status, code.to_owned()), "{method} {path}");
    }
}
