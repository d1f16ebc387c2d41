//! Whether snapshots are still what was taken: asked for, and from time to time in the background.
//!
//! A snapshot that is found damaged is `failed` from then on, and its `error` names the damage:
//! nothing is restored from it any more. Its files stay until it is deleted, because most of them
//! may still be of use to somebody. One that is said to be in the object store is read on, because
//! what the object store lacked may be there again: found sound, it is what it was.

use std::{collections::BTreeSet, fmt, time::Duration};

use tarn_node_api::{ArchiveOrder, Node, VerifyError};
use tarn_store::StoreError;
use tarn_types::{
    Archival, ByteSize, Pace, ProjectId, SnapshotId, SnapshotRecord, SnapshotStatus, UnixMillis,
};

use super::settle::Revised;
use crate::{Control, ControlError};

/// What the `error` of a damaged snapshot begins with.
const DAMAGED: &str = "damaged: ";

/// How often it is looked which snapshots are due, at most.
const PERIOD: Duration = Duration::from_secs(3600);

/// What reading a snapshot led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is what was taken.
    Sound {
        /// How much was read.
        read: ByteSize,
    },
    /// It is not.
    Damaged {
        /// Which part of it, and how.
        detail: String,
    },
}

/// Returns the snapshots that were not read for as long as the interval, longest first.
fn due(
    mut records: Vec<SnapshotRecord>,
    now: UnixMillis,
    interval: Duration,
) -> Vec<SnapshotRecord> {
    let last = |record: &SnapshotRecord| record.verified_at.unwrap_or(record.created_at);
    let old =
        |record: &SnapshotRecord| Duration::from_millis(now.millis_since(last(record))) >= interval;
    records.retain(|record| is_worth_reading(record) && old(record));
    records.sort_by_key(last);
    records
}

/// Says whether a snapshot can be what was taken.
fn is_worth_reading(record: &SnapshotRecord) -> bool {
    record.status.is_ready() || may_recover(record)
}

/// Says whether a snapshot was found damaged, and may be whole in the object store all the same.
fn may_recover(record: &SnapshotRecord) -> bool {
    let found = record.error.as_deref().is_some_and(|error| error.starts_with(DAMAGED));
    record.status == SnapshotStatus::Failed && found && is_archived(record)
}

fn is_archived(record: &SnapshotRecord) -> bool {
    match record.archive {
        Archival::Whole { .. } => true,
        Archival::Nothing | Archival::Begun => false,
    }
}

/// What is wrong with a snapshot on its node.
#[derive(Debug, Clone, Copy)]
enum Lost<'a> {
    /// It is not there.
    Absent,
    /// It is damaged, in this way.
    Damaged(&'a str),
}

impl fmt::Display for Lost<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "its node does not have it",
            Self::Damaged(detail) => detail,
        })
    }
}

// === impl Control ===

impl Control {
    /// Reads every byte of a snapshot and compares it with what was taken.
    ///
    /// # Errors
    /// Fails when the project has none of that id, it is not ready, or it cannot be read now.
    pub async fn snapshot_verify(
        &self,
        project: &ProjectId,
        snapshot: &SnapshotId,
    ) -> Result<Verdict, ControlError> {
        let record = self.snapshot_fetch(project, snapshot).await?;
        if !is_worth_reading(&record) {
            return Err(ControlError::not_ready(&record));
        }
        let control = self.clone();
        self.finish("snapshot_verify", async move { control.verify(&record, Pace::Full).await })
            .await
    }

    async fn verify(&self, record: &SnapshotRecord, pace: Pace) -> Result<Verdict, ControlError> {
        let id = &record.id;
        let Some(node) = self.node(&record.node) else {
            let detail = format!("the node of snapshot {id} is not attached");
            return Err(ControlError::Unavailable { detail });
        };
        let verdict = match node.verify(id, pace).await {
            Ok(read) => {
                // In the background the object store is left alone: reading it costs its owner.
                if pace == Pace::Full && is_archived(record) && node.has_archive() {
                    self.look_after_copy(&*node, record).await;
                }
                Verdict::Sound { read }
            }
            Err(VerifyError::Damaged { detail }) => {
                let verdict = self.other_copy(&*node, record, Lost::Damaged(&detail)).await?;
                if matches!(verdict, Verdict::Sound { .. }) {
                    tracing::error!(
                        snapshot.id = %id, node.id = %record.node, detail,
                        "a snapshot is damaged on its node, and whole in the object store: it is \
                         fetched from there when it is needed. Look after the disk of the node"
                    );
                }
                verdict
            }
            Err(VerifyError::Missing) if is_archived(record) => {
                self.other_copy(&*node, record, Lost::Absent).await?
            }
            Err(VerifyError::Missing) => return Err(self.missing(record).await?),
            Err(VerifyError::Failed { detail }) => {
                self.0.snapshot_counters.unverified();
                return Err(ControlError::Unavailable { detail });
            }
        };
        self.note(id, &verdict).await?;
        Ok(verdict)
    }

    /// Reads what the object store has of a snapshot that is whole on its node, and has it sent
    /// again where it is not whole.
    async fn look_after_copy(&self, node: &dyn Node, record: &SnapshotRecord) {
        let id = &record.id;
        let order = ArchiveOrder { snapshot: id.clone(), project: record.project.clone() };
        // Not removed from there while it is read.
        let _needed = self.use_snapshot(id);
        if self.snapshot_fetch(&record.project, id).await.is_err() {
            return;
        }
        let worse = match node.verify_archived(&order).await {
            Ok(()) => return,
            Err(VerifyError::Failed { detail }) => {
                tracing::warn!(snapshot.id = %id, detail, "the object store's copy was not read");
                return;
            }
            Err(worse @ (VerifyError::Damaged { .. } | VerifyError::Missing)) => worse,
        };
        tracing::error!(
            snapshot.id = %id, error = %worse,
            "a snapshot is whole on its node, and not in the object store: it is sent again. Look \
             after the object store"
        );
        if let Err(refused) = node.mend_archived(order).await {
            tracing::warn!(snapshot.id = %id, error = %refused, "it was not sent again");
        }
    }

    /// Looks whether the object store has what its node has lost: then that is the snapshot, and is
    /// fetched when somebody needs it.
    async fn other_copy(
        &self,
        node: &dyn Node,
        record: &SnapshotRecord,
        lost: Lost<'_>,
    ) -> Result<Verdict, ControlError> {
        let id = &record.id;
        if !is_archived(record) {
            return Ok(Verdict::Damaged { detail: lost.to_string() });
        }
        let order = ArchiveOrder { snapshot: id.clone(), project: record.project.clone() };
        match node.verify_archived(&order).await {
            Ok(()) => {}
            Err(VerifyError::Failed { detail }) => {
                let detail = format!("{lost}; and the object store: {detail}");
                return match lost {
                    // Nobody may go on from what is there; if the other copy is whole, that is
                    // found when the object store answers.
                    Lost::Damaged(_) => Ok(Verdict::Damaged { detail }),
                    Lost::Absent => {
                        self.0.snapshot_counters.unverified();
                        Err(ControlError::Unavailable { detail })
                    }
                };
            }
            Err(worse @ (VerifyError::Damaged { .. } | VerifyError::Missing)) => {
                let detail = format!("{lost}; and in the object store: {worse}");
                return Ok(Verdict::Damaged { detail });
            }
        }
        if let Err(failed) = node.discard(id).await {
            return Err(ControlError::Unavailable { detail: failed.to_string() });
        }
        let read = record.facts.map_or(ByteSize::from_bytes(0), |facts| facts.size);
        Ok(Verdict::Sound { read })
    }

    /// Says what is to be made of a snapshot that its node does not have.
    async fn missing(&self, record: &SnapshotRecord) -> Result<ControlError, ControlError> {
        self.snapshot_fetch(&record.project, &record.id).await?;
        self.0.snapshot_counters.unverified();
        let detail = format!("node {} does not have the files of {}", record.node, record.id);
        Ok(ControlError::Unavailable { detail })
    }

    /// Stores what was found.
    async fn note(&self, id: &SnapshotId, verdict: &Verdict) -> Result<(), ControlError> {
        let now = self.0.parts.clock.now();
        let revised = self.revise(id, |before| {
            if !is_worth_reading(before) {
                return None;
            }
            let read = SnapshotRecord { verified_at: Some(now), ..before.clone() };
            Some(match verdict {
                Verdict::Sound { .. } if may_recover(before) => {
                    SnapshotRecord { status: SnapshotStatus::Completed, error: None, ..read }
                }
                Verdict::Sound { .. } => read,
                Verdict::Damaged { detail } => SnapshotRecord {
                    status: SnapshotStatus::Failed,
                    error: Some(format!("{DAMAGED}{detail}")),
                    ..read
                },
            })
        });
        // What is gone by now has no state to keep.
        let Revised::Changed(record) = revised.await? else { return Ok(()) };
        match verdict {
            Verdict::Sound { read } => {
                self.0.snapshot_counters.sound(*read);
                tracing::info!(snapshot.id = %id, read_bytes = read.bytes(), "snapshot verified");
            }
            Verdict::Damaged { detail } => {
                self.0.snapshot_counters.damaged();
                tracing::error!(
                    snapshot.id = %id, sandbox.id = %record.sandbox, node.id = %record.node, detail,
                    "a snapshot is damaged and can no longer be restored; its files are kept until \
                     it is deleted. Look after the disk that it lies on"
                );
            }
        }
        Ok(())
    }

    pub(crate) fn spawn_scrubber(&self) {
        let interval = Duration::from_secs(self.0.config.scrub_interval_secs);
        if interval.is_zero() {
            return;
        }
        let control = self.clone();
        drop(self.0.parts.tasks.spawn("snapshot_scrubber", async move {
            let stopping = control.0.parts.tasks.stopping();
            tokio::pin!(stopping);
            loop {
                tokio::select! {
                    () = &mut stopping => return,
                    () = tokio::time::sleep(PERIOD.min(interval)) => {}
                }
                if let Err(failed) = control.scrub(interval).await {
                    let detail = failed.detail().unwrap_or_default();
                    tracing::warn!(error = %failed, detail, "snapshots are not read; trying again");
                }
            }
        }));
    }

    /// Reads what is due, one after the other.
    async fn scrub(&self, interval: Duration) -> Result<(), ControlError> {
        let mut all = Vec::new();
        // Every project has a key, if only a revoked one.
        let keys = self.0.parts.store.key_list().await?;
        let projects: BTreeSet<ProjectId> = keys.into_iter().map(|key| key.project).collect();
        for project in projects {
            all.extend(self.0.parts.store.snapshot_list(&project, None).await?);
        }
        for id in self.0.images.snapshots() {
            match self.0.parts.store.snapshot_fetch(&id).await {
                // Those that are shown are among the projects'.
                Ok(record) if record.hidden => all.push(record),
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(failed) => return Err(failed.into()),
            }
        }
        for record in due(all, self.0.parts.clock.now(), interval) {
            if self.0.parts.tasks.is_stopping() {
                return Ok(());
            }
            match self.verify(&record, Pace::Background).await {
                Ok(_) | Err(ControlError::SnapshotNotFound(_)) => {}
                Err(failed) => {
                    let detail = failed.detail().unwrap_or_default();
                    tracing::warn!(snapshot.id = %record.id, error = %failed, detail, "a snapshot is not read; trying again");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tarn_types::{Captured, NodeId, Resources, SandboxId, SnapshotKind};

    use super::*;

    fn in_the_object_store(before: SnapshotRecord) -> SnapshotRecord {
        let uri = "s3://bucket/snapshots/one".to_owned();
        SnapshotRecord { archive: Archival::Whole { uri }, ..before }
    }

    fn record(number: u8, created_at: i64, verified_at: Option<i64>) -> SnapshotRecord {
        SnapshotRecord {
            id: SnapshotId::from_random([number; 16]),
            project: ProjectId::from_random([2; 16]),
            sandbox: SandboxId::from_random([3; 21]),
            node: NodeId::from_random([4; 16]),
            created_at: UnixMillis(created_at),
            kind: SnapshotKind::Filesystem,
            status: SnapshotStatus::Completed,
            hidden: false,
            captured: Captured {
                image: "img".parse().expect("a good name"),
                resources: Resources::default(),
                entrypoint: None,
                secret_names: Vec::new(),
            },
            facts: None,
            error: None,
            archive: Archival::Nothing,
            verified_at: verified_at.map(UnixMillis),
            sequence: 1,
        }
    }

    #[test]
    fn what_was_not_read_for_longest_is_due_first() {
        let other = |number, status| SnapshotRecord { status, ..record(number, 1, None) };
        let damaged = Some(format!("{DAMAGED}layer.img"));
        let all = vec![
            record(1, 0, Some(9_001)),
            record(2, 0, Some(5_000)),
            record(3, 4_000, None),
            record(4, 9_001, None),
            record(5, 0, Some(9_000)),
            other(7, SnapshotStatus::InProgress),
            other(8, SnapshotStatus::Failed),
            in_the_object_store(other(9, SnapshotStatus::Failed)),
            // Without a copy in the object store it stays what it is.
            SnapshotRecord { error: damaged.clone(), ..other(10, SnapshotStatus::Failed) },
            in_the_object_store(SnapshotRecord {
                error: damaged,
                ..other(11, SnapshotStatus::Failed)
            }),
        ];
        let due = due(all, UnixMillis(10_000), Duration::from_secs(1));
        let ids: Vec<_> = due.into_iter().map(|record| record.id).collect();
        assert_eq!(ids, [11, 3, 2, 5].map(|number| SnapshotId::from_random([number; 16])));
    }
}
