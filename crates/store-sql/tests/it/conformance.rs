//! The suite of all stores.

use std::{cell::RefCell, sync::Arc};

use tarn_store::{Store, conformance};

use crate::support::Database;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    // The directories live until the last case is through.
    let databases = RefCell::new(Vec::new());
    conformance::run(async || {
        let database = Database::new();
        let (store, _tasks) = database.open().await;
        databases.borrow_mut().push(database);
        Arc::new(store) as Arc<dyn Store>
    })
    .await;
}
