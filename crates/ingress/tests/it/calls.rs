//! gRPC frame by frame, with an HTTP/2 library that shows them, over h2c and over TLS: what a call
//! sends arrives, ends with its status, and is given up at both ends or at none.

use std::{future::poll_fn, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client, server};
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use tarn_ingress::IngressConfig;
use tarn_task::Tasks;
use tarn_types::SandboxId;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::{
    sandbox::serve_raw,
    tls::Secured,
    world::{KEY, World, eventually, exposing, soon},
};

type Sender = client::SendRequest<Bytes>;

/// A sandbox with a gRPC server, and a client of it.
struct Scene {
    world: Arc<Secured>,
    plain: World,
    app: Arc<App>,
    /// The host to ask for, over TLS and without.
    hosts: [String; 2],
}

/// The gRPC server's side of the calls.
#[derive(Default)]
struct App {
    /// With what reason calls to `/wait` were given up.
    given_up: Mutex<Vec<Reason>>,
    deadlines: Mutex<Vec<String>>,
    stalled: Mutex<Vec<RecvStream>>,
}

/// How a call went.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    body: Vec<u8>,
    /// The status and where it stood.
    status: Result<(&'static str, String), Reason>,
}

fn status(status: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().expect("a value"));
    trailers.insert("grpc-message", "in%20words".parse().expect("a value"));
    trailers
}

/// Sends all of it, as fast as the other side takes it.
async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let Some(room) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return Err(Reason::CANCEL.into());
        };
        let part = data.split_to(room?.min(data.len()));
        stream.send_data(part, false)?;
    }
    Ok(())
}

/// Reads what comes next.
async fn receive(stream: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let data = stream.data().await?;
    if let Ok(data) = &data {
        drop(stream.flow_control().release_capacity(data.len()));
    }
    Some(data)
}

// === impl App ===

impl App {
    async fn start(self: &Arc<Self>, tasks: &Tasks) -> SocketAddr {
        let (app, spawner) = (Arc::clone(self), tasks.clone());
        serve_raw(tasks, move |stream| {
            let (app, tasks) = (Arc::clone(&app), spawner.clone());
            async move {
                let mut connection = server::Builder::new()
                    .initial_connection_window_size(16 << 20)
                    .handshake(stream)
                    .await
                    .expect("a handshake");
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let app = Arc::clone(&app);
                    drop(
                        tasks.spawn("call", async move { drop(app.call(request, respond).await) }),
                    );
                }
            }
        })
        .await
    }

    async fn call(
        &self,
        request: Request<RecvStream>,
        mut respond: server::SendResponse<Bytes>,
    ) -> Result<(), h2::Error> {
        let path = request.uri().path().to_owned();
        if let Some(deadline) = request.headers().get("grpc-timeout") {
            self.deadlines.lock().push(deadline.to_str().expect("text").to_owned());
        }
        let mut body = request.into_body();
        let head = Response::builder().header("content-type", "application/grpc");
        if path == "/only" {
            let mut head = head.body(()).expect("a head");
            head.headers_mut().extend(status("5"));
            respond.send_response(head, true)?;
            return Ok(());
        }
        if path == "/refuse" {
            respond.send_reset(Reason::REFUSED_STREAM);
            return Ok(());
        }
        let mut stream = respond.send_response(head.body(()).expect("a head"), false)?;
        match path.as_str() {
            "/echo" => {
                while let Some(data) = receive(&mut body).await {
                    send(&mut stream, data?).await?;
                }
                stream.send_trailers(status("0"))
            }
            "/error" => {
                send(&mut stream, Bytes::from_static(b"half")).await?;
                stream.send_trailers(status("13"))
            }
            // Without waiting for the end of what the client sends.
            "/early" => stream.send_trailers(status("3")),
            "/reset" => {
                send(&mut stream, Bytes::from_static(b"half")).await?;
                stream.send_reset(Reason::ENHANCE_YOUR_CALM);
                Ok(())
            }
            "/wait" => {
                let reason = poll_fn(|cx| stream.poll_reset(cx)).await?;
                self.given_up.lock().push(reason);
                Ok(())
            }
            "/stall" => {
                self.stalled.lock().push(body);
                drop(poll_fn(|cx| stream.poll_reset(cx)).await);
                Ok(())
            }
            "/flood" => loop {
                send(&mut stream, Bytes::from(vec![0; 64 << 10])).await?;
            },
            other => unreachable!("{other}"),
        }
    }
}

// === impl Scene ===

impl Scene {
    async fn start() -> Self {
        let world = Secured::start(IngressConfig::default()).await;
        let plain = World::start().await;
        let app = Arc::new(App::default());
        let address = app.start(&plain.tasks).await;
        let host = |id: &SandboxId| format!("{}-{id}.localhost", address.port());
        let route = || exposing(address, &[address.port()], false);
        let hosts = [&world.world, &plain].map(|world| host(&world.routes.add(route())));
        Self { world: Arc::new(world), plain, app, hosts }
    }

    async fn over_tls(&self) -> (Sender, String) {
        let stream = self.world.connect(&[b"h2"]).await;
        (self.open(stream).await, self.hosts[0].clone())
    }

    async fn over_h2c(&self) -> (Sender, String) {
        let stream = TcpStream::connect(self.plain.address).await.expect("a connection");
        (self.open(stream).await, self.hosts[1].clone())
    }

    async fn open<S>(&self, stream: S) -> Sender
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = client::handshake(stream).await.expect("a handshake");
        drop(self.plain.tasks.spawn("client", async move { drop(connection.await) }));
        sender
    }
}

/// Begins a call.
async fn begin(
    (sender, host): &(Sender, String),
    path: &str,
) -> (client::ResponseFuture, SendStream<Bytes>) {
    let request = Request::post(format!("http://{host}{path}"))
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "7S")
        .body(())
        .expect("a request");
    let mut sender = sender.clone().ready().await.expect("a connection");
    sender.send_request(request, false).expect("a stream")
}

/// Reads a call to its end.
async fn finish(response: client::ResponseFuture) -> Outcome {
    let failed = |error: &h2::Error| Err(error.reason().unwrap_or(Reason::NO_ERROR));
    let mut response = match soon("a head", response).await {
        Ok(response) => response,
        Err(error) => return Outcome { body: Vec::new(), status: failed(&error) },
    };
    if response.status() != 200 {
        let text = soon("an error", receive(response.body_mut())).await;
        unreachable!("{response:?}: {text:?}");
    }
    let mut body = Vec::new();
    while let Some(data) = soon("data", receive(response.body_mut())).await {
        match data {
            Ok(data) => body.extend_from_slice(&data),
            Err(error) => return Outcome { body, status: failed(&error) },
        }
    }
    let read = |lines: &HeaderMap| lines["grpc-status"].to_str().expect("text").to_owned();
    let status = match soon("trailers", poll_fn(|cx| response.body_mut().poll_trailers(cx))).await {
        Ok(Some(trailers)) => Ok(("trailers", read(&trailers))),
        Ok(None) => Ok(("head", read(response.headers()))),
        Err(error) => failed(&error),
    };
    Outcome { body, status }
}

fn ends(body: &[u8], place: &'static str, status: &str) -> Outcome {
    Outcome { body: body.to_vec(), status: Ok((place, status.to_owned())) }
}

async fn every_kind_of_call(scene: &Scene, client: &(Sender, String)) {
    // Unary, and a stream each way.
    let (response, mut stream) = begin(client, "/echo").await;
    stream.send_data(Bytes::from_static(b"one"), true).expect("a stream");
    assert_eq!(finish(response).await, ends(b"one", "trailers", "0"));
    assert_eq!(scene.app.deadlines.lock().last().map(String::as_str), Some("7S"));
    let (response, mut stream) = begin(client, "/echo").await;
    for message in ["a", "b", "c"] {
        stream.send_data(Bytes::from_static(message.as_bytes()), false).expect("a stream");
    }
    stream.send_data(Bytes::new(), true).expect("a stream");
    assert_eq!(finish(response).await, ends(b"abc", "trailers", "0"));
    // Errors, with and without a body before.
    let (response, _stream) = begin(client, "/only").await;
    assert_eq!(finish(response).await, ends(b"", "head", "5"));
    let (response, _stream) = begin(client, "/error").await;
    assert_eq!(finish(response).await, ends(b"half", "trailers", "13"));
    let (response, _stream) = begin(client, "/early").await;
    assert_eq!(finish(response).await, ends(b"", "trailers", "3"));
    // The server gives up.
    let (response, _stream) = begin(client, "/reset").await;
    let outcome = finish(response).await;
    assert_eq!(outcome.status, Err(Reason::ENHANCE_YOUR_CALM), "{outcome:?}");
    let (response, _stream) = begin(client, "/refuse").await;
    assert_eq!(finish(response).await.status, Err(Reason::REFUSED_STREAM));
    // The client gives up, as it does at its deadline.
    let before = scene.app.given_up.lock().len();
    let (response, mut stream) = begin(client, "/wait").await;
    drop(soon("a head", response).await.expect("a head"));
    stream.send_reset(Reason::CANCEL);
    eventually("the server knows", || scene.app.given_up.lock().len() > before).await;
    assert_eq!(scene.app.given_up.lock().last(), Some(&Reason::CANCEL));
}

#[tokio::test]
async fn calls_end_as_the_server_or_the_client_ends_them() {
    let scene = Scene::start().await;
    every_kind_of_call(&scene, &scene.over_h2c().await).await;
    every_kind_of_call(&scene, &scene.over_tls().await).await;
    eventually("nothing is left", || scene.plain.stats().requests_active == 0).await;
    eventually("nothing is left", || scene.world.world.stats().requests_active == 0).await;
}

#[tokio::test]
async fn a_hundred_calls_at_once_keep_their_messages_apart() {
    let scene = Scene::start().await;
    for client in [scene.over_h2c().await, scene.over_tls().await] {
        let calls = (0..100_u8).map(|n| {
            let client = &client;
            async move {
                let (response, mut stream) = begin(client, "/echo").await;
                let message = Bytes::from(vec![n; 10_000]);
                let sent = async {
                    for _ in 0..5 {
                        send(&mut stream, message.clone()).await.expect("a stream");
                    }
                    stream.send_data(Bytes::new(), true).expect("a stream");
                };
                let ((), outcome) = tokio::join!(sent, finish(response));
                assert_eq!(outcome, ends(&vec![n; 50_000], "trailers", "0"));
            }
        });
        futures::future::join_all(calls).await;
    }
}

#[tokio::test]
async fn a_large_message_passes_in_both_directions() {
    let scene = Scene::start().await;
    let message = Bytes::from(vec![7; 16 << 20]);
    for client in [scene.over_h2c().await, scene.over_tls().await] {
        let (response, mut stream) = begin(&client, "/echo").await;
        let sent = async {
            send(&mut stream, message.clone()).await.expect("a stream");
            stream.send_data(Bytes::new(), true).expect("a stream");
        };
        let ((), outcome) = tokio::join!(sent, finish(response));
        assert!(outcome.body == message, "{} bytes", outcome.body.len());
        assert_eq!(outcome.status, Ok(("trailers", "0".to_owned())));
    }
}

#[tokio::test]
async fn who_does_not_read_is_waited_for_and_holds_nobody_up() {
    let scene = Scene::start().await;
    let client = scene.over_h2c().await;
    // Six calls whose server reads nothing: each takes what its window holds, and no more.
    let mut uploads = Vec::new();
    for _ in 0..6 {
        let (response, mut stream) = begin(&client, "/stall").await;
        let endless = send(&mut stream, Bytes::from(vec![0; 64 << 20]));
        assert!(tokio::time::timeout(Duration::from_millis(100), endless).await.is_err());
        uploads.push((response, stream));
    }
    passes(&client).await;
    // Six whose client reads nothing; another's are in nobody's way.
    let idle = scene.over_h2c().await;
    let mut downloads = Vec::new();
    for _ in 0..6 {
        let (response, stream) = begin(&idle, "/flood").await;
        downloads.push((soon("a head", response).await.expect("a head"), stream));
    }
    passes(&client).await;
    passes(&scene.over_h2c().await).await;
    drop((uploads, downloads));
    eventually("nothing is left", || scene.plain.stats().requests_active == 0).await;
}

/// Makes a call of a hundred kilobytes each way.
async fn passes(client: &(Sender, String)) {
    let (response, mut stream) = begin(client, "/echo").await;
    let message = Bytes::from(vec![1; 100_000]);
    let sent = async {
        send(&mut stream, message.clone()).await.expect("a stream");
        stream.send_data(Bytes::new(), true).expect("a stream");
    };
    let ((), outcome) = soon("the call", async { tokio::join!(sent, finish(response)) }).await;
    assert_eq!(outcome, ends(&message, "trailers", "0"));
}
