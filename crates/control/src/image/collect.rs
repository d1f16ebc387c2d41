//! Which images nothing needs any more.
//!
//! The store says what sandboxes, snapshots, pools and names need, and every node what it has made:
//! a store that is empty or wrong must never take what somebody's work lies on.

use std::{collections::BTreeSet, time::Duration};

use tarn_host::{Removal, StoredImage};
use tarn_types::{BootImage, ImageDigest};

use super::live_image;
use crate::{Control, ControlError};

/// How often images are looked through when nothing rings.
const PERIOD: Duration = Duration::from_secs(60);

// === impl Control ===

impl Control {
    pub(crate) fn spawn_image_collector(&self) {
        let control = self.clone();
        drop(self.0.parts.tasks.spawn("image_collector", async move {
            let stopping = control.0.parts.tasks.stopping();
            tokio::pin!(stopping);
            loop {
                tokio::select! {
                    () = &mut stopping => break,
                    () = control.0.images.unneeded.notified() => {}
                    () = tokio::time::sleep(PERIOD) => {}
                }
                control.collect_images().await;
            }
        }));
    }

    /// Removes images that nothing has needed for a while; at once those that an operator wants
    /// gone, and all when room is short.
    pub(crate) async fn collect_images(&self) {
        let images = &self.0.parts.images;
        let short = images.is_short().await;
        let unwanted = self.0.images.unwanted.lock().clone();
        let now = self.0.parts.clock.now();
        let keep_ms = self.0.config.image_keep_secs.saturating_mul(1000);
        let may_go = |image: &StoredImage| {
            image.progress.is_none()
                && (short
                    || unwanted.contains(&image.digest)
                    || now.millis_since(image.used_at) >= keep_ms)
        };
        let mark = images.holds().mark();
        let mut stored = images.stored().await;
        stored.retain(may_go);
        if stored.is_empty() && !images.has_remains().await {
            self.0.images.unwanted.lock().clear();
            return;
        }
        let needed = match self.needed_images().await {
            Ok(needed) => needed,
            Err(failed) => {
                let detail = failed.detail().unwrap_or_default();
                tracing::warn!(error = %failed, detail, "no image is removed: some may be needed");
                return;
            }
        };
        images.forget_pulls(&needed).await;
        // Those that were used longest ago first.
        stored.sort_by_key(|image| image.used_at);
        for image in stored.iter().filter(|image| !needed.contains(&image.digest)) {
            match images.remove(&image.digest, mark).await {
                Ok(Removal::Done) => {
                    tracing::info!(digest = %image.digest, origin = image.origin, "image removed");
                }
                Ok(Removal::Needed | Removal::Absent) => {}
                Err(bad) => {
                    tracing::warn!(digest = %image.digest, error = %bad, "image not removed")
                }
            }
        }
        let left: Vec<_> = images.stored().await.into_iter().map(|image| image.digest).collect();
        self.0.images.unwanted.lock().retain(|digest| left.contains(digest));
    }

    async fn needed_images(&self) -> Result<BTreeSet<ImageDigest>, ControlError> {
        let mut needed = BTreeSet::new();
        // Nodes first: what control gives them afterwards is in the table by then.
        for node in self.nodes() {
            let theirs = node.images_in_use().await;
            needed.extend(theirs.map_err(|detail| ControlError::Unavailable { detail })?);
        }
        let records = self.0.table.all();
        let records = records.iter().map(|entry| entry.now().record);
        needed.extend(records.filter_map(|record| live_image(&record).cloned()));
        let snapshots = self.0.parts.store.snapshot_images().await?;
        let pools = self.0.pools.images();
        let pinned = |image: BootImage| image.pin.map(|pin| pin.digest);
        needed.extend(snapshots.into_iter().chain(pools).filter_map(pinned));
        needed.extend(self.0.images.all().into_iter().map(|record| record.pin.digest));
        Ok(needed)
    }
}
