//! The queries of suspend, resume and copy (spec 02 §1, §5).

use super::query::pairs;
use crate::Refusal;

/// A suspend or resume: how long it may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeState {
    /// For how many milliseconds the answer may wait; `None` = not at all.
    pub wait_ms: Option<u64>,
}

/// A copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopySandbox {
    /// How many copies; at least one.
    pub times: u32,
}

// === impl ChangeState ===

impl ChangeState {
    /// Reads a query string.
    ///
    /// # Errors
    /// Fails when `wait_ms` is no number, or is given twice.
    pub fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        Ok(Self { wait_ms: number(query, "wait_ms", "must be a whole number of milliseconds")? })
    }
}

// === impl CopySandbox ===

impl CopySandbox {
    /// Reads a query string; without `times` it asks for one copy.
    ///
    /// # Errors
    /// Fails when `times` is 0 or no number, or is given twice.
    pub fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        const REASON: &str = "must be a whole number of at least 1";
        match number(query, "times", REASON)? {
            Some(0) => Err(Refusal::invalid("times", REASON)),
            // What is too large for us is far above the limit, which is for control to say.
            Some(times) => Ok(Self { times: u32::try_from(times).unwrap_or(u32::MAX) }),
            None => Ok(Self { times: 1 }),
        }
    }
}

/// Takes a number out of a query; an empty value equals an absent one, other keys are ignored.
fn number(query: Option<&str>, wanted: &str, reason: &str) -> Result<Option<u64>, Refusal> {
    let mut found = None;
    for (key, value) in pairs(query.unwrap_or_default())? {
        if key != wanted || value.is_empty() {
            continue;
        }
        if !value.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(Refusal::invalid(wanted, reason));
        }
        // Of digits alone, what cannot be read is too large.
        let number = value.parse().unwrap_or(u64::MAX);
        if found.replace(number).is_some() {
            return Err(Refusal::invalid(wanted, "is given twice"));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_a_number_or_absent() {
        let table = [
            (None, Ok(None)),
            (Some(""), Ok(None)),
            (Some("wait_ms="), Ok(None)),
            (Some("wait_ms=0"), Ok(Some(0))),
            (Some("a=b&wait_ms=30000"), Ok(Some(30_000))),
            (Some("wait_ms=99999999999999999999"), Ok(Some(u64::MAX))),
            (Some("wait_ms=-1"), Err("wait_ms: must be a whole number of milliseconds")),
            (Some("wait_ms=1.5"), Err("wait_ms: must be a whole number of milliseconds")),
            (Some("wait_ms=1&wait_ms=1"), Err("wait_ms: is given twice")),
        ];
        for (query, expected) in table {
            let parsed = ChangeState::parse(query).map(|change| change.wait_ms);
            let expected = expected.map_err(str::to_owned);
            assert_eq!(parsed.map_err(|refusal| refusal.to_string()), expected, "{query:?}");
        }
    }

    #[test]
    fn copies_are_at_least_one() {
        let table = [
            (None, Some(1)),
            (Some("times="), Some(1)),
            (Some("times=3"), Some(3)),
            (Some("times=4294967296"), Some(u32::MAX)),
            (Some("times=0"), None),
            (Some("times=-1"), None),
            (Some("times=two"), None),
            (Some("times=1&times=2"), None),
        ];
        for (query, expected) in table {
            let parsed = CopySandbox::parse(query).map(|copy| copy.times);
            assert_eq!(parsed.ok(), expected, "{query:?}");
        }
    }
}
