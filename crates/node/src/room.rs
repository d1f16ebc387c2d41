//! Keeps sandboxes from writing to a full pool: they are frozen before it is, all that run, and
//! thawed when there is room again.
//!
//! ```text
//!           less than the floor is free
//!  Enough ─────────────────────────────▶ Short ◀──▶ Gone
//!     ▲                                    │    less than half of it
//!     └────────────────────────────────────┘
//!           half as much again is free
//! ```
//!
//! A layer that cannot be written to gives its sandbox I/O errors, and its file system damage; the
//! program may not even hear of it, because gVisor says that an fsync succeeded whatever the host
//! said. Standing still costs time alone. All stand still, because the pool does not tell who fills
//! it.
//!
//! What sandboxes write waits in the host's memory and takes room in the pool only when it goes to
//! the disk, which it does however still they stand. So it counts as taken.
//!
//! One that does not stand still is ended when half of the floor is gone: a single write of a
//! program may be gigabytes, and only an end cuts it short. Whatever else is done with a sandbox
//! meanwhile gives up for this: a capture of which the daemon does not answer, say.

use std::{error::Error, sync::Arc, time::Duration};

use tarn_host::PoolSpace;
use tarn_types::{ByteSize, EndCause};
use tokio::sync::watch;

use crate::{
    ledger::{Durability, Entry, State},
    sandbox::{Past, SandboxTask},
    service::Shared,
    start::chain,
};

/// How often the pool is looked at, and how often where it might be short soon.
const LOOK: Duration = Duration::from_millis(500);
const CLOSE_LOOK: Duration = Duration::from_millis(20);

/// More than all sandboxes write within a millisecond: 4 GB a second.
const MOST_PER_MS: u64 = 4 << 20;

/// What is said of what cannot be done with a frozen sandbox; unlike [`FROZEN`] it stays said.
pub(crate) const STOOD_STILL: &str = "the sandbox stood still, because the node's disk was almost \
                                      full; try again once there is room";

/// What is said of a frozen sandbox.
pub(crate) const FROZEN: &str = "the node's disk is almost full: the sandbox is frozen, unharmed, \
                                 and goes on by itself when there is room; terminate sandboxes, \
                                 delete snapshots, or have the operator enlarge the pool";

/// Whether sandboxes may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// They may.
    Enough,
    /// The pool would be full soon.
    Short,
    /// The pool is full at once, if anybody writes still.
    Gone,
}

/// How long one may take to stand still before it is ended where the room is gone, if it has more
/// than this yet to go to the disk. A host may be busy; what fills a disk in that time has.
const GRACE: Duration = Duration::from_secs(1);
const MUCH: ByteSize = ByteSize::from_mib(64);
/// What is said of the end of one that did not stand still.
const DID_NOT_STOP: &str = "node_disk_full";

/// Decides whether sandboxes may write. It takes more to go on than to stop, so that what goes on
/// does not stop at its next write.
fn judge(before: Room, space: PoolSpace) -> Room {
    let (floor, available) = (space.floor.bytes(), space.available.bytes());
    let line = match before {
        Room::Enough => floor,
        Room::Short | Room::Gone => floor.saturating_add(floor / 2),
    };
    match available {
        _ if available < floor / 2 => Room::Gone,
        _ if available < line => Room::Short,
        _ => Room::Enough,
    }
}

/// Resolves when sandboxes may not write.
pub(crate) async fn short(room: watch::Receiver<Room>) {
    wait(room, |room| room != Room::Enough).await;
}

/// Resolves when nobody may write any more, whatever it costs.
pub(crate) async fn gone(room: watch::Receiver<Room>) {
    wait(room, |room| room == Room::Gone).await;
}

async fn wait(mut room: watch::Receiver<Room>, is_so: impl Fn(Room) -> bool) {
    if room.wait_for(|room| is_so(*room)).await.is_err() {
        // Nobody judges it any more: the server is stopping.
        std::future::pending().await
    }
}

/// Says after how long to look again: before the floor can be reached.
fn next_look(space: PoolSpace) -> Duration {
    let above = space.available.saturating_sub(space.floor);
    Duration::from_millis(above.bytes() / MOST_PER_MS).clamp(CLOSE_LOOK, LOOK)
}

/// Asks the pool, and counts what is on its way there as taken.
async fn look(shared: &Shared) -> Result<PoolSpace, Box<dyn Error + Send + Sync>> {
    // In this order, what goes to the disk in between counts twice rather than not at all.
    let unwritten = shared.parts.runtime.unwritten(None).await?;
    let space = shared.parts.layers.space().await?;
    // An image of memory has its room already.
    let coming = unwritten.saturating_sub(space.drafts);
    Ok(PoolSpace { available: space.available.saturating_sub(coming), ..space })
}

/// Looks at the pool before anything of an earlier run goes on. If something of it is frozen, it
/// takes as much room to go on as it did for that run.
pub(crate) async fn first_look(shared: &Shared, any_frozen: bool) {
    if any_frozen {
        shared.room.send_replace(Room::Short);
    }
    match look(shared).await {
        Ok(space) => settle(shared, space),
        Err(bad) => tracing::error!(error = chain(&*bad), "the room of the pool cannot be asked"),
    }
    if any_frozen && *shared.room.borrow() != Room::Enough {
        tracing::warn!("the pool is almost full: sandboxes stay frozen until there is room");
    }
}

/// Watches the pool until shutdown.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut stopping = std::pin::pin!(shared.parts.tasks.stopping());
    let mut blind = false;
    loop {
        let pause = match look(&shared).await {
            Ok(space) => {
                settle(&shared, space);
                blind = false;
                next_look(space)
            }
            Err(_) if shared.parts.tasks.is_stopping() => return,
            // What was decided stays so.
            Err(bad) => {
                if !std::mem::replace(&mut blind, true) {
                    tracing::error!(error = chain(&*bad), "the room of the pool cannot be asked");
                }
                LOOK
            }
        };
        tokio::select! {
            () = &mut stopping => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn settle(shared: &Shared, space: PoolSpace) {
    let (available, floor) = (space.available, space.floor);
    shared.room.send_if_modified(|room| {
        let now = judge(*room, space);
        let changed = now != std::mem::replace(room, now);
        match now {
            Room::Gone if changed => tracing::error!(
                %available, %floor,
                "the pool is full: what does not stand still is ended"
            ),
            Room::Short if changed => tracing::warn!(
                %available, %floor,
                "the pool is almost full: running sandboxes are frozen until there is room"
            ),
            Room::Enough if changed => {
                tracing::info!(%available, %floor, "the pool has room: frozen sandboxes go on");
            }
            Room::Short | Room::Gone | Room::Enough => {}
        }
        changed
    });
}

// === impl SandboxTask ===

impl SandboxTask {
    /// Freezes or thaws the sandbox as the pool's room wants it. What fails is tried again at the
    /// next look.
    pub(crate) async fn heed_room(&mut self) {
        let short = *self.room.borrow_and_update() != Room::Enough;
        let running = matches!(self.entry.state, State::Running { .. });
        // An orphan stands still already.
        let orphaned = self.entry.orphaned.is_some();
        if short == self.entry.frozen || !running || orphaned || !self.is(&Past::Settled) {
            return;
        }
        if short { self.stand_still().await } else { self.move_again().await }
    }

    async fn stand_still(&mut self) {
        // On disk first: the server that finds it frozen must know why.
        let entry = Entry { frozen: true, ..self.entry.clone() };
        if let Err(bad) = self.shared.write(entry, Durability::Written).await {
            // Others' files are worth more than that: it is said again at each look.
            tracing::error!(sandbox.id = %self.entry.id, error = chain(&bad), "the ledger cannot say that a sandbox is frozen");
            self.unsaved = true;
        }
        let (runtime, id) = (&self.shared.parts.runtime, &self.entry.id);
        let late = async {
            loop {
                tokio::time::sleep(GRACE).await;
                gone(self.room.clone()).await;
                if !runtime.unwritten(Some(id)).await.is_ok_and(|unwritten| unwritten < MUCH) {
                    return;
                }
            }
        };
        let frozen = tokio::select! {
            frozen = runtime.freeze(id) => frozen,
            () = late => {
                tracing::error!(sandbox.id = %self.entry.id, "a sandbox does not stand still, and the pool is full: it is ended");
                return self.end(EndCause::RuntimeDied { reason: DID_NOT_STOP.to_owned() }).await;
            }
        };
        if let Err(bad) = frozen {
            tracing::warn!(sandbox.id = %self.entry.id, error = chain(&bad), "a sandbox is not frozen before the pool is full; trying again");
            return self.save(Durability::Written).await;
        }
        self.entry.frozen = true;
        // Its daemon answers nobody now.
        self.pump = None;
        self.report().await;
    }

    async fn move_again(&mut self) {
        if let Err(bad) = self.shared.parts.runtime.thaw(&self.entry.id).await {
            return tracing::warn!(sandbox.id = %self.entry.id, error = chain(&bad), "a frozen sandbox does not go on; trying again");
        }
        self.entry.frozen = false;
        // Nobody could use it meanwhile: its idle clock starts now.
        self.adopted_at = Some(self.shared.parts.clock.now());
        self.entry.idle_ms = 0;
        self.save(Durability::Written).await;
        // What a capture held when it was frozen is sealed still.
        self.let_go().await;
        self.report().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(available: u64) -> PoolSpace {
        let mib = ByteSize::from_mib;
        let (total, available, floor) = (mib(10_000), mib(available), mib(100));
        PoolSpace { total, available, floor, drafts: ByteSize::default() }
    }

    #[test]
    fn it_takes_more_room_to_go_on_than_to_stop() {
        use Room::{Enough, Gone, Short};
        let table = [
            (Enough, 10_000, Enough),
            (Enough, 100, Enough),
            (Enough, 99, Short),
            (Enough, 50, Short),
            (Enough, 49, Gone),
            (Short, 50, Short),
            (Short, 49, Gone),
            (Gone, 0, Gone),
            (Gone, 50, Short),
            (Gone, 149, Short),
            (Gone, 150, Enough),
            (Short, 100, Short),
            (Short, 149, Short),
            (Short, 150, Enough),
            (Short, 10_000, Enough),
        ];
        for (before, available, after) in table {
            assert_eq!(judge(before, space(available)), after, "{before:?} {available}");
        }
    }

    #[test]
    fn without_a_floor_nothing_is_ever_frozen() {
        for before in [Room::Enough, Room::Short, Room::Gone] {
            let none = PoolSpace { floor: ByteSize::default(), ..space(0) };
            assert_eq!(judge(before, none), Room::Enough);
        }
    }

    #[test]
    fn it_is_looked_at_again_before_the_floor_can_be_reached() {
        let table = [(10_000, 500), (2_100, 500), (2_000, 475), (1_100, 250), (180, 20), (0, 20)];
        for (available, millis) in table {
            let after = Duration::from_millis(millis);
            assert_eq!(next_look(space(available)), after, "{available} MiB");
        }
    }
}
