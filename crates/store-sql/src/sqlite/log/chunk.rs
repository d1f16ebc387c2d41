//! The bytes of a stored batch: a JSON array of `[process, level, at, dropped, body]`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use tarn_store::StoreError;
use tarn_types::{LogLevel, LogLine, UnixMillis};

/// The version that [`encode`] writes.
pub(super) const FORMAT: i64 = 1;

/// A line in the file. A tuple, because names would be most of the bytes.
#[derive(Serialize, Deserialize)]
struct Line<'a>(u64, u8, i64, u64, #[serde(borrow)] Cow<'a, str>);

/// Writes lines.
pub(super) fn encode(lines: &[LogLine]) -> Result<String, StoreError> {
    let rows: Vec<_> = lines
        .iter()
        .map(|line| {
            let (level, body) = (line.level.number(), Cow::Borrowed(line.body.as_str()));
            Line(line.process, level, line.at.0, line.dropped, body)
        })
        .collect();
    serde_json::to_string(&rows)
        .map_err(|error| StoreError::Internal { detail: format!("write log lines: {error}") })
}

/// Reads lines of a stored version.
pub(super) fn decode(version: i64, text: &str) -> Result<Vec<LogLine>, StoreError> {
    let damaged = |detail: String| StoreError::Internal { detail };
    if version != FORMAT {
        return Err(damaged(format!(
            "stored log lines have format {version}, this program reads {FORMAT}; start the release that wrote them"
        )));
    }
    let rows: Vec<Line<'_>> = serde_json::from_str(text)
        .map_err(|error| damaged(format!("stored log lines are damaged: {error}")))?;
    rows.into_iter()
        .map(|Line(process, level, at, dropped, body)| {
            let level = LogLevel::from_number(level)
                .ok_or_else(|| damaged(format!("stored log lines have level {level}")))?;
            let (at, body) = (UnixMillis(at), body.into_owned());
            Ok(LogLine { process, level, at, dropped, body })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_1_is_read_for_ever() {
        let golden =
            r#"[[7,5,1800000000000,0,"a\u001b\"b"],[8,4,-1,9,"[tarn: 9 earlier lines dropped]"]]"#;
        let lines = [
            LogLine {
                process: 7,
                level: LogLevel::Error,
                at: UnixMillis(1_800_000_000_000),
                dropped: 0,
                body: "a\u{1b}\"b".to_owned(),
            },
            LogLine {
                process: 8,
                level: LogLevel::Warn,
                at: UnixMillis(-1),
                dropped: 9,
                body: LogLine::dropped_text(9),
            },
        ];
        assert_eq!(encode(&lines).expect("written"), golden);
        assert_eq!(decode(1, golden).expect("read"), lines);
    }

    #[test]
    fn what_is_damaged_or_newer_is_told() {
        for (version, text, expected) in [
            (2, "[]", "have format 2"),
            (1, "[", "damaged"),
            (1, "[[1,2]]", "damaged"),
            (1, r#"[[1,9,0,0,"x"]]"#, "level 9"),
        ] {
            let error = decode(version, text).expect_err(text);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
