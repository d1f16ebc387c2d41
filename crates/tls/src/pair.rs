//! A certificate with its key, and what can be said about it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject as _},
    },
    sign::CertifiedKey,
};
use tarn_types::UnixMillis;
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};
use zeroize::Zeroizing;

/// Later than any date that a certificate can hold: the year 10000.
const BEYOND_ALL_DATES_SECS: u64 = 253_402_300_800;

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain in PEM, the server's own certificate first.
    pub certificate: PathBuf,
    /// The key in PEM: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
}

/// A chain with the key that fits it.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) validity: Validity,
}

/// Between which times a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) from: UnixMillis,
    pub(crate) until: UnixMillis,
}

/// Says why two files are no certificate and key to serve with.
#[derive(Debug, Error)]
pub enum PairError {
    /// A file cannot be read.
    #[error("read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file is no PEM.
    #[error("{} is not sound PEM", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Where it is not.
        source: pem::Error,
    },
    /// There is no certificate in the file.
    #[error("{} holds no certificate; it must have `-----BEGIN CERTIFICATE-----`", .path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// There is no key in the file.
    #[error(
        "{} holds no private key that is not encrypted; it must have `-----BEGIN PRIVATE KEY-----`",
        .path.display()
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The certificate is malformed.
    #[error("understand the first certificate of {}", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: webpki::Error,
    },
    /// The key is malformed, or of a kind that is not supported.
    #[error("use the key of {}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The key is another certificate's.
    #[error(
        "the key in {} does not fit the first certificate in {}; the server's own certificate must come first",
        .key.display(), .certificate.display()
    )]
    Mismatch {
        /// The file with the chain.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// The certificate is not valid any more.
    #[error("the certificate in {} expired on {until}", .path.display())]
    Expired {
        /// The file.
        path: PathBuf,
        /// When it did.
        until: String,
    },
    /// The certificate is not valid yet.
    #[error("the certificate in {} is not valid before {from}; is the clock right?", .path.display())]
    NotYet {
        /// The file.
        path: PathBuf,
        /// When it will be.
        from: String,
    },
}

// === impl CertificateFiles ===

impl CertificateFiles {
    /// Says whether they can be served with. Blocks.
    ///
    /// # Errors
    /// Fails when they cannot.
    pub fn check(&self, now: UnixMillis) -> Result<(), PairError> {
        Pair::read(self, now).map(drop)
    }
}

// === impl PairError ===

impl PairError {
    /// Says whether there is just no file.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Says whether the same files may be good later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Read { .. } | Self::NotYet { .. } => true,
            Self::Pem { .. }
            | Self::NoCertificate { .. }
            | Self::NoKey { .. }
            | Self::Certificate { .. }
            | Self::Key { .. }
            | Self::Mismatch { .. }
            | Self::Expired { .. } => false,
        }
    }
}

// === impl Pair ===

impl Pair {
    /// Reads a pair, and checks all that a client would find wrong with it by itself. Blocks.
    pub(crate) fn read(files: &CertificateFiles, now: UnixMillis) -> Result<Self, PairError> {
        let chain = read_chain(&files.certificate)?;
        let key = read_key(&files.key)?;
        let path = || files.certificate.clone();
        let validity = Validity::of(&chain[0])
            .map_err(|source| PairError::Certificate { path: path(), source })?;
        let key = aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|source| PairError::Key { path: files.key.clone(), source })?;
        let key = CertifiedKey::new(chain, key);
        if key.keys_match().is_err() {
            let (certificate, key) = (path(), files.key.clone());
            return Err(PairError::Mismatch { certificate, key });
        }
        if now > validity.until {
            return Err(PairError::Expired { path: path(), until: date(validity.until) });
        }
        if now < validity.from {
            return Err(PairError::NotYet { path: path(), from: date(validity.from) });
        }
        Ok(Self { key: Arc::new(key), validity })
    }

    /// Says whether a client that comes by a name or an address accepts this certificate for it.
    pub(crate) fn covers(&self, host: &str) -> bool {
        let (Some(certificate), Ok(name)) = (self.key.cert.first(), ServerName::try_from(host))
        else {
            return false;
        };
        EndEntityCert::try_from(certificate)
            .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&name).is_ok())
    }
}

// === impl Validity ===

impl Validity {
    /// Reads it from a certificate.
    ///
    /// webpki shows no dates, but says them when it refuses a certificate because of them, before
    /// it looks at anything else: hence one check from before all dates and one from after them.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, webpki::Error> {
        let certificate = EndEntityCert::try_from(certificate)?;
        let at = |secs| {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(secs));
            let usage = KeyUsage::server_auth();
            certificate.verify_for_usage(&[], &[], &[], time, usage, None, None).err()
        };
        let from = match at(0) {
            Some(webpki::Error::CertNotValidYet { not_before, .. }) => not_before.as_secs(),
            Some(_) | None => 0,
        };
        match at(BEYOND_ALL_DATES_SECS) {
            Some(webpki::Error::CertExpired { not_after, .. }) => {
                Ok(Self { from: millis(from), until: millis(not_after.as_secs()) })
            }
            other => Err(other.unwrap_or(webpki::Error::InvalidCertValidity)),
        }
    }
}

/// Writes a time as `2023-11-14T22:13:20Z`.
#[must_use]
pub fn date(at: UnixMillis) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| at.to_string(), |at| at.to_string())
}

fn millis(secs: u64) -> UnixMillis {
    UnixMillis(0).plus_secs(secs)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, PairError> {
    let text = read_file(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|source| PairError::Pem { path: path.to_owned(), source })?;
    if chain.is_empty() {
        return Err(PairError::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, PairError> {
    let text = read_file(path)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(PairError::NoKey { path: path.to_owned() }),
        Err(source) => Err(PairError::Pem { path: path.to_owned(), source }),
    }
}

/// Reads a file that may hold a secret.
fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, PairError> {
    fs::read(path)
        .map(Zeroizing::new)
        .map_err(|source| PairError::Read { path: path.to_owned(), source })
}
