//! `tarn up`: read, check, open, attach, serve, wait for a signal, drain.
//!
//! Sandboxes are not this process's children in any sense that matters. It ends; they live on.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use tarn_builder::{Builder, BuilderConfig};
use tarn_control::{Control, ControlConfig, ControlError, ControlParts, Limits};
use tarn_ingress::{ActivityLog, Ingress, IngressConfig, PublicScheme};
use tarn_node::{
    FixedMemory, LogRate, MemoryFacts, MemoryGauge, NodeArchive, NodeConfig, NodeParts,
    NodeService, PrestartConfig, ProcMemory,
};
use tarn_scheduler::{AdmissionRule, PrestartRule, StageRule};
use tarn_store_sql::{LogLimits, SqliteLogStore, SqliteStore};
use tarn_task::{Clock, Entropy, OsEntropy, SystemClock, Tasks};
use tarn_types::{ByteSize, MilliCpu, Resources, SandboxStatus};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    addresses::Addresses,
    config::{Config, DataDir, LogFormat, RuntimeChoice},
    doctor, gpu,
    host::{Host, HostPlan},
    identity, listen,
    object_store::OpenObjectStore,
    serve::ingress_metrics,
    tls::{Acceptors, TlsMode},
};

/// How long requests in flight may take after a signal.
const DRAIN: Duration = Duration::from_secs(12);

/// The name of the project of the default key.
const DEFAULT_PROJECT: &str = "default";

/// What `tarn up` takes.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Where gVisor and the images are [default: $XDG_DATA_HOME/tarn, else ~/.local/share/tarn].
    #[arg(long, env = "TARN_ASSETS_DIR", value_name = "DIR")]
    assets_dir: Option<PathBuf>,
    /// The sandbox daemon to install [default: `tarnd` beside this program].
    #[arg(long, value_name = "FILE")]
    tarnd: Option<PathBuf>,
    /// The configuration [default: `tarn.toml` in the data directory, if there is one].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serve plain HTTP to other machines, keys and all.
    #[arg(long)]
    insecure_http: bool,
    /// Allow `node.runtime = "sim"`, which isolates nothing; for tests and benches.
    #[arg(long, hide = true)]
    allow_simulated_runtime: bool,
    /// Give out GPUs of these models that are not there, in place of those that are; for tests.
    #[arg(long, hide = true, value_name = "MODEL,…", default_value = "")]
    simulated_gpus: String,
}

/// Runs the server until a signal.
pub(crate) fn run(args: &UpArgs, data: &DataDir) -> anyhow::Result<()> {
    let data = identity::open_data_dir(data)?;
    let config = read_config(args.config.as_deref(), &data)?;
    config.check_exposure(args.insecure_http)?;
    if config.node.runtime == RuntimeChoice::Sim && !args.allow_simulated_runtime {
        bail!(
            "node.runtime = \"sim\" isolates nothing and is for tests and benches; say \"gvisor\""
        );
    }
    start_log(&config)?;
    identity::close_to_others(&data)?;
    let _lock = identity::lock(&data, ", or give this one another --data-dir")?;
    // `tarn purge` knows the directory by it, however early this start ends.
    identity::node_id(&data, &OsEntropy)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let done = runtime.block_on(serve(args, &config, &data));
    // What still runs is background work that was told to stop; nobody waits for it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Err(bad) = tarn_runtime_oci::let_go_if_unused(&data.runsc()) {
        tracing::warn!(error = %bad, "gVisor's state directory stays mounted");
    }
    done
}

/// Reads the configuration as a start does.
pub(crate) fn read_config(named: Option<&Path>, data: &DataDir) -> anyhow::Result<Config> {
    let mut config = Config::find(named, data)?;
    if config.dns.upstream.is_empty() {
        config.dns.upstream = upstream_from_environment()?;
    }
    Ok(config)
}

#[allow(clippy::disallowed_methods, reason = "the server crate reads the environment")]
fn upstream_from_environment() -> anyhow::Result<Vec<std::net::SocketAddr>> {
    let Ok(list) = std::env::var("TARN_DNS_UPSTREAM") else { return Ok(Vec::new()) };
    let parse = |entry: &str| {
        let entry = entry.trim();
        entry.parse().with_context(|| format!("TARN_DNS_UPSTREAM: `{entry}` is not ADDRESS:PORT"))
    };
    list.split(',').filter(|entry| !entry.trim().is_empty()).map(parse).collect()
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.filter)
        .with_context(|| format!("understand log.filter `{}`", config.log.filter))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.log.format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    started.map_err(|bad| anyhow::anyhow!("start the log: {bad}"))
}

async fn serve(args: &UpArgs, config: &Config, data: &DataDir) -> anyhow::Result<()> {
    // First of all, so that a signal during the start is not lost.
    let mut signals = Signals::new()?;
    let assets = args.assets_dir.clone().map_or_else(identity::default_assets_dir, Ok)?;
    let acceptors = config.tls.open(config, data)?;
    let api = listen::bind("the API", config.api.listen).await?;
    let ingress = listen::bind("the ingress", config.ingress.listen).await?;
    let addresses = Addresses::new(config, api.local_addr()?, ingress.local_addr()?);
    if config.node.runtime == RuntimeChoice::Gvisor {
        doctor::require(&assets, data, config).await?;
    }
    protect_from_oom();
    open_more_files();
    let tasks = Tasks::new();
    // The store outlives everything that may still write to it.
    let store_tasks = Tasks::new();
    let started = tokio::select! {
        started = start(args, config, data, &assets, &tasks, &store_tasks) => started?,
        () = signals.next() => bail!("ended by a signal before it was ready"),
    };
    let ports = Ports { api, ingress, acceptors: &acceptors };
    let served = serve_all(config, data, &addresses, &started, &tasks, ports);
    if let Err(bad) = served {
        tasks.shutdown(DRAIN).await;
        return Err(bad);
    }
    announce(&addresses, &started, &acceptors, data)?;
    signals.next().await;
    tracing::info!("stopping: no new requests, those in flight are finished");
    let running = count_running(&started.control);
    let drained = tokio::select! {
        hanging = tasks.shutdown(DRAIN) => hanging,
        () = signals.next() => bail!("ended at once by a second signal"),
    };
    let unstored = store_tasks.shutdown(DRAIN).await;
    if drained + unstored > 0 {
        tracing::warn!(drained, unstored, "some work did not end in time");
    }
    say_goodbye(running);
    Ok(())
}

/// What `start` makes.
struct Started {
    control: Control,
    builder: Builder,
    key: String,
    /// What the ingress counts, and the node's idle limits ask.
    activity: Arc<ActivityLog>,
    node: NodeService,
    object_store: Option<OpenObjectStore>,
}

async fn start(
    args: &UpArgs,
    config: &Config,
    data: &DataDir,
    assets: &Path,
    tasks: &Tasks,
    store_tasks: &Tasks,
) -> anyhow::Result<Started> {
    let tag = identity::tag(data);
    let tarnd = find_tarnd(args, config)?;
    let boot = identity::boot_id()?;
    let simulated_gpus = &gpu::simulated_models(&args.simulated_gpus)?;
    let tarnd = &tarnd;
    let plan =
        HostPlan { config, data, assets, tarnd, tag: &tag, tasks, boot: &boot, simulated_gpus };
    let host = Host::open(&plan).await?;
    let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
    let store = SqliteStore::open(&data.store(), store_tasks)
        .await
        .with_context(|| format!("open the store {}", data.store().display()))?;
    let logs = SqliteLogStore::open(&data.log_store(), log_limits(config), store_tasks)
        .await
        .with_context(|| format!("open the log store {}", data.log_store().display()))?;
    let control = Control::start(
        ControlParts {
            store: Arc::new(store),
            logs: Arc::new(logs),
            images: Arc::clone(&host.images),
            secret_keys: Arc::new(config.secrets.open(data)?),
            clock: Arc::new(SystemClock),
            entropy: Arc::clone(&entropy),
            tasks: tasks.clone(),
        },
        control_config(config, host.runtime.kind().as_str())?,
    )
    .await
    .context("read the store")?;
    control.secret_keys_check().await.context("open the keys of the secrets")?;
    let key = default_key(&control, data).await?;
    let activity = Arc::new(ActivityLog::new(Arc::new(SystemClock)));
    let gauge = Arc::clone(&activity);
    let object_store = host.object_store.clone();
    let node = start_node(config, data, host, entropy, (&control, gauge), tasks).await?;
    control.attach(Arc::new(node.clone())).await.context("attach the node")?;
    if let Some(object_store) = &object_store {
        object_store.spawn_collector(tasks);
    }
    let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) =
        (Arc::new(SystemClock), Arc::new(OsEntropy));
    let builds = BuilderConfig::new(data.builds());
    let builder = Builder::start(control.clone(), builds, clock, entropy, tasks.clone()).await;
    let builder = builder.context("take over the builds of images")?;
    Ok(Started { control, builder, key, activity, node, object_store })
}

/// Returns the key of the data directory, after putting a new one in the place of a revoked one.
async fn default_key(control: &Control, data: &DataDir) -> anyhow::Result<String> {
    let key = identity::default_key(data, || control.new_secret())?;
    let ensured = control.key_ensure(&key, DEFAULT_PROJECT).await;
    if !matches!(ensured, Err(ControlError::Unauthenticated)) {
        ensured.context("store the default key")?;
        return Ok(key);
    }
    let key = control.new_secret();
    // The file first, as at the first start: what the store does not know yet it is told next time.
    identity::replace_default_key(data, &key)?;
    control.key_ensure(&key, DEFAULT_PROJECT).await.context("store the new default key")?;
    tracing::warn!(
        path = %data.default_key().display(),
        "the default key was revoked; a new one has taken its place",
    );
    Ok(key)
}

async fn start_node(
    config: &Config,
    data: &DataDir,
    host: Host,
    entropy: Arc<dyn Entropy>,
    (control, activity): (&Control, Arc<ActivityLog>),
    tasks: &Tasks,
) -> anyhow::Result<NodeService> {
    let simulated = config.node.runtime == RuntimeChoice::Sim;
    let memory: Arc<dyn MemoryGauge> = if simulated {
        let plenty = ByteSize::from_mib(1 << 20);
        Arc::new(FixedMemory(MemoryFacts { total: plenty, available: plenty }))
    } else {
        Arc::new(ProcMemory)
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = if simulated { 1024 } else { cores };
    let node_config = NodeConfig {
        id: identity::node_id(data, &*entropy)?,
        ledger_dir: data.ledger(),
        tarnd: host.tarnd,
        hostname: "tl-sbx".to_owned(),
        processes: config.node.processes,
        cpu: MilliCpu::from_milli(u32::try_from(cores * 1000).unwrap_or(u32::MAX)),
        boot_id: identity::boot_id()?,
        orphan_grace_secs: config.node.orphan_grace_secs,
        keep_warm: Duration::from_secs(config.node.keep_warm_secs),
        log_rate: LogRate {
            bytes_per_sec: config.process_logs.rate_kb_per_sec.saturating_mul(1 << 10),
            burst_bytes: config.process_logs.burst_kb.saturating_mul(1 << 10),
        },
        prestart: PrestartConfig {
            rule: PrestartRule {
                kept: config.prestart.kept,
                most: config.prestart.most,
                memory_reserve: ByteSize::from_mib(config.admission.memory_reserve_mb),
                memory_reserve_percent: config.admission.memory_reserve_percent,
            },
            image: host.images.default_image(),
            resources: Resources::default(),
        },
        stages: StageRule {
            most: config.prestart.restores,
            memory_reserve: ByteSize::from_mib(config.admission.memory_reserve_mb),
            memory_reserve_percent: config.admission.memory_reserve_percent,
        },
    };
    let parts = NodeParts {
        runtime: host.runtime,
        images: host.images,
        layers: host.layers,
        slots: host.slots,
        captures: host.captures,
        gpus: host.gpus,
        archive: host
            .object_store
            .map(|OpenObjectStore { archive, place, .. }| NodeArchive { archive, place }),
        activity,
        memory,
        sink: Arc::new(control.clone()),
        log_sink: Arc::new(control.clone()),
        secrets: Arc::new(control.clone()),
        clock: Arc::new(SystemClock),
        entropy,
        tasks: tasks.clone(),
    };
    NodeService::start(node_config, parts, host.events).await.context("start the node")
}

/// Where clients come in.
struct Ports<'a> {
    api: TcpListener,
    ingress: TcpListener,
    acceptors: &'a Acceptors,
}

fn serve_all(
    config: &Config,
    data: &DataDir,
    addresses: &Addresses,
    started: &Started,
    tasks: &Tasks,
    ports: Ports<'_>,
) -> anyhow::Result<()> {
    let mut ingress_config = IngressConfig::default();
    let places = Places::within(open_files());
    ingress_config.max_connections = ingress_config.max_connections.min(places.connections);
    ingress_config.max_requests = ingress_config.max_requests.min(places.requests);
    ingress_config.threads = std::thread::available_parallelism().map_or(1, usize::from);
    ingress_config.ingress_domains.extend(config.ingress.domains.iter().cloned());
    let public_url = config.ingress.public_url.as_deref();
    if config.tls.mode != TlsMode::Off || public_url.is_some_and(|url| url.starts_with("https:")) {
        ingress_config.public_scheme = PublicScheme::Https;
    }
    let (routes, activity) = (Arc::new(started.control.clone()), Arc::clone(&started.activity));
    let proxy = Ingress::new(ingress_config, routes, activity, tasks.clone());
    let Ports { api, ingress, acceptors } = ports;
    let object_store = started.object_store.as_ref();
    let object_store = object_store.map(|object_store| object_store.metrics(&started.node));
    let metrics = [
        Some(ingress_metrics(proxy.stats())),
        Some(crate::prestart::metrics(&started.node)),
        Some(gpu::metrics(&started.control)),
        acceptors.metrics(),
        object_store,
    ];
    let metrics = metrics.into_iter().flatten().collect();
    let api = (api, acceptors.api.clone());
    let rate_limit = config.rate_limit.limit();
    crate::serve::api(
        data,
        addresses,
        (&started.control, &started.builder),
        metrics,
        rate_limit,
        tasks,
        api,
    )?;
    drop(tasks.spawn("ingress", proxy.serve(ingress, acceptors.ingress.clone())));
    acceptors.spawn_keepers(tasks);
    let text = serde_json::to_string_pretty(addresses).context("encode the addresses")?;
    identity::write_private(&data.addresses(), &text)
}

fn control_config(config: &Config, runtime: &'static str) -> anyhow::Result<ControlConfig> {
    let limits = &config.limits;
    let cpus = |key: &str, cpus: f64| {
        MilliCpu::from_cpus(cpus).with_context(|| format!("understand limits.{key}"))
    };
    Ok(ControlConfig {
        limits: Limits {
            cpu_min: cpus("cpus_min", limits.cpus_min)?,
            cpu_max: limits.cpus_max.map(|most| cpus("cpus_max", most)).transpose()?,
            memory_min: ByteSize::from_mib(limits.memory_min_mb),
            memory_max: limits.memory_max_mb.map(ByteSize::from_mib),
            disk_min: ByteSize::from_mib(limits.disk_min_mb),
            disk_max: ByteSize::from_mib(limits.disk_max_mb),
            timeout_max_secs: limits.timeout_max_secs,
        },
        admission: AdmissionRule {
            cpu_overcommit: config.admission.cpu_overcommit,
            memory_reserve: ByteSize::from_mib(config.admission.memory_reserve_mb),
            memory_reserve_percent: config.admission.memory_reserve_percent,
            memory_per_start: ByteSize::from_mib(config.admission.memory_per_start_mb),
            ..AdmissionRule::default()
        },
        archive_after_secs: config.retention.archive_after_secs,
        archive_keep_secs: config.retention.archive_keep_secs,
        log_retention_days: config.process_logs.retention_days,
        copy_max: config.limits.copies_max,
        sandbox_quota: config.quota.sandboxes,
        scrub_interval_secs: config.pool.scrub_interval_secs,
        image_recheck_secs: config.images.recheck_secs,
        image_keep_secs: config.images.keep_unused_secs,
        image_publishers: config.images.publishers.clone(),
        images_per_project: config.images.per_project,
        pools_per_project: config.quota.pools,
        secrets_per_project: config.quota.secrets,
        ssh_keys_per_project: config.quota.ssh_keys,
        runtime,
    })
}

fn log_limits(config: &Config) -> LogLimits {
    LogLimits {
        sandbox_bytes: config.process_logs.sandbox_max_mb.saturating_mul(1 << 20),
        total_bytes: config.process_logs.total_max_mb.saturating_mul(1 << 20),
    }
}

fn find_tarnd(args: &UpArgs, config: &Config) -> anyhow::Result<PathBuf> {
    if let Some(path) = &args.tarnd {
        return Ok(path.clone());
    }
    let own = std::env::current_exe().context("find this program")?;
    let beside = own.with_file_name("tarnd");
    if beside.exists() || config.node.runtime == RuntimeChoice::Sim {
        return Ok(beside);
    }
    bail!(
        "there is no sandbox daemon at {}; say --tarnd FILE, or start with `./x up`",
        beside.display()
    )
}

/// Under memory pressure the kernel ends sandboxes first and the server last.
fn protect_from_oom() {
    if let Err(bad) = std::fs::write("/proc/self/oom_score_adj", "-900") {
        tracing::warn!(error = %bad, "the server is not protected from the kernel's out-of-memory killer");
    }
}

/// Takes as many descriptors as the host grants: a connection to a sandbox needs two, and 1,024 is
/// what a service begins with.
fn open_more_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(bad) = raised {
        tracing::warn!(error = %bad, "the server cannot open more files than it may at its start");
    }
}

/// Returns how many files the process may open.
fn open_files() -> u64 {
    use nix::sys::resource::{Resource, getrlimit};
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(now, _)| now)
}

/// What the ingress may have open at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Places {
    connections: usize,
    requests: usize,
}

// === impl Places ===

impl Places {
    /// Shares the descriptors out: one for each client's connection, one for each request to a
    /// sandbox, of which there are fewer, and some for the rest of the server.
    fn within(open_files: u64) -> Self {
        const THE_REST: u64 = 256;
        const FEWEST: usize = 16;
        let eighth = usize::try_from(open_files.saturating_sub(THE_REST) / 8).unwrap_or(usize::MAX);
        let eighths = |n: usize| eighth.saturating_mul(n).max(FEWEST);
        Self { connections: eighths(5), requests: eighths(3) }
    }
}

fn count_running(control: &Control) -> usize {
    let counts = control.live_counts();
    counts.iter().filter(|(status, _)| *status == SandboxStatus::Running).map(|(_, n)| n).sum()
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the command line")]
fn announce(
    addresses: &Addresses,
    started: &Started,
    acceptors: &Acceptors,
    data: &DataDir,
) -> anyhow::Result<()> {
    let key = &started.key;
    eprintln!("tarn serves {} from {}", addresses.api, data.root.display());
    match &started.object_store {
        None => eprintln!("Snapshots stay on this machine's disk; object_store.url is not set."),
        Some(OpenObjectStore { place, key_file, .. }) => eprintln!(
            "Snapshots go to {place}; nobody reads them there without {}, so keep a copy of it.",
            key_file.display()
        ),
    }
    if let Some(authority) = &acceptors.authority {
        let (path, fingerprint) = (authority.path().display(), authority.fingerprint());
        eprintln!(
            "Clients must trust the local CA {path} (SHA-256 {fingerprint}); `tarn ca` says how."
        );
    }
    eprintln!("Paste the two lines into the terminal where your client runs:");
    let text = format!(
        "export TENSORLAKE_API_URL={}\nexport TENSORLAKE_API_KEY={key}\nready\n",
        addresses.api
    );
    tarn_cli::print(text.as_bytes()).context("print the addresses")
}

#[allow(clippy::print_stderr, reason = "this is the command line")]
fn say_goodbye(running: usize) {
    match running {
        0 => eprintln!("tarn has stopped; no sandbox was running."),
        1 => eprintln!(
            "tarn has stopped; 1 sandbox goes on running and is taken over at the next start."
        ),
        n => eprintln!(
            "tarn has stopped; {n} sandboxes go on running and are taken over at the next start."
        ),
    }
}

/// The signals that end the server.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

// === impl Signals ===

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_leave_files_for_sandboxes_and_for_the_rest() {
        let table = [(524_288, 327_520, 196_512), (20_000, 12_340, 7_404), (2048, 1120, 672)];
        for (files, connections, requests) in table {
            assert_eq!(Places::within(files), Places { connections, requests }, "{files}");
            assert!(connections + requests < usize::try_from(files).expect("a few"));
        }
        assert_eq!(Places::within(64), Places { connections: 16, requests: 16 });
        assert!(Places::within(u64::MAX).connections > 1 << 60);
    }
}
