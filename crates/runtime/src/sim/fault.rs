//! Faults on demand.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

/// A step of a simulated sandbox that can be made to fail or to take long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SimStep {
    /// `Runtime::create` fails and leaves nothing.
    Create,
    /// `Runtime::start` fails and leaves the sandbox created.
    Start,
    /// The daemon of a started sandbox takes connections and never answers them.
    Daemon,
    /// The daemon answers `init` with 500 and stays closed.
    Init,
    /// `Runtime::promote` fails and leaves the sandbox as it was.
    Promote,
    /// `Runtime::resize` fails and leaves the sandbox as it was.
    Resize,
    /// `Runtime::lives` cannot tell.
    Lives,
    /// `Runtime::adopt` fails and leaves the sandbox unwatched.
    Adopt,
    /// `Runtime::delete` fails and leaves the sandbox as it was.
    Delete,
    /// `Runtime::freeze` fails and leaves the sandbox running.
    Freeze,
    /// `Runtime::thaw` fails and leaves the sandbox frozen.
    Thaw,
    /// `Runtime::pause` fails and leaves the sandbox running.
    Pause,
    /// `Runtime::resume` fails and leaves the sandbox paused.
    Resume,
    /// `Runtime::checkpoint` fails and leaves the sandbox paused.
    Checkpoint,
    /// `Runtime::stage` fails and leaves nothing.
    Stage,
    /// `Runtime::restore` fails and leaves nothing.
    Restore,
    /// The daemon answers `seal` with 500 and stays as it was.
    Seal,
    /// The daemon answers `unseal` with 500 and stays as it was.
    Unseal,
}

/// Makes the steps of every sandbox of one [`super::SimHost`] fail or take long.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    plan: Arc<Mutex<BTreeMap<SimStep, Plan>>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Plan {
    failures: usize,
    delay: Duration,
    delayed: usize,
}

// === impl SimStep ===

impl SimStep {
    /// Returns the word for an error's `step`.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Daemon => "daemon",
            Self::Init => "init",
            Self::Promote => "promote",
            Self::Resize => "resize",
            Self::Lives => "look for",
            Self::Adopt => "adopt",
            Self::Delete => "delete",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Checkpoint => "checkpoint",
            Self::Stage => "stage",
            Self::Restore => "restore",
            Self::Seal => "seal",
            Self::Unseal => "unseal",
        }
    }
}

// === impl Faults ===

impl Faults {
    /// Makes the next `times` of a step fail.
    pub fn fail(&self, step: SimStep, times: usize) {
        self.plan.lock().entry(step).or_default().failures = times;
    }

    /// Makes a step take so long from now on, in tokio's time; zero ends that.
    pub fn delay(&self, step: SimStep, delay: Duration) {
        self.plan.lock().entry(step).or_default().delay = delay;
    }

    /// Returns how many times a step began to take long.
    #[must_use]
    pub fn delayed(&self, step: SimStep) -> usize {
        self.plan.lock().get(&step).map_or(0, |plan| plan.delayed)
    }

    /// Waits as long as the step is to take, then says whether it is to fail.
    pub(super) async fn meet(&self, step: SimStep) -> bool {
        let delay = self.begin(step);
        // Not even a yield without a fault: the simulation measures what is around it.
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let mut plan = self.plan.lock();
        let Some(plan) = plan.get_mut(&step) else { return false };
        let fails = plan.failures > 0;
        plan.failures = plan.failures.saturating_sub(1);
        fails
    }

    fn begin(&self, step: SimStep) -> Duration {
        let mut plan = self.plan.lock();
        let Some(plan) = plan.get_mut(&step) else { return Duration::ZERO };
        plan.delayed += usize::from(!plan.delay.is_zero());
        plan.delay
    }
}
