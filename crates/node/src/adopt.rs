//! The start of a node over what an earlier one left: adopt, finish, or undo.
//!
//! The ledger decides. What it knows is adopted if it still lives; what it knows and has died is
//! cleaned up and reported; what only the host knows was being built when the server died, was
//! never acknowledged, and is removed.

use std::{collections::HashSet, sync::Arc};

use tarn_node_api::Endpoint;
use tarn_runtime::Adopted;
use tarn_types::{EndCause, SandboxId};

use crate::{
    daemon,
    ledger::{Entry, State},
    sandbox::SandboxTask,
    service::{NodeStartError, Shared},
    start::{chain, clean, runtime_spec},
};

/// What became of an entry.
enum Fate {
    /// It lives; this is how to reach it.
    Lives(Endpoint),
    /// It is gone, for this cause.
    Gone(EndCause),
    /// It was being built, and nobody was told of it: undo, control asks again.
    Undone,
}

/// Goes through ledger and host once.
pub(crate) async fn adopt_all(shared: &Arc<Shared>) -> Result<(), NodeStartError> {
    let entries = shared.ledger.read_all()?;
    let kept: HashSet<SandboxId> = entries.iter().map(|(id, _)| id.clone()).collect();
    let mut adopted = Vec::new();
    for (id, entry) in entries {
        match entry {
            Ok(entry) => adopted.push(adopt_one(shared, entry).await),
            Err(bad) => tracing::error!(
                sandbox.id = %id, error = chain(&bad),
                "a ledger entry cannot be read; its sandbox is left alone"
            ),
        }
    }
    shared.parts.slots.settle().await?;
    remove_strays(shared, &kept).await?;
    let mut lives = 0;
    for (mut entry, fate) in adopted {
        match fate {
            Fate::Lives(endpoint) => {
                lives += 1;
                SandboxTask::spawn_adopted(shared, entry, Some(endpoint), false);
            }
            Fate::Gone(cause) => {
                if !matches!(entry.state, State::Ended { .. }) {
                    entry.state = State::Ended { cause, at: shared.parts.clock.now() };
                }
                SandboxTask::spawn_adopted(shared, entry, None, true);
            }
            Fate::Undone => match clean(shared, &mut entry).await {
                Ok(()) => shared.remove(entry.id).await?,
                Err(trouble) => {
                    tracing::warn!(sandbox.id = %entry.id, trouble, "a half-built sandbox resists");
                    let cause = died("server_restarted");
                    entry.state = State::Ended { cause, at: shared.parts.clock.now() };
                    SandboxTask::spawn_adopted(shared, entry, None, true);
                }
            },
        }
    }
    tracing::info!(ledger = kept.len(), lives, "sandboxes of an earlier run adopted");
    Ok(())
}

async fn adopt_one(shared: &Shared, mut entry: Entry) -> (Entry, Fate) {
    let started = match &entry.state {
        State::Ended { cause, .. } => {
            let cause = cause.clone();
            return (entry, Fate::Gone(cause));
        }
        State::Starting => false,
        State::Running { .. } => true,
    };
    if entry.boot_id != shared.config.boot_id {
        return (entry, if started { Fate::Gone(died("host_restarted")) } else { Fate::Undone });
    }
    match find(shared, &entry).await {
        Ok(endpoint) => {
            if !started {
                // The server died between the daemon's yes and the next line of the ledger.
                entry.state = State::Running { since: shared.parts.clock.now() };
            }
            (entry, Fate::Lives(endpoint))
        }
        Err(trouble) if started => {
            tracing::warn!(sandbox.id = %entry.id, trouble, "a sandbox died while no server ran");
            (entry, Fate::Gone(died("died_unwatched")))
        }
        Err(_half_built) => (entry, Fate::Undone),
    }
}

/// Finds every part of a sandbox again.
async fn find(shared: &Shared, entry: &Entry) -> Result<Endpoint, String> {
    let parts = &shared.parts;
    let slot = entry.slot.ok_or("it has no slot")?;
    let slot = parts.slots.adopt(slot, &entry.id, &entry.launch.egress).await;
    let slot = slot.map_err(|bad| chain(&bad))?;
    let rootfs = parts.layers.adopt(&entry.id).await.map_err(|bad| chain(&bad))?;
    let spec = runtime_spec(shared, entry, &rootfs, &slot);
    let adopted = parts.runtime.adopt(&spec).await.map_err(|bad| chain(&bad))?;
    let Adopted::Running(started) = adopted else {
        return Err("its processes are gone".to_owned());
    };
    if matches!(entry.state, State::Starting) {
        // Only an open daemon got as far as to be told of.
        let open = daemon::is_open(started.daemon, &entry.token);
        let asked = tokio::time::timeout(std::time::Duration::from_secs(2), open).await;
        asked.map_err(|late| late.to_string())?.map_err(|bad| chain(&bad))?;
    }
    Ok(Endpoint { daemon: started.daemon, token: entry.token.clone() })
}

/// Removes host objects with our tag that no ledger entry explains.
async fn remove_strays(shared: &Shared, kept: &HashSet<SandboxId>) -> Result<(), NodeStartError> {
    let parts = &shared.parts;
    for id in parts.runtime.list().await? {
        if !kept.contains(&id) {
            tracing::info!(sandbox.id = %id, "removing a stray of the runtime");
            parts.runtime.delete(&id).await?;
        }
    }
    for id in parts.layers.list().await? {
        if !kept.contains(&id) {
            tracing::info!(sandbox.id = %id, "removing a stray layer");
            parts.layers.release(&id).await?;
        }
    }
    Ok(())
}

fn died(reason: &str) -> EndCause {
    EndCause::RuntimeDied { reason: reason.to_owned() }
}
