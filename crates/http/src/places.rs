//! Places for connections, and who gives way when they are all taken.
//!
//! Connections cost a client nothing, so a number alone would let whoever opens most of them keep
//! everybody else out, without a key. When all places are taken, the connection that has been
//! without a request for the longest gives way to a new one; where none is idle, the new one waits.
//! A request ends here with its answer's head: bodies are whole then, and who does not read one has
//! no right to a place.
//!
//! The ingress has a like rule. What is different there, that a new one is refused where this lets
//! it wait, is so because what a sandbox answers may flow for days.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// All places.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    next: AtomicU64,
    /// Those of connections that do not have to go.
    seats: Mutex<HashMap<u64, Seat>>,
    /// Rung when one may have become free.
    changed: Notify,
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    number: u64,
    leave: Arc<Notify>,
}

/// A request under way on a connection, which is not idle as long.
#[derive(Debug)]
pub(crate) struct Busy {
    place: Arc<Place>,
}

/// What a connection is doing.
#[derive(Debug)]
struct Seat {
    requests: usize,
    /// When the connection was taken, or its last request ended.
    idle_since: Instant,
    leave: Arc<Notify>,
}

// === impl Places ===

impl Places {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most: most.max(1),
            next: AtomicU64::new(0),
            seats: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Gives a new connection a place; waits only while all are busy. For one caller at a time.
    pub(crate) async fn take(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_take() {
                return place;
            }
            self.changed.notified().await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Place> {
        let mut seats = self.seats.lock();
        if seats.len() >= self.most {
            let idlest = idlest(&seats)?;
            if let Some(seat) = seats.remove(&idlest) {
                seat.leave.notify_one();
            }
        }
        let (number, leave) = (self.next.fetch_add(1, Relaxed), Arc::new(Notify::new()));
        let seat = Seat { requests: 0, idle_since: Instant::now(), leave: Arc::clone(&leave) };
        seats.insert(number, seat);
        Some(Place { places: Arc::clone(self), number, leave })
    }
}

/// Returns which connection has been without a request for the longest, if any is without one.
/// Two of the same moment leave in the order in which they came.
fn idlest(seats: &HashMap<u64, Seat>) -> Option<u64> {
    let idle = seats.iter().filter(|(_, seat)| seat.requests == 0);
    idle.map(|(number, seat)| (seat.idle_since, *number)).min().map(|(_, number)| number)
}

// === impl Place ===

impl Place {
    /// Resolves when the connection has to go. For one caller.
    pub(crate) async fn given_up(&self) {
        self.leave.notified().await;
    }

    /// Begins a request, unless the connection has to go.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Busy> {
        self.places.seats.lock().get_mut(&self.number)?.requests += 1;
        Some(Busy { place: Arc::clone(self) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.places.seats.lock().remove(&self.number));
        self.places.changed.notify_one();
    }
}

// === impl Busy ===

impl Drop for Busy {
    fn drop(&mut self) {
        let places = &self.place.places;
        if let Some(seat) = places.seats.lock().get_mut(&self.place.number) {
            seat.requests -= 1;
            seat.idle_since = Instant::now();
        }
        places.changed.notify_one();
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

    fn has_to_go(place: &Arc<Place>) -> bool {
        let gone = place.given_up().now_or_never().is_some();
        assert_eq!(gone, place.begin().is_none());
        gone
    }

    async fn later() {
        tokio::time::advance(Duration::from_millis(10)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_idle_for_longest_gives_way() {
        let places = Places::new(3);
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(take(&places));
            later().await;
        }
        let busy = taken[0].begin().expect("it may stay");
        // The second had a request since the third came.
        drop(taken[1].begin());
        later().await;
        let fourth = take(&places);
        assert!(has_to_go(&taken[2]));
        later().await;
        drop(busy);
        later().await;
        let _fifth = take(&places);
        let left = [&taken[0], &taken[1], &fourth].map(has_to_go);
        assert_eq!(left, [false, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_are_busy_the_next_waits_for_a_request_or_a_connection_to_end() {
        let places = Places::new(2);
        let (first, second) = (take(&places), take(&places));
        let requests = (first.begin(), second.begin());
        let mut third = Box::pin(places.take());
        assert!((&mut third).now_or_never().is_none());
        drop(requests.0);
        let third = Arc::new(third.await);
        assert!(has_to_go(&first));
        let request = third.begin();
        let mut fourth = Box::pin(places.take());
        assert!((&mut fourth).now_or_never().is_none());
        drop((request, third));
        assert!(fourth.now_or_never().is_some());
        drop(requests.1);
    }
}
