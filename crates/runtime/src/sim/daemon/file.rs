//! The file routes of a simulated daemon.

use http::Request;
use hyper::body::Incoming;
use tarn_daemon_api::{DirectoryListing, code};

use super::{Daemon, Unread, collect};
use crate::sim::{
    answer::{self, Answer, Refusal},
    file::FileError,
};

/// The largest file: they are all in the memory of the process that simulates.
const MAX_FILE_BYTES: usize = 64 << 20;

impl Daemon {
    /// Returns the path as it was asked for, and made plain.
    pub(super) fn path(&self, request: &Request<Incoming>) -> Result<(String, String), Refusal> {
        let query = request.uri().query().unwrap_or_default();
        let asked = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "path");
        let Some((_, asked)) = asked else {
            return Err(Refusal::invalid("path: the query must have it"));
        };
        let plain = self.files.lock().resolve(&asked).map_err(|error| refused(error, &asked))?;
        Ok((asked.into_owned(), plain))
    }

    pub(super) fn file_list(&self, request: &Request<Incoming>) -> Answer {
        let (path, plain) = self.path(request)?;
        let listed = self.files.lock().list(&plain);
        let entries = listed.map_err(|error| refused(error, &path))?;
        Ok(answer::json(200, &DirectoryListing { path, entries }))
    }

    pub(super) fn file_read(&self, request: &Request<Incoming>) -> Answer {
        let (path, plain) = self.path(request)?;
        let read = self.files.lock().read(&plain);
        read.map(answer::octets).map_err(|error| refused(error, &path))
    }

    pub(super) async fn file_write(&self, request: Request<Incoming>) -> Answer {
        let (path, plain) = self.path(&request)?;
        let bytes = collect(request, MAX_FILE_BYTES).await.map_err(|error| match error {
            Unread::TooLong => {
                Refusal::new(500, code::INTERNAL_ERROR, format!("{path}: No space left on device"))
            }
            Unread::Broken => Refusal::invalid("the body broke off"),
        })?;
        let written = self.files.lock().write(&plain, bytes, self.clock.now().0);
        written.map(|()| answer::done()).map_err(|error| refused(error, &path))
    }

    pub(super) fn file_remove(&self, request: &Request<Incoming>) -> Answer {
        let (path, plain) = self.path(request)?;
        let removed = self.files.lock().remove(&plain);
        removed.map(|()| answer::done()).map_err(|error| refused(error, &path))
    }
}

fn refused(error: FileError, path: &str) -> Refusal {
    let (status, code) = error.answer();
    Refusal::new(status, code, format!("{path}: {}", error.as_errno()))
}
