//! Server-sent events, byte for byte as spec 05 §2.1 and §2.2 have them.

use serde::Serialize;

/// Keeps proxies and clients from giving up on a silent stream.
pub(crate) const COMMENT: &[u8] = b": keep-alive\n\n";

/// The end of a follow.
pub(crate) const EOF_EVENT: &[u8] = b"event: eof\ndata: {}\n\n";

/// Appends one frame. The blank line at its end matters: the clients drop a frame without it.
pub(crate) fn push_frame<T: Serialize>(buffer: &mut Vec<u8>, event: Option<&str>, data: &T) {
    if let Some(event) = event {
        buffer.extend_from_slice(b"event: ");
        buffer.extend_from_slice(event.as_bytes());
        buffer.push(b'\n');
    }
    buffer.extend_from_slice(b"data: ");
    // JSON has no raw newline, so the data is one line; writing to memory cannot fail.
    drop(serde_json::to_writer(&mut *buffer, data));
    buffer.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use tarn_daemon_api::{ExitFrame, ExitReason, LineFrame, OutputStream};

    use super::*;

    fn text(event: Option<&str>, data: &impl Serialize) -> String {
        let mut buffer = Vec::new();
        push_frame(&mut buffer, event, data);
        String::from_utf8(buffer).expect("JSON is UTF-8")
    }

    #[test]
    fn frames_have_the_bytes_of_the_specification() {
        let line = LineFrame {
            line: "te\"xt\n\u{0}ä".to_owned(),
            timestamp: 1_710_000_001_000,
            stream: Some(OutputStream::Stderr),
        };
        assert_eq!(
            text(Some("output"), &line),
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
}
