//! What of a message's headers passes, each way (spec 04 §3). Pure.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};

use crate::{
    address::{ROUTE_HINT, SANDBOX_ID, SANDBOX_PORT},
    config::PublicScheme,
};

/// What the daemon wants on every request; ours alone to send.
pub(crate) const TOKEN: HeaderName = HeaderName::from_static("x-tarn-token");

/// The client's budget in ms.
pub(crate) const TIMEOUT_MS: HeaderName =
    HeaderName::from_static("x-tensorlake-request-timeout-ms");

/// Everything under this prefix is between us and the daemon.
const PRIVATE_PREFIX: &str = "x-tarn-";

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const FORWARDED_PREFIX: &str = "x-forwarded-";
const TENSORLAKE_PREFIX: &str = "x-tensorlake-";
/// No client sends it; CGI programs would take it for the variable that names their proxy.
const PROXY: HeaderName = HeaderName::from_static("proxy");

/// Headers about one connection, never passed on (RFC 9110 §7.6.1); `Trailer` is not among them.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Whether a request's `Authorization` is for us or for the program inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Authorization {
    /// It was our credential, which no tenant's program may see.
    Strip,
    /// It is the application's own.
    Keep,
}

/// Whether a message asks for, or grants, a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// An ordinary message.
    None,
    /// It becomes a WebSocket.
    WebSocket,
}

/// What user programs are told about the client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forwarded<'a> {
    pub(crate) peer: IpAddr,
    pub(crate) host: Option<&'a str>,
    pub(crate) scheme: PublicScheme,
}

// === impl Upgrade ===

impl Upgrade {
    /// Reads what a request asks for. Other protocols, `h2c` above all, are not passed.
    pub(crate) fn requested(version: Version, method: &Method, headers: &HeaderMap) -> Self {
        let listed =
            tokens(headers, &header::CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"));
        let mut protocols = tokens(headers, &header::UPGRADE);
        let websocket = protocols.any(|t| t.eq_ignore_ascii_case("websocket"));
        if version == Version::HTTP_11 && method == Method::GET && listed && websocket {
            Self::WebSocket
        } else {
            Self::None
        }
    }
}

/// Turns a client's request headers into those for the sandbox, in place.
pub(crate) fn clean_request(
    headers: &mut HeaderMap,
    authorization: Authorization,
    upgrade: Upgrade,
) {
    let trailers = tokens(headers, &header::TE).any(|t| t.eq_ignore_ascii_case("trailers"));
    strip_hop_by_hop(headers);
    strip_private(headers);
    for name in [SANDBOX_ID, SANDBOX_PORT, ROUTE_HINT, header::HOST, PROXY] {
        headers.remove(name);
    }
    strip_disguised(headers);
    if authorization == Authorization::Strip {
        headers.remove(header::AUTHORIZATION);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    grant(headers, upgrade);
    join_cookies(headers);
}

/// Turns a sandbox's response headers into those for the client, in place.
pub(crate) fn clean_response(headers: &mut HeaderMap, upgrade: Upgrade) {
    strip_hop_by_hop(headers);
    strip_private(headers);
    grant(headers, upgrade);
}

/// Turns the trailers of either direction into those that pass, in place: what decides on a message
/// stands before its body, or is not heard.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    for name in named(trailers, |name| is_decided_here(&name.replace('_', "-"))) {
        trailers.remove(name);
    }
}

/// Tells a user program who called and under which host.
///
/// What a client claims of itself in these headers is not believed, except for the list of hops
/// before us, which is its convention.
pub(crate) fn add_forwarded(headers: &mut HeaderMap, forwarded: &Forwarded<'_>) {
    let mut hops: Vec<u8> = Vec::new();
    for value in headers.get_all(FORWARDED_FOR) {
        hops.extend_from_slice(value.as_bytes());
        hops.extend_from_slice(b", ");
    }
    hops.extend_from_slice(forwarded.peer.to_canonical().to_string().as_bytes());
    if let Ok(hops) = HeaderValue::from_bytes(&hops) {
        headers.insert(FORWARDED_FOR, hops);
    }
    // The other headers by which programs are told so say only what the client claims.
    for name in named(headers, |name| {
        name == FORWARDED.as_str()
            || name.starts_with(FORWARDED_PREFIX) && name != FORWARDED_FOR.as_str()
    }) {
        headers.remove(name);
    }
    if let Some(Ok(host)) = forwarded.host.map(HeaderValue::from_str) {
        headers.insert(FORWARDED_HOST, host);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(forwarded.scheme.as_str()));
}

/// Splits a header that is a list into its members.
pub(crate) fn tokens<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|token| std::str::from_utf8(token).ok())
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> =
        tokens(headers, &header::CONNECTION).filter_map(|name| name.parse().ok()).collect();
    for name in listed.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn strip_private(headers: &mut HeaderMap) {
    for name in named(headers, |name| name.starts_with(PRIVATE_PREFIX)) {
        headers.remove(name);
    }
}

/// Removes names that programs behind CGI or WSGI cannot tell from one that we decide on: there
/// `-` and `_` are both `_`.
fn strip_disguised(headers: &mut HeaderMap) {
    for name in
        named(headers, |name| name.contains('_') && is_decided_here(&name.replace('_', "-")))
    {
        headers.remove(name);
    }
}

fn named(headers: &HeaderMap, is_meant: impl Fn(&str) -> bool) -> Vec<HeaderName> {
    headers.keys().filter(|name| is_meant(name.as_str())).cloned().collect()
}

/// Says whether we set, remove or go by a header of this name.
fn is_decided_here(name: &str) -> bool {
    let others = [
        header::HOST,
        header::AUTHORIZATION,
        header::CONTENT_LENGTH,
        header::COOKIE,
        header::EXPECT,
        header::TRAILER,
        FORWARDED,
        PROXY,
    ];
    [PRIVATE_PREFIX, TENSORLAKE_PREFIX, FORWARDED_PREFIX].iter().any(|p| name.starts_with(p))
        || HOP_BY_HOP.iter().chain(&others).any(|known| known.as_str() == name)
}

fn grant(headers: &mut HeaderMap, upgrade: Upgrade) {
    match upgrade {
        Upgrade::None => {}
        Upgrade::WebSocket => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
    }
}

/// Puts a cookie header that HTTP/2 sent in crumbs together again (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> =
        headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests;
