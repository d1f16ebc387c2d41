//! Both routers with all they need, and one way to ask them.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode, header},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tarn_api::response::IngressAddress;
use tarn_builder::{Builder, BuilderConfig};
use tarn_control::{Control, ControlConfig, ControlParts, SecretKeys};
use tarn_host::sim::SimImages;
use tarn_http::{HttpConfig, HttpParts, MetricsSource, RateLimit};
use tarn_store::{MemoryStore, Store, log::MemoryLogStore};
use tarn_task::{ManualClock, SeededEntropy, Tasks};
use tarn_types::UnixMillis;
use tower::ServiceExt as _;

use crate::node::{FakeNode, Manner};

pub(crate) struct Server {
    pub(crate) router: Router,
    pub(crate) admin: Router,
    pub(crate) control: Control,
    pub(crate) node: Arc<FakeNode>,
    pub(crate) clock: Arc<ManualClock>,
    /// Where the key of its secrets is, and the contexts of its builds.
    _keys: tempfile::TempDir,
    /// A key of the project `default`.
    pub(crate) key: String,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

/// A request in the making.
pub(crate) struct Ask<'a> {
    server: &'a Server,
    request: axum::http::request::Builder,
    body: Body,
    key: Option<String>,
}

// === impl Server ===

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(Vec::new()).await
    }

    pub(crate) async fn start_with(metrics: Vec<MetricsSource>) -> Self {
        Self::start_as(metrics, None).await
    }

    /// Starts one whose keys may send so many requests.
    pub(crate) async fn start_as(
        metrics: Vec<MetricsSource>,
        rate_limit: Option<RateLimit>,
    ) -> Self {
        let clock = Arc::new(ManualClock::at(UnixMillis(1_700_000_000_000)));
        let entropy = Arc::new(SeededEntropy::new(7));
        let keys = tempfile::tempdir().expect("a directory");
        let tasks = Tasks::new();
        let parts = ControlParts {
            logs: Arc::new(MemoryLogStore::default()),
            store: Arc::new(MemoryStore::new()) as Arc<dyn Store>,
            images: Arc::new(SimImages::new(&["tensorlake/ubuntu-minimal"])),
            secret_keys: Arc::new(
                SecretKeys::open(&keys.path().join("secrets.key")).expect("made"),
            ),
            clock: Arc::clone(&clock) as _,
            entropy: Arc::clone(&entropy) as _,
            tasks: tasks.clone(),
        };
        let control =
            Control::start(parts, ControlConfig::default()).await.expect("an empty store is read");
        let node = Arc::new(FakeNode::new());
        *node.control.lock() = Some(control.clone());
        control.attach(Arc::clone(&node) as _).await.expect("attached");
        let builds = BuilderConfig::new(keys.path().join("builds"));
        let seams = (Arc::clone(&clock) as _, Arc::clone(&entropy) as _);
        let builder = Builder::start(control.clone(), builds, seams.0, seams.1, tasks).await;
        let builder = builder.expect("no builds are read");
        let key = control.key_create("default").await.expect("a key").secret;
        let ingress = IngressAddress {
            sandbox_url: "http://127.0.0.1:9443".to_owned(),
            ingress_endpoint: "http://localhost:9443".to_owned(),
        };
        let config =
            HttpConfig { rate_limit, ..HttpConfig::new(ingress, "http://api.test".to_owned()) };
        let parts = HttpParts { control: control.clone(), builder, entropy, metrics };
        Self {
            router: tarn_http::router(config.clone(), parts.clone()),
            admin: tarn_http::admin_router(config, parts),
            control,
            node,
            clock,
            _keys: keys,
            key,
        }
    }

    pub(crate) fn manner(&self, manner: Manner) {
        *self.node.manner.lock() = manner;
    }

    /// Begins a request with the server's key.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Ask<'_> {
        Ask {
            server: self,
            request: Request::builder().method(method).uri(path),
            body: Body::empty(),
            key: Some(self.key.clone()),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).send().await
    }

    /// Creates a sandbox, which must be accepted.
    pub(crate) async fn create(&self, body: &'static str) -> Value {
        let answer = self.ask("POST", "/sandboxes").body(body).send().await;
        assert!(answer.status.is_success(), "{answer:?}");
        answer.json()
    }
}

// === impl Ask ===

impl Ask<'_> {
    pub(crate) fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn key(mut self, key: Option<&str>) -> Self {
        self.key = key.map(str::to_owned);
        self
    }

    pub(crate) async fn send(self) -> Answer {
        let router = self.server.router.clone();
        self.send_to(router).await
    }

    pub(crate) async fn send_admin(self) -> Answer {
        let router = self.server.admin.clone();
        self.key(None).send_to(router).await
    }

    async fn send_to(mut self, router: Router) -> Answer {
        if let Some(key) = &self.key {
            self.request = self.request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = self.request.body(self.body).expect("a request");
        let response = router.oneshot(request).await.expect("a router does not fail");
        let (parts, body) = response.into_parts();
        let bytes: Bytes = body.collect().await.expect("a whole body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("answers are text");
        Answer { status: parts.status, headers: parts.headers, text }
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("the answer is JSON")
    }

    /// Asserts that this is an error of a code, in the one form that errors have.
    pub(crate) fn refuses(&self, status: u16, code: &str) {
        let json = self.json();
        assert_eq!((self.status.as_u16(), json["code"].as_str()), (status, Some(code)), "{self:?}");
        assert!(json["error"].as_str().is_some_and(|text| text.len() > 5), "{self:?}");
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/json", "{self:?}");
    }
}
