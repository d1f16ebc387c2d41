//! A host in memory, with the manners of the real one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_types::{ByteSize, EgressPolicy, ImageName, SandboxId};

use crate::{
    ImageConfig, ImageError, Images, LayerError, Layers, PoolSpace, RootFs, Slot, SlotError,
    SlotId, Slots, Template,
};

/// What a fault says.
const MADE_TO_FAIL: &str = "it was made to fail";

/// Images that exist by name alone.
#[derive(Debug)]
pub struct SimImages {
    names: Vec<ImageName>,
}

/// Layers that are entries of a table.
#[derive(Debug, Default)]
pub struct SimLayers {
    live: Mutex<BTreeSet<SandboxId>>,
    faults: Faults,
}

/// Slots that are entries of a table; every address is loopback.
#[derive(Debug, Default)]
pub struct SimSlots {
    claimed: Mutex<BTreeMap<SlotId, (SandboxId, EgressPolicy)>>,
    /// Those adopted since the last [`Slots::settle`].
    adopted: Mutex<BTreeSet<SlotId>>,
    faults: Faults,
}

/// How many of the next adoptions fail for a reason that passes.
#[derive(Debug, Default)]
struct Faults(AtomicUsize);

// === impl SimImages ===

impl SimImages {
    /// Makes a set of images; the first is the default.
    ///
    /// # Panics
    /// Panics when `names` is empty or holds a name that is not one: it is written in a test.
    #[must_use]
    pub fn new(names: &[&str]) -> Self {
        let names: Vec<_> = names
            .iter()
            .map(|name| name.parse().expect("a simulated image has a good name"))
            .collect();
        assert!(!names.is_empty(), "a simulated host has at least one image");
        Self { names }
    }
}

#[async_trait]
impl Images for SimImages {
    async fn resolve(&self, name: &ImageName) -> Result<Template, ImageError> {
        if !self.names.contains(name) {
            return Err(ImageError::NotFound { name: name.clone() });
        }
        Ok(Template {
            digest: format!("sha256:{}", "0".repeat(64)),
            root: PathBuf::from("/sim/template"),
            config: ImageConfig::default(),
        })
    }

    async fn names(&self) -> Vec<ImageName> {
        let mut names = self.names.clone();
        names.sort();
        names
    }

    fn default_image(&self) -> ImageName {
        self.names[0].clone()
    }
}

// === impl SimLayers ===

impl SimLayers {
    /// Makes the next `times` of [`Layers::adopt`] fail.
    pub fn fail_adopt(&self, times: usize) {
        self.faults.plan(times);
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
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxId>, LayerError> {
        Ok(self.live.lock().iter().cloned().collect())
    }

    async fn space(&self) -> Result<PoolSpace, LayerError> {
        Ok(PoolSpace { total: ByteSize::from_mib(1 << 20), available: ByteSize::from_mib(1 << 19) })
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
