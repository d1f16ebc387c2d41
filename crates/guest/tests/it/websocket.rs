//! The WebSocket layer, and the client by which the tests of terminals and tunnels speak it:
//! written by hand, so that it sees every frame and can misbehave.

use std::{
    io::{BufReader, Read as _, Write as _},
    net::TcpStream,
};

use crate::daemon::{Answer, Stream, TOKEN, TestDaemon, wait_until};

/// The client's end of a WebSocket.
pub(crate) struct WebSocket {
    reader: BufReader<TcpStream>,
    /// The head of the answer that opened it.
    pub(crate) head: String,
}

/// What the daemon sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Binary(Vec<u8>),
    Ping,
    Pong(Vec<u8>),
    Close(u16, String),
    /// The connection has ended.
    End,
}

pub(crate) const BINARY: u8 = 0x82;
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const UPGRADE: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n";

// === impl WebSocket ===

impl WebSocket {
    /// Opens one below the public prefix, or returns the refusal.
    pub(crate) fn open(daemon: &TestDaemon, path: &str, head: &str) -> Result<Self, Answer> {
        let token = daemon.token();
        let head = format!(
            "x-tarn-token: {token}\r\n{UPGRADE}sec-websocket-key: {KEY}\r\n\
             sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n{head}"
        );
        Self::open_with(daemon, path, &head)
    }

    /// The same with all headers given.
    pub(crate) fn open_with(daemon: &TestDaemon, path: &str, head: &str) -> Result<Self, Answer> {
        let mut socket = daemon.connect();
        let request = format!("GET /api/v1{path} HTTP/1.1\r\nhost: t\r\n{head}\r\n");
        socket.write_all(request.as_bytes()).expect("sent");
        let answer = Stream::read_head(socket);
        if answer.status != 101 {
            return Err(answer.finish_sized());
        }
        let head = answer.head.clone();
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
        assert!(!head.contains("sec-websocket-extensions"), "{head}");
        Ok(Self { reader: answer.into_reader(), head })
    }

    /// Sends a frame with a first byte of the test's choice, masked.
    pub(crate) fn send(&mut self, first: u8, payload: &[u8]) {
        let bytes = frame(first, payload);
        // The daemon may have closed; the test looks at what it says.
        drop(self.reader.get_mut().write_all(&bytes));
    }

    /// Sends bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        drop(self.reader.get_mut().write_all(bytes));
    }

    /// Sends a close.
    pub(crate) fn close(&mut self, code: u16, reason: &str) {
        self.send(CLOSE, &[&code.to_be_bytes()[..], reason.as_bytes()].concat());
    }

    /// The bare connection.
    pub(crate) fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The next frame; the daemon never fragments.
    pub(crate) fn next(&mut self) -> Message {
        let mut head = [0; 2];
        if self.reader.read_exact(&mut head).is_err() {
            return Message::End;
        }
        let [first, second] = head;
        assert_eq!(second & 0x80, 0, "the daemon does not mask");
        assert_eq!(first & 0xf0, 0x80, "whole and without extensions");
        let length = match second {
            126 => self.read(2).iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            127 => self.read(8).iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            short => usize::from(short),
        };
        let payload = self.read(length);
        match first & 0x0f {
            2 => Message::Binary(payload),
            8 => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                Message::Close(code, String::from_utf8(payload[2..].to_vec()).expect("text"))
            }
            9 => Message::Ping,
            10 => Message::Pong(payload),
            opcode => unreachable!("opcode {opcode}"),
        }
    }

    /// Everything to the close: the data, and the close.
    pub(crate) fn drain(&mut self) -> (Vec<u8>, Message) {
        let mut data = Vec::new();
        loop {
            match self.next() {
                Message::Binary(bytes) => data.extend(bytes),
                Message::Ping | Message::Pong(_) => {}
                end @ (Message::Close(..) | Message::End) => return (data, end),
            }
        }
    }

    fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes).expect("a whole frame");
        bytes
    }
}

/// A client's frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [1, 2, 3, 250];
    let mut bytes = vec![first];
    match u16::try_from(payload.len()) {
        Ok(length @ 0..=125) => bytes.push(0x80 | length.to_be_bytes()[1]),
        Ok(length) => bytes.extend([&[0x80 | 126][..], &length.to_be_bytes()].concat()),
        Err(_) => {
            let length = payload.len() as u64;
            bytes.extend([&[0x80 | 127][..], &length.to_be_bytes()].concat());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A server in the test that echoes, and a tunnel to it.
fn echo_tunnel(daemon: &TestDaemon) -> WebSocket {
    let port = crate::tunnel::echo();
    WebSocket::open(daemon, &format!("/tunnels/tcp?port={port}"), "").expect("a tunnel")
}

#[test]
fn pings_are_answered_also_within_a_message_and_pongs_are_ignored() {
    let daemon = TestDaemon::open();
    let mut socket = echo_tunnel(&daemon);
    assert!(socket.head.contains("connection: upgrade\r\n"), "{}", socket.head);
    socket.send(0x02, b"a");
    socket.send(PING, b"are you there?");
    socket.send(0x8a, b"unasked");
    socket.send(0x00, b"");
    socket.send(0x80, b"b");
    let (mut data, mut pongs) = (Vec::new(), Vec::new());
    while data != b"ab" || pongs.is_empty() {
        match socket.next() {
            Message::Binary(bytes) => data.extend(bytes),
            Message::Pong(bytes) => pongs.push(bytes),
            other @ (Message::Ping | Message::Close(..) | Message::End) => {
                unreachable!("{other:?}")
            }
        }
    }
    assert_eq!(pongs, [b"are you there?"]);
}

#[test]
fn what_is_no_websocket_is_closed_with_its_reason() {
    let daemon = TestDaemon::open();
    let table: &[(&[u8], u16)] = &[
        (&[BINARY, 1, b'x'], 1002),
        (&frame(0xc2, b"compressed"), 1002),
        (&frame(0x83, b""), 1002),
        (&frame(0x80, b"nothing begun"), 1002),
        (&frame(0x09, b"half a ping"), 1002),
        (&frame(PING, &[0; 126]), 1002),
        (&frame(CLOSE, b"\x00"), 1002),
        (&frame(TEXT, b"text"), 1003),
    ];
    for (bytes, code) in table {
        let mut socket = echo_tunnel(&daemon);
        socket.send_raw(bytes);
        let (data, end) = socket.drain();
        assert!(
            matches!(end, Message::Close(c, ref reason) if c == *code && !reason.is_empty()),
            "{bytes:?}: {end:?}"
        );
        assert_eq!(data, b"");
        assert_eq!(socket.next(), Message::End);
    }
}

#[test]
fn a_request_that_is_no_websocket_s_is_refused() {
    let daemon = TestDaemon::open();
    let port = crate::tunnel::echo();
    let path = format!("/tunnels/tcp?port={port}");
    let token = format!("x-tarn-token: {TOKEN}\r\n");
    for head in [
        format!("{token}connection: close\r\n"),
        format!("{token}{UPGRADE}"),
        format!("{token}{UPGRADE}sec-websocket-key: short\r\n"),
        format!("{token}connection: upgrade\r\nupgrade: h2c\r\nsec-websocket-key: {KEY}\r\n"),
    ] {
        let answer = WebSocket::open_with(&daemon, &path, &head).err().expect("refused");
        assert_eq!(answer.refusal(), (400, "INVALID_REQUEST".to_owned()), "{head}");
    }
    let head = format!("{UPGRADE}sec-websocket-key: {KEY}\r\n");
    let answer = WebSocket::open_with(&daemon, &path, &head).err().expect("refused");
    assert_eq!(answer.refusal(), (401, "UNAUTHENTICATED".to_owned()));
}

#[test]
fn frames_that_come_with_the_request_are_not_lost() {
    let daemon = TestDaemon::open();
    let port = crate::tunnel::echo();
    let mut socket = daemon.connect();
    let request = format!(
        "GET /api/v1/tunnels/tcp?port={port} HTTP/1.1\r\nhost: t\r\nx-tarn-token: {TOKEN}\r\n\
         {UPGRADE}sec-websocket-key: {KEY}\r\n\r\n"
    );
    socket.write_all(&[request.as_bytes(), &frame(BINARY, b"early")].concat()).expect("sent");
    let answer = Stream::read_head(socket);
    let head = answer.head.clone();
    let mut socket = WebSocket { reader: answer.into_reader(), head };
    assert_eq!(socket.next(), Message::Binary(b"early".to_vec()));
}

#[test]
fn a_connection_counts_for_as_long_as_it_is_open() {
    let daemon = TestDaemon::open();
    // Loopback peers have 64 connections; one more has to wait until one of them ends.
    let mut sockets: Vec<_> = (0..64).map(|_| echo_tunnel(&daemon)).collect();
    let mut refused = daemon.connect();
    drop(refused.write_all(b"GET /api/v1/health HTTP/1.1\r\n\r\n"));
    assert!(matches!(refused.read(&mut [0; 1]), Ok(0) | Err(_)), "closed at once");
    for socket in &mut sockets {
        socket.close(1000, "");
        assert_eq!(socket.drain().1, Message::Close(1000, String::new()));
    }
    drop(sockets);
    wait_until("there is room", || {
        let mut socket = daemon.connect();
        let request = format!(
            "GET /api/v1/health HTTP/1.1\r\nhost: t\r\nx-tarn-token: {TOKEN}\r\n\
             connection: close\r\n\r\n"
        );
        let sent = socket.write_all(request.as_bytes());
        let mut answer = String::new();
        sent.is_ok() && socket.read_to_string(&mut answer).is_ok_and(|_| answer.contains("200 OK"))
    });
}
