//! HTTP/2, and gRPC on user ports with its trailers.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body::Frame;
use http_body_util::BodyExt as _;

use crate::{
    client::{AnyBody, Client, full},
    sandbox::{Recorder, fed, serve},
    world::{KEY, World, exposing, soon},
};

fn request(host: &str, kind: &str, body: AnyBody) -> Request<AnyBody> {
    Request::post(format!("http://{host}/pkg.Service/Call"))
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", kind)
        .header("te", "trailers")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(body)
        .expect("a request")
}

#[tokio::test]
async fn grpc_streams_both_ways_and_ends_with_trailers() {
    let world = World::start().await;
    let app = serve(&world.tasks, |request: Request<hyper::body::Incoming>| async move {
        assert_eq!(request.version(), Version::HTTP_2);
        assert_eq!(request.headers()["te"], "trailers");
        assert!(!request.headers().contains_key("authorization"));
        let (feed, body) = fed();
        // Echoes each message as it comes, then reports.
        let echo = async move {
            let mut messages = request.into_body();
            while let Some(Ok(frame)) = messages.frame().await {
                let data = frame.into_data().unwrap_or_default();
                drop(feed.send(Ok(Frame::data(data))).await);
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().expect("a value"));
            drop(feed.send(Ok(Frame::trailers(trailers))).await);
        };
        drop(tarn_task::Tasks::new().spawn("echo", echo));
        Response::builder()
            .header("content-type", "application/grpc")
            .body(body)
            .expect("an answer")
    })
    .await;
    let id = world.routes.add(exposing(app, &[app.port()], false));
    let mut client = Client::http2(&world).await;
    let (feed, body) = fed();
    let host = format!("{}-{id}.local", app.port());
    let response =
        client.start(request(&host, "application/grpc+proto", body)).await.expect("a head");
    let mut body = response.into_body();
    for n in 0..3 {
        let message = Bytes::from(format!("message {n}"));
        feed.send(Ok(Frame::data(message.clone()))).await.expect("a reader");
        let frame = soon("the echo", body.frame()).await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), message);
    }
    drop(feed);
    let frame = soon("the end", body.frame()).await.expect("a frame").expect("no error");
    assert_eq!(frame.into_trailers().expect("trailers")["grpc-status"], "0");
    // A second call shares the connection.
    assert_eq!(client.send(request(&host, "application/grpc", full("x"))).await.status, 200);
    assert_eq!(world.stats().upstream_opened, 1);
}

#[tokio::test]
async fn other_requests_of_http2_clients_are_spoken_in_http1() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let mut client = Client::http2(&world).await;
    let answer = client.send(request(&format!("{id}.local"), "application/json", full("{}"))).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "ok"));
    let seen = daemon.last();
    assert_eq!(seen.version, Version::HTTP_11);
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.header("host"), Some("localhost:9501"));
    assert_eq!(seen.target, "/pkg.Service/Call");
    // gRPC to the daemon too: it speaks HTTP/1 only.
    let answer = client.send(request(&format!("{id}.local"), "application/grpc", full("x"))).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn grpc_web_is_spoken_in_http1_also_with_user_ports() {
    let world = World::start().await;
    let app = Recorder::start(&world.tasks).await;
    let port = app.address.port();
    let id = world.routes.add(exposing(app.address, &[port], false));
    let mut client = Client::http2(&world).await;
    let host = format!("{port}-{id}.local");
    for kind in ["application/grpc-web+proto", "application/grpc-web-text"] {
        let answer = client.send(request(&host, kind, full("x"))).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "ok"), "{kind}");
        assert_eq!(app.last().version, Version::HTTP_11, "{kind}");
    }
}

#[tokio::test]
async fn a_port_that_does_not_speak_http2_is_named() {
    let world = World::start().await;
    let app = crate::sandbox::serve_raw(&world.tasks, |mut stream| async move {
        use tokio::io::AsyncWriteExt as _;
        drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await);
        drop(stream.shutdown().await);
    })
    .await;
    let id = world.routes.add(exposing(app, &[app.port()], false));
    let mut client = Client::http2(&world).await;
    let host = format!("{}-{id}.local", app.port());
    let answer = client.send(request(&host, "application/grpc", full("x"))).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (502, "PROXY_ERROR"));
}
