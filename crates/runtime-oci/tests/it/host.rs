//! A host for one test: namespaces, root file systems and a state directory of its own, all
//! removed at its end whatever happened.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tarn_runtime::{CpuShare, Runtime as _, RuntimeEvent, RuntimeSpec, Started};
use tarn_runtime_oci::{GvisorConfig, GvisorRuntime};
use tarn_task::Tasks;
use tarn_types::{ByteSize, InstanceTag, MilliCpu, Resources, SandboxId};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};

/// Longer than anything here takes on a loaded machine; only a failure waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What one test has of the machine.
pub(crate) struct Host {
    dir: tempfile::TempDir,
    tag: InstanceTag,
    slots: Mutex<Vec<String>>,
    /// The server's.
    tasks: Mutex<Vec<Tasks>>,
    /// The test's own.
    beside: Tasks,
}

/// A slot number for each sandbox of this process.
static NEXT_SLOT: AtomicU16 = AtomicU16::new(0);

// === impl Host ===

impl Host {
    pub(crate) fn new() -> Arc<Self> {
        let tag = InstanceTag::from_hash(random());
        let dir = tempfile::Builder::new().prefix("tarn-oci-").tempdir_in("/var/tmp").unwrap();
        Arc::new(Self {
            dir,
            tag,
            slots: Mutex::default(),
            tasks: Mutex::default(),
            beside: Tasks::new(),
        })
    }

    pub(crate) fn config(&self) -> GvisorConfig {
        GvisorConfig::new(runsc_dir(), self.state_dir(), self.tag.clone())
    }

    pub(crate) fn tag(&self) -> &InstanceTag {
        &self.tag
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a new empty directory.
    pub(crate) fn make_dir(&self, prefix: &str) -> PathBuf {
        let made = tempfile::Builder::new().prefix(prefix).tempdir_in(self.dir.path());
        // Removed with the host's directory.
        made.unwrap().keep()
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("runsc")
    }

    /// Starts a server's runtime, after ending the one before it.
    pub(crate) async fn runtime(&self) -> (Arc<GvisorRuntime>, mpsc::Receiver<RuntimeEvent>) {
        let (sender, events) = mpsc::channel(64);
        (self.runtime_with(sender).await, events)
    }

    pub(crate) async fn runtime_with(
        &self,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Arc<GvisorRuntime> {
        self.stop().await;
        let tasks = Tasks::new();
        self.tasks.lock().push(tasks.clone());
        Arc::new(GvisorRuntime::new(self.config(), tasks, events).await.unwrap())
    }

    /// Ends the server; its sandboxes stay.
    pub(crate) async fn stop(&self) {
        let running: Vec<Tasks> = self.tasks.lock().drain(..).collect();
        for tasks in running {
            assert_eq!(tasks.shutdown(PATIENCE).await, 0, "every task ends at shutdown");
        }
        tarn_runtime_oci::let_go_if_unused(&self.state_dir()).unwrap();
    }

    /// Spawns what a test does beside itself.
    pub(crate) fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.beside.spawn("test", future)
    }

    /// Returns the limit on a sandbox's memory that is in force.
    pub(crate) fn memory_limit(&self, id: &SandboxId) -> u64 {
        let limit = ["memory.limit_in_bytes", "memory.high"].map(|file| self.group_file(id, file));
        limit.iter().flatten().find_map(|text| text.trim().parse().ok()).unwrap()
    }

    /// Says whether anybody is connected to a sentry.
    pub(crate) fn is_connected(&self, id: &SandboxId) -> bool {
        let name = format!("runsc-{id}.sock");
        let sockets = fs::read_to_string("/proc/net/unix").unwrap();
        // The sixth word is the state; 3 is connected.
        let mut of_it = sockets.lines().filter(|line| line.ends_with(&name));
        of_it.any(|line| line.split_ascii_whitespace().nth(5) == Some("03"))
    }

    /// Lets nobody connect to a sentry any more.
    pub(crate) fn hide_sentry(&self, id: &SandboxId) {
        let socket = self.state_dir().join("root").join(format!("runsc-{id}.sock"));
        fs::rename(&socket, socket.with_extension("gone")).unwrap();
    }

    /// Returns the CPU quota of a sandbox for 100 ms, and its share.
    pub(crate) fn cpu_limits(&self, id: &SandboxId) -> [u64; 2] {
        let number = |file| {
            let text = self.group_file(id, file)?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        };
        let either = |a, b| number(a).or_else(|| number(b)).unwrap();
        [either("cpu.cfs_quota_us", "cpu.max"), either("cpu.shares", "cpu.weight")]
    }

    /// Says whether a sandbox stands still for want of memory.
    pub(crate) fn is_stuck(&self, id: &SandboxId) -> bool {
        let control = self.group_file(id, "memory.oom_control");
        control.is_some_and(|text| text.contains("under_oom 1"))
    }

    /// Says whether the groups in which all sandboxes lie exist.
    pub(crate) fn has_parent_groups(&self) -> bool {
        !cgroup_dirs(&format!("tarn_{}", self.tag)).is_empty()
    }

    /// Says whether anything is started aside here.
    pub(crate) fn has_aside(&self) -> bool {
        !cgroup_dirs(&self.aside()).is_empty()
    }

    /// Returns the group of a sandbox that is being started aside.
    pub(crate) fn group_aside(&self, id: &SandboxId) -> Option<PathBuf> {
        cgroup_dirs(&format!("{}/{id}", self.aside())).pop()
    }

    pub(crate) fn members_aside(&self, id: &SandboxId) -> Vec<u32> {
        self.group_aside(id).map(|dir| members(&dir)).unwrap_or_default()
    }

    /// Returns the processes in the group of a sandbox that has its share of the CPU.
    pub(crate) fn cpu_members(&self, id: &SandboxId) -> Vec<u32> {
        let mut dirs = cgroup_dirs(&format!("tarn_{}/{id}", self.tag));
        dirs.retain(|dir| dir.join("cpu.shares").exists() || dir.join("cpu.weight").exists());
        members(&dirs.pop().unwrap())
    }

    fn aside(&self) -> String {
        format!("tarn_{}_aside", self.tag)
    }

    /// Returns how many processes and threads of the host a sandbox has.
    pub(crate) fn host_processes(&self, id: &SandboxId) -> u64 {
        self.group_file(id, "pids.current").unwrap().trim().parse().unwrap()
    }

    /// Stops a sandbox's processes, the sentry among them, by the cgroup freezer.
    pub(crate) fn hold(&self, id: &SandboxId) {
        for dir in cgroup_dirs(&format!("tarn_{}/{id}", self.tag)) {
            for (file, word) in [("freezer.state", "FROZEN"), ("cgroup.freeze", "1")] {
                if dir.join(file).exists() {
                    fs::write(dir.join(file), word).unwrap();
                }
            }
        }
    }

    fn group_file(&self, id: &SandboxId, file: &str) -> Option<String> {
        let dirs = cgroup_dirs(&format!("tarn_{}/{id}", self.tag));
        dirs.iter().find_map(|dir| fs::read_to_string(dir.join(file)).ok())
    }

    /// Prepares a sandbox of 256 MiB and one CPU.
    pub(crate) fn prepare(&self) -> RuntimeSpec {
        self.prepare_shape(256, 1000)
    }

    pub(crate) fn prepare_shape(&self, mib: u64, milli: u32) -> RuntimeSpec {
        let id = SandboxId::from_random(random());
        let rootfs = self.dir.path().join(format!("rootfs-{id}"));
        for dir in ["tmp", "proc", "sys", "dev", ".tarn"] {
            fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        let slot = NEXT_SLOT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}{slot}", self.tag);
        let spec = RuntimeSpec {
            id,
            rootfs,
            netns: Path::new("/run/netns").join(&name),
            address: IpAddr::V4(address(slot, 2)),
            hostname: "tl-sbx".to_owned(),
            resources: Resources {
                cpu: MilliCpu::from_milli(milli),
                memory: ByteSize::from_mib(mib),
                disk: ByteSize::from_mib(64),
                gpus: None,
            },
            tarnd: guest_program(),
            processes: 200,
            share: CpuShare::Own,
            gpus: None,
        };
        self.slots.lock().push(name.clone());
        ip(&format!("netns add {name}"));
        let gate = address(slot, 1);
        ip(&format!("link add {name}h type veth peer name eth0 netns {name}"));
        ip(&format!("address add {gate}/30 dev {name}h"));
        ip(&format!("link set {name}h up"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} link set eth0 up"));
        give_address(&spec);
        spec
    }

    /// Gives back the slot and the root file system of a sandbox.
    pub(crate) fn release(&self, spec: &RuntimeSpec) {
        let name = slot_name(spec);
        self.slots.lock().retain(|other| *other != name);
        remove_slot(&name);
        fs::remove_dir_all(&spec.rootfs).unwrap();
    }

    /// Names whatever there still is of a sandbox.
    pub(crate) fn leftovers(&self, id: &SandboxId) -> Vec<String> {
        let mut found = Vec::new();
        let groups = cgroup_dirs(&format!("tarn_{}/{id}", self.tag));
        for dir in groups.into_iter().chain(self.group_aside(id)) {
            found.push(format!("cgroup {}", dir.display()));
        }
        for entry in walk(&self.state_dir()) {
            if entry.to_string_lossy().contains(id.as_str()) {
                found.push(format!("file {}", entry.display()));
            }
        }
        found.extend(processes_naming(id.as_str()));
        found
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for tasks in self.tasks.lock().drain(..) {
            tasks.stop();
        }
        let parent = format!("tarn_{}", self.tag);
        for dir in cgroup_dirs(&parent) {
            for entry in walk(&dir) {
                if entry.ends_with("freezer.state") {
                    drop(fs::write(&entry, "THAWED"));
                }
                if entry.ends_with("cgroup.procs") {
                    for pid in fs::read_to_string(&entry).unwrap_or_default().lines() {
                        run("kill", &format!("-9 {pid}"));
                    }
                }
            }
        }
        for dir in [cgroup_dirs(&self.aside()), cgroup_dirs(&parent)].concat() {
            wait_until_groups_are_removed(&dir);
        }
        for name in self.slots.lock().drain(..) {
            remove_slot(&name);
        }
        let pinned = self.state_dir().join("root/null-netns");
        let programs = self.state_dir().with_file_name("programs");
        for mounted in [pinned, programs, self.state_dir()] {
            while run("umount", &format!("-l {}", mounted.display())) {}
        }
    }
}

/// Asks the program in a sandbox.
pub(crate) async fn ask(daemon: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(daemon).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.ok_or_else(|| std::io::Error::other("no body"))
}

/// Waits until a condition holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

/// Creates and starts a sandbox, and waits for the first answer.
pub(crate) async fn boot(runtime: &GvisorRuntime, spec: &RuntimeSpec) -> Started {
    runtime.create(spec).await.unwrap();
    let started = runtime.start(&spec.id).await.unwrap();
    answers(&started).await;
    started
}

/// Waits for an answer.
pub(crate) async fn answers(started: &Started) {
    let daemon = started.daemon;
    let waited = tokio::time::timeout(PATIENCE, async move {
        while ask(daemon, "/").await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: the daemon answers; {}", describe(started));
}

/// Says what the host sees of a running sandbox that does not answer.
pub(crate) fn describe(started: &Started) -> String {
    let (pid, address) = (started.pid, started.daemon.ip());
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or("gone");
    let show = |program: &str, line: &str| {
        let shown = Command::new(program).args(line.split(' ')).output();
        shown.map_or_else(
            |error| error.to_string(),
            |shown| String::from_utf8_lossy(&shown.stdout).trim().to_owned(),
        )
    };
    let neighbour = show("ip", &format!("neighbour show {address}"));
    let sockets = show("ss", &format!("-tnoH dst {address}"));
    format!("its sentry {pid}: {state}; its neighbour entry: {neighbour}; sockets: {sockets}")
}

/// Kills a sandbox from outside and waits for its end.
pub(crate) fn end_sentry(started: &Started) {
    let pid = Pid::from_raw(i32::try_from(started.pid).unwrap()).unwrap();
    let sentry = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    pidfd_send_signal(&sentry, Signal::KILL).unwrap();
    let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(&sentry, PollFlags::IN)], Some(&limit)).unwrap();
    assert_eq!(ended, 1, "the sentry ends");
}

/// Reads a line of `/proc/meminfo`, in KiB.
pub(crate) fn meminfo_kib(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Puts the address into a sandbox's namespace; the backend takes it out at each start.
pub(crate) fn give_address(spec: &RuntimeSpec) {
    let (name, address) = (slot_name(spec), spec.address);
    ip(&format!("-n {name} address replace {address}/30 dev eth0"));
}

fn slot_name(spec: &RuntimeSpec) -> String {
    spec.netns.file_name().unwrap().to_str().unwrap().to_owned()
}

fn remove_slot(name: &str) {
    run("ip", &format!("link delete {name}h"));
    run("ip", &format!("netns delete {name}"));
}

/// Parallel test processes get different ranges by their id.
fn address(slot: u16, host: u16) -> Ipv4Addr {
    assert!(slot < 256, "more sandboxes than this process has addresses");
    let range = u16::try_from(std::process::id() % 64).unwrap();
    let [third, fourth] = (range * 1024 + slot * 4 + host).to_be_bytes();
    Ipv4Addr::new(198, 19, third, fourth)
}

fn ip(line: &str) {
    assert!(run("ip", line), "ip {line}");
}

fn run(program: &str, line: &str) -> bool {
    let done = Command::new(program).args(line.split(' ')).output().unwrap();
    done.status.success()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut file = fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut file, &mut bytes).unwrap();
    bytes
}

/// The installed version of gVisor; `./x setup` puts it there.
#[allow(clippy::disallowed_methods, reason = "the tests' own configuration")]
pub(crate) fn runsc_dir() -> PathBuf {
    let home = |rest| std::env::var("HOME").map(|home| PathBuf::from(home).join(rest));
    let assets = std::env::var("TARN_ASSETS_DIR")
        .map(PathBuf::from)
        .or_else(|_| std::env::var("XDG_DATA_HOME").map(|data| PathBuf::from(data).join("tarn")))
        .or_else(|_| home(".local/share/tarn"))
        .unwrap();
    let current = assets.join("runsc/current");
    let version = fs::read_to_string(&current)
        .unwrap_or_else(|error| panic!("{}: {error}; run `./x setup`", current.display()));
    assets.join("runsc").join(version.trim())
}

/// Compiles the program that plays the daemon.
pub(crate) fn guest_program() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("guest");
        // By the whole stem: the compiler names its own files after that, and others compile too.
        let fresh = target.with_file_name(format!("guest-{}", std::process::id()));
        let done = Command::new("rustc")
            .args(["--edition=2024", "-O", "--target=x86_64-unknown-linux-musl", "-o"])
            .arg(&fresh)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/guest_program.rs"))
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fs::rename(&fresh, &target).unwrap();
        target
    };
    BUILT.get_or_init(build).clone()
}

fn cgroup_dirs(below: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter(|line| line.contains(" - cgroup"));
    let points = points.filter_map(|line| line.split(' ').nth(4));
    points.map(|point| Path::new(point).join(below)).filter(|dir| dir.is_dir()).collect()
}

fn members(group: &Path) -> Vec<u32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn wait_until_groups_are_removed(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            wait_until_groups_are_removed(&entry.path());
        }
    }
    for _ in 0..500 {
        if !dir.exists() || fs::remove_dir(dir).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found
}

/// Names living processes with a word in their command line; zombies have none.
fn processes_naming(word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(word) {
            found.push(format!("process {} {line}", entry.path().display()));
        }
    }
    found
}
