//! The only module with `unsafe`: descriptors in the event loop.
#![allow(unsafe_code, reason = "it has no safe form")]

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Registers a descriptor with the event loop, for reading.
pub(crate) fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is open, and stays open and the same until it is dropped, which
    // only the `AsyncFd` can do.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(registered?)
}
