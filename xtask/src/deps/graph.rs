//! The dependency graph, from `cargo metadata`.
//!
//! Features are united over the workspace, so the graph of one crate may show an edge that its own
//! build lacks, never the other way round.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::Context as _;
use serde::Deserialize;

const OURS: &str = "tarn-";

/// Which package links which, tests apart.
#[derive(Debug)]
pub(super) struct Graph {
    edges: BTreeMap<String, BTreeSet<String>>,
    ours: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

// === impl Graph ===

impl Graph {
    /// Reads the output of `cargo metadata`.
    pub(super) fn parse(metadata: &str) -> anyhow::Result<Self> {
        let metadata: Metadata = serde_json::from_str(metadata)?;
        let names: BTreeMap<&str, &str> =
            metadata.packages.iter().map(|p| (p.id.as_str(), p.name.as_str())).collect();
        let name = |id: &str| {
            names.get(id).map(|name| (*name).to_owned()).with_context(|| format!("no package {id}"))
        };
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in &metadata.resolve.nodes {
            let from = edges.entry(name(&node.id)?).or_default();
            for dependency in node.deps.iter().filter(|dependency| dependency.is_linked()) {
                from.insert(name(&dependency.pkg)?);
            }
        }
        let members = metadata.workspace_members.iter().map(|id| name(id));
        let members: Vec<String> = members.collect::<anyhow::Result<_>>()?;
        let ours = members.iter().filter_map(|name| name.strip_prefix(OURS)).map(str::to_owned);
        Ok(Self { ours: ours.collect(), edges })
    }

    /// Lists our crates by the names of their folders.
    pub(super) fn ours(&self) -> impl Iterator<Item = &str> {
        self.ours.iter().map(String::as_str)
    }

    /// Lists those of our crates that one uses directly.
    pub(super) fn uses(&self, name: &str) -> Vec<&str> {
        let targets = self.edges.get(&format!("{OURS}{name}")).into_iter().flatten();
        targets.filter_map(|target| target.strip_prefix(OURS)).collect()
    }

    /// Finds a shortest way from one of our crates to any package.
    pub(super) fn path_to(&self, name: &str, target: &str) -> Option<Vec<&str>> {
        let (start, _) = self.edges.get_key_value(&format!("{OURS}{name}"))?;
        let mut queue = VecDeque::from([vec![start.as_str()]]);
        let mut seen = BTreeSet::from([start.as_str()]);
        while let Some(path) = queue.pop_front() {
            let last = *path.last()?;
            if last == target {
                return Some(path);
            }
            for next in self.edges.get(last).into_iter().flatten() {
                if seen.insert(next) {
                    queue.push_back(path.iter().copied().chain([next.as_str()]).collect());
                }
            }
        }
        None
    }
}

// === impl Dependency ===

impl Dependency {
    /// Tests use what they like; what a build script uses is not linked.
    fn is_linked(&self) -> bool {
        self.dep_kinds.iter().any(|kind| kind.kind.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = r#"{
        "packages": [
            {"id": "1", "name": "tarn-a"}, {"id": "2", "name": "tarn-b"},
            {"id": "3", "name": "tarn-c"}, {"id": "4", "name": "tls"}, {"id": "5", "name": "xtask"}
        ],
        "workspace_members": ["1", "2", "3", "5"],
        "resolve": {"nodes": [
            {"id": "1", "deps": [
                {"pkg": "2", "dep_kinds": [{"kind": null}, {"kind": "dev"}]},
                {"pkg": "3", "dep_kinds": [{"kind": "dev"}]}
            ]},
            {"id": "2", "deps": [{"pkg": "4", "dep_kinds": [{"kind": null}]}]},
            {"id": "3", "deps": []}, {"id": "4", "deps": []}, {"id": "5", "deps": []}
        ]}
    }"#;

    #[test]
    fn tests_alone_make_no_arrow() {
        let graph = Graph::parse(METADATA).unwrap();
        assert_eq!(graph.ours().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(graph.uses("a"), ["b"]);
    }

    #[test]
    fn a_way_is_found_when_there_is_one() {
        let graph = Graph::parse(METADATA).unwrap();
        assert_eq!(graph.path_to("a", "tls"), Some(vec!["tarn-a", "tarn-b", "tls"]));
        assert_eq!(graph.path_to("c", "tls"), None);
    }
}
