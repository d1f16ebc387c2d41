//! Quotas.

use std::sync::Arc;

use super::{Case, sample::project};
use crate::{QuotaRecord, Store};

pub(super) const CASES: &[Case] = &[
    Case::new("a quota is the last that was set", |s| Box::pin(last_counts(s))),
    Case::new("a quota that is taken back is gone", |s| Box::pin(taken_back(s))),
];

fn quota(number: u8, sandboxes: u32) -> QuotaRecord {
    QuotaRecord { project: project(number), sandboxes }
}

async fn last_counts(store: Arc<dyn Store>) {
    assert_eq!(store.quota_list().await.expect("a list"), []);
    for (number, sandboxes) in [(2, 1), (1, u32::MAX), (2, 0)] {
        store.quota_set(&project(number), Some(sandboxes)).await.expect("set");
    }
    assert_eq!(store.quota_list().await.expect("a list"), [quota(1, u32::MAX), quota(2, 0)]);
}

async fn taken_back(store: Arc<dyn Store>) {
    store.quota_set(&project(1), Some(5)).await.expect("set");
    store.quota_set(&project(2), Some(5)).await.expect("set");
    for _ in 0..2 {
        store.quota_set(&project(1), None).await.expect("taken back");
        assert_eq!(store.quota_list().await.expect("a list"), [quota(2, 5)]);
    }
}
