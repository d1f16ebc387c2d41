//! Other resources for a running sandbox.
//!
//! ```text
//!  ledger: what it may come to have ─▶ limits ─▶ disk ─▶ ledger: what it has ─▶ report
//! ```
//!
//! What grows is in the ledger before it grows: whoever takes over, or captures, finds the larger
//! number, never a disk or a memory in use that exceeds it. A crash on the way leaves `resizing` in
//! the ledger and the old generation, so that the intent is told again and everything is done once
//! more. All of it is brought about or, as far as the host lets go of it again, none.
//!
//! Where the server may not enlarge a disk in use, the sandbox *rests*: it is written down as for a
//! suspend, and restored with the larger disk. Nobody is told that it was suspended.

use tarn_host::LayerError;
use tarn_types::{Generation, Launch, ObservedPhase, Resources};

use crate::{
    ledger::{Durability, Entry, State},
    room::STOOD_STILL,
    sandbox::{Past, SandboxTask},
    start::chain,
};

/// What became of a resize.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fitted {
    /// It has what is wanted.
    Done,
    /// It has this, for that reason.
    Stays(Resources, String),
    /// It has the limits; its disk cannot grow while it runs.
    AtRest,
}

// === impl SandboxTask ===

impl SandboxTask {
    /// Gives a running sandbox what it shall have, in place. The caller writes the ledger.
    pub(crate) async fn fit(&mut self, wanted: Resources) -> Fitted {
        let (had, cut_short) = (self.entry.launch.resources, self.entry.resizing);
        if wanted == had && !cut_short {
            return Fitted::Done;
        }
        if let Some(trouble) = self.stands_still() {
            return Fitted::Stays(had, trouble);
        }
        let mut ahead = self.entry.clone();
        (ahead.launch.resources, ahead.resizing) = (largest(&had, &wanted), true);
        if let Err(bad) = self.shared.write(ahead.clone(), Durability::Synced).await {
            return Fitted::Stays(had, chain(&bad));
        }
        self.entry = ahead;
        let (runtime, id) = (&self.shared.parts.runtime, &self.entry.id);
        if let Err(bad) = runtime.resize(id, &wanted).await {
            return Fitted::Stays(had, chain(&bad));
        }
        if wanted.disk == had.disk && !cut_short {
            return Fitted::Done;
        }
        let (disk, failed) = match self.shared.parts.layers.grow(id, wanted.disk).await {
            Ok(()) => return Fitted::Done,
            Err(LayerError::Unprivileged) if had.gpus.is_none() => return Fitted::AtRest,
            Err(bad @ LayerError::PartlyGrown { size, .. }) => (size, chain(&bad)),
            Err(bad) => (had.disk, chain(&bad)),
        };
        match runtime.resize(id, &had).await {
            Ok(()) => Fitted::Stays(Resources { disk, ..had }, failed),
            // It uses more than it had by now.
            Err(bad) => {
                let trouble =
                    format!("{failed}; its other resources were changed: {}", chain(&bad));
                Fitted::Stays(Resources { disk, ..wanted }, trouble)
            }
        }
    }

    /// Says why nothing can be done with it now, if so.
    fn stands_still(&self) -> Option<String> {
        if self.entry.frozen {
            return Some(STOOD_STILL.to_owned());
        }
        let reached = self.endpoint.is_some() && self.is(&Past::Settled);
        (!reached || self.entry.orphaned.is_some())
            .then(|| "the sandbox cannot be reached just now; try again".to_owned())
    }

    /// Finishes what an earlier server had begun, as far as that can be done in use. The intent
    /// that it was begun for is told again, and does the rest.
    pub(crate) async fn fit_after_crash(&self) {
        if !self.entry.resizing || !matches!(self.entry.state, State::Running { .. }) {
            return;
        }
        let (id, disk) = (&self.entry.id, self.entry.launch.resources.disk);
        match self.shared.parts.layers.grow(id, disk).await {
            Ok(()) | Err(LayerError::Unprivileged) => {}
            Err(bad) => tracing::warn!(
                sandbox.id = %id, error = chain(&bad),
                "a resize that was cut short is not finished yet"
            ),
        }
    }

    /// Gives a running sandbox a larger disk by way of a capture, and reports.
    pub(crate) async fn grow_at_rest(
        &mut self,
        launch: Launch,
        generation: Generation,
        had: Resources,
    ) {
        tracing::info!(
            sandbox.id = %self.entry.id,
            "the disk of a sandbox cannot be enlarged in use; the sandbox rests for a moment"
        );
        // To its time limit it runs all the while.
        let (running, clock) = (self.entry.state.clone(), (self.adopted_at, self.entry.idle_ms));
        if let Err(trouble) = self.rest().await {
            let limits = self.shared.parts.runtime.resize(&self.entry.id, &had).await;
            let has =
                if limits.is_ok() { had } else { Resources { disk: had.disk, ..launch.resources } };
            return self.fitted(launch, generation, Fitted::Stays(has, trouble)).await;
        }
        let old = Launch { resources: had, ..launch.clone() };
        let resumed = match self.try_resume(launch, generation).await {
            Ok(()) => Ok(None),
            // As it was it went on a moment ago.
            Err(trouble) => self.try_resume(old, generation).await.map(|()| Some(trouble)),
        };
        match resumed {
            Ok(unfit) => {
                self.unfit = unfit;
                self.entry.state = running;
                (self.adopted_at, self.entry.idle_ms) = clock;
                self.save(Durability::Synced).await;
                self.report().await;
                self.discard_capture().await;
            }
            Err(trouble) => {
                self.trouble = Some(trouble);
                self.report().await;
            }
        }
    }

    /// Writes a sandbox down and lets go of everything else. After a failure it runs on.
    async fn rest(&mut self) -> Result<(), String> {
        let endpoint = self.endpoint.clone().ok_or("the sandbox cannot be reached just now")?;
        // Requests wait from here on.
        self.phase = Some(ObservedPhase::Suspending);
        self.report().await;
        self.pump = None;
        let put = self.put_down(&endpoint, self.entry.generation).await;
        self.phase = None;
        if let Err(trouble) = put {
            self.let_go().await;
            return Err(trouble);
        }
        self.endpoint = None;
        self.clean().await;
        Ok(())
    }

    /// Takes over a launch with the resources that the sandbox has now, and reports.
    pub(crate) async fn fitted(&mut self, launch: Launch, generation: Generation, fitted: Fitted) {
        let (resources, unfit) = match fitted {
            Fitted::Done | Fitted::AtRest => (launch.resources, None),
            Fitted::Stays(resources, trouble) => {
                tracing::warn!(sandbox.id = %self.entry.id, trouble, "a sandbox was not resized");
                (resources, Some(trouble))
            }
        };
        self.entry = Entry {
            launch: Launch { resources, ..launch },
            generation,
            resizing: false,
            ..self.entry.clone()
        };
        (self.trouble, self.unfit) = (None, unfit);
        self.save(Durability::Synced).await;
        self.report().await;
    }
}

/// Returns the larger of each: what a sandbox may have on its way from one to the other.
fn largest(a: &Resources, b: &Resources) -> Resources {
    Resources {
        cpu: a.cpu.max(b.cpu),
        memory: a.memory.max(b.memory),
        disk: a.disk.max(b.disk),
        gpus: a.gpus,
    }
}
