//! Which file a request's `path` means, before any file is touched.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use percent_encoding::percent_decode;

const MAX_PATH_BYTES: usize = 4096;

/// A path as asked for, and as it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilePath {
    /// As asked for.
    pub(crate) asked: String,
    /// Absolute.
    pub(crate) absolute: PathBuf,
}

/// A path that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathError {
    /// There is no `path` in the query, or it is empty.
    Missing,
    /// It has a NUL.
    Nul,
    /// It has more than 4096 bytes.
    TooLong,
    /// It has a `..` component.
    Traversal,
}

// === impl FilePath ===

impl FilePath {
    /// Takes `path` out of a form-encoded query; a relative one starts at the working directory.
    pub(crate) fn from_query(query: &str, working_dir: &Path) -> Result<Self, PathError> {
        let value = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(name, _)| *name == "path")
            .map(|(_, value)| decode_form(value))
            .filter(|value| !value.is_empty())
            .ok_or(PathError::Missing)?;
        if value.contains(&0) {
            return Err(PathError::Nul);
        }
        if value.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        let path = Path::new(OsStr::from_bytes(&value));
        if path.components().any(|component| component == Component::ParentDir) {
            return Err(PathError::Traversal);
        }
        Ok(Self {
            asked: String::from_utf8_lossy(&value).into_owned(),
            absolute: working_dir.join(path),
        })
    }
}

// === impl PathError ===

impl PathError {
    /// Returns what to tell the caller.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Missing => "the query parameter `path` is missing or empty",
            Self::Nul => "`path` holds a NUL",
            Self::TooLong => "`path` is longer than 4096 bytes",
            Self::Traversal => "`path` has a `..` component: give the path without it",
        }
    }
}

/// The SDKs write a space as `+`, the CLI as `%20`.
fn decode_form(value: &str) -> Vec<u8> {
    let spaced: Vec<u8> =
        value.bytes().map(|byte| if byte == b'+' { b' ' } else { byte }).collect();
    percent_decode(&spaced).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(query: &str) -> Result<String, PathError> {
        let path = FilePath::from_query(query, Path::new("/work"))?;
        Ok(path.absolute.to_string_lossy().into_owned())
    }

    #[test]
    fn paths_are_decoded_and_resolved() {
        let table = [
            ("path=/a/b", Ok("/a/b")),
            ("path=a%20b+c%2Bd", Ok("/work/a b c+d")),
            ("x=1&path=rel&path=other", Ok("/work/rel")),
            ("path=%2Ftmp%2F..hidden", Ok("/tmp/..hidden")),
            ("path=./x", Ok("/work/./x")),
            ("", Err(PathError::Missing)),
            ("path", Err(PathError::Missing)),
            ("path=", Err(PathError::Missing)),
            ("Path=/a", Err(PathError::Missing)),
            ("path=/a%00b", Err(PathError::Nul)),
            ("path=..", Err(PathError::Traversal)),
            ("path=/a/../b", Err(PathError::Traversal)),
            ("path=a/%2E%2E/b", Err(PathError::Traversal)),
            ("path=/a/..%2f..%2fetc%2fpasswd", Err(PathError::Traversal)),
            ("path=..%2f", Err(PathError::Traversal)),
        ];
        for (query, expected) in table {
            assert_eq!(parse(query), expected.map(str::to_owned), "{query}");
        }
        assert_eq!(parse(&format!("path=/{}", "x".repeat(4096))), Err(PathError::TooLong));
    }

    proptest! {
        #[test]
        fn nothing_gets_through_with_a_parent_component(query in "path=[./%2eEfF5cCa\\\\+]{0,24}") {
            if let Ok(path) = FilePath::from_query(&query, Path::new("/work")) {
                prop_assert!(path.absolute.is_absolute());
                prop_assert!(!path.absolute.components().any(|part| part == Component::ParentDir));
            }
        }
    }
}
