//! `cargo xtask deps`: the arrows between crates are those of `xtask/layers.toml`, and no others.
//!
//! Every arrow of the layer file must be in use, and every dependency between our crates must be
//! an arrow of it, pointing down or sideways. What a crate must never link, through whichever
//! path, is checked over the whole graph. Dependencies of tests alone are free.

use std::fs;

use anyhow::Context as _;

use crate::{checkout::Checkout, finding::Finding};

use self::{graph::Graph, layer::LayerFile};

mod graph;
mod layer;

const LAYER_FILE: &str = "xtask/layers.toml";

/// Checks the packages of the workspace against the layer file.
pub(crate) fn check(checkout: &Checkout) -> anyhow::Result<Vec<Finding>> {
    let text = fs::read_to_string(checkout.path(LAYER_FILE)).context("read the layer file")?;
    let layers = LayerFile::parse(&text).with_context(|| format!("parse {LAYER_FILE}"))?;
    let graph = Graph::parse(&checkout.metadata()?).context("read what cargo knows")?;
    Ok(compare(&layers, &text, &graph))
}

fn compare(layers: &LayerFile, text: &str, graph: &Graph) -> Vec<Finding> {
    let mut findings = Vec::new();
    for crate_name in graph.ours() {
        findings.extend(check_crate(layers, graph, crate_name));
    }
    for (name, rule) in layers.crates() {
        let line = layer::line_of(text, name);
        if !graph.ours().any(|ours| ours == name) {
            findings
                .push(stale(line, format!("crate `{name}` is not in the workspace; remove it")));
            continue;
        }
        let used = graph.uses(name);
        for target in rule.uses.iter().filter(|target| !used.contains(&target.as_str())) {
            let text = format!("`{name}` does not use `{target}` any more; remove the arrow");
            findings.push(stale(line, text));
        }
    }
    findings.sort();
    findings
}

fn check_crate(layers: &LayerFile, graph: &Graph, name: &str) -> Vec<Finding> {
    let manifest = format!("crates/{name}/Cargo.toml");
    let at = |rule, text| Finding::new(&manifest, 1, rule, text);
    let Some(rule) = layers.get(name) else {
        let text = format!("`{name}` has no place in {LAYER_FILE}; give it a layer there");
        return vec![at("layer", text)];
    };
    let mut findings = Vec::new();
    for target in graph.uses(name) {
        if !rule.uses.iter().any(|allowed| allowed == target) {
            let text = format!(
                "uses `{target}`, which is no arrow of {LAYER_FILE}; a new arrow is a decision: \
                 remove the dependency, or add the arrow there"
            );
            findings.push(at("arrow", text));
        }
        if layers.get(target).is_some_and(|below| below.layer > rule.layer) {
            let text = format!("uses `{target}` of a higher layer; turn the dependency round");
            findings.push(at("layer", text));
        }
    }
    for banned in &rule.never_links {
        if let Some(path) = graph.path_to(name, banned) {
            let way = path.join(" → ");
            let text = format!("must never link `{banned}`, but does: {way}");
            findings.push(at("never-links", text));
        }
    }
    findings
}

fn stale(line: usize, text: String) -> Finding {
    Finding::new(LAYER_FILE, line, "stale-arrow", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: &str = "\
[types]
layer = 0
uses = []

[guest]
layer = 4
uses = [\"types\"]
never-links = [\"rustls\"]
";

    /// `(package, dependencies)`, as cargo tells it.
    fn graph(packages: &[(&str, &[&str])]) -> Graph {
        let nodes = packages.iter().map(|(name, deps)| {
            let deps: Vec<_> = deps
                .iter()
                .map(|dep| serde_json::json!({"pkg": dep, "dep_kinds": [{"kind": null}]}))
                .collect();
            serde_json::json!({"id": name, "deps": deps})
        });
        let listed = packages.iter().map(|(name, _)| serde_json::json!({"id": name, "name": name}));
        let members: Vec<_> = packages.iter().map(|(name, _)| *name).collect();
        let metadata = serde_json::json!({
            "packages": listed.collect::<Vec<_>>(),
            "workspace_members": members,
            "resolve": {"nodes": nodes.collect::<Vec<_>>()},
        });
        Graph::parse(&metadata.to_string()).unwrap()
    }

    fn rules(packages: &[(&str, &[&str])]) -> Vec<&'static str> {
        let layers = LayerFile::parse(LAYERS).unwrap();
        compare(&layers, LAYERS, &graph(packages)).iter().map(|found| found.rule).collect()
    }

    #[test]
    fn graphs_are_compared_with_the_layer_file() {
        type Case<'a> = (&'a [(&'a str, &'a [&'a str])], &'a [&'a str]);
        let cases: [Case<'_>; 6] = [
            (&[("tarn-types", &[]), ("tarn-guest", &["tarn-types"])], &[]),
            (&[("tarn-types", &[]), ("tarn-guest", &[])], &["stale-arrow"]),
            (
                &[("tarn-guest", &["tarn-types"]), ("tarn-types", &["tarn-guest"])],
                &["arrow", "layer"],
            ),
            (&[("tarn-types", &[])], &["stale-arrow"]),
            (
                &[("tarn-types", &[]), ("tarn-guest", &["tarn-types"]), ("tarn-new", &[])],
                &["layer"],
            ),
            (
                &[
                    ("tarn-types", &["tls-kit"]),
                    ("tarn-guest", &["tarn-types"]),
                    ("tls-kit", &["rustls"]),
                    ("rustls", &[]),
                ],
                &["never-links"],
            ),
        ];
        for (packages, expected) in cases {
            assert_eq!(rules(packages), expected, "{packages:?}");
        }
    }

    #[test]
    fn a_banned_link_is_shown_with_its_way() {
        let layers = LayerFile::parse(LAYERS).unwrap();
        let packages: &[(&str, &[&str])] = &[
            ("tarn-types", &["tls-kit"]),
            ("tarn-guest", &["tarn-types"]),
            ("tls-kit", &["rustls"]),
            ("rustls", &[]),
        ];
        let findings = compare(&layers, LAYERS, &graph(packages));
        assert!(findings[0].text.ends_with("tarn-guest → tarn-types → tls-kit → rustls"));
        assert_eq!(findings[0].path, "crates/guest/Cargo.toml");
    }
}
