//! The keys: one of the installation in a file, and all others derived from it.
//!
//! ```text
//!  master key ──▶ project's key ──▶ ids     keyed hash of what a chunk holds
//!   (the file)                  ├─▶ objects ──▶ one key for each object, by its path
//!                               └─▶ cuts    where the data of a project is cut
//! ```
//!
//! A project's keys say nothing of another's, so that nobody learns by an upload what another
//! project has. An object's key is its own, so random nonces never meet.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use tarn_host::ArchiveError;
use tarn_task::{Entropy as _, OsEntropy};
use tarn_types::ProjectId;
use zeroize::Zeroizing;

use super::place::ChunkId;
use crate::durable::sync_dir;

/// The length of every key, in bytes.
pub(super) const KEY_LENGTH: usize = 32;
/// Sets our derived keys apart from those of any other use of the same master key; part of the
/// format.
const CONTEXT: &str = "tarn 2026-11-26 object store, key of a project";

/// The key that everything in the object store hangs on. Without it nothing there can be read.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; KEY_LENGTH]>);

/// The keys of one project.
#[derive(Clone)]
pub(super) struct ProjectKey {
    ids: Zeroizing<[u8; KEY_LENGTH]>,
    objects: Zeroizing<[u8; KEY_LENGTH]>,
    cuts: u64,
}

// === impl MasterKey ===

impl MasterKey {
    /// Reads the key from a file, which is made first if it is not there: 32 random bytes that
    /// only their owner can read.
    ///
    /// # Errors
    /// Fails when the file cannot be read or made, others may read it, or it is of another length.
    pub fn open_or_create(path: &Path) -> Result<Self, ArchiveError> {
        let failed = |source| ArchiveError::Key { path: path.to_owned(), source };
        match Self::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => return outcome.map_err(failed),
        }
        Self::create(path).and_then(|()| Self::read(path)).map_err(failed)
    }

    fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let meta = file.metadata()?;
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let mode = meta.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            let text = format!("others than its owner may use it (mode {mode:o}); chmod 600 it");
            return Err(invalid(text));
        }
        if !meta.is_file() || meta.len() != KEY_LENGTH as u64 {
            let length = meta.len();
            return Err(invalid(format!("it must be a file of {KEY_LENGTH} bytes, not {length}")));
        }
        let mut key = Zeroizing::new([0; KEY_LENGTH]);
        file.read_exact(&mut *key)?;
        Ok(Self(key))
    }

    /// Makes the file, durably; leaves one that somebody else made meanwhile.
    fn create(path: &Path) -> io::Result<()> {
        let mut key = Zeroizing::new([0; KEY_LENGTH]);
        OsEntropy.fill(&mut *key);
        let draft = path.with_extension(format!("new-{}", std::process::id()));
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(&*key)?;
        file.sync_all()?;
        match renameat_with(CWD, &draft, CWD, path, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => fs::remove_file(&draft)?,
            outcome => outcome?,
        }
        let dir = path.parent().unwrap_or(Path::new("/"));
        sync_dir(dir).map_err(|error| error.source)
    }

    pub(super) fn of_project(&self, project: &ProjectId) -> ProjectKey {
        let mut material = Zeroizing::new(Vec::with_capacity(128));
        material.extend_from_slice(&*self.0);
        material.extend_from_slice(project.as_str().as_bytes());
        let key = Zeroizing::new(blake3::derive_key(CONTEXT, &material));
        let part = |name: &[u8]| Zeroizing::new(*blake3::keyed_hash(&key, name).as_bytes());
        let cuts = part(b"cuts");
        let (first, _) = cuts.split_at(8);
        let mut seed = [0; 8];
        seed.copy_from_slice(first);
        ProjectKey { ids: part(b"ids"), objects: part(b"objects"), cuts: u64::from_le_bytes(seed) }
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

// === impl ProjectKey ===

impl ProjectKey {
    /// Names what a chunk holds.
    pub(super) fn id(&self, plain: &[u8]) -> ChunkId {
        ChunkId::new(*blake3::keyed_hash(&self.ids, plain).as_bytes())
    }

    /// Returns the key of one object, by its path.
    pub(super) fn object(&self, path: &str) -> Zeroizing<[u8; KEY_LENGTH]> {
        Zeroizing::new(*blake3::keyed_hash(&self.objects, path.as_bytes()).as_bytes())
    }

    /// Returns what decides where data is cut: sizes of chunks are seen by the object store, and
    /// with a known rule they would tell known files.
    pub(super) fn cuts(&self) -> u64 {
        self.cuts
    }
}

impl fmt::Debug for ProjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProjectKey(…)")
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// The keys of the project that tests have, under one of several master keys.
    pub(in super::super) fn key(master: u8) -> ProjectKey {
        let project = ProjectId::from_random([7; 16]);
        MasterKey(Zeroizing::new([master; KEY_LENGTH])).of_project(&project)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn mode(path: &Path, mode: u32) -> anyhow::Result<()> {
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
    }

    #[test]
    fn a_key_is_made_once_and_stays() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("object-store.key");
        let made = MasterKey::open_or_create(&path)?;
        assert_eq!(*made.0, *MasterKey::open_or_create(&path)?.0);
        assert_eq!(fs::read(&path)?, *made.0);
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o7777, 0o600);
        // Somebody else was faster: theirs stays.
        MasterKey::create(&path)?;
        assert_eq!(*made.0, *MasterKey::read(&path)?.0);
        assert_eq!(fs::read_dir(dir.path())?.count(), 1, "no draft is left");
        let other = MasterKey::open_or_create(&dir.path().join("other"))?;
        assert_ne!(*made.0, *other.0);
        Ok(())
    }

    #[test]
    fn a_key_that_is_open_to_others_or_odd_is_refused() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("object-store.key");
        for (length, bits, expected) in [
            (KEY_LENGTH, 0o640, "others than its owner may use it (mode 640)"),
            (KEY_LENGTH, 0o604, "others than its owner may use it (mode 604)"),
            (KEY_LENGTH - 1, 0o600, "it must be a file of 32 bytes, not 31"),
            (0, 0o600, "it must be a file of 32 bytes, not 0"),
            (KEY_LENGTH + 1, 0o600, "it must be a file of 32 bytes, not 33"),
        ] {
            fs::write(&path, vec![1; length])?;
            mode(&path, bits)?;
            let Err(ArchiveError::Key { source, .. }) = MasterKey::open_or_create(&path) else {
                anyhow::bail!("{length}, {bits:o}: accepted");
            };
            assert!(source.to_string().contains(expected), "{source}");
        }
        fs::write(&path, [1; KEY_LENGTH])?;
        mode(&path, 0o400)?;
        MasterKey::open_or_create(&path)?;
        MasterKey::open_or_create(&dir.path().join("absent/key")).expect_err("no directory");
        Ok(())
    }

    /// Everything stored hangs on it: the derivation must stay what it is for ever.
    #[test]
    fn the_derivation_stays_what_it_is() {
        let key = testing::key(1);
        assert_eq!(
            key.id(b"some bytes").to_string(),
            "992069ec955f145495083ea35ec23e4862332e86a3a8b660584ecf2b04e2ebf4"
        );
        assert_eq!(key.cuts(), 0xe3f0_5383_a0dd_4d1f);
        assert_eq!(
            ChunkId::new(*key.object("path")).to_string(),
            "f663409237ec4be2585135647d9b339dc1ddca08cfbc01b78ba374b7c25ecaf2"
        );
    }

    #[test]
    fn projects_and_masters_have_nothing_in_common() {
        let master = MasterKey(Zeroizing::new([1; KEY_LENGTH]));
        let other = master.of_project(&ProjectId::from_random([8; 16]));
        let keys = [testing::key(1), testing::key(2), other];
        let seen: BTreeSet<_> = keys.iter().map(|key| (key.id(b"same"), key.cuts())).collect();
        let ids: BTreeSet<_> = seen.iter().map(|(id, _)| *id).collect();
        let cuts: BTreeSet<_> = seen.iter().map(|(_, cuts)| *cuts).collect();
        assert_eq!((ids.len(), cuts.len()), (3, 3));
        assert_eq!(format!("{master:?}{:?}", keys[0]), "MasterKey(…)ProjectKey(…)");
    }
}
