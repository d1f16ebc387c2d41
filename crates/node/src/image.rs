//! The images of a node: brought here before a start needs them, and kept as long as something of
//! the node is made of them.

use std::collections::BTreeSet;

use tarn_host::{CaptureError, ImageError, Template};
use tarn_node_api::NodeTarget;
use tarn_types::{BootImage, EndCause, FailedStep, ImageDigest, ImagePin, ProjectId, StartFailure};

use crate::{
    archive::{Brought, moot},
    capture::Note,
    sandbox::SandboxTask,
    service::Shared,
    start::chain,
};

// === impl SandboxTask ===

impl SandboxTask {
    /// Sees to it that the image is on this node that the sandbox boots. Counts as a part of the
    /// start.
    pub(crate) async fn bring_image(&self) -> Brought {
        let shared = &self.shared;
        let Some(pin) = &self.entry.launch.image.pin else { return Brought::Here };
        if shared.parts.images.is_here(&pin.digest) {
            return Brought::Here;
        }
        let (id, image) = (&self.entry.id, &self.entry.launch.image);
        tracing::info!(sandbox.id = %id, %image, digest = %pin.digest, "waiting for its image");
        let pulled = tokio::select! {
            pulled = pull(shared, pin, &self.entry.project) => pulled,
            () = moot(self.wanted.clone()) => return Brought::Moot,
            () = shared.parts.tasks.stopping() => return Brought::Moot,
        };
        match pulled {
            Ok(()) => Brought::Here,
            Err(message) => {
                let (step, failure) = (FailedStep::Image, StartFailure::Image);
                Brought::Failed(EndCause::StartFailed { step, failure, message })
            }
        }
    }
}

async fn pull(shared: &Shared, pin: &ImagePin, project: &ProjectId) -> Result<(), String> {
    let images = &shared.parts.images;
    let login = match &pin.source {
        None => None,
        Some(source) => {
            let registry = images.registry_of(source).map_err(|bad| chain(&bad))?;
            let login = shared.parts.secrets.registry_login(project, &registry).await;
            login.map_err(|bad| chain(&bad))?
        }
    };
    images.pull(pin, login.as_ref()).await.map_err(|bad| chain(&bad))
}

/// Finds the template of the image that a sandbox boots.
pub(crate) async fn find_template(
    shared: &Shared,
    image: &BootImage,
) -> Result<Template, ImageError> {
    let images = &shared.parts.images;
    match &image.pin {
        Some(pin) => images.resolve_digest(pin.digest.as_str(), &image.name).await,
        None => images.resolve(&image.name).await,
    }
}

/// Returns the digests of all templates that something on this node is made of, or is about to be.
///
/// # Errors
/// Fails when something cannot be read: it may need anything.
pub(crate) async fn in_use(shared: &Shared) -> Result<BTreeSet<ImageDigest>, String> {
    // What is only wanted yet comes before what is written: nothing moves the other way.
    let mut digests: Vec<String> = shared.prestarts.templates();
    digests.extend(shared.stages.templates());
    for handle in shared.handles.read().values() {
        let wanted = handle.wanted.borrow();
        let launch = wanted.intent.as_ref().and_then(|intent| match &intent.target {
            NodeTarget::Running(launch) => Some(launch),
            NodeTarget::Suspended | NodeTarget::Terminated(_) => None,
        });
        digests.extend(launch.and_then(|launch| pinned(&launch.image)));
    }
    let ledger = shared.ledger.clone();
    let read = shared.parts.tasks.spawn_blocking(move || ledger.read_all()).await;
    let entries = read.map_err(|lost| lost.to_string())?.map_err(|bad| chain(&bad))?;
    for (_, entry) in entries {
        let entry = entry.map_err(|bad| chain(&bad))?;
        digests.extend(pinned(&entry.launch.image));
        digests.extend(entry.template);
    }
    let captures = &shared.parts.captures;
    for name in captures.list().await.map_err(|bad| chain(&bad))? {
        match captures.open(&name).await {
            Ok(capture) => digests.push(Note::of(&capture)?.template),
            // It was removed meanwhile, or is a draft of a sandbox that is in the ledger.
            Err(CaptureError::Missing { .. }) => {}
            Err(bad) => return Err(chain(&bad)),
        }
    }
    Ok(digests.iter().filter_map(|digest| digest.parse().ok()).collect())
}

fn pinned(image: &BootImage) -> Option<String> {
    image.pin.as_ref().map(|pin| pin.digest.to_string())
}
