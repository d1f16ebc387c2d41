//! A program in a sandbox that takes nothing on trust: it reads by a strict parser of its own and
//! keeps what it read, so that a parser shared by both ends of the ingress cannot hide a mistake.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tarn_task::Tasks;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::sandbox::serve_raw;

/// What came in, over all connections.
#[derive(Debug, Default)]
struct Log {
    /// `METHOD target [body]`, `METHOD target [cut]`, or `garbage …`.
    messages: Vec<String>,
    heads: Vec<String>,
}

/// A server that answers `ok` to each whole request.
pub(crate) struct Witness {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Log>>,
}

/// How a message's body ends.
enum Framing {
    Length(usize),
    Chunked,
}

/// The connection ended within a message, or what came is none.
enum Stop {
    End,
    Garbage(String),
}

/// One connection as far as it was read.
struct Reader {
    stream: TcpStream,
    bytes: Vec<u8>,
}

// === impl Witness ===

impl Witness {
    pub(crate) async fn start(tasks: &Tasks) -> Self {
        let log: Arc<Mutex<Log>> = Arc::default();
        let kept = Arc::clone(&log);
        let address = serve_raw(tasks, move |stream| {
            let log = Arc::clone(&kept);
            async move { Reader { stream, bytes: Vec::new() }.serve(&log).await }
        })
        .await;
        Self { address, log }
    }

    /// What came in so far.
    pub(crate) fn messages(&self) -> Vec<String> {
        self.log.lock().messages.clone()
    }

    /// The heads of what came in so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.log.lock().heads.clone()
    }

    pub(crate) fn forget(&self) {
        *self.log.lock() = Log::default();
    }
}

// === impl Reader ===

impl Reader {
    async fn serve(mut self, log: &Mutex<Log>) {
        while let Some(head) = self.head().await {
            let line = head.lines().next().unwrap_or_default().to_owned();
            let request = line.trim_end_matches(" HTTP/1.1").to_owned();
            log.lock().heads.push(head.clone());
            let body = match framing(&head) {
                Ok(framing) => self.body(&framing).await,
                Err(what) => Err(Stop::Garbage(what)),
            };
            let message = match &body {
                Ok(body) => format!("{request} [{}]", String::from_utf8_lossy(body)),
                Err(Stop::End) => format!("{request} [cut]"),
                Err(Stop::Garbage(what)) => format!("garbage {what} in {head:?}"),
            };
            log.lock().messages.push(message);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if body.is_err() || self.stream.write_all(answer).await.is_err() {
                return;
            }
        }
        if !self.bytes.is_empty() {
            log.lock().messages.push(format!("garbage {:?}", String::from_utf8_lossy(&self.bytes)));
        }
    }

    async fn more(&mut self) -> Result<(), Stop> {
        match self.stream.read_buf(&mut self.bytes).await {
            Ok(1..) => Ok(()),
            Ok(0) | Err(_) => Err(Stop::End),
        }
    }

    async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.bytes, b"\r\n\r\n") {
                let head: Vec<u8> = self.bytes.drain(..end + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            self.more().await.ok()?;
        }
    }

    async fn body(&mut self, framing: &Framing) -> Result<Vec<u8>, Stop> {
        match framing {
            Framing::Length(length) => self.exactly(*length).await,
            Framing::Chunked => {
                let mut body = Vec::new();
                loop {
                    let line = self.line().await?;
                    let digits = !line.is_empty() && line.bytes().all(|b| b.is_ascii_hexdigit());
                    let size = usize::from_str_radix(&line, 16);
                    let (true, Ok(size)) = (digits, size) else {
                        return Err(Stop::Garbage(format!("chunk size {line:?}")));
                    };
                    if size == 0 {
                        while !self.line().await?.is_empty() {}
                        return Ok(body);
                    }
                    body.extend(self.exactly(size).await?);
                    if !self.line().await?.is_empty() {
                        return Err(Stop::Garbage("a chunk longer than it says".to_owned()));
                    }
                }
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Result<Vec<u8>, Stop> {
        while self.bytes.len() < length {
            self.more().await?;
        }
        Ok(self.bytes.drain(..length).collect())
    }

    async fn line(&mut self) -> Result<String, Stop> {
        loop {
            if let Some(end) = find(&self.bytes, b"\r\n") {
                let line: Vec<u8> = self.bytes.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.more().await?;
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Reads the framing; anything but one way to read it is an error.
fn framing(head: &str) -> Result<Framing, String> {
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = line[..] else { return Err(format!("line {line:?}")) };
    if method.is_empty() || !(target.starts_with('/') || target == "*") {
        return Err(format!("target {target:?}"));
    }
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return Err(format!("{line:?}")) };
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) || value.contains(['\r', '\n', '\0']) {
            return Err(format!("{line:?}"));
        }
        match name.to_ascii_lowercase().replace('_', "-").as_str() {
            "content-length" => lengths.push(value.trim()),
            "transfer-encoding" => codings.push(value.trim()),
            "host" => hosts.push(value.trim()),
            _ => {}
        }
    }
    if hosts.len() != 1 || !hosts[0].starts_with("localhost:") {
        return Err(format!("hosts {hosts:?}"));
    }
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([], ["chunked"]) => Ok(Framing::Chunked),
        ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) => length
            .parse()
            .map(Framing::Length)
            .map_err(|error| format!("length {length:?}: {error}")),
        other => Err(format!("framing {other:?}")),
    }
}
