//! What is left on the host of something that nobody has, and that could not be removed at first:
//! of what was made ahead, and of an earlier server.
//!
//! It is tried again in the background, ever more rarely, until it is gone or the server stops; the
//! next server finds it as a stray. The id may be a sandbox's before that: a create that was cut
//! off by the death of a server is built again under its id, and a stage has that of its sandbox.
//! So nothing is built under an id before what is left there is gone ([`clear`]), and whoever needs
//! the id need not wait for the next try.

use std::{
    collections::{HashMap, hash_map::Entry as Place},
    sync::Arc,
};

use parking_lot::Mutex;
use tarn_host::SlotId;
use tarn_types::SandboxId;

use crate::{
    adopt::seek_pause,
    ledger::Entry,
    service::Shared,
    start::{chain, clean},
};

/// While so many cannot be removed, no more is made ahead: the host would fill with what nobody
/// has.
const MOST: usize = 8;

/// What is left on a node.
#[derive(Debug, Default)]
pub(crate) struct Remains(Mutex<HashMap<SandboxId, Turn>>);

/// What is left under one id, if it is still there; who tries to remove it holds this.
type Turn = Arc<tokio::sync::Mutex<Option<Left>>>;

#[derive(Debug)]
struct Left {
    slot: Option<SlotId>,
}

// === impl Remains ===

impl Remains {
    /// Says whether there is so little that more may be made ahead.
    pub(crate) fn are_few(&self) -> bool {
        self.0.lock().len() < MOST
    }

    /// Notes what is left under an id; says whether nothing was noted of it before.
    fn note(&self, id: &SandboxId, slot: Option<SlotId>) -> bool {
        match self.0.lock().entry(id.clone()) {
            Place::Occupied(_) => false,
            Place::Vacant(place) => {
                place.insert(Arc::new(tokio::sync::Mutex::new(Some(Left { slot }))));
                true
            }
        }
    }
}

/// Removes what was made ahead and nobody has. What resists is said, and removed in the background.
pub(crate) async fn remove(shared: &Arc<Shared>, mut entry: Entry) -> Result<(), String> {
    let removed = clean(shared, &mut entry).await;
    if let Err(trouble) = &removed {
        keep_trying(shared, entry.id, entry.slot, trouble);
    }
    removed
}

/// Removes what an earlier server left under an id that the ledger does not know. What resists is
/// removed in the background.
pub(crate) async fn remove_stray(shared: &Arc<Shared>, id: SandboxId) {
    // Slots that nobody has adopted are settled.
    let mut left = Left { slot: None };
    if let Err(trouble) = wipe(shared, &id, &mut left).await {
        keep_trying(shared, id, left.slot, &trouble);
    }
}

/// Makes way for what is to be built or removed under an id: tries once more to remove what is left
/// there, and says what keeps it.
pub(crate) async fn clear(shared: &Shared, id: &SandboxId) -> Result<(), String> {
    let turn = shared.remains.0.lock().get(id).cloned();
    let Some(turn) = turn else { return Ok(()) };
    let mut turn = turn.lock().await;
    // From when it is gone the id may be a sandbox's.
    let Some(left) = turn.as_mut() else { return Ok(()) };
    wipe(shared, id, left).await?;
    *turn = None;
    shared.remains.0.lock().remove(id);
    tracing::info!(sandbox.id = %id, "what resisted is removed");
    Ok(())
}

fn keep_trying(shared: &Arc<Shared>, id: SandboxId, slot: Option<SlotId>, trouble: &str) {
    warn_left(&id, trouble, 1);
    if !shared.remains.note(&id, slot) {
        return;
    }
    let own = Arc::clone(shared);
    drop(shared.parts.tasks.spawn("remains", async move {
        tokio::select! {
            () = own.parts.tasks.stopping() => {}
            () = try_again(&own, &id) => {}
        }
    }));
}

async fn try_again(shared: &Shared, id: &SandboxId) {
    let mut tries: u32 = 1;
    loop {
        tokio::time::sleep(seek_pause(tries)).await;
        let Err(trouble) = clear(shared, id).await else { return };
        tries = tries.saturating_add(1);
        warn_left(id, &trouble, tries);
    }
}

/// Says that something is not removed: at first each time, then ever more rarely.
fn warn_left(id: &SandboxId, trouble: &str, tries: u32) {
    if tries.is_power_of_two() {
        tracing::warn!(
            sandbox.id = %id, trouble, tries,
            "something that nobody has is not removed; trying again"
        );
    }
}

/// Removes everything under an id that is nobody's. May be repeated.
async fn wipe(shared: &Shared, id: &SandboxId, left: &mut Left) -> Result<(), String> {
    let parts = &shared.parts;
    // First: its processes may still use layer and slot.
    parts.runtime.delete(id).await.map_err(|bad| chain(&bad))?;
    if let Some(slot) = left.slot.take() {
        parts.slots.release(slot, id).await;
    }
    parts.layers.release(id).await.map_err(|bad| chain(&bad))
}
