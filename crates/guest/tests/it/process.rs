//! Start, list, get, signal, input, output.

use serde_json::{Value, json};

use crate::daemon::{TestDaemon, pid, wait_until};

#[test]
fn a_process_is_started_listed_and_remembered() {
    let daemon = TestDaemon::open();
    let started = daemon.start(&json!({"command": "sh", "args": ["-c", "echo hi; exit 3"]}));
    assert_eq!(started["status"], "running");
    assert_eq!(started["handle"], 1);
    assert_eq!(started["stdin_writable"], false);
    assert_eq!(started["args"], json!(["-c", "echo hi; exit 3"]));
    let ended = daemon.wait_end(pid(&started));
    assert_eq!(ended["status"], "exited");
    assert_eq!(ended["exit_code"], 3);
    assert!(ended["ended_at"].as_u64() >= started["started_at"].as_u64());
    assert_eq!(ended.get("signal"), None);
    assert_eq!(ended.get("oom_killed"), None);
    assert_eq!(daemon.get("/processes").json(), json!({"processes": [ended]}));
    let info = daemon.get("/info").json();
    assert_eq!(info["running_processes"], 0);
    assert_eq!(info["total_processes"], 1);
    assert!(info["version"].as_str().is_some_and(|version| !version.is_empty()));
}

#[test]
fn output_is_kept_by_stream_and_merged() {
    let daemon = TestDaemon::open();
    let pid = daemon.start_shell("echo out; echo err >&2; printf 'no newline'");
    daemon.wait_end(pid);
    wait_until("all is read", || daemon.lines(pid, "output").len() == 3);
    assert_eq!(daemon.lines(pid, "stdout"), ["out", "no newline"]);
    assert_eq!(daemon.lines(pid, "stderr"), ["err"]);
    let answer = daemon.get(&format!("/processes/{pid}/stdout")).json();
    assert_eq!(answer, json!({"pid": pid, "lines": ["out", "no newline"], "line_count": 2}));
}

#[test]
fn discarded_output_is_not_kept() {
    let daemon = TestDaemon::open();
    let started = daemon.start(&json!({
        "command": "sh",
        "args": ["-c", "echo out; echo err >&2"],
        "stdout_mode": "discard",
    }));
    daemon.wait_end(pid(&started));
    wait_until("all is read", || daemon.lines(pid(&started), "output") == ["err"]);
}

#[test]
fn the_environment_is_the_specified_one() {
    let daemon = TestDaemon::closed();
    let base = json!([["A", "image"], ["B", "image"], ["B", "secret"], ["HOME", "/image"]]);
    assert_eq!(daemon.init(&json!({"env": base})).status, 200);
    let started = daemon.start(&json!({
        "command": "sh",
        "args": ["-c", "echo $A $B $C $HOME; echo $PATH"],
        "env": {"A": "call", "C": "call"},
    }));
    daemon.wait_end(pid(&started));
    let lines =
        ["call secret call /image", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
    wait_until("all is read", || daemon.lines(pid(&started), "stdout") == lines);
}

#[test]
fn programs_start_with_a_clean_slate() {
    let daemon = TestDaemon::open();
    let script = "ls /proc/self/fd | tr '\\n' ' '; echo; grep -E 'SigBlk|SigIgn' /proc/self/status";
    let (lines, _) = daemon.run_shell(script);
    // 3 is the directory that ls reads.
    assert_eq!(lines[0], "0 1 2 3 ");
    for line in &lines[1..] {
        let mask = line.split_whitespace().last().expect("a mask");
        let mask = u64::from_str_radix(mask, 16).expect("hexadecimal");
        // Without the real-time signals: glibc's posix_spawn, by which this test started
        // tarnd, has two of its own ignored, and that is inherited.
        assert_eq!(mask & 0x7fff_ffff, 0, "{line}");
    }
    let (lines, _) = daemon.run_shell("ps -o pid=,pgid=,sid= -p $$ | xargs -n1 | sort -u | wc -l");
    assert_eq!(lines, ["1"], "a process leads its own group and session");
}

#[test]
fn a_script_without_interpreter_line_runs_in_the_shell() {
    let daemon = TestDaemon::open();
    let answer = daemon.request("PUT", "/api/v1/files?path=script", b"echo \"$0 $1\"\n");
    assert_eq!(answer.status, 204);
    let (_, exit) = daemon.run_shell("chmod +x script");
    assert_eq!(exit["exit_code"], 0);
    let started = daemon.start(&json!({"command": "./script", "args": ["one"]}));
    daemon.wait_end(pid(&started));
    wait_until("all is read", || daemon.lines(pid(&started), "stdout") == ["./script one"]);
}

#[test]
fn what_cannot_start_is_refused_in_a_shells_words() {
    let daemon = TestDaemon::open();
    let table = [
        (json!({"command": "no-such-program"}), "no-such-program: command not found"),
        (json!({"command": "./no-such"}), "./no-such: No such file or directory"),
        (json!({"command": "/etc/passwd"}), "/etc/passwd: Permission denied"),
        (json!({"command": "/etc"}), "/etc: Permission denied"),
        (
            json!({"command": "true", "working_dir": "/no/such"}),
            "cannot enter directory '/no/such': No such file or directory",
        ),
        (
            json!({"command": "true", "user": "no-such-user"}),
            "unknown user 'no-such-user': it is not in /etc/passwd",
        ),
        (json!({"command": "true", "env": {"PATH": "/none"}}), "true: command not found"),
    ];
    for (request, text) in table {
        for path in ["/processes", "/processes/run"] {
            let answer = daemon.api("POST", path, &request);
            assert_eq!(answer.refusal(), (400, "PROCESS_START_FAILED".to_owned()), "{request}");
            assert_eq!(answer.json()["error"], text);
        }
    }
    assert_eq!(daemon.get("/info").json()["total_processes"], 0);
}

#[test]
fn bad_requests_name_the_place() {
    let daemon = TestDaemon::open();
    let table = [
        ("", "EOF"),
        ("{", "EOF"),
        ("[]", "invalid"),
        ("{}", "missing field `command`"),
        (r#"{"command":5}"#, "`command`: invalid type: integer `5`, expected a string"),
        (r#"{"command":"a","args":["x",1]}"#, "`args[1]`: invalid type"),
        (r#"{"command":"a","env":{"K":1}}"#, "`env.K`: invalid type"),
        (r#"{"command":"a","env":{"K=":"v"}}"#, "`env`: "),
        (r#"{"command":"a","env":{"K":"a\u0000b"}}"#, "`env`: "),
        (r#"{"command":"a\u0000b"}"#, "`command` holds a NUL"),
        (r#"{"command":"a","args":["\u0000"]}"#, "`args` holds a NUL"),
        (r#"{"command":""}"#, "`command` is empty"),
        (r#"{"command":"a","user":5}"#, "`user`: invalid type"),
        (r#"{"command":"a","user":{"uid":-1}}"#, "`user.uid`: invalid value"),
        (r#"{"command":"a","user":{}}"#, "`user`: a user object needs"),
        (r#"{"command":"a","stdin_mode":"open"}"#, "`stdin_mode`: unknown variant"),
        (r#"{"command":"a"} x"#, "after the JSON value"),
        (r#"{"command":"a","name":5}"#, "`name`: invalid type"),
        (r#"{"command":"a","name":"a/b"}"#, "`name` \\\"a/b\\\" contains '/'"),
        (r#"{"command":"a","restart":"always"}"#, "`restart`: invalid type"),
        (r#"{"command":"a","restart":{"policy":"often"}}"#, "`restart.policy`: unknown variant"),
        (r#"{"command":"a","restart":{"max_restarts":1.5}}"#, "`restart.max_restarts`: invalid"),
        (r#"{"command":"a","restart":{"max_backoff_ms":0}}"#, "`restart.max_backoff_ms`: 0"),
        (r#"{"command":"a","health_check":{"port":80}}"#, "`health_check.type` is missing"),
        (r#"{"command":"a","health_check":{"type":"grpc"}}"#, "`health_check.type`: unknown"),
        (
            r#"{"command":"a","health_check":{"type":"tcp","port":"80"}}"#,
            "`health_check.port`: invalid type",
        ),
    ];
    for (body, text) in table {
        let answer = daemon.request("POST", "/api/v1/processes", body.as_bytes());
        assert_eq!(answer.refusal(), (400, "INVALID_REQUEST".to_owned()), "{body}");
        let error = answer.json()["error"].to_string();
        assert!(error.contains(text), "{body}: {error}");
    }
}

#[test]
fn fields_of_managed_processes_are_refused_by_a_run() {
    let daemon = TestDaemon::open();
    for field in ["name", "restart", "health_check"] {
        let answer = daemon.api("POST", "/processes/run", &json!({"command": "true", field: {}}));
        assert_eq!(answer.refusal(), (400, "INVALID_REQUEST".to_owned()));
        assert!(answer.json()["error"].to_string().contains(&format!("`{field}`")));
        let request = json!({"command": "true", field: null});
        let frames = daemon.stream("POST", "/processes/run", &request).frames();
        assert_eq!(frames.last(), Some(&json!({"exit_code": 0, "reason": "exited"})));
        let started = daemon.start(&request);
        assert_eq!(started.get("managed"), None);
        daemon.wait_end(pid(&started));
    }
}

#[test]
fn unknown_processes_are_404_everywhere() {
    let daemon = TestDaemon::open();
    for key in ["999999999", "1", "no-such-name", "a%20b", "-1", "18446744073709551616"] {
        let routes = [
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/restart"),
            ("POST", "/signal"),
            ("POST", "/stdin"),
            ("POST", "/stdin/close"),
            ("GET", "/stdout"),
            ("GET", "/stderr"),
            ("GET", "/output"),
            ("GET", "/output/follow"),
        ];
        for (method, rest) in routes {
            let answer = daemon.api(method, &format!("/processes/{key}{rest}"), &Value::Null);
            let expected = (404, "PROCESS_NOT_FOUND".to_owned());
            assert_eq!(answer.refusal(), expected, "{method} {key}{rest}");
        }
    }
}

#[test]
fn signals_reach_the_group() {
    let daemon = TestDaemon::open();
    let pid = daemon.start_shell("sleep 1000 & echo ready; wait; echo not reached");
    wait_until("it is ready", || daemon.lines(pid, "stdout") == ["ready"]);
    let path = format!("/processes/{pid}/signal");
    for signal in [0, -1, 65, 4000] {
        let answer = daemon.api("POST", &path, &json!({"signal": signal}));
        assert_eq!(answer.refusal(), (400, "INVALID_REQUEST".to_owned()), "{signal}");
    }
    let answer = daemon.api("POST", &path, &json!({"signal": "TERM"}));
    assert_eq!(answer.refusal(), (400, "INVALID_REQUEST".to_owned()));
    let answer = daemon.api("POST", &path, &json!({"signal": 15}));
    assert_eq!((answer.status, answer.json()), (200, json!({"success": true})));
    let ended = daemon.wait_end(pid);
    assert_eq!((&ended["status"], &ended["signal"]), (&json!("signaled"), &json!(15)));
    wait_until("the child of the shell has gone", || daemon.guest_processes() == 0);
    let answer = daemon.api("POST", &path, &json!({"signal": 15}));
    assert_eq!(answer.refusal(), (400, "PROCESS_NOT_RUNNING".to_owned()));
}

#[test]
fn real_time_signals_are_signals_too() {
    let daemon = TestDaemon::open();
    let pid = pid(&daemon.start(&json!({"command": "sleep", "args": ["1000"]})));
    let answer = daemon.api("POST", &format!("/processes/{pid}/signal"), &json!({"signal": 40}));
    assert_eq!(answer.status, 200);
    assert_eq!(daemon.wait_end(pid)["signal"], 40);
}

#[test]
fn input_arrives_in_order_until_it_is_closed() {
    let daemon = TestDaemon::open();
    let started = daemon.start(&json!({"command": "cat", "stdin_mode": "pipe"}));
    let pid = pid(&started);
    assert_eq!(started["stdin_writable"], true);
    let stdin = format!("/api/v1/processes/{pid}/stdin");
    for part in [&b"hel"[..], b"", b"lo\nwor", b"ld"] {
        assert_eq!(daemon.request("POST", &stdin, part).status, 204);
    }
    let close = format!("{stdin}/close");
    assert_eq!(daemon.request("POST", &close, b"").status, 204);
    assert_eq!(daemon.request("POST", &close, b"").status, 204);
    let refused = (400, "STDIN_NOT_WRITABLE".to_owned());
    assert_eq!(daemon.request("POST", &stdin, b"x").refusal(), refused);
    let ended = daemon.wait_end(pid);
    assert_eq!((&ended["exit_code"], &ended["stdin_writable"]), (&json!(0), &json!(false)));
    wait_until("all is read", || daemon.lines(pid, "stdout") == ["hello", "world"]);
}

#[test]
fn input_waits_while_the_pipe_is_full() {
    let daemon = TestDaemon::open();
    let started = daemon.start(&json!({"command": "wc", "args": ["-c"], "stdin_mode": "pipe"}));
    let stdin = format!("/api/v1/processes/{}/stdin", pid(&started));
    assert_eq!(daemon.request("POST", &stdin, &vec![b'x'; 5 << 20]).status, 204);
    assert_eq!(daemon.request("POST", &format!("{stdin}/close"), b"").status, 204);
    wait_until("all is counted", || daemon.lines(pid(&started), "stdout") == ["5242880"]);
}

#[test]
fn without_a_pipe_there_is_no_input() {
    let daemon = TestDaemon::open();
    let pid = daemon.start_shell("sleep 1000");
    let refused = (400, "STDIN_NOT_WRITABLE".to_owned());
    for route in ["stdin", "stdin/close"] {
        let answer = daemon.request("POST", &format!("/api/v1/processes/{pid}/{route}"), b"");
        assert_eq!(answer.refusal(), refused, "{route}");
    }
    // Who closes its own end takes no more.
    let started = daemon.start(&json!({
        "command": "sh", "args": ["-c", "exec <&-; echo closed; sleep 1000"], "stdin_mode": "pipe",
    }));
    let pid = crate::daemon::pid(&started);
    wait_until("it has closed it", || daemon.lines(pid, "stdout") == ["closed"]);
    let answer = daemon.request("POST", &format!("/api/v1/processes/{pid}/stdin"), b"x");
    assert_eq!(answer.refusal(), refused);
    assert_eq!(daemon.info(pid)["stdin_writable"], false);
}

#[test]
fn every_form_of_user_is_effective() {
    let daemon = TestDaemon::open();
    if !nix::unistd::getuid().is_root() {
        // Only root may become somebody else; anybody else is told so.
        let answer = daemon.api("POST", "/processes", &json!({"command": "id", "user": "root"}));
        assert_eq!(answer.refusal(), (400, "PROCESS_START_FAILED".to_owned()));
        return;
    }
    let table = [
        (json!("nobody"), "65534 65534 65534"),
        (json!("65534"), "65534 65534 65534"),
        (json!("65534:7"), "65534 7 7"),
        (json!("nobody:daemon"), "65534 1 1"),
        (json!({"name": "root"}), "0 0 0"),
        (json!({"uid": 4242, "gid": 4343}), "4242 4343 4343"),
        (json!({"uid": 4242}), "4242 0 0"),
    ];
    for (user, ids) in table {
        let script = "echo $(id -u) $(id -g) $(id -G)";
        let request = json!({
            "command": "sh", "args": ["-c", script], "user": user, "working_dir": "/",
        });
        let started = daemon.start(&request);
        wait_until("it prints", || daemon.lines(pid(&started), "stdout").len() == 1);
        assert_eq!(daemon.lines(pid(&started), "stdout"), [ids], "{user}");
    }
}
