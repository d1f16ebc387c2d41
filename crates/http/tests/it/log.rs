//! Persisted output: who may read it, by which name, and in which form.

use serde_json::{Value, json};
use tarn_node_api::LogSink as _;
use tarn_types::{LogBatch, LogLevel, LogLine, LogProcess, ProjectId, SandboxId, UnixMillis};

use crate::server::Server;

/// Stores lines 0 to `lines`, every second one of standard error, of processes 1 and 2 in turn.
async fn print(server: &Server, sandbox: &str, project: &ProjectId, lines: u64) {
    let process = |id| LogProcess {
        id,
        pid: 40 + i32::try_from(id).expect("small"),
        command: format!("p{id}"),
        managed_id: None,
        managed_name: None,
    };
    let line = |n: u64| LogLine {
        process: 1 + n % 2,
        level: if n.is_multiple_of(2) { LogLevel::Info } else { LogLevel::Error },
        at: UnixMillis(1_700_000_000_000 + i64::try_from(n).expect("small")),
        dropped: 0,
        body: format!("line {n}"),
    };
    let batch = LogBatch {
        sandbox: sandbox.parse().expect("an id"),
        project: project.clone(),
        boot: "boot".to_owned(),
        number: 1,
        processes: vec![process(1), process(2)],
        lines: (0..lines).map(line).collect(),
    };
    server.control.store(&batch).await.expect("stored");
}

async fn own_project(server: &Server) -> ProjectId {
    let answer = server.ask("POST", "/platform/v1/keys/introspect").send().await.json();
    answer["projectId"].as_str().expect("an id").parse().expect("an id")
}

async fn printed(lines: u64) -> (Server, String) {
    let server = Server::start().await;
    let made = server.create(r#"{"name":"box"}"#).await;
    let id = made["sandbox_id"].as_str().expect("an id").to_owned();
    print(&server, &id, &own_project(&server).await, lines).await;
    (server, id)
}

fn bodies(page: &Value) -> Vec<&str> {
    let logs = page["logs"].as_array().expect("a list");
    logs.iter().map(|log| log["body"].as_str().expect("a text")).collect()
}

#[tokio::test]
async fn lines_are_read_by_id_and_by_name_under_every_path() {
    let (server, id) = printed(4).await;
    for path in [
        format!("/sandboxes/{id}/logs"),
        "/sandboxes/box/logs".to_owned(),
        format!("/v1/namespaces/default/sandboxes/{id}/logs"),
        "//v1/namespaces/default/sandboxes/box/logs?unknown=1".to_owned(),
    ] {
        let answer = server.get(&path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(bodies(&answer.json()), ["line 0", "line 1", "line 2", "line 3"], "{path}");
        assert_eq!(answer.json().get("nextToken"), None);
    }
    let page = server.get(&format!("/sandboxes/{id}/logs?head=1")).await.json();
    let log = &page["logs"][0];
    let mut expected = json!({
        "timestamp": 1_700_000_000_000_u64, "namespace": "default", "application": "sandbox",
        "sandboxId": id, "body": "line 0", "logAttributes": r#"{"stream":"stdout"}"#,
        "resourceAttributes": [["processId", "1"], ["processPid", "41"], ["processCommand", "p1"]],
        "allocations": [], "functionRuns": [], "level": 3, "retention": 7,
    });
    expected["uuid"] = log["uuid"].clone();
    assert_eq!(*log, expected);
}

#[tokio::test]
async fn filters_and_pages_work_together() {
    let (server, id) = printed(2500).await;
    for (query, first, count) in [
        ("level=5&head=2", "line 1", 2),
        ("level=5&tail=2", "line 2497", 2),
        ("processId=2&body=99&head=3", "line 99", 3),
        ("level=3&level=5&head=2", "line 0", 2),
        ("level=4", "", 0),
        ("processId=77", "", 0),
        ("body=no+such", "", 0),
    ] {
        let page = server.get(&format!("/sandboxes/{id}/logs?{query}")).await.json();
        let found = bodies(&page);
        assert_eq!((found.first().copied().unwrap_or(""), found.len()), (first, count), "{query}");
        assert_eq!(page.get("nextToken"), None, "{query}");
    }
    let (mut seen, mut query) = (Vec::new(), "tail=1200".to_owned());
    loop {
        let page = server.get(&format!("/sandboxes/{id}/logs?{query}")).await.json();
        seen.extend(bodies(&page).into_iter().map(str::to_owned));
        let Some(token) = page["nextToken"].as_str() else { break };
        query = format!("tail=1200&nextToken={token}");
    }
    let expected: Vec<_> = (1300..2500).map(|n| format!("line {n}")).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn processes_are_listed() {
    let (server, id) = printed(5).await;
    let answer = server.get(&format!("/sandboxes/{id}/processes")).await.json();
    let entry = |id: u64, first: u64, last: u64, count: u64| {
        json!({"processId": id.to_string(), "processPid": (40 + id).to_string(),
            "processCommand": format!("p{id}"), "processManagedId": "", "processManagedName": "",
            "firstSeen": 1_700_000_000_000 + first, "lastSeen": 1_700_000_000_000 + last,
            "logCount": count})
    };
    assert_eq!(answer, json!({"processes": [entry(1, 0, 4, 3), entry(2, 1, 3, 2)]}));
    let quiet = server.create("{}").await;
    let quiet = quiet["sandbox_id"].as_str().expect("an id");
    let answer = server.get(&format!("/sandboxes/{quiet}/processes")).await.json();
    assert_eq!(answer, json!({"processes": []}));
    assert_eq!(server.get(&format!("/sandboxes/{quiet}/logs")).await.json(), json!({"logs": []}));
}

#[tokio::test]
async fn ended_archived_and_forgotten_sandboxes_keep_their_lines() {
    let (server, id) = printed(3).await;
    let path = format!("/sandboxes/{id}/logs");
    assert_eq!(server.ask("DELETE", &format!("/sandboxes/{id}")).send().await.status, 200);
    assert_eq!(bodies(&server.get(&path).await.json()).len(), 3, "terminated");
    server.get("/sandboxes/box/logs").await.refuses(404, "SANDBOX_NOT_FOUND");
    server.clock.advance_millis(25 * 3_600_000);
    server.get(&format!("/sandboxes/{id}")).await.refuses(404, "SANDBOX_NOT_FOUND");
    assert_eq!(bodies(&server.get(&path).await.json()).len(), 3, "archived");
    // One whose record is gone, and one that never was.
    let gone = SandboxId::from_random([9; 21]).to_string();
    print(&server, &gone, &own_project(&server).await, 2).await;
    assert_eq!(bodies(&server.get(&format!("/sandboxes/{gone}/logs")).await.json()).len(), 2);
    for route in ["logs", "processes"] {
        let never = SandboxId::from_random([8; 21]);
        let answer = server.get(&format!("/sandboxes/{never}/{route}")).await;
        answer.refuses(404, "SANDBOX_NOT_FOUND");
    }
}

#[tokio::test]
async fn another_project_sees_nothing() {
    let (server, id) = printed(3).await;
    let gone = SandboxId::from_random([9; 21]).to_string();
    print(&server, &gone, &own_project(&server).await, 2).await;
    let other = server.control.key_create("other").await.expect("a key").secret;
    for sandbox in [id.as_str(), "box", &gone] {
        for route in ["logs", "processes"] {
            let ask = server.ask("GET", &format!("/sandboxes/{sandbox}/{route}"));
            ask.key(Some(&other)).send().await.refuses(404, "SANDBOX_NOT_FOUND");
        }
    }
    let ask = server.ask("GET", &format!("/sandboxes/{id}/logs"));
    ask.key(None).send().await.refuses(401, "UNAUTHENTICATED");
}

#[tokio::test]
async fn bad_queries_are_refused_by_name() {
    let (server, id) = printed(1).await;
    for query in ["level=9", "processId=x", "head=0", "tail=x", "head=1&tail=1", "nextToken=x"] {
        let answer = server.get(&format!("/sandboxes/{id}/logs?{query}")).await;
        answer.refuses(400, "INVALID_REQUEST");
        let text = answer.json()["error"].as_str().expect("a text").to_owned();
        let name = query.split('=').next().expect("a name");
        assert!(text.starts_with(&format!("{name}: ")), "{text}");
    }
}
