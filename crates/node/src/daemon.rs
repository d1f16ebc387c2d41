//! The node's side of the private wire to `tarnd`.

use std::{fmt, net::SocketAddr, pin::Pin, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tarn_daemon_api::ErrorBody;
use tarn_guest_api::{
    INIT_PATH, InitRequest, InitResponse, MEMORY_PRESSURE_PATH, MemoryPressureRequest,
    MemoryPressureResponse, SEAL_PATH, SealRequest, SealResponse, TOKEN_HEADER, UNSEAL_PATH,
    UnsealRequest, UnsealResponse, code,
};
use tarn_types::DaemonToken;
use thiserror::Error;
use tokio::net::TcpStream;

/// The largest answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// Says why a daemon did not do what it was asked.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// Nothing listens yet, or any more.
    #[error("the daemon cannot be reached: {0}")]
    Unreachable(String),
    /// The connection broke, or the answer makes no sense.
    #[error("the daemon's answer cannot be read: {0}")]
    Broken(String),
    /// Entrypoint, user or working directory cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// The daemon said no.
    #[error("the daemon refused with {status}: {text}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        text: String,
    },
}

/// What moves the bytes of a connection.
type Driver = Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>;

/// A connection that carries one request after the other.
pub(crate) struct DaemonConnection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// Moves the bytes; polled while something is asked. `None` once the connection has ended.
    driver: Option<Driver>,
}

/// Opens a daemon.
pub(crate) async fn init(
    daemon: SocketAddr,
    request: &InitRequest,
) -> Result<InitResponse, DaemonError> {
    post(daemon, INIT_PATH, None, request).await
}

/// Says whether a daemon listens; it need not be open.
pub(crate) async fn listens(daemon: SocketAddr) -> Result<(), DaemonError> {
    connect(daemon).await.map(drop)
}

/// Makes a daemon end the largest process of its sandbox.
pub(crate) async fn relieve(
    daemon: SocketAddr,
    token: &DaemonToken,
) -> Result<MemoryPressureResponse, DaemonError> {
    post(daemon, MEMORY_PRESSURE_PATH, Some(token), &MemoryPressureRequest {}).await
}

/// Has a daemon begin no more requests until it is unsealed. The connection is good for that, too.
pub(crate) async fn seal(
    daemon: SocketAddr,
    token: &DaemonToken,
) -> Result<DaemonConnection, DaemonError> {
    let mut connection = DaemonConnection::open(daemon).await?;
    let _sealed: SealResponse = connection.ask(SEAL_PATH, token, &SealRequest {}).await?;
    Ok(connection)
}

/// Has a sealed daemon serve again, under a token of its own.
pub(crate) async fn unseal(
    daemon: SocketAddr,
    token: &DaemonToken,
    request: &UnsealRequest,
) -> Result<UnsealResponse, DaemonError> {
    post(daemon, UNSEAL_PATH, Some(token), request).await
}

/// Says whether a daemon is open with this token.
pub(crate) async fn is_open(daemon: SocketAddr, token: &DaemonToken) -> Result<(), DaemonError> {
    let request = Request::builder()
        .method(Method::GET)
        .uri(tarn_guest_api::STATS_PATH)
        .header(TOKEN_HEADER, token.reveal());
    let (status, body) = send(daemon, request, Bytes::new()).await?;
    if status.is_success() { Ok(()) } else { Err(refusal(status, &body)) }
}

async fn post<Q: Serialize + Sync, A: DeserializeOwned>(
    daemon: SocketAddr,
    path: &str,
    token: Option<&DaemonToken>,
    question: &Q,
) -> Result<A, DaemonError> {
    let body = serde_json::to_vec(question).map_err(|bad| DaemonError::Broken(bad.to_string()))?;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(TOKEN_HEADER, token.reveal());
    }
    let (status, body) = send(daemon, request, body.into()).await?;
    if !status.is_success() {
        return Err(refusal(status, &body));
    }
    serde_json::from_slice(&body).map_err(|bad| DaemonError::Broken(bad.to_string()))
}

async fn connect(daemon: SocketAddr) -> Result<TcpStream, DaemonError> {
    let stream = TcpStream::connect(daemon)
        .await
        .map_err(|refused| DaemonError::Unreachable(refused.to_string()))?;
    // Small requests, one answer each: waiting for more bytes only costs time.
    stream.set_nodelay(true).map_err(|bad| DaemonError::Broken(bad.to_string()))?;
    Ok(stream)
}

async fn send(
    daemon: SocketAddr,
    request: http::request::Builder,
    body: Bytes,
) -> Result<(StatusCode, Bytes), DaemonError> {
    let broken = |bad: hyper::Error| DaemonError::Broken(bad.to_string());
    let stream = connect(daemon).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = request
        .header(header::HOST, "tarnd")
        .body(Full::new(body))
        .map_err(|bad| DaemonError::Broken(bad.to_string()))?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|bad| DaemonError::Broken(bad.to_string()))?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // It may have delivered the whole answer and ended in one go; if it did not, the exchange
        // knows at once that no more will come, and why.
        _ended = connection => exchange.await,
    }
}

// === impl DaemonConnection ===

impl DaemonConnection {
    /// Connects to a daemon.
    pub(crate) async fn open(daemon: SocketAddr) -> Result<Self, DaemonError> {
        let (sender, connection) = http1::handshake(TokioIo::new(connect(daemon).await?))
            .await
            .map_err(|bad| DaemonError::Broken(bad.to_string()))?;
        Ok(Self { sender, driver: Some(Box::pin(connection)) })
    }

    /// Asks something and returns the head of the answer, whose body must be read before the next
    /// question. A connection whose answer was not read is of no further use.
    pub(crate) async fn post<Q: Serialize + Sync>(
        &mut self,
        path: &str,
        token: &DaemonToken,
        question: &Q,
    ) -> Result<Response<Incoming>, DaemonError> {
        let broken = |bad: String| DaemonError::Broken(bad);
        let body = serde_json::to_vec(question).map_err(|bad| broken(bad.to_string()))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, "tarnd")
            .header(header::CONTENT_TYPE, "application/json")
            .header(TOKEN_HEADER, token.reveal())
            .body(Full::new(body.into()))
            .map_err(|bad| broken(bad.to_string()))?;
        let Self { sender, driver } = self;
        let exchange = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        drive(driver, exchange).await.map_err(|bad| broken(bad.to_string()))
    }

    /// Has a sealed daemon serve again, as [`unseal`] does.
    pub(crate) async fn unseal(
        &mut self,
        token: &DaemonToken,
        request: &UnsealRequest,
    ) -> Result<UnsealResponse, DaemonError> {
        self.ask(UNSEAL_PATH, token, request).await
    }

    async fn ask<Q: Serialize + Sync, A: DeserializeOwned>(
        &mut self,
        path: &str,
        token: &DaemonToken,
        question: &Q,
    ) -> Result<A, DaemonError> {
        let answer = self.post(path, token, question).await?;
        self.read(answer, MAX_ANSWER).await
    }

    /// Reads the body of an answer.
    pub(crate) async fn read<A: DeserializeOwned>(
        &mut self,
        answer: Response<Incoming>,
        max_bytes: usize,
    ) -> Result<A, DaemonError> {
        let (head, body) = answer.into_parts();
        let body = drive(&mut self.driver, Limited::new(body, max_bytes).collect())
            .await
            .map_err(|bad| DaemonError::Broken(bad.to_string()))?
            .to_bytes();
        if !head.status.is_success() {
            return Err(refusal(head.status, &body));
        }
        serde_json::from_slice(&body).map_err(|bad| DaemonError::Broken(bad.to_string()))
    }
}

impl fmt::Debug for DaemonConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaemonConnection").finish_non_exhaustive()
    }
}

/// Awaits an exchange while the connection moves its bytes.
async fn drive<T>(driver: &mut Option<Driver>, exchange: impl Future<Output = T>) -> T {
    tokio::pin!(exchange);
    if let Some(moving) = driver.as_mut() {
        tokio::select! {
            answer = &mut exchange => return answer,
            // As in `send`: what arrived before the end still counts.
            _ended = moving => {}
        }
        *driver = None;
    }
    exchange.await
}

fn refusal(status: StatusCode, body: &[u8]) -> DaemonError {
    let Ok(said) = serde_json::from_slice::<ErrorBody>(body) else {
        let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        return DaemonError::Refused { status: status.as_u16(), text };
    };
    if said.code.as_deref() == Some(code::CONFIGURATION_ERROR) {
        return DaemonError::Configuration(said.error);
    }
    DaemonError::Refused { status: status.as_u16(), text: said.error }
}

/// Asks again as long as nothing listens yet.
pub(crate) async fn knock<T, F>(mut ask: impl FnMut() -> F) -> Result<T, DaemonError>
where
    F: Future<Output = Result<T, DaemonError>>,
{
    let mut round = 0;
    loop {
        match ask().await {
            Err(DaemonError::Unreachable(_)) => {
                tokio::time::sleep(knock_delay(round)).await;
                round = round.saturating_add(1);
            }
            answered => break answered,
        }
    }
}

/// How long to wait before knocking again at a daemon that is not there yet: 1 ms, then 2, 4, 5 …
pub(crate) fn knock_delay(round: u32) -> Duration {
    Duration::from_millis(1 << round.min(2)).min(Duration::from_millis(5))
}
