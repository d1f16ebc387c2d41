//! The start of a node over what an earlier one left: adopt, finish, or undo.
//!
//! The ledger decides. What it knows is adopted if it still lives; what it knows and has died is
//! cleaned up and reported; what only the host knows was being built when the server died, was
//! never acknowledged, and is removed.
//!
//! Only the certain end of its processes ends a sandbox here. While that is not known, or another
//! part of it cannot be had, it is left as it is and looked for again.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use tarn_node_api::Endpoint;
use tarn_runtime::Adopted;
use tarn_types::{EndCause, SandboxId};

use crate::{
    capture, daemon,
    ledger::{Durability, Entry, Kept, State},
    remains,
    room::{self, Room},
    sandbox::{Past, SandboxTask},
    service::{NodeStartError, Shared},
    start::{chain, clean, runtime_spec},
};

/// How long the daemon of a sandbox is waited for that nobody was told of yet.
const DAEMON_PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks for a sandbox, at first and at most.
const SEEK_PAUSE_FIRST: Duration = Duration::from_millis(100);
const SEEK_PAUSE_MOST: Duration = Duration::from_secs(10);

/// What became of an entry.
enum Fate {
    /// It lives; this is how to reach it.
    Lives(Endpoint),
    /// It is gone for certain, for this cause.
    Gone(EndCause),
    /// It may live, but this keeps it from being found again now.
    Sought(String),
    /// It is suspended: its capture, or its layer, is all that counts.
    Dormant,
    /// Its host restarted under it, and it has a name: its files are kept.
    Rebooted,
    /// It was being built, and nobody was told of it: undo, control asks again.
    Undone,
}

/// What a look at the host told of a sandbox.
pub(crate) enum Found {
    /// All of it is there.
    Alive(Endpoint),
    /// Its main process is gone, for certain.
    Dead,
}

/// Goes through ledger and host once.
pub(crate) async fn adopt_all(shared: &Arc<Shared>) -> Result<(), NodeStartError> {
    let entries = shared.ledger.read_all()?;
    // Nothing else is thawed when there is room.
    let is_frozen = |entry: &Entry| {
        entry.frozen
            && entry.orphaned.is_none()
            && entry.boot_id == shared.config.boot_id
            && matches!(entry.state, State::Running { .. })
    };
    room::first_look(shared, entries.iter().any(|(_, it)| it.as_ref().is_ok_and(is_frozen))).await;
    shared.gpus.adopt(&entries);
    let kept: HashSet<SandboxId> = entries.iter().map(|(id, _)| id.clone()).collect();
    // An entry that cannot be read may say anything.
    let asleep: HashSet<SandboxId> = entries
        .iter()
        .filter(|(_, entry)| entry.as_ref().map_or(true, needs_capture))
        .map(|(id, _)| id.clone())
        .collect();
    let mut looking = Vec::new();
    for (id, entry) in entries {
        match entry {
            // Side by side: one that takes its time keeps no other waiting.
            Ok(entry) => {
                let (own, looked_at) = (Arc::clone(shared), entry.clone());
                let look = async move { adopt_one(&own, &looked_at).await };
                looking.push((entry, shared.parts.tasks.spawn("adoption", look)));
            }
            Err(bad) => {
                let trouble = chain(&bad);
                tracing::error!(
                    sandbox.id = %id, error = trouble,
                    "a ledger entry cannot be read; its sandbox is left alone"
                );
                shared.unreadable.lock().insert(id, trouble);
            }
        }
    }
    let mut adopted = Vec::new();
    for (entry, look) in looking {
        let fate = look.await.unwrap_or_else(|lost| doubt(&entry, lost.to_string()));
        adopted.push((entry, fate));
    }
    shared.parts.slots.settle().await?;
    remove_strays(shared, &kept).await?;
    remove_old_captures(shared, &asleep).await;
    let (mut lives, mut sought) = (0, 0);
    for (entry, fate) in adopted {
        match fate {
            Fate::Lives(_) => lives += 1,
            Fate::Sought(_) => sought += 1,
            Fate::Gone(_) | Fate::Dormant | Fate::Rebooted | Fate::Undone => {}
        }
        take_over(shared, entry, fate).await?;
    }
    shared.gpus.look_over().await;
    tracing::info!(ledger = kept.len(), lives, sought, "sandboxes of an earlier run adopted");
    Ok(())
}

/// Gives a sandbox a task, or removes what nobody was told of.
async fn take_over(
    shared: &Arc<Shared>,
    mut entry: Entry,
    fate: Fate,
) -> Result<(), NodeStartError> {
    match fate {
        Fate::Lives(endpoint) => {
            if matches!(entry.state, State::Starting) {
                // The server died between the daemon's yes and the next line of the ledger. That
                // line first: once anybody is told, it must not count as half built again.
                entry.state = State::Running { since: shared.parts.clock.now() };
                shared.write(entry.clone(), Durability::Written).await?;
            }
            // Where there is no room it did not go on.
            if *shared.room.borrow() == Room::Enough && std::mem::take(&mut entry.held) {
                entry.resuming = false;
                shared.write(entry.clone(), Durability::Written).await?;
            }
            SandboxTask::spawn_adopted(shared, entry, Some(endpoint), Past::Settled);
        }
        Fate::Gone(cause) => {
            if !matches!(entry.state, State::Ended { .. }) {
                entry.state = State::Ended { cause, at: shared.parts.clock.now() };
            }
            SandboxTask::spawn_adopted(shared, entry, None, Past::Unclean);
        }
        Fate::Dormant => SandboxTask::spawn_adopted(shared, entry, None, Past::Dormant),
        Fate::Rebooted => {
            tracing::warn!(
                sandbox.id = %entry.id,
                "the host restarted under a named sandbox; it is suspended, with its files alone"
            );
            let at = shared.parts.clock.now();
            entry.state = State::Suspended { at, kept: Kept::Layer };
            entry.held = false;
            entry.resuming = false;
            entry.frozen = false;
            shared.write(entry.clone(), Durability::Synced).await?;
            SandboxTask::spawn_adopted(shared, entry, None, Past::Dormant);
        }
        Fate::Sought(trouble) => {
            warn_sought(&entry.id, &trouble, 1);
            SandboxTask::spawn_adopted(shared, entry, None, Past::Sought { tries: 1, trouble });
        }
        Fate::Undone => match clean(shared, &mut entry).await {
            Ok(()) => shared.remove(entry.id).await?,
            Err(trouble) => {
                tracing::warn!(sandbox.id = %entry.id, trouble, "a half-built sandbox resists");
                SandboxTask::spawn_adopted(shared, entry, None, Past::HalfBuilt);
            }
        },
    }
    Ok(())
}

async fn adopt_one(shared: &Shared, entry: &Entry) -> Fate {
    let started = match &entry.state {
        State::Ended { cause, .. } => return Fate::Gone(cause.clone()),
        State::Suspended { .. } => return Fate::Dormant,
        State::Starting => false,
        State::Running { .. } => true,
    };
    if entry.boot_id != shared.config.boot_id {
        return after_reboot(entry, started);
    }
    match find(shared, entry).await {
        Ok(Found::Alive(endpoint)) => Fate::Lives(endpoint),
        Ok(Found::Dead) if started => Fate::Gone(died_unwatched(&entry.id)),
        Ok(Found::Dead) => Fate::Undone,
        Err(trouble) => doubt(entry, trouble),
    }
}

/// Decides what becomes of an entry of an earlier boot of the host.
fn after_reboot(entry: &Entry, started: bool) -> Fate {
    match (started, entry.launch.named) {
        (true, true) => Fate::Rebooted,
        (true, false) => Fate::Gone(died("host_restarted")),
        // Nobody was told of it: of one with a name that is told after a durable word.
        (false, _) => Fate::Undone,
    }
}

/// Decides what becomes of an entry of this boot about which the host does not say enough.
fn doubt(entry: &Entry, trouble: String) -> Fate {
    match &entry.state {
        State::Ended { cause, .. } => Fate::Gone(cause.clone()),
        State::Suspended { .. } => Fate::Dormant,
        State::Running { .. } => Fate::Sought(trouble),
        // Nobody was told of it, so building it again loses nothing.
        State::Starting => Fate::Undone,
    }
}

/// Finds every part of a sandbox again. May be repeated, also after it succeeded.
///
/// Whether it is dead is for its processes alone to say. Every other part that cannot be had is an
/// error: the host may be short of something for a moment, and even what is lost for good is no
/// reason to take the rest from its owner.
pub(crate) async fn find(shared: &Shared, entry: &Entry) -> Result<Found, String> {
    let parts = &shared.parts;
    let lives = parts.runtime.lives(&entry.id).await;
    if let Ok(false) = lives {
        return Ok(Found::Dead);
    }
    let slot = entry.slot.ok_or("the ledger names no network slot of it")?;
    // Even if nothing is known of the processes: a slot that nobody asks for is removed.
    let slot = parts.slots.adopt(slot, &entry.id, &entry.launch.egress).await;
    lives.map_err(|bad| chain(&bad))?;
    let slot = slot.map_err(|bad| chain(&bad))?;
    let rootfs = parts.layers.adopt(&entry.id).await.map_err(|bad| chain(&bad))?;
    let spec = runtime_spec(shared, entry, &rootfs, &slot);
    let started = match parts.runtime.adopt(&spec).await.map_err(|bad| chain(&bad))? {
        Adopted::Running(started) => started,
        Adopted::Created => return Err("the runtime says that it was never started".to_owned()),
        Adopted::Gone => return Err("the runtime has it no more, but its processes".to_owned()),
    };
    if matches!(entry.state, State::Starting) {
        // Only an open daemon got as far as to be told of.
        let open = daemon::is_open(started.daemon, &entry.token);
        let asked = tokio::time::timeout(DAEMON_PATIENCE, open).await;
        asked.map_err(|late| late.to_string())?.map_err(|bad| chain(&bad))?;
    }
    let endpoint = Endpoint { daemon: started.daemon, token: entry.token.clone() };
    if entry.held && *shared.room.borrow() == Room::Enough {
        // Its server died over a capture of it, or while it resumed it.
        capture::go_on(shared, entry, &endpoint).await?;
    }
    Ok(Found::Alive(endpoint))
}

/// Says that a sandbox has not been found again: at first each time, then ever more rarely.
pub(crate) fn warn_sought(id: &SandboxId, trouble: &str, tries: u32) {
    if tries.is_power_of_two() {
        tracing::warn!(
            sandbox.id = %id, trouble, tries,
            "a sandbox of an earlier run cannot be taken over; it is left as it is, and looked for \
             again"
        );
    }
}

/// How long to wait before looking again: 100 ms, then twice as long each time, up to 10 s.
pub(crate) fn seek_pause(tries: u32) -> Duration {
    let doubled = SEEK_PAUSE_FIRST.saturating_mul(1 << tries.saturating_sub(1).min(10));
    doubled.min(SEEK_PAUSE_MOST)
}

/// Notes the end of a sandbox that nobody watched.
pub(crate) fn died_unwatched(id: &SandboxId) -> EndCause {
    tracing::warn!(sandbox.id = %id, "a sandbox died while no server ran");
    died("died_unwatched")
}

/// Removes host objects with our tag that no ledger entry explains. What resists keeps no server
/// from its start.
async fn remove_strays(
    shared: &Arc<Shared>,
    kept: &HashSet<SandboxId>,
) -> Result<(), NodeStartError> {
    let parts = &shared.parts;
    let mut strays: BTreeSet<SandboxId> = parts.runtime.list().await?.into_iter().collect();
    strays.extend(parts.layers.list().await?);
    strays.retain(|id| !kept.contains(id));
    let mut removals = Vec::new();
    for id in strays {
        tracing::info!(sandbox.id = %id, "removing a stray");
        // Side by side: one that takes its time keeps no other waiting.
        let own = Arc::clone(shared);
        let removal = async move { remains::remove_stray(&own, id).await };
        removals.push(parts.tasks.spawn("stray", removal));
    }
    for removal in removals {
        // It says itself what it could not remove.
        drop(removal.await);
    }
    Ok(())
}

/// Says whether a sandbox may ever be brought back from the capture that its suspend made.
fn needs_capture(entry: &Entry) -> bool {
    entry.kept() == Some(Kept::Capture)
}

/// Removes what a suspend wrote that was not noted any more, and what a resume did not come to
/// remove. One that stays costs space, until the next start or the sandbox's next suspend.
async fn remove_old_captures(shared: &Shared, asleep: &HashSet<SandboxId>) {
    let captures = &shared.parts.captures;
    let names = match captures.list().await {
        Ok(names) => names,
        Err(bad) => {
            return tracing::warn!(error = chain(&bad), "old captures are not looked for");
        }
    };
    // The others are snapshots.
    for id in names.iter().filter_map(|name| name.parse::<SandboxId>().ok()) {
        if asleep.contains(&id) {
            continue;
        }
        tracing::info!(sandbox.id = %id, "removing the capture of a sandbox that is not suspended");
        if let Err(bad) = captures.discard(id.as_str()).await {
            tracing::warn!(sandbox.id = %id, error = chain(&bad), "an old capture is not removed");
        }
    }
}

fn died(reason: &str) -> EndCause {
    EndCause::RuntimeDied { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rarer_up_to_a_bound() {
        let pauses = [1, 2, 3, 7, 8, 100, u32::MAX].map(|tries| seek_pause(tries).as_millis());
        assert_eq!(pauses, [100, 200, 400, 6_400, 10_000, 10_000, 10_000]);
    }
}
