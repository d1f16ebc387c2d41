//! Identity and health, as the platform routes answer it (spec 08 §1, §5): camelCase.

use serde::Serialize;
use tarn_types::{KeyId, ProjectId, UnixMillis};
use utoipa::ToSchema;

/// The one organization of a server. tarn's unit of tenancy is the project; clients want both.
pub const ORGANIZATION_ID: &str = "org_local";

/// What a key opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyIdentity {
    /// The key's id.
    pub id: String,
    /// The organization; always the same one.
    pub organization_id: &'static str,
    /// The project the key opens.
    pub project_id: String,
}

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectBody {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The organization; always the same one.
    pub organization_id: &'static str,
    /// When it was made, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

/// What `/healthz` and `/readyz` say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct HealthBody {
    /// `ok`.
    pub status: &'static str,
}

// === impl KeyIdentity ===

impl KeyIdentity {
    /// Makes the answer about one key.
    #[must_use]
    pub fn new(key: &KeyId, project: &ProjectId) -> Self {
        Self {
            id: key.to_string(),
            organization_id: ORGANIZATION_ID,
            project_id: project.to_string(),
        }
    }
}

// === impl ProjectBody ===

impl ProjectBody {
    /// Makes the answer about one project.
    #[must_use]
    pub fn new(id: &ProjectId, name: &str, created_at: Option<UnixMillis>) -> Self {
        Self {
            id: id.to_string(),
            name: name.to_owned(),
            organization_id: ORGANIZATION_ID,
            created_at: created_at.and_then(rfc3339),
        }
    }
}

pub(super) fn rfc3339(at: UnixMillis) -> Option<String> {
    jiff::Timestamp::from_millisecond(at.0).ok().map(|at| format!("{at:.3}"))
}

/// Writes a time in milliseconds since the epoch as RFC 3339 text in whole seconds, for people.
///
/// Returns `None` for a time that no calendar has.
#[must_use]
pub fn rfc3339_secs(millis: i64) -> Option<String> {
    let second = millis.div_euclid(1000);
    jiff::Timestamp::from_second(second).ok().map(|at| format!("{at:.0}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn platform_bodies_are_camel_case() {
        let (key, project) = (KeyId::from_random([1; 16]), ProjectId::from_random([2; 16]));
        assert_eq!(
            json!(KeyIdentity::new(&key, &project)),
            json!({"id": "key_1111111111111111", "organizationId": "org_local",
                "projectId": "project_2222222222222222"})
        );
        assert_eq!(
            json!(ProjectBody::new(&project, "default", Some(UnixMillis(1_700_000_000_000)))),
            json!({"id": "project_2222222222222222", "name": "default",
                "organizationId": "org_local", "createdAt": "2023-11-14T22:13:20.000Z"})
        );
    }
}
