//! Reading one stream of one process into its output.

use std::{cell::RefCell, rc::Rc, time::Duration};

use nix::fcntl::{FcntlArg, fcntl};
use tarn_daemon_api::OutputStream;
use tokio::{net::unix::pipe, time::Instant};

use super::Process;
use crate::{clock::now_ms, process::ProcessTable};

/// How long after its end a process's pipe may stay open before its output counts as whole.
///
/// A pipe outlives its process when a descendant holds it: a background server (which must not
/// keep a run from ending) or the `tee` of `exec > >(tee log)` (whose last lines belong to it).
/// What comes later is still collected, but nobody waits for it.
const EXIT_GRACE: Duration = Duration::from_millis(200);

/// One read is to empty the largest pipe: in gVisor each costs tens of microseconds.
const READ_BYTES: usize = BUSY_PIPE_BYTES;

/// Of short lines this is some tenths of a millisecond's work.
const LONG_TURN_BYTES: usize = 8 << 10;

/// What a pipe holds at first, in both kernels.
const PIPE_BYTES: usize = 64 << 10;

/// What it holds once its process has filled it: fewer turns of reader and writer. Not from the
/// start, because most processes write little, and unread output is the sandbox's memory.
const BUSY_PIPE_BYTES: usize = 256 << 10;

thread_local! {
    /// One buffer for all collectors: a read and its use never yield. Empty and never zeroed: what
    /// no read has filled is no memory yet.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(READ_BYTES));
}

/// What one turn of the loop came to.
enum Turn {
    Readable,
    Ended,
    GraceOver,
}

/// What one read came to.
enum Read {
    /// This many bytes; none if there were none yet.
    Some(usize),
    /// The end of the stream.
    Ended,
}

/// Reads until every writer has closed the pipe.
pub(crate) async fn run(
    table: Rc<ProcessTable>,
    process: Rc<Process>,
    stream: OutputStream,
    pipe: pipe::Receiver,
) {
    let mut grace = EXIT_GRACE;
    let mut settled = false;
    let mut grown = false;
    loop {
        process.wait_ungated().await;
        let wait_start = Instant::now();
        let ended = !process.is_running();
        let turn = tokio::select! {
            biased;
            _ = tokio::time::sleep(grace), if ended && !settled => Turn::GraceOver,
            readable = pipe.readable() => if readable.is_ok() { Turn::Readable } else { break },
            () = process.wait_end(), if !ended => Turn::Ended,
        };
        // Only time in which we could read counts: neither a slow reader of a run nor other
        // collectors may cut it short.
        let mut spent = wait_start.elapsed();
        match turn {
            Turn::Ended => continue,
            Turn::GraceOver => {
                settle(&process, stream);
                settled = true;
            }
            Turn::Readable => {
                let _turn = table.collecting().await;
                let read_start = Instant::now();
                let count = match read_once(&table, &process, stream, &pipe) {
                    Read::Ended => break,
                    Read::Some(count) => count,
                };
                spent += read_start.elapsed();
                if count >= PIPE_BYTES && !grown {
                    grown = true;
                    grow(&pipe);
                }
                if count >= LONG_TURN_BYTES {
                    // Everybody else, sockets included, before the next collector.
                    tokio::task::yield_now().await;
                }
            }
        }
        if ended {
            grace = grace.saturating_sub(spent);
        }
    }
    if !settled {
        settle(&process, stream);
    }
}

fn read_once(
    table: &ProcessTable,
    process: &Process,
    stream: OutputStream,
    pipe: &pipe::Receiver,
) -> Read {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        match pipe.try_read_buf(buffer) {
            Ok(0) => Read::Ended,
            Ok(count) => {
                table.push_output(process, stream, buffer);
                Read::Some(count)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Read::Some(0),
            Err(_broken) => Read::Ended,
        }
    })
}

/// A kernel that refuses is slower, not wrong.
fn grow(pipe: &pipe::Receiver) {
    let size = i32::try_from(BUSY_PIPE_BYTES).unwrap_or(i32::MAX);
    _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(size));
}

fn settle(process: &Process, stream: OutputStream) {
    process.output.borrow_mut().settle(stream, now_ms());
    process.notify();
}
