//! One key, and bytes sealed with it.
//!
//! ```text
//!  format   1 byte     1
//!  nonce   12 bytes    random
//!  body                AES-256-GCM
//!  tag     16 bytes
//! ```
//!
//! The format and the place of what is sealed are authenticated with it: bytes that were moved to
//! another place, changed, or sealed with another key do not open.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use tarn_task::Entropy;
use thiserror::Error;
use zeroize::Zeroizing;

/// The length of every key, in bytes.
pub const KEY_LENGTH: usize = 32;
/// By how many bytes what is sealed is longer than what it holds.
pub const OVERHEAD: usize = 1 + NONCE_LEN + TAG_LENGTH;
const TAG_LENGTH: usize = 16;
const FORMAT: u8 = 1;

/// Why bytes do not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unopened {
    /// A later server may have sealed them.
    #[error("it has format {0}, which this server does not read")]
    Format(u8),
    /// They were cut off, or are something else.
    #[error("it is too short")]
    Short,
    /// Their key, their place or a byte is not the one they were sealed with.
    #[error("it has changed, or was sealed with another key")]
    Seal,
}

/// A key: 32 bytes, wiped when it is dropped. `Debug` hides it.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_LENGTH]>);

// === impl Key ===

impl Key {
    /// Takes the bytes of a key.
    #[must_use]
    pub fn new(bytes: Zeroizing<[u8; KEY_LENGTH]>) -> Self {
        Self(bytes)
    }

    /// Makes a key.
    #[must_use]
    pub fn random(entropy: &dyn Entropy) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_LENGTH]);
        entropy.fill(&mut *bytes);
        Self(bytes)
    }

    /// Returns the key itself, to derive others from or to seal it.
    #[must_use]
    pub fn bytes(&self) -> &[u8; KEY_LENGTH] {
        &self.0
    }

    /// Seals bytes for a place. A key that may seal more than 2^32 times needs another way to
    /// choose its nonces.
    ///
    /// # Panics
    /// Panics above 64 GiB.
    #[must_use]
    pub fn seal(&self, place: &str, plain: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        entropy.fill(&mut nonce);
        let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD);
        sealed.push(FORMAT);
        sealed.extend_from_slice(&nonce);
        let header = sealed.len();
        sealed.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let body = &mut sealed[header..];
        let tag = self.aead().seal_in_place_separate_tag(nonce, aad(place), body);
        let tag = tag.expect("AES-GCM takes 64 GiB");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens what was sealed for a place.
    ///
    /// # Errors
    /// Says why it does not open.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let (format, rest) = sealed.split_first().ok_or(Unopened::Short)?;
        if *format != FORMAT {
            return Err(Unopened::Format(*format));
        }
        let (nonce, body) = rest.split_first_chunk().ok_or(Unopened::Short)?;
        let mut body = Zeroizing::new(body.to_vec());
        let opened =
            self.aead().open_in_place(Nonce::assume_unique_for_key(*nonce), aad(place), &mut body);
        let length = opened.map_err(|_unspecified| Unopened::Seal)?.len();
        body.truncate(length);
        Ok(body)
    }

    fn aead(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, &*self.0);
        LessSafeKey::new(key.expect("the key is of the right length"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

fn aad(place: &str) -> Aad<Vec<u8>> {
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(place.as_bytes());
    Aad::from(bytes)
}

#[cfg(test)]
mod tests {
    use tarn_task::SeededEntropy;

    use super::*;

    fn key(byte: u8) -> Key {
        Key::new(Zeroizing::new([byte; KEY_LENGTH]))
    }

    /// As the first version sealed it: it must be readable for ever.
    #[test]
    fn what_was_sealed_once_opens_for_ever() {
        let mut golden = vec![FORMAT];
        golden.extend_from_slice(&[7; NONCE_LEN]);
        golden.extend_from_slice(GOLDEN);
        assert_eq!(&**key(1).open("place", &golden).expect("it opens"), b"some bytes");
    }

    const GOLDEN: &[u8] = &[
        254, 156, 135, 193, 47, 204, 200, 213, 124, 233, 105, 180, 215, 248, 162, 28, 168, 98, 190,
        57, 127, 123, 70, 17, 254, 53,
    ];

    #[test]
    fn every_changed_byte_is_seen() {
        let entropy = SeededEntropy::new(1);
        for plain in [b"some bytes".as_slice(), b""] {
            let sealed = key(1).seal("place", plain, &entropy);
            assert_eq!(sealed.len(), plain.len() + OVERHEAD);
            assert_eq!(&**key(1).open("place", &sealed).expect("it opens"), plain);
            for at in 0..sealed.len() {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                assert!(key(1).open("place", &changed).is_err(), "{at}");
                assert!(key(1).open("place", &sealed[..at]).is_err(), "cut at {at}");
            }
            assert_eq!(key(2).open("place", &sealed).map(drop), Err(Unopened::Seal));
            assert_eq!(key(1).open("other", &sealed).map(drop), Err(Unopened::Seal));
        }
        let (once, again) = (key(1).seal("p", b"x", &entropy), key(1).seal("p", b"x", &entropy));
        assert_ne!(once, again, "equal values do not look equal");
        assert_eq!(format!("{:?}", key(1)), "Key(…)");
    }

    #[test]
    fn keys_are_drawn() {
        let entropy = SeededEntropy::new(1);
        assert_ne!(Key::random(&entropy).bytes(), Key::random(&entropy).bytes());
    }
}
