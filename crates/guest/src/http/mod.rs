//! HTTP: who may call, which handler answers, and in which form.
//!
//! The order of the checks is the security of the daemon: private routes answer only to the
//! gateway; before `init` there is nothing but `init`; after it nothing without the token. While
//! the daemon is sealed all of that waits, but for what seals and unseals.

mod body;
mod error;
mod file;
mod internal;
mod process;
mod pty;
mod route;
mod sse;
mod stream;
mod tunnel;
mod upgrade;

pub(crate) use self::{
    body::parse_json,
    error::ApiError,
    route::Route,
    sse::{LineFrames, StreamField},
    upgrade::{Connection, Upgrade},
};

use std::rc::Rc;

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tarn_daemon_api::Health;
use tarn_guest_api::{INIT_PATH, INTERNAL_PREFIX, SEAL_PATH, TOKEN_HEADER, UNSEAL_PATH, code};

use self::{
    body::{Body, json_response},
    route::{InternalAction, TerminalAction},
};
use crate::daemon::{Daemon, Opened};

/// Answers one request; a failure is an answer too.
pub(crate) async fn handle(
    daemon: Rc<Daemon>,
    connection: &Connection,
    request: Request<Incoming>,
) -> Response<Body> {
    match dispatch(&daemon, connection, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn dispatch(
    daemon: &Rc<Daemon>,
    connection: &Connection,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let path = request.uri().path();
    if path.starts_with(INTERNAL_PREFIX) && !daemon.is_internal_peer(connection.peer) {
        return Err(ApiError::forbidden("this route is for the sandbox's node"));
    }
    let Some(opened) = daemon.opened() else {
        if path == INIT_PATH {
            return internal::init(daemon, request).await;
        }
        return Err(ApiError::not_ready());
    };
    match path {
        SEAL_PATH => return internal::seal(daemon, opened, request).await,
        UNSEAL_PATH => return internal::unseal(daemon, opened, connection, request).await,
        _ => daemon.seal.opened().await,
    }
    if path == INIT_PATH {
        // Answered without a token: it can only be refused.
        return internal::init(daemon, request).await;
    }
    // Only now: it is the token of whoever the sandbox is after an unseal.
    authenticate(opened, request.headers())?;
    let upgrade = &connection.upgrade;
    match Route::parse(request.method(), path)? {
        Route::Health => Ok(json_response(&Health { healthy: true })),
        Route::Info => Ok(json_response(&daemon.info())),
        Route::Internal(InternalAction::Connect) => tunnel::connect_bare(&request, upgrade).await,
        Route::Internal(action) => internal::handle(daemon, action, request).await,
        Route::Processes(action) => process::handle(daemon, opened, action, request).await,
        Route::Process(key, action) => process::handle_one(daemon, &key, action, request).await,
        Route::Files(action) => file::handle(opened, action, request).await,
        Route::Terminals(action) => pty::handle(daemon, opened, action, request).await,
        Route::Terminal(id, TerminalAction::Attach) => pty::attach(daemon, &id, &request, upgrade),
        Route::Terminal(id, action) => pty::handle_one(daemon, &id, action, request).await,
        Route::Tunnel => tunnel::connect(&request, upgrade).await,
    }
}

fn authenticate(opened: &Opened, headers: &HeaderMap) -> Result<(), ApiError> {
    let token = headers.get(TOKEN_HEADER).map_or(&b""[..], |value| value.as_bytes());
    if equal_in_constant_time(token, opened.token.borrow().reveal().as_bytes()) {
        return Ok(());
    }
    let text = format!("the header {TOKEN_HEADER} is missing or wrong");
    Err(ApiError::unauthenticated(code::UNAUTHENTICATED, text))
}

/// Compares without telling by its duration where the difference is.
fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    let difference = left.iter().zip(right).fold(0, |acc, (a, b)| acc | (a ^ b));
    left.len() == right.len() && std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_whole() {
        for (left, right, equal) in
            [("ab", "ab", true), ("ab", "ac", false), ("a", "ab", false), ("", "ab", false)]
        {
            assert_eq!(equal_in_constant_time(left.as_bytes(), right.as_bytes()), equal);
        }
    }
}
