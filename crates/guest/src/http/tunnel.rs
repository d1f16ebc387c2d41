//! The tunnel routes: for clients (spec 05 §6), and for the ingress (`tarn-guest-api`).

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tarn_daemon_api::code::CONNECTION_REFUSED;
use tarn_guest_api::CONNECT_UPGRADE;
use tokio::net::TcpStream;

use super::{
    ApiError, Upgrade,
    body::Body,
    upgrade::{Next, accept_websocket},
};
use crate::{tunnel, websocket::handshake::is_upgrade};

/// `GET /tunnels/tcp`.
pub(crate) async fn connect(
    request: &Request<Incoming>,
    upgrade: &Upgrade,
) -> Result<Response<Body>, ApiError> {
    let port = port(request.uri().query())?;
    let accept = accept_websocket(request.version(), request.headers())?;
    let server = open(port).await?;
    Ok(upgrade.switch_to_websocket(accept, Next::Tunnel(server)))
}

/// `GET connect`.
pub(crate) async fn connect_bare(
    request: &Request<Incoming>,
    upgrade: &Upgrade,
) -> Result<Response<Body>, ApiError> {
    let port = port(request.uri().query())?;
    if !is_upgrade(request.headers(), CONNECT_UPGRADE) {
        return Err(ApiError::invalid(format!("this route needs `Upgrade: {CONNECT_UPGRADE}`")));
    }
    let server = open(port).await?;
    Ok(upgrade.switch(CONNECT_UPGRADE, Next::Bare(server)))
}

async fn open(port: u16) -> Result<TcpStream, ApiError> {
    tunnel::connect(port).await.map_err(|error| {
        let text = format!(
            "nothing accepts connections on port {port} inside the sandbox ({error}); \
             start the program there first"
        );
        ApiError::new(StatusCode::BAD_GATEWAY, CONNECTION_REFUSED, text)
    })
}

/// Reads `port=N`, once, in plain digits.
fn port(query: Option<&str>) -> Result<u16, ApiError> {
    let mut values =
        query.unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("port="));
    let (Some(text), None) = (values.next(), values.next()) else {
        return Err(ApiError::invalid("the query must hold one `port`, such as ?port=8080"));
    };
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err(ApiError::invalid("`port` must be a number from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_from_the_query() {
        for (query, expected) in [
            (Some("port=1"), Some(1)),
            (Some("a=b&port=65535"), Some(65535)),
            (Some("port=0"), None),
            (Some("port=65536"), None),
            (Some("port=+80"), None),
            (Some("port="), None),
            (Some("port=80&port=81"), None),
            (Some("ports=80"), None),
            (Some(""), None),
            (None, None),
        ] {
            assert_eq!(port(query).ok(), expected, "{query:?}");
        }
    }
}
