//! One sandbox: insert, update, fetch, names, the end, purge.

use std::sync::Arc;

use tarn_types::{Lasting, SandboxStatus, UnixMillis};

use super::{
    Case,
    sample::{
        T0, advance, ended, full, id, insert, insert_ended, name, named, project, query, record,
        running, update,
    },
};
use crate::{Store, StoreError};

pub(super) const CASES: &[Case] = &[
    Case::new("a record comes back as it was stored", |s| Box::pin(round_trip(s))),
    Case::new("an unknown id is not found", |s| Box::pin(unknown(s))),
    Case::new("the same id is refused", |s| Box::pin(same_id(s))),
    Case::new("an update compares the sequence", |s| Box::pin(compare_and_set(s))),
    Case::new("a live name is unique in its project", |s| Box::pin(name_is_unique(s))),
    Case::new("another project may have the same name", |s| Box::pin(name_across_projects(s))),
    Case::new("the end frees the name", |s| Box::pin(end_frees_name(s))),
    Case::new("a name found is that of the live sandbox", |s| Box::pin(fetch_by_name(s))),
    Case::new("a rename moves the name", |s| Box::pin(rename(s))),
    Case::new("a refused rename changes nothing", |s| Box::pin(refused_rename(s))),
    Case::new("only an end makes a sandbox not live", |s| Box::pin(list_live(s))),
    Case::new("a record that contradicts itself is refused", |s| Box::pin(contradiction(s))),
    Case::new("what is fixed at creation stays", |s| Box::pin(fixed_fields(s))),
    Case::new("a purge takes the oldest ends first", |s| Box::pin(purge(s))),
    Case::new("a purge leaves live sandboxes and the bound itself", |s| Box::pin(purge_bound(s))),
    Case::new("a purged id and its name are free", |s| Box::pin(purge_frees(s))),
];

async fn round_trip(store: Arc<dyn Store>) {
    for record in [record(1), full(2)] {
        insert(&store, &record).await.expect("a fresh sandbox is inserted");
        assert_eq!(store.sandbox_fetch(&record.id).await.expect("it is there"), record);
        let next = ended(&record, T0.plus_secs(9));
        update(&store, &next).await.expect("its end is stored");
        assert_eq!(store.sandbox_fetch(&record.id).await.expect("it is still there"), next);
    }
}

async fn unknown(store: Arc<dyn Store>) {
    expect_not_found(&store.sandbox_fetch(&id(1)).await, "sandbox");
    expect_not_found(&store.sandbox_fetch_by_name(&project(1), &name("a")).await, "sandbox");
    expect_not_found(&update(&store, &advance(&record(1))).await, "sandbox");
    assert_eq!(store.sandbox_list_live().await.expect("an empty list"), []);
    assert_eq!(store.sandbox_purge(UnixMillis(i64::MAX), 10).await.expect("nothing to do"), 0);
}

async fn same_id(store: Arc<dyn Store>) {
    let first = named(1, "first");
    insert(&store, &first).await.expect("the first is inserted");
    let mut second = named(1, "second");
    second.project = project(2);
    let refused = insert(&store, &second).await;
    assert!(matches!(refused, Err(StoreError::Exists { what: "sandbox" })), "{refused:?}");
    assert_eq!(store.sandbox_fetch(&first.id).await.expect("it is there"), first);
    expect_not_found(&store.sandbox_fetch_by_name(&project(2), &name("second")).await, "sandbox");
}

async fn compare_and_set(store: Arc<dyn Store>) {
    let first = record(1);
    insert(&store, &first).await.expect("inserted");
    let second = running(&first);
    update(&store, &second).await.expect("sequence 2 follows 1");
    for sequence in [0, 1, 2, 4, u64::MAX] {
        let mut stale = second.clone();
        stale.sequence = sequence;
        let refused = update(&store, &stale).await;
        assert!(
            matches!(&refused, Err(StoreError::Conflict { id }) if *id == first.id),
            "sequence {sequence} after 2: {refused:?}"
        );
    }
    assert_eq!(store.sandbox_fetch(&first.id).await.expect("it is there"), second);
    update(&store, &advance(&second)).await.expect("sequence 3 follows 2");
}

async fn name_is_unique(store: Arc<dyn Store>) {
    let holder = named(1, "box");
    insert(&store, &holder).await.expect("a free name");
    expect_taken(&insert(&store, &named(2, "box")).await, 1);
    expect_not_found(&store.sandbox_fetch(&id(2)).await, "sandbox");
    insert(&store, &named(3, "box-2")).await.expect("another name");
    insert(&store, &record(4)).await.expect("no name");
    insert(&store, &record(5)).await.expect("no name is never taken");
    update(&store, &running(&holder)).await.expect("its own name is not taken from itself");
}

async fn name_across_projects(store: Arc<dyn Store>) {
    insert(&store, &named(1, "box")).await.expect("project 1");
    let mut other = named(2, "box");
    other.project = project(2);
    insert(&store, &other).await.expect("project 2");
    for number in [1, 2] {
        let found = store.sandbox_fetch_by_name(&project(number), &name("box")).await;
        assert_eq!(found.expect("each has its own").id, id(number));
    }
}

async fn end_frees_name(store: Arc<dyn Store>) {
    for number in 1..=3 {
        insert_ended(&store, &named(number, "box"), T0.plus_secs(1)).await;
    }
    expect_not_found(&store.sandbox_fetch_by_name(&project(1), &name("box")).await, "sandbox");
    insert(&store, &named(4, "box")).await.expect("the name is free again");
    let late = advance(&ended(&named(1, "box"), T0.plus_secs(1)));
    update(&store, &late).await.expect("an ended one keeps its name without holding it");
    expect_taken(&insert(&store, &named(5, "box")).await, 4);
}

async fn fetch_by_name(store: Arc<dyn Store>) {
    insert_ended(&store, &named(1, "box"), T0).await;
    insert(&store, &named(2, "box")).await.expect("a free name");
    insert(&store, &named(3, "boxes")).await.expect("a longer name");
    let found = store.sandbox_fetch_by_name(&project(1), &name("box")).await;
    assert_eq!(found.expect("the live one"), named(2, "box"));
    expect_not_found(&store.sandbox_fetch_by_name(&project(2), &name("box")).await, "sandbox");
}

async fn rename(store: Arc<dyn Store>) {
    let unnamed = record(1);
    insert(&store, &unnamed).await.expect("inserted");
    let mut first = advance(&unnamed);
    first.asked.name = Some(name("first"));
    update(&store, &first).await.expect("it gets a name");
    let mut second = advance(&first);
    second.asked.name = Some(name("second"));
    update(&store, &second).await.expect("it gets another");
    expect_not_found(&store.sandbox_fetch_by_name(&project(1), &name("first")).await, "sandbox");
    let found = store.sandbox_fetch_by_name(&project(1), &name("second")).await;
    assert_eq!(found.expect("by its new name"), second);
    insert(&store, &named(2, "first")).await.expect("the old name is free");
}

async fn refused_rename(store: Arc<dyn Store>) {
    insert(&store, &named(1, "taken")).await.expect("inserted");
    let other = named(2, "mine");
    insert(&store, &other).await.expect("inserted");
    let mut next = advance(&other);
    next.asked.name = Some(name("taken"));
    expect_taken(&update(&store, &next).await, 1);
    assert_eq!(store.sandbox_fetch(&other.id).await.expect("as before"), other);
    // Whoever is stale must read again before a name is even looked at.
    next.sequence = 7;
    let refused = update(&store, &next).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
}

async fn list_live(store: Arc<dyn Store>) {
    let mut foreign = record(1);
    foreign.project = project(2);
    foreign.created_at = T0.plus_secs(100);
    insert(&store, &foreign).await.expect("inserted");
    insert_ended(&store, &record(2), T0).await;
    for number in [5, 4] {
        let mut same_time = record(number);
        same_time.created_at = T0;
        insert(&store, &same_time).await.expect("inserted");
    }
    let live = store.sandbox_list_live().await.expect("a list");
    let ids: Vec<_> = live.into_iter().map(|record| record.id).collect();
    assert_eq!(ids, [id(4), id(5), id(1)], "oldest first, of every project, ties by id");
}

async fn contradiction(store: Arc<dyn Store>) {
    let live = record(1);
    expect_internal(&store.sandbox_insert(&live, SandboxStatus::Terminated).await);
    let mut half = live.clone();
    half.terminated_at = Some(T0);
    expect_internal(&store.sandbox_insert(&half, SandboxStatus::Terminated).await);
    expect_not_found(&store.sandbox_fetch(&live.id).await, "sandbox");
    insert(&store, &live).await.expect("inserted");
    let over = ended(&live, T0);
    expect_internal(&store.sandbox_update(&over, SandboxStatus::Running, Lasting::Always).await);
    assert_eq!(store.sandbox_fetch(&live.id).await.expect("as before"), live);
}

async fn fixed_fields(store: Arc<dyn Store>) {
    let first = record(1);
    insert(&store, &first).await.expect("inserted");
    let mut moved = advance(&first);
    moved.project = project(2);
    expect_internal(&update(&store, &moved).await);
    let mut backdated = advance(&first);
    backdated.created_at = T0.plus_secs(50);
    expect_internal(&update(&store, &backdated).await);
    let over = ended(&first, T0);
    update(&store, &over).await.expect("its end is stored");
    let mut risen = running(&over);
    risen.terminated_at = None;
    risen.end = None;
    expect_internal(&update(&store, &risen).await);
    assert_eq!(store.sandbox_fetch(&first.id).await.expect("as before"), over);
}

async fn purge(store: Arc<dyn Store>) {
    // Ends in another order than ids and creations.
    for (number, end) in [(1, 30), (2, 10), (3, 20), (4, 40)] {
        insert_ended(&store, &record(number), T0.plus_secs(end)).await;
    }
    let before = T0.plus_secs(35);
    assert_eq!(store.sandbox_purge(before, 0).await.expect("none allowed"), 0);
    assert_eq!(store.sandbox_purge(before, 2).await.expect("two"), 2);
    assert_eq!(remaining(&store).await, [4, 1]);
    assert_eq!(store.sandbox_purge(before, 100).await.expect("the rest"), 1);
    assert_eq!(store.sandbox_purge(before, 100).await.expect("nothing left"), 0);
    assert_eq!(remaining(&store).await, [4]);
}

async fn purge_bound(store: Arc<dyn Store>) {
    insert_ended(&store, &record(1), T0).await;
    insert(&store, &record(2)).await.expect("inserted");
    assert_eq!(store.sandbox_purge(T0, 10).await.expect("it did not end before"), 0);
    assert_eq!(store.sandbox_purge(T0.plus_millis(1), 10).await.expect("now it did"), 1);
    assert_eq!(store.sandbox_purge(UnixMillis(i64::MAX), 10).await.expect("live"), 0);
    assert_eq!(remaining(&store).await, [2]);
}

async fn purge_frees(store: Arc<dyn Store>) {
    insert_ended(&store, &named(1, "box"), T0).await;
    assert_eq!(store.sandbox_purge(T0.plus_secs(1), 10).await.expect("one"), 1);
    expect_not_found(&store.sandbox_fetch(&id(1)).await, "sandbox");
    insert(&store, &named(1, "box")).await.expect("as if it had never been");
}

async fn remaining(store: &Arc<dyn Store>) -> Vec<u8> {
    let page = store.sandbox_list(&query(100)).await.expect("a page");
    let number = |found| (0..=u8::MAX).find(|number| id(*number) == found);
    page.items.into_iter().filter_map(|record| number(record.id)).collect()
}

pub(super) fn expect_not_found<T: std::fmt::Debug>(got: &Result<T, StoreError>, wanted: &str) {
    assert!(matches!(got, Err(StoreError::NotFound { what }) if *what == wanted), "{got:?}");
}

fn expect_taken(got: &Result<(), StoreError>, number: u8) {
    assert!(
        matches!(got, Err(StoreError::NameTaken { holder, .. }) if *holder == id(number)),
        "{got:?}"
    );
}

fn expect_internal(got: &Result<(), StoreError>) {
    assert!(matches!(got, Err(StoreError::Internal { .. })), "{got:?}");
}
