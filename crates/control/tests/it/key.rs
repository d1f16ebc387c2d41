//! Keys: made, used, revoked, never stored.

use tarn_control::ControlError;

use crate::fake::{Manner, World};

#[tokio::test(start_paused = true)]
async fn a_key_opens_its_project_until_revoked() {
    let world = World::new(Manner::Prompt).await;
    let key = world.control.key_create("team").await.expect("made");
    assert!(key.secret.starts_with("tl_apiKey_") && key.secret.len() == 74);
    assert!(!format!("{key:?}").contains(&key.secret));
    let caller = world.control.authenticate(&key.secret).await.expect("valid");
    assert_eq!((caller.project, caller.project_name.as_str()), (key.project.clone(), "team"));
    let second = world.control.key_create("team").await.expect("made");
    assert_eq!(second.project, key.project, "one project a name");

    world.control.key_revoke(&key.id).await.expect("revoked");
    let refused = world.control.authenticate(&key.secret).await;
    assert!(matches!(refused, Err(ControlError::Unauthenticated)), "{refused:?}");
    assert!(world.control.authenticate(&second.secret).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_key_opens_nothing() {
    let world = World::new(Manner::Prompt).await;
    let long = "x".repeat(10_000);
    for bearer in ["", "tl_apiKey_", "x", &long] {
        let refused = world.control.authenticate(bearer).await;
        assert!(matches!(refused, Err(ControlError::Unauthenticated)), "{refused:?}");
    }
    for project in ["", "a b", "../x", &"x".repeat(64)] {
        let refused = world.control.key_create(project).await;
        assert!(matches!(refused, Err(ControlError::Invalid { field: "project", .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn the_default_key_outlives_an_emptied_store() {
    let world = World::new(Manner::Prompt).await;
    let secret = world.control.new_secret();
    for _ in 0..2 {
        world.control.key_ensure(&secret, "default").await.expect("ensured");
    }
    assert_eq!(world.control.key_list().await.expect("listed").len(), 1);
    assert!(world.control.authenticate(&secret).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_revoked_default_key_is_not_made_valid_again() {
    let world = World::new(Manner::Prompt).await;
    let secret = world.control.new_secret();
    world.control.key_ensure(&secret, "default").await.expect("ensured");
    let key = world.control.authenticate(&secret).await.expect("valid").key;
    world.control.key_revoke(&key).await.expect("revoked");
    let refused = world.control.key_ensure(&secret, "default").await;
    assert!(matches!(refused, Err(ControlError::Unauthenticated)), "{refused:?}");
    assert!(world.control.authenticate(&secret).await.is_err());
    let replacement = world.control.new_secret();
    world.control.key_ensure(&replacement, "default").await.expect("ensured");
    assert!(world.control.authenticate(&replacement).await.is_ok());
    assert_eq!(world.control.key_list().await.expect("listed").len(), 2);
}
