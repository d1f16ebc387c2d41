//! Pools of containers that wait to be claimed (spec 03).

use serde::{Deserialize, Serialize};

use crate::{BootImage, EgressPolicy, PoolId, ProjectId, Resources, UnixMillis};

/// What the containers of a pool are started with. Those that were started with another are
/// replaced as long as nobody has claimed them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolDefinition {
    /// The image.
    pub image: BootImage,
    /// The shape.
    pub resources: Resources,
    /// Command run at start, replacing the image's.
    pub entrypoint: Option<Vec<String>>,
    /// The policy as set; `None` = never set, which means open.
    pub network: Option<EgressPolicy>,
}

/// All that is stored of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// Its id.
    pub id: PoolId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it was last changed.
    pub updated_at: UnixMillis,
    /// What its containers are started with.
    pub definition: PoolDefinition,
    /// The limit of a claimed sandbox in seconds, from its claim on; 0 = unlimited.
    pub timeout_secs: u64,
    /// How many containers there may be, claimed ones included; `None` = any number.
    pub max_containers: Option<u32>,
    /// How many wait to be claimed; `None` = never said, which means none.
    pub warm_containers: Option<u32>,
    /// Grows with every change of the record; updates compare and set on it.
    pub sequence: u64,
}

/// What makes a sandbox one of a pool's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolMember {
    /// The pool. It may be gone already.
    pub pool: PoolId,
    /// When somebody claimed it; `None` = it waits, and is no sandbox of anybody's yet.
    pub claimed_at: Option<UnixMillis>,
}
