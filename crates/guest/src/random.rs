//! Randomness of the kernel's.

use std::{fmt::Write as _, io};

/// Returns this many random bytes as hex digits.
pub(crate) fn random_hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(random.iter().fold(String::new(), |mut text, byte| {
        // Writing to memory cannot fail.
        _ = write!(text, "{byte:02x}");
        text
    }))
}
