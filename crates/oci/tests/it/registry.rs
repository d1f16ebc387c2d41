//! A registry in this process, in plain HTTP by hand: it must be able to be cut and to lie.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tarn_oci::{Bounds, Puller, Reference, RegistryOptions};
use tarn_task::Tasks;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::image::Image;

/// How long a test waits for anything at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Hangs up after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Says another length than that of the body.
    pub(crate) length: Option<usize>,
    /// Says no length at all.
    pub(crate) chunked: bool,
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// A server that answers as a test says, and remembers what it was asked.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    tasks: Tasks,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte that it asks for.
    pub(crate) fn from(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap())
    }

    pub(crate) fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let (headers, body) = (Vec::new(), body.into());
        Self { status, headers, body, cut: None, length: None, chunked: false }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn redirect(to: impl Into<String>) -> Self {
        Self::new(307, "").with("Location", to)
    }
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let tasks = Tasks::new();
        let handler: Arc<Handler> = Arc::new(answer);
        tasks.spawn("registry", accept(listener, tasks.clone(), handler, Arc::clone(&requests)));
        Self { address, requests, tasks }
    }

    /// Serves an image under every repository and tag, as it should be.
    pub(crate) async fn honest(image: Image) -> Self {
        Self::start(move |request| serve(&image, request)).await
    }

    pub(crate) fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.address).parse().unwrap()
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().clone()
    }

    pub(crate) fn blob_requests(&self) -> Vec<Request> {
        self.requests().into_iter().filter(Request::is_blob).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// Answers as a registry does.
pub(crate) fn serve(image: &Image, request: &Request) -> Answer {
    let name = request.path.rsplit('/').next().unwrap();
    let digest = name.parse().unwrap_or_else(|_| image.manifest.clone());
    let Some(bytes) = image.blobs.get(&digest) else {
        return Answer::new(404, r#"{"errors":[{"code":"UNKNOWN","message":"unknown"}]}"#);
    };
    let from = request.from();
    if from == 0 {
        return Answer::new(200, bytes.as_slice());
    }
    let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
    Answer::new(206, &bytes[from..]).with("Content-Range", range)
}

/// A puller that waits next to nothing between tries.
pub(crate) fn puller() -> Puller {
    puller_with(RegistryOptions::default())
}

pub(crate) fn puller_with(options: RegistryOptions) -> Puller {
    let options = RegistryOptions { backoff: Duration::from_millis(1), ..options };
    Puller::new(options, Bounds::default(), Tasks::new())
}

async fn accept(
    listener: TcpListener,
    tasks: Tasks,
    handler: Arc<Handler>,
    requests: Arc<Mutex<Vec<Request>>>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tasks.stopping() => return,
        };
        let Ok((stream, _)) = accepted else { return };
        let (handler, requests) = (Arc::clone(&handler), Arc::clone(&requests));
        let stopping = tasks.stopping();
        tasks.spawn("connection", async move {
            tokio::select! {
                // Who hangs up in the middle is no fault of the server.
                _ = answer(stream, &*handler, &requests) => {}
                () = stopping => {}
            }
        });
    }
}

async fn answer(
    mut stream: TcpStream,
    handler: &Handler,
    requests: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let headers: HashMap<String, String> = headers.collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let request = Request { path, headers, body: String::from_utf8(body).unwrap() };
    requests.lock().push(request.clone());
    let answer = handler(&request);
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !answer.chunked {
        let length = answer.length.unwrap_or(answer.body.len());
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    let sent = answer.cut.unwrap_or(answer.body.len()).min(answer.body.len());
    stream.write_all(&answer.body[..sent]).await?;
    stream.shutdown().await
}
