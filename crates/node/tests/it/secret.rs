//! Secrets of sandboxes: in the environment of what runs inside, and nowhere else.

use tarn_node_api::NodeTarget;
use tarn_types::{EndCause, FailedStep, Launch, ObservedPhase, SecretName, StartFailure};

use crate::world::{World, id, launch};

/// What must not be written anywhere.
const VALUE: &str = "hush-715517";

fn set(world: &World, name: &str, value: &str) {
    world.host.secrets.values.lock().insert(name.to_owned(), value.to_owned());
}

/// Returns a named sandbox with secrets that prints its environment.
fn printing(names: &[&str]) -> Launch {
    let names = names.iter().map(|name| name.parse::<SecretName>().expect("a good name"));
    Launch {
        named: true,
        secret_names: names.collect(),
        entrypoint: Some(vec!["env".to_owned()]),
        ..launch()
    }
}

/// Returns the lines about secrets, of all boots, once there are so many.
async fn printed(world: &World, wanted: usize) -> Vec<String> {
    let mut lines = wanted;
    loop {
        let mut printed = world.host.logs.wait(&id(1), lines).await;
        lines = printed.len() + 1;
        printed.retain(|line| line.starts_with("API_KEY") || line.starts_with("OTHER"));
        if printed.len() >= wanted {
            return printed;
        }
    }
}

#[tokio::test]
async fn what_is_named_is_in_the_environment_and_nowhere_else() {
    let world = World::new().await;
    set(&world, "API_KEY", VALUE);
    set(&world, "OTHER", "not asked for");
    world.apply(&id(1), 1, NodeTarget::Running(printing(&["API_KEY"]))).await;
    world.reach(&id(1), 1, ObservedPhase::Running).await;
    let line = format!("API_KEY={VALUE}");
    assert_eq!(printed(&world, 1).await, [line]);
    world
        .wait_entry(&id(1), |entry| {
            assert!(!entry.to_string().contains(VALUE), "{entry}");
            entry["launch"]["secret_names"] == serde_json::json!(["API_KEY"])
        })
        .await;
}

#[tokio::test]
async fn one_that_is_gone_by_then_is_named() {
    let world = World::new().await;
    set(&world, "OTHER", VALUE);
    world.apply(&id(1), 1, NodeTarget::Running(printing(&["OTHER", "API_KEY"]))).await;
    let EndCause::StartFailed { step, failure, message } = world.wait_end(&id(1)).await else {
        panic!("it started")
    };
    assert_eq!((step, failure), (FailedStep::Init, StartFailure::Configuration), "{message}");
    assert!(message.contains("`API_KEY`") && !message.contains(VALUE), "{message}");
    world.assert_clean(1).await;
}

#[tokio::test]
async fn too_many_by_then_are_refused() {
    let world = World::new().await;
    let names: Vec<String> = (0..9).map(|number| format!("S{number}")).collect();
    for name in &names {
        set(&world, name, &"x".repeat(65_536));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.apply(&id(1), 1, NodeTarget::Running(printing(&names))).await;
    let cause = world.wait_end(&id(1)).await;
    assert!(
        matches!(&cause, EndCause::StartFailed { failure: StartFailure::Configuration, .. }),
        "{cause:?}"
    );
}

#[tokio::test]
async fn a_boot_after_a_restart_of_the_host_has_what_there_is_then() {
    let world = World::new().await;
    set(&world, "API_KEY", "old");
    set(&world, "OTHER", "kept");
    let launch = printing(&["API_KEY", "OTHER"]);
    world.apply(&id(1), 1, NodeTarget::Running(launch.clone())).await;
    world.reach(&id(1), 1, ObservedPhase::Running).await;
    assert_eq!(printed(&world, 2).await, ["API_KEY=old", "OTHER=kept"]);
    let world = world.reboot().await;
    set(&world, "API_KEY", "new");
    world.host.secrets.values.lock().remove("OTHER");
    world.apply(&id(1), 2, NodeTarget::Running(launch)).await;
    world.reach(&id(1), 2, ObservedPhase::Running).await;
    // Its files must stay within reach, whatever became of the secrets.
    assert_eq!(printed(&world, 3).await, ["API_KEY=old", "OTHER=kept", "API_KEY=new"]);
}
