//! Clients that are served on threads of their own get what others get.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use tarn_ingress::IngressConfig;
use tarn_task::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    client::{Client, Raw, full, get},
    sandbox::{Recorder, fed, serve, serve_raw},
    world::{KEY, World, eventually, soon},
};

fn two_threads() -> IngressConfig {
    IngressConfig { threads: 2, ..IngressConfig::default() }
}

#[tokio::test]
async fn an_idle_connection_of_another_thread_is_used_before_a_new_one() {
    let world = World::with(two_threads()).await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let mut clients = [Client::http1(&world).await, Client::http1(&world).await];
    for _ in 0..20 {
        for client in &mut clients {
            assert_eq!(client.send(get(&id, "/")).await.text(), "ok");
            eventually("it is over", || world.stats().requests_active == 0).await;
        }
    }
    let stats = world.stats();
    assert_eq!(stats.upstream_opened + stats.upstream_reused, 40);
    // A program may serve one at a time. One that is not quite ready is passed over.
    assert!((1..=5).contains(&stats.upstream_opened), "{stats:?}");
}

#[tokio::test]
async fn a_long_upload_to_the_daemon_stays_on_its_thread() {
    let world = World::with(two_threads()).await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let (mut first, mut second) = (Client::http1(&world).await, Client::http1(&world).await);
    assert_eq!(first.send(get(&id, "/")).await.text(), "ok");
    eventually("it is over", || world.stats().requests_active == 0).await;
    let long = Request::put("/files")
        .header("host", format!("{id}.local"))
        .header("authorization", format!("Bearer {KEY}"))
        .body(full(vec![b'x'; 1 << 20]))
        .expect("a request");
    assert_eq!(second.send(long).await.text(), "ok");
    let stats = world.stats();
    assert_eq!((stats.upstream_opened, stats.upstream_reused), (2, 0), "{stats:?}");
}

#[tokio::test]
async fn long_answers_and_tunnels_pass_and_shutdown_waits_for_them() {
    let (world, outside) = (World::with(two_threads()).await, Tasks::new());
    let (feed, body) = fed();
    let slot = parking_lot::Mutex::new(Some(body));
    let slot = std::sync::Arc::new(slot);
    let streams = serve(&outside, move |_request| {
        let body = slot.lock().take().expect("one request");
        async move { Response::new(body) }
    })
    .await;
    let echoes = serve_raw(&outside, |mut stream| async move {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0));
        }
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(switch).await.expect("a write");
        let (mut from, mut to) = stream.split();
        drop(tokio::io::copy(&mut from, &mut to).await);
    })
    .await;
    let (streams, echoes) = (world.sandbox(streams), world.sandbox(echoes));

    let mut client = Client::http1(&world).await;
    let mut body = client.start(get(&streams, "/")).await.expect("a head").into_body();
    let mut socket = Raw::connect(world.address).await;
    socket
        .write(format!(
            "GET / HTTP/1.1\r\nHost: {echoes}.local\r\nAuthorization: Bearer {KEY}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        ))
        .await;
    socket.read_until("\r\n\r\n").await;
    for part in ["one", "two", "three"] {
        feed.send(Ok(Frame::data(Bytes::from_static(part.as_bytes())))).await.expect("a reader");
        let frame = soon("a part", body.frame()).await.expect("more").expect("whole");
        assert_eq!(frame.into_data().expect("data"), part);
        socket.received.clear();
        socket.write(part).await;
        socket.read_until(part).await;
    }

    world.tasks.stop();
    feed.send(Ok(Frame::data(Bytes::from_static(b"last")))).await.expect("a reader");
    drop(feed);
    let rest = soon("the end", body.collect()).await.expect("a whole body").to_bytes();
    assert_eq!(rest, "last");
    drop(socket);
    assert_eq!(world.tasks.shutdown(Duration::from_secs(20)).await, 0);
}
