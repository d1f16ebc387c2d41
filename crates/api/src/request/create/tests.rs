use proptest::prelude::*;

use super::*;
use crate::ErrorCode::{
    self, InvalidRequest, LimitExceeded, NotSupported, SecretNotFound, SnapshotNotFound,
};

fn parse(body: &str) -> Result<CreateSandbox, (ErrorCode, String)> {
    CreateSandbox::parse(body.as_bytes())
        .map(|parsed| parsed.value)
        .map_err(|refusal| (refusal.code(), refusal.to_string()))
}

fn defaults() -> CreateSandbox {
    CreateSandbox { wait: true, ..CreateSandbox::default() }
}

#[test]
fn what_says_nothing_asks_for_the_defaults() {
    let nulls = r#"{"name":null,"image":null,"resources":null,"timeout_secs":null,"network":null,
        "entrypoint":null,"exposed_ports":null,"allow_unauthenticated_access":null,"wait":null,
        "auto_resume":null,"max_pending_secs":null,"snapshot_id":null,"template_id":null,
        "secret_names":null,"file_systems":null}"#;
    let empties = r#"{"resources":{"gpus":[]},"entrypoint":[],"secret_names":[],
        "file_systems":[]}"#;
    for body in ["", " \n", "{}", nulls] {
        assert_eq!(parse(body), Ok(defaults()), "{body}");
    }
    // On a restore an empty list of GPUs is a wish.
    let resources = ResourcesRequest { gpus: Some(Vec::new()), ..ResourcesRequest::default() };
    let present = CreateSandbox { resources, resources_present: true, ..defaults() };
    assert_eq!(parse(empties), Ok(present));
}

#[test]
fn an_empty_id_is_an_id_of_nobody() {
    // Whether there is such an image is not known here.
    let template = CreateSandbox { template_id: Some(String::new()), ..defaults() };
    assert_eq!(parse(r#"{"template_id":""}"#), Ok(template));
    let (code, text) = parse(r#"{"snapshot_id":""}"#).expect_err("it is no id");
    assert_eq!((code, text.as_str()), (SnapshotNotFound, "snapshot_id: no snapshot ``"));
}

#[test]
fn the_body_of_the_sdk_is_read() {
    let sdk = parse(r#"{"resources":{"cpus":1.0,"memory_mb":1024}}"#).expect("the SDK's body");
    let resources = ResourcesRequest {
        cpus: Some(MilliCpu::from_milli(1000)),
        memory_mb: Some(ByteSize::from_mib(1024)),
        ..ResourcesRequest::default()
    };
    assert_eq!(sdk, CreateSandbox { resources, resources_present: true, ..defaults() });
}

#[test]
fn a_gpu_of_no_model_is_the_default_one() {
    let parsed = parse(r#"{"resources":{"gpus":[{"count":2},{"count":1,"model":"A10"}]}}"#);
    let gpu = |count| GpuRequest { count, model: "A10".to_owned() };
    assert_eq!(parsed.map(|value| value.resources.gpus), Ok(Some(vec![gpu(2), gpu(1)])));
}

#[test]
fn every_field_is_read() {
    let parsed = CreateSandbox::parse(
        br#"{"name":"box","image":"Tensorlake/X","resources":{"cpus":2,"memory_mb":4096,
            "ephemeral_disk_mb":2048,"disk_mb":2048,"gpus":[{"count":1,"model":"H100"}],"turbo":1},
            "timeout_secs":0,"entrypoint":["sleep","9"],"network":{"allow_internet_access":false,
            "allow_out":[],"deny_out":null},"exposed_ports":[8080,80,8080],
            "allow_unauthenticated_proxy_access":true,"auto_resume":true,"max_pending_secs":5,
            "wait":false,"from_the_future":{}}"#,
    )
    .expect("a full body");
    let value = parsed.value;
    assert_eq!(value.name.map(|name| name.to_string()).as_deref(), Some("box"));
    assert_eq!(value.image.map(|image| image.to_string()).as_deref(), Some("tensorlake/x"));
    assert_eq!(value.resources.disk_mb, Some(ByteSize::from_mib(2048)));
    let gpus = vec![GpuRequest { count: 1, model: "H100".to_owned() }];
    assert_eq!(value.resources.gpus, Some(gpus));
    assert_eq!(value.timeout_secs, Some(0));
    assert_eq!(value.entrypoint, Some(vec!["sleep".to_owned(), "9".to_owned()]));
    assert_eq!(value.network, Some(EgressPolicy::CLOSED));
    assert_eq!(value.exposed_ports.as_ref().map(ExposedPorts::as_slice), Some(&[80, 8080][..]));
    assert!(value.allow_unauthenticated_access && !value.wait);
    assert_eq!((value.auto_resume, value.max_pending_secs), (Some(true), Some(5)));
    assert_eq!(parsed.ignored, ["resources.turbo", "from_the_future"]);
}

#[test]
fn an_empty_network_is_a_policy_and_an_empty_port_list_a_list() {
    let value = parse(r#"{"network":{},"exposed_ports":[]}"#).expect("good");
    assert_eq!(value.network, Some(EgressPolicy::OPEN));
    assert_eq!(value.exposed_ports, Some(ExposedPorts::default()));
}

#[test]
fn on_a_restore_what_is_there_is_a_wish_however_empty() {
    let restore = |rest: &str| {
        parse(&format!(r#"{{"snapshot_id":"snap_0123456789abcdef"{rest}}}"#)).expect(rest)
    };
    let bare = restore(r#","resources":null,"entrypoint":null,"secret_names":null"#);
    let id = bare.snapshot_id.as_ref().map(ToString::to_string);
    assert_eq!(id.as_deref(), Some("snap_0123456789abcdef"));
    assert_eq!((&bare.entrypoint, &bare.secret_names), (&None, &None));
    assert!(!bare.resources_present && bare.image.is_none());
    let empty = restore(r#","resources":{},"entrypoint":[],"secret_names":[],"file_systems":[]"#);
    assert!(empty.resources_present);
    assert_eq!((empty.entrypoint, empty.secret_names), (Some(vec![]), Some(vec![])));
    let full = restore(r#","secret_names":["A"],"template_id":"t","auto_resume":false"#);
    assert_eq!(full.secret_names, Some(vec!["A".parse().expect("a good name")]));
    assert_eq!((full.template_id.as_deref(), full.auto_resume), (Some("t"), Some(false)));
}

/// A body, how its refusal begins, and its code.
const REFUSALS: &[(&str, &str, ErrorCode)] = &[
    ("nonsense", "body: not JSON", InvalidRequest),
    ("[]", "body: must be an object, not a list", InvalidRequest),
    ("null", "body: must be an object, not null", InvalidRequest),
    (r#"{"name":5}"#, "name: must be a string, not 5", InvalidRequest),
    (r#"{"name":""}"#, "name: a name must not be empty", InvalidRequest),
    (r#"{"image":""}"#, "image: ", InvalidRequest),
    (r#"{"image":"a b"}"#, "image: ", InvalidRequest),
    (r#"{"resources":[]}"#, "resources: must be an object", InvalidRequest),
    (r#"{"resources":{"cpus":"1"}}"#, "resources.cpus: must be a number", InvalidRequest),
    (r#"{"resources":{"cpus":-1}}"#, "resources.cpus: must not be neg", InvalidRequest),
    (r#"{"resources":{"cpus":1e300}}"#, "resources.cpus: ", LimitExceeded),
    (
        r#"{"resources":{"memory_mb":1024.0}}"#,
        "resources.memory_mb: must be an integer",
        InvalidRequest,
    ),
    (r#"{"resources":{"memory_mb":-1}}"#, "resources.memory_mb: must not be neg", InvalidRequest),
    (
        r#"{"resources":{"memory_mb":99999999999999999999}}"#,
        "resources.memory_mb: must be an integer",
        InvalidRequest,
    ),
    (r#"{"resources":{"disk_mb":true}}"#, "resources.disk_mb: must be an integer", InvalidRequest),
    (
        r#"{"resources":{"disk_mb":1,"ephemeral_disk_mb":2}}"#,
        "resources.disk_mb: is 1 but",
        InvalidRequest,
    ),
    (r#"{"resources":{"gpus":{}}}"#, "resources.gpus: must be a list", InvalidRequest),
    (r#"{"resources":{"gpus":[5]}}"#, "resources.gpus[0]: must be an object", InvalidRequest),
    (r#"{"resources":{"gpus":[{}]}}"#, "resources.gpus[0].count: is missing", InvalidRequest),
    (
        r#"{"resources":{"gpus":[{"count":0,"model":"T4"}]}}"#,
        "resources.gpus[0].count: ",
        InvalidRequest,
    ),
    (
        r#"{"resources":{"gpus":[{"count":"1","model":"T4"}]}}"#,
        "resources.gpus[0].count: ",
        InvalidRequest,
    ),
    (
        r#"{"resources":{"gpus":[{"count":1,"model":"T4"},{"count":1,"model":"L40"}]}}"#,
        "resources.gpus[1].model: all GPUs",
        InvalidRequest,
    ),
    (r#"{"timeout_secs":600.0}"#, "timeout_secs: must be an integer", InvalidRequest),
    (r#"{"timeout_secs":-1}"#, "timeout_secs: must not be negative", InvalidRequest),
    (r#"{"timeout_secs":9223372036854775808}"#, "timeout_secs: ", InvalidRequest),
    (r#"{"entrypoint":"sleep 9"}"#, "entrypoint: must be a list", InvalidRequest),
    (r#"{"entrypoint":["a",1]}"#, "entrypoint[1]: must be a string", InvalidRequest),
    (r#"{"entrypoint":["a",null]}"#, "entrypoint[1]: must be a string, not null", InvalidRequest),
    (r#"{"entrypoint":[""]}"#, "entrypoint[0]: must not be empty", InvalidRequest),
    (r#"{"entrypoint":["a\u0000"]}"#, "entrypoint[0]: must not hold", InvalidRequest),
    (r#"{"network":true}"#, "network: must be an object", InvalidRequest),
    (r#"{"network":{"alow_out":[]}}"#, "network.alow_out: unknown key", InvalidRequest),
    (r#"{"network":{"alow_out":[],"allow_out":["a"]}}"#, "network.alow_out: ", InvalidRequest),
    (
        r#"{"network":{"allow_internet_access":"no"}}"#,
        "network.allow_internet_access: ",
        InvalidRequest,
    ),
    (r#"{"network":{"deny_out":[1]}}"#, "network.deny_out[0]: ", InvalidRequest),
    (r#"{"network":{"allow_out":"1.1.1.1"}}"#, "network.allow_out: must be a list", InvalidRequest),
    (r#"{"network":{"allow_out":["a.com","a b"]}}"#, "network.allow_out[1]: `a b`", InvalidRequest),
    (r#"{"network":{"deny_out":["*.a.com"]}}"#, "network.deny_out[0]: `*.a.com`", InvalidRequest),
    (r#"{"network":{"deny_out":["1.1.1.1/33"]}}"#, "network.deny_out[0]: ", InvalidRequest),
    (r#"{"exposed_ports":80}"#, "exposed_ports: must be a list", InvalidRequest),
    (r#"{"exposed_ports":[80,"81"]}"#, "exposed_ports[1]: must be an integer", InvalidRequest),
    (r#"{"exposed_ports":[80.0]}"#, "exposed_ports[0]: must be an integer", InvalidRequest),
    (r#"{"exposed_ports":[0]}"#, "exposed_ports[0]: 0 is not a port", InvalidRequest),
    (r#"{"exposed_ports":[80,65536]}"#, "exposed_ports[1]: 65536 is not", InvalidRequest),
    (r#"{"exposed_ports":[9501]}"#, "exposed_ports[0]: port 9501", InvalidRequest),
    (r#"{"allow_unauthenticated_access":1}"#, "allow_unauthenticated_access: ", InvalidRequest),
    (
        r#"{"allow_unauthenticated_access":true,"allow_unauthenticated_proxy_access":false}"#,
        "allow_unauthenticated_access: contradicts",
        InvalidRequest,
    ),
    (r#"{"wait":"false"}"#, "wait: must be true or false", InvalidRequest),
    (r#"{"max_pending_secs":-1}"#, "max_pending_secs: must not be neg", InvalidRequest),
    (r#"{"auto_resume":0}"#, "auto_resume: must be true or false", InvalidRequest),
    (r#"{"snapshot_id":5}"#, "snapshot_id: must be a string", InvalidRequest),
    (r#"{"snapshot_id":"snap"}"#, "snapshot_id: no snapshot `snap`", SnapshotNotFound),
    (
        r#"{"snapshot_id":"snap_0123456789abcdef","file_systems":[{}]}"#,
        "file_systems: ",
        NotSupported,
    ),
    (r#"{"secret_names":["A","A-B"]}"#, "secret_names: no secret is named `A-B`", SecretNotFound),
    (r#"{"secret_names":[1]}"#, "secret_names[0]: must be a string", InvalidRequest),
    (r#"{"file_systems":[{}]}"#, "file_systems: ", NotSupported),
    (r#"{"file_systems":{}}"#, "file_systems: must be a list", InvalidRequest),
];

#[test]
fn a_refusal_names_its_path_and_code() {
    for (body, start, code) in REFUSALS {
        let (got, text) = parse(body).expect_err(body);
        assert_eq!(got, *code, "{body}: {text}");
        assert!(text.starts_with(start), "{body}: {text}");
    }
}

#[test]
fn hostile_sizes_are_refused_or_shortened() {
    let words = format!(r#"{{"entrypoint":[{}"a"]}}"#, r#""a","#.repeat(MAX_ENTRYPOINT_WORDS));
    assert_eq!(parse(&words).expect_err("too many words").0, LimitExceeded);
    let word = format!(r#"{{"entrypoint":["{}"]}}"#, "a".repeat(MAX_ENTRYPOINT_WORD + 1));
    assert_eq!(parse(&word).expect_err("too long a word").0, LimitExceeded);
    let deep = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    assert_eq!(parse(&deep).expect_err("too deep").0, InvalidRequest);
    let keys: Vec<_> = (0..100).map(|n| format!(r#""{}{n}":1"#, "k".repeat(500))).collect();
    let parsed = CreateSandbox::parse(format!("{{{}}}", keys.join(",")).as_bytes());
    let ignored = parsed.expect("unknown keys are ignored").ignored;
    assert_eq!(ignored.len(), 16);
    assert!(ignored.iter().all(|key| key.len() <= 64));
}

proptest! {
    #[test]
    fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(CreateSandbox::parse(&body));
    }
}

#[test]
fn egress_lists_are_kept_as_written_and_bounded() {
    let body =
        r#"{"network":{"allow_out":["Example.com:443","2001:db8::/32"],"deny_out":["1.2.3.4/8"]}}"#;
    let policy = parse(body).expect("good").network.expect("a policy");
    let texts: Vec<_> =
        policy.allow_out.iter().chain(&policy.deny_out).map(|entry| entry.as_str()).collect();
    assert_eq!(texts, ["Example.com:443", "2001:db8::/32", "1.2.3.4/8"]);
    let many = |count| {
        let list = vec![r#""1.1.1.1""#; count].join(",");
        parse(&format!(r#"{{"network":{{"deny_out":[{list}]}}}}"#))
    };
    assert_eq!(many(256).expect("the most").network.expect("a policy").deny_out.len(), 256);
    let (code, text) = many(257).expect_err("one too many");
    assert_eq!(code, LimitExceeded);
    assert!(text.contains("network.deny_out: 257 entries; at most 256"), "{text}");
}
