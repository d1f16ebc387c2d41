//! TCP tunnels (spec 05 §6), and the bare connections of the ingress.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    daemon::{Stream, TOKEN, TestDaemon, stopwatch, wait_until},
    websocket::{BINARY, Message, WebSocket},
};

/// Serves connections to a port of the test, each in a thread of its own.
fn serve(bind: &str, handler: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind(bind).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, handler) = (stream.expect("a connection"), handler.clone());
            thread::spawn(move || handler(stream));
        }
    });
    port
}

/// A port that echoes.
pub(crate) fn echo() -> u16 {
    serve("127.0.0.1:0", |mut stream| {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    })
}

/// A port where nothing listens.
fn nobody() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn tunnel(daemon: &TestDaemon, port: u16) -> WebSocket {
    WebSocket::open(daemon, &format!("/tunnels/tcp?port={port}"), "").expect("a tunnel")
}

fn resident_kib(daemon: &TestDaemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("there");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a line");
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number")
}

#[test]
fn bytes_pass_both_ways_on_either_loopback() {
    let daemon = TestDaemon::open();
    let v6 = serve("[::1]:0", |mut stream| {
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte).expect("echoed");
        }
    });
    for port in [echo(), v6] {
        let mut socket = tunnel(&daemon, port);
        for message in [&b"one"[..], b"\x00\xff", &[7; 1000]] {
            socket.send(BINARY, message);
            let mut echoed = Vec::new();
            while echoed.len() < message.len() {
                let Message::Binary(bytes) = socket.next() else { unreachable!("{echoed:?}") };
                echoed.extend(bytes);
            }
            assert_eq!(echoed, message);
        }
    }
}

#[test]
fn what_cannot_be_opened_is_refused_before_the_upgrade() {
    let daemon = TestDaemon::open();
    let closed = format!("?port={}", nobody());
    for (query, status, code) in [
        ("", 400, "INVALID_REQUEST"),
        ("?port=", 400, "INVALID_REQUEST"),
        ("?port=0", 400, "INVALID_REQUEST"),
        ("?port=65536", 400, "INVALID_REQUEST"),
        ("?port=http", 400, "INVALID_REQUEST"),
        (&closed, 502, "CONNECTION_REFUSED"),
    ] {
        let answer = WebSocket::open(&daemon, &format!("/tunnels/tcp{query}"), "");
        let answer = answer.err().expect(query);
        assert_eq!(answer.refusal(), (status, code.to_owned()), "{query}");
    }
    let answer = daemon.api("POST", "/tunnels/tcp?port=1", &Value::Null);
    assert_eq!(answer.refusal(), (405, "METHOD_NOT_ALLOWED".to_owned()));
}

#[test]
fn a_server_that_speaks_first_is_heard_after_50_ms() {
    let daemon = TestDaemon::open();
    let port = serve("127.0.0.1:0", |mut stream| {
        stream.write_all(b"RFB 003.008\n").expect("sent");
        drop(stream.read(&mut [0]));
    });
    let mut socket = tunnel(&daemon, port);
    let upgraded = stopwatch();
    assert_eq!(socket.next(), Message::Binary(b"RFB 003.008\n".to_vec()));
    assert!(upgraded() < Duration::from_secs(20));
    // The answer was received a little later than it was sent.
    assert!(upgraded() >= Duration::from_millis(45), "{:?}", upgraded());
}

#[test]
fn the_server_s_end_is_a_close_after_all_its_bytes() {
    let daemon = TestDaemon::open();
    let port = serve("127.0.0.1:0", |mut stream| {
        stream.write_all(&vec![b'x'; 3 << 20]).expect("sent");
    });
    let mut socket = tunnel(&daemon, port);
    let (data, end) = socket.drain();
    assert_eq!(data.len(), 3 << 20);
    assert_eq!(end, Message::Close(1000, String::new()));
    socket.close(1000, "");
    assert_eq!(socket.next(), Message::End);
}

#[test]
fn after_the_client_s_close_the_server_is_heard_to_its_end() {
    let daemon = TestDaemon::open();
    // Like `wc -c`: says nothing before its input has ended.
    let port = serve("127.0.0.1:0", |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("the end of the input");
        stream.write_all(&vec![b'y'; 1 << 20]).expect("sent");
        stream.write_all(all.len().to_string().as_bytes()).expect("sent");
    });
    let mut socket = tunnel(&daemon, port);
    socket.send(BINARY, &vec![1; 100_000]);
    socket.close(1000, "");
    let (data, end) = socket.drain();
    assert_eq!(data.len(), (1 << 20) + 6);
    assert!(data.ends_with(b"100000"));
    assert_eq!(end, Message::Close(1000, String::new()));
    assert_eq!(socket.next(), Message::End);
}

#[test]
fn a_server_s_reset_is_no_ordinary_end() {
    let daemon = TestDaemon::open();
    let port = serve("127.0.0.1:0", |stream| {
        // Closing over unread bytes is a reset.
        while stream.peek(&mut [0; 4]).is_ok_and(|count| count < 4) {}
    });
    let mut socket = tunnel(&daemon, port);
    socket.send(BINARY, b"data");
    let (_, end) = socket.drain();
    assert!(matches!(end, Message::Close(1011, _)), "{end:?}");
}

#[test]
fn a_client_that_is_gone_ends_its_connection() {
    let daemon = TestDaemon::open();
    let (sender, ends) = std::sync::mpsc::channel();
    let port = serve("127.0.0.1:0", move |mut stream| {
        let mut all = Vec::new();
        drop(stream.read_to_end(&mut all));
        sender.send(all).expect("somebody waits");
    });
    let mut socket = tunnel(&daemon, port);
    socket.send(BINARY, b"last words");
    drop(socket);
    let heard = ends.recv_timeout(Duration::from_secs(20)).expect("the end");
    assert_eq!(heard, b"last words");
}

#[test]
fn much_passes_quickly_and_whole() {
    const BYTES: usize = 256 << 20;
    let daemon = TestDaemon::open();
    let port = serve("127.0.0.1:0", |mut stream| {
        let block: Vec<u8> = (0..=255).cycle().take(256 << 10).collect();
        for _ in 0..BYTES / block.len() {
            if stream.write_all(&block).is_err() {
                return;
            }
        }
    });
    let mut socket = tunnel(&daemon, port);
    let begun = stopwatch();
    let mut seen = 0_usize;
    loop {
        match socket.next() {
            Message::Binary(bytes) => {
                // Every byte is its position.
                assert_eq!(usize::from(bytes[0]), seen % 256);
                assert_eq!(usize::from(bytes[bytes.len() - 1]), (seen + bytes.len() - 1) % 256);
                seen += bytes.len();
            }
            Message::Ping | Message::Pong(_) => {}
            end @ (Message::Close(..) | Message::End) => {
                assert_eq!(end, Message::Close(1000, String::new()));
                break;
            }
        }
    }
    assert_eq!(seen, BYTES);
    println!("down: {:.0} MB/s", BYTES as f64 / begun().as_secs_f64() / 1e6);

    let port = serve("127.0.0.1:0", |mut stream| {
        let mut buffer = vec![0; 256 << 10];
        let mut seen = 0_usize;
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            assert_eq!(usize::from(buffer[0]), seen % 256);
            seen += count;
        }
        stream.write_all(seen.to_string().as_bytes()).expect("sent");
    });
    let mut socket = tunnel(&daemon, port);
    let block: Vec<u8> = (0..=255).cycle().take(256 << 10).collect();
    let frame = crate::websocket::frame(BINARY, &block);
    let begun = stopwatch();
    for _ in 0..BYTES / block.len() {
        socket.send_raw(&frame);
    }
    socket.close(1000, "");
    assert_eq!(socket.drain().0, BYTES.to_string().as_bytes());
    println!("up: {:.0} MB/s", BYTES as f64 / begun().as_secs_f64() / 1e6);
}

#[test]
fn nobody_who_does_not_read_costs_memory_or_holds_others_up() {
    let daemon = TestDaemon::open();
    let flood =
        serve("127.0.0.1:0", |mut stream| while stream.write_all(&[0; 64 << 10]).is_ok() {});
    let deaf = serve("127.0.0.1:0", |stream| {
        while stream.peek(&mut [0]).is_ok() {
            thread::park_timeout(Duration::from_secs(60));
        }
    });
    let before = resident_kib(&daemon);
    let unread = tunnel(&daemon, flood);
    let mut stuck = tunnel(&daemon, deaf);
    stuck.socket().set_nonblocking(true).expect("set");
    let frame = crate::websocket::frame(BINARY, &[0; 64 << 10]);
    let mut pushed = 0_usize;
    wait_until("nothing more is taken", || {
        let mut socket = stuck.socket();
        let mut taken = 0;
        while let Ok(count) = socket.write(&frame[..frame.len() - taken % frame.len()]) {
            taken += count;
        }
        pushed += taken;
        taken == 0 && pushed > 0
    });
    assert_eq!(daemon.get("/health").status, 200);
    let grown = resident_kib(&daemon).saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
    drop((unread, stuck.next()));
}

#[test]
fn quiet_tunnels_are_cheap() {
    let daemon = TestDaemon::open();
    let port = echo();
    let first = tunnel(&daemon, port);
    let before = resident_kib(&daemon);
    let mut sockets: Vec<_> = (0..50).map(|_| tunnel(&daemon, port)).collect();
    for socket in &mut sockets {
        socket.send(BINARY, &[1; 50_000]);
    }
    for socket in &mut sockets {
        let mut left = 50_000;
        while left > 0 {
            let Message::Binary(bytes) = socket.next() else { unreachable!("{left}") };
            left -= bytes.len();
        }
    }
    let each = resident_kib(&daemon).saturating_sub(before) / 50;
    println!("{each} KiB each");
    assert!(each < 32, "{each} KiB each");
    drop(first);
}

#[test]
fn the_ingress_has_bare_connections() {
    let daemon = TestDaemon::open();
    let open = |port: u16, upgrade: &str| {
        let mut socket = daemon.connect();
        let request = format!(
            "GET /internal/v1/connect?port={port} HTTP/1.1\r\nhost: t\r\n\
             x-tarn-token: {TOKEN}\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).expect("sent");
        Stream::read_head(socket)
    };
    let answer = open(echo(), "tarn-tcp");
    assert_eq!(answer.status, 101, "{}", answer.head);
    let mut reader = answer.into_reader();
    reader.get_mut().write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    let mut echoed = [0; 18];
    reader.read_exact(&mut echoed).expect("echoed");
    assert_eq!(&echoed, b"GET / HTTP/1.1\r\n\r\n");
    reader.get_ref().shutdown(std::net::Shutdown::Write).expect("shut");
    assert_eq!(reader.read(&mut [0]).expect("an end"), 0);

    let refused = open(nobody(), "tarn-tcp").finish_sized();
    assert_eq!(refused.refusal(), (502, "CONNECTION_REFUSED".to_owned()));
    let refused = open(echo(), "websocket").finish_sized();
    assert_eq!(refused.refusal(), (400, "INVALID_REQUEST".to_owned()));
    let refused = open(0, "tarn-tcp").finish_sized();
    assert_eq!(refused.refusal(), (400, "INVALID_REQUEST".to_owned()));
}
