//! Secrets, and the keys they are sealed with.

use std::sync::Arc;

use tarn_types::{SecretId, SecretName, SecretRecord};
use tokio::task::JoinSet;

use super::{
    Case,
    sample::{T0, project},
    sandbox::expect_not_found,
};
use crate::{DataKeyRecord, SealedSecret, Store, StoreError};

pub(super) const CASES: &[Case] = &[
    Case::new("secrets come back by name, without their values", |s| Box::pin(round_trip(s))),
    Case::new("a secret that is set again keeps its id", |s| Box::pin(upsert(s))),
    Case::new("secrets are set all or none", |s| Box::pin(all_or_none(s))),
    Case::new("secrets are found by their names", |s| Box::pin(find(s))),
    Case::new("a deleted secret is gone, and its name is free", |s| Box::pin(delete(s))),
    Case::new("a secret is of one project alone", |s| Box::pin(apart(s))),
    Case::new("a project has one data key, whoever is first", |s| Box::pin(one_key(s))),
    Case::new("data keys are sealed anew all or none", |s| Box::pin(rewrap(s))),
];

fn name(text: &str) -> SecretName {
    text.parse().expect("a good name")
}

/// Returns a secret of project 1 whose value is its number.
fn secret(number: u8, text: &str) -> SealedSecret {
    let at = T0.plus_millis(u64::from(number));
    let record = SecretRecord {
        id: SecretId::from_random([number; 16]),
        project: project(1),
        name: name(text),
        created_at: at,
        updated_at: at,
    };
    SealedSecret { record, sealed: vec![number, 0, 0xff] }
}

fn key(number: u8) -> DataKeyRecord {
    DataKeyRecord {
        project: project(number),
        wrapping: "one".to_owned(),
        wrapped: vec![number, 0, 0xff],
    }
}

async fn put(store: &Arc<dyn Store>, secrets: &[SealedSecret]) -> Vec<SecretRecord> {
    store.secret_put(secrets).await.expect("set")
}

async fn round_trip(store: Arc<dyn Store>) {
    assert_eq!(store.secret_list(&project(1)).await.expect("a list"), []);
    let (b, a) = (secret(1, "B"), secret(2, "A"));
    assert_eq!(put(&store, &[b.clone(), a.clone()]).await, [b.record.clone(), a.record.clone()]);
    let list = store.secret_list(&project(1)).await.expect("a list");
    assert_eq!(list, [a.record.clone(), b.record.clone()]);
    let fetched = store.secret_fetch(&project(1), &a.record.id).await.expect("it is there");
    assert_eq!(fetched, a.record);
    assert_eq!(put(&store, &[]).await, []);
}

async fn upsert(store: Arc<dyn Store>) {
    let first = secret(1, "A");
    put(&store, std::slice::from_ref(&first)).await;
    let again = secret(2, "A");
    let kept = SecretRecord { updated_at: again.record.updated_at, ..first.record };
    assert_eq!(put(&store, std::slice::from_ref(&again)).await, std::slice::from_ref(&kept));
    let found = store.secret_find(&project(1), &[name("A")]).await.expect("found");
    assert_eq!(found, [SealedSecret { record: kept, sealed: again.sealed }]);
}

async fn all_or_none(store: Arc<dyn Store>) {
    put(&store, &[secret(1, "A")]).await;
    // The id of the last is that of A.
    let refused = store.secret_put(&[secret(3, "A"), secret(2, "B"), secret(1, "C")]).await;
    assert!(matches!(refused, Err(StoreError::Exists { what: "secret" })), "{refused:?}");
    let found = store.secret_find(&project(1), &[name("A"), name("B"), name("C")]).await;
    assert_eq!(found.expect("found"), [secret(1, "A")]);
}

async fn find(store: Arc<dyn Store>) {
    put(&store, &[secret(1, "A"), secret(2, "B"), secret(3, "C")]).await;
    let find = async |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|text| name(text)).collect();
        store.secret_find(&project(1), &names).await.expect("found")
    };
    assert_eq!(find(&["C", "A", "C", "a", "NO"]).await, [secret(1, "A"), secret(3, "C")]);
    assert_eq!(find(&[]).await, []);
}

async fn delete(store: Arc<dyn Store>) {
    put(&store, &[secret(1, "A"), secret(2, "B")]).await;
    let id = secret(1, "A").record.id;
    store.secret_delete(&project(1), &id).await.expect("deleted");
    expect_not_found(&store.secret_delete(&project(1), &id).await, "secret");
    expect_not_found(&store.secret_fetch(&project(1), &id).await, "secret");
    let list = store.secret_list(&project(1)).await.expect("a list");
    assert_eq!(list, [secret(2, "B").record]);
    assert_eq!(put(&store, &[secret(3, "A")]).await, [secret(3, "A").record], "another one");
}

async fn apart(store: Arc<dyn Store>) {
    let mut theirs = secret(2, "A");
    theirs.record.project = project(2);
    put(&store, &[secret(1, "A"), theirs.clone()]).await;
    let id = secret(1, "A").record.id;
    expect_not_found(&store.secret_fetch(&project(2), &id).await, "secret");
    expect_not_found(&store.secret_delete(&project(2), &id).await, "secret");
    assert_eq!(store.secret_list(&project(2)).await.expect("a list"), [theirs.record.clone()]);
    assert_eq!(store.secret_find(&project(2), &[name("A")]).await.expect("found"), [theirs]);
}

async fn one_key(store: Arc<dyn Store>) {
    expect_not_found(&store.data_key_fetch(&project(1)).await, "data key");
    let mut racing = JoinSet::new();
    for number in 0..8 {
        let store = Arc::clone(&store);
        let candidate = DataKeyRecord { wrapped: vec![number], ..key(1) };
        racing.spawn(async move { store.data_key_ensure(&candidate).await });
    }
    let keys = racing.join_all().await;
    let stored = store.data_key_fetch(&project(1)).await.expect("it is there");
    for key in keys {
        assert_eq!(key.expect("a key"), stored);
    }
}

async fn rewrap(store: Arc<dyn Store>) {
    for number in [2, 1] {
        store.data_key_ensure(&key(number)).await.expect("a key");
    }
    assert_eq!(store.data_key_list().await.expect("a list"), [key(1), key(2)]);
    let anew = |number| DataKeyRecord { wrapping: "two".to_owned(), ..key(number) };
    expect_not_found(&store.data_key_rewrap(&[anew(1), anew(3)]).await, "data key");
    assert_eq!(store.data_key_list().await.expect("a list"), [key(1), key(2)]);
    store.data_key_rewrap(&[anew(1), anew(2)]).await.expect("sealed anew");
    assert_eq!(store.data_key_list().await.expect("a list"), [anew(1), anew(2)]);
}
