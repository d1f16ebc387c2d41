//! One request over the administrative socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::{ADMIN_SOCKET, CliError};

/// How long a request may take that does not say otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer that is read: some two hundred thousand sandboxes.
const ANSWER_LIMIT: usize = 64 << 20;

/// Speaks to the server of one data directory.
#[derive(Debug)]
pub(crate) struct AdminClient {
    data_dir: PathBuf,
    timeout: Duration,
}

#[derive(Debug, Deserialize)]
struct ErrorAnswer {
    error: String,
    code: String,
}

// === impl AdminClient ===

impl AdminClient {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned(), timeout: TIMEOUT }
    }

    /// Returns one whose requests may take longer.
    pub(crate) fn patient(&self, timeout: Duration) -> Self {
        Self { data_dir: self.data_dir.clone(), timeout }
    }

    /// Sends one request and reads its answer.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<T, CliError> {
        self.call_status(method, path, body).await.map(|(_status, answer)| answer)
    }

    /// The same, for those to whom the status of a success says something.
    pub(crate) async fn call_status<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<(StatusCode, T), CliError> {
        match tokio::time::timeout(self.timeout, self.exchange(method, path, body)).await {
            Ok(answer) => {
                let answer = answer?;
                Ok((answer.0, read(answer)?))
            }
            Err(_elapsed) => Err(CliError::BadAnswer {
                reason: format!("nothing within {} s", self.timeout.as_secs()),
            }),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<(StatusCode, Bytes), CliError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(bad)?;
        let body = body.map(ToString::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "tarn")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|wrong| CliError::BadAnswer { reason: wrong.to_string() })?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(bad)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
            let body = body.map_err(|broken| CliError::BadAnswer { reason: broken.to_string() })?;
            Ok((status, body.to_bytes()))
        };
        // The connection is driven here and not by a task: it lives exactly as long as the request.
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            answer = exchange.as_mut() => answer,
            ended = connection.as_mut() => {
                ended.map_err(bad)?;
                exchange.await
            }
        }
    }

    async fn connect(&self) -> Result<UnixStream, CliError> {
        let socket = self.data_dir.join(ADMIN_SOCKET);
        UnixStream::connect(&socket).await.map_err(|source| {
            if source.kind() == io::ErrorKind::PermissionDenied {
                CliError::NotAllowed { socket, source }
            } else {
                CliError::NotRunning { data_dir: self.data_dir.clone(), source }
            }
        })
    }
}

fn read<T: DeserializeOwned>((status, body): (StatusCode, Bytes)) -> Result<T, CliError> {
    let wrong = |wrong: serde_json::Error| CliError::BadAnswer { reason: wrong.to_string() };
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(wrong);
    }
    let refusal: ErrorAnswer = serde_json::from_slice(&body).map_err(wrong)?;
    Err(CliError::Refused { message: refusal.error, code: refusal.code })
}

#[allow(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn bad(broken: hyper::Error) -> CliError {
    CliError::BadAnswer { reason: broken.to_string() }
}
