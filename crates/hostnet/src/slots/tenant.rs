//! Sandboxes in slots: moving in, changing the policy, moving out.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tarn_host::{Slot, SlotError, SlotId};
use tarn_types::{EgressPolicy, HostName, NetworkLog, SandboxId};
use tokio::{sync::watch, task::JoinHandle};

use super::Inner;
use crate::{
    book::Afterlife,
    dns::{Ears, Learner, Resolver, follow, look_up, serve},
    egress::Egress,
    error::{Step as _, StepFailure},
    netlink::{
        End, Flow, FlowState, flows_are_few, flows_of, forget_flows, forget_flows_of,
        forget_flows_to,
    },
    netlog::{Counted, Diary},
};

/// The sandboxes in slots. Its lock is held over each change of a claimed slot's rules, so that a
/// late change of policy cannot open a slot that has just been released.
pub(super) type Tenants = BTreeMap<SlotId, Tenant>;

/// A sandbox in a slot.
#[derive(Debug)]
pub(super) struct Tenant {
    sandbox: SandboxId,
    policy: watch::Sender<Arc<Egress>>,
    resolver: JoinHandle<()>,
}

/// Whether a slot to be cleaned is known to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// Nothing gets in or out.
    Closed,
    /// The rules could not be changed; only removing the slot closes it.
    Open,
}

/// Whether flows that are of no use any more are to be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sweep {
    /// In any case.
    Now,
    /// If it takes a few milliseconds.
    IfCheap,
}

/// How long the sockets of a slot's last resolver are waited for. We have closed them by then, or
/// died; a child that was being spawned at that moment shares them until it runs its own program.
const EARS_PATIENCE: Duration = Duration::from_secs(5);

/// How often that is tried again meanwhile.
const EARS_PAUSE: Duration = Duration::from_millis(5);

// === impl Inner ===

impl Inner {
    /// Opens a slot for a sandbox. The resolver listens before the first packet can come.
    ///
    /// Runs to its end even if dropped; the slot is the sandbox's then.
    pub(super) async fn occupy(
        self: Arc<Self>,
        slot: SlotId,
        id: &SandboxId,
        policy: &EgressPolicy,
    ) -> Result<Slot, SlotError> {
        let address = self.block.address(slot);
        let ears = open_ears(&self.site.names.interface(slot), address)
            .await
            .step("listen for DNS")
            .map_err(|failure| failure.of(slot))?;
        let egress = Arc::new(Egress::compile(policy));
        let unasked = egress.unasked_names().cloned().collect();
        let found = look_up(unasked, &self.forwarder).await;
        let place = self.place(slot);
        let (inner, compiled, own) = (Arc::clone(&self), Arc::clone(&egress), id.clone());
        let opened = self.tasks.spawn_blocking(move || {
            let mut tenants = inner.tenants.lock();
            let diary = inner.logs.begin(slot, &own);
            inner.rules.open(slot, &compiled, &found)?;
            // Questions wait in the sockets until now; what they find out needs an open slot.
            let tenant = inner.receive(slot, own, &compiled, (ears, diary));
            tenants.insert(slot, tenant);
            Ok(())
        });
        flatten(opened.await).map_err(|failure| failure.of(slot))?;
        tracing::info!(slot = slot.0, sandbox.id = %id, %address, "network slot opened");
        Ok(place)
    }

    /// Starts what answers a sandbox's questions and follows its names.
    fn receive(
        &self,
        slot: SlotId,
        id: SandboxId,
        egress: &Arc<Egress>,
        (ears, diary): (Ears, Diary),
    ) -> Tenant {
        let has_ipv6 = match self.site.has_ipv6(slot) {
            true => Arc::clone(&self.has_ipv6),
            false => Arc::default(),
        };
        let (sender, policy) = watch::channel(Arc::clone(egress));
        let rules = Arc::clone(&self.rules);
        let learner = Learner { rules, slot, tasks: self.tasks.clone() };
        let forwarder = Arc::clone(&self.forwarder);
        let following = follow(policy.clone(), learner.clone(), Arc::clone(&forwarder));
        let serving = serve(ears, Resolver { policy, learner, forwarder, diary, has_ipv6 });
        let stopping = self.tasks.stopping();
        let resolver = self.tasks.spawn("slot_resolver", async move {
            tokio::select! {
                () = stopping => {}
                ((), ()) = async { tokio::join!(serving, following) } => {}
            }
        });
        Tenant { sandbox: id, policy: sender, resolver }
    }

    /// Replaces a sandbox's policy; it is in force when this returns.
    pub(super) async fn set_policy(
        self: Arc<Self>,
        slot: SlotId,
        id: &SandboxId,
        policy: &EgressPolicy,
    ) -> Result<(), SlotError> {
        let id = id.clone();
        let egress = Arc::new(Egress::compile(policy));
        // Before it is installed: connections to addresses of allowed names must not be cut because
        // nobody has asked for the names yet.
        let found = look_up(self.new_names(slot, &egress), &self.forwarder).await;
        let changed = self.tasks.clone().spawn_blocking(move || {
            let tenants = self.tenants.lock();
            let tenant = tenants.get(&slot).filter(|tenant| tenant.sandbox == id);
            let tenant = tenant.ok_or(SlotError::Missing { slot })?;
            self.rules.open(slot, &egress, &found).map_err(|failure| failure.of(slot))?;
            tenant.policy.send_replace(Arc::clone(&egress));
            tracing::info!(
                slot = slot.0, sandbox.id = %tenant.sandbox, forwards = egress.forwards,
                allowed = egress.allow.len() + egress.allow_names.len(),
                denied = egress.deny.len() + egress.deny_names.len(), "policy changed"
            );
            Ok(())
        });
        changed.await.step("change policy").map_err(|failure| failure.of(slot))?
    }

    /// Lists the names of a policy that the one in force does not have.
    fn new_names(&self, slot: SlotId, egress: &Egress) -> Vec<HostName> {
        if !egress.has_names() {
            return Vec::new();
        }
        let tenants = self.tenants.lock();
        let current = tenants.get(&slot).map(|tenant| tenant.policy.borrow());
        let is_new = |name: &&HostName| !current.as_ref().is_some_and(|it| it.has_name(name));
        egress.names().filter(is_new).cloned().collect()
    }

    pub(super) async fn adopt(
        self: Arc<Self>,
        slot: SlotId,
        id: &SandboxId,
        policy: &EgressPolicy,
    ) -> Result<Slot, SlotError> {
        if !self.book.lock().adopt(slot, id) {
            return Err(SlotError::Missing { slot });
        }
        // From here on it is the sandbox's, which lives in it, whatever fails.
        if !self.site.is_whole(slot).map_err(|failure| failure.of(slot))? {
            self.book.lock().unadopt(slot);
            return Err(SlotError::Missing { slot });
        }
        if self.tenants.lock().get(&slot).is_some_and(|tenant| tenant.sandbox == *id) {
            return Ok(self.place(slot));
        }
        let inner = Arc::clone(&self);
        // Whoever built it may have had another limit.
        let reshaped = self.tasks.spawn_blocking(move || inner.site.reshape(slot)).await;
        flatten(reshaped).map_err(|failure| failure.of(slot))?;
        let adopted = Arc::clone(&self).occupy(slot, id, policy).await;
        if adopted.is_err() {
            let tenant = self.tenants.lock().remove(&slot);
            if let Some(tenant) = tenant {
                // Waited for: its sockets must be gone before the next try opens them.
                tenant.resolver.abort();
                drop(tenant.resolver.await);
            }
        }
        adopted
    }

    fn place(&self, slot: SlotId) -> Slot {
        let address = IpAddr::V4(self.block.address(slot));
        Slot { id: slot, netns: self.site.netns(slot), address }
    }

    /// Closes a sandbox's slot and has it made ready in the background.
    pub(super) async fn vacate(self: Arc<Self>, slot: SlotId, id: SandboxId) {
        if !self.book.lock().release(slot, &id) {
            return;
        }
        let inner = Arc::clone(&self);
        let closed = self.tasks.spawn_blocking(move || {
            let mut tenants = inner.tenants.lock();
            let tenant = tenants.remove(&slot);
            // Closing makes the kernel forget what it has counted.
            inner.logs.end(slot, inner.counted(slot));
            (tenant, inner.rules.close(&[slot].into()))
        });
        let (tenant, closed) = match closed.await {
            Ok((tenant, closed)) => (tenant, closed),
            Err(error) => (None, Err(error).step("close")),
        };
        let condition = match closed {
            Ok(()) => Condition::Closed,
            Err(failure) => {
                tracing::error!(
                    slot = slot.0,
                    step = failure.step,
                    detail = failure.detail,
                    "network slot cannot be closed: removing it"
                );
                Condition::Open
            }
        };
        let tasks = self.tasks.clone();
        tasks.spawn("slot_cleaning", self.clean(slot, tenant, condition));
    }

    /// Empties a slot that nobody has any more and makes it ready, or removes it.
    pub(super) async fn clean(
        self: Arc<Self>,
        slot: SlotId,
        tenant: Option<Tenant>,
        condition: Condition,
    ) {
        if let Some(tenant) = tenant {
            tracing::info!(slot = slot.0, sandbox.id = %tenant.sandbox, "network slot closed");
            // Waited for: its sockets must be gone before the next sandbox's are opened.
            tenant.resolver.abort();
            drop(tenant.resolver.await);
        }
        let inner = Arc::clone(&self);
        let cleaned = self.tasks.spawn_blocking(move || inner.clean_now(slot, condition)).await;
        if let Err(failure) = flatten(cleaned) {
            // It stays in the book as being cleaned, so nobody gets it.
            tracing::error!(
                slot = slot.0,
                step = failure.step,
                detail = failure.detail,
                "network slot withdrawn until the next start"
            );
        }
        self.note();
    }

    /// Blocking. Removes the slot if it cannot be made ready.
    fn clean_now(&self, slot: SlotId, condition: Condition) -> Result<(), StepFailure> {
        let closed = condition == Condition::Closed;
        if closed && self.book.lock().afterlife(slot) == Afterlife::Reuse {
            match self.site.renew(slot, self.mtu.load(Ordering::Relaxed)) {
                Ok(()) => {
                    self.forget(slot, condition)?;
                    self.put_log_away(slot);
                    self.book.lock().ready(slot);
                    return Ok(());
                }
                Err(failure) => tracing::warn!(
                    slot = slot.0,
                    step = failure.step,
                    detail = failure.detail,
                    "network slot is not fit to be used again: removing it"
                ),
            }
        }
        self.site.demolish(slot)?;
        self.forget(slot, condition)?;
        self.put_log_away(slot);
        self.book.lock().gone(slot);
        Ok(())
    }

    /// Puts the log of whoever had a slot away, once all is in it: whoever gets the slot next must
    /// not get what is heard late. Blocking.
    fn put_log_away(&self, slot: SlotId) {
        self.logs.hear_out();
        self.logs.put_away(slot);
    }

    /// Returns what the kernel has counted of a slot. Blocking.
    fn counted(&self, slot: SlotId) -> Counted {
        self.rules.counted(slot).unwrap_or_else(|StepFailure { step, detail }| {
            tracing::warn!(slot = slot.0, step, detail, "a network log is without its counters");
            Counted::default()
        })
    }

    /// Returns the network log of a sandbox, with all that has happened so far. Blocking.
    pub(super) fn network_log(&self, id: &SandboxId) -> Result<Option<NetworkLog>, SlotError> {
        let Some((slot, journal)) = self.logs.find(id) else { return Ok(None) };
        let Some(slot) = slot else {
            return Ok(Some(journal.lock().show(&HashMap::new(), Counted::default())));
        };
        self.logs.hear_out();
        let flows = self.flows(slot).map_err(|failure| failure.of(slot))?;
        let counted = self.rules.counted(slot).map_err(|failure| failure.of(slot))?;
        let shown = journal.lock().show(&flows, counted);
        Ok(Some(shown))
    }

    /// Lists the flows of a sandbox. Blocking.
    fn flows(&self, slot: SlotId) -> Result<HashMap<Flow, FlowState>, StepFailure> {
        let mut flows = HashMap::new();
        for address in self.addresses(slot) {
            flows.extend(flows_of(address).step("list flows")?);
        }
        Ok(flows)
    }

    /// Makes the kernel forget the flows of whoever had a slot. Blocking.
    ///
    /// Without it a packet that comes late would be translated back and reach the next sandbox. A
    /// walk over the kernel's table takes 5 ms of a CPU, a quarter of what a life takes of ours, so
    /// there is none for whoever has begun no flow. What the host still sends over a connection to
    /// the last one would pass for the next one's, too, but for its zone; without zones that takes
    /// a walk.
    fn forget(&self, slot: SlotId, condition: Condition) -> Result<(), StepFailure> {
        let is_told_apart = condition == Condition::Closed && self.rules.tells_tenancies();
        if is_told_apart {
            self.has_past.store(true, Ordering::Relaxed);
        }
        if condition == Condition::Closed && !self.rules.may_have_begun(slot)? {
            if !is_told_apart {
                // Only the host, by IPv4, speaks to a sandbox first.
                forget_flows_to(self.block.address(slot)).step("forget flows")?;
            }
            return Ok(());
        }
        let addresses: Vec<IpAddr> = self.addresses(slot).collect();
        let ends: &[End] = if is_told_apart { &[End::From] } else { &[End::From, End::To] };
        forget_flows_of(&addresses, ends).step("forget flows")?;
        if condition == Condition::Closed { self.rules.none_begun(slot) } else { Ok(()) }
    }

    /// Makes the kernel forget what the host has begun with sandboxes that are gone: a connection
    /// that nobody ended would stay for 5 days. Blocking.
    pub(super) fn sweep(&self, when: Sweep) -> Result<(), StepFailure> {
        let is_time = when == Sweep::Now || flows_are_few();
        if !is_time || !self.has_past.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let swept = forget_flows(|ends| self.rules.is_past(ends)).step("forget flows");
        if swept.is_err() {
            self.has_past.store(true, Ordering::Relaxed);
        }
        swept.map(drop)
    }

    /// Lists the host-side addresses by which a slot may have flows: a walk over the kernel's table
    /// of them takes milliseconds, so there is none for a family that never had a way out.
    fn addresses(&self, slot: SlotId) -> impl Iterator<Item = IpAddr> + use<> {
        let had = self.site.has_ipv6 && self.had_ipv6.load(Ordering::Relaxed);
        let six = had.then(|| self.block.address6(slot).into());
        [self.block.address(slot).into()].into_iter().chain(six)
    }

    /// Removes what nobody adopted. Blocking.
    pub(super) fn settle(&self) -> Result<(), SlotError> {
        let (left, claimed) = {
            let mut book = self.book.lock();
            (book.settle(), book.claimed())
        };
        let mut closing = self.rules.live();
        closing.retain(|slot| !claimed.contains(slot));
        closing.extend(&left);
        let mut outcome = self.rules.close(&closing).map_err(|failure| failure.of(SlotId(0)));
        for slot in &left {
            let removed = self.site.demolish(*slot).map_err(|failure| failure.of(*slot));
            if removed.is_ok() {
                self.book.lock().gone(*slot);
            }
            outcome = outcome.and(removed);
        }
        // All addresses but those claimed, not only those of the slots left: a crash may have come
        // between the removal of a slot and this.
        let is_kept = |address| self.block.slot(address).is_some_and(|it| claimed.contains(&it));
        let is_left = |address| self.block.has(address) && !is_kept(address);
        let forgotten = forget_flows(|ends| is_left(ends.from) || is_left(ends.to));
        let forgotten = forgotten.step("forget flows").map_err(|failure| failure.of(SlotId(0)));
        outcome = outcome.and(forgotten.map(drop));
        tracing::info!(adopted = claimed.len(), removed = left.len(), "network slots settled");
        if !claimed.is_empty() {
            // What an earlier server led to the internet is not known.
            self.had_ipv6.store(true, Ordering::Relaxed);
        }
        self.note();
        outcome
    }
}

/// Makes one failure out of two kinds.
fn flatten<T>(
    joined: Result<Result<T, StepFailure>, tokio::task::JoinError>,
) -> Result<T, StepFailure> {
    joined.step("finish in the background")?
}

async fn open_ears(interface: &str, sandbox: Ipv4Addr) -> io::Result<Ears> {
    let mut waited = Duration::ZERO;
    loop {
        match Ears::open(interface, sandbox) {
            Err(busy) if busy.kind() == io::ErrorKind::AddrInUse && waited < EARS_PATIENCE => {
                tokio::time::sleep(EARS_PAUSE).await;
                waited += EARS_PAUSE;
            }
            opened => return opened,
        }
    }
}
