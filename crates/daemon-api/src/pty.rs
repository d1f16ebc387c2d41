//! Terminals (spec 05 §4): the JSON of the routes, and the frames on the WebSocket.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::process::null_is_default;

/// The largest WebSocket message on a terminal, in bytes, opcode included.
pub const MAX_PTY_MESSAGE_BYTES: usize = 64 << 10;

const OP_DATA: u8 = 0;
const OP_RESIZE: u8 = 1;
const OP_READY: u8 = 2;
const OP_EXIT: u8 = 3;

/// `POST /pty`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatePtyRequest {
    /// The program, found through the `PATH` of the resulting environment.
    pub command: String,
    /// Its arguments, without the program's name.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Added to the sandbox's environment.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub env: BTreeMap<String, String>,
    /// Where it starts; absent means the sandbox's working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Rows; absent means 24, and what is out of range is brought into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<i64>,
    /// Columns; absent means 80.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cols: Option<i64>,
}

/// The answer to [`CreatePtyRequest`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatePtyResponse {
    /// Names the terminal in routes.
    pub session_id: String,
    /// Wanted by whoever attaches: 64 hex digits.
    pub token: String,
}

/// One terminal; its token is never shown again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtySession {
    /// Names it in routes.
    pub session_id: String,
    /// The pid of its program.
    pub pid: i32,
    /// The program, as asked.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Rows at present.
    pub rows: u16,
    /// Columns at present.
    pub cols: u16,
    /// When it was started, ms since 1970.
    pub created_at: u64,
    /// When its program ended, ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<u64>,
    /// Its program's exit code; 128 + the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether its program runs.
    pub is_alive: bool,
}

/// `GET /pty`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtyList {
    /// All that live and those lately ended, oldest first.
    pub sessions: Vec<PtySession>,
}

/// `POST /pty/{id}/resize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeRequest {
    /// Rows, brought into range.
    pub rows: i64,
    /// Columns, brought into range.
    pub cols: i64,
}

/// The size of a terminal, always in range: 1 to 500 rows, 1 to 1000 columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    rows: u16,
    cols: u16,
}

/// What a client sends on a terminal's WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFrame<'a> {
    /// Bytes for the terminal.
    Data(&'a [u8]),
    /// The client's window has this size now.
    Resize(TerminalSize),
    /// The client is listening: history, then what comes.
    Ready,
}

/// What a client receives on a terminal's WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFrame<'a> {
    /// Output of the terminal.
    Data(&'a [u8]),
    /// The program has ended; the last frame.
    Exit(i32),
}

/// A message that is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PtyFrameError {
    /// It has no opcode.
    Empty,
    /// Its opcode is none of a client's.
    UnknownOpcode(u8),
    /// A RESIZE without its four bytes, or a READY with some.
    WrongLength(u8),
}

// === impl CreatePtyResponse ===

impl std::fmt::Debug for CreatePtyResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatePtyResponse").field("session_id", &self.session_id).finish()
    }
}

// === impl TerminalSize ===

impl TerminalSize {
    /// The most rows.
    pub const MAX_ROWS: u16 = 500;
    /// The most columns.
    pub const MAX_COLS: u16 = 1000;
    /// Rows when nobody says.
    pub const DEFAULT_ROWS: i64 = 24;
    /// Columns when nobody says.
    pub const DEFAULT_COLS: i64 = 80;

    /// Brings rows and columns into range.
    #[must_use]
    pub fn clamped(rows: i64, cols: i64) -> Self {
        let clamp =
            |value: i64, max: u16| u16::try_from(value.clamp(1, i64::from(max))).unwrap_or(max);
        Self { rows: clamp(rows, Self::MAX_ROWS), cols: clamp(cols, Self::MAX_COLS) }
    }

    /// Returns the rows.
    #[must_use]
    pub fn rows(self) -> u16 {
        self.rows
    }

    /// Returns the columns.
    #[must_use]
    pub fn cols(self) -> u16 {
        self.cols
    }
}

// === impl ClientFrame ===

impl<'a> ClientFrame<'a> {
    /// Reads one message.
    ///
    /// # Errors
    ///
    /// When it is none of a client's three frames.
    pub fn parse(message: &'a [u8]) -> Result<Self, PtyFrameError> {
        let (opcode, payload) = message.split_first().ok_or(PtyFrameError::Empty)?;
        match (*opcode, payload) {
            (OP_DATA, bytes) => Ok(Self::Data(bytes)),
            // Columns first.
            (OP_RESIZE, [c1, c0, r1, r0]) => Ok(Self::Resize(TerminalSize::clamped(
                i64::from(u16::from_be_bytes([*r1, *r0])),
                i64::from(u16::from_be_bytes([*c1, *c0])),
            ))),
            (OP_READY, []) => Ok(Self::Ready),
            (OP_RESIZE | OP_READY, _) => Err(PtyFrameError::WrongLength(*opcode)),
            _ => Err(PtyFrameError::UnknownOpcode(*opcode)),
        }
    }

    /// Writes one message.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Data(bytes) => [&[OP_DATA], *bytes].concat(),
            Self::Resize(TerminalSize { rows, cols }) => {
                [&[OP_RESIZE][..], &cols.to_be_bytes(), &rows.to_be_bytes()].concat()
            }
            Self::Ready => vec![OP_READY],
        }
    }
}

// === impl ServerFrame ===

impl<'a> ServerFrame<'a> {
    /// The opcode of [`Self::Data`], for whoever writes the frame around bytes in place.
    pub const DATA_OPCODE: u8 = OP_DATA;

    /// Reads one message; none if it is no frame that a client knows, which clients ignore.
    #[must_use]
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        match message {
            [OP_DATA, bytes @ ..] => Some(Self::Data(bytes)),
            [OP_EXIT, b3, b2, b1, b0, ..] => {
                Some(Self::Exit(i32::from_be_bytes([*b3, *b2, *b1, *b0])))
            }
            _ => None,
        }
    }

    /// Writes one message.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Data(bytes) => [&[OP_DATA], *bytes].concat(),
            Self::Exit(code) => [&[OP_EXIT][..], &code.to_be_bytes()].concat(),
        }
    }
}

// === impl PtyFrameError ===

impl std::fmt::Display for PtyFrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("empty frame"),
            Self::UnknownOpcode(opcode) => write!(f, "unknown opcode {opcode}"),
            Self::WrongLength(opcode) => write!(f, "wrong length for opcode {opcode}"),
        }
    }
}

/// Returns the reason of the close frame after [`ServerFrame::Exit`].
#[must_use]
pub fn exit_reason(code: i32) -> String {
    format!("exit:{code}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn size(rows: i64, cols: i64) -> TerminalSize {
        TerminalSize::clamped(rows, cols)
    }

    #[test]
    fn client_frames_have_the_bytes_of_the_specification() {
        let table: &[(&[u8], Result<ClientFrame<'_>, PtyFrameError>)] = &[
            (b"\x00", Ok(ClientFrame::Data(b""))),
            (b"\x00ls\n", Ok(ClientFrame::Data(b"ls\n"))),
            (b"\x00\x00", Ok(ClientFrame::Data(b"\x00"))),
            // 80 columns, 24 rows: columns first.
            (b"\x01\x00\x50\x00\x18", Ok(ClientFrame::Resize(size(24, 80)))),
            (b"\x01\x03\xe8\x01\xf4", Ok(ClientFrame::Resize(size(500, 1000)))),
            (b"\x01\xff\xff\x00\x00", Ok(ClientFrame::Resize(size(1, 1000)))),
            (b"\x02", Ok(ClientFrame::Ready)),
            (b"", Err(PtyFrameError::Empty)),
            (b"\x01", Err(PtyFrameError::WrongLength(1))),
            (b"\x01\x00\x50\x00\x18\x00", Err(PtyFrameError::WrongLength(1))),
            (b"\x02\x00", Err(PtyFrameError::WrongLength(2))),
            (b"\x03\x00\x00\x00\x00", Err(PtyFrameError::UnknownOpcode(3))),
            (b"\xff", Err(PtyFrameError::UnknownOpcode(255))),
        ];
        for (bytes, expected) in table {
            assert_eq!(ClientFrame::parse(bytes), *expected, "{bytes:?}");
        }
    }

    #[test]
    fn server_frames_have_the_bytes_of_the_specification() {
        let table: &[(ServerFrame<'_>, &[u8])] = &[
            (ServerFrame::Data(b"$ "), b"\x00$ "),
            (ServerFrame::Exit(0), b"\x03\x00\x00\x00\x00"),
            (ServerFrame::Exit(137), b"\x03\x00\x00\x00\x89"),
            (ServerFrame::Exit(-1), b"\x03\xff\xff\xff\xff"),
        ];
        for (frame, bytes) in table {
            assert_eq!(frame.to_bytes(), *bytes);
            assert_eq!(ServerFrame::parse(bytes), Some(*frame));
        }
        for bytes in [&b""[..], b"\x01", b"\x03\x00", b"\x04"] {
            assert_eq!(ServerFrame::parse(bytes), None, "{bytes:?}");
        }
        assert_eq!(exit_reason(-7), "exit:-7");
    }

    #[test]
    fn sizes_are_brought_into_range() {
        let table = [
            ((24, 80), (24, 80)),
            ((0, 0), (1, 1)),
            ((-5, i64::MIN), (1, 1)),
            ((501, 1001), (500, 1000)),
            ((i64::MAX, 65536), (500, 1000)),
        ];
        for ((rows, cols), expected) in table {
            let size = size(rows, cols);
            assert_eq!((size.rows(), size.cols()), expected);
        }
    }

    #[test]
    fn requests_need_only_a_command() {
        let request: CreatePtyRequest =
            serde_json::from_value(json!({"command": "sh", "args": null, "rows": null, "x": 1}))
                .expect("good");
        assert_eq!(request.command, "sh");
        assert_eq!((request.rows, request.cols), (None, None));
        for bad in [json!({}), json!({"command": 1}), json!({"command": "sh", "rows": "1"})] {
            assert!(serde_json::from_value::<CreatePtyRequest>(bad).is_err());
        }
    }

    #[test]
    fn tokens_are_not_printed() {
        let made = CreatePtyResponse { session_id: "s".to_owned(), token: "secret".to_owned() };
        assert_eq!(format!("{made:?}"), r#"CreatePtyResponse { session_id: "s" }"#);
        let text = serde_json::to_string(&made).expect("plain");
        assert_eq!(text, r#"{"session_id":"s","token":"secret"}"#);
    }

    proptest! {
        #[test]
        fn any_message_is_a_frame_or_refused(message: Vec<u8>) {
            if let Ok(frame) = ClientFrame::parse(&message) {
                // What is in range comes back as it was.
                let again = frame.to_bytes();
                prop_assert_eq!(ClientFrame::parse(&again), Ok(frame));
                if !matches!(frame, ClientFrame::Resize(_)) {
                    prop_assert_eq!(&again, &message);
                }
            }
            if let Some(frame) = ServerFrame::parse(&message) {
                prop_assert!(message.starts_with(&frame.to_bytes()));
            }
        }
    }
}
