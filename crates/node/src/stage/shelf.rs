//! Which stages there are and which are wanted: decides, and does nothing itself.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tarn_scheduler::{MEMORY_OF_ASKS, StageDemand};
use tarn_types::SandboxId;
use tokio::time::Instant;

use super::Stage;
use crate::{ahead::AheadCounts, ledger::Entry};

/// How long a reserved one waits for its intent, and one for a copy for its copy: they come at
/// once, or when there is room for them.
const RESERVED: Duration = Duration::from_secs(30);

/// How long after a restore nothing is built: what was just restored is most likely used now.
const REST: Duration = Duration::from_millis(50);

/// How long a capture is left alone for which none could be built.
const BACK_OFF: Duration = Duration::from_secs(10);

/// How many restores of one capture, and how many captures, are remembered.
const ASKS: usize = 64;
const CAPTURES: usize = 256;

/// The stages of a node, and what they are wanted for.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    wishes: HashMap<String, Wish>,
    places: Vec<Place>,
    /// Captures for which none could be built, and until when they are left alone.
    resting: HashMap<String, Instant>,
    last_asked: Option<Instant>,
    counts: AheadCounts,
}

/// Why stages of a capture are wanted.
#[derive(Debug)]
enum Wish {
    /// It is that of a suspended sandbox, whose processes are gone since.
    Suspended(SandboxId, Instant),
    /// It is a snapshot.
    Snapshot { taken: Option<Instant>, restored: VecDeque<Instant> },
    /// It was made for copies, of which so many are still to come.
    Copies(u32, Instant),
}

/// One stage.
#[derive(Debug)]
struct Place {
    id: SandboxId,
    capture: String,
    state: PlaceState,
}

#[derive(Debug)]
enum PlaceState {
    /// It is being built.
    Building(Pace),
    Ready(Box<Stage>),
    Reserved(Box<Stage>, Instant),
    /// It is being removed.
    Leaving,
}

/// For whom one is being built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Nobody yet: it holds up nobody.
    Idle,
    /// For a copy that is about to be made.
    Hurried,
    /// For somebody who waits.
    Reserved,
}

/// What one is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Restore,
    Removal,
}

/// What [`Shelf::take`] found.
pub(super) enum Taken {
    Stage(Box<Stage>),
    Nothing,
    /// It is being built or removed: ask again.
    Later,
}

/// What is to be done next.
pub(super) enum Next {
    Build(SandboxId, String),
    Remove(Box<Stage>),
    /// Something is missing, and may be built after this long.
    Wait(Duration),
    /// Nothing.
    Rest,
}

/// What the shelf does not know itself.
pub(super) struct Surroundings {
    /// How many are wanted, by capture.
    pub(super) targets: Vec<(String, u32)>,
    /// Whether there is room for more.
    pub(super) may_build: bool,
    /// Whether somebody waits for a sandbox.
    pub(super) busy: bool,
}

// === impl Shelf ===

impl Shelf {
    pub(super) fn note_taken(&mut self, snapshot: &str) {
        let (taken, restored) = (Some(Instant::now()), VecDeque::new());
        self.wish(snapshot, Wish::Snapshot { taken, restored });
    }

    pub(super) fn note_suspended(&mut self, id: &SandboxId) {
        self.wish(id.as_str(), Wish::Suspended(id.clone(), Instant::now()));
    }

    pub(super) fn forget(&mut self, capture: &str) {
        self.wishes.remove(capture);
    }

    fn wish(&mut self, capture: &str, wish: Wish) {
        self.wishes.insert(capture.to_owned(), wish);
        if self.wishes.len() > CAPTURES {
            let oldest = self.wishes.iter().min_by_key(|(_, wish)| wish.last());
            if let Some(oldest) = oldest.map(|(capture, _)| capture.clone()) {
                self.wishes.remove(&oldest);
            }
        }
    }

    /// Notes stages that copies of a capture are to be restored into; returns their ids.
    pub(super) fn begin_copies(
        &mut self,
        capture: &str,
        copies: u32,
        new: impl Fn() -> SandboxId,
    ) -> Vec<SandboxId> {
        self.wish(capture, Wish::Copies(copies, Instant::now()));
        let ids: Vec<_> = (0..copies).map(|_| new()).collect();
        for id in &ids {
            self.begin(id.clone(), capture, Pace::Hurried);
        }
        ids
    }

    fn begin(&mut self, id: SandboxId, capture: &str, pace: Pace) {
        let state = PlaceState::Building(pace);
        self.places.push(Place { id, capture: capture.to_owned(), state });
    }

    /// Takes one of a snapshot for a restore; says whether it is still being built.
    pub(super) fn reserve(&mut self, snapshot: &str) -> Option<(SandboxId, bool)> {
        let now = Instant::now();
        self.last_asked = Some(now);
        self.note_restored(snapshot, now);
        let found = self.places.iter_mut().filter(|place| place.capture == snapshot);
        let found = found.filter(|place| place.is_free()).min_by_key(|place| !place.is_ready());
        let Some(place) = found else {
            self.counts.misses += 1;
            return None;
        };
        let building = !place.is_ready();
        place.reserve(now);
        let id = place.id.clone();
        if building {
            self.counts.joined += 1;
        } else {
            self.counts.hits += 1;
        }
        Some((id, building))
    }

    fn note_restored(&mut self, snapshot: &str, now: Instant) {
        match self.wishes.get_mut(snapshot) {
            Some(Wish::Copies(left, _)) => *left = left.saturating_sub(1),
            Some(Wish::Snapshot { restored, .. }) => {
                restored.push_back(now);
                if restored.len() > ASKS {
                    restored.pop_front();
                }
            }
            Some(Wish::Suspended(..)) | None => {
                let restored = VecDeque::from([now]);
                self.wish(snapshot, Wish::Snapshot { taken: None, restored });
            }
        }
    }

    pub(super) fn give_back(&mut self, id: &SandboxId) {
        if let Some(place) = self.place(id) {
            place.give_back();
        }
    }

    /// Hands over the one under an id. For a suspended sandbox none is built from now on.
    pub(super) fn take(&mut self, id: &SandboxId, for_: Use) -> Taken {
        let wish = self.wishes.get(id.as_str());
        let wished = matches!(wish, Some(Wish::Suspended(..)));
        if wished {
            self.wishes.remove(id.as_str());
        }
        let now = Instant::now();
        let at = self.places.iter().position(|place| place.id == *id);
        let restores = wished && for_ == Use::Restore;
        let Some(at) = at else {
            self.counts.misses += u64::from(restores);
            return Taken::Nothing;
        };
        let place = &mut self.places[at];
        if !matches!(place.state, PlaceState::Ready(_) | PlaceState::Reserved(..)) {
            self.counts.joined += u64::from(restores);
            place.reserve(now);
            return Taken::Later;
        }
        match self.places.remove(at).state {
            PlaceState::Ready(stage) | PlaceState::Reserved(stage, _) => {
                match for_ {
                    Use::Restore => self.counts.hits += u64::from(restores),
                    Use::Removal => self.counts.dropped += 1,
                }
                Taken::Stage(stage)
            }
            PlaceState::Building(_) | PlaceState::Leaving => Taken::Later,
        }
    }

    /// Takes in one that is built; returns what is to be removed instead.
    pub(super) fn note_built(
        &mut self,
        stage: Stage,
        took: Duration,
        stopping: bool,
    ) -> Option<Entry> {
        let id = stage.entry.id.clone();
        let place = self.places.iter_mut().find(|place| place.id == id);
        let Some(place) = place.filter(|_| !stopping) else {
            self.leave(&id);
            return Some(stage.entry);
        };
        place.state = match place.state {
            PlaceState::Building(Pace::Reserved) => {
                PlaceState::Reserved(Box::new(stage), Instant::now())
            }
            PlaceState::Building(Pace::Idle | Pace::Hurried)
            | PlaceState::Ready(_)
            | PlaceState::Reserved(..)
            | PlaceState::Leaving => PlaceState::Ready(Box::new(stage)),
        };
        self.counts.built += 1;
        self.counts.build_micros += u64::try_from(took.as_micros()).unwrap_or(0);
        None
    }

    /// Notes that one was not built; what there is of it is being removed.
    pub(super) fn note_failed(&mut self, id: &SandboxId, capture: &str) {
        self.counts.failed += 1;
        self.resting.insert(capture.to_owned(), Instant::now() + BACK_OFF);
        self.leave(id);
    }

    pub(super) fn note_gone(&mut self, id: &SandboxId) {
        self.places.retain(|place| place.id != *id);
    }

    /// Says whether one that is being built is waited for.
    pub(super) fn is_promised(&self, id: &SandboxId) -> bool {
        let idle = |place: &Place| matches!(place.state, PlaceState::Building(Pace::Idle));
        self.places.iter().any(|place| place.id == *id && !idle(place))
    }

    pub(super) fn templates(&self) -> Vec<String> {
        let stages = self.places.iter().filter_map(|place| match &place.state {
            PlaceState::Ready(stage) | PlaceState::Reserved(stage, _) => Some(stage),
            PlaceState::Building(_) | PlaceState::Leaving => None,
        });
        stages.filter_map(|stage| stage.entry.template.clone()).collect()
    }

    pub(super) fn counts(&self) -> AheadCounts {
        let count = |wanted: fn(&PlaceState) -> bool| {
            self.places.iter().filter(|place| wanted(&place.state)).count() as u64
        };
        AheadCounts {
            ready: count(|state| matches!(state, PlaceState::Ready(_))),
            building: count(|state| matches!(state, PlaceState::Building(_))),
            ..self.counts
        }
    }

    /// Returns the captures that may be restored soon, what speaks for each, and how many stages
    /// there are.
    pub(super) fn demands(&mut self) -> (Vec<String>, Vec<StageDemand>, u32) {
        let now = Instant::now();
        let recent = |at: &Instant| now.duration_since(*at) <= MEMORY_OF_ASKS;
        self.wishes.retain(|_, wish| match wish {
            Wish::Suspended(_, at) => recent(at),
            Wish::Snapshot { taken, restored } => {
                restored.retain(recent);
                !restored.is_empty() || taken.as_ref().is_some_and(recent)
            }
            Wish::Copies(_, at) => now.duration_since(*at) <= RESERVED,
        });
        self.resting.retain(|_, until| *until > now);
        let since = |at: &Instant| now.duration_since(*at);
        let demands = self.wishes.iter().filter_map(|(capture, wish)| {
            let demand = match wish {
                Wish::Suspended(_, at) => StageDemand::Suspended(since(at)),
                Wish::Snapshot { taken, restored } => StageDemand::Snapshot {
                    taken: taken.as_ref().map(since),
                    restored: restored.iter().map(since).collect(),
                },
                Wish::Copies(..) => return None,
            };
            Some((capture.clone(), demand))
        });
        let (captures, demands) = demands.unzip();
        let there = self.places.iter().filter(|place| place.is_ready()).count();
        (captures, demands, u32::try_from(there).unwrap_or(u32::MAX))
    }

    /// Decides what to do next, and notes that it is being done.
    pub(super) fn next(&mut self, around: &Surroundings, new: impl FnOnce() -> SandboxId) -> Next {
        let now = Instant::now();
        if let Some(id) = self.useless(around, now)
            && let Taken::Stage(stage) = self.take(&id, Use::Removal)
        {
            // Whoever wants it sees that it leaves.
            let capture = stage.capture.clone();
            self.places.push(Place { id, capture, state: PlaceState::Leaving });
            return Next::Remove(stage);
        }
        let missing = around.targets.iter().filter(|(capture, target)| {
            self.count(capture) < *target as usize && !self.resting.contains_key(capture)
        });
        // What was wished may have been taken back since.
        let missing = missing.filter_map(|(capture, _)| match self.wishes.get(capture)? {
            Wish::Suspended(id, _) => Some((capture.clone(), Some(id.clone()))),
            Wish::Snapshot { .. } => Some((capture.clone(), None)),
            Wish::Copies(..) => None,
        });
        let Some((capture, own)) = missing.into_iter().next() else { return Next::Rest };
        let building = |place: &Place| matches!(place.state, PlaceState::Building(_));
        if !around.may_build || around.busy || self.places.iter().any(building) {
            return Next::Wait(Duration::ZERO);
        }
        let rest = self.last_asked.map(|at| REST.saturating_sub(now.duration_since(at)));
        if let Some(rest) = rest.filter(|rest| !rest.is_zero()) {
            return Next::Wait(rest);
        }
        let id = own.unwrap_or_else(new);
        self.begin(id.clone(), &capture, Pace::Idle);
        Next::Build(id, capture)
    }

    /// Takes all that nobody has taken.
    pub(super) fn take_all(&mut self) -> Vec<Stage> {
        let mut all = Vec::new();
        for place in &mut self.places {
            match std::mem::replace(&mut place.state, PlaceState::Leaving) {
                PlaceState::Ready(stage) | PlaceState::Reserved(stage, _) => all.push(*stage),
                other @ (PlaceState::Building(_) | PlaceState::Leaving) => place.state = other,
            }
        }
        all
    }

    /// Finds one that nobody wants any more.
    fn useless(&self, around: &Surroundings, now: Instant) -> Option<SandboxId> {
        let useless = self.places.iter().find(|place| match &place.state {
            PlaceState::Reserved(_, since) => now.duration_since(*since) > RESERVED,
            PlaceState::Ready(_) => {
                self.ready(&place.capture) > self.target(around, &place.capture)
            }
            PlaceState::Building(_) | PlaceState::Leaving => false,
        });
        useless.map(|place| place.id.clone())
    }

    fn target(&self, around: &Surroundings, capture: &str) -> usize {
        match self.wishes.get(capture) {
            None => 0,
            Some(Wish::Copies(left, _)) => *left as usize,
            Some(Wish::Suspended(..) | Wish::Snapshot { .. }) => {
                let target = around.targets.iter().find(|(wanted, _)| wanted == capture);
                target.map_or(0, |(_, target)| *target as usize)
            }
        }
    }

    fn ready(&self, capture: &str) -> usize {
        self.places.iter().filter(|place| place.capture == capture && place.is_ready()).count()
    }

    /// Counts what is there of a capture for nobody in particular, or is in the way.
    fn count(&self, capture: &str) -> usize {
        let reserved = |place: &Place| {
            matches!(place.state, PlaceState::Reserved(..) | PlaceState::Building(Pace::Reserved))
        };
        self.places.iter().filter(|place| place.capture == capture && !reserved(place)).count()
    }

    fn place(&mut self, id: &SandboxId) -> Option<&mut Place> {
        self.places.iter_mut().find(|place| place.id == *id)
    }

    fn leave(&mut self, id: &SandboxId) {
        if let Some(place) = self.place(id) {
            place.state = PlaceState::Leaving;
        }
    }
}

// === impl Wish ===

impl Wish {
    fn last(&self) -> Option<Instant> {
        match self {
            Self::Suspended(_, at) | Self::Copies(_, at) => Some(*at),
            Self::Snapshot { taken, restored } => restored.back().copied().or(*taken),
        }
    }
}

// === impl Place ===

impl Place {
    fn is_ready(&self) -> bool {
        matches!(self.state, PlaceState::Ready(_))
    }

    /// Says whether it may be reserved.
    fn is_free(&self) -> bool {
        match self.state {
            PlaceState::Ready(_) | PlaceState::Building(Pace::Idle | Pace::Hurried) => true,
            PlaceState::Building(Pace::Reserved)
            | PlaceState::Reserved(..)
            | PlaceState::Leaving => false,
        }
    }

    fn reserve(&mut self, now: Instant) {
        self.state = match std::mem::replace(&mut self.state, PlaceState::Leaving) {
            PlaceState::Ready(stage) => PlaceState::Reserved(stage, now),
            PlaceState::Building(_) => PlaceState::Building(Pace::Reserved),
            other @ (PlaceState::Reserved(..) | PlaceState::Leaving) => other,
        };
    }

    fn give_back(&mut self) {
        self.state = match std::mem::replace(&mut self.state, PlaceState::Leaving) {
            PlaceState::Reserved(stage, _) => PlaceState::Ready(stage),
            PlaceState::Building(_) => PlaceState::Building(Pace::Idle),
            other @ (PlaceState::Ready(_) | PlaceState::Leaving) => other,
        };
    }
}
