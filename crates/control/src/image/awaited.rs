//! The sandbox in which a client drives a build of the legacy family (spec 06 §3).
//!
//! The client creates it itself, from the image that the answer to its build named. That name has
//! the build's id in it and means something in its project only, and only as long as the build
//! awaits its sandbox: so the server knows which sandbox is whose without asking the sandbox.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tarn_types::{ImageName, ProjectId, SandboxId};
use tokio::sync::watch;

use crate::Control;

type Key = (ProjectId, ImageName);

/// What was created from an image that a build awaits a sandbox of.
pub(crate) type Created = watch::Sender<Option<SandboxId>>;

/// The images that builds await sandboxes of.
#[derive(Debug, Clone, Default)]
pub(crate) struct AwaitedImages(Arc<Mutex<HashMap<Key, Created>>>);

/// A sandbox that a build awaits. It is awaited until this is dropped.
#[derive(Debug)]
pub struct AwaitedSandbox {
    all: AwaitedImages,
    key: Key,
    created: watch::Receiver<Option<SandboxId>>,
}

// === impl AwaitedImages ===

impl AwaitedImages {
    /// Returns whom to tell of a sandbox that is created from an image, if anybody awaits it.
    pub(crate) fn find(&self, project: &ProjectId, name: &ImageName) -> Option<Created> {
        self.0.lock().get(&(project.clone(), name.clone())).cloned()
    }
}

// === impl AwaitedSandbox ===

impl AwaitedSandbox {
    /// Waits until it is created. Cancelling loses nothing.
    pub async fn created(&mut self) -> Option<SandboxId> {
        // Its sender is gone only with us.
        self.created.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl Drop for AwaitedSandbox {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.key);
    }
}

// === impl Control ===

impl Control {
    /// Awaits the sandbox that a project is to create from an image of this name. Until then the
    /// name means the stock image that is the default.
    #[must_use]
    pub fn build_await_sandbox(&self, project: &ProjectId, name: &ImageName) -> AwaitedSandbox {
        let (key, all) = ((project.clone(), name.clone()), self.0.images.awaited.clone());
        let (sender, created) = watch::channel(None);
        all.0.lock().insert(key.clone(), sender);
        AwaitedSandbox { all, key, created }
    }
}
