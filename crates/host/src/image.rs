//! Images, resolved to templates ready to start from.

mod hold;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use tarn_types::{
    ByteSize, ErrorClass, ImageConfig, ImageDigest, ImageName, ImagePin, RegistryLogin, UnixMillis,
};
use thiserror::Error;

pub use self::hold::{ImageHold, ImageHolds};

/// A read-only root file system made from an image, shared by all its sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Names the content: `sha256:` and 64 hex digits.
    pub digest: String,
    /// The directory that holds the tree.
    pub root: PathBuf,
    /// What the image says about running it.
    pub config: ImageConfig,
}

/// An image that was pulled or imported, or is being pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Which one.
    pub digest: ImageDigest,
    /// What it was pulled by, or the file it was imported from.
    pub origin: String,
    /// The bytes of its files; of one that is on its way, those that are expected.
    pub size: ByteSize,
    /// When a sandbox last began from it.
    pub used_at: UnixMillis,
    /// How far it is; `None` = it is here.
    pub progress: Option<PullProgress>,
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PullProgress {
    /// How many layers the image has.
    pub layers: usize,
    /// How many of them are here.
    pub layers_done: usize,
    /// The bytes to be fetched.
    pub bytes: u64,
    /// The bytes that were fetched.
    pub bytes_done: u64,
}

/// What became of a wish to remove an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Done,
    /// Somebody needs it, or it is on its way.
    Needed,
    /// There is none.
    Absent,
}

/// What kept an image from being found or brought here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullTrouble {
    /// The reference is none, or the configuration does not allow it.
    Refused,
    /// The registry has no such image, or shows it to others only.
    NotFound,
    /// The registry does not answer.
    Unreachable,
    /// What the registry or the file holds is damaged, hostile or not for this machine.
    Unusable,
    /// There is no room for it.
    NoRoom,
    /// A fault of ours.
    Internal,
}

/// Says why an image cannot be started from.
#[derive(Debug, Clone, Error)]
pub enum ImageError {
    /// No image has that name.
    #[error("no image is named `{name}`")]
    NotFound {
        /// The name asked for.
        name: ImageName,
    },
    /// A stock image that is made only when it is wanted, and was not made yet.
    #[error("the stock image `{name}` is not built here; `{command}` builds it")]
    NotBuilt {
        /// The name asked for.
        name: ImageName,
        /// What the operator runs.
        command: &'static str,
    },
    /// The image is there but cannot be used.
    #[error("image `{name}` cannot be used: {reason}")]
    Unusable {
        /// The name asked for.
        name: ImageName,
        /// What is wrong with it.
        reason: String,
    },
    /// The image was not found at its registry or not brought from there.
    #[error("image `{image}`: {reason}")]
    Pull {
        /// Its reference, its digest or its file.
        image: String,
        /// What kind of trouble there is.
        trouble: PullTrouble,
        /// What happened, and what to do.
        reason: String,
    },
}

/// Finds templates, and brings images here that templates are made of.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// Returns the template of a stock image.
    ///
    /// # Errors
    /// Fails when no image has the name, or its files are damaged.
    async fn resolve(&self, name: &ImageName) -> Result<Template, ImageError>;

    /// Returns the template of a digest, whatever its image is called now.
    ///
    /// # Errors
    /// Fails when there is none, or its files are damaged; `name` is for the message.
    async fn resolve_digest(&self, digest: &str, name: &ImageName) -> Result<Template, ImageError>;

    /// Returns every name of a stock image that resolves, sorted.
    async fn names(&self) -> Vec<ImageName>;

    /// Returns the image that a create without `image` gets.
    fn default_image(&self) -> ImageName;

    /// Returns the host of the registry that a reference names, which says whose password it wants.
    ///
    /// # Errors
    /// Fails when the text is no reference, or images of that registry may not be pulled.
    fn registry_of(&self, reference: &str) -> Result<String, ImageError>;

    /// Asks a registry which image a reference names now, without bringing it here.
    ///
    /// # Errors
    /// Fails when the registry does not say.
    async fn look_up(
        &self,
        reference: &str,
        login: Option<&RegistryLogin>,
    ) -> Result<ImagePin, ImageError>;

    /// Says whether a pulled or imported image is here.
    fn is_here(&self, digest: &ImageDigest) -> bool;

    /// Brings an image here, unless it is; whoever waits for the same one waits for the same pull.
    /// A pull goes on when nobody waits any more, and after the death of the server from where it
    /// was.
    ///
    /// # Errors
    /// Fails when it does not come, or came from a file and is gone.
    async fn pull(&self, pin: &ImagePin, login: Option<&RegistryLogin>) -> Result<(), ImageError>;

    /// Takes an image out of a file or directory: an OCI layout, or an archive of one or of
    /// Docker's; `choose` names one of several.
    ///
    /// # Errors
    /// Fails when there is no image that can be used.
    async fn import(&self, file: &Path, choose: Option<&str>) -> Result<ImagePin, ImageError>;

    /// Returns the images that were pulled or imported, and those on their way.
    async fn stored(&self) -> Vec<StoredImage>;

    /// Tells who needs which image: what is held, or was since a mark, is not removed.
    fn holds(&self) -> &ImageHolds;

    /// Removes an image that nobody has held since a mark.
    ///
    /// # Errors
    /// Fails when the host does not remove it.
    async fn remove(&self, digest: &ImageDigest, mark: u64) -> Result<Removal, ImageError>;

    /// Says whether there is so little room that images should go that nothing needs.
    async fn is_short(&self) -> bool;

    /// Says whether there is something of pulls that did not come to an end and are not under way.
    async fn has_remains(&self) -> bool;

    /// Removes what is left of such pulls, but for those of these images.
    async fn forget_pulls(&self, needed: &BTreeSet<ImageDigest>);
}

// === impl ImageError ===

impl ImageError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } | Self::NotBuilt { .. } => ErrorClass::NotFound,
            Self::Unusable { .. } => ErrorClass::Internal,
            Self::Pull { trouble, .. } => match trouble {
                PullTrouble::Refused | PullTrouble::Unusable => ErrorClass::Invalid,
                PullTrouble::NotFound => ErrorClass::NotFound,
                PullTrouble::Unreachable | PullTrouble::NoRoom => ErrorClass::Unavailable,
                PullTrouble::Internal => ErrorClass::Internal,
            },
        }
    }
}
