//! Keeps slots ready, and looks after what others may change on the host.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tarn_host::SlotId;
use tokio::time::Instant;

use super::{
    Inner,
    tenant::{Condition, Sweep},
};
use crate::{
    error::StepFailure,
    uplink::{self, Lack},
};

/// How often the host is looked at: an uplink may have come, another program may have flushed the
/// rules.
const ROUND: Duration = Duration::from_secs(5);

/// How long nothing has happened when spare slots are built: a burst needs the host's locks and
/// processors itself.
const CALM: Duration = Duration::from_millis(100);
/// How long it is remembered how many were needed at once: once to twice as long as this.
const SPAN: Duration = Duration::from_mins(5);

/// Runs until shutdown.
pub(super) async fn keep(inner: Arc<Inner>) {
    let mut stopping = std::pin::pin!(inner.tasks.stopping());
    let (mut round, mut turn) = (Instant::now() + ROUND, Instant::now() + SPAN);
    // The first slots are built at once.
    let mut calm = true;
    loop {
        let (builds, surplus, short, settled) = {
            let mut book = inner.book.lock();
            (book.plan_builds(calm), book.plan_removal(), book.is_short(), book.is_settled())
        };
        for slot in builds {
            inner.tasks.spawn("slot_build", Arc::clone(&inner).build(slot));
        }
        if let Some(slot) = surplus {
            // Wakes us again when done, so one at a time is enough.
            inner
                .tasks
                .spawn("slot_cleaning", Arc::clone(&inner).clean(slot, None, Condition::Closed));
        }
        tokio::select! {
            () = &mut stopping => return,
            () = inner.wake.notified() => calm = !settled,
            () = tokio::time::sleep(CALM), if short => calm = true,
            () = tokio::time::sleep_until(round) => {
                // Where nothing is ever calm the spare ones come by and by.
                (round, calm) = (Instant::now() + ROUND, true);
                let mut sweep = Sweep::IfCheap;
                if turn < round {
                    (turn, sweep) = (round + SPAN, Sweep::Now);
                    inner.book.lock().turn();
                }
                let own = Arc::clone(&inner);
                let looked = inner.tasks.spawn_blocking(move || own.look_around(sweep)).await;
                if let Err(error) = looked {
                    tracing::error!(%error, "network slots cannot be looked after");
                }
            }
        }
    }
}

// === impl Inner ===

impl Inner {
    /// Builds a slot that the book has planned.
    async fn build(self: Arc<Self>, slot: SlotId) {
        let Ok(_permit) = self.builds.acquire().await else { return };
        let inner = Arc::clone(&self);
        let built = self.tasks.spawn_blocking(move || {
            let mtu = inner.mtu.load(Ordering::Relaxed);
            inner.site.build(&inner.site.names.face(inner.block, slot), mtu)
        });
        let failure = match built.await {
            Ok(Ok(())) => {
                self.book.lock().ready(slot);
                self.note();
                return;
            }
            Ok(Err(StepFailure { step, detail })) => format!("{step}: {detail}"),
            Err(error) => error.to_string(),
        };
        tracing::warn!(slot = slot.0, failure, "network slot could not be built");
        // Not noted as a change: the next round tries again, rather than this one without pause.
        self.book.lock().gone(slot);
        *self.failure.lock() = Some((slot, failure));
    }

    /// Blocking.
    fn look_around(&self, sweep: Sweep) {
        match self.rules.heal() {
            Ok(false) => {}
            Ok(true) => tracing::error!(
                "another program removed tarn's rules; sandboxes were cut off until now. \
                 If a firewall service flushes the whole rule set, have it flush its own table"
            ),
            Err(failure) => tracing::error!(
                step = failure.step,
                detail = failure.detail,
                "tarn's rules cannot be checked"
            ),
        }
        if let Err(failure) = self.follow_uplinks() {
            tracing::warn!(
                step = failure.step,
                detail = failure.detail,
                "uplinks cannot be followed"
            );
        }
        if let Err(failure) = self.sweep(sweep) {
            tracing::warn!(
                step = failure.step,
                detail = failure.detail,
                "flows that nobody needs any more are left in the kernel's table"
            );
        }
    }

    /// Sees to forwarding on whatever leads to the internet now. Blocking.
    pub(super) fn follow_uplinks(&self) -> Result<(), StepFailure> {
        let mut uplinks = uplink::find(self.range, &self.opened)?;
        if !self.site.has_ipv6 {
            uplinks.six.lack.get_or_insert(Lack::Configured);
        }
        self.mtu.store(uplinks.mtu, Ordering::Relaxed);
        let before = self.rules.ways();
        let ways = uplink::lead(&uplinks, &before)?;
        if ways.has_ipv6 != before.has_ipv6 {
            let (open, lack) = (ways.has_ipv6, uplinks.six.lack.map(Lack::as_str));
            tracing::info!(open, uplinks = ?uplinks.six.names, lack, "IPv6 of sandboxes changed");
        }
        if ways.has_ipv6 || before.has_ipv6 {
            self.had_ipv6.store(true, Ordering::Relaxed);
        }
        // The guard first: there must be no moment in which the host routes for its neighbours.
        self.rules.lead(ways.clone())?;
        self.has_ipv6.store(ways.has_ipv6, Ordering::Relaxed);
        uplink::switch_on(&ways)
    }
}
