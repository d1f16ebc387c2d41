//! Frames as bytes (RFC 6455 §5). Pure.

/// The longest header of a frame that we send.
pub(crate) const HEADER_BYTES: usize = 10;

/// The longest header of a frame that we receive: a length of 8 bytes and a mask.
const MAX_CLIENT_HEADER_BYTES: usize = 14;

/// The largest payload of a control frame.
const MAX_CONTROL_BYTES: usize = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// What a frame of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// A whole binary message.
    Binary = 2,
    /// The end.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

/// What a client sent. Payloads are unmasked in place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// Bytes of a binary message, as they come.
    Data {
        /// The bytes; empty for an empty message or fragment.
        bytes: &'a [u8],
        /// Whether they are the message's last.
        end: bool,
    },
    /// A text message begins, which nobody here understands.
    Text,
    /// A ping, to be answered with the same bytes.
    Ping(&'a [u8]),
    /// A pong.
    Pong,
    /// The client sends nothing after this.
    Close,
}

/// The client does not speak WebSocket; the text is the reason of the close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) &'static str);

/// Takes a client's bytes apart. It keeps only what a frame's header needs, never a payload but
/// that of a control frame.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    header: Head,
    frame: Option<Frame>,
    control: Vec<u8>,
    /// A message has begun and not ended.
    in_message: bool,
    closed: bool,
}

#[derive(Debug, Default)]
struct Head {
    bytes: [u8; MAX_CLIENT_HEADER_BYTES],
    len: usize,
}

/// The frame whose payload is being read.
#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: Kind,
    fin: bool,
    left: u64,
    mask: [u8; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Close,
    Ping,
    Pong,
}

// === impl Decoder ===

impl Decoder {
    /// Takes bytes from the front of `input` and returns how many, and what they completed. With
    /// nothing completed all were taken, and more are needed.
    pub(crate) fn decode<'a>(
        &'a mut self,
        input: &'a mut [u8],
    ) -> Result<(usize, Option<Item<'a>>), Violation> {
        let mut taken = 0;
        let frame = match self.frame {
            Some(frame) => frame,
            None => {
                if self.closed {
                    // Nothing means anything after a close.
                    return Ok((input.len(), None));
                }
                let Some(byte_count) = self.header.fill(input) else {
                    return Ok((input.len(), None));
                };
                taken = byte_count;
                match self.begin()? {
                    Some(frame) => frame,
                    None => return Ok((taken, Some(Item::Text))),
                }
            }
        };
        let rest = input.get_mut(taken..).unwrap_or_default();
        let available = usize::try_from(frame.left).unwrap_or(usize::MAX).min(rest.len());
        let payload = rest.get_mut(..available).unwrap_or_default();
        let mask = unmask(payload, frame.mask);
        let left = frame.left - available as u64;
        self.frame = (left > 0).then_some(Frame { left, mask, ..frame });
        taken += available;
        if frame.kind == Kind::Data {
            if payload.is_empty() && left > 0 {
                return Ok((taken, None));
            }
            let end = left == 0 && frame.fin;
            if end {
                self.in_message = false;
            }
            return Ok((taken, Some(Item::Data { bytes: payload, end })));
        }
        self.control.extend_from_slice(payload);
        if left > 0 {
            return Ok((taken, None));
        }
        match frame.kind {
            Kind::Ping => Ok((taken, Some(Item::Ping(&self.control)))),
            Kind::Data | Kind::Pong => Ok((taken, Some(Item::Pong))),
            Kind::Close => {
                check_close(&self.control)?;
                self.closed = true;
                Ok((taken, Some(Item::Close)))
            }
        }
    }

    /// Reads the header that is complete; none if a text message begins.
    fn begin(&mut self) -> Result<Option<Frame>, Violation> {
        let (first, second, length, mask) = self.header.take();
        if first & RESERVED != 0 {
            return Err(Violation("reserved bits are set"));
        }
        if second & MASKED == 0 {
            return Err(Violation("a frame is not masked"));
        }
        let fin = first & FIN != 0;
        let kind = match first & 0x0f {
            0 if !self.in_message => return Err(Violation("nothing to continue")),
            1 | 2 if self.in_message => return Err(Violation("a message inside a message")),
            1 => return Ok(None),
            0 | 2 => Kind::Data,
            8 => Kind::Close,
            9 => Kind::Ping,
            10 => Kind::Pong,
            _ => return Err(Violation("unknown opcode")),
        };
        if kind == Kind::Data {
            self.in_message = true;
        } else if !fin || length > MAX_CONTROL_BYTES as u64 {
            return Err(Violation("a control frame is fragmented or too long"));
        }
        if length > i64::MAX as u64 {
            return Err(Violation("a length over 63 bits"));
        }
        self.control.clear();
        let frame = Frame { kind, fin, left: length, mask };
        self.frame = Some(frame);
        Ok(Some(frame))
    }
}

// === impl Head ===

impl Head {
    /// Takes what is missing; returns how much once the header is complete.
    fn fill(&mut self, input: &[u8]) -> Option<usize> {
        let mut taken = 0;
        while self.len < self.wanted() {
            let byte = *input.get(taken)?;
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
            }
            self.len += 1;
            taken += 1;
        }
        Some(taken)
    }

    fn wanted(&self) -> usize {
        if self.len < 2 {
            return 2;
        }
        let [_, second, ..] = self.bytes;
        let mask = if second & MASKED == 0 { 0 } else { 4 };
        2 + mask
            + match second & !MASKED {
                126 => 2,
                127 => 8,
                _ => 0,
            }
    }

    /// Returns the first two bytes, the length and the mask, and starts over.
    fn take(&mut self) -> (u8, u8, u64, [u8; 4]) {
        let Self { bytes: [first, second, a, b, c, d, e, f, g, h, i, j, k, l], .. } = *self;
        self.len = 0;
        let (length, mask) = match second & !MASKED {
            126 => (u64::from(u16::from_be_bytes([a, b])), [c, d, e, f]),
            127 => (u64::from_be_bytes([a, b, c, d, e, f, g, h]), [i, j, k, l]),
            short => (u64::from(short), [a, b, c, d]),
        };
        (first, second, length, mask)
    }
}

/// Returns the header of a frame of ours, final and unmasked, and its length.
pub(crate) fn header(opcode: Opcode, length: usize) -> ([u8; HEADER_BYTES], usize) {
    let mut bytes = [0; HEADER_BYTES];
    let length = length as u64;
    let [first, second, ..] = &mut bytes;
    *first = FIN | opcode as u8;
    let extended = match length {
        0..=125 => {
            *second = length.to_le_bytes()[0];
            0
        }
        126..=0xffff => {
            *second = 126;
            2
        }
        _ => {
            *second = 127;
            8
        }
    };
    let big_endian = length.to_be_bytes();
    bytes[2..2 + extended].copy_from_slice(&big_endian[8 - extended..]);
    (bytes, 2 + extended)
}

/// Unmasks bytes and returns the mask for those that follow.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) -> [u8; 4] {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        if let Ok(chunk) = <[u8; 8]>::try_from(&*word) {
            word.copy_from_slice(&(u64::from_ne_bytes(chunk) ^ wide).to_ne_bytes());
        }
    }
    let rest = words.into_remainder();
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    let mut next = mask;
    next.rotate_left(rest.len() % 4);
    next
}

/// A close has no payload, or a code that may be sent and a text.
fn check_close(payload: &[u8]) -> Result<(), Violation> {
    let (code, reason) = match payload {
        [] => return Ok(()),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
        [_] => return Err(Violation("a close code of one byte")),
    };
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {}
        _ => return Err(Violation("a close code that is none")),
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(()),
        Err(_) => Err(Violation("a close reason that is no text")),
    }
}

#[cfg(test)]
mod tests;
