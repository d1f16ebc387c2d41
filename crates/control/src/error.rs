//! Why the control plane refused or failed. The text is what a caller reads.

use tarn_store::StoreError;
use tarn_types::{
    ByteSize, ErrorClass, ImageName, PoolId, SandboxId, SandboxName, SandboxStatus, SecretName,
    SnapshotId, SnapshotRecord, SnapshotStatus, TemplateId,
};
use thiserror::Error;

/// Says why a call did nothing.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The key is missing, unknown or revoked.
    #[error(
        "the API key is missing or not valid; send `Authorization: Bearer <key>` (`tarn key create` makes one)"
    )]
    Unauthenticated,
    /// A field cannot be what it is.
    #[error("{field}: {reason}")]
    Invalid {
        /// The JSON path.
        field: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A field is outside a configured limit.
    #[error("{field}: {value} is outside the limit; {limit}")]
    LimitExceeded {
        /// The JSON path.
        field: &'static str,
        /// What was asked.
        value: String,
        /// What is allowed, such as "at least 128 MiB".
        limit: String,
    },
    /// No node has that GPU model.
    #[error("resources.gpus[0].model: no node has a GPU of model `{0}`")]
    NoSuchGpu(String),
    /// No image has that name.
    #[error("image: no image is named `{name}`. {tried}")]
    ImageNotFound {
        /// The name asked for.
        name: ImageName,
        /// What there is, and what was tried.
        tried: String,
    },
    /// The image cannot be had just now.
    #[error("image: `{name}` cannot be had now: {reason}")]
    ImageUnavailable {
        /// The name asked for.
        name: ImageName,
        /// Why, and what to do.
        reason: String,
    },
    /// The caller's project sees no such registered image.
    #[error("no image `{0}` is registered here")]
    NoSuchImage(String),
    /// The same, of a create's field.
    #[error("template_id: no image `{0}` is registered here; `image` takes names")]
    TemplateNotFound(String),
    /// A request names two images.
    #[error("template_id: `{id}` is not {other}; send one of them, or leave `template_id` out")]
    TemplateMismatch {
        /// The one that it names by its id.
        id: TemplateId,
        /// What else it names.
        other: String,
    },
    /// The name is one that another project has given to an image, for all.
    #[error("name: `{0}` is another project's name for all; choose another name")]
    ImageNameTaken(ImageName),
    /// The project may give no names for all.
    #[error(
        "name: only the projects in `images.publishers` of the server's configuration may give an \
         image a name for all projects; leave that out, or ask the operator"
    )]
    NoPublisher,
    /// The project would keep more of something than it may.
    #[error(
        "the project may have {most} {what} (`{key}`), and has {there}; delete some first, or ask \
         the operator for more"
    )]
    TooMany {
        /// Of what, such as "pools".
        what: &'static str,
        /// The key of the configuration that says how many.
        key: &'static str,
        /// How many it has.
        there: usize,
        /// How many it may have.
        most: u32,
    },
    /// The capture that an image needs did not work. The sandbox runs on.
    #[error("the files of sandbox {id} were not taken: {reason}")]
    ImageNotCaptured {
        /// The sandbox.
        id: SandboxId,
        /// Why.
        reason: String,
    },
    /// The name is that of a stock image which was not made yet.
    #[error(
        "image: the stock image `{name}` is not built on this server; run `{command}` in tarn's \
         directory on its host, then try again"
    )]
    ImageNotBuilt {
        /// The name asked for.
        name: ImageName,
        /// What the operator runs.
        command: &'static str,
    },
    /// The caller's project has no such sandbox.
    #[error("no sandbox `{0}`")]
    SandboxNotFound(String),
    /// Another live sandbox has the name.
    #[error("the name `{name}` is taken by sandbox {holder}; terminate it or choose another name")]
    NameTaken {
        /// The name.
        name: SandboxName,
        /// Who has it.
        holder: SandboxId,
    },
    /// The sandbox has ended.
    #[error("sandbox {0} is terminated")]
    Terminated(SandboxId),
    /// Only a named sandbox can do that.
    #[error("{field}: only a named sandbox has it; give the sandbox a name")]
    Ephemeral {
        /// The JSON path.
        field: &'static str,
    },
    /// An unnamed sandbox cannot be suspended.
    #[error(
        "sandbox {0} has no name, and only a named one can be suspended; name it by PATCH first, \
         or take a snapshot of it"
    )]
    Unnamed(SandboxId),
    /// The operation needs a running sandbox.
    #[error("sandbox {id} is {}; this needs a running one", status.as_str())]
    NotRunning {
        /// The sandbox.
        id: SandboxId,
        /// What it is.
        status: SandboxStatus,
    },
    /// There is no network log of the sandbox.
    #[error(
        "sandbox {id} is {} and has no network log; one begins with each start or resume and is \
         kept in memory, for an hour beyond its end",
        status.as_str()
    )]
    NoNetworkLog {
        /// The sandbox.
        id: SandboxId,
        /// What it is.
        status: SandboxStatus,
    },
    /// Something else is being done with the sandbox.
    #[error("sandbox {id} is busy: {what}; try again when that is done")]
    Busy {
        /// The sandbox.
        id: SandboxId,
        /// What is being done.
        what: String,
    },
    /// The caller's project has no such snapshot.
    #[error("no snapshot `{0}`")]
    SnapshotNotFound(String),
    /// The snapshot cannot be restored from, now or ever.
    #[error(
        "snapshot {id} is {}{}; only one that is local_ready or completed can be used",
        status.as_str(),
        error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default()
    )]
    SnapshotNotReady {
        /// The snapshot.
        id: SnapshotId,
        /// What it is.
        status: SnapshotStatus,
        /// Why it is that.
        error: Option<String>,
    },
    /// A field of a restore is fixed by the snapshot.
    #[error("{field}: it comes from the snapshot; {remedy}")]
    SnapshotOverrideForbidden {
        /// The JSON path.
        field: &'static str,
        /// What to do.
        remedy: String,
    },
    /// A disk can only grow.
    #[error("resources.disk_mb: {asked} is less than the {least} of the {of}; a disk only grows")]
    DiskShrinkForbidden {
        /// Whose disk it is: "snapshot", "image" or "sandbox".
        of: &'static str,
        /// What was asked.
        asked: ByteSize,
        /// What there is already.
        least: ByteSize,
    },
    /// The node of a running sandbox cannot give it more now.
    #[error(
        "sandbox {id} cannot have that now: {what}; try again when others have ended, or ask for \
         less. Nothing was changed"
    )]
    NoRoom {
        /// The sandbox.
        id: SandboxId,
        /// What its node is short of.
        what: &'static str,
    },
    /// No node can restore that memory snapshot.
    #[error("no node here can restore snapshot {id}: {reason}")]
    SnapshotIncompatible {
        /// The snapshot.
        id: SnapshotId,
        /// Why.
        reason: String,
    },
    /// The caller's project has no such secret, and a sandbox is to have it.
    #[error(
        "secret_names: no secret is named `{0}`; set it by PUT /platform/v1/secrets, or leave it \
         out"
    )]
    NoSuchSecret(SecretName),
    /// The caller's project has no such secret.
    #[error("no secret `{0}`; GET /platform/v1/secrets lists them")]
    SecretNotFound(String),
    /// The caller's project has no such pool.
    #[error("no sandbox pool `{0}`")]
    PoolNotFound(String),
    /// A sandbox of the pool lives.
    #[error(
        "pool {id} is in use: {} claimed from it and not terminated; terminate first what is alive",
        sandboxes(*live)
    )]
    PoolInUse {
        /// The pool.
        id: PoolId,
        /// How many.
        live: usize,
    },
    /// The project's quota leaves less.
    #[error(
        "the project's quota of sandboxes that are not suspended is {most}, of which {taken} are \
         taken; {asked} more would exceed it: terminate or suspend some, or ask the operator for \
         more (`tarn project quota`)"
    )]
    QuotaExceeded {
        /// How many there are, or are about to be.
        taken: u64,
        /// How many more were asked for.
        asked: u32,
        /// How many there may be.
        most: u32,
    },
    /// The project has that SSH key.
    #[error("the key {fingerprint} is registered already; remove that one first, or use it")]
    SshKeyExists {
        /// Its fingerprint.
        fingerprint: String,
    },
    /// The capture that a copy needs did not work. The source runs on.
    #[error("sandbox {id} was not copied, and runs on: {reason}")]
    CaptureFailed {
        /// The source.
        id: SandboxId,
        /// Why.
        reason: String,
    },
    /// The memory of a sandbox that has GPUs cannot be written down.
    #[error(
        "sandbox {id} has GPUs, and what is in them cannot be written down with its memory; {remedy}"
    )]
    HasGpus {
        /// The sandbox.
        id: SandboxId,
        /// What can be done instead.
        remedy: &'static str,
    },
    /// This build cannot do that; nothing was changed.
    #[error("{field}: not supported by this server; leave it out")]
    NotSupported {
        /// The JSON path.
        field: &'static str,
    },
    /// There is no such key or project.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The key service cannot open the keys of the secrets just now.
    #[error(
        "the secrets and registry logins of this project cannot be opened or stored just now, \
         because the server's key service does not answer as it should; try again later, or do \
         without `secret_names`"
    )]
    KeysUnavailable {
        /// For our log only.
        detail: String,
    },
    /// The store or the node cannot take work just now.
    #[error("the control plane cannot do this just now; try again")]
    Unavailable {
        /// For our log only.
        detail: String,
    },
    /// A fault of ours.
    #[error("internal error; the server's log says more")]
    Internal {
        /// For our log only.
        detail: String,
    },
}

// === impl ControlError ===

impl ControlError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unauthenticated | Self::NoPublisher => ErrorClass::Denied,
            Self::Invalid { .. }
            | Self::LimitExceeded { .. }
            | Self::NoSuchGpu(_)
            | Self::Ephemeral { .. }
            | Self::Unnamed(_)
            | Self::NotRunning { .. }
            | Self::NoNetworkLog { .. }
            | Self::SnapshotNotReady { .. }
            | Self::SnapshotOverrideForbidden { .. }
            | Self::DiskShrinkForbidden { .. }
            | Self::SnapshotIncompatible { .. }
            | Self::NoSuchSecret(_)
            | Self::TemplateMismatch { .. }
            | Self::HasGpus { .. }
            | Self::NotSupported { .. } => ErrorClass::Invalid,
            Self::ImageNotFound { .. }
            | Self::ImageNotBuilt { .. }
            | Self::NoSuchImage(_)
            | Self::TemplateNotFound(_)
            | Self::SandboxNotFound(_)
            | Self::SnapshotNotFound(_)
            | Self::PoolNotFound(_)
            | Self::SecretNotFound(_)
            | Self::NotFound(_) => ErrorClass::NotFound,
            Self::NameTaken { .. }
            | Self::ImageNameTaken(_)
            | Self::Terminated(_)
            | Self::PoolInUse { .. }
            | Self::SshKeyExists { .. }
            | Self::Busy { .. } => ErrorClass::Conflict,
            Self::QuotaExceeded { .. } | Self::TooMany { .. } => ErrorClass::Quota,
            Self::NoRoom { .. }
            | Self::ImageUnavailable { .. }
            | Self::KeysUnavailable { .. }
            | Self::Unavailable { .. } => ErrorClass::Unavailable,
            Self::CaptureFailed { .. } | Self::ImageNotCaptured { .. } | Self::Internal { .. } => {
                ErrorClass::Internal
            }
        }
    }

    pub(crate) fn not_ready(snapshot: &SnapshotRecord) -> Self {
        let SnapshotRecord { id, status, error, .. } = snapshot.clone();
        Self::SnapshotNotReady { id, status, error }
    }

    /// Returns what belongs in our log and not in an answer.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::KeysUnavailable { detail }
            | Self::Unavailable { detail }
            | Self::Internal { detail } => Some(detail),
            Self::Unauthenticated
            | Self::Invalid { .. }
            | Self::LimitExceeded { .. }
            | Self::NoSuchGpu(_)
            | Self::ImageNotFound { .. }
            | Self::ImageNotBuilt { .. }
            | Self::ImageUnavailable { .. }
            | Self::NoSuchImage(_)
            | Self::TemplateNotFound(_)
            | Self::TemplateMismatch { .. }
            | Self::ImageNameTaken(_)
            | Self::NoPublisher
            | Self::TooMany { .. }
            | Self::ImageNotCaptured { .. }
            | Self::SandboxNotFound(_)
            | Self::NameTaken { .. }
            | Self::Terminated(_)
            | Self::Ephemeral { .. }
            | Self::Unnamed(_)
            | Self::NotRunning { .. }
            | Self::NoNetworkLog { .. }
            | Self::Busy { .. }
            | Self::SnapshotNotFound(_)
            | Self::SnapshotNotReady { .. }
            | Self::SnapshotOverrideForbidden { .. }
            | Self::DiskShrinkForbidden { .. }
            | Self::NoRoom { .. }
            | Self::SnapshotIncompatible { .. }
            | Self::NoSuchSecret(_)
            | Self::SecretNotFound(_)
            | Self::PoolNotFound(_)
            | Self::PoolInUse { .. }
            | Self::QuotaExceeded { .. }
            | Self::SshKeyExists { .. }
            | Self::CaptureFailed { .. }
            | Self::HasGpus { .. }
            | Self::NotSupported { .. }
            | Self::NotFound(_) => None,
        }
    }
}

impl From<StoreError> for ControlError {
    fn from(failed: StoreError) -> Self {
        match failed {
            StoreError::NameTaken { name, holder } => Self::NameTaken { name, holder },
            StoreError::NotFound { what } => Self::NotFound(what),
            StoreError::Unavailable { detail } => Self::Unavailable { detail },
            StoreError::Conflict { .. }
            | StoreError::SnapshotConflict { .. }
            | StoreError::PoolConflict { .. }
            | StoreError::Exists { .. }
            | StoreError::Internal { .. } => Self::Internal { detail: failed.to_string() },
        }
    }
}

fn sandboxes(count: usize) -> String {
    match count {
        1 => "1 sandbox is".to_owned(),
        more => format!("{more} sandboxes are"),
    }
}
