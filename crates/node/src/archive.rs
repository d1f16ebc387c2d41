//! What goes to and comes from the object store.
//!
//! ```text
//!  ordered ─▶ waits for its turn ─▶ uploads ─▶ reported
//!     └──────────────┴────────────────┴─▶ cancelled by a removal, cut by a stop
//! ```
//!
//! Control orders again what was cut. Retries are the archive's; deadlines are here.

mod transfer;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tarn_host::{Archive, ArchiveError, CaptureError};
use tarn_node_api::{ArchiveOrder, ArchiveReport, ArchiveView, NodeTarget, VerifyError};
use tarn_types::{ArchiveFacts, ByteSize, EndCause, FailedStep, StartFailure};
use tokio::{sync::watch, time::Instant};

use self::transfer::Entered;
pub(crate) use self::transfer::Transfers;
pub use self::transfer::{DirectionCounts, TransferCounts};
use crate::{handle::Wanted, sandbox::SandboxTask, service::Shared, start::chain};

/// What a fetch may take besides [`FETCH_PER_MIB`].
const FETCH_BASE: Duration = Duration::from_secs(120);

/// What each MiB of a fetch may take: slower than that nobody waits for a start.
const FETCH_PER_MIB: Duration = Duration::from_secs(1);

/// Why nobody can say what an object store has.
const NO_ARCHIVE: &str = "no object store is configured; configure again the one that it is in";

/// The object store of a node.
#[derive(Clone)]
pub struct NodeArchive {
    /// Keeps captures in it.
    pub archive: Arc<dyn Archive>,
    /// Where it is, as a URL without secrets; for people.
    pub place: String,
}

/// Whether the capture that a sandbox is restored from is on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Brought {
    /// It is, or the start finds out why not.
    Here,
    /// Something else is wanted of the sandbox, or the server stops.
    Moot,
    /// It is not, and does not come.
    Failed(EndCause),
}

// === impl SandboxTask ===

impl SandboxTask {
    /// Sees to it that the capture is on this node that the sandbox is restored from: fetches what
    /// is missing or damaged. Counts as a part of the start.
    pub(crate) async fn bring(&self) -> Brought {
        let shared = &self.shared;
        let Some(restore) = &self.entry.launch.restore else { return Brought::Here };
        let Some(NodeArchive { archive, .. }) = &shared.parts.archive else {
            return Brought::Here;
        };
        let snapshot = &restore.snapshot;
        let damage = match shared.parts.captures.open(snapshot.as_str()).await {
            Ok(_) | Err(CaptureError::PoolFull { .. } | CaptureError::Step { .. }) => {
                return Brought::Here;
            }
            Err(CaptureError::Missing { .. }) => None,
            Err(CaptureError::Damaged { detail, .. }) => Some(detail),
        };
        // The files of an image may be another project's.
        let registered = self.entry.launch.image.registered.as_ref();
        let registered = registered.filter(|image| image.snapshot == *snapshot);
        let project = registered.map_or(&self.entry.project, |image| &image.project).clone();
        let order = ArchiveOrder { snapshot: snapshot.clone(), project };
        let fetching = async {
            match damage {
                None => fetch(shared, &**archive, &order).await,
                Some(detail) => mend(shared, &**archive, &order, &detail).await,
            }
        };
        let fetched = tokio::select! {
            fetched = fetching => fetched,
            () = moot(self.wanted.clone()) => return Brought::Moot,
            () = shared.parts.tasks.stopping() => return Brought::Moot,
        };
        match fetched {
            Ok(()) => Brought::Here,
            Err(why) => {
                tracing::warn!(
                    sandbox.id = %self.entry.id, snapshot.id = %snapshot, error = why,
                    "a snapshot was not fetched"
                );
                let message = format!("snapshot {snapshot}: {why}");
                let (step, failure) = (FailedStep::Snapshot, StartFailure::Internal);
                Brought::Failed(EndCause::StartFailed { step, failure, message })
            }
        }
    }
}

/// Resolves when a sandbox that is being started shall be gone.
pub(crate) async fn moot(mut wanted: watch::Receiver<Wanted>) {
    let ends = |wanted: &Wanted| {
        wanted
            .intent
            .as_ref()
            .is_some_and(|intent| matches!(intent.target, NodeTarget::Terminated(_)))
    };
    if wanted.wait_for(ends).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Fetches a damaged capture again, if the object store has it.
async fn mend(
    shared: &Shared,
    archive: &dyn Archive,
    order: &ArchiveOrder,
    detail: &str,
) -> Result<(), String> {
    let name = order.snapshot.as_str();
    let kept = archive.list(&order.project).await.map_err(|bad| not_fetched(&bad))?;
    if !kept.contains(name) {
        // The start says that it is damaged.
        return Ok(());
    }
    tracing::error!(
        snapshot.id = name,
        detail,
        "a snapshot is damaged on this node; it is fetched from the object store again"
    );
    fetch(shared, archive, order).await
}

async fn fetch(shared: &Shared, archive: &dyn Archive, order: &ArchiveOrder) -> Result<(), String> {
    let (name, project) = (order.snapshot.as_str(), &order.project);
    let entered = shared.transfers.enter_fetch(&order.snapshot);
    let begun = Instant::now();
    tracing::info!(snapshot.id = name, "fetching a snapshot from the object store");
    let note = |progress| entered.note(progress);
    let fetched = tokio::select! {
        fetched = archive.fetch(project, name, &note) => fetched.map_err(|bad| match bad {
            ArchiveError::Missing { .. } => {
                "it is neither on this node nor in the object store".to_owned()
            }
            bad @ (ArchiveError::Capture(_)
            | ArchiveError::Damaged { .. }
            | ArchiveError::Store { .. }
            | ArchiveError::Key { .. }) => not_fetched(&bad),
        }),
        () = too_late(&entered, begun) => Err(format!(
            "it was not fetched from the object store within {} s; the object store is too slow",
            begun.elapsed().as_secs()
        )),
    };
    match &fetched {
        Ok(()) => {
            let size = entered.progress().total;
            shared.transfers.fetches.done(size, begun.elapsed());
            tracing::info!(
                snapshot.id = name,
                size_bytes = size.bytes(),
                duration_ms = millis(begun.elapsed()),
                "a snapshot was fetched"
            );
        }
        Err(_) => shared.transfers.fetches.failed(),
    }
    fetched
}

fn not_fetched(bad: &ArchiveError) -> String {
    format!("it is not on this node, and was not fetched from the object store: {}", chain(bad))
}

/// Resolves when a fetch has taken longer than one of its size may.
async fn too_late(entered: &Entered<'_>, begun: Instant) {
    loop {
        // The size shows only after a while.
        let deadline = begun + fetch_limit(entered.progress().total);
        if Instant::now() >= deadline {
            return;
        }
        tokio::time::sleep_until(deadline).await;
    }
}

/// Returns how long a fetch of a size may take.
fn fetch_limit(total: ByteSize) -> Duration {
    let mib = u32::try_from(total.bytes().div_ceil(1 << 20)).unwrap_or(u32::MAX);
    FETCH_BASE.saturating_add(FETCH_PER_MIB.saturating_mul(mib))
}

/// What an upload sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upload {
    /// What is not there yet, by its name.
    WhatIsNew,
    /// What is not there any more, or not whole.
    WhatIsLost,
}

/// Begins an upload, unless there is one of that snapshot.
pub(crate) fn upload(shared: &Arc<Shared>, order: ArchiveOrder, what: Upload) {
    let Some(NodeArchive { archive, .. }) = shared.parts.archive.clone() else { return };
    let own = Arc::clone(shared);
    drop(shared.parts.tasks.spawn("snapshot_upload", async move {
        let Some((entered, cancelled)) = own.transfers.enter_upload(&order.snapshot) else {
            return;
        };
        let outcome = tokio::select! {
            outcome = upload_in_turn(&own, &*archive, (&order, what), &entered) => outcome,
            () = entered.may_be_cut(cancelled) => return,
            () = own.parts.tasks.stopping() => return,
        };
        let (snapshot, node) = (order.snapshot, own.config.id.clone());
        own.parts.sink.archived(ArchiveReport { snapshot, node, outcome }).await;
        // Not before it is stored: until then it is ordered again, for nothing.
        drop(entered);
    }));
}

async fn upload_in_turn(
    shared: &Shared,
    archive: &dyn Archive,
    (order, what): (&ArchiveOrder, Upload),
    entered: &Entered<'_>,
) -> Result<ArchiveFacts, String> {
    let transfers = &shared.transfers;
    let _turn = transfers.turns.acquire().await.expect("it is never closed");
    entered.change(|job| job.active = true);
    let begun = Instant::now();
    let note = |progress| entered.note(progress);
    let (project, name) = (&order.project, order.snapshot.as_str());
    let uploaded = match what {
        Upload::WhatIsNew => archive.store(project, name, &note).await,
        Upload::WhatIsLost => archive.mend(project, name, &note).await,
    };
    match uploaded {
        Ok(done) => {
            transfers.uploads.done(done.sent, begun.elapsed());
            tracing::debug!(
                snapshot.id = %order.snapshot, size_bytes = done.size.bytes(),
                sent_bytes = done.sent.bytes(), duration_ms = millis(begun.elapsed()),
                "a snapshot was uploaded"
            );
            Ok(ArchiveFacts { uri: done.uri, size: done.size, sent: done.sent })
        }
        Err(bad) => {
            transfers.uploads.failed();
            Err(chain(&bad))
        }
    }
}

/// Reads what the object store has of a snapshot.
pub(crate) async fn verify(shared: &Shared, order: &ArchiveOrder) -> Result<(), VerifyError> {
    let Some(NodeArchive { archive, .. }) = &shared.parts.archive else {
        // It may be there, and be whole.
        return Err(VerifyError::Failed { detail: NO_ARCHIVE.to_owned() });
    };
    let read = archive.verify(&order.project, order.snapshot.as_str()).await;
    read.map_err(|bad| match bad {
        ArchiveError::Missing { .. } => VerifyError::Missing,
        ArchiveError::Damaged { .. } => VerifyError::Damaged { detail: chain(&bad) },
        ArchiveError::Capture(_) | ArchiveError::Store { .. } | ArchiveError::Key { .. } => {
            VerifyError::Failed { detail: chain(&bad) }
        }
    })
}

/// Removes a snapshot from the object store.
pub(crate) async fn remove(shared: &Shared, order: &ArchiveOrder) -> Result<(), String> {
    let Some(NodeArchive { archive, .. }) = &shared.parts.archive else { return Ok(()) };
    shared.transfers.cancel(&order.snapshot);
    shared.transfers.until_ended(&order.snapshot).await;
    let removed = archive.remove(&order.project, order.snapshot.as_str()).await;
    removed.map_err(|bad| {
        shared.transfers.removals_failed.fetch_add(1, Ordering::Relaxed);
        chain(&bad)
    })
}

pub(crate) fn view(shared: &Shared) -> Option<ArchiveView> {
    let place = shared.parts.archive.as_ref()?.place.clone();
    Some(ArchiveView { place, transfers: shared.transfers.list() })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_fetch_may_take_longer() {
        let secs = |bytes| fetch_limit(ByteSize::from_bytes(bytes)).as_secs();
        assert_eq!([secs(0), secs(1), secs(1 << 20), secs(1 << 30)], [120, 121, 121, 1144]);
        assert!(secs(u64::MAX) > 1 << 30);
    }
}
