//! Requests to sandboxes that sleep, and what counts as activity.

use std::time::Duration;

use http::Response;
use tarn_ingress::IngressConfig;
use tarn_route_api::Route;
use tarn_types::{Generation, SandboxId, SandboxStatus};
use tokio::{net::TcpStream, task::JoinHandle};

use crate::{
    client::{Answer, Client, Raw, full, get, once, to},
    sandbox::{Nobody, Recorder, serve},
    world::{KEY, World, eventually, exposing, route, soon},
};

/// Puts a sandbox to sleep that runs as `running` says, and may be woken or not.
fn sleeping(world: &World, running: &Route, wakes: bool) -> SandboxId {
    let mut asleep = Route { wakes, ..running.clone() };
    (asleep.status, asleep.endpoint) = (SandboxStatus::Suspended, None);
    world.routes.add(asleep)
}

/// Makes it run as the next generation.
fn resume(world: &World, id: &SandboxId, running: &Route) {
    let running = running.clone();
    world.routes.edit(id, |route| {
        (route.status, route.endpoint) = (running.status, running.endpoint);
        route.generation = Generation(route.generation.0 + 1);
    });
}

/// Sends many requests at once, each on a connection of its own.
async fn crowd(world: &World, id: &SandboxId, count: usize) -> Vec<JoinHandle<Answer>> {
    let mut answers = Vec::new();
    for n in 0..count {
        let mut client = Client::http1(world).await;
        let request = get(id, &format!("/n{n}"));
        answers.push(world.tasks.spawn("request", async move { client.send(request).await }));
    }
    answers
}

#[tokio::test]
async fn fifty_requests_wake_a_sandbox_once_and_are_answered_once_each() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let running = route(daemon.address);
    let id = sleeping(&world, &running, true);
    let answers = crowd(&world, &id, 50).await;
    eventually("all wait", || world.stats().held_now == 50).await;
    eventually("it is woken", || !world.routes.woken().is_empty()).await;
    assert_eq!(world.activity(&id).map(|activity| activity.open), Some(50));
    // While the resume is under way the status stays; a newer generation alone changes nothing.
    world.routes.edit(&id, |route| route.generation = Generation(2));
    assert_eq!((daemon.count(), world.stats().held_now), (0, 50));
    resume(&world, &id, &running);
    for answer in answers {
        let answer: Answer = soon("an answer", answer).await.expect("a task");
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "ok"));
    }
    assert_eq!(world.routes.woken(), std::slice::from_ref(&id), "woken once");
    let mut targets: Vec<_> = daemon.seen.lock().iter().map(|seen| seen.target.clone()).collect();
    targets.sort();
    targets.dedup();
    assert_eq!((daemon.count(), targets.len()), (50, 50), "each was forwarded once");
    eventually("nothing is open", || world.activity(&id).is_some_and(|now| now.open == 0)).await;
}

#[tokio::test]
async fn one_that_sleeps_takes_no_more_than_its_share_of_the_places() {
    let world = World::with(IngressConfig { max_held: 32, ..IngressConfig::default() }).await;
    let daemon = Recorder::start(&world.tasks).await;
    let (running, second) = (route(daemon.address), route(daemon.address));
    let (crowded, other) = (sleeping(&world, &running, true), sleeping(&world, &second, true));
    let mut waiting = crowd(&world, &crowded, 2).await;
    eventually("both wait", || world.stats().held_now == 2).await;
    let answer = once(&world, get(&crowded, "/")).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (503, "SANDBOX_NOT_READY"));
    assert!(answer.text().contains("this sandbox"), "{}", answer.text());
    waiting.extend(crowd(&world, &other, 1).await);
    eventually("the other waits", || world.stats().held_now == 3).await;
    resume(&world, &crowded, &running);
    resume(&world, &other, &second);
    for answer in waiting {
        assert_eq!(soon("an answer", answer).await.expect("a task").status, 200);
    }
}

#[tokio::test]
async fn what_must_not_be_woken_is_not() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = sleeping(&world, &route(daemon.address), false);
    let answer = once(&world, get(&id, "/")).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (503, "SANDBOX_NOT_RUNNING"));
    // Nor is what may be woken, by who may not come in and by what we answer ourselves.
    world.routes.edit(&id, |route| route.wakes = true);
    assert_eq!(once(&world, to(id.as_str(), "/", None)).await.status, 401);
    assert_eq!(once(&world, to(&format!("80-{id}"), "/", Some(KEY))).await.status, 403);
    let preflight = http::Request::options("/")
        .header("host", format!("{id}.local"))
        .header("origin", "http://page")
        .header("access-control-request-method", "GET")
        .body(full(""))
        .expect("a request");
    assert_eq!(once(&world, preflight).await.status, 200);
    // The node's own channel is for nobody, and strangers do not learn from it which ids exist.
    let mut answers = Vec::new();
    for (label, key) in [(id.as_str(), Some(KEY)), (id.as_str(), None), ("no-box", None)] {
        let answer = once(&world, to(label, "/internal/v1/stats", key)).await;
        answers.push((answer.status.as_u16(), answer.text().to_owned()));
    }
    assert!(answers[0].0 == 404 && answers[0].1.contains("\"NOT_FOUND\""), "{answers:?}");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert!(world.routes.woken().is_empty());
    assert_eq!(daemon.count(), 0);
}

#[tokio::test]
async fn a_wake_that_leads_nowhere_ends_with_the_budget_and_is_safe_to_repeat() {
    let config =
        IngressConfig { hold_timeout: Duration::from_millis(50), ..IngressConfig::default() };
    let world = World::with(config).await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = sleeping(&world, &route(daemon.address), true);
    for fails in [false, true] {
        world.routes.wakes_fail(fails);
        let answer = once(&world, get(&id, "/")).await;
        assert_eq!((answer.status.as_u16(), &*answer.code()), (503, "SANDBOX_NOT_READY"));
    }
    // Nobody waited in between, so each had its own.
    assert_eq!((world.routes.woken().len(), daemon.count()), (2, 0));
}

#[tokio::test]
async fn a_wake_that_fails_is_asked_for_again_while_somebody_waits() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let running = route(daemon.address);
    let id = sleeping(&world, &running, true);
    world.routes.wakes_fail(true);
    let answers = crowd(&world, &id, 3).await;
    eventually("it was tried again", || world.routes.woken().len() >= 2).await;
    resume(&world, &id, &running);
    for answer in answers {
        assert_eq!(soon("an answer", answer).await.expect("a task").status, 200);
    }
    assert!(world.routes.woken().len() < 6, "three who wait do not each try");
}

#[tokio::test]
async fn what_is_being_suspended_is_woken_once_it_is() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let running = Route { wakes: true, ..route(daemon.address) };
    let id = world.routes.add(Route { status: SandboxStatus::Suspending, ..running.clone() });
    let answers = crowd(&world, &id, 2).await;
    eventually("both wait", || world.stats().held_now == 2).await;
    assert!(world.routes.woken().is_empty());
    world.routes.edit(&id, |r| (r.status, r.endpoint) = (SandboxStatus::Suspended, None));
    eventually("it is woken", || !world.routes.woken().is_empty()).await;
    resume(&world, &id, &running);
    for answer in answers {
        assert_eq!(soon("an answer", answer).await.expect("a task").status, 200);
    }
    assert_eq!(world.routes.woken().len(), 1);
}

#[tokio::test]
async fn a_user_port_of_a_woken_sandbox_may_take_a_moment_to_listen() {
    let world = World::start().await;
    let nobody = Nobody::here();
    let address = nobody.address();
    let running = exposing(address, &[address.port()], false);
    let id = sleeping(&world, &running, true);
    let request = to(&format!("{}-{id}", address.port()), "/", Some(KEY));
    let mut client = Client::http1(&world).await;
    let answer = world.tasks.spawn("request", async move { client.send(request).await });
    eventually("it is woken", || !world.routes.woken().is_empty()).await;
    resume(&world, &id, &running);
    eventually("it waits no more for the sandbox", || world.stats().held_now == 0).await;
    let listener = nobody.listen();
    let (stream, _peer) = soon("a connection", listener.accept()).await.expect("a connection");
    answer_ok(stream).await;
    assert_eq!(soon("an answer", answer).await.expect("a task").status, 200);
}

#[tokio::test]
async fn a_user_port_where_nothing_listens_is_given_up_after_a_while() {
    let config =
        IngressConfig { listen_patience: Duration::from_millis(50), ..IngressConfig::default() };
    let world = World::with(config).await;
    let nobody = Nobody::here();
    let address = nobody.address();
    let running = exposing(address, &[address.port()], false);
    let id = sleeping(&world, &running, true);
    let request = to(&format!("{}-{id}", address.port()), "/", Some(KEY));
    let mut client = Client::http1(&world).await;
    let answer = world.tasks.spawn("request", async move { client.send(request).await });
    eventually("it is woken", || !world.routes.woken().is_empty()).await;
    resume(&world, &id, &running);
    let answer = soon("an answer", answer).await.expect("a task");
    assert_eq!((answer.status.as_u16(), &*answer.code()), (502, "CONNECTION_REFUSED"));
}

/// Reads one request's head and answers it.
async fn answer_ok(mut stream: TcpStream) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut head).await.is_ok_and(|read| read > 0), "a whole head");
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.expect("written");
}

#[tokio::test]
async fn an_open_stream_is_activity_until_its_end() {
    let world = World::start().await;
    let (feed, body) = crate::sandbox::fed();
    let body = std::sync::Arc::new(parking_lot::Mutex::new(Some(body)));
    let daemon = serve(&world.tasks, move |_request| {
        let body = body.lock().take();
        async move { Response::new(body.unwrap_or_else(|| full("again"))) }
    })
    .await;
    let id = world.sandbox(daemon);
    assert_eq!(world.activity(&id), None);
    let request =
        format!("GET / HTTP/1.1\r\nHost: {id}.local\r\nAuthorization: Bearer {KEY}\r\n\r\n");
    let mut raw = Raw::connect(world.address).await;
    raw.write(&request).await;
    raw.read_until("\r\n\r\n").await;
    let open = world.activity(&id).expect("it is known");
    assert_eq!(open.open, 1);
    drop(feed);
    eventually("it has ended", || world.activity(&id).is_some_and(|now| now.open == 0)).await;
    assert!(world.activity(&id).is_some_and(|now| now.last >= open.last));
    let other = world.sandbox(daemon);
    assert_eq!(once(&world, to(other.as_str(), "/", None)).await.status, 401);
    assert_eq!(world.activity(&other), None, "who is refused is no activity");
}
