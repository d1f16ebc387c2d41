#![allow(missing_docs)]
#[path = "../tests/it/node.rs"]
mod node;
use std::sync::Arc;
#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_env_filter("debug").with_writer(std::io::stderr).init();
    let parts = tarn_control::ControlParts {
        store: Arc::new(tarn_store::MemoryStore::new()),
        images: Arc::new(tarn_host::sim::SimImages::new(&["tensorlake/ubuntu-minimal"])),
        clock: Arc::new(tarn_task::SystemClock),
        entropy: Arc::new(tarn_task::OsEntropy),
        tasks: tarn_task::Tasks::new(),
    };
    let control = tarn_control::Control::start(parts, Default::default()).await.unwrap();
    let n = Arc::new(node::FakeNode::new());
    *n.control.lock() = Some(control.clone());
    control.attach(n.clone() as _).await.unwrap();
    control.key_ensure("tl_apiKey_test", "default").await.unwrap();
    let config = tarn_http::HttpConfig::new(tarn_api::response::IngressAddress { sandbox_url: "http://127.0.0.1:9443".into(), ingress_endpoint: "http://localhost:9443".into() });
    let parts = tarn_http::HttpParts { control, entropy: Arc::new(tarn_task::OsEntropy), metrics: vec![] };
    let tasks = tarn_task::Tasks::new();
    let dir = std::path::PathBuf::from("/tmp/smoke-data");
    std::fs::create_dir_all(&dir).unwrap();
    let admin = tarn_http::bind_unix(&dir.join("admin.sock")).unwrap();
    drop(tasks.spawn("admin", tarn_http::serve_unix(admin, tarn_http::admin_router(config.clone(), parts.clone()), tasks.clone(), Default::default())));
    let l = tokio::net::TcpListener::bind("127.0.0.1:18900").await.unwrap();
    tarn_http::serve_tcp(l, tarn_http::router(config, parts), tasks, Default::default()).await;
}
