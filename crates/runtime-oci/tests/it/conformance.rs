//! What every runtime must do.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use tarn_runtime::{
    Adopted, Capabilities, ImageFacts, Runtime, RuntimeError, RuntimeEvent, RuntimeKind,
    RuntimeSpec, RuntimeStats, Started,
    conformance::{self, Fixture},
};
use tarn_runtime_oci::GvisorRuntime;
use tarn_types::{ByteSize, Resources, SandboxId};
use tokio::sync::mpsc;

use crate::host::{Host, describe, end_sentry, give_address};

/// A host of the suite.
struct GvisorFixture(Arc<Host>);

/// The driver, and what the network layer does beside it: the backend takes the address out of
/// the namespace at each start, and a slot gets it back before it is used again.
struct WithSlots(Arc<GvisorRuntime>);

#[tokio::test(flavor = "multi_thread")]
async fn gvisor_conforms() {
    let host = Host::new();
    let skipped = conformance::run(Arc::new(GvisorFixture(host))).await;
    assert_eq!(
        skipped,
        [
            ("a runtime that cannot freeze says so", "the runtime freezes"),
            ("a runtime without memory snapshots says so", "the runtime has them"),
        ]
    );
}

// === impl GvisorFixture ===

#[async_trait]
impl Fixture for GvisorFixture {
    async fn runtime(&self, events: mpsc::Sender<RuntimeEvent>) -> Arc<dyn Runtime> {
        Arc::new(WithSlots(self.0.runtime_with(events).await))
    }

    async fn prepare(&self) -> RuntimeSpec {
        self.0.prepare()
    }

    async fn prepare_unstartable(&self) -> Option<RuntimeSpec> {
        let mut spec = self.0.prepare();
        spec.tarnd = spec.rootfs.join("no-such-program");
        Some(spec)
    }

    async fn empty_dir(&self) -> PathBuf {
        self.0.make_dir("image")
    }

    async fn release(&self, spec: &RuntimeSpec) {
        self.0.release(spec);
    }

    async fn kill(&self, _spec: &RuntimeSpec, started: &Started) {
        end_sentry(started);
    }

    async fn leftovers(&self, spec: &RuntimeSpec) -> Vec<String> {
        assert!(fs::exists(&spec.rootfs).unwrap(), "the root file system is not the runtime's");
        self.0.leftovers(&spec.id)
    }

    async fn describe(&self, started: &Started) -> String {
        describe(started)
    }
}

// === impl WithSlots ===

#[async_trait]
impl Runtime for WithSlots {
    fn kind(&self) -> RuntimeKind {
        self.0.kind()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn create(&self, spec: &RuntimeSpec) -> Result<(), RuntimeError> {
        self.0.create(spec).await?;
        give_address(spec);
        Ok(())
    }

    async fn start(&self, id: &SandboxId) -> Result<Started, RuntimeError> {
        self.0.start(id).await
    }

    async fn promote(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.0.promote(id).await
    }

    async fn resize(&self, id: &SandboxId, resources: &Resources) -> Result<(), RuntimeError> {
        self.0.resize(id, resources).await
    }

    async fn lives(&self, id: &SandboxId) -> Result<bool, RuntimeError> {
        self.0.lives(id).await
    }

    async fn adopt(&self, spec: &RuntimeSpec) -> Result<Adopted, RuntimeError> {
        self.0.adopt(spec).await
    }

    async fn freeze(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.0.freeze(id).await
    }

    async fn thaw(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.0.thaw(id).await
    }

    fn image_facts(&self) -> ImageFacts {
        self.0.image_facts()
    }

    async fn pause(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.0.pause(id).await
    }

    async fn resume(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.0.resume(id).await
    }

    async fn checkpoint(&self, id: &SandboxId, image: &Path) -> Result<(), RuntimeError> {
        self.0.checkpoint(id, image).await
    }

    async fn restore(&self, spec: &RuntimeSpec, image: &Path) -> Result<Started, RuntimeError> {
        // A slot in use keeps what it has.
        if !self.0.list().await?.contains(&spec.id) {
            give_address(spec);
        }
        self.0.restore(spec, image).await
    }

    async fn stage(&self, spec: &RuntimeSpec) -> Result<(), RuntimeError> {
        self.0.stage(spec).await?;
        give_address(spec);
        Ok(())
    }

    async fn unwritten(&self, by: Option<&SandboxId>) -> io::Result<ByteSize> {
        self.0.unwritten(by).await
    }

    async fn stats(&self, id: &SandboxId) -> Result<RuntimeStats, RuntimeError> {
        self.0.stats(id).await
    }

    async fn delete(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.0.delete(id).await
    }

    async fn list(&self) -> Result<Vec<SandboxId>, RuntimeError> {
        self.0.list().await
    }
}
