//! Tests wait on a level, never for a time.
//!
//! A pause between two looks at the level is part of the wait itself: functions named `wait_…` or
//! `until_…`, or `eventually`, may sleep. Others need an entry in the allow list.

use crate::finding::Finding;

use super::{mask::is_word, source::Source};

const RULE: &str = "sleep";
/// Stands for the name where there is no function.
const TOP: &str = "top level";
const CALLS: [&str; 2] = ["sleep(", "sleep_until("];

/// Finds sleeps in the tests of a Rust file.
pub(super) fn in_rust(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for at in CALLS.iter().flat_map(|call| calls(&source.code, call)) {
        let name = source.function_around(at).map_or(TOP, |function| function.name.as_str());
        if source.is_test(at) && !is_wait(name) {
            findings.push(finding(source.path, source.line(at), name));
        }
    }
    findings
}

/// Finds sleeps in a Python file; all of those here are for tests and benches.
pub(super) fn in_python(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut name = TOP;
    for (line, content) in text.lines().enumerate() {
        let words = content.trim_start().trim_start_matches("async ");
        if let Some(rest) = words.strip_prefix("def ") {
            name = rest.split('(').next().unwrap_or(rest);
        }
        if !words.starts_with('#') && calls(content, "sleep(").next().is_some() && !is_wait(name) {
            findings.push(finding(path, line + 1, name));
        }
    }
    findings
}

/// The places where a function is called, not declared.
fn calls<'code>(code: &'code str, call: &'code str) -> impl Iterator<Item = usize> + 'code {
    let places = code.match_indices(call).map(|(at, _)| at);
    places.filter(move |at| {
        let before = &code[..*at];
        !before.bytes().next_back().is_some_and(is_word) && !before.trim_end().ends_with(" fn")
    })
}

fn is_wait(function: &str) -> bool {
    ["wait", "until", "eventually"].iter().any(|word| {
        function.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    })
}

fn finding(path: &str, line: usize, function: &str) -> Finding {
    let text = format!(
        "sleeps in `{function}`; wait on a predicate inside a function named `wait_…` or \
         `until_…`, or list it in xtask/allow.toml with the reason"
    );
    Finding::new(path, line, RULE, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_waits_may_sleep_in_rust_tests() {
        let cases = [
            ("async fn wait_for_it() { time::sleep(PAUSE).await }", 0),
            ("fn until() { thread::sleep(PAUSE) }", 0),
            ("fn waiter() { thread::sleep(PAUSE) }", 1),
            ("async fn it_works() {\n time::sleep_until(then).await }", 1),
            ("pub fn sleep(x: u8) {}", 0),
            ("fn it_works() { asleep(1); run(\"sleep(1)\") }", 0),
        ];
        for (text, expected) in cases {
            let source = Source::new("crates/a/tests/it/a.rs", text);
            assert_eq!(in_rust(&source).len(), expected, "{text}");
        }
    }

    #[test]
    fn code_outside_of_tests_may_sleep() {
        let source = Source::new("crates/a/src/lib.rs", "fn pace() { thread::sleep(PAUSE) }");
        assert_eq!(in_rust(&source), []);
    }

    #[test]
    fn only_waits_may_sleep_in_python() {
        let cases = [
            ("def wait_until(look):\n    time.sleep(0.1)\n", None),
            ("async def test_a():\n    await asyncio.sleep(1)\n", Some(2)),
            ("def test_b():\n    # time.sleep(1)\n    pass\n", None),
        ];
        for (text, expected) in cases {
            let lines: Vec<usize> = in_python("e2e/a.py", text).iter().map(|f| f.line).collect();
            assert_eq!(lines, Vec::from_iter(expected), "{text}");
        }
    }
}
