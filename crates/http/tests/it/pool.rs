//! Pools as a client meets them.

use serde_json::{Value, json};

use crate::server::Server;

const POOL: &str = r#"{"image":"tensorlake/ubuntu-minimal","warm_containers":1,"max_containers":2,
    "resources":{"cpus":1.0,"memory_mb":1024,"ephemeral_disk_mb":2048},"timeout_secs":30,
    "network":{"allow_internet_access":false,"allow_out":[],"deny_out":["192.0.2.1"]}}"#;

async fn make(server: &Server) -> String {
    let made = server.ask("POST", "/v1/namespaces/default/sandbox-pools").body(POOL).send().await;
    assert_eq!(made.status, 200, "{made:?}");
    let id = made.json()["pool_id"].as_str().expect("an id").to_owned();
    assert_eq!(made.json(), json!({"pool_id": id, "namespace": "default"}));
    id
}

/// Waits until the containers of a pool have these states, in the order of their age.
async fn until(server: &Server, pool: &str, states: &[&str]) -> Value {
    let level = async {
        loop {
            let info = server.get(&format!("/sandbox-pools/{pool}")).await.json();
            let containers = info["containers"].as_array().expect("a list");
            if containers.iter().map(|each| &each["state"]).eq(states) {
                return info;
            }
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), level).await;
    assert!(waited.is_ok(), "its containers never were {states:?}");
    waited.unwrap_or_default()
}

#[tokio::test]
async fn a_pool_is_made_claimed_from_changed_and_deleted() {
    let server = Server::start().await;
    let id = make(&server).await;
    let info = until(&server, &id, &["Idle"]).await;
    assert_eq!(info["pool_id"], json!(id));
    assert_eq!(info.get("id"), None, "the clients hold both for a duplicate");
    assert_eq!((&info["resources"]["disk_mb"], &info["timeout_secs"]), (&json!(2048), &json!(30)));
    let container = info["containers"][0].clone();
    assert_eq!(container["sandbox_id"], Value::Null);
    assert!(container["executor_id"].is_string());

    let claim = format!("/sandbox-pools/{id}/sandboxes");
    let claimed = server.ask("POST", &claim).send().await.json();
    assert_eq!(claimed["status"], "running");
    assert!(claimed["sandbox_url"].is_string(), "{claimed}");
    let sandbox = claimed["sandbox_id"].as_str().expect("an id");
    let info = server.get(&format!("/sandboxes/{sandbox}")).await.json();
    assert_eq!((&info["pool_id"], &info["container_id"]), (&json!(id), &container["id"]));
    assert_eq!((&info["timeout_secs"], &info["name"]), (&json!(30), &Value::Null));
    assert_eq!(info["network_policy"]["deny_out"], json!(["192.0.2.1"]));
    until(&server, &id, &["Running", "Idle"]).await;

    let listed = server.get("/sandbox-pools").await.json();
    assert_eq!(listed["pools"][0]["pool_id"], json!(id));
    assert_eq!(listed["pools"][0].get("containers"), None);
    let path = format!("/sandbox-pools/{id}");
    let put = |body: &'static str| server.ask("PUT", &path).body(body).send();
    let kept = put(r#"{"image":"tensorlake/ubuntu-minimal"}"#).await.json();
    assert_eq!((&kept["warm_containers"], &kept["max_containers"]), (&Value::Null, &Value::Null));
    assert_eq!(kept["network_policy"], info["network_policy"], "left out");
    let cleared = put(r#"{"image":"tensorlake/ubuntu-minimal","network":null}"#).await.json();
    assert_eq!(cleared["network_policy"], Value::Null);

    server.ask("DELETE", &path).send().await.refuses(409, "POOL_IN_USE");
    let ended = server.ask("DELETE", &format!("/sandboxes/{sandbox}")).send().await;
    assert_eq!(ended.status, 200);
    assert_eq!(server.ask("DELETE", &path).send().await.text, "{}");
    for (method, path) in [("GET", &path), ("PUT", &path), ("DELETE", &path), ("POST", &claim)] {
        let gone = server.ask(method, path).body(POOL).send().await;
        gone.refuses(404, "POOL_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_claim_with_file_systems_changes_nothing() {
    let server = Server::start().await;
    let id = make(&server).await;
    let claim = format!("/sandbox-pools/{id}/sandboxes");
    let body = r#"{"file_systems":[{"file_system_id":"fs","mount_path":"/data"}]}"#;
    server.ask("POST", &claim).body(body).send().await.refuses(400, "NOT_SUPPORTED");
    assert_eq!(server.get("/sandboxes").await.json()["sandboxes"], json!([]));
    let fine = server.ask("POST", &claim).body(r#"{"file_systems":[]}"#).send().await;
    assert_eq!(fine.json()["status"], "running");
}
