//! One buffer for all bytes on their way through.
//!
//! There is one thread, and a read and the write after it do not wait in between, so all
//! connections share one large buffer, and a quiet one owns none.

use std::cell::RefCell;

use crate::websocket::HEADER_BYTES;

/// What is read at once.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// Before the bytes there is room for a frame's header and a terminal's opcode.
const BUFFER_BYTES: usize = HEADER_BYTES + 1 + CHUNK_BYTES;

/// The buffer; made at its first use.
#[derive(Debug, Default)]
pub(crate) struct Scratch(RefCell<Vec<u8>>);

// === impl Scratch ===

impl Scratch {
    /// Lends the buffer. `action` must not lend it again.
    pub(crate) fn with<T>(&self, action: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut buffer = self.0.borrow_mut();
        buffer.resize(BUFFER_BYTES, 0);
        action(&mut buffer)
    }
}
