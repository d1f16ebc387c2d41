//! `cargo xtask tidy`: rules on files that no compiler checks.
//!
//! Each rule is a function from a file's text to findings. What is excused is listed, each with
//! its reason, in `xtask/allow.toml`; an excuse that nothing needs any more is a finding itself.

use std::{collections::HashMap, fs};

use anyhow::Context as _;

use crate::{checkout::Checkout, finding::Finding};

use self::{allow::AllowList, source::Source};

mod allow;
mod function;
mod mask;
mod rust;
mod sleep;
mod source;
mod tree;

const ALLOW_LIST: &str = "xtask/allow.toml";
const ARCHITECTURE: &str = "ARCHITECTURE.md";

/// Checks every file of the checkout.
pub(crate) fn check(checkout: &Checkout) -> anyhow::Result<Vec<Finding>> {
    let list = fs::read_to_string(checkout.path(ALLOW_LIST)).context("read the allow list")?;
    let mut allow = AllowList::parse(&list).with_context(|| format!("parse {ALLOW_LIST}"))?;
    let files = read(checkout)?;
    let mut findings = tree::check_presence(&files);
    for (path, content) in &files {
        findings.extend(check_file(path, content, &mut allow));
    }
    let architecture = files.get(ARCHITECTURE).map(|bytes| String::from_utf8_lossy(bytes));
    findings.extend(tree::check_unsafe_list(&files, &architecture.unwrap_or_default()));
    findings.extend(allow.stale(ALLOW_LIST));
    findings.sort();
    Ok(findings)
}

fn read(checkout: &Checkout) -> anyhow::Result<HashMap<String, Vec<u8>>> {
    let mut files = HashMap::new();
    for path in checkout.files()? {
        let place = checkout.path(&path);
        if place.is_file() {
            let content = fs::read(&place).with_context(|| format!("read {path}"))?;
            files.insert(path, content);
        }
    }
    Ok(files)
}

fn check_file(path: &str, content: &[u8], allow: &mut AllowList) -> Vec<Finding> {
    let mut findings = tree::check_size(path, content.len());
    // A file that is no text has no lines to check.
    let Ok(text) = std::str::from_utf8(content) else { return findings };
    findings.extend(tree::check_text(path, text));
    let mut sleeps = Vec::new();
    if path.ends_with(".rs") {
        let source = Source::new(path, text);
        findings.extend(rust::check(&source));
        sleeps = sleep::in_rust(&source);
    } else if path.ends_with(".py") {
        sleeps = sleep::in_python(path, text);
    } else if path.ends_with("Cargo.toml") {
        findings.extend(tree::check_manifest(path, text));
    }
    findings.extend(sleeps);
    findings.retain(|finding| !allow.excuses(finding));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excused_finding_is_dropped_and_its_excuse_is_not_stale() {
        let list = "[[allow]]\nrule = \"whitespace\"\npath = \"a.md\"\nreason = \"a test\"\n";
        let mut allow = AllowList::parse(list).unwrap();
        assert_eq!(check_file("a.md", b"text \n", &mut allow), []);
        assert_eq!(allow.stale(ALLOW_LIST), []);
    }

    #[test]
    fn binary_files_are_only_weighed() {
        assert_eq!(check_file("a.bin", &[0xff, b' ', b'\n'], &mut AllowList::default()), []);
    }
}
