//! What is known beside the certificate itself, for the next start and for who looks from outside.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tarn_types::UnixMillis;
use thiserror::Error;

use crate::{
    file,
    schedule::{Window, first_try},
};

/// The version of the file; a reader ignores files of others, and begins anew.
const FORMAT: u32 = 1;

/// How it stands with the certificates of an authority.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AcmeStanding {
    /// Which directory the certificate in use came from; none before there is one.
    pub directory: Option<String>,
    /// When the next try is; none if it is now.
    pub next_try: Option<UnixMillis>,
    /// How the last try failed, if it did.
    pub failure: Option<AcmeFailure>,
    pub(crate) advice: Option<Advice>,
}

/// How tries have failed lately.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeFailure {
    /// How many in a row.
    pub count: u32,
    /// When the last one did, in milliseconds of Unix time.
    #[serde(with = "millis")]
    pub at: UnixMillis,
    /// Before when there is none again.
    #[serde(with = "millis")]
    pub(crate) not_before: UnixMillis,
    /// Why.
    pub error: String,
}

/// What the authority says about renewing a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Advice {
    /// Which certificate it is about.
    pub(crate) certificate: String,
    #[serde(with = "millis")]
    pub(crate) from: UnixMillis,
    #[serde(with = "millis")]
    pub(crate) until: UnixMillis,
    /// When it is asked again.
    #[serde(with = "millis")]
    pub(crate) ask_again: UnixMillis,
    /// Which part of the window was drawn, in thousandths.
    pub(crate) drawn: u16,
}

/// Says why the file cannot be used.
#[derive(Debug, Error)]
#[error("{step} {}", .path.display())]
pub struct AcmeStateError {
    pub(crate) step: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    #[serde(default)]
    directory: Option<String>,
    #[serde(default)]
    next_try_ms: Option<i64>,
    #[serde(default)]
    failure: Option<AcmeFailure>,
    #[serde(default)]
    advice: Option<Advice>,
}

// === impl AcmeFailure ===

impl AcmeFailure {
    /// Makes one after which there may be a try at once.
    #[must_use]
    pub fn new(count: u32, at: UnixMillis, error: &str) -> Self {
        Self { count, at, not_before: at, error: error.to_owned() }
    }
}

// === impl AcmeStanding ===

impl AcmeStanding {
    /// Reads what a server has left in its directory. Blocks.
    ///
    /// # Errors
    /// Fails when the file is there and cannot be read.
    pub fn read(dir: &Path) -> Result<Self, AcmeStateError> {
        let path = path(dir);
        let bytes = match file::read(&path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Self::default()),
            Err(source) => return Err(AcmeStateError { step: "read", path, source }),
        };
        match serde_json::from_slice::<Stored>(&bytes) {
            Ok(Stored { format: FORMAT, directory, next_try_ms, failure, advice }) => {
                let next_try = next_try_ms.map(UnixMillis);
                Ok(Self { directory, next_try, failure, advice })
            }
            // It holds nothing that cannot be found out again.
            Ok(_) | Err(_) => Ok(Self::default()),
        }
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<(), AcmeStateError> {
        let stored = Stored {
            format: FORMAT,
            directory: self.directory.clone(),
            next_try_ms: self.next_try.map(|at| at.0),
            failure: self.failure.clone(),
            advice: self.advice.clone(),
        };
        let failed = |source| AcmeStateError { step: "write", path: path(dir), source };
        let bytes = serde_json::to_vec_pretty(&stored).map_err(|bad| failed(bad.into()))?;
        file::write(&path(dir), &bytes).map_err(failed)
    }

    /// Takes into account that the server was started anew.
    pub(crate) fn started(mut self) -> Self {
        if let Some(failure) = &mut self.failure {
            failure.not_before = first_try(failure.count, failure.at, failure.not_before);
        }
        self
    }

    /// Returns the window for a certificate, and which part of it was drawn.
    pub(crate) fn window(&self, certificate: &str) -> Option<(Window, u16)> {
        let advice = self.advice.as_ref().filter(|advice| advice.certificate == certificate)?;
        Some((Window { from: advice.from, until: advice.until }, advice.drawn))
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("state.json")
}

mod millis {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};
    use tarn_types::UnixMillis;

    pub(super) fn serialize<S: Serializer>(at: &UnixMillis, to: S) -> Result<S::Ok, S::Error> {
        at.0.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<UnixMillis, D::Error> {
        i64::deserialize(from).map(UnixMillis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> AcmeStanding {
        AcmeStanding {
            directory: Some("https://ca.example/dir".to_owned()),
            next_try: Some(UnixMillis(7)),
            failure: Some(AcmeFailure {
                count: 9,
                at: UnixMillis(1_000_000),
                not_before: UnixMillis(90_000_000),
                error: "no".to_owned(),
            }),
            advice: Some(Advice {
                certificate: "a.b".to_owned(),
                from: UnixMillis(1),
                until: UnixMillis(2),
                ask_again: UnixMillis(3),
                drawn: 4,
            }),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(AcmeStanding::read(dir.path()).expect("none"), AcmeStanding::default());
        standing().write(dir.path()).expect("written");
        let read = AcmeStanding::read(dir.path()).expect("readable");
        assert_eq!(read, standing());
        assert_eq!(read.window("a.c"), None, "of another certificate");
        assert!(read.window("a.b").is_some_and(|(_, drawn)| drawn == 4));
        let failure = read.started().failure.expect("it failed");
        assert_eq!(failure.not_before, UnixMillis(1_000_000).plus_secs(12 * 60));
    }

    #[test]
    fn the_first_version_is_read_for_ever_and_others_are_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let golden = r#"{"format": 1, "directory": "d", "next_try_ms": 5, "later": true,
            "failure": {"count": 2, "at": 3, "not_before": 4, "error": "e"}}"#;
        let read = |text: &str| {
            std::fs::write(path(dir.path()), text).expect("written");
            AcmeStanding::read(dir.path()).expect("readable")
        };
        let standing = read(golden);
        assert_eq!(standing.directory.as_deref(), Some("d"));
        assert_eq!(standing.failure.map(|failure| failure.count), Some(2));
        for other in ["", "{}", "[1]", &golden.replace(": 1,", ": 2,")] {
            assert_eq!(read(other), AcmeStanding::default(), "{other}");
        }
    }
}
