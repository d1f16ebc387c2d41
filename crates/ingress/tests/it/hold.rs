//! What becomes of requests to sandboxes that do not run.

use std::time::Duration;

use tarn_ingress::IngressConfig;
use tarn_types::SandboxStatus;

use crate::{
    client::{Answer, Client, Raw, get, once, to},
    sandbox::Recorder,
    world::{KEY, World, eventually, route, soon},
};

/// A pending sandbox whose daemon is there already.
async fn pending(world: &World) -> (tarn_types::SandboxId, Recorder, tarn_route_api::Route) {
    let daemon = Recorder::start(&world.tasks).await;
    let running = route(daemon.address);
    let mut waiting = running.clone();
    (waiting.status, waiting.endpoint) = (SandboxStatus::Pending, None);
    (world.routes.add(waiting), daemon, running)
}

#[tokio::test]
async fn a_pending_sandbox_gets_its_requests_once_it_runs() {
    let world = World::start().await;
    let (id, daemon, running) = pending(&world).await;
    world.routes.name("box", &id);
    let mut answers = Vec::new();
    for request in [get(&id, "/"), to("box", "/", Some(KEY)), get(&id, "/")] {
        let mut client = Client::http1(&world).await;
        answers.push(world.tasks.spawn("request", async move { client.send(request).await }));
    }
    eventually("three wait", || world.stats().held_now == 3).await;
    // A change that is not yet the one waited for.
    world.routes.edit(&id, |route| route.status = SandboxStatus::Snapshotting);
    assert_eq!(daemon.count(), 0);
    world.routes.edit(&id, |route| *route = running);
    for answer in answers {
        let answer: Answer = soon("an answer", answer).await.expect("a task");
        assert_eq!(answer.status, 200);
    }
    let stats = world.stats();
    assert_eq!((stats.held, stats.held_now), (3, 0));
}

#[tokio::test]
async fn waiting_ends_with_the_budget_of_the_client_or_of_the_house() {
    let config =
        IngressConfig { hold_timeout: Duration::from_millis(50), ..IngressConfig::default() };
    let world = World::with(config).await;
    let (id, daemon, _running) = pending(&world).await;
    for budget in [None, Some("1050"), Some("1"), Some("nonsense")] {
        let mut request = get(&id, "/");
        if let Some(budget) = budget {
            let budget = budget.parse().expect("a value");
            request.headers_mut().insert("x-tensorlake-request-timeout-ms", budget);
        }
        let answer = once(&world, request).await;
        assert_eq!((answer.status.as_u16(), &*answer.code()), (503, "SANDBOX_NOT_READY"));
    }
    assert_eq!((daemon.count(), world.stats().held_now), (0, 0));
}

#[tokio::test]
async fn a_longer_budget_outlasts_the_default() {
    let config =
        IngressConfig { hold_timeout: Duration::from_millis(1), ..IngressConfig::default() };
    let world = World::with(config).await;
    let (id, _daemon, running) = pending(&world).await;
    let mut request = get(&id, "/");
    let budget = "20000".parse().expect("a value");
    request.headers_mut().insert("x-tensorlake-request-timeout-ms", budget);
    let mut client = Client::http1(&world).await;
    let answer = world.tasks.spawn("request", async move { client.send(request).await });
    eventually("it waits", || world.stats().held_now == 1).await;
    world.routes.edit(&id, |route| *route = running);
    assert_eq!(soon("an answer", answer).await.expect("a task").status, 200);
}

#[tokio::test]
async fn a_sandbox_that_ends_while_requests_wait_says_so() {
    let world = World::start().await;
    let (id, _daemon, _running) = pending(&world).await;
    let mut client = Client::http1(&world).await;
    let request = get(&id, "/");
    let answer = world.tasks.spawn("request", async move { client.send(request).await });
    eventually("it waits", || world.stats().held_now == 1).await;
    world.routes.edit(&id, |route| route.status = SandboxStatus::Terminated);
    let answer = soon("an answer", answer).await.expect("a task");
    assert_eq!((answer.status.as_u16(), &*answer.code()), (503, "SANDBOX_NOT_RUNNING"));
}

#[tokio::test]
async fn what_does_not_run_and_cannot_be_woken_is_refused() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    world.routes.name("box", &id);
    let table = [
        (SandboxStatus::Terminated, id.as_str(), 503, "SANDBOX_NOT_RUNNING"),
        (SandboxStatus::Terminated, "box", 404, "SANDBOX_NOT_FOUND"),
        (SandboxStatus::Suspended, id.as_str(), 503, "SANDBOX_NOT_RUNNING"),
        (SandboxStatus::Suspended, "box", 503, "SANDBOX_NOT_RUNNING"),
    ];
    for (status, label, expected, code) in table {
        world.routes.edit(&id, |route| (route.status, route.endpoint) = (status, None));
        let answer = once(&world, to(label, "/", Some(KEY))).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (expected, code),
            "{status:?} {label}"
        );
        assert_eq!(once(&world, to(label, "/", None)).await.status, 401);
    }
    world.routes.edit(&id, |route| route.status = SandboxStatus::Running);
    let mut request = get(&id, "/");
    let budget = "1050".parse().expect("a value");
    request.headers_mut().insert("x-tensorlake-request-timeout-ms", budget);
    let answer = once(&world, request).await;
    assert_eq!(answer.code(), "SANDBOX_NOT_READY", "runs, but nobody says where");
}

#[tokio::test]
async fn a_client_that_stops_waiting_frees_its_place() {
    let world = World::with(IngressConfig { max_held: 1, ..IngressConfig::default() }).await;
    let (id, _daemon, _running) = pending(&world).await;
    let request =
        format!("GET / HTTP/1.1\r\nHost: {id}.local\r\nAuthorization: Bearer {KEY}\r\n\r\n");
    let mut raw = Raw::connect(world.address).await;
    raw.write(&request).await;
    eventually("it waits", || world.stats().held_now == 1).await;
    let answer = once(&world, get(&id, "/")).await;
    assert_eq!(answer.code(), "SANDBOX_NOT_READY", "there is one place only");
    drop(raw);
    eventually("the place is free", || world.stats().held_now == 0).await;
}
