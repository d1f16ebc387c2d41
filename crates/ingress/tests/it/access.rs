//! Who reaches what, and what they see of each other.

use http::{Method, Request};

use crate::{
    client::{Client, empty, full, get, once, to},
    sandbox::Recorder,
    world::{KEY, OTHER_KEY, World, exposing, token},
};

#[tokio::test]
async fn the_daemon_is_reached_by_id_by_name_and_by_header() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    world.routes.name("box", &id);
    let header = Request::get("/x")
        .header("host", "127.0.0.1:9443")
        .header("x-tensorlake-sandbox-id", id.as_str())
        .header("authorization", format!("Bearer {KEY}"))
        .body(empty())
        .expect("a request");
    let mut client = Client::http1(&world).await;
    for request in [get(&id, "/x"), to("box", "/x", Some(KEY)), header] {
        let answer = client.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "ok"));
    }
    assert_eq!(daemon.count(), 3);
}

#[tokio::test]
async fn the_daemon_sees_our_token_and_none_of_our_addressing() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let request = Request::post("/api/v1//files?path=%2Fa%20b&x")
        .header("host", format!("{id}.local"))
        .header("authorization", format!("Bearer {KEY}"))
        .header("x-tensorlake-sandbox-id", id.as_str())
        .header("x-tensorlake-route-hint", "node")
        .header("x-tensorlake-request-timeout-ms", "300000")
        .header("x-tarn-token", "forged")
        .header("x-tarn-peer", "forged")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("traceparent", "00-a-b-01")
        .body(full("body"))
        .expect("a request");
    assert_eq!(once(&world, request).await.status, 200);
    let seen = daemon.last();
    assert_eq!(seen.method, Method::POST);
    assert_eq!(seen.target, "/api/v1//files?path=%2Fa%20b&x");
    assert_eq!(seen.body.as_deref(), Ok(&b"body"[..]));
    assert_eq!(seen.header("host"), Some("localhost:9501"));
    assert_eq!(seen.header("x-tarn-token"), Some(token().reveal()));
    assert_eq!(seen.header("traceparent"), Some("00-a-b-01"));
    assert_eq!(seen.header("x-tensorlake-request-timeout-ms"), Some("300000"));
    for gone in [
        "authorization",
        "x-tensorlake-sandbox-id",
        "x-tensorlake-route-hint",
        "x-hop",
        "x-tarn-peer",
    ] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn callers_without_right_are_turned_away() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    world.routes.name("box", &id);
    let unknown = "zzzzzzzzzzzzzzzzzzzzz";
    let table = [
        (id.as_str(), None, 401, "UNAUTHENTICATED"),
        (id.as_str(), Some(""), 401, "UNAUTHENTICATED"),
        (id.as_str(), Some("tl_apiKey_unknown"), 401, "UNAUTHENTICATED"),
        (id.as_str(), Some(OTHER_KEY), 404, "SANDBOX_NOT_FOUND"),
        ("box", None, 401, "UNAUTHENTICATED"),
        ("box", Some(OTHER_KEY), 404, "SANDBOX_NOT_FOUND"),
        ("other-box", Some(KEY), 404, "SANDBOX_NOT_FOUND"),
        (unknown, Some(KEY), 404, "SANDBOX_NOT_FOUND"),
        (unknown, None, 401, "UNAUTHENTICATED"),
        ("0-box", Some(KEY), 400, "INVALID_REQUEST"),
    ];
    for (label, key, status, code) in table {
        let answer = once(&world, to(label, "/", key)).await;
        assert_eq!((answer.status.as_u16(), &*answer.code()), (status, code), "{label} {key:?}");
    }
    let nowhere = Request::get("/").header("host", "127.0.0.1:9443").body(empty());
    let answer = once(&world, nowhere.expect("a request")).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (400, "MISSING_SANDBOX_ID"));
    assert_eq!(daemon.count(), 0);
}

#[tokio::test]
async fn when_the_control_plane_is_away_clients_may_try_again() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    world.routes.keys_away(true);
    let answer = once(&world, get(&id, "/")).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (503, "AUTH_SERVICE_UNAVAILABLE"));
    world.routes.keys_away(false);
    world.routes.routes_away(true);
    let answer = once(&world, get(&id, "/")).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (502, "SANDBOX_UPSTREAM_ERROR"));
    assert_eq!(daemon.count(), 0);
}

#[tokio::test]
async fn user_ports_must_be_exposed_and_need_a_key_unless_public() {
    let world = World::start().await;
    let app = Recorder::start(&world.tasks).await;
    let port = app.address.port();
    let private = world.routes.add(exposing(app.address, &[port], false));
    let public = world.routes.add(exposing(app.address, &[port], true));
    world.routes.name("public-box", &public);
    let table = [
        (private.as_str(), port, Some(KEY), Ok(())),
        (private.as_str(), port, None, Err("UNAUTHENTICATED")),
        (private.as_str(), port, Some("nonsense"), Err("UNAUTHENTICATED")),
        (private.as_str(), port, Some(OTHER_KEY), Err("SANDBOX_NOT_FOUND")),
        (private.as_str(), 1, Some(KEY), Err("PORT_NOT_EXPOSED")),
        (private.as_str(), 1, None, Err("UNAUTHENTICATED")),
        (public.as_str(), port, None, Ok(())),
        (public.as_str(), port, Some(KEY), Ok(())),
        (public.as_str(), port, Some(OTHER_KEY), Ok(())),
        (public.as_str(), port, Some("the-app's-own"), Ok(())),
        (public.as_str(), 1, None, Err("PORT_NOT_EXPOSED")),
        (public.as_str(), 1, Some(KEY), Err("PORT_NOT_EXPOSED")),
        (public.as_str(), 9501, None, Err("UNAUTHENTICATED")),
        ("public-box", port, None, Err("UNAUTHENTICATED")),
        ("public-box", port, Some(KEY), Ok(())),
    ]
    .map(|(label, port, key, expected)| (label.to_owned(), port, key, expected));
    for (label, port, key, expected) in table {
        let answer = once(&world, to(&format!("{port}-{label}"), "/", key)).await;
        match expected {
            Ok(()) => assert_eq!(answer.status, 200, "{label} {port} {key:?}"),
            Err(code) => assert_eq!(answer.code(), code, "{label} {port} {key:?}"),
        }
    }
}

#[tokio::test]
async fn programs_never_see_our_keys_nor_the_token() {
    let world = World::start().await;
    let app = Recorder::start(&world.tasks).await;
    let port = app.address.port();
    let id = world.routes.add(exposing(app.address, &[port], true));
    let host = format!("{port}-{id}.localhost:9443");
    let table = [
        (format!("Bearer {KEY}"), None),
        (format!("bearer  {OTHER_KEY}"), None),
        ("Bearer app-token".to_owned(), Some("Bearer app-token")),
        ("Basic YTpi".to_owned(), Some("Basic YTpi")),
        ("Bearer ".to_owned(), Some("Bearer")),
    ];
    for (sent, expected) in table {
        let request = Request::get("/api/v1/x")
            .header("host", &host)
            .header("authorization", &sent)
            .header("x-tarn-token", "forged")
            .header("x-forwarded-proto", "gopher")
            .body(empty());
        assert_eq!(once(&world, request.expect("a request")).await.status, 200);
        let seen = app.last();
        assert_eq!(seen.header("authorization").map(str::trim), expected, "{sent}");
        assert_eq!(seen.header("x-tarn-token"), None);
        assert_eq!(seen.header("host"), Some(&*format!("localhost:{port}")));
        assert_eq!(seen.header("x-forwarded-host"), Some(&*host));
        assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
        assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(seen.target, "/api/v1/x");
    }
    // Whether it is ours cannot be known: it must not be shown.
    world.routes.keys_away(true);
    let answer = once(&world, to(&format!("{port}-{id}"), "/", Some(KEY))).await;
    assert_eq!(answer.code(), "AUTH_SERVICE_UNAVAILABLE");
}

#[tokio::test]
async fn header_and_host_may_both_name_the_port_if_they_agree() {
    let world = World::start().await;
    let app = Recorder::start(&world.tasks).await;
    let port = app.address.port();
    let id = world.routes.add(exposing(app.address, &[port], false));
    for (label, header, status) in [
        (id.to_string(), port, 200),
        (format!("{port}-{id}"), port, 200),
        (format!("{port}-{id}"), 1, 400),
    ] {
        let mut request = to(&label, "/", Some(KEY));
        request.headers_mut().insert("x-tensorlake-sandbox-port", header.into());
        assert_eq!(once(&world, request).await.status, status, "{label} {header}");
    }
}

#[tokio::test]
async fn pages_of_any_origin_may_call_the_daemon() {
    let world = World::start().await;
    let daemon = Recorder::start(&world.tasks).await;
    let id = world.sandbox(daemon.address);
    let preflight = Request::options("/api/v1/files")
        .header("host", format!("{id}.local"))
        .header("origin", "https://app.example.com")
        .header("access-control-request-method", "PUT")
        .header("access-control-request-headers", "authorization, content-type")
        .body(empty());
    let answer = once(&world, preflight.expect("a request")).await;
    assert_eq!(answer.status, 200);
    let expected = [
        ("access-control-allow-origin", "https://app.example.com"),
        ("access-control-allow-methods", "GET, POST, PUT, DELETE, OPTIONS"),
        ("access-control-allow-headers", "authorization, content-type"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "86400"),
    ];
    for (name, value) in expected {
        assert_eq!(answer.header(name), Some(value));
    }
    assert_eq!(daemon.count(), 0, "we answer it ourselves");
    for key in [Some(KEY), None] {
        let mut request = to(id.as_str(), "/", key);
        request.headers_mut().insert("origin", "null".parse().expect("a value"));
        let answer = once(&world, request).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("null"), "{key:?}");
    }
}

#[tokio::test]
async fn preflights_of_user_ports_are_the_programs_business() {
    let world = World::start().await;
    let app = Recorder::start(&world.tasks).await;
    let port = app.address.port();
    let preflight = |id: &str| {
        Request::options("/")
            .header("host", format!("{port}-{id}.local"))
            .header("origin", "https://app.example.com")
            .header("access-control-request-method", "PUT")
            .body(empty())
            .expect("a request")
    };
    let public = world.routes.add(exposing(app.address, &[port], true));
    let answer = once(&world, preflight(public.as_str())).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "ok"));
    assert_eq!(answer.header("access-control-allow-origin"), None);
    let private = world.routes.add(exposing(app.address, &[port], false));
    assert_eq!(once(&world, preflight(private.as_str())).await.status, 401);
    assert_eq!(app.count(), 1);
}
