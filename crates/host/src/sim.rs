//! A host in memory, with the manners of the real one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_types::{
    ByteSize, EgressPolicy, NetworkCounters, NetworkLog, NetworkLost, Pace, SandboxId, UnixMillis,
};

use crate::{
    Capture, CaptureDraft, CaptureError, CaptureName, Captures, LayerError, Layers, PoolSpace,
    RootFs, Slot, SlotError, SlotId, Slots, Template,
};

mod archive;
mod gpu;
mod image;

pub use self::{
    archive::SimArchive,
    gpu::{SIM_GPUS_VARIABLE, SimGpus},
    image::SimImages,
};

/// What a fault says.
const MADE_TO_FAIL: &str = "it was made to fail";

/// Layers that are entries of a table.
#[derive(Debug, Default)]
pub struct SimLayers {
    live: Mutex<BTreeSet<SandboxId>>,
    /// Those that are not mounted.
    closed: Mutex<BTreeSet<SandboxId>>,
    /// What is free, where a test says so.
    free: Mutex<Option<ByteSize>>,
    faults: Faults,
    space_faults: Faults,
    growth_faults: Faults,
    /// Whether the server may not enlarge what is in use.
    unprivileged: AtomicBool,
}

/// Slots that are entries of a table; every address is loopback.
#[derive(Debug, Default)]
pub struct SimSlots {
    claimed: Mutex<BTreeMap<SlotId, (SandboxId, EgressPolicy)>>,
    /// Those adopted since the last [`Slots::settle`].
    adopted: Mutex<BTreeSet<SlotId>>,
    faults: Faults,
}

/// Captures whose memory lies in a real directory, because a runtime writes it there.
#[derive(Debug)]
pub struct SimCaptures {
    dir: PathBuf,
    table: Mutex<BTreeMap<String, SimCapture>>,
    free: Mutex<ByteSize>,
    faults: Faults,
}

/// What there is under one name.
#[derive(Debug, Default)]
struct SimCapture {
    draft: Option<SimDraft>,
    whole: Option<Capture>,
    /// What was done to the whole one.
    damage: Option<String>,
}

/// A draft, and whether its layer was cloned.
#[derive(Debug)]
struct SimDraft {
    dir: PathBuf,
    cloned: bool,
}

/// How many of the next adoptions, or commits, fail for a reason that passes.
#[derive(Debug, Default)]
struct Faults(AtomicUsize);

// === impl SimLayers ===

impl SimLayers {
    /// Makes the next `times` of [`Layers::adopt`] fail.
    pub fn fail_adopt(&self, times: usize) {
        self.faults.plan(times);
    }

    /// Leaves so much room.
    pub fn set_free(&self, free: ByteSize) {
        *self.free.lock() = Some(free);
    }

    /// Makes the next `times` of [`Layers::space`] fail.
    pub fn fail_space(&self, times: usize) {
        self.space_faults.plan(times);
    }

    /// Makes the next `times` of [`Layers::grow`] fail.
    pub fn fail_grow(&self, times: usize) {
        self.growth_faults.plan(times);
    }

    /// Takes the right to enlarge what is in use.
    pub fn forbid_grow(&self) {
        self.unprivileged.store(true, Ordering::Relaxed);
    }

    /// Unmounts every layer, as a restart of the host does.
    pub fn reboot(&self) {
        self.closed.lock().append(&mut self.live.lock());
    }
}

#[async_trait]
impl Layers for SimLayers {
    async fn build(
        &self,
        id: &SandboxId,
        _template: &Template,
        _size: ByteSize,
    ) -> Result<RootFs, LayerError> {
        self.live.lock().insert(id.clone());
        Ok(RootFs { path: PathBuf::from(format!("/sim/{id}")) })
    }

    async fn build_from(
        &self,
        id: &SandboxId,
        _template: &Template,
        source: &Path,
        _size: ByteSize,
    ) -> Result<RootFs, LayerError> {
        if !source.exists() {
            let (step, path) = ("open", source.to_owned());
            return Err(LayerError::Step { step, path, source: io::ErrorKind::NotFound.into() });
        }
        self.live.lock().insert(id.clone());
        Ok(RootFs { path: PathBuf::from(format!("/sim/{id}")) })
    }

    async fn reopen(
        &self,
        id: &SandboxId,
        _template: &Template,
        _size: ByteSize,
    ) -> Result<RootFs, LayerError> {
        self.close(id).await?;
        if !self.closed.lock().remove(id) {
            return Err(LayerError::Missing { id: id.clone() });
        }
        self.live.lock().insert(id.clone());
        Ok(RootFs { path: PathBuf::from(format!("/sim/{id}")) })
    }

    async fn close(&self, id: &SandboxId) -> Result<(), LayerError> {
        if self.live.lock().remove(id) {
            self.closed.lock().insert(id.clone());
        }
        Ok(())
    }

    async fn sync(&self, _id: &SandboxId) -> Result<(), LayerError> {
        Ok(())
    }

    async fn grow(&self, id: &SandboxId, _size: ByteSize) -> Result<(), LayerError> {
        if !self.live.lock().contains(id) {
            return Err(LayerError::Missing { id: id.clone() });
        }
        if self.unprivileged.load(Ordering::Relaxed) {
            return Err(LayerError::Unprivileged);
        }
        if self.growth_faults.meet() {
            let (step, path) = ("enlarge", PathBuf::from(format!("/sim/{id}")));
            return Err(LayerError::Step { step, path, source: io::Error::other(MADE_TO_FAIL) });
        }
        Ok(())
    }

    async fn adopt(&self, id: &SandboxId) -> Result<RootFs, LayerError> {
        if self.faults.meet() {
            let (step, path) = ("look at", PathBuf::from(format!("/sim/{id}")));
            return Err(LayerError::Step { step, path, source: io::Error::other(MADE_TO_FAIL) });
        }
        if !self.live.lock().contains(id) {
            return Err(LayerError::Missing { id: id.clone() });
        }
        Ok(RootFs { path: PathBuf::from(format!("/sim/{id}")) })
    }

    async fn release(&self, id: &SandboxId) -> Result<(), LayerError> {
        self.live.lock().remove(id);
        self.closed.lock().remove(id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxId>, LayerError> {
        Ok(self.live.lock().union(&self.closed.lock()).cloned().collect())
    }

    async fn space(&self) -> Result<PoolSpace, LayerError> {
        if self.space_faults.meet() {
            let (step, path) = ("ask the room of", PathBuf::from("/sim"));
            return Err(LayerError::Step { step, path, source: io::Error::other(MADE_TO_FAIL) });
        }
        Ok(PoolSpace {
            total: ByteSize::from_mib(1 << 20),
            available: self.free.lock().unwrap_or(ByteSize::from_mib(1 << 19)),
            floor: ByteSize::from_mib(2 << 10),
            drafts: ByteSize::default(),
        })
    }
}

// === impl SimSlots ===

impl SimSlots {
    fn slot(id: SlotId) -> Slot {
        Slot {
            id,
            netns: PathBuf::from(format!("/sim/netns/{}", id.0)),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// Makes the next `times` of [`Slots::adopt`] fail; each keeps the slot for its sandbox.
    pub fn fail_adopt(&self, times: usize) {
        self.faults.plan(times);
    }

    /// Loses a slot, as if somebody had removed it from the host.
    pub fn lose(&self, slot: SlotId) {
        self.claimed.lock().remove(&slot);
    }

    /// Returns the policy of a claimed slot, for a test to look at.
    #[must_use]
    pub fn policy(&self, slot: SlotId) -> Option<EgressPolicy> {
        self.claimed.lock().get(&slot).map(|(_, policy)| policy.clone())
    }
}

#[async_trait]
impl Slots for SimSlots {
    async fn claim(&self, id: &SandboxId, policy: &EgressPolicy) -> Result<Slot, SlotError> {
        let mut claimed = self.claimed.lock();
        let free = (0..u16::MAX).map(SlotId).find(|slot| !claimed.contains_key(slot));
        let Some(free) = free else { return Err(SlotError::Exhausted(u16::MAX)) };
        claimed.insert(free, (id.clone(), policy.clone()));
        Ok(Self::slot(free))
    }

    async fn set_policy(
        &self,
        slot: SlotId,
        id: &SandboxId,
        policy: &EgressPolicy,
    ) -> Result<(), SlotError> {
        match self.claimed.lock().get_mut(&slot) {
            Some((owner, current)) if owner == id => *current = policy.clone(),
            Some(_) | None => return Err(SlotError::Missing { slot }),
        }
        Ok(())
    }

    async fn adopt(
        &self,
        slot: SlotId,
        id: &SandboxId,
        policy: &EgressPolicy,
    ) -> Result<Slot, SlotError> {
        let mut claimed = self.claimed.lock();
        let Some((_, current)) = claimed.get_mut(&slot).filter(|(owner, _)| owner == id) else {
            return Err(SlotError::Missing { slot });
        };
        self.adopted.lock().insert(slot);
        if self.faults.meet() {
            let (step, detail) = ("open", MADE_TO_FAIL.to_owned());
            return Err(SlotError::Step { step, slot, detail });
        }
        *current = policy.clone();
        Ok(Self::slot(slot))
    }

    async fn settle(&self) -> Result<(), SlotError> {
        let adopted = std::mem::take(&mut *self.adopted.lock());
        self.claimed.lock().retain(|slot, _| adopted.contains(slot));
        Ok(())
    }

    async fn release(&self, slot: SlotId, id: &SandboxId) {
        let mut claimed = self.claimed.lock();
        if claimed.get(&slot).is_some_and(|(owner, _)| owner == id) {
            claimed.remove(&slot);
        }
    }

    async fn network_log(&self, id: &SandboxId) -> Result<Option<NetworkLog>, SlotError> {
        let claimed = self.claimed.lock().values().any(|(owner, _)| owner == id);
        // Nothing is sent through a simulated slot.
        Ok(claimed.then(|| NetworkLog {
            since: UnixMillis(0),
            until: None,
            entries: Vec::new(),
            counters: NetworkCounters::default(),
            lost: NetworkLost::default(),
        }))
    }
}

// === impl SimCaptures ===

impl SimCaptures {
    /// Makes an empty store that keeps memory images beneath a directory of the test's own.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            table: Mutex::default(),
            free: Mutex::new(ByteSize::from_mib(1 << 19)),
            faults: Faults::default(),
        }
    }

    /// Makes the next `times` of [`Captures::commit`] fail.
    pub fn fail_commit(&self, times: usize) {
        self.faults.plan(times);
    }

    /// Leaves so much room for memory images.
    pub fn set_free(&self, free: ByteSize) {
        *self.free.lock() = free;
    }

    /// Makes a whole capture be found damaged.
    pub fn damage(&self, name: &CaptureName, detail: &str) {
        if let Some(entry) = self.table.lock().get_mut(name) {
            entry.damage = Some(detail.to_owned());
        }
    }

    /// Forgets the drafts, as a start of the server does.
    pub fn restart(&self) {
        self.table.lock().values_mut().for_each(|entry| entry.draft = None);
    }

    fn step(step: &'static str, path: PathBuf, source: io::Error) -> CaptureError {
        CaptureError::Step { step, path, source }
    }
}

#[async_trait]
impl Captures for SimCaptures {
    async fn extend(&self, _name: &CaptureName, memory: ByteSize) -> Result<(), CaptureError> {
        let available = *self.free.lock();
        if memory > available {
            let reserve = ByteSize::default();
            return Err(CaptureError::PoolFull { needed: memory, available, reserve });
        }
        Ok(())
    }

    async fn begin(
        &self,
        name: &CaptureName,
        memory: ByteSize,
    ) -> Result<CaptureDraft, CaptureError> {
        self.extend(name, memory).await?;
        let room = memory;
        let mut table = self.table.lock();
        let entry = table.entry(name.to_owned()).or_default();
        remove(entry.draft.take().map(|draft| draft.dir))?;
        // A directory for each draft: a whole one of the name keeps its own.
        let number = (0..).find(|number| !self.dir.join(format!("{name}.{number}")).exists());
        let dir = self.dir.join(format!("{name}.{}", number.unwrap_or_default()));
        let memory = dir.join("memory");
        fs::create_dir_all(&memory).map_err(|error| Self::step("make", memory.clone(), error))?;
        entry.draft = Some(SimDraft { dir, cloned: false });
        Ok(CaptureDraft { memory, room })
    }

    async fn clone_layer(&self, name: &CaptureName, _id: &SandboxId) -> Result<(), CaptureError> {
        let mut table = self.table.lock();
        let draft = table.get_mut(name).and_then(|entry| entry.draft.as_mut());
        let draft = draft.ok_or_else(|| no_draft(&self.dir.join(name)))?;
        let layer = draft.dir.join("layer.img");
        fs::write(&layer, name).map_err(|error| Self::step("clone into", layer, error))?;
        draft.cloned = true;
        Ok(())
    }

    async fn commit(
        &self,
        name: &CaptureName,
        note: serde_json::Value,
    ) -> Result<Capture, CaptureError> {
        if self.faults.meet() {
            let failed = io::Error::other(MADE_TO_FAIL);
            return Err(Self::step("sync", self.dir.join(name), failed));
        }
        let mut table = self.table.lock();
        let entry = table.get_mut(name);
        let (entry, dir) = match entry {
            Some(SimCapture { draft: Some(SimDraft { dir, cloned: true }), .. }) => {
                let dir = dir.clone();
                (entry.expect("it was matched"), dir)
            }
            Some(_) | None => return Err(no_draft(&self.dir.join(name))),
        };
        let memory = dir.join("memory");
        let files = fs::read_dir(&memory)
            .and_then(|files| {
                files.map(|file| Ok(file?.metadata()?.len())).sum::<io::Result<u64>>()
            })
            .map_err(|error| Self::step("list", memory.clone(), error))?;
        let layer_size = ByteSize::from_mib(1);
        let memory_size = ByteSize::from_bytes(files);
        let layer = dir.join("layer.img");
        let whole = Capture { layer, memory, note, layer_size, memory_size };
        remove(entry.whole.as_ref().and_then(home))?;
        *entry = SimCapture { draft: None, whole: Some(whole.clone()), damage: None };
        Ok(whole)
    }

    async fn commit_for_boot(
        &self,
        name: &CaptureName,
        note: serde_json::Value,
        _uses: u32,
    ) -> Result<Capture, CaptureError> {
        self.commit(name, note).await
    }

    async fn open(&self, name: &CaptureName) -> Result<Capture, CaptureError> {
        let table = self.table.lock();
        let entry = table.get(name);
        let whole = entry.and_then(|entry| Some((entry, entry.whole.as_ref()?)));
        let missing = || CaptureError::Missing { name: name.to_owned() };
        let (entry, whole) = whole.ok_or_else(missing)?;
        match entry.damage.clone() {
            Some(detail) => Err(CaptureError::Damaged { name: name.to_owned(), detail }),
            None => Ok(whole.clone()),
        }
    }

    async fn verify(&self, name: &CaptureName, _pace: Pace) -> Result<ByteSize, CaptureError> {
        let whole = self.open(name).await?;
        Ok(whole.layer_size.saturating_add(whole.memory_size))
    }

    async fn discard(&self, name: &CaptureName) -> Result<(), CaptureError> {
        let Some(entry) = self.table.lock().remove(name) else { return Ok(()) };
        remove(entry.draft.map(|draft| draft.dir))?;
        remove(entry.whole.as_ref().and_then(home))
    }

    async fn list(&self) -> Result<Vec<String>, CaptureError> {
        let table = self.table.lock();
        let whole = table.iter().filter(|(_, entry)| entry.whole.is_some());
        Ok(whole.map(|(name, _)| name.clone()).collect())
    }
}

/// Returns the directory of a whole one.
fn home(capture: &Capture) -> Option<PathBuf> {
    capture.memory.parent().map(Path::to_owned)
}

fn remove(dir: Option<PathBuf>) -> Result<(), CaptureError> {
    let Some(dir) = dir else { return Ok(()) };
    fs::remove_dir_all(&dir).map_err(|error| SimCaptures::step("remove", dir, error))
}

fn no_draft(path: &Path) -> CaptureError {
    SimCaptures::step("find the clone of", path.to_owned(), io::ErrorKind::NotFound.into())
}

// === impl Faults ===

impl Faults {
    fn plan(&self, times: usize) {
        self.0.store(times, Ordering::Relaxed);
    }

    /// Says whether it fails this time.
    fn meet(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}
