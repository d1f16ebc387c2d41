//! The task that keeps a certificate current.

use std::{
    fmt,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use instant_acme::RenewalInfo;
use tarn_task::{Clock, Entropy, Tasks};
use tarn_tls::{CertificateFiles, Certificates, IssuedCertificate};
use tarn_types::UnixMillis;
use tokio::time::timeout;

use crate::{
    AcmeConfig, AcmeError, AcmeFailure, AcmeStanding, AcmeStats, account, certificate_id,
    error::chain,
    file::{self, blocking},
    http::AuthorityClient,
    order::order,
    proof::Shown,
    schedule::{Issued, next_order, pause, renewal},
    state::Advice,
};

/// How long a try may take, all its waits included.
const TRY_DEADLINE: Duration = Duration::from_secs(20 * 60);
/// The longest sleep: clocks are set, and machines sleep themselves.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Certificates of a shorter life are renewed by that alone; a window for them is over at once.
const ADVISED_LIFE_MILLIS: u64 = 24 * 3600 * 1000;
/// How often an authority is asked for advice, whatever it says (RFC 9773, 4.3.2).
const ASK_LEAST: Duration = Duration::from_secs(3600);
const ASK_MOST: Duration = Duration::from_secs(24 * 3600);

/// Keeps the certificate of a server current.
pub struct AcmeKeeper {
    config: AcmeConfig,
    client: AuthorityClient,
    certificates: Certificates,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    stats: Arc<AcmeStats>,
}

/// What became of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Issued,
    Failed,
    /// The server is stopping.
    Stopped,
}

// === impl AcmeKeeper ===

impl AcmeKeeper {
    /// Prepares to keep the certificate that some [`Certificates`] show. Asks nobody; blocks.
    ///
    /// # Errors
    /// Fails when a file or directory cannot be used.
    pub fn open(
        config: AcmeConfig,
        certificates: Certificates,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, AcmeError> {
        make_dir(&config.dir)?;
        let client = AuthorityClient::new(config.ca_file.as_deref())?;
        Ok(Self { config, client, certificates, clock, entropy, stats: Arc::default() })
    }

    /// Returns the counters, for `/metrics`.
    #[must_use]
    pub fn stats(&self) -> Arc<AcmeStats> {
        Arc::clone(&self.stats)
    }

    /// Keeps the certificate current until shutdown.
    pub fn spawn(self: Arc<Self>, tasks: &Tasks) {
        let own = tasks.clone();
        drop(tasks.spawn("acme", async move { self.run(&own).await }));
    }

    async fn run(&self, tasks: &Tasks) {
        let read = AcmeStanding::read(&self.config.dir).unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "what is known of earlier tries is lost");
            AcmeStanding::default()
        });
        let mut standing = read.started();
        let (mut ask_at, mut ordered_at) = (UnixMillis(0), None);
        loop {
            if self.clock.now() >= ask_at {
                ask_at = tokio::select! {
                    () = tasks.stopping() => return,
                    again = self.ask_advice(&mut standing, tasks) => again,
                };
            }
            let at = self.next_try(&standing, ordered_at);
            self.note(&mut standing, at, tasks).await;
            let wait = Duration::from_millis(at.millis_since(self.clock.now()));
            if wait.is_zero() {
                match self.attempt(&mut standing, tasks).await {
                    Attempt::Stopped => return,
                    Attempt::Issued => ordered_at = Some(self.clock.now()),
                    Attempt::Failed => {}
                }
                ask_at = UnixMillis(0);
                continue;
            }
            tokio::select! {
                () = tasks.stopping() => return,
                () = tokio::time::sleep(wait.min(LOOK_EVERY)) => {}
            }
        }
    }

    fn next_try(&self, standing: &AcmeStanding, ordered_at: Option<UnixMillis>) -> UnixMillis {
        let issued = self.certificates.issued().map(|it| self.issued(it, standing));
        let advice = self.certificate_name().and_then(|name| standing.window(&name));
        let drawn = advice.map_or(0, |(_, drawn)| drawn);
        let wanted = renewal(issued, advice.map(|(window, _)| window), drawn);
        let not_before = standing.failure.as_ref().map(|failure| failure.not_before);
        let next = ordered_at.map(|at| next_order(at, issued));
        [not_before, next].into_iter().flatten().fold(wanted, UnixMillis::max)
    }

    fn issued(&self, it: IssuedCertificate, standing: &AcmeStanding) -> Issued {
        let same = standing.directory.as_ref().is_none_or(|from| *from == self.config.directory);
        Issued { from: it.from, until: it.until, fits: it.has_all_names && same }
    }

    fn certificate_name(&self) -> Option<String> {
        certificate_id::of(&self.certificates.issued_der()?).map(|name| name.to_string())
    }

    /// Asks the authority when the certificate is to be renewed; returns when to ask again.
    async fn ask_advice(&self, standing: &mut AcmeStanding, tasks: &Tasks) -> UnixMillis {
        let later = self.clock.now().plus_secs(ASK_MOST.as_secs());
        let Some(issued) = self.certificates.issued() else { return later };
        let is_ours = self.issued(issued, standing).fits;
        if !is_ours || issued.until.millis_since(issued.from) < ADVISED_LIFE_MILLIS {
            return later;
        }
        let Some(name) = self.certificate_name() else { return later };
        if let Some(known) = standing.advice.as_ref().filter(|known| known.certificate == name)
            && self.clock.now() < known.ask_again
        {
            return known.ask_again;
        }
        match timeout(TRY_DEADLINE, self.advice(tasks)).await {
            Ok(Ok(Some((info, again)))) => {
                let window = &info.suggested_window;
                let millis = |at: i128| UnixMillis(i64::try_from(at / 1_000_000).unwrap_or(0));
                let before = standing.window(&name);
                let (from, until) = (
                    millis(window.start.unix_timestamp_nanos()),
                    millis(window.end.unix_timestamp_nanos()),
                );
                // Drawn anew only for another window, or it would move with each question.
                let drawn = match before {
                    Some((before, drawn)) if (before.from, before.until) == (from, until) => drawn,
                    Some(_) | None => self.draw(),
                };
                let again = again.clamp(ASK_LEAST, ASK_MOST).as_secs();
                let ask_again = self.clock.now().plus_secs(again);
                standing.advice = Some(Advice { certificate: name, from, until, ask_again, drawn });
                ask_again
            }
            Ok(Ok(None)) => later,
            Ok(Err(error)) => {
                let error = chain(&error);
                tracing::debug!(error, "the authority gives no advice on renewal");
                self.clock.now().plus_secs(ASK_LEAST.as_secs())
            }
            Err(_elapsed) => self.clock.now().plus_secs(ASK_LEAST.as_secs()),
        }
    }

    async fn advice(&self, tasks: &Tasks) -> Result<Option<(RenewalInfo, Duration)>, AcmeError> {
        let der = self.certificates.issued_der();
        let Some(id) = der.and_then(|der| certificate_id::of(&der)) else { return Ok(None) };
        let account = account::open(&self.config, &self.client, tasks).await?;
        match account.renewal_info(&id).await {
            Ok(info) => Ok(Some(info)),
            Err(instant_acme::Error::Unsupported(_)) => Ok(None),
            Err(source) => Err(AcmeError::Authority { step: "ask when to renew", source }),
        }
    }

    /// Tries once.
    async fn attempt(&self, standing: &mut AcmeStanding, tasks: &Tasks) -> Attempt {
        let mut shown = Shown::default();
        let tried = tokio::select! {
            () = tasks.stopping() => None,
            tried = timeout(TRY_DEADLINE, self.issue(&mut shown, tasks)) => Some(tried),
        };
        shown.clear(&self.config.proof).await;
        let outcome = match tried {
            None => return Attempt::Stopped,
            Some(Ok(outcome)) => outcome,
            Some(Err(_elapsed)) => Err(AcmeError::Slow { after: TRY_DEADLINE }),
        };
        let asked = self.client.take_asked();
        match outcome {
            Ok(()) => {
                self.stats.issued.fetch_add(1, Relaxed);
                standing.directory = Some(self.config.directory.clone());
                (standing.failure, standing.advice) = (None, None);
                let names = self.config.names.names_to_order().join(", ");
                let until = self.certificates.not_after();
                let until = tarn_tls::date(until);
                tracing::info!(names, tls.not_after = %until, "a certificate was issued");
                // Ordered again at once, it would lack the same.
                if self.certificates.issued().is_none_or(|issued| !issued.has_all_names) {
                    self.fail(standing, &AcmeError::Lacking, asked);
                }
                Attempt::Issued
            }
            Err(error) => {
                account::forget_if_unknown(&self.config, &error);
                self.fail(standing, &error, asked);
                Attempt::Failed
            }
        }
    }

    fn fail(&self, standing: &mut AcmeStanding, error: &AcmeError, asked: Option<Duration>) {
        self.stats.failed.fetch_add(1, Relaxed);
        let count = standing.failure.as_ref().map_or(0, |failure| failure.count).saturating_add(1);
        let at = self.clock.now();
        let pause = pause(count, asked, self.draw());
        let not_before = at.plus_millis(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        let (error, next) = (chain(error), tarn_tls::date(not_before));
        tracing::warn!(
            error,
            failures = count,
            next_try = %next,
            "no certificate was issued; what was served before is served on"
        );
        standing.failure = Some(AcmeFailure { not_before, ..AcmeFailure::new(count, at, &error) });
    }

    async fn issue(&self, shown: &mut Shown, tasks: &Tasks) -> Result<(), AcmeError> {
        let account = account::open(&self.config, &self.client, tasks).await?;
        let pem = order(&account, &self.config, &self.certificates, shown).await?;
        let (files, now) = (self.config.files(), self.clock.now());
        let certificates = self.certificates.clone();
        blocking(tasks, move || keep(&files, &pem, &certificates, now)).await
    }

    /// Leaves word of how it stands.
    async fn note(&self, standing: &mut AcmeStanding, next_try: UnixMillis, tasks: &Tasks) {
        self.stats.next_try_ms.store(next_try.0, Relaxed);
        standing.next_try = Some(next_try);
        let (standing, dir) = (standing.clone(), self.config.dir.clone());
        let kept = blocking(tasks, move || Ok(standing.write(&dir)?)).await;
        if let Err(error) = kept {
            tracing::warn!(error = chain(&error), "the state of the certificate is not kept");
        }
    }

    fn draw(&self) -> u16 {
        u16::from_le_bytes(self.entropy.bytes()) % 1001
    }
}

impl fmt::Debug for AcmeKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcmeKeeper").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Writes key and chain where they are served from. What cannot be served with takes no good one's
/// place.
fn keep(
    files: &CertificateFiles,
    pem: &str,
    certificates: &Certificates,
    now: UnixMillis,
) -> Result<(), AcmeError> {
    let unwritten = |path: &Path| {
        let path = path.to_owned();
        move |source| AcmeError::File { step: "write", path, source }
    };
    let next = files.certificate.with_extension("next");
    file::write(&next, pem.as_bytes()).map_err(unwritten(&next))?;
    let draft = CertificateFiles { certificate: next.clone(), key: next.clone() };
    draft.check(now).map_err(|source| AcmeError::Unusable { source })?;
    std::fs::rename(&next, &files.certificate).map_err(unwritten(&files.certificate))?;
    certificates.reload().map_err(|source| AcmeError::Unusable { source })
}

fn make_dir(path: &Path) -> Result<(), AcmeError> {
    file::make_dir(path).map_err(|source| {
        let path = path.to_owned();
        AcmeError::File { step: "make the directory", path, source }
    })
}
