//! Projects, keys and facts.

use std::sync::Arc;

use tarn_types::KeyId;

use super::{
    Case,
    sample::{T0, key, project, project_record},
    sandbox::expect_not_found,
};
use crate::{KeyHash, KeyRecord, ProjectRecord, Store, StoreError};

pub(super) const CASES: &[Case] = &[
    Case::new("a project is made once for its name", |s| Box::pin(ensure(s))),
    Case::new("projects are listed oldest first", |s| Box::pin(list(s))),
    Case::new("an unknown project is not found", |s| Box::pin(unknown_project(s))),
    Case::new("a key is found by its hash, with its project's name", |s| Box::pin(key_fetch(s))),
    Case::new("a key needs a project", |s| Box::pin(key_without_project(s))),
    Case::new("a key's id and hash are unique", |s| Box::pin(key_unique(s))),
    Case::new("keys are listed oldest first", |s| Box::pin(key_list(s))),
    Case::new("a revoked key stays revoked at its first time", |s| Box::pin(key_revoke(s))),
    Case::new("a fact is the last value set", |s| Box::pin(facts(s))),
    Case::new("an open store answers a ping", |s| Box::pin(ping(s))),
];

async fn with_default(store: &Arc<dyn Store>) {
    store.project_ensure(&project_record(1, "default")).await.expect("a project is made");
}

async fn ensure(store: Arc<dyn Store>) {
    let first = project_record(1, "default");
    assert_eq!(store.project_ensure(&first).await.expect("it is made"), first);
    let late = project_record(2, "default");
    assert_eq!(store.project_ensure(&late).await.expect("it is there"), first);
    let other = project_record(3, "Default");
    assert_eq!(store.project_ensure(&other).await.expect("names have a case"), other);
    assert_eq!(store.project_fetch(&project(1)).await.expect("the first"), first);
    expect_not_found(&store.project_fetch(&project(2)).await, "project");
}

async fn list(store: Arc<dyn Store>) {
    assert_eq!(store.project_list().await.expect("a list"), []);
    let late = ProjectRecord { created_at: T0.plus_secs(1), ..project_record(1, "late") };
    let (second, third) = (project_record(2, "z"), project_record(3, "a"));
    for project in [&late, &third, &second] {
        store.project_ensure(project).await.expect("a project is made");
    }
    assert_eq!(store.project_list().await.expect("a list"), [second, third, late]);
}

async fn unknown_project(store: Arc<dyn Store>) {
    expect_not_found(&store.project_fetch(&project(1)).await, "project");
}

async fn key_fetch(store: Arc<dyn Store>) {
    with_default(&store).await;
    let key = key(1);
    // The name given along is not stored: the project's own counts.
    let misnamed = KeyRecord { project_name: "other".to_owned(), ..key.clone() };
    store.key_insert(&misnamed).await.expect("inserted");
    assert_eq!(store.key_fetch(&key.hash).await.expect("it is there"), key);
    expect_not_found(&store.key_fetch(&KeyHash([9; 32])).await, "key");
}

async fn key_without_project(store: Arc<dyn Store>) {
    expect_not_found(&store.key_insert(&key(1)).await, "project");
    assert_eq!(store.key_list().await.expect("a list"), []);
}

async fn key_unique(store: Arc<dyn Store>) {
    with_default(&store).await;
    store.key_insert(&key(1)).await.expect("inserted");
    let same_id = KeyRecord { hash: KeyHash([7; 32]), ..key(1) };
    let same_hash = KeyRecord { hash: KeyHash([1; 32]), ..key(2) };
    for double in [key(1), same_id, same_hash] {
        let refused = store.key_insert(&double).await;
        assert!(matches!(refused, Err(StoreError::Exists { what: "key" })), "{refused:?}");
    }
    assert_eq!(store.key_list().await.expect("a list"), [key(1)]);
}

async fn key_list(store: Arc<dyn Store>) {
    with_default(&store).await;
    store.project_ensure(&project_record(2, "second")).await.expect("a project is made");
    let mut foreign = key(2);
    foreign.project = project(2);
    foreign.project_name = "second".to_owned();
    let mut tie = key(5);
    tie.created_at = key(3).created_at;
    for key in [&key(3), &tie, &key(1), &foreign] {
        store.key_insert(key).await.expect("inserted");
    }
    assert_eq!(store.key_list().await.expect("a list"), [key(1), foreign, key(3), tie]);
}

async fn key_revoke(store: Arc<dyn Store>) {
    with_default(&store).await;
    let key = key(1);
    store.key_insert(&key).await.expect("inserted");
    expect_not_found(&store.key_revoke(&KeyId::from_random([8; 16]), T0).await, "key");
    for secs in [1, 2] {
        store.key_revoke(&key.id, T0.plus_secs(secs)).await.expect("revoked");
        let found = store.key_fetch(&key.hash).await.expect("it is still found");
        assert_eq!(found.revoked_at, Some(T0.plus_secs(1)));
    }
}

async fn facts(store: Arc<dyn Store>) {
    assert_eq!(store.fact_fetch("instance").await.expect("no value"), None);
    for value in ["a", "", "b\0\u{1f980}"] {
        store.fact_set("instance", value).await.expect("set");
        assert_eq!(store.fact_fetch("instance").await.expect("a value").as_deref(), Some(value));
    }
    assert_eq!(store.fact_fetch("Instance").await.expect("another name"), None);
}

async fn ping(store: Arc<dyn Store>) {
    store.ping().await.expect("an open store answers");
}
