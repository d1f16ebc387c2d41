//! The handle on the control plane, what it is made of, and its start.

use std::{future::Future, sync::Arc};

use parking_lot::RwLock;
use tarn_host::Images;
use tarn_node_api::Node;
use tarn_scheduler::AdmissionRule;
use tarn_store::{Store, StoreError, log::LogStore};
use tarn_task::{Clock, Entropy, Tasks};
use tokio::sync::{Notify, watch};

use crate::{
    ControlError, Limits, SecretKeys,
    build::KeptSteps,
    image::ImageTable,
    key::KnownKeys,
    log::LogCounters,
    pool::Pools,
    project::Quotas,
    snapshot::{ArchiveTries, SnapshotCounters, SnapshotUses},
    table::Table,
};

/// The numbers of the control plane; all are configuration.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// What a create may ask for.
    pub limits: Limits,
    /// When a node takes a sandbox.
    pub admission: AdmissionRule,
    /// How long after its end a sandbox stays in the ordinary list, in seconds. Default: 24 h.
    pub archive_after_secs: u64,
    /// How long it stays in the archive after that, in seconds. Default: 30 days.
    pub archive_keep_secs: u64,
    /// How long the output of processes is kept, in days. Default: 7.
    pub log_retention_days: u32,
    /// How many copies of a sandbox one request may ask for. Default: 100.
    pub copy_max: u32,
    /// How many sandboxes that are not suspended a project may have that was given no quota of its
    /// own; 0 = any number. Default: 0.
    pub sandbox_quota: u32,
    /// How long after a snapshot was last read it is read again in the background, in seconds; 0 =
    /// never. Default: 7 days.
    pub scrub_interval_secs: u64,
    /// How old an answer of a registry about a reference may be, in seconds. Default: 300.
    pub image_recheck_secs: u64,
    /// How long an image is kept that nothing needs, in seconds. Default: 7 days.
    pub image_keep_secs: u64,
    /// The names of the projects that may give an image a name for all projects.
    pub image_publishers: Vec<String>,
    /// How many registered images a project may have; 0 = any number. Default: 1000.
    pub images_per_project: u32,
    /// How many pools a project may have; 0 = any number. Default: 1000.
    pub pools_per_project: u32,
    /// How many secrets a project may have; 0 = any number. Default: 1000.
    pub secrets_per_project: u32,
    /// How many SSH keys a project may have; 0 = any number. Default: 1000.
    pub ssh_keys_per_project: u32,
    /// The isolation technology of the nodes, as shown in `runtime`.
    pub runtime: &'static str,
}

/// What the control plane works with.
#[derive(Clone)]
pub struct ControlParts {
    /// What must not be forgotten.
    pub store: Arc<dyn Store>,
    /// What processes print.
    pub logs: Arc<dyn LogStore>,
    /// The images there are.
    pub images: Arc<dyn Images>,
    /// What secrets are sealed with.
    pub secret_keys: Arc<SecretKeys>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The source of ids and keys.
    pub entropy: Arc<dyn Entropy>,
    /// Where background work runs.
    pub tasks: Tasks,
}

/// The control plane. Clones share it.
#[derive(Clone)]
pub struct Control(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) parts: ControlParts,
    pub(crate) config: ControlConfig,
    pub(crate) table: Table,
    pub(crate) nodes: RwLock<Vec<Arc<dyn Node>>>,
    pub(crate) keys: RwLock<KnownKeys>,
    /// Rung when a pending sandbox may have become placeable.
    pub(crate) placement: Notify,
    pub(crate) log_counters: LogCounters,
    pub(crate) snapshot_counters: SnapshotCounters,
    pub(crate) snapshot_uses: SnapshotUses,
    pub(crate) archive_tries: ArchiveTries,
    pub(crate) pools: Pools,
    /// Held while a resize is decided and sent.
    pub(crate) resizes: tokio::sync::Mutex<()>,
    /// Held while GPUs are given out (see [`crate::gpu`]).
    pub(crate) gpus: tokio::sync::Mutex<()>,
    pub(crate) quotas: Quotas,
    pub(crate) images: ImageTable,
    pub(crate) kept_steps: KeptSteps,
    /// Rung when there may be a snapshot to remove.
    pub(crate) snapshots: Notify,
    /// Counts snapshots that were settled, for those who wait for one.
    pub(crate) captures: watch::Sender<u64>,
}

// === impl ControlConfig ===

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            admission: AdmissionRule::default(),
            archive_after_secs: 24 * 3600,
            archive_keep_secs: 30 * 24 * 3600,
            log_retention_days: 7,
            copy_max: 100,
            sandbox_quota: 0,
            scrub_interval_secs: 7 * 24 * 3600,
            image_recheck_secs: 300,
            image_keep_secs: 7 * 24 * 3600,
            image_publishers: Vec::new(),
            images_per_project: 1000,
            pools_per_project: 1000,
            secrets_per_project: 1000,
            ssh_keys_per_project: 1000,
            runtime: "gvisor",
        }
    }
}

// === impl Control ===

impl Control {
    /// Reads every live sandbox from the store and begins the background work.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn start(parts: ControlParts, config: ControlConfig) -> Result<Self, StoreError> {
        let live = parts.store.sandbox_list_live().await?;
        let pools = Pools::new(parts.store.pool_list().await?);
        let quotas = Quotas::new(config.sandbox_quota, parts.store.quota_list().await?);
        let kept_steps = KeptSteps::new(parts.store.kept_step_list().await?);
        let images =
            ImageTable::new(parts.store.image_name_list().await?, parts.store.image_list().await?);
        let control = Self(Arc::new(Inner {
            parts,
            config,
            table: Table::default(),
            nodes: RwLock::default(),
            keys: RwLock::default(),
            placement: Notify::new(),
            log_counters: LogCounters::default(),
            snapshot_counters: SnapshotCounters::default(),
            snapshot_uses: SnapshotUses::default(),
            archive_tries: ArchiveTries::default(),
            pools,
            resizes: tokio::sync::Mutex::new(()),
            gpus: tokio::sync::Mutex::new(()),
            quotas,
            images,
            kept_steps,
            snapshots: Notify::new(),
            captures: watch::Sender::new(0),
        }));
        tracing::info!(sandboxes = live.len(), "live sandboxes read from the store");
        for record in live {
            control.0.table.insert(record, None);
        }
        control.spawn_reconcilers();
        Ok(control)
    }

    /// Says whether requests can be served: the store answers and a node is attached.
    ///
    /// # Errors
    /// Says what is missing.
    pub async fn ready(&self) -> Result<(), ControlError> {
        self.0.parts.store.ping().await?;
        if self.0.nodes.read().is_empty() {
            let detail = "no node is attached yet".to_owned();
            return Err(ControlError::Unavailable { detail });
        }
        Ok(())
    }

    /// Runs accepted work to its end even if the caller goes away meanwhile.
    pub(crate) async fn finish<T, F>(&self, name: &'static str, work: F) -> Result<T, ControlError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ControlError>> + Send + 'static,
    {
        match self.0.parts.tasks.spawn(name, work).await {
            Ok(result) => result,
            Err(lost) => {
                let detail = format!("task {name}: {lost}");
                Err(ControlError::Internal { detail })
            }
        }
    }

    pub(crate) fn node(&self, id: &tarn_types::NodeId) -> Option<Arc<dyn Node>> {
        self.0.nodes.read().iter().find(|node| node.id() == id).cloned()
    }

    pub(crate) fn nodes(&self) -> Vec<Arc<dyn Node>> {
        self.0.nodes.read().clone()
    }
}
