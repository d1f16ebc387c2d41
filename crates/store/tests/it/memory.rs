//! The model passes the suite that it is the model of.

use std::sync::Arc;

use tarn_store::{MemoryStore, Store, conformance};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    conformance::run(async || Arc::new(MemoryStore::new()) as Arc<dyn Store>).await;
}
