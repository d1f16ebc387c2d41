//! Many callers at once.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::{
    Case,
    sample::{advance, insert, key, named, project_record, query, record, update},
};
use crate::{Store, StoreError};

pub(super) const CASES: &[Case] = &[
    Case::new("of 32 racing updates one wins each sequence", |s| Box::pin(updates(s))),
    Case::new("of 16 racing inserts of a name one wins", |s| Box::pin(names(s))),
    Case::new("of 16 racing inserts of an id one wins", |s| Box::pin(ids(s))),
    Case::new("racing renames to one name have one winner", |s| Box::pin(renames(s))),
    Case::new("racing projects of a name are one", |s| Box::pin(projects(s))),
    Case::new("racing keys of a hash are one", |s| Box::pin(keys(s))),
    Case::new("a failing verb takes no other verb with it", |s| Box::pin(neighbours(s))),
    Case::new("every verb reads what was answered before", |s| Box::pin(read_your_write(s))),
];

async fn updates(store: Arc<dyn Store>) {
    let first = record(1);
    insert(&store, &first).await.expect("inserted");
    for round in 1..=8 {
        let base = store.sandbox_fetch(&first.id).await.expect("it is there");
        assert_eq!(base.sequence, round);
        let mut racers = JoinSet::new();
        for racer in 0..32_u64 {
            let store = Arc::clone(&store);
            let mut next = advance(&base);
            next.asked.timeout_secs = racer;
            racers.spawn(async move {
                match update(&store, &next).await {
                    Ok(()) => Some(next),
                    Err(StoreError::Conflict { .. }) => None,
                    Err(other) => unexpected(&other),
                }
            });
        }
        let winner = only_one(racers.join_all().await);
        assert_eq!(store.sandbox_fetch(&first.id).await.expect("it is there"), winner);
    }
}

async fn names(store: Arc<dyn Store>) {
    let mut racers = JoinSet::new();
    for number in 0..16 {
        let store = Arc::clone(&store);
        racers.spawn(async move {
            match insert(&store, &named(number, "box")).await {
                Ok(()) => Some(number),
                Err(StoreError::NameTaken { .. }) => None,
                Err(other) => unexpected(&other),
            }
        });
    }
    let winner = named(only_one(racers.join_all().await), "box");
    let page = store.sandbox_list(&query(100)).await.expect("a page");
    assert_eq!(page.items, [winner], "the losers left nothing");
}

async fn ids(store: Arc<dyn Store>) {
    let mut racers = JoinSet::new();
    for racer in 0..16 {
        let store = Arc::clone(&store);
        let mut record = record(1);
        record.asked.timeout_secs = racer;
        racers.spawn(async move {
            match insert(&store, &record).await {
                Ok(()) => Some(record),
                Err(StoreError::Exists { .. }) => None,
                Err(other) => unexpected(&other),
            }
        });
    }
    let winner = only_one(racers.join_all().await);
    assert_eq!(store.sandbox_fetch(&winner.id).await.expect("it is there"), winner);
}

async fn renames(store: Arc<dyn Store>) {
    let mut racers = JoinSet::new();
    for number in 0..16 {
        insert(&store, &record(number)).await.expect("inserted");
        let store = Arc::clone(&store);
        let mut next = named(number, "box");
        next.sequence = 2;
        racers.spawn(async move {
            match update(&store, &next).await {
                Ok(()) => Some(next),
                Err(StoreError::NameTaken { .. }) => None,
                Err(other) => unexpected(&other),
            }
        });
    }
    let winner = only_one(racers.join_all().await);
    let page = store.sandbox_list(&query(100)).await.expect("a page");
    let holders: Vec<_> = page.items.iter().filter(|item| item.asked.name.is_some()).collect();
    assert_eq!(holders, [&winner]);
}

async fn projects(store: Arc<dyn Store>) {
    let mut racers = JoinSet::new();
    for number in 0..16 {
        let store = Arc::clone(&store);
        racers.spawn(async move {
            store.project_ensure(&project_record(number, "default")).await.expect("a project")
        });
    }
    let mut got = racers.join_all().await;
    got.dedup();
    assert_eq!(got.len(), 1, "{got:?}");
}

async fn keys(store: Arc<dyn Store>) {
    store.project_ensure(&project_record(1, "default")).await.expect("a project");
    let mut racers = JoinSet::new();
    for number in 0..16 {
        let store = Arc::clone(&store);
        let mut racing = key(number);
        racing.hash = key(99).hash;
        racers.spawn(async move {
            match store.key_insert(&racing).await {
                Ok(()) => Some(racing),
                Err(StoreError::Exists { .. }) => None,
                Err(other) => unexpected(&other),
            }
        });
    }
    let winner = only_one(racers.join_all().await);
    assert_eq!(store.key_list().await.expect("a list"), [winner]);
}

/// A store that commits many verbs together must undo only those that failed.
async fn neighbours(store: Arc<dyn Store>) {
    insert(&store, &named(0, "taken")).await.expect("inserted");
    let mut racers = JoinSet::new();
    for number in 1..=60 {
        let store = Arc::clone(&store);
        racers.spawn(async move {
            let fails = number % 3 == 0;
            let record = if fails { named(number, "taken") } else { record(number) };
            let answer = insert(&store, &record).await;
            assert_eq!(answer.is_err(), fails, "{number}: {answer:?}");
        });
    }
    racers.join_all().await;
    let live = store.sandbox_list_live().await.expect("a list");
    let numbers: Vec<_> = live.into_iter().map(|record| record.id).collect();
    let expected: Vec<_> =
        (0..=60).filter(|n| *n == 0 || n % 3 != 0).map(|number| record(number).id).collect();
    assert_eq!(numbers, expected);
}

async fn read_your_write(store: Arc<dyn Store>) {
    let mut writers = JoinSet::new();
    for number in 0..16 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let mut current = record(number);
            insert(&store, &current).await.expect("inserted");
            for _ in 0..10 {
                let found = store.sandbox_fetch(&current.id).await.expect("it was answered");
                assert_eq!(found, current);
                current = advance(&current);
                update(&store, &current).await.expect("nobody else writes it");
            }
        });
    }
    writers.join_all().await;
}

fn only_one<T>(outcomes: Vec<Option<T>>) -> T {
    let mut winners: Vec<_> = outcomes.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1, "exactly one must win");
    winners.pop().expect("just counted")
}

fn unexpected<T>(error: &StoreError) -> T {
    unreachable!("a loser was told: {error}")
}
