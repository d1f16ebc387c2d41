//! Background work that makes what is match what should be: placement, attachment of nodes, the
//! archive. Each pass takes no input, re-reads everything and may run any number of times.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tarn_lifecycle::{Event, status, waits_to_resume};
use tarn_node_api::{Node, Report, ReportSink as _};
use tarn_scheduler::Placement;
use tarn_store::StoreError;
use tarn_types::{SandboxId, SandboxRecord, SandboxStatus};

use crate::{Control, ControlError, suspend::OverQuota, transition::Moved};

/// How often pending sandboxes are looked at when nothing rings.
const PLACEMENT_PERIOD: Duration = Duration::from_millis(500);

/// How often snapshots are looked after when nothing rings: how late a time limit may strike.
const SNAPSHOT_PERIOD: Duration = Duration::from_secs(10);

/// How often the archive is purged.
const PURGE_PERIOD: Duration = Duration::from_secs(600);

/// How many batches of lines one expiry removes at once: they hold up those that are to be stored.
const EXPIRY_BATCH: usize = 100;

/// How many archived sandboxes one purge removes at once.
const PURGE_BATCH: usize = 500;

// === impl Control ===

impl Control {
    /// Compares a node with the store, then gives it work.
    ///
    /// What both know goes on; what should be gone is told so; what only the store knows is built
    /// (if nobody ever saw it run) or has ended; what only the node knows is frozen and kept: an
    /// empty or wrong store must never delete anybody's work. Snapshots likewise.
    ///
    /// # Errors
    /// Fails when the store cannot be read; nothing was lost then, and it may be tried again.
    pub async fn attach(&self, node: Arc<dyn Node>) -> Result<(), ControlError> {
        let begun = self.0.parts.store.snapshot_list_unsettled().await?;
        // What was placed before comes first.
        let _turn = self.0.gpus.lock().await;
        // Before the node is asked, so that nothing placed meanwhile is taken for missing.
        let stored: Vec<_> = self.0.table.all().iter().map(|entry| entry.now().record).collect();
        let reports = node.list().await;
        let unfound: HashSet<SandboxId> =
            node.unfound().await.into_iter().map(|unfound| unfound.id).collect();
        let known: HashSet<SandboxId> = reports.iter().map(|report| report.id.clone()).collect();
        {
            let mut nodes = self.0.nodes.write();
            // A try before this one may have come this far.
            nodes.retain(|known| known.id() != node.id());
            nodes.push(Arc::clone(&node));
        }
        for report in reports {
            self.compare(&*node, report).await?;
        }
        for record in stored {
            let here = record.intent.node.as_ref() == Some(node.id());
            // What the node cannot read may be all there.
            if here && !known.contains(&record.id) && !unfound.contains(&record.id) {
                self.miss(&record).await?;
            }
        }
        self.compare_snapshots(&*node, begun).await?;
        self.0.placement.notify_one();
        self.0.pools.ring();
        Ok(())
    }

    async fn compare(&self, node: &dyn Node, report: Report) -> Result<(), ControlError> {
        let record = match self.0.parts.store.sandbox_fetch(&report.id).await {
            Ok(record) => record,
            Err(StoreError::NotFound { .. }) => {
                tracing::error!(
                    sandbox.id = %report.id, node.id = %node.id(),
                    "the node has a sandbox that the store does not know; it is frozen and kept. \
                     If the store was replaced by mistake, restore it; see `tarn doctor`"
                );
                node.orphan(&report.id).await;
                return Ok(());
            }
            Err(failed) => return Err(failed.into()),
        };
        if record.intent.node.is_none() {
            self.transition(&record.id, Event::Placed(node.id().clone())).await?;
        }
        let id = report.id.clone();
        self.report(report).await;
        // Also when the node is at this generation: an orphan that is known again thaws by it.
        if let Some(entry) = self.0.table.get(&id) {
            self.apply(&entry.now().record).await;
        }
        Ok(())
    }

    /// The store has it on this node, the node has nothing of it.
    async fn miss(&self, record: &SandboxRecord) -> Result<(), ControlError> {
        if status(record) != SandboxStatus::Pending {
            self.transition(&record.id, Event::LostByNode).await?;
        } else {
            // Accepted and never seen to run: building it again loses nothing.
            self.apply(record).await;
        }
        Ok(())
    }

    pub(crate) fn spawn_reconcilers(&self) {
        self.spawn_scrubber();
        self.spawn_pool_reconciler();
        self.spawn_image_collector();
        let control = self.clone();
        drop(self.0.parts.tasks.spawn("placement_reconciler", async move {
            let stopping = control.0.parts.tasks.stopping();
            tokio::pin!(stopping);
            loop {
                tokio::select! {
                    () = &mut stopping => break,
                    () = control.0.placement.notified() => {}
                    () = tokio::time::sleep(PLACEMENT_PERIOD) => {}
                }
                control.place_pending().await;
            }
        }));
        let control = self.clone();
        drop(self.0.parts.tasks.spawn("snapshot_reconciler", async move {
            let stopping = control.0.parts.tasks.stopping();
            tokio::pin!(stopping);
            loop {
                let pause = control.0.archive_tries.until_due(SNAPSHOT_PERIOD);
                tokio::select! {
                    () = &mut stopping => break,
                    () = control.0.snapshots.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                if let Err(failed) = control.settle_snapshots().await {
                    let detail = failed.detail().unwrap_or_default();
                    tracing::warn!(error = %failed, detail, "snapshots not looked after; trying again");
                }
            }
        }));
        let control = self.clone();
        drop(self.0.parts.tasks.spawn("archive_reaper", async move {
            let stopping = control.0.parts.tasks.stopping();
            tokio::pin!(stopping);
            loop {
                control.purge_archive().await;
                control.expire_logs().await;
                if let Err(failed) = control.forget_steps().await {
                    let detail = failed.detail().unwrap_or_default();
                    tracing::warn!(
                        error = %failed, detail,
                        "old build steps were not forgotten; trying again later"
                    );
                }
                tokio::select! {
                    () = &mut stopping => break,
                    () = tokio::time::sleep(PURGE_PERIOD) => {}
                }
            }
        }));
    }

    /// Places what waits and resumes what waits to go on, oldest first, and gives up what waited
    /// too long.
    async fn place_pending(&self) {
        for entry in self.0.table.all() {
            let record = entry.now().record;
            let tried = if waits_to_resume(&record) {
                self.resume(&record.id, OverQuota::Waits).await
            } else if record.intent.node.is_none() && record.member.is_none() {
                self.place_one(&record).await
            } else {
                continue;
            };
            if let Err(failed) = tried {
                let detail = failed.detail().unwrap_or_default();
                tracing::warn!(sandbox.id = %record.id, error = %failed, detail, "placement not stored");
            }
        }
    }

    async fn place_one(&self, record: &SandboxRecord) -> Result<Moved, ControlError> {
        let waited = self.0.parts.clock.now().millis_since(record.created_at);
        let _turn = self.gpu_turn(&record.asked.resources).await;
        let event = match self.choose(&record.asked, &self.rooms().await).await? {
            Placement::On(node) => Event::Placed(node),
            Placement::Wait { reason, .. } => match record.asked.max_pending_secs {
                Some(secs) if waited >= secs.saturating_mul(1000) => Event::PendingExpired,
                Some(_) | None => Event::NotPlaced(reason),
            },
        };
        self.transition(&record.id, event).await
    }

    async fn expire_logs(&self) {
        let age = i64::from(self.0.config.log_retention_days) * 24 * 3_600_000;
        let before = tarn_types::UnixMillis(self.0.parts.clock.now().0.saturating_sub(age));
        loop {
            match self.0.parts.logs.log_expire(before, EXPIRY_BATCH).await {
                Ok(removed) if removed == EXPIRY_BATCH => {}
                Ok(_) => return,
                Err(failed) => {
                    tracing::warn!(error = %failed, "old log lines were not removed; trying again later");
                    return;
                }
            }
            if self.0.parts.tasks.is_stopping() {
                return;
            }
        }
    }

    async fn purge_archive(&self) {
        let age = self.0.config.archive_after_secs + self.0.config.archive_keep_secs;
        let age = i64::try_from(age.saturating_mul(1000)).unwrap_or(i64::MAX);
        let before = tarn_types::UnixMillis(self.0.parts.clock.now().0.saturating_sub(age));
        loop {
            match self.0.parts.store.sandbox_purge(before, PURGE_BATCH).await {
                Ok(removed) if removed == PURGE_BATCH => {}
                Ok(_) => return,
                Err(failed) => {
                    tracing::warn!(error = %failed, "the archive was not purged; trying again later");
                    return;
                }
            }
        }
    }
}
