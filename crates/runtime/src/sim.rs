//! The simulated runtime: sandboxes in memory, each with a daemon that answers over real HTTP.
//!
//! It makes everything around a runtime testable without root and measurable without a runtime's
//! own time: nothing in it waits unless told to. The daemon is a scripted part of spec 05 with a
//! few commands; a memory image is what it has, as JSON. Nothing is isolated, so a server refuses
//! this runtime outside tests and benches.
//!
//! A [`SimHost`] stands for the machine and a [`SimRuntime`] for the server's hold on it: drop the
//! runtime, keep the host, make another runtime, and the sandboxes are there to be adopted.

mod answer;
mod daemon;
mod fault;
mod file;
mod host;
mod image;
mod process;
mod script;

use std::{io, path::Path, sync::Arc};

use async_trait::async_trait;
use tarn_task::Tasks;
use tarn_types::{ByteSize, Resources, SandboxId};
use tokio::sync::mpsc;

use self::host::Watch;
pub use self::{
    fault::{Faults, SimStep},
    host::SimHost,
};
use crate::{
    Adopted, Capabilities, ImageFacts, Runtime, RuntimeError, RuntimeEvent, RuntimeKind,
    RuntimeSpec, RuntimeStats, Started,
};

/// Drives the sandboxes of a [`SimHost`].
pub struct SimRuntime {
    host: SimHost,
    watch: Arc<Watch>,
}

// === impl SimRuntime ===

impl SimRuntime {
    /// Makes a runtime on a host of its own, whose daemons are tasks of `tasks`.
    #[must_use]
    pub fn new(tasks: Tasks, events: mpsc::Sender<RuntimeEvent>) -> Self {
        Self::on(&SimHost::new(tasks), events)
    }

    /// Makes a runtime on a host that may have sandboxes already.
    #[must_use]
    pub fn on(host: &SimHost, events: mpsc::Sender<RuntimeEvent>) -> Self {
        Self { host: host.clone(), watch: Arc::new(Watch::new(events)) }
    }

    /// Returns the host, which also makes sandboxes die or run short of memory.
    #[must_use]
    pub fn host(&self) -> &SimHost {
        &self.host
    }

    /// Returns the switch of the host's faults.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.host.faults()
    }
}

#[async_trait]
impl Runtime for SimRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Sim
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            enforces_limits: false,
            freeze: true,
            memory_snapshots: true,
            live_resize: true,
            gpus: true,
        }
    }

    async fn create(&self, spec: &RuntimeSpec) -> Result<(), RuntimeError> {
        self.host.create(spec).await
    }

    async fn start(&self, id: &SandboxId) -> Result<Started, RuntimeError> {
        self.host.start(id, &self.watch).await
    }

    async fn promote(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.host.promote(id).await
    }

    async fn resize(&self, id: &SandboxId, resources: &Resources) -> Result<(), RuntimeError> {
        self.host.resize(id, resources).await
    }

    async fn lives(&self, id: &SandboxId) -> Result<bool, RuntimeError> {
        self.host.lives(id).await
    }

    async fn adopt(&self, spec: &RuntimeSpec) -> Result<Adopted, RuntimeError> {
        self.host.adopt(&spec.id, &self.watch).await
    }

    async fn freeze(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.host.set_frozen(id, SimStep::Freeze).await
    }

    async fn thaw(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.host.set_frozen(id, SimStep::Thaw).await
    }

    fn image_facts(&self) -> ImageFacts {
        ImageFacts {
            runtime: RuntimeKind::Sim,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            flags: Vec::new(),
            cpu_features: Vec::new(),
        }
    }

    async fn pause(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.host.set_paused(id, SimStep::Pause).await
    }

    async fn resume(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.host.set_paused(id, SimStep::Resume).await
    }

    async fn checkpoint(&self, id: &SandboxId, image: &Path) -> Result<(), RuntimeError> {
        self.host.checkpoint(id, image).await
    }

    async fn restore(&self, spec: &RuntimeSpec, image: &Path) -> Result<Started, RuntimeError> {
        self.host.restore(spec, image, &self.watch).await
    }

    async fn stage(&self, spec: &RuntimeSpec) -> Result<(), RuntimeError> {
        self.host.stage(spec).await
    }

    async fn stats(&self, id: &SandboxId) -> Result<RuntimeStats, RuntimeError> {
        self.host.stats(id)
    }

    async fn unwritten(&self, _by: Option<&SandboxId>) -> io::Result<ByteSize> {
        Ok(self.host.unwritten())
    }

    async fn delete(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.host.delete(id).await
    }

    async fn list(&self) -> Result<Vec<SandboxId>, RuntimeError> {
        Ok(self.host.list())
    }
}
