//! Sandboxes that are started before anybody asks for them.
//!
//! ```text
//!                    ┌────────────────────┐
//!  (nothing) ──▶ building ──▶ ready ──▶ reserved ──▶ claimed: a sandbox like any other
//!                    └──────────┴──────────┴──▶ removed
//! ```
//!
//! A request that finds none ready is promised one that is being built, which is quicker than to
//! begin another.
//!
//! One that is ready is whole but for what makes it somebody's: its daemon waits for its first
//! request, its network is closed, and on a busy machine it gets no CPU. It has no entry in the
//! ledger, so the next server removes what this one leaves, as it does with every stray. The id it
//! was built under becomes the id of the sandbox that claims it: nothing on the host is renamed.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tarn_runtime::CpuShare;
use tarn_scheduler::{Demand, MEMORY_OF_ASKS, PrestartRule, pause, prestart};
use tarn_types::{
    BootImage, EgressPolicy, Generation, ImageName, Launch, ProjectId, Resources, SandboxId,
};
use tokio::{
    sync::{Notify, futures::Notified, watch},
    time::Instant,
};

use crate::{
    ahead::AheadCounts,
    daemon, image,
    ledger::{Entry, State},
    remains,
    room::Room,
    sandbox::blank_entry,
    service::Shared,
    start::{self, Source, chain},
};

/// How often what is ready is looked at when nothing happens.
const LOOK: Duration = Duration::from_secs(5);

/// How long after a request nothing is built as long as there is something in stock: what was just
/// created is most likely used now.
const REST: Duration = Duration::from_millis(50);

/// How long a reserved one waits for its intent: it comes at once, or when there is room for it.
const RESERVED: Duration = Duration::from_secs(30);

/// How long a shape is left alone whose start has failed.
const BACK_OFF: Duration = Duration::from_secs(10);

/// How long a daemon may take to listen. On a busy machine it gets no CPU.
const DAEMON_PATIENCE: Duration = Duration::from_secs(60);

/// How many requests of one shape, and how many shapes, are remembered.
const ASKS: usize = 256;
const SHAPES: usize = 32;

/// More are not built at once, however many CPUs there are.
const MOST_CORES: u32 = 8;

/// The part of the pool that is not used for what nobody has asked for, in percent.
const DISK_RESERVE_PERCENT: u64 = 10;

/// How many sandboxes a node starts ahead, and of which shape before anybody has asked.
#[derive(Debug, Clone)]
pub struct PrestartConfig {
    /// How many.
    pub rule: PrestartRule,
    /// The image of a request that says nothing.
    pub image: ImageName,
    /// The resources of one.
    pub resources: Resources,
}

type Shape = (BootImage, Resources);

/// What a node has ready.
#[derive(Debug, Default)]
pub(crate) struct Prestarts {
    shelf: Mutex<Shelf>,
    /// Wakes who keeps the shelf.
    changed: Notify,
    /// Changes whenever one is gone, or is built.
    moved: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Shelf {
    ready: Vec<Ready>,
    reserved: HashMap<SandboxId, (Ready, Instant)>,
    /// Those that are being removed.
    leaving: HashSet<SandboxId>,
    building: Vec<Building>,
    /// How many are being made that somebody waits for, apart from those promised.
    making: usize,
    asked: HashMap<Shape, VecDeque<Instant>>,
    last_asked: Option<Instant>,
    /// Until when nothing is built that nobody waits for, unless somebody asks.
    paused_until: Option<Instant>,
    /// Shapes whose start has failed, and until when they are left alone.
    resting: HashMap<Shape, Instant>,
    counts: AheadCounts,
}

/// One that is being built.
#[derive(Debug)]
struct Building {
    id: SandboxId,
    shape: Shape,
    /// A request waits for it.
    promised: bool,
}

/// One that waits.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Never written to the ledger.
    pub(crate) entry: Entry,
    /// Its processes have ended.
    pub(crate) died: bool,
}

/// Held while one is made that somebody waits for.
#[derive(Debug)]
pub(crate) struct Making<'a>(&'a Prestarts);

/// What is to be done about the shelf.
enum Step {
    Build(SandboxId, Shape),
    Remove(Box<Entry>),
}

/// What the shelf does not know itself.
struct Surroundings {
    /// How many are wanted, by shape.
    targets: Vec<(Shape, u32)>,
    /// The digests of the images, by name.
    digests: HashMap<BootImage, String>,
    /// Whether there is room for more.
    may_build: bool,
    /// The CPUs of the host.
    cores: usize,
}

// === impl Prestarts ===

impl Prestarts {
    /// Takes one of a shape for a request; it is that request's from now on. Says whether it is
    /// still being built.
    fn reserve(&self, image: &BootImage, resources: &Resources) -> Option<(SandboxId, bool)> {
        let shape = (image.clone(), *resources);
        let mut shelf = self.shelf.lock();
        let found = shelf.ready.iter().rposition(|ready| ready.shape() == shape && !ready.died);
        let id = found.map(|at| {
            let ready = shelf.ready.remove(at);
            let id = ready.entry.id.clone();
            shelf.reserved.insert(id.clone(), (ready, Instant::now()));
            (id, false)
        });
        let id = id.or_else(|| {
            let fitting = |one: &&mut Building| one.shape == shape && !one.promised;
            let building = shelf.building.iter_mut().find(fitting)?;
            building.promised = true;
            Some((building.id.clone(), true))
        });
        shelf.note_ask(shape);
        match id {
            Some((_, false)) => shelf.counts.hits += 1,
            Some((_, true)) => shelf.counts.joined += 1,
            None => shelf.counts.misses += 1,
        }
        drop(shelf);
        self.changed.notify_one();
        id
    }

    /// Gives back what was reserved for a request that came to nothing.
    pub(crate) fn give_back(&self, id: &SandboxId) {
        let mut shelf = self.shelf.lock();
        if let Some((ready, _)) = shelf.reserved.remove(id) {
            shelf.ready.push(ready);
        }
        for building in shelf.building.iter_mut().filter(|building| building.id == *id) {
            building.promised = false;
        }
        drop(shelf);
        self.changed.notify_one();
    }

    /// Hands over what was reserved under an id. While it is being built or removed this waits.
    pub(crate) async fn take(&self, id: &SandboxId) -> Option<Ready> {
        let mut moved = self.moved.subscribe();
        loop {
            {
                let mut shelf = self.shelf.lock();
                if let Some((ready, _)) = shelf.reserved.remove(id) {
                    return Some(ready);
                }
                let building = shelf.building.iter().any(|building| building.id == *id);
                if !building && !shelf.leaving.contains(id) {
                    return None;
                }
            }
            if moved.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Notes the end of one's processes; says whether it was one of these.
    pub(crate) fn note_exit(&self, id: &SandboxId) -> bool {
        let mut shelf = self.shelf.lock();
        let Shelf { ready, reserved, .. } = &mut *shelf;
        let reserved = reserved.values_mut().map(|(ready, _)| ready);
        let Some(ready) = ready.iter_mut().chain(reserved).find(|one| one.entry.id == *id) else {
            return false;
        };
        ready.died = true;
        drop(shelf);
        self.changed.notify_one();
        true
    }

    /// Notes that one is being made that somebody waits for, until the answer is dropped.
    pub(crate) fn making(&self) -> Making<'_> {
        self.shelf.lock().making += 1;
        Making(self)
    }

    /// Returns the digests of the templates of all that waits, and of those that are being built.
    pub(crate) fn templates(&self) -> Vec<String> {
        let shelf = self.shelf.lock();
        let reserved = shelf.reserved.values().map(|(ready, _)| ready);
        let there = shelf.ready.iter().chain(reserved);
        let there = there.filter_map(|ready| ready.entry.template.clone());
        let pins = shelf.building.iter().filter_map(|building| building.shape.0.pin.as_ref());
        there.chain(pins.map(|pin| pin.digest.to_string())).collect()
    }

    pub(crate) fn counts(&self) -> AheadCounts {
        let shelf = self.shelf.lock();
        AheadCounts {
            ready: shelf.ready.len() as u64,
            building: shelf.building.len() as u64,
            ..shelf.counts
        }
    }

    /// Says whether one is being made that somebody waits for.
    pub(crate) fn is_making(&self) -> bool {
        let shelf = self.shelf.lock();
        shelf.making > 0 || shelf.building.iter().any(|building| building.promised)
    }

    fn is_promised(&self, id: &SandboxId) -> bool {
        let shelf = self.shelf.lock();
        shelf.building.iter().any(|building| building.id == *id && building.promised)
    }

    fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    fn note_gone(&self, id: &SandboxId) {
        self.shelf.lock().leaving.remove(id);
        self.moved.send_modify(|count| *count += 1);
    }
}

// === impl Shelf ===

impl Shelf {
    fn note_ask(&mut self, shape: Shape) {
        let now = Instant::now();
        self.last_asked = Some(now);
        self.paused_until = None;
        let asked = self.asked.entry(shape).or_default();
        asked.push_back(now);
        if asked.len() > ASKS {
            asked.pop_front();
        }
        if self.asked.len() > SHAPES {
            let oldest = self.asked.iter().min_by_key(|(_, asked)| asked.back().copied());
            if let Some(oldest) = oldest.map(|(shape, _)| shape.clone()) {
                self.asked.remove(&oldest);
            }
        }
    }

    /// Returns what was asked for lately, the default shape always among it.
    fn demands(&mut self, default: &Shape) -> Vec<(Shape, Demand)> {
        let now = Instant::now();
        self.asked.retain(|_, asked| {
            asked.retain(|at| now.duration_since(*at) <= MEMORY_OF_ASKS);
            !asked.is_empty()
        });
        self.resting.retain(|_, until| *until > now);
        let mut shapes: Vec<Shape> = self.asked.keys().cloned().collect();
        if !self.asked.contains_key(default) {
            shapes.push(default.clone());
        }
        let demand = |shape: &Shape| Demand {
            default: shape == default,
            asked: self.asked.get(shape).map_or_else(Vec::new, |asked| {
                asked.iter().map(|at| now.duration_since(*at)).collect()
            }),
        };
        shapes.iter().map(|shape| (shape.clone(), demand(shape))).collect()
    }

    /// Returns the next thing to do, and notes that it is being done.
    fn next(&mut self, around: &Surroundings, id: impl FnOnce() -> SandboxId) -> Option<Step> {
        let now = Instant::now();
        let late = |(_, since): &(Ready, Instant)| now.duration_since(*since) > RESERVED;
        let late = self.reserved.iter().find(|(_, reserved)| late(reserved));
        if let Some(id) = late.map(|(id, _)| id.clone()) {
            let (ready, _) = self.reserved.remove(&id)?;
            return Some(self.remove(ready));
        }
        let useless = self.ready.iter().position(|ready| {
            ready.died || ready.entry.template.as_ref() != around.digests.get(&ready.shape().0)
        });
        if let Some(at) = useless {
            let ready = self.ready.remove(at);
            return Some(self.remove(ready));
        }
        let surplus = self.ready.iter().position(|ready| {
            let shape = ready.shape();
            let target = around.targets.iter().find(|(wanted, _)| *wanted == shape);
            self.count(&shape) > target.map_or(0, |(_, target)| *target as usize)
        });
        if let Some(at) = surplus {
            let ready = self.ready.remove(at);
            return Some(self.remove(ready));
        }
        let alone = self.building.iter().filter(|building| !building.promised).count();
        let promised = self.building.len() - alone;
        // Half of the machine, so that the other half goes on as it did; all of it where requests
        // come faster than that; none while more are waited for than there are CPUs to make them.
        let at_once = match promised {
            0 => (around.cores / 2).max(1),
            _ => around.cores,
        };
        let crowded = self.making + promised > around.cores;
        if !around.may_build || crowded || alone >= at_once {
            return None;
        }
        let missing = around.targets.iter().find(|(shape, target)| {
            let stock = self.count(shape);
            let coming = |one: &&Building| one.shape == *shape && !one.promised;
            let coming = self.building.iter().filter(coming).count();
            (stock == 0 || self.rest(now).is_zero())
                && stock + coming < *target as usize
                && !self.resting.contains_key(shape)
                && around.digests.contains_key(&shape.0)
        });
        let (id, shape) = (id(), missing?.0.clone());
        self.building.push(Building { id: id.clone(), shape: shape.clone(), promised: false });
        Some(Step::Build(id, shape))
    }

    /// Returns how long it is until something may be built that nobody waits for.
    fn rest(&self, now: Instant) -> Duration {
        let asked = self.last_asked.map(|at| REST.saturating_sub(now.duration_since(at)));
        let built = self.paused_until.map(|at| at.duration_since(now));
        asked.max(built).unwrap_or_default()
    }

    /// Notes how long one took to build that nobody waited for.
    fn note_built(&mut self, took: Duration) {
        let now = Instant::now();
        let since_ask = self.last_asked.map(|at| now.duration_since(at));
        self.paused_until = Some(now + pause(took, since_ask));
    }

    fn count(&self, shape: &Shape) -> usize {
        self.ready.iter().filter(|ready| ready.shape() == *shape).count()
    }

    fn remove(&mut self, ready: Ready) -> Step {
        self.counts.dropped += 1;
        self.leaving.insert(ready.entry.id.clone());
        Step::Remove(Box::new(ready.entry))
    }
}

// === impl Making ===

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.shelf.lock().making -= 1;
        self.0.changed.notify_one();
    }
}

// === impl Ready ===

impl Ready {
    fn shape(&self) -> Shape {
        (self.entry.launch.image.clone(), self.entry.launch.resources)
    }
}

/// Takes one for a request: one that is ready, or else one that is being built, which is not kept
/// waiting for others from now on.
pub(crate) async fn reserve(
    shared: &Shared,
    image: &BootImage,
    resources: &Resources,
) -> Option<SandboxId> {
    let (id, building) = shared.prestarts.reserve(image, resources)?;
    if building && let Err(early) = shared.parts.runtime.promote(&id).await {
        // Then who builds it does.
        tracing::debug!(sandbox.id = %id, error = chain(&early), "not promoted yet");
    }
    Some(id)
}

/// Keeps as many ready as are wanted until the server stops, and removes them then.
pub(crate) async fn keep(shared: Arc<Shared>, config: PrestartConfig) {
    let tasks = shared.parts.tasks.clone();
    let stopping = tasks.stopping();
    tokio::pin!(stopping);
    loop {
        let around = look_around(&shared, &config).await;
        loop {
            let id = || SandboxId::from_random(shared.parts.entropy.bytes());
            let step = shared.prestarts.shelf.lock().next(&around, id);
            match step {
                None => break,
                Some(Step::Build(id, shape)) => {
                    let shared = Arc::clone(&shared);
                    let build = async move { build(&shared, id, shape).await };
                    drop(tasks.spawn("prestart", build));
                }
                Some(Step::Remove(entry)) => remove(&shared, *entry).await,
            }
        }
        let rest = shared.prestarts.shelf.lock().rest(Instant::now());
        let wait = if rest.is_zero() { LOOK } else { rest };
        tokio::select! {
            () = &mut stopping => break,
            () = shared.prestarts.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
    remove_all(&shared).await;
}

async fn look_around(shared: &Shared, config: &PrestartConfig) -> Surroundings {
    let default = (BootImage::from(config.image.clone()), config.resources);
    let (demands, ready) = {
        let mut shelf = shared.prestarts.shelf.lock();
        (shelf.demands(&default), shelf.ready.len())
    };
    let memory = shared.parts.memory.read();
    let (shapes, demands): (Vec<_>, Vec<_>) = demands.into_iter().unzip();
    let ready = u32::try_from(ready).unwrap_or(u32::MAX);
    let targets = prestart(&config.rule, &demands, ready, memory.total, memory.available);
    let mut digests = HashMap::new();
    for (image, _) in &shapes {
        if !digests.contains_key(image)
            && let Ok(template) = image::find_template(shared, image).await
        {
            digests.insert(image.clone(), template.digest);
        }
    }
    let short = *shared.room.borrow() != Room::Enough;
    let disk = has_disk(shared).await;
    let room = disk && !short && shared.remains.are_few();
    let cores = shared.config.cpu.milli() / 1000;
    Surroundings {
        targets: shapes.into_iter().zip(targets).collect(),
        digests,
        may_build: room && !shared.parts.tasks.is_stopping(),
        cores: usize::try_from(cores.clamp(1, MOST_CORES)).unwrap_or(1),
    }
}

/// Says whether the pool has room for what nobody has asked for.
pub(crate) async fn has_disk(shared: &Shared) -> bool {
    shared.parts.layers.space().await.is_ok_and(|space| {
        space.available.bytes() > space.total.bytes() / 100 * DISK_RESERVE_PERCENT
    })
}

async fn build(shared: &Arc<Shared>, id: SandboxId, shape: Shape) {
    let begun = Instant::now();
    let mut entry = waiting_entry(shared, id.clone(), &shape);
    let made = make(shared, &mut entry).await;
    let stopping = shared.parts.tasks.is_stopping();
    let useless = {
        let mut shelf = shared.prestarts.shelf.lock();
        let at = shelf.building.iter().position(|building| building.id == id);
        let promised = at.is_some_and(|at| shelf.building.remove(at).promised);
        if made.is_ok() && !stopping {
            let ready = Ready { entry, died: false };
            shelf.counts.built += 1;
            shelf.counts.build_micros += u64::try_from(begun.elapsed().as_micros()).unwrap_or(0);
            if promised {
                shelf.reserved.insert(id, (ready, Instant::now()));
            } else {
                shelf.ready.push(ready);
                shelf.note_built(begun.elapsed());
            }
            None
        } else {
            if made.is_err() && !stopping {
                shelf.counts.failed += 1;
                shelf.resting.insert(shape.clone(), Instant::now() + BACK_OFF);
            }
            shelf.leaving.insert(id);
            Some(entry)
        }
    };
    if let Some(entry) = useless {
        if let (Err(trouble), false) = (&made, stopping) {
            tracing::warn!(
                image = %shape.0, trouble, retry_secs = BACK_OFF.as_secs(),
                "a sandbox was not started ahead of time; requests go on without"
            );
        }
        remove(shared, entry).await;
    }
    shared.prestarts.moved.send_modify(|count| *count += 1);
    shared.prestarts.changed.notify_one();
}

async fn make(shared: &Shared, entry: &mut Entry) -> Result<(), String> {
    let source = Source::of_template(shared, &entry.launch)
        .await
        .map_err(|cause| cause.error_message().unwrap_or_default())?;
    entry.template = Some(source.digest().to_owned());
    let placed = start::place(shared, entry, &source).await;
    let (rootfs, slot) = placed.map_err(|cause| cause.error_message().unwrap_or_default())?;
    let mut spec = start::runtime_spec(shared, entry, &rootfs, &slot);
    spec.share = CpuShare::Least;
    let runtime = &shared.parts.runtime;
    runtime.create(&spec).await.map_err(|bad| chain(&bad))?;
    if shared.prestarts.is_promised(&entry.id) {
        // Since then or before: a request may have come too early to promote it.
        runtime.promote(&entry.id).await.map_err(|bad| chain(&bad))?;
    }
    let started = runtime.start(&entry.id).await.map_err(|bad| chain(&bad))?;
    let listens = daemon::knock(|| daemon::listens(started.daemon));
    match tokio::time::timeout(DAEMON_PATIENCE, listens).await {
        Err(_elapsed) => {
            Err(format!("its daemon does not listen after {} s", DAEMON_PATIENCE.as_secs()))
        }
        Ok(Err(bad)) => Err(chain(&bad)),
        Ok(Ok(())) => {
            entry.started = Some(started);
            Ok(())
        }
    }
}

/// Removes what is noted as leaving. What resists leaves the shelf, too, and is removed in the
/// background: whoever waits for its id finds what is left of it.
async fn remove(shared: &Arc<Shared>, entry: Entry) {
    let id = entry.id.clone();
    drop(remains::remove(shared, entry).await);
    shared.prestarts.note_gone(&id);
}

/// Removes all, side by side: the server waits for it.
async fn remove_all(shared: &Arc<Shared>) {
    let all: Vec<Entry> = {
        let mut shelf = shared.prestarts.shelf.lock();
        let reserved = std::mem::take(&mut shelf.reserved).into_values().map(|(ready, _)| ready);
        let mut all: Vec<Ready> = reserved.collect();
        all.append(&mut shelf.ready);
        shelf.leaving.extend(all.iter().map(|ready| ready.entry.id.clone()));
        all.into_iter().map(|ready| ready.entry).collect()
    };
    let removals: Vec<_> = all
        .into_iter()
        .map(|entry| {
            let shared = Arc::clone(shared);
            let tasks = shared.parts.tasks.clone();
            tasks.spawn("prestart", async move { remove(&shared, entry).await })
        })
        .collect();
    for removal in removals {
        // It says itself what it could not remove.
        drop(removal.await);
    }
}

/// Makes the entry of one that is nobody's yet.
fn waiting_entry(shared: &Shared, id: SandboxId, (image, resources): &Shape) -> Entry {
    let launch = Launch {
        image: image.clone(),
        resources: *resources,
        entrypoint: Some(Vec::new()),
        egress: EgressPolicy::CLOSED,
        named: false,
        timeout_secs: 0,
        restore: None,
        claimed_at: None,
        secret_names: Vec::new(),
    };
    let nobody = ProjectId::from_random([0; 16]);
    let entry = blank_entry(shared, id, nobody, Generation::FIRST, launch);
    debug_assert_eq!(entry.state, State::Starting);
    entry
}

#[cfg(test)]
mod tests;
