//! What the ingress is told.

use std::time::Duration;

use tarn_control::CreateAsk;
use tarn_route_api::{RouteError, Routes};
use tarn_types::{ObservedPhase, ProjectId, SandboxRef, SandboxStatus};

use crate::fake::{Manner, World, named, timed_out};

#[tokio::test(start_paused = true)]
async fn a_running_sandbox_has_an_endpoint() {
    let world = World::new(Manner::Prompt).await;
    let id = world.create(named("box")).await.record.id;
    for sandbox in [SandboxRef::Id(id.clone()), "box".parse().expect("a name")] {
        let route = world.control.resolve(&sandbox, Some(&world.project)).await.expect("a route");
        assert_eq!((route.id, route.status), (id.clone(), SandboxStatus::Running));
        assert!(route.endpoint.is_some());
    }
    let stranger = ProjectId::from_random([9; 16]);
    let hidden = world.control.resolve(&SandboxRef::Id(id.clone()), Some(&stranger)).await;
    assert!(matches!(hidden, Err(RouteError::NotFound(_))));
    let public = world.control.resolve(&SandboxRef::Id(id), None).await;
    assert!(public.is_ok(), "the ingress checks public access itself");
    let nameless = world.control.resolve(&"box".parse().expect("a name"), None).await;
    assert!(matches!(nameless, Err(RouteError::NotFound(_))));
}

#[tokio::test(start_paused = true)]
async fn a_pending_one_can_be_waited_for() {
    let world = World::new(Manner::Silent).await;
    let create = world.control.sandbox_create(&world.project, CreateAsk::default(), Duration::ZERO);
    let id = create.await.expect("accepted").record.id;
    let sandbox = SandboxRef::Id(id.clone());
    let seen = world.control.resolve(&sandbox, None).await.expect("a route");
    assert_eq!(seen.status, SandboxStatus::Pending);
    let changed = world.control.changed(&seen);
    let ((), ()) = tokio::join!(changed, world.node.say(&id, 1, ObservedPhase::Running));
    let now = world.control.resolve(&sandbox, None).await.expect("a route");
    assert_eq!(now.status, SandboxStatus::Running);
    world.control.changed(&seen).await;
}

#[tokio::test(start_paused = true)]
async fn an_ended_one_is_told_from_an_unknown_one() {
    let world = World::new(Manner::Prompt).await;
    let id = world.create(CreateAsk::default()).await.record.id;
    world.node.say(&id, 1, timed_out()).await;
    let ended = world.control.resolve(&SandboxRef::Id(id), None).await.expect("known");
    assert_eq!((ended.status, ended.endpoint.is_none()), (SandboxStatus::Terminated, true));
    let unknown = "zzzzzzzzzzzzzzzzzzzzz".parse().expect("the shape of an id");
    let unknown = world.control.resolve(&unknown, None).await;
    assert!(matches!(unknown, Err(RouteError::NotFound(_))));
}
