//! User ports that listen on the sandbox's loopback alone are reached through its daemon.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tarn_types::{Generation, SandboxId};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::TcpStream,
};

use crate::{
    client::{AnyBody, Client, Raw, full, once, to},
    sandbox::{Nobody, Recorder, serve, serve_raw},
    world::{KEY, World, exposing, token},
};

/// A sandbox whose daemon connects one port to a server elsewhere, as if that were on loopback.
struct Sandbox {
    id: SandboxId,
    port: u16,
    /// Keeps the port for a test that listens on it in the end.
    nobody: Option<Nobody>,
    /// Where the port leads; nowhere at first.
    inside: Arc<Mutex<Option<SocketAddr>>>,
    asked: Arc<AtomicUsize>,
}

impl Sandbox {
    async fn start(world: &World, inside: Option<SocketAddr>) -> Self {
        let nobody = Nobody::here();
        let port = nobody.address().port();
        let inside = Arc::new(Mutex::new(inside));
        let asked = Arc::new(AtomicUsize::new(0));
        let (target, count, tasks) = (Arc::clone(&inside), Arc::clone(&asked), world.tasks.clone());
        let daemon = serve(&world.tasks, move |request| {
            count.fetch_add(1, SeqCst);
            let (target, tasks) = (*target.lock(), tasks.clone());
            async move { connect(&tasks, request, port, target).await }
        })
        .await;
        let id = world.routes.add(exposing(daemon, &[port], false));
        Self { id, port, nobody: Some(nobody), inside, asked }
    }

    fn label(&self) -> String {
        format!("{}-{}", self.port, self.id)
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

/// What the daemon does at its private route.
async fn connect(
    tasks: &tarn_task::Tasks,
    mut request: Request<Incoming>,
    port: u16,
    inside: Option<SocketAddr>,
) -> Response<AnyBody> {
    assert_eq!(request.uri(), format!("/internal/v1/connect?port={port}").as_str());
    assert_eq!(request.headers()["upgrade"], "tarn-tcp");
    assert_eq!(request.headers()["x-tarn-token"], token().reveal());
    let stream = match inside {
        Some(inside) => TcpStream::connect(inside).await.ok(),
        None => None,
    };
    let Some(mut stream) = stream else {
        let mut refused = Response::new(full(r#"{"error":"no","code":"CONNECTION_REFUSED"}"#));
        *refused.status_mut() = StatusCode::BAD_GATEWAY;
        return refused;
    };
    let upgraded = hyper::upgrade::on(&mut request);
    drop(tasks.spawn("daemon-connect", async move {
        if let Ok(upgraded) = upgraded.await {
            drop(copy_bidirectional(&mut TokioIo::new(upgraded), &mut stream).await);
        }
    }));
    Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "tarn-tcp")
        .body(full(""))
        .expect("an answer")
}

#[tokio::test]
async fn a_port_on_loopback_is_reached_and_its_connection_kept() {
    let world = World::start().await;
    let program = Recorder::start(&world.tasks).await;
    let sandbox = Sandbox::start(&world, Some(program.address)).await;
    let mut client = Client::http1(&world).await;
    for n in 0..10 {
        let mut request = to(&sandbox.label(), "/a?b=c", Some(KEY));
        *request.body_mut() = full(format!("body {n}"));
        let answer = client.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "ok"));
        let seen = program.last();
        assert_eq!(seen.body.expect("whole"), format!("body {n}"));
        assert_eq!(seen.target, "/a?b=c");
        assert!(!seen.headers.contains_key("x-tarn-token"), "the token is the daemon's");
    }
    assert!(sandbox.asked() <= 3, "connections are kept: {}", sandbox.asked());
}

/// A program that answers each connection once.
async fn answer_once(stream: &mut TcpStream, text: &str) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let length = text.len();
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}");
    drop(stream.write_all(answer.as_bytes()).await);
}

#[tokio::test]
async fn what_led_to_a_port_is_remembered_for_as_long_as_it_leads_there() {
    let world = World::start().await;
    let hidden =
        serve_raw(
            &world.tasks,
            |mut stream| async move { answer_once(&mut stream, "hidden").await },
        );
    let mut sandbox = Sandbox::start(&world, Some(hidden.await)).await;
    assert_eq!(once(&world, to(&sandbox.label(), "/", Some(KEY))).await.text(), "hidden");

    let listener = sandbox.nobody.take().expect("nobody yet").listen();
    drop(world.tasks.spawn("program", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            answer_once(&mut stream, "open").await;
        }
    }));
    for _ in 0..3 {
        let answer = once(&world, to(&sandbox.label(), "/", Some(KEY))).await;
        assert_eq!(answer.text(), "hidden", "the port itself is not tried each time");
    }
    assert_eq!(sandbox.asked(), 4);
    *sandbox.inside.lock() = None;
    for _ in 0..3 {
        assert_eq!(once(&world, to(&sandbox.label(), "/", Some(KEY))).await.text(), "open");
    }
    assert_eq!(sandbox.asked(), 5, "nor is the daemon, once that led nowhere");

    // A new generation begins anew.
    world.routes.edit(&sandbox.id, |route| route.generation = Generation(2));
    assert_eq!(once(&world, to(&sandbox.label(), "/", Some(KEY))).await.text(), "open");
    assert_eq!(sandbox.asked(), 5);
}

#[tokio::test]
async fn a_port_where_nothing_listens_at_all_is_refused_and_not_called_safe() {
    let world = World::start().await;
    let sandbox = Sandbox::start(&world, None).await;
    for round in 1..=3 {
        let answer = once(&world, to(&sandbox.label(), "/", Some(KEY))).await;
        assert_eq!((answer.status.as_u16(), &*answer.code()), (502, "CONNECTION_REFUSED"));
        assert_eq!(sandbox.asked(), round, "asked once for each request");
    }
}

#[tokio::test]
async fn websockets_pass_through_the_daemon_too() {
    let world = World::start().await;
    let program = serve_raw(&world.tasks, |mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                      Connection: Upgrade\r\n\r\nhello";
        drop(stream.write_all(answer.as_bytes()).await);
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            drop(stream.write_all(&buffer[..read]).await);
        }
        drop(stream.write_all(b"goodbye").await);
    })
    .await;
    let sandbox = Sandbox::start(&world, Some(program)).await;
    let mut raw = Raw::connect(world.address).await;
    raw.write(format!(
        "GET /hmr HTTP/1.1\r\nHost: {}.local\r\nAuthorization: Bearer {KEY}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        sandbox.label()
    ))
    .await;
    raw.read_until("hello").await;
    raw.write("ping").await;
    raw.read_until("ping").await;
    raw.stream.shutdown().await.expect("a close");
    assert!(raw.read_to_end().await.ends_with("goodbye"));
}

#[tokio::test]
async fn http2_passes_through_the_daemon_too() {
    let world = World::start().await;
    let program = Recorder::start(&world.tasks).await;
    let sandbox = Sandbox::start(&world, Some(program.address)).await;
    let mut client = Client::http2(&world).await;
    for _ in 0..3 {
        let request = Request::post(format!("http://{}.local/pkg.Service/Call", sandbox.label()))
            .header("authorization", format!("Bearer {KEY}"))
            .header("content-type", "application/grpc")
            .body(full("message"))
            .expect("a request");
        assert_eq!(client.send(request).await.status, 200);
        assert_eq!(program.last().version, http::Version::HTTP_2);
    }
    assert_eq!(sandbox.asked(), 1);
}
