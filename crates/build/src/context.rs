//! What a context holds, and what a `COPY` takes of it. The same rules hold for what is copied
//! from a stage, which `tarnd` applies there.

use std::collections::BTreeMap;

use crate::{CacheKey, Pattern};

/// How many links are followed on the way to a file.
const MAX_LINKS: usize = 40;

/// The files of a context, by their path from its root, without a slash in front.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContextIndex(BTreeMap<String, ContextNode>);

/// A file of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextNode {
    /// Its permissions.
    pub mode: u32,
    /// What it is.
    pub kind: NodeKind,
}

/// What a file of a context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Dir,
    /// A link to a path.
    Link(String),
    /// A file with something in it.
    File {
        /// Where its bytes begin in the archive.
        offset: u64,
        /// How many there are.
        size: u64,
        /// What they are.
        digest: CacheKey,
    },
}

/// What a `COPY` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection<'a> {
    /// The files, each directory before what is in it.
    pub picked: Vec<Picked<'a>>,
    /// Whether it is one file, so that its destination may be its new name.
    pub is_one_file: bool,
    /// Names all of it.
    pub key: CacheKey,
}

/// A file that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked<'a> {
    /// Its path below the destination.
    pub path: String,
    /// What it is.
    pub node: &'a ContextNode,
}

// === impl ContextIndex ===

impl ContextIndex {
    /// Adds a file, and the directories above it that are not there. A later one replaces an
    /// earlier one.
    ///
    /// # Errors
    /// Fails for a path that leads out of the context.
    pub fn insert(&mut self, path: &str, node: ContextNode) -> Result<(), String> {
        let path = clean(path)?;
        if path.is_empty() {
            return Ok(());
        }
        for (at, _) in path.match_indices('/') {
            let above = &path[..at];
            let is_dir = self.0.get(above).is_some_and(|node| node.kind == NodeKind::Dir);
            if !is_dir {
                self.0.insert(above.to_owned(), ContextNode { mode: 0o755, kind: NodeKind::Dir });
            }
        }
        self.0.insert(path, node);
        Ok(())
    }

    /// Finds a file by the path that a hard link names.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&ContextNode> {
        self.0.get(&clean(path).ok()?)
    }

    /// Returns how many files there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Says whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Picks what some sources name.
    ///
    /// # Errors
    /// Names a source that names nothing.
    pub fn select(&self, sources: &[String]) -> Result<Selection<'_>, String> {
        let mut picked = Vec::new();
        let mut is_one_file = sources.len() == 1;
        for source in sources {
            let found = self.find(source)?;
            if found.is_empty() {
                return Err(format!(
                    "`{source}` is not in the context; is it there, and not in .dockerignore?"
                ));
            }
            is_one_file &= found.len() == 1;
            for path in found {
                is_one_file &= self.pick(&path, &mut picked);
            }
        }
        let key = key_of(&picked);
        Ok(Selection { picked, is_one_file, key })
    }

    /// Returns the paths that a source stands for.
    fn find(&self, source: &str) -> Result<Vec<String>, String> {
        let source = clean(source)?;
        let pattern = Pattern::new(&source);
        if let Some(path) = pattern.literal() {
            let resolved = self.resolve(&path);
            let there = resolved.filter(|path| path.is_empty() || self.0.contains_key(path));
            return Ok(there.into_iter().collect());
        }
        Ok(self.0.keys().filter(|path| pattern.matches(path)).cloned().collect())
    }

    /// Picks a file, or what is in a directory; says whether it was a file.
    fn pick<'a>(&'a self, path: &str, picked: &mut Vec<Picked<'a>>) -> bool {
        match self.0.get(path) {
            Some(node) if node.kind != NodeKind::Dir => {
                let name = path.rsplit('/').next().unwrap_or(path).to_owned();
                picked.push(Picked { path: name, node });
                true
            }
            Some(_) | None => {
                let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
                let below = self.0.range(prefix.clone()..);
                let below = below.take_while(|(path, _)| path.starts_with(&prefix));
                picked.extend(
                    below
                        .map(|(path, node)| Picked { path: path[prefix.len()..].to_owned(), node }),
                );
                false
            }
        }
    }

    /// Follows the links on the way to a path; none leads out.
    fn resolve(&self, path: &str) -> Option<String> {
        let mut left: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut at = String::new();
        let mut links = 0;
        while let Some(part) = left.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    at.truncate(at.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let next = if at.is_empty() { part } else { format!("{at}/{part}") };
            match self.0.get(&next).map(|node| &node.kind) {
                Some(NodeKind::Link(to)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return None;
                    }
                    if to.starts_with('/') {
                        at.clear();
                    }
                    left.extend(to.split('/').rev().map(str::to_owned));
                }
                Some(NodeKind::Dir | NodeKind::File { .. }) => at = next,
                None => return None,
            }
        }
        Some(at)
    }
}

fn key_of(picked: &[Picked<'_>]) -> CacheKey {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for Picked { path, node } in picked {
        parts.push(path.as_bytes().to_vec());
        parts.push(node.mode.to_le_bytes().to_vec());
        parts.push(match &node.kind {
            NodeKind::Dir => b"dir".to_vec(),
            NodeKind::Link(to) => [b"link:", to.as_bytes()].concat(),
            NodeKind::File { digest, .. } => [b"file:", digest.as_bytes().as_slice()].concat(),
        });
    }
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    CacheKey::of(&parts)
}

/// Takes slashes in front, `.` and empty parts out of a path.
fn clean(path: &str) -> Result<String, String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(format!("`{path}` leads out of the context")),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> ContextIndex {
        let mut index = ContextIndex::default();
        let file = |name: &str| ContextNode {
            mode: 0o644,
            kind: NodeKind::File { offset: 0, size: 1, digest: CacheKey::of(&[name.as_bytes()]) },
        };
        let link = |to: &str| ContextNode { mode: 0o777, kind: NodeKind::Link(to.to_owned()) };
        for path in ["./a.txt", "b.txt", "src/m.py", "src/sub/n.py"] {
            index.insert(path, file(path)).expect("a good path");
        }
        index.insert("l", link("src")).expect("a good path");
        index.insert("loop", link("loop")).expect("a good path");
        index.insert("up", link("../../src/m.py")).expect("a good path");
        index
    }

    fn paths(sources: &[&str]) -> Result<(Vec<String>, bool), String> {
        let sources: Vec<_> = sources.iter().map(|&source| source.to_owned()).collect();
        let index = index();
        let selection = index.select(&sources)?;
        let paths = selection.picked.into_iter().map(|picked| picked.path).collect();
        Ok((paths, selection.is_one_file))
    }

    #[test]
    fn sources_are_found() {
        let all =
            ["a.txt", "b.txt", "l", "loop", "src", "src/m.py", "src/sub", "src/sub/n.py", "up"];
        for (sources, expected, one) in [
            (&["a.txt"][..], &["a.txt"][..], true),
            (&["/a.txt"], &["a.txt"], true),
            (&["*.txt"], &["a.txt", "b.txt"], false),
            (&["a.*"], &["a.txt"], true),
            (&["src"], &["m.py", "sub", "sub/n.py"], false),
            (&["src/"], &["m.py", "sub", "sub/n.py"], false),
            (&["src/m.py"], &["m.py"], true),
            (&["l"], &["m.py", "sub", "sub/n.py"], false),
            (&["l/m.py"], &["m.py"], true),
            (&["up"], &["m.py"], true),
            (&["a.txt", "src/sub"], &["a.txt", "n.py"], false),
            (&["."], &all, false),
        ] {
            let expected = expected.iter().map(|&path| path.to_owned()).collect();
            assert_eq!(paths(sources), Ok((expected, one)), "{sources:?}");
        }
        for sources in [&["nothing"][..], &["../x"], &["loop"], &["*.rs"], &["a.txt", "c"]] {
            assert!(paths(sources).is_err(), "{sources:?}");
        }
    }

    #[test]
    fn the_key_follows_what_is_taken() {
        let one = index();
        let mut other = index();
        let touched = ContextNode { mode: 0o755, kind: NodeKind::Dir };
        other.insert("new", touched).expect("a good path");
        let key = |index: &ContextIndex, source: &str| {
            index.select(&[source.to_owned()]).expect("it is there").key
        };
        assert_eq!(key(&one, "src"), key(&other, "src"));
        assert_ne!(key(&one, "."), key(&other, "."));
        assert_ne!(key(&one, "a.txt"), key(&one, "b.txt"));
    }
}
