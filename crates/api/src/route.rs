//! Every route there is: the one table that the router, the OpenAPI document and their tests are
//! made from. Its rows are those of spec 00 §4 and our own under `/tarn/v1` (design §3).

mod build;
mod image;
mod secret;

pub use self::{build::BuildOperation, image::ImageOperation, secret::NamespaceSecretOperation};

/// An HTTP method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// Reads.
    Get,
    /// Makes, or does.
    Post,
    /// Replaces.
    Put,
    /// Changes.
    Patch,
    /// Removes.
    Delete,
}

/// Under which prefixes a route's path is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Flat, and under `/v1/namespaces/{ns}` (spec 00 §2).
    Project,
    /// Under `/platform/v1`, and under `/platform/v1/organizations/{o}/projects/{p}` (spec 08).
    Platform,
    /// As it stands.
    Exact,
}

/// Who may call a route, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Whoever sends a valid key.
    Key,
    /// Anybody.
    Public,
    /// Whoever can open the administrative socket; elsewhere the route does not exist.
    Admin,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Serving {
    /// It works.
    Built(Operation),
    /// It answers 400 `NOT_SUPPORTED`, naming the feature: a 404 would read as "no such sandbox".
    NotBuilt(&'static str),
    /// It answers 404 `NOT_FOUND` by decision: clients take that for "not offered here".
    Absent,
}

/// Every operation that is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is described by its row and its entry in the document")]
pub enum Operation {
    SandboxCreate,
    SandboxList,
    SandboxFetch,
    SandboxUpdate,
    SandboxDelete,
    SandboxSuspend,
    SandboxResume,
    SandboxCopy,
    SnapshotCreate,
    SandboxSnapshotList,
    SnapshotList,
    SnapshotFetch,
    SnapshotDelete,
    ArchivedSandboxList,
    ArchivedSandboxFetch,
    PoolCreate,
    PoolList,
    PoolFetch,
    PoolReplace,
    PoolDelete,
    PoolClaim,
    LogList,
    LogProcessList,
    KeyIntrospect,
    SecretList,
    SecretPut,
    SecretFetch,
    SecretDelete,
    NamespaceSecret(NamespaceSecretOperation),
    ProjectFetch,
    SshKeyList,
    SshKeyCreate,
    SshKeyDelete,
    Image(ImageOperation),
    Healthz,
    Readyz,
    Metrics,
    OpenApi,
    AdminKeyCreate,
    AdminKeyList,
    AdminKeyRevoke,
    AdminSandboxList,
    AdminSandboxFetch,
    AdminSandboxSuspend,
    AdminSandboxResume,
    AdminSandboxCopy,
    AdminSandboxNetwork,
    AdminSnapshotCreate,
    AdminSnapshotList,
    AdminSnapshotFetch,
    AdminSnapshotDelete,
    AdminTransferList,
    AdminSnapshotVerify,
    AdminOrphanList,
    AdminGpuList,
    AdminSecretList,
    AdminSecretPut,
    AdminSecretDelete,
    AdminSecretKeyRotate,
    AdminImageImport,
    AdminImageList,
    AdminImagePull,
    AdminImageRemove,
    AdminLoginDelete,
    AdminLoginList,
    AdminLoginPut,
    AdminProjectList,
    AdminQuotaSet,
    Build(BuildOperation),
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path below the family's prefix; `{x}` is one segment, `{*x}` the rest.
    pub path: &'static str,
    /// Under which prefixes it is served.
    pub family: Family,
    /// Who may call it.
    pub access: Access,
    /// What it does.
    pub serving: Serving,
}

use Access::{Admin, Key, Public};
use Family::{Exact, Platform, Project};
use ImageOperation::{
    CasDelete, CasDeleteByName, CasFetch, CasFetchByName, CasList, CasRegister, CasResolve,
    NamedDelete, TemplateDelete, TemplateDeleteByName, TemplateFetch, TemplateFetchByName,
    TemplateList, TemplateRegister,
};
use Method::{Delete, Get, Patch, Post, Put};

const fn built(method: Method, path: &'static str, family: Family, operation: Operation) -> Route {
    Route { method, path, family, access: Key, serving: Serving::Built(operation) }
}

const fn later(method: Method, path: &'static str, family: Family, feature: &'static str) -> Route {
    Route { method, path, family, access: Key, serving: Serving::NotBuilt(feature) }
}

const fn own(method: Method, path: &'static str, access: Access, operation: Operation) -> Route {
    Route { method, path, family: Exact, access, serving: Serving::Built(operation) }
}

const fn image(
    method: Method,
    path: &'static str,
    family: Family,
    operation: ImageOperation,
) -> Route {
    built(method, path, family, Operation::Image(operation))
}

const FILE_SYSTEMS: &str = "file systems";

/// Every route.
pub const ROUTES: &[Route] = &[
    // Rows 1–5 of spec 00 §4.
    built(Post, "/sandboxes", Project, Operation::SandboxCreate),
    built(Get, "/sandboxes", Project, Operation::SandboxList),
    built(Get, "/sandboxes/{sid}", Project, Operation::SandboxFetch),
    built(Patch, "/sandboxes/{sid}", Project, Operation::SandboxUpdate),
    built(Delete, "/sandboxes/{sid}", Project, Operation::SandboxDelete),
    // Rows 6–13.
    built(Post, "/sandboxes/{sid}/suspend", Project, Operation::SandboxSuspend),
    built(Post, "/sandboxes/{sid}/resume", Project, Operation::SandboxResume),
    built(Post, "/sandboxes/{sid}/snapshot", Project, Operation::SnapshotCreate),
    built(Get, "/sandboxes/{sid}/snapshots", Project, Operation::SandboxSnapshotList),
    built(Get, "/snapshots", Project, Operation::SnapshotList),
    built(Get, "/snapshots/{id}", Project, Operation::SnapshotFetch),
    built(Delete, "/snapshots/{id}", Project, Operation::SnapshotDelete),
    built(Post, "/sandboxes/{sid}/copy", Project, Operation::SandboxCopy),
    // Rows 14–17.
    later(Post, "/sandboxes/{sid}/file_systems", Project, FILE_SYSTEMS),
    later(Delete, "/sandboxes/{sid}/file_systems", Project, FILE_SYSTEMS),
    built(Get, "/sandboxes/{sid}/logs", Project, Operation::LogList),
    built(Get, "/sandboxes/{sid}/processes", Project, Operation::LogProcessList),
    // Rows 18–19.
    built(Get, "/archived-sandboxes", Project, Operation::ArchivedSandboxList),
    built(Get, "/archived-sandboxes/{id}", Project, Operation::ArchivedSandboxFetch),
    // Rows 20–25.
    built(Post, "/sandbox-pools", Project, Operation::PoolCreate),
    built(Get, "/sandbox-pools", Project, Operation::PoolList),
    built(Get, "/sandbox-pools/{id}", Project, Operation::PoolFetch),
    built(Put, "/sandbox-pools/{id}", Project, Operation::PoolReplace),
    built(Delete, "/sandbox-pools/{id}", Project, Operation::PoolDelete),
    built(Post, "/sandbox-pools/{id}/sandboxes", Project, Operation::PoolClaim),
    // Row 26.
    built(Post, "/platform/v1/keys/introspect", Exact, Operation::KeyIntrospect),
    // Row 27.
    built(Get, "/secrets", Platform, Operation::SecretList),
    built(Put, "/secrets", Platform, Operation::SecretPut),
    built(Get, "/secrets/{id}", Platform, Operation::SecretFetch),
    built(Delete, "/secrets/{id}", Platform, Operation::SecretDelete),
    // The same secrets as the Rust crate names them (tensorlake 0.5.160, `secrets/mod.rs`).
    built(
        Get,
        "/v1/namespaces/{ns}/secrets",
        Exact,
        Operation::NamespaceSecret(NamespaceSecretOperation::List),
    ),
    built(
        Post,
        "/v1/namespaces/{ns}/secrets",
        Exact,
        Operation::NamespaceSecret(NamespaceSecretOperation::Put),
    ),
    built(
        Get,
        "/v1/namespaces/{ns}/secrets/{id}",
        Exact,
        Operation::NamespaceSecret(NamespaceSecretOperation::Fetch),
    ),
    built(
        Delete,
        "/v1/namespaces/{ns}/secrets/{id}",
        Exact,
        Operation::NamespaceSecret(NamespaceSecretOperation::Delete),
    ),
    // Row 28: the legacy image family.
    image(Get, "/sandbox-templates", Platform, TemplateList),
    image(Post, "/sandbox-templates", Platform, TemplateRegister),
    image(Get, "/sandbox-templates/by-name/{name}", Platform, TemplateFetchByName),
    image(Delete, "/sandbox-templates/by-name/{name}", Platform, TemplateDeleteByName),
    image(Get, "/sandbox-templates/{id}", Platform, TemplateFetch),
    image(Delete, "/sandbox-templates/{id}", Platform, TemplateDelete),
    built(
        Post,
        "/sandbox-template-builds",
        Platform,
        Operation::Build(BuildOperation::TemplatePrepare),
    ),
    built(
        Post,
        "/sandbox-template-builds/{id}/complete",
        Platform,
        Operation::Build(BuildOperation::TemplateComplete),
    ),
    image(Delete, "/sandbox-images/{name}", Project, NamedDelete),
    // Row 29: the CAS image family. Names keep a raw `/` here.
    image(Get, "/images/v4/images", Exact, CasList),
    image(Get, "/images/v4/images/name/{*name}", Exact, CasFetchByName),
    image(Delete, "/images/v4/images/name/{*name}", Exact, CasDeleteByName),
    image(Get, "/images/v4/images/{id}", Exact, CasFetch),
    image(Delete, "/images/v4/images/{id}", Exact, CasDelete),
    image(Get, "/images/v4/names/{*name}", Exact, CasResolve),
    image(Post, "/images/v4/images/from-snapshot", Exact, CasRegister),
    built(Post, "/images/v4/builds", Exact, Operation::Build(BuildOperation::Create)),
    built(Get, "/images/v4/builds/{id}", Exact, Operation::Build(BuildOperation::Fetch)),
    // Its token is in the query; clients send no key here.
    own(Put, "/images/v4/builds/{id}/context", Public, Operation::Build(BuildOperation::Upload)),
    built(
        Post,
        "/images/v4/builds/{id}/context/seal",
        Exact,
        Operation::Build(BuildOperation::Seal),
    ),
    built(Post, "/images/v4/builds/cancel", Exact, Operation::Build(BuildOperation::Cancel)),
    // Row 30. Without a token route 0.5.163 says cleanly that there is no registry (spec 08 §4).
    Route {
        method: Post,
        path: "/artifact-storage/v1/token",
        family: Exact,
        access: Key,
        serving: Serving::Absent,
    },
    later(Get, "/platform/v1/organizations/{o}/projects/{p}/file-systems", Exact, FILE_SYSTEMS),
    later(Post, "/platform/v1/organizations/{o}/projects/{p}/file-systems", Exact, FILE_SYSTEMS),
    later(
        Delete,
        "/platform/v1/organizations/{o}/projects/{p}/file-systems/{id}",
        Exact,
        FILE_SYSTEMS,
    ),
    // Row 31. Usage of the hosted service is no route: the fallback's 404 is the answer.
    built(Get, "/platform/v1/users/me/ssh-keys", Exact, Operation::SshKeyList),
    built(Post, "/platform/v1/users/me/ssh-keys", Exact, Operation::SshKeyCreate),
    built(Delete, "/platform/v1/users/me/ssh-keys/{id}", Exact, Operation::SshKeyDelete),
    built(Get, "/platform/v1/organizations/{o}/projects/{p}", Exact, Operation::ProjectFetch),
    // Our own.
    own(Get, "/healthz", Public, Operation::Healthz),
    own(Get, "/readyz", Public, Operation::Readyz),
    own(Get, "/metrics", Public, Operation::Metrics),
    own(Get, "/openapi.json", Public, Operation::OpenApi),
    own(Post, "/tarn/v1/keys", Admin, Operation::AdminKeyCreate),
    own(Get, "/tarn/v1/keys", Admin, Operation::AdminKeyList),
    own(Delete, "/tarn/v1/keys/{id}", Admin, Operation::AdminKeyRevoke),
    own(Get, "/tarn/v1/sandboxes", Admin, Operation::AdminSandboxList),
    own(Get, "/tarn/v1/sandboxes/{sid}", Admin, Operation::AdminSandboxFetch),
    own(Post, "/tarn/v1/sandboxes/{sid}/suspend", Admin, Operation::AdminSandboxSuspend),
    own(Post, "/tarn/v1/sandboxes/{sid}/resume", Admin, Operation::AdminSandboxResume),
    own(Post, "/tarn/v1/sandboxes/{sid}/copy", Admin, Operation::AdminSandboxCopy),
    own(Get, "/tarn/v1/sandboxes/{sid}/network", Admin, Operation::AdminSandboxNetwork),
    own(Post, "/tarn/v1/sandboxes/{sid}/snapshot", Admin, Operation::AdminSnapshotCreate),
    own(Get, "/tarn/v1/snapshots", Admin, Operation::AdminSnapshotList),
    own(Get, "/tarn/v1/snapshots/{id}", Admin, Operation::AdminSnapshotFetch),
    own(Delete, "/tarn/v1/snapshots/{id}", Admin, Operation::AdminSnapshotDelete),
    own(Get, "/tarn/v1/transfers", Admin, Operation::AdminTransferList),
    own(Post, "/tarn/v1/snapshots/{id}/verify", Admin, Operation::AdminSnapshotVerify),
    own(Get, "/tarn/v1/orphans", Admin, Operation::AdminOrphanList),
    own(Get, "/tarn/v1/gpus", Admin, Operation::AdminGpuList),
    own(Get, "/tarn/v1/secrets", Admin, Operation::AdminSecretList),
    own(Put, "/tarn/v1/secrets", Admin, Operation::AdminSecretPut),
    own(Delete, "/tarn/v1/secrets/{id}", Admin, Operation::AdminSecretDelete),
    own(Post, "/tarn/v1/secrets/key/rotate", Admin, Operation::AdminSecretKeyRotate),
    own(Get, "/tarn/v1/projects", Admin, Operation::AdminProjectList),
    own(Put, "/tarn/v1/quotas", Admin, Operation::AdminQuotaSet),
    own(Get, "/tarn/v1/images", Admin, Operation::AdminImageList),
    own(Post, "/tarn/v1/images/pull", Admin, Operation::AdminImagePull),
    own(Post, "/tarn/v1/images/import", Admin, Operation::AdminImageImport),
    own(Post, "/tarn/v1/images/remove", Admin, Operation::AdminImageRemove),
    own(Get, "/tarn/v1/registry-logins", Admin, Operation::AdminLoginList),
    own(Put, "/tarn/v1/registry-logins", Admin, Operation::AdminLoginPut),
    own(Post, "/tarn/v1/registry-logins/remove", Admin, Operation::AdminLoginDelete),
];

// === impl Method ===

impl Method {
    /// Returns the method's name in a request.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

// === impl Operation ===

impl Operation {
    /// Returns the operation's id, as in the document, in logs and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SandboxCreate => "sandbox_create",
            Self::SandboxList => "sandbox_list",
            Self::SandboxFetch => "sandbox_fetch",
            Self::SandboxUpdate => "sandbox_update",
            Self::SandboxDelete => "sandbox_delete",
            Self::SandboxSuspend => "sandbox_suspend",
            Self::SandboxResume => "sandbox_resume",
            Self::SandboxCopy => "sandbox_copy",
            Self::SnapshotCreate => "snapshot_create",
            Self::SandboxSnapshotList => "sandbox_snapshot_list",
            Self::SnapshotList => "snapshot_list",
            Self::SnapshotFetch => "snapshot_fetch",
            Self::SnapshotDelete => "snapshot_delete",
            Self::ArchivedSandboxList => "archived_sandbox_list",
            Self::ArchivedSandboxFetch => "archived_sandbox_fetch",
            Self::PoolCreate => "pool_create",
            Self::PoolList => "pool_list",
            Self::PoolFetch => "pool_fetch",
            Self::PoolReplace => "pool_replace",
            Self::PoolDelete => "pool_delete",
            Self::PoolClaim => "pool_claim",
            Self::LogList => "log_list",
            Self::LogProcessList => "log_process_list",
            Self::KeyIntrospect => "key_introspect",
            Self::SecretList => "secret_list",
            Self::SecretPut => "secret_put",
            Self::SecretFetch => "secret_fetch",
            Self::SecretDelete => "secret_delete",
            Self::NamespaceSecret(operation) => operation.as_str(),
            Self::ProjectFetch => "project_fetch",
            Self::SshKeyList => "ssh_key_list",
            Self::SshKeyCreate => "ssh_key_create",
            Self::SshKeyDelete => "ssh_key_delete",
            Self::Image(operation) => operation.as_str(),
            Self::Healthz => "healthz",
            Self::Readyz => "readyz",
            Self::Metrics => "metrics",
            Self::OpenApi => "openapi",
            Self::AdminKeyCreate => "admin_key_create",
            Self::AdminKeyList => "admin_key_list",
            Self::AdminKeyRevoke => "admin_key_revoke",
            Self::AdminSandboxList => "admin_sandbox_list",
            Self::AdminSandboxFetch => "admin_sandbox_fetch",
            Self::AdminSandboxSuspend => "admin_sandbox_suspend",
            Self::AdminSandboxResume => "admin_sandbox_resume",
            Self::AdminSandboxCopy => "admin_sandbox_copy",
            Self::AdminSandboxNetwork => "admin_sandbox_network",
            Self::AdminSnapshotCreate => "admin_snapshot_create",
            Self::AdminSnapshotList => "admin_snapshot_list",
            Self::AdminSnapshotFetch => "admin_snapshot_fetch",
            Self::AdminSnapshotDelete => "admin_snapshot_delete",
            Self::AdminTransferList => "admin_transfer_list",
            Self::AdminSnapshotVerify => "admin_snapshot_verify",
            Self::AdminOrphanList => "admin_orphan_list",
            Self::AdminGpuList => "admin_gpu_list",
            Self::AdminSecretList => "admin_secret_list",
            Self::AdminSecretPut => "admin_secret_put",
            Self::AdminSecretDelete => "admin_secret_delete",
            Self::AdminSecretKeyRotate => "admin_secret_key_rotate",
            Self::AdminProjectList => "admin_project_list",
            Self::AdminQuotaSet => "admin_quota_set",
            Self::AdminImageList => "admin_image_list",
            Self::AdminImagePull => "admin_image_pull",
            Self::AdminImageImport => "admin_image_import",
            Self::AdminImageRemove => "admin_image_remove",
            Self::AdminLoginList => "admin_login_list",
            Self::AdminLoginPut => "admin_login_put",
            Self::AdminLoginDelete => "admin_login_delete",
            Self::Build(operation) => operation.as_str(),
        }
    }
}

// === impl Serving ===

impl Serving {
    /// Returns what logs and metrics call the route.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Built(operation) => operation.as_str(),
            Self::NotBuilt(_) => "not_built",
            Self::Absent => "absent",
        }
    }
}

// === impl Route ===

impl Route {
    /// Returns every path pattern under which the route is served.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let prefixes: &[&str] = match self.family {
            Project => &["/v1/namespaces/{ns}", ""],
            Platform => &["/platform/v1", "/platform/v1/organizations/{o}/projects/{p}"],
            Exact => &[""],
        };
        prefixes.iter().map(|prefix| format!("{prefix}{}", self.path)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_row_is_there_twice() {
        let mut seen = BTreeSet::new();
        for route in ROUTES {
            for path in route.paths() {
                assert!(seen.insert((route.method, path.clone())), "{:?} {path}", route.method);
            }
        }
    }

    #[test]
    fn every_row_of_the_spec_is_there() {
        let has = |method, path: &str| {
            let found = |route: &&Route| {
                route.method == method && route.paths().iter().any(|each| each == path)
            };
            assert!(ROUTES.iter().find(found).is_some(), "{method:?} {path}");
        };
        for prefix in ["", "/v1/namespaces/{ns}"] {
            for (method, path) in [
                (Post, "/sandboxes"),
                (Get, "/sandboxes"),
                (Get, "/sandboxes/{sid}"),
                (Patch, "/sandboxes/{sid}"),
                (Delete, "/sandboxes/{sid}"),
                (Post, "/sandboxes/{sid}/suspend"),
                (Post, "/sandboxes/{sid}/resume"),
                (Post, "/sandboxes/{sid}/snapshot"),
                (Get, "/sandboxes/{sid}/snapshots"),
                (Get, "/snapshots"),
                (Get, "/snapshots/{id}"),
                (Delete, "/snapshots/{id}"),
                (Post, "/sandboxes/{sid}/copy"),
                (Post, "/sandboxes/{sid}/file_systems"),
                (Delete, "/sandboxes/{sid}/file_systems"),
                (Get, "/sandboxes/{sid}/logs"),
                (Get, "/sandboxes/{sid}/processes"),
                (Get, "/archived-sandboxes"),
                (Get, "/archived-sandboxes/{id}"),
                (Post, "/sandbox-pools"),
                (Get, "/sandbox-pools"),
                (Get, "/sandbox-pools/{id}"),
                (Put, "/sandbox-pools/{id}"),
                (Delete, "/sandbox-pools/{id}"),
                (Post, "/sandbox-pools/{id}/sandboxes"),
                (Delete, "/sandbox-images/{name}"),
            ] {
                has(method, &format!("{prefix}{path}"));
            }
        }
        has(Post, "/platform/v1/keys/introspect");
        has(Put, "/platform/v1/secrets");
        has(Put, "/platform/v1/organizations/{o}/projects/{p}/secrets");
        has(Get, "/platform/v1/organizations/{o}/projects/{p}/sandbox-templates/by-name/{name}");
        has(Get, "/images/v4/images/name/{*name}");
        has(Post, "/artifact-storage/v1/token");
        has(Post, "/platform/v1/organizations/{o}/projects/{p}/file-systems");
        has(Get, "/platform/v1/users/me/ssh-keys");
        has(Get, "/platform/v1/organizations/{o}/projects/{p}");
    }
}
