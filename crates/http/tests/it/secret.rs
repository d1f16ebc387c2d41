//! Secrets: set, listed, deleted, never shown; and sandboxes that name them.

use serde_json::{Value, json};
use tarn_node_api::SecretSource as _;
use tarn_types::{SandboxId, SandboxRef, SecretName};

use crate::server::Server;

const FLAT: &str = "/platform/v1/secrets";
/// What no answer may hold.
const VALUE: &str = "hush-715517";

fn one(name: &str) -> String {
    json!({"name": name, "value": VALUE}).to_string()
}

async fn put(server: &Server, body: String) -> Value {
    let answer = server.ask("PUT", FLAT).body(body).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!answer.text.contains(VALUE), "{answer:?}");
    answer.json()
}

/// Returns what a node that boots a sandbox of the project would get.
async fn revealed(server: &Server, names: &[&str]) -> Vec<(String, String)> {
    let project = server.control.authenticate(&server.key).await.expect("a key").project;
    let names: Vec<SecretName> = names.iter().map(|name| name.parse().expect("good")).collect();
    let revealed = server.control.reveal(&project, &names).await.expect("they open");
    let text = |(name, value): (SecretName, tarn_types::SecretValue)| {
        (name.to_string(), value.reveal().to_owned())
    };
    revealed.into_iter().map(text).collect()
}

#[tokio::test]
async fn a_secret_is_set_listed_fetched_and_deleted() {
    let server = Server::start().await;
    let identity = server.ask("POST", "/platform/v1/keys/introspect").send().await.json();
    let project = identity["projectId"].as_str().expect("an id");
    let scoped = format!("/platform/v1/organizations/org_local/projects/{project}/secrets");
    let made = put(&server, one("API_KEY")).await;
    let id = made["id"].as_str().expect("an id");
    assert!(id.starts_with("secret_"), "{made}");
    assert_eq!(made, json!({"id": id, "name": "API_KEY", "createdAt": "2023-11-14T22:13:20.000Z"}));
    for family in [FLAT, &scoped] {
        let list = server.get(&format!("{family}?pageSize=100")).await;
        assert!(!list.text.contains(VALUE), "{list:?}");
        assert_eq!(list.json(), json!({"items": [made], "pagination": {"total": 1}}));
        assert_eq!(server.get(&format!("{family}/{id}")).await.json(), made);
    }
    let body = json!([{"name": "API_KEY", "value": "2"}, {"name": "B", "value": ""}]);
    let again = put(&server, body.to_string()).await;
    assert_eq!(again[0], made, "it keeps its id");
    assert_eq!(again[1]["name"], "B");
    assert_eq!(put(&server, "[]".to_owned()).await, json!([]));
    let expected = [("API_KEY", "2"), ("B", "")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(revealed(&server, &["B", "API_KEY", "NO"]).await, expected);
    let path = format!("{scoped}/{id}");
    assert_eq!(server.ask("DELETE", &path).send().await.text, "{}");
    for (method, path) in
        [("GET", path.as_str()), ("DELETE", &path), ("GET", "/platform/v1/secrets/x")]
    {
        let gone = server.ask(method, path).send().await;
        gone.refuses(404, "SECRET_NOT_FOUND");
        assert_eq!(gone.json()["message"], gone.json()["error"], "the tl command line shows it");
    }
    assert_eq!(server.get(FLAT).await.json()["items"][0]["name"], "B");
}

#[tokio::test]
async fn a_list_is_set_whole_or_not_at_all() {
    let server = Server::start().await;
    for (body, code) in [
        (json!([{"name": "A", "value": VALUE}, {"name": "1B", "value": "x"}]), "INVALID_REQUEST"),
        (json!([{"name": "A", "value": VALUE}, {"name": "B", "value": 7}]), "INVALID_REQUEST"),
        (json!([{"name": "A", "value": VALUE}, {"name": "B", "value": "\0"}]), "INVALID_REQUEST"),
        (json!([{"name": "A", "value": VALUE}, {"name": "A", "value": "x"}]), "INVALID_REQUEST"),
        (json!([{"name": "A", "value": "x".repeat(65_537)}]), "LIMIT_EXCEEDED"),
        (json!({"value": VALUE}), "INVALID_REQUEST"),
        (json!(VALUE), "INVALID_REQUEST"),
    ] {
        let refused = server.ask("PUT", FLAT).body(body.to_string()).send().await;
        refused.refuses(400, code);
        assert!(!refused.text.contains(VALUE), "{refused:?}");
    }
    assert_eq!(server.get(FLAT).await.json()["pagination"], json!({"total": 0}));
    let longest = json!({"name": "A".repeat(128), "value": "x".repeat(65_536)});
    put(&server, longest.to_string()).await;
}

#[tokio::test]
async fn another_project_has_its_own() {
    let server = Server::start().await;
    let other = server.control.key_create("other").await.expect("a key").secret;
    let mine = put(&server, one("A")).await;
    let id = mine["id"].as_str().expect("an id");
    let path = format!("{FLAT}/{id}");
    for method in ["GET", "DELETE"] {
        let ask = server.ask(method, &path).key(Some(&other));
        ask.send().await.refuses(404, "SECRET_NOT_FOUND");
    }
    let theirs = server.ask("GET", FLAT).key(Some(&other)).send().await.json();
    assert_eq!(theirs["items"], json!([]));
    let ask = server.ask("POST", "/sandboxes").body(r#"{"secret_names":["A"]}"#).key(Some(&other));
    ask.send().await.refuses(400, "SECRET_NOT_FOUND");
}

#[tokio::test]
async fn a_sandbox_is_told_the_names_alone() {
    let server = Server::start().await;
    put(&server, one("A")).await;
    let unknown = server.ask("POST", "/sandboxes").body(r#"{"secret_names":["A","B"]}"#);
    let unknown = unknown.send().await;
    unknown.refuses(400, "SECRET_NOT_FOUND");
    let said = unknown.json()["error"].as_str().expect("text").to_owned();
    assert!(said.contains("`B`") && !said.contains("`A`"), "{said}");
    let made = server.create(r#"{"secret_names":["A","A"]}"#).await;
    let id: SandboxId = made["sandbox_id"].as_str().expect("an id").parse().expect("an id");
    let project = server.control.authenticate(&server.key).await.expect("a key").project;
    let view = server.control.sandbox_fetch(&project, &SandboxRef::Id(id)).await.expect("there");
    assert_eq!(view.record.launch().secret_names, ["A".parse().expect("a name")]);
    assert!(!format!("{view:?}").contains(VALUE));
}

#[tokio::test]
async fn what_is_too_much_for_one_sandbox_is_refused() {
    let server = Server::start().await;
    let names: Vec<String> = (0..9).map(|number| format!("S{number}")).collect();
    for half in names.chunks(5) {
        let secrets = half.iter().map(|name| json!({"name": name, "value": "x".repeat(65_536)}));
        put(&server, Value::Array(secrets.collect()).to_string()).await;
    }
    let create = |count: usize| {
        let body = json!({"secret_names": names[..count]}).to_string();
        server.ask("POST", "/sandboxes").body(body).send()
    };
    create(9).await.refuses(400, "LIMIT_EXCEEDED");
    assert_eq!(create(7).await.status, 200);
}

#[tokio::test]
async fn the_key_is_replaced_and_everything_still_opens() {
    let server = Server::start().await;
    put(&server, one("A")).await;
    for round in 1..=2 {
        let done = server.ask("POST", "/tarn/v1/secrets/key/rotate").send_admin().await;
        assert_eq!((done.status.as_u16(), done.json()), (200, json!({"projects": 1})), "{round}");
        assert_eq!(revealed(&server, &["A"]).await, [("A".to_owned(), VALUE.to_owned())]);
    }
    put(&server, json!({"name": "B", "value": "b"}).to_string()).await;
    assert_eq!(revealed(&server, &["B"]).await, [("B".to_owned(), "b".to_owned())]);
}

#[tokio::test]
async fn the_operator_sets_lists_and_deletes() {
    let server = Server::start().await;
    let body = json!({"project": "default", "name": "A", "value": VALUE}).to_string();
    let set = server.ask("PUT", "/tarn/v1/secrets").body(body).send_admin().await;
    assert_eq!(set.status, 200, "{set:?}");
    let list = server.ask("GET", "/tarn/v1/secrets").send_admin().await;
    assert_eq!(list.json(), set.json());
    assert!(!list.text.contains(VALUE), "{list:?}");
    let secret = &list.json()["secrets"][0];
    assert_eq!((&secret["name"], &secret["project_name"]), (&json!("A"), &json!("default")));
    let path = format!("/tarn/v1/secrets/{}", secret["id"].as_str().expect("an id"));
    assert_eq!(server.ask("DELETE", &path).send_admin().await.status, 200);
    server.ask("DELETE", &path).send_admin().await.refuses(404, "SECRET_NOT_FOUND");
    let nobodys = json!({"project": "no", "name": "A", "value": ""}).to_string();
    let refused = server.ask("PUT", "/tarn/v1/secrets").body(nobodys).send_admin().await;
    refused.refuses(404, "NOT_FOUND");
    // No key opens these.
    server.get("/tarn/v1/secrets").await.refuses(404, "NOT_FOUND");
}
