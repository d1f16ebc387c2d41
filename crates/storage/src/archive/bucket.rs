//! The object store as we use it: every request has a deadline, every error names the step and the
//! object.

use std::{
    fs,
    future::Future,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload, path::Path};
use tarn_host::ArchiveError;
use tarn_task::{Entropy, OsEntropy};
use thiserror::Error;

use super::place::{CHUNKS, MARKS, PROBES, SNAPSHOTS};
use crate::durable;

/// How long a request may take, its retries included: longer than these go on, so it ends what
/// hangs for another reason, such as a directory on a network.
const DEADLINE: Duration = Duration::from_secs(120);

/// An open object store.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// Its directory, if it is one.
    dir: Option<PathBuf>,
}

/// What the object store says of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ObjectAge {
    /// When it was written, by the object store's clock, in milliseconds.
    pub(super) written: i64,
    pub(super) size: u64,
}

/// What reading an object gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Got {
    /// There is none.
    Absent,
    /// It has so many bytes, and nothing that we write there has.
    TooLarge(u64),
    Whole(Bytes),
}

/// The object store took something and gave back something else.
#[derive(Debug, Error)]
#[error("it gave back other bytes than it was given")]
struct OtherBytes;

#[derive(Debug, Error)]
#[error("no answer within {} s", DEADLINE.as_secs())]
struct NoAnswer;

// === impl Bucket ===

impl Bucket {
    pub(super) fn new(store: Arc<dyn ObjectStore>, dir: Option<PathBuf>) -> Self {
        Self { store, dir }
    }

    /// Writes a whole object, in place of one that is there.
    pub(super) async fn put(&self, path: &str, body: Vec<u8>) -> Result<(), ArchiveError> {
        let payload = PutPayload::from(body);
        within("put", path, self.store.put(&Path::from(path), payload)).await.map(drop)
    }

    /// Reads an object of at most some bytes.
    pub(super) async fn get(&self, path: &str, longest: usize) -> Result<Got, ArchiveError> {
        let place = Path::from(path);
        let read = async {
            let found = self.store.get(&place).await?;
            let size = found.meta.size;
            if size > longest as u64 {
                return Ok(Got::TooLarge(size));
            }
            found.bytes().await.map(Got::Whole)
        };
        Ok(absent_is_none(within("get", path, read).await)?.unwrap_or(Got::Absent))
    }

    /// Looks at an object; `None` when there is none.
    pub(super) async fn look(&self, path: &str) -> Result<Option<ObjectAge>, ArchiveError> {
        let meta = within("look", path, self.store.head(&Path::from(path))).await;
        Ok(absent_is_none(meta)?.map(|meta| ObjectAge::of(&meta)))
    }

    /// Removes an object; does nothing when there is none.
    pub(super) async fn remove(&self, path: &str) -> Result<(), ArchiveError> {
        let removed = within("delete", path, self.store.delete(&Path::from(path))).await;
        absent_is_none(removed).map(drop)
    }

    /// Makes it durable that an object is not there; needed in a directory alone. Blocks.
    pub(super) fn sync_removed(&self, path: &str) -> Result<(), ArchiveError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let place = dir.join(path);
        let parent = place.parent().unwrap_or(dir);
        if !parent.exists() {
            return Ok(());
        }
        durable::sync(parent).map_err(|error| failed("sync", path, error))
    }

    /// Removes many objects; one that is not there is as good as removed.
    pub(super) async fn remove_all(&self, paths: Vec<String>) -> Result<(), ArchiveError> {
        let last = paths.last().cloned().unwrap_or_default();
        let places: Vec<_> = paths.iter().map(|path| Ok(Path::from(path.as_str()))).collect();
        let mut removed = self.store.delete_stream(futures::stream::iter(places).boxed());
        loop {
            match next("delete", &last, &mut removed).await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(error) => {
                    absent_is_none(Err::<(), _>(error))?;
                }
            }
        }
    }

    /// Lists all that lies beneath a path, whatever the order.
    pub(super) fn list(&self, beneath: &str) -> Listing {
        let path = Path::from(beneath);
        Listing { beneath: beneath.to_owned(), objects: self.store.list(Some(&path)) }
    }

    /// Lists the names of the objects directly beneath a path.
    pub(super) async fn names(&self, beneath: &str) -> Result<Vec<String>, ArchiveError> {
        let place = Path::from(beneath);
        let listed = within("list", beneath, self.store.list_with_delimiter(Some(&place))).await;
        let objects = absent_is_none(listed)?.map(|listed| listed.objects).unwrap_or_default();
        let names = objects.iter().filter_map(|meta| meta.location.filename());
        Ok(names.map(str::to_owned).collect())
    }

    /// Removes what is half written in a directory and older than a time: a server that was killed
    /// left it. Blocks; elsewhere there is nothing of the kind.
    pub(super) fn remove_drafts(&self, oldest: i64) -> Result<(), ArchiveError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        [SNAPSHOTS, CHUNKS, PROBES, MARKS].into_iter().try_for_each(|part| {
            remove_drafts(&dir.join(part), oldest).map_err(|error| failed("clean", part, error))
        })
    }

    /// Writes, reads and deletes an object; returns the object store's time, in milliseconds.
    pub(super) async fn probe(&self) -> Result<i64, ArchiveError> {
        let entropy: &dyn Entropy = &OsEntropy;
        let bytes: [u8; 16] = entropy.bytes();
        let path = format!("{PROBES}/{:032x}", u128::from_le_bytes(bytes));
        self.put(&path, bytes.to_vec()).await?;
        let read = self.get(&path, bytes.len()).await?;
        let age = self.look(&path).await?;
        self.remove(&path).await?;
        match (read, age) {
            (Got::Whole(read), Some(age)) if *read == bytes => Ok(age.written),
            (Got::Absent | Got::TooLarge(_) | Got::Whole(_), Some(_) | None) => {
                Err(failed("get", &path, OtherBytes))
            }
        }
    }
}

/// The objects beneath a path, some at a time.
pub(super) struct Listing {
    beneath: String,
    objects: BoxStream<'static, object_store::Result<ObjectMeta>>,
}

// === impl Listing ===

impl Listing {
    /// Returns the path of the next object, and what is said of it.
    pub(super) async fn next(&mut self) -> Result<Option<(String, ObjectAge)>, ArchiveError> {
        let meta = next("list", &self.beneath, &mut self.objects).await?;
        Ok(meta.map(|meta| (meta.location.to_string(), ObjectAge::of(&meta))))
    }
}

// === impl ObjectAge ===

impl ObjectAge {
    fn of(meta: &ObjectMeta) -> Self {
        Self { written: meta.last_modified.timestamp_millis(), size: meta.size }
    }
}

/// Removes the files beneath a directory that `object_store` marks as half written: by a `#` and a
/// number.
fn remove_drafts(dir: &std::path::Path, oldest: i64) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_drafts(&entry.path(), oldest)?;
            continue;
        }
        if !entry.file_name().to_string_lossy().contains('#') {
            continue;
        }
        // It may become whole at this moment.
        let Ok(written) = entry.metadata().and_then(|meta| meta.modified()) else { continue };
        let written = written.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        if i64::try_from(written).unwrap_or(i64::MAX) < oldest {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

async fn next<T>(
    step: &'static str,
    object: &str,
    stream: &mut BoxStream<'static, object_store::Result<T>>,
) -> Result<Option<T>, ArchiveError> {
    within(step, object, stream.try_next()).await
}

/// Waits for an answer, but not for ever.
async fn within<T>(
    step: &'static str,
    object: &str,
    request: impl Future<Output = object_store::Result<T>>,
) -> Result<T, ArchiveError> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(answer) => answer.map_err(|error| failed(step, object, error)),
        Err(_) => Err(failed(step, object, NoAnswer)),
    }
}

fn failed(
    step: &'static str,
    object: &str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> ArchiveError {
    ArchiveError::Store { step, object: object.to_owned(), source: Box::new(error) }
}

/// Takes the answer that there is no such object for what it is.
fn absent_is_none<T>(answer: Result<T, ArchiveError>) -> Result<Option<T>, ArchiveError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(ArchiveError::Store { source, .. })
            if matches!(source.downcast_ref(), Some(object_store::Error::NotFound { .. })) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
