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
