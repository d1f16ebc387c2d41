//! SSH keys: registered, listed, removed.

use serde_json::{Value, json};

use crate::server::{Answer, Server};

const PATH: &str = "/platform/v1/users/me/ssh-keys";
const KEY: &str = "ssh-ed25519 \
     AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB";

async fn register(server: &Server, name: &str, key: &str) -> Answer {
    let body = json!({"name": name, "publicKey": key}).to_string();
    server.ask("POST", PATH).body(body).send().await
}

async fn items(server: &Server) -> Value {
    server.get(PATH).await.json()["items"].take()
}

#[tokio::test]
async fn a_key_is_registered_once_listed_and_removed() {
    let server = Server::start().await;
    assert_eq!(items(&server).await, json!([]));
    let made = register(&server, "laptop", &format!("{KEY} me@home")).await;
    assert_eq!(made.status, 200, "{made:?}");
    let made = made.json();
    let id = made["id"].as_str().expect("an id");
    assert!(id.starts_with("ssh_key_"), "{made}");
    let fingerprint = made["fingerprint"].as_str().expect("a fingerprint");
    assert_eq!(fingerprint.len(), "SHA256:".len() + 43, "{made}");
    assert_eq!(
        made,
        json!({"id": id, "name": "laptop", "keyType": "ssh-ed25519", "fingerprint": fingerprint,
            "createdAt": "2023-11-14T22:13:20.000Z"})
    );
    assert_eq!(items(&server).await, json!([made]));
    let again = register(&server, "another name", KEY).await;
    again.refuses(409, "SSH_KEY_EXISTS");
    let text = again.json();
    assert!(text["error"].as_str().is_some_and(|text| text.contains(fingerprint)), "{text}");
    assert_eq!(text["message"], text["error"], "the `tl` CLI shows that");
    assert_eq!(server.ask("DELETE", &format!("{PATH}/{id}")).send().await.text, "{}");
    for missing in [id, "ssh_key_0000000000000000", "laptop"] {
        let answer = server.ask("DELETE", &format!("{PATH}/{missing}")).send().await;
        answer.refuses(404, "NOT_FOUND");
    }
    assert_eq!(register(&server, "laptop", KEY).await.status, 200);
}

#[tokio::test]
async fn a_key_is_of_one_project() {
    let server = Server::start().await;
    let made = register(&server, "laptop", KEY).await.json();
    let other = server.control.key_create("other").await.expect("a key").secret;
    let theirs = server.ask("GET", PATH).key(Some(&other)).send().await;
    assert_eq!(theirs.json(), json!({"items": []}));
    let path = format!("{PATH}/{}", made["id"].as_str().expect("an id"));
    server.ask("DELETE", &path).key(Some(&other)).send().await.refuses(404, "NOT_FOUND");
    let same_project = server.control.key_create("default").await.expect("a key").secret;
    let seen = server.ask("GET", PATH).key(Some(&same_project)).send().await.json();
    assert_eq!(seen, json!({"items": [made]}), "who has a key of the project is the same to us");
}

#[tokio::test]
async fn what_is_no_key_is_refused() {
    let server = Server::start().await;
    for body in [
        "{}".to_owned(),
        json!({"name": "a", "publicKey": "ssh-ed25519 AAAA"}).to_string(),
        json!({"name": "", "publicKey": KEY}).to_string(),
        json!({"name": "a", "publicKey": "-----BEGIN OPENSSH PRIVATE KEY-----"}).to_string(),
    ] {
        let answer = server.ask("POST", PATH).body(body).send().await;
        answer.refuses(400, "INVALID_REQUEST");
    }
    assert_eq!(items(&server).await, json!([]));
    server.ask("GET", PATH).key(None).send().await.refuses(401, "UNAUTHENTICATED");
}
