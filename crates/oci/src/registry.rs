//! Talking to registries (OCI distribution specification 1.1, "Pulling").
//!
//! Written on `reqwest`: the client crate for registries cannot resume a transfer while its digest
//! is taken, tries no mirrors, and keeps tokens across callers. Redirects are followed here, not by
//! `reqwest`, because where one may lead, and what may go along, is a matter of safety.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use reqwest::{
    Certificate, Method, RequestBuilder, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, RANGE, RETRY_AFTER},
};
use url::Url;

use crate::{
    Bounds, Credentials, Digest, OciError, Reach, Reference, RegistryOptions,
    digest::shown,
    manifest::{Descriptor, MEDIA_TYPES},
    reach::{NotPublic, PublicResolver},
    reference::is_loopback,
};

pub(crate) mod blob;
mod challenge;
mod token;

/// Where the images of `docker.io` are.
const DOCKER_HUB: &str = "registry-1.docker.io";
/// How many redirects one answer may be away.
const MOST_REDIRECTS: usize = 5;
/// The longest answer of a token server, and the longest error that is read.
const LONGEST_ANSWER: u64 = 256 << 10;
/// The longest wait before a request is tried again.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Whom to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The mirrors, then the registry.
    Mirrors,
    /// The registry alone: something was wrong with what came from elsewhere.
    RegistryAlone,
}

/// The conversation about one image with its registry and the mirrors of that.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    http: &'a Clients,
    options: &'a RegistryOptions,
    reference: &'a Reference,
    credentials: Option<&'a Credentials>,
    sources: Vec<Source>,
}

/// One place that may have an image.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its host and port, for messages.
    name: String,
    /// What everything about the repository is below.
    base: Url,
    is_mirror: bool,
    /// What it wants to see in requests, once it has said so.
    authorization: Mutex<Option<HeaderValue>>,
}

/// A request that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: OciError,
    /// Whether and after how long it is worth another try.
    pub(crate) again: Option<Duration>,
}

/// The HTTP clients for registries.
#[derive(Debug)]
pub(crate) struct Clients {
    /// Connects to public addresses alone.
    public: reqwest::Client,
    /// Connects to wherever a name leads.
    free: reqwest::Client,
}

/// Makes the HTTP clients for registries. Blocks: it reads the certificates.
pub(crate) fn clients(options: &RegistryOptions) -> Result<Clients, OciError> {
    let mut roots = Vec::new();
    for path in &options.extra_roots {
        let pem = std::fs::read(path)
            .map_err(|error| OciError::disk("read certificates", path, error))?;
        let bundle = Certificate::from_pem_bundle(&pem).map_err(|error| {
            OciError::disk("read certificates", path, std::io::Error::other(error))
        })?;
        roots.extend(bundle);
    }
    let builder = || {
        reqwest::Client::builder()
            .user_agent(concat!("tarn/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.idle_timeout)
    };
    let build = |builder: &dyn Fn() -> reqwest::ClientBuilder| {
        let built = builder().tls_certs_merge(roots.clone()).build().or_else(|error| {
            tracing::warn!(
                %error, "the system's certificates cannot be used; only configured ones are"
            );
            builder().tls_certs_only(roots.clone()).build()
        });
        built.map_err(|error| OciError::disk("set up TLS", "", std::io::Error::other(error)))
    };
    let public = || builder().dns_resolver(Arc::new(PublicResolver));
    Ok(Clients { public: build(&public)?, free: build(&builder)? })
}

// === impl Session ===

impl<'a> Session<'a> {
    pub(crate) fn new(
        http: &'a Clients,
        options: &'a RegistryOptions,
        reference: &'a Reference,
        credentials: Option<&'a Credentials>,
        trust: Trust,
    ) -> Result<Self, OciError> {
        let registry = reference.registry();
        let host = if registry == "docker.io" { DOCKER_HUB } else { registry };
        let tls_port = host.ends_with(":443");
        let plain = options.plain_http.contains(registry) || (is_loopback(host) && !tls_port);
        let scheme = if plain { "http" } else { "https" };
        let url = Url::parse(&format!("{scheme}://{host}/")).map_err(|error| {
            OciError::malformed(format!("the registry {registry}"), error.to_string())
        })?;
        let mut sources = Vec::new();
        if trust == Trust::Mirrors {
            for mirror in options.mirrors.get(registry).into_iter().flatten() {
                sources.push(Source::new(mirror, reference, true)?);
            }
        }
        sources.push(Source::new(&url, reference, false)?);
        Ok(Self { http, options, reference, credentials, sources })
    }

    pub(crate) fn has_mirrors(&self) -> bool {
        self.sources.len() > 1
    }

    /// Fetches a manifest by its tag or digest, from the first that has it. Returns its digest,
    /// too.
    pub(crate) async fn manifest(
        &self,
        tag: &str,
        digest: Option<&Digest>,
        bounds: &Bounds,
    ) -> Result<(Digest, Vec<u8>), OciError> {
        let path = format!("manifests/{}", digest.map_or(tag, Digest::as_str));
        let (what, limit) = ("the size of a manifest", bounds.manifest_bytes);
        let verify = |bytes: &[u8]| {
            let mut hasher = digest.map_or_else(crate::digest::Hasher::sha256, Digest::hasher);
            hasher.update(bytes);
            let found = hasher.finish();
            match digest {
                Some(expected) if *expected != found => Err(OciError::BadDigest {
                    what: format!("the manifest of {}", self.reference),
                    expected: expected.clone(),
                    found,
                }),
                Some(_) | None => Ok(found),
            }
        };
        self.small(&path, what, limit, verify).await
    }

    /// Fetches a small blob.
    pub(crate) async fn blob(
        &self,
        blob: &Descriptor,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, OciError> {
        let path = format!("blobs/{}", blob.digest);
        let verify = |bytes: &[u8]| verify(bytes, blob);
        Ok(self.small(&path, what, limit, verify).await?.1)
    }

    async fn small<T>(
        &self,
        path: &str,
        what: &'static str,
        limit: u64,
        verify: impl Fn(&[u8]) -> Result<T, OciError>,
    ) -> Result<(T, Vec<u8>), OciError> {
        let mut last = None;
        for source in &self.sources {
            let fetched = self.again(|| async {
                let response = self.get(source, path, 0).await?;
                if response.status() != StatusCode::OK {
                    return Err(Failed::finally(source.refused(response.status(), String::new())));
                }
                self.body(source, response, what, limit).await
            });
            match fetched.await.and_then(|bytes| Ok((verify(&bytes)?, bytes))) {
                Ok(fetched) => return Ok(fetched),
                Err(error) => last = Some(source.give_up(error)),
            }
        }
        Err(last.unwrap_or(OciError::Cancelled))
    }

    /// Tries until it succeeds, has failed for good, or has failed too often.
    async fn again<T, F: Future<Output = Result<T, Failed>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T, OciError> {
        let mut failures = 0;
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(failed) => {
                    failures += 1;
                    self.wait(failed, failures).await?;
                }
            }
        }
    }

    /// Waits before a request is tried again after so many failures; gives its error if it is not
    /// to be.
    async fn wait(&self, failed: Failed, failures: u32) -> Result<(), OciError> {
        let Some(asked) = failed.again.filter(|_| failures <= self.options.retries) else {
            return Err(failed.error);
        };
        let doubled = self.options.backoff.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let wait = doubled.max(asked).min(LONGEST_WAIT);
        tracing::debug!(error = %failed.error, ?wait, "a request to a registry is tried again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Asks a source for something about the image, from a byte on; a challenge is met once.
    pub(crate) async fn get(
        &self,
        source: &Source,
        path: &str,
        from: u64,
    ) -> Result<Response, Failed> {
        let url = source.base.join(path).map_err(|error| {
            Failed::finally(OciError::malformed("the address of a blob", error.to_string()))
        })?;
        let response = self.follow(source, url.clone(), from).await?;
        let response = if response.status() == StatusCode::UNAUTHORIZED
            && source.is_same_place(response.url())
        {
            self.authorize(source, &response).await?;
            self.follow(source, url, from).await?
        } else {
            response
        };
        let status = response.status();
        match status.as_u16() {
            200 | 206 | 416 => Ok(response),
            404 => Err(Failed::finally(OciError::NotFound { what: self.reference.to_string() })),
            401 | 403 => Err(Failed::finally(self.unauthorized(source))),
            408 | 425 | 429 | 500..=599 => {
                let wait = retry_after(&response);
                let detail = self.detail(source, response).await;
                Err(Failed { error: source.refused(status, detail), again: Some(wait) })
            }
            _ => {
                let detail = self.detail(source, response).await;
                Err(Failed::finally(source.refused(status, detail)))
            }
        }
    }

    /// Sends a request and follows where the answer leads. What authorizes it goes to the source
    /// alone.
    async fn follow(&self, source: &Source, url: Url, from: u64) -> Result<Response, Failed> {
        let is_manifest = url.path().contains("/manifests/");
        let mut url = url;
        for _ in 0..=MOST_REDIRECTS {
            let mut request = self.request(source, Method::GET, &url)?;
            if is_manifest {
                request = request.header(ACCEPT, MEDIA_TYPES.join(", "));
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let authorization = source.authorization.lock().clone();
            if let Some(authorization) = authorization.filter(|_| source.is_same_place(&url)) {
                request = request.header(AUTHORIZATION, authorization);
            }
            let response = request.send().await;
            let response = response.map_err(|error| source.not_reached(&url, error, "ask"))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|it| it.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let next = next.filter(|next| self.may_lead_to(source, next)).ok_or_else(|| {
                let detail = ": it redirects to where images may not be fetched from".to_owned();
                Failed::finally(source.refused(response.status(), detail))
            })?;
            url = next;
        }
        let detail = ": it redirects without end".to_owned();
        Err(Failed::finally(source.refused(StatusCode::LOOP_DETECTED, detail)))
    }

    /// Begins a request, unless it must not go there.
    fn request(
        &self,
        source: &Source,
        method: Method,
        url: &Url,
    ) -> Result<RequestBuilder, Failed> {
        // Who runs the machine has said where its mirrors are.
        let is_mirror = source.is_mirror && source.is_same_place(url);
        if is_mirror || self.options.reach.is_free(url) {
            return Ok(self.http.free.request(method, url.clone()));
        }
        if Reach::may_be_public(url) {
            return Ok(self.http.public.request(method, url.clone()));
        }
        Err(Failed::not_public(url))
    }

    /// Says whether a source may send us somewhere: to any HTTPS, and in plain HTTP only to where
    /// that is configured or where the source itself is. So no registry can make us ask a service
    /// of this machine or its network that speaks no TLS.
    fn may_lead_to(&self, source: &Source, url: &Url) -> bool {
        if !url.username().is_empty() || url.password().is_some() {
            return false;
        }
        let Some(host) = host_of(url) else { return false };
        match url.scheme() {
            "https" => true,
            "http" => may_be_plain(&self.options.plain_http, &source.base, &host),
            _ => false,
        }
    }

    /// Reads an answer whole.
    async fn body(
        &self,
        source: &Source,
        mut response: Response,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, Failed> {
        let too_large = || Failed::finally(OciError::TooLarge { what, limit });
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        loop {
            let chunk = response.chunk().await;
            match chunk.map_err(|error| source.unreachable(error, "read"))? {
                None => return Ok(bytes),
                Some(chunk) if (bytes.len() + chunk.len()) as u64 > limit => {
                    return Err(too_large());
                }
                Some(chunk) => bytes.extend_from_slice(&chunk),
            }
        }
    }

    /// Returns what a registry says about a refusal, fit for a message.
    async fn detail(&self, source: &Source, response: Response) -> String {
        let body = self.body(source, response, "the size of an error", LONGEST_ANSWER).await;
        let message = body.ok().and_then(|body| {
            let answer: serde_json::Value = serde_json::from_slice(&body).ok()?;
            Some(answer.pointer("/errors/0/message")?.as_str()?.to_owned())
        });
        message.map(|message| format!(": {}", shown(&message))).unwrap_or_default()
    }

    fn unauthorized(&self, source: &Source) -> OciError {
        let repository = self.reference.repository().to_owned();
        OciError::Unauthorized { registry: source.name.clone(), repository }
    }
}

// === impl Source ===

impl Source {
    fn new(base: &Url, reference: &Reference, is_mirror: bool) -> Result<Self, OciError> {
        let bad = || OciError::Unsupported {
            what: "a mirror that is not `http://` or `https://` and a host".to_owned(),
            advice: "correct the configuration",
        };
        let name = host_of(base).filter(|_| base.scheme().starts_with("http")).ok_or_else(bad)?;
        let path = base.path().trim_end_matches('/');
        let mut url = base.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.set_path(&format!("{path}/v2/{}/", reference.repository()));
        Ok(Self { name, base: url, is_mirror, authorization: Mutex::new(None) })
    }

    /// Says whether an address is at this source: there what authorizes us may be shown.
    fn is_same_place(&self, url: &Url) -> bool {
        url.scheme() == self.base.scheme()
            && url.host() == self.base.host()
            && url.port_or_known_default() == self.base.port_or_known_default()
    }

    /// Takes note that a mirror did not serve.
    fn give_up(&self, error: OciError) -> OciError {
        if self.is_mirror {
            tracing::warn!(mirror = self.name, %error, "a mirror did not serve an image");
        }
        error
    }

    fn refused(&self, status: StatusCode, detail: String) -> OciError {
        OciError::Refused { registry: self.name.clone(), status: status.as_u16(), detail }
    }

    /// What the network said to a request; it is worth another try unless it must not go there.
    fn not_reached(&self, url: &Url, error: reqwest::Error, step: &'static str) -> Failed {
        if NotPublic::is_cause_of(&error) {
            return Failed::not_public(url);
        }
        self.unreachable(error, step)
    }

    /// What the network said; it is worth another try.
    fn unreachable(&self, error: reqwest::Error, step: &'static str) -> Failed {
        // The address may carry a signature that lets its bearer read the blob.
        let source = Box::new(error.without_url());
        let error = OciError::Unreachable { registry: self.name.clone(), step, source };
        Failed { error, again: Some(Duration::ZERO) }
    }
}

// === impl Failed ===

impl Failed {
    fn finally(error: OciError) -> Self {
        Self { error, again: None }
    }

    fn not_public(url: &Url) -> Self {
        let host = host_of(url).unwrap_or_default();
        Self::finally(OciError::NotPublic { host })
    }
}

/// Says whether plain HTTP may go to a host because a source says so.
fn may_be_plain(configured: &BTreeSet<String>, source: &Url, host: &str) -> bool {
    configured.contains(host)
        || (source.scheme() == "http"
            && host_of(source)
                .is_some_and(|own| own == host || (is_loopback(&own) && is_loopback(host))))
}

/// Returns `host` or `host:port`, as it stands in names of images.
fn host_of(url: &Url) -> Option<String> {
    let host = url.host_str().filter(|host| !host.is_empty())?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

/// Returns how long a registry asks us to wait.
fn retry_after(response: &Response) -> Duration {
    let header = response.headers().get(RETRY_AFTER).and_then(|it| it.to_str().ok());
    let seconds = header.and_then(|seconds| seconds.trim().parse::<u64>().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// Checks bytes against what refers to them.
pub(crate) fn verify(bytes: &[u8], blob: &Descriptor) -> Result<(), OciError> {
    let what = format!("the blob {}", blob.digest);
    let size = bytes.len() as u64;
    if size != blob.size {
        return Err(OciError::BadSize { what, expected: blob.size, found: size });
    }
    let mut hasher = blob.digest.hasher();
    hasher.update(bytes);
    let found = hasher.finish();
    if found != blob.digest {
        return Err(OciError::BadDigest { what, expected: blob.digest.clone(), found });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
