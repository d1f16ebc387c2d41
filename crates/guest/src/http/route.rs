//! The route table, as a pure function.

use http::Method;
use percent_encoding::percent_decode_str;
use tarn_daemon_api::{OutputStream, PREFIX};
use tarn_guest_api::{CONNECT_PATH, LOGS_PATH, MEMORY_PRESSURE_PATH, SHUTDOWN_PATH, STATS_PATH};

use super::ApiError;
use crate::process::output::Selection;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `GET /health`.
    Health,
    /// `GET /info`.
    Info,
    /// Something about processes in general.
    Processes(ProcessesAction),
    /// Something about the process that a key means.
    Process(String, ProcessAction),
    /// Something about files.
    Files(FilesAction),
    /// Something about terminals in general.
    Terminals(TerminalsAction),
    /// Something about the terminal with an id.
    Terminal(String, TerminalAction),
    /// `GET /tunnels/tcp`.
    Tunnel,
    /// A private route.
    Internal(InternalAction),
}

/// `/processes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessesAction {
    /// `POST /processes`.
    Start,
    /// `GET /processes`.
    List,
    /// `POST /processes/run`.
    Run,
}

/// `/processes/{p}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessAction {
    /// `GET`.
    Get,
    /// `DELETE`.
    Kill,
    /// `POST …/restart`.
    Restart,
    /// `POST …/signal`.
    Signal,
    /// `POST …/stdin`.
    WriteStdin,
    /// `POST …/stdin/close`.
    CloseStdin,
    /// `GET …/stdout`, `/stderr`, `/output`.
    Output(Selection),
    /// `GET …/follow` of the same.
    Follow(Selection),
}

/// `/files`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilesAction {
    /// `GET /files`.
    Read,
    /// `PUT /files`.
    Write,
    /// `DELETE /files`.
    Delete,
    /// `GET /files/list`.
    List,
}

/// `/pty`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TerminalsAction {
    /// `POST /pty`.
    Create,
    /// `GET /pty`.
    List,
}

/// `/pty/{id}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TerminalAction {
    /// `GET`.
    Get,
    /// `DELETE`.
    Kill,
    /// `POST …/resize`.
    Resize,
    /// `GET …/ws`.
    Attach,
}

/// `/internal/v1`, but for `init`, which is answered before routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InternalAction {
    /// `POST memory-pressure`.
    MemoryPressure,
    /// `GET stats`.
    Stats,
    /// `POST shutdown`.
    Shutdown,
    /// `GET connect`.
    Connect,
    /// `POST logs`.
    Logs,
}

// === impl Route ===

impl Route {
    /// Finds the route of a request; the error says whether the path or the method is wrong, or
    /// the route is one of spec 05 that this daemon does not have.
    pub(crate) fn parse(method: &Method, path: &str) -> Result<Self, ApiError> {
        let internal = [
            (MEMORY_PRESSURE_PATH, Method::POST, InternalAction::MemoryPressure),
            (STATS_PATH, Method::GET, InternalAction::Stats),
            (SHUTDOWN_PATH, Method::POST, InternalAction::Shutdown),
            (CONNECT_PATH, Method::GET, InternalAction::Connect),
            (LOGS_PATH, Method::POST, InternalAction::Logs),
        ];
        for (known, wanted, action) in internal {
            if path == known {
                return checked(method == wanted, path, Self::Internal(action));
            }
        }
        let Some(rest) = path.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('/')) else {
            return Err(ApiError::no_route(path));
        };
        let segments: Vec<&str> = rest.split('/').collect();
        match segments.as_slice() {
            ["health"] => checked(method == Method::GET, path, Self::Health),
            ["info"] => checked(method == Method::GET, path, Self::Info),
            ["processes"] => match *method {
                Method::POST => Ok(Self::Processes(ProcessesAction::Start)),
                Method::GET => Ok(Self::Processes(ProcessesAction::List)),
                _ => Err(ApiError::wrong_method(path)),
            },
            // Other methods mean the process of that name.
            ["processes", "run"] if *method == Method::POST => {
                Ok(Self::Processes(ProcessesAction::Run))
            }
            ["processes", key, rest @ ..] if !key.is_empty() => {
                let action = process_action(method, path, rest)?;
                Ok(Self::Process(decode(key)?, action))
            }
            ["files"] => match *method {
                Method::GET => Ok(Self::Files(FilesAction::Read)),
                Method::PUT => Ok(Self::Files(FilesAction::Write)),
                Method::DELETE => Ok(Self::Files(FilesAction::Delete)),
                _ => Err(ApiError::wrong_method(path)),
            },
            ["files", "list"] => {
                checked(method == Method::GET, path, Self::Files(FilesAction::List))
            }
            ["pty"] => match *method {
                Method::POST => Ok(Self::Terminals(TerminalsAction::Create)),
                Method::GET => Ok(Self::Terminals(TerminalsAction::List)),
                _ => Err(ApiError::wrong_method(path)),
            },
            ["pty", id, rest @ ..] if !id.is_empty() => {
                let action = terminal_action(method, path, rest)?;
                Ok(Self::Terminal((*id).to_owned(), action))
            }
            ["tunnels", "tcp"] => checked(method == Method::GET, path, Self::Tunnel),
            ["ssh", ..] | ["blob", "sign"] => {
                Err(ApiError::not_supported(&format!("the route {path}")))
            }
            _ => Err(ApiError::no_route(path)),
        }
    }
}

fn process_action(method: &Method, path: &str, rest: &[&str]) -> Result<ProcessAction, ApiError> {
    use ProcessAction::{CloseStdin, Follow, Get, Kill, Output, Restart, Signal, WriteStdin};

    let (wanted, action) = match rest {
        [] if *method == Method::DELETE => (Method::DELETE, Kill),
        [] => (Method::GET, Get),
        ["signal"] => (Method::POST, Signal),
        ["stdin"] => (Method::POST, WriteStdin),
        ["stdin", "close"] => (Method::POST, CloseStdin),
        ["restart"] => (Method::POST, Restart),
        [stream] | [stream, "follow"] => {
            let selection = match *stream {
                "stdout" => Selection::One(OutputStream::Stdout),
                "stderr" => Selection::One(OutputStream::Stderr),
                "output" => Selection::Both,
                _ => return Err(ApiError::no_route(path)),
            };
            (Method::GET, if rest.len() == 1 { Output(selection) } else { Follow(selection) })
        }
        _ => return Err(ApiError::no_route(path)),
    };
    checked(*method == wanted, path, action)
}

fn terminal_action(method: &Method, path: &str, rest: &[&str]) -> Result<TerminalAction, ApiError> {
    let (wanted, action) = match rest {
        [] if *method == Method::DELETE => (Method::DELETE, TerminalAction::Kill),
        [] => (Method::GET, TerminalAction::Get),
        ["resize"] => (Method::POST, TerminalAction::Resize),
        ["ws"] => (Method::GET, TerminalAction::Attach),
        _ => return Err(ApiError::no_route(path)),
    };
    checked(*method == wanted, path, action)
}

fn checked<T>(method_fits: bool, path: &str, route: T) -> Result<T, ApiError> {
    if method_fits { Ok(route) } else { Err(ApiError::wrong_method(path)) }
}

fn decode(segment: &str) -> Result<String, ApiError> {
    match percent_decode_str(segment).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_not_utf8) => Err(ApiError::no_process(segment)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use OutputStream::{Stderr, Stdout};
    use Selection::{Both, One};

    #[test]
    fn every_route_is_found() {
        let one = |action| Route::Process("7".to_owned(), action);
        let table = [
            ("GET", "/api/v1/health", Route::Health),
            ("GET", "/api/v1/info", Route::Info),
            ("POST", "/api/v1/processes", Route::Processes(ProcessesAction::Start)),
            ("GET", "/api/v1/processes", Route::Processes(ProcessesAction::List)),
            ("POST", "/api/v1/processes/run", Route::Processes(ProcessesAction::Run)),
            ("GET", "/api/v1/processes/7", one(ProcessAction::Get)),
            ("DELETE", "/api/v1/processes/7", one(ProcessAction::Kill)),
            ("POST", "/api/v1/processes/7/restart", one(ProcessAction::Restart)),
            ("GET", "/api/v1/processes/run", Route::Process("run".to_owned(), ProcessAction::Get)),
            ("POST", "/api/v1/processes/7/signal", one(ProcessAction::Signal)),
            ("POST", "/api/v1/processes/7/stdin", one(ProcessAction::WriteStdin)),
            ("POST", "/api/v1/processes/7/stdin/close", one(ProcessAction::CloseStdin)),
            ("GET", "/api/v1/processes/7/stdout", one(ProcessAction::Output(One(Stdout)))),
            ("GET", "/api/v1/processes/7/stderr", one(ProcessAction::Output(One(Stderr)))),
            ("GET", "/api/v1/processes/7/output", one(ProcessAction::Output(Both))),
            ("GET", "/api/v1/processes/7/stdout/follow", one(ProcessAction::Follow(One(Stdout)))),
            ("GET", "/api/v1/processes/7/stderr/follow", one(ProcessAction::Follow(One(Stderr)))),
            ("GET", "/api/v1/processes/7/output/follow", one(ProcessAction::Follow(Both))),
            (
                "GET",
                "/api/v1/processes/my%20server%2Fx",
                Route::Process("my server/x".to_owned(), ProcessAction::Get),
            ),
            ("GET", "/api/v1/files", Route::Files(FilesAction::Read)),
            ("PUT", "/api/v1/files", Route::Files(FilesAction::Write)),
            ("DELETE", "/api/v1/files", Route::Files(FilesAction::Delete)),
            ("GET", "/api/v1/files/list", Route::Files(FilesAction::List)),
            ("POST", "/api/v1/pty", Route::Terminals(TerminalsAction::Create)),
            ("GET", "/api/v1/pty", Route::Terminals(TerminalsAction::List)),
            ("GET", "/api/v1/pty/a1", Route::Terminal("a1".to_owned(), TerminalAction::Get)),
            ("DELETE", "/api/v1/pty/a1", Route::Terminal("a1".to_owned(), TerminalAction::Kill)),
            (
                "POST",
                "/api/v1/pty/a1/resize",
                Route::Terminal("a1".to_owned(), TerminalAction::Resize),
            ),
            ("GET", "/api/v1/pty/a1/ws", Route::Terminal("a1".to_owned(), TerminalAction::Attach)),
            ("GET", "/api/v1/tunnels/tcp", Route::Tunnel),
            ("GET", CONNECT_PATH, Route::Internal(InternalAction::Connect)),
            ("POST", MEMORY_PRESSURE_PATH, Route::Internal(InternalAction::MemoryPressure)),
            ("GET", STATS_PATH, Route::Internal(InternalAction::Stats)),
            ("POST", SHUTDOWN_PATH, Route::Internal(InternalAction::Shutdown)),
            ("POST", LOGS_PATH, Route::Internal(InternalAction::Logs)),
        ];
        for (method, path, expected) in table {
            let method: Method = method.parse().expect("a method");
            let route = Route::parse(&method, path);
            assert_eq!(route.ok(), Some(expected), "{method} {path}");
        }
    }

    #[test]
    fn anything_else_is_refused_for_its_reason() {
        let table = [
            ("GET", "/", 404, "NOT_FOUND"),
            ("GET", "/api/v1", 404, "NOT_FOUND"),
            ("GET", "/api/v1/", 404, "NOT_FOUND"),
            ("GET", "/api/v2/health", 404, "NOT_FOUND"),
            ("GET", "/api/v1/health/", 404, "NOT_FOUND"),
            ("POST", "/api/v1/health", 405, "METHOD_NOT_ALLOWED"),
            ("PUT", "/api/v1/processes", 405, "METHOD_NOT_ALLOWED"),
            ("PUT", "/api/v1/processes/run", 405, "METHOD_NOT_ALLOWED"),
            ("GET", "/api/v1/processes/7/restart", 405, "METHOD_NOT_ALLOWED"),
            ("POST", "/api/v1/processes/7", 405, "METHOD_NOT_ALLOWED"),
            ("GET", "/api/v1/processes/7/stdin", 405, "METHOD_NOT_ALLOWED"),
            ("GET", "/api/v1/processes/", 404, "NOT_FOUND"),
            ("GET", "/api/v1/processes/7/nothing", 404, "NOT_FOUND"),
            ("GET", "/api/v1/processes/7/stdout/x", 404, "NOT_FOUND"),
            ("GET", "/api/v1/processes/%ff", 404, "PROCESS_NOT_FOUND"),
            ("POST", "/api/v1/files", 405, "METHOD_NOT_ALLOWED"),
            ("POST", "/api/v1/files/list", 405, "METHOD_NOT_ALLOWED"),
            ("PUT", "/api/v1/pty", 405, "METHOD_NOT_ALLOWED"),
            ("POST", "/api/v1/pty/1", 405, "METHOD_NOT_ALLOWED"),
            ("POST", "/api/v1/pty/1/ws", 405, "METHOD_NOT_ALLOWED"),
            ("GET", "/api/v1/pty/", 404, "NOT_FOUND"),
            ("GET", "/api/v1/pty/1/x", 404, "NOT_FOUND"),
            ("POST", "/api/v1/tunnels/tcp", 405, "METHOD_NOT_ALLOWED"),
            ("GET", "/api/v1/tunnels/udp", 404, "NOT_FOUND"),
            ("POST", "/api/v1/ssh/enable", 400, "NOT_SUPPORTED"),
            ("POST", "/api/v1/blob/sign", 400, "NOT_SUPPORTED"),
            ("GET", "/internal/v1/nothing", 404, "NOT_FOUND"),
            ("GET", "/internal/v1/memory-pressure", 405, "METHOD_NOT_ALLOWED"),
        ];
        for (method, path, status, code) in table {
            let method: Method = method.parse().expect("a method");
            let error = Route::parse(&method, path).expect_err(path);
            let shown = format!("{error:?}");
            assert!(shown.contains(&format!("status: {status},")), "{method} {path}: {shown}");
            assert!(shown.contains(&format!("\"{code}\"")), "{method} {path}: {shown}");
        }
    }
}
