//! Listing a directory.

use std::{cmp::Reverse, fs, io, os::unix::fs::MetadataExt as _, path::Path};

use tarn_daemon_api::DirectoryEntry;

use super::FileError;

/// About 60 bytes each, and tarnd's memory is the sandbox's.
const MAX_ENTRIES: usize = 250_000;

/// The entries of a directory: directories first, then by name.
///
/// Packed, because there may be very many; they become [`DirectoryEntry`] one at a time.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    names: String,
    entries: Vec<Packed>,
}

#[derive(Debug)]
struct Packed {
    name_start: u32,
    name_end: u32,
    /// None for directories.
    size: Option<u64>,
    modified_at: i64,
}

/// Lists a directory.
pub(crate) fn list(path: &Path) -> Result<Listing, FileError> {
    let failed = |error: io::Error| FileError::new(path, &error);
    let metadata = fs::metadata(path).map_err(|error| failed(error).missing_if_not_directory())?;
    if !metadata.is_dir() {
        return Err(FileError::NotADirectory(format!("'{}' is not a directory", path.display())));
    }
    let mut listing = Listing::default();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if listing.entries.len() == MAX_ENTRIES {
            return Err(FileError::Invalid(format!(
                "'{}' has more than {MAX_ENTRIES} entries: list it with a command",
                path.display()
            )));
        }
        // Gone meanwhile: not listed.
        if let Ok(metadata) = metadata_of(&entry) {
            listing.add(&entry.file_name().to_string_lossy(), &metadata);
        }
    }
    listing.sort();
    Ok(listing)
}

/// Links count as what they lead to; a dangling one as itself.
fn metadata_of(entry: &fs::DirEntry) -> io::Result<fs::Metadata> {
    // Relative to the open directory, which is the cheaper call where each is a millisecond's part.
    let own = entry.metadata()?;
    if own.is_symlink() { fs::metadata(entry.path()).or(Ok(own)) } else { Ok(own) }
}

// === impl Listing ===

impl Listing {
    /// Returns how many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns an entry.
    pub(crate) fn get(&self, index: usize) -> Option<DirectoryEntry> {
        let entry = self.entries.get(index)?;
        Some(DirectoryEntry {
            name: entry.name(&self.names).to_owned(),
            is_dir: entry.size.is_none(),
            size: entry.size,
            modified_at: entry.modified_at,
        })
    }

    fn add(&mut self, name: &str, metadata: &fs::Metadata) {
        // Names have at most 255 bytes, so all of them together fit.
        let place = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let name_start = place(self.names.len());
        self.names.push_str(name);
        self.entries.push(Packed {
            name_start,
            name_end: place(self.names.len()),
            size: (!metadata.is_dir()).then_some(metadata.len()),
            modified_at: modified_ms(metadata),
        });
    }

    fn sort(&mut self) {
        let Self { names, entries } = self;
        let key = |entry: &Packed| Reverse(entry.size.is_none());
        entries.sort_unstable_by(|a, b| {
            key(a).cmp(&key(b)).then_with(|| a.name(names).cmp(b.name(names)))
        });
    }
}

// === impl Packed ===

impl Packed {
    fn name<'a>(&self, names: &'a str) -> &'a str {
        names.get(self.name_start as usize..self.name_end as usize).unwrap_or_default()
    }
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

        let listing = list(dir.path()).expect("listed");
        let shown: Vec<_> = (0..listing.len())
            .filter_map(|index| listing.get(index))
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
