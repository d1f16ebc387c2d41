//! What `bench/run-nginx` puts behind and before the proxies that it compares.
//!
//! `proxied serve` is the upstream: it answers `/small`, sends `/bytes/N`, swallows what is sent to
//! `/sink`, and echoes the frames of WebSockets at `/echo`. It prints its port.
//!
//! `proxied echo ADDRESS CONNECTIONS SECONDS HOST KEY` is a client of the last: every connection
//! sends a frame, waits for it to come back, and goes on. It prints every round trip's time in µs.

#![allow(clippy::print_stdout, reason = "it prints what it measured")]
#![allow(clippy::disallowed_methods, reason = "nobody waits for its tasks, which end with it")]

use std::{convert::Infallible, env, io, io::Write as _, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures::{StreamExt as _, future::try_join_all, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    time::Instant,
};

type Body = UnsyncBoxBody<Bytes, Infallible>;

const SMALL: &[u8] = &[b'.'; 128];
static PART: [u8; 256 << 10] = [b'.'; 256 << 10];

/// The example of RFC 6455, which saves a digest.
const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const WEBSOCKET_ACCEPT: HeaderValue = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
/// The payload of a frame; short, so that its length takes one byte.
const MESSAGE: [u8; 64] = [b'm'; 64];
const MASKED: u8 = 0x80;
const BINARY: u8 = 0x82;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve"] => serve().await,
        ["echo", address, connections, seconds, host, key] => {
            let seconds = Duration::from_secs(seconds.parse()?);
            echo(address.parse()?, connections.parse()?, seconds, (host, key)).await
        }
        _ => bail!("say `serve`, or `echo ADDRESS CONNECTIONS SECONDS HOST KEY`"),
    }
}

// --- the upstream ---

async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    io::stdout().flush()?;
    loop {
        let (stream, _peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let served =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            drop(served.with_upgrades().await);
        });
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Body>> {
    let path = request.uri().path().to_owned();
    if let Some(size) = path.strip_prefix("/bytes/") {
        return Ok(bytes(size.parse()?));
    }
    match path.as_str() {
        "/small" => Ok(Response::new(full(SMALL))),
        "/sink" => {
            let mut size = 0;
            while let Some(frame) = request.body_mut().frame().await {
                size += frame?.data_ref().map_or(0, Bytes::len);
            }
            Ok(Response::new(full(size.to_string())))
        }
        "/echo" => {
            let upgrade = hyper::upgrade::on(request);
            tokio::spawn(async move {
                let Ok(upgraded) = upgrade.await else { return };
                drop(return_frames(TokioIo::new(upgraded)).await);
            });
            Ok(switching())
        }
        _ => Ok(with_status(StatusCode::NOT_FOUND)),
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

fn with_status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = status;
    response
}

fn bytes(size: usize) -> Response<Body> {
    let parts = (0..size).step_by(PART.len());
    let part = move |at| Ok(Frame::data(Bytes::from_static(&PART[..PART.len().min(size - at)])));
    let mut response = Response::new(StreamBody::new(stream::iter(parts).map(part)).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    response
}

fn switching() -> Response<Body> {
    let mut response = with_status(StatusCode::SWITCHING_PROTOCOLS);
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, WEBSOCKET_ACCEPT);
    response
}

/// Sends every frame back, unmasked as a server's are.
async fn return_frames(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut frame = [0; 2 + 125];
    loop {
        let mut head = [0; 6];
        stream.read_exact(&mut head).await?;
        let length = usize::from(head[1] & !MASKED);
        let Some(payload) = frame.get_mut(2..2 + length) else { bail!("too long a frame") };
        stream.read_exact(payload).await?;
        for (byte, mask) in payload.iter_mut().zip(head[2..].iter().cycle()) {
            *byte ^= mask;
        }
        frame[0] = head[0];
        frame[1] = head[1] & !MASKED;
        stream.write_all(&frame[..2 + length]).await?;
        stream.flush().await?;
    }
}

// --- the client ---

async fn echo(
    address: SocketAddr,
    connections: usize,
    lasts: Duration,
    called: (&str, &str),
) -> Result<()> {
    let streams = try_join_all((0..connections).map(|_| open(address, called))).await?;
    let end = Instant::now() + lasts;
    let samples = try_join_all(streams.into_iter().map(|stream| round_trips(stream, end))).await?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    for sample in samples.concat() {
        writeln!(out, "{}", sample.as_nanos() / 1000)?;
    }
    out.flush()?;
    Ok(())
}

async fn open(address: SocketAddr, (host, key): (&str, &str)) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let head = format!(
        "GET /echo HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {WEBSOCKET_KEY}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.context("read the answer to the handshake")?);
    }
    if !answer.starts_with(b"HTTP/1.1 101 ") {
        bail!("no WebSocket: {}", String::from_utf8_lossy(&answer));
    }
    Ok(stream)
}

async fn round_trips(mut stream: TcpStream, end: Instant) -> Result<Vec<Duration>> {
    let length = u8::try_from(MESSAGE.len())?;
    let mask = [1, 2, 3, 4];
    let masked = MESSAGE.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    let sent: Vec<u8> = [BINARY, MASKED | length].into_iter().chain(mask).chain(masked).collect();
    let expected = [&[BINARY, length][..], &MESSAGE].concat();
    let mut received = vec![0; expected.len()];
    let mut samples = Vec::new();
    let mut begun = Instant::now();
    while begun < end {
        stream.write_all(&sent).await?;
        stream.read_exact(&mut received).await?;
        if received != expected {
            bail!("another frame came back");
        }
        samples.push(begun.elapsed());
        begun = Instant::now();
    }
    Ok(samples)
}
