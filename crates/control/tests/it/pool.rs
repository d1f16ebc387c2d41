//! Pools: filled, claimed from, changed, deleted, over deaths of the server.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tarn_control::{
    ControlError, GpuAsk, ListAsk, NetworkPatch, PoolAsk, PoolContainer, SandboxView,
};
use tarn_node_api::NodeTarget;
use tarn_route_api::{RouteError, Routes as _};
use tarn_store::{Loss, MemoryStore, Order, Store as _, UnreliableStore};
use tarn_types::{
    ByteSize, EgressPolicy, EndCause, FailedStep, ObservedPhase, PendingReason, PoolId, ProjectId,
    SandboxId, SandboxRef, SandboxStatus, StartFailure,
};
use tokio::task::JoinSet;

use crate::fake::{FakeNode, Manner, World};

const HOLD: Duration = Duration::from_secs(5);

fn ask(warm: u32, max: Option<u32>) -> PoolAsk {
    PoolAsk {
        image: "tensorlake/ubuntu-minimal".parse().expect("a good name"),
        cpu: None,
        memory: None,
        disk: None,
        gpus: None,
        timeout_secs: Some(30),
        entrypoint: None,
        max_containers: max,
        warm_containers: Some(warm),
        network: NetworkPatch::Keep,
    }
}

impl World {
    async fn pool(&self, warm: u32, max: Option<u32>) -> PoolId {
        let made = self.control.pool_create(&self.project, ask(warm, max)).await;
        let id = made.expect("made").record.id;
        self.until_idle(&id, warm.min(max.unwrap_or(warm)) as usize).await;
        id
    }

    fn containers(&self, pool: &PoolId) -> Vec<PoolContainer> {
        self.control.pool_fetch(&self.project, pool).expect("it is there").containers
    }

    fn idle(&self, pool: &PoolId) -> BTreeSet<SandboxId> {
        let all = self.containers(pool).into_iter();
        all.filter(|container| !container.claimed).map(|container| container.id).collect()
    }

    async fn until_idle(&self, pool: &PoolId, count: usize) {
        self.until(&format!("{count} idle"), async || self.idle(pool).len() == count).await;
    }

    async fn claim(&self, pool: &PoolId) -> SandboxView {
        self.control.pool_claim(&self.project, pool, HOLD).await.expect("accepted")
    }

    async fn update(&self, pool: &PoolId, ask: PoolAsk) {
        self.control.pool_update(&self.project, pool, ask).await.expect("changed");
    }

    async fn terminate(&self, id: &SandboxId) {
        let sandbox = SandboxRef::Id(id.clone());
        self.control.sandbox_delete(&self.project, &sandbox).await.expect("deleted");
    }

    async fn listed(&self) -> Vec<SandboxId> {
        let ask =
            ListAsk { archived: false, status: None, from: None, order: Order::Forward, limit: 99 };
        let page = self.control.sandbox_list(&self.project, &ask).await.expect("a page");
        page.items.into_iter().map(|view| view.record.id).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_takes_a_container_that_waits_and_another_takes_its_place() {
    let world = World::new(Manner::Prompt).await;
    let pool = world.pool(2, None).await;
    world.until_reconciled().await;
    let idle = world.idle(&pool);
    assert_eq!(idle.len(), 2, "exactly two");
    world.clock.advance_millis(5000);
    let claimed = world.claim(&pool).await;
    let id = claimed.record.id.clone();
    assert!(idle.contains(&id), "it was there already");
    assert_eq!((claimed.status, claimed.record.asked.timeout_secs), (SandboxStatus::Running, 30));
    let at = claimed.record.created_at;
    assert_eq!(at.0, 1_005_000, "it is as old as its claim");
    // The node knows when its clock begins.
    let told = world.node.told.lock().get(&id).cloned().expect("told");
    let NodeTarget::Running(launch) = told.target else { panic!("it runs on") };
    assert_eq!((launch.claimed_at, launch.timeout_secs), (Some(at), 30));
    // A replacement, and the claimed one in the same list.
    world.until_idle(&pool, 2).await;
    world.until_reconciled().await;
    let containers = world.containers(&pool);
    assert_eq!(containers.len(), 3);
    assert!(containers.iter().any(|container| container.claimed && container.id == id));
    // Its end leaves the two that wait.
    world.terminate(&id).await;
    world.until_reconciled().await;
    assert_eq!((world.containers(&pool).len(), world.idle(&pool).len()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_a_pool_is_seen_by_nobody() {
    let world = World::new(Manner::Prompt).await;
    let pool = world.pool(1, None).await;
    let id = world.idle(&pool).into_iter().next().expect("one");
    let sandbox = SandboxRef::Id(id.clone());
    let not_found = |got: Result<_, ControlError>| {
        assert!(matches!(got, Err(ControlError::SandboxNotFound(_))), "{got:?}");
    };
    not_found(world.control.sandbox_fetch(&world.project, &sandbox).await.map(drop));
    not_found(world.control.sandbox_delete(&world.project, &sandbox).await);
    not_found(world.control.log_process_list(&world.project, &sandbox).await.map(drop));
    not_found(world.control.snapshot_list(&world.project, Some(&sandbox)).await.map(drop));
    let resumed = world.control.sandbox_resume(&world.project, &sandbox, None).await;
    not_found(resumed.map(drop));
    assert_eq!(world.listed().await, []);
    assert!(world.control.live_counts().iter().all(|(_, count)| *count == 0));
    for project in [None, Some(&world.project)] {
        let route = world.control.resolve(&sandbox, project).await;
        assert!(matches!(route, Err(RouteError::NotFound(_))), "{route:?}");
    }
    // From its claim on it is there.
    assert_eq!(world.claim(&pool).await.record.id, id);
    assert_eq!(world.listed().await, std::slice::from_ref(&id));
    let route = world.control.resolve(&sandbox, Some(&world.project)).await.expect("a route");
    assert!(route.endpoint.is_some() && !route.wakes);
}

#[tokio::test(start_paused = true)]
async fn fifty_claims_at_once_get_each_its_own() {
    let world = World::new(Manner::Prompt).await;
    let pool = world.pool(30, None).await;
    let warm = world.idle(&pool);
    let mut claims = JoinSet::new();
    for _ in 0..50 {
        let (control, project, pool) = (world.control.clone(), world.project.clone(), pool.clone());
        claims.spawn(async move { control.pool_claim(&project, &pool, HOLD).await });
    }
    let mut got = BTreeSet::new();
    for claimed in claims.join_all().await {
        let claimed = claimed.expect("accepted");
        assert_eq!(claimed.status, SandboxStatus::Running);
        assert!(got.insert(claimed.record.id), "handed out twice");
    }
    assert_eq!(got.len(), 50);
    assert!(warm.is_subset(&got), "what waited was used first");
    world.until_idle(&pool, 30).await;
    world.until_reconciled().await;
    assert_eq!((world.idle(&pool).len(), world.containers(&pool).len()), (30, 80));
}

#[tokio::test(start_paused = true)]
async fn a_claim_at_the_maximum_waits_for_the_end_of_another() {
    let world = World::new(Manner::Prompt).await;
    let pool = world.pool(2, Some(2)).await;
    let first = world.claim(&pool).await.record.id;
    let second = world.claim(&pool).await.record.id;
    world.until_reconciled().await;
    assert_eq!(world.containers(&pool).len(), 2, "no replacement at the maximum");
    let waits = world.claim(&pool).await;
    assert_eq!(waits.status, SandboxStatus::Pending);
    assert_eq!(waits.record.intent.pending_reason, Some(PendingReason::PoolAtCapacity));
    let refused = world.control.pool_delete(&world.project, &pool).await;
    assert!(matches!(refused, Err(ControlError::PoolInUse { live: 3, .. })), "{refused:?}");
    world.until_reconciled().await;
    assert_eq!(world.status(&waits.record.id).await, SandboxStatus::Pending);
    world.terminate(&first).await;
    world.until_reconciled().await;
    assert_eq!(world.status(&waits.record.id).await, SandboxStatus::Running);
    assert_eq!(world.idle(&pool), BTreeSet::new(), "the claim came first");
    // Held, it is answered when it runs.
    let claim = world.control.pool_claim(&world.project, &pool, Duration::from_secs(300));
    tokio::pin!(claim);
    tokio::select! {
        biased;
        held = &mut claim => panic!("{held:?}"),
        () = world.until_reconciled() => {}
    }
    world.terminate(&second).await;
    assert_eq!(claim.await.expect("accepted").status, SandboxStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn a_pool_is_looked_after_while_a_registry_is_asked_for_its_change() {
    let world = World::new(Manner::Prompt).await;
    let pool = world.pool(2, None).await;
    let digest = format!("sha256:{}", "a".repeat(64)).parse().expect("a digest");
    world.images.offer("registry/pool:1", &digest, None);
    world.images.set_answering(false);
    let change = PoolAsk { image: "registry/pool:1".parse().expect("a name"), ..ask(2, None) };
    let (changed, ()) =
        tokio::join!(world.control.pool_update(&world.project, &pool, change), async {
            world.until("the question", async || world.images.asked() == 1).await;
            let claimed = world.claim(&pool).await;
            assert_eq!(claimed.status, SandboxStatus::Running);
            world.until_idle(&pool, 2).await;
            world.images.set_answering(true);
        });
    assert_eq!(changed.expect("changed").record.definition.image.name.as_str(), "registry/pool:1");
}

#[tokio::test(start_paused = true)]
async fn a_claim_takes_nothing_beyond_a_maximum_that_was_just_reached() {
    let world = World::new(Manner::Prompt).await;
    let pool = world.pool(1, Some(2)).await;
    let sleeper = world.claim(&pool).await.record;
    world.until_idle(&pool, 1).await;
    // What waits is still there when the claim comes right behind the change.
    let hold = Duration::from_millis(1);
    let control = &world.control;
    let (changed, claimed) = tokio::join!(
        control.pool_update(&world.project, &pool, ask(1, Some(1))),
        control.pool_claim(&world.project, &pool, hold)
    );
    changed.expect("changed");
    let claimed = claimed.expect("accepted").record;
    assert_eq!(claimed.intent.pending_reason, Some(PendingReason::PoolAtCapacity));
    world.until_reconciled().await;
    assert_eq!(world.containers(&pool).len(), 1);
    // The same behind a resume that takes the last place.
    world.terminate(&claimed.id).await;
    world.node.say(&sleeper.id, sleeper.intent.generation.0, ObservedPhase::Suspended).await;
    world.until_idle(&pool, 1).await;
    let sandbox = SandboxRef::Id(sleeper.id.clone());
    let (resumed, claimed) = tokio::join!(
        control.sandbox_resume(&world.project, &sandbox, Some(HOLD)),
        control.pool_claim(&world.project, &pool, hold)
    );
    resumed.expect("it goes on");
    let claimed = claimed.expect("accepted").record;
    assert_eq!(claimed.intent.pending_reason, Some(PendingReason::PoolAtCapacity));
    world.until_reconciled().await;
    assert_eq!(world.containers(&pool).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_an_empty_pool_is_a_cold_start_with_its_definition() {
    let world = World::new(Manner::Silent).await;
    let of = PoolAsk {
        entrypoint: Some(vec!["serve".to_owned()]),
        network: NetworkPatch::Replace(EgressPolicy::CLOSED),
        memory: Some(ByteSize::from_mib(512)),
        ..ask(0, None)
    };
    let pool = world.control.pool_create(&world.project, of).await.expect("made").record;
    let hold = Duration::from_millis(10);
    let waits = world.control.pool_claim(&world.project, &pool.id, hold).await.expect("accepted");
    assert_eq!(waits.record.intent.pending_reason, Some(PendingReason::WaitingForContainer));
    let told = world.node.told.lock().get(&waits.record.id).cloned().expect("told");
    let NodeTarget::Running(launch) = told.target else { panic!("it starts") };
    assert_eq!(launch.entrypoint.as_deref(), Some(&["serve".to_owned()][..]));
    assert_eq!(launch.egress, EgressPolicy::CLOSED);
    assert_eq!(launch.resources.memory, ByteSize::from_mib(512));
    assert_eq!(launch.claimed_at, Some(waits.record.created_at));
    world.node.say(&waits.record.id, 1, ObservedPhase::Running).await;
    assert_eq!(world.status(&waits.record.id).await, SandboxStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn a_claim_takes_what_is_being_started_when_nothing_is_ready() {
    let world = World::new(Manner::Silent).await;
    let made = world.control.pool_create(&world.project, ask(1, Some(1))).await.expect("made");
    let pool = made.record.id;
    world.until("it is started", async || world.node.told.lock().len() == 1).await;
    let id = world.node.told.lock().keys().next().cloned().expect("one");
    assert_eq!(world.containers(&pool), [], "it does not wait yet");
    let hold = Duration::from_millis(10);
    let claimed = world.control.pool_claim(&world.project, &pool, hold).await.expect("accepted");
    assert_eq!((&claimed.record.id, claimed.status), (&id, SandboxStatus::Pending));
    // It was told to start at the first generation, and of the claim at the second.
    world.node.say(&id, 1, ObservedPhase::Running).await;
    assert_eq!(world.status(&id).await, SandboxStatus::Running);
    world.node.say(&id, 2, ObservedPhase::Running).await;
    assert_eq!(world.status(&id).await, SandboxStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn another_definition_replaces_what_waits_and_lower_numbers_shrink_it() {
    let world = World::new(Manner::Prompt).await;
    let pool = world.pool(3, None).await;
    let kept = world.claim(&pool).await.record;
    world.until_idle(&pool, 3).await;
    let old = world.idle(&pool);
    // Nothing that matters to a container: they stay.
    world.update(&pool, PoolAsk { timeout_secs: Some(90), ..ask(3, Some(9)) }).await;
    world.until_reconciled().await;
    assert_eq!(world.idle(&pool), old);
    assert_eq!(world.claim(&pool).await.record.asked.timeout_secs, 90, "the pool's of the claim");
    world.until_idle(&pool, 3).await;
    let old = world.idle(&pool);
    let closed = NetworkPatch::Replace(EgressPolicy::CLOSED);
    let changes: [PoolAsk; 4] = [
        PoolAsk { network: closed.clone(), ..ask(3, None) },
        PoolAsk { memory: Some(ByteSize::from_mib(512)), ..ask(3, None) },
        PoolAsk { entrypoint: Some(vec!["serve".to_owned()]), ..ask(3, None) },
        PoolAsk { image: "other".parse().expect("a good name"), ..ask(3, None) },
    ];
    let mut old = old;
    for change in changes {
        world.update(&pool, change.clone()).await;
        world.until_reconciled().await;
        let new = world.idle(&pool);
        assert!(new.len() == 3 && new.is_disjoint(&old), "{change:?}");
        let policy = world.control.pool_fetch(&world.project, &pool).expect("there");
        let policy = policy.record.definition.network;
        assert_eq!(policy, Some(EgressPolicy::CLOSED), "left out, it is kept");
        old = new;
    }
    let now = world.view(&kept.id).await.record;
    assert_eq!((now.asked, now.end), (kept.asked, None), "a claimed one keeps what it has");
    world.update(&pool, PoolAsk { network: NetworkPatch::Clear, ..ask(1, None) }).await;
    world.until_reconciled().await;
    assert_eq!(world.idle(&pool).len(), 1);
    let cleared = world.control.pool_fetch(&world.project, &pool).expect("there").record;
    assert_eq!(cleared.definition.network, None);
    // The maximum counts the two that are claimed.
    world.update(&pool, ask(1, Some(2))).await;
    world.until_reconciled().await;
    assert_eq!((world.idle(&pool).len(), world.containers(&pool).len()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_suspended_sandbox_takes_no_container_and_resumes_when_there_may_be_one() {
    let world = World::new(Manner::Prompt).await;
    let pool = world.pool(1, Some(1)).await;
    let sleeper = world.claim(&pool).await.record;
    // Its node suspends it at its limit.
    world.node.say(&sleeper.id, sleeper.intent.generation.0, ObservedPhase::Suspended).await;
    assert_eq!(world.status(&sleeper.id).await, SandboxStatus::Suspended);
    assert!(world.view(&sleeper.id).await.record.end.is_none());
    world.until_idle(&pool, 1).await;
    assert_eq!(world.containers(&pool).len(), 1);
    let refused = world.control.pool_delete(&world.project, &pool).await;
    assert!(matches!(refused, Err(ControlError::PoolInUse { live: 1, .. })), "{refused:?}");
    // What nobody has claimed makes room for it.
    let sandbox = SandboxRef::Id(sleeper.id.clone());
    let resume = || world.control.sandbox_resume(&world.project, &sandbox, Some(HOLD));
    resume().await.expect("it goes on");
    assert_eq!(world.status(&sleeper.id).await, SandboxStatus::Running);
    world.until_reconciled().await;
    let containers = world.containers(&pool);
    assert_eq!((containers.len(), world.idle(&pool).len()), (1, 0));
    // A claimed one does not.
    let generation = world.view(&sleeper.id).await.record.intent.generation.0;
    world.node.say(&sleeper.id, generation, ObservedPhase::Suspended).await;
    let other = world.claim(&pool).await.record.id;
    assert_eq!(world.status(&other).await, SandboxStatus::Running);
    resume().await.expect("it waits");
    let waits = world.view(&sleeper.id).await;
    assert_eq!(waits.status, SandboxStatus::Suspended);
    assert_eq!(waits.record.intent.pending_reason, Some(PendingReason::PoolAtCapacity));
    world.terminate(&other).await;
    world.until_reconciled().await;
    assert_eq!(world.status(&sleeper.id).await, SandboxStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pool_takes_its_containers_along_and_is_gone() {
    let world = World::new(Manner::Prompt).await;
    let pool = world.pool(2, None).await;
    let claimed = world.claim(&pool).await.record.id;
    world.until_idle(&pool, 2).await;
    let refused = world.control.pool_delete(&world.project, &pool).await.expect_err("in use");
    assert!(refused.to_string().contains("1 sandbox is claimed"), "{refused}");
    world.terminate(&claimed).await;
    world.control.pool_delete(&world.project, &pool).await.expect("deleted");
    let not_found = |got: Result<(), ControlError>| {
        assert!(matches!(got, Err(ControlError::PoolNotFound(_))), "{got:?}");
    };
    not_found(world.control.pool_fetch(&world.project, &pool).map(drop));
    not_found(world.control.pool_update(&world.project, &pool, ask(1, None)).await.map(drop));
    not_found(world.control.pool_claim(&world.project, &pool, HOLD).await.map(drop));
    not_found(world.control.pool_delete(&world.project, &pool).await);
    world.until_reconciled().await;
    assert!(world.node.has.lock().is_empty(), "nothing of it is left on the node");
    assert_eq!(world.store.sandbox_list_live().await.expect("a list"), []);
}

#[tokio::test(start_paused = true)]
async fn another_project_has_none_of_it() {
    let world = World::new(Manner::Prompt).await;
    let pool = world.pool(1, None).await;
    let other = ProjectId::from_random([9; 16]);
    let not_found = |got: Result<(), ControlError>| {
        assert!(matches!(got, Err(ControlError::PoolNotFound(_))), "{got:?}");
    };
    not_found(world.control.pool_fetch(&other, &pool).map(drop));
    not_found(world.control.pool_update(&other, &pool, ask(0, None)).await.map(drop));
    not_found(world.control.pool_claim(&other, &pool, HOLD).await.map(drop));
    not_found(world.control.pool_delete(&other, &pool).await);
    assert_eq!(world.control.pool_list(&other), []);
    assert_eq!(world.control.pool_list(&world.project).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_pool_cannot_be_is_refused_by_name() {
    let world = World::new(Manner::Prompt).await;
    let small = ByteSize::from_mib(1);
    let table = [
        (ask(3, Some(2)), "warm_containers: 3 are more than `max_containers`, which is 2"),
        (ask(0, Some(0)), "max_containers: 0 would leave every claim waiting"),
        (PoolAsk { memory: Some(small), ..ask(0, None) }, "resources.memory_mb: 1 MiB"),
        (PoolAsk { disk: Some(small), ..ask(0, None) }, "resources.disk_mb: 1 MiB"),
        (
            PoolAsk { gpus: Some(vec![GpuAsk { model: "H100".into(), count: 1 }]), ..ask(0, None) },
            "resources.gpus[0].model",
        ),
        (
            PoolAsk { image: "nope".parse().expect("a name"), ..ask(0, None) },
            "image: no image is named `nope`",
        ),
        (
            PoolAsk { entrypoint: Some(vec!["x".repeat(1 << 16)]), ..ask(0, None) },
            "entrypoint: 65539 bytes of JSON",
        ),
    ];
    let pool = world.pool(0, None).await;
    for (ask, expected) in table {
        let created = world.control.pool_create(&world.project, ask.clone()).await;
        let updated = world.control.pool_update(&world.project, &pool, ask).await;
        for answer in [created, updated] {
            let refused = answer.expect_err(expected);
            assert!(refused.to_string().starts_with(expected), "{refused}");
        }
    }
    let there = world.control.pool_list(&world.project);
    assert_eq!(there.iter().map(|view| view.record.sequence).collect::<Vec<_>>(), [1]);
}

/// Has every start fail at once for half an hour, and returns how many there were.
async fn until_half_an_hour_of_failures(world: &World) -> usize {
    let mut seen = 0;
    for _ in 0..18_000 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let told = std::mem::take(&mut *world.node.told.lock());
        for id in told.into_keys() {
            seen += 1;
            let cause = EndCause::StartFailed {
                step: FailedStep::Image,
                failure: StartFailure::Image,
                message: "it vanished".to_owned(),
            };
            world.node.say(&id, 1, ObservedPhase::Ended(cause)).await;
        }
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn a_pool_whose_containers_fail_rests_between_tries() {
    let world = World::new(Manner::Silent).await;
    world.control.pool_create(&world.project, ask(1, None)).await.expect("made");
    let seen = until_half_an_hour_of_failures(&world).await;
    assert!((20..60).contains(&seen), "{seen} tries");
}

#[tokio::test(start_paused = true)]
async fn without_room_on_the_node_a_pool_stays_below_and_its_claims_wait() {
    let world = World::new(Manner::Prompt).await;
    let pool = world.pool(1, None).await;
    *world.node.memory_available.lock() = ByteSize::from_mib(100);
    world.claim(&pool).await;
    world.until_reconciled().await;
    assert_eq!(world.idle(&pool).len(), 0);
    let waits = world.claim(&pool).await;
    assert_eq!(waits.status, SandboxStatus::Pending);
    assert_eq!(waits.record.intent.pending_reason, Some(PendingReason::NoResourcesAvailable));
    *world.node.memory_available.lock() = ByteSize::from_mib(8192);
    world.until_idle(&pool, 1).await;
    assert_eq!(world.status(&waits.record.id).await, SandboxStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_dies_leaves_what_waits_and_what_is_claimed() {
    let store = Arc::new(MemoryStore::default());
    let node = FakeNode::new(Manner::Prompt);
    let world = World::over(Arc::clone(&store), Arc::clone(&node)).await;
    let pool = world.pool(2, Some(3)).await;
    let claimed = world.claim(&pool).await.record.id;
    world.until_idle(&pool, 2).await;
    let idle = world.idle(&pool);
    // A claim whose node was never told of it.
    node.behave(Manner::Silent);
    let untold = world.claim(&pool).await.record.id;
    world.control_dies();
    node.behave(Manner::Prompt);

    let world = World::over(store, node).await;
    world.until_reconciled().await;
    assert_eq!(world.listed().await.len(), 2);
    for id in [&claimed, &untold] {
        let view = world.view(id).await;
        assert_eq!(view.status, SandboxStatus::Running);
        let told = world.node.told.lock().get(id).cloned().expect("told");
        assert_eq!(told.generation, view.record.intent.generation);
    }
    let left: BTreeSet<_> = idle.into_iter().filter(|id| *id != untold).collect();
    assert_eq!(world.idle(&pool), left, "one waits on, and the maximum is kept");
    let third = world.claim(&pool).await.record.id;
    assert!(left.contains(&third));
    assert_eq!(world.claim(&pool).await.status, SandboxStatus::Pending);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_dies_after_a_delete_leaves_containers_to_the_next() {
    let store = Arc::new(MemoryStore::default());
    let node = FakeNode::new(Manner::Prompt);
    let world = World::over(Arc::clone(&store), Arc::clone(&node)).await;
    let pool = world.pool(2, None).await;
    world.control_dies();
    store.pool_delete(&pool).await.expect("as far as it came");
    assert_eq!(node.has.lock().len(), 2);
    let world = World::over(store, node).await;
    world.until_reconciled().await;
    assert!(world.node.has.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_was_lost_is_read_anew() {
    let world = World::new(Manner::Prompt).await;
    let pool = world.pool(1, None).await;
    let mut record = world.store.pool_list().await.expect("a list").remove(0);
    record.sequence += 1;
    world.store.pool_update(&record).await.expect("as far as it came");
    world.update(&pool, ask(2, None)).await;
    world.until_idle(&pool, 2).await;
    world.store.pool_delete(&pool).await.expect("as far as it came");
    let gone = world.control.pool_update(&world.project, &pool, ask(1, None)).await;
    assert!(matches!(gone, Err(ControlError::PoolNotFound(_))), "{gone:?}");
    world.until_reconciled().await;
    assert!(world.node.has.lock().is_empty(), "its containers went with it");
}

#[tokio::test(start_paused = true)]
async fn over_a_store_that_is_away_now_and_then_nothing_is_handed_out_twice() {
    for loss in [Loss::Request, Loss::Answer] {
        let store = Arc::new(MemoryStore::default());
        let seen = Arc::new(UnreliableStore::new(Arc::clone(&store) as _, 7, loss));
        let world = World::on(seen, store, FakeNode::new(Manner::Prompt)).await;
        let pool = loop {
            let made = world.control.pool_create(&world.project, ask(3, None)).await;
            if let Ok(made) = made {
                break made.record.id;
            }
        };
        let mut got = BTreeSet::new();
        let mut tries = 0;
        while got.len() < 20 {
            tries += 1;
            assert!(tries < 100, "{loss:?}: {} of {tries}", got.len());
            if let Ok(claimed) = world.control.pool_claim(&world.project, &pool, HOLD).await {
                assert!(got.insert(claimed.record.id), "{loss:?}: handed out twice");
            }
        }
        let live = world.store.sandbox_list_live().await.expect("a list");
        let claimed: BTreeSet<_> =
            live.into_iter().filter(|one| !one.is_unclaimed()).map(|one| one.id).collect();
        assert!(got.is_subset(&claimed), "{loss:?}");
        world.until_idle(&pool, 3).await;
    }
}
