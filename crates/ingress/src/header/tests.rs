//! The tables of headers.

use super::*;

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name: HeaderName = name.parse().expect("a name");
        headers.append(name, HeaderValue::from_str(value).expect("a value"));
    }
    headers
}

fn lines(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let mut lines: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
        .collect();
    lines.sort_unstable();
    lines
}

type Lines = &'static [(&'static str, &'static str)];

#[test]
fn requests_pass_without_what_is_ours_or_of_the_connection() {
    use Authorization::{Keep, Strip};
    let table: &[(Lines, Authorization, Upgrade, Lines)] = &[
        (
            &[("Host", "box.local"), ("Accept", "*/*"), ("Authorization", "Bearer k")],
            Strip,
            Upgrade::None,
            &[("accept", "*/*")],
        ),
        (
            &[("Authorization", "Basic YTpi")],
            Keep,
            Upgrade::None,
            &[("authorization", "Basic YTpi")],
        ),
        (
            &[
                ("X-Tensorlake-Sandbox-Id", "box"),
                ("X-Tensorlake-Sandbox-Port", "80"),
                ("X-Tensorlake-Route-Hint", "n"),
                ("X-Tensorlake-Request-Timeout-Ms", "5"),
            ],
            Strip,
            Upgrade::None,
            &[("x-tensorlake-request-timeout-ms", "5")],
        ),
        (
            &[("X-Tarn-Token", "forged"), ("x-tarn-peer", "a"), ("X-TARN-PEER", "b")],
            Keep,
            Upgrade::None,
            &[],
        ),
        (
            &[
                ("Connection", "close, X-Hop, authorization"),
                ("Connection", "X-Hop-2"),
                ("X-Hop", "1"),
                ("X-Hop-2", "2"),
                ("X-End", "3"),
                ("Keep-Alive", "timeout=5"),
                ("Proxy-Connection", "keep-alive"),
                ("Proxy-Authorization", "Basic x"),
                ("Transfer-Encoding", "chunked"),
                ("TE", "gzip"),
                ("Trailer", "X-Sum"),
            ],
            Keep,
            Upgrade::None,
            &[("trailer", "X-Sum"), ("x-end", "3")],
        ),
        (&[("TE", "gzip, trailers")], Keep, Upgrade::None, &[("te", "trailers")]),
        (
            &[
                ("Connection", "Upgrade, HTTP2-Settings"),
                ("Upgrade", "h2c"),
                ("HTTP2-Settings", "AA"),
            ],
            Keep,
            Upgrade::None,
            &[],
        ),
        (
            &[
                ("Connection", "keep-alive, Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Key", "k"),
            ],
            Strip,
            Upgrade::WebSocket,
            &[("connection", "upgrade"), ("sec-websocket-key", "k"), ("upgrade", "websocket")],
        ),
        (
            &[
                ("X_Forwarded_For", "a"),
                ("X-Forwarded_Host", "b"),
                ("Content_Length", "5"),
                ("transfer_encoding", "chunked"),
                ("X_Tarn_Token", "c"),
                ("X_Tensorlake-Sandbox_Id", "d"),
                ("Proxy", "http://evil"),
                ("my_header", "e"),
            ],
            Keep,
            Upgrade::None,
            &[("my_header", "e")],
        ),
        (&[("Cookie", "a=1"), ("Cookie", "b=2")], Keep, Upgrade::None, &[("cookie", "a=1; b=2")]),
    ];
    for (before, authorization, upgrade, after) in table {
        let mut headers = map(before);
        clean_request(&mut headers, *authorization, *upgrade);
        assert_eq!(lines(&headers), *after, "{before:?}");
    }
}

#[test]
fn responses_pass_without_what_is_of_the_connection() {
    let mut headers = map(&[
        ("Connection", "X-Hop"),
        ("X-Hop", "1"),
        ("Transfer-Encoding", "chunked"),
        ("X-Tarn-Debug", "1"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
    ]);
    clean_response(&mut headers, Upgrade::None);
    assert_eq!(lines(&headers), [("set-cookie", "a=1"), ("set-cookie", "b=2")]);
}

#[test]
fn a_list_is_read_to_its_end_whatever_is_in_it() {
    let mut headers = map(&[("X-Hop", "1"), ("X-End", "2")]);
    let listed = HeaderValue::from_bytes(b"\xff, x-hop").expect("a value");
    headers.insert(header::CONNECTION, listed);
    clean_request(&mut headers, Authorization::Keep, Upgrade::None);
    assert_eq!(lines(&headers), [("x-end", "2")]);
}

#[test]
fn trailers_decide_on_nothing() {
    let mut trailers = map(&[
        ("grpc-status", "0"),
        ("grpc-message", "fine"),
        ("x-sum", "7"),
        ("authorization", "Bearer x"),
        ("x-tarn-token", "forged"),
        ("x_forwarded_for", "a"),
        ("x-tensorlake-sandbox-id", "b"),
        ("content-length", "3"),
        ("host", "c"),
        ("connection", "close"),
    ]);
    clean_trailers(&mut trailers);
    assert_eq!(lines(&trailers), [("grpc-message", "fine"), ("grpc-status", "0"), ("x-sum", "7")]);
}

#[test]
fn only_websockets_are_upgrades() {
    let table: &[(Version, Lines, Upgrade)] = &[
        (
            Version::HTTP_11,
            &[("Connection", "Upgrade"), ("Upgrade", "websocket")],
            Upgrade::WebSocket,
        ),
        (
            Version::HTTP_11,
            &[("Connection", "keep-alive, upgrade"), ("Upgrade", "WebSocket")],
            Upgrade::WebSocket,
        ),
        (Version::HTTP_11, &[("Upgrade", "websocket")], Upgrade::None),
        (Version::HTTP_11, &[("Connection", "Upgrade"), ("Upgrade", "h2c")], Upgrade::None),
        (Version::HTTP_11, &[("Connection", "Upgrade")], Upgrade::None),
        (Version::HTTP_10, &[("Connection", "Upgrade"), ("Upgrade", "websocket")], Upgrade::None),
        (Version::HTTP_2, &[("Connection", "Upgrade"), ("Upgrade", "websocket")], Upgrade::None),
    ];
    for (version, headers, expected) in table {
        let found = Upgrade::requested(*version, &Method::GET, &map(headers));
        assert_eq!(found, *expected, "{headers:?}");
    }
    let asked = map(&[("Connection", "Upgrade"), ("Upgrade", "websocket")]);
    assert_eq!(Upgrade::requested(Version::HTTP_11, &Method::POST, &asked), Upgrade::None);
}

#[test]
fn forwarded_headers_are_ours_except_for_the_hops_before() {
    let mut headers = map(&[
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Host", "evil"),
        ("X-Forwarded-Proto", "gopher"),
        ("X-Forwarded-Port", "22"),
        ("Forwarded", "for=evil;host=evil;proto=https"),
    ]);
    let forwarded = Forwarded {
        peer: &hop("::ffff:192.0.2.7".parse().expect("an address")),
        host: Some("3000-box.localhost:9443"),
        scheme: PublicScheme::Https,
    };
    add_forwarded(&mut headers, &forwarded);
    assert_eq!(
        lines(&headers),
        [
            ("x-forwarded-for", "10.0.0.1, 192.0.2.7"),
            ("x-forwarded-host", "3000-box.localhost:9443"),
            ("x-forwarded-proto", "https"),
        ]
    );
}
