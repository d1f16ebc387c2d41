//! Streams of output: follows (spec 05 §2.1), runs (§2.2), and what is retained (§2).

use std::{io::Write as _, rc::Rc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::{
    body::{Body, ChunkSender},
    sse::{COMMENT, EOF_EVENT, LineFrames, StreamField, push_frame, push_json_text},
};
use crate::{
    clock::now_ms,
    process::{
        Process,
        output::{Cursor, Item, Output, Selection},
    },
    sys::GiveBack,
};

const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Frames are sent in chunks of about this size; the time for one is what others wait.
const CHUNK_BYTES: usize = 128 << 10;

/// The client has hung up.
struct Gone;

/// Removes the gate of a run when its reader ends, for whatever reason.
struct GateGuard(Rc<Process>);

/// Replays all that is retained, then what comes, then says `eof`.
pub(crate) fn follow(process: Rc<Process>, selection: Selection) -> Body {
    let (sender, body) = Body::stream();
    tokio::task::spawn_local(async move {
        let mut cursor = Cursor::new(selection);
        if copy_lines(&process, &mut cursor, Some("output"), &sender).await.is_ok() {
            // Nobody to tell if the client has hung up.
            _ = send(&sender, EOF_EVENT.into()).await;
        }
    });
    body
}

/// Sends the start, every line, and the end. Its slowness slows the process; its end does not.
pub(crate) fn run(process: Rc<Process>) -> Body {
    let mut first = Vec::new();
    push_frame(&mut first, None, &process.started_frame());
    // There before anybody asks for it: it leaves together with the head.
    let (sender, body) = Body::stream_from(first.into());
    let gate = GateGuard(process);
    tokio::task::spawn_local(async move {
        let process = &gate.0;
        let mut cursor = Cursor::new(Selection::Both);
        if copy_lines(process, &mut cursor, None, &sender).await.is_err() {
            return;
        }
        if let Some(frame) = process.exit_frame() {
            let mut last = Vec::new();
            push_frame(&mut last, None, &frame);
            // Nobody to tell if the client has hung up.
            _ = send(&sender, last.into()).await;
        }
    });
    body
}

/// Sends an `OutputResponse`: what is retained now, and what has no newline yet.
///
/// It may be as large as the retention, so it is made piece by piece, from a place of its own:
/// lines that are dropped before they are sent become a line that says so, as in a follow.
pub(crate) fn retained(process: Rc<Process>, selection: Selection) -> Body {
    let (sender, body) = Body::stream();
    tokio::task::spawn_local(async move {
        let _memory = GiveBack;
        let mut json = LineList::default();
        let mut cursor = Cursor::new(selection);
        let (end, partial): (_, Vec<String>) = {
            let output = process.output.borrow();
            (output.end(selection), output.partial_lines(selection).collect())
        };
        // Writing to memory cannot fail.
        drop(write!(json.text, "{{\"pid\":{},\"lines\":[", process.pid()));
        while json.fill(&process.output.borrow(), &mut cursor, &end) {
            if send(&sender, std::mem::take(&mut json.text).into()).await.is_err() {
                return;
            }
        }
        partial.iter().for_each(|line| json.push(line));
        drop(write!(json.text, "],\"line_count\":{}}}", json.count));
        // Nobody to tell if the client has hung up.
        _ = send(&sender, json.text.into()).await;
    });
    body
}

/// Lines as a JSON array, without its brackets.
#[derive(Default)]
struct LineList {
    text: Vec<u8>,
    count: u64,
}

/// Sends lines until the process has ended and everything was sent.
async fn copy_lines(
    process: &Process,
    cursor: &mut Cursor,
    event: Option<&str>,
    sender: &ChunkSender,
) -> Result<(), Gone> {
    let with_stream = match cursor.selection() {
        Selection::Both => StreamField::Present,
        Selection::One(_) => StreamField::Absent,
    };
    let _memory = GiveBack;
    let mut frames = LineFrames::new(event, with_stream);
    let mut changed = process.subscribe();
    // What comes of the other stream, or is no line yet, says nothing to the client.
    let mut silent_since = Instant::now();
    loop {
        let complete = process.is_complete(cursor.selection());
        let chunk = take_chunk(process, cursor, &mut frames);
        // Only a run has a gate, and its reader is the only one without event names.
        if event.is_none() && !chunk.bytes.is_empty() {
            process.output.borrow_mut().gate_advance(cursor, chunk.cost);
            process.notify_drained();
        }
        if !chunk.bytes.is_empty() {
            send(sender, chunk.bytes.into()).await?;
            silent_since = Instant::now();
        } else if complete {
            return Ok(());
        } else {
            tokio::select! {
                outcome = changed.changed() => outcome.map_err(|_ended| Gone)?,
                () = sender.closed() => return Err(Gone),
                () = sleep_until(silent_since + KEEP_ALIVE) => {
                    send(sender, COMMENT.into()).await?;
                    silent_since = Instant::now();
                }
            }
        }
    }
}

/// Formatted lines, and what they were charged for.
struct Chunk {
    bytes: Vec<u8>,
    cost: usize,
}

/// Formats the next lines and moves the cursor over them.
fn take_chunk(process: &Process, cursor: &mut Cursor, frames: &mut LineFrames) -> Chunk {
    let mut chunk = Chunk { bytes: Vec::new(), cost: 0 };
    let output = process.output.borrow();
    while chunk.bytes.len() < CHUNK_BYTES {
        let Some(item) = output.next(cursor) else { break };
        if chunk.bytes.is_empty() {
            chunk.bytes.reserve(CHUNK_BYTES.min(2 * output.bytes()));
        }
        let (timestamp, stream) = match &item {
            Item::Line(line, stream) => {
                chunk.cost += line.cost();
                (line.at_ms, *stream)
            }
            Item::Dropped { at_ms: 0, stream, .. } => (now_ms(), *stream),
            Item::Dropped { at_ms, stream, .. } => (*at_ms, *stream),
        };
        frames.push(&mut chunk.bytes, &item.text(), timestamp, stream);
    }
    chunk
}

async fn send(sender: &ChunkSender, chunk: Bytes) -> Result<(), Gone> {
    sender.send(Ok(chunk)).await.map_err(|_closed| Gone)
}

// === impl LineList ===

impl LineList {
    fn push(&mut self, line: &str) {
        let quote: &[u8] = if self.count == 0 { b"\"" } else { b",\"" };
        self.text.extend_from_slice(quote);
        push_json_text(&mut self.text, line);
        self.text.push(b'"');
        self.count += 1;
    }

    /// Appends lines before `end`, up to about a chunk; returns whether it stopped for that.
    fn fill(&mut self, output: &Output, cursor: &mut Cursor, end: &Cursor) -> bool {
        while self.text.len() < CHUNK_BYTES {
            if !cursor.is_before(end) {
                return false;
            }
            let Some(item) = output.next(cursor) else { return false };
            self.push(&item.text());
        }
        true
    }
}

// === impl GateGuard ===

impl Drop for GateGuard {
    fn drop(&mut self) {
        self.0.output.borrow_mut().gate_open();
        self.0.notify_drained();
    }
}
