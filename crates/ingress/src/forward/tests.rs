//! The table of failures.

use tarn_types::{Generation, PortAccess, ProjectId, SandboxId, SandboxRef, SandboxStatus};

use super::*;

#[test]
fn failures_get_the_codes_of_the_spec() {
    use IngressCode as Code;
    let io = |kind: io::ErrorKind| SendError::Connect(io::Error::from(kind));
    let emfile = || SendError::Connect(io::Error::from_raw_os_error(libc_emfile()));
    let table = [
        (io(io::ErrorKind::ConnectionRefused), Code::SandboxUnreachable, Code::ConnectionRefused),
        (io(io::ErrorKind::HostUnreachable), Code::SandboxUnreachable, Code::ProxyError),
        (io(io::ErrorKind::TimedOut), Code::SandboxUnreachable, Code::ConnectionTimeout),
        (emfile(), Code::SandboxUpstreamError, Code::SandboxUpstreamError),
        (SendError::ConnectTimeout, Code::SandboxUnreachable, Code::ConnectionTimeout),
        (SendError::NotSent, Code::SandboxUnreachable, Code::ConnectionClosed),
        (SendError::WriteIdle, Code::WriteTimeout, Code::WriteTimeout),
        (SendError::ReadIdle, Code::ReadTimeout, Code::ReadTimeout),
        (SendError::Gone, Code::ConnectionClosed, Code::ConnectionClosed),
        (SendError::NoHttp2, Code::ProxyError, Code::ProxyError),
        (SendError::ClientBody, Code::InvalidRequest, Code::InvalidRequest),
    ];
    let route = Route {
        id: SandboxId::from_random([1; 21]),
        project: ProjectId::from_random([1; 16]),
        generation: Generation::FIRST,
        ports: PortAccess::default(),
        status: SandboxStatus::Running,
        wakes: false,
        endpoint: None,
    };
    let at = |port| Address { sandbox: SandboxRef::Id(route.id.clone()), port, host: None };
    for (error, daemon, user) in table {
        assert_eq!(explain(&error, &at(9501), &route).code(), daemon, "{error:?}");
        assert_eq!(explain(&error, &at(80), &route).code(), user, "{error:?}");
    }
}

fn libc_emfile() -> i32 {
    rustix::io::Errno::MFILE.raw_os_error()
}

#[test]
fn the_node_s_channel_is_not_for_clients() {
    for path in ["/internal/v1/shutdown", "//internal/v1/stats", "/Internal", "/internal/"] {
        let refused = refuse_internal(path).expect_err("only the node may");
        assert_eq!(refused.code(), IngressCode::NotFound, "{path}");
    }
    for path in ["/", "/api/v1/files", "/internals", "*"] {
        refuse_internal(path).expect("anybody may");
    }
}

#[test]
fn grpc_is_told_from_what_only_begins_alike() {
    for (kind, expected) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc+json; charset=utf-8", true),
        ("application/grpc;x=y", true),
        ("application/grpc ; x=y", true),
        ("application/grpc-web", false),
        ("application/grpc-web+proto", false),
        ("application/grpc-web-text", false),
        ("application/grpcs", false),
        ("application/json", false),
        ("", false),
    ] {
        assert_eq!(is_grpc(kind.as_bytes()), expected, "{kind}");
    }
}

#[test]
fn path_and_query_stay_verbatim() {
    for path in ["/", "/a//b/../c%2Fd?x=%20&y", "*", "/?"] {
        let uri = outgoing_uri(path.parse().expect("a target"), "localhost:80", Protocol::Http1);
        assert_eq!(uri.expect("a target").to_string(), path);
    }
    let absolute = "http://box.local/a?b".parse().expect("a target");
    let uri = outgoing_uri(absolute, "localhost:80", Protocol::Http1).expect("a target");
    assert_eq!(uri.to_string(), "/a?b");
    let uri = outgoing_uri(uri, "localhost:80", Protocol::Http2).expect("a target");
    assert_eq!(uri.to_string(), "http://localhost:80/a?b");
}
