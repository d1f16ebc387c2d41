//! Connections to sandboxes: one set per sandbox and generation.
//!
//! ```text
//!   Upstreams ── by sandbox id ──▶ Upstream (generation, address)
//!                                     ├─ idle connections by port
//!                                     ├─ leases: connections in use
//!                                     └─ watcher: follows the route while there is any of them
//! ```
//!
//! A newer generation retires a set: its idle connections close at once, those in use end with
//! their request. When the sandbox itself stops, those in use are cut too: its network stack died
//! with it, and nobody would ever close them.
//!
//! Not hyper-util's client: it repeats requests by its own rules and does not say whether a failed
//! one was sent, and that is what the error codes turn on.

mod connection;
mod wire;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tarn_route_api::{Route, RouteEndpoint, RouteError, Routes};
use tarn_task::Tasks;
use tarn_types::{DaemonToken, Generation, SandboxId, SandboxRef, SandboxStatus};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use connection::{Lease, Protocol, SendError, Sent, Target};

use crate::{config::IngressConfig, ingress::ClientNumber, lane::LaneNumber, stats::IngressStats};
use connection::{Connection, Http2Handle};

/// How long the watcher waits when the route cannot be looked up.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(1);
/// How often the watcher of a set with only connections in use looks whether it is still needed.
const LOOK_AROUND: Duration = Duration::from_secs(15);

/// All connections to sandboxes.
pub(crate) struct Upstreams {
    config: Arc<IngressConfig>,
    routes: Arc<dyn Routes>,
    tasks: Tasks,
    stats: Arc<IngressStats>,
    sandboxes: Mutex<HashMap<SandboxId, Arc<Upstream>>>,
}

/// The connections of one sandbox in one generation.
#[derive(Debug)]
pub(crate) struct Upstream {
    generation: Generation,
    daemon: SocketAddr,
    token: DaemonToken,
    gone: CancellationToken,
    /// Whether the sandbox has stopped: its address may be another's.
    stopped: AtomicBool,
    users: AtomicUsize,
    idle: Mutex<Idle>,
    /// User ports that are reached through the daemon.
    on_loopback: Mutex<HashSet<u16>>,
}

/// Keeps a set from being forgotten while a request uses it.
#[derive(Debug)]
pub(crate) struct UpstreamUse(Arc<Upstream>);

#[derive(Debug, Default)]
struct Idle {
    /// Nothing is kept any more.
    retired: bool,
    http1: HashMap<u16, Vec<IdleConnection>>,
    http2: HashMap<(u16, ClientNumber), IdleHttp2>,
}

#[derive(Debug)]
struct IdleConnection {
    connection: Connection,
    until: Instant,
}

/// Shared by all requests of a client to the port at once.
#[derive(Debug)]
struct IdleHttp2 {
    handle: Http2Handle,
    until: Instant,
}

/// What a changed route means for the connections of the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// All stay.
    Keep,
    /// None may be used again.
    Retire,
    /// Nor is any to be opened: it is about to stop.
    Close,
    /// None leads anywhere any more.
    Cut,
}

// === impl Upstreams ===

impl Upstreams {
    pub(crate) fn new(
        config: Arc<IngressConfig>,
        routes: Arc<dyn Routes>,
        tasks: Tasks,
        stats: Arc<IngressStats>,
    ) -> Self {
        Self { config, routes, tasks, stats, sandboxes: Mutex::default() }
    }

    /// Finds or makes the set for a route.
    pub(crate) fn enter(self: &Arc<Self>, route: &Route, endpoint: &RouteEndpoint) -> UpstreamUse {
        let mut sandboxes = self.sandboxes.lock();
        if let Some(known) = sandboxes.get(&route.id) {
            if known.serves(route.generation, endpoint.daemon) {
                return UpstreamUse::new(known);
            }
            if known.generation > route.generation {
                // A request that was held up on its way: it may go, but leaves nothing behind.
                let late = Arc::new(Upstream::new(route.generation, endpoint));
                late.retire();
                return UpstreamUse::new(&late);
            }
            known.retire();
        }
        let upstream = Arc::new(Upstream::new(route.generation, endpoint));
        sandboxes.insert(route.id.clone(), Arc::clone(&upstream));
        let used = UpstreamUse::new(&upstream);
        let watcher = Arc::clone(self).watch(upstream, route.clone());
        drop(self.tasks.spawn("ingress-upstream-watch", watcher));
        used
    }

    /// Follows the route of a set for as long as it has connections.
    async fn watch(self: Arc<Self>, upstream: Arc<Upstream>, mut route: Route) {
        loop {
            let next_look = upstream.prune(Instant::now());
            if next_look.is_none() && self.forget(&route.id, &upstream) {
                return;
            }
            let next_look = next_look.unwrap_or_else(|| Instant::now() + LOOK_AROUND);
            tokio::select! {
                () = self.tasks.stopping() => {
                    upstream.retire();
                    return;
                }
                () = tokio::time::sleep_until(next_look) => continue,
                () = self.routes.changed(&route) => {}
            }
            let sandbox = SandboxRef::Id(route.id.clone());
            let now = self.routes.resolve(&sandbox, Some(&route.project)).await;
            match verdict(&upstream, now.as_ref()) {
                Verdict::Keep => {}
                Verdict::Retire => upstream.retire(),
                Verdict::Close => upstream.close(),
                Verdict::Cut => {
                    upstream.close();
                    tokio::time::sleep(self.config.stopped_linger).await;
                    tracing::debug!(sandbox.id = %route.id, "cut the streams of a stopped sandbox");
                    upstream.gone.cancel();
                    self.forget(&route.id, &upstream);
                    return;
                }
            }
            match now {
                Ok(now) => route = now,
                Err(_away) => tokio::time::sleep(LOOK_UP_AGAIN).await,
            }
        }
    }

    /// Takes a set that nobody uses out of the map; says whether it did.
    fn forget(&self, id: &SandboxId, upstream: &Arc<Upstream>) -> bool {
        let mut sandboxes = self.sandboxes.lock();
        // Users come only under this lock, so none can slip in between look and removal.
        if upstream.users.load(SeqCst) > 0 && !upstream.gone.is_cancelled() {
            return false;
        }
        upstream.retire();
        if sandboxes.get(id).is_some_and(|known| Arc::ptr_eq(known, upstream)) {
            sandboxes.remove(id);
        }
        true
    }
}

// === impl Upstream ===

impl Upstream {
    fn new(generation: Generation, endpoint: &RouteEndpoint) -> Self {
        Self {
            generation,
            daemon: endpoint.daemon,
            token: endpoint.token.clone(),
            gone: CancellationToken::new(),
            stopped: AtomicBool::new(false),
            users: AtomicUsize::new(0),
            idle: Mutex::default(),
            on_loopback: Mutex::default(),
        }
    }

    fn is_on_loopback(&self, port: u16) -> bool {
        self.on_loopback.lock().contains(&port)
    }

    fn note_loopback(&self, port: u16, through_daemon: bool) {
        let mut ports = self.on_loopback.lock();
        if through_daemon {
            ports.insert(port);
        } else {
            ports.remove(&port);
        }
    }

    fn serves(&self, generation: Generation, daemon: SocketAddr) -> bool {
        self.generation == generation && self.daemon == daemon && !self.idle.lock().retired
    }

    /// Retires, and lets nobody connect any more.
    fn close(&self) {
        self.stopped.store(true, SeqCst);
        self.retire();
    }

    fn has_stopped(&self) -> bool {
        self.stopped.load(SeqCst)
    }

    /// Closes the idle connections and keeps none from now on.
    fn retire(&self) {
        let retired = Idle { retired: true, ..Idle::default() };
        let idle = std::mem::replace(&mut *self.idle.lock(), retired);
        drop(idle);
    }

    /// Takes an idle HTTP/1 connection that is ready for a request: one of the lane's own if there
    /// is any, the latest used first. Of other lanes' only on request.
    fn take_http1(&self, port: u16, lane: LaneNumber, any_lane: bool) -> Option<Connection> {
        let mut idle = self.idle.lock();
        let kept = idle.http1.get_mut(&port)?;
        let now = Instant::now();
        let mut at = kept.len();
        let mut elsewhere = None;
        // Only as far as needed: there may be many, and they are others' too.
        while at > 0 {
            at -= 1;
            let candidate = &kept[at];
            if candidate.until <= now || candidate.connection.is_closed() {
                kept.remove(at);
                // What was found stands behind it.
                elsewhere = elsewhere.map(|found: usize| found - 1);
            } else if candidate.connection.is_ready() {
                if candidate.connection.lane == lane {
                    return Some(kept.remove(at).connection);
                }
                elsewhere = elsewhere.or(any_lane.then_some(at));
            }
            // One that is not ready is about to be: its task has not run since the last answer
            // ended.
        }
        // Better than a new one: a program may serve one connection at a time, until it closes.
        elsewhere.map(|found| kept.remove(found).connection)
    }

    fn take_http2(&self, key: (u16, ClientNumber), keep: Duration) -> Option<Http2Handle> {
        let mut idle = self.idle.lock();
        let kept = idle.http2.get_mut(&key)?;
        if kept.handle.is_closed() {
            idle.http2.remove(&key);
            return None;
        }
        kept.until = Instant::now() + keep;
        Some(kept.handle.clone())
    }

    fn put_http1(&self, port: u16, unused: IdleConnection, limit: usize) {
        let mut idle = self.idle.lock();
        if idle.retired || unused.connection.is_closed() {
            drop(idle);
            drop(unused);
            return;
        }
        let kept = idle.http1.entry(port).or_default();
        if kept.len() < limit {
            kept.push(unused);
        }
    }

    fn put_http2(&self, key: (u16, ClientNumber), handle: Http2Handle, keep: Duration) {
        let mut idle = self.idle.lock();
        if !idle.retired {
            idle.http2.insert(key, IdleHttp2 { handle, until: Instant::now() + keep });
        }
    }

    /// Closes what has been idle for long enough; returns when to look again, if anything is left.
    fn prune(&self, now: Instant) -> Option<Instant> {
        let mut idle = self.idle.lock();
        let mut next: Option<Instant> = None;
        let mut keep = |until: Instant, closed: bool| {
            if until <= now || closed {
                return false;
            }
            next = Some(next.map_or(until, |next| next.min(until)));
            true
        };
        for kept in idle.http1.values_mut() {
            kept.retain(|idle| keep(idle.until, idle.connection.is_closed()));
        }
        idle.http1.retain(|_, kept| !kept.is_empty());
        idle.http2.retain(|_, kept| keep(kept.until, kept.handle.is_closed()));
        next
    }
}

// === impl UpstreamUse ===

impl UpstreamUse {
    fn new(upstream: &Arc<Upstream>) -> Self {
        upstream.users.fetch_add(1, SeqCst);
        Self(Arc::clone(upstream))
    }

    /// Returns how many requests use the set, this one among them.
    pub(crate) fn users(&self) -> usize {
        self.0.users.load(SeqCst)
    }

    /// Resolves when the sandbox has stopped.
    pub(crate) async fn gone(&self) {
        self.0.gone.cancelled().await;
    }
}

impl Drop for UpstreamUse {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, SeqCst);
    }
}

/// Judges the connections of a set by what its route has become.
fn verdict(upstream: &Upstream, now: Result<&Route, &RouteError>) -> Verdict {
    let route = match now {
        Ok(route) => route,
        Err(RouteError::Unavailable | RouteError::Unauthenticated) => return Verdict::Keep,
        Err(RouteError::NotFound(_)) => return Verdict::Cut,
    };
    let same_generation = route.generation == upstream.generation;
    match route.status {
        // It runs on while its snapshot is made durable, and has ended meanwhile.
        SandboxStatus::Snapshotting if route.endpoint.is_none() => Verdict::Close,
        // Frozen, or about to be: its connections live on with it.
        SandboxStatus::Snapshotting | SandboxStatus::Suspending => Verdict::Keep,
        SandboxStatus::Pending | SandboxStatus::Suspended | SandboxStatus::Terminated => {
            Verdict::Cut
        }
        SandboxStatus::Running => match &route.endpoint {
            Some(endpoint) if endpoint.daemon != upstream.daemon => Verdict::Cut,
            Some(_) if same_generation => Verdict::Keep,
            Some(_) => Verdict::Retire,
            None => Verdict::Close,
        },
    }
}

#[cfg(test)]
mod tests {
    use tarn_types::{PortAccess, ProjectId};

    use super::*;

    #[test]
    fn what_becomes_of_connections_follows_the_route() {
        use SandboxStatus::{Pending, Running, Snapshotting, Suspended, Suspending, Terminated};
        let endpoint = |last: u8| RouteEndpoint {
            daemon: SocketAddr::from(([198, 18, 0, last], 9501)),
            token: DaemonToken::from_random([1; 32]),
        };
        let upstream = Upstream::new(Generation(3), &endpoint(1));
        let decide = |status, generation, endpoint: Option<RouteEndpoint>| {
            let route = Route {
                id: SandboxId::from_random([7; 21]),
                project: ProjectId::from_random([1; 16]),
                generation: Generation(generation),
                ports: PortAccess::default(),
                status,
                wakes: true,
                endpoint,
            };
            verdict(&upstream, Ok(&route))
        };
        for (status, generation, at, expected) in [
            (Running, 3, Some(1), Verdict::Keep),
            (Running, 4, Some(1), Verdict::Retire),
            (Running, 4, Some(2), Verdict::Cut),
            // It has ended, and has not said so yet.
            (Running, 3, None, Verdict::Close),
            (Snapshotting, 3, None, Verdict::Close),
            (Snapshotting, 3, Some(1), Verdict::Keep),
            (Suspending, 3, None, Verdict::Keep),
            (Suspended, 3, None, Verdict::Cut),
            (Pending, 3, None, Verdict::Cut),
            (Terminated, 3, None, Verdict::Cut),
        ] {
            let found = decide(status, generation, at.map(endpoint));
            assert_eq!(found, expected, "{status:?} {generation} {at:?}");
        }
        assert_eq!(verdict(&upstream, Err(&RouteError::Unavailable)), Verdict::Keep);
        let gone = RouteError::NotFound("it".to_owned());
        assert_eq!(verdict(&upstream, Err(&gone)), Verdict::Cut);
    }
}
