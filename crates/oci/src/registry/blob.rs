//! Layers on their way: written to a file as they come, read from it at the same time.
//!
//! ```text
//!  registry ─▶ fetch ─▶ channel ─▶ write, hash ─▶ <work>/blobs/<digest> ─▶ BlobReader ─▶ unpack
//!               ▲  again from the byte that is missing                      ends when verified
//!               └──────────── cut ◀───┘
//! ```

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use reqwest::{Response, StatusCode, header::CONTENT_RANGE};
use tarn_task::Tasks;
use tokio::sync::mpsc;

use crate::{Digest, OciError, digest::Hasher, manifest::Descriptor, work::Work};

use super::{Failed, Session, Source};

/// How many pieces of a layer wait for the disk, each of at most some hundred KiB.
const WAITING: usize = 16;
/// How often one layer may be cut: who sends a byte and hangs up does not get on for ever.
const MOST_CUTS: u32 = 100;
/// How much of what is here already is hashed at a time.
const CHUNK: usize = 256 << 10;

/// A layer in a file that may still be growing.
#[derive(Debug)]
pub(crate) struct Blob {
    digest: Digest,
    size: u64,
    path: PathBuf,
    /// What an earlier pull left.
    inherited: u64,
    state: Mutex<State>,
    changed: Condvar,
    /// Nobody else gets the directory while somebody may write to a file in it.
    _work: Arc<Work>,
}

#[derive(Debug)]
struct State {
    written: u64,
    end: End,
}

/// Whether more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Growing,
    /// All of it is there, and what its digest says.
    Verified,
    /// No more comes.
    GivenUp,
}

/// Reads a blob from its beginning, waiting for what is not there yet. Its end is reached only
/// once it is verified.
#[derive(Debug)]
pub(crate) struct BlobReader {
    blob: Arc<Blob>,
    file: File,
    at: u64,
}

/// Writes a blob: hashes what was there, then takes what comes.
#[derive(Debug)]
struct Writer {
    blob: Arc<Blob>,
    file: File,
    hasher: Hasher,
}

// === impl Blob ===

impl Blob {
    /// Takes what an earlier pull left of a blob in a directory, or begins it. Blocks.
    pub(crate) fn open(
        work: &Arc<Work>,
        dir: &Path,
        descriptor: &Descriptor,
    ) -> Result<Self, OciError> {
        let digest = descriptor.digest.clone();
        let path = dir.join(format!("{}-{}", digest.algorithm(), digest.hex()));
        let fail = |error| OciError::disk("open", &path, error);
        let file = options().create(true).open(&path).map_err(fail)?;
        let mut inherited = file.metadata().map_err(fail)?.len();
        if inherited > descriptor.size {
            file.set_len(0).map_err(fail)?;
            inherited = 0;
        }
        let state = Mutex::new(State { written: inherited, end: End::Growing });
        let size = descriptor.size;
        Ok(Self {
            digest,
            size,
            path,
            inherited,
            state,
            changed: Condvar::new(),
            _work: Arc::clone(work),
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn inherited(&self) -> u64 {
        self.inherited
    }

    /// Tells its readers that no more comes, if it is not whole.
    pub(crate) fn give_up(&self) {
        self.end(End::GivenUp);
    }

    pub(crate) fn reader(self: &Arc<Self>) -> Result<BlobReader, OciError> {
        let file = options().open(&self.path);
        let file = file.map_err(|error| OciError::disk("open", &self.path, error))?;
        Ok(BlobReader { blob: Arc::clone(self), file, at: 0 })
    }

    fn end(&self, end: End) {
        let mut state = self.state.lock();
        if state.end == End::Growing {
            state.end = end;
        }
        self.changed.notify_all();
    }

    fn what(&self) -> String {
        format!("the layer {}", self.digest)
    }
}

fn options() -> OpenOptions {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600);
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    options
}

// === impl BlobReader ===

impl Read for BlobReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = {
            let mut state = self.blob.state.lock();
            loop {
                match (state.written - self.at, state.end) {
                    (1.., End::Growing | End::Verified) => break state.written - self.at,
                    (0, End::Verified) => return Ok(0),
                    (0, End::Growing) => self.blob.changed.wait(&mut state),
                    (_, End::GivenUp) => return Err(io::Error::other(OciError::Cancelled)),
                }
            }
        };
        let most = usize::try_from(available).unwrap_or(usize::MAX).min(into.len());
        let count = self.file.read(&mut into[..most])?;
        self.at += count as u64;
        if count == 0 && most > 0 {
            let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(io::Error::other(OciError::disk("read", &self.blob.path, cut)));
        }
        Ok(count)
    }
}

// === impl Writer ===

impl Writer {
    /// Writes what comes until no more does. Blocks.
    fn run(blob: Arc<Blob>, mut pieces: mpsc::Receiver<Bytes>) -> Result<(), OciError> {
        let path = blob.path.clone();
        let fail = |error| OciError::disk("write", &path, error);
        let file = options().open(&path).map_err(fail)?;
        // If the fetch was given up before the file was opened, another may have its name now.
        if blob.state.lock().end != End::Growing {
            return Ok(());
        }
        let hasher = blob.digest.hasher();
        let mut writer = Self { blob, file, hasher };
        writer.hash_inherited().map_err(fail)?;
        while let Some(piece) = pieces.blocking_recv() {
            writer.file.write_all(&piece).map_err(fail)?;
            writer.hasher.update(&piece);
            writer.blob.state.lock().written += piece.len() as u64;
            writer.blob.changed.notify_all();
        }
        writer.finish()
    }

    /// Hashes what an earlier pull left; afterwards the file's offset is at its end.
    fn hash_inherited(&mut self) -> io::Result<()> {
        let mut left = self.blob.inherited;
        let mut buffer = vec![0; CHUNK];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
            self.file.read_exact(&mut buffer[..most])?;
            self.hasher.update(&buffer[..most]);
            left -= most as u64;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), OciError> {
        let written = self.blob.state.lock().written;
        if written < self.blob.size {
            self.blob.end(End::GivenUp);
            return Ok(());
        }
        let found = self.hasher.finish();
        if found != self.blob.digest {
            self.blob.end(End::GivenUp);
            // What is left would be taken for the beginning of the right one.
            self.file
                .set_len(0)
                .map_err(|error| OciError::disk("empty", &self.blob.path, error))?;
            let (what, expected) = (self.blob.what(), self.blob.digest.clone());
            return Err(OciError::BadDigest { what, expected, found });
        }
        self.blob.end(End::Verified);
        Ok(())
    }
}

// === impl Session ===

impl Session<'_> {
    /// Fetches a blob, or what is missing of it; `arrived` is told of what came.
    pub(crate) async fn fetch(
        &self,
        blob: &Arc<Blob>,
        tasks: &Tasks,
        arrived: &(impl Fn(u64) + Sync),
    ) -> Result<(), OciError> {
        let (pieces, waiting) = mpsc::channel(WAITING);
        let writer = tasks.spawn_blocking({
            let blob = Arc::clone(blob);
            move || Writer::run(blob, waiting)
        });
        let transferred = self.transfer(blob, &pieces, arrived).await;
        drop(pieces);
        let written = writer.await.unwrap_or_else(|_panicked| Err(OciError::Cancelled));
        if transferred.is_err() || written.is_err() {
            blob.give_up();
        }
        // What the disk said explains why nothing more was taken.
        written.and(transferred)
    }

    async fn transfer(
        &self,
        blob: &Blob,
        pieces: &mpsc::Sender<Bytes>,
        arrived: &(impl Fn(u64) + Sync),
    ) -> Result<(), OciError> {
        let mut have = blob.inherited;
        arrived(have);
        let mut last = OciError::Cancelled;
        for source in &self.sources {
            match self.transfer_from(source, blob, &mut have, pieces, arrived).await {
                Ok(()) => return Ok(()),
                Err(error) => last = source.give_up(error),
            }
        }
        Err(last)
    }

    /// Fetches what is missing from one source, as often as it is cut.
    async fn transfer_from(
        &self,
        source: &Source,
        blob: &Blob,
        have: &mut u64,
        pieces: &mpsc::Sender<Bytes>,
        arrived: &(impl Fn(u64) + Sync),
    ) -> Result<(), OciError> {
        let (mut failures, mut cuts) = (0, 0);
        while *have < blob.size {
            let before = *have;
            let Err(failed) = self.transfer_once(source, blob, have, pieces, arrived).await else {
                continue;
            };
            cuts += 1;
            failures = if *have > before { 1 } else { failures + 1 };
            if cuts > MOST_CUTS {
                return Err(failed.error);
            }
            self.wait(failed, failures).await?;
        }
        Ok(())
    }

    async fn transfer_once(
        &self,
        source: &Source,
        blob: &Blob,
        have: &mut u64,
        pieces: &mpsc::Sender<Bytes>,
        arrived: &(impl Fn(u64) + Sync),
    ) -> Result<(), Failed> {
        let path = format!("blobs/{}", blob.digest);
        let mut response = self.get(source, &path, *have).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && *have > 0 {
            response = self.get(source, &path, 0).await?;
        }
        let begins = begin(&response, *have)
            .ok_or_else(|| Failed::finally(source.refused(response.status(), String::new())))?;
        let bad_size = |found| {
            let (what, expected) = (blob.what(), blob.size);
            Failed::finally(OciError::BadSize { what, expected, found })
        };
        if let Some(length) = response.content_length()
            && begins.saturating_add(length) != blob.size
        {
            return Err(bad_size(begins.saturating_add(length)));
        }
        // A server that knows no ranges sends again what is here.
        let mut skip = *have - begins;
        loop {
            let piece = response.chunk().await;
            let piece = piece.map_err(|error| source.unreachable(error, "fetch a layer"))?;
            let Some(mut piece) = piece else { break };
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= skipped as u64;
            drop(piece.split_to(skipped));
            let count = piece.len() as u64;
            if count > blob.size - *have {
                return Err(bad_size(have.saturating_add(count)));
            }
            if count > 0 {
                let sent = pieces.send(piece).await;
                sent.map_err(|_closed| Failed::finally(OciError::Cancelled))?;
                *have += count;
                arrived(count);
            }
        }
        if *have < blob.size {
            let (what, expected, found) = (blob.what(), blob.size, *have);
            let error = OciError::BadSize { what, expected, found };
            return Err(Failed { error, again: Some(std::time::Duration::ZERO) });
        }
        Ok(())
    }
}

/// Returns the byte at which an answer begins: at most the one that was asked for.
fn begin(response: &Response, asked: u64) -> Option<u64> {
    match response.status() {
        StatusCode::OK => Some(0),
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
            let first = range.strip_prefix("bytes ")?.split('-').next()?.trim();
            first.parse().ok().filter(|first| *first <= asked)
        }
        _ => None,
    }
}
