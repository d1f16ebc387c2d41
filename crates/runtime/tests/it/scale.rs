//! A thousand sandboxes in one process.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::json;
use tarn_runtime::Runtime as _;
use tokio::task::JoinSet;

use crate::support::{Client, runtime, started};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sandboxes_fit_one_process() {
    let (runtime, _events) = runtime();
    let runtime = Arc::new(runtime);
    let mut sandboxes = Vec::new();
    for number in 0..1000 {
        sandboxes.push(started(&runtime, number).await);
    }
    let addresses: BTreeSet<_> = sandboxes.iter().map(|(_, started)| started.daemon).collect();
    assert_eq!(addresses.len(), 1000, "each has a port of its own");

    let mut clients = JoinSet::new();
    for (number, (_, started)) in sandboxes.iter().enumerate().step_by(10) {
        let daemon = started.daemon;
        clients.spawn(async move {
            let mut client = Client::open(daemon).await;
            let word = number.to_string();
            let frames = client.run(&json!({"command": "echo", "args": [&word]})).await;
            assert_eq!(frames[1]["line"], json!(word));
        });
    }
    clients.join_all().await;

    for (spec, _) in &sandboxes {
        runtime.delete(&spec.id).await.expect("deleted");
    }
    assert_eq!(runtime.list().await.expect("a list"), []);
}
