//! Bytes to lines of text.

use std::borrow::Cow;

use memchr::memchr;
use tarn_daemon_api::MAX_LINE_BYTES;

/// Cuts one stream into lines: at each newline, and every [`MAX_LINE_BYTES`].
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    partial: Vec<u8>,
}

impl LineSplitter {
    /// Takes bytes in and hands each line that they complete to `emit`.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&str)) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            if self.partial.is_empty() {
                emit_line(line, &mut emit);
            } else {
                self.partial.extend_from_slice(line);
                emit_line(&self.partial, &mut emit);
                self.partial.clear();
            }
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.partial.extend_from_slice(bytes);
        let cut = emit_long(&self.partial, &mut emit);
        self.partial.drain(..cut);
        if self.partial.is_empty() && self.partial.capacity() > 4096 {
            self.partial = Vec::new();
        }
    }

    /// Hands out what has no newline yet: a last line counts as a line.
    pub(crate) fn finish(&mut self, emit: impl FnOnce(&str)) {
        if !self.partial.is_empty() {
            emit(&to_text(&self.partial));
            self.partial = Vec::new();
        }
    }

    /// Returns what has no newline yet, such as a prompt.
    pub(crate) fn partial(&self) -> Option<String> {
        (!self.partial.is_empty()).then(|| to_text(&self.partial).into_owned())
    }
}

/// Hands out a whole line, in pieces if it is long.
fn emit_line(line: &[u8], emit: &mut impl FnMut(&str)) {
    let start = emit_long(line, emit);
    emit(&to_text(line.get(start..).unwrap_or_default()));
}

/// Hands out pieces from the front until at most [`MAX_LINE_BYTES`] are left; returns how many
/// bytes that were.
fn emit_long(line: &[u8], emit: &mut impl FnMut(&str)) -> usize {
    let mut start = 0;
    while line.len() - start > MAX_LINE_BYTES {
        let cut = character_start(line, start, start + MAX_LINE_BYTES);
        emit(&to_text(&line[start..cut]));
        start = cut;
    }
    start
}

/// Moves a cut back to the start of the character that it would divide, if there is one.
fn character_start(bytes: &[u8], start: usize, cut: usize) -> usize {
    (start + 1..=cut)
        .rev()
        .take(4)
        .find(|at| bytes.get(*at).is_some_and(|byte| byte & 0xc0 != 0x80))
        .unwrap_or(cut)
}

fn to_text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<String> {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |line| lines.push(line.to_owned()));
        }
        splitter.finish(|line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_are_cut_at_newlines() {
        let table: &[(&[&[u8]], &[&str])] = &[
            (&[b"a\nb\n"], &["a", "b"]),
            (&[b"a\nb"], &["a", "b"]),
            (&[b"\n\na"], &["", "", "a"]),
            (&[b"a", b"b", b"\nc\n"], &["ab", "c"]),
            (&[b"a\r\nb"], &["a\r", "b"]),
            (&[b""], &[]),
            (&["ä".as_bytes().split_at(1).0, "ä".as_bytes().split_at(1).1], &["ä"]),
            (&[b"\xff\xfe\n"], &["\u{fffd}\u{fffd}"]),
            (&[b"a\0b\n"], &["a\0b"]),
        ];
        for (chunks, expected) in table {
            assert_eq!(split(chunks), *expected);
        }
    }

    #[test]
    fn long_lines_are_split_between_characters() {
        let exact = "x".repeat(MAX_LINE_BYTES);
        assert_eq!(split(&[exact.as_bytes()]), [exact.as_str()]);
        assert_eq!(split(&[exact.as_bytes(), b"y\n"]), [exact.clone(), "y".to_owned()]);
        let umlauts = format!("x{}", "ä".repeat(MAX_LINE_BYTES));
        let parts = split(&[umlauts.as_bytes()]);
        assert_eq!(parts.concat(), umlauts);
        assert_eq!(parts[0].len(), MAX_LINE_BYTES - 1);
        assert!(parts.iter().all(|part| part.len() <= MAX_LINE_BYTES));
        // Continuation bytes alone have no character start to go back to.
        let garbage = vec![0x80; 3 * MAX_LINE_BYTES];
        assert_eq!(split(&[&garbage]).len(), 3);
    }

    #[test]
    fn a_prompt_can_be_seen() {
        let mut splitter = LineSplitter::default();
        splitter.push(b"done\nname? ", |_| {});
        assert_eq!(splitter.partial().as_deref(), Some("name? "));
        splitter.push(b"\n", |_| {});
        assert_eq!(splitter.partial(), None);
    }

    proptest! {
        #[test]
        fn chunking_never_matters(text in "[a-zä\n]{0,200}", cuts in prop::collection::vec(0_usize..200, 0..5)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= bytes.len()).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(split(&chunks), split(&[bytes]));
        }
    }
}
