//! The administrative router.

use std::time::Duration;

use serde_json::{Value, json};
use tarn_node_api::Unfound;
use tarn_task::Clock as _;
use tarn_types::{
    DenialReason, NetworkCounters, NetworkEntry, NetworkLog, NetworkLost, NetworkProtocol,
    NetworkVerdict, SandboxId, UnixMillis,
};

use crate::{node::Manner, server::Server};

#[tokio::test]
async fn a_key_is_made_listed_and_revoked() {
    let server = Server::start().await;
    let made = server.ask("POST", "/tarn/v1/keys").body(r#"{"project":"team"}"#).send_admin().await;
    let made = made.json();
    let key = made["key"].as_str().expect("a key");
    assert_eq!(server.ask("GET", "/sandboxes").key(Some(key)).send().await.status, 200);
    let list = server.ask("GET", "/tarn/v1/keys").send_admin().await;
    assert!(!list.text.contains(key), "a list shows no secrets");
    let entries = list.json()["keys"].as_array().expect("a list").clone();
    let entry = entries.iter().find(|entry| entry["id"] == made["id"]).expect("the key");
    assert_eq!((&entry["project_name"], &entry["revoked_at"]), (&json!("team"), &Value::Null));
    let path = format!("/tarn/v1/keys/{}", made["id"].as_str().expect("an id"));
    for _ in 0..2 {
        assert_eq!(server.ask("DELETE", &path).send_admin().await.status, 200);
    }
    let refused = server.ask("GET", "/sandboxes").key(Some(key)).send().await;
    refused.refuses(401, "UNAUTHENTICATED");
    assert_eq!(server.get("/sandboxes").await.status, 200, "other keys are untouched");
}

#[tokio::test]
async fn a_key_that_names_no_project_opens_the_default_one() {
    let server = Server::start().await;
    server.create(r#"{"name":"box"}"#).await;
    let made = server.ask("POST", "/tarn/v1/keys").send_admin().await.json();
    let ask = server.ask("GET", "/sandboxes/box").key(made["key"].as_str());
    assert_eq!(ask.send().await.status, 200);
}

#[tokio::test]
async fn bad_administrative_requests_are_refused() {
    let server = Server::start().await;
    for (method, path, body, status, code) in [
        ("POST", "/tarn/v1/keys", r#"{"project":5}"#, 400, "INVALID_REQUEST"),
        ("POST", "/tarn/v1/keys", r#"{"project":"a b"}"#, 400, "INVALID_REQUEST"),
        ("POST", "/tarn/v1/keys", r#"{"project":""}"#, 400, "INVALID_REQUEST"),
        ("POST", "/tarn/v1/keys", "[", 400, "INVALID_REQUEST"),
        ("DELETE", "/tarn/v1/keys/nothing", "", 404, "NOT_FOUND"),
        ("DELETE", "/tarn/v1/keys/key_0000000000000000", "", 404, "NOT_FOUND"),
        ("PUT", "/tarn/v1/keys", "", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/sandboxes", "", 404, "NOT_FOUND"),
    ] {
        let answer = server.ask(method, path).body(body).send_admin().await;
        answer.refuses(status, code);
    }
}

#[tokio::test]
async fn sandboxes_of_all_projects_and_orphans_are_listed() {
    let server = Server::start().await;
    let other = server.control.key_create("other").await.expect("a key").secret;
    server.create(r#"{"name":"mine"}"#).await;
    server.ask("POST", "/sandboxes").key(Some(&other)).body(r#"{"name":"theirs"}"#).send().await;
    let list = server.ask("GET", "/tarn/v1/sandboxes").send_admin().await.json();
    let mut seen: Vec<_> = list["sandboxes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| {
            (entry["name"].clone(), entry["project_name"].clone(), entry["status"].clone())
        })
        .collect();
    seen.sort_by_key(|(name, ..)| name.to_string());
    let row = |name: &str, project: &str| (json!(name), json!(project), json!("running"));
    assert_eq!(seen, [row("mine", "default"), row("theirs", "other")]);

    let orphan = SandboxId::from_random([9; 21]);
    server.node.orphans.lock().push(orphan.clone());
    let lost = SandboxId::from_random([8; 21]);
    let trouble = "network slot 3 is gone".to_owned();
    server.node.unfound.lock().push(Unfound { id: lost.clone(), trouble });
    let orphans = server.ask("GET", "/tarn/v1/orphans").send_admin().await.json();
    let unfound = json!([{"id": lost.to_string(), "trouble": "network slot 3 is gone"}]);
    assert_eq!(orphans, json!({"orphans": [orphan.to_string()], "unfound": unfound}));
}

#[tokio::test]
async fn what_the_object_store_did_not_take_shows() {
    let server = Server::start().await;
    let none = server.ask("GET", "/tarn/v1/transfers").send_admin().await.json();
    assert_eq!(none, json!({"transfers": [], "troubles": []}));
    *server.node.archive.lock() = Some(Manner::Failing);
    server.create(r#"{"name":"box"}"#).await;
    let begun = server.ask("POST", "/sandboxes/box/snapshot").send().await.json();
    let id = begun["snapshot_id"].as_str().expect("an id").to_owned();
    let list = until("the failure", async || {
        let list = server.ask("GET", "/tarn/v1/transfers").send_admin().await.json();
        (list["troubles"] != json!([])).then_some(list)
    })
    .await;
    let fetch = json!({
        "snapshot_id": "snap_6666666666666666", "direction": "fetch", "state": "active",
        "done_bytes": 1 << 20, "total_bytes": 4 << 20,
    });
    let trouble = json!({
        "snapshot_id": id, "attempt": "upload", "failures": 1, "error": "the bucket is gone",
    });
    let expected =
        json!({"object_store": "sim://bucket", "transfers": [fetch], "troubles": [trouble]});
    assert_eq!(list, expected);
    assert_eq!(server.get(&format!("/snapshots/{id}")).await.json()["status"], "local_ready");

    *server.node.archive.lock() = Some(Manner::Prompt);
    let info = until("the upload", async || {
        let info = server.get(&format!("/snapshots/{id}")).await.json();
        (info["status"] == "completed").then_some(info)
    })
    .await;
    assert_eq!(info["snapshot_uri"], format!("sim://bucket/{id}"));
}

async fn until(what: &str, look: impl AsyncFn() -> Option<Value>) -> Value {
    let found = async {
        loop {
            if let Some(found) = look().await {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found).await.expect(what)
}

#[tokio::test]
async fn a_network_log_is_shown_in_part_or_there_is_none() {
    let server = Server::start().await;
    let made = server.create("{}").await;
    let id = made["sandbox_id"].as_str().expect("an id");
    let get = async |query: &str| {
        server.ask("GET", &format!("/tarn/v1/sandboxes/{id}/network{query}")).send_admin().await
    };
    get("").await.refuses(400, "SANDBOX_NOT_RUNNING");
    let entry = |last, verdict| NetworkEntry {
        first: UnixMillis(last),
        last: UnixMillis(last),
        name: None,
        address: Some([203, 0, 113, 7].into()),
        port: Some(443),
        protocol: NetworkProtocol::Tcp,
        verdict,
        count: 1,
        open: 0,
        sent: 0,
        received: 0,
    };
    let now = server.clock.now().0;
    let denied = NetworkVerdict::Denied(DenialReason::NotInAllowOut);
    let entries = vec![
        entry(now - 9_000, denied),
        entry(now - 1_000, NetworkVerdict::Allowed),
        entry(now, denied),
    ];
    *server.node.network.lock() = Some(NetworkLog {
        since: UnixMillis(1),
        until: None,
        entries,
        counters: NetworkCounters { denied_packets: 7, ..NetworkCounters::default() },
        lost: NetworkLost::default(),
    });
    for (query, count) in
        [("", 3), ("?denied=true", 2), ("?since_secs=5", 2), ("?denied=true&since_secs=5", 1)]
    {
        let shown = get(query).await.json();
        assert_eq!(shown["entries"].as_array().map(Vec::len), Some(count), "{query}: {shown}");
        assert_eq!(shown["counters"]["packets_denied"], 7, "the sums are of all");
    }
    let shown = get("?denied=true").await.json();
    assert_eq!(shown["entries"][0]["advice"], "add `203.0.113.7:443` to `allow_out`");
    get("?since_secs=1h").await.refuses(400, "INVALID_REQUEST");
    *server.node.network.lock() = None;
    assert_eq!(server.ask("DELETE", &format!("/sandboxes/{id}")).send().await.status, 200);
    get("").await.refuses(409, "SANDBOX_TERMINATED");
    let public = server.get(&format!("/tarn/v1/sandboxes/{id}/network")).await;
    public.refuses(404, "NOT_FOUND");
}
