//! A simulated host and a client of its daemons.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tarn_guest_api::{INIT_PATH, TOKEN_HEADER};
use tarn_runtime::{CpuShare, Runtime as _, RuntimeEvent, RuntimeSpec, Started, sim::SimRuntime};
use tarn_task::Tasks;
use tarn_types::{Resources, SandboxId};
use tokio::{net::TcpStream, sync::mpsc};

pub(crate) const TOKEN: &str = "abababababababababababababababababababababababababababababababab";

/// Longer than anything a loaded machine needs; only a failure waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn runtime() -> (SimRuntime, mpsc::Receiver<RuntimeEvent>) {
    let (sender, events) = mpsc::channel(16);
    (SimRuntime::new(Tasks::new(), sender), events)
}

pub(crate) fn spec(number: u16) -> RuntimeSpec {
    let mut random = [0; SandboxId::LENGTH];
    for (place, digit) in random.iter_mut().zip(format!("{number:05}").bytes()) {
        *place = digit - b'0';
    }
    RuntimeSpec {
        id: SandboxId::from_random(random),
        rootfs: "/sim/rootfs".into(),
        netns: "/sim/netns".into(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        hostname: "tl-sbx".to_owned(),
        resources: Resources::default(),
        tarnd: "/sim/tarnd".into(),
        processes: 512,
        share: CpuShare::Own,
        gpus: None,
    }
}

pub(crate) async fn started(runtime: &SimRuntime, number: u16) -> (RuntimeSpec, Started) {
    let spec = spec(number);
    runtime.create(&spec).await.expect("created");
    let started = runtime.start(&spec.id).await.expect("started");
    (spec, started)
}

pub(crate) fn init_request() -> Value {
    json!({
        "protocol": 1, "token": TOKEN, "sandbox_id": "sbx", "hostname": "tl-sbx",
        "env": [["LANG", "C.UTF-8"]], "default_user": "tl-user", "working_dir": "/workspace",
        "entropy": "AAAA", "now_ms": 1_800_000_000_000_u64,
        "limits": {"processes": 512, "output_bytes": 1024},
    })
}

/// A connection to a daemon.
pub(crate) struct Client {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    token: Option<&'static str>,
    tasks: Tasks,
}

impl Client {
    pub(crate) async fn connect(daemon: SocketAddr) -> Self {
        let stream = TcpStream::connect(daemon).await.expect("the daemon accepts");
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.expect("an HTTP connection");
        let tasks = Tasks::new();
        tasks.spawn("client", async move { drop(connection.await) });
        Self { sender, token: None, tasks }
    }

    /// Connects, and opens the daemon.
    pub(crate) async fn open(daemon: SocketAddr) -> Self {
        let mut client = Self::connect(daemon).await;
        let (status, body) = client.post(INIT_PATH, &init_request()).await;
        assert_eq!(status, 200, "{body}");
        client.token = Some(TOKEN);
        client
    }

    pub(crate) fn with_token(&mut self, token: Option<&'static str>) {
        self.token = token;
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> hyper::Result<Response<hyper::body::Incoming>> {
        let mut request = Request::builder().method(method).uri(path).header("host", "daemon");
        if let Some(token) = self.token {
            request = request.header(TOKEN_HEADER, token);
        }
        let request = request.body(Full::new(body.into())).expect("a good request");
        self.sender.ready().await?;
        let answer = tokio::time::timeout(PATIENCE, self.sender.send_request(request));
        answer.await.expect("an answer in time")
    }

    pub(crate) async fn bytes(
        &mut self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> (u16, Bytes) {
        let response = self.send(method, path, body).await.expect("an answer");
        let status = response.status().as_u16();
        let body = tokio::time::timeout(PATIENCE, response.into_body().collect());
        (status, body.await.expect("a body in time").expect("a whole body").to_bytes())
    }

    pub(crate) async fn call(
        &mut self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> (u16, Value) {
        let (status, body) = self.bytes(method, path, body).await;
        let json = if body.is_empty() { Value::Null } else { parse(&body) };
        (status, json)
    }

    pub(crate) async fn get(&mut self, path: &str) -> (u16, Value) {
        self.call("GET", path, Bytes::new()).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> (u16, Value) {
        self.call("POST", path, body.to_string()).await
    }

    /// Runs a command to its end and returns the frames of the stream.
    pub(crate) async fn run(&mut self, body: &Value) -> Vec<Value> {
        let (status, body) = self.bytes("POST", "/api/v1/processes/run", body.to_string()).await;
        assert_eq!(status, 200, "{body:?}");
        let text = std::str::from_utf8(&body).expect("events are text");
        assert!(text.ends_with("\n\n"), "a blank line ends the last frame: {text}");
        let frames = text.trim_end().split("\n\n");
        frames.map(|frame| parse(frame.strip_prefix("data: ").expect(frame).as_bytes())).collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| unreachable!("{error}: {bytes:?}"))
}
