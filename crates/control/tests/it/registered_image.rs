//! Registered images: what a name means, what is made from one, and when its files go.

use std::{sync::Arc, time::Duration};

use tarn_control::{
    ControlError, CreateAsk, ImageAsk, ImageKey, ImageTarget, NetworkPatch, PoolAsk,
};
use tarn_node_api::NodeTarget;
use tarn_store::Store as _;
use tarn_types::{
    ByteSize, ImageConfig, ImageFamily, ImageName, ImageRecord, ProjectId, SandboxId, SandboxRef,
    SandboxStatus, SnapshotId, SnapshotKind, TemplateId,
};

use crate::fake::{FakeNode, Manner, World};

fn name(text: &str) -> ImageName {
    text.parse().expect("a good name")
}

fn asked(world: &World, image: &str) -> ImageAsk {
    ImageAsk {
        project: world.project.clone(),
        global: false,
        name: name(image),
        family: ImageFamily::Cas,
        config: Some(ImageConfig { user: Some("u".to_owned()), ..ImageConfig::default() }),
        dockerfile: None,
    }
}

fn of(image: &str) -> CreateAsk {
    CreateAsk { image: Some(name(image)), ..CreateAsk::default() }
}

fn by_id(id: &str) -> CreateAsk {
    CreateAsk { template_id: Some(id.to_owned()), ..CreateAsk::default() }
}

/// Makes a sandbox with a disk of 20 GiB.
async fn source(world: &World) -> SandboxRef {
    let disk = Some(ByteSize::from_mib(20_480));
    SandboxRef::Id(world.create(CreateAsk { disk, ..CreateAsk::default() }).await.record.id)
}

/// Makes an image of a sandbox, which then ends.
async fn publish(world: &World, ask: ImageAsk) -> Result<ImageRecord, ControlError> {
    let sandbox = source(world).await;
    let files = world.control.image_capture(&world.project, &sandbox).await.expect("it runs");
    world.control.sandbox_delete(&world.project, &sandbox).await.expect("deleted");
    world.control.image_publish(ask, files).await
}

async fn refused(world: &World, ask: CreateAsk) -> String {
    let created = world.control.sandbox_create(&world.project, ask, Duration::ZERO).await;
    created.expect_err("refused").to_string()
}

fn told(world: &World, id: &SandboxId) -> tarn_types::Launch {
    match world.node.told.lock()[id].target.clone() {
        NodeTarget::Running(launch) => launch,
        other @ (NodeTarget::Suspended | NodeTarget::Terminated(_)) => unreachable!("{other:?}"),
    }
}

async fn until_gone(world: &World, snapshot: &SnapshotId) {
    let gone = async || !world.node.held.lock().contains_key(snapshot);
    world.until("its files are gone", gone).await;
    world
        .until("and known no more", async || world.store.snapshot_fetch(snapshot).await.is_err())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_is_made_from_an_image_by_each_of_its_names() {
    let world = World::new(Manner::Prompt).await;
    let image = publish(&world, asked(&world, "Team/App:V1")).await.expect("registered");
    assert_eq!(image.name.as_str(), "team/app:v1");
    assert_eq!((image.size.mib(), image.disk.mib()), (100, 20_480));
    let template = TemplateId::new(ImageFamily::Legacy, image.id.clone()).to_string();
    let both = CreateAsk { image: Some(name("team/app:v1")), ..by_id(&template) };
    for (ask, shown, id) in [
        (of("team/app:V1"), "team/app:V1", None),
        (of(image.id.as_str()), image.id.as_str(), None),
        (of(&template), template.as_str(), None),
        (by_id(image.id.as_str()), "team/app:v1", Some(image.id.as_str())),
        (by_id(&template), "team/app:v1", Some(template.as_str())),
        (both, "team/app:v1", Some(template.as_str())),
    ] {
        let spec = world.create(ask).await.record;
        let launch = told(&world, &spec.id);
        let restore = launch.restore.expect("it is made from files");
        assert_eq!(
            (restore.snapshot, restore.kind),
            (image.snapshot.clone(), SnapshotKind::Filesystem)
        );
        assert_eq!(launch.image.config(), image.config.as_ref());
        // A create's own rules count, but for the disk (spec 01 §2).
        assert_eq!((launch.resources.memory.mib(), launch.resources.disk.mib()), (1024, 20_480));
        assert_eq!(spec.asked.image.name.as_str(), shown);
        assert_eq!(spec.asked.template_id.map(|id| id.to_string()).as_deref(), id);
    }
    let small = CreateAsk { disk: Some(ByteSize::from_mib(10_240)), ..of("team/app:v1") };
    let why =
        "resources.disk_mb: 10240 MiB is less than the 20480 MiB of the image; a disk only grows";
    assert_eq!(refused(&world, small).await, why);
    let large = CreateAsk { disk: Some(ByteSize::from_mib(30_720)), ..of("team/app:v1") };
    assert_eq!(world.create(large).await.record.asked.resources.disk.mib(), 30_720);
}

#[tokio::test(start_paused = true)]
async fn what_names_no_image_or_two_is_refused() {
    let world = World::new(Manner::Prompt).await;
    let image = publish(&world, asked(&world, "app")).await.expect("registered");
    let id = image.id.as_str();
    let unknown = "image_0000000000000000";
    for (ask, expected) in [
        (
            by_id("app"),
            "template_id: no image `app` is registered here; `image` takes names".to_owned(),
        ),
        (
            by_id(unknown),
            format!("template_id: no image `{unknown}` is registered here; `image` takes names"),
        ),
        (
            of(unknown),
            format!("image: no image is named `{unknown}`. No registered image has that id."),
        ),
        (
            CreateAsk { image: Some(name("other")), ..by_id(id) },
            format!(
                "template_id: `{id}` is not the one that `image` names, `other`; send one of them, or leave `template_id` out"
            ),
        ),
    ] {
        assert_eq!(refused(&world, ask).await, expected);
    }
    // Of another project it is none.
    let other = ProjectId::from_random([9; 16]);
    let theirs = world.control.sandbox_create(&other, by_id(id), Duration::ZERO).await;
    assert!(matches!(theirs, Err(ControlError::TemplateNotFound(_))), "{theirs:?}");
    let key = ImageKey::Id(image.id.clone());
    for refused in [
        world.control.image_fetch(&other, &key).map(drop),
        world.control.image_fetch(&other, &ImageKey::Name(name("app"))).map(drop),
        world.control.image_delete(&other, &key).await,
    ] {
        assert!(matches!(refused, Err(ControlError::NoSuchImage(_))), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_names_the_image_of_its_snapshot() {
    let world = World::new(Manner::Prompt).await;
    let image = publish(&world, asked(&world, "app")).await.expect("registered");
    let other = publish(&world, asked(&world, "more")).await.expect("registered");
    let made = SandboxRef::Id(world.create(of("app")).await.record.id);
    for kind in [SnapshotKind::Filesystem, SnapshotKind::Memory] {
        let taken = world.control.snapshot_create(&world.project, &made, kind).await;
        let ask =
            |id| CreateAsk { restore: taken.as_ref().ok().map(|it| it.id.clone()), ..by_id(id) };
        let view = world.create(ask(image.id.as_str())).await;
        assert_eq!(view.record.asked.template_id.map(|id| id.image), Some(image.id.clone()));
        assert_eq!(told(&world, &view.record.id).image.config(), image.config.as_ref());
        if kind == SnapshotKind::Filesystem {
            let why = refused(&world, ask(other.id.as_str())).await;
            assert!(why.contains("is not the snapshot's image, `app`"), "{why}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_is_replaced_at_once_and_what_was_made_stays() {
    let world = World::new(Manner::Prompt).await;
    let first = publish(&world, asked(&world, "app")).await.expect("registered");
    let ran = world.create(of("app")).await.record.id;
    let second = publish(&world, asked(&world, "app")).await.expect("registered");
    assert_eq!((&second.id, second.created_at), (&first.id, first.created_at));
    let restore = told(&world, &world.create(of("app")).await.record.id).restore;
    assert_eq!(restore.map(|restore| restore.snapshot), Some(second.snapshot.clone()));
    until_gone(&world, &first.snapshot).await;
    assert_eq!(world.status(&ran).await, SandboxStatus::Running);
    world.until_reconciled().await;
    assert!(world.node.held.lock().contains_key(&second.snapshot), "an image is made of it");
    let listed = world.control.snapshot_list(&world.project, None).await.expect("a list");
    assert_eq!(listed, [], "nobody is shown it");

    let key = ImageKey::Name(name("APP"));
    world.control.image_delete(&world.project, &key).await.expect("deleted");
    let again = world.control.image_delete(&world.project, &key).await;
    assert!(matches!(again, Err(ControlError::NoSuchImage(_))), "{again:?}");
    until_gone(&world, &second.snapshot).await;
    assert_eq!(world.status(&ran).await, SandboxStatus::Running);
    assert!(refused(&world, of("app")).await.starts_with("image: no image is named `app`"));
}

#[tokio::test(start_paused = true)]
async fn files_stay_for_what_is_pending_and_for_pools() {
    let world = World::new(Manner::Prompt).await;
    let image = publish(&world, asked(&world, "app")).await.expect("registered");
    let ask = PoolAsk {
        image: name("app"),
        cpu: None,
        memory: None,
        disk: None,
        gpus: None,
        timeout_secs: None,
        entrypoint: None,
        max_containers: None,
        warm_containers: Some(1),
        network: NetworkPatch::Keep,
    };
    let pool = world.control.pool_create(&world.project, ask).await.expect("made").record.id;
    let hold = Duration::from_secs(5);
    let claimed = world.control.pool_claim(&world.project, &pool, hold).await.expect("claimed");
    let launch = told(&world, &claimed.record.id);
    assert_eq!(launch.restore.map(|restore| restore.snapshot), Some(image.snapshot.clone()));
    assert_eq!(launch.resources.disk, image.disk);
    world.node.behave(Manner::Silent);
    let waits = world.create(of("app")).await.record.id;
    let key = ImageKey::Name(name("app"));
    world.control.image_delete(&world.project, &key).await.expect("deleted");
    let sandbox = SandboxRef::Id(claimed.record.id);
    world.control.sandbox_delete(&world.project, &sandbox).await.expect("deleted");
    world.node.behave(Manner::Prompt);
    world.control.pool_delete(&world.project, &pool).await.expect("deleted");
    world.until_reconciled().await;
    assert!(world.node.held.lock().contains_key(&image.snapshot), "one is pending");
    world.control.sandbox_delete(&world.project, &SandboxRef::Id(waits)).await.expect("deleted");
    until_gone(&world, &image.snapshot).await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_becomes_an_image_and_stays_for_it() {
    let world = World::new(Manner::Prompt).await;
    let sandbox = source(&world).await;
    let take = async |kind| {
        let taken = world.control.snapshot_create(&world.project, &sandbox, kind).await;
        taken.expect("it runs").id
    };
    let (files, memory) = (take(SnapshotKind::Filesystem).await, take(SnapshotKind::Memory).await);
    let register =
        async |ask: ImageAsk, id: &SnapshotId| world.control.image_register(ask, id).await;
    let ask = || ImageAsk { family: ImageFamily::Legacy, config: None, ..asked(&world, "App--1") };
    let bad = register(ask(), &memory).await.expect_err("it holds memory");
    assert!(bad.to_string().contains("holds memory"), "{bad}");
    let theirs = ImageAsk { project: ProjectId::from_random([9; 16]), ..ask() };
    let none = register(theirs, &files).await;
    assert!(matches!(none, Err(ControlError::SnapshotNotFound(_))), "{none:?}");
    let image = register(ask(), &files).await.expect("registered");
    assert_eq!((image.name.as_str(), &image.config), ("app--1", &None));
    world.control.snapshot_delete(&world.project, &files).await.expect("deleted");
    world.until_reconciled().await;
    assert!(world.node.held.lock().contains_key(&files), "the image is made of it");
    world.create(of("app--1")).await;
    let key = ImageKey::Id(image.id);
    world.control.image_delete(&world.project, &key).await.expect("deleted");
    until_gone(&world, &files).await;
    // One that is shown stays when its image goes.
    let files = take(SnapshotKind::Filesystem).await;
    let image = register(ask(), &files).await.expect("registered");
    let key = ImageKey::Id(image.id);
    world.control.image_delete(&world.project, &key).await.expect("deleted");
    world.until_reconciled().await;
    world.control.snapshot_fetch(&world.project, &files).await.expect("it is the project's");
}

#[tokio::test(start_paused = true)]
async fn names_that_cannot_be_are_refused_and_nothing_is_left() {
    let world = World::new(Manner::Prompt).await;
    let bad = |image: &str| asked(&world, image);
    let long = "x".repeat((256 << 10) + 1);
    let large = ImageConfig { cmd: vec!["x".repeat(1 << 16)], ..ImageConfig::default() };
    for (ask, expected) in [
        (bad("a--b"), "name: `a--b` is no image name"),
        (bad("image_x"), "name: `image_x` begins with `image_`"),
        (ImageAsk { global: true, ..bad("a") }, "name: only the projects in `images.publishers`"),
        (ImageAsk { dockerfile: Some(long), ..bad("a") }, "dockerfile: at most 262144 bytes"),
        (
            ImageAsk { config: Some(large), ..bad("a") },
            "dockerfile: the image's environment, ENTRYPOINT and CMD take 65539 bytes of JSON",
        ),
    ] {
        let refused = publish(&world, ask).await.expect_err("refused").to_string();
        assert!(refused.starts_with(expected), "{refused}");
    }
    world.until("nothing is left", async || world.node.held.lock().is_empty()).await;
    assert_eq!(world.control.image_registered(), []);
}

#[tokio::test(start_paused = true)]
async fn a_name_is_of_one_image_pulled_or_registered() {
    let world = World::new(Manner::Prompt).await;
    let digest = format!("sha256:{}", "a".repeat(64)).parse().expect("a digest");
    world.images.offer("/1", &digest, None);
    let import = async || {
        let file = std::path::Path::new("/1");
        world.control.image_import(Some(&world.project), file, None, &name("app")).await
    };
    import().await.expect("imported");
    publish(&world, asked(&world, "app")).await.expect("it takes the name");
    let booted = world.create(of("app")).await.record.asked.image;
    assert!(booted.registered.is_some() && booted.pin.is_none(), "{booted:?}");
    let (image, sandboxes) = world.control.image_registered().pop().expect("one");
    assert_eq!(sandboxes, 1);
    let by_id = ImageTarget::Name(None, name(image.id.as_str()));
    world.control.image_forget(&by_id).await.expect("an operator deletes it by its id");
    publish(&world, asked(&world, "app")).await.expect("and there may be another");
    let refused = import().await.expect_err("the name is taken");
    assert!(refused.to_string().contains("the name of a registered image"), "{refused}");
    let target = ImageTarget::Name(Some(world.project.clone()), name("app"));
    world.control.image_forget(&target).await.expect("an operator deletes it by its name");
    import().await.expect("imported");
    assert!(world.create(of("app")).await.record.asked.image.pin.is_some());
}

#[tokio::test(start_paused = true)]
async fn lists_are_by_family_and_page() {
    let world = World::new(Manner::Prompt).await;
    for number in 0..5 {
        world.clock.advance_millis(1);
        publish(&world, asked(&world, &format!("a{number}"))).await.expect("registered");
    }
    let legacy = ImageAsk { family: ImageFamily::Legacy, ..asked(&world, "b") };
    publish(&world, legacy).await.expect("registered");
    let page = |family, after, limit| {
        let page = world.control.image_page(&world.project, family, after, limit);
        let names: Vec<_> = page.items.iter().map(|it| it.name.to_string()).collect();
        (names, page.next)
    };
    let (first, next) = page(ImageFamily::Cas, None, 2);
    assert_eq!(first, ["a4", "a3"]);
    let (second, next) = page(ImageFamily::Cas, next.as_ref(), 2);
    assert_eq!(second, ["a2", "a1"]);
    assert_eq!(page(ImageFamily::Cas, next.as_ref(), 2), (vec!["a0".to_owned()], None));
    assert_eq!(page(ImageFamily::Legacy, None, 9), (vec!["b".to_owned()], None));
}

/// Dies before, and after, the one row is written that makes an image.
#[tokio::test(start_paused = true)]
async fn a_death_leaves_an_image_or_nothing() {
    let before = World::new(Manner::Prompt).await;
    let sandbox = source(&before).await;
    let kept = publish(&before, asked(&before, "kept")).await.expect("registered");
    let files = before.control.image_capture(&before.project, &sandbox).await.expect("it runs");
    let unpublished = files.snapshot().id.clone();
    before.control_dies();

    let node = FakeNode::new(Manner::Prompt);
    *node.held.lock() = before.node.held.lock().clone();
    *node.has.lock() = before.node.has.lock().clone();
    let world = World::over(Arc::clone(&before.store), node).await;
    until_gone(&world, &unpublished).await;
    world.until_reconciled().await;
    assert!(world.node.held.lock().contains_key(&kept.snapshot));
    let key = ImageKey::Name(name("kept"));
    assert_eq!(world.control.image_fetch(&world.project, &key).expect("it is there"), kept);
    let restore = told(&world, &world.create(of("kept")).await.record.id).restore;
    assert_eq!(restore.map(|restore| restore.snapshot), Some(kept.snapshot.clone()));
    // A deletion whose server died before it removed the files.
    world.store.image_delete(&kept.id).await.expect("deleted");
    world.control_dies();
    let node = FakeNode::new(Manner::Prompt);
    *node.held.lock() = world.node.held.lock().clone();
    *node.has.lock() = world.node.has.lock().clone();
    let after = World::over(Arc::clone(&world.store), node).await;
    until_gone(&after, &kept.snapshot).await;
}

#[tokio::test(start_paused = true)]
async fn the_files_of_an_image_go_to_the_object_store_and_from_it() {
    let world = World::new(Manner::Prompt).await;
    *world.node.archives.lock() = true;
    let image = publish(&world, asked(&world, "app")).await.expect("registered");
    let ordered = async || !world.node.archive_orders.lock().is_empty();
    world.until("the upload is ordered", ordered).await;
    world.node.finish_archive(Ok(())).await;
    let record = world.store.snapshot_fetch(&image.snapshot).await.expect("it is there");
    assert!(matches!(record.archive, tarn_types::Archival::Whole { .. }), "{record:?}");
    let unsettled = world.store.snapshot_list_unsettled().await.expect("a list");
    assert_eq!(unsettled, [], "nothing is left to do");
    let key = ImageKey::Id(image.id);
    world.control.image_delete(&world.project, &key).await.expect("deleted");
    until_gone(&world, &image.snapshot).await;
    assert!(!world.node.archived.lock().contains(&image.snapshot));
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_a_build_awaits_is_known_by_its_image() {
    let world = World::new(Manner::Prompt).await;
    let image = name("tensorlake/rootfs-builder:build_0123456789abcdef");
    let ask = CreateAsk { image: Some(image.clone()), ..CreateAsk::default() };
    assert!(refused(&world, ask.clone()).await.contains("rootfs-builder"));
    let mut awaited = world.control.build_await_sandbox(&world.project, &image);
    let stranger = ProjectId::from_random([9; 16]);
    let created = world.control.sandbox_create(&stranger, ask.clone(), Duration::ZERO).await;
    assert!(created.is_err(), "the name means something in its project alone");
    let made = world.create(ask.clone()).await.record;
    assert_eq!(awaited.created().await, Some(made.id.clone()));
    assert_ne!(made.asked.image.name, image, "it is a stock image");
    drop(awaited);
    assert!(refused(&world, ask).await.contains("rootfs-builder"));
    let ended = world.control.build_sandbox_ended(&made.id);
    world
        .control
        .sandbox_delete(&world.project, &SandboxRef::Id(made.id.clone()))
        .await
        .expect("ok");
    ended.await;
}
