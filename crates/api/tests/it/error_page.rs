//! `docs/errors` against the codes, in both directions.
//!
//! The codes of the ingress and the daemon are read from their sources: no crate may use all
//! three, and a page without a code, or a code without a page, must not go unnoticed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use tarn_api::ErrorCode;

/// A page: its HTTP status, and who emits its code.
struct Page {
    status: String,
    emitters: BTreeSet<String>,
}

fn root() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", ".."].iter().collect()
}

fn pages() -> BTreeMap<String, Page> {
    let mut pages = BTreeMap::new();
    for entry in fs::read_dir(root().join("docs/errors")).expect("docs/errors is there") {
        let path = entry.expect("an entry").path();
        let code = path.file_stem().expect("a name").to_str().expect("text").to_owned();
        if code == "README" {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a page");
        assert!(text.starts_with(&format!("# {code}\n")), "{code} has another title");
        assert!(text.contains("\n## What to do\n\n- "), "{code} does not say what to do");
        let facts = text.lines().nth(2).and_then(|line| line.strip_prefix("HTTP "));
        let facts = facts.and_then(|line| line.strip_suffix('.')).expect(&code);
        let (status, emitters) = facts.split_once(". Emitted by: ").expect(&code);
        let emitters = emitters.split(", ").map(str::to_owned).collect();
        pages.insert(code, Page { status: status.to_owned(), emitters });
    }
    pages
}

/// Returns what is in quotes at the end of the lines that hold `mark`.
fn quoted(file: &str, mark: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(file)).expect("a source file");
    let lines = text.lines().filter(|line| line.contains(mark));
    let word = |line: &str| {
        let word = line.trim_end_matches([',', ';']).strip_suffix('"')?.rsplit_once('"')?.1;
        word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_').then(|| word.to_owned())
    };
    lines.filter_map(word).collect()
}

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let emitted: [(&str, BTreeSet<String>); 3] = [
        ("control plane", ErrorCode::ALL.map(|code| code.as_str().to_owned()).into()),
        ("ingress", quoted("crates/ingress/src/error.rs", "=> \"")),
        ("daemon", quoted("crates/daemon-api/src/error.rs", ": &str = \"")),
    ];
    let pages = pages();
    for (emitter, codes) in emitted {
        assert!(codes.len() >= 10, "{emitter}: only {codes:?} were found");
        let paged: BTreeSet<_> = pages
            .iter()
            .filter(|(_, page)| page.emitters.contains(emitter))
            .map(|(code, _)| code.clone())
            .collect();
        assert_eq!(paged, codes, "{emitter}: the pages on the left, the codes on the right");
    }
    let known = BTreeSet::from(["control plane", "ingress", "daemon"].map(str::to_owned));
    for (code, page) in &pages {
        assert!(!page.emitters.is_empty() && page.emitters.is_subset(&known), "{code}");
    }
}

#[test]
fn pages_give_the_status_that_goes_with_the_code() {
    let pages = pages();
    for code in ErrorCode::ALL {
        // A code whose emitters answer with different statuses names each with its emitter.
        let (plain, ours) =
            (code.status().to_string(), format!("{} from the control plane", code.status()));
        let page = &pages[code.as_str()].status;
        assert!(*page == plain || page.split(", ").any(|one| one == ours), "{code}: {page}");
    }
}

#[test]
fn the_index_names_every_page() {
    let index = fs::read_to_string(root().join("docs/errors/README.md")).expect("the index");
    for code in pages().keys() {
        assert!(index.contains(&format!("[`{code}`]({code}.md)")), "{code}");
    }
}
