//! Sandboxes as a client meets them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{node::Manner, server::Server};

const NAMESPACED: &str = "/v1/namespaces/default/sandboxes";

#[tokio::test]
async fn the_least_worked_example_of_the_spec_works() {
    let server = Server::start().await;
    let created = server
        .ask("POST", NAMESPACED)
        .header("x-tensorlake-request-timeout-ms", "300000")
        .header("x-tensorlake-request-timeout-grace-ms", "5000")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .body(r#"{"resources":{"cpus":1.0,"memory_mb":1024}}"#)
        .send()
        .await;
    assert_eq!(created.status, 200, "{created:?}");
    let id = created.json()["sandbox_id"].as_str().expect("an id").to_owned();
    assert_eq!(
        created.json(),
        json!({"sandbox_id": id, "status": "running", "name": null,
            "sandbox_url": "http://127.0.0.1:9443", "ingress_endpoint": "http://localhost:9443"})
    );
    let info = server.get(&format!("{NAMESPACED}/{id}")).await;
    assert_eq!(info.json()["id"], json!(id));
    assert_eq!(info.json()["status"], "running");
    assert_eq!(info.json()["namespace"], "default");
    assert_eq!(info.json().get("sandbox_id"), None);
    let deleted = server.ask("DELETE", &format!("{NAMESPACED}/{id}")).send().await;
    assert_eq!((deleted.status.as_u16(), deleted.text.as_str()), (200, "{}"));
    let ended = server.get(&format!("{NAMESPACED}/{id}")).await.json();
    assert_eq!(ended["status"], "terminated");
    assert_eq!(ended["outcome"], "Success(UserTerminated)");
    assert_eq!(ended.get("sandbox_url"), None);
    let again = server.ask("DELETE", &format!("{NAMESPACED}/{id}")).send().await;
    assert_eq!(again.status, 200);
}

#[tokio::test]
async fn a_name_finds_only_a_live_sandbox() {
    let server = Server::start().await;
    let id = server.create(r#"{"name":"box"}"#).await["sandbox_id"].clone();
    assert_eq!(server.get("/sandboxes/box").await.json()["id"], id);
    let taken = server.ask("POST", "/sandboxes").body(r#"{"name":"box"}"#).send().await;
    taken.refuses(409, "SANDBOX_NAME_TAKEN");
    assert_eq!(server.ask("DELETE", "/sandboxes/box").send().await.status, 200);
    server.get("/sandboxes/box").await.refuses(404, "SANDBOX_NOT_FOUND");
    let by_id = format!("/sandboxes/{}", id.as_str().expect("an id"));
    assert_eq!(server.get(&by_id).await.json()["status"], "terminated");
    server
        .ask("PATCH", &by_id)
        .body(r#"{"name":"other"}"#)
        .send()
        .await
        .refuses(409, "SANDBOX_TERMINATED");
    assert_eq!(server.create(r#"{"name":"box"}"#).await["status"], "running");
}

#[tokio::test]
async fn a_start_that_fails_is_an_answer_with_its_reason() {
    let server = Server::start().await;
    server.manner(Manner::Failing);
    let created = server.ask("POST", "/sandboxes").body(r#"{"entrypoint":["nope"]}"#).send().await;
    assert_eq!(created.status, 200);
    let body = created.json();
    assert_eq!(body["status"], "terminated");
    assert_eq!(body["termination_reason"], "ConfigurationError");
    let message = body["error_details"]["message"].as_str().expect("a text");
    assert!(message.contains("nope"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_create_is_held_as_long_as_the_caller_said() {
    let server = Server::start().await;
    server.manner(Manner::Silent);
    for (budget, expected) in [(Some("8000"), 6), (Some("300000"), 295), (None, 30)] {
        let mut ask = server.ask("POST", "/sandboxes").body("{}");
        if let Some(budget) = budget {
            ask = ask.header("x-tensorlake-request-timeout-ms", budget);
        }
        let started = tokio::time::Instant::now();
        let answer = ask.send().await;
        assert_eq!(started.elapsed().as_secs(), expected);
        assert_eq!((answer.status.as_u16(), &answer.json()["status"]), (200, &json!("pending")));
        assert_eq!(answer.json()["pending_reason"], "waiting_for_container");
        assert_eq!(answer.json().get("sandbox_url"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn without_waiting_the_answer_is_202_at_once() {
    let server = Server::start().await;
    server.manner(Manner::Silent);
    let started = tokio::time::Instant::now();
    let answer = server.ask("POST", "/sandboxes").body(r#"{"wait":false}"#).send().await;
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!((answer.status.as_u16(), &answer.json()["status"]), (202, &json!("pending")));
    let id = answer.json()["sandbox_id"].as_str().expect("an id").to_owned();
    assert_eq!(server.get(&format!("/sandboxes/{id}")).await.json()["status"], "pending");
}

#[tokio::test(start_paused = true)]
async fn a_create_goes_on_when_the_caller_hangs_up() {
    let server = Server::start().await;
    server.manner(Manner::Silent);
    let held = server.ask("POST", "/sandboxes").body(r#"{"name":"box"}"#).send();
    assert!(tokio::time::timeout(Duration::from_secs(1), held).await.is_err(), "it is held");
    assert_eq!(server.get("/sandboxes/box").await.json()["status"], "pending");
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_shows_it() {
    let server = Server::start().await;
    let id = server.create("").await["sandbox_id"].as_str().expect("an id").to_owned();
    let path = format!("/sandboxes/{id}");
    let patch = async |body: &'static str| {
        let answer = server.ask("PATCH", &path).body(body).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let ports = patch(r#"{"allow_unauthenticated_access":true,"exposed_ports":[9000,80]}"#).await;
    assert_eq!(
        (&ports["exposed_ports"], &ports["network_policy"]),
        (&json!([80, 9000]), &Value::Null)
    );
    let closed = patch(r#"{"network":{"allow_internet_access":false}}"#).await;
    assert_eq!(
        closed["network_policy"],
        json!({"allow_internet_access": false, "allow_out": [], "deny_out": []})
    );
    assert_eq!(closed["allow_unauthenticated_access"], true);
    assert_eq!(patch(r#"{"network":null}"#).await["network_policy"], Value::Null);
    assert_eq!(patch(r#"{"exposed_ports":[]}"#).await["exposed_ports"], json!([]));
    assert_eq!(patch(r#"{"name":"box"}"#).await["name"], "box");
    assert_eq!(patch(r#"{"auto_resume":true}"#).await["auto_resume"], true);
    assert_eq!(patch("{}").await["name"], "box");
}

#[tokio::test]
async fn lists_go_both_ways_by_cursor() {
    let server = Server::start().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.insert(0, server.create("").await["sandbox_id"].clone());
        server.clock.advance_millis(1);
    }
    let page = async |query: String| server.get(&format!("/sandboxes?{query}")).await.json();
    let ids_of = |page: &Value| -> Vec<Value> {
        let items = page["sandboxes"].as_array().expect("a list");
        items.iter().map(|sandbox| sandbox["id"].clone()).collect()
    };
    let all = page(String::new()).await;
    assert_eq!(ids_of(&all), ids);
    assert_eq!((&all["prev_cursor"], &all["next_cursor"]), (&Value::Null, &Value::Null));
    let first = page("limit=2".to_owned()).await;
    assert_eq!((ids_of(&first), &first["prev_cursor"]), (ids[..2].to_vec(), &Value::Null));
    let next = first["next_cursor"].as_str().expect("more");
    let second = page(format!("limit=2&direction=forward&cursor={next}")).await;
    assert_eq!(ids_of(&second), ids[2..4]);
    let prev = second["prev_cursor"].as_str().expect("newer ones");
    let back = page(format!("limit=2&direction=backward&cursor={prev}")).await;
    assert_eq!(ids_of(&back), ids[..2]);
    let gone = format!("/sandboxes/{}", ids[0].as_str().expect("an id"));
    server.ask("DELETE", &gone).send().await;
    assert_eq!(ids_of(&page("status=running".to_owned()).await), ids[1..]);
    assert_eq!(ids_of(&page("status=terminated".to_owned()).await), ids[..1]);
}

#[tokio::test]
async fn an_ended_sandbox_moves_to_the_archive() {
    let server = Server::start().await;
    let id = server.create("").await["sandbox_id"].as_str().expect("an id").to_owned();
    let (live, archived) = (format!("/sandboxes/{id}"), format!("/archived-sandboxes/{id}"));
    server.get(&archived).await.refuses(404, "SANDBOX_NOT_FOUND");
    server.ask("DELETE", &live).send().await;
    server.clock.advance_millis(25 * 3600 * 1000);
    server.get(&live).await.refuses(404, "SANDBOX_NOT_FOUND");
    server.ask("DELETE", &live).send().await.refuses(404, "SANDBOX_NOT_FOUND");
    let info = server.get(&archived).await.json();
    assert!(info["archived_at"].is_i64(), "{info}");
    let list = server.get("/v1/namespaces/default/archived-sandboxes").await.json();
    assert_eq!(list["sandboxes"], json!([info]));
    assert_eq!(server.get("/sandboxes").await.json()["sandboxes"], json!([]));
}

#[tokio::test]
async fn projects_do_not_see_each_other() {
    let server = Server::start().await;
    let id = server.create(r#"{"name":"box"}"#).await["sandbox_id"].clone();
    let id = id.as_str().expect("an id");
    let other = server.control.key_create("other").await.expect("a key").secret;
    for path in [format!("/sandboxes/{id}"), "/sandboxes/box".to_owned()] {
        for method in ["GET", "PATCH", "DELETE"] {
            let answer = server.ask(method, &path).key(Some(&other)).body("{}").send().await;
            answer.refuses(404, "SANDBOX_NOT_FOUND");
        }
    }
    let list = server.ask("GET", "/sandboxes").key(Some(&other)).send().await;
    assert_eq!(list.json()["sandboxes"], json!([]));
    let same_name =
        server.ask("POST", "/sandboxes").key(Some(&other)).body(r#"{"name":"box"}"#).send().await;
    assert_eq!(same_name.status, 200);
    let info = server.ask("GET", "/v1/namespaces/other/sandboxes/box").key(Some(&other));
    assert_eq!(info.send().await.json()["namespace"], "other");
}

#[tokio::test]
async fn a_resize_says_what_was_asked_and_what_came_of_it() {
    let server = Server::start().await;
    let id = server.create("{}").await["sandbox_id"].as_str().expect("an id").to_owned();
    let path = format!("/sandboxes/{id}");
    assert_eq!(server.get(&path).await.json().get("resource_resize"), None);
    let body = r#"{"resources":{"cpus":2.0,"disk_mb":20480}}"#;
    let resized = server.ask("PATCH", &path).body(body).send().await;
    assert_eq!(resized.status, 200, "{resized:?}");
    let shape = json!({"cpus": 2.0, "memory_mb": 1024, "disk_mb": 20480,
        "ephemeral_disk_mb": 20480, "gpus": []});
    let expected = json!({"generation": 2, "requested": shape, "status": "succeeded"});
    for info in [resized.json(), server.get(&path).await.json()] {
        assert_eq!((&info["resource_resize"], &info["resources"]), (&expected, &shape));
    }
    for (body, status, code) in [
        (r#"{"resources":{"disk_mb":10240}}"#, 400, "DISK_SHRINK_FORBIDDEN"),
        (r#"{"resources":{"cpus":5}}"#, 400, "LIMIT_EXCEEDED"),
        (r#"{"resources":{"cpus":2},"name":"box"}"#, 400, "INVALID_REQUEST"),
    ] {
        server.ask("PATCH", &path).body(body).send().await.refuses(status, code);
    }
    let same = server.ask("PATCH", &path).body(r#"{"resources":{}}"#).send().await;
    assert_eq!(same.json()["resource_resize"], expected, "nothing was asked");
}
