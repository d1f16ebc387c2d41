//! Builds of images, and what their steps led to.

use std::{collections::BTreeMap, sync::Arc};

use tarn_types::{
    BuildId, BuildKind, BuildPhase, BuildRecord, BuildStatus, ImageFamily, KeptStep, Resources,
    SnapshotId, UnixMillis,
};

use super::{Case, sample::project};
use crate::Store;

pub(super) const CASES: &[Case] = &[
    Case::new("a build is what was last put", |s| Box::pin(builds(s))),
    Case::new("a kept step is what was last put", |s| Box::pin(steps(s))),
];

fn build(number: u8, status: BuildStatus) -> BuildRecord {
    let args = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
    BuildRecord {
        id: BuildId::from_random([number; 16]),
        project: project(number),
        request_id: Some("r".to_owned()),
        kind: BuildKind::Dockerfile { path: "Dockerfile".to_owned(), args },
        name: "app".parse().expect("a good name"),
        global: false,
        family: ImageFamily::Legacy,
        resources: Resources::default(),
        status,
        phase: BuildPhase::AwaitingContext,
        upload_token: Some("t".to_owned()),
        log_sandbox: None,
        sandboxes: Vec::new(),
        error: None,
        image: None,
        created_at: UnixMillis(i64::from(number)),
        updated_at: UnixMillis(2),
        deadline: UnixMillis(3),
    }
}

async fn builds(store: Arc<dyn Store>) {
    assert_eq!(store.build_list().await.expect("a list"), []);
    for status in [BuildStatus::Pending, BuildStatus::Running] {
        for number in [2, 1] {
            store.build_put(&build(number, status)).await.expect("put");
        }
    }
    let expected = [build(1, BuildStatus::Running), build(2, BuildStatus::Running)];
    assert_eq!(store.build_list().await.expect("a list"), expected);
    for _ in 0..2 {
        store.build_delete(&expected[0].id).await.expect("deleted");
        assert_eq!(store.build_list().await.expect("a list"), expected[1..]);
    }
}

async fn steps(store: Arc<dyn Store>) {
    let step = |number: u8, used_at| KeptStep {
        project: project(number),
        key: "ab".to_owned(),
        snapshot: SnapshotId::from_random([number; 16]),
        used_at: UnixMillis(used_at),
    };
    assert_eq!(store.kept_step_list().await.expect("a list"), []);
    for (number, used_at) in [(2, 1), (1, 1), (2, 5)] {
        store.kept_step_put(&step(number, used_at)).await.expect("put");
    }
    assert_eq!(store.kept_step_list().await.expect("a list"), [step(1, 1), step(2, 5)]);
    for _ in 0..2 {
        store.kept_step_delete(&project(1), "ab").await.expect("deleted");
        assert_eq!(store.kept_step_list().await.expect("a list"), [step(2, 5)]);
    }
}
