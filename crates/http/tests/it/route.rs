//! The table and the router agree: every row answers as it says, under each of its prefixes.

use tarn_api::{Access, ROUTES, Serving};

use crate::server::Server;

/// Fills the parameters of a pattern with what the test's key may name.
fn fill(pattern: &str) -> String {
    pattern
        .replace("{ns}", "default")
        .replace("{o}", "org_local")
        .replace("{p}", "default")
        .replace("{*name}", "tensorlake/ubuntu-minimal")
        .replace("{name}", "tensorlake%2Fubuntu-minimal")
        .replace("{sid}", "nobody")
        .replace("{id}", "nothing")
}

#[tokio::test]
async fn every_row_that_is_not_built_says_so_and_names_its_feature() {
    let server = Server::start().await;
    let mut seen = 0;
    for route in ROUTES {
        let Serving::NotBuilt(feature) = route.serving else { continue };
        for pattern in route.paths() {
            let path = fill(&pattern);
            let answer = server.ask(route.method.as_str(), &path).body("{}").send().await;
            answer.refuses(400, "NOT_SUPPORTED");
            let text = answer.json()["error"].as_str().expect("a text").to_owned();
            assert!(text.contains(feature), "{path}: {text}");
            let twice = path.starts_with("/platform/v1/") || path.starts_with("/images/v4/");
            let message = answer.json().get("message").cloned();
            assert_eq!(message.is_some(), twice, "{path}");
            server
                .ask(route.method.as_str(), &path)
                .key(None)
                .send()
                .await
                .refuses(401, "UNAUTHENTICATED");
            seen += 1;
        }
    }
    assert!(seen > 0, "{seen}");
}

#[tokio::test]
async fn each_router_serves_its_own_rows_alone() {
    let server = Server::start().await;
    for route in ROUTES {
        for pattern in route.paths() {
            let path = fill(&pattern);
            let ask = || server.ask(route.method.as_str(), &path).body("{}");
            let foreign = match route.access {
                Access::Admin => ask().send().await,
                Access::Key | Access::Public => ask().send_admin().await,
            };
            foreign.refuses(404, "NOT_FOUND");
        }
    }
}

#[tokio::test]
async fn slashes_are_collapsed_before_routing() {
    let server = Server::start().await;
    for path in ["//v1/namespaces/default/sandboxes", "/v1//namespaces/default///sandboxes?limit=5"]
    {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    assert_eq!(server.get("//healthz").await.status, 200);
}

#[tokio::test]
async fn identity_is_what_the_cli_needs() {
    let server = Server::start().await;
    let identity = server.ask("POST", "//platform/v1/keys/introspect").send().await.json();
    assert!(identity["id"].as_str().is_some_and(|id| id.starts_with("key_")), "{identity}");
    assert_eq!(identity["organizationId"], "org_local");
    let project = identity["projectId"].as_str().expect("an id");
    for p in [project, "default"] {
        let path = format!("/platform/v1/organizations/org_local/projects/{p}");
        let body = server.get(&path).await.json();
        assert_eq!((body["id"].as_str(), body["name"].as_str()), (Some(project), Some("default")));
        assert_eq!(body["createdAt"], "2023-11-14T22:13:20.000Z");
    }
    let namespaced = format!("/v1/namespaces/{project}/sandboxes");
    assert_eq!(server.get(&namespaced).await.status, 200);
}

#[tokio::test]
async fn probes_need_no_key() {
    let source: tarn_http::MetricsSource = std::sync::Arc::new(|| "tarn_other 1\n".to_owned());
    let server = Server::start_with(vec![source]).await;
    server.create("").await;
    let get = |path: &'static str| server.ask("GET", path).key(None).send();
    assert_eq!(get("/healthz").await.text, r#"{"status":"ok"}"#);
    assert_eq!(get("/readyz").await.status, 200);
    let metrics = get("/metrics").await;
    assert!(metrics.headers["content-type"].to_str().is_ok_and(|it| it.starts_with("text/plain")));
    for line in [
        "tarn_http_requests_total{route=\"sandbox_create\",status=\"2xx\"} 1",
        "tarn_sandbox_create_duration_seconds_count 1",
        "tarn_sandboxes{status=\"running\"} 1",
        "tarn_other 1",
    ] {
        assert!(metrics.text.lines().any(|each| each == line), "{line}\n{}", metrics.text);
    }
    assert_eq!(get("/openapi.json").await.text, tarn_http::openapi_json());
}
