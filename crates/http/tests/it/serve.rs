//! Real sockets: bounds and the drain.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use tarn_http::{ServeConfig, bind_unix, serve_tcp, serve_unix};
use tarn_task::Tasks;
use tarn_tls::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
};

use crate::{node::Manner, server::Server};

const PATIENCE: Duration = Duration::from_secs(10);

const GET: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    tokio::time::timeout(PATIENCE, read).await.expect("in time").expect("text");
    text
}

fn serving(
    server: &Server,
    listener: TcpListener,
    tasks: &Tasks,
    config: ServeConfig,
) -> impl Future<Output = ()> + Send + 'static {
    serve_tcp(listener, Acceptor::plain(), server.router.clone(), tasks.clone(), config)
}

/// A request that is not answered for some time, where the node is silent.
fn held_create(server: &Server, budget_ms: u32) -> String {
    format!(
        "POST /sandboxes HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         x-tensorlake-request-timeout-ms: {budget_ms}\r\ncontent-length: 2\r\n\r\n{{}}",
        server.key
    )
}

async fn wait_for_a_sandbox(server: &Server) {
    let pending = async {
        while server.control.live_counts().iter().all(|(_, count)| *count == 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, pending).await.expect("the request was taken");
}

#[tokio::test]
async fn a_port_serves_and_drains() {
    let server = Server::start().await;
    server.manner(Manner::Silent);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let tasks = Tasks::new();
    let serving = tasks.spawn("serve", serving(&server, listener, &tasks, ServeConfig::default()));

    let mut probe = TcpStream::connect(address).await.expect("connected");
    assert!(exchange(&mut probe, GET).await.starts_with("HTTP/1.1 200 OK"));

    // An idle connection and one whose request is held: the first is closed, the second answered.
    let _idle = TcpStream::connect(address).await.expect("connected");
    let mut held = TcpStream::connect(address).await.expect("connected");
    held.write_all(held_create(&server, 1500).as_bytes()).await.expect("sent");
    wait_for_a_sandbox(&server).await;
    tasks.stop();
    let text = exchange(&mut held, "").await;
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.contains("pending"), "{text}");
    tokio::time::timeout(PATIENCE, serving).await.expect("drained").expect("no panic");
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_while_all_are_busy() {
    let server = Server::start().await;
    server.manner(Manner::Silent);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let tasks = Tasks::new();
    let config = ServeConfig { max_connections: 1, ..ServeConfig::default() };
    drop(tasks.spawn("serve", serving(&server, listener, &tasks, config)));
    let mut first = TcpStream::connect(address).await.expect("connected");
    first.write_all(held_create(&server, 1500).as_bytes()).await.expect("sent");
    wait_for_a_sandbox(&server).await;
    let mut second = TcpStream::connect(address).await.expect("in the kernel's queue");
    second.write_all(GET.as_bytes()).await.expect("sent");
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(200), second.read(&mut byte)).await;
    assert!(early.is_err(), "the first one has the only place");
    // It keeps it until it is answered, though it would stay open.
    let answer = exchange(&mut first, "").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("pending"), "{answer}");
    assert!(exchange(&mut second, "").await.starts_with("HTTP/1.1 200 OK"));
    tasks.stop();
}

#[tokio::test]
async fn who_only_sits_there_keeps_nobody_out() {
    let server = Server::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let tasks = Tasks::new();
    let config = ServeConfig { max_connections: 4, ..ServeConfig::default() };
    drop(tasks.spawn("serve", serving(&server, listener, &tasks, config)));
    let mut idle = Vec::new();
    for start in ["", "GET /healthz HT", "GET /healthz HTTP/1.1\r\nx-slow: "].repeat(4) {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(start.as_bytes()).await.expect("sent");
        idle.push(stream);
    }
    let mut client = TcpStream::connect(address).await.expect("connected");
    assert!(exchange(&mut client, GET).await.starts_with("HTTP/1.1 200 OK"));
    // The first ones made room; how they are told depends on what they had sent.
    let mut rest = Vec::new();
    let gone = tokio::time::timeout(PATIENCE, idle[0].read_to_end(&mut rest)).await;
    assert!(gone.is_ok() && rest.is_empty(), "{gone:?}");
    tasks.stop();
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let server = Server::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let tasks = Tasks::new();
    let config =
        ServeConfig { header_timeout: Duration::from_millis(100), ..ServeConfig::default() };
    drop(tasks.spawn("serve", serving(&server, listener, &tasks, config)));
    for start in ["", "GET /healthz HTTP/1.1\r\nx-slow: "] {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let text = exchange(&mut stream, start).await;
        assert!(!text.contains("200 OK"), "{text}");
    }
    tasks.stop();
}

#[tokio::test]
async fn the_socket_is_its_owners_and_replaces_a_dead_one() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("admin.sock");
    drop(bind_unix(&path).expect("bound"));
    let listener = bind_unix(&path).expect("a dead socket is replaced");
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let tasks = Tasks::new();
    let serving = serve_unix(listener, server.admin.clone(), tasks.clone(), ServeConfig::default());
    drop(tasks.spawn("serve", serving));
    let mut stream = UnixStream::connect(&path).await.expect("connected");
    let request = "GET /tarn/v1/keys HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(exchange(&mut stream, request).await.starts_with("HTTP/1.1 200 OK"));
    tasks.stop();
    let other = dir.path().join("file");
    std::fs::write(&other, "precious").expect("written");
    assert!(bind_unix(&other).is_err());
    assert_eq!(std::fs::read_to_string(&other).expect("still there"), "precious");
}
