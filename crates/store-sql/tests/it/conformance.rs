//! The suites of all stores.

use std::{cell::RefCell, sync::Arc};

use tarn_store::{Store, conformance, log::LogStore};
use tarn_store_sql::SqliteLogStore;
use tarn_task::Tasks;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_store_conforms() {
    let databases = RefCell::new(Vec::new());
    conformance::log::run(async |limits| {
        let database = Database::new();
        let store = SqliteLogStore::open(&database.path(), limits, &Tasks::new()).await;
        databases.borrow_mut().push(database);
        Arc::new(store.expect("the database opens")) as Arc<dyn LogStore>
    })
    .await;
}
