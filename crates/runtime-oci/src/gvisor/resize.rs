//! Changing what a running sandbox may take.

use std::{sync::Arc, time::Duration};

use tarn_runtime::{RuntimeError, RuntimeSpec};
use tarn_types::{ByteSize, Resources, SandboxId};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    limits::{Limits, MemoryBounds},
    remains::host,
    watch::{Rebound, ReboundError},
};

use super::{GvisorRuntime, Known};

/// How a resize is named in errors, and how long it may take: longer than a watch tries for.
const RESIZE: &str = "resize";
const RESIZE_LIMIT: Duration = Duration::from_secs(10);

/// How long a sandbox that is to have less memory is given to let go of it: what a program had is
/// given back a while after its end.
const GIVING_BACK: Duration = Duration::from_secs(1);
const GIVING_BACK_PAUSE: Duration = Duration::from_millis(50);

// === impl GvisorRuntime ===

impl GvisorRuntime {
    /// Gives a running sandbox the limits of other resources, or leaves it those that it has.
    pub(super) async fn change_limits(
        &self,
        id: &SandboxId,
        resources: &Resources,
    ) -> Result<(), RuntimeError> {
        let cgroup = self.living(id)?;
        let control = self.control(RESIZE, id)?;
        let known = self.known.lock().get(id).map(|known| Arc::clone(&known.spec));
        let before = known.ok_or_else(|| RuntimeError::NotFound { id: id.clone() })?;
        let spec = RuntimeSpec { resources: *resources, ..(*before).clone() };
        let (old, new) = (Limits::of(&before), Limits::of(&spec));
        let begun = Instant::now();
        while let Err(refused) = self.rebound(id, new.memory, resources.memory).await {
            let in_use = matches!(refused, RuntimeError::MemoryInUse { .. });
            if !in_use || begun.elapsed() >= GIVING_BACK {
                return Err(refused);
            }
            tokio::time::sleep(GIVING_BACK_PAUSE).await;
        }
        if let Err(error) = cgroup.set_cpu(&new) {
            drop(cgroup.set_cpu(&old));
            drop(self.rebound(id, old.memory, before.resources.memory).await);
            return Err(host("limit the CPU", id)(error));
        }
        control.set_bounds(new.memory);
        if let Some(known) = self.known.lock().get_mut(id) {
            // Of what is there now: it may have been promoted meanwhile.
            let spec = RuntimeSpec { resources: *resources, ..(*known.spec).clone() };
            known.spec = Arc::new(spec);
        }
        Ok(())
    }

    /// Has the watch of a running sandbox change the bounds of its memory: it alone moves the
    /// limit.
    async fn rebound(
        &self,
        id: &SandboxId,
        bounds: MemoryBounds,
        wanted: ByteSize,
    ) -> Result<(), RuntimeError> {
        let not_found = || RuntimeError::NotFound { id: id.clone() };
        let wishes = match self.known.lock().get(id) {
            Some(Known { running: Some(running), .. }) => running.wishes.clone(),
            Some(Known { running: None, .. }) | None => return Err(not_found()),
        };
        let (told, answer) = oneshot::channel();
        let asked = async {
            // A closed channel is a watch that has ended, with its sandbox.
            wishes.send(Rebound { bounds, told }).await.map_err(|_closed| not_found())?;
            answer.await.map_err(|_closed| not_found())
        };
        let limit_ms = u64::try_from(RESIZE_LIMIT.as_millis()).unwrap_or(u64::MAX);
        let late = || RuntimeError::Timeout { step: RESIZE, id: id.clone(), limit_ms };
        match tokio::time::timeout(RESIZE_LIMIT, asked).await.map_err(|_elapsed| late())?? {
            Ok(()) => Ok(()),
            Err(ReboundError::InUse(bytes)) => {
                let used = ByteSize::from_mib(bytes.div_ceil(1 << 20));
                Err(RuntimeError::MemoryInUse { used, wanted })
            }
            Err(ReboundError::Host(error)) => Err(host(RESIZE, id)(error)),
        }
    }
}
