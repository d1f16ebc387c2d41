//! Who has which GPU of this node.
//!
//! ```text
//!  Returning ──▶ Free ──▶ Held ──(its sandbox is gone)──▶ Returning
//!      └───────▶ OutOfUse
//! ```
//!
//! A device is one sandbox's alone, from the intent that wants it to run until nothing of it is
//! left on the host. The ledger names the devices of a sandbox before any process of it may touch
//! them, so that the next server knows; what is not in the ledger is nobody's. A device comes back
//! only after a look at it: one that is not well is given to nobody until the server starts again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tarn_host::{GpuDevice, GpuError, Gpus as HostGpus};
use tarn_node_api::{GpuState, GpuView};
use tarn_task::Tasks;
use tarn_types::{EndCause, FailedStep, GpuFiles, GpuId, GpuStock, Gpus, SandboxId, StartFailure};
use tokio::time::Instant;

use crate::{
    ledger::{Durability, Entry, ReadEntry},
    service::Shared,
    start::{chain, failed},
};

/// For how long a device may be in use after the sandbox that had it is gone, and between two
/// looks at it.
const LINGERING: Duration = Duration::from_secs(30);
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// The devices of a node, and where each is.
pub(crate) struct GpuTable {
    host: Arc<dyn HostGpus>,
    tasks: Tasks,
    devices: Vec<GpuDevice>,
    states: Mutex<BTreeMap<GpuId, GpuState>>,
}

// === impl GpuTable ===

impl GpuTable {
    /// Takes what the host has; nothing of it is free before it was looked at.
    pub(crate) fn new(host: Arc<dyn HostGpus>, tasks: Tasks) -> Arc<Self> {
        let devices = host.list();
        let all = devices.iter().map(|device| (device.id.clone(), GpuState::Returning));
        let states = Mutex::new(all.collect());
        Arc::new(Self { host, tasks, devices, states })
    }

    pub(crate) fn views(&self) -> Vec<GpuView> {
        let states = self.states.lock();
        let view = |device: &GpuDevice| GpuView {
            id: device.id.clone(),
            product: device.product.clone(),
            model: device.model,
            state: states.get(&device.id).cloned().unwrap_or(GpuState::Returning),
        };
        self.devices.iter().map(view).collect()
    }

    /// Returns how many there are of each model, in the order in which the host names them.
    pub(crate) fn stock(&self) -> Vec<GpuStock> {
        let mut all: Vec<GpuStock> = Vec::new();
        for GpuView { model, state, .. } in self.views() {
            let free = u32::from(state == GpuState::Free);
            match all.iter_mut().find(|stock| stock.model == model) {
                Some(stock) => {
                    stock.total += 1;
                    stock.free += free;
                }
                None => all.push(GpuStock { model, total: 1, free }),
            }
        }
        all
    }

    /// Gives a sandbox what it wants, all or nothing; what it has already is its own.
    pub(crate) fn claim(&self, id: &SandboxId, wanted: Gpus) -> Option<Vec<GpuId>> {
        let mut states = self.states.lock();
        let held = GpuState::Held { by: id.clone() };
        let count = usize::try_from(wanted.count).unwrap_or(usize::MAX);
        let of_model = self.devices.iter().filter(|device| device.model == wanted.model);
        let mut chosen: Vec<GpuId> = Vec::new();
        for device in of_model {
            match states.get(&device.id) {
                Some(state) if *state == held => chosen.insert(0, device.id.clone()),
                Some(GpuState::Free) => chosen.push(device.id.clone()),
                Some(GpuState::Held { .. } | GpuState::Returning | GpuState::OutOfUse { .. })
                | None => {}
            }
        }
        if chosen.len() < count {
            return None;
        }
        chosen.truncate(count);
        chosen.sort();
        for gpu in &chosen {
            states.insert(gpu.clone(), held.clone());
        }
        Some(chosen)
    }

    /// Notes what the ledger says that a sandbox has.
    pub(crate) fn hold(&self, id: &SandboxId, gpus: &[GpuId]) {
        let mut states = self.states.lock();
        for gpu in gpus {
            match states.get_mut(gpu) {
                Some(state) => *state = GpuState::Held { by: id.clone() },
                None => tracing::error!(
                    sandbox.id = %id, gpu.id = %gpu,
                    "a sandbox has a GPU that the host does not name any more"
                ),
            }
        }
    }

    /// Takes back what a sandbox has; returns it.
    fn take_back(&self, id: &SandboxId) -> Vec<GpuId> {
        let mut states = self.states.lock();
        let held = GpuState::Held { by: id.clone() };
        let mut back = Vec::new();
        for (gpu, state) in states.iter_mut().filter(|(_, state)| **state == held) {
            *state = GpuState::Returning;
            back.push(gpu.clone());
        }
        back
    }

    /// Returns what is neither anybody's nor looked at yet.
    fn returning(&self) -> Vec<GpuId> {
        let states = self.states.lock();
        let returning = states.iter().filter(|(_, state)| **state == GpuState::Returning);
        returning.map(|(gpu, _)| gpu.clone()).collect()
    }

    fn set(&self, gpu: &GpuId, state: GpuState) {
        self.states.lock().insert(gpu.clone(), state);
    }

    /// Keeps everybody from what is nobody's.
    fn withhold(&self, reason: &str) {
        for state in self.states.lock().values_mut() {
            if *state == GpuState::Returning {
                *state = GpuState::OutOfUse { reason: reason.to_owned() };
            }
        }
    }

    /// Takes over from an earlier server: what its ledger says is held stays so.
    pub(crate) fn adopt(&self, entries: &[(SandboxId, ReadEntry)]) {
        for (id, entry) in entries {
            match entry {
                Ok(entry) => self.hold(id, &entry.gpus),
                // It may have any of them.
                Err(_) => self.withhold(&format!(
                    "the ledger entry of sandbox {id} cannot be read, and may name it; mend that, \
                     and start the server again"
                )),
            }
        }
    }

    /// Looks at everything that nobody has. What is in use is looked at again in the background.
    pub(crate) async fn look_over(self: &Arc<Self>) {
        let ids = self.returning();
        self.receive(ids).await;
    }

    /// Takes back what a sandbox had, of which nothing is left on the host.
    pub(crate) async fn release(self: &Arc<Self>, id: &SandboxId) {
        let back = self.take_back(id);
        if !back.is_empty() {
            let gpus: Vec<&str> = back.iter().map(GpuId::as_str).collect();
            tracing::info!(sandbox.id = %id, gpus = gpus.join(","), "GPUs come back");
            self.receive(back).await;
        }
    }

    async fn receive(self: &Arc<Self>, ids: Vec<GpuId>) {
        for gpu in ids {
            if let Err(busy) = self.settle(&gpu).await {
                tracing::warn!(gpu.id = %gpu, reason = %busy, "a GPU is not free yet; looking again");
                let own = Arc::clone(self);
                drop(self.tasks.spawn("gpu_return", async move { own.wait(&gpu).await }));
            }
        }
    }

    /// Looks at a device until nothing uses it.
    async fn wait(&self, gpu: &GpuId) {
        let begun = Instant::now();
        let stopping = self.tasks.stopping();
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                () = &mut stopping => return,
                () = tokio::time::sleep(LOOK_PAUSE) => {}
            }
            let Err(busy) = self.settle(gpu).await else { return };
            if begun.elapsed() >= LINGERING {
                return self.put_out(gpu, &busy);
            }
        }
    }

    /// Looks at a device and decides what becomes of it; hands back why that is still open.
    async fn settle(&self, gpu: &GpuId) -> Result<(), GpuError> {
        match self.host.check(gpu).await {
            Ok(()) => self.set(gpu, GpuState::Free),
            Err(busy @ GpuError::Busy { .. }) => return Err(busy),
            Err(bad @ (GpuError::Faulty { .. } | GpuError::Files { .. })) => {
                self.put_out(gpu, &bad)
            }
        }
        Ok(())
    }

    fn put_out(&self, gpu: &GpuId, why: &GpuError) {
        tracing::error!(
            gpu.id = %gpu, reason = %why,
            "a GPU is put out of use; mend it, and start the server again"
        );
        self.set(gpu, GpuState::OutOfUse { reason: chain(why) });
    }
}

/// Gives a sandbox that is about to be built its GPUs, if it is to have any, and has the ledger
/// say so before anything of it can use them.
pub(crate) async fn equip(
    shared: &Shared,
    entry: &mut Entry,
) -> Result<Option<GpuFiles>, EndCause> {
    let Some(wanted) = entry.launch.resources.gpus else { return Ok(None) };
    let Some(gpus) = shared.gpus.claim(&entry.id, wanted) else {
        return Err(EndCause::StartFailed {
            step: FailedStep::Gpu,
            failure: StartFailure::Internal,
            message: format!("{} of model {} are not free", wanted.count, wanted.model),
        });
    };
    entry.gpus = gpus;
    let written = shared.write(entry.clone(), Durability::Written).await;
    written.map_err(|bad| failed(FailedStep::Gpu, &bad))?;
    let files = shared.gpus.host.files(&entry.gpus).await;
    files.map(Some).map_err(|bad| failed(FailedStep::Gpu, &bad))
}

#[cfg(test)]
mod tests {
    use tarn_host::sim::SimGpus;

    use super::*;
    use crate::ledger::LedgerError;

    /// A new table of such devices, `GPU-sim-0` and so on.
    fn new(models: &[&str]) -> Arc<GpuTable> {
        let models: Vec<_> = models.iter().map(|name| name.parse().expect("a name")).collect();
        GpuTable::new(Arc::new(SimGpus::new(&models, None)), Tasks::new())
    }

    fn id(number: u8) -> SandboxId {
        SandboxId::from_random([number; 21])
    }

    fn wanted(model: &str, count: u32) -> Gpus {
        Gpus { model: model.parse().expect("a name"), count }
    }

    fn table() -> Arc<GpuTable> {
        let table = new(&["H100", "A10", "H100", "H100"]);
        for gpu in table.returning() {
            table.set(&gpu, GpuState::Free);
        }
        table
    }

    fn free(table: &GpuTable) -> Vec<(String, u32, u32)> {
        let row = |stock: GpuStock| (stock.model.to_string(), stock.total, stock.free);
        table.stock().into_iter().map(row).collect()
    }

    fn names(gpus: Option<Vec<GpuId>>) -> Option<String> {
        gpus.map(|gpus| gpus.iter().map(GpuId::as_str).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn whole_devices_of_the_very_model_and_all_or_nothing() {
        let table = table();
        assert_eq!(names(table.claim(&id(1), wanted("H100", 4))), None);
        assert_eq!(names(table.claim(&id(1), wanted("T4", 1))), None);
        let two = Some("GPU-sim-0 GPU-sim-2".to_owned());
        assert_eq!(names(table.claim(&id(1), wanted("H100", 2))), two);
        assert_eq!(names(table.claim(&id(1), wanted("H100", 2))), two, "what it has is its own");
        assert_eq!(names(table.claim(&id(2), wanted("H100", 2))), None, "only one is left");
        assert_eq!(names(table.claim(&id(2), wanted("H100", 1))).as_deref(), Some("GPU-sim-3"));
        let h100 = ("H100".to_owned(), 3, 0);
        assert_eq!(free(&table), [h100, ("A10".to_owned(), 1, 1)]);
    }

    #[test]
    fn what_comes_back_is_not_free_before_it_was_looked_at() {
        let table = table();
        table.claim(&id(1), wanted("A10", 1)).expect("it is free");
        assert_eq!(table.take_back(&id(2)), []);
        let back = table.take_back(&id(1));
        assert_eq!(back, [GpuId::new("GPU-sim-1")]);
        assert_eq!(table.claim(&id(2), wanted("A10", 1)), None);
        table.set(&back[0], GpuState::Free);
        assert!(table.claim(&id(2), wanted("A10", 1)).is_some());
    }

    #[test]
    fn a_new_table_gives_nothing_that_the_ledger_holds_or_may_hold() {
        let table = new(&["A10", "A10"]);
        assert_eq!(table.claim(&id(1), wanted("A10", 1)), None, "nobody has looked");
        table.hold(&id(1), &[GpuId::new("GPU-sim-1"), GpuId::new("GPU-gone")]);
        assert_eq!(table.returning(), [GpuId::new("GPU-sim-0")]);
        assert_eq!(names(table.claim(&id(1), wanted("A10", 1))).as_deref(), Some("GPU-sim-1"));
        let broken = LedgerError::Unreadable { path: "x".into(), detail: "torn".to_owned() };
        let table = new(&["A10", "A10"]);
        table.adopt(&[(id(9), Err(broken))]);
        assert_eq!(table.returning(), []);
        let out = |view: &GpuView| matches!(view.state, GpuState::OutOfUse { .. });
        assert!(table.views().iter().all(out));
    }
}
