//! What each operation may be refused for.

use super::{build, image, secret};
use crate::{ErrorCode, Operation};

/// What a pool may be refused for.
const POOL_SETTINGS: [ErrorCode; 6] = [
    ErrorCode::InvalidRequest,
    ErrorCode::LimitExceeded,
    ErrorCode::NoSuchGpu,
    ErrorCode::ImageNotFound,
    ErrorCode::DiskShrinkForbidden,
    ErrorCode::PayloadTooLarge,
];

const POOL_CREATES: [ErrorCode; 7] = {
    let [a, b, c, d, e, f] = POOL_SETTINGS;
    [a, b, c, d, e, f, ErrorCode::QuotaExceeded]
};

const POOL_REPLACEMENT: [ErrorCode; 7] = {
    let [a, b, c, d, e, f] = POOL_SETTINGS;
    [a, b, c, d, e, f, ErrorCode::PoolNotFound]
};

/// What a sandbox may be refused for.
const SANDBOX_SETTINGS: [ErrorCode; 17] = [
    ErrorCode::InvalidRequest,
    ErrorCode::LimitExceeded,
    ErrorCode::NotSupported,
    ErrorCode::SandboxEphemeral,
    ErrorCode::NoSuchGpu,
    ErrorCode::ImageNotFound,
    ErrorCode::TemplateNotFound,
    ErrorCode::TemplateMismatch,
    ErrorCode::SandboxNameTaken,
    ErrorCode::SnapshotNotFound,
    ErrorCode::SnapshotNotReady,
    ErrorCode::SnapshotOverrideForbidden,
    ErrorCode::SnapshotIncompatible,
    ErrorCode::SecretNotFound,
    ErrorCode::DiskShrinkForbidden,
    ErrorCode::PayloadTooLarge,
    ErrorCode::QuotaExceeded,
];

/// What an SSH key may be refused for.
const SSH_KEYS: [ErrorCode; 4] = [
    ErrorCode::InvalidRequest,
    ErrorCode::SshKeyExists,
    ErrorCode::PayloadTooLarge,
    ErrorCode::QuotaExceeded,
];

/// What secrets may be refused for.
pub(super) const SECRETS: [ErrorCode; 4] = [
    ErrorCode::InvalidRequest,
    ErrorCode::LimitExceeded,
    ErrorCode::PayloadTooLarge,
    ErrorCode::QuotaExceeded,
];

/// What an order about an image may be refused for.
const IMAGE_ORDERS: [ErrorCode; 4] = [
    ErrorCode::InvalidRequest,
    ErrorCode::NotFound,
    ErrorCode::ImageNotFound,
    ErrorCode::PayloadTooLarge,
];

/// What a change of a sandbox may be refused for.
const SANDBOX_CHANGES: [ErrorCode; 11] = [
    ErrorCode::InvalidRequest,
    ErrorCode::LimitExceeded,
    ErrorCode::DiskShrinkForbidden,
    ErrorCode::NotSupported,
    ErrorCode::SandboxEphemeral,
    ErrorCode::SandboxNotRunning,
    ErrorCode::SandboxBusy,
    ErrorCode::SandboxNotFound,
    ErrorCode::SandboxNameTaken,
    ErrorCode::SandboxTerminated,
    ErrorCode::PayloadTooLarge,
];

/// What copies of a sandbox may be refused for.
const SANDBOX_COPIES: [ErrorCode; 7] = [
    ErrorCode::InvalidRequest,
    ErrorCode::LimitExceeded,
    ErrorCode::NotSupported,
    ErrorCode::SandboxNotRunning,
    ErrorCode::SandboxNotFound,
    ErrorCode::SandboxBusy,
    ErrorCode::QuotaExceeded,
];

/// What a claim may be refused for.
const POOL_CLAIMS: [ErrorCode; 5] = [
    ErrorCode::InvalidRequest,
    ErrorCode::NotSupported,
    ErrorCode::PoolNotFound,
    ErrorCode::PayloadTooLarge,
    ErrorCode::QuotaExceeded,
];

/// What a suspend may answer.
const SANDBOX_SUSPENDS: [ErrorCode; 6] = [
    ErrorCode::InvalidRequest,
    // Of one that has GPUs.
    ErrorCode::NotSupported,
    ErrorCode::SandboxEphemeral,
    ErrorCode::SandboxNotRunning,
    ErrorCode::SandboxNotFound,
    ErrorCode::SandboxTerminated,
];

/// Returns the errors that are an operation's own.
pub(super) fn errors(operation: Operation) -> &'static [ErrorCode] {
    match operation {
        Operation::SandboxCreate => &SANDBOX_SETTINGS,
        Operation::SandboxSuspend | Operation::AdminSandboxSuspend => &SANDBOX_SUSPENDS,
        Operation::SandboxResume | Operation::AdminSandboxResume => &[
            ErrorCode::InvalidRequest,
            ErrorCode::SandboxNotFound,
            ErrorCode::SandboxTerminated,
            ErrorCode::QuotaExceeded,
        ],
        Operation::SandboxCopy | Operation::AdminSandboxCopy => &SANDBOX_COPIES,
        Operation::SnapshotCreate | Operation::AdminSnapshotCreate => &[
            ErrorCode::InvalidRequest,
            ErrorCode::NotSupported,
            ErrorCode::SandboxNotRunning,
            ErrorCode::SandboxNotFound,
            ErrorCode::SandboxBusy,
            ErrorCode::PayloadTooLarge,
        ],
        Operation::SnapshotFetch
        | Operation::SnapshotDelete
        | Operation::AdminSnapshotFetch
        | Operation::AdminSnapshotDelete => &[ErrorCode::SnapshotNotFound],
        Operation::AdminSnapshotVerify => {
            &[ErrorCode::SnapshotNotFound, ErrorCode::SnapshotNotReady]
        }
        Operation::SandboxUpdate => &SANDBOX_CHANGES,
        Operation::PoolCreate => &POOL_CREATES,
        Operation::PoolReplace => &POOL_REPLACEMENT,
        Operation::PoolFetch => &[ErrorCode::PoolNotFound],
        Operation::PoolDelete => &[ErrorCode::PoolNotFound, ErrorCode::PoolInUse],
        Operation::PoolClaim => &POOL_CLAIMS,
        Operation::SandboxList
        | Operation::ArchivedSandboxList
        | Operation::AdminSandboxList
        | Operation::SecretList => &[ErrorCode::InvalidRequest],
        Operation::LogList => &[ErrorCode::InvalidRequest, ErrorCode::SandboxNotFound],
        Operation::AdminSandboxNetwork => &[
            ErrorCode::InvalidRequest,
            ErrorCode::SandboxNotFound,
            ErrorCode::SandboxNotRunning,
            ErrorCode::SandboxTerminated,
        ],
        Operation::SandboxFetch
        | Operation::SandboxDelete
        | Operation::SandboxSnapshotList
        | Operation::AdminSandboxFetch
        | Operation::ArchivedSandboxFetch
        | Operation::LogProcessList => &[ErrorCode::SandboxNotFound],
        Operation::SecretPut => &SECRETS,
        Operation::AdminSecretPut => &[
            ErrorCode::InvalidRequest,
            ErrorCode::LimitExceeded,
            ErrorCode::NotFound,
            ErrorCode::PayloadTooLarge,
            ErrorCode::QuotaExceeded,
        ],
        Operation::SecretFetch | Operation::SecretDelete | Operation::AdminSecretDelete => {
            &[ErrorCode::SecretNotFound]
        }
        Operation::ProjectFetch | Operation::AdminKeyRevoke | Operation::SshKeyDelete => {
            &[ErrorCode::NotFound]
        }
        Operation::Image(operation) => image::errors(operation),
        Operation::NamespaceSecret(operation) => secret::errors(operation),
        Operation::Build(operation) => build::errors(operation),
        Operation::SshKeyCreate => &SSH_KEYS,
        Operation::AdminImagePull | Operation::AdminImageImport => &IMAGE_ORDERS,
        Operation::AdminQuotaSet
        | Operation::AdminImageRemove
        | Operation::AdminLoginPut
        | Operation::AdminLoginDelete => {
            &[ErrorCode::InvalidRequest, ErrorCode::NotFound, ErrorCode::PayloadTooLarge]
        }
        Operation::AdminKeyCreate => &[ErrorCode::InvalidRequest, ErrorCode::PayloadTooLarge],
        Operation::KeyIntrospect
        | Operation::Healthz
        | Operation::Readyz
        | Operation::Metrics
        | Operation::OpenApi
        | Operation::SnapshotList
        | Operation::PoolList
        | Operation::AdminKeyList
        | Operation::AdminSecretList
        | Operation::AdminSecretKeyRotate
        | Operation::AdminProjectList
        | Operation::AdminImageList
        | Operation::AdminLoginList
        | Operation::SshKeyList
        | Operation::AdminSnapshotList
        | Operation::AdminTransferList
        | Operation::AdminGpuList
        | Operation::AdminOrphanList => &[],
    }
}

/// Returns the status that an operation answers a code with.
pub(super) fn status(operation: Operation, code: ErrorCode) -> u16 {
    if code == ErrorCode::SecretNotFound && operation != Operation::SandboxCreate {
        return 404;
    }
    code.status()
}
