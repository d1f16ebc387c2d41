//! Golden bytes: a message whose bytes change is a new protocol version.

use std::fmt;

use serde::de::DeserializeOwned;

use super::*;

fn check_golden<T>(message: &T, golden: &str)
where
    T: Serialize + DeserializeOwned + PartialEq + fmt::Debug,
{
    assert_eq!(serde_json::to_string(message).expect("plain data serialises"), golden);
    let parsed: T = serde_json::from_str(golden).expect("golden bytes parse");
    assert_eq!(&parsed, message);
}

fn init_request() -> InitRequest {
    InitRequest {
        protocol: PROTOCOL,
        token: Secret::new("ab".repeat(32)),
        sandbox_id: "sbx1".to_owned(),
        hostname: "tl-sbx".to_owned(),
        env: Environment(vec![("LANG".to_owned(), "C.UTF-8".to_owned())]),
        default_user: Some("tl-user".to_owned()),
        working_dir: Some("/workspace".to_owned()),
        entrypoint: Some(vec!["/bin/serve".to_owned(), "-v".to_owned()]),
        entropy: Secret::new("AAAA"),
        now_ms: 1_800_000_000_000,
        limits: Limits { processes: 512, output_bytes: 67_108_864 },
    }
}

#[test]
fn init_request_is_golden() {
    let golden = concat!(
        r#"{"protocol":1,"#,
        r#""token":"abababababababababababababababababababababababababababababababab","#,
        r#""sandbox_id":"sbx1","hostname":"tl-sbx","env":[["LANG","C.UTF-8"]],"#,
        r#""default_user":"tl-user","working_dir":"/workspace","#,
        r#""entrypoint":["/bin/serve","-v"],"entropy":"AAAA","now_ms":1800000000000,"#,
        r#""limits":{"processes":512,"output_bytes":67108864}}"#,
    );
    check_golden(&init_request(), golden);
}

#[test]
fn smallest_init_request_is_golden() {
    let request = InitRequest {
        env: Environment::default(),
        default_user: None,
        working_dir: None,
        entrypoint: None,
        ..init_request()
    };
    let golden = concat!(
        r#"{"protocol":1,"#,
        r#""token":"abababababababababababababababababababababababababababababababab","#,
        r#""sandbox_id":"sbx1","hostname":"tl-sbx","env":[],"#,
        r#""entropy":"AAAA","now_ms":1800000000000,"#,
        r#""limits":{"processes":512,"output_bytes":67108864}}"#,
    );
    check_golden(&request, golden);
}

#[test]
fn init_response_is_golden() {
    let full = InitResponse { protocol: 1, version: "0.1.0".to_owned(), entrypoint_pid: Some(2) };
    check_golden(&full, r#"{"protocol":1,"version":"0.1.0","entrypoint_pid":2}"#);
    let small = InitResponse { entrypoint_pid: None, ..full };
    check_golden(&small, r#"{"protocol":1,"version":"0.1.0"}"#);
}

#[test]
fn seal_is_golden() {
    check_golden(&SealRequest {}, "{}");
    check_golden(&SealResponse {}, "{}");
}

#[test]
fn unseal_is_golden() {
    let full = UnsealRequest {
        protocol: PROTOCOL,
        continues: Continues::Copy,
        token: Secret::new("cd".repeat(32)),
        sandbox_id: "sbx2".to_owned(),
        env: Some(Environment(vec![("LANG".to_owned(), "C.UTF-8".to_owned())])),
        entropy: Secret::new("AAAA"),
        now_ms: 1_800_000_000_000,
    };
    let golden = |continues: &str, env: &str| {
        format!(
            concat!(
                r#"{{"protocol":1,"continues":"{continues}","#,
                r#""token":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","#,
                r#""sandbox_id":"sbx2",{env}"entropy":"AAAA","now_ms":1800000000000}}"#,
            ),
            continues = continues,
            env = env,
        )
    };
    check_golden(&full, &golden("copy", r#""env":[["LANG","C.UTF-8"]],"#));
    let small = UnsealRequest { continues: Continues::Suspended, env: None, ..full.clone() };
    check_golden(&small, &golden("suspended", ""));
    let itself = UnsealRequest { continues: Continues::Itself, ..small };
    check_golden(&itself, &golden("itself", ""));
    let response = UnsealResponse { protocol: 1, version: "0.1.0".to_owned() };
    check_golden(&response, r#"{"protocol":1,"version":"0.1.0"}"#);
    let text = format!("{full:?}");
    assert!(!text.contains("cdcd") && !text.contains("C.UTF-8"), "{text}");
}

#[test]
fn memory_pressure_is_golden() {
    check_golden(&MemoryPressureRequest {}, "{}");
    check_golden(&MemoryPressureResponse { killed: None }, r#"{"killed":null}"#);
    check_golden(
        &MemoryPressureResponse { killed: Some(KilledProcess { pid: 42, rss_bytes: 4096 }) },
        r#"{"killed":{"pid":42,"rss_bytes":4096}}"#,
    );
}

#[test]
fn stats_and_shutdown_are_golden() {
    check_golden(
        &Stats { running_processes: 1, total_processes: 3, guest_processes: 4 },
        r#"{"running_processes":1,"total_processes":3,"guest_processes":4}"#,
    );
    check_golden(&ShutdownResponse { signaled: 3 }, r#"{"signaled":3}"#);
}

#[test]
fn logs_are_golden() {
    check_golden(
        &LogsRequest { ack: 7, wait_ms: 60_000, gather_ms: 100 },
        r#"{"ack":7,"wait_ms":60000,"gather_ms":100}"#,
    );
    let process = LoggedProcess {
        handle: 3,
        pid: 42,
        command: "sh -c true".to_owned(),
        managed_id: Some("web".to_owned()),
        managed_name: Some("web".to_owned()),
    };
    let plain = LoggedProcess { managed_id: None, managed_name: None, ..process.clone() };
    let line = LoggedLine {
        handle: 3,
        stream: OutputStream::Stderr,
        at_ms: 1_800_000_000_000,
        dropped: 0,
        text: "a\u{1b}b".to_owned(),
    };
    let dropped = LoggedLine { dropped: 9, stream: OutputStream::Stdout, ..line.clone() };
    check_golden(
        &LogsResponse {
            boot: "1a-1".to_owned(),
            batch: 8,
            processes: vec![process, plain],
            lines: vec![line, dropped],
        },
        concat!(
            r#"{"boot":"1a-1","batch":8,"processes":[{"handle":3,"pid":42,"command":"sh -c true","#,
            r#""managed_id":"web","managed_name":"web"},"#,
            r#"{"handle":3,"pid":42,"command":"sh -c true"}],"lines":[{"handle":3,"#,
            r#""stream":"stderr","at_ms":1800000000000,"text":"a\u001bb"},"#,
            r#"{"handle":3,"stream":"stdout","at_ms":1800000000000,"dropped":9,"text":"a\u001bb"}]}"#,
        ),
    );
    check_golden(
        &LogsResponse { boot: "1a-1".to_owned(), batch: 0, processes: vec![], lines: vec![] },
        r#"{"boot":"1a-1","batch":0,"processes":[],"lines":[]}"#,
    );
}

#[test]
fn unknown_fields_from_a_newer_node_are_ignored() {
    let newer = r#"{"killed":null,"later":true}"#;
    let parsed: MemoryPressureResponse = serde_json::from_str(newer).expect("newer parses");
    assert_eq!(parsed, MemoryPressureResponse { killed: None });
}

#[test]
fn debug_output_hides_secrets() {
    let mut request = init_request();
    request.env.0.push(("API_KEY".to_owned(), "hunter2".to_owned()));
    let text = format!("{request:?}");
    assert!(text.contains("API_KEY"), "{text}");
    assert!(!text.contains("hunter2") && !text.contains("abab"), "{text}");
}
