//! The parsers of what others send, as `fuzz/` calls them: each takes any bytes and panics when it
//! breaks a promise. Nothing else uses this, and the program links none of it.
#![allow(clippy::expect_used, reason = "a broken promise is to end the fuzzing process")]

use std::path::{Component, Path};

use http::Method;
use serde::{Serialize, de::DeserializeOwned};
use tarn_daemon_api::{
    ClientFrame, CreatePtyRequest, LineFrame, OutputStream, ResizeRequest, RunRequest, ServerFrame,
    SignalRequest, StartRequest,
};
use tarn_guest_api::{InitRequest, LogsRequest, SealRequest, UnsealRequest};

use crate::{
    file::FilePath,
    http::{LineFrames, Route, StreamField, parse_json},
    process::LineSplitter,
    websocket::Decoder,
};

/// The writer of server-sent events: what a client reads back is the text that went in.
pub fn sse(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut bytes = Vec::new();
    LineFrames::new(Some("output"), StreamField::Present).push(
        &mut bytes,
        &text,
        1_710_000_000_001,
        OutputStream::Stderr,
    );
    let frame = std::str::from_utf8(&bytes).expect("frames are UTF-8");
    let payload = frame
        .strip_prefix("event: output\ndata: ")
        .and_then(|rest| rest.strip_suffix("\n\n"))
        .expect("one event with one line of data");
    assert!(!payload.contains(['\n', '\r']), "a line break inside a frame ends it for a client");
    let line: LineFrame = serde_json::from_str(payload).expect("the data is JSON");
    assert_eq!(line.line, text);
}

/// Both directions of a terminal's messages: what parses has the same bytes when written again.
pub fn pty_frame(data: &[u8]) {
    if let Ok(frame) = ClientFrame::parse(data) {
        let bytes = frame.to_bytes();
        assert_eq!(ClientFrame::parse(&bytes), Ok(frame));
        assert!(bytes == data || matches!(frame, ClientFrame::Resize(_)), "only sizes are clamped");
    }
    if let Some(frame) = ServerFrame::parse(data) {
        assert!(data.starts_with(&frame.to_bytes()), "a client ignores what follows an exit code");
    }
}

/// WebSocket frames: however they are cut, the same messages come out, and none is longer than
/// what went in.
pub fn websocket(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let whole = decode(&mut [bytes.to_vec()]);
    let cut = usize::from(*cut).min(bytes.len());
    let (front, back) = bytes.split_at(cut);
    assert_eq!(decode(&mut [front.to_vec(), back.to_vec()]), whole);
    assert!(whole.len() <= bytes.len());
}

fn decode(parts: &mut [Vec<u8>]) -> Vec<u8> {
    use crate::websocket::Item;

    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    for part in parts {
        let mut rest = part.as_mut_slice();
        while !rest.is_empty() {
            let Ok((taken, item)) = decoder.decode(rest) else { return out };
            match item {
                Some(Item::Data { bytes, .. } | Item::Ping(bytes)) => out.extend_from_slice(bytes),
                Some(Item::Text | Item::Close) => return out,
                Some(Item::Pong) | None => {}
            }
            assert!(taken > 0 && taken <= rest.len(), "a decoder goes on");
            rest = rest.get_mut(taken..).expect("within the input");
        }
    }
    out
}

/// The JSON bodies: what parses means the same when written and read again.
pub fn json(data: &[u8]) {
    round_trip::<StartRequest>(data);
    round_trip::<RunRequest>(data);
    round_trip::<CreatePtyRequest>(data);
    round_trip::<InitRequest>(data);
    round_trip::<UnsealRequest>(data);
    round_trip::<LogsRequest>(data);
    drop(parse_json::<SealRequest>(data));
    drop(parse_json::<SignalRequest>(data));
    drop(parse_json::<ResizeRequest>(data));
    if let Ok(request) = parse_json::<StartRequest>(data) {
        drop(request.managed());
    }
}

fn round_trip<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(data: &[u8]) {
    if let Ok(first) = parse_json::<T>(data) {
        let bytes = serde_json::to_vec(&first).expect("what was parsed can be written");
        let second = parse_json::<T>(&bytes);
        assert!(second.is_ok_and(|second| second == first), "{first:?}");
    }
}

/// The `path` of a query: absolute, and with no way up.
pub fn path(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else { return };
    if let Ok(path) = FilePath::from_query(query, Path::new("/workspace")) {
        assert!(path.absolute.is_absolute());
        assert!(!path.absolute.components().any(|part| part == Component::ParentDir));
    }
}

/// The route table: any method and path has a route or an error.
pub fn route(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (method, path) = text.split_once(' ').unwrap_or(("GET", text));
    if let Ok(method) = method.parse::<Method>() {
        drop(Route::parse(&method, path));
    }
}

/// Bytes to lines: however they are cut, the same lines come out, none too long.
pub fn lines(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let cut = usize::from(*cut).min(bytes.len());
    let (front, back) = bytes.split_at(cut);
    let whole = split(&[bytes]);
    assert_eq!(split(&[front, back]), whole);
    let longest = whole.iter().map(String::len).max().unwrap_or_default();
    // Bytes that are no text take three times their room.
    assert!(longest <= 3 * tarn_daemon_api::MAX_LINE_BYTES);
}

fn split(parts: &[&[u8]]) -> Vec<String> {
    let mut splitter = LineSplitter::default();
    let mut lines = Vec::new();
    for part in parts {
        splitter.push(part, |line| lines.push(line.to_owned()));
    }
    splitter.finish(|line| lines.push(line.to_owned()));
    lines
}
