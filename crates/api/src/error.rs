//! The codes of the control plane's errors, and the body that carries them (spec 00 §3).

use std::fmt;

use serde::{Serialize, Serializer};
use tarn_types::ErrorClass;
use thiserror::Error;
use utoipa::ToSchema;

/// Every code that the control plane emits. Codes never change meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// The request is malformed.
    InvalidRequest,
    /// A value is outside a configured limit.
    LimitExceeded,
    /// This build or runtime cannot do it; nothing was changed.
    NotSupported,
    /// No valid key was sent.
    Unauthenticated,
    /// The key may not do this.
    Forbidden,
    /// No such route, or no such object without a code of its own.
    NotFound,
    /// The path exists, with other methods.
    MethodNotAllowed,
    /// The project has no such sandbox.
    SandboxNotFound,
    /// Another live sandbox of the project has the name.
    SandboxNameTaken,
    /// Only a named sandbox can do that.
    SandboxEphemeral,
    /// The sandbox has ended.
    SandboxTerminated,
    /// The operation needs a sandbox that runs.
    SandboxNotRunning,
    /// Another snapshot or transition of the sandbox is under way.
    SandboxBusy,
    /// The project has no such snapshot.
    SnapshotNotFound,
    /// The snapshot is still being taken, or was not taken.
    SnapshotNotReady,
    /// A restore names a field that comes from the snapshot.
    SnapshotOverrideForbidden,
    /// No host here can restore the memory snapshot.
    SnapshotIncompatible,
    /// The project has no such pool.
    PoolNotFound,
    /// A sandbox that was claimed from the pool lives.
    PoolInUse,
    /// The project has no such secret.
    SecretNotFound,
    /// The disk would become smaller.
    DiskShrinkForbidden,
    /// No image has that name.
    ImageNotFound,
    /// No registered image has that id.
    TemplateNotFound,
    /// A request names two images.
    TemplateMismatch,
    /// Another project has given the name to a registered image for all.
    ImageNameTaken,
    /// No node has that GPU model.
    NoSuchGpu,
    /// The project has that SSH key already.
    SshKeyExists,
    /// The project has no such build.
    BuildNotFound,
    /// The build takes no context any more.
    BuildNotAwaiting,
    /// A quota of the project leaves less.
    QuotaExceeded,
    /// Too many requests with the key.
    RateLimited,
    /// The body is too large.
    PayloadTooLarge,
    /// A fault of ours.
    Internal,
    /// Starting, draining, or the store is away.
    Unavailable,
}

/// The body of every error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What happened, and what to do.
    pub error: String,
    /// The stable code.
    #[schema(value_type = String, example = "SANDBOX_NOT_FOUND")]
    pub code: ErrorCode,
    /// The same text again, under `/platform/v1` and `/images/v4` only: the `tl` CLI shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Says why a request was refused before anything was done, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct Refusal {
    code: ErrorCode,
    text: String,
}

// === impl ErrorCode ===

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 34] = [
        Self::InvalidRequest,
        Self::LimitExceeded,
        Self::NotSupported,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::SandboxNotFound,
        Self::SandboxNameTaken,
        Self::SandboxEphemeral,
        Self::SandboxTerminated,
        Self::SandboxNotRunning,
        Self::SandboxBusy,
        Self::SnapshotNotFound,
        Self::SnapshotNotReady,
        Self::SnapshotOverrideForbidden,
        Self::SnapshotIncompatible,
        Self::PoolNotFound,
        Self::PoolInUse,
        Self::SecretNotFound,
        Self::DiskShrinkForbidden,
        Self::ImageNotFound,
        Self::TemplateNotFound,
        Self::TemplateMismatch,
        Self::ImageNameTaken,
        Self::NoSuchGpu,
        Self::SshKeyExists,
        Self::BuildNotFound,
        Self::BuildNotAwaiting,
        Self::QuotaExceeded,
        Self::RateLimited,
        Self::PayloadTooLarge,
        Self::Internal,
        Self::Unavailable,
    ];

    /// Returns the word on the wire; `docs/errors/<word>.md` is its page.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::LimitExceeded => "LIMIT_EXCEEDED",
            Self::NotSupported => "NOT_SUPPORTED",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Forbidden => "FORBIDDEN",
            Self::NotFound => "NOT_FOUND",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::SandboxNotFound => "SANDBOX_NOT_FOUND",
            Self::SandboxNameTaken => "SANDBOX_NAME_TAKEN",
            Self::SandboxEphemeral => "SANDBOX_EPHEMERAL",
            Self::SandboxTerminated => "SANDBOX_TERMINATED",
            Self::SandboxNotRunning => "SANDBOX_NOT_RUNNING",
            Self::SandboxBusy => "SANDBOX_BUSY",
            Self::SnapshotNotFound => "SNAPSHOT_NOT_FOUND",
            Self::SnapshotNotReady => "SNAPSHOT_NOT_READY",
            Self::SnapshotOverrideForbidden => "SNAPSHOT_OVERRIDE_FORBIDDEN",
            Self::SnapshotIncompatible => "SNAPSHOT_INCOMPATIBLE",
            Self::PoolNotFound => "POOL_NOT_FOUND",
            Self::PoolInUse => "POOL_IN_USE",
            Self::SecretNotFound => "SECRET_NOT_FOUND",
            Self::DiskShrinkForbidden => "DISK_SHRINK_FORBIDDEN",
            Self::ImageNotFound => "IMAGE_NOT_FOUND",
            Self::TemplateNotFound => "TEMPLATE_NOT_FOUND",
            Self::TemplateMismatch => "TEMPLATE_MISMATCH",
            Self::ImageNameTaken => "IMAGE_NAME_TAKEN",
            Self::NoSuchGpu => "NO_SUCH_GPU",
            Self::SshKeyExists => "SSH_KEY_EXISTS",
            Self::BuildNotFound => "BUILD_NOT_FOUND",
            Self::BuildNotAwaiting => "BUILD_NOT_AWAITING",
            Self::QuotaExceeded => "QUOTA_EXCEEDED",
            Self::RateLimited => "RATE_LIMITED",
            Self::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
        }
    }

    /// Returns the HTTP status that goes with the code; with `SECRET_NOT_FOUND` it is 404 where a
    /// path names the secret (spec 00 §3).
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest
            | Self::LimitExceeded
            | Self::NotSupported
            | Self::SandboxEphemeral
            | Self::SandboxNotRunning
            | Self::SnapshotNotReady
            | Self::SnapshotOverrideForbidden
            | Self::SnapshotIncompatible
            | Self::SecretNotFound
            | Self::DiskShrinkForbidden
            | Self::TemplateMismatch
            | Self::NoSuchGpu => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound
            | Self::SandboxNotFound
            | Self::SnapshotNotFound
            | Self::PoolNotFound
            | Self::ImageNotFound
            | Self::TemplateNotFound
            | Self::BuildNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::SandboxNameTaken
            | Self::SandboxTerminated
            | Self::SandboxBusy
            | Self::PoolInUse
            | Self::ImageNameTaken
            | Self::BuildNotAwaiting
            | Self::SshKeyExists => 409,
            Self::PayloadTooLarge => 413,
            Self::QuotaExceeded | Self::RateLimited => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }

    /// Sorts the code.
    #[must_use]
    pub const fn class(self) -> ErrorClass {
        match self {
            Self::InvalidRequest
            | Self::LimitExceeded
            | Self::NotSupported
            | Self::MethodNotAllowed
            | Self::SandboxEphemeral
            | Self::SandboxNotRunning
            | Self::SnapshotNotReady
            | Self::SnapshotOverrideForbidden
            | Self::SnapshotIncompatible
            | Self::SecretNotFound
            | Self::DiskShrinkForbidden
            | Self::TemplateMismatch
            | Self::NoSuchGpu
            | Self::PayloadTooLarge => ErrorClass::Invalid,
            Self::Unauthenticated | Self::Forbidden => ErrorClass::Denied,
            Self::NotFound
            | Self::SandboxNotFound
            | Self::SnapshotNotFound
            | Self::PoolNotFound
            | Self::ImageNotFound
            | Self::TemplateNotFound
            | Self::BuildNotFound => ErrorClass::NotFound,
            Self::SandboxNameTaken
            | Self::SandboxTerminated
            | Self::SandboxBusy
            | Self::PoolInUse
            | Self::ImageNameTaken
            | Self::BuildNotAwaiting
            | Self::SshKeyExists => ErrorClass::Conflict,
            Self::QuotaExceeded | Self::RateLimited => ErrorClass::Quota,
            Self::Internal => ErrorClass::Internal,
            Self::Unavailable => ErrorClass::Unavailable,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

// === impl Refusal ===

impl Refusal {
    /// Refuses with a code and a text that says what happened and what to do.
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// Refuses a field that cannot be what it is: `INVALID_REQUEST` with its JSON path.
    pub fn invalid(path: &str, reason: impl fmt::Display) -> Self {
        Self::new(ErrorCode::InvalidRequest, format!("{path}: {reason}"))
    }

    /// Refuses a field outside a limit: `LIMIT_EXCEEDED` with its JSON path.
    pub fn limit(path: &str, reason: impl fmt::Display) -> Self {
        Self::new(ErrorCode::LimitExceeded, format!("{path}: {reason}"))
    }

    /// Refuses a field whose feature is not built: `NOT_SUPPORTED` with its JSON path.
    pub fn not_supported(path: &str, feature: &str) -> Self {
        let text =
            format!("{path}: this server does not support {feature} yet; leave the field out");
        Self::new(ErrorCode::NotSupported, text)
    }

    /// Returns the code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.code.class()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn words_are_unique_and_of_one_shape() {
        let words: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), ErrorCode::ALL.len());
        for word in words {
            assert!(word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{word}");
        }
    }

    #[test]
    fn a_body_has_the_keys_the_clients_read() {
        let body = |message| ErrorBody { error: "no".into(), code: ErrorCode::NotFound, message };
        let json = |body| serde_json::to_string(&body).expect("a plain struct");
        assert_eq!(json(body(None)), r#"{"error":"no","code":"NOT_FOUND"}"#);
        assert_eq!(
            json(body(Some("no".into()))),
            r#"{"error":"no","code":"NOT_FOUND","message":"no"}"#
        );
    }
}
