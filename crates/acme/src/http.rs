//! The way to the authority: HTTPS with bounds, by the proxy that the environment names.

use std::{future::Future, path::Path, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode, header::RETRY_AFTER};
use http_body_util::BodyExt as _;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use parking_lot::Mutex;
use reqwest::Certificate;

use crate::AcmeError;

/// How long one request may take.
const REQUEST_DEADLINE: Duration = Duration::from_secs(60);
/// More than any answer of an authority has: a chain is a few KiB.
const ANSWER_MOST: usize = 1 << 20;

/// Sends requests, and hears how long the authority wants not to be asked.
#[derive(Debug, Clone)]
pub(crate) struct AuthorityClient {
    http: reqwest::Client,
    asked: Arc<Mutex<Option<Duration>>>,
}

type Answer = Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>>;

// === impl AuthorityClient ===

impl AuthorityClient {
    /// Makes one that trusts the system's authorities, and those in a file. Blocks.
    pub(crate) fn new(ca_file: Option<&Path>) -> Result<Self, AcmeError> {
        let mut roots = Vec::new();
        if let Some(path) = ca_file {
            let read = |source| AcmeError::File { step: "read", path: path.to_owned(), source };
            let pem = std::fs::read(path).map_err(read)?;
            let parsed = Certificate::from_pem_bundle(&pem);
            roots = parsed.map_err(|bad| read(std::io::Error::other(bad)))?;
            if roots.is_empty() {
                return Err(read(std::io::Error::other("it holds no certificate")));
            }
        }
        let builder = || {
            reqwest::Client::builder()
                .https_only(true)
                .referer(false)
                .redirect(reqwest::redirect::Policy::limited(3))
                .connect_timeout(REQUEST_DEADLINE / 2)
                .timeout(REQUEST_DEADLINE)
        };
        let built = builder().tls_certs_merge(roots.clone()).build();
        // A machine without authorities of its own has use for those of the file.
        let built = built.or_else(|bad| match roots.is_empty() {
            true => Err(bad),
            false => builder().tls_certs_only(roots).build(),
        });
        let http = built.map_err(|bad| AcmeError::Client { source: bad.into() })?;
        Ok(Self { http, asked: Arc::default() })
    }

    /// Takes what the authority last asked for.
    pub(crate) fn take_asked(&self) -> Option<Duration> {
        self.asked.lock().take()
    }

    /// Hands it over as the trait object that the protocol wants.
    pub(crate) fn boxed(&self) -> Box<dyn HttpClient> {
        Box::new(self.clone())
    }

    async fn send(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Failure> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let url = parts.uri.to_string();
        let sent = self.http.request(parts.method, url).headers(parts.headers).body(body);
        let mut response = sent.send().await?;
        let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        if busy.contains(&response.status()) {
            let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let secs = after.and_then(|text| text.trim().parse().ok());
            *self.asked.lock() = secs.map(Duration::from_secs);
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = response.chunk().await? {
            if bytes.len() + chunk.len() > ANSWER_MOST {
                return Err(format!("the answer is longer than {ANSWER_MOST} bytes").into());
            }
            bytes.extend_from_slice(&chunk);
        }
        let mut answer = http::Response::new(());
        *answer.status_mut() = response.status();
        *answer.headers_mut() = std::mem::take(response.headers_mut());
        let (parts, ()) = answer.into_parts();
        Ok(BytesResponse { parts, body: Box::new(bytes.freeze()) })
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl HttpClient for AuthorityClient {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Answer {
        let client = self.clone();
        Box::pin(async move { client.send(request).await.map_err(instant_acme::Error::Other) })
    }
}
