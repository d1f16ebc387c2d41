//! The bytes that SDKs parse strictly.

use super::*;

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain data serialises")
}

fn running() -> ProcessInfo {
    ProcessInfo {
        handle: Some(1),
        pid: 42,
        status: ProcessStatus::Running,
        exit_code: None,
        signal: None,
        oom_killed: None,
        stdin_writable: false,
        command: "sleep".to_owned(),
        args: vec![],
        started_at: 1_710_000_000_000,
        ended_at: None,
        managed: None,
    }
}

#[test]
fn process_info_omits_what_is_absent_and_never_says_null() {
    assert_eq!(
        json(&running()),
        r#"{"handle":1,"pid":42,"status":"running","stdin_writable":false,"command":"sleep","args":[],"started_at":1710000000000}"#,
    );
    let ended = ProcessInfo {
        status: ProcessStatus::OomKilled,
        signal: Some(9),
        oom_killed: Some(true),
        ended_at: Some(1_710_000_000_001),
        ..running()
    };
    assert_eq!(
        json(&ended),
        r#"{"handle":1,"pid":42,"status":"oom_killed","signal":9,"oom_killed":true,"stdin_writable":false,"command":"sleep","args":[],"started_at":1710000000000,"ended_at":1710000000001}"#,
    );
}

#[test]
fn frames_have_the_bytes_of_the_specification() {
    let started = StartedFrame { handle: 1, pid: 42, started_at: 1_710_000_000_000 };
    assert_eq!(json(&started), r#"{"handle":1,"pid":42,"started_at":1710000000000}"#);
    let line = LineFrame {
        line: "hi".to_owned(),
        timestamp: 1_710_000_000_001,
        stream: Some(OutputStream::Stdout),
    };
    assert_eq!(json(&line), r#"{"line":"hi","timestamp":1710000000001,"stream":"stdout"}"#);
    let exit =
        |exit_code, signal, reason| ExitFrame { exit_code, signal, reason, oom_killed: None };
    let table = [
        (exit(Some(0), None, ExitReason::Exited), r#"{"exit_code":0,"reason":"exited"}"#),
        (exit(None, Some(15), ExitReason::Signaled), r#"{"signal":15,"reason":"signaled"}"#),
        (exit(None, Some(9), ExitReason::TimedOut), r#"{"signal":9,"reason":"timed_out"}"#),
        (
            ExitFrame { oom_killed: Some(true), ..exit(None, Some(9), ExitReason::OomKilled) },
            r#"{"signal":9,"reason":"oom_killed","oom_killed":true}"#,
        ),
    ];
    for (frame, golden) in table {
        assert_eq!(json(&frame), golden);
    }
}

#[test]
fn directory_size_is_null_not_absent() {
    let listing = DirectoryListing {
        path: "/tmp".to_owned(),
        entries: vec![DirectoryEntry {
            name: "d".to_owned(),
            is_dir: true,
            size: None,
            modified_at: 5,
        }],
    };
    assert_eq!(
        json(&listing),
        r#"{"path":"/tmp","entries":[{"name":"d","is_dir":true,"size":null,"modified_at":5}]}"#,
    );
}

#[test]
fn null_equals_absent_and_unknown_keys_are_ignored() {
    let text = r#"{"command":"true","args":null,"env":null,"working_dir":null,"user":null,
        "stdin_mode":null,"stdout_mode":null,"stderr_mode":null,"later":1}"#;
    let parsed: StartRequest = serde_json::from_str(text).expect("nulls parse");
    assert_eq!(parsed, StartRequest { command: "true".to_owned(), ..StartRequest::default() });
}

#[test]
fn every_form_of_user_parses() {
    let table = [
        (r#""tl-user""#, UserSpec::Text("tl-user".to_owned())),
        (r#""1000:1000""#, UserSpec::Text("1000:1000".to_owned())),
        (r#"{"name":"root"}"#, UserSpec::Name { name: "root".to_owned() }),
        (r#"{"uid":5,"gid":6}"#, UserSpec::Ids { uid: 5, gid: Some(6) }),
        (r#"{"uid":5,"gid":null}"#, UserSpec::Ids { uid: 5, gid: None }),
    ];
    for (text, expected) in table {
        let parsed: UserSpec = serde_json::from_str(text).expect(text);
        assert_eq!(parsed, expected, "{text}");
    }
    for text in ["5", "{}", r#"{"gid":1}"#, r#"{"name":"a","uid":1}"#, r#"{"uid":-1}"#, "[]"] {
        assert!(serde_json::from_str::<UserSpec>(text).is_err(), "{text}");
    }
}

#[test]
fn run_request_takes_integer_and_float_limits_under_both_names() {
    let table = [
        (r#"{"command":"a","timeout":2}"#, Some(2.0)),
        (r#"{"command":"a","timeout_secs":0.5}"#, Some(0.5)),
        (r#"{"command":"a","timeout":1,"timeout_secs":9}"#, Some(1.0)),
        (r#"{"command":"a","timeout":null}"#, None),
    ];
    for (text, expected) in table {
        let parsed: RunRequest = serde_json::from_str(text).expect(text);
        assert_eq!(parsed.time_limit_secs(), expected, "{text}");
    }
}

fn start(text: &str) -> StartRequest {
    serde_json::from_str(text).expect(text)
}

#[test]
fn partial_managed_fields_are_completed() {
    let restart =
        r#""restart":{"policy":"on_failure","initial_backoff_ms":500,"max_backoff_ms":30000}"#;
    let health = r#""health_check":{"type":"http","port":80,"path":"/h","initial_delay_ms":5000,"interval_ms":1000,"timeout_ms":500,"failure_threshold":3}"#;
    let table = [
        (r#"{"command":"a","name":"web"}"#, format!("{{{restart}}}")),
        (r#"{"command":"a","restart":{}}"#, format!("{{{restart}}}")),
        (
            r#"{"command":"a","restart":{"policy":null,"max_restarts":null,"initial_backoff_ms":null}}"#,
            format!("{{{restart}}}"),
        ),
        (
            r#"{"command":"a","health_check":{"type":"http","port":80,"path":"h","timeout_ms":null}}"#,
            format!("{{{restart},{health}}}"),
        ),
    ];
    for (text, golden) in table {
        let config = start(text).managed().expect(text).expect("it is managed");
        let mut shown = json(&config.restart);
        shown = format!(r#"{{"restart":{shown}"#);
        if let Some(check) = &config.health_check {
            shown += &format!(r#","health_check":{}"#, json(check));
        }
        assert_eq!(format!("{shown}}}"), golden, "{text}");
    }
    let text = r#"{"command":"a","name":null,"restart":null,"health_check":null}"#;
    assert_eq!(start(text).managed(), Ok(None));
    let tcp = start(r#"{"command":"a","health_check":{"type":"tcp","port":1}}"#).managed();
    let check = tcp.expect("good").expect("managed").health_check.expect("a check");
    assert_eq!(check.path, None);
    let text = r#"{"command":"a","health_check":{"type":"http","port":65535}}"#;
    let check = start(text).managed().expect("good").expect("managed").health_check;
    assert_eq!(check.and_then(|check| check.path).as_deref(), Some("/"));
}

#[test]
fn values_that_cannot_be_meant_are_named() {
    let long = "x".repeat(256);
    let table = [
        (r#"{"command":"a","name":""}"#, "`name` is empty"),
        (r#"{"command":"a","name":"a/b"}"#, "`name` \"a/b\" contains"),
        (r#"{"command":"a","name":"007"}"#, "`name` \"007\" is a number"),
        (r#"{"command":"a","name":".."}"#, "`name` \"..\" is no name"),
        (&format!(r#"{{"command":"a","name":"{long}"}}"#), "`name` is longer than 255 bytes"),
        (r#"{"command":"a","restart":{"max_restarts":-1}}"#, "`restart.max_restarts`: -1"),
        (r#"{"command":"a","restart":{"max_restarts":4294967296}}"#, "`restart.max_restarts`: "),
        (
            r#"{"command":"a","restart":{"initial_backoff_ms":0}}"#,
            "`restart.initial_backoff_ms`: 0",
        ),
        (r#"{"command":"a","restart":{"max_backoff_ms":86400001}}"#, "`restart.max_backoff_ms`: 8"),
        (r#"{"command":"a","health_check":{}}"#, "`health_check.type` is missing"),
        (r#"{"command":"a","health_check":{"type":"tcp"}}"#, "`health_check.port` is missing"),
        (r#"{"command":"a","health_check":{"type":"tcp","port":0}}"#, "`health_check.port`: 0 is"),
        (r#"{"command":"a","health_check":{"type":"tcp","port":65536}}"#, "`health_check.port`: "),
        (
            r#"{"command":"a","health_check":{"type":"tcp","port":1,"path":"/"}}"#,
            "`health_check.path`: a check of type `tcp`",
        ),
        (
            r#"{"command":"a","health_check":{"type":"http","port":1,"path":"/a b"}}"#,
            "`health_check.path`: \"/a b\" must be",
        ),
        (
            r#"{"command":"a","health_check":{"type":"tcp","port":1,"interval_ms":0}}"#,
            "`health_check.interval_ms`: 0",
        ),
        (
            r#"{"command":"a","health_check":{"type":"tcp","port":1,"timeout_ms":0}}"#,
            "`health_check.timeout_ms`: 0",
        ),
        (
            r#"{"command":"a","health_check":{"type":"tcp","port":1,"initial_delay_ms":-1}}"#,
            "`health_check.initial_delay_ms`: -1",
        ),
        (
            r#"{"command":"a","health_check":{"type":"tcp","port":1,"failure_threshold":0}}"#,
            "`health_check.failure_threshold`: 0",
        ),
    ];
    for (text, wrong) in table {
        let BadField(error) = start(text).managed().expect_err(text);
        assert!(error.starts_with(wrong), "{text}: {error}");
    }
    for name in ["a", "my server", "é", "%41", "a?b#c", "1a", "-1", "...", "run", " "] {
        let request = StartRequest { name: Some(name.to_owned()), ..StartRequest::default() };
        assert!(request.managed().is_ok(), "{name}");
    }
}

#[test]
fn managed_info_has_integers_and_no_nulls() {
    let info = ManagedInfo {
        id: "web".to_owned(),
        name: Some("web".to_owned()),
        status: ManagedStatus::BackingOff,
        restart_count: 2,
        restart: RestartConfig {
            policy: RestartPolicy::Always,
            max_restarts: Some(5),
            initial_backoff_ms: 500,
            max_backoff_ms: 30_000,
        },
        health_check: None,
        health_status: HealthStatus::Disabled,
        consecutive_health_failures: 0,
        last_exit: Some(ManagedExit {
            exit_code: None,
            signal: Some(9),
            oom_killed: false,
            ended_at: 1_710_000_000_000,
        }),
        last_error: None,
        next_restart_at: Some(1_710_000_002_000),
    };
    assert_eq!(
        json(&info),
        r#"{"id":"web","name":"web","status":"backing_off","restart_count":2,"restart":{"policy":"always","max_restarts":5,"initial_backoff_ms":500,"max_backoff_ms":30000},"health_status":"disabled","consecutive_health_failures":0,"last_exit":{"signal":9,"oom_killed":false,"ended_at":1710000000000},"next_restart_at":1710000002000}"#,
    );
}
