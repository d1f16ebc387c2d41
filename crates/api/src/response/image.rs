//! Images and registries as the administrator sees them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A pulled or imported image, or one on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminImage {
    /// The digest of its manifest.
    pub digest: String,
    /// What it was pulled by, or imported from.
    pub origin: String,
    /// The bytes of its files; of one that is on its way, those that are fetched in all.
    pub size_bytes: u64,
    /// Its names.
    pub names: Vec<AdminImageName>,
    /// How many sandboxes there are of it that are not terminated.
    pub sandboxes: usize,
    /// When a sandbox last began from it, in milliseconds since the epoch.
    pub used_at: i64,
    /// How far it is; absent when it is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulling: Option<AdminPull>,
}

/// A name of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminImageName {
    /// The name.
    pub name: String,
    /// The name of its project; absent for one that counts in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_name: Option<String>,
    /// The digest of the image.
    pub digest: String,
}

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminPull {
    /// How many layers the image has.
    pub layers: usize,
    /// How many of them are here.
    pub layers_done: usize,
    /// The bytes to be fetched.
    pub bytes: u64,
    /// The bytes that were fetched.
    pub bytes_done: u64,
}

/// The images that are no stock images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminImageList {
    /// Those that were pulled or imported.
    pub images: Vec<AdminImage>,
    /// Registered ones.
    #[serde(default)]
    pub registered: Vec<AdminRegisteredImage>,
}

/// A registered image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminRegisteredImage {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The name of the project that made it.
    pub project_name: String,
    /// Whether its name counts in all projects.
    pub global: bool,
    /// Its files.
    pub snapshot_id: String,
    /// The bytes that they occupy, beside the image that it was built on.
    pub size_bytes: u64,
    /// The size of its disk.
    pub disk_bytes: u64,
    /// How many sandboxes there are of it that are not terminated.
    pub sandboxes: usize,
    /// When the name was last given, in milliseconds since the epoch.
    pub updated_at: i64,
}

/// The names that an image was given, or lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminImageNames {
    /// The names.
    pub names: Vec<AdminImageName>,
}

/// What a project shows to a registry, without the password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminRegistryLogin {
    /// The name of the project.
    pub project_name: String,
    /// The registry.
    pub registry: String,
    /// The user's name there.
    pub username: String,
    /// When it was last set, in milliseconds since the epoch.
    pub updated_at: i64,
}

/// What all projects show to registries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminRegistryLoginList {
    /// The logins.
    pub logins: Vec<AdminRegistryLogin>,
}
