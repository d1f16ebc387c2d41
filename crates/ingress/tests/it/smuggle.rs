//! Requests that two parsers may read differently: right or refused, never wrong.
//!
//! Each row is sent on a connection of its own, and an innocent request after it. The table says
//! what the client gets, status by status, and what reached the two sandboxes, message by message.

use std::time::Duration;

use tarn_ingress::IngressConfig;
use tokio::io::AsyncWriteExt as _;

use crate::{
    client::Raw,
    witness::Witness,
    world::{KEY, World, eventually},
};

/// What follows the bytes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The innocent request; if it is answered, its 200 is the last status.
    Next,
    /// The client closes its end: what it sent asks for more than it sends.
    HangUp,
}

struct Row {
    what: &'static str,
    /// `$H` stands for the lines that a good request has, `$A` for the key's line, `$ID` for the
    /// sandbox, `$OTHER` for the neighbour.
    bytes: &'static str,
    then: Then,
    statuses: &'static [u16],
    /// What reached the sandbox, but for the innocent request.
    reached: &'static [&'static str],
}

const fn next(
    what: &'static str,
    bytes: &'static str,
    statuses: &'static [u16],
    reached: &'static [&'static str],
) -> Row {
    Row { what, bytes, then: Then::Next, statuses, reached }
}

/// Refused with 400, and the connection with it.
const fn bad(what: &'static str, bytes: &'static str) -> Row {
    Row { what, bytes, then: Then::Next, statuses: &[400], reached: &[] }
}

/// Nothing reached the sandbox, or no more than a part.
const MAYBE_CUT: &str = "?";

/// Ends within its body: the client learns so or nothing, and the sandbox never takes it for whole.
const fn cut(what: &'static str, bytes: &'static str) -> Row {
    Row { what, bytes, then: Then::HangUp, statuses: &[], reached: &["POST /a [cut]"] }
}

#[rustfmt::skip]
const LENGTHS: &[Row] = &[
    next("no body", "GET /a HTTP/1.1\r\n$H\r\n", &[200, 200], &["GET /a []"]),
    next("a length", "POST /a HTTP/1.1\r\n$HContent-Length: 3\r\n\r\nabc", &[200, 200], &["POST /a [abc]"]),
    next("a length of zeros", "POST /a HTTP/1.1\r\n$HContent-Length: 0003\r\n\r\nabc", &[200, 200], &["POST /a [abc]"]),
    next("the same length twice", "POST /a HTTP/1.1\r\n$HContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", &[200, 200], &["POST /a [abc]"]),
    bad("two lengths", "POST /a HTTP/1.1\r\n$HContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    bad("two lengths, zero first", "POST /a HTTP/1.1\r\n$HContent-Length: 0\r\nContent-Length: 44\r\n\r\nGET /hidden HTTP/1.1\r\n$H\r\n"),
    bad("a list of equal lengths", "POST /a HTTP/1.1\r\n$HContent-Length: 3, 3\r\n\r\nabc"),
    bad("a list of lengths", "POST /a HTTP/1.1\r\n$HContent-Length: 3, 4\r\n\r\nabcd"),
    bad("a signed length", "POST /a HTTP/1.1\r\n$HContent-Length: +3\r\n\r\nabc"),
    bad("a negative length", "POST /a HTTP/1.1\r\n$HContent-Length: -3\r\n\r\nabc"),
    bad("a hexadecimal length", "POST /a HTTP/1.1\r\n$HContent-Length: 0x3\r\n\r\nabc"),
    bad("a fraction", "POST /a HTTP/1.1\r\n$HContent-Length: 3.0\r\n\r\nabc"),
    bad("an empty length", "POST /a HTTP/1.1\r\n$HContent-Length:\r\n\r\nabc"),
    bad("a length of words", "POST /a HTTP/1.1\r\n$HContent-Length: 1 2\r\n\r\nabc"),
    bad("a length beyond 64 bits", "POST /a HTTP/1.1\r\n$HContent-Length: 18446744073709551619\r\n\r\nabc"),
    next("a length at 64 bits", "POST /a HTTP/1.1\r\n$HContent-Length: 18446744073709551615\r\n\r\nabc", &[431], &[]),
    next("a length within white space", "POST /a HTTP/1.1\r\n$HContent-Length: \t 3 \t\r\n\r\nabc", &[200, 200], &["POST /a [abc]"]),
    cut("a length that is not kept", "POST /a HTTP/1.1\r\n$HContent-Length: 9\r\n\r\nabc"),
    cut("a huge length", "POST /a HTTP/1.1\r\n$HContent-Length: 9223372036854775807\r\n\r\nabc"),
    next("a length with a disguised one", "POST /a HTTP/1.1\r\n$HContent-Length: 3\r\nContent_Length: 9\r\n\r\nabc", &[200, 200], &["POST /a [abc]"]),
    next("a GET with a length", "GET /a HTTP/1.1\r\n$HContent-Length: 3\r\n\r\nabc", &[200, 200], &["GET /a [abc]"]),
    next("a GET with chunks", "GET /a HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", &[200, 200], &["GET /a [abc]"]),
    next("a request in a GET's body", "GET /a HTTP/1.1\r\n$HContent-Length: 24\r\n\r\nGET /hidden HTTP/1.1\r\n\r\n", &[200, 200], &["GET /a [GET /hidden HTTP/1.1\r\n\r\n]"]),
    next("a length struck out by Connection", "POST /a HTTP/1.1\r\n$HConnection: content-length\r\nContent-Length: 3\r\n\r\nabc", &[200, 200], &["POST /a [abc]"]),
];

#[rustfmt::skip]
const CODINGS: &[Row] = &[
    next("chunks", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", &[200, 200], &["POST /a [abc]"]),
    next("chunks in another case", "POST /a HTTP/1.1\r\n$HtRaNsFeR-eNcOdInG: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n", &[200, 200], &["POST /a [abc]"]),
    next("chunks within white space", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: \t chunked \t\r\n\r\n3\r\nabc\r\n0\r\n\r\n", &[200, 200], &["POST /a [abc]"]),
    // Whoever reads the length sees a request in what follows; the connection ends before it.
    next("a length and chunks", "POST /a HTTP/1.1\r\n$HContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\n$H\r\n", &[200], &["POST /a []"]),
    next("chunks and a length", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\n$H\r\n", &[200], &["POST /a []"]),
    next("chunks and a bad length", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\n$H\r\n", &[200], &["POST /a []"]),
    bad("a length and a bad coding", "POST /a HTTP/1.1\r\n$HContent-Length: 3\r\nTransfer-Encoding: xchunked\r\n\r\nabc"),
    bad("chunked, identity", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    bad("identity, chunked", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n"),
    bad("gzip, chunked", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    bad("chunked, gzip", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    bad("chunked, chunked", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    bad("chunked twice", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    bad("chunked, then identity", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    bad("identity, then chunked", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    bad("identity", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc"),
    bad("an empty coding", "POST /a HTTP/1.1\r\n$HTransfer-Encoding:\r\nContent-Length: 3\r\n\r\nabc"),
    bad("a quoted coding", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    bad("a coding with a parameter", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
    bad("a vertical tab", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    bad("a folded coding", "POST /a HTTP/1.1\r\n$HTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    bad("a fold after another header", "POST /a HTTP/1.1\r\n$HX-A: b\r\n\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    bad("a space before the colon", "POST /a HTTP/1.1\r\n$HTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    bad("a space before the name", "POST /a HTTP/1.1\r\n Transfer-Encoding: chunked\r\n$H\r\n0\r\n\r\n"),
    bad("a NUL in the name", "POST /a HTTP/1.1\r\n$HTransfer\0-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    bad("a NUL in the value", "POST /a HTTP/1.1\r\n$HTransfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n"),
    bad("chunks in HTTP/1.0", "POST /a HTTP/1.0\r\n$HTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    next("a disguised coding", "POST /a HTTP/1.1\r\n$HContent-Length: 3\r\nTransfer_Encoding: chunked\r\n\r\nabc", &[200, 200], &["POST /a [abc]"]),
    next("chunks struck out by Connection", "POST /a HTTP/1.1\r\n$HConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", &[200, 200], &["POST /a [abc]"]),
];

/// The lines of a request with chunks, whose chunks follow.
macro_rules! chunked {
    ($chunks:literal) => {
        concat!("POST /a HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\n\r\n", $chunks)
    };
}

/// The sandbox may have the head by then; what it must not have is an end.
const fn bad_chunk(what: &'static str, bytes: &'static str) -> Row {
    Row { what, bytes, then: Then::Next, statuses: &[400], reached: &[MAYBE_CUT] }
}

#[rustfmt::skip]
const CHUNKS: &[Row] = &[
    next("an extension", chunked!("3;a=b\r\nabc\r\n0;c\r\n\r\n"), &[200, 200], &["POST /a [abc]"]),
    next("zeros before a size", chunked!("0003\r\nabc\r\n000\r\n\r\n"), &[200, 200], &["POST /a [abc]"]),
    next("trailers nobody announced", chunked!("3\r\nabc\r\n0\r\nHost: x\r\nContent-Length: 9\r\n\r\n"), &[200, 200], &["POST /a [abc]"]),
    bad_chunk("a size in C", chunked!("0x3\r\nabc\r\n0\r\n\r\n")),
    bad_chunk("a signed size", chunked!("+3\r\nabc\r\n0\r\n\r\n")),
    bad_chunk("a negative size", chunked!("-3\r\nabc\r\n0\r\n\r\n")),
    bad_chunk("an empty size", chunked!("\r\nabc\r\n0\r\n\r\n")),
    bad_chunk("a size of words", chunked!("3 3\r\nabc\r\n0\r\n\r\n")),
    bad_chunk("a size beyond 64 bits", chunked!("10000000000000003\r\nabc\r\n0\r\n\r\n")),
    bad_chunk("a chunk longer than it says", chunked!("2\r\nabc\r\n0\r\n\r\n")),
    bad_chunk("a bare LF after a size", chunked!("3\nabc\r\n0\r\n\r\n")),
    bad_chunk("a bare LF after a chunk", chunked!("3\r\nabc\n0\r\n\r\n")),
    bad_chunk("a bare CR after a size", chunked!("3\rabc\r\n0\r\n\r\n")),
    bad_chunk("a bare LF in an extension", chunked!("3;a\nb\r\nabc\r\n0\r\n\r\n")),
    bad_chunk("a bare CR in an extension", chunked!("3;a\rb\r\nabc\r\n0\r\n\r\n")),
    bad_chunk("a trailer that is none", chunked!("3\r\nabc\r\n0\r\nGET /hidden HTTP/1.1\r\n\r\n")),
    cut("a chunk that is not kept", chunked!("9\r\nabc")),
    cut("no last chunk", chunked!("3\r\nabc\r\n")),
    cut("trailers without an end", chunked!("3\r\nabc\r\n0\r\nX-A: b\r\n")),
];

#[rustfmt::skip]
const HEADS: &[Row] = &[
    next("bare LFs", "GET /a HTTP/1.1\n$H\n", &[200, 200], &["GET /a []"]),
    next("empty lines first", "\r\n\r\nGET /a HTTP/1.1\r\n$H\r\n", &[200, 200], &["GET /a []"]),
    bad("a bare CR", "GET /a HTTP/1.1\r\n$HX-A: b\rX-C: d\r\n\r\n"),
    bad("a bare CR for an end", "GET /a HTTP/1.1\r$H\r\r"),
    bad("a NUL in a name", "GET /a HTTP/1.1\r\n$HX-\0A: b\r\n\r\n"),
    bad("a NUL in a value", "GET /a HTTP/1.1\r\n$HX-A: b\0c\r\n\r\n"),
    bad("no name", "GET /a HTTP/1.1\r\n$H: b\r\n\r\n"),
    bad("no colon", "GET /a HTTP/1.1\r\n$HX-A\r\n\r\n"),
    bad("a name with an at", "GET /a HTTP/1.1\r\n$HX@A: b\r\n\r\n"),
    bad("HTTP/0.9", "GET /a\r\n\r\n"),
    bad("HTTP/1.2", "GET /a HTTP/1.2\r\n$H\r\n"),
    bad("HTTP/2 without its preface", "GET /a HTTP/2\r\n$H\r\n"),
    bad("a version within the target", "GET /a HTTP/1.1 HTTP/1.1\r\n$H\r\n"),
    bad("two spaces", "GET  /a HTTP/1.1\r\n$H\r\n"),
    bad("a tab for a space", "GET\t/a HTTP/1.1\r\n$H\r\n"),
    bad("a method that is none", "G@T /a HTTP/1.1\r\n$H\r\n"),
    bad("a control in the target", "GET /a\x01 HTTP/1.1\r\n$H\r\n"),
    next("a fragment", "GET /a#b HTTP/1.1\r\n$H\r\n", &[200, 200], &["GET /a []"]),
    next("a whole URL", "GET http://$ID.local/a HTTP/1.1\r\n$H\r\n", &[200, 200], &["GET /a []"]),
    next("a whole URL of the neighbour", "GET http://$OTHER.local/a HTTP/1.1\r\n$H\r\n", &[400, 200], &[]),
    bad("a whole URL and no Host", "GET http://$ID.local/a HTTP/1.1\r\n$A\r\n"),
    next("a URL with a user", "GET http://$OTHER.local@$ID.local/a HTTP/1.1\r\n$H\r\n", &[400, 200], &[]),
    bad("a URL of another scheme", "GET file://$ID.local/a HTTP/1.1\r\n$H\r\n"),
    bad("a host for a target", "GET $ID.local HTTP/1.1\r\n$H\r\n"),
    bad("a star for a target", "GET * HTTP/1.1\r\n$H\r\n"),
    next("the star of OPTIONS", "OPTIONS * HTTP/1.1\r\n$H\r\n", &[200, 200], &[]),
    bad("no Host", "GET /a HTTP/1.1\r\n$AX-Tensorlake-Sandbox-Id: $ID\r\n\r\n"),
    next("two Hosts", "GET /a HTTP/1.1\r\nHost: $OTHER.local\r\n$H\r\n", &[400, 200], &[]),
    next("two equal Hosts", "GET /a HTTP/1.1\r\nHost: $ID.local\r\n$H\r\n", &[400, 200], &[]),
    next("a list of Hosts", "GET /a HTTP/1.1\r\nHost: $ID.local, $OTHER.local\r\n$A\r\n", &[400, 200], &[]),
    next("a Host with a path", "GET /a HTTP/1.1\r\nHost: $ID.local/x\r\n$A\r\n", &[400, 200], &[]),
    next("a Host with a user", "GET /a HTTP/1.1\r\nHost: $OTHER.local@$ID.local\r\n$A\r\n", &[400, 200], &[]),
    bad("a Host before a space", "GET /a HTTP/1.1\r\nHost : $ID.local\r\n$A\r\n"),
    next("two ids", "GET /a HTTP/1.1\r\n$HX-Tensorlake-Sandbox-Id: $ID\r\nX-Tensorlake-Sandbox-Id: $OTHER\r\n\r\n", &[400, 200], &[]),
    next("two keys", "GET /a HTTP/1.1\r\n$H$A\r\n", &[400, 200], &[]),
    next("a disguised id", "GET /a HTTP/1.1\r\n$HX_Tensorlake_Sandbox_Id: $OTHER\r\n\r\n", &[200, 200], &["GET /a []"]),
    next("a method that overrides", "GET /a HTTP/1.1\r\n$HX-HTTP-Method-Override: DELETE\r\n\r\n", &[200, 200], &["GET /a []"]),
    next("CONNECT", "CONNECT $ID.local:9501 HTTP/1.1\r\n$H\r\n", &[405, 200], &[]),
    next("a key struck out by Connection", "GET /a HTTP/1.1\r\n$HConnection: Authorization, Host\r\n\r\n", &[200, 200], &["GET /a []"]),
    next("our headers struck out by Connection", "GET /a HTTP/1.1\r\n$HConnection: X-Tarn-Token, X-Tensorlake-Sandbox-Id\r\n\r\n", &[200, 200], &["GET /a []"]),
    next("close among others", "GET /a HTTP/1.1\r\n$HConnection: X-A, close\r\n\r\n", &[200], &["GET /a []"]),
    next("close, then keep-alive", "GET /a HTTP/1.1\r\n$HConnection: close\r\nConnection: keep-alive\r\n\r\n", &[200], &["GET /a []"]),
];

const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";

#[rustfmt::skip]
const SEQUENCES: &[Row] = &[
    next("a pipeline", "GET /a HTTP/1.1\r\n$H\r\nGET /b HTTP/1.1\r\n$H\r\n", &[200, 200, 200], &["GET /a []", "GET /b []"]),
    // The second asks for the same connection, and for what only its own key opens.
    next("a second request without a key", "GET /a HTTP/1.1\r\n$H\r\nGET /b HTTP/1.1\r\nHost: $ID.local\r\n\r\n", &[200, 401, 200], &["GET /a []"]),
    next("a second request for the neighbour", "GET /a HTTP/1.1\r\n$H\r\nGET /b HTTP/1.1\r\nHost: $OTHER.local\r\n$A\r\n", &[200, 404, 200], &["GET /a []"]),
    // A refusal comes before the body is read; the body is not the next request.
    next("a body after a refusal", "POST /a HTTP/1.1\r\nHost: $ID.local\r\nContent-Length: 24\r\n\r\nGET /hidden HTTP/1.1\r\n\r\n", &[401, 200], &[]),
    next("chunks after a refusal", "POST /a HTTP/1.1\r\nHost: $ID.local\r\nTransfer-Encoding: chunked\r\n\r\n18\r\nGET /hidden HTTP/1.1\r\n\r\n\r\n0\r\n\r\n", &[401, 200], &[]),
    bad("a body after a bad head", "POST /a HTTP/1.1\r\n$HContent-Length: x\r\n\r\nGET /hidden HTTP/1.1\r\n$H\r\n"),
    bad("a request after a bad target", "GET * HTTP/1.1\r\n$H\r\nGET /hidden HTTP/1.1\r\n$H\r\n"),
    next("a request after a refused upgrade", "GET /a HTTP/1.1\r\n$H$W\r\nGET /b HTTP/1.1\r\n$H\r\n", &[200, 200, 200], &["GET /a []", "GET /b []"]),
    next("a request without a key after a refused upgrade", "GET /a HTTP/1.1\r\n$H$W\r\nGET /b HTTP/1.1\r\nHost: $ID.local\r\n\r\n", &[200, 401, 200], &["GET /a []"]),
    bad("a WebSocket with a body", "GET /a HTTP/1.1\r\n$H$WContent-Length: 24\r\n\r\nGET /hidden HTTP/1.1\r\n\r\n"),
    bad("a WebSocket with chunks", "GET /a HTTP/1.1\r\n$H$WTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    next("a POST that asks for a WebSocket", "POST /a HTTP/1.1\r\n$H$WContent-Length: 3\r\n\r\nabc", &[200, 200], &["POST /a [abc]"]),
    next("h2c", "GET /a HTTP/1.1\r\n$HConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", &[200, 200], &["GET /a []"]),
    next("an upgrade nobody lists", "GET /a HTTP/1.1\r\n$HUpgrade: websocket\r\n\r\n", &[200, 200], &["GET /a []"]),
    next("HTTP/1.0 closes", "GET /a HTTP/1.0\r\n$H\r\n", &[200], &["GET /a []"]),
];

/// The sandboxes that requests are meant for, and not.
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
        let config =
            IngressConfig { drain_grace: Duration::from_millis(10), ..IngressConfig::default() };
        let world = World::with(config).await;
        let sandbox = Witness::start(&world.tasks).await;
        let neighbour = Witness::start(&world.tasks).await;
        let id = world.sandbox(sandbox.address).to_string();
        // Another project's: whoever reached it would have passed every check.
        let mut route = crate::world::route(neighbour.address);
        route.project = crate::world::project(2);
        let other = world.routes.add(route).to_string();
        Self { world, sandbox, neighbour, id, other }
    }

    /// Fills a row's text in; its paths get the row's number.
    fn filled_in(&self, text: &str, number: usize) -> String {
        let paths = ["/a", "/b", "/next"].map(|path| format!(" {path}"));
        let numbered = paths.iter().fold(text.replace("$W", WEBSOCKET), |text, path| {
            text.replace(&format!("{path} "), &format!("{path}{number} "))
                .replace(&format!("{path}#"), &format!("{path}{number}#"))
        });
        numbered
            .replace(".local/a ", &format!(".local/a{number} "))
            .replace("$H", "Host: $ID.local\r\n$A")
            .replace("$A", &format!("Authorization: Bearer {KEY}\r\n"))
            .replace("$ID", &self.id)
            .replace("$OTHER", &self.other)
    }

    /// What reached the sandbox of the row of this number.
    fn reached(&self, number: usize) -> Vec<String> {
        let targets = ["/a", "/b", "/next"].map(|path| format!("{path}{number}"));
        let meant = |message: &String| {
            let target = message.split(' ').nth(1).unwrap_or_default();
            targets.iter().any(|known| target == known)
        };
        self.sandbox.messages().into_iter().filter(meant).collect()
    }

    /// Sends a row and returns the statuses that came back.
    async fn send(&self, row: &Row, number: usize) -> Vec<u16> {
        let mut bytes = self.filled_in(row.bytes, number);
        if row.then == Then::Next {
            bytes += &self.filled_in("GET /next HTTP/1.1\r\n$HConnection: close\r\n\r\n", number);
        }
        let mut raw = Raw::connect(self.world.address).await;
        // It may be refused before all of it is written.
        drop(raw.stream.write_all(bytes.as_bytes()).await);
        if row.then == Then::HangUp {
            let head = format!("/a{number} ");
            let came = || self.sandbox.heads().iter().any(|known| known.contains(&head));
            eventually("the head is with the sandbox", came).await;
            drop(raw.stream.shutdown().await);
        }
        statuses(&raw.read_to_end().await)
    }

    async fn check(&self, row: &Row, number: usize) {
        let (what, statuses) = (row.what, self.send(row, number).await);
        let is_cut = row.then == Then::HangUp;
        // Whether a client that stopped within its body still gets a refusal is a matter of time.
        let told = is_cut && statuses == [400] || statuses == row.statuses;
        assert!(told, "{what}: {statuses:?} instead of {:?}", row.statuses);
        if is_cut {
            eventually(what, || !self.reached(number).is_empty()).await;
        }
        self.compare(row, number, &statuses);
        assert_eq!(self.neighbour.messages(), Vec::<String>::new(), "{what}");
        let granted = row.bytes.contains("$W");
        let target = format!("/a{number} ");
        for head in self.sandbox.heads().into_iter().filter(|head| head.contains(&target)) {
            let head = head.to_lowercase();
            assert!(head.contains("x-tarn-token: "), "{what}: {head:?}");
            for barred in ["authorization:", "connection:", "upgrade:", "sandbox-id", "\nte:"] {
                let upgrades =
                    head.contains("upgrade: websocket\r\n") && head.starts_with("get /a");
                let hop = barred == "connection:" || barred == "upgrade:";
                assert!(granted && upgrades && hop || !head.contains(barred), "{what}: {head:?}");
            }
        }
    }

    /// Compares what reached the sandbox with what should have.
    fn compare(&self, row: &Row, number: usize, statuses: &[u16]) {
        let came = self.reached(number);
        if row.reached == [MAYBE_CUT] {
            let cut = format!("POST /a{number} [cut]");
            assert!(came.iter().all(|message| *message == cut), "{}: {came:?}", row.what);
            return;
        }
        let fill = |line: &&str| self.filled_in(line, number);
        let mut expected: Vec<String> = row.reached.iter().map(fill).collect();
        if statuses.len() > 1 && statuses.last() == Some(&200) {
            expected.push(format!("GET /next{number} []"));
        }
        assert_eq!(came, expected, "{}", row.what);
    }
}

/// Returns the status of each answer in what a connection carried.
fn statuses(text: &str) -> Vec<u16> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((head, after)) = rest.split_once("\r\n\r\n") {
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        found.push(status.unwrap_or_else(|| unreachable!("no answer in {rest:?}")));
        let length = head.to_lowercase().split("content-length: ").nth(1).map_or(0, |length| {
            length.lines().next().and_then(|line| line.trim().parse().ok()).unwrap_or(0)
        });
        rest = after.get(length..).unwrap_or_default();
    }
    assert_eq!(rest, "", "of {text:?}");
    found
}

async fn check_all(rows: &[Row]) {
    let scene = Scene::start().await;
    for (number, row) in rows.iter().enumerate() {
        scene.check(row, number).await;
    }
    // What came late, and what belongs to no row.
    for (number, row) in rows.iter().enumerate() {
        let next = scene.reached(number).contains(&format!("GET /next{number} []"));
        scene.compare(row, number, if next { &[200, 200] } else { &[] });
    }
    let all: usize = (0..rows.len()).map(|number| scene.reached(number).len()).sum();
    let mut messages = scene.sandbox.messages();
    messages.retain(|message| message != "OPTIONS * []");
    assert_eq!(messages.len(), all, "{messages:?}");
}

#[tokio::test]
async fn lengths() {
    check_all(LENGTHS).await;
}

#[tokio::test]
async fn codings() {
    check_all(CODINGS).await;
}

#[tokio::test]
async fn chunks() {
    check_all(CHUNKS).await;
}

#[tokio::test]
async fn heads() {
    check_all(HEADS).await;
}

#[tokio::test]
async fn sequences() {
    check_all(SEQUENCES).await;
}
