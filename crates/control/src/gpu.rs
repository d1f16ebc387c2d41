//! GPUs: who has them, and turns to give them out.
//!
//! Nobody may find a GPU free that somebody else was just given. So whoever places a sandbox with
//! GPUs does so in a turn: from its look at the nodes to the intent that its node has taken, after
//! which the node says of its own accord that they are held.

use tarn_node_api::GpuView;
use tarn_types::{Resources, SandboxRecord};
use tokio::sync::MutexGuard;

use crate::{Control, ControlError};

// === impl Control ===

impl Control {
    /// Returns every GPU of every node.
    #[must_use]
    pub fn gpus(&self) -> Vec<GpuView> {
        self.nodes().iter().flat_map(|node| node.gpus()).collect()
    }

    /// Waits for the turn to give GPUs out; who wants none needs none.
    pub(crate) async fn gpu_turn(&self, resources: &Resources) -> Option<MutexGuard<'_, ()>> {
        match resources.gpus {
            Some(_) => Some(self.0.gpus.lock().await),
            None => None,
        }
    }
}

/// Refuses to write down the memory of a sandbox that has GPUs: what is in them is not in it.
pub(crate) fn refuse_memory(
    record: &SandboxRecord,
    remedy: &'static str,
) -> Result<(), ControlError> {
    match record.asked.resources.gpus {
        Some(_) => Err(ControlError::HasGpus { id: record.id.clone(), remedy }),
        None => Ok(()),
    }
}
