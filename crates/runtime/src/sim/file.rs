//! The files of a simulated sandbox. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tarn_daemon_api::{DirectoryEntry, code};

/// The files and directories of one sandbox, by absolute path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FileTree {
    working_dir: String,
    directories: BTreeSet<String>,
    files: BTreeMap<String, File>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct File {
    #[serde(with = "octets")]
    bytes: Bytes,
    modified_at: i64,
}

/// Says why a file cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileError {
    /// Nothing is there.
    Missing,
    /// A directory is there.
    IsDirectory,
    /// Something that is no directory is there, or on the way.
    NotDirectory,
    /// The path has a `..` component.
    Traversal,
    /// The path is empty.
    Empty,
}

// === impl FileError ===

impl FileError {
    /// Returns the status and the stable code of the answer.
    pub(super) const fn answer(self) -> (u16, &'static str) {
        match self {
            Self::Missing => (404, code::NOT_FOUND),
            Self::IsDirectory => (400, code::IS_DIRECTORY),
            Self::NotDirectory => (400, code::NOT_A_DIRECTORY),
            Self::Traversal => (403, code::PATH_TRAVERSAL),
            Self::Empty => (400, code::INVALID_REQUEST),
        }
    }

    /// Returns what the C library would say.
    pub(super) const fn as_errno(self) -> &'static str {
        match self {
            Self::Missing | Self::Empty => "No such file or directory",
            Self::IsDirectory => "Is a directory",
            Self::NotDirectory => "Not a directory",
            Self::Traversal => "a path must not contain ..",
        }
    }
}

// === impl FileTree ===

impl FileTree {
    /// Makes the usual empty directories.
    pub(super) fn new(working_dir: &str) -> Self {
        let mut tree = Self {
            working_dir: "/".to_owned(),
            directories: BTreeSet::from(["/".to_owned()]),
            files: BTreeMap::new(),
        };
        for directory in ["/tmp", "/workspace", "/home/tl-user", working_dir] {
            if let Ok(path) = tree.resolve(directory) {
                tree.make_directories(&path);
            }
        }
        tree.working_dir = working_dir.to_owned();
        tree
    }

    /// Makes a path absolute and plain.
    pub(super) fn resolve(&self, path: &str) -> Result<String, FileError> {
        if path.is_empty() {
            return Err(FileError::Empty);
        }
        let base = if path.starts_with('/') { "" } else { self.working_dir.as_str() };
        let mut plain = String::new();
        for part in base.split('/').chain(path.split('/')) {
            match part {
                "" | "." => {}
                ".." => return Err(FileError::Traversal),
                part => {
                    plain.push('/');
                    plain.push_str(part);
                }
            }
        }
        if plain.is_empty() {
            plain.push('/');
        }
        Ok(plain)
    }

    /// Returns a file's content.
    pub(super) fn read(&self, path: &str) -> Result<Bytes, FileError> {
        if self.directories.contains(path) {
            return Err(FileError::IsDirectory);
        }
        self.files.get(path).map(|file| file.bytes.clone()).ok_or(FileError::Missing)
    }

    /// Sets a file's content, making its directories.
    pub(super) fn write(
        &mut self,
        path: &str,
        bytes: Bytes,
        modified_at: i64,
    ) -> Result<(), FileError> {
        if self.directories.contains(path) {
            return Err(FileError::IsDirectory);
        }
        let parent = parent(path);
        if ancestors(parent).any(|ancestor| self.files.contains_key(ancestor)) {
            return Err(FileError::NotDirectory);
        }
        let parent = parent.to_owned();
        self.make_directories(&parent);
        self.files.insert(path.to_owned(), File { bytes, modified_at });
        Ok(())
    }

    /// Removes a file.
    pub(super) fn remove(&mut self, path: &str) -> Result<(), FileError> {
        if self.directories.contains(path) {
            return Err(FileError::IsDirectory);
        }
        self.files.remove(path).map(|_| ()).ok_or(FileError::Missing)
    }

    /// Lists a directory: directories first, then by name.
    pub(super) fn list(&self, path: &str) -> Result<Vec<DirectoryEntry>, FileError> {
        if self.files.contains_key(path) {
            return Err(FileError::NotDirectory);
        }
        if !self.directories.contains(path) {
            return Err(FileError::Missing);
        }
        let directories = self.directories.iter().filter(|child| *child != "/");
        let directories = directories.filter(|child| parent(child) == path);
        let directories = directories.map(|child| entry(child, None));
        let files = self.files.iter().filter(|(child, _)| parent(child) == path);
        let files = files.map(|(child, file)| entry(child, Some(file)));
        Ok(directories.chain(files).collect())
    }

    /// Returns how many bytes all files hold.
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes.len() as u64).sum()
    }

    fn make_directories(&mut self, path: &str) {
        let missing: Vec<_> = ancestors(path).map(str::to_owned).collect();
        self.directories.extend(missing);
    }
}

/// Bytes as JSON: a list of numbers.
mod octets {
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, into: S) -> Result<S::Ok, S::Error> {
        into.collect_seq(bytes.iter())
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Bytes, D::Error> {
        Vec::deserialize(from).map(Bytes::from)
    }
}

fn entry(path: &str, file: Option<&File>) -> DirectoryEntry {
    DirectoryEntry {
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        is_dir: file.is_none(),
        size: file.map(|file| file.bytes.len() as u64),
        modified_at: file.map_or(0, |file| file.modified_at),
    }
}

/// Returns the directory that holds a plain path; that of `/` is `/`.
fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}

/// Returns a plain path and every directory above it, without `/`.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| Some(parent(path))).take_while(|path| *path != "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_knows_files_from_directories() {
        let mut tree = FileTree::new("/workspace");
        assert_eq!(tree.write("/tmp/d/f", "abc".into(), 5), Ok(()));
        assert_eq!(tree.read("/tmp/d/f"), Ok(Bytes::from("abc")));
        assert_eq!(tree.read("/tmp/d"), Err(FileError::IsDirectory));
        assert_eq!(tree.read("/tmp/e"), Err(FileError::Missing));
        assert_eq!(tree.write("/tmp/d", Bytes::new(), 0), Err(FileError::IsDirectory));
        assert_eq!(tree.write("/tmp/d/f/g", Bytes::new(), 0), Err(FileError::NotDirectory));
        assert_eq!(tree.write("/tmp/a", Bytes::new(), 0), Ok(()));
        let names: Vec<_> =
            tree.list("/tmp").expect("a directory").into_iter().map(|e| (e.name, e.size)).collect();
        assert_eq!(names, [("d".to_owned(), None), ("a".to_owned(), Some(0))]);
        assert_eq!(tree.list("/tmp/a"), Err(FileError::NotDirectory));
        assert_eq!(tree.remove("/tmp/d"), Err(FileError::IsDirectory));
        assert_eq!(tree.remove("/tmp/d/f"), Ok(()));
        assert_eq!(tree.remove("/tmp/d/f"), Err(FileError::Missing));
        assert_eq!(tree.list("/tmp/d"), Ok(vec![]), "a directory outlives its files");
    }

    #[test]
    fn paths_are_made_plain() {
        let tree = FileTree::new("/workspace");
        for (path, expected) in [
            ("/a//b/./c/", Ok("/a/b/c")),
            ("a b", Ok("/workspace/a b")),
            ("/", Ok("/")),
            (".", Ok("/workspace")),
            ("", Err(FileError::Empty)),
            ("/a/../b", Err(FileError::Traversal)),
            ("..", Err(FileError::Traversal)),
            ("/a/..b", Ok("/a/..b")),
        ] {
            assert_eq!(tree.resolve(path), expected.map(str::to_owned), "{path}");
        }
    }
}
