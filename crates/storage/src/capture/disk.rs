//! The steps of one capture's life on the host; all of them block.
//!
//! A capture is one directory of the pool, `captures/<name>`:
//! - `layer.img`: the clone of the layer's image;
//! - `memory/`: the files of the memory image, none for a capture of files alone;
//! - `manifest.json`: written last, when all the others are durable; never changed;
//! - `checksums.json`: of the large files, added later;
//! - `boot`: there as long as the others may not be durable. Which boot of the host they were
//!   written in: after another they are not believed.
//!
//! Until it is whole it is `captures/.draft-<name>`.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use serde_json::Value;
use tarn_host::{Capture, CaptureError};
use tarn_types::{BootId, ByteSize};

use super::{
    digest::{PageCache, data_bytes, digest},
    exchange::{Export, ExportedFile, Origin},
    manifest::{self, Checksums, LayerPart, Manifest, MemoryPart, Sealed, Unreadable},
};
use crate::{
    durable,
    pool::allocated,
    step::{HostStepError, StepContext as _},
    trash::Trash,
};

/// Files up to this size are read each time a capture is opened: 10 ms.
const SMALL_BYTES: u64 = 16 << 20;
/// What the name of a draft begins with; no capture's name has a dot.
const DRAFT: &str = ".draft-";
/// The clone of the layer, in a capture's directory.
pub(crate) const LAYER: &str = "layer.img";
const MEMORY: &str = "memory";
const MANIFEST: &str = "manifest.json";
const CHECKSUMS: &str = "checksums.json";
const BOOT: &str = "boot";
/// The longest name: ids are shorter.
const NAME_LENGTH: usize = 64;

/// The places of one capture.
#[derive(Debug, Clone)]
pub(super) struct CaptureDisk {
    captures: PathBuf,
    name: String,
}

// === impl CaptureDisk ===

impl CaptureDisk {
    /// Takes the places of a name, which must be an id: 1 to 64 of `a-z`, `0-9` and `_`.
    pub(super) fn at(captures: &Path, name: &str) -> Result<Self, HostStepError> {
        if is_name(name) {
            return Ok(Self { captures: captures.to_owned(), name: name.to_owned() });
        }
        let rule = "the name of a capture is 1 to 64 of a-z, 0-9 and _";
        let error = io::Error::new(io::ErrorKind::InvalidInput, rule);
        Err(HostStepError::new("use the name", Path::new(name), error))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn draft(&self) -> PathBuf {
        self.captures.join(format!("{DRAFT}{}", self.name))
    }

    pub(super) fn layer(&self) -> PathBuf {
        self.place().join(LAYER)
    }

    pub(super) fn draft_layer(&self) -> PathBuf {
        self.draft().join(LAYER)
    }

    pub(super) fn draft_memory(&self) -> PathBuf {
        self.draft().join(MEMORY)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.place().exists()
    }

    pub(super) fn place(&self) -> PathBuf {
        self.captures.join(&self.name)
    }

    /// Makes an empty draft; one that is there must have been moved away.
    pub(super) fn make_draft(&self) -> Result<(), HostStepError> {
        for dir in [self.draft(), self.draft_memory()] {
            // Memory holds secrets.
            DirBuilder::new().mode(0o700).create(&dir).step("make", &dir)?;
        }
        Ok(())
    }

    /// Makes the empty file that the layer is cloned into, in place of one that is there.
    pub(super) fn make_layer(&self) -> Result<File, HostStepError> {
        self.remove_layer()?;
        let path = self.draft_layer();
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).open(&path).step("make", &path)
    }

    pub(super) fn remove_layer(&self) -> Result<(), HostStepError> {
        durable::remove(&self.draft_layer())
    }

    /// Makes the draft durable and whole. A whole one of that name is a draft then.
    pub(super) fn commit(&self, note: Value) -> Result<Capture, CaptureError> {
        let manifest = self.take_stock(note)?;
        let path = self.draft().join(MANIFEST);
        manifest::write_new(&path, &manifest)?;
        // In any order: a draft is not believed.
        let mut places = parts(&self.draft(), &manifest);
        places.extend([path, self.draft()]);
        durable::sync_at_once(&places)?;
        self.put_in_place()?;
        durable::sync(&self.captures)?;
        Ok(self.describe(manifest))
    }

    /// Makes the draft whole without waiting for the disk, for this boot of the host.
    pub(super) fn commit_for_boot(
        &self,
        note: Value,
        boot: &BootId,
    ) -> Result<Capture, CaptureError> {
        let manifest = self.take_stock(note)?;
        // Before the name that it is believed by: a journal keeps that order.
        let mark = self.draft().join(BOOT);
        fs::write(&mark, boot.as_str()).step("write", &mark)?;
        manifest::write_new(&self.draft().join(MANIFEST), &manifest)?;
        self.put_in_place()?;
        Ok(self.describe(manifest))
    }

    /// Says whether a whole capture may not be durable.
    pub(super) fn is_for_boot(&self) -> bool {
        self.place().join(BOOT).exists()
    }

    /// Has the disk hold all that a whole capture consists of.
    pub(super) fn sync(&self) -> Result<(), CaptureError> {
        let (_, sealed) = self.open()?;
        let mut places = parts(&self.place(), &sealed.content);
        places.extend([self.place().join(MANIFEST), self.place(), self.captures.clone()]);
        Ok(durable::sync_at_once(&places)?)
    }

    /// Notes that a whole capture is durable.
    pub(super) fn outlasts_boot(&self) -> Result<(), HostStepError> {
        let mark = self.place().join(BOOT);
        fs::remove_file(&mark).step("remove", &mark)?;
        durable::sync(&self.place())
    }

    /// Makes a draft that was brought from elsewhere durable and whole, if it is what its manifest
    /// and checksums say. A whole one of that name is a draft then.
    pub(super) fn adopt(&self, origin: &Origin) -> Result<(), CaptureError> {
        let draft = self.draft();
        let sealed = manifest::parse::<Manifest>(&draft.join(MANIFEST), origin.manifest.as_bytes());
        let sealed = sealed.map_err(|unreadable| self.unreadable(unreadable))?;
        self.check_parts(&draft, &sealed.content)?;
        let found = self.read_large(&draft, &sealed, &|| true)?;
        let found = found.expect("nobody stopped it");
        self.compare_large(&origin.digests, &found)?;
        durable::sync_at_once(&parts(&draft, &sealed.content))?;
        manifest::write(&draft.join(CHECKSUMS), &found)?;
        durable::write_file(&draft.join(MANIFEST), origin.manifest.as_bytes(), 0o600)?;
        self.put_in_place()?;
        durable::sync(&self.captures)?;
        Ok(())
    }

    /// Moves the draft to where whole ones are, in one step, so that a crash leaves the old one or
    /// the new one.
    fn put_in_place(&self) -> Result<(), HostStepError> {
        let (draft, whole) = (self.draft(), self.place());
        let exchanged = renameat_with(CWD, &draft, CWD, &whole, RenameFlags::EXCHANGE);
        match exchanged {
            Err(Errno::NOENT) => fs::rename(&draft, &whole).step("rename", &draft),
            outcome => outcome.step("exchange", &draft),
        }
    }

    /// Says what the parts are.
    fn take_stock(&self, note: Value) -> Result<Manifest, CaptureError> {
        let layer = self.draft_layer();
        let meta = fs::symlink_metadata(&layer).step("look at", &layer)?;
        let layer =
            LayerPart { size: ByteSize::from_bytes(meta.len()), allocated: allocated(&meta) };
        let dir = self.draft_memory();
        let mut memory = Vec::new();
        for entry in fs::read_dir(&dir).step("list", &dir)? {
            let path = entry.step("list", &dir)?.path();
            let meta = fs::symlink_metadata(&path).step("look at", &path)?;
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(name) = name.filter(|_| meta.is_file()) else {
                let odd =
                    io::Error::new(io::ErrorKind::InvalidData, "it is not a file with a name");
                return Err(HostStepError::new("take in", &path, odd).into());
            };
            let small = meta.len() <= SMALL_BYTES;
            let blake3 = if small { whole_digest(&path, PageCache::Keep)? } else { None };
            let size = ByteSize::from_bytes(meta.len());
            memory.push(MemoryPart { name: name.to_owned(), size, blake3 });
        }
        memory.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(Manifest { name: self.name.clone(), layer, memory, note })
    }

    /// Reads the manifest and looks whether the parts are what it says, without reading large ones.
    pub(super) fn open(&self) -> Result<(Capture, Sealed<Manifest>), CaptureError> {
        let sealed: Sealed<Manifest> = manifest::read(&self.place().join(MANIFEST))
            .map_err(|unreadable| self.unreadable(unreadable))?;
        self.check_parts(&self.place(), &sealed.content)?;
        Ok((self.describe(sealed.content.clone()), sealed))
    }

    /// Opens all that a whole capture consists of, to be read though it is discarded meanwhile.
    pub(super) fn export(&self) -> Result<Export, CaptureError> {
        let path = self.place().join(MANIFEST);
        let (_, sealed) = self.open()?;
        let manifest = fs::read_to_string(&path).step("read", &path)?;
        let known = self.checksums(&sealed)?.map(|known| known.files).unwrap_or_default();
        let parts = sealed.content.memory.iter().map(|part| {
            let name = format!("{MEMORY}/{}", part.name);
            let digest = part.blake3.clone().or_else(|| known.get(&name).cloned());
            (name, digest, PageCache::Keep)
        });
        let layer = (LAYER.to_owned(), known.get(LAYER).cloned(), PageCache::Spare);
        let open = |(name, digest, cache)| {
            let path = self.place().join(&name);
            let file = File::open(&path).step("open", &path)?;
            let data = data_bytes(&file).step("look at", &path)?;
            Ok(ExportedFile { name, file, digest, cache, data })
        };
        let files = parts.chain([layer]).map(open).collect::<Result<_, HostStepError>>()?;
        Ok(Export { manifest, blake3: sealed.blake3, files })
    }

    fn unreadable(&self, unreadable: Unreadable) -> CaptureError {
        match unreadable {
            Unreadable::Absent if !self.is_whole() => {
                CaptureError::Missing { name: self.name.clone() }
            }
            Unreadable::Absent => self.damaged(format!("{MANIFEST} is missing")),
            Unreadable::Damaged(detail) => self.damaged(detail),
            Unreadable::Step(error) => error.into(),
        }
    }

    fn check_parts(&self, dir: &Path, manifest: &Manifest) -> Result<(), CaptureError> {
        if manifest.name != self.name {
            return Err(self.damaged(format!("{MANIFEST} is that of {}", manifest.name)));
        }
        self.check_size(dir, LAYER, manifest.layer.size)?;
        for part in &manifest.memory {
            let name = format!("{MEMORY}/{}", part.name);
            self.check_size(dir, &name, part.size)?;
            if part.blake3.is_some() {
                let found = whole_digest(&dir.join(&name), PageCache::Keep)?;
                self.compare(&name, part.blake3.as_ref(), found)?;
            }
        }
        Ok(())
    }

    fn check_size(&self, dir: &Path, name: &str, expected: ByteSize) -> Result<(), CaptureError> {
        let path = dir.join(name);
        let meta = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.damaged(format!("{name} is missing")));
            }
            outcome => outcome.step("look at", &path)?,
        };
        if meta.is_file() && meta.len() == expected.bytes() {
            return Ok(());
        }
        let (has, had) = (meta.len(), expected.bytes());
        Err(self.damaged(format!("{name} has {has} bytes and had {had}")))
    }

    fn compare(
        &self,
        name: &str,
        expected: Option<&String>,
        found: Option<String>,
    ) -> Result<(), CaptureError> {
        // Without one to compare with, or when told to stop, nothing is known.
        match (expected, found) {
            (Some(expected), Some(found)) if *expected != found => {
                let detail = format!("the content of {name} has changed ({found}, not {expected})");
                Err(self.damaged(detail))
            }
            (Some(_) | None, Some(_) | None) => Ok(()),
        }
    }

    /// Says whether the checksums of the large files are written down.
    pub(super) fn has_checksums(&self) -> bool {
        self.place().join(CHECKSUMS).exists()
    }

    /// Reads the checksums of the large files, if they are known yet.
    pub(super) fn checksums(
        &self,
        manifest: &Sealed<Manifest>,
    ) -> Result<Option<Checksums>, CaptureError> {
        match manifest::read::<Checksums>(&self.place().join(CHECKSUMS)) {
            Ok(sealed) if sealed.content.manifest == manifest.blake3 => Ok(Some(sealed.content)),
            Ok(_) => Err(self.damaged(format!("{CHECKSUMS} belongs to another capture"))),
            Err(Unreadable::Absent) => Ok(None),
            Err(Unreadable::Damaged(detail)) => Err(self.damaged(detail)),
            Err(Unreadable::Step(error)) => Err(error.into()),
        }
    }

    /// Reads the large files and returns their checksums; `None` when told to stop.
    pub(super) fn read_large(
        &self,
        dir: &Path,
        manifest: &Sealed<Manifest>,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Checksums>, HostStepError> {
        let mut files = BTreeMap::new();
        let large = manifest.content.memory.iter().filter(|part| part.blake3.is_none());
        let large = large.map(|part| (format!("{MEMORY}/{}", part.name), PageCache::Keep));
        // A layer is read by no one from here: what is built from it is a file of its own.
        for (name, cache) in large.chain([(LAYER.to_owned(), PageCache::Spare)]) {
            let path = dir.join(&name);
            let Some(found) = digest(&path, cache, go_on).step("read", &path)? else {
                return Ok(None);
            };
            files.insert(name, found);
        }
        Ok(Some(Checksums { manifest: manifest.blake3.clone(), files }))
    }

    /// Writes the checksums down, if the capture is still the one they are of.
    pub(super) fn write_checksums(&self, found: &Checksums) -> Result<(), CaptureError> {
        let (_, manifest) = self.open()?;
        if manifest.blake3 == found.manifest {
            manifest::write(&self.place().join(CHECKSUMS), found)?;
        }
        Ok(())
    }

    /// Compares the checksums that are known with what was read.
    pub(super) fn compare_large(
        &self,
        known: &BTreeMap<String, String>,
        found: &Checksums,
    ) -> Result<(), CaptureError> {
        for (name, digest) in &found.files {
            self.compare(name, known.get(name), Some(digest.clone()))?;
        }
        Ok(())
    }

    /// Moves the draft away, if there is one; returns where it is.
    pub(super) fn trash_draft(&self, trash: &Trash) -> Result<Option<PathBuf>, HostStepError> {
        move_to(trash, &self.draft(), &self.name)
    }

    /// Moves the whole one away, durably, if there is one; returns where it is.
    pub(super) fn trash_whole(&self, trash: &Trash) -> Result<Option<PathBuf>, HostStepError> {
        let moved = move_to(trash, &self.place(), &self.name)?;
        if moved.is_some() {
            durable::sync(&self.captures)?;
        }
        Ok(moved)
    }

    fn describe(&self, manifest: Manifest) -> Capture {
        let whole = self.place();
        let sizes = manifest.memory.iter().map(|part| part.size);
        Capture {
            layer: whole.join(LAYER),
            memory: whole.join(MEMORY),
            layer_size: manifest.layer.allocated,
            memory_size: sizes.fold(ByteSize::default(), ByteSize::saturating_add),
            note: manifest.note,
        }
    }

    fn damaged(&self, detail: String) -> CaptureError {
        CaptureError::Damaged { name: self.name.clone(), detail }
    }
}

/// Moves every draft to the trash: nobody writes to them any more.
pub(super) fn trash_drafts(captures: &Path, trash: &Trash) -> Result<Vec<PathBuf>, HostStepError> {
    let mut moved = Vec::new();
    for name in names(captures)? {
        if let Some(capture) = name.strip_prefix(DRAFT) {
            moved.extend(move_to(trash, &captures.join(&name), capture)?);
        }
    }
    Ok(moved)
}

/// Moves every capture to the trash that was whole in another boot of the host alone.
pub(super) fn trash_void(
    captures: &Path,
    boot: &BootId,
    trash: &Trash,
) -> Result<Vec<PathBuf>, HostStepError> {
    let mut moved = Vec::new();
    for name in whole_names(captures)? {
        let mark = captures.join(&name).join(BOOT);
        match fs::read(&mark) {
            Ok(written) if written == boot.as_str().as_bytes() => {}
            Ok(_) => moved.extend(move_to(trash, &captures.join(&name), &name)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(HostStepError::new("read", &mark, error)),
        }
    }
    Ok(moved)
}

/// Returns the names of the whole captures, sorted.
pub(super) fn whole_names(captures: &Path) -> Result<Vec<String>, HostStepError> {
    let mut names = names(captures)?;
    names.retain(|name| is_name(name) && captures.join(name).is_dir());
    names.sort_unstable();
    Ok(names)
}

fn names(captures: &Path) -> Result<Vec<String>, HostStepError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(captures).step("list", captures)? {
        names.extend(entry.step("list", captures)?.file_name().into_string().ok());
    }
    Ok(names)
}

fn is_name(text: &str) -> bool {
    let good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    (1..=NAME_LENGTH).contains(&text.len()) && text.bytes().all(good)
}

/// Returns the places of what a manifest tells of, in a capture's directory.
fn parts(dir: &Path, manifest: &Manifest) -> Vec<PathBuf> {
    let memory = (!manifest.memory.is_empty()).then(|| MEMORY.to_owned());
    let names = [LAYER.to_owned()].into_iter().chain(memory).chain(memory_names(manifest));
    names.map(|name| dir.join(name)).collect()
}

fn memory_names(manifest: &Manifest) -> impl Iterator<Item = String> {
    manifest.memory.iter().map(|part| format!("{MEMORY}/{}", part.name))
}

fn move_to(trash: &Trash, from: &Path, name: &str) -> Result<Option<PathBuf>, HostStepError> {
    // Layers are thrown away under ids alone: these here are never mistaken for one.
    let place = trash.place(&format!("capture-{name}"));
    match fs::rename(from, &place) {
        Ok(()) => Ok(Some(place)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HostStepError::new("move to the trash", from, error)),
    }
}

fn whole_digest(path: &Path, cache: PageCache) -> Result<Option<String>, HostStepError> {
    digest(path, cache, &|| true).step("read", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ids() {
        let longest = "a".repeat(NAME_LENGTH);
        for (name, good) in [
            ("snapshot_0a", true),
            (longest.as_str(), true),
            ("", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            (".draft-a", false),
            ("A", false),
            ("a\0", false),
            (&"a".repeat(NAME_LENGTH + 1), false),
        ] {
            assert_eq!(CaptureDisk::at(Path::new("/x"), name).is_ok(), good, "{name}");
        }
    }
}
