//! The list of excuses.

use serde::Deserialize;

use crate::finding::Finding;

/// What is excused, and which excuses were needed.
#[derive(Debug, Default)]
pub(super) struct AllowList {
    entries: Vec<(Entry, Need)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The rule that may be broken.
    rule: String,
    /// The file that may break it.
    path: String,
    /// A part of the finding's text, where one file may not break the rule everywhere.
    text: Option<String>,
    /// Why.
    reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Unseen,
    Seen,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListFile {
    #[serde(default)]
    allow: Vec<Entry>,
}

// === impl AllowList ===

impl AllowList {
    /// Reads the list; each entry has a reason.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let file: ListFile = toml::from_str(text)?;
        for entry in &file.allow {
            anyhow::ensure!(!entry.reason.is_empty(), "{} has no reason", entry.path);
        }
        Ok(Self { entries: file.allow.into_iter().map(|entry| (entry, Need::Unseen)).collect() })
    }

    /// Tells whether a finding is excused, and remembers that the excuse was needed.
    pub(super) fn excuses(&mut self, finding: &Finding) -> bool {
        let found = self.entries.iter_mut().find(|(entry, _)| entry.covers(finding));
        found.is_some_and(|(_, need)| {
            *need = Need::Seen;
            true
        })
    }

    /// Returns a finding for each excuse that nothing needed.
    pub(super) fn stale(&self, list: &str) -> Vec<Finding> {
        let unseen = self.entries.iter().filter(|(_, need)| *need == Need::Unseen);
        unseen.map(|(entry, _)| entry.stale(list)).collect()
    }
}

// === impl Entry ===

impl Entry {
    fn covers(&self, finding: &Finding) -> bool {
        self.rule == finding.rule
            && self.path == finding.path
            && self.text.as_ref().is_none_or(|part| finding.text.contains(part))
    }

    fn stale(&self, list: &str) -> Finding {
        let text =
            format!("nothing in {} needs this `{}` any more; remove it", self.path, self.rule);
        Finding::new(list, 1, "stale-allow", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "[[allow]]\nrule = \"sleep\"\npath = \"a.rs\"\ntext = \"`nap`\"\n\
                        reason = \"it naps\"\n";

    #[test]
    fn an_entry_covers_its_rule_path_and_text() {
        let cases = [
            ("a.rs", "sleep", "in `nap`", true),
            ("a.rs", "sleep", "in `other`", false),
            ("b.rs", "sleep", "in `nap`", false),
            ("a.rs", "path", "in `nap`", false),
        ];
        for (path, rule, text, expected) in cases {
            let mut list = AllowList::parse(LIST).unwrap();
            let excused = list.excuses(&Finding::new(path, 1, rule, text));
            assert_eq!(excused, expected, "{path} {rule} {text}");
            assert_eq!(list.stale("allow.toml").is_empty(), expected);
        }
    }

    #[test]
    fn an_entry_needs_a_reason_and_no_unknown_key() {
        for text in [
            "[[allow]]\nrule = \"sleep\"\npath = \"a.rs\"\n",
            "[[allow]]\nrule = \"sleep\"\npath = \"a.rs\"\nreason = \"\"\n",
            "[[allow]]\nrule = \"sleep\"\npath = \"a.rs\"\nreason = \"x\"\nlines = 3\n",
        ] {
            assert!(AllowList::parse(text).is_err(), "{text}");
        }
    }
}
