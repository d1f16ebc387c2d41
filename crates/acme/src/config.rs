//! What is asked of whom.

use std::{fmt, path::PathBuf, time::Duration};

use tarn_hook::Hook;
use tarn_tls::{CertificateFiles, ServerNames};
use zeroize::Zeroizing;

/// What is asked of whom, and where it is kept.
#[derive(Debug, Clone)]
pub struct AcmeConfig {
    /// The directory of the data directory in which account, certificate and state lie.
    pub dir: PathBuf,
    /// The URL of the authority's directory.
    pub directory: String,
    /// Where the authority may write to.
    pub email: Option<String>,
    /// Which of the authority's profiles is asked for; none leaves the choice to it.
    pub profile: Option<String>,
    /// Further authorities that may vouch for the directory, in PEM.
    pub ca_file: Option<PathBuf>,
    /// What the account is bound to, where the authority wants that.
    pub binding: Option<AccountBinding>,
    /// The names that the certificate is to be for.
    pub names: ServerNames,
    /// How it is proved that they are ours.
    pub proof: Proof,
}

/// An account that the authority knows already (RFC 8555, 7.3.4).
#[derive(Clone)]
pub struct AccountBinding {
    /// Its id, as the authority has given it.
    pub key_id: String,
    /// Its key.
    pub key: Zeroizing<Vec<u8>>,
}

/// How it is proved that a name is ours.
#[derive(Debug, Clone)]
pub enum Proof {
    /// By an answer on port 443 of the name: TLS-ALPN-01. Not for wildcards.
    Tls,
    /// By a record in its zone, which a program of the operator's sets: DNS-01.
    Dns {
        /// Called with `set` or `unset`, the record's name, and its text.
        hook: Hook,
        /// How long after that the authority is told to look.
        wait: Duration,
    },
}

// === impl AcmeConfig ===

impl AcmeConfig {
    /// Returns where the certificate is: one file with key and chain, so that they always fit.
    #[must_use]
    pub fn files(&self) -> CertificateFiles {
        let path = self.dir.join("certificate.pem");
        CertificateFiles { certificate: path.clone(), key: path }
    }
}

// === impl AccountBinding ===

impl fmt::Debug for AccountBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountBinding").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}
