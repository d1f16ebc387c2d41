//! Where the object store is, and how it is spoken with.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt as _, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientOptions, RetryConfig, aws::AmazonS3Builder, local::LocalFileSystem,
    prefix::PrefixStore,
};
use secrecy::{ExposeSecret as _, SecretString};
use tarn_host::ArchiveError;
use thiserror::Error;
use url::Url;

use super::bucket::Bucket;
use crate::durable;

/// Where the object store is, and who we are to it.
#[derive(Debug, Clone)]
pub struct ObjectStoreConfig {
    /// `file:///directory` or `s3://bucket/prefix`.
    pub url: String,
    /// Where S3 answers, such as `https://s3.example.com`; `None` for AWS itself.
    pub endpoint: Option<String>,
    /// The region of the bucket; `None` for `us-east-1`, which most servers but AWS take.
    pub region: Option<String>,
    /// The access key of S3.
    pub access_key: Option<String>,
    /// Its secret.
    pub secret_key: Option<SecretString>,
    /// Whether `endpoint` may be `http://`.
    pub allow_http: bool,
    /// How long what nobody needs any more is kept by those who collect it. An upload renews what
    /// is half as old, so it must be over in the other half.
    pub grace: Duration,
}

/// Says what is wrong with the configuration of an object store.
#[derive(Debug, Error)]
pub enum ObjectStoreConfigError {
    /// It is not of a kind that we speak.
    #[error("the object store's URL must be file:///directory or s3://bucket/prefix, not {url}")]
    Url {
        /// What it is.
        url: String,
    },
    /// Something that S3 needs is not given.
    #[error("an object store s3://… needs {what}")]
    Absent {
        /// What.
        what: &'static str,
    },
    /// The endpoint is no URL of a web server.
    #[error(
        "the object store's endpoint must begin with https:// or http://, and {endpoint} does not"
    )]
    Endpoint {
        /// What it is.
        endpoint: String,
    },
    /// The endpoint is not encrypted, and that was not allowed.
    #[error("the object store's endpoint {endpoint} is not encrypted; use https, or allow http")]
    Http {
        /// What it is.
        endpoint: String,
    },
}

/// The region where none is given.
const REGION: &str = "us-east-1";
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one try of a request may take, its body of some MiB included.
const REQUEST: Duration = Duration::from_secs(30);
/// How often, and how long, a request is tried again.
const RETRIES: usize = 10;
const RETRY_FOR: Duration = Duration::from_secs(30);

/// Whether a request that fails is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    Retries,
    None,
}

// === impl ObjectStoreConfig ===

impl ObjectStoreConfig {
    /// How long what nobody needs is kept where nothing else is said.
    pub const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

    /// Takes a URL; all else is as if it were not given.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            endpoint: None,
            region: None,
            access_key: None,
            secret_key: None,
            allow_http: false,
            grace: Self::GRACE,
        }
    }

    /// Checks everything that can be checked without asking the object store.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<(), ObjectStoreConfigError> {
        let url = self.parse()?;
        if url.scheme() == "file" {
            return Ok(());
        }
        let given = [
            ("an access key", self.access_key.is_some()),
            ("a secret key", self.secret_key.is_some()),
        ];
        if let Some((what, _)) = given.into_iter().find(|(_, given)| !given) {
            return Err(ObjectStoreConfigError::Absent { what });
        }
        let Some(endpoint) = &self.endpoint else { return Ok(()) };
        let scheme = Url::parse(endpoint).ok();
        let scheme = scheme.as_ref().filter(|url| url.has_host()).map(Url::scheme);
        match scheme {
            Some("https") => Ok(()),
            Some("http") if self.allow_http => Ok(()),
            Some("http") => Err(ObjectStoreConfigError::Http { endpoint: shown(endpoint) }),
            Some(_) | None => Err(ObjectStoreConfigError::Endpoint { endpoint: shown(endpoint) }),
        }
    }

    fn parse(&self) -> Result<Url, ObjectStoreConfigError> {
        let wrong = || ObjectStoreConfigError::Url { url: shown(&self.url) };
        let url = Url::parse(&self.url).map_err(|_unparsed| wrong())?;
        let plain = url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
            && url.port().is_none();
        let known = match url.scheme() {
            "file" => url.to_file_path().is_ok_and(|path| path.parent().is_some()),
            "s3" => url.has_host(),
            _ => false,
        };
        if plain && known { Ok(url) } else { Err(wrong()) }
    }

    /// Makes what speaks with it. Blocks for the making of a directory; asks no server.
    pub(super) fn open(&self, patience: Patience) -> Result<Bucket, ArchiveError> {
        self.check().map_err(|error| self.failed(error))?;
        let url = self.parse().map_err(|error| self.failed(error))?;
        if url.scheme() == "file" {
            return self.open_dir(&url);
        }
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(url.host_str().unwrap_or_default())
            .with_region(self.region.as_deref().unwrap_or(REGION))
            .with_access_key_id(self.access_key.as_deref().unwrap_or_default())
            .with_allow_http(self.allow_http)
            .with_retry(retries(patience))
            .with_client_options(
                ClientOptions::new()
                    .with_allow_http(self.allow_http)
                    .with_connect_timeout(CONNECT)
                    .with_timeout(REQUEST),
            );
        if let Some(secret) = &self.secret_key {
            builder = builder.with_secret_access_key(secret.expose_secret());
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        let s3 = builder.build().map_err(|error| self.failed(error))?;
        let prefix = object_store::path::Path::from_url_path(url.path());
        let prefix = prefix.map_err(|error| self.failed(error))?;
        Ok(Bucket::new(Arc::new(PrefixStore::new(s3, prefix)), None))
    }

    fn open_dir(&self, url: &Url) -> Result<Bucket, ArchiveError> {
        let dir = url.to_file_path().unwrap_or_default();
        let mut builder = DirBuilder::new();
        if !dir.is_dir() {
            builder.recursive(true).mode(0o700).create(&dir).map_err(|error| self.failed(error))?;
            let synced = dir.ancestors().skip(1).try_for_each(durable::sync);
            synced.map_err(|error| self.failed(error))?;
        }
        let local = LocalFileSystem::new_with_prefix(&dir).map_err(|error| self.failed(error))?;
        // Nothing that was acknowledged is ever lost: files and their names are synced.
        Ok(Bucket::new(Arc::new(local.with_fsync(true)), Some(dir)))
    }

    fn failed(&self, error: impl std::error::Error + Send + Sync + 'static) -> ArchiveError {
        ArchiveError::Store { step: "open", object: shown(&self.url), source: Box::new(error) }
    }
}

/// Leaves out of a URL who one is and the password, for an error's text.
fn shown(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        (Some(_) | None, Some(_) | None) => url.to_owned(),
    }
}

/// The one layer that retries.
fn retries(patience: Patience) -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(5),
        base: 2.0,
    };
    let max_retries = match patience {
        Patience::Retries => RETRIES,
        Patience::None => 0,
    };
    RetryConfig { backoff, max_retries, retry_timeout: RETRY_FOR }
}
