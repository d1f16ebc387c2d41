//! The slots of a host, behind the trait that a node sees.

mod keeper;
mod tenant;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32},
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_host::{Slot, SlotError, SlotId, Slots};
use tarn_task::Tasks;
use tarn_types::{EgressPolicy, NetworkLog, SandboxId};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    time::{Instant, timeout_at},
};

use self::tenant::Tenants;
use crate::{
    book::{Book, Take},
    config::SlotsConfig,
    dns::Forwarder,
    error::{SlotsStartError, Step as _, StepFailure},
    netlink::{Networks, NoteSocket, Rate},
    netlog::{Bell, NetLogs, listen},
    opened::OpenedNetworks,
    plan::{AddressRange, Block, Names},
    reserve::reserve,
    rules::Rules,
    site::{Site, try_rate},
    uplink,
};

/// How long a claim waits for a slot to be built. One takes milliseconds; a burst of hundreds on a
/// small machine takes seconds.
const CLAIM_PATIENCE: Duration = Duration::from_secs(10);
/// Slots built at a time: the kernel makes namespaces one after the other anyway.
const BUILDS_AT_A_TIME: usize = 2;

/// How long whoever hears what the rules note is waited for, and how often that is tried again.
const NOTES_PATIENCE: Duration = Duration::from_secs(5);
const NOTES_PAUSE: Duration = Duration::from_millis(20);

/// The network slots of this host. Clones share them.
///
/// Dropping it removes nothing: slots belong to sandboxes, which live on. The next start finds
/// them again.
#[derive(Debug, Clone)]
pub struct HostSlots {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    site: Site,
    block: Block,
    rules: Arc<Rules>,
    range: AddressRange,
    opened: OpenedNetworks,
    maximum: u16,
    book: Mutex<Book>,
    tenants: Mutex<Tenants>,
    forwarder: Arc<Forwarder>,
    logs: Arc<NetLogs>,
    /// The size of packets that the uplinks take.
    mtu: AtomicU32,
    /// Whether IPv6 has a way out.
    has_ipv6: Arc<AtomicBool>,
    /// Whether it ever had one, as far as is known: only then are there flows to forget.
    had_ipv6: Arc<AtomicBool>,
    /// Whether flows of the host with sandboxes that are gone may be left.
    has_past: AtomicBool,
    builds: Semaphore,
    /// Why the last build failed, for claims that waited in vain.
    failure: Mutex<Option<(SlotId, String)>>,
    /// Moves whenever the book may answer differently.
    changed: watch::Sender<()>,
    /// Wakes the keeper.
    wake: Notify,
    tasks: Tasks,
}

/// Gives a slot back if the claim that took it is dropped half way.
struct Unfinished {
    inner: Arc<Inner>,
    claim: Option<(SlotId, SandboxId)>,
}

/// What the network logs are heard by.
type Hearing = (NoteSocket, mpsc::Receiver<Bell>);

/// Counts a claim as waiting for as long as it lives.
struct Waiting<'a>(&'a Inner);

// === impl HostSlots ===

impl HostSlots {
    /// Takes hold of the slots of this host: loads the rules, finds what an earlier life of this
    /// server left, and starts keeping slots ready in the background (after
    /// [`Slots::settle`]).
    ///
    /// Sandboxes in slots of an earlier life keep their network throughout.
    ///
    /// # Errors
    /// Fails when the host lacks what is needed (see [`crate::facts`]) or refuses a step.
    pub async fn start(config: SlotsConfig, tasks: Tasks) -> Result<Self, SlotsStartError> {
        config.check()?;
        let own = tasks.clone();
        let (inner, (socket, bells)) = tasks
            .spawn_blocking(move || Inner::open(&config, own))
            .await
            .step("start network slots")??;
        let inner = Arc::new(inner);
        let hearing = listen(socket, Arc::clone(&inner.logs), bells, tasks.stopping());
        tasks.spawn("network_log", hearing);
        tasks.spawn("slot_keeper", keeper::keep(Arc::clone(&inner)));
        Ok(Self { inner })
    }

    /// Returns how many slots are ready for a claim.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.inner.book.lock().count(crate::book::State::Free)
    }
}

#[async_trait]
impl Slots for HostSlots {
    async fn claim(&self, id: &SandboxId, policy: &EgressPolicy) -> Result<Slot, SlotError> {
        let slot = self.inner.take(id).await?;
        let inner = Arc::clone(&self.inner);
        let mut unfinished = Unfinished { inner, claim: Some((slot, id.clone())) };
        let place = Arc::clone(&self.inner).occupy(slot, id, policy).await?;
        unfinished.claim = None;
        Ok(place)
    }

    async fn set_policy(
        &self,
        slot: SlotId,
        id: &SandboxId,
        policy: &EgressPolicy,
    ) -> Result<(), SlotError> {
        Arc::clone(&self.inner).set_policy(slot, id, policy).await
    }

    async fn adopt(
        &self,
        slot: SlotId,
        id: &SandboxId,
        policy: &EgressPolicy,
    ) -> Result<Slot, SlotError> {
        Arc::clone(&self.inner).adopt(slot, id, policy).await
    }

    async fn settle(&self) -> Result<(), SlotError> {
        let inner = Arc::clone(&self.inner);
        let settled = inner.tasks.clone().spawn_blocking(move || inner.settle()).await;
        settled.step("settle").map_err(|failure| failure.of(SlotId(0)))?
    }

    async fn release(&self, slot: SlotId, id: &SandboxId) {
        let inner = Arc::clone(&self.inner);
        // In a task of its own: whoever asks may stop waiting, the slot must be closed.
        let released = inner.tasks.clone().spawn("slot_release", inner.vacate(slot, id.clone()));
        if let Err(error) = released.await {
            tracing::error!(slot = slot.0, %error, "release of a network slot was cut short");
        }
    }

    async fn network_log(&self, id: &SandboxId) -> Result<Option<NetworkLog>, SlotError> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        let read = inner.tasks.clone().spawn_blocking(move || inner.network_log(&id)).await;
        read.step("read the network log").map_err(|failure| failure.of(SlotId(0)))?
    }
}

// === impl Inner ===

impl Inner {
    /// Returns it with what the network logs are heard by. Blocking.
    fn open(config: &SlotsConfig, tasks: Tasks) -> Result<(Self, Hearing), SlotsStartError> {
        fs::create_dir_all(&config.run_dir).step("make run directory")?;
        let names = Names::new(config.tag.clone());
        let block = reserve(&names, config.range)?;
        let rules = Arc::new(Rules::load(names.clone(), block, config)?);
        uplink::count_flows();
        let has_ipv6 = config.ipv6 && uplink::kernel_lack().is_none();
        if has_ipv6 {
            uplink::keep_unwritten_in();
        }
        let socket = note_socket(block)?;
        let (logs, bells) = NetLogs::new(block);
        let rate = config.limits.rate();
        // Said now rather than by every slot that cannot be built.
        rate.map_or(Ok(()), tried)?;
        let site = Site { names, run_dir: config.run_dir.clone(), rate, has_ipv6 };
        let survey = site.survey()?;
        let uplinks = uplink::find(config.range, &config.opened)?;
        tracing::info!(
            tag = %config.tag, addresses = %block, found = survey.whole.len(),
            broken = survey.broken.len(), uplinks = ?uplinks.names, mtu = uplinks.mtu,
            "network slots ready to be adopted"
        );
        let found = survey.whole.into_iter().chain(survey.broken).collect();
        let inner = Self {
            site,
            block,
            rules,
            range: config.range,
            opened: config.opened.clone(),
            maximum: config.maximum,
            book: Mutex::new(Book::new(config.spare, config.maximum, found)),
            tenants: Mutex::default(),
            forwarder: Arc::new(Forwarder::new(config.upstreams(), config.opened.clone())),
            logs: Arc::new(logs),
            mtu: AtomicU32::new(uplinks.mtu),
            has_ipv6: Arc::default(),
            had_ipv6: Arc::default(),
            has_past: AtomicBool::new(true),
            builds: Semaphore::new(BUILDS_AT_A_TIME),
            failure: Mutex::default(),
            changed: watch::Sender::new(()),
            wake: Notify::new(),
            tasks,
        };
        inner.follow_uplinks()?;
        Ok((inner, (socket, bells)))
    }

    /// Takes a free slot out of the book for a sandbox, or waits for one.
    async fn take(&self, id: &SandboxId) -> Result<SlotId, SlotError> {
        let mut changed = self.changed.subscribe();
        let deadline = Instant::now() + CLAIM_PATIENCE;
        let mut waiting = None;
        loop {
            let taken = self.take_now(id)?;
            self.wake.notify_one();
            if let Some(slot) = taken {
                return Ok(slot);
            }
            if waiting.is_none() {
                waiting = Some(Waiting::begin(self));
                self.wake.notify_one();
            }
            if timeout_at(deadline, changed.changed()).await.is_err() {
                return Err(self.waited_in_vain());
            }
        }
    }

    fn take_now(&self, id: &SandboxId) -> Result<Option<SlotId>, SlotError> {
        let mut book = self.book.lock();
        if !book.is_settled() {
            let detail = "slots are claimed only after settle".to_owned();
            return Err(StepFailure { step: "claim", detail }.of(SlotId(0)));
        }
        match book.take(id) {
            Take::Slot(slot) => Ok(Some(slot)),
            Take::Wait => Ok(None),
            Take::Exhausted => Err(SlotError::Exhausted(self.maximum)),
        }
    }

    fn waited_in_vain(&self) -> SlotError {
        let (slot, detail) = self.failure.lock().clone().unwrap_or_else(|| {
            (SlotId(0), format!("none was ready within {} s", CLAIM_PATIENCE.as_secs()))
        });
        StepFailure { step: "build", detail }.of(slot)
    }

    /// Tells whoever waits that the book has changed.
    fn note(&self) {
        self.changed.send_replace(());
        self.wake.notify_one();
    }
}

/// Opens what the network logs are heard by. Blocking.
///
/// A server that has just died may hold it for a moment: a child that was being spawned then shares
/// it until it runs its own program.
fn note_socket(block: Block) -> Result<NoteSocket, StepFailure> {
    let networks = Networks { v4: block.network(), v6: block.network6() };
    let mut waited = Duration::ZERO;
    loop {
        match NoteSocket::open(block.note_group(), networks) {
            Err(taken) if taken.is_taken() && waited < NOTES_PATIENCE => {
                thread::sleep(NOTES_PAUSE);
                waited += NOTES_PAUSE;
            }
            opened => return opened.step("listen for what the rules note"),
        }
    }
}

/// Refuses a limit of bandwidth that this kernel cannot keep.
fn tried(rate: Rate) -> Result<(), SlotsStartError> {
    try_rate(rate).map_err(|StepFailure { step, detail }| {
        SlotsStartError::Config(format!(
            "this kernel cannot {step} ({detail}): load its modules sch_htb and cls_u32, or set \
             network.bandwidth_mbit = 0"
        ))
    })
}

// === impl Unfinished ===

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some((slot, id)) = self.claim.take() {
            let inner = Arc::clone(&self.inner);
            inner.tasks.clone().spawn("slot_release", inner.vacate(slot, id));
        }
    }
}

// === impl Waiting ===

impl<'a> Waiting<'a> {
    fn begin(inner: &'a Inner) -> Self {
        inner.book.lock().begin_wait();
        Self(inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.book.lock().end_wait();
        self.0.wake.notify_one();
    }
}
