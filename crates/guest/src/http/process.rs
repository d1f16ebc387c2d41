//! The process routes (spec 05 §2).

use std::{rc::Rc, time::Duration};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use nix::errno::Errno;
use serde::{Deserialize, de::IgnoredAny};
use tarn_daemon_api::{
    PREFIX, ProcessInfo, ProcessList, RunRequest, SignalRequest, SignalResponse, StartRequest,
    code::{PROCESS_NOT_MANAGED, PROCESS_NOT_RUNNING},
};

use super::{
    ApiError,
    body::{
        Body, json_body, json_response, next_chunk, no_content, parse_json, read_json,
        read_json_bytes, with_type,
    },
    route::{ProcessAction, ProcessesAction},
    stream,
};
use crate::{
    daemon::{Daemon, Opened},
    managed,
    process::{
        Process,
        census::Origin,
        start::{Audience, start},
        tree,
    },
    sys,
};

/// A kill is answered when the process has gone, or after this.
const KILL_WAIT: Duration = Duration::from_millis(400);

/// A longer time limit than this is none.
const MAX_TIME_LIMIT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

const MAX_SIGNAL: i32 = 64;

/// `/processes`.
pub(crate) async fn handle(
    daemon: &Rc<Daemon>,
    opened: &Opened,
    action: ProcessesAction,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    match action {
        ProcessesAction::List => {
            let processes = daemon.processes.all().iter().map(|process| process.info()).collect();
            Ok(json_response(&ProcessList { processes }))
        }
        ProcessesAction::Start => {
            let body = read_json_bytes(request).await?;
            let request: StartRequest = parse_json(&body)?;
            let managed = request.managed()?;
            let _turn = daemon.turn_to_start().await;
            let process = match managed {
                None => start(daemon, opened, request, Audience::Followers)?,
                Some(config) => managed::start(daemon, opened, request, config)?,
            };
            let mut response = json_body(&process.info());
            *response.status_mut() = StatusCode::CREATED;
            Ok(response)
        }
        ProcessesAction::Run => {
            let body = read_json_bytes(request).await?;
            let request: RunRequest = parse_json(&body)?;
            refuse_managed(&body)?;
            run(daemon, opened, request).await
        }
    }
}

/// `/processes/{p}`.
pub(crate) async fn handle_one(
    daemon: &Rc<Daemon>,
    key: &str,
    action: ProcessAction,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let process = daemon.processes.find(key).ok_or_else(|| ApiError::no_process(key))?;
    match action {
        ProcessAction::Get => Ok(json_response(&process.info())),
        ProcessAction::Kill => {
            match process.managed().filter(|managed| managed.is_live()) {
                Some(managed) => managed.stop().await,
                None => kill(daemon, &process).await,
            }
            Ok(no_content())
        }
        ProcessAction::Restart => Ok(json_response(&restart(daemon, &process).await?)),
        ProcessAction::Signal => {
            let request: SignalRequest = read_json(request).await?;
            signal(daemon, &process, request.signal)?;
            Ok(json_response(&SignalResponse { success: true }))
        }
        ProcessAction::WriteStdin => {
            write_stdin(&process, request.into_body()).await?;
            Ok(no_content())
        }
        ProcessAction::CloseStdin => {
            process.stdin.close_requested()?;
            Ok(no_content())
        }
        ProcessAction::Output(selection) => {
            Ok(with_type("application/json", stream::retained(process, selection)))
        }
        ProcessAction::Follow(selection) => Ok(event_stream(stream::follow(process, selection))),
    }
}

/// Fields that make a process managed.
#[derive(Deserialize)]
struct ManagedFields {
    name: Option<IgnoredAny>,
    restart: Option<IgnoredAny>,
    health_check: Option<IgnoredAny>,
}

/// A run ends with its request, so there is nothing to manage; and a field is effective or
/// refused, never ignored.
fn refuse_managed(body: &[u8]) -> Result<(), ApiError> {
    let fields: ManagedFields = parse_json(body)?;
    let present = [
        ("name", fields.name.is_some()),
        ("restart", fields.restart.is_some()),
        ("health_check", fields.health_check.is_some()),
    ];
    match present.into_iter().find(|(_, present)| *present) {
        None => Ok(()),
        Some((name, _)) => Err(ApiError::invalid(format!(
            "`{name}`: a run is never managed: start the process with POST {PREFIX}/processes"
        ))),
    }
}

async fn run(
    daemon: &Rc<Daemon>,
    opened: &Opened,
    request: RunRequest,
) -> Result<Response<Body>, ApiError> {
    let limit = request.time_limit_secs().map(time_limit).transpose()?;
    let _turn = daemon.turn_to_start().await;
    let process = start(daemon, opened, request.into_start(), Audience::Run)?;
    if let Some(limit) = limit {
        tokio::task::spawn_local(enforce(Rc::clone(daemon), Rc::clone(&process), limit));
    }
    Ok(event_stream(stream::run(process)))
}

fn time_limit(secs: f64) -> Result<Duration, ApiError> {
    if secs < 0.0 {
        return Err(ApiError::invalid(format!("`timeout`: {secs} is negative")));
    }
    Ok(Duration::try_from_secs_f64(secs).unwrap_or(MAX_TIME_LIMIT).min(MAX_TIME_LIMIT))
}

/// Kills the whole tree when the time has passed, whether or not anybody still listens. The time of
/// a suspension is not the process's.
async fn enforce(daemon: Rc<Daemon>, process: Rc<Process>, limit: Duration) {
    tokio::select! {
        () = process.wait_end() => {}
        () = daemon.seal.pass(limit) => {
            if process.is_running() {
                process.set_timed_out();
                tree::kill(&daemon, Origin::Started(process.handle())).await;
            }
        }
    }
}

/// Kills the whole tree: of one that has finished, what it left behind.
async fn kill(daemon: &Rc<Daemon>, process: &Rc<Process>) {
    let (daemon, origin) = (Rc::clone(daemon), Origin::Started(process.handle()));
    // A task of its own, so that it is finished even if the client hangs up.
    tokio::task::spawn_local(async move { tree::kill(&daemon, origin).await });
    // One that can't be killed in time is answered all the same.
    _ = tokio::time::timeout(KILL_WAIT, process.wait_end()).await;
}

async fn restart(daemon: &Rc<Daemon>, process: &Rc<Process>) -> Result<ProcessInfo, ApiError> {
    let Some(managed) = process.managed() else {
        let pid = process.pid();
        let text = match process.run_of() {
            Some(managed) => format!(
                "process {pid} is an earlier run of the managed process '{}', and stands for it \
                 no more: use its name or its latest pid",
                managed.id()
            ),
            None => format!(
                "process {pid} is not managed: start it with `name`, `restart` or `health_check`"
            ),
        };
        return Err(ApiError::bad_request(PROCESS_NOT_MANAGED, text));
    };
    let run = managed.restart(daemon).await?;
    // The new run was started a moment ago, so it is still listed.
    let run = daemon.processes.by_handle(run);
    Ok(run.as_ref().unwrap_or(process).info())
}

fn signal(daemon: &Rc<Daemon>, process: &Process, signal: i32) -> Result<(), ApiError> {
    if !(1..=MAX_SIGNAL).contains(&signal) {
        let text = format!("`signal`: {signal} is not a signal number (1 to {MAX_SIGNAL})");
        return Err(ApiError::invalid(text));
    }
    let not_running = || {
        let text = format!("process {} has ended", process.pid());
        ApiError::bad_request(PROCESS_NOT_RUNNING, text)
    };
    if !process.is_running() {
        return Err(not_running());
    }
    match sys::kill_group(process.pid(), signal) {
        Ok(()) => {
            // Those who have left the group get no signal, but nobody survives a kill.
            if signal == libc::SIGKILL {
                let (daemon, origin) = (Rc::clone(daemon), Origin::Started(process.handle()));
                tokio::task::spawn_local(async move { tree::kill(&daemon, origin).await });
            }
            Ok(())
        }
        Err(Errno::ESRCH) => Err(not_running()),
        Err(Errno::EINVAL) => Err(ApiError::invalid(format!("`signal`: {signal} is unknown here"))),
        Err(errno) => Err(ApiError::internal(errno.desc())),
    }
}

async fn write_stdin(process: &Process, mut body: Incoming) -> Result<(), ApiError> {
    let turn = process.stdin.turn()?;
    let sender = turn.lock().await;
    while let Some(bytes) = next_chunk(&mut body).await? {
        process.stdin.write(&sender, &bytes).await?;
    }
    Ok(())
}

fn event_stream(body: Body) -> Response<Body> {
    use http::{HeaderValue, header::CACHE_CONTROL};

    let mut response = with_type("text/event-stream", body);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that buffer by default are asked not to.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
