//! Lets addresses into one slot's sets.

use std::sync::Arc;

use tarn_host::SlotId;
use tarn_task::Tasks;
use tarn_types::HostName;

use crate::{
    egress::Egress,
    error::{Step as _, StepFailure},
    filter::Record,
    rules::Rules,
};

/// What the resolver of one slot needs of the rules.
#[derive(Debug, Clone)]
pub(crate) struct Learner {
    pub(crate) rules: Arc<Rules>,
    pub(crate) slot: SlotId,
    pub(crate) tasks: Tasks,
}

// === impl Learner ===

impl Learner {
    /// Has the rules know addresses of a name under a policy; they are in force when it returns.
    /// Says no if another policy has taken its place.
    pub(super) async fn learn(
        &self,
        egress: &Arc<Egress>,
        name: HostName,
        records: Vec<Record>,
    ) -> Result<bool, StepFailure> {
        let (rules, slot, egress) = (Arc::clone(&self.rules), self.slot, Arc::clone(egress));
        let learned =
            self.tasks.spawn_blocking(move || rules.learn(slot, &egress, &name, &records));
        learned.await.step("let an address in")?
    }
}
