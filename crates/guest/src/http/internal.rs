//! The private routes (`tarn-guest-api`).

use std::rc::Rc;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use tarn_guest_api::{
    CONNECT_PATH, INIT_PATH, InitRequest, LogsRequest, MemoryPressureRequest,
    MemoryPressureResponse, ShutdownResponse, Stats,
};

use super::{
    ApiError,
    body::{Body, json_bytes_response, json_response, read_json},
    route::InternalAction,
};
use crate::{
    daemon::Daemon,
    init, managed,
    process::{log, pressure},
    sys,
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
            let batch = log::poll(&daemon.processes, daemon.instance(), request).await;
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
