//! Server-sent events, byte for byte as spec 05 §2.1 and §2.2 have them.

use std::io::Write as _;

use serde::Serialize;
use tarn_daemon_api::OutputStream;

/// Keeps proxies and clients from giving up on a silent stream.
pub(crate) const COMMENT: &[u8] = b": keep-alive\n\n";

/// The end of a follow.
pub(crate) const EOF_EVENT: &[u8] = b"event: eof\ndata: {}\n\n";

/// What every frame of lines read at the same moment has around its text.
///
/// Lines come by the hundred thousand a second, nearly all of them many to a millisecond, so they
/// are not serialised field by field. The result is that of `LineFrame`, which a test holds it to.
#[derive(Debug)]
pub(crate) struct LineFrames {
    start: Vec<u8>,
    end: Vec<u8>,
    end_of: Option<(u64, OutputStream)>,
    with_stream: StreamField,
}

/// Whether a frame says which stream its line is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamField {
    /// It does.
    Present,
    /// It does not: the route does.
    Absent,
}

// === impl LineFrames ===

impl LineFrames {
    /// Prepares frames with this event name, if any.
    pub(crate) fn new(event: Option<&str>, with_stream: StreamField) -> Self {
        let mut start = Vec::new();
        push_start(&mut start, event);
        start.extend_from_slice(b"{\"line\":\"");
        Self { start, end: Vec::new(), end_of: None, with_stream }
    }

    /// Appends one line's frame.
    pub(crate) fn push(
        &mut self,
        buffer: &mut Vec<u8>,
        text: &str,
        timestamp: u64,
        stream: OutputStream,
    ) {
        if self.end_of != Some((timestamp, stream)) {
            self.end = self.line_end(timestamp, stream);
            self.end_of = Some((timestamp, stream));
        }
        buffer.extend_from_slice(&self.start);
        push_json_text(buffer, text);
        buffer.extend_from_slice(&self.end);
    }

    fn line_end(&self, timestamp: u64, stream: OutputStream) -> Vec<u8> {
        let mut end = Vec::new();
        let stream = match (self.with_stream, stream) {
            (StreamField::Absent, _) => "",
            (StreamField::Present, OutputStream::Stdout) => ",\"stream\":\"stdout\"",
            (StreamField::Present, OutputStream::Stderr) => ",\"stream\":\"stderr\"",
        };
        // Writing to memory cannot fail.
        drop(write!(end, "\",\"timestamp\":{timestamp}{stream}}}\n\n"));
        end
    }
}

/// Appends one frame. The blank line at its end matters: the clients drop a frame without it.
pub(crate) fn push_frame<T: Serialize>(buffer: &mut Vec<u8>, event: Option<&str>, data: &T) {
    push_start(buffer, event);
    // JSON has no raw newline, so the data is one line; writing to memory cannot fail.
    drop(serde_json::to_writer(&mut *buffer, data));
    buffer.extend_from_slice(b"\n\n");
}

/// Appends a text as JSON has it between its quotes.
pub(crate) fn push_json_text(buffer: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    while let Some(at) = find_special(rest) {
        let (plain, special) = rest.split_at(at);
        buffer.extend_from_slice(plain);
        let Some((byte, after)) = special.split_first() else { return };
        push_escaped(buffer, *byte);
        rest = after;
    }
    buffer.extend_from_slice(rest);
}

fn push_start(buffer: &mut Vec<u8>, event: Option<&str>) {
    if let Some(event) = event {
        buffer.extend_from_slice(b"event: ");
        buffer.extend_from_slice(event.as_bytes());
        buffer.push(b'\n');
    }
    buffer.extend_from_slice(b"data: ");
}

fn push_escaped(buffer: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            buffer.extend_from_slice(b"\\u00");
            buffer.extend([HEX[high], HEX[low]]);
            return;
        }
    };
    buffer.extend([b'\\', short]);
}

/// Finds the first byte that JSON wants escaped.
fn find_special(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let found = special_bytes(u64::from_le_bytes(*word));
        if found != 0 {
            return Some(index * 8 + (found.trailing_zeros() / 8) as usize);
        }
    }
    let found = rest.iter().position(|byte| is_special(*byte))?;
    Some(words.len() * 8 + found)
}

fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Eight bytes at once: the high bit of the first special one is set, and none before it.
///
/// The subtractions borrow only from a byte that is special itself, so what lies above it may be
/// wrong, but the lowest set bit never is (Hacker's Delight §6-1).
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 0x80;
    let zero_in = |word: u64| word.wrapping_sub(ONES) & !word;
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = zero_in(word ^ (ONES * b'"' as u64));
    let backslash = zero_in(word ^ (ONES * b'\\' as u64));
    (control | quote | backslash) & HIGH
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tarn_daemon_api::{ExitFrame, ExitReason, LineFrame};

    use super::*;

    fn text(event: Option<&str>, data: &impl Serialize) -> String {
        let mut buffer = Vec::new();
        push_frame(&mut buffer, event, data);
        String::from_utf8(buffer).expect("JSON is UTF-8")
    }

    #[test]
    fn frames_have_the_bytes_of_the_specification() {
        let mut frames = LineFrames::new(Some("output"), StreamField::Present);
        let mut buffer = Vec::new();
        frames.push(&mut buffer, "te\"xt\n\u{0}ä", 1_710_000_001_000, OutputStream::Stderr);
        assert_eq!(
            String::from_utf8(buffer).expect("JSON is UTF-8"),
            "event: output\ndata: {\"line\":\"te\\\"xt\\n\\u0000ä\",\"timestamp\":1710000001000,\"stream\":\"stderr\"}\n\n"
        );
        let exit = ExitFrame {
            exit_code: Some(0),
            signal: None,
            reason: ExitReason::Exited,
            oom_killed: None,
        };
        assert_eq!(text(None, &exit), "data: {\"exit_code\":0,\"reason\":\"exited\"}\n\n");
    }

    #[test]
    fn every_byte_is_found_at_every_place() {
        for byte in 0..128_u8 {
            for place in 0..20 {
                let mut bytes = [b'x'; 20];
                bytes[place] = byte;
                assert_eq!(find_special(&bytes), is_special(byte).then_some(place), "{byte}");
            }
        }
    }

    proptest! {
        #[test]
        fn lines_are_framed_as_the_wire_type_is_serialised(
            lines in prop::collection::vec(("\\PC{0,20}[\0-\x7f]{0,20}", 0_u64..3, any::<bool>()), 0..8),
            named in any::<bool>(),
            with_stream in any::<bool>(),
        ) {
            let event = named.then_some("output");
            let field = if with_stream { StreamField::Present } else { StreamField::Absent };
            let mut frames = LineFrames::new(event, field);
            let (mut fast, mut plain) = (Vec::new(), Vec::new());
            for (line, timestamp, out) in lines {
                let stream = if out { OutputStream::Stdout } else { OutputStream::Stderr };
                frames.push(&mut fast, &line, timestamp, stream);
                let stream = with_stream.then_some(stream);
                push_frame(&mut plain, event, &LineFrame { line, timestamp, stream });
            }
            prop_assert_eq!(fast, plain);
        }
    }
}
