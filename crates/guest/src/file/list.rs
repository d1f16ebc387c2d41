//! Listing a directory.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use tarn_daemon_api::DirectoryEntry;

use super::FileError;

/// A listing is one answer in memory; tarnd's memory is the sandbox's.
const MAX_ENTRIES: usize = 100_000;

/// Lists a directory: directories first, then by name.
pub(crate) fn list(path: &Path) -> Result<Vec<DirectoryEntry>, FileError> {
    let failed = |error: io::Error| FileError::new(path, &error);
    let metadata = fs::metadata(path).map_err(|error| failed(error).missing_if_not_directory())?;
    if !metadata.is_dir() {
        return Err(FileError::NotADirectory(format!("'{}' is not a directory", path.display())));
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entries.len() == MAX_ENTRIES {
            return Err(FileError::Invalid(format!(
                "'{}' has more than {MAX_ENTRIES} entries: list it with a command",
                path.display()
            )));
        }
        // Links count as what they lead to; a dangling one as itself. Gone meanwhile: not listed.
        if let Ok(metadata) = fs::metadata(entry.path()).or_else(|_dangling| entry.metadata()) {
            entries.push(DirectoryEntry {
                name: entry.file_name().to_string_lossy().into_owned(),
                is_dir: metadata.is_dir(),
                size: (!metadata.is_dir()).then_some(metadata.len()),
                modified_at: modified_ms(&metadata),
            });
        }
    }
    entries.sort_by(|a, b| b.is_dir.cmp(&a.is_dir).then_with(|| a.name.cmp(&b.name)));
    Ok(entries)
}

fn modified_ms(metadata: &fs::Metadata) -> i64 {
    metadata.mtime().saturating_mul(1000).saturating_add(metadata.mtime_nsec() / 1_000_000)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directories_come_first_and_links_count_as_their_target() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("b"), "1234").expect("written");
        fs::write(at("a"), "").expect("written");
        fs::create_dir(at("z")).expect("made");
        symlink(at("z"), at("to-z")).expect("linked");
        symlink(at("b"), at("to-b")).expect("linked");
        symlink("nowhere-at-all", at("dangling")).expect("linked");

        let shown: Vec<_> = list(dir.path())
            .expect("listed")
            .into_iter()
            .map(|entry| (entry.name, entry.is_dir, entry.size))
            .collect();
        let expected = [
            ("to-z", true, None),
            ("z", true, None),
            ("a", false, Some(0)),
            ("b", false, Some(4)),
            ("dangling", false, Some(14)),
            ("to-b", false, Some(4)),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, is_dir, size)| ((*name).to_owned(), *is_dir, *size))
            .collect();
        assert_eq!(shown, expected);
        assert!(matches!(list(&at("a")), Err(FileError::NotADirectory(_))));
        assert!(matches!(list(&at("a/b")), Err(FileError::NotFound(_))));
        assert!(matches!(list(&at("none")), Err(FileError::NotFound(_))));
    }
}
