//! What each sandbox did with the network: kept in memory, bounded, and forgotten a while after it.
//!
//! The rules note packets for the kernel to tell ([`crate::netlink::NoteSocket`]), the resolver
//! tells by itself. Who has a slot is known here by the slot's address; so that nothing late of one
//! sandbox becomes the next one's, a slot that was left is ready again only when all that was told
//! until then has been heard ([`NetLogs::hear_out`]).

mod journal;
mod listen;
mod ring;

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use tarn_host::SlotId;
use tarn_task::{Clock as _, SystemClock};
use tarn_types::{DenialReason, SandboxId, UnixMillis};
use tokio::sync::{mpsc, oneshot};

use self::journal::Journal;
pub(crate) use self::{journal::Counted, listen::listen};
use crate::{
    netlink::{Flow, Note},
    plan::{Block, GATEWAY, RESOLVER_PORT},
    ruleset::notes::ALLOWED,
};

/// How long the logs of sandboxes that have left their slots are kept, and how many entries of them
/// all together: some megabytes.
const KEPT_MS: u64 = 3_600_000;
const KEPT_ENTRIES: usize = 20_000;
/// Who may wait at a time for what was told to be heard; more wait before that.
const WAITING: usize = 64;

/// A log that several write.
pub(crate) type SharedJournal = Arc<Mutex<Journal>>;

/// Rings once everything is heard that was told before.
pub(super) type Bell = oneshot::Sender<()>;

/// The logs of all sandboxes.
#[derive(Debug)]
pub(crate) struct NetLogs {
    block: Block,
    shelves: Mutex<Shelves>,
    waiting: mpsc::Sender<Bell>,
}

#[derive(Debug, Default)]
struct Shelves {
    /// Of those who have a slot, and of those who have just left it.
    current: BTreeMap<SlotId, Kept>,
    /// Of those who had one, oldest first.
    kept: VecDeque<Kept>,
    /// The number of the last note.
    last_note: Option<u32>,
}

#[derive(Debug, Clone)]
struct Kept {
    sandbox: SandboxId,
    journal: SharedJournal,
}

/// What a resolver writes of one sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Diary(SharedJournal);

// === impl NetLogs ===

impl NetLogs {
    /// Makes them, with the other end of what [`listen`] needs.
    pub(crate) fn new(block: Block) -> (Self, mpsc::Receiver<Bell>) {
        let (waiting, bells) = mpsc::channel(WAITING);
        (Self { block, shelves: Mutex::default(), waiting }, bells)
    }

    /// Begins the log of a sandbox that gets a slot.
    pub(crate) fn begin(&self, slot: SlotId, sandbox: &SandboxId) -> Diary {
        let journal = Arc::new(Mutex::new(Journal::new(SystemClock.now())));
        let kept = Kept { sandbox: sandbox.clone(), journal: Arc::clone(&journal) };
        self.shelves.lock().current.insert(slot, kept);
        Diary(journal)
    }

    /// Ends the log of whoever has a slot; what is still told of before belongs to it.
    pub(crate) fn end(&self, slot: SlotId, counted: Counted) {
        let kept = self.shelves.lock().current.get(&slot).cloned();
        if let Some(kept) = kept {
            kept.journal.lock().end(SystemClock.now(), counted);
        }
    }

    /// Puts the log of whoever had a slot away.
    pub(crate) fn put_away(&self, slot: SlotId) {
        let now = SystemClock.now();
        let mut shelves = self.shelves.lock();
        let Some(left) = shelves.current.remove(&slot) else { return };
        left.journal.lock().end(now, Counted::default());
        shelves.kept.push_back(left);
        shelves.shed(now);
    }

    /// Returns the log of a sandbox, the newest if it has had several, and the slot that it has.
    pub(crate) fn find(&self, sandbox: &SandboxId) -> Option<(Option<SlotId>, SharedJournal)> {
        let mut shelves = self.shelves.lock();
        shelves.shed(SystemClock.now());
        let is_its = |kept: &&Kept| kept.sandbox == *sandbox;
        let mut leaving = None;
        for (slot, kept) in &shelves.current {
            if !is_its(&kept) {
                continue;
            }
            if kept.journal.lock().ended().is_none() {
                return Some((Some(*slot), Arc::clone(&kept.journal)));
            }
            leaving = Some(kept);
        }
        let found = leaving.or_else(|| shelves.kept.iter().rev().find(is_its))?;
        Some((None, Arc::clone(&found.journal)))
    }

    /// Waits until everything is heard that the kernel has told so far. Blocking.
    pub(crate) fn hear_out(&self) {
        let (bell, rung) = oneshot::channel();
        // Nobody listens any more once the server stops, or if the kernel does not tell; then
        // nothing late can be taken for another's, either.
        if self.waiting.blocking_send(bell).is_ok() {
            drop(rung.blocking_recv());
        }
    }

    /// Takes what the kernel told.
    fn take(&self, notes: Vec<Note>) {
        for note in notes {
            match note {
                Note::Packet { from, flow, prefix, number } => {
                    let journal = self.shelves.lock().numbered(number, self.block.slot(from));
                    if let Some(journal) = journal {
                        let (mut journal, now) = (journal.lock(), SystemClock.now());
                        write(&mut journal, flow, &prefix, now);
                    }
                }
                Note::Forgotten { from, flow, bytes } => {
                    let slot = self.block.slot(from);
                    let journal = slot.and_then(|slot| self.shelves.lock().journal(slot));
                    if let Some(journal) = journal {
                        journal.lock().closed(flow, bytes);
                    }
                }
            }
        }
    }
}

/// Writes what a rule noted.
fn write(journal: &mut Journal, flow: Flow, prefix: &str, now: UnixMillis) {
    // As the sandbox wrote it.
    let to_port = if flow.to == IpAddr::V4(GATEWAY) && flow.to_port == RESOLVER_PORT {
        53
    } else {
        flow.to_port
    };
    if prefix == ALLOWED {
        journal.opened(flow, now);
    } else if let Some(reason) =
        DenialReason::ALL.into_iter().find(|reason| reason.as_str() == prefix)
    {
        journal.denied(Flow { to_port, ..flow }, reason, now);
    }
}

// === impl Shelves ===

impl Shelves {
    fn journal(&self, slot: SlotId) -> Option<SharedJournal> {
        self.current.get(&slot).map(|kept| Arc::clone(&kept.journal))
    }

    /// Returns the log that a note of a number is for, and has all count the ones missing before.
    fn numbered(&mut self, number: u32, slot: Option<SlotId>) -> Option<SharedJournal> {
        let expected = self.last_note.map(|last| last.wrapping_add(1));
        self.last_note = Some(number);
        let missing = expected.map_or(0, |expected| number.wrapping_sub(expected));
        if missing > 0 {
            for kept in self.current.values() {
                kept.journal.lock().lost(missing.into());
            }
        }
        self.journal(slot?)
    }

    /// Forgets what is kept for too long, and the oldest of what is too much.
    fn shed(&mut self, now: UnixMillis) {
        let mut entries: usize =
            self.kept.iter().map(|kept| kept.journal.lock().len().max(1)).sum();
        while let Some(oldest) = self.kept.front() {
            let journal = oldest.journal.lock();
            let age = journal.ended().map_or(0, |ended| now.millis_since(ended));
            if age <= KEPT_MS && entries <= KEPT_ENTRIES {
                return;
            }
            entries -= journal.len().max(1);
            drop(journal);
            self.kept.pop_front();
        }
    }
}

// === impl Diary ===

impl Diary {
    /// Notes a question that was refused.
    pub(crate) fn refused(&self, name: &str, reason: DenialReason) {
        self.0.lock().refused(name, reason, SystemClock.now());
    }

    /// Notes a question that was answered.
    pub(crate) fn answered(&self, name: &str, addresses: impl Iterator<Item = IpAddr>) {
        self.0.lock().answered(name, addresses);
    }

    /// Notes a question that came too soon after others to be looked at.
    pub(crate) fn unheard(&self) {
        self.0.lock().unheard(SystemClock.now());
    }
}

#[cfg(test)]
mod tests;
