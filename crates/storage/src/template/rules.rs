//! What may be pulled, and what went wrong in the words of those who asked.

use tarn_host::{ImageError, PullTrouble};
use tarn_oci::{Bounds, OciError, Reference, RegistryOptions};
use tarn_types::{ByteSize, ErrorClass};

use crate::step::chain;

/// The share of a file system's inodes that images leave free: one in this many.
const INODES_PART: u64 = 20;

/// What may be pulled, how, and how much of it; all of it is configuration.
#[derive(Debug, Clone)]
pub struct ImageRules {
    /// Whether images are pulled at all.
    pub pull: bool,
    /// The registries that they are pulled from; none = any.
    pub allowed: Vec<String>,
    /// How registries are reached.
    pub registries: RegistryOptions,
    /// How large an image may be.
    pub bounds: Bounds,
    /// The room on the disk that images leave alone.
    pub reserve: ByteSize,
    /// How many pulls are under way at once.
    pub at_once: usize,
}

// === impl ImageRules ===

impl Default for ImageRules {
    fn default() -> Self {
        Self {
            pull: true,
            allowed: Vec::new(),
            registries: RegistryOptions::default(),
            bounds: Bounds::default(),
            reserve: ByteSize::from_mib(2048),
            at_once: 4,
        }
    }
}

impl ImageRules {
    /// Reads a reference whose image may be pulled.
    pub(super) fn check(&self, text: &str) -> Result<Reference, ImageError> {
        let refused = |reason: String| trouble(text, PullTrouble::Refused, reason);
        if !self.pull {
            let reason = "this server pulls no images; its operator can say images.pull = true, \
                          or give an image that name by `tarn image import`";
            return Err(refused(reason.to_owned()));
        }
        let reference: Reference = text.parse().map_err(|bad| refused(chain(&bad)))?;
        let registry = reference.registry();
        if !self.allowed.is_empty() && !self.allowed.iter().any(|allowed| allowed == registry) {
            return Err(refused(format!(
                "this server pulls no images from {registry}; its operator says in \
                 images.registries from which it does"
            )));
        }
        Ok(reference)
    }
}

pub(super) fn trouble(image: &str, trouble: PullTrouble, reason: String) -> ImageError {
    ImageError::Pull { image: image.to_owned(), trouble, reason }
}

/// Says what a pull ran into. What the disk says is for the log alone.
pub(super) fn trouble_of(image: &str, bad: &OciError) -> ImageError {
    let kind = kind_of(bad);
    if kind == PullTrouble::Internal {
        tracing::error!(image, error = chain(bad), "an image cannot be had for a fault of ours");
    }
    let reason = match (bad.is_for_the_caller(), kind) {
        (true, _) => chain(bad),
        (false, PullTrouble::NoRoom) => "the server's disk is full; try again later".to_owned(),
        (false, _) => "the server's disk failed; its log says more".to_owned(),
    };
    trouble(image, kind, reason)
}

fn kind_of(bad: &OciError) -> PullTrouble {
    match bad.class() {
        ErrorClass::NotFound | ErrorClass::Denied => PullTrouble::NotFound,
        ErrorClass::Unavailable | ErrorClass::Quota if matches!(bad, OciError::Disk { .. }) => {
            PullTrouble::NoRoom
        }
        ErrorClass::Unavailable | ErrorClass::Quota => PullTrouble::Unreachable,
        ErrorClass::Invalid | ErrorClass::Conflict => PullTrouble::Unusable,
        ErrorClass::Cancelled | ErrorClass::Internal => PullTrouble::Internal,
    }
}

/// Returns how much of what is free can be used: nothing where a file system that has a number of
/// inodes is about to run out of them. An image may be millions of empty files.
pub(super) fn usable(free: u64, inodes: u64, inodes_free: u64) -> u64 {
    if inodes_free < inodes / INODES_PART { 0 } else { free }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_operator_allows_is_a_reference() {
        let any = ImageRules::default();
        assert_eq!(any.check("alpine").expect("allowed").registry(), "docker.io");
        let some = ImageRules { allowed: vec!["ghcr.io".to_owned()], ..ImageRules::default() };
        let none = ImageRules { pull: false, ..ImageRules::default() };
        for (rules, text, expected) in [
            (&some, "alpine", Err("images.registries")),
            (&some, "ghcr.io/a/b:1", Ok(())),
            (&none, "ghcr.io/a/b:1", Err("images.pull")),
            (&any, "a//b", Err("repository")),
        ] {
            match (rules.check(text), expected) {
                (Ok(_), Ok(())) => {}
                (Err(bad), Err(words)) => {
                    assert!(bad.to_string().contains(words), "{text}: {bad}");
                }
                (checked, _) => unreachable!("{text}: {checked:?}"),
            }
        }
    }

    #[test]
    fn nothing_is_free_where_inodes_run_out() {
        // Of 0 inodes: a file system that makes them as they are needed.
        for (inodes, inodes_free, free) in [(1000, 50, 7), (1000, 49, 0), (1000, 0, 0), (0, 0, 7)] {
            assert_eq!(usable(7, inodes, inodes_free), free, "{inodes_free} of {inodes}");
        }
    }
}
