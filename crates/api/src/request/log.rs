//! The query of `GET …/sandboxes/{sid}/logs` (spec 08 §3).

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tarn_types::LogLevel;

use super::query::pairs;
use crate::{CursorError, Refusal, cursor::LENIENT};

/// The longest text that is looked at as a token.
const MAX_TOKEN: usize = 128;

/// Which lines to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListLogs {
    /// Any of these levels; empty = all.
    pub levels: Vec<LogLevel>,
    /// Any of these processes; empty = all.
    pub processes: Vec<u64>,
    /// With this text in the body.
    pub body: Option<String>,
    /// Which part of those.
    pub part: LogPart,
}

/// Which part of the lines that fit is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogPart {
    /// From the oldest on.
    #[default]
    All,
    /// The first so many.
    Head(u64),
    /// The last so many.
    Tail(u64),
    /// What an earlier page left; `head` and `tail` are in the token.
    Rest(LogToken),
}

/// The opaque place in a sandbox's lines that clients hand back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogToken {
    /// Behind this line.
    pub after: u64,
    /// How many are still to come at most.
    pub most: Option<u64>,
}

// === impl ListLogs ===

impl ListLogs {
    /// Reads a query string. An empty value equals an absent one; unknown keys are ignored.
    ///
    /// # Errors
    /// Names the first parameter that cannot be what it is.
    pub fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let (mut list, mut head, mut tail, mut token) = (Self::default(), None, None, None);
        for (key, value) in pairs(query.unwrap_or_default())? {
            if value.is_empty() {
                continue;
            }
            match &*key {
                "level" => list.levels.push(level(&value)?),
                "processId" => list.processes.push(process(&value)?),
                "body" => once("body", &mut list.body, value.into_owned())?,
                "head" => once("head", &mut head, count("head", &value)?)?,
                "tail" => once("tail", &mut tail, count("tail", &value)?)?,
                "nextToken" => {
                    let parsed = value.parse();
                    let parsed = parsed
                        .map_err(|wrong: CursorError| Refusal::invalid("nextToken", wrong))?;
                    once("nextToken", &mut token, parsed)?;
                }
                _ => {}
            }
        }
        list.part = match (token, head, tail) {
            (_, Some(_), Some(_)) => {
                return Err(Refusal::invalid("head", "cannot go with `tail`; give one of them"));
            }
            (Some(token), ..) => LogPart::Rest(token),
            (None, Some(head), None) => LogPart::Head(head),
            (None, None, Some(tail)) => LogPart::Tail(tail),
            (None, None, None) => LogPart::All,
        };
        Ok(list)
    }
}

fn once<T>(key: &str, place: &mut Option<T>, value: T) -> Result<(), Refusal> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::invalid(key, "is given twice")),
    }
}

fn level(text: &str) -> Result<LogLevel, Refusal> {
    let known = text.parse().ok().and_then(LogLevel::from_number);
    known.filter(|_| text.len() == 1).ok_or_else(|| {
        let words = "1 (trace), 2 (debug), 3 (info), 4 (warn), 5 (error) or 6 (fatal)";
        Refusal::invalid("level", format!("must be {words}"))
    })
}

fn process(text: &str) -> Result<u64, Refusal> {
    digits(text).ok_or_else(|| {
        Refusal::invalid("processId", "is no process id; the route `…/processes` lists them")
    })
}

fn count(key: &str, text: &str) -> Result<u64, Refusal> {
    digits(text)
        .filter(|count| *count > 0)
        .ok_or_else(|| Refusal::invalid(key, "must be a whole number of at least 1"))
}

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

// === impl LogToken ===

impl fmt::Display for LogToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = match self.most {
            None => format!("l.{}", self.after),
            Some(most) => format!("l.{}.{most}", self.after),
        };
        f.write_str(&URL_SAFE_NO_PAD.encode(plain))
    }
}

impl FromStr for LogToken {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let parse = || {
            let plain = String::from_utf8(LENIENT.decode(text).ok()?).ok()?;
            let rest = plain.strip_prefix("l.")?;
            let Some((after, most)) = rest.split_once('.') else {
                return Some(Self { after: digits(rest)?, most: None });
            };
            Some(Self { after: digits(after)?, most: Some(digits(most)?) })
        };
        if text.len() > MAX_TOKEN {
            return Err(CursorError);
        }
        parse().ok_or(CursorError)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_query_is_read() {
        let query = "level=5&processId=7&level=3&processId=8&body=a%20b%2B+c&tail=5&x=y&head=";
        let expected = ListLogs {
            levels: vec![LogLevel::Error, LogLevel::Info],
            processes: vec![7, 8],
            body: Some("a b+ c".to_owned()),
            part: LogPart::Tail(5),
        };
        assert_eq!(ListLogs::parse(Some(query)), Ok(expected));
        assert_eq!(ListLogs::parse(None), Ok(ListLogs::default()));
    }

    #[test]
    fn a_token_wins_over_what_began_it() {
        let token = LogToken { after: 5, most: Some(2) };
        for rest in ["", "&head=7", "&tail=7"] {
            let list = ListLogs::parse(Some(&format!("nextToken={token}{rest}")));
            assert_eq!(list.map(|list| list.part), Ok(LogPart::Rest(token)), "{rest}");
        }
    }

    #[test]
    fn bad_queries_name_their_parameter() {
        for (query, path) in [
            ("level=0", "level"),
            ("level=7", "level"),
            ("level=03", "level"),
            ("level=info", "level"),
            ("level=3,5", "level"),
            ("processId=x", "processId"),
            ("processId=-1", "processId"),
            ("processId=99999999999999999999", "processId"),
            ("head=0", "head"),
            ("head=-1", "head"),
            ("head=1.0", "head"),
            ("tail=0", "tail"),
            ("tail=all", "tail"),
            ("head=1&tail=1", "head"),
            ("head=1&head=2", "head"),
            ("tail=1&tail=1", "tail"),
            ("body=a&body=b", "body"),
            ("nextToken=nonsense", "nextToken"),
            ("nextToken=bC4x&nextToken=bC4x", "nextToken"),
            ("body=%ff", "query"),
        ] {
            let refusal = ListLogs::parse(Some(query)).expect_err(query);
            assert!(refusal.to_string().starts_with(&format!("{path}: ")), "{query}: {refusal}");
        }
    }

    #[test]
    fn the_bytes_of_a_token_stay() {
        let (plain, bounded) =
            (LogToken { after: 1, most: None }, LogToken { after: 1, most: Some(2) });
        assert_eq!(plain.to_string(), "bC4x");
        assert_eq!(bounded.to_string(), "bC4xLjI");
        assert_eq!("bC4xLjI=".parse(), Ok(bounded));
        for bad in ["", "bC4", "bC4xLg", "MS4w", &"A".repeat(1000)] {
            assert_eq!(bad.parse::<LogToken>(), Err(CursorError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_token_survives_the_wire(after: u64, most: Option<u64>) {
            let token = LogToken { after, most };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn no_query_panics(text in ".{0,200}") {
            drop(ListLogs::parse(Some(&text)));
        }
    }
}
