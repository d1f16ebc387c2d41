//! A running ingress with made-up routes.

use std::{collections::HashMap, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_ingress::{ActivityLog, Ingress, IngressConfig, IngressStatsSnapshot};
use tarn_route_api::{Activity, ActivityGauge as _, Route, RouteEndpoint, RouteError, Routes};
use tarn_task::{SystemClock, Tasks};
use tarn_tls::Acceptor;
use tarn_types::{
    DaemonToken, ExposedPorts, Generation, PortAccess, ProjectId, SandboxId, SandboxRef,
    SandboxStatus,
};
use tokio::{net::TcpListener, sync::watch};

/// Nothing in these tests takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The key of the project that owns the sandboxes.
pub(crate) const KEY: &str = "tl_apiKey_mine";
/// A key of another project.
pub(crate) const OTHER_KEY: &str = "tl_apiKey_other";

/// An ingress on a port of its own.
pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) routes: Arc<FakeRoutes>,
    pub(crate) tasks: Tasks,
    stats: Arc<tarn_ingress::IngressStats>,
    activity: Arc<ActivityLog>,
}

/// Routes that a test writes.
pub(crate) struct FakeRoutes {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    routes: HashMap<SandboxId, Route>,
    names: HashMap<String, SandboxId>,
    keys_away: bool,
    routes_away: bool,
    wakes_fail: bool,
    wakes: Vec<SandboxId>,
}

// === impl World ===

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(IngressConfig::default()).await
    }

    pub(crate) async fn with(config: IngressConfig) -> Self {
        Self::over(config, Acceptor::plain()).await
    }

    pub(crate) async fn over(config: IngressConfig, acceptor: Acceptor) -> Self {
        let tasks = Tasks::new();
        let routes = Arc::new(FakeRoutes::new());
        let activity = Arc::new(ActivityLog::new(Arc::new(SystemClock)));
        let asked = Arc::clone(&routes) as Arc<dyn Routes>;
        let ingress = Ingress::new(config, asked, Arc::clone(&activity), tasks.clone());
        let stats = ingress.stats();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(tasks.spawn("ingress", ingress.serve(listener, acceptor)));
        Self { address, routes, tasks, stats, activity }
    }

    pub(crate) fn stats(&self) -> IngressStatsSnapshot {
        self.stats.snapshot()
    }

    /// What went to a sandbox so far.
    pub(crate) fn activity(&self, id: &SandboxId) -> Option<Activity> {
        self.activity.activity(id)
    }

    /// Adds a running sandbox of the first project and returns its id.
    pub(crate) fn sandbox(&self, daemon: SocketAddr) -> SandboxId {
        self.routes.add(route(daemon))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

// === impl FakeRoutes ===

impl FakeRoutes {
    fn new() -> Self {
        Self { state: Mutex::default(), changes: watch::Sender::new(0) }
    }

    pub(crate) fn add(&self, route: Route) -> SandboxId {
        let id = route.id.clone();
        self.state.lock().routes.insert(id.clone(), route);
        self.changes.send_modify(|n| *n += 1);
        id
    }

    pub(crate) fn name(&self, name: &str, id: &SandboxId) {
        self.state.lock().names.insert(name.to_owned(), id.clone());
    }

    pub(crate) fn edit(&self, id: &SandboxId, edit: impl FnOnce(&mut Route)) {
        edit(self.state.lock().routes.get_mut(id).expect("a known sandbox"));
        self.changes.send_modify(|n| *n += 1);
    }

    pub(crate) fn keys_away(&self, away: bool) {
        self.state.lock().keys_away = away;
    }

    pub(crate) fn wakes_fail(&self, fail: bool) {
        self.state.lock().wakes_fail = fail;
    }

    /// Which sandboxes the ingress has woken, in order.
    pub(crate) fn woken(&self) -> Vec<SandboxId> {
        self.state.lock().wakes.clone()
    }

    pub(crate) fn routes_away(&self, away: bool) {
        self.state.lock().routes_away = away;
    }
}

#[async_trait]
impl Routes for FakeRoutes {
    async fn authenticate(&self, bearer: &str) -> Result<ProjectId, RouteError> {
        if self.state.lock().keys_away {
            return Err(RouteError::Unavailable);
        }
        match bearer {
            KEY => Ok(project(1)),
            OTHER_KEY => Ok(project(2)),
            _ => Err(RouteError::Unauthenticated),
        }
    }

    async fn resolve(
        &self,
        sandbox: &SandboxRef,
        project: Option<&ProjectId>,
    ) -> Result<Route, RouteError> {
        let state = self.state.lock();
        if state.routes_away {
            return Err(RouteError::Unavailable);
        }
        let missing = || RouteError::NotFound(sandbox.to_string());
        let route = match sandbox {
            SandboxRef::Id(id) => state.routes.get(id).ok_or_else(missing)?,
            SandboxRef::Name(name) => {
                let id = state.names.get(name.as_str()).ok_or_else(missing)?;
                let route = state.routes.get(id).ok_or_else(missing)?;
                if project.is_none() || route.status == SandboxStatus::Terminated {
                    return Err(missing());
                }
                route
            }
        };
        if project.is_some_and(|project| *project != route.project) {
            return Err(missing());
        }
        Ok(route.clone())
    }

    /// Only notes it: the test says what comes of it.
    async fn wake(&self, sandbox: &SandboxId) -> Result<(), RouteError> {
        let mut state = self.state.lock();
        state.wakes.push(sandbox.clone());
        if state.wakes_fail { Err(RouteError::Unavailable) } else { Ok(()) }
    }

    async fn changed(&self, seen: &Route) {
        let mut changes = self.changes.subscribe();
        loop {
            let same = self.state.lock().routes.get(&seen.id).is_some_and(|now| {
                let address = |route: &Route| route.endpoint.as_ref().map(|e| e.daemon);
                now.generation == seen.generation
                    && now.status == seen.status
                    && now.ports == seen.ports
                    && address(now) == address(seen)
            });
            if !same || changes.changed().await.is_err() {
                return;
            }
        }
    }
}

pub(crate) fn project(seed: u8) -> ProjectId {
    ProjectId::from_random([seed; 16])
}

pub(crate) fn token() -> DaemonToken {
    DaemonToken::from_random([7; 32])
}

/// A running sandbox with an id of its own.
pub(crate) fn route(daemon: SocketAddr) -> Route {
    use std::sync::atomic::{AtomicU8, Ordering};
    static NEXT: AtomicU8 = AtomicU8::new(1);
    Route {
        id: SandboxId::from_random([NEXT.fetch_add(1, Ordering::Relaxed); 21]),
        project: project(1),
        generation: Generation::FIRST,
        ports: PortAccess::default(),
        status: SandboxStatus::Running,
        wakes: false,
        endpoint: Some(RouteEndpoint { daemon, token: token() }),
    }
}

/// The same with exposed ports, open to everybody or not.
pub(crate) fn exposing(daemon: SocketAddr, ports: &[u16], unauthenticated: bool) -> Route {
    let exposed = ExposedPorts::parse(ports.iter().map(|port| i64::from(*port)));
    let exposed = Some(exposed.expect("ports that can be exposed"));
    Route { ports: PortAccess { exposed, unauthenticated }, ..route(daemon) }
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, poll).await.is_ok(), "never came true: {what}");
}

/// Waits for something that must not hang.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_elapsed) => unreachable!("never finished: {what}"),
    }
}
