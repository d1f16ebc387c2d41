//! The models pass the suites that they are the models of.

use std::sync::Arc;

use tarn_store::{
    MemoryStore, Store, conformance,
    log::{LogStore, MemoryLogStore},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    conformance::run(async || Arc::new(MemoryStore::new()) as Arc<dyn Store>).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_model_conforms() {
    let make = async |limits| Arc::new(MemoryLogStore::new(limits)) as Arc<dyn LogStore>;
    conformance::log::run(make).await;
}
