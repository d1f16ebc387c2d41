//! Managed processes: names, restarts, health checks, stops.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    thread,
};

use serde_json::{Value, json};

use crate::daemon::{TestDaemon, pid, wait_until};

fn shell(script: &str, fields: &Value) -> Value {
    let mut request = json!({"command": "bash", "args": ["-c", script]});
    for (key, value) in fields.as_object().expect("an object") {
        request[key] = value.clone();
    }
    request
}

fn quick(policy: &str) -> Value {
    json!({"policy": policy, "initial_backoff_ms": 20, "max_backoff_ms": 80})
}

fn get(daemon: &TestDaemon, key: &str) -> Value {
    daemon.get(&format!("/processes/{key}")).json()
}

fn wait_status(daemon: &TestDaemon, key: &str, status: &str) -> Value {
    wait_until(status, || get(daemon, key)["managed"]["status"] == status);
    get(daemon, key)
}

fn wait_restarts(daemon: &TestDaemon, key: &str, count: u64) -> Value {
    wait_until("it is restarted", || {
        let managed = &get(daemon, key)["managed"];
        managed["restart_count"].as_u64() >= Some(count) && managed["status"] == "running"
    });
    get(daemon, key)
}

fn delete(daemon: &TestDaemon, key: &str) {
    assert_eq!(daemon.api("DELETE", &format!("/processes/{key}"), &Value::Null).status, 204);
}

fn restart(daemon: &TestDaemon, key: &str) -> crate::daemon::Answer {
    daemon.api("POST", &format!("/processes/{key}/restart"), &Value::Null)
}

#[test]
fn a_managed_process_tells_its_whole_configuration() {
    let daemon = TestDaemon::open();
    let started = daemon.start(&shell("exec sleep 1000", &json!({"name": "my web"})));
    assert_eq!(
        started["managed"],
        json!({
            "id": "my web",
            "name": "my web",
            "status": "running",
            "restart_count": 0,
            "restart": {
                "policy": "on_failure", "initial_backoff_ms": 500, "max_backoff_ms": 30000,
            },
            "health_status": "disabled",
            "consecutive_health_failures": 0,
        })
    );
    assert_eq!(get(&daemon, "my%20web"), started);
    assert_eq!(get(&daemon, &pid(&started).to_string()), started);
    let unnamed = daemon
        .start(&shell("exec sleep 1000", &json!({"health_check": {"type": "http", "port": 80}})));
    let managed = &unnamed["managed"];
    assert_eq!(managed.get("name"), None);
    assert!(managed["id"].as_str().is_some_and(|id| !id.is_empty()));
    assert_eq!(
        managed["health_check"],
        json!({
            "type": "http", "port": 80, "path": "/", "initial_delay_ms": 5000,
            "interval_ms": 1000, "timeout_ms": 500, "failure_threshold": 3,
        })
    );
    assert_eq!(managed["health_status"], "starting");
    let listed = daemon.get("/processes").json();
    assert_eq!(listed, json!({"processes": [started, unnamed]}));
}

#[test]
fn any_name_that_the_path_carries_is_found() {
    let daemon = TestDaemon::open();
    let names = [
        ("run", "run"),
        ("%41", "%2541"),
        ("a?b#c&d=e", "a%3Fb%23c%26d%3De"),
        ("é ☃", "%C3%A9%20%E2%98%83"),
        ("a+b", "a%2Bb"),
        ("-1", "-1"),
        ("+1", "%2B1"),
        ("1a", "1a"),
        ("...", "..."),
        ("tab\tline\n", "tab%09line%0A"),
    ];
    for (name, key) in names {
        let started = daemon.start(&shell("exec sleep 1000", &json!({"name": name})));
        assert_eq!(get(&daemon, key), started, "{name:?}");
        assert_eq!(daemon.get(&format!("/processes/{key}/output")).status, 200);
        delete(&daemon, key);
        assert_eq!(get(&daemon, key)["managed"]["status"], "stopped", "{name:?}");
    }
}

#[test]
fn a_name_is_one_live_process_and_follows_its_pid() {
    let daemon = TestDaemon::open();
    let fields = json!({"name": "web", "restart": quick("on_failure")});
    let first = daemon.start(&shell("echo $$; exec sleep 1000", &fields));
    let lines = || daemon.get("/processes/web/stdout").json()["lines"].clone();
    wait_until("the first run's output", || lines() == json!([pid(&first).to_string()]));
    let taken = daemon.api("POST", "/processes", &shell("true", &json!({"name": "web"})));
    assert_eq!(taken.refusal(), (409, "PROCESS_NAME_TAKEN".to_owned()));
    assert_eq!(daemon.get("/info").json()["total_processes"], 1, "nothing was started");

    let signal = daemon.api("POST", "/processes/web/signal", &json!({"signal": 9}));
    assert_eq!(signal.status, 200);
    let second = wait_restarts(&daemon, "web", 1);
    assert_ne!(pid(&second), pid(&first));
    assert_eq!(second["managed"]["last_exit"]["signal"], 9);
    assert_eq!(second["managed"]["last_exit"]["oom_killed"], false);
    assert!(second["managed"]["last_exit"]["ended_at"].is_u64());

    // The run before is an ordinary finished process, with its output.
    let old = pid(&first).to_string();
    let earlier = get(&daemon, &old);
    assert_eq!((&earlier["status"], earlier.get("managed")), (&json!("signaled"), None));
    assert_eq!(daemon.lines(pid(&first), "stdout"), [old.as_str()]);
    wait_until("the new run's output", || lines() == json!([pid(&second).to_string()]));
    assert_eq!(restart(&daemon, &old).refusal(), (400, "PROCESS_NOT_MANAGED".to_owned()));
    delete(&daemon, &old);
    assert_eq!(get(&daemon, "web")["managed"]["status"], "running");

    // A stopped one's name is free, and then means the new one.
    delete(&daemon, "web");
    assert_eq!(get(&daemon, "web")["managed"]["status"], "stopped");
    let third = daemon.start(&shell("exec sleep 1000", &fields));
    assert_eq!(get(&daemon, "web"), third);
    let displaced = pid(&second).to_string();
    assert_eq!(get(&daemon, &displaced).get("managed"), None);
    assert_eq!(restart(&daemon, &displaced).refusal().1, "PROCESS_NOT_MANAGED");
}

#[test]
fn policies_decide_and_restarts_are_counted_up_to_the_most() {
    let daemon = TestDaemon::open();
    let table = [
        ("never", 0, None, 0),
        ("never", 1, None, 0),
        ("on_failure", 0, None, 0),
        ("on_failure", 3, Some(2), 2),
        ("always", 0, Some(3), 3),
        ("always", 0, Some(0), 0),
    ];
    for (policy, code, max, restarts) in table {
        let mut restart = quick(policy);
        restart["max_restarts"] = json!(max);
        let script = format!("exit {code}");
        daemon.start(&shell(&script, &json!({"name": "job", "restart": restart})));
        let ended = wait_status(&daemon, "job", "stopped");
        let case = format!("{policy} {code} {max:?}");
        assert_eq!(ended["managed"]["restart_count"], restarts, "{case}");
        assert_eq!(ended["managed"]["last_exit"]["exit_code"], code, "{case}");
        assert_eq!(ended["exit_code"], code, "{case}");
        assert_eq!(ended["managed"].get("next_restart_at"), None, "{case}");
    }
    assert_eq!(daemon.get("/info").json()["total_processes"], 6 + 5);
}

#[test]
fn a_pause_is_told_and_cut_short_by_requests() {
    let daemon = TestDaemon::open();
    let restart_fields =
        json!({"policy": "always", "initial_backoff_ms": 3_600_000, "max_backoff_ms": 3_600_000});
    let request = shell("exit 1", &json!({"name": "job", "restart": restart_fields}));
    let first = daemon.start(&request);
    let waiting = wait_status(&daemon, "job", "backing_off");
    let ended_at = waiting["ended_at"].as_u64().expect("a time");
    let next = waiting["managed"]["next_restart_at"].as_u64().expect("a time");
    assert!((3_600_000..3_610_000).contains(&(next - ended_at)), "{waiting}");
    assert_eq!(pid(&waiting), pid(&first));
    assert_eq!(daemon.api("POST", "/processes", &request).refusal().0, 409);
    let signal = daemon.api("POST", "/processes/job/signal", &json!({"signal": 15}));
    assert_eq!(signal.refusal().1, "PROCESS_NOT_RUNNING");

    let answer = restart(&daemon, "job");
    assert_eq!(answer.status, 200);
    assert_ne!(pid(&answer.json()), pid(&first));
    assert_eq!(answer.json()["managed"]["restart_count"], 1);
    wait_status(&daemon, "job", "backing_off");
    delete(&daemon, "job");
    assert_eq!(get(&daemon, "job")["managed"]["status"], "stopped");
}

#[test]
fn a_restart_by_request_is_a_new_run_after_the_old_one() {
    let daemon = TestDaemon::open();
    let script = "trap 'echo bye; exit 0' TERM; setsid -f sleep 1000; echo up; \
                  while :; do sleep 0.01; done";
    let first =
        daemon.start(&shell(script, &json!({"name": "web", "restart": {"policy": "never"}})));
    wait_until("it is up", || daemon.lines(pid(&first), "stdout") == ["up"]);
    let answer = restart(&daemon, "web");
    assert_eq!(answer.status, 200, "{answer:?}");
    let second = answer.json();
    assert_ne!(pid(&second), pid(&first));
    assert_eq!(
        (&second["status"], &second["managed"]["status"]),
        (&json!("running"), &json!("running"))
    );
    assert_eq!(second["managed"]["last_exit"]["exit_code"], 0);
    let earlier = daemon.info(pid(&first));
    assert_eq!(earlier["exit_code"], 0, "it was asked, not killed");
    wait_until("its last words", || daemon.lines(pid(&first), "stdout") == ["up", "bye"]);
    wait_until("the new one is up", || daemon.lines(pid(&second), "stdout") == ["up"]);
    assert!(earlier["ended_at"].as_u64() <= second["started_at"].as_u64(), "never two at once");

    // By pid, and when it has stopped.
    delete(&daemon, "web");
    let third = restart(&daemon, &pid(&second).to_string());
    assert_eq!(third.status, 200, "{third:?}");
    assert_eq!(third.json()["managed"]["restart_count"], 2);
    assert_eq!(get(&daemon, "web")["status"], "running");

    let plain = daemon.start_shell("exec sleep 1000");
    let refused = (400, "PROCESS_NOT_MANAGED".to_owned());
    assert_eq!(restart(&daemon, &plain.to_string()).refusal(), refused);
}

#[test]
fn a_stop_asks_first_and_leaves_nobody() {
    let daemon = TestDaemon::open();
    let script = "trap 'echo asked; exit 7' TERM; setsid -f sleep 1000; (sleep 1001; :) & echo up; \
                  while :; do sleep 0.01; done";
    let started = daemon.start(&shell(script, &json!({"name": "web", "restart": quick("always")})));
    wait_until("it is up", || daemon.lines(pid(&started), "stdout") == ["up"]);
    delete(&daemon, "web");
    let ended = get(&daemon, "web");
    assert_eq!((&ended["exit_code"], &ended["managed"]["status"]), (&json!(7), &json!("stopped")));
    assert_eq!(ended["managed"]["restart_count"], 0);
    assert_eq!(daemon.guest_processes(), 0);
    delete(&daemon, "web");
}

#[test]
fn who_ignores_the_question_is_killed_after_ten_seconds() {
    let daemon = TestDaemon::open();
    let script = "trap '' TERM; setsid -f sleep 1000; echo up; while :; do sleep 0.1; done";
    let started = daemon.start(&shell(script, &json!({"name": "web", "restart": quick("always")})));
    wait_until("it is up", || daemon.lines(pid(&started), "stdout") == ["up"]);
    delete(&daemon, "web");
    let ended = get(&daemon, "web");
    assert_eq!((&ended["signal"], &ended["managed"]["status"]), (&json!(9), &json!("stopped")));
    let took = ended["ended_at"].as_u64().expect("a time")
        - started["started_at"].as_u64().expect("a time");
    assert!((10_000..14_000).contains(&took), "{took} ms");
    assert_eq!(daemon.guest_processes(), 0);
}

#[test]
fn what_a_crash_leaves_behind_is_gone_before_the_next_run() {
    let daemon = TestDaemon::open();
    let script = "setsid -f env -i sleep 1000; exit 1";
    let mut restart = quick("on_failure");
    restart["max_restarts"] = json!(3);
    daemon.start(&shell(script, &json!({"name": "web", "restart": restart})));
    let ended = wait_status(&daemon, "web", "stopped");
    assert_eq!(ended["managed"]["restart_count"], 3);
    assert_eq!(daemon.guest_processes(), 1, "only the last one's");
    delete(&daemon, "web");
    wait_until("nobody is left", || daemon.guest_processes() == 0);
}

#[test]
fn a_restart_that_does_not_start_is_told_and_tried_again() {
    let daemon = TestDaemon::open();
    let program = daemon.dir.path().join("program");
    std::os::unix::fs::symlink("/bin/sleep", &program).expect("linked");
    let request = json!({
        "command": "./program", "args": ["1000"], "name": "web", "restart": quick("on_failure"),
    });
    let first = daemon.start(&request);
    std::fs::remove_file(&program).expect("removed");
    let answer = restart(&daemon, "web");
    assert_eq!(answer.refusal(), (400, "PROCESS_START_FAILED".to_owned()));
    let error = "./program: No such file or directory";
    assert_eq!(answer.json()["error"], error);
    wait_until("it tries again", || {
        get(&daemon, "web")["managed"]["restart_count"].as_u64() > Some(2)
    });
    let trying = get(&daemon, "web");
    assert_eq!(trying["managed"]["last_error"], error);
    assert_eq!(pid(&trying), pid(&first));
    std::os::unix::fs::symlink("/bin/sleep", &program).expect("linked");
    let again = wait_status(&daemon, "web", "running");
    assert_ne!(pid(&again), pid(&first));

    let mut request = request;
    request["command"] = json!("./missing");
    request["name"] = json!("other");
    let answer = daemon.api("POST", "/processes", &request);
    assert_eq!(answer.refusal(), (400, "PROCESS_START_FAILED".to_owned()));
    assert_eq!(daemon.get("/processes/other").refusal().1, "PROCESS_NOT_FOUND");
}

/// Answers every connection with a status that a test can change.
struct Server {
    port: u16,
    status: std::sync::Arc<std::sync::atomic::AtomicU32>,
}

impl Server {
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let status = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(200));
        let told = std::sync::Arc::clone(&status);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                drop(stream.read(&mut [0; 4096]));
                let status = told.load(std::sync::atomic::Ordering::SeqCst);
                drop(write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n"));
            }
        });
        Self { port, status }
    }

    fn set(&self, status: u32) {
        self.status.store(status, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn checks_tell_restart_and_begin_anew() {
    let daemon = TestDaemon::open();
    let server = Server::new();
    let check = json!({
        "type": "http", "port": server.port, "path": "/health", "initial_delay_ms": 20,
        "interval_ms": 20, "timeout_ms": 2000, "failure_threshold": 3,
    });
    let fields = json!({"name": "web", "restart": quick("on_failure"), "health_check": check});
    let first = daemon.start(&shell("setsid -f sleep 1001; exec sleep 1000", &fields));
    let health = || get(&daemon, "web")["managed"]["health_status"].clone();
    wait_until("it is healthy", || health() == "healthy");
    assert_eq!(get(&daemon, "web")["managed"]["consecutive_health_failures"], 0);
    server.set(500);
    let second = wait_restarts(&daemon, "web", 1);
    server.set(204);
    assert_ne!(pid(&second), pid(&first));
    assert_eq!(daemon.info(pid(&first))["signal"], 9);
    let error = second["managed"]["last_error"].as_str().expect("a cause").to_owned();
    assert!(
        error.contains("(3 in a row): GET /health on port") && error.contains("500"),
        "{error}"
    );
    wait_until("it is healthy again", || health() == "healthy");
    wait_until("the first one's tree has gone", || daemon.guest_processes() == 2);
}

#[test]
fn a_condemned_process_that_may_not_restart_is_ended() {
    let daemon = TestDaemon::open();
    // Below those that the system gives away, so that nobody listens there.
    let port = 9;
    let check = json!({
        "type": "tcp", "port": port, "initial_delay_ms": 0, "interval_ms": 10,
        "failure_threshold": 2,
    });
    let fields = json!({"restart": {"policy": "never"}, "health_check": check});
    let started = daemon.start(&shell("exec sleep 1000", &fields));
    let key = pid(&started).to_string();
    let ended = wait_status(&daemon, &key, "stopped");
    assert_eq!(ended["signal"], 9);
    let managed = &ended["managed"];
    assert_eq!(
        (&managed["health_status"], &managed["restart_count"]),
        (&json!("unhealthy"), &json!(0))
    );
    assert_eq!(managed["consecutive_health_failures"], 2);
    let error = managed["last_error"].as_str().expect("a cause");
    assert!(error.contains("connection refused"), "{error}");
}

#[test]
fn a_process_that_waits_for_its_restart_is_never_forgotten() {
    let daemon = TestDaemon::open();
    let restart_fields =
        json!({"policy": "always", "initial_backoff_ms": 3_600_000, "max_backoff_ms": 3_600_000});
    let waiting =
        daemon.start(&shell("exit 0", &json!({"name": "job", "restart": restart_fields})));
    wait_status(&daemon, "job", "backing_off");
    daemon.start(&shell("exit 0", &json!({"name": "done"})));
    wait_status(&daemon, "done", "stopped");
    for _ in 0..260 {
        assert_eq!(daemon.run_shell("exit 0").1["exit_code"], 0);
    }
    let listed = daemon.get("/processes").json();
    let listed = listed["processes"].as_array().expect("a list");
    assert_eq!(listed.len(), 256);
    assert_eq!(pid(&listed[0]), pid(&waiting));
    assert_eq!(get(&daemon, "job")["managed"]["status"], "backing_off");
    assert_eq!(daemon.get("/processes/done").refusal().1, "PROCESS_NOT_FOUND");
}

#[test]
fn a_shutdown_restarts_nothing() {
    let daemon = TestDaemon::open();
    daemon.start(&shell("exec sleep 1000", &json!({"name": "a", "restart": quick("always")})));
    let far =
        json!({"policy": "always", "initial_backoff_ms": 3_600_000, "max_backoff_ms": 3_600_000});
    daemon.start(&shell("exit 0", &json!({"name": "b", "restart": far})));
    wait_status(&daemon, "b", "backing_off");
    assert_eq!(daemon.request("POST", "/internal/v1/shutdown", b"").status, 200);
    for name in ["a", "b"] {
        wait_status(&daemon, name, "stopped");
    }
    assert_eq!(get(&daemon, "a")["signal"], 15);
    assert_eq!(daemon.get("/info").json()["total_processes"], 2);
}

#[test]
fn every_run_has_its_own_input() {
    let daemon = TestDaemon::open();
    let fields = json!({"name": "cat", "stdin_mode": "pipe", "restart": quick("always")});
    let first = daemon.start(&shell("exec cat", &fields));
    let write = |text: &[u8]| daemon.request("POST", "/api/v1/processes/cat/stdin", text).status;
    assert_eq!(write(b"one\n"), 204);
    wait_until("it echoes", || daemon.lines(pid(&first), "stdout") == ["one"]);
    assert_eq!(daemon.request("POST", "/api/v1/processes/cat/stdin/close", b"").status, 204);
    let second = wait_restarts(&daemon, "cat", 1);
    assert_eq!(write(b"two\n"), 204);
    wait_until("it echoes again", || daemon.lines(pid(&second), "stdout") == ["two"]);
}
