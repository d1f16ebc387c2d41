//! The key of the server that the data keys of projects are sealed with, and its replacement.
//!
//! ```text
//!  secrets.key ──seals──▶ data key of a project ──seals──▶ values of its secrets
//!   (a file)               (in the store)                   (in the store)
//! ```
//!
//! A new key is first in a file beside the old one, then every data key is sealed with it in one
//! step, then its file takes the place of the old one. Whoever dies in between goes on at the next
//! start: both keys are there until nothing needs the old one, and each data key names its own.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use tarn_seal::Key;
use tarn_store::{DataKeyRecord, StoreError};
use tarn_task::Entropy;
use tarn_types::ProjectId;
use thiserror::Error;
use tokio::sync::RwLock;
use zeroize::Zeroizing;

/// Sets names of keys apart from other hashes of them; part of the format.
const NAMING: &[u8] = b"tarn secrets, name of a key";

/// Says why secrets cannot be opened, or their key not be replaced.
#[derive(Debug, Error)]
pub enum SecretKeyError {
    /// The file cannot be read, made or replaced.
    #[error("use the key file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// The file is not the one that a data key was sealed with.
    #[error(
        "{} is not the key that the secrets of {project} were stored with; put that one back from \
         a backup (without it they are lost; docs/secrets.md says what to do then)",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose secrets.
        project: ProjectId,
    },
    /// The stored bytes are damaged.
    #[error("the stored data key of {project} does not open: {detail}")]
    Damaged {
        /// Whose it is.
        project: ProjectId,
        /// Why.
        detail: String,
    },
    /// The store does not answer.
    #[error("read or write the data keys")]
    Store(#[from] StoreError),
}

/// The server's key for secrets.
#[derive(Debug)]
pub struct SecretKeys {
    /// Written to only by a replacement, which nothing may overtake.
    pub(super) masters: RwLock<Masters>,
}

/// The key, and the one that is about to replace it.
#[derive(Debug)]
pub(super) struct Masters {
    current: Master,
    next: Option<Master>,
    path: PathBuf,
}

#[derive(Debug)]
struct Master {
    key: Key,
    name: String,
}

// === impl SecretKeys ===

impl SecretKeys {
    /// Reads the key from a file, which is made first if it is not there.
    ///
    /// # Errors
    /// Fails when a key file cannot be read or made, or others may read it.
    pub fn open(path: &Path) -> Result<Self, SecretKeyError> {
        let next = next_path(path);
        let next = match next.try_exists() {
            Ok(true) => Some(Master::open(&next)?),
            Ok(false) => None,
            Err(source) => return Err(SecretKeyError::File { path: next, source }),
        };
        let masters = Masters { current: Master::open(path)?, next, path: path.to_owned() };
        Ok(Self { masters: RwLock::new(masters) })
    }
}

// === impl Masters ===

impl Masters {
    /// Says whether a replacement was begun.
    pub(super) fn is_changing(&self) -> bool {
        self.next.is_some()
    }

    /// Makes the key that replaces the present one, unless that was done before.
    pub(super) fn begin(&mut self) -> Result<(), SecretKeyError> {
        if self.next.is_none() {
            self.next = Some(Master::open(&next_path(&self.path))?);
        }
        Ok(())
    }

    /// Puts the new key in the place of the old one, durably.
    pub(super) fn finish(&mut self) -> Result<(), SecretKeyError> {
        let Some(next) = self.next.take() else { return Ok(()) };
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let moved = fs::rename(next_path(&self.path), &self.path)
            .and_then(|()| File::open(dir)?.sync_all());
        if let Err(source) = moved {
            self.next = Some(next);
            return Err(SecretKeyError::File { path: self.path.clone(), source });
        }
        self.current = next;
        Ok(())
    }

    /// Seals a data key.
    pub(super) fn wrap(
        &self,
        project: &ProjectId,
        key: &Key,
        entropy: &dyn Entropy,
    ) -> DataKeyRecord {
        let master = self.next.as_ref().unwrap_or(&self.current);
        DataKeyRecord {
            project: project.clone(),
            wrapping: master.name.clone(),
            wrapped: master.key.seal(&place_of_key(project), key.bytes(), entropy),
        }
    }

    /// Opens a data key.
    pub(super) fn unwrap(&self, record: &DataKeyRecord) -> Result<Key, SecretKeyError> {
        let project = &record.project;
        let mut masters = [Some(&self.current), self.next.as_ref()].into_iter().flatten();
        let Some(master) = masters.find(|master| master.name == record.wrapping) else {
            let (path, project) = (self.path.clone(), project.clone());
            return Err(SecretKeyError::Foreign { path, project });
        };
        let damaged = |detail: String| SecretKeyError::Damaged { project: project.clone(), detail };
        let bytes = master.key.open(&place_of_key(project), &record.wrapped);
        let bytes = bytes.map_err(|unopened| damaged(unopened.to_string()))?;
        let bytes = bytes.as_slice().try_into();
        let bytes = bytes.map_err(|_length| damaged("it is of another length".to_owned()))?;
        Ok(Key::new(Zeroizing::new(bytes)))
    }
}

// === impl Master ===

impl Master {
    fn open(path: &Path) -> Result<Self, SecretKeyError> {
        let key = tarn_seal::open_or_create(path)
            .map_err(|source| SecretKeyError::File { path: path.to_owned(), source })?;
        let hash = Sha256::new().chain_update(NAMING).chain_update(key.bytes()).finalize();
        let mut name = String::new();
        for byte in hash.iter().take(8) {
            // Writing to a `String` cannot fail.
            _ = write!(name, "{byte:02x}");
        }
        Ok(Self { key, name })
    }
}

/// Returns where a key lies until it replaces the one of a path.
fn next_path(path: &Path) -> PathBuf {
    path.with_extension("key.next")
}

fn place_of_key(project: &ProjectId) -> String {
    format!("data key {project}")
}

#[cfg(test)]
mod tests {
    use tarn_task::SeededEntropy;

    use super::*;

    fn project(number: u8) -> ProjectId {
        ProjectId::from_random([number; 16])
    }

    #[test]
    fn a_replaced_key_opens_what_both_sealed_until_it_is_in_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("secrets.key");
        let entropy = SeededEntropy::new(1);
        let open = || SecretKeys::open(&path).expect("it opens").masters.into_inner();
        let mut masters = open();
        let key = Key::random(&entropy);
        let old = masters.wrap(&project(1), &key, &entropy);
        assert!(!masters.is_changing());
        masters.begin().expect("it is made");
        let new = masters.wrap(&project(1), &key, &entropy);
        assert_ne!(old.wrapping, new.wrapping);
        // As after a death in between.
        let mut masters = open();
        assert!(masters.is_changing());
        for record in [&old, &new] {
            assert_eq!(masters.unwrap(record).expect("it opens").bytes(), key.bytes());
        }
        masters.begin().expect("it is there");
        masters.finish().expect("it is in place");
        for masters in [masters, open()] {
            assert!(!masters.is_changing());
            assert_eq!(masters.unwrap(&new).expect("it opens").bytes(), key.bytes());
            let refused = masters.unwrap(&old).map(drop).expect_err("its key is gone");
            assert!(matches!(refused, SecretKeyError::Foreign { .. }), "{refused}");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 1);
    }

    #[test]
    fn a_data_key_of_another_project_does_not_open() {
        let dir = tempfile::tempdir().expect("a directory");
        let masters = SecretKeys::open(&dir.path().join("secrets.key")).expect("it opens");
        let (masters, entropy) = (masters.masters.into_inner(), SeededEntropy::new(1));
        let record = masters.wrap(&project(1), &Key::random(&entropy), &entropy);
        let moved = DataKeyRecord { project: project(2), ..record };
        let refused = masters.unwrap(&moved).map(drop).expect_err("it was moved");
        assert!(matches!(refused, SecretKeyError::Damaged { .. }), "{refused}");
    }
}
