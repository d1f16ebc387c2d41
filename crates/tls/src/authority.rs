//! A certificate authority of this server's own, for where nobody else can vouch for it.
//!
//! Its key lies in the data directory and signs nothing but the certificates of this server, which
//! are made anew at each start and lie nowhere. Clients trust `ca.pem`.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SerialNumber,
};
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime,
        pem::{self, PemObject as _},
    },
    sign::{CertifiedKey, SigningKey},
};
use sha2::{Digest as _, Sha256};
use tarn_task::{Entropy, OsEntropy};
use tarn_types::UnixMillis;
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};
use zeroize::Zeroizing;

use crate::pair::{Pair, Validity, date};

/// How far back a certificate's life begins, for clients whose clocks are behind.
const BACKDATED_SECS: u64 = 24 * 3600;
/// How long the authority lasts. Replacing it means a visit to every client.
const AUTHORITY_SECS: u64 = 10 * 365 * 24 * 3600;
/// How long a server's certificate lasts. Apple's clients refuse more than 825 days.
const LEAF_SECS: u64 = 90 * 24 * 3600;
/// How long before its end a server's certificate is renewed.
pub(crate) const RENEW_BEFORE_SECS: u64 = 30 * 24 * 3600;

const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";

/// What clients are to trust.
#[derive(Debug, Clone)]
pub struct AuthorityCertificate {
    path: PathBuf,
    pem: String,
    der: CertificateDer<'static>,
    validity: Validity,
}

/// An authority that can sign.
#[derive(Debug)]
pub struct LocalAuthority {
    certificate: AuthorityCertificate,
    issuer: Issuer<'static, KeyPair>,
}

/// Says why there is no authority, or no certificate from it.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// A file cannot be read.
    #[error("read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The certificate is not what this program has written.
    #[error("{} is no certificate; restore it, or remove it and ca.key to make an authority that clients must trust anew", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The certificate is malformed.
    #[error("understand {}", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: webpki::Error,
    },
    /// The certificate is there and its key is not.
    #[error("{} is missing beside ca.pem; restore it, or remove ca.pem as well to make an authority that clients must trust anew", .path.display())]
    NoKey {
        /// Where the key should be.
        path: PathBuf,
    },
    /// Others may use the key.
    #[error("others than its owner may use {} (mode {mode:o}); chmod 600 it", .path.display())]
    KeyIsOpen {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The key does not fit the certificate, or another program made them.
    #[error("ca.key does not fit {}, or they are not what a start has made; restore the pair, or remove both to make an authority that clients must trust anew", .path.display())]
    Mismatch {
        /// The file with the certificate.
        path: PathBuf,
    },
    /// The authority is too old.
    #[error("the authority in {} expired on {until}; remove ca.pem and ca.key to make one that clients must trust anew", .path.display())]
    Expired {
        /// The file.
        path: PathBuf,
        /// When it did.
        until: String,
    },
    /// A key or certificate cannot be made.
    #[error("make {what}")]
    Make {
        /// Which.
        what: &'static str,
        /// Why not.
        source: rcgen::Error,
    },
    /// A key that was just made cannot be used.
    #[error("use the key of the server's certificate")]
    Use {
        /// Why not.
        source: rustls::Error,
    },
}

/// The key of the server's certificates, from one renewal to the next.
#[derive(Debug)]
pub(crate) struct LeafKey {
    pub(crate) pair: KeyPair,
    pub(crate) signing: Arc<dyn SigningKey>,
}

// === impl AuthorityCertificate ===

impl AuthorityCertificate {
    /// Reads the certificate of a data directory; none if there is none. Blocks.
    ///
    /// # Errors
    /// Fails when what is there cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Self>, AuthorityError> {
        let path = dir.join(CERTIFICATE_FILE);
        let pem = match fs::read_to_string(&path) {
            Ok(pem) => pem,
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(AuthorityError::Read { path, source }),
        };
        let der = match CertificateDer::from_pem_slice(pem.as_bytes()) {
            Ok(der) => der,
            Err(source) => return Err(AuthorityError::Pem { path, source }),
        };
        match Validity::of(&der) {
            Ok(validity) => Ok(Some(Self { path, pem, der, validity })),
            Err(source) => Err(AuthorityError::Certificate { path, source }),
        }
    }

    /// Returns the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the certificate as PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Returns when it expires.
    #[must_use]
    pub fn not_after(&self) -> UnixMillis {
        self.validity.until
    }

    /// Returns the SHA-256 of the certificate, as other programs show it: `AB:CD:…`.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut text = String::with_capacity(95);
        for byte in Sha256::digest(&self.der) {
            if !text.is_empty() {
                text.push(':');
            }
            // Writing to a `String` cannot fail.
            _ = write!(text, "{byte:02X}");
        }
        text
    }
}

// === impl LocalAuthority ===

impl LocalAuthority {
    /// Opens the authority of a data directory, making it at the first time. Blocks.
    ///
    /// # Errors
    /// Fails when only a part of it is there, when it has expired, and when files fail.
    pub fn open_or_make(dir: &Path, now: UnixMillis) -> Result<Self, AuthorityError> {
        let key_path = dir.join(KEY_FILE);
        let key = read_key(&key_path)?;
        let (certificate, key) = match (AuthorityCertificate::read(dir)?, key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) => return Err(AuthorityError::NoKey { path: key_path }),
            // Who trusts the certificate that was lost trusts the new one's signatures: the key
            // and the subject are the same.
            (None, Some(key)) => return Self::make(dir, key, now),
            (None, None) => {
                let key = new_key()?;
                write(&key_path, Zeroizing::new(key.serialize_pem()).as_bytes(), 0o600)?;
                return Self::make(dir, key, now);
            }
        };
        let path = certificate.path.clone();
        if now > certificate.validity.until {
            let until = date(certificate.validity.until);
            return Err(AuthorityError::Expired { path, until });
        }
        let opened = Self { certificate, issuer: issuer(key) };
        if !opened.vouches(now)? {
            return Err(AuthorityError::Mismatch { path });
        }
        Ok(opened)
    }

    /// Returns what clients are to trust.
    #[must_use]
    pub fn certificate(&self) -> &AuthorityCertificate {
        &self.certificate
    }

    /// Makes the certificate of a key.
    fn make(dir: &Path, key: KeyPair, now: UnixMillis) -> Result<Self, AuthorityError> {
        let params = authority_params(&key, now);
        let made = params.self_signed(&key).map_err(|source| AuthorityError::Make {
            what: "the authority's certificate",
            source,
        })?;
        let path = dir.join(CERTIFICATE_FILE);
        write(&path, made.pem().as_bytes(), 0o644)?;
        match AuthorityCertificate::read(dir)? {
            Some(certificate) => Ok(Self { certificate, issuer: Issuer::new(params, key) }),
            None => Err(AuthorityError::Read { path, source: io::ErrorKind::NotFound.into() }),
        }
    }

    /// Says whether who trusts the certificate accepts what is signed: both files are this
    /// program's, and of one authority.
    fn vouches(&self, now: UnixMillis) -> Result<bool, AuthorityError> {
        let signed = self.sign(vec!["localhost".to_owned()], &LeafKey::new()?, now)?;
        let anchor = webpki::anchor_from_trusted_cert(&self.certificate.der);
        let leaf = signed.key.cert.first().map(EndEntityCert::try_from);
        let (Ok(anchor), Some(Ok(leaf))) = (anchor, leaf) else { return Ok(false) };
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        let since_epoch = Duration::from_millis(now.millis_since(UnixMillis(0)));
        let (anchors, time) = ([anchor], UnixTime::since_unix_epoch(since_epoch));
        let usage = KeyUsage::server_auth();
        let path = leaf.verify_for_usage(algorithms, &anchors, &[], time, usage, None, None);
        Ok(path.is_ok())
    }

    /// Signs a certificate for some names with a key.
    pub(crate) fn sign(
        &self,
        names: Vec<String>,
        key: &LeafKey,
        now: UnixMillis,
    ) -> Result<Pair, AuthorityError> {
        let failed = |source| AuthorityError::Make { what: "the server's certificate", source };
        let mut params = CertificateParams::new(names).map_err(failed)?;
        let until = now.plus_secs(LEAF_SECS).min(self.certificate.validity.until);
        set_dates(&mut params, Validity { from: backdated(now), until });
        params.distinguished_name = named("tarn");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial());
        let made = params.signed_by(&key.pair, &self.issuer).map_err(failed)?;
        let validity = Validity { from: backdated(now), until };
        let key = CertifiedKey::new(vec![made.der().clone()], Arc::clone(&key.signing));
        Ok(Pair { key: Arc::new(key), validity })
    }
}

// === impl LeafKey ===

impl LeafKey {
    pub(crate) fn new() -> Result<Self, AuthorityError> {
        let pair = new_key()?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let signing = aws_lc_rs::sign::any_ecdsa_type(&der)
            .map_err(|source| AuthorityError::Use { source })?;
        Ok(Self { pair, signing })
    }
}

/// Makes a P-256 key: what every client of the last ten years understands.
fn new_key() -> Result<KeyPair, AuthorityError> {
    KeyPair::generate().map_err(|source| AuthorityError::Make { what: "a key", source })
}

fn issuer(key: KeyPair) -> Issuer<'static, KeyPair> {
    // The dates are not the issuer's part.
    let params = authority_params(&key, UnixMillis(0));
    Issuer::new(params, key)
}

/// Describes the authority of a key. All but the dates follows from the key, so that an issuer can
/// be made again without reading a certificate's fields.
fn authority_params(key: &KeyPair, now: UnixMillis) -> CertificateParams {
    let mut params = CertificateParams::default();
    let until = now.plus_secs(AUTHORITY_SECS);
    set_dates(&mut params, Validity { from: backdated(now), until });
    let hash = Sha256::digest(key.subject_public_key_info());
    let mark: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = named(&format!("tarn local CA {mark}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(crate) fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// A number of its own for each certificate: browsers refuse two of one issuer with the same.
fn serial() -> SerialNumber {
    let mut bytes = [0; 16];
    OsEntropy.fill(&mut bytes);
    // Positive, and not shortened.
    bytes[0] = bytes[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&bytes)
}

pub(crate) fn backdated(now: UnixMillis) -> UnixMillis {
    let back = i64::try_from(BACKDATED_SECS * 1000).unwrap_or(0);
    UnixMillis(now.0.saturating_sub(back).max(0))
}

pub(crate) fn set_dates(params: &mut CertificateParams, dates: Validity) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_millis(dates.from.millis_since(UnixMillis(0)));
    params.not_after = epoch + Duration::from_millis(dates.until.millis_since(UnixMillis(0)));
}

/// Reads the key; none if there is none.
fn read_key(path: &Path) -> Result<Option<KeyPair>, AuthorityError> {
    let failed = |source| AuthorityError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(absent) if absent.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(AuthorityError::KeyIsOpen { path: path.to_owned(), mode });
    }
    let pem = Zeroizing::new(io::read_to_string(file).map_err(failed)?);
    KeyPair::from_pem(&pem)
        .map(Some)
        .map_err(|source| AuthorityError::Make { what: "a key of ca.key", source })
}

/// Writes a file in one step, durably.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AuthorityError> {
    let draft = path.with_extension("new");
    let all = || -> io::Result<()> {
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    all().map_err(|source| AuthorityError::Write { path: path.to_owned(), source })
}
