//! The retained output of one process: two rings, and cursors that read them in order.
//!
//! A follower holds a cursor, not a channel: however slow, it costs two numbers, and what it
//! missed becomes one "lines dropped" line. The reader of `processes/run` must miss nothing, so
//! it additionally *gates* the output: lines that it has not had are not dropped, and while it
//! lags by [`GATE_WINDOW_BYTES`] the pipes are not read, which slows the process instead.

use std::borrow::Cow;

use tarn_daemon_api::OutputStream;

use super::{
    line::LineSplitter,
    ring::{Line, Ring},
};
use crate::sys::GiveBack;

/// Retained per stream and process (spec 05 §2).
pub(crate) const STREAM_RETENTION_BYTES: usize = 8 << 20;

/// How far the reader of a run may lag before the process is slowed.
pub(crate) const GATE_WINDOW_BYTES: u64 = 256 << 10;

const STREAMS: [OutputStream; 2] = [OutputStream::Stdout, OutputStream::Stderr];

/// Both streams of one process.
#[derive(Debug, Default)]
pub(crate) struct Output {
    streams: [StreamOutput; 2],
    next_sequence: u64,
    /// The cost of all lines ever, and of those the gate has had.
    pushed: u64,
    gate: Option<Gate>,
    /// The process is forgotten, so nothing is kept but what the gate's reader has not had.
    discarded: bool,
    /// After the rings.
    _memory: GiveBack,
}

#[derive(Debug, Default)]
struct StreamOutput {
    ring: Ring,
    splitter: LineSplitter,
    settled: bool,
}

#[derive(Debug)]
struct Gate {
    position: [u64; 2],
    delivered: u64,
}

/// Which streams to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// One of them.
    One(OutputStream),
    /// Both, in the order in which lines arrived.
    Both,
}

/// A place in the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    selection: Selection,
    position: [u64; 2],
}

/// What a cursor meets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// A line.
    Line(Line<'a>, OutputStream),
    /// Lines that are gone.
    Dropped {
        /// How many.
        count: u64,
        /// When the next one that is still here was read; 0 if there is none.
        at_ms: u64,
        /// Where they came from; standard output if from both.
        stream: OutputStream,
    },
}

// === impl Output ===

impl Output {
    /// Makes room for a process whose unread output must not be dropped.
    pub(crate) fn gated() -> Self {
        Self { gate: Some(Gate { position: [0, 0], delivered: 0 }), ..Self::default() }
    }

    /// Takes in bytes read from a stream.
    pub(crate) fn push(&mut self, stream: OutputStream, bytes: &[u8], at_ms: u64) {
        if self.is_discarded() {
            return;
        }
        let keep = self.keep(stream);
        let retention = if self.discarded { 0 } else { STREAM_RETENTION_BYTES };
        let Self { streams, next_sequence, pushed, .. } = self;
        let target = &mut streams[index(stream)];
        let ring = &mut target.ring;
        target.splitter.push(bytes, |text| append(ring, next_sequence, pushed, text, at_ms));
        ring.shrink_to(retention, keep);
    }

    /// Ends a stream: its last line without newline becomes a line, and followers may stop.
    /// More may still come, from descendants that hold the pipe.
    pub(crate) fn settle(&mut self, stream: OutputStream, at_ms: u64) {
        let Self { streams, next_sequence, pushed, .. } = self;
        let target = &mut streams[index(stream)];
        let ring = &mut target.ring;
        target.splitter.finish(|text| append(ring, next_sequence, pushed, text, at_ms));
        target.settled = true;
    }

    /// Adds a line of our own.
    pub(crate) fn push_note(&mut self, stream: OutputStream, text: &str, at_ms: u64) {
        if self.is_discarded() {
            return;
        }
        let Self { streams, next_sequence, pushed, .. } = self;
        let ring = &mut streams[index(stream)].ring;
        append(ring, next_sequence, pushed, text, at_ms);
    }

    /// Returns whether the selected streams are settled.
    pub(crate) fn is_settled(&self, selection: Selection) -> bool {
        STREAMS
            .iter()
            .filter(|stream| selection.has(**stream))
            .all(|stream| self.streams[index(*stream)].settled)
    }

    /// Returns the memory of both rings.
    pub(crate) fn bytes(&self) -> usize {
        self.streams.iter().map(|stream| stream.ring.bytes()).sum()
    }

    /// Drops the oldest lines of the larger ring, then of the other, down to `max_bytes`.
    pub(crate) fn shrink_to(&mut self, max_bytes: usize) {
        let [out, err] = STREAMS.map(|stream| self.streams[index(stream)].ring.bytes());
        let order = if out >= err { STREAMS } else { [OutputStream::Stderr, OutputStream::Stdout] };
        for stream in order {
            let excess = self.bytes().saturating_sub(max_bytes);
            let keep = self.keep(stream);
            let ring = &mut self.streams[index(stream)].ring;
            ring.shrink_to(ring.bytes().saturating_sub(excess), keep);
        }
    }

    /// Drops everything, and from now on all that comes: the process is forgotten, and descendants
    /// that still write would fill memory that is on nobody's account. A follower is told what it
    /// missed until now. The reader of a run misses nothing: it holds a window's worth at most.
    pub(crate) fn discard(&mut self) {
        self.discarded = true;
        match self.gate {
            Some(_) => self.shrink_to(0),
            None => self.clear(),
        }
    }

    /// Returns whether what comes is dropped.
    pub(crate) fn is_discarded(&self) -> bool {
        self.discarded && self.gate.is_none()
    }

    /// Moves a cursor over the next item and returns it.
    pub(crate) fn next(&self, cursor: &mut Cursor) -> Option<Item<'_>> {
        if let Some((count, stream)) = self.skip_dropped(cursor) {
            let at_ms = self.head(cursor).map_or(0, |(line, _)| line.at_ms);
            return Some(Item::Dropped { count, at_ms, stream });
        }
        let (line, stream) = self.head(cursor)?;
        cursor.position[index(stream)] += 1;
        Some(Item::Line(line, stream))
    }

    /// Returns the place after the last line so far.
    pub(crate) fn end(&self, selection: Selection) -> Cursor {
        Cursor { selection, position: STREAMS.map(|stream| self.streams[index(stream)].ring.end()) }
    }

    /// Returns what has no newline yet on the selected streams.
    pub(crate) fn partial_lines(&self, selection: Selection) -> impl Iterator<Item = String> {
        STREAMS
            .into_iter()
            .filter(move |stream| selection.has(*stream))
            .filter_map(|stream| self.streams[index(stream)].splitter.partial())
    }

    /// Tells the gate what its reader has had.
    pub(crate) fn gate_advance(&mut self, cursor: &Cursor, cost: usize) {
        if let Some(gate) = &mut self.gate {
            gate.position = cursor.position;
            gate.delivered += cost as u64;
        }
    }

    /// Removes the gate: its reader is gone.
    pub(crate) fn gate_open(&mut self) {
        self.gate = None;
        if self.discarded {
            self.clear();
        }
    }

    /// Returns whether the pipes must not be read for now.
    pub(crate) fn is_gated(&self) -> bool {
        let lag = self.gate.as_ref().map_or(0, |gate| self.pushed - gate.delivered);
        lag >= GATE_WINDOW_BYTES
    }

    fn clear(&mut self) {
        for StreamOutput { ring, splitter, .. } in &mut self.streams {
            ring.clear();
            *splitter = LineSplitter::default();
        }
        // This one may live on for long, as its collector does.
        drop(GiveBack);
    }

    fn keep(&self, stream: OutputStream) -> u64 {
        self.gate.as_ref().map_or(u64::MAX, |gate| gate.position[index(stream)])
    }

    /// The next line of the cursor: of the selected streams' next ones, the one read first.
    fn head(&self, cursor: &Cursor) -> Option<(Line<'_>, OutputStream)> {
        STREAMS
            .into_iter()
            .filter(|stream| cursor.selection.has(*stream))
            .filter_map(|stream| {
                let at = index(stream);
                Some((self.streams[at].ring.get(cursor.position[at])?, stream))
            })
            .min_by_key(|(line, _)| line.sequence)
    }

    /// Moves a cursor that has fallen behind to the oldest lines still here.
    fn skip_dropped(&self, cursor: &mut Cursor) -> Option<(u64, OutputStream)> {
        let mut dropped = None;
        for stream in STREAMS.into_iter().rev().filter(|stream| cursor.selection.has(*stream)) {
            let first = self.streams[index(stream)].ring.first();
            let position = &mut cursor.position[index(stream)];
            if *position < first {
                let earlier = dropped.map_or(0, |(count, _)| count);
                dropped = Some((earlier + first - *position, stream));
                *position = first;
            }
        }
        dropped
    }
}

// === impl Selection ===

impl Selection {
    fn has(self, stream: OutputStream) -> bool {
        match self {
            Self::One(one) => one == stream,
            Self::Both => true,
        }
    }
}

// === impl Cursor ===

impl Cursor {
    /// Starts before the first line that ever was.
    pub(crate) fn new(selection: Selection) -> Self {
        Self { selection, position: [0, 0] }
    }

    /// Returns whether lines of its selection lie between it and a later place.
    pub(crate) fn is_before(&self, later: &Self) -> bool {
        STREAMS.into_iter().filter(|stream| self.selection.has(*stream)).any(|stream| {
            let at = index(stream);
            self.position[at] < later.position[at]
        })
    }

    /// Returns what it reads.
    pub(crate) fn selection(&self) -> Selection {
        self.selection
    }
}

// === impl Item ===

impl Item<'_> {
    /// Returns the text to show.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Line(line, _) => line.text.into(),
            Self::Dropped { count, .. } => format!("[tarn: {count} earlier lines dropped]").into(),
        }
    }
}

fn index(stream: OutputStream) -> usize {
    match stream {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

fn append(ring: &mut Ring, sequence: &mut u64, pushed: &mut u64, text: &str, at_ms: u64) {
    let line = Line { sequence: *sequence, at_ms, text };
    *sequence += 1;
    *pushed += line.cost() as u64;
    ring.push(line);
}

#[cfg(test)]
mod tests;
