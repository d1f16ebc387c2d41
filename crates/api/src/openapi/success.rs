//! What each operation answers when it did what it should.

use super::{build, image, secret};
use crate::Operation;

/// The body of a success.
pub(super) enum Answer {
    Json(&'static str),
    Text,
    AnyJson,
}

/// Returns the statuses of success, with what they mean and their body.
pub(super) fn success(operation: Operation) -> &'static [(u16, &'static str, Answer)] {
    match operation {
        Operation::SandboxCreate => &[
            (200, "Running, ended, or still pending", Answer::Json("CreateSandboxResponse")),
            (202, "With `wait: false`: queued", Answer::Json("CreateSandboxResponse")),
        ],
        Operation::SandboxList | Operation::ArchivedSandboxList => {
            &[(200, "A page", Answer::Json("SandboxList"))]
        }
        Operation::SandboxFetch | Operation::SandboxUpdate | Operation::ArchivedSandboxFetch => {
            &[(200, "The sandbox", Answer::Json("SandboxInfo"))]
        }
        Operation::SandboxDelete => &[(200, "The end is durable", Answer::AnyJson)],
        Operation::SandboxSuspend | Operation::AdminSandboxSuspend => &[
            (200, "It is suspended, its state durable", Answer::AnyJson),
            (202, "It is on the way", Answer::AnyJson),
        ],
        Operation::SandboxResume | Operation::AdminSandboxResume => {
            &[(200, "It runs", Answer::AnyJson), (202, "It is on the way", Answer::AnyJson)]
        }
        Operation::SandboxCopy | Operation::AdminSandboxCopy => {
            &[(200, "What became of each copy", Answer::Json("CopySandboxResponse"))]
        }
        Operation::SnapshotCreate | Operation::AdminSnapshotCreate => {
            &[(202, "It is being taken", Answer::Json("CreateSnapshotResponse"))]
        }
        Operation::SandboxSnapshotList | Operation::SnapshotList | Operation::AdminSnapshotList => {
            &[(200, "All of them", Answer::Json("SnapshotList"))]
        }
        Operation::SnapshotFetch | Operation::AdminSnapshotFetch => {
            &[(200, "The snapshot", Answer::Json("SnapshotInfo"))]
        }
        Operation::SnapshotDelete
        | Operation::AdminSnapshotDelete
        | Operation::PoolDelete
        | Operation::SecretDelete
        | Operation::AdminSecretDelete
        | Operation::SshKeyDelete
        | Operation::AdminLoginDelete => &[(200, "It is gone", Answer::AnyJson)],
        Operation::PoolCreate => &[(200, "It is made", Answer::Json("CreatePoolResponse"))],
        Operation::PoolList => &[(200, "All of them", Answer::Json("PoolList"))],
        Operation::PoolFetch | Operation::PoolReplace => {
            &[(200, "The pool", Answer::Json("PoolInfo"))]
        }
        Operation::PoolClaim => {
            &[(200, "Running, ended, or still pending", Answer::Json("CreateSandboxResponse"))]
        }
        Operation::AdminSandboxFetch => &[(200, "The sandbox", Answer::Json("AdminSandbox"))],
        Operation::AdminSandboxNetwork => &[(200, "Its log", Answer::Json("NetworkReport"))],
        Operation::LogList => &[(200, "A page", Answer::Json("LogList"))],
        Operation::LogProcessList => &[(200, "The processes", Answer::Json("LogProcessList"))],
        Operation::SecretList => &[(200, "A page", Answer::Json("SecretList"))],
        Operation::SecretPut => {
            &[(200, "It is set; for a list, a list of these", Answer::Json("SecretBody"))]
        }
        Operation::SecretFetch => &[(200, "The secret", Answer::Json("SecretBody"))],
        Operation::AdminSecretList => &[(200, "All of them", Answer::Json("AdminSecretList"))],
        Operation::AdminSecretPut => &[(200, "It is set", Answer::Json("AdminSecretList"))],
        Operation::AdminSecretKeyRotate => {
            &[(200, "It is replaced", Answer::Json("SecretKeyReplaced"))]
        }
        Operation::KeyIntrospect => &[(200, "The key's identity", Answer::Json("KeyIdentity"))],
        Operation::ProjectFetch => &[(200, "The project", Answer::Json("ProjectBody"))],
        Operation::SshKeyList => &[(200, "All of them, oldest first", Answer::Json("SshKeyList"))],
        Operation::SshKeyCreate => &[(200, "It is registered", Answer::Json("SshKeyBody"))],
        Operation::Image(operation) => image::success(operation),
        Operation::NamespaceSecret(operation) => secret::success(operation),
        Operation::Build(operation) => build::success(operation),
        Operation::AdminProjectList => {
            &[(200, "The projects, oldest first", Answer::Json("AdminProjectList"))]
        }
        Operation::AdminImageList => &[(200, "All of them", Answer::Json("AdminImageList"))],
        Operation::AdminImagePull | Operation::AdminImageImport | Operation::AdminImageRemove => {
            &[(200, "The names that it got, or lost", Answer::Json("AdminImageNames"))]
        }
        Operation::AdminLoginList => {
            &[(200, "All of them", Answer::Json("AdminRegistryLoginList"))]
        }
        Operation::AdminLoginPut => &[(200, "It is set", Answer::Json("AdminRegistryLogin"))],
        Operation::AdminQuotaSet => &[(200, "The project", Answer::Json("AdminProject"))],
        Operation::Healthz => &[(200, "It does", Answer::Json("HealthBody"))],
        Operation::Readyz => &[(200, "They can", Answer::Json("HealthBody"))],
        Operation::Metrics => &[(200, "The metrics", Answer::Text)],
        Operation::OpenApi => &[(200, "This document", Answer::AnyJson)],
        Operation::AdminKeyCreate => {
            &[(200, "The key, shown this once", Answer::Json("NewKeyBody"))]
        }
        Operation::AdminKeyList => &[(200, "The keys", Answer::Json("KeyList"))],
        Operation::AdminKeyRevoke => &[(200, "It opens nothing any more", Answer::AnyJson)],
        Operation::AdminSandboxList => &[(200, "The sandboxes", Answer::Json("AdminSandboxList"))],
        Operation::AdminTransferList => &[(200, "The transfers", Answer::Json("TransferList"))],
        Operation::AdminSnapshotVerify => {
            &[(200, "What was found", Answer::Json("SnapshotVerdict"))]
        }
        Operation::AdminGpuList => &[(200, "The GPUs", Answer::Json("AdminGpuList"))],
        Operation::AdminOrphanList => {
            &[(200, "Their ids, and what keeps the others", Answer::Json("OrphanList"))]
        }
    }
}
