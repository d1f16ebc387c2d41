//! Threads on which clients are served, each with a runtime of its own.
//!
//! Where threads share their work, the tasks of one request, its two sockets and what wakes them
//! wander from core to core, and every thread asks the same poller. A lane keeps together what
//! belongs together: a client's connection, and those to sandboxes that its requests use. It has
//! its share of the clients for as long as they stay.
//!
//! Only what passes on bytes runs there. Everything else stays where the server runs, and outlives
//! the lanes.

use std::{io, thread};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::spin;

/// All lanes; they end when this is dropped, and what still runs on them with them.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: Vec<Lane>,
    turn: usize,
    _end: DropGuard,
}

/// One place to run.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    pub(crate) number: LaneNumber,
    pub(crate) runtime: Handle,
}

/// Tells one lane from another; what is not on any has the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LaneNumber(usize);

// === impl Lanes ===

impl Lanes {
    /// Starts that many threads. Without any, there is one lane, which is the caller's runtime.
    pub(crate) fn start(threads: usize) -> Self {
        let end = CancellationToken::new();
        let mut lanes = Vec::new();
        for number in 1..=threads {
            match start(LaneNumber(number), end.clone()) {
                Ok(lane) => lanes.push(lane),
                Err(error) => tracing::warn!(%error, "a thread for clients cannot be started"),
            }
        }
        if lanes.is_empty() {
            lanes.push(Lane { number: LaneNumber::default(), runtime: Handle::current() });
        }
        Self { lanes, turn: 0, _end: end.drop_guard() }
    }

    /// Returns the lane for the next client.
    pub(crate) fn next(&mut self) -> &Lane {
        self.turn = (self.turn + 1) % self.lanes.len();
        &self.lanes[self.turn]
    }
}

fn start(number: LaneNumber, end: CancellationToken) -> io::Result<Lane> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let name = format!("ingress-{}", number.0);
    thread::Builder::new().name(name).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                () = spin::run() => {}
            }
        });
        runtime.shutdown_background();
    })?;
    Ok(Lane { number, runtime: handle })
}
