//! Clients that mean harm, or are broken.

use std::time::Duration;

use tarn_ingress::IngressConfig;

use crate::{
    client::{Raw, get, once},
    sandbox::Recorder,
    world::{KEY, World, eventually},
};

/// Sends bytes and returns the whole answer.
async fn exchange(world: &World, bytes: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::connect(world.address).await;
    // The other side may refuse before it has read all.
    drop(tokio::io::AsyncWriteExt::write_all(&mut raw.stream, bytes.as_ref()).await);
    raw.read_to_end().await
}

#[tokio::test]
async fn malformed_requests_never_reach_a_sandbox() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let good = format!("Host: {id}.local\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n");
    let sid = "X-Tensorlake-Sandbox-Id";
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "a".repeat(200 << 10));
    let table = [
        ("obs-fold", format!("GET / HTTP/1.1\r\n{good}x-a: 1\r\n 2\r\n\r\n"), "400"),
        (
            "space before colon",
            format!("GET / HTTP/1.1\r\n{good}Content-Length : 3\r\n\r\nabc"),
            "400",
        ),
        (
            "two lengths",
            format!("POST / HTTP/1.1\r\n{good}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
            "400",
        ),
        ("signed length", format!("POST / HTTP/1.1\r\n{good}Content-Length: +3\r\n\r\nabc"), "400"),
        (
            "list of lengths",
            format!("POST / HTTP/1.1\r\n{good}Content-Length: 3, 4\r\n\r\nabcd"),
            "400",
        ),
        (
            "chunked not last",
            format!("POST / HTTP/1.1\r\n{good}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
            "400",
        ),
        (
            "chunked in HTTP/1.0",
            format!("POST / HTTP/1.0\r\n{good}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            "400",
        ),
        ("NUL in a value", format!("GET / HTTP/1.1\r\n{good}x-a: a\0b\r\n\r\n"), "400"),
        ("CR in a value", format!("GET / HTTP/1.1\r\n{good}x-a: a\rb\r\n\r\n"), "400"),
        ("two Hosts", format!("GET / HTTP/1.1\r\nHost: other.local\r\n{good}\r\n"), "400"),
        (
            "bad Host",
            "GET / HTTP/1.1\r\nHost: a@b.local\r\nConnection: close\r\n\r\n".to_owned(),
            "400",
        ),
        ("no Host", "GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), "400"),
        ("another target", format!("GET http://other.local/ HTTP/1.1\r\n{good}\r\n"), "400"),
        ("two keys", format!("GET / HTTP/1.1\r\n{good}Authorization: Basic x\r\n\r\n"), "400"),
        ("two ids", format!("GET / HTTP/1.1\r\n{good}{sid}: {id}\r\n{sid}: {id}\r\n\r\n"), "400"),
        ("CONNECT", format!("CONNECT {id}.local:9501 HTTP/1.1\r\n{good}\r\n"), "405"),
        ("many headers", format!("GET / HTTP/1.1\r\n{good}{many}\r\n"), "431"),
        ("a huge header", format!("GET / HTTP/1.1\r\n{good}{long}\r\n"), "431"),
        ("a huge target", format!("GET /{} HTTP/1.1\r\n{good}\r\n", "a".repeat(200 << 10)), "4"),
        ("no HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".to_owned(), "400"),
    ];
    for (what, bytes, status) in table {
        let answer = exchange(&world, bytes).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}"))
                || answer.starts_with(&format!("HTTP/1.0 {status}")),
            "{what}: {answer:?}"
        );
    }
    assert_eq!(daemon.count(), 0);
    assert_eq!(once(&world, get(&id, "/")).await.status, 200, "and it still serves");
}

#[tokio::test]
async fn a_request_hidden_in_another_is_a_body() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let good = format!("Host: {id}.local\r\nAuthorization: Bearer {KEY}\r\n");
    let hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    let chunk = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    for lengths in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
    ] {
        let before = daemon.count();
        let mut raw = Raw::connect(world.address).await;
        raw.write(format!("POST /outer HTTP/1.1\r\n{good}{lengths}\r\n\r\n{chunk}")).await;
        raw.read_until("HTTP/1.1 ").await;
        eventually("it arrived", || daemon.count() == before + 1).await;
        let seen = daemon.last();
        assert_eq!(seen.target, "/outer");
        assert_eq!(seen.body.as_deref(), Ok(hidden.as_bytes()), "{lengths}");
        assert_eq!(seen.header("content-length"), None, "framed anew");
    }
    // A header that says "drop the length" must not change the framing either.
    let mut raw = Raw::connect(world.address).await;
    let length = hidden.len();
    let lists = format!("Connection: content-length, x-tarn-token\r\nContent-Length: {length}");
    raw.write(format!("POST /outer HTTP/1.1\r\n{good}{lists}\r\n\r\n{hidden}")).await;
    raw.read_until("\r\n\r\nok").await;
    let seen = daemon.last();
    assert_eq!((seen.target.as_str(), seen.body.as_deref()), ("/outer", Ok(hidden.as_bytes())));
    assert!(seen.header("x-tarn-token").is_some());
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_is_dropped() {
    let config = IngressConfig {
        first_request_timeout: Duration::from_millis(100),
        header_timeout: Duration::from_millis(150),
        ..IngressConfig::default()
    };
    let world = World::with(config).await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    for bytes in ["", "G", "GET / HTTP/1.1\r\nHost: a", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        exchange(&world, bytes).await;
    }
    // The second head of a connection, too.
    let mut raw = Raw::connect(world.address).await;
    raw.write(format!(
        "GET / HTTP/1.1\r\nHost: {id}.local\r\nAuthorization: Bearer {KEY}\r\n\r\nGET /"
    ))
    .await;
    assert!(raw.read_to_end().await.contains("\r\n\r\nok"));
    eventually("all are gone", || world.stats().connections_open == 0).await;
}
