//! The committed OpenAPI document is the one that the wire crate makes.
//!
//! It is made in this process: building and running the server for it would take minutes.

use std::fs;

use anyhow::Context as _;

use crate::{checkout::Checkout, finding::Finding};

const DOCUMENT: &str = "docs/openapi.json";
const RULE: &str = "openapi";

/// Writes the document.
pub(crate) fn write(checkout: &Checkout) -> anyhow::Result<Vec<Finding>> {
    let path = checkout.path(DOCUMENT);
    fs::write(&path, tarn_api::openapi_json()).with_context(|| format!("write {DOCUMENT}"))?;
    Ok(Vec::new())
}

/// Compares the committed document with the one to be.
pub(crate) fn check(checkout: &Checkout) -> anyhow::Result<Vec<Finding>> {
    let committed = fs::read_to_string(checkout.path(DOCUMENT)).unwrap_or_default();
    Ok(compare(&committed, &tarn_api::openapi_json()).into_iter().collect())
}

fn compare(committed: &str, made: &str) -> Option<Finding> {
    if committed == made {
        return None;
    }
    let same = committed.lines().zip(made.lines()).take_while(|(old, new)| old == new).count();
    let text = "differs from what the code makes from here on; run `cargo xtask openapi`";
    Some(Finding::new(DOCUMENT, same + 1, RULE, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_documents_pass() {
        assert_eq!(compare("{\n}\n", "{\n}\n"), None);
    }

    #[test]
    fn the_first_different_line_is_named() {
        let lines = [("", "{\n}\n", 1), ("{\n\"a\": 1\n}\n", "{\n\"a\": 2\n}\n", 2)];
        for (committed, made, line) in lines {
            assert_eq!(compare(committed, made).map(|finding| finding.line), Some(line));
        }
    }
}
