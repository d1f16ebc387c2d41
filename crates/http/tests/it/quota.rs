//! Quotas and rate limits, as a caller and an administrator see them.

use std::time::Duration;

use serde_json::json;
use tarn_http::RateLimit;

use crate::server::Server;

#[tokio::test]
async fn a_quota_is_set_shown_and_kept_to() {
    let server = Server::start().await;
    let body = r#"{"project":"default","sandboxes":1}"#;
    let set = server.ask("PUT", "/tarn/v1/quotas").body(body).send_admin().await.json();
    let id = set["id"].as_str().expect("an id");
    assert_eq!(
        set,
        json!({"id": id, "name": "default", "created_at": 1_700_000_000_000_i64, "sandboxes": 0,
            "quota": 1, "is_default": false})
    );
    server.create(r#"{"name":"box"}"#).await;
    let create = || server.ask("POST", "/sandboxes").body("{}").send();
    let refused = create().await;
    refused.refuses(429, "QUOTA_EXCEEDED");
    assert!(!refused.headers.contains_key("retry-after"), "time alone changes nothing");
    let copy = server.ask("POST", "/sandboxes/box/copy?times=1").send().await;
    copy.refuses(429, "QUOTA_EXCEEDED");
    let list = server.ask("GET", "/tarn/v1/projects").send_admin().await.json();
    assert_eq!(
        (&list["projects"][0]["sandboxes"], &list["projects"][0]["id"]),
        (&json!(1), &json!(id))
    );
    let back = r#"{"project":"default","sandboxes":null}"#;
    let set = server.ask("PUT", "/tarn/v1/quotas").body(back).send_admin().await.json();
    assert_eq!((&set["quota"], &set["is_default"]), (&json!(0), &json!(true)));
    assert_eq!(create().await.status, 200);
    for (body, status, code) in [
        (r#"{"project":"nobody","sandboxes":1}"#, 404, "NOT_FOUND"),
        (r#"{"sandboxes":1}"#, 400, "INVALID_REQUEST"),
        (r#"{"project":"default","sandboxes":"1"}"#, 400, "INVALID_REQUEST"),
    ] {
        server.ask("PUT", "/tarn/v1/quotas").body(body).send_admin().await.refuses(status, code);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_sends_too_much_is_told_when_to_go_on() {
    let limit = RateLimit { per_sec: 1, burst: 3 };
    let server = Server::start_as(Vec::new(), Some(limit)).await;
    let other = server.control.key_create("default").await.expect("a key").secret;
    for path in ["/sandboxes", "/nowhere", "/sandboxes/nobody"] {
        assert_ne!(server.get(path).await.status, 429);
    }
    let refused = server.ask("POST", "/platform/v1/keys/introspect").send().await;
    refused.refuses(429, "RATE_LIMITED");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.json()["message"], refused.json()["error"]);
    let theirs = server.ask("GET", "/sandboxes").key(Some(&other)).send().await;
    assert_eq!(theirs.status, 200, "each key has its own");
    let unknown = server.ask("GET", "/sandboxes").key(Some("tl_apiKey_x")).send().await;
    unknown.refuses(401, "UNAUTHENTICATED");
    assert_eq!(server.ask("GET", "/healthz").key(None).send().await.status, 200);
    assert_eq!(server.ask("GET", "/tarn/v1/keys").send_admin().await.status, 200);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(server.get("/sandboxes").await.status, 200);
    server.get("/sandboxes").await.refuses(429, "RATE_LIMITED");
}

#[tokio::test]
async fn an_administrator_lists_the_archive_too() {
    let server = Server::start().await;
    server.create(r#"{"name":"old"}"#).await;
    assert_eq!(server.ask("DELETE", "/sandboxes/old").send().await.status, 200);
    server.create(r#"{"name":"new"}"#).await;
    server.clock.advance_millis(24 * 3_600_000);
    let names = async |query: &str| {
        let list = server.ask("GET", &format!("/tarn/v1/sandboxes{query}")).send_admin().await;
        let list = list.json()["sandboxes"].as_array().expect("a list").clone();
        list.iter()
            .map(|entry| entry["name"].as_str().unwrap_or("-").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("").await, ["new"]);
    assert_eq!(names("?archived=false").await, ["new"]);
    assert_eq!(names("?archived=true").await, ["old"]);
    let bad = server.ask("GET", "/tarn/v1/sandboxes?archived=yes").send_admin().await;
    bad.refuses(400, "INVALID_REQUEST");
}
