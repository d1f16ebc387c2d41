//! What there is of sandboxes on the host, and how it is removed. Needs no gVisor.

use std::{collections::BTreeSet, fs, io, path::Path, time::Duration};

use tarn_runtime::RuntimeError;
use tarn_types::{ErrorClass, InstanceTag, SandboxId};
use thiserror::Error;

use crate::{
    bundle,
    cgroup::{Cgroups, Layout, LayoutError},
    config::GvisorDeadlines,
    netns,
    paths::{self, Paths},
    process, straggler, volatile,
};

/// Why something of an instance is still there.
#[derive(Debug, Error)]
pub enum GvisorRemoveError {
    /// The machine's cgroups cannot be found.
    #[error("find the cgroup hierarchies")]
    Cgroups(#[from] LayoutError),
    /// A sandbox could not be removed.
    #[error("remove a sandbox")]
    Sandbox(#[from] RuntimeError),
    /// A step on the host failed.
    #[error("{step}")]
    Host {
        /// Which.
        step: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// The traces of one instance's sandboxes.
#[derive(Debug, Clone)]
pub(crate) struct Remains {
    pub(crate) paths: Paths,
    pub(crate) cgroups: Cgroups,
    /// For ending processes and removing their cgroups.
    pub(crate) limit: Duration,
}

/// Ends every sandbox of an instance and removes everything that the driver ever made for it,
/// the state directory included. What is already gone is no error; no server may be running.
///
/// # Errors
/// Fails when something is still there; it may then be tried again.
pub async fn remove_all(state_dir: &Path, tag: &InstanceTag) -> Result<(), GvisorRemoveError> {
    let limit = GvisorDeadlines::default().delete;
    let cgroups = Cgroups::find(Layout::detect()?, tag);
    let remains = Remains { paths: Paths::new(state_dir), cgroups, limit };
    let host = |step| move |source| GvisorRemoveError::Host { step, source };
    remains.cgroups.come_in();
    let ending = tokio::time::timeout(limit, straggler::end_all(&remains.paths)).await;
    let ended = ending.unwrap_or_else(|late| Err(io::Error::other(late)));
    ended.map_err(host("end the commands of a server"))?;
    for id in remains.list()? {
        remains.clear(&id).await?;
    }
    netns::unpin(&remains.paths.null_netns()).map_err(host("unmount the empty namespace"))?;
    remains.cgroups.close();
    let programs = remains.paths.programs();
    volatile::let_go(&programs).map_err(host("unmount gVisor's programs"))?;
    volatile::let_go(state_dir).map_err(host("unmount the state directory"))?;
    // Of a server that did not keep it in memory.
    netns::unpin(&remains.paths.null_netns()).map_err(host("unmount the empty namespace"))?;
    for dir in [&programs, state_dir] {
        volatile::remove(dir).map_err(host("remove the state directory"))?;
    }
    Ok(())
}

// === impl GvisorRemoveError ===

impl GvisorRemoveError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Cgroups(_) => ErrorClass::Unavailable,
            Self::Sandbox(error) => error.class(),
            Self::Host { .. } => ErrorClass::Internal,
        }
    }
}

// === impl Remains ===

impl Remains {
    /// Returns every sandbox of which there is anything.
    pub(crate) fn list(&self) -> Result<Vec<SandboxId>, RuntimeError> {
        let found = [
            names(self.paths.root(), paths::id_of_backend_file),
            names(self.paths.bundles(), |name| name.parse().ok()),
            names(&self.paths.shapes(), |name| name.parse().ok()),
            self.cgroups.list(),
        ];
        let mut ids = BTreeSet::new();
        for part in found {
            // The contract's errors name a sandbox, and here there is none: the nil id stands in.
            let nil = || SandboxId::from_random([0; SandboxId::LENGTH]);
            let fail = |source| RuntimeError::Host { step: "list", id: nil(), source };
            ids.extend(part.map_err(fail)?);
        }
        Ok(ids.into_iter().collect())
    }

    /// Ends and removes everything of a sandbox. The bundle, which is the claim on the id, goes
    /// last, so that what is left after a crash is still listed.
    pub(crate) async fn clear(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let cgroup = self.cgroups.sandbox(id);
        // First: whoever is left could write the files again.
        within(self.limit, "end the processes", id, process::end_for_good(&cgroup)).await?;
        for file in self.paths.backend_files(id) {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(host("remove the state", id)(error));
                }
                _ => {}
            }
        }
        bundle::remove(&self.paths, id).map_err(host("remove the bundle", id))
    }
}

/// Runs a step under its deadline.
pub(crate) async fn within(
    limit: Duration,
    step: &'static str,
    id: &SandboxId,
    work: impl Future<Output = io::Result<()>>,
) -> Result<(), RuntimeError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(host(step, id)),
        Err(_elapsed) => {
            let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            Err(RuntimeError::Timeout { step, id: id.clone(), limit_ms })
        }
    }
}

/// Says of an error of the host which step failed, on which sandbox.
pub(crate) fn host(step: &'static str, id: &SandboxId) -> impl FnOnce(io::Error) -> RuntimeError {
    let id = id.clone();
    move |source| RuntimeError::Host { step, id, source }
}

/// Collects what a rule recognises among the names in a directory, if there is one.
fn names(dir: &Path, recognise: impl Fn(&str) -> Option<SandboxId>) -> io::Result<Vec<SandboxId>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        ids.extend(entry?.file_name().to_str().and_then(&recognise));
    }
    Ok(ids)
}
