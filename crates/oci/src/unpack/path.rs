//! The paths of entries: parted, cleaned and bounded before the disk sees them.

use crate::{Bounds, OciError};

/// Begins the name of a file that takes away one of a layer below (OCI image specification 1.1,
/// "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// The name of a file that takes away all that layers below have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What AUFS kept for itself in layers of old; engines pass it over.
const AUFS: [&[u8]; 3] = [b".wh..wh.aufs", b".wh..wh.orph", b".wh..wh.plnk"];
/// The longest name of a file, in bytes.
const LONGEST_NAME: usize = 255;

/// A path below the root: parts between single slashes, none of them `.` or `..`. Empty = the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TreePath(Vec<u8>);

/// What an entry with such a path is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// To be made.
    Entry,
    /// Takes away the file of that name in that directory.
    Whiteout(TreePath, Vec<u8>),
    /// Takes away all of that directory.
    Opaque(TreePath),
    /// Nothing.
    Nothing,
}

// === impl TreePath ===

impl TreePath {
    /// Reads a path as it stands in an archive. A leading `/` means the root of the tree.
    pub(crate) fn parse(path: &[u8], bounds: &Bounds) -> Result<Self, OciError> {
        let hostile = |what| OciError::Hostile { entry: shown(path), what };
        if path.is_empty() {
            return Err(hostile("has no name"));
        }
        if path.contains(&0) {
            return Err(hostile("has a NUL in its path"));
        }
        if path.len() > bounds.path_bytes {
            let limit = bounds.path_bytes as u64;
            return Err(OciError::TooLarge { what: "the length of a path", limit });
        }
        let mut clean = Vec::with_capacity(path.len());
        let mut depth = 0;
        for part in path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return Err(hostile("has `..` in its path")),
                _ if part.len() > LONGEST_NAME => {
                    return Err(hostile("has a name of more than 255 bytes"));
                }
                _ => {}
            }
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(part);
            depth += 1;
        }
        if depth > bounds.depth {
            let limit = bounds.depth as u64;
            return Err(OciError::TooLarge { what: "the depth of the tree", limit });
        }
        Ok(Self(clean))
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the directory and the name in it; `None` for the root.
    pub(crate) fn split(&self) -> Option<(Self, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (Self(self.0[..at].to_vec()), &self.0[at + 1..]),
            None => (Self(Vec::new()), &self.0),
        })
    }

    /// Says whether it is below a directory of the root.
    pub(crate) fn is_below(&self, dir: &[u8]) -> bool {
        self.0.strip_prefix(dir).is_some_and(|rest| rest.first() == Some(&b'/'))
    }

    /// Says what an entry with this path is for.
    pub(crate) fn meaning(&self) -> Result<Meaning, OciError> {
        let hostile = |what| Err(OciError::Hostile { entry: shown(&self.0), what });
        let parts = || self.0.split(|byte| *byte == b'/');
        if parts().any(|part| AUFS.contains(&part)) {
            return Ok(Meaning::Nothing);
        }
        let Some((dir, name)) = self.split() else { return Ok(Meaning::Entry) };
        if parts().rev().skip(1).any(|part| part.starts_with(WHITEOUT)) {
            return hostile("is below a whiteout");
        }
        if name == OPAQUE {
            return Ok(Meaning::Opaque(dir));
        }
        match name.strip_prefix(WHITEOUT) {
            None => Ok(Meaning::Entry),
            Some(b"" | b"." | b"..") => hostile("is a whiteout of no file"),
            Some(gone) if gone.starts_with(WHITEOUT) => hostile("is a whiteout of a whiteout"),
            Some(gone) => Ok(Meaning::Whiteout(dir, gone.to_vec())),
        }
    }
}

/// Returns a path from an archive as it may stand in a message.
pub(crate) fn shown(path: &[u8]) -> String {
    crate::digest::shown(&String::from_utf8_lossy(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let bounds = Bounds { path_bytes: 300, depth: 4, ..Bounds::default() };
        for (path, clean) in [
            ("a", "a"),
            ("./a//b/./c/", "a/b/c"),
            ("/etc/passwd", "etc/passwd"),
            ("///", ""),
            ("./", ""),
            ("a/...", "a/..."),
            ("a/..b", "a/..b"),
        ] {
            let parsed = TreePath::parse(path.as_bytes(), &bounds).unwrap();
            assert_eq!(parsed.as_bytes(), clean.as_bytes(), "{path}");
        }
        let long = "n".repeat(256);
        let too_long = "ab/".repeat(101);
        let bad = [
            "",
            "..",
            "../a",
            "a/..",
            "a/../b",
            "/..",
            "./../a",
            "a\0b",
            "a/b/c/d/e",
            &long,
            &too_long,
        ];
        for path in bad {
            assert!(TreePath::parse(path.as_bytes(), &bounds).is_err(), "{path:?}");
        }
    }

    #[test]
    fn whiteouts_are_told_from_names() {
        let bounds = Bounds::default();
        let path = |path: &str| TreePath::parse(path.as_bytes(), &bounds).unwrap();
        let gone = |dir: TreePath, name: &str| Meaning::Whiteout(dir, name.as_bytes().to_vec());
        let root = || path("/");
        for (text, meaning) in [
            ("a/b", Meaning::Entry),
            ("/", Meaning::Entry),
            (".whx", Meaning::Entry),
            ("a.wh.b", Meaning::Entry),
            (".wh.a", gone(root(), "a")),
            ("a/.wh.b", gone(path("a"), "b")),
            (".wh..hidden", gone(root(), ".hidden")),
            ("a/.wh..wh..opq", Meaning::Opaque(path("a"))),
            (".wh..wh..opq", Meaning::Opaque(root())),
            (".wh..wh.plnk/12.34", Meaning::Nothing),
            (".wh..wh.aufs", Meaning::Nothing),
        ] {
            assert_eq!(path(text).meaning().unwrap(), meaning, "{text}");
        }
        for text in [".wh.", ".wh..", ".wh...", "a/.wh..", ".wh.a/b", ".wh..wh.x", "a/.wh.b/.wh.c"]
        {
            assert!(path(text).meaning().is_err(), "{text}");
        }
    }
}
