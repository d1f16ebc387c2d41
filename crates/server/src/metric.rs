//! The Prometheus text format.

use std::fmt::Write as _;

/// Appends one metric and its rows, each with its labels in braces, if any, and its value.
pub(crate) fn family(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    rows: &[(&str, String)],
) {
    // Writing to a `String` cannot fail.
    _ = writeln!(text, "# HELP tarn_{name} {help}\n# TYPE tarn_{name} {kind}");
    for (labels, value) in rows {
        _ = writeln!(text, "tarn_{name}{labels} {value}");
    }
}
