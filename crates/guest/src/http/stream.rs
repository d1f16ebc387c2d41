//! Streams of output: follows (spec 05 §2.1) and runs (§2.2).

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use tarn_daemon_api::LineFrame;

use super::{
    body::ChunkSender,
    sse::{COMMENT, EOF_EVENT, push_frame},
};
use crate::{
    clock::now_ms,
    process::{
        Process,
        output::{Cursor, Item, Selection},
    },
};

const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Frames are sent in chunks of about this size.
const CHUNK_BYTES: usize = 64 << 10;

/// The client has hung up.
struct Gone;

/// Removes the gate of a run when its reader ends, for whatever reason.
struct GateGuard(Rc<Process>);

/// Replays all that is retained, then what comes, then says `eof`.
pub(crate) async fn follow(process: Rc<Process>, selection: Selection, sender: ChunkSender) {
    let mut cursor = Cursor::new(selection);
    if copy_lines(&process, &mut cursor, Some("output"), &sender).await.is_ok() {
        // Nobody to tell if the client has hung up.
        _ = send(&sender, EOF_EVENT.into()).await;
    }
}

/// Sends the start, every line, and the end. Its slowness slows the process; its end does not.
pub(crate) async fn run(process: Rc<Process>, sender: ChunkSender) {
    let gate = GateGuard(process);
    let process = &gate.0;
    let mut first = Vec::new();
    push_frame(&mut first, None, &process.started_frame());
    if send(&sender, first.into()).await.is_err() {
        return;
    }
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
}

/// Sends lines until the process has ended and everything was sent.
async fn copy_lines(
    process: &Process,
    cursor: &mut Cursor,
    event: Option<&str>,
    sender: &ChunkSender,
) -> Result<(), Gone> {
    let mut changed = process.subscribe();
    loop {
        let complete = process.is_complete(cursor.selection());
        let chunk = take_chunk(process, cursor, event);
        if !chunk.is_empty() {
            send(sender, chunk.into()).await?;
            process.notify_drained();
        } else if complete {
            return Ok(());
        } else {
            tokio::select! {
                outcome = changed.changed() => outcome.map_err(|_ended| Gone)?,
                () = sender.closed() => return Err(Gone),
                () = tokio::time::sleep(KEEP_ALIVE) => send(sender, COMMENT.into()).await?,
            }
        }
    }
}

/// Formats the next lines and moves the cursor over them, and the gate if there is one.
fn take_chunk(process: &Process, cursor: &mut Cursor, event: Option<&str>) -> Vec<u8> {
    let mut chunk = Vec::new();
    let mut cost = 0;
    let mut output = process.output.borrow_mut();
    let with_stream = cursor.selection() == Selection::Both;
    while chunk.len() < CHUNK_BYTES {
        let Some(item) = output.next(cursor) else { break };
        let (timestamp, stream) = match &item {
            Item::Line(line, stream) => {
                cost += line.cost();
                (line.at_ms, *stream)
            }
            Item::Dropped { at_ms: 0, stream, .. } => (now_ms(), *stream),
            Item::Dropped { at_ms, stream, .. } => (*at_ms, *stream),
        };
        let frame = LineFrame {
            line: item.text().into_owned(),
            timestamp,
            stream: with_stream.then_some(stream),
        };
        push_frame(&mut chunk, event, &frame);
    }
    // Only a run has a gate, and its reader is the only one without event names.
    if event.is_none() {
        output.gate_advance(cursor, cost);
    }
    chunk
}

async fn send(sender: &ChunkSender, chunk: Bytes) -> Result<(), Gone> {
    sender.send(Ok(chunk)).await.map_err(|_closed| Gone)
}

// === impl GateGuard ===

impl Drop for GateGuard {
    fn drop(&mut self) {
        self.0.output.borrow_mut().gate_open();
        self.0.notify_drained();
    }
}
