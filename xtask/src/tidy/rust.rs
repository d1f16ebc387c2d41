//! Rules on Rust files.

use crate::finding::Finding;

use super::{
    function::{Function, words},
    source::Source,
};

const FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 100;
const COLUMNS: usize = 100;

/// Names that say nothing about what a module holds.
const EMPTY_NAMES: [&str; 6] = ["util", "utils", "helper", "helpers", "common", "manager"];

/// Applies all rules for Rust files.
pub(super) fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(check_length(source));
    findings.extend(check_functions(source));
    findings.extend(check_width(source));
    findings.extend(check_doc(source));
    findings.extend(check_names(source));
    findings.extend(check_code(source));
    findings
}

fn check_length(source: &Source<'_>) -> Option<Finding> {
    let lines = source.text.lines().count();
    let text = format!("{lines} lines; split it by meaning ({FILE_LINES} at most)");
    (lines > FILE_LINES).then(|| Finding::new(source.path, FILE_LINES + 1, "file-length", text))
}

fn check_functions(source: &Source<'_>) -> Vec<Finding> {
    source.functions.iter().filter_map(|function| check_function(source, function)).collect()
}

fn check_function(source: &Source<'_>, function: &Function) -> Option<Finding> {
    let first = source.line(function.bytes.start);
    let lines = source.line(function.bytes.end) - first + 1;
    let text =
        format!("`{}` has {lines} lines; split it ({FUNCTION_LINES} at most)", function.name);
    (lines > FUNCTION_LINES).then(|| Finding::new(source.path, first, "function-length", text))
}

fn check_width(source: &Source<'_>) -> Vec<Finding> {
    let lines = source.text.lines().enumerate();
    // Neither golden bytes nor a sentence for a user is wrapped by the formatter.
    let literal = |line: &str| line.matches('"').count() >= 2 || line.contains("r#\"");
    let wide = lines.filter(|(_, line)| line.chars().count() > COLUMNS && !literal(line));
    wide.map(|(line, content)| {
        let text = format!("{} columns; wrap it at {COLUMNS}", content.chars().count());
        Finding::new(source.path, line + 1, "width", text)
    })
    .collect()
}

fn check_doc(source: &Source<'_>) -> Option<Finding> {
    let is_root = source.path.ends_with("src/lib.rs") || source.path.ends_with("src/main.rs");
    let text = "starts without `//!`; say what the crate is for and what it must not know";
    (is_root && !source.text.starts_with("//!"))
        .then(|| Finding::new(source.path, 1, "crate-doc", text))
}

fn check_names(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut components = source.path.trim_end_matches(".rs").split('/');
    if let Some(name) = components.find(|component| EMPTY_NAMES.contains(component)) {
        findings.push(Finding::new(source.path, 1, "module-name", empty_name(name)));
    }
    for at in words(&source.code, "mod") {
        let rest = source.code[at + 3..].trim_start();
        let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(rest);
        if EMPTY_NAMES.contains(&name) {
            let line = source.line(at);
            findings.push(Finding::new(source.path, line, "module-name", empty_name(name)));
        }
    }
    findings
}

fn empty_name(name: &str) -> String {
    format!("`{name}` says nothing; name the module after the thing it holds")
}

fn check_code(source: &Source<'_>) -> Vec<Finding> {
    let forbidden = [
        ("#[ignore", "a test that never runs is none; run it or remove it"),
        ("should_panic", "call the function and check its error instead"),
        ("unimplemented!", "answer with an error that says what is missing"),
        ("todo!", "finish it, or answer with an error that says what is missing"),
    ];
    let mut findings = Vec::new();
    for (pattern, remedy) in forbidden {
        for (at, _) in source.code.match_indices(pattern) {
            let text = format!("`{pattern}`: {remedy}");
            findings.push(Finding::new(source.path, source.line(at), "forbidden-code", text));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_at(path: &str, text: &str) -> Vec<(usize, &'static str)> {
        check(&Source::new(path, text)).iter().map(|found| (found.line, found.rule)).collect()
    }

    #[test]
    fn a_good_file_passes() {
        let text = "//! A crate.\n\nmod sandbox;\n\nfn run() {\n    let todo = \"todo!\";\n}\n";
        assert_eq!(check_at("crates/a/src/lib.rs", text), []);
    }

    #[test]
    fn bad_files_are_told_where() {
        let long_function = format!("fn a() {{\n{}}}\n", "    b();\n".repeat(99));
        let cases = [
            ("fn a() {}\n".repeat(801), 801, "file-length"),
            (format!("\n{long_function}"), 2, "function-length"),
            (format!("\n// {}\n", "x".repeat(98)), 2, "width"),
            ("mod utils;\n".to_owned(), 1, "module-name"),
            ("#[test]\n#[ignore]\nfn a() {}\n".to_owned(), 2, "forbidden-code"),
            ("#[should_panic(expected = \"x\")]\nfn a() {}\n".to_owned(), 1, "forbidden-code"),
            ("fn a() {\n    todo!()\n}\n".to_owned(), 2, "forbidden-code"),
        ];
        for (text, line, rule) in cases {
            assert_eq!(check_at("crates/a/src/b.rs", &text), [(line, rule)]);
        }
    }

    #[test]
    fn the_largest_allowed_sizes_pass() {
        let function = format!("fn a() {{\n{}}}\n", "    b();\n".repeat(98));
        let width = format!("// {}\n", "ü".repeat(97));
        let literal = format!("const TEXT: &str = \"{}\";\n", "x".repeat(100));
        for text in ["fn a() {}\n".repeat(800), function, width, literal] {
            assert_eq!(check_at("crates/a/src/b.rs", &text), []);
        }
    }

    #[test]
    fn crate_roots_need_a_doc_and_paths_a_telling_name() {
        assert_eq!(check_at("crates/a/src/main.rs", "fn main() {}\n"), [(1, "crate-doc")]);
        assert_eq!(check_at("crates/a/src/helpers/x.rs", "fn a() {}\n"), [(1, "module-name")]);
        assert_eq!(check_at("crates/a/tests/it/common.rs", "fn a() {}\n"), [(1, "module-name")]);
    }
}
