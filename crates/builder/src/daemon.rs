//! The daemon of a sandbox that builds: commands are run and listened to by its ordinary API
//! (spec 05 §2).

use std::{net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tarn_daemon_api::{ErrorBody, PREFIX, ProcessInfo, RunRequest, StartRequest};
use tarn_guest_api::TOKEN_HEADER;
use tarn_types::DaemonToken;
use thiserror::Error;
use tokio::net::TcpStream;

/// The largest answer that is read as a whole, and the largest frame of a stream.
const MAX_ANSWER: usize = 1 << 20;

/// How long an answer may take that is no stream.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a stream may be silent: it has a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(120);

/// A daemon, and what it wants to be shown.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    pub(crate) address: SocketAddr,
    pub(crate) token: DaemonToken,
}

/// Why a daemon did not do what it was asked.
#[derive(Debug, Error)]
pub(crate) enum DaemonError {
    /// It cannot be reached any more, or makes no sense.
    #[error("the daemon cannot be heard: {0}")]
    Broken(String),
    /// It said no, in words for whoever asked.
    #[error("{0}")]
    Refused(String),
}

/// What a run says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RunEvent {
    /// A line of its output.
    Line(String),
    /// It ended.
    End(RunEnd),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RunEnd {
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) oom_killed: bool,
}

/// A run that is listened to.
pub(crate) struct RunStream {
    body: Incoming,
    unread: BytesMut,
}

// === impl Daemon ===

impl Daemon {
    /// Starts a command that ends by itself, and listens to it.
    pub(crate) async fn run(&self, request: &RunRequest) -> Result<RunStream, DaemonError> {
        let body = json(request)?;
        let accept = [(header::ACCEPT, "text/event-stream")];
        let answer =
            self.send(Method::POST, &format!("{PREFIX}/processes/run"), &accept, body).await?;
        let (head, body) = answer.into_parts();
        if !head.status.is_success() {
            return Err(refusal(head.status, &read(body).await?));
        }
        Ok(RunStream { body, unread: BytesMut::new() })
    }

    /// Starts a process.
    pub(crate) async fn start(&self, request: &StartRequest) -> Result<ProcessInfo, DaemonError> {
        let answer = self.ask(Method::POST, "/processes", json(request)?).await?;
        serde_json::from_slice(&answer).map_err(|bad| DaemonError::Broken(bad.to_string()))
    }

    /// Writes to the standard input of a process.
    pub(crate) async fn write(&self, pid: i32, bytes: Bytes) -> Result<(), DaemonError> {
        self.ask(Method::POST, &format!("/processes/{pid}/stdin"), bytes).await.map(drop)
    }

    /// Ends the standard input of a process.
    pub(crate) async fn end_input(&self, pid: i32) -> Result<(), DaemonError> {
        let path = format!("/processes/{pid}/stdin/close");
        self.ask(Method::POST, &path, Bytes::new()).await.map(drop)
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, DaemonError> {
        let answer = self.send(method, &format!("{PREFIX}{path}"), &[], body).await?;
        let (head, body) = answer.into_parts();
        let body = read(body).await?;
        if head.status.is_success() { Ok(body) } else { Err(refusal(head.status, &body)) }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: Bytes,
    ) -> Result<http::Response<Incoming>, DaemonError> {
        let broken = |bad: String| DaemonError::Broken(bad);
        let sent = async {
            let stream =
                TcpStream::connect(self.address).await.map_err(|e| broken(e.to_string()))?;
            stream.set_nodelay(true).map_err(|e| broken(e.to_string()))?;
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(e.to_string()))?;
            let mut request = Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, "tarnd")
                .header(TOKEN_HEADER, self.token.reveal());
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            let request = request.body(Full::new(body)).map_err(|e| broken(e.to_string()))?;
            // It moves the bytes of the answer's body, and ends with it.
            drop(spawn_connection(connection));
            sender.send_request(request).await.map_err(|e| broken(e.to_string()))
        };
        match tokio::time::timeout(PATIENCE, sent).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(broken("no answer in time".to_owned())),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "it lives no longer than the answer that it moves")]
fn spawn_connection(
    connection: http1::Connection<TokioIo<TcpStream>, Full<Bytes>>,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { drop(connection.await) })
}

// === impl RunStream ===

impl RunStream {
    /// Returns what comes next; the end comes last.
    pub(crate) async fn next(&mut self) -> Result<RunEvent, DaemonError> {
        loop {
            while let Some(frame) = self.frame() {
                if let Some(event) = event(&frame)? {
                    return Ok(event);
                }
            }
            if self.unread.len() > MAX_ANSWER {
                return Err(DaemonError::Broken("a frame without end".to_owned()));
            }
            let next = tokio::time::timeout(SILENCE, self.body.frame()).await;
            let next = next.map_err(|_elapsed| DaemonError::Broken("it is silent".to_owned()))?;
            match next {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.unread.extend_from_slice(data);
                    }
                }
                Some(Err(bad)) => return Err(DaemonError::Broken(bad.to_string())),
                None => return Err(DaemonError::Broken("it broke off".to_owned())),
            }
        }
    }

    /// Takes a frame that has come whole.
    fn frame(&mut self) -> Option<BytesMut> {
        let end = self.unread.windows(2).position(|two| two == b"\n\n")?;
        let mut frame = self.unread.split_to(end + 2);
        frame.truncate(end);
        Some(frame)
    }
}

/// Reads a frame; what is neither a line nor the end is nothing that matters here.
fn event(frame: &[u8]) -> Result<Option<RunEvent>, DaemonError> {
    let text = std::str::from_utf8(frame).map_err(|bad| DaemonError::Broken(bad.to_string()))?;
    let Some(data) = text.lines().find_map(|line| line.strip_prefix("data:")) else {
        return Ok(None);
    };
    let value: serde_json::Value =
        serde_json::from_str(data).map_err(|bad| DaemonError::Broken(bad.to_string()))?;
    if let Some(line) = value.get("line").and_then(serde_json::Value::as_str) {
        return Ok(Some(RunEvent::Line(line.to_owned())));
    }
    if value.get("exit_code").is_none() && value.get("signal").is_none() {
        return Ok(None);
    }
    let number = |key: &str| {
        let number = value.get(key).and_then(serde_json::Value::as_i64);
        number.and_then(|number| i32::try_from(number).ok())
    };
    // The first is about the process itself, the second about those it began, too.
    let oom_killed = value.get("reason").is_some_and(|reason| reason == "oom_killed")
        || value.get("oom_killed").is_some_and(|killed| *killed == true);
    let (exit_code, signal) = (number("exit_code"), number("signal"));
    Ok(Some(RunEvent::End(RunEnd { exit_code, signal, oom_killed })))
}

fn json(value: &impl Serialize) -> Result<Bytes, DaemonError> {
    let bytes = serde_json::to_vec(value).map_err(|bad| DaemonError::Broken(bad.to_string()))?;
    Ok(bytes.into())
}

async fn read(body: Incoming) -> Result<Bytes, DaemonError> {
    let read = Limited::new(body, MAX_ANSWER).collect();
    match tokio::time::timeout(PATIENCE, read).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(bad)) => Err(DaemonError::Broken(bad.to_string())),
        Err(_elapsed) => Err(DaemonError::Broken("no answer in time".to_owned())),
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> DaemonError {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(said) => DaemonError::Refused(said.error),
        Err(_other) => DaemonError::Broken(format!("it answered {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read() {
        for (frame, expected) in [
            (": keep-alive", None),
            ("data: {\"handle\":1,\"pid\":42,\"started_at\":1}", None),
            (
                "data: {\"line\":\"hi\",\"timestamp\":1,\"stream\":\"stdout\"}",
                Some(RunEvent::Line("hi".to_owned())),
            ),
            (
                "data: {\"exit_code\":3,\"reason\":\"exited\"}",
                Some(RunEvent::End(RunEnd { exit_code: Some(3), ..RunEnd::default() })),
            ),
            (
                "data: {\"exit_code\":137,\"reason\":\"exited\",\"oom_killed\":true}",
                Some(RunEvent::End(RunEnd {
                    exit_code: Some(137),
                    oom_killed: true,
                    ..RunEnd::default()
                })),
            ),
            (
                "data: {\"exit_code\":null,\"signal\":9,\"reason\":\"oom_killed\"}",
                Some(RunEvent::End(RunEnd {
                    signal: Some(9),
                    oom_killed: true,
                    ..RunEnd::default()
                })),
            ),
        ] {
            assert_eq!(event(frame.as_bytes()).expect(frame), expected, "{frame}");
        }
        assert!(event(b"data: {").is_err());
    }
}
