//! The file routes (spec 05 §3).

use std::io;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tarn_daemon_api::{DirectoryListing, code};

use super::{
    ApiError,
    body::{Body, ChunkSender, json_response, next_chunk, no_content, with_type},
    route::FilesAction,
};
use crate::{
    daemon::Opened,
    file::{self, FileError, FilePath, OpenFile, PathError, Upload, with_rights},
    sys::Identity,
};

/// An upload that is undone with the user's rights if it is dropped on the way.
struct UploadInProgress {
    identity: Identity,
    upload: Option<Upload>,
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
            let upload =
                UploadInProgress { identity: identity.clone(), upload: Some(begin.await?) };
            upload.receive(request.into_body()).await?;
            Ok(no_content())
        }
        FilesAction::Delete => {
            with_rights(identity, move || file::delete(&absolute)).await?;
            Ok(no_content())
        }
        FilesAction::List => {
            let entries = with_rights(identity, move || file::list(&absolute)).await?;
            Ok(json_response(&DirectoryListing { path: asked, entries }))
        }
    }
}

fn read(identity: Identity, open: OpenFile) -> Response<Body> {
    let (sender, body) = match open.length {
        Some(length) => Body::sized(length),
        None => Body::stream(),
    };
    tokio::task::spawn_local(send_file(identity, open, sender));
    with_type("application/octet-stream", body)
}

/// Sends a file chunk by chunk; stops when the client hangs up.
async fn send_file(identity: Identity, OpenFile { mut file, length }: OpenFile, out: ChunkSender) {
    let mut left = length.unwrap_or(u64::MAX);
    while left > 0 {
        let work = move || Ok((file::read_chunk(&file), file));
        let chunk = match with_rights(&identity, work).await {
            Ok((outcome, same_file)) => {
                file = same_file;
                outcome
            }
            Err(_thread_ended) => return,
        };
        let chunk = match chunk {
            Ok(Some(chunk)) => clip(chunk, left),
            Ok(None) if length.is_none() => return,
            // Shorter than announced: the client must see that something is missing.
            Ok(None) => {
                drop(out.send(Err(io::ErrorKind::UnexpectedEof.into())).await);
                return;
            }
            Err(error) => {
                drop(out.send(Err(error)).await);
                return;
            }
        };
        left = left.saturating_sub(chunk.len() as u64);
        if out.send(Ok(chunk)).await.is_err() {
            return;
        }
    }
}

/// A file may grow while it is sent; what was announced is sent.
fn clip(mut chunk: Bytes, left: u64) -> Bytes {
    chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
    chunk
}

// === impl UploadInProgress ===

impl UploadInProgress {
    async fn receive(mut self, mut body: Incoming) -> Result<(), ApiError> {
        while let Some(bytes) = next_chunk(&mut body).await? {
            let Some(mut upload) = self.upload.take() else { break };
            let work = move || {
                let outcome = upload.write(&bytes);
                Ok((outcome, upload))
            };
            let (outcome, upload) = with_rights(&self.identity, work).await?;
            self.upload = Some(upload);
            outcome?;
        }
        let Some(upload) = self.upload.take() else { return Ok(()) };
        with_rights(&self.identity, move || upload.commit()).await?;
        Ok(())
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
