//! Images that are not on the node: brought before a start, once for all who wait, and known to be
//! needed as long as they are.

use tarn_node_api::{Node as _, NodeTarget};
use tarn_types::{
    BootImage, EndCause, FailedStep, Generation, ImageDigest, ImagePin, Launch, ObservedPhase,
    RegistryLogin, SecretValue, StartFailure,
};

use crate::world::{World, id, launch};

const SOURCE: &str = "registry/app:1";

fn digest() -> ImageDigest {
    format!("sha256:{}", "a".repeat(64)).parse().expect("a good digest")
}

/// Returns one that boots the image of a registry.
fn pinned() -> Launch {
    let pin = ImagePin { digest: digest(), source: Some(SOURCE.to_owned()) };
    let name = SOURCE.parse().expect("a good name");
    Launch { image: BootImage { name, pin: Some(pin), registered: None }, named: true, ..launch() }
}

async fn apply(world: &World, number: u8, generation: u64) {
    world.apply(&id(number), generation, NodeTarget::Running(pinned())).await;
}

#[tokio::test]
async fn it_is_brought_before_the_start_and_needed_until_the_end() {
    let world = World::new().await;
    let login = RegistryLogin {
        username: "bob".to_owned(),
        password: SecretValue::new("hush".to_owned()).expect("a value"),
    };
    *world.host.secrets.login.lock() = Some(login.clone());
    world.host.images.offer(SOURCE, &digest(), Some(login));
    world.host.images.set_flowing(false);
    assert_eq!(world.node.images_in_use().await, Ok([].into()));
    for number in 1..=3 {
        apply(&world, number, 1).await;
    }
    assert_eq!(world.node.images_in_use().await, Ok([digest()].into()));
    world.host.images.set_flowing(true);
    for number in 1..=3 {
        world.reach(&id(number), 1, ObservedPhase::Running).await;
    }
    assert_eq!(world.host.images.pulled(), 1);
    let world = world.restart().await;
    assert_eq!(world.node.images_in_use().await, Ok([digest()].into()));
    for number in 1..=3 {
        world.apply(&id(number), 2, NodeTarget::Terminated(EndCause::Deleted)).await;
        world.reach(&id(number), 2, ObservedPhase::Ended(EndCause::Deleted)).await;
        world.node.forget(&id(number), Generation(2)).await;
    }
    world.assert_clean(0).await;
    assert_eq!(world.node.images_in_use().await, Ok([].into()));
}

#[tokio::test]
async fn one_that_does_not_come_ends_the_start_and_says_why() {
    let world = World::new().await;
    world.host.images.offer(SOURCE, &digest(), None);
    world.host.images.spoil(SOURCE);
    apply(&world, 1, 1).await;
    let cause = EndCause::StartFailed {
        step: FailedStep::Image,
        failure: StartFailure::Image,
        message: format!("image `{SOURCE}`: it was spoilt"),
    };
    world.reach(&id(1), 1, ObservedPhase::Ended(cause)).await;
}

#[tokio::test]
async fn who_waits_for_one_can_be_ended_and_a_restart_goes_on() {
    let world = World::new().await;
    world.host.images.offer(SOURCE, &digest(), None);
    world.host.images.set_flowing(false);
    apply(&world, 1, 1).await;
    apply(&world, 2, 1).await;
    world.apply(&id(1), 2, NodeTarget::Terminated(EndCause::Cancelled)).await;
    world.reach(&id(1), 2, ObservedPhase::Ended(EndCause::Cancelled)).await;
    let world = world.restart().await;
    apply(&world, 2, 1).await;
    world.host.images.set_flowing(true);
    world.reach(&id(2), 1, ObservedPhase::Running).await;
}
