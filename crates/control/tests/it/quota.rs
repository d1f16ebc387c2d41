//! Quotas: nobody gets more places than there are, whichever way is tried.

use std::{sync::Arc, time::Duration};

use tarn_control::{
    ControlConfig, ControlError, CreateAsk, NetworkPatch, PoolAsk, ProjectView, SandboxView,
};
use tarn_route_api::Routes as _;
use tarn_store::{MemoryStore, ProjectRecord, Store as _};
use tarn_types::{
    ObservedPhase, PendingReason, PoolId, ProjectId, SandboxId, SandboxRef, SandboxStatus,
    SecretName, SecretValue, SshPublicKey, UnixMillis,
};
use tokio::task::JoinSet;

use crate::fake::{FakeNode, Manner, World, named};

const HOLD: Duration = Duration::from_secs(5);

/// Starts a world whose project may have so many sandboxes.
async fn world(most: u32) -> World {
    let world = World::new(Manner::Prompt).await;
    let project = ProjectRecord {
        id: world.project.clone(),
        name: "default".to_owned(),
        created_at: UnixMillis(1),
    };
    world.store.project_ensure(&project).await.expect("made");
    world.control.quota_set("default", Some(most)).await.expect("set");
    world
}

impl World {
    async fn try_create(&self, ask: CreateAsk) -> Result<SandboxView, ControlError> {
        self.control.sandbox_create(&self.project, ask, HOLD).await
    }

    async fn end(&self, id: &SandboxId) {
        let sandbox = SandboxRef::Id(id.clone());
        self.control.sandbox_delete(&self.project, &sandbox).await.expect("deleted");
    }

    async fn suspend(&self, id: &SandboxId) {
        let sandbox = SandboxRef::Id(id.clone());
        let suspended = self.control.sandbox_suspend(&self.project, &sandbox, Some(HOLD)).await;
        suspended.expect("suspended");
    }

    async fn usage(&self) -> ProjectView {
        self.control.project_list().await.expect("a list").remove(0)
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, ControlError>) -> String {
    match answer {
        Err(error @ ControlError::QuotaExceeded { .. }) => error.to_string(),
        other => unreachable!("it must be refused: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_creates_at_once_as_many_pass_as_there_are_places() {
    let world = Arc::new(world(3).await);
    let mut creates = JoinSet::new();
    for _ in 0..12 {
        let world = Arc::clone(&world);
        creates.spawn(async move { world.try_create(CreateAsk::default()).await });
    }
    let answers = creates.join_all().await;
    let made: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    assert_eq!(made.len(), 3);
    assert_eq!(world.usage().await.sandboxes, 3);
    let text = refused(world.try_create(CreateAsk::default()).await);
    assert!(text.contains("is 3, of which 3 are taken; 1 more would exceed it"), "{text}");
    world.end(&made[0].record.id).await;
    world.try_create(CreateAsk::default()).await.expect("its place is free");
    refused(world.try_create(CreateAsk::default()).await);
}

#[tokio::test(start_paused = true)]
async fn what_comes_to_nothing_gives_its_place_back() {
    let world = world(2).await;
    world.try_create(named("a")).await.expect("there is room");
    for _ in 0..3 {
        let taken = world.try_create(named("a")).await;
        assert!(matches!(taken, Err(ControlError::NameTaken { .. })), "{taken:?}");
    }
    world.try_create(named("b")).await.expect("the second place is free");
}

#[tokio::test(start_paused = true)]
async fn a_suspended_one_does_not_count_until_it_goes_on() {
    let world = world(1).await;
    let first = world.try_create(named("first")).await.expect("there is room").record.id;
    world.suspend(&first).await;
    let second = world.try_create(named("second")).await.expect("there is room again").record.id;
    let sandbox = SandboxRef::Id(first.clone());
    let resume = || world.control.sandbox_resume(&world.project, &sandbox, Some(HOLD));
    refused(resume().await);
    let view = world.view(&first).await;
    assert_eq!(view.status, SandboxStatus::Suspended);
    assert_eq!(view.record.intent.pending_reason, None, "nothing waits for what was refused");
    world.end(&second).await;
    resume().await.expect("there is room");
    assert_eq!(world.status(&first).await, SandboxStatus::Running);
    refused(world.try_create(CreateAsk::default()).await);
}

#[tokio::test(start_paused = true)]
async fn what_traffic_wakes_waits_for_a_place() {
    let world = world(1).await;
    let first = world.try_create(named("first")).await.expect("there is room").record.id;
    world.suspend(&first).await;
    let second = world.try_create(CreateAsk::default()).await.expect("there is room").record.id;
    world.control.wake(&first).await.expect("it is noted");
    let reason = world.view(&first).await.record.intent.pending_reason;
    assert_eq!(reason, Some(PendingReason::MaxCapacityReached));
    world.until_reconciled().await;
    assert_eq!(world.status(&first).await, SandboxStatus::Suspended);
    world.end(&second).await;
    let runs = async || world.status(&first).await == SandboxStatus::Running;
    world.until("it goes on", runs).await;
    assert_eq!(world.usage().await.sandboxes, 1);
}

#[tokio::test(start_paused = true)]
async fn copies_are_made_all_or_none() {
    let world = world(3).await;
    let source = world.try_create(named("source")).await.expect("there is room").record.id;
    let sandbox = SandboxRef::Id(source);
    let copy = |times| world.control.sandbox_copy(&world.project, &sandbox, times, HOLD);
    let text = refused(copy(3).await);
    assert!(text.contains("3 more would exceed it"), "{text}");
    assert!(world.node.orders.lock().is_empty(), "nothing was captured in vain");
    let (_, copies) = copy(2).await.expect("there is room");
    assert_eq!(copies.len(), 2);
    assert_eq!(world.usage().await.sandboxes, 3);
    refused(copy(1).await);
}

fn pool_ask(warm: u32) -> PoolAsk {
    PoolAsk {
        image: "tensorlake/ubuntu-minimal".parse().expect("a good name"),
        cpu: None,
        memory: None,
        disk: None,
        gpus: None,
        timeout_secs: Some(30),
        entrypoint: None,
        max_containers: None,
        warm_containers: Some(warm),
        network: NetworkPatch::Keep,
    }
}

async fn pool(world: &World, warm: u32) -> PoolId {
    let made = world.control.pool_create(&world.project, pool_ask(warm)).await;
    made.expect("made").record.id
}

#[tokio::test(start_paused = true)]
async fn claims_count_and_a_pool_starts_no_more_than_could_be_claimed() {
    let world = world(2).await;
    let id = pool(&world, 5).await;
    let containers =
        || world.control.pool_fetch(&world.project, &id).expect("it is there").containers;
    world.until("two wait", async || containers().len() == 2).await;
    world.until_reconciled().await;
    assert_eq!(containers().len(), 2);
    assert_eq!(world.usage().await.sandboxes, 0, "nobody has them");
    let claim = || world.control.pool_claim(&world.project, &id, HOLD);
    let first = claim().await.expect("there is a place").record.id;
    claim().await.expect("there is another");
    refused(claim().await);
    refused(world.try_create(CreateAsk::default()).await);
    world.end(&first).await;
    claim().await.expect("there is a place again");
}

#[tokio::test(start_paused = true)]
async fn a_quota_and_what_counts_outlive_the_server() {
    let (store, node) = (Arc::new(MemoryStore::default()), FakeNode::new(Manner::Prompt));
    let before = World::over(Arc::clone(&store), Arc::clone(&node)).await;
    let project = ProjectRecord {
        id: before.project.clone(),
        name: "default".to_owned(),
        created_at: UnixMillis(1),
    };
    store.project_ensure(&project).await.expect("made");
    let view = before.control.quota_set(project.id.as_str(), Some(2)).await.expect("set");
    assert_eq!((view.quota, view.is_default, view.sandboxes), (2, false, 0));
    let kept = before.create(named("kept")).await.record.id;
    before.create(CreateAsk::default()).await;
    before.suspend(&kept).await;
    before.control_dies();

    let world = World::over(store, node).await;
    assert_eq!(world.usage().await.sandboxes, 1);
    world.try_create(CreateAsk::default()).await.expect("there is room");
    refused(world.try_create(CreateAsk::default()).await);
    // A node's word counts, whatever the quota.
    world.node.say(&kept, 3, ObservedPhase::Running).await;
    assert!(world.usage().await.sandboxes <= 3);
    world.control.quota_set("default", None).await.expect("given back");
    world.try_create(CreateAsk::default()).await.expect("there is no limit");
    assert!(world.usage().await.is_default);
    let nobody = world.control.quota_set("nobody", Some(1)).await;
    let nobody = nobody.expect_err("there is none").to_string();
    assert!(nobody.contains("no such project; `tarn project list`"), "{nobody}");
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_of_one_project_alone() {
    let world = world(1).await;
    world.try_create(CreateAsk::default()).await.expect("there is room");
    let other = ProjectId::from_random([8; 16]);
    for _ in 0..3 {
        let made = world.control.sandbox_create(&other, CreateAsk::default(), HOLD).await;
        made.expect("nobody limits it");
    }
    refused(world.try_create(CreateAsk::default()).await);
}

fn too_many<T: std::fmt::Debug>(answer: Result<T, ControlError>) -> String {
    match answer {
        Err(error @ ControlError::TooMany { .. }) => error.to_string(),
        other => unreachable!("it must be refused: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_pools_at_once_as_many_are_made_as_there_may_be() {
    let config = ControlConfig { pools_per_project: 3, ..ControlConfig::default() };
    let world = Arc::new(World::configured(config).await);
    let mut creates = JoinSet::new();
    for _ in 0..12 {
        let world = Arc::clone(&world);
        creates.spawn(async move { world.control.pool_create(&world.project, pool_ask(0)).await });
    }
    let answers = creates.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
    assert_eq!(world.store.pool_list().await.expect("a list").len(), 3);
    let text = too_many(world.control.pool_create(&world.project, pool_ask(0)).await);
    assert!(text.contains("may have 3 pools (`quota.pools`)"), "{text}");
    // What is there can be changed, others have their own, and a place is free again.
    let first = &world.control.pool_list(&world.project)[0].record.id;
    world.control.pool_update(&world.project, first, pool_ask(0)).await.expect("changed");
    let other = ProjectId::from_random([3; 16]);
    world.control.pool_create(&other, pool_ask(0)).await.expect("theirs");
    world.control.pool_delete(&world.project, first).await.expect("deleted");
    world.control.pool_create(&world.project, pool_ask(0)).await.expect("a place is free");
}

fn secrets(names: &[&str]) -> Vec<(SecretName, SecretValue)> {
    let value = || SecretValue::new("v".to_owned()).expect("a good value");
    names.iter().map(|name| (name.parse().expect("a good name"), value())).collect()
}

#[tokio::test(start_paused = true)]
async fn of_many_secrets_at_once_as_many_are_set_as_there_may_be() {
    let config = ControlConfig { secrets_per_project: 3, ..ControlConfig::default() };
    let world = Arc::new(World::configured(config).await);
    let mut puts = JoinSet::new();
    for number in 0..12 {
        let world = Arc::clone(&world);
        let secret = secrets(&[&format!("S{number}")]);
        puts.spawn(async move { world.control.secret_put(&world.project, secret).await });
    }
    let answers = puts.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
    let there = world.control.secret_list(&world.project).await.expect("a list");
    assert_eq!(there.len(), 3);
    let put = async |names: &[&str]| {
        world.control.secret_put(&world.project, secrets(names)).await.map(|set| set.len())
    };
    // All or none, a name counts once, and what is there gets new values.
    let [first, second] = [there[0].name.as_str(), there[1].name.as_str()];
    let text = too_many(put(&[first, "NEW"]).await);
    assert!(text.contains("may have 3 secrets (`quota.secrets`), and has 3"), "{text}");
    assert_eq!(put(&[first, second]).await.expect("they are there"), 2);
    world.control.secret_delete(&world.project, &there[2].id).await.expect("deleted");
    too_many(put(&["NEW", "NEWER"]).await);
    put(&["NEW"]).await.expect("a place is free");
    let other = ProjectId::from_random([3; 16]);
    world.control.secret_put(&other, secrets(&["THEIRS"])).await.expect("they have their own");
}

#[tokio::test(start_paused = true)]
async fn of_many_ssh_keys_at_once_as_many_are_registered_as_there_may_be() {
    let config = ControlConfig { ssh_keys_per_project: 3, ..ControlConfig::default() };
    let world = Arc::new(World::configured(config).await);
    let key = |number: usize| SshPublicKey {
        algorithm: "ssh-ed25519".to_owned(),
        fingerprint: format!("SHA256:{number}"),
        line: format!("ssh-ed25519 {number}"),
    };
    let mut creates = JoinSet::new();
    for number in 0..12 {
        let world = Arc::clone(&world);
        creates.spawn(async move {
            world.control.ssh_key_create(&world.project, "k".to_owned(), key(number)).await
        });
    }
    let answers = creates.join_all().await;
    let made: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    assert_eq!(made.len(), 3);
    let create = |key| world.control.ssh_key_create(&world.project, "k".to_owned(), key);
    let text = too_many(create(key(12)).await);
    assert!(text.contains("may have 3 SSH keys (`quota.ssh_keys`)"), "{text}");
    let again = create(made[0].key.clone()).await;
    assert!(matches!(again, Err(ControlError::SshKeyExists { .. })), "{again:?}");
    world.control.ssh_key_delete(&world.project, &made[0].id).await.expect("removed");
    create(key(12)).await.expect("a place is free");
}
