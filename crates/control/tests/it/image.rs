//! Images: which one a name means, what the operator does about them, and which are kept.

use std::time::Duration;

use tarn_control::{ControlError, CreateAsk, ImageTarget, NetworkPatch, PoolAsk};
use tarn_host::Images as _;
use tarn_node_api::SecretSource as _;
use tarn_store::Store as _;
use tarn_types::{
    BootImage, ImageDigest, ImageName, ImagePin, ProjectId, RegistryLogin, SandboxRef,
    SandboxStatus, SecretValue,
};

use crate::fake::{Manner, World};

const APP: &str = "registry/app:1";

fn digest(digit: char) -> ImageDigest {
    format!("sha256:{}", digit.to_string().repeat(64)).parse().expect("a good digest")
}

fn name(text: &str) -> ImageName {
    text.parse().expect("a good name")
}

fn ask(image: &str) -> CreateAsk {
    CreateAsk { image: Some(name(image)), ..CreateAsk::default() }
}

fn pinned(image: &str, digit: char) -> BootImage {
    let pin = ImagePin { digest: digest(digit), source: Some(image.to_owned()) };
    BootImage { name: name(image), pin: Some(pin), registered: None }
}

fn login() -> RegistryLogin {
    let password = SecretValue::new("hush-4711".to_owned()).expect("a value");
    RegistryLogin { username: "bob".to_owned(), password }
}

/// Waits until what registries said counts no more; time is paused.
async fn until_answers_are_old() {
    tokio::time::sleep(Duration::from_secs(301)).await;
}

/// Waits until a registry that did not answer is asked again; time is paused.
async fn until_nobody_is_spared() {
    tokio::time::sleep(Duration::from_secs(30)).await;
}

/// Waits until the collector had its turn; time is paused.
async fn until_images_were_looked_through() {
    tokio::time::sleep(Duration::from_secs(130)).await;
}

async fn refused(world: &World, image: &str) -> ControlError {
    let hold = Duration::from_secs(1);
    let created = world.control.sandbox_create(&world.project, ask(image), hold).await;
    created.expect_err("it is refused")
}

/// Creates a sandbox and returns the digit of its image, if it is no stock image.
async fn image_of(world: &World, image: &str) -> Option<char> {
    let booted = world.create(ask(image)).await.record.asked.image;
    assert_eq!(booted.name, name(image), "the caller's own words");
    booted.pin.and_then(|pin| pin.digest.short().chars().next())
}

#[tokio::test(start_paused = true)]
async fn a_name_means_the_first_that_has_it() {
    let world = World::new(Manner::Prompt).await;
    assert_eq!(image_of(&world, "other").await, None, "a stock image");
    for (file, digit) in [("/1", 'a'), ("/2", 'b'), ("/3", 'c')] {
        world.images.offer(file, &digest(digit), None);
    }
    let import = async |project: Option<&ProjectId>, file: &str| {
        let file = std::path::Path::new(file);
        world.control.image_import(project, file, None, &name("other")).await.expect("imported")
    };
    import(None, "/1").await;
    assert_eq!(image_of(&world, "other").await, Some('a'), "one for all");
    import(Some(&ProjectId::from_random([9; 16])), "/2").await;
    assert_eq!(image_of(&world, "other").await, Some('a'), "not another project's");
    import(Some(&world.project), "/3").await;
    assert_eq!(image_of(&world, "other").await, Some('c'), "its own");
    let own = ImageTarget::Name(Some(world.project.clone()), name("other"));
    assert_eq!(world.control.image_forget(&own).await.expect("forgotten").len(), 1);
    assert_eq!(image_of(&world, "other").await, Some('a'));
    let gone = world.control.image_forget(&own).await.expect_err("there is none");
    assert!(matches!(gone, ControlError::NotFound(_)), "{gone}");
    assert_eq!(world.images.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reference_is_pinned_when_it_is_asked_for() {
    let world = World::new(Manner::Prompt).await;
    world.images.offer(APP, &digest('a'), None);
    let first = world.create(ask(APP)).await;
    assert_eq!(first.record.asked.image, pinned(APP, 'a'));
    assert_eq!(world.node.reserved.lock().last().expect("one").0, pinned(APP, 'a'));
    world.images.offer(APP, &digest('b'), None);
    assert_eq!(image_of(&world, APP).await, Some('a'), "it was asked just now");
    assert_eq!(world.images.asked(), 1);
    until_answers_are_old().await;
    assert_eq!(image_of(&world, APP).await, Some('b'));
    let again = world.view(&first.record.id).await;
    assert_eq!(again.record.asked.image, pinned(APP, 'a'), "what runs is what it was");
    // Of an answer that cannot be renewed the image must be here.
    until_answers_are_old().await;
    world.images.set_reachable(false);
    let away = refused(&world, APP).await;
    assert!(matches!(away, ControlError::ImageUnavailable { .. }), "{away}");
    let Some(pin) = pinned(APP, 'b').pin else { unreachable!("it has one") };
    world.images.set_reachable(true);
    world.images.pull(&pin, None).await.expect("pulled");
    assert_eq!(image_of(&world, APP).await, Some('b'));
    until_answers_are_old().await;
    world.images.set_reachable(false);
    assert_eq!(image_of(&world, APP).await, Some('b'));
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_a_registry_share_what_it_says() {
    let world = World::new(Manner::Prompt).await;
    world.images.offer(APP, &digest('a'), None);
    let Some(pin) = pinned(APP, 'a').pin else { unreachable!("it has one") };
    world.images.set_answering(false);
    let since = tokio::time::Instant::now();
    let one = || refused(&world, APP);
    let (first, second, third) = tokio::join!(one(), one(), one());
    for away in [first, second, third] {
        assert!(matches!(away, ControlError::ImageUnavailable { .. }), "{away}");
    }
    assert_eq!((since.elapsed().as_secs(), world.images.asked()), (20, 1));
    world.images.set_answering(true);
    assert_eq!(image_of(&world, APP).await, Some('a'), "a failure is for those who waited alone");
    assert_eq!(world.images.asked(), 2);

    // Where the image is here, nobody waits again for a while.
    world.images.pull(&pin, None).await.expect("pulled");
    until_answers_are_old().await;
    world.images.set_answering(false);
    let since = tokio::time::Instant::now();
    for (asked, secs) in [(3, 20), (3, 20)] {
        assert_eq!(image_of(&world, APP).await, Some('a'));
        assert_eq!((world.images.asked(), since.elapsed().as_secs()), (asked, secs));
    }
    until_nobody_is_spared().await;
    assert_eq!(image_of(&world, APP).await, Some('a'));
    assert_eq!(world.images.asked(), 4);
}

#[tokio::test(start_paused = true)]
async fn who_comes_after_a_login_is_not_told_what_was_said_without_it() {
    let world = World::new(Manner::Prompt).await;
    world.images.offer(APP, &digest('a'), Some(login()));
    world.images.set_answering(false);
    let (before, after, ()) = tokio::join!(refused(&world, APP), image_of(&world, APP), async {
        world.until("asked", async || world.images.asked() == 1).await;
        world.control.login_put(&world.project, "registry", login()).await.expect("put");
        world.images.set_answering(true);
    });
    assert!(matches!(before, ControlError::ImageNotFound { .. }), "{before}");
    assert_eq!((after, world.images.asked()), (Some('a'), 2));
}

#[tokio::test(start_paused = true)]
async fn a_login_of_a_build_is_for_the_registry_alone() {
    let world = World::new(Manner::Prompt).await;
    let base = async |image: &str, login| {
        let base = world.control.build_base(&world.project, &name(image), login, false).await;
        base.map(|base| base.image.pin.map(|pin| pin.digest))
    };
    // Somebody has our names there, too.
    world.images.offer("other", &digest('b'), None);
    world.images.offer("team/app", &digest('b'), None);
    world.images.offer("/1", &digest('a'), None);
    let file = std::path::Path::new("/1");
    world.control.image_import(None, file, None, &name("team/app")).await.expect("imported");
    assert_eq!(base("other", Some(login())).await.expect("a stock image"), None);
    assert_eq!(base("team/app", Some(login())).await.expect("it has a name"), Some(digest('a')));
    assert_eq!(world.images.asked(), 0);
    world.images.offer(APP, &digest('c'), Some(login()));
    base(APP, None).await.expect_err("it is private");
    assert_eq!(base(APP, Some(login())).await.expect("it is shown"), Some(digest('c')));
    // What is here needs nobody's leave.
    world.images.close_registry();
    assert_eq!(base("team/app", None).await.expect("it is here"), Some(digest('a')));
    // What the project shows is shown for the pull, too.
    world.images.offer("registry/own:1", &digest('d'), Some(login()));
    world.control.login_put(&world.project, "registry", login()).await.expect("put");
    assert_eq!(base("registry/own:1", None).await.expect("shown"), Some(digest('d')));
}

#[tokio::test(start_paused = true)]
async fn what_nothing_has_is_refused_with_what_was_tried() {
    let world = World::new(Manner::Prompt).await;
    for (image, expected) in [
        (APP, "the registry has none"),
        ("nothing", "it names no registry"),
        ("tensorlake/ubuntu-maximal", "No registry is asked"),
    ] {
        let refused = refused(&world, image).await;
        let ControlError::ImageNotFound { tried, .. } = &refused else {
            unreachable!("{refused}");
        };
        assert!(tried.contains(expected) && tried.contains("`other`"), "{tried}");
    }
    assert_eq!(world.store.sandbox_list_live().await.expect("a list"), []);
}

#[tokio::test(start_paused = true)]
async fn a_private_image_is_for_those_with_a_login_alone() {
    let world = World::new(Manner::Prompt).await;
    world.images.offer(APP, &digest('a'), Some(login()));
    assert!(matches!(refused(&world, APP).await, ControlError::ImageNotFound { .. }));
    let record = world.control.login_put(&world.project, "registry", login()).await;
    assert!(!format!("{record:?}").contains("hush-4711"));
    assert_eq!(image_of(&world, APP).await, Some('a'));
    let shown = world.control.registry_login(&world.project, "registry").await;
    assert_eq!(shown.expect("it opens"), Some(login()));
    let theirs = ProjectId::from_random([9; 16]);
    let hold = Duration::from_secs(1);
    let created = world.control.sandbox_create(&theirs, ask(APP), hold).await;
    assert!(matches!(created, Err(ControlError::ImageNotFound { .. })), "{created:?}");
    let logins = world.control.login_list().await.expect("a list");
    assert_eq!((logins.len(), logins[0].username.as_str()), (1, "bob"));
    world.control.login_delete(&world.project, "registry").await.expect("deleted");
    assert!(matches!(refused(&world, APP).await, ControlError::ImageNotFound { .. }));
}

#[tokio::test(start_paused = true)]
async fn an_image_is_kept_as_long_as_anything_needs_it() {
    let world = World::new(Manner::Prompt).await;
    for (reference, digit) in [(APP, 'a'), ("registry/pool:1", 'b'), ("registry/node:1", 'c')] {
        world.images.offer(reference, &digest(digit), None);
        let Some(pin) = pinned(reference, digit).pin else { unreachable!("it has one") };
        world.images.pull(&pin, None).await.expect("pulled");
    }
    let here = async || {
        until_images_were_looked_through().await;
        let stored = world.images.stored().await;
        stored.iter().filter_map(|image| image.digest.short().chars().next()).collect::<String>()
    };
    // Their time is up from the start: 1970 was long ago.
    world.clock.advance_millis(30 * 24 * 3_600_000);
    let sandbox = world.create(ask(APP)).await.record.id;
    let pool = PoolAsk {
        image: name("registry/pool:1"),
        cpu: None,
        memory: None,
        disk: None,
        gpus: None,
        timeout_secs: None,
        entrypoint: None,
        max_containers: None,
        warm_containers: None,
        network: NetworkPatch::Keep,
    };
    let pool = world.control.pool_create(&world.project, pool).await.expect("made").record.id;
    *world.node.images.lock() = Ok([digest('c')].into());
    assert_eq!(here().await, "abc");
    *world.node.images.lock() = Err("unreadable".to_owned());
    world.control.pool_delete(&world.project, &pool).await.expect("deleted");
    assert_eq!(here().await, "abc", "the node may need any");
    *world.node.images.lock() = Ok([].into());
    assert_eq!(here().await, "a");
    let named = world.control.image_pull(None, &name(APP), None).await.expect("named");
    assert_eq!((named.name.as_str(), named.pin.digest), (APP, digest('a')));
    let sandbox = SandboxRef::Id(sandbox);
    world.control.sandbox_delete(&world.project, &sandbox).await.expect("deleted");
    let view = world.control.sandbox_fetch(&world.project, &sandbox).await.expect("there");
    assert_eq!(view.status, SandboxStatus::Terminated);
    assert_eq!(here().await, "a", "it has a name");
    let taken = world.control.image_forget(&ImageTarget::Digits("aaaa".to_owned())).await;
    assert_eq!(taken.expect("forgotten").len(), 1);
    assert!(world.images.stored().await.is_empty(), "at once");
}
