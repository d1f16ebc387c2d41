//! The mark of an object store: a sealed object that tells a server that this is its object store,
//! and that its key is the one that everything there is encrypted with.
//!
//! Without a mark, a directory whose disk is not mounted looks like an object store that has lost
//! every snapshot, and a new key makes every snapshot look damaged.

use tarn_host::ArchiveError;
use tarn_task::{Entropy, OsEntropy};
use thiserror::Error;

use super::{
    ObjectArchive,
    bucket::{Bucket, Got},
    place::{self, MARK, SNAPSHOTS},
    sealed::{self, OVERHEAD},
};
use crate::step::chain;

/// What the mark holds. Whoever has the key wrote it; nothing else of it counts.
const HOLDS: &[u8] = b"tarn object store";
/// The longest mark that is read.
const LONGEST: usize = 4096;
/// How many descriptions of snapshots are tried where there is no mark.
const MOST_TRIED: usize = 8;

/// Whether an object store that is claimed must have a mark already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedMark {
    /// It was marked before.
    Present,
    /// Perhaps nobody has marked it yet.
    Unknown,
}

/// Whose an object store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// It is marked, with our key.
    Ours,
    /// A mark was expected, and there is none.
    Blank,
    /// Its mark does not open with our key.
    Strange {
        /// Why.
        detail: String,
    },
    /// It has no mark, and what is there does not open with our key, as far as it was tried.
    Unreadable {
        /// Which object, and why.
        detail: String,
    },
}

/// What is where the mark should be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mark {
    Absent,
    Ours,
    Strange(String),
}

/// Why it is not known whether something is lost.
#[derive(Debug, Error)]
enum Doubt {
    #[error(
        "it is not there, so this may be another object store, or a directory whose disk is not \
         mounted; see that it is the one that object_store.url means, and start the server again"
    )]
    Absent,
    #[error("{0}; bring back the key that this object store is encrypted with")]
    Strange(String),
}

// === impl ObjectArchive ===

impl ObjectArchive {
    /// Lets [`tarn_host::Archive::verify`] call nothing missing or damaged unless the object store
    /// has our mark.
    #[must_use]
    pub fn insisting_on_mark(self) -> Self {
        Self { insists: true, ..self }
    }

    /// Finds out whose the object store is. One without a mark is marked if what is there opens
    /// with our key, or if nothing is there and no mark was expected.
    ///
    /// # Errors
    /// Fails when the object store does not answer, or does not take the mark.
    pub async fn claim(&self, expected: ExpectedMark) -> Result<Claimed, ArchiveError> {
        match self.read_mark(&self.impatient).await? {
            Mark::Ours => return Ok(Claimed::Ours),
            Mark::Strange(detail) => return Ok(Claimed::Strange { detail }),
            Mark::Absent => {}
        }
        let (mut tried, mut strange) = (0, None);
        let mut opens = false;
        let mut listing = self.impatient.list(SNAPSHOTS);
        while tried < MOST_TRIED
            && !opens
            && let Some((path, _age)) = listing.next().await?
        {
            let Some((project, name)) = place::parse_snapshot(&path) else { continue };
            tried += 1;
            match self.vault(&project, &self.urgent).manifest(name).await {
                Ok(Some(_)) => opens = true,
                // It was removed since it was listed.
                Ok(None) => {}
                Err(bad @ ArchiveError::Damaged { .. }) => strange = Some(chain(&bad)),
                Err(failed) => return Err(failed),
            }
        }
        match (opens, strange, expected) {
            (false, Some(detail), _) => Ok(Claimed::Unreadable { detail }),
            (false, None, ExpectedMark::Present) => Ok(Claimed::Blank),
            (true, _, _) | (false, None, ExpectedMark::Unknown) => {
                self.write_mark().await?;
                Ok(Claimed::Ours)
            }
        }
    }

    /// Returns what is to be said of something that is missing or damaged: that, or that nobody
    /// knows, because this may not be our object store.
    pub(super) async fn believe(&self, lost: ArchiveError) -> ArchiveError {
        if !self.insists {
            return lost;
        }
        let doubt = match self.read_mark(&self.bucket).await {
            Ok(Mark::Ours) => return lost,
            Ok(Mark::Absent) => Doubt::Absent,
            Ok(Mark::Strange(detail)) => Doubt::Strange(detail),
            Err(failed) => return failed,
        };
        let (step, object) = ("recognition", MARK.to_owned());
        ArchiveError::Store { step, object, source: Box::new(doubt) }
    }

    async fn read_mark(&self, bucket: &Bucket) -> Result<Mark, ArchiveError> {
        let body = match bucket.get(MARK, LONGEST + OVERHEAD).await? {
            Got::Absent => return Ok(Mark::Absent),
            Got::TooLarge(size) => {
                return Ok(Mark::Strange(format!("{MARK}: it has {size} bytes")));
            }
            Got::Whole(body) => body,
        };
        Ok(match sealed::open(&self.key.of_store(), MARK, &body, LONGEST) {
            Ok(_) => Mark::Ours,
            Err(error) => Mark::Strange(format!("{MARK}: {error}")),
        })
    }

    async fn write_mark(&self) -> Result<(), ArchiveError> {
        let entropy: &dyn Entropy = &OsEntropy;
        let body = sealed::seal(&self.key.of_store(), MARK, entropy.bytes(), HOLDS);
        self.impatient.put(MARK, body).await
    }
}
