//! The network place of each sandbox.

use std::{net::IpAddr, path::PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tarn_types::{EgressPolicy, ErrorClass, NetworkLog, SandboxId};
use thiserror::Error;

/// Numbers a slot on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotId(pub u16);

/// A claimed network place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its number.
    pub id: SlotId,
    /// The file that is its network namespace.
    pub netns: PathBuf,
    /// The address at which the host reaches the sandbox in it.
    pub address: IpAddr,
}

/// Says which step of a slot's life failed.
#[derive(Debug, Error)]
pub enum SlotError {
    /// Every slot of the address range is in use.
    #[error("all {0} network slots are in use")]
    Exhausted(u16),
    /// The slot a sandbox had is not there any more.
    #[error("network slot {} is gone", slot.0)]
    Missing {
        /// The slot.
        slot: SlotId,
    },
    /// A step on the host failed.
    #[error("{step} of network slot {}: {detail}", slot.0)]
    Step {
        /// What was being done.
        step: &'static str,
        /// On which slot.
        slot: SlotId,
        /// What the host said.
        detail: String,
    },
}

/// Hands out network places. A slot is closed (nothing in, nothing out) until claimed.
#[async_trait]
pub trait Slots: Send + Sync + 'static {
    /// Takes a free slot and installs the policy in it; it carries traffic only afterwards.
    ///
    /// # Errors
    /// Fails when none is free or the policy cannot be installed; the slot is closed again then.
    async fn claim(&self, id: &SandboxId, policy: &EgressPolicy) -> Result<Slot, SlotError>;

    /// Replaces the policy of a sandbox's slot atomically.
    ///
    /// # Errors
    /// Fails when it cannot be installed, and the old policy stays then; or when the slot is not
    /// this sandbox's.
    async fn set_policy(
        &self,
        slot: SlotId,
        id: &SandboxId,
        policy: &EgressPolicy,
    ) -> Result<(), SlotError>;

    /// Takes back the slot of a sandbox that outlived a restart of the server, with its policy.
    ///
    /// # Errors
    /// [`SlotError::Missing`] when the slot is gone. After any other failure the slot stays as it
    /// is and the sandbox's, through [`Slots::settle`] too: it may be tried again at any time, and
    /// is to be released. Of a slot that it has
    /// taken back already this says so again.
    async fn adopt(
        &self,
        slot: SlotId,
        id: &SandboxId,
        policy: &EgressPolicy,
    ) -> Result<Slot, SlotError>;

    /// Removes or reuses whatever slots of ours the host has that nobody adopted. Called once,
    /// after the last [`Slots::adopt`] and before the first [`Slots::claim`].
    ///
    /// # Errors
    /// Fails when the host cannot be read or a slot cannot be removed.
    async fn settle(&self) -> Result<(), SlotError>;

    /// Closes a sandbox's slot at once and makes it ready for its next sandbox in the background.
    /// The sandbox must be gone.
    ///
    /// Does nothing unless the slot is this sandbox's. A number alone does not say so: what is
    /// left of a sandbox after a restart may name a slot that was removed by [`Slots::settle`],
    /// built again, and claimed by another.
    async fn release(&self, slot: SlotId, id: &SandboxId);

    /// Returns what a sandbox did with the network since its slot became its own. That of a sandbox
    /// that has left its slot is kept for a while; `None` is a sandbox that has none, or none any
    /// more.
    ///
    /// # Errors
    /// Fails when the host does not say.
    async fn network_log(&self, id: &SandboxId) -> Result<Option<NetworkLog>, SlotError>;
}

// === impl SlotError ===

impl SlotError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Exhausted(_) => ErrorClass::Unavailable,
            Self::Missing { .. } => ErrorClass::NotFound,
            Self::Step { .. } => ErrorClass::Internal,
        }
    }
}
