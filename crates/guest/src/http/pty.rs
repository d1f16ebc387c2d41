//! The terminal routes (spec 05 §4).

use std::rc::Rc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use tarn_daemon_api::{
    CreatePtyRequest, CreatePtyResponse, ResizeRequest, TerminalSize,
    code::{INVALID_TOKEN, SESSION_NOT_FOUND, TOO_MANY_SESSIONS},
};

use super::{
    ApiError, Upgrade,
    body::{Body, json_body, json_response, no_content, read_json},
    equal_in_constant_time,
    route::{TerminalAction, TerminalsAction},
    upgrade::{Next, accept_websocket},
};
use crate::{
    daemon::{Daemon, Opened},
    pty::OpenError,
};

/// Preferred to the query, which proxies write into their logs.
const TOKEN_HEADER: &str = "x-pty-token";

/// `/pty`.
pub(crate) async fn handle(
    daemon: &Rc<Daemon>,
    opened: &Opened,
    action: TerminalsAction,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    match action {
        TerminalsAction::List => Ok(json_response(&daemon.terminals.list())),
        TerminalsAction::Create => {
            let request: CreatePtyRequest = read_json(request).await?;
            let _turn = daemon.turn_to_start().await;
            let session = daemon.terminals.open(daemon, opened, request)?;
            let mut response = json_body(&CreatePtyResponse {
                session_id: session.id().to_owned(),
                token: session.token().reveal().to_owned(),
            });
            *response.status_mut() = StatusCode::CREATED;
            Ok(response)
        }
    }
}

/// `/pty/{id}`, but for `ws`.
pub(crate) async fn handle_one(
    daemon: &Rc<Daemon>,
    id: &str,
    action: TerminalAction,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let session = daemon.terminals.find(id).ok_or_else(|| {
        let text = format!("there is no terminal '{id}'; ended ones are forgotten after a minute");
        ApiError::new(StatusCode::NOT_FOUND, tarn_daemon_api::code::NOT_FOUND, text)
    })?;
    match action {
        TerminalAction::Get | TerminalAction::Attach => Ok(json_response(&session.describe())),
        TerminalAction::Kill => {
            session.terminate(daemon);
            Ok(no_content())
        }
        TerminalAction::Resize => {
            let ResizeRequest { rows, cols } = read_json(request).await?;
            session.resize(TerminalSize::clamped(rows, cols));
            Ok(no_content())
        }
    }
}

/// `/pty/{id}/ws`.
pub(crate) fn attach(
    daemon: &Daemon,
    id: &str,
    request: &Request<Incoming>,
    upgrade: &Upgrade,
) -> Result<Response<Body>, ApiError> {
    let session = daemon.terminals.find(id).ok_or_else(|| {
        let text = format!("there is no terminal '{id}'; ended ones are forgotten after a minute");
        ApiError::new(StatusCode::NOT_FOUND, SESSION_NOT_FOUND, text)
    })?;
    let token = match request.headers().get(TOKEN_HEADER) {
        Some(header) => header.as_bytes().to_vec(),
        None => token_in_query(request.uri().query().unwrap_or_default()),
    };
    if !equal_in_constant_time(&token, session.token().reveal().as_bytes()) {
        let text = "the token is not that of this terminal; send the one that its creation \
                    returned as X-PTY-Token or ?token=";
        return Err(ApiError::new(StatusCode::FORBIDDEN, INVALID_TOKEN, text));
    }
    let accept = accept_websocket(request.version(), request.headers())?;
    Ok(upgrade.switch_to_websocket(accept, Next::Terminal(session)))
}

fn token_in_query(query: &str) -> Vec<u8> {
    let token = query.split('&').find_map(|pair| pair.strip_prefix("token="));
    percent_decode_str(token.unwrap_or_default()).collect()
}

// === errors ===

impl From<OpenError> for ApiError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Start(error) => error.into(),
            OpenError::Internal(error) => error.into(),
            OpenError::TooMany => {
                let text = "this sandbox has 64 terminals already: end one first";
                Self::new(StatusCode::TOO_MANY_REQUESTS, TOO_MANY_SESSIONS, text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_found_in_the_query() {
        for (query, expected) in
            [("token=ab", "ab"), ("x=1&token=%61b&y", "ab"), ("xtoken=a", ""), ("", "")]
        {
            assert_eq!(token_in_query(query), expected.as_bytes(), "{query}");
        }
    }
}
