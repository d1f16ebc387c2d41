//! Uploads flow while they are made, wait when told to, and never look whole if they are not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use tarn_ingress::IngressConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Notify,
};

use crate::{
    client::{Answer, AnyBody, Client, Raw, full},
    sandbox::{Recorder, fed, serve, serve_raw},
    stream::stalls_at,
    world::{KEY, World, eventually, soon},
};

fn put(id: &tarn_types::SandboxId, body: AnyBody) -> Request<AnyBody> {
    Request::put("/upload")
        .header("host", format!("{id}.local"))
        .header("authorization", format!("Bearer {KEY}"))
        .body(body)
        .expect("a request")
}

fn put_head(id: &tarn_types::SandboxId, more: &str) -> String {
    format!("PUT /u HTTP/1.1\r\nHost: {id}.local\r\nAuthorization: Bearer {KEY}\r\n{more}\r\n\r\n")
}

#[tokio::test]
async fn a_large_upload_flows_while_it_is_made_and_waits_for_a_slow_program() {
    const CHUNK: usize = 64 << 10;
    const CHUNKS: usize = 1024; // 64 MiB
    let world = World::start().await;
    let (received, read_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, go) = (Arc::clone(&received), Arc::clone(&read_on));
    let daemon = serve(&world.tasks, move |request| {
        let (count, go) = (Arc::clone(&count), Arc::clone(&go));
        async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                let data = frame.into_data().unwrap_or_default();
                if count.fetch_add(data.len(), SeqCst) == 0 {
                    go.notified().await;
                }
            }
            Response::new(full(count.load(SeqCst).to_string()))
        }
    })
    .await;
    let id = world.sandbox(daemon);
    let (feed, body) = fed();
    let mut client = Client::http1(&world).await;
    let answer = world.tasks.spawn("upload", async move { client.start(put(&id, body)).await });

    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    feed.send(Ok(Frame::data(chunk.clone()))).await.expect("a reader");
    eventually("the first bytes arrive while the upload is open", || received.load(SeqCst) > 0)
        .await;
    let made = Arc::new(AtomicUsize::new(1));
    let count = Arc::clone(&made);
    drop(world.tasks.spawn("maker", async move {
        for _ in 1..CHUNKS {
            feed.send(Ok(Frame::data(chunk.clone()))).await.expect("a reader");
            count.fetch_add(1, SeqCst);
        }
    }));
    let stalled = stalls_at(&made).await;
    assert!(stalled < CHUNKS / 2, "{stalled} chunks went nowhere: somebody buffers");
    read_on.notify_one();
    let answer = soon("the upload ends", answer).await.expect("a task").expect("an answer");
    assert_eq!(Answer::read(answer).await.text(), (CHUNK * CHUNKS).to_string());
}

#[tokio::test]
async fn an_upload_that_breaks_off_never_looks_whole() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let table = [
        ("Transfer-Encoding: chunked", "3\r\nabc\r\n"),
        ("Transfer-Encoding: chunked", "9\r\nabc"),
        ("Content-Length: 10", "abc"),
    ];
    for (count, (framing, body)) in table.into_iter().enumerate() {
        let mut raw = Raw::connect(world.address).await;
        raw.write(put_head(&id, framing) + body).await;
        eventually("it is on its way", || world.stats().requests_active > 0).await;
        drop(raw);
        eventually("it is over", || daemon.count() == count + 1).await;
        assert!(daemon.last().body.is_err(), "{framing} {body:?}: {:?}", daemon.last());
    }
    // This one breaks by itself, perhaps before the daemon has seen any of it.
    let mut raw = Raw::connect(world.address).await;
    raw.write(put_head(&id, "Transfer-Encoding: chunked") + "3\r\nabc\r\nzz\r\n").await;
    assert!(raw.read_to_end().await.starts_with("HTTP/1.1 400"), "{}", raw.text());
    assert!(daemon.seen.lock().iter().all(|seen| seen.body.is_err()));
}

#[tokio::test]
async fn an_upload_cut_off_by_shutdown_never_looks_whole() {
    let config =
        IngressConfig { drain_grace: Duration::from_millis(20), ..IngressConfig::default() };
    let world = World::with(config).await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let mut raw = Raw::connect(world.address).await;
    raw.write(put_head(&id, "Transfer-Encoding: chunked") + "3\r\nabc\r\n").await;
    eventually("it is on its way", || world.stats().upstream_opened > 0).await;
    world.tasks.stop();
    eventually("it is over", || daemon.count() == 1).await;
    assert!(daemon.last().body.is_err(), "{:?}", daemon.last());
}

/// A daemon that says `first` to the head of an upload, and `then` after reading its 4 bytes.
async fn asked_daemon(
    world: &World,
    first: &'static str,
    then: &'static str,
) -> tarn_types::SandboxId {
    let daemon = serve_raw(&world.tasks, move |mut stream| async move {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        }
        assert!(String::from_utf8_lossy(&bytes).contains("expect: 100-continue"));
        drop(stream.write_all(first.as_bytes()).await);
        while !bytes.ends_with(b"body") {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        }
        drop(stream.write_all(then.as_bytes()).await);
        drop(stream.read(&mut [0]).await);
    })
    .await;
    world.sandbox(daemon)
}

#[tokio::test]
async fn the_program_decides_whether_an_upload_may_continue() {
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let world = World::start().await;
    let expecting = "Content-Length: 4\r\nExpect: 100-continue";

    let id = asked_daemon(&world, "HTTP/1.1 100 Continue\r\n\r\n", OK).await;
    let mut raw = Raw::connect(world.address).await;
    raw.write(put_head(&id, expecting)).await;
    raw.read_until("100 Continue\r\n\r\n").await;
    raw.write("body").await;
    raw.read_until("\r\n\r\nok").await;

    let refusal = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
    let id = asked_daemon(&world, refusal, OK).await;
    let mut raw = Raw::connect(world.address).await;
    raw.write(put_head(&id, expecting)).await;
    raw.read_until("\r\n\r\nno").await;
    assert!(raw.text().starts_with("HTTP/1.1 413"), "not asked for the body: {}", raw.text());

    // One that knows nothing of it gets the body after a second, as curl would do.
    let id = asked_daemon(&world, "", OK).await;
    let mut raw = Raw::connect(world.address).await;
    raw.write(put_head(&id, expecting)).await;
    raw.read_until("100 Continue\r\n\r\n").await;
    raw.write("body").await;
    raw.read_until("\r\n\r\nok").await;
}

#[tokio::test]
async fn bodies_pass_in_either_framing_and_with_trailers() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let mut raw = Raw::connect(world.address).await;
    let chunked = "3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nx-sum: 7\r\n\r\n";
    let head = "Transfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE\r\nTrailer: x-sum";
    raw.write(put_head(&id, head) + chunked).await;
    raw.read_until("\r\n\r\nok").await;
    let seen = daemon.last();
    assert_eq!(seen.body.as_deref(), Ok(&b"abcde"[..]));
    assert_eq!(
        seen.trailers.as_ref().map(|trailers| &trailers["x-sum"]),
        Some(&"7".parse().expect("a value"))
    );

    let answer = Client::http1(&world).await.send(put(&id, full("abc"))).await;
    assert_eq!(answer.status, 200);
    let seen = daemon.last();
    assert_eq!(
        (seen.header("content-length"), seen.header("transfer-encoding")),
        (Some("3"), None)
    );
}

#[tokio::test]
async fn an_upload_refused_early_can_read_the_refusal() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    const BYTES: usize = 16 << 20;
    let head = format!("PUT /u HTTP/1.1\r\nHost: {id}.local\r\nContent-Length: {BYTES}\r\n\r\n");
    let mut raw = Raw::connect(world.address).await;
    raw.write(head).await;
    // Like a client that looks for an answer only after the whole body.
    raw.write(vec![b'x'; BYTES]).await;
    let answer = raw.read_to_end().await;
    assert!(answer.contains(r#""code":"UNAUTHENTICATED""#), "{answer}");
    assert_eq!(daemon.count(), 0);
}
