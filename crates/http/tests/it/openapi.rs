//! The document and the routers, in both directions.

use std::collections::BTreeSet;

use serde_json::Value;
use tarn_api::{ROUTES, Serving};

use crate::server::{Answer, Server};

fn documented() -> BTreeSet<(String, String)> {
    let document: Value = serde_json::from_str(&tarn_http::openapi_json()).expect("JSON");
    let mut rows = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            rows.insert((method.to_ascii_uppercase(), path.clone()));
        }
    }
    rows
}

fn is_missing(answer: &Answer) -> bool {
    answer.status == 405 || answer.text.contains("no such route")
}

#[tokio::test]
async fn every_documented_operation_is_served() {
    let server = Server::start().await;
    for (method, pattern) in documented() {
        let path = pattern
            .replace("{ns}", "default")
            .replace("{o}", "org_local")
            .replace("{p}", "default")
            .replace("{sid}", "nobody")
            .replace("{name}", "nobody")
            .replace("{id}", "nothing");
        let ask = || server.ask(&method, &path).body("{}");
        let answer = if pattern.starts_with("/tarn/v1/") {
            ask().send_admin().await
        } else {
            ask().send().await
        };
        assert!(!is_missing(&answer), "{method} {pattern}: {answer:?}");
        let unsupported = answer.json_code() == Some("NOT_SUPPORTED".to_owned());
        assert!(!unsupported && answer.status.as_u16() < 500, "{method} {pattern}: {answer:?}");
    }
}

#[test]
fn every_built_row_is_documented_and_nothing_else() {
    let mut rows = BTreeSet::new();
    for route in ROUTES.iter().filter(|route| matches!(route.serving, Serving::Built(_))) {
        for path in route.paths() {
            rows.insert((route.method.as_str().to_owned(), path.replace("{*", "{")));
        }
    }
    assert_eq!(rows, documented());
}

// === impl Answer ===

impl Answer {
    /// Returns the code of an error, if this is one.
    fn json_code(&self) -> Option<String> {
        let body: Value = serde_json::from_str(&self.text).ok()?;
        body["code"].as_str().map(str::to_owned)
    }
}
