//! The opaque place in a list that clients hand back (spec 01 §4).

use std::{fmt, str::FromStr};

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose},
};
use tarn_types::{SandboxId, UnixMillis};
use thiserror::Error;

/// Takes base64url with or without padding: some clients pad what they pass on.
pub(crate) const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The longest text that is looked at: a timestamp, a dot and an id need 56 characters.
const MAX_LENGTH: usize = 128;

/// The place of a sandbox, or of what else has such an id, in a list that is ordered by creation
/// time, then id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor<Id = SandboxId> {
    /// When it was accepted.
    pub created_at: UnixMillis,
    /// Its id.
    pub id: Id,
}

/// Says that a text is no cursor of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a cursor that this server gave out; start again without it")]
pub struct CursorError;

impl<Id: fmt::Display> fmt::Display for Cursor<Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = format!("{}.{}", self.created_at, self.id);
        f.write_str(&general_purpose::URL_SAFE_NO_PAD.encode(plain))
    }
}

impl<Id: FromStr> FromStr for Cursor<Id> {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let parse = || {
            let plain = String::from_utf8(LENIENT.decode(text).ok()?).ok()?;
            let (created_at, id) = plain.split_once('.')?;
            Some(Self { created_at: UnixMillis(created_at.parse().ok()?), id: id.parse().ok()? })
        };
        if text.len() > MAX_LENGTH {
            return Err(CursorError);
        }
        parse().ok_or(CursorError)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_survives_the_wire(millis: i64, random: [u8; 21]) {
            let cursor = Cursor {
                created_at: UnixMillis(millis),
                id: SandboxId::from_random(random),
            };
            let text = cursor.to_string();
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(text.parse(), Ok(cursor));
        }

        #[test]
        fn no_text_panics(text in ".{0,200}") {
            drop(text.parse::<Cursor>());
        }
    }

    #[test]
    fn the_bytes_of_a_cursor_stay() {
        let cursor = Cursor { created_at: UnixMillis(1), id: SandboxId::from_random([0; 21]) };
        assert_eq!(cursor.to_string(), "MS4wMDAwMDAwMDAwMDAwMDAwMDAwMDA");
        assert_eq!("MS4wMDAwMDAwMDAwMDAwMDAwMDAwMDA=".parse(), Ok(cursor));
        for bad in ["", "x", "MQ", "MS4w", &"A".repeat(1000)] {
            assert_eq!(bad.parse::<Cursor>(), Err(CursorError), "{bad}");
        }
    }
}
