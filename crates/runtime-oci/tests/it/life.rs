//! From create to delete.

use tarn_runtime::Runtime as _;

use crate::host::{Host, ask, boot};

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_lives_and_leaves_nothing() {
    let host = Host::new();
    let (runtime, _events) = host.runtime().await;
    let spec = host.prepare();
    let started = boot(&runtime, &spec).await;
    assert_eq!(ask(started.daemon, "/").await.unwrap(), "hello");
    runtime.delete(&spec.id).await.unwrap();
    assert_eq!(host.leftovers(&spec.id), Vec::<String>::new());
}
