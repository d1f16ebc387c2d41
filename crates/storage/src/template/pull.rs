//! Pulls and imports under way. A pull is a task of its own, which whoever needs the image joins;
//! it ends with the image on the shelf, or with what kept it from there.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use parking_lot::Mutex;
use tarn_host::{ImageError, PullProgress, PullTrouble, StoredImage};
use tarn_oci::{Credentials, OciError, Progress, Unpacked};
use tarn_types::{ByteSize, ImageDigest, ImagePin, RegistryLogin};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use super::{
    Shared,
    rules::{trouble, trouble_of},
    shelf::Made,
};
use crate::step::{HostStepError, chain};

/// How often a pull looks whether the disk runs full, and tells the log how far it is.
const LOOK: Duration = Duration::from_millis(500);
const LOG_EVERY: Duration = Duration::from_secs(10);

/// How many times the size of what is fetched is needed at least: itself, and what it unpacks to.
const ROOM_FACTOR: u64 = 3;

/// How long a pull may take: this, and as long as a slow line needs. A registry that sends a byte
/// now and then must not keep a turn from others.
const PULL_LIMIT: Duration = Duration::from_secs(600);
const SLOWEST_BYTES_PER_SEC: u64 = 256 << 10;

/// How long a registry may take to say what an image is made of, for the same reason.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(60);

/// The pulls under way.
#[derive(Debug)]
pub(super) struct Pulls {
    table: Mutex<BTreeMap<ImageDigest, Pull>>,
    turns: Semaphore,
}

#[derive(Debug)]
struct Pull {
    origin: String,
    progress: watch::Receiver<Progress>,
    /// What became of it.
    done: watch::Receiver<Option<Result<(), Failure>>>,
}

/// What an [`ImageError`] of a pull says, for all who wait.
#[derive(Debug, Clone)]
struct Failure {
    image: String,
    trouble: PullTrouble,
    reason: String,
}

// === impl Pulls ===

impl Pulls {
    pub(super) fn new(at_once: usize) -> Self {
        Self { table: Mutex::default(), turns: Semaphore::new(at_once.max(1)) }
    }

    pub(super) fn has(&self, digest: &ImageDigest) -> bool {
        self.table.lock().contains_key(digest)
    }

    /// Does something about an image of which no pull can begin meanwhile; not while one is
    /// under way.
    pub(super) fn if_idle(&self, digest: &ImageDigest, work: impl FnOnce()) {
        let table = self.table.lock();
        if !table.contains_key(digest) {
            work();
        }
    }

    pub(super) fn list(&self) -> Vec<StoredImage> {
        let table = self.table.lock();
        let listed = table.iter().map(|(digest, pull)| {
            let now = *pull.progress.borrow();
            StoredImage {
                digest: digest.clone(),
                origin: pull.origin.clone(),
                size: ByteSize::from_bytes(now.bytes_total),
                used_at: tarn_types::UnixMillis(0),
                progress: Some(PullProgress {
                    layers: now.layers_total,
                    layers_done: now.layers_done,
                    bytes: now.bytes_total,
                    bytes_done: now.bytes_done,
                }),
            }
        });
        listed.collect()
    }
}

// === impl Shared ===

impl Shared {
    /// Waits for the pull of an image, and begins it if there is none.
    pub(super) async fn join_pull(
        &self,
        pin: &ImagePin,
        login: Option<&RegistryLogin>,
    ) -> Result<(), ImageError> {
        let Some(source) = &pin.source else {
            let reason = "it was imported, and is not here any more; import it again";
            return Err(trouble(pin.digest.as_str(), PullTrouble::NotFound, reason.to_owned()));
        };
        let mut done = {
            let mut table = self.pulls.table.lock();
            if self.shelf.has(&pin.digest) {
                return Ok(());
            }
            match table.get(&pin.digest) {
                Some(pull) => pull.done.clone(),
                None => {
                    let pull = self.begin_pull(&pin.digest, source, login);
                    let done = pull.done.clone();
                    table.insert(pin.digest.clone(), pull);
                    done
                }
            }
        };
        let settled = done.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        match settled {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(Failure { image, trouble, reason }))) => {
                Err(ImageError::Pull { image, trouble, reason })
            }
            // The server stops, and the next one goes on: nothing is known of the image.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    fn begin_pull(
        &self,
        digest: &ImageDigest,
        source: &str,
        login: Option<&RegistryLogin>,
    ) -> Pull {
        let (progress_tell, progress) = watch::channel(Progress::default());
        let (tell, done) = watch::channel(None);
        let pull = Pull { origin: source.to_owned(), progress, done };
        let own = self.own.get().and_then(std::sync::Weak::upgrade);
        let (digest, source) = (digest.clone(), source.to_owned());
        let credentials = login.map(credentials);
        drop(self.tasks.spawn("image_pull", async move {
            let Some(shared) = own else { return };
            let begun = Instant::now();
            let pulled = tokio::select! {
                pulled = shared.pull_now(&digest, &source, credentials, progress_tell) => pulled,
                () = shared.tasks.stopping() => {
                    tracing::info!(image = source, "a pull is cut off; the next server goes on");
                    return;
                }
            };
            let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            let outcome = match pulled {
                Ok(size) => {
                    let size_bytes = size.bytes();
                    tracing::info!(image = source, size_bytes, duration_ms, "image pulled");
                    Ok(())
                }
                Err(bad) => {
                    let failure = Failure::of(&source, bad);
                    let Failure { reason, trouble, .. } = &failure;
                    tracing::warn!(
                        image = source,
                        reason,
                        ?trouble,
                        duration_ms,
                        "image not pulled"
                    );
                    Err(failure)
                }
            };
            // First out of the table: who comes after a failure begins anew.
            shared.pulls.table.lock().remove(&digest);
            tell.send_replace(Some(outcome));
        }));
        pull
    }

    async fn pull_now(
        &self,
        digest: &ImageDigest,
        source: &str,
        credentials: Option<Credentials>,
        progress: watch::Sender<Progress>,
    ) -> Result<ByteSize, ImageError> {
        let _turn = self.pulls.turns.acquire().await.expect("it is never closed");
        let reference = self.rules.check(source)?;
        tracing::info!(image = source, "pulling an image");
        let look_up = self.puller.look_up(&reference, credentials.as_ref());
        let found = match tokio::time::timeout(LOOK_UP_LIMIT, look_up).await {
            Ok(found) => found.map_err(|bad| trouble_of(source, &bad))?,
            Err(_elapsed) => return Err(silent(source)),
        };
        if found.manifest().as_str() != digest.as_str() {
            let reason = format!("its registry now has {} under that digest", found.manifest());
            return Err(trouble(source, PullTrouble::Unusable, reason));
        }
        let fetched = found.layer_bytes().iter().fold(0_u64, |sum, size| sum.saturating_add(*size));
        self.check_room(source, fetched.saturating_mul(ROOM_FACTOR)).await?;
        let work = self.shelf.work(digest).map_err(|bad| fault(source, &bad))?;
        let (watched, limit) = (progress.subscribe(), limit(fetched));
        let pulled = tokio::select! {
            pulled = self.puller.pull(&found, credentials.as_ref(), &work, progress) => {
                pulled.map_err(|bad| trouble_of(source, &bad))
            }
            () = self.full() => Err(no_room(source)),
            () = tokio::time::sleep(limit) => Err(late(source, limit)),
            () = tell_log(source, watched) => unreachable!("it never ends"),
        };
        match pulled {
            Ok(unpacked) => self.place(&work, digest.clone(), source, unpacked).await,
            Err(bad) => {
                if let ImageError::Pull { trouble, .. } = &bad
                    && matches!(trouble, PullTrouble::NoRoom | PullTrouble::Unusable)
                {
                    // It would be no better the next time.
                    self.drop_work(&work).await;
                }
                Err(bad)
            }
        }
    }

    /// Takes an image out of a file.
    pub(super) async fn import(
        &self,
        file: &Path,
        choose: Option<&str>,
    ) -> Result<ImageDigest, ImageError> {
        let origin = file.display().to_string();
        let size = tree_size(file.to_owned(), &self.tasks).await;
        self.check_room(&origin, size.saturating_mul(2)).await?;
        let work = self.shelf.import_work().map_err(|bad| fault(&origin, &bad))?;
        let (progress, _) = watch::channel(Progress::default());
        let imported = tokio::select! {
            imported = self.puller.import(file, choose, &work, progress) => {
                imported.map_err(|bad| trouble_of(&origin, &bad))
            }
            () = self.full() => Err(no_room(&origin)),
        };
        let unpacked = match imported {
            Ok(unpacked) => unpacked,
            Err(bad) => {
                self.drop_work(&work).await;
                return Err(bad);
            }
        };
        let digest = unpacked.manifest.as_str().parse();
        let digest: ImageDigest = digest.map_err(|bad: tarn_types::ImageDigestError| {
            trouble(&origin, PullTrouble::Unusable, bad.to_string())
        })?;
        self.holds.note(&digest);
        self.place(&work, digest.clone(), &origin, unpacked).await?;
        tracing::info!(image = origin, %digest, "image imported");
        Ok(digest)
    }

    async fn place(
        &self,
        work: &Path,
        digest: ImageDigest,
        origin: &str,
        unpacked: Unpacked,
    ) -> Result<ByteSize, ImageError> {
        let size = ByteSize::from_bytes(unpacked.bytes);
        let (config, origin) = (unpacked.config, origin.to_owned());
        let made = Made { digest, config, origin: origin.clone(), size };
        let own = self.own.get().and_then(std::sync::Weak::upgrade);
        let (work, now) = (work.to_owned(), self.clock.now());
        let placing = self.tasks.spawn_blocking(move || {
            let shared = own?;
            let placed = shared.shelf.place_tree(&work, made, now);
            shared.shelf.empty_trash();
            Some(placed)
        });
        match placing.await {
            Ok(Some(Ok(()))) => Ok(size),
            Ok(Some(Err(bad))) => Err(fault(&origin, &bad)),
            Ok(None) => std::future::pending().await,
            Err(lost) => Err(trouble(&origin, PullTrouble::Internal, lost.to_string())),
        }
    }

    async fn drop_work(&self, work: &Path) {
        let own = self.own.get().and_then(std::sync::Weak::upgrade);
        let work = work.to_owned();
        let dropping = self.tasks.spawn_blocking(move || {
            let Some(shared) = own else { return };
            if let Err(bad) = shared.shelf.bin(&work, "work") {
                tracing::warn!(error = chain(&bad), "what a pull left is not removed");
            }
            shared.shelf.empty_trash();
        });
        drop(dropping.await);
    }

    async fn check_room(&self, image: &str, needed: u64) -> Result<(), ImageError> {
        let least = needed.saturating_add(self.rules.reserve.bytes());
        match self.free().await {
            Some(free) if free < least => Err(no_room(image)),
            Some(_) | None => Ok(()),
        }
    }

    /// Resolves when the disk has no more room than images must leave.
    async fn full(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.free().await.is_some_and(|free| free < self.rules.reserve.bytes()) {
                return;
            }
        }
    }
}

// === impl Failure ===

impl Failure {
    fn of(source: &str, bad: ImageError) -> Self {
        match bad {
            ImageError::Pull { image, trouble, reason } => Self { image, trouble, reason },
            other @ (ImageError::NotFound { .. }
            | ImageError::NotBuilt { .. }
            | ImageError::Unusable { .. }) => {
                let (trouble, reason) = (PullTrouble::Internal, other.to_string());
                Self { image: source.to_owned(), trouble, reason }
            }
        }
    }
}

/// Returns what a registry is shown.
pub(super) fn credentials(login: &RegistryLogin) -> Credentials {
    Credentials {
        username: login.username.clone(),
        password: login.password.reveal().to_owned().into(),
    }
}

/// Tells the log how far a pull is, as long as it moves.
async fn tell_log(source: &str, progress: watch::Receiver<Progress>) {
    let mut last = Progress::default();
    loop {
        tokio::time::sleep(LOG_EVERY).await;
        let now = *progress.borrow();
        if now != last {
            tracing::info!(
                image = source,
                layers = now.layers_total,
                layers_done = now.layers_done,
                bytes = now.bytes_total,
                bytes_done = now.bytes_done,
                "an image is being pulled"
            );
            last = now;
        }
    }
}

/// Returns how long a pull of so many bytes may take.
fn limit(fetched: u64) -> Duration {
    PULL_LIMIT.saturating_add(Duration::from_secs(fetched / SLOWEST_BYTES_PER_SEC))
}

fn late(image: &str, limit: Duration) -> ImageError {
    let limit = limit.as_secs();
    let reason = format!(
        "its registry did not send it within {limit} s; ask again: it goes on where it was"
    );
    trouble(image, PullTrouble::Unreachable, reason)
}

fn silent(image: &str) -> ImageError {
    let limit = LOOK_UP_LIMIT.as_secs();
    let reason = format!("its registry did not say within {limit} s what it is made of; ask again");
    trouble(image, PullTrouble::Unreachable, reason)
}

fn no_room(image: &str) -> ImageError {
    let reason = "the server's disk has no room for it beside what images.reserve_mb keeps free; \
                  ask its operator to free space, or use a smaller image";
    trouble(image, PullTrouble::NoRoom, reason.to_owned())
}

fn fault(image: &str, bad: &HostStepError) -> ImageError {
    let (step, path) = (bad.step, bad.path.clone());
    let source = std::io::Error::new(bad.source.kind(), bad.source.to_string());
    trouble_of(image, &OciError::Disk { step, path, source })
}

/// Adds up the files of a directory, or returns the size of a file.
async fn tree_size(path: std::path::PathBuf, tasks: &tarn_task::Tasks) -> u64 {
    fn sum(path: &Path) -> u64 {
        let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
        if !meta.is_dir() {
            return meta.len();
        }
        let Ok(entries) = fs::read_dir(path) else { return 0 };
        entries.flatten().map(|entry| sum(&entry.path())).fold(0, u64::saturating_add)
    }
    tasks.spawn_blocking(move || sum(&path)).await.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, sync::Arc};

    use tarn_host::Images as _;
    use tarn_oci::RegistryOptions;
    use tarn_task::{ManualClock, Tasks};

    use super::*;
    use crate::{HostImages, ImageRules, StockImages};

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_never_says_what_an_image_is_keeps_its_turn_from_nobody() {
        let dir = tempfile::tempdir().expect("a directory");
        // The kernel takes connections, and nobody answers them.
        let registry = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = registry.local_addr().expect("it is bound");
        let never = Duration::from_secs(1 << 20);
        let (connect_timeout, idle_timeout) = (never, never);
        let registries =
            RegistryOptions { connect_timeout, idle_timeout, ..RegistryOptions::default() };
        let rules = ImageRules { at_once: 1, registries, ..ImageRules::default() };
        let tasks = Tasks::new();
        let stock = StockImages::open(dir.path(), tasks.clone());
        let clock = Arc::new(ManualClock::default());
        let images = HostImages::open(stock, dir.path(), rules, tasks, clock).expect("it opens");
        let pull = async |digit: &str| {
            let digest = format!("sha256:{}", digit.repeat(64));
            let source = Some(format!("{address}/app@{digest}"));
            let pin = ImagePin { digest: digest.parse().expect("a digest"), source };
            images.pull(&pin, None).await
        };
        let both = async { tokio::join!(pull("a"), pull("b")) };
        let pulled = tokio::time::timeout(3 * LOOK_UP_LIMIT, both).await;
        let (first, second) = pulled.expect("neither holds the only turn for ever");
        for pulled in [first, second] {
            let Err(ImageError::Pull { trouble, reason, .. }) = pulled else {
                unreachable!("nobody said what it is: {pulled:?}");
            };
            assert_eq!(trouble, PullTrouble::Unreachable, "{reason}");
            assert!(reason.contains("60 s"), "{reason}");
        }
    }

    #[test]
    fn a_slow_line_has_its_time_and_a_dripping_one_has_not() {
        assert_eq!(limit(0).as_secs(), 600);
        assert_eq!(limit(1 << 30).as_secs(), 600 + 4096);
        assert_eq!(limit(u64::MAX).as_secs(), 600 + (u64::MAX >> 18));
    }
}
