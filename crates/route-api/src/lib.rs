//! What the ingress asks of the control plane: who is calling, and where is the sandbox.
//!
//! Answers come from memory: no store is read between a client's request and its sandbox.

use std::net::SocketAddr;

use async_trait::async_trait;
use tarn_types::{
    DaemonToken, ErrorClass, Generation, PortAccess, ProjectId, SandboxId, SandboxRef,
    SandboxStatus, UnixMillis,
};
use thiserror::Error;

/// Where a sandbox is and who may reach what of it.
#[derive(Debug, Clone)]
pub struct Route {
    /// The sandbox.
    pub id: SandboxId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// Connections of an older generation must not be used again.
    pub generation: Generation,
    /// Who may reach its user ports.
    pub ports: PortAccess,
    /// Its status.
    pub status: SandboxStatus,
    /// Whether traffic wakes it while it is suspended.
    pub wakes: bool,
    /// How to reach it; there exactly while it runs.
    pub endpoint: Option<RouteEndpoint>,
}

/// How to reach a running sandbox.
#[derive(Debug, Clone)]
pub struct RouteEndpoint {
    /// The daemon's address; user ports are on the same host address.
    pub daemon: SocketAddr,
    /// The secret the daemon wants in `x-tarn-token`.
    pub token: DaemonToken,
}

/// Says why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RouteError {
    /// The credential is missing, empty, unknown or revoked.
    #[error("the API key is missing or not valid")]
    Unauthenticated,
    /// The caller's projects have no such sandbox.
    #[error("no sandbox `{0}`")]
    NotFound(String),
    /// Keys cannot be checked or sandboxes cannot be looked up for the moment.
    #[error("the control plane cannot be asked just now")]
    Unavailable,
}

/// What went through the ingress to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// Requests, streams and sockets that are open now.
    pub open: u32,
    /// When the last one began or ended.
    pub last: UnixMillis,
}

/// Tells what went through the ingress; for idle limits.
pub trait ActivityGauge: Send + Sync + 'static {
    /// Returns what went to a sandbox since this process began; `None` = nothing.
    fn activity(&self, sandbox: &SandboxId) -> Option<Activity>;
}

/// Answers the ingress.
#[async_trait]
pub trait Routes: Send + Sync + 'static {
    /// Returns the project a bearer key belongs to.
    ///
    /// # Errors
    /// Fails for a key that is not valid, and when keys cannot be checked.
    async fn authenticate(&self, bearer: &str) -> Result<ProjectId, RouteError>;

    /// Finds a sandbox. Names need a project; an id without one is for public user ports, whose
    /// caller the ingress checks against [`Route::ports`].
    ///
    /// A name resolves only to a sandbox that is not terminated. A sandbox of another project is
    /// `NotFound`.
    ///
    /// # Errors
    /// Fails when there is none, or it cannot be looked up.
    async fn resolve(
        &self,
        sandbox: &SandboxRef,
        project: Option<&ProjectId>,
    ) -> Result<Route, RouteError>;

    /// Has a suspended sandbox go on, if it may be woken. Returns at once; [`Routes::changed`]
    /// tells when there is something new. Any number of calls cause one resume.
    ///
    /// # Errors
    /// Fails when it cannot be stored.
    async fn wake(&self, sandbox: &SandboxId) -> Result<(), RouteError>;

    /// Resolves when the route of a sandbox has changed from the given one, or at once if it has.
    ///
    /// Cancel-safe; the caller bounds it in time and resolves again afterwards.
    async fn changed(&self, seen: &Route);
}

// === impl RouteError ===

impl RouteError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unauthenticated => ErrorClass::Denied,
            Self::NotFound(_) => ErrorClass::NotFound,
            Self::Unavailable => ErrorClass::Unavailable,
        }
    }
}
