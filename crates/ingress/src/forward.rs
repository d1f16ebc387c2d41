//! One admitted request to its sandbox, and the answer back.

use std::{io, sync::Arc};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, uri,
};
use hyper::{
    body::{Body as _, Incoming},
    upgrade::OnUpgrade,
};
use tarn_route_api::{Route, RouteEndpoint};

use crate::{
    address::Address,
    admit::Admitted,
    body::{IngressBody, RequestBody},
    error::{IngressCode, IngressError},
    header::{self as head, Authorization, Forwarded, Upgrade},
    ingress::{ClientConnection, Shared},
    places::Busy,
    stats::{Active, Gauge},
    tunnel,
    upstream::{Protocol, SendError, Sent, Target},
};

/// What decides on the head of the request that the sandbox sees.
struct Head<'a> {
    address: &'a Address,
    endpoint: &'a RouteEndpoint,
    authorization: Authorization,
    protocol: Protocol,
    upgrade: Upgrade,
}

/// Goes with an answer in whose place the client's stream is reset, for the same reason.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the call was reset")]
pub(crate) struct StreamReset(#[source] Arc<hyper::Error>);

/// Sends a request to its sandbox and returns the answer, its body still flowing.
pub(crate) async fn forward(
    shared: &Arc<Shared>,
    client: &ClientConnection,
    mut request: Request<Incoming>,
    (address, admitted, busy): (&Address, Admitted, Option<Busy>),
) -> Result<Response<IngressBody>, IngressError> {
    let Admitted { route, authorization, refused_until, activity } = admitted;
    let gauge = shared.stats.enter(Gauge::Requests);
    let active = Active { _busy: busy, _gauge: gauge, _activity: activity };
    let Some(endpoint) = &route.endpoint else { return Err(no_endpoint(&route)) };
    let upgrade = Upgrade::requested(request.version(), request.method(), request.headers());
    let on_upgrade = match upgrade {
        Upgrade::WebSocket => Some(hyper::upgrade::on(&mut request)),
        Upgrade::None => None,
    };
    let protocol = protocol(&request, address);
    let target = Target {
        port: address.port,
        client: client.number(),
        lane: client.lane(),
        protocol,
        refused_until,
    };
    let upstream = shared.upstreams.enter(&route, endpoint);
    if shared.stats.requests_active() > shared.config.max_requests as u64 {
        return Err(crowded("the ingress"));
    }
    if upstream.users() > shared.config.most_per_sandbox() {
        return Err(crowded(&format!("sandbox {}", route.id)));
    }
    let head = Head { address, endpoint, authorization, protocol, upgrade };
    let request = outgoing(shared, client, request, &head)?;
    let sent = shared.upstreams.send(upstream, target, request).await;
    let Sent { mut response, lease } = match sent {
        Ok(sent) => sent,
        Err(error) => {
            let explained = explain(&error, address, &route);
            let SendError::Reset(reset) = error else { return Err(explained) };
            let mut answer = explained.into_response();
            answer.extensions_mut().insert(StreamReset(Arc::new(reset)));
            return Ok(answer);
        }
    };

    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client_side) = on_upgrade else { return Err(unasked_upgrade(address)) };
        let sandbox_side = hyper::upgrade::on(&mut response);
        let ends = tunnel::Ends { client: client_side, sandbox: sandbox_side };
        return Ok(switch(shared, client, response.headers_mut(), ends, lease, active));
    }
    let (mut parts, body) = response.into_parts();
    head::clean_response(&mut parts.headers, Upgrade::None);
    let mut answer = Response::new(IngressBody::sandbox(body, lease, active));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = parts.headers;
    Ok(answer)
}

/// Answers the client's upgrade and ties the two ends together.
fn switch(
    shared: &Arc<Shared>,
    client: &ClientConnection,
    headers: &mut HeaderMap,
    ends: tunnel::Ends<OnUpgrade>,
    lease: crate::upstream::Lease,
    active: Active,
) -> Response<IngressBody> {
    let mut answer = Response::new(IngressBody::full(bytes::Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = std::mem::take(headers);
    head::clean_response(answer.headers_mut(), Upgrade::WebSocket);
    client.phase().become_tunnel();
    tunnel::spawn(shared, client.clone(), ends, lease, active);
    answer
}

/// Makes the request that the sandbox sees.
fn outgoing(
    shared: &Shared,
    client: &ClientConnection,
    request: Request<Incoming>,
    to: &Head<'_>,
) -> Result<Request<RequestBody>, IngressError> {
    let (mut parts, body) = request.into_parts();
    let body = RequestBody::new(body);
    let waits = expects_continue(parts.version, &parts.headers);
    let body = if waits { body.gated() } else { body };
    let port = to.address.port;
    let host = format!("localhost:{port}");
    let Ok(uri) = outgoing_uri(parts.uri, &host, to.protocol) else {
        return Err(IngressError::new(IngressCode::InvalidRequest, "the path cannot be forwarded"));
    };
    head::clean_request(&mut parts.headers, to.authorization, to.upgrade);
    frame_anew(&mut parts.headers, &body, to.protocol);
    if to.address.is_daemon() {
        parts.headers.insert(head::TOKEN, token(to.endpoint)?);
    } else {
        let forwarded = Forwarded {
            peer: client.hop(),
            host: to.address.host.as_deref(),
            scheme: shared.config.public_scheme,
        };
        head::add_forwarded(&mut parts.headers, &forwarded);
    }
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = parts.method;
    *outgoing.uri_mut() = uri;
    *outgoing.headers_mut() = parts.headers;
    match to.protocol {
        // Development servers check the name they are called by, and all of them know this one;
        // the name the client used is in X-Forwarded-Host.
        Protocol::Http1 => {
            if let Ok(host) = HeaderValue::try_from(host) {
                outgoing.headers_mut().insert(header::HOST, host);
            }
        }
        Protocol::Http2 => *outgoing.version_mut() = Version::HTTP_2,
    }
    Ok(outgoing)
}

/// Says how long the body is, by what was understood of it and not by what was written.
///
/// hyper drops a GET's body of unknown length unless it is told that there is one.
fn frame_anew(headers: &mut HeaderMap, body: &RequestBody, protocol: Protocol) {
    let was_told = headers.remove(header::CONTENT_LENGTH).is_some();
    if body.is_end_stream() {
        if was_told {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        return;
    }
    match (body.size_hint().exact(), protocol) {
        (Some(length), _) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        (None, Protocol::Http1) => {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        (None, Protocol::Http2) => {}
    }
}

/// Keeps path and query verbatim.
fn outgoing_uri(uri: Uri, host: &str, protocol: Protocol) -> Result<Uri, http::Error> {
    let path = uri.into_parts().path_and_query;
    let path = path.unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
    match protocol {
        Protocol::Http1 => Ok(Uri::from(path)),
        Protocol::Http2 => {
            Uri::builder().scheme("http").authority(host).path_and_query(path).build()
        }
    }
}

fn token(endpoint: &RouteEndpoint) -> Result<HeaderValue, IngressError> {
    let Ok(mut token) = HeaderValue::from_str(endpoint.token.reveal()) else {
        return Err(IngressError::new(IngressCode::SandboxUpstreamError, "the token is not text"));
    };
    token.set_sensitive(true);
    Ok(token)
}

/// gRPC needs HTTP/2 end to end; everything else is spoken to in HTTP/1.1.
fn protocol(request: &Request<Incoming>, address: &Address) -> Protocol {
    let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let grpc = kind.is_some_and(is_grpc);
    let http2 = request.version() == Version::HTTP_2;
    if grpc && http2 && !address.is_daemon() { Protocol::Http2 } else { Protocol::Http1 }
}

/// Knows `application/grpc`, with a suffix or parameters; gRPC-Web is another one, in HTTP/1.1.
fn is_grpc(kind: &[u8]) -> bool {
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

fn expects_continue(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11
        && headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Refuses what would make us an open relay; tunnels go through the daemon.
pub(crate) fn refuse_connect(method: &Method) -> Result<(), IngressError> {
    if method == Method::CONNECT {
        return Err(IngressError::new(
            IngressCode::MethodNotAllowed,
            "CONNECT is not supported; use the daemon's TCP tunnel",
        ));
    }
    Ok(())
}

/// Keeps clients off the node's own channel to the daemon, which knows the node by the address that
/// we have, too.
pub(crate) fn refuse_internal(path: &str) -> Result<(), IngressError> {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    if first.eq_ignore_ascii_case("internal") {
        return Err(IngressError::new(IngressCode::NotFound, format!("there is no route {path}")));
    }
    Ok(())
}

fn no_endpoint(route: &Route) -> IngressError {
    let message = format!(
        "sandbox {} runs but its address is not known yet; the request was not executed, retry",
        route.id
    );
    IngressError::new(IngressCode::SandboxUpstreamError, message)
}

fn crowded(what: &str) -> IngressError {
    let message =
        format!("too many requests are open to {what} already; this one was not executed, retry");
    IngressError::new(IngressCode::SandboxUpstreamError, message)
}

fn unasked_upgrade(address: &Address) -> IngressError {
    let message = format!(
        "port {} switched protocols although no WebSocket was asked for; check the program there",
        address.port
    );
    IngressError::new(IngressCode::ProxyError, message)
}

/// Turns a failure into the code of spec 04 §6.
///
/// Only failures before the first byte get a code that lets clients repeat any request, and only
/// on the daemon's port: nothing gets better by repeating calls to a user port where nothing
/// listens.
fn explain(error: &SendError, address: &Address, route: &Route) -> IngressError {
    let (port, id) = (address.port, &route.id);
    let at = format!("port {port} of sandbox {id}");
    tracing::debug!(sandbox.id = %id, port, %error, "a request got no answer");
    let (code, message) = match (error, address.is_daemon()) {
        (SendError::Connect(cause), _) if is_our_shortage(cause) => (
            IngressCode::SandboxUpstreamError,
            "the ingress is short of sockets; the request was not executed, retry".to_owned(),
        ),
        (SendError::Connect(_) | SendError::ConnectTimeout | SendError::NotSent, true) => (
            IngressCode::SandboxUnreachable,
            format!(
                "the daemon of sandbox {id} cannot be reached; the request was not executed, retry"
            ),
        ),
        (SendError::Connect(cause), false) => refused(cause, port, id.as_str()),
        (SendError::ConnectTimeout, false) => (
            IngressCode::ConnectionTimeout,
            format!("{at} did not accept a connection in time; check the program there"),
        ),
        (SendError::WriteIdle, _) => {
            (IngressCode::WriteTimeout, format!("{at} stopped reading the request's body"))
        }
        (SendError::ReadIdle, _) => (
            IngressCode::ReadTimeout,
            format!("{at} did not answer; the request may have been executed"),
        ),
        (SendError::Gone, _) => (
            IngressCode::ConnectionClosed,
            format!("sandbox {id} stopped before it answered; the request may have been executed"),
        ),
        (SendError::ClientBody, _) => (
            IngressCode::InvalidRequest,
            "the request's body ended early or is malformed; send it whole".to_owned(),
        ),
        (SendError::Closed(_) | SendError::NotSent, _) => (
            IngressCode::ConnectionClosed,
            format!(
                "{at} closed the connection before it answered; the request may have been executed"
            ),
        ),
        (SendError::NoHttp2, _) => (
            IngressCode::ProxyError,
            format!("{at} does not speak HTTP/2, which gRPC needs; check the program there"),
        ),
        (SendError::Reset(_), _) => (
            IngressCode::ConnectionClosed,
            format!("{at} gave the call up before it answered; it may have been executed"),
        ),
        (SendError::Malformed(_), _) => (
            IngressCode::ProxyError,
            format!("{at} did not answer in HTTP; check the program there"),
        ),
    };
    IngressError::new(code, message)
}

/// The answer for a user port that could not be connected to.
fn refused(cause: &io::Error, port: u16, id: &str) -> (IngressCode, String) {
    if cause.kind() == io::ErrorKind::ConnectionRefused {
        let message = format!(
            "nothing listens on port {port} of sandbox {id}, nor on its loopback; \
             start the program there first"
        );
        return (IngressCode::ConnectionRefused, message);
    }
    if cause.kind() == io::ErrorKind::TimedOut {
        let message = format!("port {port} of sandbox {id} did not accept a connection in time");
        return (IngressCode::ConnectionTimeout, message);
    }
    (IngressCode::ProxyError, format!("port {port} of sandbox {id} cannot be reached"))
}

/// Says whether a connection failed for want of something on our side.
fn is_our_shortage(cause: &io::Error) -> bool {
    use rustix::io::Errno;
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    cause.raw_os_error().is_some_and(|raw| ours.iter().any(|errno| errno.raw_os_error() == raw))
}

#[cfg(test)]
mod tests;
