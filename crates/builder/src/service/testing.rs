//! A builder over a store that is away now and then.

use std::{collections::BTreeMap, sync::Arc};

use tarn_control::{Control, ControlConfig, ControlParts, SecretKeys};
use tarn_host::sim::SimImages;
use tarn_store::{Loss, MemoryStore, UnreliableStore, log::MemoryLogStore};
use tarn_task::{ManualClock, SeededEntropy, Tasks};
use tarn_types::{BuildKind, BuildRecord, ProjectId, Resources, UnixMillis};

use super::{BuildAsk, Builder, BuilderConfig};

/// A builder whose builds await their contexts.
pub(super) struct Site {
    pub(super) builder: Builder,
    pub(super) clock: Arc<ManualClock>,
    pub(super) store: Arc<UnreliableStore>,
    pub(super) dir: tempfile::TempDir,
}

// === impl Site ===

impl Site {
    /// Starts one whose store loses calls number `every`, 2 × `every`, …; 0 means none.
    pub(super) async fn start(every: u64) -> Self {
        Self::configured(every, |_config| {}).await
    }

    /// The same, of another configuration.
    pub(super) async fn configured(every: u64, change: impl FnOnce(&mut BuilderConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Arc::new(ManualClock::at(UnixMillis(1_700_000_000_000)));
        let entropy = Arc::new(SeededEntropy::new(7));
        let tasks = Tasks::new();
        let keys = SecretKeys::open(&dir.path().join("secrets.key")).expect("made");
        let inner = Arc::new(MemoryStore::new());
        let store = Arc::new(UnreliableStore::new(inner, every, Loss::Request));
        let parts = ControlParts {
            logs: Arc::new(MemoryLogStore::default()),
            store: Arc::clone(&store) as _,
            images: Arc::new(SimImages::new(&["tensorlake/ubuntu-minimal"])),
            secret_keys: Arc::new(keys),
            clock: Arc::clone(&clock) as _,
            entropy: Arc::clone(&entropy) as _,
            tasks: tasks.clone(),
        };
        let control = Control::start(parts, ControlConfig::default()).await.expect("it is empty");
        let mut config = BuilderConfig::new(dir.path().join("builds"));
        config.reserve_bytes = 0;
        change(&mut config);
        let seen = Arc::clone(&clock) as _;
        let builder = Builder::start(control, config, seen, entropy, tasks).await;
        Self { builder: builder.expect("no builds are read"), clock, store, dir }
    }

    /// Starts another one over the same store, as after a death.
    pub(super) async fn restart(&self) -> Builder {
        let inner = &self.builder.0;
        let (clock, entropy) = (Arc::clone(&inner.clock), Arc::clone(&inner.entropy));
        let (control, config) = (inner.control.clone(), inner.config.clone());
        let started = Builder::start(control, config, clock, entropy, inner.tasks.clone()).await;
        started.expect("the builds are read")
    }

    /// Begins a build.
    pub(super) async fn build(&self, name: &str) -> BuildRecord {
        let (project, ask) = Self::ask(name, None);
        self.builder.create(&project, ask).await.expect("it is accepted").record
    }

    /// Returns what asks for a build.
    pub(super) fn ask(name: &str, request_id: Option<&str>) -> (ProjectId, BuildAsk) {
        let project = ProjectId::from_random([1; 16]);
        let ask = BuildAsk {
            request_id: request_id.map(str::to_owned),
            source: BuildKind::Dockerfile { path: "Dockerfile".to_owned(), args: BTreeMap::new() },
            name: name.parse().expect("a good name"),
            global: false,
            resources: Resources::default(),
            logins: BTreeMap::new(),
            parents: BTreeMap::new(),
            legacy: None,
        };
        (project, ask)
    }
}

/// Gives tasks time to come as far as they can.
pub(super) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}
