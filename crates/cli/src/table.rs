//! Columns for people; `--json` is for programs.

use std::fmt::Write as _;

/// Returns rows as text, each column as wide as its widest cell.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    line(&mut text, &head, &widths);
    for row in rows {
        line(&mut text, row, &widths);
    }
    text
}

fn line(text: &mut String, cells: &[impl AsRef<str>], widths: &[usize]) {
    let start = text.len();
    for (cell, width) in cells.iter().zip(widths) {
        // Writing to a `String` cannot fail.
        _ = write!(text, "{:width$}  ", cell.as_ref());
    }
    text.truncate(text[start..].trim_end().len() + start);
    text.push('\n');
}

/// Writes a time as `2023-11-14T22:13:20Z`.
pub(crate) fn time(millis: i64) -> String {
    tarn_api::response::rfc3339_secs(millis).unwrap_or_else(|| millis.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let rows = [["a".to_owned(), "x".to_owned()], ["longer".to_owned(), String::new()]];
        assert_eq!(table(["ID", "NAME"], &rows), "ID      NAME\na       x\nlonger\n");
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(1_700_000_000_123), "2023-11-14T22:13:20Z");
        assert_eq!(time(i64::MAX), i64::MAX.to_string());
    }
}
