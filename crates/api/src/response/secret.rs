//! Secrets as callers see them: all but the value (spec 08 §2). camelCase.

use serde::{Deserialize, Serialize};
use tarn_types::SecretRecord;
use utoipa::ToSchema;

use super::platform::rfc3339;

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretBody {
    /// Its id, which stays when its value changes.
    pub id: String,
    /// Its name, and that of the variable it becomes.
    pub name: String,
    /// When it was first set, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

/// A secret, without its value, as the crate reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = NamespaceSecret)]
pub struct NamespaceSecretBody {
    /// Its id, which stays when its value changes.
    pub id: String,
    /// Its name, and that of the variable it becomes.
    pub name: String,
    /// When it was first set, in milliseconds since the epoch.
    pub created_at_ms: i64,
}

/// All secrets of the project, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = NamespaceSecretList)]
#[serde(transparent)]
pub struct NamespaceSecretList(pub Vec<NamespaceSecretBody>);

/// A page of secrets, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SecretList {
    /// The secrets.
    pub items: Vec<SecretBody>,
    /// What is around the page.
    pub pagination: Pagination,
}

/// What is around a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Pagination {
    /// Pass it as `next` for the page after; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Pass it as `prev` for the page before; absent at the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev: Option<String>,
    /// How many there are on all pages.
    pub total: usize,
}

/// A secret of any project, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminSecret {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The name of its project.
    pub project_name: String,
    /// When it was first set, in milliseconds since the epoch.
    pub created_at: i64,
    /// When its value was last set, in milliseconds since the epoch.
    pub updated_at: i64,
}

/// The secrets of all projects, each project's by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminSecretList {
    /// The secrets.
    pub secrets: Vec<AdminSecret>,
}

/// The key of the secrets was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretKeyReplaced {
    /// How many projects' data keys are sealed with the new one.
    pub projects: usize,
}

// === impl NamespaceSecretBody ===

impl NamespaceSecretBody {
    /// Shows a secret.
    #[must_use]
    pub fn new(secret: &SecretRecord) -> Self {
        Self {
            id: secret.id.to_string(),
            name: secret.name.to_string(),
            created_at_ms: secret.created_at.0,
        }
    }
}

// === impl SecretBody ===

impl SecretBody {
    /// Makes the answer about one secret.
    #[must_use]
    pub fn new(secret: &SecretRecord) -> Self {
        Self {
            id: secret.id.to_string(),
            name: secret.name.to_string(),
            created_at: rfc3339(secret.created_at),
        }
    }
}

// === impl AdminSecret ===

impl AdminSecret {
    /// Makes the entry of one secret.
    #[must_use]
    pub fn new(secret: &SecretRecord, project_name: &str) -> Self {
        Self {
            id: secret.id.to_string(),
            name: secret.name.to_string(),
            project_name: project_name.to_owned(),
            created_at: secret.created_at.0,
            updated_at: secret.updated_at.0,
        }
    }
}
