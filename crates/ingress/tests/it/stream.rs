//! Answers flow as they come, are cut when the client goes, and are never taken for whole if they
//! are not.

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    client::{Answer, Client, Raw, full, get, once},
    sandbox::{Feed, fed, serve, serve_raw},
    world::{KEY, World, eventually, soon},
};

/// A daemon whose answer a test feeds.
async fn fed_daemon(world: &World) -> (tarn_types::SandboxId, Arc<Mutex<Option<Feed>>>) {
    let slot: Arc<Mutex<Option<Feed>>> = Arc::default();
    let place = Arc::clone(&slot);
    let daemon = serve(&world.tasks, move |_request| {
        let (feed, body) = fed();
        *place.lock() = Some(feed);
        async move {
            let mut response = Response::new(body);
            response
                .headers_mut()
                .insert("content-type", "text/event-stream".parse().expect("a value"));
            response
        }
    })
    .await;
    (world.sandbox(daemon), slot)
}

fn feed_of(slot: &Mutex<Option<Feed>>) -> Feed {
    slot.lock().clone().expect("a request arrived")
}

#[tokio::test]
async fn an_event_arrives_before_the_next_is_made() {
    let world = World::start().await;
    let (id, slot) = fed_daemon(&world).await;
    let response = Client::http1(&world).await.start(get(&id, "/")).await.expect("an answer");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let feed = feed_of(&slot);
    for n in 0..3 {
        let event = format!("data: {n}\n\n");
        feed.send(Ok(Frame::data(Bytes::from(event.clone())))).await.expect("a reader");
        let frame = soon("the event", body.frame()).await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), event);
    }
    slot.lock().take();
    drop(feed);
    assert!(soon("the end", body.frame()).await.is_none());
}

#[tokio::test]
async fn trailers_come_after_a_chunked_body() {
    let world = World::start().await;
    let daemon = serve_raw(&world.tasks, |mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                      3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n";
        drop(stream.write_all(answer.as_bytes()).await);
        drop(stream.read(&mut [0]).await);
    })
    .await;
    let id = world.sandbox(daemon);
    let mut request = get(&id, "/");
    request.headers_mut().insert("te", "trailers".parse().expect("a value"));
    let answer = once(&world, request).await;
    assert_eq!(answer.text(), "abc");
    let trailers: HeaderMap = answer.trailers.expect("trailers");
    assert_eq!(trailers["x-sum"], "7");
}

/// A daemon that answers every connection with these bytes and closes it.
async fn blunt(world: &World, answer: &'static str) -> tarn_types::SandboxId {
    let daemon = serve_raw(&world.tasks, move |mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        drop(stream.write_all(answer.as_bytes()).await);
    })
    .await;
    world.sandbox(daemon)
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_whole() {
    let world = World::start().await;
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
    ] {
        let id = blunt(&world, answer).await;
        let response = Client::http1(&world).await.start(get(&id, "/")).await.expect("a head");
        let body = soon("the end", response.into_body().collect()).await;
        assert!(body.is_err(), "{answer:?} {body:?}");
        let mut http2 = Client::http2(&world).await;
        let response = http2.start(http2_get(&id)).await.expect("a head");
        let body = soon("the end", response.into_body().collect()).await;
        assert!(body.is_err(), "over HTTP/2: {answer:?} {body:?}");
    }
}

fn http2_get(id: &tarn_types::SandboxId) -> http::Request<crate::client::AnyBody> {
    http::Request::get(format!("http://{id}.local/"))
        .header("authorization", format!("Bearer {KEY}"))
        .body(full(""))
        .expect("a request")
}

#[tokio::test]
async fn an_answer_without_length_ends_with_its_connection() {
    let world = World::start().await;
    let id = blunt(&world, "HTTP/1.0 200 OK\r\n\r\nall there is").await;
    assert_eq!(once(&world, get(&id, "/")).await.text(), "all there is");
}

#[tokio::test]
async fn what_is_no_answer_gets_the_code_for_it() {
    let world = World::start().await;
    let table = [
        ("", 502, "CONNECTION_CLOSED"),
        ("HTTP/1.1 200", 502, "CONNECTION_CLOSED"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", 502, "PROXY_ERROR"),
        ("HTTP/1.1 999999 ?\r\n\r\n", 502, "PROXY_ERROR"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 502, "PROXY_ERROR"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            502,
            "PROXY_ERROR",
        ),
    ];
    for (bytes, status, code) in table {
        let id = blunt(&world, bytes).await;
        let answer = once(&world, get(&id, "/")).await;
        assert_eq!((answer.status.as_u16(), &*answer.code()), (status, code), "{bytes:?}");
    }
}

#[tokio::test]
async fn head_and_empty_answers_pass() {
    let world = World::start().await;
    let daemon = serve(&world.tasks, |request| async move {
        let mut response = Response::new(full("hello"));
        if request.uri().path() == "/empty" {
            response = Response::new(full(""));
            *response.status_mut() = http::StatusCode::NO_CONTENT;
        }
        response
    })
    .await;
    let id = world.sandbox(daemon);
    let mut client = Client::http1(&world).await;
    let mut head = get(&id, "/");
    *head.method_mut() = http::Method::HEAD;
    let answer = client.send(head).await;
    assert_eq!((answer.header("content-length"), answer.text()), (Some("5"), ""));
    assert_eq!(client.send(get(&id, "/empty")).await.status, 204);
    assert_eq!(client.send(get(&id, "/")).await.text(), "hello");
    assert_eq!(world.stats().upstream_opened, 1, "none of them cost the connection");
}

#[tokio::test]
async fn a_client_that_goes_away_withdraws_its_request() {
    let world = World::start().await;
    let asked = Arc::new(AtomicBool::new(false));
    let closed = Arc::new(AtomicBool::new(false));
    let (ask, close) = (Arc::clone(&asked), Arc::clone(&closed));
    let daemon = serve_raw(&world.tasks, move |mut stream| {
        let (ask, close) = (Arc::clone(&ask), Arc::clone(&close));
        async move {
            let mut bytes = Vec::new();
            while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
                ask.store(true, SeqCst);
            }
            close.store(true, SeqCst);
        }
    })
    .await;
    let id = world.sandbox(daemon);
    let mut raw = Raw::connect(world.address).await;
    raw.write(format!("GET / HTTP/1.1\r\nHost: {id}.local\r\nAuthorization: Bearer {KEY}\r\n\r\n"))
        .await;
    eventually("the daemon has the request", || asked.load(SeqCst)).await;
    drop(raw);
    eventually("the daemon's connection is closed", || closed.load(SeqCst)).await;
    eventually("nothing is active", || world.stats().requests_active == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_closes_it_inside() {
    let world = World::start().await;
    let (id, slot) = fed_daemon(&world).await;
    let mut raw = Raw::connect(world.address).await;
    raw.write(format!("GET / HTTP/1.1\r\nHost: {id}.local\r\nAuthorization: Bearer {KEY}\r\n\r\n"))
        .await;
    eventually("the daemon has the request", || slot.lock().is_some()).await;
    let feed = feed_of(&slot);
    feed.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.expect("a reader");
    raw.read_until("one").await;
    drop(raw);
    soon("the daemon's stream is closed", feed.closed()).await;
}

#[tokio::test]
async fn a_slow_reader_slows_the_program() {
    let world = World::start().await;
    let (id, slot) = fed_daemon(&world).await;
    let response = Client::http1(&world).await.start(get(&id, "/")).await.expect("a head");
    let feed = feed_of(&slot);
    slot.lock().take();
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let chunk = Bytes::from(vec![b'x'; 64 << 10]);
    const CHUNKS: usize = 1024; // 64 MiB
    drop(world.tasks.spawn("program", async move {
        for _ in 0..CHUNKS {
            if feed.send(Ok(Frame::data(chunk.clone()))).await.is_err() {
                return;
            }
            count.fetch_add(1, SeqCst);
        }
    }));
    let stalled = stalls_at(&made).await;
    assert!(stalled < CHUNKS / 2, "{stalled} chunks went nowhere: somebody buffers");
    let answer = Answer::read(response).await;
    assert_eq!(answer.body.len(), CHUNKS * (64 << 10));
}

/// Waits until a count stands still, and returns where.
pub(crate) async fn stalls_at(count: &AtomicUsize) -> usize {
    let mut last = (usize::MAX, 0);
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(20));
    loop {
        tick.tick().await;
        let now = count.load(SeqCst);
        last = if now == last.0 && now > 0 { (now, last.1 + 1) } else { (now, 0) };
        if last.1 == 15 {
            return now;
        }
    }
}
