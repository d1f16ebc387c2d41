//! Who may reach which port, and waiting until the sandbox runs (spec 04 §3, §5).

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, header};
use tarn_route_api::{Route, RouteError, Routes};
use tarn_task::Tasks;
use tarn_types::{ProjectId, SandboxRef, SandboxStatus};
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    activity::{ActivityGuard, ActivityLog},
    address::{self, Address},
    config::IngressConfig,
    error::{IngressCode, IngressError},
    header::{Authorization, TIMEOUT_MS},
    stats::{Gauge, IngressStats},
    wake::{Turn, Waiter, Wakes},
};

/// What of a client's budget is left for our answer to travel.
const BUDGET_RESERVE: Duration = Duration::from_secs(1);
/// The longest budget believed.
const BUDGET_MAX: Duration = Duration::from_secs(3600);

/// Lets requests in.
pub(crate) struct Admission {
    config: Arc<IngressConfig>,
    routes: Arc<dyn Routes>,
    tasks: Tasks,
    stats: Arc<IngressStats>,
    activity: Arc<ActivityLog>,
    wakes: Wakes,
    held: Semaphore,
}

/// A request that may go to its running sandbox.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) route: Route,
    pub(crate) authorization: Authorization,
    /// Until when its port may refuse: a sandbox that has only just come up may not listen yet.
    pub(crate) refused_until: Option<Instant>,
    /// Counts it until it ends.
    pub(crate) activity: ActivityGuard,
}

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Caller {
    /// The holder of a key of this project.
    Project(ProjectId),
    /// Anybody.
    Anonymous,
}

/// What a request says of itself in `Authorization`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Credential<'a> {
    None,
    Bearer(&'a str),
    /// Another scheme: never ours.
    Foreign,
}

/// What a sandbox's status means for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readiness {
    Forward,
    Hold,
    /// Wake it, and hold.
    Wake,
    NotRunning,
}

// === impl Admission ===

impl Admission {
    pub(crate) fn new(
        config: Arc<IngressConfig>,
        routes: Arc<dyn Routes>,
        tasks: Tasks,
        stats: Arc<IngressStats>,
        activity: Arc<ActivityLog>,
    ) -> Self {
        let held = Semaphore::new(config.max_held.min(Semaphore::MAX_PERMITS));
        let wakes = Wakes::for_all(config.max_held);
        Self { config, routes, tasks, stats, activity, wakes, held }
    }

    /// Decides whether a request may go, and waits until it can.
    pub(crate) async fn admit(
        &self,
        address: &Address,
        headers: &HeaderMap,
    ) -> Result<Admitted, IngressError> {
        let caller = self.authenticate(address, headers).await?;
        let authorization = match caller {
            Caller::Project(_) => Authorization::Strip,
            Caller::Anonymous => Authorization::Keep,
        };
        let route = self.find(address, &caller).await?;
        let activity = self.activity.begin(&route.id);
        // A node that would suspend it says so first and asks for activity then: who begins before
        // the one is seen by the other, and who looks after the one waits.
        let route = self.find(address, &caller).await?;
        if readiness(&route) == Readiness::Forward {
            return Ok(Admitted { route, authorization, refused_until: None, activity });
        }
        if readiness(&route) == Readiness::NotRunning {
            return Err(not_running(&route));
        }
        let deadline = Instant::now() + patience(headers.get(TIMEOUT_MS), self.config.hold_timeout);
        // Boxed, because what is rare would make every request's future large to move.
        let route = Box::pin(self.hold(address, &caller, deadline, route)).await?;
        let refused_until = Some(deadline.min(Instant::now() + self.config.listen_patience));
        Ok(Admitted { route, authorization, refused_until, activity })
    }

    /// Finds out who is calling; only an exposed port's caller may stay anonymous.
    async fn authenticate(
        &self,
        address: &Address,
        headers: &HeaderMap,
    ) -> Result<Caller, IngressError> {
        let may_be_public = !address.is_daemon() && matches!(address.sandbox, SandboxRef::Id(_));
        match Credential::read(headers)? {
            Credential::Bearer(key) if !key.is_empty() => {
                match self.routes.authenticate(key).await {
                    Ok(project) => Ok(Caller::Project(project)),
                    // Toward a public port it is the application's own.
                    Err(RouteError::Unauthenticated | RouteError::NotFound(_)) if may_be_public => {
                        Ok(Caller::Anonymous)
                    }
                    Err(RouteError::Unauthenticated | RouteError::NotFound(_)) => {
                        Err(unauthenticated("the API key is not valid"))
                    }
                    Err(RouteError::Unavailable) => Err(IngressError::new(
                        IngressCode::AuthServiceUnavailable,
                        "API keys cannot be checked just now; the request was not executed, retry",
                    )),
                }
            }
            Credential::None | Credential::Bearer(_) | Credential::Foreign if may_be_public => {
                Ok(Caller::Anonymous)
            }
            Credential::None | Credential::Bearer(_) | Credential::Foreign => {
                Err(unauthenticated("an API key is needed"))
            }
        }
    }

    /// Resolves the sandbox and checks the port.
    async fn find(&self, address: &Address, caller: &Caller) -> Result<Route, IngressError> {
        let by_id = matches!(address.sandbox, SandboxRef::Id(_));
        // A public port is open to callers of every project, so there the project is compared
        // afterwards.
        let scope = match caller {
            Caller::Project(project) if address.is_daemon() || !by_id => Some(project),
            Caller::Project(_) | Caller::Anonymous => None,
        };
        match self.routes.resolve(&address.sandbox, scope).await {
            Ok(route) => check_access(&route, caller, address).map(|()| route),
            Err(RouteError::NotFound(_)) => Err(unknown(address, caller)),
            Err(RouteError::Unauthenticated) => Err(unauthenticated("an API key is needed")),
            Err(RouteError::Unavailable) => Err(IngressError::new(
                IngressCode::SandboxUpstreamError,
                "sandboxes cannot be looked up just now; the request was not executed, retry",
            )),
        }
    }

    /// Waits until the sandbox runs, within the client's budget, and wakes it if it sleeps.
    async fn hold(
        &self,
        address: &Address,
        caller: &Caller,
        deadline: Instant,
        first: Route,
    ) -> Result<Route, IngressError> {
        let Ok(_permit) = self.held.try_acquire() else {
            return Err(not_ready(&first, "too many requests wait for sandboxes already"));
        };
        let Some(waiter) = self.wakes.join(&first.id) else {
            return Err(not_ready(&first, "too many requests wait for this sandbox already"));
        };
        let _held = self.stats.enter(Gauge::Held);
        let begun = Instant::now();
        let mut route = first;
        loop {
            tracing::debug!(sandbox.id = %route.id, status = route.status.as_str(), "hold");
            let look_again = match readiness(&route) {
                Readiness::Forward => return Ok(route),
                Readiness::NotRunning => return Err(not_running(&route)),
                Readiness::Hold => deadline,
                Readiness::Wake => self.wake(&route, &waiter).await.min(deadline),
            };
            tokio::select! {
                () = self.routes.changed(&route) => {}
                () = tokio::time::sleep_until(look_again) => {
                    if Instant::now() >= deadline {
                        let waited = (deadline - begun).as_secs();
                        let waited = format!("it was not ready after {waited} s");
                        return Err(not_ready(&route, &waited));
                    }
                }
                () = self.tasks.stopping() => return Err(IngressError::new(
                    IngressCode::SandboxUpstreamError,
                    "the server is stopping; the request was not executed, retry",
                )),
            }
            route = self.find(address, caller).await?;
        }
    }

    /// Wakes a sleeping sandbox unless another request has; returns when to look again.
    async fn wake(&self, route: &Route, waiter: &Waiter) -> Instant {
        let next = match waiter.turn() {
            Turn::Wait(next) => return next,
            Turn::Wake(next) => next,
        };
        match self.routes.wake(&route.id).await {
            Ok(()) => {
                tracing::info!(sandbox.id = %route.id, "traffic wakes a sandbox");
                next
            }
            Err(error) => {
                tracing::warn!(sandbox.id = %route.id, %error, "a sandbox cannot be woken now");
                waiter.failed()
            }
        }
    }
}

// === impl Credential ===

impl<'a> Credential<'a> {
    fn read(headers: &'a HeaderMap) -> Result<Self, IngressError> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(Self::None) };
        if values.next().is_some() {
            // One could be ours and the other the application's; we could not strip just ours.
            return Err(IngressError::new(
                IngressCode::InvalidRequest,
                "the header authorization was sent twice; send it once",
            ));
        }
        let Ok(text) = value.to_str() else { return Ok(Self::Foreign) };
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            return Ok(Self::Bearer(rest.trim()));
        }
        Ok(Self::Foreign)
    }
}

/// Says what spec 04 §5 does with a status.
fn readiness(route: &Route) -> Readiness {
    match route.status {
        // What a snapshot holds up, for some milliseconds, its daemon or its kernel holds. One
        // without an endpoint runs, and we are about to be told where: after a resume, and at our
        // start.
        SandboxStatus::Running | SandboxStatus::Snapshotting if route.endpoint.is_some() => {
            Readiness::Forward
        }
        SandboxStatus::Running
        | SandboxStatus::Pending
        | SandboxStatus::Snapshotting
        | SandboxStatus::Suspending => Readiness::Hold,
        SandboxStatus::Suspended if route.wakes => Readiness::Wake,
        SandboxStatus::Suspended | SandboxStatus::Terminated => Readiness::NotRunning,
    }
}

/// Checks that a caller may reach a port of a sandbox that is there.
fn check_access(route: &Route, caller: &Caller, address: &Address) -> Result<(), IngressError> {
    let owner = *caller == Caller::Project(route.project.clone());
    if address.is_daemon() {
        return if owner { Ok(()) } else { Err(unknown(address, caller)) };
    }
    if !owner && !route.ports.unauthenticated {
        return Err(unknown(address, caller));
    }
    if !route.ports.exposes(address.port) {
        let port = address.port;
        return Err(IngressError::new(
            IngressCode::PortNotExposed,
            format!(
                "port {port} of sandbox {} is not exposed; add {port} to its exposed_ports",
                route.id
            ),
        ));
    }
    Ok(())
}

/// The answer for a sandbox that is not there for this caller.
///
/// An anonymous one learns nothing about which ids exist.
fn unknown(address: &Address, caller: &Caller) -> IngressError {
    match caller {
        Caller::Project(_) => address::not_found(&address.sandbox.to_string()),
        Caller::Anonymous => unauthenticated("an API key is needed: the port is not public"),
    }
}

fn unauthenticated(what: &str) -> IngressError {
    let message = format!("{what}; send `Authorization: Bearer <API key>`");
    IngressError::new(IngressCode::Unauthenticated, message)
}

fn not_running(route: &Route) -> IngressError {
    let todo = match route.status {
        SandboxStatus::Suspended => "traffic does not wake it; resume it first",
        SandboxStatus::Terminated
        | SandboxStatus::Pending
        | SandboxStatus::Running
        | SandboxStatus::Snapshotting
        | SandboxStatus::Suspending => "create a new one",
    };
    let message =
        format!("sandbox {} is not running: it is {}; {todo}", route.id, route.status.as_str());
    IngressError::new(IngressCode::SandboxNotRunning, message)
}

fn not_ready(route: &Route, why: &str) -> IngressError {
    let message = format!(
        "sandbox {} is {}: {why}; the request was not executed, retry",
        route.id,
        route.status.as_str()
    );
    IngressError::new(IngressCode::SandboxNotReady, message)
}

/// Returns how long a request may wait: the client's budget less a second, else the default.
fn patience(budget: Option<&HeaderValue>, default: Duration) -> Duration {
    let budget =
        budget.and_then(|value| value.to_str().ok()).and_then(|text| text.trim().parse().ok());
    match budget {
        Some(ms) => Duration::from_millis(ms).min(BUDGET_MAX).saturating_sub(BUDGET_RESERVE),
        None => default,
    }
}

#[cfg(test)]
mod tests;
