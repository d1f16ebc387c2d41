//! Whether a request's head can be read in one way only. Pure.
//!
//! The parser below us takes what RFC 9112 lets a server take, and so do those before and behind
//! us, each its own choice of it. What two of them could read differently is refused rather than
//! repaired: a request that one takes for two is a request of somebody else.

use http::{Method, Request, Version, header, uri::Scheme};

use crate::{
    error::{IngressCode, IngressError},
    header::Upgrade,
};

/// Refuses a head that others could read differently.
pub(crate) fn check<B>(request: &Request<B>, has_body: bool) -> Result<(), IngressError> {
    check_target(request)?;
    let headers = request.headers();
    if request.version() == Version::HTTP_11 && !headers.contains_key(header::HOST) {
        return Err(invalid("an HTTP/1.1 request needs a Host header; send one"));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        // A second coding would be lost with the header, which ends at this hop.
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(invalid(
                "the only transfer coding understood is `chunked`, once; encode the body itself \
                 and say so in Content-Encoding",
            ));
        }
    }
    let upgrade = Upgrade::requested(request.version(), request.method(), headers);
    if upgrade == Upgrade::WebSocket && has_body {
        return Err(invalid("a WebSocket handshake has no body; send it without one"));
    }
    Ok(())
}

/// Only a path, a whole `http` URL, or the `*` of OPTIONS is a target here.
fn check_target<B>(request: &Request<B>) -> Result<(), IngressError> {
    let uri = request.uri();
    if request.method() == Method::CONNECT {
        // It has a form of its own, and is refused by its name.
        return Ok(());
    }
    let web = |scheme: &Scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS;
    let form = match (uri.scheme(), uri.authority()) {
        (None, None) => true,
        (Some(scheme), _) => web(scheme),
        // The form of CONNECT, or of HTTP/2 without a scheme.
        (None, Some(_)) => request.version() == Version::HTTP_2,
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let star = path == "*" && request.method() == Method::OPTIONS;
    if form && (path.starts_with('/') || star) {
        return Ok(());
    }
    Err(invalid("the request target is neither a path nor an http URL with one"))
}

fn invalid(message: &str) -> IngressError {
    IngressError::new(IngressCode::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Lines = &'static [(&'static str, &'static str)];

    /// Method, target, headers, whether there is a body, whether it passes.
    type Row = (&'static str, &'static str, Lines, bool, bool);

    const HOST: (&str, &str) = ("host", "box.local");
    const CODING: &str = "transfer-encoding";

    #[rustfmt::skip]
    const HTTP1: &[Row] = &[
        ("GET", "/", &[HOST], false, true),
        ("GET", "/a?b", &[HOST], false, true),
        ("GET", "//a/../b", &[HOST], false, true),
        ("GET", "http://box.local/a", &[HOST], false, true),
        ("GET", "https://box.local/a", &[HOST], false, true),
        ("GET", "ftp://box.local/a", &[HOST], false, false),
        ("GET", "http://box.local?a", &[HOST], false, false),
        ("GET", "box.local", &[HOST], false, false),
        ("GET", "box.local:80", &[HOST], false, false),
        ("OPTIONS", "*", &[HOST], false, true),
        ("GET", "*", &[HOST], false, false),
        ("GET", "/", &[], false, false),
        ("GET", "http://box.local/", &[], false, false),
        ("GET", "/", &[("host", "")], false, true),
        ("POST", "/", &[HOST, (CODING, "chunked")], true, true),
        ("POST", "/", &[HOST, (CODING, "CHUNKED")], true, true),
        ("POST", "/", &[HOST, (CODING, "gzip, chunked")], true, false),
        ("POST", "/", &[HOST, (CODING, "identity, chunked")], true, false),
        ("POST", "/", &[HOST, (CODING, "chunked, chunked")], true, false),
        ("POST", "/", &[HOST, (CODING, ",chunked")], true, false),
        ("POST", "/", &[HOST, (CODING, "chunked"), (CODING, "chunked")], true, false),
        ("POST", "/", &[HOST, (CODING, "gzip"), (CODING, "chunked")], true, false),
        ("GET", "/", &[HOST, ("connection", "upgrade"), ("upgrade", "websocket")], false, true),
        ("GET", "/", &[HOST, ("connection", "upgrade"), ("upgrade", "websocket")], true, false),
        ("POST", "/", &[HOST, ("connection", "upgrade"), ("upgrade", "websocket")], true, true),
        ("GET", "/", &[HOST, ("upgrade", "websocket")], true, true),
    ];

    fn passes(version: Version, (method, target, headers, body, _): &Row) -> bool {
        let mut request = Request::builder().method(*method).uri(*target).version(version);
        for (name, value) in *headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).expect("a request"), *body).is_ok()
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for row in HTTP1 {
            assert_eq!(passes(Version::HTTP_11, row), row.4, "{row:?}");
        }
    }

    #[test]
    fn the_other_versions_need_no_host() {
        let bare: Row = ("GET", "/", &[], false, true);
        assert!(passes(Version::HTTP_10, &bare) && passes(Version::HTTP_2, &bare));
    }
}
