//! WebSockets pass; nothing else changes protocol.

use std::time::Duration;

use tarn_ingress::IngressConfig;
use tarn_types::{SandboxId, SandboxStatus};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    client::Raw,
    sandbox::{Recorder, serve_raw},
    world::{KEY, World, eventually, soon},
};

/// A daemon that greets after the handshake and then echoes.
pub(crate) async fn echo(world: &World) -> SandboxId {
    let daemon = serve_raw(&world.tasks, |mut stream| async move {
        let mut head = Vec::new();
        while !head.windows(4).any(|four| four == b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let text = String::from_utf8_lossy(&head).to_lowercase();
        assert!(text.contains("upgrade: websocket") && text.contains("connection: upgrade"));
        assert!(text.contains("sec-websocket-key: dgvzda=="));
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                      Connection: Upgrade\r\nSec-WebSocket-Accept: abc\r\n\r\nhello";
        drop(stream.write_all(answer.as_bytes()).await);
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            drop(stream.write_all(&buffer[..read]).await);
        }
        drop(stream.write_all(b"goodbye").await);
    })
    .await;
    world.sandbox(daemon)
}

async fn open(world: &World, id: &SandboxId) -> Raw {
    let mut raw = Raw::connect(world.address).await;
    raw.write(format!(
        "GET /api/v1/pty/1/ws HTTP/1.1\r\nHost: {id}.local\r\nAuthorization: Bearer {KEY}\r\n\
         Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGVzdA==\r\n\r\n"
    ))
    .await;
    raw.read_until("\r\n\r\n").await;
    let head = raw.text().to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-accept: abc"), "{head}");
    raw
}

#[tokio::test]
async fn a_websocket_carries_bytes_both_ways_and_closes_half_by_half() {
    let world = World::start().await;
    let id = echo(&world).await;
    let mut raw = open(&world, &id).await;
    raw.read_until("hello").await;
    for n in 0..10 {
        raw.write(format!("<{n}>")).await;
        raw.read_until(&format!("<{n}>")).await;
    }
    assert_eq!(world.stats().tunnels_open, 1);
    raw.stream.shutdown().await.expect("a close");
    assert!(raw.read_to_end().await.ends_with("goodbye"));
    eventually("it is closed", || {
        let stats = world.stats();
        (stats.tunnels_open, stats.connections_open, stats.requests_active) == (0, 0, 0)
    })
    .await;
    assert_eq!(world.stats().tunnels, 1);
}

/// A frame as a client sends it: its first byte, and what it carries.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u16::try_from(payload.len()) {
        Ok(length @ 0..126) => frame.push(0x80 | u8::try_from(length).expect("a short one")),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_longer) => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    let mask = [1, 2, 3, 4];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

#[tokio::test]
async fn every_kind_of_frame_passes_as_it_is() {
    let world = World::start().await;
    let id = echo(&world).await;
    let mut raw = open(&world, &id).await;
    raw.read_until("hello").await;
    let sent = [
        frame(0x81, b"text"),
        frame(0x82, &[0, 255, 13, 10, 13, 10]),
        frame(0x89, b"ping"),
        // A message in three parts, with a pong between them.
        frame(0x01, b"one"),
        frame(0x00, b"two"),
        frame(0x8a, b""),
        frame(0x80, b"three"),
        frame(0x82, &vec![7; 300]),
        frame(0x82, &vec![9; 1 << 20]),
        frame(0x88, &[0x0f, 0xa1, b'b', b'y', b'e']),
    ]
    .concat();
    let (mut read, mut write) = raw.stream.split();
    let mut received = vec![0; sent.len()];
    let both = async {
        let written = write.write_all(&sent);
        let (written, read) = tokio::join!(written, read.read_exact(&mut received));
        written.expect("a write");
        read.expect("an echo");
    };
    soon("the echo", both).await;
    assert!(received == sent, "a frame was changed");
}

#[tokio::test]
async fn a_websocket_whose_program_vanishes_ends() {
    let world = World::start().await;
    let daemon = serve_raw(&world.tasks, |mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                      Connection: Upgrade\r\nSec-WebSocket-Accept: abc\r\n\r\nhello";
        drop(stream.write_all(answer.as_bytes()).await);
        // What is not read makes its end a reset.
        drop(stream.peek(&mut [0]).await);
    })
    .await;
    let id = world.sandbox(daemon);
    let mut raw = open(&world, &id).await;
    raw.read_until("hello").await;
    raw.write(frame(0x81, b"more")).await;
    raw.read_to_end().await;
    eventually("it is closed", || world.stats().tunnels_open == 0).await;
}

#[tokio::test]
async fn a_silent_websocket_is_closed() {
    let config =
        IngressConfig { idle_timeout: Duration::from_millis(200), ..IngressConfig::default() };
    let world = World::with(config).await;
    let id = echo(&world).await;
    let mut raw = open(&world, &id).await;
    raw.read_to_end().await;
    assert_eq!(world.stats().tunnels, 1);
}

#[tokio::test]
async fn a_websocket_ends_with_its_sandbox() {
    let world = World::start().await;
    let id = echo(&world).await;
    let mut raw = open(&world, &id).await;
    world.routes.edit(&id, |route| route.status = SandboxStatus::Terminated);
    raw.read_to_end().await;
    eventually("it is closed", || world.stats().tunnels_open == 0).await;
}

#[tokio::test]
async fn a_websocket_ends_with_its_client() {
    let world = World::start().await;
    let id = echo(&world).await;
    let raw = open(&world, &id).await;
    eventually("it is open", || world.stats().tunnels_open == 1).await;
    drop(raw);
    eventually("it is closed", || world.stats().tunnels_open == 0).await;
}

#[tokio::test]
async fn a_refused_handshake_is_an_ordinary_answer() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let mut raw = Raw::connect(world.address).await;
    raw.write(format!(
        "GET / HTTP/1.1\r\nHost: {id}.local\r\nAuthorization: Bearer {KEY}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    ))
    .await;
    raw.read_until("\r\n\r\nok").await;
    assert!(raw.text().starts_with("HTTP/1.1 200"));
    assert_eq!(world.stats().tunnels, 0);
}

#[tokio::test]
async fn other_protocols_are_not_offered() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let mut raw = Raw::connect(world.address).await;
    raw.write(format!(
        "GET / HTTP/1.1\r\nHost: {id}.local\r\nAuthorization: Bearer {KEY}\r\n\
         Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
    ))
    .await;
    raw.read_until("\r\n\r\nok").await;
    let seen = daemon.last();
    for gone in ["upgrade", "http2-settings", "connection"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
}
