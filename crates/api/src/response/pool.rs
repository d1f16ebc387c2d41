//! Pools as the clients read them (spec 03).

use serde::Serialize;
use tarn_types::{NodeId, PoolRecord, SandboxId};
use utoipa::ToSchema;

use super::{NetworkConfig, ResourcesInfo, sandbox::container_id};

/// A pool that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CreatePoolResponse {
    /// Its id.
    pub pool_id: String,
    /// The name of its project.
    pub namespace: String,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PoolInfo {
    /// Its id. Never `id` beside it: the clients hold that for a duplicate.
    pub pool_id: String,
    /// The name of its project.
    pub namespace: String,
    /// The image that its containers boot.
    pub image: String,
    /// The shape of its containers.
    pub resources: ResourcesInfo,
    /// The time limit of a claimed sandbox in seconds, from its claim on; 0 = unlimited.
    pub timeout_secs: u64,
    /// The command run at start, as requested.
    pub entrypoint: Option<Vec<String>>,
    /// How many containers there may be, claimed ones included; null = any number.
    pub max_containers: Option<u32>,
    /// How many containers wait to be claimed; null = never said, which means none.
    pub warm_containers: Option<u32>,
    /// The policy as set; null = never set, which means open.
    pub network_policy: Option<NetworkConfig>,
    /// Its containers: those that wait, and those of claimed sandboxes that are not suspended.
    /// Only in the answer about one pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub containers: Option<Vec<PoolContainerInfo>>,
    /// When it was made, in milliseconds since the epoch.
    pub created_at: i64,
    /// When it was last changed, in milliseconds since the epoch.
    pub updated_at: i64,
}

/// A container of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PoolContainerInfo {
    /// Its id, which stays the same when it is claimed.
    pub id: String,
    /// `Idle` or `Running`.
    pub state: &'static str,
    /// The sandbox that was claimed with it; null while it waits.
    pub sandbox_id: Option<String>,
    /// The node that has it.
    pub executor_id: String,
}

/// The pools of a project, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PoolList {
    /// All of them, without their containers.
    pub pools: Vec<PoolInfo>,
}

// === impl PoolInfo ===

impl PoolInfo {
    /// Makes the answer about a pool.
    #[must_use]
    pub fn new(
        record: &PoolRecord,
        namespace: &str,
        containers: Option<Vec<PoolContainerInfo>>,
    ) -> Self {
        let definition = &record.definition;
        Self {
            pool_id: record.id.to_string(),
            namespace: namespace.to_owned(),
            image: definition.image.to_string(),
            resources: definition.resources.into(),
            timeout_secs: record.timeout_secs,
            entrypoint: definition.entrypoint.clone(),
            max_containers: record.max_containers,
            warm_containers: record.warm_containers,
            network_policy: definition.network.as_ref().map(NetworkConfig::from),
            containers,
            created_at: record.created_at.0,
            updated_at: record.updated_at.0,
        }
    }
}

// === impl PoolContainerInfo ===

impl PoolContainerInfo {
    /// Makes the answer about the container of a sandbox that nobody has claimed yet.
    #[must_use]
    pub fn idle(sandbox: &SandboxId, node: &NodeId) -> Self {
        Self {
            id: container_id(sandbox),
            state: "Idle",
            sandbox_id: None,
            executor_id: node.to_string(),
        }
    }

    /// Makes the answer about the container of a claimed sandbox.
    #[must_use]
    pub fn claimed(sandbox: &SandboxId, node: &NodeId) -> Self {
        Self {
            state: "Running",
            sandbox_id: Some(sandbox.to_string()),
            ..Self::idle(sandbox, node)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tarn_types::{EgressPolicy, PoolDefinition, PoolId, ProjectId, Resources, UnixMillis};

    use super::*;

    #[test]
    fn a_pool_has_the_keys_and_types_the_clients_read() {
        let record = PoolRecord {
            id: PoolId::from_random([1; 16]),
            project: ProjectId::from_random([2; 16]),
            created_at: UnixMillis(1_800_000_000_000),
            updated_at: UnixMillis(1_800_000_000_001),
            definition: PoolDefinition {
                image: "tensorlake/ubuntu-minimal".parse().expect("a good name"),
                resources: Resources::default(),
                entrypoint: None,
                network: Some(EgressPolicy::CLOSED),
            },
            timeout_secs: 30,
            max_containers: None,
            warm_containers: Some(2),
            sequence: 1,
        };
        let (sandbox, node) = (SandboxId::from_random([3; 21]), NodeId::from_random([4; 16]));
        let containers = vec![
            PoolContainerInfo::idle(&sandbox, &node),
            PoolContainerInfo::claimed(&sandbox, &node),
        ];
        let answer = json!(PoolInfo::new(&record, "default", Some(containers)));
        assert_eq!(
            answer,
            json!({
                "pool_id": "pool_1111111111111111", "namespace": "default",
                "image": "tensorlake/ubuntu-minimal",
                "resources": {"cpus": 1.0, "memory_mb": 1024, "disk_mb": 10240,
                    "ephemeral_disk_mb": 10240, "gpus": []},
                "timeout_secs": 30, "entrypoint": null, "max_containers": null,
                "warm_containers": 2,
                "network_policy": {"allow_internet_access": false, "allow_out": [],
                    "deny_out": []},
                "containers": [
                    {"id": "container_333333333333333333333", "state": "Idle",
                        "sandbox_id": null, "executor_id": "node_4444444444444444"},
                    {"id": "container_333333333333333333333", "state": "Running",
                        "sandbox_id": "333333333333333333333",
                        "executor_id": "node_4444444444444444"},
                ],
                "created_at": 1_800_000_000_000_i64, "updated_at": 1_800_000_000_001_i64,
            })
        );
        let listed = json!(PoolInfo::new(&record, "default", None));
        assert!(listed.get("containers").is_none() && listed.get("id").is_none());
    }
}
