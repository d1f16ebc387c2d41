//! The private routes (`tarn-guest-api`).

use std::rc::Rc;

use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use tarn_guest_api::{
    CONNECT_PATH, INIT_PATH, InitRequest, LogsRequest, MemoryPressureRequest,
    MemoryPressureResponse, SEAL_PATH, SealRequest, SealResponse, ShutdownResponse, Stats,
    UNSEAL_PATH, UnsealRequest,
};

use super::{
    ApiError, Connection, authenticate,
    body::{Body, json_bytes_response, json_response, read_json},
    route::InternalAction,
};
use crate::{
    daemon::{Daemon, Opened},
    init, managed,
    process::{log, pressure},
    sys, unseal,
};

/// `POST init`.
pub(crate) async fn init(
    daemon: &Rc<Daemon>,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    if request.method() != Method::POST {
        return Err(ApiError::wrong_method(INIT_PATH));
    }
    let request: InitRequest = read_json(request).await?;
    Ok(json_response(&init::init(daemon, request)?))
}

/// `POST seal`.
pub(crate) async fn seal(
    daemon: &Daemon,
    opened: &Opened,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let head = check_sealing(opened, SEAL_PATH, &request)?;
    let SealRequest {} = read_json(request).await?;
    // An unseal may have come while the body was read.
    authenticate(opened, &head)?;
    daemon.seal.close();
    Ok(json_response(&SealResponse {}))
}

/// `POST unseal`.
pub(crate) async fn unseal(
    daemon: &Daemon,
    opened: &Opened,
    connection: &Connection,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let head = check_sealing(opened, UNSEAL_PATH, &request)?;
    let request: UnsealRequest = read_json(request).await?;
    // As above.
    authenticate(opened, &head)?;
    Ok(json_response(&unseal::unseal(daemon, opened, connection, request)?))
}

fn check_sealing(
    opened: &Opened,
    path: &str,
    request: &Request<Incoming>,
) -> Result<HeaderMap, ApiError> {
    authenticate(opened, request.headers())?;
    if request.method() != Method::POST {
        return Err(ApiError::wrong_method(path));
    }
    Ok(request.headers().clone())
}

/// Everything else.
pub(crate) async fn handle(
    daemon: &Rc<Daemon>,
    action: InternalAction,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    match action {
        InternalAction::MemoryPressure => {
            let MemoryPressureRequest {} = read_json(request).await?;
            let killed = pressure::relieve(daemon).await;
            Ok(json_response(&MemoryPressureResponse { killed }))
        }
        InternalAction::Stats => Ok(json_response(&stats(daemon))),
        InternalAction::Shutdown => Ok(json_response(&shutdown(daemon).await)),
        // It takes over its connection, so it is answered before it comes here.
        InternalAction::Connect => Err(ApiError::wrong_method(CONNECT_PATH)),
        InternalAction::Logs => {
            let request: LogsRequest = read_json(request).await?;
            let boot = daemon.log_boot();
            let batch = log::poll(&daemon.processes, &boot, request).await;
            Ok(json_bytes_response(batch))
        }
    }
}

fn stats(daemon: &Daemon) -> Stats {
    let mut census = daemon.census.borrow_mut();
    census.refresh(&daemon.processes);
    Stats {
        running_processes: daemon.processes.running(),
        total_processes: daemon.processes.total(),
        guest_processes: u32::try_from(census.guest_count()).unwrap_or(u32::MAX),
    }
}

/// Asks every process to end; the node ends the sandbox when it has waited long enough.
async fn shutdown(daemon: &Rc<Daemon>) -> ShutdownResponse {
    managed::retire_all(daemon).await;
    // Interactive shells do not heed SIGTERM; and whoever looks at them is told.
    daemon.terminals.terminate_all(daemon);
    let mut census = daemon.census.borrow_mut();
    census.refresh(&daemon.processes);
    let signaled =
        census.guests().filter(|(pid, _)| sys::kill(*pid, libc::SIGTERM).is_ok()).count();
    ShutdownResponse { signaled: u32::try_from(signaled).unwrap_or(u32::MAX) }
}
