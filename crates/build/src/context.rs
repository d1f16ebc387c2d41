//! What a context holds, and what a `COPY` takes of it. The same rules hold for what is copied
//! from a stage, which `tarnd` applies there.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ops::Bound,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{CacheKey, Pattern};

/// How many links are followed on the way to a file.
const MAX_LINKS: usize = 40;

/// The most bytes of a path, of a pattern for paths, and of what a link leads to (`PATH_MAX` of
/// limits.h).
pub const MAX_PATH: usize = 4096;

/// How much of a path that is too long an error repeats.
const SHOWN_PATH: usize = 80;

/// What a context may hold, and what one `COPY` may take of it.
const BOUNDS: ContextBounds = ContextBounds { files: 500_000, bytes: 128 << 20 };

/// The files of a context, by their path from its root, without a slash in front. Above each of
/// them there are directories alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContextIndex {
    nodes: BTreeMap<String, ContextNode>,
    /// How many bytes the paths have, and what the links lead to.
    bytes: usize,
}

/// A file of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextNode {
    /// Its permissions.
    pub mode: u32,
    /// When it last changed, in seconds since the epoch. It is copied, and is no part of what is
    /// copied: no key follows it.
    pub modified_secs: u64,
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
    pub path: &'a str,
    /// What it is.
    pub node: &'a ContextNode,
}

/// How many files there may be, directories among them, and how long their paths together.
#[derive(Debug, Clone, Copy)]
struct ContextBounds {
    files: usize,
    bytes: usize,
}

/// Files while they are picked.
struct Pick<'a, 's> {
    picked: Vec<Picked<'a>>,
    bytes: usize,
    stop: &'s AtomicBool,
}

// === impl ContextIndex ===

impl ContextIndex {
    /// Adds a file, and the directories above it that are not there, as old as it is. A later one
    /// replaces an earlier one, and what was in that if it was a directory.
    ///
    /// # Errors
    /// Fails for a path that leads out of the context or is too long, and when there are too many.
    pub fn insert(&mut self, path: &str, node: ContextNode) -> Result<(), String> {
        check_length(path)?;
        if let NodeKind::Link(to) = &node.kind {
            check_length(to)?;
        }
        let path = clean(path)?;
        if path.is_empty() {
            return Ok(());
        }
        let mut above = path.as_str();
        while let Some(at) = above.rfind('/') {
            above = &above[..at];
            if self.is_dir(above) {
                break;
            }
            let modified_secs = node.modified_secs;
            let dir = ContextNode { mode: 0o755, modified_secs, kind: NodeKind::Dir };
            self.put(above.to_owned(), dir)?;
        }
        self.put(path, node)
    }

    fn put(&mut self, path: String, node: ContextNode) -> Result<(), String> {
        if node.kind != NodeKind::Dir && self.is_dir(&path) {
            let prefix = format!("{path}/");
            let below: Vec<_> = self.below(&prefix).map(|(path, _)| path.clone()).collect();
            for path in below {
                self.remove(&path);
            }
        }
        self.remove(&path);
        self.bytes += bytes_of(&path, &node);
        self.nodes.insert(path, node);
        BOUNDS.check("the context has", self.nodes.len(), self.bytes)
    }

    fn remove(&mut self, path: &str) {
        if let Some(node) = self.nodes.remove(path) {
            self.bytes -= bytes_of(path, &node);
        }
    }

    fn is_dir(&self, path: &str) -> bool {
        self.nodes.get(path).is_some_and(|node| node.kind == NodeKind::Dir)
    }

    /// Returns what is in a directory, whose path ends in a slash here.
    fn below<'a>(&'a self, prefix: &str) -> impl Iterator<Item = (&'a String, &'a ContextNode)> {
        let below = self.nodes.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        below.take_while(move |(path, _)| path.starts_with(prefix))
    }

    /// Finds a file by the path that a hard link names.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&ContextNode> {
        self.nodes.get(&clean(path).ok()?)
    }

    /// Returns how many files there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Says whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Picks what some sources name. Takes a time that grows with their length and with that of
    /// all paths, and gives up soon after `stop` is set.
    ///
    /// # Errors
    /// Names a source that names nothing; fails when they name too much.
    pub fn select(&self, sources: &[String], stop: &AtomicBool) -> Result<Selection<'_>, String> {
        let mut pick = Pick { picked: Vec::new(), bytes: 0, stop };
        let mut is_one_file = sources.len() == 1;
        for source in sources {
            let found = self.find(source, stop)?;
            if found.is_empty() {
                return Err(format!(
                    "`{source}` is not in the context; is it there, and not in .dockerignore?"
                ));
            }
            is_one_file &= found.len() == 1;
            for path in found {
                is_one_file &= self.pick(&path, &mut pick)?;
            }
        }
        let picked = pick.picked;
        let key = key_of(&picked);
        Ok(Selection { picked, is_one_file, key })
    }

    /// Returns the paths that a source stands for.
    fn find(&self, source: &str, stop: &AtomicBool) -> Result<Vec<Cow<'_, str>>, String> {
        go_on(stop)?;
        check_length(source)?;
        let source = clean(source)?;
        let pattern = Pattern::new(&source);
        if let Some(path) = pattern.literal() {
            let resolved = self.resolve(&path);
            let there = resolved.filter(|path| path.is_empty() || self.nodes.contains_key(path));
            return Ok(there.into_iter().map(Cow::Owned).collect());
        }
        let mut found = Vec::new();
        for path in self.nodes.keys() {
            go_on(stop)?;
            if pattern.matches(path) {
                found.push(Cow::Borrowed(path.as_str()));
            }
        }
        Ok(found)
    }

    /// Picks a file, or what is in a directory; says whether it was a file.
    fn pick<'a>(&'a self, path: &str, pick: &mut Pick<'a, '_>) -> Result<bool, String> {
        match self.nodes.get_key_value(path) {
            Some((path, node)) if node.kind != NodeKind::Dir => {
                pick.add(path.rsplit('/').next().unwrap_or(path), node)?;
                Ok(true)
            }
            Some(_) | None => {
                let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
                for (path, node) in self.below(&prefix) {
                    pick.add(&path[prefix.len()..], node)?;
                }
                Ok(false)
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
            match self.nodes.get(&next).map(|node| &node.kind) {
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

// === impl ContextBounds ===

impl ContextBounds {
    fn check(self, whose: &str, files: usize, bytes: usize) -> Result<(), String> {
        if files > self.files {
            return Err(format!("{whose} more than {} files", self.files));
        }
        if bytes > self.bytes {
            return Err(format!("{whose} files whose paths have more than {} bytes", self.bytes));
        }
        Ok(())
    }
}

// === impl Pick ===

impl<'a> Pick<'a, '_> {
    fn add(&mut self, path: &'a str, node: &'a ContextNode) -> Result<(), String> {
        go_on(self.stop)?;
        self.picked.push(Picked { path, node });
        self.bytes += bytes_of(path, node);
        BOUNDS.check("what is copied has", self.picked.len(), self.bytes)
    }
}

/// Refuses a path that no file can have.
fn check_length(path: &str) -> Result<(), String> {
    if path.len() <= MAX_PATH {
        return Ok(());
    }
    let shown = &path[..path.floor_char_boundary(SHOWN_PATH)];
    Err(format!("`{shown}…` has {} bytes; a path has {MAX_PATH} at most", path.len()))
}

fn go_on(stop: &AtomicBool) -> Result<(), String> {
    match stop.load(Ordering::Relaxed) {
        true => Err("nobody waits for the copy any more".to_owned()),
        false => Ok(()),
    }
}

fn bytes_of(path: &str, node: &ContextNode) -> usize {
    path.len()
        + match &node.kind {
            NodeKind::Link(to) => to.len(),
            NodeKind::Dir | NodeKind::File { .. } => 0,
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
            modified_secs: 7,
            kind: NodeKind::File { offset: 0, size: 1, digest: CacheKey::of(&[name.as_bytes()]) },
        };
        for path in ["./a.txt", "b.txt", "src/m.py", "src/sub/n.py"] {
            index.insert(path, file(path)).expect("a good path");
        }
        index.insert("l", link("src")).expect("a good path");
        index.insert("loop", link("loop")).expect("a good path");
        index.insert("up", link("../../src/m.py")).expect("a good path");
        index
    }

    fn link(to: &str) -> ContextNode {
        ContextNode { mode: 0o777, modified_secs: 7, kind: NodeKind::Link(to.to_owned()) }
    }

    fn paths(sources: &[&str]) -> Result<(Vec<String>, bool), String> {
        let sources: Vec<_> = sources.iter().map(|&source| source.to_owned()).collect();
        let index = index();
        let selection = index.select(&sources, &AtomicBool::new(false))?;
        let paths = selection.picked.iter().map(|picked| picked.path.to_owned()).collect();
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
        other.insert("new", dir()).expect("a good path");
        let key = |index: &ContextIndex, source: &str| {
            let going = AtomicBool::new(false);
            index.select(&[source.to_owned()], &going).expect("it is there").key
        };
        assert_eq!(key(&one, "src"), key(&other, "src"));
        assert_ne!(key(&one, "."), key(&other, "."));
        assert_ne!(key(&one, "a.txt"), key(&one, "b.txt"));
        let mut touched = index();
        for node in touched.nodes.values_mut() {
            node.modified_secs += 1;
        }
        assert_ne!(one, touched);
        assert_eq!(key(&one, "."), key(&touched, "."), "when it changed is no part of it");
    }

    #[test]
    fn a_directory_that_only_a_file_tells_of_is_as_old_as_that() {
        let index = index();
        for path in ["src", "src/sub"] {
            assert_eq!(index.get(path).map(|node| node.modified_secs), Some(7), "{path}");
        }
    }

    fn dir() -> ContextNode {
        ContextNode { mode: 0o755, modified_secs: 7, kind: NodeKind::Dir }
    }

    #[test]
    fn what_no_path_can_be_is_refused() {
        let (longest, longer) = ("é".repeat(MAX_PATH / 2), "é".repeat(MAX_PATH / 2 + 1));
        let mut index = ContextIndex::default();
        index.insert(&longest, link(&longest)).expect("it is as long as it may be");
        for refused in [index.insert(&longer, dir()), index.insert("a", link(&longer))] {
            let refused = refused.expect_err("it is too long");
            assert!(refused.contains("4098 bytes") && refused.len() < 200, "{refused}");
        }
        assert!(index.select(&[longer], &AtomicBool::new(false)).is_err());
    }

    #[test]
    fn the_directories_above_a_file_count() {
        let mut index = ContextIndex::default();
        let mut refused = Ok(());
        let mut entries = 0;
        while refused.is_ok() {
            refused = index.insert(&format!("{entries}{}", "/d".repeat(2000)), dir());
            entries += 1;
            assert_eq!(index.bytes, index.nodes.keys().map(String::len).sum::<usize>());
        }
        assert!(entries < 100, "their paths are bounded, too: {entries}");
        let mut index = ContextIndex::default();
        let mut insert = |n: usize| index.insert(&format!("{n}/{}", "d/".repeat(99)), dir());
        assert!((0..5000).all(|n| insert(n).is_ok()));
        assert!(insert(5000).expect_err("too many").contains("500000 files"));
    }

    #[test]
    fn above_a_file_there_are_directories_alone() {
        let mut index = index();
        let file = index.get("b.txt").cloned().expect("it is there");
        index.insert("src", file).expect("a good path");
        let left = ["a.txt", "b.txt", "l", "loop", "src", "up"];
        assert_eq!(index.nodes.keys().collect::<Vec<_>>(), left);
        index.insert("src/sub/x", dir()).expect("a good path");
        assert!(index.is_dir("src") && index.is_dir("src/sub"));
        let bytes: usize = index.nodes.iter().map(|(path, node)| bytes_of(path, node)).sum();
        assert_eq!(index.bytes, bytes);
    }

    #[test]
    fn a_copy_is_bounded_and_can_be_stopped() {
        let mut index = ContextIndex::default();
        for n in 0..1000 {
            index.insert(&n.to_string(), dir()).expect("a good path");
        }
        let going = AtomicBool::new(false);
        let sources = vec![".".to_owned(); 501];
        assert!(index.select(&sources[1..], &going).is_ok());
        let refused = index.select(&sources, &going).expect_err("it is too much");
        assert!(refused.contains("500000 files"), "{refused}");
        for source in [".", "1", "?"] {
            let stopped = index.select(&[source.to_owned()], &AtomicBool::new(true));
            assert!(stopped.is_err(), "{source}");
        }
    }
}
