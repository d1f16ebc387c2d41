//! HTTP/2 by hand: heads that no HTTP library would send, and bodies that are not what they say.
//!
//! What HTTP/2 lets through is written out as HTTP/1.1 behind the ingress, where a line end within
//! a value would begin another header.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    client::Raw,
    witness::Witness,
    world::{KEY, World, eventually, soon},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The sandbox's answer.
    Answered,
    /// An answer of the ingress, with this code in it.
    Refused(&'static str),
    /// The stream is reset, or the connection ends.
    Reset,
}

use End::{Answered, Refused, Reset};

type Line = (&'static str, &'static str);

/// `$ID`, `$OTHER` and `$KEY` are filled in.
struct Row {
    what: &'static str,
    head: &'static [Line],
    /// None: the head ends the request.
    body: Option<&'static str>,
    end: End,
    reached: &'static [&'static str],
}

const fn row(
    what: &'static str,
    head: &'static [Line],
    body: Option<&'static str>,
    end: End,
    reached: &'static [&'static str],
) -> Row {
    Row { what, head, body, end, reached }
}

const fn reset(what: &'static str, head: &'static [Line], body: Option<&'static str>) -> Row {
    Row { what, head, body, end: Reset, reached: &[] }
}

const GET: Line = (":method", "GET");
const POST: Line = (":method", "POST");
const HTTP: Line = (":scheme", "http");
const PATH: Line = (":path", "/a");
const HOST: Line = (":authority", "$ID.local");
const AUTH: Line = ("authorization", "Bearer $KEY");
/// At the most.
const CUT: &[&str] = &["POST /a [cut]"];
const INVALID: End = Refused("INVALID_REQUEST");

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("no body", &[GET, HTTP, PATH, HOST, AUTH], None, Answered, &["GET /a []"]),
    row("a body", &[POST, HTTP, PATH, HOST, AUTH], Some("abc"), Answered, &["POST /a [abc]"]),
    row("a GET with a body", &[GET, HTTP, PATH, HOST, AUTH], Some("abc"), Answered, &["GET /a [abc]"]),
    row("a length", &[POST, HTTP, PATH, HOST, AUTH, ("content-length", "3")], Some("abc"), Answered, &["POST /a [abc]"]),
    row("the same length twice", &[POST, HTTP, PATH, HOST, AUTH, ("content-length", "3"), ("content-length", "3")], Some("abc"), Answered, &["POST /a [abc]"]),
    row("a disguised length", &[POST, HTTP, PATH, HOST, AUTH, ("content_length", "0")], Some("abc"), Answered, &["POST /a [abc]"]),
    // Here the sandbox may have a part.
    row("a body longer than its length", &[POST, HTTP, PATH, HOST, AUTH, ("content-length", "3")], Some("abcGET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"), Reset, CUT),
    row("a body shorter than its length", &[POST, HTTP, PATH, HOST, AUTH, ("content-length", "9")], Some("abc"), Reset, CUT),
    reset("two lengths", &[POST, HTTP, PATH, HOST, AUTH, ("content-length", "3"), ("content-length", "0")], Some("abc")),
    reset("a length without a body", &[POST, HTTP, PATH, HOST, AUTH, ("content-length", "3")], None),
    reset("a signed length", &[POST, HTTP, PATH, HOST, AUTH, ("content-length", "+3")], Some("abc")),
    reset("an empty length", &[POST, HTTP, PATH, HOST, AUTH, ("content-length", "")], Some("abc")),
    reset("a coding", &[POST, HTTP, PATH, HOST, AUTH, ("transfer-encoding", "chunked")], Some("0\r\n\r\nGET /hidden HTTP/1.1\r\n\r\n")),
    reset("connection", &[GET, HTTP, PATH, HOST, AUTH, ("connection", "close")], None),
    reset("keep-alive", &[GET, HTTP, PATH, HOST, AUTH, ("keep-alive", "5")], None),
    reset("proxy-connection", &[GET, HTTP, PATH, HOST, AUTH, ("proxy-connection", "close")], None),
    reset("upgrade", &[GET, HTTP, PATH, HOST, AUTH, ("upgrade", "websocket")], None),
    reset("te", &[GET, HTTP, PATH, HOST, AUTH, ("te", "gzip")], None),
    reset("a line end in a value", &[GET, HTTP, PATH, HOST, AUTH, ("x-a", "b\r\ntransfer-encoding: chunked")], None),
    reset("an LF in a value", &[GET, HTTP, PATH, HOST, AUTH, ("x-a", "b\nx-c: d")], None),
    reset("a CR in a value", &[GET, HTTP, PATH, HOST, AUTH, ("x-a", "b\rx-c: d")], None),
    reset("a NUL in a value", &[GET, HTTP, PATH, HOST, AUTH, ("x-a", "b\0")], None),
    reset("a line end in a name", &[GET, HTTP, PATH, HOST, AUTH, ("x-a: b\r\nx-c", "d")], None),
    reset("a colon in a name", &[GET, HTTP, PATH, HOST, AUTH, ("content-length: 3\r\nx", "d")], None),
    reset("capitals in a name", &[GET, HTTP, PATH, HOST, AUTH, ("X-A", "b")], None),
    reset("an empty name", &[GET, HTTP, PATH, HOST, AUTH, ("", "b")], None),
    reset("a request in the path", &[GET, HTTP, (":path", "/a HTTP/1.1\r\nHost: x\r\n\r\nGET /hidden"), HOST, AUTH], None),
    reset("a space in the path", &[GET, HTTP, (":path", "/a HTTP/1.1"), HOST, AUTH], None),
    reset("a path without a slash", &[GET, HTTP, (":path", "a"), HOST, AUTH], None),
    reset("an empty path", &[GET, HTTP, (":path", ""), HOST, AUTH], None),
    row("a star for a path", &[GET, HTTP, (":path", "*"), HOST, AUTH], None, INVALID, &[]),
    reset("a request in the method", &[(":method", "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\nGET"), HTTP, PATH, HOST, AUTH], None),
    reset("a request in the host", &[GET, HTTP, PATH, (":authority", "$ID.local\r\nX-A: b"), AUTH], None),
    row("a request in Host", &[GET, HTTP, PATH, HOST, ("host", "$OTHER.local"), AUTH], None, INVALID, &[]),
    row("a user in the host", &[GET, HTTP, PATH, (":authority", "$OTHER.local@$ID.local"), AUTH], None, INVALID, &[]),
    row("Host alone", &[GET, HTTP, PATH, ("host", "$ID.local"), AUTH], None, Answered, &["GET /a []"]),
    row("two Hosts", &[GET, HTTP, PATH, ("host", "$ID.local"), ("host", "$OTHER.local"), AUTH], None, INVALID, &[]),
    row("another scheme", &[GET, (":scheme", "file"), PATH, HOST, AUTH], None, INVALID, &[]),
    reset("a request in the scheme", &[GET, (":scheme", "http://x/ HTTP/1.1\r\n"), PATH, HOST, AUTH], None),
    reset("no scheme", &[GET, PATH, HOST, AUTH], None),
    reset("no method", &[HTTP, PATH, HOST, AUTH], None),
    reset("no path", &[GET, HTTP, HOST, AUTH], None),
    reset("two paths", &[GET, HTTP, PATH, (":path", "/b"), HOST, AUTH], None),
    reset("two hosts", &[GET, HTTP, PATH, HOST, (":authority", "$OTHER.local"), AUTH], None),
    reset("a status", &[GET, HTTP, PATH, HOST, (":status", "200"), AUTH], None),
    reset("an unknown pseudo-header", &[GET, HTTP, PATH, HOST, (":a", "b"), AUTH], None),
    reset("a pseudo-header that is late", &[GET, HTTP, HOST, AUTH, PATH], None),
    reset("a WebSocket over HTTP/2", &[(":method", "CONNECT"), (":protocol", "websocket"), HTTP, PATH, HOST, AUTH], None),
    row("CONNECT", &[(":method", "CONNECT"), (":authority", "$ID.local:9501"), AUTH], Some(""), Refused("METHOD_NOT_ALLOWED"), &[]),
    row("no key", &[GET, HTTP, PATH, HOST], None, Refused("UNAUTHENTICATED"), &[]),
    row("the neighbour", &[GET, HTTP, PATH, (":authority", "$OTHER.local"), AUTH], None, Refused("SANDBOX_NOT_FOUND"), &[]),
    row("a forged token", &[GET, HTTP, PATH, HOST, AUTH, ("x-tarn-token", "forged")], None, Answered, &["GET /a []"]),
];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Writes a head by the plainest rule of HPACK: names and values as they are, nothing remembered.
fn block(lines: &[(String, String)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in lines {
        block.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).expect("a short text");
            if length < 127 {
                block.push(length);
            } else {
                block.extend([127, length - 127]);
            }
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Reads frames until the first stream has ended, and says how.
async fn ending(raw: &mut Raw) -> End {
    let mut body = Vec::new();
    loop {
        let mut head = [0; 9];
        if raw.stream.read_exact(&mut head).await.is_err() {
            return Reset;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if raw.stream.read_exact(&mut payload).await.is_err() {
            return Reset;
        }
        let (kind, flags) = (head[3], head[4]);
        match kind {
            SETTINGS if flags == 0 => {
                drop(raw.stream.write_all(&frame(SETTINGS, 1, 0, &[])).await);
            }
            DATA => body.extend(payload),
            RST_STREAM | GOAWAY => return Reset,
            _ => {}
        }
        if (kind == DATA || kind == HEADERS) && flags & END_STREAM != 0 {
            return told(&body);
        }
    }
}

fn told(body: &[u8]) -> End {
    if body == b"ok" {
        return Answered;
    }
    let json: serde_json::Value = serde_json::from_slice(body).expect("an error");
    let code = json["code"].as_str().expect("a code");
    let known = ["INVALID_REQUEST", "METHOD_NOT_ALLOWED", "UNAUTHENTICATED", "SANDBOX_NOT_FOUND"];
    Refused(known.into_iter().find(|known| *known == code).unwrap_or("another"))
}

/// Two sandboxes, the second another project's.
struct Scene {
    world: World,
    sandbox: Witness,
    neighbour: Witness,
    id: String,
    other: String,
}

// === impl Scene ===

impl Scene {
    async fn start() -> Self {
        let world = World::start().await;
        let sandbox = Witness::start(&world.tasks).await;
        let neighbour = Witness::start(&world.tasks).await;
        let id = world.sandbox(sandbox.address).to_string();
        let mut route = crate::world::route(neighbour.address);
        route.project = crate::world::project(2);
        let other = world.routes.add(route).to_string();
        Self { world, sandbox, neighbour, id, other }
    }

    fn head(&self, lines: &[Line]) -> Vec<u8> {
        let fill = |text: &str| {
            text.replace("$ID", &self.id).replace("$OTHER", &self.other).replace("$KEY", KEY)
        };
        let lines: Vec<_> = lines.iter().map(|(name, value)| (fill(name), fill(value))).collect();
        block(&lines)
    }

    async fn open(&self) -> Raw {
        let mut raw = Raw::connect(self.world.address).await;
        raw.write(PREFACE).await;
        raw.write(frame(SETTINGS, 0, 0, &[])).await;
        raw
    }

    async fn check(&self, row: &Row) {
        let what = row.what;
        let mut raw = self.open().await;
        let flags = END_HEADERS | if row.body.is_none() { END_STREAM } else { 0 };
        raw.write(frame(HEADERS, flags, 1, &self.head(row.head))).await;
        if let Some(body) = row.body {
            drop(raw.stream.write_all(&frame(DATA, END_STREAM, 1, body.as_bytes())).await);
        }
        assert_eq!(soon(what, ending(&mut raw)).await, row.end, "{what}");
        drop(raw);
        let mut came = self.sandbox.messages();
        // A part may be noticed only while a later row is looked at.
        came.retain(|message| !CUT.contains(&message.as_str()));
        let expected = if row.reached == CUT { &[] } else { row.reached };
        assert_eq!(came, expected, "{what}");
        assert_eq!(self.neighbour.messages(), Vec::<String>::new(), "{what}");
        for head in self.sandbox.heads() {
            let head = head.to_lowercase();
            assert_eq!(head.matches("x-tarn-token: ").count(), 1, "{what}: {head:?}");
            assert!(!head.contains("authorization:") && !head.contains("forged"), "{head:?}");
        }
        self.sandbox.forget();
    }
}

#[tokio::test]
async fn requests_over_http2_are_right_or_refused() {
    let scene = Scene::start().await;
    for row in ROWS {
        scene.check(row).await;
    }
}

#[tokio::test]
async fn a_head_without_an_end_takes_neither_memory_nor_the_others_time() {
    let scene = Scene::start().await;
    let mut raw = scene.open().await;
    let first = scene.head(&[GET, HTTP, PATH, HOST, AUTH]);
    raw.write(frame(HEADERS, END_STREAM, 1, &first)).await;
    let more = scene.head(&[("x-a", "0123456789abcdef0123456789abcdef")]).repeat(300);
    let flood =
        async { while raw.stream.write_all(&frame(CONTINUATION, 0, 1, &more)).await.is_ok() {} };
    soon("the flood is cut off", flood).await;
    scene.check(&ROWS[0]).await;
}

#[tokio::test]
async fn streams_that_are_opened_only_to_be_reset_leave_nothing() {
    let scene = Scene::start().await;
    let mut raw = scene.open().await;
    let head = scene.head(&[GET, HTTP, PATH, HOST, AUTH]);
    let reset = async {
        for stream in (1..2_000).step_by(2) {
            let mut both = frame(HEADERS, END_HEADERS | END_STREAM, stream, &head);
            both.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            if raw.stream.write_all(&both).await.is_err() {
                return;
            }
        }
    };
    soon("all are sent, or the client cut off", reset).await;
    drop(raw);
    eventually("nothing is left", || {
        let stats = scene.world.stats();
        (stats.requests_active, stats.connections_open) == (0, 0)
    })
    .await;
    let mut raw = scene.open().await;
    raw.write(frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).await;
    assert_eq!(soon("an answer", ending(&mut raw)).await, Answered);
}
