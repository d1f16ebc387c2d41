//! One Rust file as the rules see it.

use std::ops::Range;

use super::{
    function::{Function, block_after, functions},
    mask::mask,
};

/// A Rust file: its text, its code alone, its functions and its test parts.
#[derive(Debug)]
pub(super) struct Source<'file> {
    pub(super) path: &'file str,
    pub(super) text: &'file str,
    /// The text with blanks for comments and literals.
    pub(super) code: String,
    pub(super) functions: Vec<Function>,
    tests: Vec<Range<usize>>,
}

// === impl Source ===

impl<'file> Source<'file> {
    pub(super) fn new(path: &'file str, text: &'file str) -> Self {
        let code = mask(text);
        let functions = functions(&code);
        let whole = is_test_path(path).then_some(0..code.len());
        let tests = whole.into_iter().chain(test_modules(&code)).collect();
        Self { path, text, code, functions, tests }
    }

    /// Counts the line of a byte, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// Tells whether a byte is part of a test.
    pub(super) fn is_test(&self, at: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&at))
    }

    /// Returns the innermost function around a byte.
    pub(super) fn function_around(&self, at: usize) -> Option<&Function> {
        self.functions.iter().rfind(|function| function.bytes.contains(&at))
    }
}

fn is_test_path(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

fn test_modules(code: &str) -> Vec<Range<usize>> {
    let marks = code.match_indices("#[cfg(test)]").map(|(at, mark)| at + mark.len());
    marks.filter_map(|after| block_after(code.as_bytes(), after)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_code_is_told_from_the_rest() {
        let text =
            "fn a() { x }\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod t {\n fn b() { y }\n}\n";
        let source = Source::new("crates/a/src/lib.rs", text);
        let [x, y] = ["x", "y"].map(|name| text.find(&format!("{{ {name}")).unwrap());
        assert!(!source.is_test(x));
        assert!(source.is_test(y));
        assert_eq!(source.line(y), 6);
        assert_eq!(source.function_around(y).map(|f| f.name.as_str()), Some("b"));
    }

    #[test]
    fn whole_files_of_tests_are_known_by_their_path() {
        let cases = [
            ("crates/a/tests/it/main.rs", true),
            ("crates/a/src/b/tests.rs", true),
            ("crates/a/src/b_tests.rs", true),
            ("crates/a/src/contest.rs", false),
        ];
        for (path, expected) in cases {
            assert_eq!(Source::new(path, "fn a() {}").is_test(0), expected, "{path}");
        }
    }
}
