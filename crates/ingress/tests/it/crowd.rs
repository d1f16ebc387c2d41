//! Many clients: who is served when there are more than there is room for.

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use parking_lot::Mutex;
use std::sync::Arc;
use tarn_ingress::IngressConfig;
use tarn_types::SandboxId;

use crate::{
    client::{Client, Raw, get, once},
    sandbox::{Feed, Recorder, fed, serve},
    world::{KEY, World, eventually, soon},
};

fn request(id: &SandboxId) -> String {
    format!("GET / HTTP/1.1\r\nHost: {id}.local\r\nAuthorization: Bearer {KEY}\r\n\r\n")
}

/// A sandbox whose answers end when the feeds are dropped.
async fn endless(world: &World) -> (SandboxId, Arc<Mutex<Vec<Feed>>>) {
    let feeds: Arc<Mutex<Vec<Feed>>> = Arc::default();
    let kept = Arc::clone(&feeds);
    let daemon = serve(&world.tasks, move |_request| {
        let (feed, body) = fed();
        kept.lock().push(feed);
        async move { Response::new(body) }
    })
    .await;
    (world.sandbox(daemon), feeds)
}

/// Opens a connection with an answer that goes on.
async fn open(world: &World, id: &SandboxId) -> Raw {
    let mut raw = Raw::connect(world.address).await;
    raw.write(request(id)).await;
    raw.read_until("\r\n\r\n").await;
    assert!(raw.text().starts_with("HTTP/1.1 200"), "{}", raw.text());
    raw
}

async fn crowded(max_connections: usize) -> World {
    World::with(IngressConfig { max_connections, ..IngressConfig::default() }).await
}

#[tokio::test]
async fn who_sits_idle_gives_way() {
    let world = crowded(8).await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let (other, feeds) = endless(&world).await;
    let mut busy = open(&world, &other).await;
    let mut idle = Vec::new();
    for n in 0..7 {
        idle.push(Raw::connect(world.address).await);
        eventually("it is in", || world.stats().connections_open == n + 2).await;
    }
    for _ in 0..3 {
        let answer = once(&world, get(&id, "/")).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "ok"));
    }
    assert_eq!(idle[0].read_to_end().await, "", "the first to come is the first to go");
    let stats = world.stats();
    assert!((1..=3).contains(&stats.connections_given_up), "{stats:?}");
    assert_eq!(stats.connections_turned_away, 0);
    // What is in use stays, however old it is.
    let feed = feeds.lock().remove(0);
    feed.send(Ok(Frame::data(Bytes::from_static(b"still here")))).await.expect("a reader");
    busy.read_until("still here").await;
}

#[tokio::test]
async fn many_who_never_finish_a_head_keep_nobody_out() {
    let world = crowded(16).await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let mut slow = Vec::new();
    for n in 0..64 {
        let mut raw = Raw::connect(world.address).await;
        drop(tokio::io::AsyncWriteExt::write_all(&mut raw.stream, b"GET / HTTP/1.1\r\nX: ").await);
        slow.push(raw);
        if n % 8 == 0 {
            assert_eq!(once(&world, get(&id, "/")).await.status, 200);
            let answer = Client::http2(&world).await.send(http2_get(&id)).await;
            assert_eq!(answer.status, 200);
        }
        for raw in &mut slow {
            // Some have been closed by now.
            drop(tokio::io::AsyncWriteExt::write_all(&mut raw.stream, b"x").await);
        }
    }
    eventually("no more than may", || world.stats().connections_open <= 16).await;
    assert_eq!(once(&world, get(&id, "/")).await.status, 200);
}

fn http2_get(id: &SandboxId) -> http::Request<crate::client::AnyBody> {
    http::Request::get(format!("http://{id}.local/"))
        .header("authorization", format!("Bearer {KEY}"))
        .body(crate::client::empty())
        .expect("a request")
}

#[tokio::test]
async fn where_all_are_busy_the_next_is_told_so() {
    let world = crowded(3).await;
    let mut ends = Vec::new();
    let mut busy = Vec::new();
    for _ in 0..3 {
        let (id, feeds) = endless(&world).await;
        busy.push(open(&world, &id).await);
        ends.push(feeds);
    }
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let mut raw = Raw::connect(world.address).await;
    // A second request is not looked at.
    raw.write(request(&id).repeat(2)).await;
    let text = raw.read_to_end().await;
    assert!(text.starts_with("HTTP/1.1 502") && text.matches("HTTP/1.1").count() == 1, "{text}");
    assert!(text.contains(r#""code":"SANDBOX_UPSTREAM_ERROR""#), "{text}");
    assert!(text.to_lowercase().contains("connection: close"), "{text}");
    let answer = Client::http2(&world).await.send(http2_get(&id)).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (502, "SANDBOX_UPSTREAM_ERROR"));
    assert_eq!((world.stats().connections_turned_away, daemon.count()), (2, 0));
    ends[0].lock().clear();
    soon("its end", busy[0].read_until("0\r\n\r\n")).await;
    eventually("it is idle", || world.stats().requests_active == 2).await;
    assert_eq!(once(&world, get(&id, "/")).await.status, 200);
}

#[tokio::test]
async fn one_sandbox_does_not_get_all_places() {
    let config = IngressConfig { max_requests: 8, ..IngressConfig::default() };
    let world = World::with(config).await;
    let (popular, _feeds) = endless(&world).await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let first = open(&world, &popular).await;
    let _second = open(&world, &popular).await;
    let answer = once(&world, get(&popular, "/")).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (502, "SANDBOX_UPSTREAM_ERROR"));
    assert_eq!(once(&world, get(&id, "/")).await.status, 200);
    drop(first);
    eventually("it is withdrawn", || world.stats().requests_active == 1).await;
    let _third = open(&world, &popular).await;
}

#[tokio::test]
async fn requests_beyond_what_may_be_under_way_are_refused() {
    let config = IngressConfig { max_requests: 4, ..IngressConfig::default() };
    let world = World::with(config).await;
    let mut busy = Vec::new();
    for _ in 0..4 {
        let (id, feeds) = endless(&world).await;
        busy.push((open(&world, &id).await, feeds));
    }
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let mut client = Client::http1(&world).await;
    let answer = client.send(get(&id, "/")).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (502, "SANDBOX_UPSTREAM_ERROR"));
    busy.pop();
    eventually("it is withdrawn", || world.stats().requests_active == 3).await;
    assert_eq!(client.send(get(&id, "/")).await.status, 200);
    assert_eq!(daemon.count(), 1);
}

#[tokio::test]
async fn who_is_told_that_there_is_no_place_may_not_stay() {
    let world = crowded(1).await;
    let (id, _feeds) = endless(&world).await;
    let _busy = open(&world, &id).await;
    let mut silent = Raw::connect(world.address).await;
    assert_eq!(silent.read_to_end().await, "");
    eventually("it is gone", || world.stats().connections_open == 1).await;
}
