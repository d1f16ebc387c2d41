//! The tag, the one sentence and the body of each operation.

use super::{build, image, secret};
use crate::Operation;

/// Returns the tag and the one sentence of an operation.
pub(super) fn summary(operation: Operation) -> (&'static str, &'static str) {
    match operation {
        Operation::SandboxCreate => (
            "sandboxes",
            "Creates a sandbox, and waits until it runs or the caller's budget is nearly spent",
        ),
        Operation::SandboxList => ("sandboxes", "Lists sandboxes, newest first"),
        Operation::SandboxFetch => ("sandboxes", "Returns a sandbox"),
        Operation::SandboxUpdate => ("sandboxes", "Changes a sandbox, all or nothing"),
        Operation::SandboxDelete => ("sandboxes", "Ends a sandbox; again changes nothing"),
        Operation::SandboxSuspend | Operation::AdminSandboxSuspend => {
            (tag(operation), "Suspends a named sandbox: it keeps its state and frees compute")
        }
        Operation::SandboxResume | Operation::AdminSandboxResume => {
            (tag(operation), "Has a suspended sandbox go on where it was")
        }
        Operation::SandboxCopy | Operation::AdminSandboxCopy => (
            tag(operation),
            "Makes sandboxes that go on from where a running one is, and waits for them as create does",
        ),
        Operation::SnapshotCreate | Operation::AdminSnapshotCreate => {
            (tag(operation), "Begins a snapshot of a running sandbox, which runs on")
        }
        Operation::SandboxSnapshotList => {
            ("snapshots", "Lists the snapshots of a sandbox, ended or not, newest first")
        }
        Operation::SnapshotList => ("snapshots", "Lists all snapshots, newest first"),
        Operation::SnapshotFetch | Operation::AdminSnapshotFetch => {
            (tag(operation), "Returns a snapshot")
        }
        Operation::SnapshotDelete | Operation::AdminSnapshotDelete => (
            tag(operation),
            "Removes a snapshot, or cancels it; what was restored from it is not affected",
        ),
        Operation::ArchivedSandboxList => ("sandboxes", "Lists archived sandboxes, newest first"),
        Operation::ArchivedSandboxFetch => ("sandboxes", "Returns an archived sandbox"),
        Operation::PoolCreate => ("pools", "Makes a pool, and starts its containers"),
        Operation::PoolList => ("pools", "Lists pools, oldest first"),
        Operation::PoolFetch => ("pools", "Returns a pool with its containers"),
        Operation::PoolReplace => ("pools", "Replaces all that a pool is, but a policy left out"),
        Operation::PoolDelete => ("pools", "Deletes a pool that no sandbox is claimed from"),
        Operation::PoolClaim => ("pools", "Claims a sandbox, and waits for it as create does"),
        Operation::Image(operation) => ("images", image::summary(operation)),
        Operation::NamespaceSecret(operation) => ("secrets", secret::summary(operation)),
        Operation::Build(operation) => ("images", build::summary(operation)),
        Operation::LogList => {
            ("sandboxes", "Returns what a sandbox's processes printed, oldest first, ended or not")
        }
        Operation::LogProcessList => ("sandboxes", "Lists processes whose output is kept"),
        Operation::SecretList => ("secrets", "Lists secrets by name, without their values"),
        Operation::SecretPut => {
            ("secrets", "Sets one secret, or a list of them all or none; new boots have the values")
        }
        Operation::SecretFetch => ("secrets", "Returns a secret, without its value"),
        Operation::SecretDelete => ("secrets", "Deletes a secret; what runs with it runs on"),
        Operation::AdminSecretList => ("admin", "Lists the secrets of all projects"),
        Operation::AdminSecretPut => ("admin", "Sets a secret of a project"),
        Operation::AdminSecretDelete => ("admin", "Deletes a secret of any project"),
        Operation::AdminSecretKeyRotate => {
            ("admin", "Replaces the key that the secrets of all projects hang on")
        }
        Operation::KeyIntrospect => ("platform", "Tells what the key opens"),
        Operation::ProjectFetch => ("platform", "Returns the key's project"),
        Operation::SshKeyList => ("platform", "Lists the SSH keys of the key's project"),
        Operation::SshKeyCreate => ("platform", "Registers a public SSH key"),
        Operation::SshKeyDelete => ("platform", "Removes an SSH key"),
        Operation::AdminProjectList => ("admin", "Lists projects, what each may have and has"),
        Operation::AdminImageList => ("admin", "Lists pulled and imported images, and pulls"),
        Operation::AdminImagePull => ("admin", "Pulls an image, waits for it and names it"),
        Operation::AdminImageImport => ("admin", "Imports an image from a file and names it"),
        Operation::AdminImageRemove => ("admin", "Takes names of an image away"),
        Operation::AdminLoginList => ("admin", "Lists what projects show to registries"),
        Operation::AdminLoginPut => ("admin", "Sets what a project shows to a registry"),
        Operation::AdminLoginDelete => ("admin", "Removes what a project shows to a registry"),
        Operation::AdminQuotaSet => ("admin", "Sets what a project may have"),
        Operation::Healthz => ("server", "Says that the process answers"),
        Operation::Readyz => ("server", "Says whether sandboxes can be created"),
        Operation::Metrics => ("server", "Returns metrics in the Prometheus text format"),
        Operation::OpenApi => ("server", "Returns this document"),
        Operation::AdminKeyCreate => {
            ("admin", "Makes an API key, and its project if there is none of that name")
        }
        Operation::AdminKeyList => ("admin", "Lists the keys of all projects, oldest first"),
        Operation::AdminKeyRevoke => ("admin", "Revokes a key; again changes nothing"),
        Operation::AdminSandboxList => ("admin", "Lists the sandboxes of all projects"),
        Operation::AdminSandboxFetch => ("admin", "Returns a sandbox of any project, in short"),
        Operation::AdminSandboxNetwork => ("admin", "Returns a sandbox's network log"),
        Operation::AdminSnapshotList => ("admin", "Lists the snapshots of all projects"),
        Operation::AdminTransferList => {
            ("admin", "Lists what goes to and comes from the object store, and what failed")
        }
        Operation::AdminSnapshotVerify => {
            ("admin", "Reads all of a snapshot and says whether it is what was taken")
        }
        Operation::AdminGpuList => ("admin", "Lists the GPUs of all nodes, and who has them"),
        Operation::AdminOrphanList => {
            ("admin", "Lists the sandboxes that a node has and the store does not know")
        }
    }
}

/// Returns the tag of an operation that both routers have under one summary.
fn tag(operation: Operation) -> &'static str {
    let word = operation.as_str();
    if word.starts_with("admin_") {
        "admin"
    } else if word.starts_with("snapshot_") {
        "snapshots"
    } else {
        "sandboxes"
    }
}

/// Returns the schema of an operation's body, if it takes one.
pub(super) fn request(operation: Operation) -> Option<&'static str> {
    match operation {
        Operation::SandboxCreate => Some("CreateSandboxRequest"),
        Operation::SandboxUpdate => Some("UpdateSandboxRequest"),
        Operation::AdminKeyCreate => Some("CreateKeyRequest"),
        Operation::SecretPut | Operation::AdminSecretPut => Some("PutSecretRequest"),
        Operation::SshKeyCreate => Some("CreateSshKeyRequest"),
        Operation::Image(operation) => image::request(operation),
        Operation::NamespaceSecret(operation) => secret::request(operation),
        Operation::Build(operation) => build::request(operation),
        Operation::AdminImagePull | Operation::AdminImageImport | Operation::AdminImageRemove => {
            Some("ImageRequest")
        }
        Operation::AdminLoginPut | Operation::AdminLoginDelete => Some("RegistryLoginRequest"),
        Operation::AdminQuotaSet => Some("SetQuotaRequest"),
        Operation::PoolCreate | Operation::PoolReplace => Some("SandboxPoolRequest"),
        Operation::PoolClaim => Some("ClaimSandboxRequest"),
        Operation::SnapshotCreate | Operation::AdminSnapshotCreate => Some("CreateSnapshotRequest"),
        Operation::SandboxList
        | Operation::SandboxSuspend
        | Operation::SandboxResume
        | Operation::SandboxCopy
        | Operation::SandboxSnapshotList
        | Operation::SnapshotList
        | Operation::SnapshotFetch
        | Operation::SnapshotDelete
        | Operation::AdminSandboxFetch
        | Operation::AdminSandboxSuspend
        | Operation::AdminSandboxResume
        | Operation::AdminSandboxCopy
        | Operation::AdminSandboxNetwork
        | Operation::AdminSnapshotList
        | Operation::AdminSnapshotFetch
        | Operation::AdminSnapshotDelete
        | Operation::PoolList
        | Operation::PoolFetch
        | Operation::PoolDelete
        | Operation::SandboxFetch
        | Operation::SandboxDelete
        | Operation::ArchivedSandboxList
        | Operation::ArchivedSandboxFetch
        | Operation::LogList
        | Operation::LogProcessList
        | Operation::SecretList
        | Operation::SecretFetch
        | Operation::SecretDelete
        | Operation::AdminSecretList
        | Operation::AdminSecretDelete
        | Operation::AdminSecretKeyRotate
        | Operation::AdminProjectList
        | Operation::AdminImageList
        | Operation::AdminLoginList
        | Operation::KeyIntrospect
        | Operation::ProjectFetch
        | Operation::SshKeyList
        | Operation::SshKeyDelete
        | Operation::Healthz
        | Operation::Readyz
        | Operation::Metrics
        | Operation::OpenApi
        | Operation::AdminKeyList
        | Operation::AdminKeyRevoke
        | Operation::AdminSandboxList
        | Operation::AdminTransferList
        | Operation::AdminSnapshotVerify
        | Operation::AdminGpuList
        | Operation::AdminOrphanList => None,
    }
}
