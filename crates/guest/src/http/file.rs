//! The file routes (spec 05 §3).

use std::{io, pin::pin, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tarn_daemon_api::code;
use tokio::{sync::Semaphore, task::JoinHandle};

use super::{
    ApiError,
    body::{Body, ChunkSender, next_chunk, no_content, with_type},
    route::FilesAction,
    sse::push_json_text,
};
use crate::{
    daemon::Opened,
    file::{self, FileError, FilePath, Listing, OpenFile, PathError, Upload, with_rights},
    sys::{GiveBack, Identity},
};

/// An upload's bytes are written when this much has come: a turn of a file thread costs tens of
/// microseconds in gVisor. A slow client holds memory for less than this, and no thread.
const WRITE_BYTES: usize = 512 << 10;

/// While one batch is written the next may come, up to this size.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// So much of an upload is brought to the disk while the rest comes, which is then not waited for
/// at the end.
const SYNC_BYTES: usize = 16 << 20;

/// Who holds it syncs ahead: one upload at a time, for there are few file threads.
static SYNCING: Semaphore = Semaphore::const_new(1);

/// A listing is sent in chunks of about this size.
const LISTING_CHUNK_BYTES: usize = 64 << 10;

/// An upload that is undone with the user's rights if it is dropped on the way.
struct UploadInProgress {
    identity: Identity,
    upload: Option<Upload>,
    /// Bytes written since the last sync ahead began.
    unsynced: usize,
    syncing: Option<JoinHandle<Result<(), FileError>>>,
}

/// Bytes of an upload that have come but are not written.
#[derive(Default)]
struct Batch {
    chunks: Vec<Bytes>,
    bytes: usize,
}

/// `/files`.
pub(crate) async fn handle(
    opened: &Opened,
    action: FilesAction,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let query = request.uri().query().unwrap_or_default();
    let FilePath { asked, absolute } = FilePath::from_query(query, &opened.working_dir)?;
    let identity = &opened.account.identity;
    match action {
        FilesAction::Read => {
            let open = with_rights(identity, move || file::open(&absolute)).await?;
            Ok(read(identity.clone(), open))
        }
        FilesAction::Write => {
            let begin = with_rights(identity, move || Upload::begin(&absolute));
            let upload = begin.await?;
            UploadInProgress::new(identity.clone(), upload).receive(request.into_body()).await?;
            Ok(no_content())
        }
        FilesAction::Delete => {
            with_rights(identity, move || file::delete(&absolute)).await?;
            Ok(no_content())
        }
        FilesAction::List => {
            let listing = with_rights(identity, move || file::list(&absolute)).await?;
            let (sender, body) = Body::stream();
            tokio::task::spawn_local(send_listing(asked, listing, sender));
            Ok(with_type("application/json", body))
        }
    }
}

/// Sends a `DirectoryListing`; piece by piece, because a large one is megabytes of JSON.
async fn send_listing(path: String, listing: Listing, out: ChunkSender) {
    let mut json = Vec::new();
    json.extend_from_slice(b"{\"path\":\"");
    push_json_text(&mut json, &path);
    json.extend_from_slice(b"\",\"entries\":[");
    for index in 0..listing.len() {
        let Some(entry) = listing.get(index) else { break };
        if index > 0 {
            json.push(b',');
        }
        // Writing to memory cannot fail.
        drop(serde_json::to_writer(&mut json, &entry));
        if json.len() >= LISTING_CHUNK_BYTES
            && out.send(Ok(std::mem::take(&mut json).into())).await.is_err()
        {
            return;
        }
    }
    json.extend_from_slice(b"]}");
    // Nobody to tell if the client has hung up.
    drop(out.send(Ok(json.into())).await);
}

fn read(identity: Identity, open: OpenFile) -> Response<Body> {
    let (sender, body) = match open.length {
        Some(length) => Body::sized(length),
        None => Body::stream(),
    };
    tokio::task::spawn_local(send_file(identity, open, sender));
    with_type("application/octet-stream", body)
}

/// Sends a file chunk by chunk, reading one ahead; stops when the client hangs up.
async fn send_file(identity: Identity, OpenFile { file, length }: OpenFile, out: ChunkSender) {
    let _memory = GiveBack;
    let file = Arc::new(file);
    let read_next = || {
        let (identity, file) = (identity.clone(), Arc::clone(&file));
        async move { with_rights(&identity, move || Ok(file::read_chunk(&file))).await }
    };
    let mut left = length.unwrap_or(u64::MAX);
    let mut next = read_next().await;
    while left > 0 {
        let chunk = match next {
            Ok(Ok(Some(chunk))) => clip(chunk, left),
            Ok(Ok(None)) if length.is_none() => return,
            // Shorter than announced: the client must see that something is missing.
            Ok(Ok(None)) => {
                drop(out.send(Err(io::ErrorKind::UnexpectedEof.into())).await);
                return;
            }
            Ok(Err(error)) => {
                drop(out.send(Err(error)).await);
                return;
            }
            Err(_thread_ended) => return,
        };
        left = left.saturating_sub(chunk.len() as u64);
        if left == 0 {
            drop(out.send(Ok(chunk)).await);
            return;
        }
        let (sent, read) = tokio::join!(out.send(Ok(chunk)), read_next());
        if sent.is_err() {
            return;
        }
        next = read;
    }
}

/// A file may grow while it is sent; what was announced is sent.
fn clip(mut chunk: Bytes, left: u64) -> Bytes {
    chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
    chunk
}

// === impl UploadInProgress ===

impl UploadInProgress {
    fn new(identity: Identity, upload: Upload) -> Self {
        Self { identity, upload: Some(upload), unsynced: 0, syncing: None }
    }

    async fn receive(mut self, mut body: Incoming) -> Result<(), ApiError> {
        let _memory = GiveBack;
        let mut batch = Batch::default();
        let mut is_whole = false;
        while !is_whole {
            // What came while the last batch was written may be enough already.
            while batch.bytes < WRITE_BYTES && !is_whole {
                is_whole = batch.receive(&mut body).await?;
            }
            let mut writing = pin!(self.write(std::mem::take(&mut batch)));
            loop {
                tokio::select! {
                    outcome = writing.as_mut() => {
                        outcome?;
                        break;
                    }
                    outcome = batch.receive(&mut body), if !is_whole && batch.has_room() => {
                        is_whole = outcome?;
                    }
                }
            }
        }
        self.write(batch).await?;
        self.synced().await?;
        let Some(upload) = self.upload.take() else { return Ok(()) };
        with_rights(&self.identity, move || upload.commit()).await?;
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<(), ApiError> {
        let Some(mut upload) = self.upload.take() else { return Ok(()) };
        if batch.bytes == 0 {
            self.upload = Some(upload);
            return Ok(());
        }
        self.unsynced += batch.bytes;
        let work = move || {
            let outcome = batch.chunks.iter().try_for_each(|bytes| upload.write(bytes));
            Ok((outcome, upload))
        };
        let (outcome, upload) = with_rights(&self.identity, work).await?;
        self.upload = Some(upload);
        outcome?;
        if self.unsynced >= SYNC_BYTES {
            self.sync_ahead().await?;
        }
        Ok(())
    }

    /// Begins to bring to the disk what is written, unless that goes on already.
    async fn sync_ahead(&mut self) -> Result<(), FileError> {
        if self.syncing.as_ref().is_some_and(|syncing| !syncing.is_finished()) {
            return Ok(());
        }
        self.synced().await?;
        let Some(sync) = self.upload.as_ref().and_then(Upload::sync) else { return Ok(()) };
        let Ok(permit) = SYNCING.try_acquire() else { return Ok(()) };
        self.unsynced = 0;
        let identity = self.identity.clone();
        self.syncing = Some(tokio::task::spawn_local(async move {
            let _permit = permit;
            with_rights(&identity, sync).await
        }));
        Ok(())
    }

    /// Waits for the sync under way.
    async fn synced(&mut self) -> Result<(), FileError> {
        let Some(syncing) = self.syncing.take() else { return Ok(()) };
        syncing.await.unwrap_or_else(|error| {
            Err(FileError::Failed(format!("the sync of an upload ended: {error}")))
        })
    }
}

impl Drop for UploadInProgress {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            let identity = self.identity.clone();
            tokio::task::spawn_local(async move {
                // Dropping it removes its file; on failure too.
                let undo = move || {
                    drop(upload);
                    Ok(())
                };
                drop(with_rights(&identity, undo).await);
            });
        }
    }
}

// === impl Batch ===

impl Batch {
    /// Takes the next bytes of a body; returns whether it is whole.
    async fn receive(&mut self, body: &mut Incoming) -> Result<bool, ApiError> {
        let Some(chunk) = next_chunk(body).await? else { return Ok(true) };
        self.bytes += chunk.len();
        self.chunks.push(chunk);
        Ok(false)
    }

    fn has_room(&self) -> bool {
        self.bytes < MAX_BATCH_BYTES
    }
}

// === errors ===

impl From<PathError> for ApiError {
    fn from(error: PathError) -> Self {
        match error {
            PathError::Missing | PathError::Nul | PathError::TooLong => Self::invalid(error.text()),
            PathError::Traversal => {
                Self::new(StatusCode::FORBIDDEN, code::PATH_TRAVERSAL, error.text())
            }
        }
    }
}

impl From<FileError> for ApiError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::NotFound(text) => Self::new(StatusCode::NOT_FOUND, code::NOT_FOUND, text),
            FileError::IsDirectory(text) => Self::bad_request(code::IS_DIRECTORY, text),
            FileError::NotADirectory(text) => Self::bad_request(code::NOT_A_DIRECTORY, text),
            FileError::Invalid(text) => Self::invalid(text),
            FileError::Failed(text) => Self::internal(text),
        }
    }
}
