//! Pools, and the containers of one that nobody has claimed yet.

use std::sync::Arc;

use tarn_types::{
    EgressPolicy, PoolDefinition, PoolId, PoolMember, PoolRecord, Resources, SandboxRecord,
};
use tokio::task::JoinSet;

use super::{
    Case,
    sample::{T0, advance, ended, id, insert, project, query, record, running, update},
    sandbox::expect_not_found,
};
use crate::{Store, StoreError};

pub(super) const CASES: &[Case] = &[
    Case::new("a pool comes back as it was stored, oldest first", |s| Box::pin(round_trip(s))),
    Case::new("the same pool id is refused", |s| Box::pin(same_id(s))),
    Case::new("a pool's update compares the sequence", |s| Box::pin(compare_and_set(s))),
    Case::new("what is fixed of a pool stays", |s| Box::pin(fixed_fields(s))),
    Case::new("a deleted pool is gone, and twice is fine", |s| Box::pin(delete(s))),
    Case::new("an unclaimed container is in no list", |s| Box::pin(unclaimed(s))),
    Case::new("a claim moves a container to its place in the list", |s| Box::pin(claim(s))),
    Case::new("a claimed container is never unclaimed again", |s| Box::pin(no_way_back(s))),
    Case::new("of 16 racing claims of a container one wins", |s| Box::pin(claims(s))),
];

fn pool(number: u8) -> PoolRecord {
    PoolRecord {
        id: PoolId::from_random([number; 16]),
        project: project(1),
        created_at: T0.plus_millis(u64::from(number)),
        updated_at: T0.plus_millis(u64::from(number)),
        definition: PoolDefinition {
            image: "tensorlake/ubuntu-minimal".parse().expect("a good image name"),
            resources: Resources::default(),
            entrypoint: Some(vec!["sh".to_owned(), "\u{1f980}".to_owned()]),
            network: Some(EgressPolicy::CLOSED),
        },
        timeout_secs: 30,
        max_containers: Some(5),
        warm_containers: None,
        sequence: 1,
    }
}

fn changed(pool: &PoolRecord) -> PoolRecord {
    PoolRecord { sequence: pool.sequence + 1, warm_containers: Some(2), ..pool.clone() }
}

/// Returns a container of pool 1 that waits.
fn container(number: u8) -> SandboxRecord {
    let member = PoolMember { pool: pool(1).id, claimed_at: None };
    SandboxRecord { member: Some(member), ..record(number) }
}

/// Returns the same, claimed so many seconds after the first.
fn claimed(record: &SandboxRecord, secs: u64) -> SandboxRecord {
    let at = T0.plus_secs(secs);
    let member = PoolMember { pool: pool(1).id, claimed_at: Some(at) };
    SandboxRecord { created_at: at, member: Some(member), ..advance(record) }
}

async fn round_trip(store: Arc<dyn Store>) {
    assert_eq!(store.pool_list().await.expect("a list"), []);
    for number in [2, 1] {
        store.pool_insert(&pool(number)).await.expect("inserted");
    }
    assert_eq!(store.pool_list().await.expect("a list"), [pool(1), pool(2)]);
}

async fn same_id(store: Arc<dyn Store>) {
    store.pool_insert(&pool(1)).await.expect("inserted");
    let again = store.pool_insert(&changed(&pool(1))).await;
    assert!(matches!(again, Err(StoreError::Exists { what: "pool" })), "{again:?}");
    assert_eq!(store.pool_list().await.expect("a list"), [pool(1)]);
}

async fn compare_and_set(store: Arc<dyn Store>) {
    expect_not_found(&store.pool_update(&changed(&pool(1))).await, "pool");
    store.pool_insert(&pool(1)).await.expect("inserted");
    store.pool_update(&changed(&pool(1))).await.expect("the next sequence");
    let late = store.pool_update(&changed(&pool(1))).await;
    assert!(matches!(late, Err(StoreError::PoolConflict { .. })), "{late:?}");
    assert_eq!(store.pool_list().await.expect("a list"), [changed(&pool(1))]);
}

async fn fixed_fields(store: Arc<dyn Store>) {
    store.pool_insert(&pool(1)).await.expect("inserted");
    let moved = PoolRecord { project: project(2), ..changed(&pool(1)) };
    let younger = PoolRecord { created_at: T0.plus_secs(9), ..changed(&pool(1)) };
    for broken in [moved, younger] {
        let refused = store.pool_update(&broken).await;
        assert!(matches!(refused, Err(StoreError::Internal { .. })), "{refused:?}");
    }
    assert_eq!(store.pool_list().await.expect("a list"), [pool(1)]);
}

async fn delete(store: Arc<dyn Store>) {
    store.pool_insert(&pool(1)).await.expect("inserted");
    for _ in 0..2 {
        store.pool_delete(&pool(1).id).await.expect("deleted");
        assert_eq!(store.pool_list().await.expect("a list"), []);
    }
}

async fn unclaimed(store: Arc<dyn Store>) {
    let waits = container(1);
    insert(&store, &waits).await.expect("inserted");
    insert(&store, &record(2)).await.expect("inserted");
    let page = store.sandbox_list(&query(9)).await.expect("a page");
    assert_eq!((page.items, page.has_newer, page.has_older), (vec![record(2)], false, false));
    // Who looks after it finds it.
    assert_eq!(store.sandbox_fetch(&id(1)).await.expect("it is there"), waits);
    let live = store.sandbox_list_live().await.expect("a list");
    assert_eq!(live, [waits.clone(), record(2)]);
    // Nor when it has ended.
    update(&store, &ended(&waits, T0.plus_secs(5))).await.expect("ended");
    assert_eq!(store.sandbox_list(&query(9)).await.expect("a page").items, [record(2)]);
    assert_eq!(store.sandbox_purge(T0.plus_secs(6), 9).await.expect("purged"), 1);
    expect_not_found(&store.sandbox_fetch(&id(1)).await, "sandbox");
}

async fn claim(store: Arc<dyn Store>) {
    let waits = running(&container(1));
    insert(&store, &SandboxRecord { sequence: 1, ..waits.clone() }).await.expect("inserted");
    insert(&store, &record(2)).await.expect("inserted");
    let claimed = claimed(&SandboxRecord { sequence: 1, ..waits }, 60);
    update(&store, &claimed).await.expect("claimed");
    let page = store.sandbox_list(&query(9)).await.expect("a page");
    assert_eq!(page.items, [claimed.clone(), record(2)], "it is the newest");
    // From then on its time is fixed, as any other's.
    let younger = SandboxRecord { created_at: T0.plus_secs(90), ..advance(&claimed) };
    let refused = update(&store, &younger).await;
    assert!(matches!(refused, Err(StoreError::Internal { .. })), "{refused:?}");
}

async fn no_way_back(store: Arc<dyn Store>) {
    let mine = claimed(&container(1), 0);
    insert(&store, &SandboxRecord { sequence: 1, ..mine.clone() }).await.expect("inserted");
    let back = SandboxRecord { member: container(1).member, sequence: 2, ..mine };
    let refused = update(&store, &back).await;
    assert!(matches!(refused, Err(StoreError::Internal { .. })), "{refused:?}");
}

async fn claims(store: Arc<dyn Store>) {
    insert(&store, &container(1)).await.expect("inserted");
    let mut racing = JoinSet::new();
    for secs in 0..16 {
        let store = Arc::clone(&store);
        let claim = claimed(&container(1), secs);
        racing.spawn(async move { (claim.clone(), update(&store, &claim).await) });
    }
    let mut won = Vec::new();
    while let Some(joined) = racing.join_next().await {
        match joined.expect("no claim panics") {
            (claim, Ok(())) => won.push(claim),
            (_, Err(StoreError::Conflict { .. })) => {}
            (_, Err(failed)) => unreachable!("{failed:?}"),
        }
    }
    assert_eq!(won.len(), 1);
    assert_eq!(store.sandbox_fetch(&id(1)).await.expect("it is there"), won[0]);
}
