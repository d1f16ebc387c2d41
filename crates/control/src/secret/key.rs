//! What the data keys of projects are sealed with: the key of the server, and its replacement, or a
//! key service.
//!
//! ```text
//!  secrets.key, or ──seals──▶ data key of a project ──seals──▶ values of its secrets
//!  a key service               (in the store)                   (in the store)
//! ```
//!
//! Each data key names what sealed it, so both may be in use; new ones are sealed with the master
//! that is configured, and a rotation seals all of them with it anew.
//!
//! A new key is first in a file beside the old one, then every data key is sealed with it in one
//! step, then its file takes the place of the old one. Whoever dies in between goes on at the next
//! start: both keys are there until nothing needs the old one, and each data key names its own.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};
use tarn_seal::{KEY_LENGTH, Key, KeyService, KeyServiceError};
use tarn_store::{DataKeyRecord, StoreError};
use tarn_task::Entropy;
use tarn_types::{ProjectId, UnixMillis};
use thiserror::Error;
use tokio::sync::{RwLock, Semaphore};
use zeroize::Zeroizing;

use super::opened::OpenedKeys;

/// Sets names of keys apart from other hashes of them; part of the format.
const NAMING: &[u8] = b"tarn secrets, name of a key";

/// The same for the owner of a data key that a service seals.
const OWNING: &[u8] = b"tarn secrets, owner of a key";

/// Begins the name of a key of a service; those of files are hexadecimal.
const SERVICE_MARK: &str = "kms:";

/// How many questions a service is asked at a time: a program is started for each.
const SERVICE_QUESTIONS: usize = 4;

/// Says why secrets cannot be opened, or their key not be replaced.
#[derive(Debug, Error)]
pub enum SecretKeyError {
    /// The task that did it ended early.
    #[error("the replacement of the key ended early: {detail}; try again")]
    Lost {
        /// Why.
        detail: String,
    },
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
    /// A data key was sealed by a key service, and there is none.
    #[error(
        "the secrets of {project} were stored with the key `{key_id}` of a key service, and there \
         is none; set secrets.kms_command"
    )]
    NoService {
        /// The key of the service.
        key_id: String,
        /// Whose secrets.
        project: ProjectId,
    },
    /// The key service does not do what it is asked.
    #[error("have the key service {verb} the data key of {project} with its key `{key_id}`")]
    Service {
        /// What it was asked.
        verb: &'static str,
        /// Its key.
        key_id: String,
        /// Whose data key.
        project: ProjectId,
        /// Why not.
        #[source]
        source: KeyServiceError,
    },
    /// The key service does not give back what it was given.
    #[error(
        "the key service does not give back the data key of {project} that its key `{key_id}` \
         sealed; nothing was stored with it"
    )]
    WrongAnswer {
        /// Its key.
        key_id: String,
        /// Whose data key.
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

/// The server's keys for secrets.
#[derive(Debug)]
pub struct SecretKeys {
    /// Written to only for moments, at the begin and the end of a replacement.
    pub(super) masters: RwLock<Masters>,
    /// Held for writing by a replacement, which no new data key may overtake.
    pub(super) creation: RwLock<()>,
    service: Option<ServiceMaster>,
    opened: OpenedKeys,
}

/// A key of a key service.
#[derive(Debug, Clone)]
pub struct ServiceKey {
    /// The service.
    pub service: Arc<dyn KeyService>,
    /// The name of its key, which is stored with all that it seals.
    pub key_id: String,
    /// Whether it seals new data keys; else it opens those that it sealed before.
    pub is_master: bool,
    /// How long a data key that it opened is kept in memory.
    pub kept_secs: u64,
}

#[derive(Debug)]
struct ServiceMaster {
    key: ServiceKey,
    /// How many questions it is asked at a time.
    permits: Semaphore,
}

/// The key, and the one that is about to replace it.
#[derive(Debug)]
pub(super) struct Masters {
    /// None where a key service has its place, and no data key needs it.
    current: Option<Master>,
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
        Self::open_with(path, None)
    }

    /// Takes a key of a key service, too. Where that is the master, no file is made; one that is
    /// there is read, for what it sealed.
    ///
    /// # Errors
    /// Fails when a key file cannot be read or made, or others may read it.
    pub fn open_with(path: &Path, service: Option<ServiceKey>) -> Result<Self, SecretKeyError> {
        let is_there = |path: &Path| {
            let there = path.try_exists();
            there.map_err(|source| SecretKeyError::File { path: path.to_owned(), source })
        };
        let next = next_path(path);
        let next = if is_there(&next)? { Some(Master::open(&next)?) } else { None };
        let needs_file = !service.as_ref().is_some_and(|key| key.is_master);
        let is_needed = needs_file || is_there(path)?;
        let current = if is_needed { Some(Master::open(path)?) } else { None };
        let kept_secs = service.as_ref().map_or(0, |key| key.kept_secs);
        Ok(Self {
            masters: RwLock::new(Masters { current, next, path: path.to_owned() }),
            creation: RwLock::default(),
            service: service
                .map(|key| ServiceMaster { key, permits: Semaphore::new(SERVICE_QUESTIONS) }),
            opened: OpenedKeys::new(kept_secs),
        })
    }

    /// Returns the key of the service that is the master.
    fn service_master(&self) -> Option<&ServiceMaster> {
        self.service.as_ref().filter(|service| service.key.is_master)
    }

    /// Says whether a replacement of the file was begun, which is to be ended.
    pub(super) async fn is_changing(&self) -> bool {
        self.service_master().is_none() && self.masters.read().await.next.is_some()
    }

    /// Begins a replacement.
    pub(super) async fn begin(&self) -> Result<(), SecretKeyError> {
        if self.service_master().is_some() {
            return Ok(());
        }
        self.masters.write().await.begin()
    }

    /// Ends a replacement, when nothing needs the old key any more.
    pub(super) async fn finish(&self) -> Result<(), SecretKeyError> {
        self.opened.clear();
        if self.service_master().is_some() {
            return Ok(());
        }
        self.masters.write().await.finish()
    }

    /// Seals a data key with the master.
    pub(super) async fn wrap(
        &self,
        project: &ProjectId,
        key: &Key,
        entropy: &dyn Entropy,
    ) -> Result<DataKeyRecord, SecretKeyError> {
        let Some(service) = self.service_master() else {
            return self.masters.read().await.wrap(project, key, entropy);
        };
        let wrapped = service.wrap(project, key).await?;
        // One that seals and does not open would lose what is stored next.
        let key_id = service.key.key_id.clone();
        let opened = service.unwrap(&key_id, project, &wrapped).await?;
        if opened.is_none_or(|opened| opened.bytes() != key.bytes()) {
            return Err(SecretKeyError::WrongAnswer { key_id, project: project.clone() });
        }
        let wrapping = format!("{SERVICE_MARK}{key_id}");
        Ok(DataKeyRecord { project: project.clone(), wrapping, wrapped })
    }

    /// Opens a data key.
    pub(super) async fn unwrap(
        &self,
        record: &DataKeyRecord,
        now: UnixMillis,
    ) -> Result<Key, SecretKeyError> {
        let Some(key_id) = record.wrapping.strip_prefix(SERVICE_MARK) else {
            return self.masters.read().await.unwrap(record);
        };
        let project = &record.project;
        // It becomes an argument of a program.
        if key_id.starts_with('-') || !key_id.chars().all(|char| char.is_ascii_graphic()) {
            let detail = "it names no key of a service".to_owned();
            return Err(SecretKeyError::Damaged { project: project.clone(), detail });
        }
        let Some(service) = &self.service else {
            let (key_id, project) = (key_id.to_owned(), project.clone());
            return Err(SecretKeyError::NoService { key_id, project });
        };
        if let Some(key) = self.opened.find(record, now) {
            return Ok(key);
        }
        let _permit = service.permits.acquire().await;
        // Somebody who waited before us may have asked for the same.
        if let Some(key) = self.opened.find(record, now) {
            return Ok(key);
        }
        let Some(key) = service.unwrap(key_id, project, &record.wrapped).await? else {
            let (key_id, project) = (key_id.to_owned(), project.clone());
            return Err(SecretKeyError::WrongAnswer { key_id, project });
        };
        self.opened.keep(record, &key, now);
        Ok(key)
    }

    /// Checks that a data key opens, but asks no service: a start waits for nobody.
    pub(super) async fn check(&self, record: &DataKeyRecord) -> Result<(), SecretKeyError> {
        let is_of_service = record.wrapping.starts_with(SERVICE_MARK);
        if is_of_service && self.service.is_some() {
            return Ok(());
        }
        self.unwrap(record, UnixMillis(0)).await.map(drop)
    }

    /// Says whether the master sealed a data key.
    pub(super) fn is_of_master(&self, record: &DataKeyRecord) -> bool {
        record.wrapping.starts_with(SERVICE_MARK) == self.service_master().is_some()
    }
}

// === impl ServiceMaster ===

impl ServiceMaster {
    async fn wrap(&self, project: &ProjectId, key: &Key) -> Result<Vec<u8>, SecretKeyError> {
        let mut plain = Zeroizing::new(Vec::with_capacity(2 * KEY_LENGTH));
        plain.extend_from_slice(&owner(project));
        plain.extend_from_slice(key.bytes());
        let key_id = &self.key.key_id;
        let wrapped = self.key.service.wrap(key_id, &plain).await;
        wrapped.map_err(|source| failed("wrap", key_id, project, source))
    }

    /// Opens a data key; none if it is not that of the project.
    async fn unwrap(
        &self,
        key_id: &str,
        project: &ProjectId,
        wrapped: &[u8],
    ) -> Result<Option<Key>, SecretKeyError> {
        let plain = self.key.service.unwrap(key_id, wrapped).await;
        let plain = plain.map_err(|source| failed("unwrap", key_id, project, source))?;
        let key = plain.strip_prefix(&owner(project)).and_then(|key| key.try_into().ok());
        Ok(key.map(|key: [u8; KEY_LENGTH]| Key::new(Zeroizing::new(key))))
    }
}

fn failed(
    verb: &'static str,
    key_id: &str,
    project: &ProjectId,
    source: KeyServiceError,
) -> SecretKeyError {
    SecretKeyError::Service { verb, key_id: key_id.to_owned(), project: project.clone(), source }
}

/// Says whose a data key is, before it, as no service needs to know of projects: so none can be
/// moved to another.
fn owner(project: &ProjectId) -> [u8; 32] {
    Sha256::new().chain_update(OWNING).chain_update(place_of_key(project)).finalize().into()
}

// === impl Masters ===

impl Masters {
    /// Makes the key that replaces the present one, unless that was done before.
    fn begin(&mut self) -> Result<(), SecretKeyError> {
        if self.next.is_none() {
            self.next = Some(Master::open(&next_path(&self.path))?);
        }
        Ok(())
    }

    /// Puts the new key in the place of the old one, durably.
    fn finish(&mut self) -> Result<(), SecretKeyError> {
        let Some(next) = self.next.take() else { return Ok(()) };
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let moved = fs::rename(next_path(&self.path), &self.path)
            .and_then(|()| File::open(dir)?.sync_all());
        if let Err(source) = moved {
            self.next = Some(next);
            return Err(SecretKeyError::File { path: self.path.clone(), source });
        }
        self.current = Some(next);
        Ok(())
    }

    /// Seals a data key.
    fn wrap(
        &self,
        project: &ProjectId,
        key: &Key,
        entropy: &dyn Entropy,
    ) -> Result<DataKeyRecord, SecretKeyError> {
        let Some(master) = self.next.as_ref().or(self.current.as_ref()) else {
            let (path, project) = (self.path.clone(), project.clone());
            return Err(SecretKeyError::Foreign { path, project });
        };
        Ok(DataKeyRecord {
            project: project.clone(),
            wrapping: master.name.clone(),
            wrapped: master.key.seal(&place_of_key(project), key.bytes(), entropy),
        })
    }

    /// Opens a data key.
    fn unwrap(&self, record: &DataKeyRecord) -> Result<Key, SecretKeyError> {
        let project = &record.project;
        let mut masters = [self.current.as_ref(), self.next.as_ref()].into_iter().flatten();
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
        let old = masters.wrap(&project(1), &key, &entropy).expect("there is a key");
        assert!(masters.next.is_none());
        masters.begin().expect("it is made");
        let new = masters.wrap(&project(1), &key, &entropy).expect("there is a key");
        assert_ne!(old.wrapping, new.wrapping);
        // As after a death in between.
        let mut masters = open();
        assert!(masters.next.is_some());
        for record in [&old, &new] {
            assert_eq!(masters.unwrap(record).expect("it opens").bytes(), key.bytes());
        }
        masters.begin().expect("it is there");
        masters.finish().expect("it is in place");
        for masters in [masters, open()] {
            assert!(masters.next.is_none());
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
        let record = record.expect("there is a key");
        let moved = DataKeyRecord { project: project(2), ..record };
        let refused = masters.unwrap(&moved).map(drop).expect_err("it was moved");
        assert!(matches!(refused, SecretKeyError::Damaged { .. }), "{refused}");
    }
}
