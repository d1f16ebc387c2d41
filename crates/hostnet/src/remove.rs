//! Removes everything of a server from the host.

use std::path::Path;

use tarn_types::InstanceTag;
use thiserror::Error;

use crate::{
    carry::carried_over,
    error::StepFailure,
    plan::Names,
    reserve::give_up,
    rules,
    site::Site,
    uplink::{self, IpFamily},
};

/// Says what could not be removed.
#[derive(Debug, Error)]
#[error("{step}: {detail}")]
pub struct SlotsRemoveError {
    step: &'static str,
    detail: String,
}

/// Removes every object of a tag: slots, rules, reservation, and forwarding where we switched it
/// on. For uninstalling, and for tests; no server of that tag may be running. Blocking.
///
/// # Errors
/// Tells the first thing that could not be removed; the rest is removed all the same.
pub fn remove_all(tag: &InstanceTag, run_dir: &Path) -> Result<(), SlotsRemoveError> {
    let names = Names::new(tag.clone());
    let steps = [
        remove_slots(&names, run_dir),
        remove_forwarding(&names),
        rules::remove(&names),
        give_up(&names),
    ];
    steps
        .into_iter()
        .collect::<Result<(), StepFailure>>()
        .map_err(|StepFailure { step, detail }| SlotsRemoveError { step, detail })
}

fn remove_slots(names: &Names, run_dir: &Path) -> Result<(), StepFailure> {
    let site =
        Site { names: names.clone(), run_dir: run_dir.to_owned(), rate: None, has_ipv6: false };
    let survey = site.survey()?;
    let mut outcome = Ok(());
    for slot in survey.whole.union(&survey.broken) {
        outcome = outcome.and(site.demolish(*slot));
    }
    outcome
}

/// Leaves forwarding as it is while another tarn needs it; that one does not know that it was us.
fn remove_forwarding(names: &Names) -> Result<(), StepFailure> {
    if rules::others(names)? {
        return Ok(());
    }
    uplink::forget_unwritten();
    let ways = carried_over(names, None)?.ways;
    let switched_off = uplink::switch_off(IpFamily::V4, &ways.guarded);
    switched_off.and(uplink::switch_off(IpFamily::V6, &ways.guarded6))
}
