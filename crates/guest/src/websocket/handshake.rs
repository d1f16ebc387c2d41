//! The answer to a WebSocket's upgrade request. Pure.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use sha1::{Digest as _, Sha1};

/// Appended to the client's key (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A key is 16 bytes in base64.
const KEY_BYTES: usize = 16;

/// Returns the value of `Sec-WebSocket-Accept`; an error says what the request lacks.
pub(crate) fn accept(version: Version, headers: &HeaderMap) -> Result<HeaderValue, &'static str> {
    if version != Version::HTTP_11 || !is_upgrade(headers, "websocket") {
        return Err(
            "this route is a WebSocket: send `Connection: upgrade` and `Upgrade: websocket`",
        );
    }
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::SEC_WEBSOCKET_VERSION).map(str::trim) != Some("13") {
        return Err("`Sec-WebSocket-Version` must be 13");
    }
    let key = text(header::SEC_WEBSOCKET_KEY).map(str::trim).unwrap_or_default();
    if STANDARD.decode(key).map_or(0, |bytes| bytes.len()) != KEY_BYTES {
        return Err("`Sec-WebSocket-Key` must be 16 bytes in base64");
    }
    let accept = accept_key(key.as_bytes());
    HeaderValue::from_str(&accept).map_err(|_not_ascii| "the key cannot be answered")
}

/// Returns whether a request asks for a protocol.
pub(crate) fn is_upgrade(headers: &HeaderMap, protocol: &str) -> bool {
    has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, protocol)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case(token))
}

fn accept_key(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(changes: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]
        .iter()
        .chain(changes)
        {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_example_of_the_rfc_is_answered_as_there() {
        let accept = accept(Version::HTTP_11, &headers(&[])).expect("a good request");
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(accept(Version::HTTP_10, &headers(&[])).is_err());
        for change in [
            ("connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("sec-websocket-version", "8"),
            ("sec-websocket-key", ""),
            ("sec-websocket-key", "dGVzdA=="),
            ("sec-websocket-key", "!!!!!!!!!!!!!!!!!!!!!!=="),
        ] {
            assert!(accept(Version::HTTP_11, &headers(&[change])).is_err(), "{change:?}");
        }
    }
}
