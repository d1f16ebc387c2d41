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

use std::{fmt, path::Path};

use tarn_host::ArchiveError;
use tarn_seal::{KEY_LENGTH, Key};
use tarn_types::ProjectId;
use zeroize::Zeroizing;

use super::place::ChunkId;

/// Sets our derived keys apart from those of any other use of the same master key; part of the
/// format.
const CONTEXT: &str = "tarn 2026-11-26 object store, key of a project";

/// The owner of what is no project's; no project's id is like it.
const STORE: &str = "store";

/// The key that everything in the object store hangs on. Without it nothing there can be read.
#[derive(Clone)]
pub struct MasterKey(Key);

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
        tarn_seal::open_or_create(path).map(Self).map_err(failed)
    }

    pub(super) fn of_project(&self, project: &ProjectId) -> ProjectKey {
        self.derive(project.as_str())
    }

    /// Returns the key of what is no project's.
    pub(super) fn of_store(&self) -> ProjectKey {
        self.derive(STORE)
    }

    fn derive(&self, owner: &str) -> ProjectKey {
        let mut material = Zeroizing::new(Vec::with_capacity(128));
        material.extend_from_slice(self.0.bytes());
        material.extend_from_slice(owner.as_bytes());
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
        MasterKey(Key::new(Zeroizing::new([master; KEY_LENGTH]))).of_project(&project)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_key_that_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("object-store.key");
        MasterKey::open_or_create(&path).expect("it is made");
        std::fs::write(&path, [1; KEY_LENGTH - 1]).expect("it is written");
        let refused = MasterKey::open_or_create(&path).expect_err("it is too short");
        assert!(matches!(&refused, ArchiveError::Key { path: named, .. } if *named == path));
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
        let master = MasterKey(Key::new(Zeroizing::new([1; KEY_LENGTH])));
        let other = master.of_project(&ProjectId::from_random([8; 16]));
        let keys = [testing::key(1), testing::key(2), other, master.of_store()];
        let seen: BTreeSet<_> = keys.iter().map(|key| (key.id(b"same"), key.cuts())).collect();
        let ids: BTreeSet<_> = seen.iter().map(|(id, _)| *id).collect();
        let cuts: BTreeSet<_> = seen.iter().map(|(_, cuts)| *cuts).collect();
        assert_eq!((ids.len(), cuts.len()), (4, 4));
        assert_eq!(format!("{master:?}{:?}", keys[0]), "MasterKey(…)ProjectKey(…)");
    }
}
