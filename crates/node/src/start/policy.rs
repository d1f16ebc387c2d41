//! The policy of a sandbox that is being started, which may be changed meanwhile.

use std::pin::Pin;

use tarn_host::SlotError;
use tarn_node_api::{NodeIntent, NodeTarget};
use tarn_types::{EgressPolicy, Generation};
use tokio::sync::watch;

use crate::{handle::Wanted, ledger::Entry, service::Shared};

/// Puts in force what policy was asked for since the one that the slot has: before a sandbox does
/// anything, and before anybody hears that it runs. All else that is new comes afterwards.
pub(crate) async fn renew_policy(
    shared: &Shared,
    entry: &mut Entry,
    wanted: &watch::Receiver<Wanted>,
) -> Result<(), SlotError> {
    let newest = newest_policy(entry.generation, &wanted.borrow()).cloned();
    let Some(newer) = newest.filter(|newest| *newest != entry.launch.egress) else {
        return Ok(());
    };
    if let Some(slot) = entry.slot {
        shared.parts.slots.set_policy(slot, &entry.id, &newer).await?;
    }
    entry.launch.egress = newer;
    Ok(())
}

/// Does something in the slot of a sandbox, and has every policy that is asked for meanwhile in
/// force at once. Returns the last one besides.
pub(super) async fn with_newest_policy<T>(
    shared: &Shared,
    entry: &Entry,
    mut wanted: watch::Receiver<Wanted>,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> (T, EgressPolicy) {
    let mut policy = entry.launch.egress.clone();
    loop {
        tokio::select! {
            biased;
            done = work.as_mut() => return (done, policy),
            changed = wanted.changed() => if changed.is_err() {
                return (work.await, policy);
            },
        }
        let newest = newest_policy(entry.generation, &wanted.borrow_and_update()).cloned();
        let Some(newest) = newest.filter(|newest| *newest != policy) else { continue };
        let Some(slot) = entry.slot else { continue };
        match shared.parts.slots.set_policy(slot, &entry.id, &newest).await {
            Ok(()) => policy = newest,
            // It is tried again before anybody hears that the sandbox runs.
            Err(bad) => {
                tracing::warn!(sandbox.id = %entry.id, error = %bad, "the policy was not replaced");
            }
        }
    }
}

/// Returns the policy that a sandbox is to have by now, if it was asked for after a generation.
fn newest_policy(generation: Generation, wanted: &Wanted) -> Option<&EgressPolicy> {
    match &wanted.intent {
        Some(NodeIntent { generation: newer, target: NodeTarget::Running(launch), .. })
            if *newer > generation =>
        {
            Some(&launch.egress)
        }
        Some(_) | None => None,
    }
}
