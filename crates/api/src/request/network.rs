//! The query of `GET …/sandboxes/{sid}/network`.

use tarn_types::{NetworkEntry, NetworkVerdict, UnixMillis};

use super::query::pairs;
use crate::Refusal;

/// Which entries of a network log to return; the counters are those of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadNetwork {
    /// Only those that were denied.
    pub denied: bool,
    /// Only those of so many seconds until now.
    pub since_secs: Option<u64>,
}

// === impl ReadNetwork ===

impl ReadNetwork {
    /// Reads a query string. An empty value equals an absent one; unknown keys are ignored.
    ///
    /// # Errors
    /// Names the first parameter that cannot be what it is.
    pub fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut read = Self::default();
        for (key, value) in pairs(query.unwrap_or_default())? {
            match (&*key, &*value) {
                (_, "") => {}
                ("denied", "true") => read.denied = true,
                ("denied", "false") => read.denied = false,
                ("denied", _) => {
                    return Err(Refusal::invalid("denied", "must be `true` or `false`"));
                }
                ("since_secs", digits) => {
                    let known = digits.bytes().all(|digit| digit.is_ascii_digit());
                    let refusal =
                        || Refusal::invalid("since_secs", "must be a whole number of seconds");
                    read.since_secs = Some(
                        known.then(|| digits.parse().unwrap_or(u64::MAX)).ok_or_else(refusal)?,
                    );
                }
                _ => {}
            }
        }
        Ok(read)
    }

    /// Says whether an entry is asked for.
    #[must_use]
    pub fn wants(&self, entry: &NetworkEntry, now: UnixMillis) -> bool {
        let age_ms = now.millis_since(entry.last);
        let young = self.since_secs.is_none_or(|secs| age_ms <= secs.saturating_mul(1000));
        young && (!self.denied || matches!(entry.verdict, NetworkVerdict::Denied(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_or_name_what_is_wrong() {
        let read = |denied, since_secs| Ok(ReadNetwork { denied, since_secs });
        for (query, expected) in [
            ("", read(false, None)),
            ("denied=true&since_secs=3600&x=y", read(true, Some(3600))),
            ("denied=&since_secs=", read(false, None)),
            ("denied=false", read(false, None)),
            ("since_secs=99999999999999999999", read(false, Some(u64::MAX))),
        ] {
            assert_eq!(ReadNetwork::parse(Some(query)), expected, "{query}");
        }
        for (query, path) in [("denied=1", "denied"), ("since_secs=1h", "since_secs")] {
            let refusal = ReadNetwork::parse(Some(query)).expect_err(query);
            assert!(refusal.to_string().starts_with(&format!("{path}: ")), "{refusal}");
        }
    }
}
