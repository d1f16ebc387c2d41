//! Rules on files of any kind, and on the tree as a whole.

use std::collections::HashMap;

use crate::finding::Finding;

use super::{function::words, mask::mask};

const FILE_BYTES: usize = 1 << 20;

/// Marks of unfinished work; written apart, so that this file does not break its own rule.
const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];

/// Homes on one machine; a path that starts with one of them means nothing elsewhere.
const HOMES: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
/// The home of the user of the stock image: inside a sandbox, so the same everywhere.
const SANDBOX_HOME: &str = "/home/tl-user";

/// Checks that the files each checkout must have are there.
pub(super) fn check_presence(files: &HashMap<String, Vec<u8>>) -> Vec<Finding> {
    let licence = files.get("LICENSE").map_or(&[][..], Vec::as_slice);
    let text = "the text of the Apache License 2.0 is missing; put it there";
    if String::from_utf8_lossy(licence).contains("Apache License") {
        return Vec::new();
    }
    vec![Finding::new("LICENSE", 1, "licence", text)]
}

/// Checks that a file is small enough to be tracked.
pub(super) fn check_size(path: &str, bytes: usize) -> Vec<Finding> {
    if bytes <= FILE_BYTES {
        return Vec::new();
    }
    let text = format!("{bytes} bytes; keep what is larger than {FILE_BYTES} out of the tree");
    vec![Finding::new(path, 1, "file-size", text)]
}

/// Applies the rules on every line of text.
pub(super) fn check_text(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut add = |rule, text| findings.push(Finding::new(path, number + 1, rule, text));
        if line.ends_with([' ', '\t']) {
            add("whitespace", "ends with blanks; remove them".to_owned());
        }
        for mark in MARKS {
            if words(line, mark).next().is_some() {
                add("unfinished", format!("`{mark}`: finish it, or open an issue"));
            }
        }
        if let Some(home) = HOMES.iter().find(|home| names_path(line, home)) {
            add("machine-path", format!("`{home}` is a place of one machine; name it relatively"));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        let last = text.lines().count();
        findings.push(Finding::new(path, last, "whitespace", "no line break at the end; add it"));
    }
    findings
}

/// Checks that a package takes its lints from the workspace.
pub(super) fn check_manifest(path: &str, text: &str) -> Vec<Finding> {
    let Ok(manifest) = text.parse::<toml::Table>() else {
        return vec![Finding::new(path, 1, "lints", "is no TOML; repair it")];
    };
    let shared = manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .and_then(toml::Value::as_bool);
    if !manifest.contains_key("package") || shared == Some(true) {
        return Vec::new();
    }
    vec![Finding::new(path, 1, "lints", "add `[lints]` with `workspace = true`")]
}

/// Checks that ARCHITECTURE.md names every module that may use `unsafe`.
pub(super) fn check_unsafe_list(
    files: &HashMap<String, Vec<u8>>,
    architecture: &str,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, content) in files.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let code = mask(&String::from_utf8_lossy(content));
        let opts_out = code.contains("allow(unsafe_code") || code.contains("expect(unsafe_code");
        if opts_out && !architecture.contains(&format!("`{path}`")) {
            let text = "allows unsafe code but ARCHITECTURE.md does not name it; add it there";
            findings.push(Finding::new(path, 1, "unsafe-list", text));
        }
    }
    findings
}

/// Tells whether a line names an absolute path below `home`.
fn names_path(line: &str, home: &str) -> bool {
    line.match_indices(home).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let continues = before.is_some_and(|c| c.is_alphanumeric() || "_./-}*~".contains(c));
        !continues && !line[at..].starts_with(SANDBOX_HOME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(findings: &[Finding]) -> Vec<(usize, &'static str)> {
        findings.iter().map(|found| (found.line, found.rule)).collect()
    }

    #[test]
    fn text_is_checked_line_by_line() {
        let cases: [(String, &[(usize, &str)]); 10] = [
            ("good\n".to_owned(), &[]),
            ("good\nbad \n".to_owned(), &[(2, "whitespace")]),
            ("bad\t\n".to_owned(), &[(1, "whitespace")]),
            ("no end".to_owned(), &[(1, "whitespace")]),
            (format!("# {}: later\n", MARKS[0]), &[(1, "unfinished")]),
            (format!("mktemp -{}{}\n", MARKS[2], MARKS[2]), &[]),
            (format!("cd {}main\n", HOMES[0]), &[(1, "machine-path")]),
            (format!("see \"{}x\"\n", HOMES[1]), &[(1, "machine-path")]),
            (format!("a{}b and {SANDBOX_HOME}/x\n", HOMES[0]), &[]),
            (String::new(), &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(rules(&check_text("a.md", &text)), expected, "{text}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(check_size("a", FILE_BYTES), []);
        assert_eq!(rules(&check_size("a", FILE_BYTES + 1)), [(1, "file-size")]);
    }

    #[test]
    fn packages_share_their_lints() {
        let cases = [
            ("[package]\nname = \"a\"\n[lints]\nworkspace = true\n", true),
            ("[package]\nname = \"a\"\n", false),
            ("[package]\nname = \"a\"\n[lints]\nworkspace = false\n", false),
            ("[workspace]\nmembers = []\n", true),
            ("[package", false),
        ];
        for (text, good) in cases {
            assert_eq!(check_manifest("Cargo.toml", text).is_empty(), good, "{text}");
        }
    }

    #[test]
    fn the_licence_must_be_there() {
        let with = HashMap::from([("LICENSE".to_owned(), b"Apache License\n".to_vec())]);
        assert_eq!(check_presence(&with), []);
        assert_eq!(rules(&check_presence(&HashMap::new())), [(1, "licence")]);
    }

    #[test]
    fn unsafe_modules_are_named() {
        let opt_out = b"#![allow(unsafe_code, reason = \"x\")]\n".to_vec();
        let files = HashMap::from([("crates/a/src/sys.rs".to_owned(), opt_out)]);
        assert_eq!(check_unsafe_list(&files, "- `crates/a/src/sys.rs`: calls\n"), []);
        assert_eq!(rules(&check_unsafe_list(&files, "none")), [(1, "unsafe-list")]);
    }
}
