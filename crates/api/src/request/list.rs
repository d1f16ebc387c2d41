//! The query of `GET P/sandboxes` and `GET P/archived-sandboxes` (spec 01 §4).

use std::{borrow::Cow, collections::BTreeMap};

use tarn_types::SandboxStatus;

use super::query::pairs;
use crate::{Cursor, Refusal};

/// What a list without `limit` is capped at: two SDKs follow no cursor.
const UNLIMITED: usize = 10_000;

/// What a larger `limit` counts as.
const MAX_LIMIT: usize = 1000;

/// Which way a page goes from its cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// Toward older sandboxes.
    #[default]
    Forward,
    /// Back toward newer ones.
    Backward,
}

/// Which sandboxes to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListSandboxes {
    /// At most so many; the caps are applied.
    pub limit: usize,
    /// Where the page starts, exclusive.
    pub cursor: Option<Cursor>,
    /// Which way it goes.
    pub direction: Direction,
    /// Only those with this status.
    pub status: Option<SandboxStatus>,
}

// === impl ListSandboxes ===

impl ListSandboxes {
    /// Reads a query string. An empty value equals an absent one; unknown keys are ignored.
    ///
    /// # Errors
    /// Names the first parameter that cannot be what it is.
    pub fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let pairs = by_key(query.unwrap_or_default())?;
        let get = |key: &str| pairs.get(key).map(Cow::as_ref).filter(|value| !value.is_empty());
        Ok(Self {
            limit: limit(get("limit"))?,
            cursor: get("cursor")
                .map(str::parse)
                .transpose()
                .map_err(|wrong| Refusal::invalid("cursor", wrong))?,
            direction: direction(get("direction"))?,
            status: status(get("status"))?,
        })
    }
}

fn limit(text: Option<&str>) -> Result<usize, Refusal> {
    let Some(text) = text else { return Ok(UNLIMITED) };
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // A number too large for the machine is a large limit like any other.
    match (digits, text.parse::<usize>()) {
        (true, Ok(0)) | (false, _) => {
            Err(Refusal::invalid("limit", "must be a whole number of at least 1"))
        }
        (true, Ok(limit)) => Ok(limit.min(MAX_LIMIT)),
        (true, Err(_)) => Ok(MAX_LIMIT),
    }
}

fn direction(text: Option<&str>) -> Result<Direction, Refusal> {
    match text {
        None | Some("forward") => Ok(Direction::Forward),
        Some("backward") => Ok(Direction::Backward),
        Some(_) => Err(Refusal::invalid("direction", "must be `forward` or `backward`")),
    }
}

fn status(text: Option<&str>) -> Result<Option<SandboxStatus>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    SandboxStatus::from_wire(text).map(Some).ok_or_else(|| {
        let words = SandboxStatus::ALL.map(SandboxStatus::as_str).join("`, `");
        Refusal::invalid("status", format!("must be one of `{words}`"))
    })
}

/// Returns the pairs by their keys; ours are given once.
fn by_key(query: &str) -> Result<BTreeMap<Cow<'_, str>, Cow<'_, str>>, Refusal> {
    let mut by_key = BTreeMap::new();
    for (key, value) in pairs(query)? {
        if by_key.contains_key(&key) && ["limit", "cursor", "direction", "status"].contains(&&*key)
        {
            return Err(Refusal::invalid(&key, "is given twice"));
        }
        by_key.insert(key, value);
    }
    Ok(by_key)
}

#[cfg(test)]
mod tests {
    use tarn_types::{SandboxId, UnixMillis};

    use super::*;

    #[test]
    fn the_caps_are_those_of_the_spec() {
        let limit = |query| ListSandboxes::parse(query).map(|list| list.limit);
        assert_eq!(limit(None), Ok(10_000));
        assert_eq!(limit(Some("limit=")), Ok(10_000));
        assert_eq!(limit(Some("limit=7")), Ok(7));
        assert_eq!(limit(Some("limit=1001&x=y")), Ok(1000));
        assert_eq!(limit(Some("limit=99999999999999999999999")), Ok(1000));
    }

    #[test]
    fn bad_queries_name_their_parameter() {
        for (query, path) in [
            ("limit=0", "limit"),
            ("limit=-1", "limit"),
            ("limit=+1", "limit"),
            ("limit=1.0", "limit"),
            ("limit=ten", "limit"),
            ("limit=1&limit=2", "limit"),
            ("cursor=nonsense", "cursor"),
            ("cursor=%ff", "query"),
            ("direction=up", "direction"),
            ("status=Running", "status"),
            ("status=failed", "status"),
        ] {
            let refusal = ListSandboxes::parse(Some(query)).expect_err(query);
            assert!(refusal.to_string().starts_with(&format!("{path}: ")), "{query}: {refusal}");
        }
    }

    #[test]
    fn a_full_query_is_read() {
        let cursor = Cursor { created_at: UnixMillis(5), id: SandboxId::from_random([1; 21]) };
        let query = format!("status=running&direction=backward&cursor={cursor}&limit=2");
        let list = ListSandboxes::parse(Some(&query)).expect("a good query");
        let expected = ListSandboxes {
            limit: 2,
            cursor: Some(cursor),
            direction: Direction::Backward,
            status: Some(SandboxStatus::Running),
        };
        assert_eq!(list, expected);
    }
}
