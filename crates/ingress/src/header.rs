//! What of a message's headers passes, each way (spec 04 §3). Pure.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};

use crate::config::PublicScheme;

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

const FORWARDED_PREFIX: &str = "x-forwarded-";
const TENSORLAKE_PREFIX: &str = "x-tensorlake-";

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
    /// Its address, as [`hop`] writes it.
    pub(crate) peer: &'a HeaderValue,
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
    strip(headers, |name| {
        is_for_us(name)
            || is_disguised(name)
            || authorization == Authorization::Strip && name == header::AUTHORIZATION.as_str()
    });
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    grant(headers, upgrade);
    join_cookies(headers);
}

/// Turns a sandbox's response headers into those for the client, in place.
pub(crate) fn clean_response(headers: &mut HeaderMap, upgrade: Upgrade) {
    strip(headers, |_| false);
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
    let mut before = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).peekable();
    let hops = if before.peek().is_some() {
        let hops: Vec<&[u8]> = before.chain([forwarded.peer.as_bytes()]).collect();
        HeaderValue::from_bytes(&hops.join(&b", "[..])).ok()
    } else {
        Some(forwarded.peer.clone())
    };
    if let Some(hops) = hops {
        headers.insert(FORWARDED_FOR, hops);
    }
    // The other headers by which programs are told so say only what the client claims.
    for name in named(headers, |name| {
        name == "forwarded" || name.starts_with(FORWARDED_PREFIX) && name != FORWARDED_FOR.as_str()
    }) {
        headers.remove(name);
    }
    if let Some(Ok(host)) = forwarded.host.map(HeaderValue::from_str) {
        headers.insert(FORWARDED_HOST, host);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(forwarded.scheme.as_str()));
}

/// Writes an address as `X-Forwarded-For` has it.
pub(crate) fn hop(address: IpAddr) -> HeaderValue {
    let text = address.to_canonical().to_string();
    HeaderValue::try_from(text).expect("an address is plain ASCII")
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

/// Removes what is about one connection, what is private, and what else is meant. In one pass:
/// most of it is not there, and to look for each name costs more than all the rest.
fn strip(headers: &mut HeaderMap, is_meant: impl Fn(&str) -> bool) {
    let listed: Vec<HeaderName> =
        tokens(headers, &header::CONNECTION).filter_map(|name| name.parse().ok()).collect();
    let found = named(headers, |name| {
        is_hop_by_hop(name) || name.starts_with(PRIVATE_PREFIX) || is_meant(name)
    });
    for name in listed.iter().chain(&found) {
        headers.remove(name);
    }
}

/// Says whether a header is about one connection, and never passed on (RFC 9110 §7.6.1); `Trailer`
/// is not.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Says whether a request's header ends with us. No client sends `Proxy`; CGI programs would take
/// it for the variable that names their proxy.
fn is_for_us(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "proxy"
            | "x-tensorlake-sandbox-id"
            | "x-tensorlake-sandbox-port"
            | "x-tensorlake-route-hint"
    )
}

/// Says whether programs behind CGI or WSGI cannot tell a name from one that we decide on: there
/// `-` and `_` are both `_`.
fn is_disguised(name: &str) -> bool {
    name.contains('_') && is_decided_here(&name.replace('_', "-"))
}

fn named(headers: &HeaderMap, is_meant: impl Fn(&str) -> bool) -> Vec<HeaderName> {
    headers.keys().filter(|name| is_meant(name.as_str())).cloned().collect()
}

/// Says whether we set, remove or go by a header of this name.
fn is_decided_here(name: &str) -> bool {
    let prefixes = [PRIVATE_PREFIX, TENSORLAKE_PREFIX, FORWARDED_PREFIX];
    is_hop_by_hop(name)
        || is_for_us(name)
        || prefixes.iter().any(|prefix| name.starts_with(prefix))
        || matches!(
            name,
            "authorization" | "content-length" | "cookie" | "expect" | "trailer" | "forwarded"
        )
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
