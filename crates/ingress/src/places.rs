//! Places for client connections, and who gives way when they are all taken.
//!
//! Connections cost a client nothing, so a number alone would let whoever opens most of them keep
//! everybody else out. When all places are taken, the connection that has been without a request
//! for the longest gives way to a new one: who opens a connection to use it is served, however many
//! others only sit there. If none is idle, the new one is told so, and not left to wait.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::stats::IngressStats;

/// Connections at a time that are only told that there is no place.
const TURNED_AWAY_AT_A_TIME: usize = 64;

/// Idle connections that are closed at once when descriptors are short.
const GIVEN_UP_AT_ONCE: usize = 16;

/// All places.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    opened: Instant,
    stats: Arc<IngressStats>,
    next: AtomicU64,
    seats: Mutex<HashMap<u64, Arc<Seat>>>,
    turned_away: AtomicUsize,
    /// Places in existence, those whose connection has to go included.
    out: AtomicUsize,
    freed: Notify,
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    number: u64,
    seat: Arc<Seat>,
    kind: Kind,
}

/// What the holder of a place may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Served,
    /// There was no place: every request is answered with that.
    TurnedAway,
}

#[derive(Debug)]
struct Seat {
    use_: Mutex<Use>,
    leave: CancellationToken,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Use {
    requests: usize,
    /// When the last request ended, in ms since the places were opened.
    idle_since: u64,
    /// It has to go: no request begins any more.
    given_up: bool,
}

/// A request under way on a connection, which is not idle as long.
#[derive(Debug)]
pub(crate) struct Busy {
    place: Arc<Place>,
}

// === impl Places ===

impl Places {
    pub(crate) fn new(most: usize, stats: Arc<IngressStats>) -> Arc<Self> {
        Arc::new(Self {
            most: most.max(1),
            opened: Instant::now(),
            stats,
            next: AtomicU64::new(0),
            seats: Mutex::default(),
            turned_away: AtomicUsize::new(0),
            out: AtomicUsize::new(0),
            freed: Notify::new(),
        })
    }

    /// Gives a new connection a place, or one to be told that there is none; waits only if there
    /// are too many of those, too.
    pub(crate) async fn take(self: &Arc<Self>) -> Place {
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.try_take() {
                return place;
            }
            freed.await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Place> {
        let mut seats = self.seats.lock();
        if seats.len() >= self.most && !self.free_the_idlest(&mut seats) {
            if self.turned_away.load(SeqCst) >= TURNED_AWAY_AT_A_TIME {
                return None;
            }
            self.turned_away.fetch_add(1, SeqCst);
            self.stats.count_turned_away();
            return Some(self.place(Kind::TurnedAway));
        }
        let place = self.place(Kind::Served);
        seats.insert(place.number, Arc::clone(&place.seat));
        Some(place)
    }

    fn place(self: &Arc<Self>, kind: Kind) -> Place {
        self.out.fetch_add(1, SeqCst);
        let now = Use { requests: 0, idle_since: self.now(), given_up: false };
        let seat = Seat { use_: Mutex::new(now), leave: CancellationToken::new() };
        let number = self.next.fetch_add(1, SeqCst);
        Place { places: Arc::clone(self), number, seat: Arc::new(seat), kind }
    }

    /// Closes some of the connections that have been idle for the longest, and says how many; for
    /// when descriptors are short.
    pub(crate) fn give_some_up(&self) -> usize {
        let mut seats = self.seats.lock();
        (0..GIVEN_UP_AT_ONCE).take_while(|_| self.free_the_idlest(&mut seats)).count()
    }

    fn free_the_idlest(&self, seats: &mut HashMap<u64, Arc<Seat>>) -> bool {
        loop {
            // Two of the same millisecond leave in the order in which they came.
            let idlest = seats.iter().filter_map(|(number, seat)| {
                let now = *seat.use_.lock();
                (now.requests == 0).then_some((now.idle_since, *number))
            });
            let Some((_, number)) = idlest.min() else { return false };
            let Some(seat) = seats.get(&number) else { return false };
            if seat.give_up() {
                seats.remove(&number);
                self.stats.count_given_up();
                return true;
            }
        }
    }

    /// Resolves once no place is taken.
    pub(crate) async fn empty(&self) {
        loop {
            let freed = self.freed.notified();
            if self.out.load(SeqCst) == 0 {
                return;
            }
            freed.await;
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

// === impl Seat ===

impl Seat {
    /// Lets no request begin any more, unless one has.
    fn give_up(&self) -> bool {
        let mut now = self.use_.lock();
        if now.requests > 0 {
            return false;
        }
        now.given_up = true;
        drop(now);
        self.leave.cancel();
        true
    }
}

// === impl Place ===

impl Place {
    /// Says whether requests here are only told that there is no place.
    pub(crate) fn is_turned_away(&self) -> bool {
        self.kind == Kind::TurnedAway
    }

    /// Resolves when the connection has to go.
    pub(crate) async fn given_up(&self) {
        self.seat.leave.cancelled().await;
    }

    /// Begins a request, unless the connection has to go.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Busy> {
        let mut now = self.seat.use_.lock();
        if now.given_up {
            return None;
        }
        now.requests += 1;
        drop(now);
        Some(Busy { place: Arc::clone(self) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let places = &self.places;
        match self.kind {
            Kind::Served => drop(places.seats.lock().remove(&self.number)),
            Kind::TurnedAway => {
                places.turned_away.fetch_sub(1, SeqCst);
            }
        }
        places.out.fetch_sub(1, SeqCst);
        places.freed.notify_waiters();
    }
}

// === impl Busy ===

impl Drop for Busy {
    fn drop(&mut self) {
        let mut now = self.place.seat.use_.lock();
        now.requests -= 1;
        now.idle_since = self.place.places.now();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;

    fn take(places: &Arc<Places>) -> Arc<Place> {
        Arc::new(places.take().now_or_never().expect("no waiting"))
    }

    fn has_to_go(place: &Place) -> bool {
        place.given_up().now_or_never().is_some()
    }

    async fn later() {
        tokio::time::advance(Duration::from_millis(10)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_idle_for_longest_gives_way() {
        let places = Places::new(3, Arc::default());
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(take(&places));
            later().await;
        }
        let busy = taken[0].begin();
        // The second had a request since the third came.
        drop(taken[1].begin());
        later().await;
        let fourth = take(&places);
        assert!(!fourth.is_turned_away());
        assert!(has_to_go(&taken[2]) && taken[2].begin().is_none());
        assert!(!has_to_go(&taken[0]) && !has_to_go(&taken[1]));
        later().await;
        drop(busy);
        later().await;
        let _fifth = take(&places);
        assert!(has_to_go(&taken[1]) && !has_to_go(&fourth) && !has_to_go(&taken[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_are_busy_the_next_are_turned_away_and_then_wait() {
        let places = Places::new(1, Arc::default());
        let only = take(&places);
        let busy = only.begin();
        let mut away: Vec<_> = (0..TURNED_AWAY_AT_A_TIME).map(|_| take(&places)).collect();
        assert!(away.iter().all(|place| place.is_turned_away()) && !has_to_go(&only));
        let mut waiting = Box::pin(places.take());
        assert!((&mut waiting).now_or_never().is_none());
        away.pop();
        assert!(waiting.await.is_turned_away());
        drop((busy, only));
        assert!(!take(&places).is_turned_away());
        away.clear();
        places.empty().now_or_never().expect("nobody is left");
    }
}
