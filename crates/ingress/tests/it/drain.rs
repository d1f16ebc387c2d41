//! Shutdown lets what is in flight finish, for a while.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use std::sync::Arc;
use tarn_ingress::IngressConfig;
use tarn_types::SandboxStatus;
use tokio::net::TcpStream;

use crate::{
    client::{Client, Raw, get},
    sandbox::{Feed, fed, serve},
    world::{World, eventually, soon},
};

async fn streaming(
    world: &World,
    outside: &tarn_task::Tasks,
) -> (tarn_types::SandboxId, Arc<Mutex<Option<Feed>>>) {
    let slot: Arc<Mutex<Option<Feed>>> = Arc::default();
    let place = Arc::clone(&slot);
    let daemon = serve(outside, move |_request| {
        let (feed, body) = fed();
        *place.lock() = Some(feed);
        async move { Response::new(body) }
    })
    .await;
    (world.sandbox(daemon), slot)
}

#[tokio::test]
async fn streams_in_flight_finish_and_new_connections_are_refused() {
    let (world, outside) = (World::start().await, tarn_task::Tasks::new());
    let (id, slot) = streaming(&world, &outside).await;
    let idle = Raw::connect(world.address).await;
    eventually("it is in", || world.stats().connections_open == 1).await;
    let mut client = Client::http1(&world).await;
    let body = client.start(get(&id, "/")).await.expect("a head").into_body();
    world.tasks.stop();
    let mut idle = idle;
    idle.read_to_end().await;
    let refused = async {
        while TcpStream::connect(world.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon("no more connections", refused).await;
    let feed = slot.lock().take().expect("a request");
    feed.send(Ok(Frame::data(Bytes::from_static(b"last words")))).await.expect("a reader");
    drop(feed);
    let whole = soon("the end", body.collect()).await.expect("a whole body").to_bytes();
    assert_eq!(whole, "last words");
}

#[tokio::test]
async fn streams_that_do_not_finish_are_cut_and_do_not_look_whole() {
    let config =
        IngressConfig { drain_grace: Duration::from_millis(50), ..IngressConfig::default() };
    let (world, outside) = (World::with(config).await, tarn_task::Tasks::new());
    let (id, slot) = streaming(&world, &outside).await;
    let mut client = Client::http1(&world).await;
    let body = client.start(get(&id, "/")).await.expect("a head").into_body();
    world.tasks.stop();
    assert!(soon("the end", body.collect()).await.is_err());
    let feed = slot.lock().take().expect("a request");
    soon("the sandbox's end is closed", feed.closed()).await;
    drop(client);
    assert_eq!(world.tasks.shutdown(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn requests_that_wait_for_a_sandbox_are_told_to_try_again() {
    let (world, outside) = (World::start().await, tarn_task::Tasks::new());
    let (id, _slot) = streaming(&world, &outside).await;
    world.routes.edit(&id, |route| route.status = SandboxStatus::Pending);
    let mut client = Client::http1(&world).await;
    let request = get(&id, "/");
    let answer = outside.spawn("request", async move { client.send(request).await });
    eventually("it waits", || world.stats().held_now == 1).await;
    world.tasks.stop();
    let answer = soon("an answer", answer).await.expect("a task");
    assert_eq!((answer.status.as_u16(), &*answer.code()), (502, "SANDBOX_UPSTREAM_ERROR"));
}
