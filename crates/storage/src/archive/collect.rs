//! The removal of chunks that nobody needs any more.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tarn_host::{ArchiveError, Collected};
use tarn_types::{ByteSize, ProjectId};

use super::{
    ObjectArchive,
    bucket::ObjectAge,
    in_use::CollectHold,
    place::{self, CHUNKS, ChunkId, PROBES, SNAPSHOTS},
};

/// How many chunks are looked at at once, and removed by one request: what another server renews
/// between the two is lost, so they come soon after each other.
const BATCH: usize = 32;

/// How long what could not be removed may still be removed by the object store.
const LINGER: Duration = Duration::from_secs(30);

/// Which chunks of which project are needed.
type Needed = HashMap<ProjectId, HashSet<ChunkId>>;

/// A chunk that nobody needs.
#[derive(Debug)]
struct Surplus {
    path: String,
    id: ChunkId,
    size: u64,
}

// === impl ObjectArchive ===

impl ObjectArchive {
    pub(super) async fn collect_chunks(&self, grace: Duration) -> Result<Collected, ArchiveError> {
        let alone = self.collecting.clone().lock_owned().await;
        // Before anything is read: uploads from now on are known.
        let hold = Arc::new(self.in_use.collect(alone));
        let grace_ms = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
        let oldest = self.bucket.probe().await?.saturating_sub(grace_ms);
        let needed = self.needed().await?;
        let mut collected = Collected { kept: 0, removed: 0, freed: ByteSize::default() };
        let mut batch = Vec::new();
        let mut listing = self.bucket.list(CHUNKS);
        while let Some((path, age)) = listing.next().await? {
            // What we did not write is not ours to remove.
            let Some((project, id)) = place::parse_chunk(&path) else { continue };
            let is_needed = needed.get(&project).is_some_and(|ids| ids.contains(&id));
            if is_needed || age.written >= oldest {
                collected.kept += 1;
                continue;
            }
            batch.push(Surplus { path, id, size: age.size });
            if batch.len() == BATCH {
                self.remove_batch(&hold, std::mem::take(&mut batch), oldest, &mut collected)
                    .await?;
            }
        }
        self.remove_batch(&hold, batch, oldest, &mut collected).await?;
        self.remove_probes(oldest).await?;
        let bucket = self.bucket.clone();
        self.background.work(move || bucket.remove_drafts(oldest)).await??;
        Ok(collected)
    }

    /// Reads every description of every project.
    async fn needed(&self) -> Result<Needed, ArchiveError> {
        let mut needed = Needed::new();
        let mut listing = self.bucket.list(SNAPSHOTS);
        while let Some((path, ObjectAge { .. })) = listing.next().await? {
            let Some((project, name)) = place::parse_snapshot(&path) else {
                let detail = format!("{path} is not a snapshot's place; move it elsewhere");
                return Err(ArchiveError::Damaged { name: path, detail });
            };
            // One that was removed since it was listed needs nothing.
            let manifest = self.vault(&project, &self.background).manifest(name).await?;
            let files = manifest.map(|manifest| manifest.files).unwrap_or_default();
            let chunks = files.iter().flat_map(|file| &file.chunks).map(|chunk| chunk.id);
            needed.entry(project).or_default().extend(chunks);
        }
        Ok(needed)
    }

    async fn remove_batch(
        &self,
        hold: &Arc<CollectHold>,
        batch: Vec<Surplus>,
        oldest: i64,
        collected: &mut Collected,
    ) -> Result<(), ArchiveError> {
        let claimed = hold.claim(batch.iter().map(|surplus| surplus.id));
        let (bucket, claimed) = (&self.bucket, &claimed);
        let look = |surplus: Surplus| async move {
            // Looked at again: another server may have renewed it since it was listed.
            let still = claimed.contains(&surplus.id)
                && bucket.look(&surplus.path).await?.is_some_and(|age| age.written < oldest);
            Ok::<_, ArchiveError>((surplus, still))
        };
        let looks = stream::iter(batch.into_iter().map(look)).buffer_unordered(BATCH);
        let looked: Vec<(Surplus, bool)> = looks.try_collect().await?;
        let mut paths = Vec::new();
        for (Surplus { path, id: _, size }, still) in looked {
            if !still {
                collected.kept += 1;
                continue;
            }
            collected.removed += 1;
            collected.freed = collected.freed.saturating_add(ByteSize::from_bytes(size));
            paths.push(path);
        }
        // Goes on though nobody waits any more: what was claimed must not be used until it is gone.
        let (tasks, bucket, hold) =
            (self.captures.tasks().clone(), self.bucket.clone(), hold.clone());
        let removing = self.captures.tasks().spawn("archive-remove", async move {
            let removed = bucket.remove_all(paths).await;
            if removed.is_err() {
                // Nobody knows whether the object store still works on it.
                drop(tokio::time::timeout(LINGER, tasks.stopping()).await);
            }
            hold.release();
            removed
        });
        removing.await.unwrap_or_else(|error| {
            let (step, object, source) = ("delete", CHUNKS.to_owned(), Box::new(error));
            Err(ArchiveError::Store { step, object, source })
        })
    }

    /// Removes what a server left that was killed between writing and deleting.
    async fn remove_probes(&self, oldest: i64) -> Result<(), ArchiveError> {
        let mut listing = self.bucket.list(PROBES);
        while let Some((path, age)) = listing.next().await? {
            if age.written < oldest {
                self.bucket.remove(&path).await?;
            }
        }
        Ok(())
    }
}
