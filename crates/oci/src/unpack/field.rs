//! The fields of a tar header.

use super::tar::{BLOCK, Extent};

/// A field that holds a number.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field {
    Mode,
    Uid,
    Gid,
    Size,
    Mtime,
}

// === impl Field ===

impl Field {
    pub(crate) fn of(self, block: &[u8; BLOCK]) -> &[u8] {
        match self {
            Self::Mode => &block[100..108],
            Self::Uid => &block[108..116],
            Self::Gid => &block[116..124],
            Self::Size => &block[124..136],
            Self::Mtime => &block[136..148],
        }
    }
}

/// Returns a text up to its first NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Reads a number: octal digits between blanks, or, with the first bit set, a big-endian integer
/// in two's complement. An empty field is zero.
pub(crate) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => {
            // The bit after the mark is the sign.
            let negative = first & 0x40 != 0;
            let mut number: i64 = if negative { -1 } else { 0 };
            for (index, byte) in field.iter().enumerate() {
                let mask = if index == 0 && !negative { 0x7f } else { 0xff };
                number = number.checked_mul(256)?.checked_add(i64::from(byte & mask))?;
            }
            Some(number)
        }
        Some(_) | None => {
            let blank = |byte: &u8| matches!(byte, b' ' | 0);
            let from = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
            let digits = &field[from..];
            let to = digits.iter().position(blank).unwrap_or(digits.len());
            if !digits[to..].iter().all(blank) {
                return None;
            }
            digits[..to].iter().try_fold(0_i64, |number, byte| {
                let digit = i64::from(byte.wrapping_sub(b'0'));
                if digit > 7 { None } else { number.checked_mul(8)?.checked_add(digit) }
            })
        }
    }
}

/// Checks the sum that a header carries of itself.
pub(crate) fn verify_checksum(block: &[u8; BLOCK]) -> Result<(), &'static str> {
    let sum = |value: fn(u8) -> i64| -> i64 {
        let outside = |index: &usize| !(148..156).contains(index);
        let bytes = (0..BLOCK).filter(outside).map(|index| value(block[index])).sum::<i64>();
        bytes + 8 * i64::from(b' ')
    };
    let Some(stated) = number(&block[148..156]) else { return Err("its checksum is no number") };
    // Some old programs summed signed bytes.
    if stated == sum(i64::from) || stated == sum(|byte| i64::from(byte.cast_signed())) {
        Ok(())
    } else {
        Err("its checksum is wrong")
    }
}

/// Reads the stretches of a sparse file from a field of pairs; an empty pair ends it.
pub(crate) fn extents(field: &[u8], extents: &mut Vec<Extent>) -> Result<(), &'static str> {
    for pair in field.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let read = |field| number(field).and_then(|number| u64::try_from(number).ok());
        match (read(&pair[..12]), read(&pair[12..])) {
            (Some(offset), Some(length)) => extents.push(Extent { offset, length }),
            _ => return Err("the map of a sparse file is no list of numbers"),
        }
    }
    Ok(())
}
