//! Bad requests, each with its status and code; none is ever our fault.

use std::collections::BTreeSet;

use axum::body::Body;
use bytes::Bytes;
use futures::stream;

use crate::server::Server;

/// Method, path, body, status, code.
type Bad = (&'static str, &'static str, &'static str, u16, &'static str);

const BODIES: &[Bad] = &[
    ("POST", "/sandboxes", "{", 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", "not json", 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", "[]", 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", "\"x\"", 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", "null", 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", "{}{}", 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"image":5}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"image":""}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"image":"../../etc/passwd x"}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"image":"no/such"}"#, 404, "IMAGE_NOT_FOUND"),
    ("POST", "/sandboxes", r#"{"image":"../../etc/passwd"}"#, 404, "IMAGE_NOT_FOUND"),
    ("POST", "/sandboxes", r#"{"name":""}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"name":"Box"}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"name":"a--"}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"name":"a23456789012345678901"}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"name":["box"]}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"resources":5}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"resources":{"cpus":"two"}}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"resources":{"cpus":-1}}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"resources":{"cpus":1e999}}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"resources":{"cpus":0}}"#, 400, "LIMIT_EXCEEDED"),
    ("POST", "/sandboxes", r#"{"resources":{"cpus":0.0001}}"#, 400, "LIMIT_EXCEEDED"),
    ("POST", "/sandboxes", r#"{"resources":{"cpus":5}}"#, 400, "LIMIT_EXCEEDED"),
    ("POST", "/sandboxes", r#"{"resources":{"cpus":1e12}}"#, 400, "LIMIT_EXCEEDED"),
    ("POST", "/sandboxes", r#"{"resources":{"memory_mb":1}}"#, 400, "LIMIT_EXCEEDED"),
    ("POST", "/sandboxes", r#"{"resources":{"memory_mb":1024.5}}"#, 400, "INVALID_REQUEST"),
    (
        "POST",
        "/sandboxes",
        r#"{"resources":{"memory_mb":9223372036854775807}}"#,
        400,
        "LIMIT_EXCEEDED",
    ),
    (
        "POST",
        "/sandboxes",
        r#"{"resources":{"memory_mb":18446744073709551615}}"#,
        400,
        "INVALID_REQUEST",
    ),
    ("POST", "/sandboxes", r#"{"resources":{"disk_mb":10}}"#, 400, "LIMIT_EXCEEDED"),
    ("POST", "/sandboxes", r#"{"resources":{"disk_mb":99999999}}"#, 400, "LIMIT_EXCEEDED"),
    (
        "POST",
        "/sandboxes",
        r#"{"resources":{"disk_mb":2048,"ephemeral_disk_mb":1024}}"#,
        400,
        "INVALID_REQUEST",
    ),
    (
        "POST",
        "/sandboxes",
        r#"{"resources":{"gpus":[{"count":1,"model":"H100"}]}}"#,
        400,
        "NO_SUCH_GPU",
    ),
    (
        "POST",
        "/sandboxes",
        r#"{"resources":{"gpus":[{"count":-1,"model":"H100"}]}}"#,
        400,
        "INVALID_REQUEST",
    ),
    (
        "POST",
        "/sandboxes",
        r#"{"resources":{"gpus":[{"count":1,"model":"T4"},{"count":1,"model":"A10"}]}}"#,
        400,
        "INVALID_REQUEST",
    ),
    ("POST", "/sandboxes", r#"{"timeout_secs":-1}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"timeout_secs":"600"}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"timeout_secs":1.5}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"entrypoint":"sh"}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"entrypoint":[""]}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"network":"off"}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"network":{"allow_internet_acess":false}}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"network":{"allow_out":["10.0.0.0/33"]}}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"network":{"deny_out":["*.example.com"]}}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"exposed_ports":[0]}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"exposed_ports":[70000]}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"exposed_ports":[9501]}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"exposed_ports":["80"]}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"allow_unauthenticated_access":"yes"}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"auto_resume":false}"#, 400, "SANDBOX_EPHEMERAL"),
    ("POST", "/sandboxes", r#"{"max_pending_secs":-5}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"wait":0}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"snapshot_id":"abc"}"#, 404, "SNAPSHOT_NOT_FOUND"),
    ("POST", "/sandboxes", r#"{"snapshot_id":""}"#, 404, "SNAPSHOT_NOT_FOUND"),
    ("POST", "/sandboxes", r#"{"snapshot_id":5}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes", r#"{"snapshot_id":"snap_0123456789abcdef"}"#, 404, "SNAPSHOT_NOT_FOUND"),
    ("POST", "/sandboxes", r#"{"template_id":"abc"}"#, 404, "TEMPLATE_NOT_FOUND"),
    ("POST", "/sandboxes", r#"{"template_id":""}"#, 404, "TEMPLATE_NOT_FOUND"),
    ("POST", "/sandboxes", r#"{"secret_names":["TOKEN"]}"#, 400, "SECRET_NOT_FOUND"),
    (
        "POST",
        "/sandboxes",
        r#"{"file_systems":[{"file_system_id":"f","mount_path":"/m"}]}"#,
        400,
        "NOT_SUPPORTED",
    ),
    ("PATCH", "/sandboxes/box", "nonsense", 400, "INVALID_REQUEST"),
    ("PATCH", "/sandboxes/box", r#"{"name":null}"#, 400, "INVALID_REQUEST"),
    ("PATCH", "/sandboxes/box", r#"{"name":"-"}"#, 400, "INVALID_REQUEST"),
    ("PATCH", "/sandboxes/box", r#"{"exposed_ports":[9501]}"#, 400, "INVALID_REQUEST"),
    ("PATCH", "/sandboxes/box", r#"{"network":{"x":1}}"#, 400, "INVALID_REQUEST"),
    (
        "PATCH",
        "/sandboxes/box",
        r#"{"resources":{"gpus":[{"count":1,"model":"H100"}]}}"#,
        400,
        "INVALID_REQUEST",
    ),
    ("PATCH", "/sandboxes/box", r#"{"resources":{"cpus":2},"name":"b"}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes/box/snapshot", r#"{"snapshot_type":"disk"}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes/box/snapshot", r#"{"snapshot_type":7}"#, 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes/box/snapshot", "[]", 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes/none/snapshot", "", 404, "SANDBOX_NOT_FOUND"),
    ("PATCH", "/sandboxes/none", "{}", 404, "SANDBOX_NOT_FOUND"),
];

const PATHS: &[Bad] = &[
    ("GET", "/sandboxes/nobody", "", 404, "SANDBOX_NOT_FOUND"),
    ("GET", "/sandboxes/000000000000000000000", "", 404, "SANDBOX_NOT_FOUND"),
    ("GET", "/sandboxes/UPPER", "", 404, "SANDBOX_NOT_FOUND"),
    ("GET", "/sandboxes/..%2F..%2Fetc", "", 404, "SANDBOX_NOT_FOUND"),
    ("GET", "/sandboxes/%00", "", 404, "SANDBOX_NOT_FOUND"),
    ("GET", "/sandboxes/%FF", "", 404, "SANDBOX_NOT_FOUND"),
    ("DELETE", "/sandboxes/nobody", "", 404, "SANDBOX_NOT_FOUND"),
    ("GET", "/archived-sandboxes/box", "", 404, "SANDBOX_NOT_FOUND"),
    ("POST", "/sandboxes/none/suspend", "", 404, "SANDBOX_NOT_FOUND"),
    ("POST", "/sandboxes/none/resume?wait_ms=1", "", 404, "SANDBOX_NOT_FOUND"),
    ("POST", "/sandboxes/box/suspend?wait_ms=soon", "", 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes/box/resume?wait_ms=-1", "", 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes/none/copy", "", 404, "SANDBOX_NOT_FOUND"),
    ("POST", "/sandboxes/box/copy?times=0", "", 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes/box/copy?times=x", "", 400, "INVALID_REQUEST"),
    ("POST", "/sandboxes/box/copy?times=101", "", 400, "LIMIT_EXCEEDED"),
    ("GET", "/sandboxes/none/snapshots", "", 404, "SANDBOX_NOT_FOUND"),
    ("GET", "/images/v4/builds/build_x", "", 404, "BUILD_NOT_FOUND"),
    ("GET", "/images/v4/builds/build_0000000000000000", "", 404, "BUILD_NOT_FOUND"),
    ("GET", "/snapshots/nothing", "", 404, "SNAPSHOT_NOT_FOUND"),
    ("GET", "/snapshots/snap_0000000000000000", "", 404, "SNAPSHOT_NOT_FOUND"),
    ("DELETE", "/snapshots/snap_0000000000000000", "", 404, "SNAPSHOT_NOT_FOUND"),
    ("GET", "/sandboxes?limit=0", "", 400, "INVALID_REQUEST"),
    ("GET", "/sandboxes?limit=-1", "", 400, "INVALID_REQUEST"),
    ("GET", "/sandboxes?limit=ten", "", 400, "INVALID_REQUEST"),
    ("GET", "/sandboxes?cursor=%20", "", 400, "INVALID_REQUEST"),
    ("GET", "/sandboxes?cursor=AAAA", "", 400, "INVALID_REQUEST"),
    ("GET", "/sandboxes?direction=sideways", "", 400, "INVALID_REQUEST"),
    ("GET", "/sandboxes?status=failed", "", 400, "INVALID_REQUEST"),
    ("GET", "/archived-sandboxes?cursor=..", "", 400, "INVALID_REQUEST"),
    ("GET", "/v1/namespaces/foreign/sandboxes", "", 403, "FORBIDDEN"),
    ("POST", "/v1/namespaces/foreign/sandboxes", "{}", 403, "FORBIDDEN"),
    ("POST", "/v1/namespaces/foreign/sandboxes/box/suspend", "", 403, "FORBIDDEN"),
    ("GET", "/", "", 404, "NOT_FOUND"),
    ("GET", "/nothing", "", 404, "NOT_FOUND"),
    ("GET", "/v1/namespaces/default", "", 404, "NOT_FOUND"),
    ("GET", "/tarn/v1/keys", "", 404, "NOT_FOUND"),
    ("POST", "/tarn/v1/keys", "{}", 404, "NOT_FOUND"),
    ("POST", "/artifact-storage/v1/token", "{}", 404, "NOT_FOUND"),
    ("GET", "/platform/v1/organizations/org_local/usage", "", 404, "NOT_FOUND"),
    ("GET", "/platform/v1/organizations/org_local/projects/foreign", "", 404, "NOT_FOUND"),
    ("GET", "/platform/v1/organizations/elsewhere/projects/default", "", 404, "NOT_FOUND"),
    ("PUT", "/sandboxes", "{}", 405, "METHOD_NOT_ALLOWED"),
    ("POST", "/sandboxes/box", "{}", 405, "METHOD_NOT_ALLOWED"),
    ("DELETE", "/v1/namespaces/default/sandboxes", "", 405, "METHOD_NOT_ALLOWED"),
    ("GET", "/platform/v1/keys/introspect", "", 405, "METHOD_NOT_ALLOWED"),
    ("POST", "/healthz", "", 405, "METHOD_NOT_ALLOWED"),
];

#[tokio::test]
async fn every_bad_request_gets_its_status_and_code() {
    let server = Server::start().await;
    server.create(r#"{"name":"box"}"#).await;
    let mut seen = 0;
    for (method, path, body, status, code) in BODIES.iter().chain(PATHS) {
        seen += 1;
        let answer = server.ask(method, path).body(*body).send().await;
        assert_eq!(answer.status.as_u16(), *status, "{method} {path} {body}: {answer:?}");
        answer.refuses(*status, code);
    }
    assert!(seen >= 90, "{seen}");
    // Nothing was made, changed or lost by any of it.
    let list = server.get("/sandboxes").await.json();
    assert_eq!(list["sandboxes"].as_array().map(Vec::len), Some(1));
    let info = server.get("/sandboxes/box").await.json();
    assert_eq!((info["status"].as_str(), info["exposed_ports"].is_null()), (Some("running"), true));
}

#[tokio::test]
async fn without_a_good_key_nothing_is_told() {
    let server = Server::start().await;
    let revoked = server.control.key_create("default").await.expect("a key");
    server.control.key_revoke(&revoked.id).await.expect("revoked");
    let long = "k".repeat(5000);
    let good = server.key.clone();
    let authorizations = [
        None,
        Some(String::new()),
        Some("Bearer ".to_owned()),
        Some("Bearer".to_owned()),
        Some("Bearer wrong".to_owned()),
        Some(format!("Bearer {}", revoked.secret)),
        Some(format!("Bearer {long}")),
        Some(format!("Basic {good}")),
        Some(good.clone()),
        Some(format!("Bearer {good}x")),
    ];
    for authorization in authorizations {
        for (method, path) in [
            ("POST", "/sandboxes"),
            ("GET", "/v1/namespaces/foreign/sandboxes"),
            ("GET", "/nothing"),
            ("PUT", "/sandboxes"),
            ("POST", "/platform/v1/keys/introspect"),
            ("GET", "/platform/v1/secrets"),
        ] {
            let mut ask = server.ask(method, path).key(None).body("{");
            if let Some(value) = &authorization {
                ask = ask.header("authorization", value);
            }
            let answer = ask.send().await;
            answer.refuses(401, "UNAUTHENTICATED");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    }
    for scheme in ["bearer", "BEARER"] {
        let ask = server.ask("GET", "/sandboxes").key(None);
        let answer = ask.header("authorization", &format!("{scheme} {good}")).send().await;
        assert_eq!(answer.status, 200, "{scheme}");
    }
}

#[tokio::test]
async fn a_forwarded_scope_must_be_the_keys_own() {
    let server = Server::start().await;
    let identity = server.ask("POST", "/platform/v1/keys/introspect").send().await.json();
    let project = identity["projectId"].as_str().expect("an id");
    let list = |organization: &str, project: &str| {
        server
            .ask("GET", "/sandboxes")
            .header("x-forwarded-organization-id", organization)
            .header("x-forwarded-project-id", project)
            .send()
    };
    assert_eq!(list("org_local", project).await.status, 200);
    assert_eq!(list("", "").await.status, 200);
    list("org_other", project).await.refuses(403, "FORBIDDEN");
    list("org_local", "project_0000000000000000").await.refuses(403, "FORBIDDEN");
}

#[tokio::test(start_paused = true)]
async fn a_body_is_bounded_in_size_and_time() {
    let server = Server::start().await;
    let large = format!(r#"{{"image":"{}"}}"#, "x".repeat(1 << 20));
    let answer = server.ask("POST", "/sandboxes").body(large).send().await;
    answer.refuses(413, "PAYLOAD_TOO_LARGE");
    let just = format!(r#"{{"ignored":"{}"}}"#, "x".repeat((1 << 20) - 14));
    assert_eq!(just.len(), 1 << 20);
    assert_eq!(server.ask("POST", "/sandboxes").body(just).send().await.status, 200);
    let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 65536])));
    let answer = server.ask("POST", "/sandboxes").body(Body::from_stream(endless)).send().await;
    answer.refuses(413, "PAYLOAD_TOO_LARGE");
    let silent = stream::pending::<Result<Bytes, std::io::Error>>();
    let answer = server.ask("POST", "/sandboxes").body(Body::from_stream(silent)).send().await;
    answer.refuses(400, "INVALID_REQUEST");
    let broken = stream::iter([Ok(Bytes::from("{")), Err(std::io::Error::other("cut"))]);
    let answer = server.ask("POST", "/sandboxes").body(Body::from_stream(broken)).send().await;
    answer.refuses(400, "INVALID_REQUEST");
}

/// Path and beginning of the body of each route where images are built or registered, and the code
/// of a body that is read; none = it is taken.
const BUILD_BODIES: &[(&str, &str, Option<&str>)] = &[
    ("/images/v4/builds", r#"{"kind":"dockerfile","name":"one","#, None),
    ("/images/v4/builds/cancel", r#"{"client_request_id":"nobody","#, None),
    (
        "/images/v4/builds/build_0000000000000000/context/seal",
        r#"{"digest":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","#,
        Some("BUILD_NOT_FOUND"),
    ),
    (
        "/images/v4/images/from-snapshot",
        r#"{"name":"a","snapshot_id":"snap_0123456789abcdef","#,
        Some("SNAPSHOT_NOT_FOUND"),
    ),
    (
        "/platform/v1/sandbox-templates",
        r#"{"name":"a","snapshotId":"snap_0123456789abcdef","#,
        Some("SNAPSHOT_NOT_FOUND"),
    ),
    ("/platform/v1/sandbox-template-builds", r#"{"name":"two","dockerfile":"FROM a","#, None),
    (
        "/platform/v1/sandbox-template-builds/build_0000000000000000/complete",
        r#"{"snapshotId":"snap_0123456789abcdef","#,
        Some("BUILD_NOT_FOUND"),
    ),
];

#[tokio::test]
async fn a_body_about_a_build_may_be_larger() {
    let server = Server::start().await;
    for (path, start, code) in BUILD_BODIES {
        for (bytes, is_read) in [(2 << 20, true), (4 << 20, true), ((4 << 20) + 1, false)] {
            let (start, end) = (format!(r#"{start}"ignored":""#), r#""}"#);
            let body = format!("{start}{}{end}", "x".repeat(bytes - start.len() - end.len()));
            assert_eq!(body.len(), bytes);
            // The same request is the same build.
            let ask = server.ask("POST", path).header("idempotency-key", "one");
            let answer = ask.body(body).send().await;
            match (is_read, code) {
                (false, _) => answer.refuses(413, "PAYLOAD_TOO_LARGE"),
                (true, Some(code)) => answer.refuses(404, code),
                (true, None) => assert_eq!(answer.status, 200, "{path}: {answer:?}"),
            }
        }
    }
    let large = format!(r#"{{"ignored":"{}"}}"#, "x".repeat(2 << 20));
    for path in ["/sandboxes", "/sandbox-pools", "/platform/v1/secrets"] {
        let method = if path.starts_with("/platform") { "PUT" } else { "POST" };
        let answer = server.ask(method, path).body(large.clone()).send().await;
        answer.refuses(413, "PAYLOAD_TOO_LARGE");
    }
}

#[tokio::test]
async fn a_panic_is_an_answer_and_tells_nothing() {
    let server = Server::start_with(vec![std::sync::Arc::new(|| panic!("the secret is xyzzy"))]);
    let server = server.await;
    let answer = server.ask("GET", "/metrics").send().await;
    answer.refuses(500, "INTERNAL");
    assert!(!answer.text.contains("xyzzy"), "{answer:?}");
    assert_eq!(server.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn every_answer_has_a_request_id_of_its_own() {
    let server = Server::start().await;
    let mut ids = BTreeSet::new();
    for path in ["/healthz", "/sandboxes", "/nothing", "/sandboxes/nobody"] {
        let answer = server.get(path).await;
        let id = answer.headers["x-request-id"].to_str().expect("text").to_owned();
        assert_eq!(id.len(), 16, "{path}");
        assert!(ids.insert(id), "{path}");
    }
}
