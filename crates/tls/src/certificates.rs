//! The certificates of a server, kept current while it runs.

use std::{collections::HashMap, fmt, path::Path, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tarn_task::{Clock, Tasks};
use tarn_types::UnixMillis;

use crate::{
    Acceptor, AuthorityError, CertificateFiles, LocalAuthority, PairError, Protocols, ServerNames,
    authority::{LeafKey, RENEW_BEFORE_SECS},
    challenge::{ChallengeAnswer, Challenges, is_challenge},
    pair::{Pair, Validity, date},
    temporary,
    watch::{Look, Watch, stamp},
};

/// How often files are looked at, and dates are compared.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// How long before its end a certificate is complained about.
const SOON_SECS: u64 = 14 * 24 * 3600;

/// How many certificates for single names are kept; beyond that all are forgotten and made again,
/// at the cost of one signature each.
const NAMED_MAX: usize = 1024;

/// What a server shows to its clients. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct Certificates(Arc<Shown>);

struct Shown {
    source: Source,
    clock: Arc<dyn Clock>,
    current: RwLock<Current>,
    health: Mutex<Health>,
}

enum Source {
    Files {
        files: CertificateFiles,
        wanted: ServerNames,
        watched: Mutex<Watched>,
    },
    Authority {
        authority: Box<LocalAuthority>,
        names: ServerNames,
    },
    /// Whoever gets certificates issued writes the files, and says so.
    Issued {
        files: CertificateFiles,
        wanted: ServerNames,
        challenges: Challenges,
    },
}

struct Watched {
    watch: Watch,
    /// Why the files could not be served with when they were last read, if they couldn't.
    fault: Option<String>,
}

/// What is served with of the certificates that somebody gets issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// When it becomes valid.
    pub from: UnixMillis,
    /// When it expires.
    pub until: UnixMillis,
    /// Whether it is for every name that is wanted.
    pub has_all_names: bool,
}

struct Current {
    pair: Pair,
    /// Nobody vouches for it: there is none yet that somebody issued.
    is_temporary: bool,
    /// Only where we sign ourselves.
    leaf: Option<Leaf>,
}

struct Leaf {
    key: LeafKey,
    /// Certificates for names that no wildcard covers, made when a client first comes by one.
    named: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

/// How a certificate stands with time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    Soon,
    Over,
}

// === impl Certificates ===

impl Certificates {
    /// Reads a pair of files, which [`Self::check`] reads again when they change. Blocks.
    ///
    /// Names that are wanted and not in the certificate are warned about and nothing more: a proxy
    /// in front may have a certificate of its own.
    ///
    /// # Errors
    /// Fails when they cannot be served with.
    pub fn from_files(
        files: CertificateFiles,
        wanted: ServerNames,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, PairError> {
        // The look comes first: a change while they are read shows at the next one.
        let watch = Watch::new(stamp(both(&files)));
        let pair = Pair::read(&files, clock.now())?;
        warn_of_names(&wanted, &pair);
        let watched = Mutex::new(Watched { watch, fault: None });
        let source = Source::Files { files, wanted, watched };
        Ok(Self::new(source, clock, Current { pair, is_temporary: false, leaf: None }))
    }

    /// Makes a certificate for some names, which [`Self::check`] renews.
    ///
    /// # Errors
    /// Fails when the names are none, or the cryptography does.
    pub fn from_authority(
        authority: LocalAuthority,
        names: ServerNames,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuthorityError> {
        let current = Current::signed(&authority, &names, clock.now())?;
        let authority = Box::new(authority);
        Ok(Self::new(Source::Authority { authority, names }, clock, current))
    }

    /// Serves with a certificate that somebody else gets issued: what is in the files, else a
    /// temporary one that no client trusts, until [`Self::reload`] finds a better one. Blocks.
    ///
    /// # Errors
    /// Fails when the names are none, or the cryptography does.
    pub fn from_issued(
        files: CertificateFiles,
        wanted: ServerNames,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuthorityError> {
        let (pair, is_temporary) = match Pair::read(&files, clock.now()) {
            Ok(pair) => (pair, false),
            Err(error) => {
                if !error.is_absence() {
                    let error = chain(&error);
                    tracing::warn!(error, "the certificate that was issued is not usable");
                }
                tracing::warn!(
                    "a temporary certificate is shown, which no client trusts, until one is issued"
                );
                (temporary::pair(&wanted, clock.now())?, true)
            }
        };
        let source = Source::Issued { files, wanted, challenges: Challenges::default() };
        Ok(Self::new(source, clock, Current { pair, is_temporary, leaf: None }))
    }

    fn new(source: Source, clock: Arc<dyn Clock>, current: Current) -> Self {
        let (current, health) = (RwLock::new(current), Mutex::new(Health::Good));
        let shown = Self(Arc::new(Shown { source, clock, current, health }));
        shown.note_health();
        shown
    }

    /// Makes what a listener accepts with.
    #[must_use]
    pub fn acceptor(&self, protocols: Protocols) -> Acceptor {
        let answers_challenges = matches!(self.0.source, Source::Issued { .. });
        let resolver = Arc::clone(&self.0) as Arc<dyn ResolvesServerCert>;
        Acceptor::new(resolver, protocols.names(answers_challenges))
    }

    /// Reads the files of an issued certificate, and serves with it from now on. Blocks.
    ///
    /// Connections that are open go on as they are.
    ///
    /// # Errors
    /// Fails when it cannot be served with; the one before stays.
    pub fn reload(&self) -> Result<(), PairError> {
        let Source::Issued { files, .. } = &self.0.source else { return Ok(()) };
        let pair = Pair::read(files, self.0.clock.now())?;
        *self.0.current.write() = Current { pair, is_temporary: false, leaf: None };
        self.note_health();
        Ok(())
    }

    /// Returns what was issued and is served with; none while it is a temporary one.
    #[must_use]
    pub fn issued(&self) -> Option<IssuedCertificate> {
        let current = self.0.current.read();
        let Validity { from, until } = current.pair.validity;
        let has_all_names = match &self.0.source {
            Source::Issued { wanted, .. } => wanted.lacking_in(&current.pair).is_empty(),
            Source::Files { .. } | Source::Authority { .. } => true,
        };
        (!current.is_temporary).then_some(IssuedCertificate { from, until, has_all_names })
    }

    /// Returns the DER of the certificate that was issued, without its chain.
    #[must_use]
    pub fn issued_der(&self) -> Option<Vec<u8>> {
        let current = self.0.current.read();
        let first = current.pair.key.cert.first().map(|certificate| certificate.to_vec());
        first.filter(|_| !current.is_temporary)
    }

    /// Answers handshakes that ask for a name whether it is ours (TLS-ALPN-01, RFC 8737), until
    /// the answer is dropped.
    ///
    /// # Errors
    /// Fails when there is no such name, or the cryptography does.
    pub fn answer_challenge(
        &self,
        name: &str,
        digest: &[u8],
    ) -> Result<ChallengeAnswer, AuthorityError> {
        let challenges = match &self.0.source {
            Source::Issued { challenges, .. } => challenges.clone(),
            // Nobody asks; the answer is to nobody.
            Source::Files { .. } | Source::Authority { .. } => Challenges::default(),
        };
        challenges.answer(name, digest, self.0.clock.now())
    }

    /// Returns when the certificate that is shown now expires.
    #[must_use]
    pub fn not_after(&self) -> UnixMillis {
        self.0.current.read().pair.validity.until
    }

    /// Says whether a time is so close that somebody should act.
    #[must_use]
    pub fn is_soon(not_after: UnixMillis, now: UnixMillis) -> bool {
        Health::at(not_after, SOON_SECS, now) != Health::Good
    }

    /// Keeps the certificates current until shutdown.
    pub fn spawn_keeper(&self, tasks: &Tasks) {
        let (shown, own) = (self.clone(), tasks.clone());
        let keep = async move {
            loop {
                tokio::select! {
                    () = own.stopping() => return,
                    () = tokio::time::sleep(CHECK_EVERY) => {}
                }
                let shown = shown.clone();
                if own.spawn_blocking(move || shown.check()).await.is_err() {
                    tracing::error!("a look at the certificate panicked; it is tried again");
                }
            }
        };
        drop(tasks.spawn("tls_certificates", keep));
    }

    /// Looks whether there is something newer to show, and takes it. Blocks.
    ///
    /// Connections that are open go on as they are. What cannot be served with is said once, and
    /// the certificate of before stays. Files that could not be read, or hold a certificate of
    /// later, are tried again at each look.
    pub fn check(&self) {
        match &self.0.source {
            Source::Files { files, wanted, watched } => self.check_files(files, wanted, watched),
            Source::Authority { authority, names } => self.renew(authority, names),
            Source::Issued { .. } => {}
        }
        self.note_health();
    }

    fn check_files(
        &self,
        files: &CertificateFiles,
        wanted: &ServerNames,
        watched: &Mutex<Watched>,
    ) {
        let now = stamp(both(files));
        let mut watched = watched.lock();
        match watched.watch.look(now) {
            Look::Rest => return,
            // What is wrong with other files is said, if it is the same.
            Look::Read => watched.fault = None,
            Look::Again => {}
        }
        match Pair::read(files, self.0.clock.now()) {
            Ok(pair) => {
                let until = date(pair.validity.until);
                tracing::info!(tls.not_after = %until, "the certificate was read again");
                warn_of_names(wanted, &pair);
                *self.0.current.write() = Current { pair, is_temporary: false, leaf: None };
                watched.fault = None;
            }
            Err(error) => {
                if error.may_pass() {
                    watched.watch.again();
                }
                let error = chain(&error);
                if watched.fault.as_ref() != Some(&error) {
                    tracing::warn!(
                        error,
                        "the new certificate is not usable; the one before stays"
                    );
                    watched.fault = Some(error);
                }
            }
        }
    }

    fn renew(&self, authority: &LocalAuthority, names: &ServerNames) {
        let now = self.0.clock.now();
        let until = self.not_after();
        // One that ends with its authority is as new as it can be.
        let last = authority.certificate().not_after();
        if now.plus_secs(RENEW_BEFORE_SECS) < until || until >= last {
            return;
        }
        match Current::signed(authority, names, now) {
            Ok(current) => {
                let until = date(current.pair.validity.until);
                tracing::info!(tls.not_after = %until, "the certificate was renewed");
                *self.0.current.write() = current;
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "the certificate cannot be renewed; it is tried again");
            }
        }
    }

    /// Says, when it begins to be so, that the certificate's time is nearly or quite over.
    fn note_health(&self) {
        let (validity, is_temporary) = {
            let current = self.0.current.read();
            (current.pair.validity, current.is_temporary)
        };
        if is_temporary {
            return;
        }
        let until = validity.until;
        let health = Health::of(validity, self.0.clock.now());
        if std::mem::replace(&mut *self.0.health.lock(), health) == health {
            return;
        }
        let until = date(until);
        match health {
            Health::Good => {}
            Health::Soon => {
                tracing::warn!(tls.not_after = %until, "the certificate expires soon; replace it");
            }
            Health::Over => {
                tracing::error!(tls.not_after = %until, "the certificate has expired; replace it");
            }
        }
    }
}

// === impl Shown ===

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Source::Issued { challenges, .. } = &self.source
            && is_challenge(&hello)
        {
            return challenges.resolve(hello.server_name());
        }
        let current = self.current.read();
        if let Source::Authority { authority, names } = &self.source
            && let Some(leaf) = &current.leaf
            && let Some(name) = hello.server_name()
            && names.needs_own(name)
        {
            return leaf.named(authority, name, self.clock.now());
        }
        Some(Arc::clone(&current.pair.key))
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("health", &self.health).finish_non_exhaustive()
    }
}

// === impl Current ===

impl Current {
    fn signed(
        authority: &LocalAuthority,
        names: &ServerNames,
        now: UnixMillis,
    ) -> Result<Self, AuthorityError> {
        let key = LeafKey::new()?;
        let pair = authority.sign(names.alternative_names(), &key, now)?;
        let leaf = Some(Leaf { key, named: Mutex::default() });
        Ok(Self { pair, is_temporary: false, leaf })
    }
}

// === impl Leaf ===

impl Leaf {
    /// Returns the certificate for one name; a signature costs about as much as a handshake.
    fn named(
        &self,
        authority: &LocalAuthority,
        name: &str,
        now: UnixMillis,
    ) -> Option<Arc<CertifiedKey>> {
        if let Some(known) = self.named.lock().get(name) {
            return Some(Arc::clone(known));
        }
        let signed = authority.sign(vec![name.to_owned()], &self.key, now);
        let made = match signed {
            Ok(pair) => pair.key,
            Err(error) => {
                tracing::warn!(error = chain(&error), name, "no certificate could be made");
                return None;
            }
        };
        let mut named = self.named.lock();
        if named.len() >= NAMED_MAX {
            named.clear();
        }
        named.insert(name.to_owned(), Arc::clone(&made));
        Some(made)
    }
}

// === impl Health ===

impl Health {
    /// A certificate of a few days is not complained about for all of them.
    fn of(validity: Validity, now: UnixMillis) -> Self {
        let sixth = validity.until.millis_since(validity.from) / 6000;
        Self::at(validity.until, SOON_SECS.min(sixth), now)
    }

    fn at(until: UnixMillis, soon_secs: u64, now: UnixMillis) -> Self {
        if now > until {
            Self::Over
        } else if now.plus_secs(soon_secs) > until {
            Self::Soon
        } else {
            Self::Good
        }
    }
}

fn both(files: &CertificateFiles) -> [&Path; 2] {
    [&files.certificate, &files.key]
}

fn warn_of_names(wanted: &ServerNames, pair: &Pair) {
    let lacking = wanted.lacking_in(pair);
    if !lacking.is_empty() {
        let names = lacking.join(", ");
        tracing::warn!(
            names,
            "the certificate does not cover names that clients are told; unless a proxy in front \
             has a certificate for them, clients refuse to connect"
        );
    }
}

/// Writes an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(below) = cause {
        text.push_str(": ");
        text.push_str(&below.to_string());
        cause = below.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_complained_about_before_it_ends() {
        let (day, until) = (24 * 3600 * 1000, UnixMillis(100 * 24 * 3600 * 1000));
        for (days, expected) in [
            (0, Health::Good),
            (86, Health::Good),
            (87, Health::Soon),
            (100, Health::Soon),
            (101, Health::Over),
        ] {
            let now = UnixMillis(days * day);
            assert_eq!(Health::at(until, SOON_SECS, now), expected, "day {days}");
            let validity = Validity { from: UnixMillis(0), until };
            assert_eq!(Health::of(validity, now), expected, "day {days}");
        }
        let week = Validity { from: UnixMillis(93 * day), until };
        for (days, expected) in [(93, Health::Good), (98, Health::Good), (99, Health::Soon)] {
            assert_eq!(Health::of(week, UnixMillis(days * day)), expected, "day {days}");
        }
    }
}
