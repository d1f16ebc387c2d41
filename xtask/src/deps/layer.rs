//! The layer file: one table per crate.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The layers and arrows that are meant to be.
#[derive(Debug, Deserialize)]
pub(super) struct LayerFile(BTreeMap<String, LayerRule>);

/// What one crate may use.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct LayerRule {
    /// Its layer; crates use their own layer and those below.
    pub(super) layer: u8,
    /// The crates of ours that it uses, each one an arrow.
    pub(super) uses: Vec<String>,
    /// Packages that must not be in its graph at all.
    #[serde(default)]
    pub(super) never_links: Vec<String>,
}

// === impl LayerFile ===

impl LayerFile {
    /// Reads the file.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        Ok(toml::from_str(text)?)
    }

    pub(super) fn get(&self, name: &str) -> Option<&LayerRule> {
        self.0.get(name)
    }

    pub(super) fn crates(&self) -> impl Iterator<Item = (&str, &LayerRule)> {
        self.0.iter().map(|(name, rule)| (name.as_str(), rule))
    }
}

/// Returns the line of a crate's table, counted from 1.
pub(super) fn line_of(text: &str, name: &str) -> usize {
    let header = format!("[{name}]");
    text.lines().position(|line| line.trim() == header).map_or(1, |line| line + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_is_read_with_its_bans() {
        let text =
            "# arrows\n\n[guest]\nlayer = 4\nuses = [\"task\"]\nnever-links = [\"rustls\"]\n";
        let file = LayerFile::parse(text).unwrap();
        let rule = file.get("guest").unwrap();
        assert_eq!((rule.layer, rule.uses.len(), rule.never_links.len()), (4, 1, 1));
        assert_eq!(line_of(text, "guest"), 3);
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(LayerFile::parse("[guest]\nlayer = 4\nuses = []\nmay-link = []\n").is_err());
    }
}
