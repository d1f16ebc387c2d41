//! The concrete parts of a node: the only place that names them.

use std::{path::Path, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use tarn_host::{
    Captures, Gpus, Images, Layers, Slots,
    sim::{SimCaptures, SimImages, SimLayers, SimSlots},
};
use tarn_hostnet::{HostSlots, OpenedNetworks, SlotLimits, SlotsConfig};
use tarn_runtime::{Runtime, RuntimeEvent, sim::SimRuntime};
use tarn_runtime_oci::{GvisorConfig, GvisorRuntime};
use tarn_storage::{
    Daemons, HostCaptures, HostImages, HostLayers, Pool, PoolOptions, PoolSizing, StockImages,
};
use tarn_task::{SystemClock, Tasks};
use tarn_types::{BootId, ByteSize, GpuModel, InstanceTag, Resources};
use tokio::sync::mpsc;

use crate::{
    config::{Config, DataDir, RuntimeChoice},
    gpu, identity,
    object_store::OpenObjectStore,
};

/// How many runtime events may wait: one for each sandbox of a large node at once.
const EVENT_BOUND: usize = 1024;

/// What a node is built from.
pub(crate) struct Host {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) images: Arc<dyn Images>,
    pub(crate) layers: Arc<dyn Layers>,
    pub(crate) slots: Arc<dyn Slots>,
    pub(crate) captures: Arc<dyn Captures>,
    pub(crate) gpus: Arc<dyn Gpus>,
    pub(crate) object_store: Option<OpenObjectStore>,
    /// The host's copy of `tarnd`.
    pub(crate) tarnd: PathBuf,
    pub(crate) events: mpsc::Receiver<RuntimeEvent>,
}

/// What building a host needs to know.
pub(crate) struct HostPlan<'a> {
    pub(crate) config: &'a Config,
    pub(crate) data: &'a DataDir,
    pub(crate) assets: &'a Path,
    pub(crate) tarnd: &'a Path,
    pub(crate) tag: &'a InstanceTag,
    pub(crate) tasks: &'a Tasks,
    pub(crate) boot: &'a BootId,
    /// GPUs that are there for tests alone, in place of what the machine has.
    pub(crate) simulated_gpus: &'a [GpuModel],
}

// === impl Host ===

impl Host {
    /// Opens the parts that the configuration asks for.
    pub(crate) async fn open(plan: &HostPlan<'_>) -> anyhow::Result<Self> {
        match plan.config.node.runtime {
            RuntimeChoice::Gvisor => Self::real(plan).await,
            RuntimeChoice::Sim => Ok(Self::simulated(plan)),
        }
    }

    async fn real(plan: &HostPlan<'_>) -> anyhow::Result<Self> {
        let (events, inbox) = mpsc::channel(EVENT_BOUND);
        let tasks = plan.tasks;
        let tarnd = Daemons::new(&plan.data.root)
            .install(plan.tarnd)
            .with_context(|| format!("install the sandbox daemon {}", plan.tarnd.display()))?;
        let runtime = GvisorRuntime::new(gvisor_config(plan)?, tasks.clone(), events)
            .await
            .context("start the gVisor runtime")?;
        if runtime.put_server_first() {
            tracing::debug!("the server comes before what sandboxes compute");
        }
        let pool = open_pool(plan).context("open the storage pool")?;
        let pool = Arc::new(pool);
        let captures = HostCaptures::start(Arc::clone(&pool), tasks, plan.boot.clone())
            .context("open the snapshots")?;
        let captures = Arc::new(captures);
        let object_store = plan.config.object_store.open(plan.data, &captures).await?;
        let layers = HostLayers::start(pool, tasks);
        layers.prepare(Resources::default().disk).await.context("prepare a blank layer")?;
        let images = open_images(plan).context("open the images")?;
        let slots = HostSlots::start(slots_config(plan.config, plan.data)?, tasks.clone())
            .await
            .context("start the network slots")?;
        let gpus = match plan.simulated_gpus {
            [] => gpu::find(&gvisor_config(plan)?, tasks).await,
            models => gpu::simulated(models, plan.data),
        };
        Ok(Self {
            gpus,
            runtime: Arc::new(runtime),
            images: Arc::new(images),
            layers: Arc::new(layers),
            slots: Arc::new(slots),
            captures,
            object_store,
            tarnd,
            events: inbox,
        })
    }

    fn simulated(plan: &HostPlan<'_>) -> Self {
        let tasks = plan.tasks;
        let (events, inbox) = mpsc::channel(EVENT_BOUND);
        tracing::warn!("the simulated runtime isolates nothing; it is for tests and benches");
        Self {
            gpus: gpu::simulated(plan.simulated_gpus, plan.data),
            runtime: Arc::new(SimRuntime::new(tasks.clone(), events)),
            images: Arc::new(SimImages::new(&[
                "tensorlake/ubuntu-minimal",
                "tensorlake/debian-minimal",
            ])),
            layers: Arc::new(SimLayers::default()),
            slots: Arc::new(SimSlots::default()),
            captures: Arc::new(SimCaptures::new(&plan.data.root.join("captures"))),
            object_store: None,
            tarnd: PathBuf::from("/sim/tarnd"),
            events: inbox,
        }
    }
}

/// Finds the installed version of gVisor.
pub(crate) fn runsc_dir(assets: &Path) -> anyhow::Result<PathBuf> {
    let current = assets.join("runsc").join("current");
    let version = std::fs::read_to_string(&current).with_context(|| {
        format!("read {}; run `./x setup`, which installs gVisor", current.display())
    })?;
    Ok(assets.join("runsc").join(version.trim()))
}

pub(crate) fn gvisor_config(plan: &HostPlan<'_>) -> anyhow::Result<GvisorConfig> {
    Ok(GvisorConfig::new(runsc_dir(plan.assets)?, plan.data.runsc(), plan.tag.clone()))
}

fn open_images(plan: &HostPlan<'_>) -> anyhow::Result<HostImages> {
    let stock = StockImages::open(plan.assets, plan.tasks.clone());
    let (rules, tasks) = (plan.config.images.rules()?, plan.tasks.clone());
    Ok(HostImages::open(stock, &plan.data.root, rules, tasks, Arc::new(SystemClock))?)
}

fn open_pool(plan: &HostPlan<'_>) -> anyhow::Result<Pool> {
    let section = &plan.config.pool;
    let sizing = PoolSizing {
        initial: ByteSize::from_mib(section.initial_mb),
        max: section.max_mb.map(ByteSize::from_mib),
        freeze_below: section.freeze_below_mb.map(ByteSize::from_mib),
        ..PoolSizing::default()
    };
    let options = PoolOptions { sizing, ..PoolOptions::default() };
    Ok(Pool::open(&plan.data.root, plan.tag, options)?)
}

/// Says how the network slots of a data directory are made.
pub(crate) fn slots_config(config: &Config, data: &DataDir) -> anyhow::Result<SlotsConfig> {
    let section = &config.network;
    let mut slots = SlotsConfig::new(identity::tag(data), data.netns());
    slots.range = section
        .range
        .parse()
        .with_context(|| format!("understand network.range `{}`", section.range))?;
    slots.spare = section.spare_slots;
    slots.maximum = section.max_slots;
    slots.dns_upstreams.clone_from(&config.dns.upstream);
    slots.ipv6 = section.ipv6;
    slots.opened = OpenedNetworks::read(&section.open_private, slots.range)
        .context("read network.open_private")?;
    slots.limits = SlotLimits {
        connections: section.connections,
        new_connections_per_sec: section.new_connections_per_sec,
        new_connections_burst: section.new_connections_burst,
        bandwidth_mbit: section.bandwidth_mbit,
    };
    Ok(slots)
}
