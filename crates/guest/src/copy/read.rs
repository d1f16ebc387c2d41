//! Files out of the sandbox, picked as `COPY` picks them from a context.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read as _, Write},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use tar::{Builder, EntryType, Header};
use tarn_build::Pattern;

/// The most files of one copy.
const MAX_FILES: usize = 1_000_000;

/// The deepest directory that is entered.
const MAX_DEPTH: usize = 512;

/// What is copied out.
pub(super) struct Selection {
    found: Vec<PathBuf>,
    pub(super) is_one_file: bool,
}

// === impl Selection ===

impl Selection {
    pub(super) fn new(sources: &[String]) -> Result<Self, String> {
        let mut found = Vec::new();
        for source in sources {
            let before = found.len();
            find(source, &mut found).map_err(|error| format!("{source}: {error}"))?;
            if found.len() == before {
                return Err(format!("`{source}` is not in what is copied from"));
            }
        }
        // A link that is named is followed, one that is met is copied.
        let is_one_file = found.len() == 1 && !found[0].is_dir();
        Ok(Self { found, is_one_file })
    }

    pub(super) fn pack(&self, output: &mut impl Write) -> Result<(), String> {
        let mut pack = Pack { archive: Builder::new(output), files: 0 };
        for path in &self.found {
            if path.is_dir() {
                pack.below(path, Path::new(""), 0)?;
            } else {
                let name = PathBuf::from(path.file_name().unwrap_or(path.as_os_str()));
                let facts = fs::metadata(path).map_err(|error| said(path, &error))?;
                pack.add(path, &name, &facts)?;
            }
        }
        pack.archive.finish().map_err(|error| format!("connection: {error}"))
    }
}

struct Pack<'a, W: Write> {
    archive: Builder<&'a mut W>,
    files: usize,
}

// === impl Pack ===

impl<W: Write> Pack<'_, W> {
    fn below(&mut self, dir: &Path, name: &Path, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("{}: deeper than {MAX_DEPTH} directories", dir.display()));
        }
        let entries = fs::read_dir(dir).map_err(|error| said(dir, &error))?;
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(|error| said(dir, &error))?.file_name());
        }
        names.sort_unstable();
        for entry in names {
            let (path, name) = (dir.join(&entry), name.join(&entry));
            let facts = fs::symlink_metadata(&path).map_err(|error| said(&path, &error))?;
            self.add(&path, &name, &facts)?;
            if facts.is_dir() {
                self.below(&path, &name, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Adds a file, a link or a directory; sockets, pipes and devices are passed over.
    fn add(&mut self, path: &Path, name: &Path, facts: &Metadata) -> Result<(), String> {
        self.files += 1;
        if self.files > MAX_FILES {
            return Err(format!("more than {MAX_FILES} files are copied"));
        }
        let mut header = Header::new_gnu();
        header.set_mode(facts.mode() & 0o7777);
        header.set_uid(facts.uid().into());
        header.set_gid(facts.gid().into());
        header.set_mtime(u64::try_from(facts.mtime()).unwrap_or(0));
        header.set_size(0);
        let failed = |error: io::Error| said(path, &error);
        if facts.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.archive.append_data(&mut header, name, io::empty()).map_err(failed)
        } else if facts.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = fs::read_link(path).map_err(failed)?;
            self.archive.append_link(&mut header, name, target).map_err(failed)
        } else if facts.is_file() {
            header.set_entry_type(EntryType::Regular);
            let file = File::open(path).map_err(failed)?;
            let size = file.metadata().map_err(failed)?.len();
            header.set_size(size);
            // One that shrinks under us would shift all that follows.
            let padded = file.take(size).chain(io::repeat(0)).take(size);
            self.archive.append_data(&mut header, name, padded).map_err(failed)
        } else {
            Ok(())
        }
    }
}

/// Finds the files that a source stands for, part by part of its path.
fn find(source: &str, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut paths = vec![PathBuf::from("/")];
    for part in source.split('/').filter(|part| !part.is_empty() && *part != ".") {
        let pattern = Pattern::new(part);
        let mut next = Vec::new();
        for path in paths {
            match pattern.literal() {
                Some(name) => {
                    let path = path.join(name);
                    if path.symlink_metadata().is_ok() {
                        next.push(path);
                    }
                }
                None => matching(&path, &pattern, &mut next)?,
            }
        }
        paths = next;
    }
    paths.retain(|path| path.exists());
    found.append(&mut paths);
    Ok(())
}

fn matching(dir: &Path, pattern: &Pattern, next: &mut Vec<PathBuf>) -> io::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| pattern.matches(name)) {
            names.push(name);
        }
    }
    names.sort_unstable();
    next.extend(names.into_iter().map(|name| dir.join(name)));
    Ok(())
}

fn said(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}
