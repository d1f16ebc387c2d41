//! The file of an entry: two places, written in turn.
//!
//! What is written never touches the entry before it, which a crash in the middle leaves. And it
//! changes neither the length of the file nor, on most file systems, its blocks, so that the disk
//! has to take in nothing else. Each place is JSON whose first line holds the number of the write
//! and the checksum of both it and what follows; blanks fill the place up:
//!
//! ```text
//! {"sequence":8,"blake3":"…64 hex digits…",
//! "format_version":5,"id":"…", …}
//! ```
//!
//! Up to format 4 such a file was one entry and nothing else.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use serde::Deserialize;

/// What the length of a place is a multiple of: a page of memory, and a block of most disks.
const BLOCK: usize = 4096;

/// Whose turn it is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// The bytes of a place.
    length: usize,
    second: bool,
    sequence: u64,
}

#[derive(Debug, Deserialize)]
struct FirstLine {
    sequence: u64,
}

// === impl Turn ===

impl Turn {
    /// Returns what its place is to hold, if there is room for it. `entry` is an object of JSON.
    pub(super) fn fill(self, entry: &[u8]) -> Option<Vec<u8>> {
        let rest = entry.strip_prefix(b"{")?;
        let mut place = first_line(self.sequence, rest).into_bytes();
        place.extend_from_slice(rest);
        if place.len() >= self.length {
            return None;
        }
        place.resize(self.length - 1, b' ');
        place.push(b'\n');
        Some(place)
    }

    /// Says whose turn it is after this one.
    pub(super) fn next(self) -> Self {
        Self { second: !self.second, sequence: self.sequence + 1, ..self }
    }

    fn offset(self) -> u64 {
        if self.second { self.length as u64 } else { 0 }
    }
}

/// Makes the content of a new file with an entry, an object of JSON, in its first place; returns
/// whose turn is next, too.
pub(super) fn new_file(entry: &[u8]) -> Option<(Vec<u8>, Turn)> {
    let line = first_line(u64::MAX, entry).len();
    let turn =
        Turn { length: (line + entry.len()).next_multiple_of(BLOCK), second: false, sequence: 1 };
    let mut content = turn.fill(entry)?;
    content.resize(2 * turn.length - 1, b' ');
    content.push(b'\n');
    Some((content, turn.next()))
}

/// Returns the newest whole entry that is in a file, and whose turn is next; `None` of a file that
/// is not made of places.
pub(super) fn newest(content: &[u8]) -> Option<(&[u8], Turn)> {
    let length = content.len() / 2;
    let (first, second) = content.split_at(length);
    let first = whole(first).map(|(sequence, entry)| (sequence, entry, true));
    let second = whole(second).map(|(sequence, entry)| (sequence, entry, false));
    let (sequence, entry, second) =
        first.into_iter().chain(second).max_by_key(|(sequence, ..)| *sequence)?;
    Some((entry, Turn { length, second, sequence: sequence + 1 }))
}

/// Returns the number and the entry of a place, if it holds what was written there.
fn whole(place: &[u8]) -> Option<(u64, &[u8])> {
    let text = place.trim_ascii_end();
    let FirstLine { sequence } = serde_json::from_slice(text).ok()?;
    let at = text.iter().position(|byte| *byte == b'\n')? + 1;
    let (line, rest) = text.split_at(at);
    (line == first_line(sequence, rest).as_bytes()).then_some((sequence, text))
}

fn first_line(sequence: u64, rest: &[u8]) -> String {
    let mut checksum = blake3::Hasher::new();
    checksum.update(&sequence.to_le_bytes()).update(rest);
    format!("{{\"sequence\":{sequence},\"blake3\":\"{}\",\n", checksum.finalize().to_hex())
}

/// Writes a file that is not an entry's yet, whatever was in it.
pub(super) fn write_new(path: &Path, content: &[u8], synced: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.write_all_at(content, 0)?;
    file.set_len(content.len() as u64)?;
    if synced { file.sync_data() } else { Ok(()) }
}

/// Writes the place whose turn it is. After a failure nothing is in it.
pub(super) fn write_place(path: &Path, turn: Turn, place: &[u8], synced: bool) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let write = || {
        file.write_all_at(place, turn.offset())?;
        if synced { file.sync_data() } else { Ok(()) }
    };
    let written = write();
    if written.is_err() {
        // Nobody may believe what the caller is told was not written. Where this fails, too, the
        // next write goes to the same place.
        drop(file.write_all_at(b" ", turn.offset()));
    }
    written
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> String {
        format!("{{\"text\":\"{text}\"}}")
    }

    fn text(found: Option<(&[u8], Turn)>) -> String {
        let entry: serde_json::Value =
            serde_json::from_slice(found.expect("an entry").0).expect("JSON");
        entry["text"].as_str().expect("text").to_owned()
    }

    #[test]
    fn the_places_take_turns() {
        let (mut content, mut turn) = new_file(entry("1").as_bytes()).expect("an object");
        assert_eq!(content.len(), 2 * BLOCK);
        for number in 2..6 {
            assert_eq!(newest(&content).expect("an entry").1, turn);
            let before = content.clone();
            let said = number.to_string();
            let place = turn.fill(entry(&said).as_bytes()).expect("room");
            let at = usize::try_from(turn.offset()).expect("small");
            content[at..at + place.len()].copy_from_slice(&place);
            assert_eq!(text(newest(&content)), said);
            // Whatever of it is not on disk, what was before it is.
            for torn in (0..place.len()).step_by(7) {
                let mut content = content.clone();
                content[at + torn..at + place.len()]
                    .copy_from_slice(&before[at + torn..at + place.len()]);
                let found = text(newest(&content));
                assert!(found == said || found == (number - 1).to_string(), "{torn}: {found}");
            }
            turn = turn.next();
        }
    }

    #[test]
    fn what_is_too_long_for_its_place_needs_a_new_file() {
        let (_, turn) = new_file(entry("short").as_bytes()).expect("an object");
        let long = entry(&"x".repeat(BLOCK));
        assert_eq!(turn.fill(long.as_bytes()), None);
        for length in BLOCK - 200..BLOCK + 200 {
            let long = "x".repeat(length);
            let (content, _) = new_file(entry(&long).as_bytes()).expect("an object");
            assert_eq!(content.len() % (2 * BLOCK), 0);
            assert_eq!(text(newest(&content)), long);
        }
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let (content, _) = new_file(entry("text").as_bytes()).expect("an object");
        let end = content.trim_ascii_end().len();
        for at in 0..end {
            let mut content = content.clone();
            content[at] ^= 1;
            assert_eq!(newest(&content), None, "{at}");
        }
        assert_eq!(newest(b""), None);
        assert_eq!(newest(b"{}"), None);
        assert_eq!(newest(&[b' '; 2 * BLOCK]), None);
    }
}
