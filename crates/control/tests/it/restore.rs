//! Sandboxes made from snapshots.

use std::time::Duration;

use tarn_control::{ControlError, CreateAsk, GpuAsk, SandboxView};
use tarn_node_api::NodeTarget;
use tarn_store::Store as _;
use tarn_types::{
    ByteSize, EndCause, MilliCpu, ObservedPhase, PendingReason, Restore, SandboxId, SandboxRef,
    SandboxStatus, SecretName, SecretValue, SnapshotId, SnapshotKind, SnapshotStatus,
};

use crate::fake::{Manner, World};

/// Takes a snapshot of a sandbox with 2 CPUs, 2 GiB and an entrypoint, which then ends.
async fn snapshot(kind: SnapshotKind) -> (World, SnapshotId) {
    let world = World::new(Manner::Prompt).await;
    let ask = CreateAsk {
        image: "other".parse().ok(),
        cpu: Some(MilliCpu::from_milli(2000)),
        memory: Some(ByteSize::from_mib(2048)),
        entrypoint: Some(vec!["serve".to_owned()]),
        ..CreateAsk::default()
    };
    let source = SandboxRef::Id(world.create(ask).await.record.id);
    let taken = world.control.snapshot_create(&world.project, &source, kind).await;
    world.control.sandbox_delete(&world.project, &source).await.expect("deleted");
    (world, taken.expect("it runs").id)
}

fn of(id: &SnapshotId) -> CreateAsk {
    CreateAsk { restore: Some(id.clone()), ..CreateAsk::default() }
}

async fn refused(world: &World, ask: CreateAsk) -> ControlError {
    let asked = world.control.sandbox_create(&world.project, ask, Duration::ZERO).await;
    asked.expect_err("refused")
}

async fn queued(world: &World, ask: CreateAsk) -> SandboxView {
    let asked = world.control.sandbox_create(&world.project, ask, Duration::ZERO).await;
    asked.expect("accepted")
}

fn told(world: &World, id: &SandboxId) -> tarn_types::Launch {
    match world.node.told.lock()[id].target.clone() {
        NodeTarget::Running(launch) => launch,
        other @ (NodeTarget::Suspended | NodeTarget::Terminated(_)) => unreachable!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_has_what_its_snapshot_had() {
    for kind in [SnapshotKind::Filesystem, SnapshotKind::Memory] {
        let (world, id) = snapshot(kind).await;
        let view = world.create(of(&id)).await;
        assert_eq!(view.status, SandboxStatus::Running);
        let asked = &view.record.asked;
        assert_eq!((asked.image.name.as_str(), asked.resources.memory.mib()), ("other", 2048));
        assert_eq!(asked.entrypoint, Some(vec!["serve".to_owned()]));
        assert_eq!((asked.timeout_secs, &asked.name, &asked.network), (600, &None, &None));
        let launch = told(&world, &view.record.id);
        assert_eq!(launch.restore, Some(Restore { snapshot: id, kind }));
        assert_eq!(launch.resources, asked.resources);
    }
}

#[tokio::test(start_paused = true)]
async fn a_filesystem_restore_may_say_otherwise_within_limits() {
    let (world, id) = snapshot(SnapshotKind::Filesystem).await;
    let mib = ByteSize::from_mib;
    let ask = CreateAsk {
        cpu: Some(MilliCpu::from_milli(500)),
        memory: Some(mib(512)),
        disk: Some(mib(20_480)),
        entrypoint: Some(vec!["other".to_owned()]),
        secret_names: Some(vec![]),
        resources_present: true,
        ..of(&id)
    };
    let asked = world.create(ask).await.record.asked;
    assert_eq!((asked.resources.memory, asked.resources.disk), (mib(512), mib(20_480)));
    assert_eq!(asked.entrypoint, Some(vec!["other".to_owned()]));

    let table = [
        (
            CreateAsk { memory: Some(mib(1)), ..of(&id) },
            "resources.memory_mb: 1 MiB is outside the limit; at least 128 MiB",
        ),
        (
            CreateAsk { disk: Some(mib(10_000)), ..of(&id) },
            "resources.disk_mb: 10000 MiB is less than the 10240 MiB of the snapshot; a disk only \
             grows",
        ),
        (
            CreateAsk { image: "tensorlake/ubuntu-minimal".parse().ok(), ..of(&id) },
            "image: it comes from the snapshot; name its image, `other`, or leave it out",
        ),
        (
            CreateAsk {
                gpus: Some(vec![GpuAsk { model: "H100".to_owned(), count: 1 }]),
                ..of(&id)
            },
            "resources.gpus[0].model: no node has a GPU of model `H100`",
        ),
        (
            CreateAsk { secret_names: names(&["A"]), ..of(&id) },
            "secret_names: no secret is named `A`; set it by PUT /platform/v1/secrets, or leave \
             it out",
        ),
        (
            CreateAsk { template_id: Some("t".to_owned()), ..of(&id) },
            "template_id: no image `t` is registered here; `image` takes names",
        ),
        (
            CreateAsk { auto_resume: Some(false), ..of(&id) },
            "auto_resume: only a named sandbox has it; give the sandbox a name",
        ),
        (
            CreateAsk { entrypoint: Some(vec!["x".repeat(1 << 16)]), ..of(&id) },
            "entrypoint: 65539 bytes of JSON is outside the limit; at most 65536, `secret_names` \
             included",
        ),
    ];
    let before = world.node.told.lock().len();
    for (ask, expected) in table {
        assert_eq!(refused(&world, ask).await.to_string(), expected);
    }
    assert_eq!(world.node.told.lock().len(), before, "nothing was begun");
}

#[tokio::test(start_paused = true)]
async fn a_memory_restore_names_the_field_that_it_does_not_allow() {
    let (world, id) = snapshot(SnapshotKind::Memory).await;
    let table = [
        ("resources", CreateAsk { resources_present: true, ..of(&id) }),
        ("resources.cpus", CreateAsk { cpu: Some(MilliCpu::from_milli(2000)), ..of(&id) }),
        ("image", CreateAsk { image: "other".parse().ok(), ..of(&id) }),
        ("entrypoint", CreateAsk { entrypoint: Some(vec![]), ..of(&id) }),
        ("secret_names", CreateAsk { secret_names: Some(vec![]), ..of(&id) }),
    ];
    for (wanted, ask) in table {
        let refused = refused(&world, ask).await;
        let ControlError::SnapshotOverrideForbidden { field, .. } = refused else {
            unreachable!("{wanted}: {refused:?}")
        };
        assert_eq!(field, wanted);
        assert!(refused.to_string().contains("comes from the snapshot"), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_restored() {
    let (world, id) = snapshot(SnapshotKind::Memory).await;
    let unknown = SnapshotId::from_random([35; 16]);
    let gone = refused(&world, of(&unknown)).await;
    assert!(matches!(gone, ControlError::SnapshotNotFound(_)), "{gone:?}");
    let stranger = tarn_types::ProjectId::from_random([9; 16]);
    let foreign = world.control.sandbox_create(&stranger, of(&id), Duration::ZERO).await;
    assert!(matches!(foreign, Err(ControlError::SnapshotNotFound(_))), "{foreign:?}");

    let source = SandboxRef::Id(world.create(CreateAsk::default()).await.record.id);
    world.node.behave(Manner::Silent);
    let kind = SnapshotKind::Filesystem;
    let taken = world.control.snapshot_create(&world.project, &source, kind).await;
    let taken = taken.expect("it runs").id;
    for status in [SnapshotStatus::InProgress, SnapshotStatus::Failed] {
        let early = refused(&world, of(&taken)).await;
        assert!(
            matches!(early, ControlError::SnapshotNotReady { status: is, .. } if is == status),
            "{early:?}"
        );
        world.node.finish_capture(Err("no".to_owned())).await;
    }
    *world.node.memory.lock() = ByteSize::from_mib(1024);
    let large = refused(&world, of(&id)).await;
    assert!(matches!(large, ControlError::SnapshotIncompatible { .. }), "{large:?}");
}

#[tokio::test(start_paused = true)]
async fn a_restore_waits_for_the_node_that_has_its_snapshot() {
    let (before, id) = snapshot(SnapshotKind::Filesystem).await;
    let world = World::detached(before.store).await;
    let waits = queued(&world, of(&id)).await;
    let reason = Some(PendingReason::NoExecutorForSnapshotLocation);
    assert_eq!(
        (waits.status, waits.record.intent.pending_reason),
        (SandboxStatus::Pending, reason)
    );
    let impatient = CreateAsk { max_pending_secs: Some(0), ..of(&id) };
    assert_eq!(queued(&world, impatient).await.record.end, Some(EndCause::NoCapacity));
    world.attach(before.node).await;
    let child = waits.record.id;
    let runs = async || world.status(&child).await == SandboxStatus::Running;
    world.until("the node came", runs).await;
}

#[tokio::test(start_paused = true)]
async fn a_memory_restore_waits_for_the_memory_that_it_brings() {
    let (world, id) = snapshot(SnapshotKind::Memory).await;
    // 300 MiB less 100 MiB of files; the reserve is 1638 MiB.
    *world.node.memory_available.lock() = ByteSize::from_mib(1838);
    let waits = queued(&world, of(&id)).await;
    assert_eq!(
        waits.record.intent.pending_reason,
        Some(PendingReason::NoResourcesAvailable),
        "64 MiB would have fit"
    );
    *world.node.memory_available.lock() = ByteSize::from_mib(1839);
    let child = waits.record.id;
    let runs = async || world.status(&child).await == SandboxStatus::Running;
    world.until("there is room", runs).await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_snapshot_stays_for_those_that_are_pending() {
    let (world, id) = snapshot(SnapshotKind::Filesystem).await;
    world.node.behave(Manner::Silent);
    let children =
        [queued(&world, of(&id)).await.record.id, queued(&world, of(&id)).await.record.id];
    world.control.snapshot_delete(&world.project, &id).await.expect("deleted");
    let gone = refused(&world, of(&id)).await;
    assert!(matches!(gone, ControlError::SnapshotNotFound(_)), "{gone:?}");
    world.node.say(&children[0], 1, ObservedPhase::Running).await;
    world.until_reconciled().await;
    assert!(world.node.held.lock().contains_key(&id), "the second one needs it");

    // Also over a restart.
    let world = World::over(world.store, world.node).await;
    assert!(world.node.held.lock().contains_key(&id));
    world.node.say(&children[1], 1, ObservedPhase::Running).await;
    let removed = async || world.store.snapshot_fetch(&id).await.is_err();
    world.until("nobody needs it", removed).await;
    assert!(world.node.held.lock().is_empty());
}

/// Sets secrets of the world's project, each to its own name.
async fn set(world: &World, names: &[&str]) {
    let secrets = names.iter().map(|name| {
        let value = SecretValue::new((*name).to_owned()).expect("a value");
        (name.parse().expect("a good name"), value)
    });
    world.control.secret_put(&world.project, secrets.collect()).await.expect("set");
}

async fn unset(world: &World, name: &str) {
    let all = world.control.secret_list(&world.project).await.expect("a list");
    let secret = all.iter().find(|secret| secret.name.as_str() == name).expect("it is there");
    world.control.secret_delete(&world.project, &secret.id).await.expect("deleted");
}

fn names(texts: &[&str]) -> Option<Vec<SecretName>> {
    Some(texts.iter().map(|text| text.parse().expect("a good name")).collect())
}

/// The row of spec 02 §4.
#[tokio::test(start_paused = true)]
async fn a_restore_has_the_secrets_that_the_matrix_says() {
    for kind in [SnapshotKind::Filesystem, SnapshotKind::Memory] {
        let world = World::new(Manner::Prompt).await;
        set(&world, &["A", "B", "C"]).await;
        let ask = CreateAsk { secret_names: names(&["A", "B"]), ..CreateAsk::default() };
        let source = world.create(ask).await.record;
        assert_eq!(Some(told(&world, &source.id).secret_names), names(&["A", "B"]));
        let source = SandboxRef::Id(source.id);
        let taken = world.control.snapshot_create(&world.project, &source, kind).await;
        let id = taken.expect("it runs").id;
        let restored = world.create(of(&id)).await.record.id;
        assert_eq!(Some(told(&world, &restored).secret_names), names(&["A", "B"]));
        let over = |texts: &[&str]| CreateAsk { secret_names: names(texts), ..of(&id) };
        for wanted in [["C"].as_slice(), &[]] {
            if kind == SnapshotKind::Memory {
                let refused = refused(&world, over(wanted)).await;
                assert!(
                    matches!(refused, ControlError::SnapshotOverrideForbidden { field, .. }
                        if field == "secret_names"),
                    "{refused:?}"
                );
                continue;
            }
            let other = world.create(over(wanted)).await.record.id;
            assert_eq!(Some(told(&world, &other).secret_names), names(wanted));
        }
        let (_, copies) = world
            .control
            .sandbox_copy(&world.project, &source, 1, Duration::from_secs(5))
            .await
            .expect("copied");
        assert_eq!(Some(told(&world, &copies[0].record.id).secret_names), names(&["A", "B"]));
        unset(&world, "B").await;
        // In memory it is what it was.
        let asked = world.control.sandbox_create(&world.project, of(&id), Duration::ZERO).await;
        match (kind, asked) {
            (SnapshotKind::Memory, asked) => drop(asked.expect("accepted")),
            (SnapshotKind::Filesystem, asked) => {
                let refused = asked.expect_err("B is deleted");
                let named = matches!(&refused, ControlError::NoSuchSecret(name)
                    if name.as_str() == "B");
                assert!(named, "{refused:?}");
            }
        }
    }
}
