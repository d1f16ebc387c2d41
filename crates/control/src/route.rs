//! What the ingress asks, answered from memory.

use async_trait::async_trait;
use tarn_lifecycle::status;
use tarn_node_api::Endpoint;
use tarn_route_api::{Route, RouteEndpoint, RouteError, Routes};
use tarn_store::StoreError;
use tarn_types::{ProjectId, SandboxId, SandboxRecord, SandboxRef, SandboxStatus};

use crate::{Control, ControlError, suspend::OverQuota, table::Live};

#[async_trait]
impl Routes for Control {
    async fn authenticate(&self, bearer: &str) -> Result<ProjectId, RouteError> {
        match Self::authenticate(self, bearer).await {
            Ok(caller) => Ok(caller.project),
            Err(ControlError::Unauthenticated) => Err(RouteError::Unauthenticated),
            Err(failed) => {
                tracing::warn!(error = %failed, detail = failed.detail(), "keys cannot be checked");
                Err(RouteError::Unavailable)
            }
        }
    }

    async fn resolve(
        &self,
        sandbox: &SandboxRef,
        project: Option<&ProjectId>,
    ) -> Result<Route, RouteError> {
        let not_found = || RouteError::NotFound(sandbox.to_string());
        let live = match (sandbox, project) {
            (SandboxRef::Id(id), _) => self.0.table.get(id),
            (SandboxRef::Name(name), Some(project)) => self.0.table.get_by_name(project, name),
            (SandboxRef::Name(_), None) => return Err(not_found()),
        };
        let route = match (live, sandbox) {
            (Some(entry), _) => shown(&entry.now()).ok_or_else(not_found)?,
            (None, SandboxRef::Name(_)) => return Err(not_found()),
            // An id that ended is told from one that never was; nobody is in a hurry there.
            (None, SandboxRef::Id(id)) => match self.0.parts.store.sandbox_fetch(id).await {
                Ok(record) if record.is_unclaimed() => return Err(not_found()),
                Ok(record) => route(&record, None),
                Err(StoreError::NotFound { .. }) => return Err(not_found()),
                Err(failed) => {
                    tracing::warn!(error = %failed, "a sandbox cannot be looked up");
                    return Err(RouteError::Unavailable);
                }
            },
        };
        match project {
            Some(project) if route.project != *project => Err(not_found()),
            Some(_) | None => Ok(route),
        }
    }

    async fn wake(&self, sandbox: &SandboxId) -> Result<(), RouteError> {
        let Some(entry) = self.0.table.get(sandbox) else { return Ok(()) };
        let record = entry.now().record;
        let asleep =
            matches!(status(&record), SandboxStatus::Suspending | SandboxStatus::Suspended);
        if !asleep || !wakes(&record) {
            return Ok(());
        }
        let (control, id) = (self.clone(), sandbox.clone());
        let resume = async move { control.resume(&id, OverQuota::Waits).await };
        match self.finish("sandbox_wake", resume).await {
            Ok(_) => Ok(()),
            Err(failed) => {
                let detail = failed.detail();
                tracing::warn!(sandbox.id = %sandbox, error = %failed, detail, "sandbox not woken");
                Err(RouteError::Unavailable)
            }
        }
    }

    async fn changed(&self, seen: &Route) {
        let Some(entry) = self.0.table.get(&seen.id) else { return };
        let differs = |live: &Live| {
            let now = route_of(live);
            now.generation != seen.generation
                || now.status != seen.status
                || now.endpoint.is_some() != seen.endpoint.is_some()
        };
        let mut watch = entry.subscribe();
        // The sender lives as long as `entry`, which is held here.
        drop(watch.wait_for(differs).await);
    }
}

/// Says whether traffic wakes a sandbox.
fn wakes(record: &SandboxRecord) -> bool {
    record.asked.name.is_some() && record.asked.auto_resume
}

/// Returns the route to a sandbox. What waits in a pool is nobody's, and has none.
fn shown(live: &Live) -> Option<Route> {
    (!live.record.is_unclaimed()).then(|| route_of(live))
}

fn route_of(live: &Live) -> Route {
    route(&live.record, live.endpoint.as_ref())
}

fn route(record: &SandboxRecord, endpoint: Option<&Endpoint>) -> Route {
    Route {
        id: record.id.clone(),
        project: record.project.clone(),
        generation: record.intent.generation,
        ports: record.asked.ports.clone(),
        status: status(record),
        wakes: wakes(record),
        endpoint: endpoint
            .map(|known| RouteEndpoint { daemon: known.daemon, token: known.token.clone() }),
    }
}
