//! Connections to sandboxes are kept, and every way they can be stale gets the right answer.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use tarn_types::{Generation, SandboxId, SandboxStatus};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    client::{AnyBody, Client, Raw, empty, full, get, once, to},
    sandbox::{Nobody, Recorder, fed, serve, serve_raw},
    world::{KEY, World, eventually, exposing, soon},
};

fn post(id: &SandboxId, body: impl Into<bytes::Bytes>) -> Request<AnyBody> {
    Request::post("/api/v1/processes/run")
        .header("host", format!("{id}.local"))
        .header("authorization", format!("Bearer {KEY}"))
        .body(full(body))
        .expect("a request")
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let mut client = Client::http1(&world).await;
    for _ in 0..20 {
        assert_eq!(client.send(post(&id, "x")).await.status, 200);
    }
    let stats = world.stats();
    assert_eq!(stats.upstream_opened + stats.upstream_reused, 20);
    // A connection that is not quite ready is passed over, so one or two more are no fault.
    assert!(stats.upstream_opened <= 3, "{stats:?}");
    assert_eq!((stats.connections_open, stats.responses[1]), (1, 20));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let world = World::start().await;
    let daemon = serve(&world.tasks, |request| async move {
        Response::new(full(request.uri().path().to_owned()))
    })
    .await;
    let id = world.sandbox(daemon);
    let mut raw = Raw::connect(world.address).await;
    let requests: String = (0..5)
        .map(|n| {
            format!(
                "GET /n{n}. HTTP/1.1\r\nHost: {id}.local\r\nAuthorization: Bearer {KEY}\r\n\r\n"
            )
        })
        .collect();
    raw.write(requests).await;
    raw.read_until("/n4.").await;
    let text = raw.text();
    let order: Vec<_> = (0..5).map(|n| text.find(&format!("/n{n}."))).collect();
    assert!(order.is_sorted() && order.iter().all(Option::is_some), "{text}");
}

#[tokio::test]
async fn a_daemon_that_is_not_there_makes_any_request_repeatable() {
    let world = World::start().await;
    let nobody = Nobody::here();
    let id = world.sandbox(nobody.address());
    let answer = once(&world, post(&id, "x")).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (502, "SANDBOX_UNREACHABLE"));
}

#[tokio::test]
async fn a_user_port_where_nothing_listens_does_not() {
    let world = World::start().await;
    let nobody = Nobody::here();
    let address = nobody.address();
    let id = world.routes.add(exposing(address, &[address.port()], false));
    let answer = once(&world, to(&format!("{}-{id}", address.port()), "/", Some(KEY))).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (502, "CONNECTION_REFUSED"));
}

/// Reads one request with a body of one byte; false at the end of the connection.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\nx") {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    true
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn a_connection_closed_between_requests_is_not_noticed_by_clients() {
    let world = World::start().await;
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let daemon = serve_raw(&world.tasks, move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            count.fetch_add(1, SeqCst);
            if read_request(&mut stream).await {
                drop(stream.write_all(OK).await);
            }
        }
    })
    .await;
    let id = world.sandbox(daemon);
    let mut client = Client::http1(&world).await;
    let mut closed = 0;
    for _ in 0..200 {
        let answer = client.send(post(&id, "x")).await;
        match answer.status.as_u16() {
            200 => {}
            // The close crossed the request: bytes were accepted, so it must not be called safe.
            502 => {
                assert_eq!(answer.code(), "CONNECTION_CLOSED");
                closed += 1;
            }
            status => unreachable!("{status}"),
        }
    }
    assert!(closed < 200, "not every request can have crossed a close");
    assert!(connections.load(SeqCst) >= 200 - closed);
}

#[tokio::test]
async fn a_request_that_a_kept_connection_never_took_is_sent_on_a_new_one() {
    let world = World::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let id = world.sandbox(listener.local_addr().expect("an address"));
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {id}.local\r\nAuthorization: Bearer {KEY}\r\n\
         Content-Length: 1\r\n\r\nx"
    );
    let mut raw = Raw::connect(world.address).await;
    raw.write(&request).await;
    let (mut first, _) = soon("a connection", listener.accept()).await.expect("a connection");
    assert!(read_request(&mut first).await);
    first.write_all(OK).await.expect("a write");
    raw.read_until("\r\n\r\nok").await;
    eventually("the connection is kept", || world.stats().requests_active == 0).await;

    // All in one step of this thread, which is the only one: the ingress finds the request first,
    // and that the connection is closed only afterwards.
    let sent = raw.stream.try_write(request.as_bytes()).expect("room for a request");
    assert_eq!(sent, request.len());
    drop(first);
    let (mut second, _) = soon("another", listener.accept()).await.expect("a connection");
    assert!(read_request(&mut second).await, "whole, body and all");
    second.write_all(OK).await.expect("a write");
    raw.received.clear();
    raw.read_until("\r\n\r\nok").await;
    let stats = world.stats();
    assert_eq!((stats.upstream_opened, stats.upstream_reused, stats.upstream_retried), (2, 1, 1));
}

#[tokio::test]
async fn a_request_whose_kept_connection_dies_under_it_is_not_sent_twice() {
    let world = World::start().await;
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let daemon = serve_raw(&world.tasks, move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            while read_request(&mut stream).await {
                if count.fetch_add(1, SeqCst) == 1 {
                    return;
                }
                drop(stream.write_all(OK).await);
            }
        }
    })
    .await;
    let id = world.sandbox(daemon);
    let mut client = Client::http1(&world).await;
    assert_eq!(client.send(post(&id, "x")).await.status, 200);
    let answer = client.send(post(&id, "x")).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (502, "CONNECTION_CLOSED"));
    assert_eq!(requests.load(SeqCst), 2, "executed once, not repeated");
    assert_eq!(client.send(post(&id, "x")).await.status, 200);
}

#[tokio::test]
async fn a_newer_generation_drops_the_connections_of_the_older() {
    let world = World::start().await;
    let (old, new) = (Recorder::start(&world.tasks).await, Recorder::start(&world.tasks).await);
    let id = world.sandbox(old.address);
    let mut client = Client::http1(&world).await;
    assert_eq!(client.send(get(&id, "/")).await.status, 200);
    // Same address: only the generation tells.
    world.routes.edit(&id, |route| route.generation = Generation(2));
    assert_eq!(client.send(get(&id, "/")).await.status, 200);
    assert_eq!(world.stats().upstream_opened, 2);
    world.routes.edit(&id, |route| {
        route.generation = Generation(3);
        route.endpoint.as_mut().expect("running").daemon = new.address;
    });
    assert_eq!(client.send(get(&id, "/")).await.status, 200);
    assert_eq!((old.count(), new.count()), (2, 1));
}

#[tokio::test]
async fn idle_connections_close_when_the_sandbox_stops() {
    let world = World::start().await;
    let open = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&open);
    let daemon = serve_raw(&world.tasks, move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            count.fetch_add(1, SeqCst);
            while read_request(&mut stream).await {
                drop(stream.write_all(OK).await);
            }
            count.fetch_sub(1, SeqCst);
        }
    })
    .await;
    let id = world.sandbox(daemon);
    assert_eq!(once(&world, post(&id, "x")).await.status, 200);
    assert_eq!(open.load(SeqCst), 1);
    world.routes.edit(&id, |route| route.status = SandboxStatus::Terminated);
    eventually("no connection is left", || open.load(SeqCst) == 0).await;
}

#[tokio::test]
async fn open_streams_are_cut_when_the_sandbox_stops_and_only_then() {
    let world = World::start().await;
    let daemon = serve(&world.tasks, |_request| async move {
        let (feed, body) = fed();
        // Never ends by itself, like the stream of a sandbox that was killed.
        std::mem::forget(feed);
        Response::new(body)
    })
    .await;
    let id = world.sandbox(daemon);
    let mut client = Client::http1(&world).await;
    let mut body = client.start(get(&id, "/")).await.expect("a head").into_body();
    world.routes.edit(&id, |route| route.generation = Generation(2));
    world.routes.edit(&id, |route| route.status = SandboxStatus::Snapshotting);
    world.routes.edit(&id, |route| route.status = SandboxStatus::Running);
    let mut waiting = Box::pin(body.frame());
    let quiet = tokio::time::timeout(std::time::Duration::from_millis(1500), &mut waiting).await;
    assert!(quiet.is_err(), "a rename or a snapshot must not cut streams");
    world.routes.edit(&id, |route| route.status = SandboxStatus::Terminated);
    let frame = soon("the stream is cut", waiting).await;
    assert!(frame.is_some_and(|frame| frame.is_err()), "and does not look whole");
    eventually("nothing is active", || world.stats().requests_active == 0).await;
}

#[tokio::test]
async fn a_request_in_flight_when_the_sandbox_stops_is_not_called_safe() {
    let world = World::start().await;
    let daemon = serve(&world.tasks, |_request| std::future::pending()).await;
    let id = world.sandbox(daemon);
    let mut client = Client::http1(&world).await;
    let request = get(&id, "/");
    let answer = world.tasks.spawn("request", async move { client.send(request).await });
    eventually("it is on its way", || world.stats().upstream_opened == 1).await;
    world.routes.edit(&id, |route| route.status = SandboxStatus::Terminated);
    let answer = soon("an answer", answer).await.expect("a task");
    assert_eq!((answer.status.as_u16(), &*answer.code()), (502, "CONNECTION_CLOSED"));
}

#[tokio::test]
async fn silence_for_the_idle_time_ends_a_request() {
    let config = tarn_ingress::IngressConfig {
        idle_timeout: std::time::Duration::from_millis(100),
        ..tarn_ingress::IngressConfig::default()
    };
    let world = World::with(config).await;
    let deaf = serve_raw(&world.tasks, |stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let id = world.sandbox(deaf);
    let answer = once(&world, get(&id, "/")).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (504, "READ_TIMEOUT"));
    let (feed, body) = fed();
    let mut request = post(&id, "");
    *request.body_mut() = body;
    let answer = once(&world, request).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (504, "WRITE_TIMEOUT"));
    drop(feed);

    let (feed, body) = fed();
    let stuck = parking_lot::Mutex::new(Some(body));
    let stuck = Arc::new(stuck);
    let daemon = serve(&world.tasks, move |_request| {
        let body = stuck.lock().take().unwrap_or_else(empty);
        async move { Response::new(body) }
    })
    .await;
    let id = world.sandbox(daemon);
    let mut body =
        Client::http1(&world).await.start(get(&id, "/")).await.expect("a head").into_body();
    let frame = soon("the stream ends", body.frame()).await;
    assert!(frame.is_some_and(|frame| frame.is_err()), "and does not look whole");
    drop(feed);
}
