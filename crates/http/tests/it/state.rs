//! Suspend, resume, snapshots, restore and copies, over a node that does at once what it is told.

use serde_json::{Value, json};

use crate::{node::Manner, server::Server};

/// Asks and returns the status and the answer.
async fn ask(server: &Server, method: &str, path: &str, body: &str) -> (u16, Value) {
    let answer = server.ask(method, path).body(body.to_owned()).send().await;
    (answer.status.as_u16(), answer.json())
}

/// Takes a snapshot of a sandbox, and returns its id.
async fn snapshot(server: &Server, sandbox: &str, kind: &str) -> String {
    let body = json!({"snapshot_type": kind}).to_string();
    let (status, made) =
        ask(server, "POST", &format!("/sandboxes/{sandbox}/snapshot"), &body).await;
    assert_eq!((status, &made["status"]), (202, &json!("in_progress")), "{made}");
    made["snapshot_id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn suspend_and_resume_answer_as_their_table_says() {
    let server = Server::start().await;
    server.create(r#"{"name":"box"}"#).await;
    let unnamed = server.create("{}").await["sandbox_id"].as_str().expect("an id").to_owned();
    let code = |answer: &Value| answer["code"].as_str().map(str::to_owned);
    for (path, status) in [
        ("/sandboxes/box/resume", 200),
        ("/sandboxes/box/suspend?wait_ms=5000", 200),
        ("/sandboxes/box/suspend", 200),
        ("/sandboxes/box/resume?wait_ms=5000", 200),
        ("/sandboxes/box/resume", 200),
    ] {
        assert_eq!(ask(&server, "POST", path, "").await, (status, json!({})), "{path}");
    }
    let (status, refused) =
        ask(&server, "POST", &format!("/sandboxes/{unnamed}/suspend"), "").await;
    assert_eq!((status, code(&refused).as_deref()), (400, Some("SANDBOX_EPHEMERAL")));
    server.ask("DELETE", &format!("/sandboxes/{unnamed}")).send().await;
    for what in ["suspend", "resume"] {
        let path = format!("/sandboxes/{unnamed}/{what}");
        let (status, refused) = ask(&server, "POST", &path, "").await;
        assert_eq!((status, code(&refused).as_deref()), (409, Some("SANDBOX_TERMINATED")));
    }
    server.manner(Manner::Silent);
    server.ask("POST", "/sandboxes").body(r#"{"name":"late","wait":false}"#).send().await;
    let (status, refused) = ask(&server, "POST", "/sandboxes/late/suspend", "").await;
    assert_eq!((status, code(&refused).as_deref()), (400, Some("SANDBOX_NOT_RUNNING")));
    assert_eq!(ask(&server, "POST", "/sandboxes/late/resume", "").await.0, 202);
    assert_eq!(ask(&server, "POST", "/sandboxes/box/suspend?wait_ms=10", "").await.0, 202);
}

#[tokio::test]
async fn a_suspended_sandbox_keeps_its_url() {
    let server = Server::start().await;
    server.create(r#"{"name":"box","auto_resume":false}"#).await;
    ask(&server, "POST", "/sandboxes/box/suspend?wait_ms=5000", "").await;
    let info = server.get("/sandboxes/box").await.json();
    assert_eq!((&info["status"], &info["auto_resume"]), (&json!("suspended"), &json!(false)));
    assert!(info["sandbox_url"].is_string() && info["outcome"].is_null(), "{info}");
    let list = server.get("/sandboxes?status=suspended").await.json();
    assert_eq!(list["sandboxes"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_snapshot_lives_until_it_is_deleted() {
    let server = Server::start().await;
    let sandbox = server.create("{}").await["sandbox_id"].as_str().expect("an id").to_owned();
    let first = snapshot(&server, &sandbox, "filesystem").await;
    server.clock.advance_millis(5);
    let second = snapshot(&server, &sandbox, "memory").await;
    let info = server.get(&format!("/snapshots/{second}")).await.json();
    assert_eq!(
        info,
        json!({"id": second, "namespace": "default", "sandbox_id": sandbox, "status": "completed",
            "snapshot_type": "memory", "base_image": "tensorlake/ubuntu-minimal",
            "size_bytes": 5 << 20, "rootfs_disk_bytes": 10_737_418_240_u64,
            "created_at": 1_700_000_000_005_i64})
    );
    server.ask("DELETE", &format!("/sandboxes/{sandbox}")).send().await;
    for path in ["/snapshots".to_owned(), format!("/sandboxes/{sandbox}/snapshots")] {
        let list = server.get(&path).await.json();
        let ids: Vec<_> =
            list["snapshots"].as_array().expect("a list").iter().map(|s| &s["id"]).collect();
        assert_eq!(ids, [&json!(second), &json!(first)], "newest first");
    }
    assert_eq!(ask(&server, "DELETE", &format!("/snapshots/{first}"), "").await, (200, json!({})));
    server.get(&format!("/snapshots/{first}")).await.refuses(404, "SNAPSHOT_NOT_FOUND");
    let other = server.control.key_create("other").await.expect("a key").secret;
    let path = format!("/snapshots/{second}");
    for method in ["GET", "DELETE"] {
        let answer = server.ask(method, &path).key(Some(&other)).send().await;
        answer.refuses(404, "SNAPSHOT_NOT_FOUND");
    }
    let metrics = server.ask("GET", "/metrics").key(None).send().await.text;
    let taken = "tarn_snapshots_total{outcome=\"taken\"} 2";
    assert!(metrics.lines().any(|line| line == taken), "{metrics}");
}

#[tokio::test]
async fn a_capture_that_fails_says_why() {
    let server = Server::start().await;
    server.create(r#"{"name":"box"}"#).await;
    server.manner(Manner::Failing);
    let id = snapshot(&server, "box", "filesystem").await;
    let info = server.get(&format!("/snapshots/{id}")).await.json();
    assert_eq!((&info["status"], &info["error"]), (&json!("failed"), &json!("the disk is full")));
    assert_eq!(server.get("/sandboxes/box").await.json()["status"], "running");
    let body = json!({"snapshot_id": id}).to_string();
    server.ask("POST", "/sandboxes").body(body).send().await.refuses(400, "SNAPSHOT_NOT_READY");
}

#[tokio::test]
async fn a_restore_takes_only_what_the_matrix_allows() {
    let server = Server::start().await;
    server.create(r#"{"name":"box","resources":{"disk_mb":2048}}"#).await;
    let files = snapshot(&server, "box", "filesystem").await;
    let memory = snapshot(&server, "box", "memory").await;
    let forbidden = Some("SNAPSHOT_OVERRIDE_FORBIDDEN");
    // What is asked beside the snapshot; the codes of the one kind and of the other.
    let table = [
        (json!({}), None, None),
        (json!({"resources": {}}), None, forbidden),
        (json!({"resources": {"cpus": 2}}), None, forbidden),
        (json!({"resources": {"gpus": []}}), None, forbidden),
        (json!({"resources": {"disk_mb": 4096}}), None, forbidden),
        (json!({"resources": {"disk_mb": 1024}}), Some("DISK_SHRINK_FORBIDDEN"), forbidden),
        (json!({"image": "tensorlake/ubuntu-minimal"}), None, forbidden),
        (json!({"entrypoint": ["true"]}), None, forbidden),
        (json!({"entrypoint": []}), None, forbidden),
        (json!({"secret_names": []}), None, forbidden),
        (json!({"secret_names": ["NOBODYS"]}), Some("SECRET_NOT_FOUND"), forbidden),
        (json!({"resources": null, "image": null, "entrypoint": null}), None, None),
        (json!({"timeout_secs": 5, "exposed_ports": [80]}), None, None),
        (json!({"network": {"allow_internet_access": false}, "file_systems": []}), None, None),
        (json!({"name": "other", "auto_resume": false}), None, None),
    ];
    for (fields, of_files, of_memory) in table {
        for (snapshot, expected) in [(&files, of_files), (&memory, of_memory)] {
            let mut body = fields.clone();
            body["snapshot_id"] = json!(snapshot);
            let (status, answer) = ask(&server, "POST", "/sandboxes", &body.to_string()).await;
            assert_eq!(answer["code"].as_str(), expected, "{body}: {answer}");
            if expected.is_some() {
                assert_eq!(status, 400, "{body}: {answer}");
                continue;
            }
            assert_eq!((status, &answer["status"]), (200, &json!("running")), "{body}: {answer}");
            let id = answer["sandbox_id"].as_str().expect("an id");
            server.ask("DELETE", &format!("/sandboxes/{id}")).send().await;
        }
    }
    let body = json!({"snapshot_id": files}).to_string();
    let (_, made) = ask(&server, "POST", "/sandboxes", &body).await;
    let path = format!("/sandboxes/{}", made["sandbox_id"].as_str().expect("an id"));
    let info = server.get(&path).await.json();
    assert_eq!(info["resources"]["disk_mb"], 2048);
}

#[tokio::test]
async fn copies_answer_each_for_itself() {
    let server = Server::start().await;
    server.create(r#"{"name":"box"}"#).await;
    let (status, copied) = ask(&server, "POST", "/sandboxes/box/copy?times=3", "").await;
    assert_eq!(status, 200, "{copied}");
    let source = server.get("/sandboxes/box").await.json()["id"].clone();
    assert_eq!(copied["source_sandbox_id"], source);
    let copies = copied["sandboxes"].as_array().expect("a list");
    assert_eq!(copies.len(), 3);
    for copy in copies {
        assert_eq!((&copy["status"], &copy["name"]), (&json!("running"), &Value::Null), "{copy}");
        assert!(copy["sandbox_url"].is_string() && copy["sandbox_id"] != source, "{copy}");
    }
    assert_eq!(server.get("/snapshots").await.json()["snapshots"], json!([]), "none shows");
}

#[tokio::test]
async fn the_administrator_reaches_every_project() {
    let server = Server::start().await;
    let other = server.control.key_create("other").await.expect("a key").secret;
    server.ask("POST", "/sandboxes").key(Some(&other)).body(r#"{"name":"theirs"}"#).send().await;
    let admin = |method: &'static str, path: String| server.ask(method, &path).send_admin();
    let found = admin("GET", "/tarn/v1/sandboxes/theirs".to_owned()).await.json();
    assert_eq!((&found["project_name"], &found["status"]), (&json!("other"), &json!("running")));
    let begun = admin("POST", "/tarn/v1/sandboxes/theirs/snapshot".to_owned()).await.json();
    let snapshot = begun["snapshot_id"].as_str().expect("an id").to_owned();
    let list = admin("GET", "/tarn/v1/snapshots".to_owned()).await.json();
    assert_eq!(list["snapshots"][0]["id"], json!(snapshot));
    assert_eq!(list["snapshots"][0]["namespace"], "other");
    let path = format!("/tarn/v1/snapshots/{snapshot}");
    assert_eq!(admin("GET", path.clone()).await.json()["snapshot_type"], "filesystem");
    for (what, status) in [("suspend?wait_ms=5000", 200), ("resume?wait_ms=5000", 200)] {
        let answer = admin("POST", format!("/tarn/v1/sandboxes/theirs/{what}")).await;
        assert_eq!(answer.status.as_u16(), status, "{what}: {answer:?}");
    }
    let copied = admin("POST", "/tarn/v1/sandboxes/theirs/copy?times=2".to_owned()).await.json();
    assert_eq!(copied["sandboxes"].as_array().map(Vec::len), Some(2), "{copied}");
    let verdict = admin("POST", format!("{path}/verify")).await.json();
    let sound = json!({"snapshot_id": snapshot, "ok": true, "bytes_read": 5 << 20});
    assert_eq!(verdict, sound);
    server.manner(Manner::Failing);
    let verdict = admin("POST", format!("{path}/verify")).await.json();
    assert_eq!((&verdict["ok"], &verdict["bytes_read"]), (&json!(false), &Value::Null));
    assert_eq!(verdict["damage"], "layer.img has changed");
    let shown = admin("GET", path.clone()).await.json();
    assert_eq!(
        (&shown["status"], &shown["error"]),
        (&json!("failed"), &json!("damaged: layer.img has changed"))
    );
    let body = json!({"snapshot_id": snapshot}).to_string();
    let refused = server.ask("POST", "/sandboxes").key(Some(&other)).body(body).send().await;
    refused.refuses(400, "SNAPSHOT_NOT_READY");
    server.manner(Manner::Prompt);
    assert_eq!(admin("DELETE", path.clone()).await.status, 200);
    admin("GET", path).await.refuses(404, "SNAPSHOT_NOT_FOUND");
    admin("GET", "/tarn/v1/sandboxes/nobody".to_owned()).await.refuses(404, "SANDBOX_NOT_FOUND");
    server.create(r#"{"name":"theirs"}"#).await;
    let twice = admin("POST", "/tarn/v1/sandboxes/theirs/suspend".to_owned()).await;
    twice.refuses(400, "INVALID_REQUEST");
}
