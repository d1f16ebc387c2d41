//! The cgroups of sandboxes: `tarn_<tag>/<id>` in each hierarchy, versions 1 and 2; and while it
//! starts, of one that nobody waits for, another one for its CPU time ([`aside`]). The server may
//! have one of its own ([`own`]).
//!
//! They are ours and not the backend's: the backend is run inside them, so everything it starts
//! is in them from its first page, and membership says what belongs to a sandbox even when the
//! backend's own files are half written.

mod aside;
mod layout;
mod memory;
mod own;
mod value;

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use tarn_types::{InstanceTag, SandboxId};

use self::{
    aside::{Aside, Place},
    layout::Controller,
    own::OwnGroup,
    value::{Need, Setting},
};
pub(crate) use self::{
    layout::{CgroupVersion, Layout, LayoutError},
    memory::{MemoryAlarm, MemoryGauge},
};
use crate::limits::Limits;

/// On version 2, where the processes go that were in the group which ours lie in.
const SERVER: &str = "tarn_server";

/// The hierarchies, with a parent group of ours in each.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    layout: Layout,
    parent: String,
    aside: Option<Aside>,
    own: Option<OwnGroup>,
}

/// The groups of one sandbox.
#[derive(Debug, Clone)]
pub(crate) struct SandboxCgroup {
    layout: Layout,
    /// Below each hierarchy.
    path: PathBuf,
    /// Where it is started if nobody waits for it.
    aside: Option<Place>,
}

// === impl Cgroups ===

impl Cgroups {
    /// Names the parent groups, which may not exist.
    pub(crate) fn find(layout: Layout, tag: &InstanceTag) -> Self {
        let parent = format!("tarn_{tag}");
        let cpu = layout.own_cpu_dir();
        let aside = cpu.map(|dir| Aside::new(dir.join(format!("{parent}_aside"))));
        let own = cpu.map(|dir| OwnGroup::new(dir, format!("{parent}_server")));
        Self { layout, parent, aside, own }
    }

    /// Makes the parent groups.
    ///
    /// # Errors
    /// Fails when a group cannot be made or, on version 2, cannot hand on its controllers.
    pub(crate) fn open(layout: Layout, tag: &InstanceTag) -> io::Result<Self> {
        let cgroups = Self::find(layout, tag);
        let hands_on = cgroups.layout.version() == CgroupVersion::V2;
        for dir in cgroups.layout.dirs() {
            let parent = dir.join(&cgroups.parent);
            if hands_on {
                hand_on_controllers(dir)?;
            }
            create_group(&parent)?;
            if hands_on {
                hand_on_controllers(&parent)?;
            }
        }
        if let Some(aside) = &cgroups.aside {
            aside.open()?;
        }
        Ok(cgroups)
    }

    /// Gives this process a greater share of the CPU than all sandboxes together have. Says no
    /// where that is not ours to do.
    pub(crate) fn put_server_first(&self) -> io::Result<bool> {
        match (&self.layout, &self.own) {
            (Layout::V2 { base }, _) => own::weigh(&base.join(SERVER)),
            (Layout::V1 { .. }, Some(group)) => group.enter(&own_groups()?),
            (Layout::V1 { .. }, None) => Ok(false),
        }
    }

    /// Removes the parent groups, unless there are sandboxes, and that of the server.
    pub(crate) fn close(&self) {
        if let Some(group) = &self.own {
            group.leave(&own_groups().unwrap_or_default());
        }
        for dir in self.layout.dirs() {
            // The kernel refuses while there are groups within.
            drop(fs::remove_dir(dir.join(&self.parent)));
        }
        if let Some(aside) = &self.aside {
            aside.close();
        }
    }

    pub(crate) fn sandbox(&self, id: &SandboxId) -> SandboxCgroup {
        let path = Path::new(&self.parent).join(id.as_str());
        let home = self.layout.dir(Controller::Cpu).join(&path);
        let aside = self.aside.as_ref().map(|aside| aside.place(id.as_str(), home));
        SandboxCgroup { layout: self.layout.clone(), path, aside }
    }

    /// Brings in whatever is being started aside: what is to be ended soon must not wait for
    /// everybody else on the host.
    pub(crate) fn come_in(&self) {
        let names = self.aside.iter().flat_map(Aside::names);
        for id in names.filter_map(|name| name.parse::<SandboxId>().ok()) {
            if let Err(error) = self.sandbox(&id).come_in() {
                tracing::debug!(sandbox.id = %id, %error, "what is started aside stays there");
            }
        }
    }

    /// Returns every sandbox that has a group in any hierarchy.
    pub(crate) fn list(&self) -> io::Result<Vec<SandboxId>> {
        let mut ids = Vec::new();
        let parents = self.layout.dirs().into_iter().map(|dir| dir.join(&self.parent));
        for parent in parents.chain(self.aside.as_ref().map(|aside| aside.dir().to_owned())) {
            let entries = match fs::read_dir(parent) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            for entry in entries {
                let name = entry?.file_name();
                ids.extend(name.to_str().and_then(|name| name.parse::<SandboxId>().ok()));
            }
        }
        Ok(ids)
    }

    /// Reads the memory of all sandboxes together.
    pub(crate) fn memory(&self) -> MemoryGauge {
        let dir = self.layout.dir(Controller::Memory).join(&self.parent);
        MemoryGauge::new(self.layout.version(), dir)
    }
}

// === impl SandboxCgroup ===

impl SandboxCgroup {
    fn dir(&self, controller: Controller) -> PathBuf {
        self.layout.dir(controller).join(&self.path)
    }

    fn dirs(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.layout.dirs().into_iter().map(|dir| dir.join(&self.path))
    }

    /// Makes the groups and sets every limit but the CPU quota.
    pub(crate) fn create(&self, limits: &Limits) -> io::Result<()> {
        for dir in self.dirs() {
            create_group(&dir)?;
        }
        if let Some(aside) = self.aside.as_ref().filter(|_| limits.cpu_idle) {
            aside.create()?;
        }
        self.set_all(&value::at_create(self.layout.version(), limits))
    }

    /// Sets the CPU quota. It comes after the start, so that a small sandbox boots at full speed.
    pub(crate) fn set_cpu_quota(&self, limits: &Limits) -> io::Result<()> {
        self.set_all(&value::at_start(self.layout.version(), limits))
    }

    /// Sets quota and share of a running sandbox.
    pub(crate) fn set_cpu(&self, limits: &Limits) -> io::Result<()> {
        self.set_cpu_share(limits)?;
        self.set_cpu_quota(limits)
    }

    /// Sets how much of a busy CPU it gets.
    pub(crate) fn set_cpu_share(&self, limits: &Limits) -> io::Result<()> {
        self.set_all(&value::cpu_share(self.layout.version(), limits))
    }

    fn set_all(&self, settings: &[Setting]) -> io::Result<()> {
        for Setting { controller, file, value, need } in settings {
            let path = self.dir(*controller).join(file);
            // Not created: a hierarchy refuses that, and does not say that the file is not there.
            let opened = OpenOptions::new().write(true).truncate(true).open(&path);
            match opened.and_then(|mut file| file.write_all(value.as_bytes())) {
                Ok(()) => {}
                Err(error)
                    if *need == Need::IfPresent && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at(&path, &error)),
            }
        }
        Ok(())
    }

    /// Returns, for each hierarchy, the file by which a process of one thread enters itself.
    pub(crate) fn doors(&self) -> Vec<PathBuf> {
        let name = match self.layout.version() {
            // A thread that moves itself waits for nobody; by `cgroup.procs` every fork on the
            // host is held up and an RCU grace period passes, which takes 5 to 20 ms.
            CgroupVersion::V1 => "tasks",
            CgroupVersion::V2 => "cgroup.procs",
        };
        let entered = |dir: PathBuf| match &self.aside {
            Some(aside) if dir == self.dir(Controller::Cpu) && aside.exists() => {
                aside.dir().to_owned()
            }
            _ => dir,
        };
        self.dirs().map(|dir| entered(dir).join(name)).collect()
    }

    /// Says whether it is being started aside.
    pub(crate) fn is_aside(&self) -> bool {
        self.aside.as_ref().is_some_and(Place::exists)
    }

    /// Brings what has been started aside so far among the others. Blocks: run it apart.
    pub(crate) fn come_in(&self) -> io::Result<()> {
        self.aside.as_ref().map_or(Ok(()), Place::come_in)
    }

    /// Brings what was started aside among the others, and is done with that. Blocks: run it apart.
    pub(crate) fn end_aside(&self) -> io::Result<()> {
        self.aside.as_ref().map_or(Ok(()), Place::end)
    }

    /// Returns the processes of the sandbox, dead ones not included. No group: none.
    pub(crate) fn processes(&self) -> io::Result<Vec<u32>> {
        // Every process is in every hierarchy, wherever its CPU group is, but one caught between
        // fork and exec may have entered the first only.
        let mut pids = Vec::new();
        for dir in self.dirs() {
            match fs::read_to_string(dir.join("cgroup.procs")) {
                Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
                // The second: the group was removed while the file was open.
                Err(error) if error.kind() == io::ErrorKind::NotFound || is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Lets every process go on that the cgroup freezer holds. Nobody here freezes by it: see
    /// [`crate::command::Motion`].
    pub(crate) fn thaw(&self) -> io::Result<()> {
        let (file, word) = match self.layout.version() {
            CgroupVersion::V1 => ("freezer.state", "THAWED"),
            CgroupVersion::V2 => ("cgroup.freeze", "0"),
        };
        if !self.layout.can_freeze() {
            return Ok(());
        }
        fs::write(self.dir(Controller::Freezer).join(file), word)
    }

    /// Returns the CPU time used, in microseconds.
    pub(crate) fn cpu_micros(&self) -> io::Result<u64> {
        let dir = self.dir(Controller::CpuAccount);
        match self.layout.version() {
            CgroupVersion::V1 => {
                let nanos = value::number(&fs::read_to_string(dir.join("cpuacct.usage"))?);
                Ok(nanos / 1000)
            }
            CgroupVersion::V2 => {
                let stat = fs::read_to_string(dir.join("cpu.stat"))?;
                Ok(value::field(&stat, "usage_usec").unwrap_or(0))
            }
        }
    }

    pub(crate) fn memory(&self) -> MemoryGauge {
        MemoryGauge::new(self.layout.version(), self.dir(Controller::Memory))
    }

    /// Removes the groups. Says no while one is busy: it has processes, or its last one ended a
    /// moment ago.
    pub(crate) fn try_remove(&self) -> io::Result<bool> {
        let mut gone = self.aside.as_ref().map_or(Ok(true), Place::try_remove)?;
        for dir in self.dirs() {
            match fs::remove_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => gone = false,
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(at(&dir, &error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(gone)
    }
}

/// Gives the groups below a version 2 group the controllers that limits need.
///
/// A group with processes of its own may not: where they are the service's, or a container's,
/// they go into a group beside ours first.
fn hand_on_controllers(dir: &Path) -> io::Result<()> {
    let control = dir.join("cgroup.subtree_control");
    let hand_on = || fs::write(&control, "+memory +cpu +pids");
    let handed = match hand_on() {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let leaf = dir.join(SERVER);
            create_group(&leaf)?;
            for pid in fs::read_to_string(dir.join("cgroup.procs"))?.lines() {
                // One that ended meanwhile need not move.
                drop(fs::write(leaf.join("cgroup.procs"), pid));
            }
            hand_on()
        }
        other => other,
    };
    handed.map_err(|error| at(&control, &error))
}

/// Reads which groups this process is in.
fn own_groups() -> io::Result<String> {
    fs::read_to_string("/proc/self/cgroup")
}

fn create_group(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(dir, &error)),
        _ => Ok(()),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

/// Adds the path, which the system's errors lack.
fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A directory that looks like a version 2 hierarchy. Version 1 is tested for real.
    fn fake() -> (tempfile::TempDir, Cgroups) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::V2 { base: dir.path().to_owned() };
        let cgroups = Cgroups::open(layout, &"abc123".parse().unwrap()).unwrap();
        (dir, cgroups)
    }

    fn id() -> SandboxId {
        SandboxId::from_random([1; 21])
    }

    #[test]
    fn version_2_hands_controllers_down_and_lists_its_own() {
        let (dir, cgroups) = fake();
        for group in ["", "tarn_abc123"] {
            let control = dir.path().join(group).join("cgroup.subtree_control");
            assert_eq!(fs::read_to_string(control).unwrap(), "+memory +cpu +pids");
        }
        let group = cgroups.sandbox(&id());
        assert_eq!(group.processes().unwrap(), Vec::<u32>::new());
        group.set_all(&[]).unwrap();
        create_group(&group.dir(Controller::Memory)).unwrap();
        assert_eq!(cgroups.list().unwrap(), [id()]);

        assert!(!cgroups.put_server_first().unwrap(), "it is where somebody else has put it");
        create_group(&dir.path().join("tarn_server")).unwrap();
        assert!(cgroups.put_server_first().unwrap());
        let weight = fs::read_to_string(dir.path().join("tarn_server/cpu.weight")).unwrap();
        assert_eq!(weight, "400");
    }

    #[test]
    fn version_2_is_read_and_written() {
        let (_dir, cgroups) = fake();
        let group = cgroups.sandbox(&id());
        let dir = group.dir(Controller::Memory);
        create_group(&dir).unwrap();
        let file = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
        file("memory.current", "1000000000\n");
        file("memory.stat", "anon 1\ninactive_file 300000000\nactive_file 100000000\n");
        file("memory.high", "700000000\n");
        file("memory.events", "high 3\noom_kill 0\n");
        file("cpu.stat", "usage_usec 42\nuser_usec 40\n");
        file("cgroup.procs", "30\n7\n");

        let memory = group.memory();
        let reading = memory.read().unwrap();
        assert_eq!((reading.usage, reading.demand), (1_000_000_000, 600_000_000));
        assert!(!reading.stuck);
        file("memory.max", "1371088640\n");
        let limits = || {
            ["memory.high", "memory.max"].map(|name| fs::read_to_string(dir.join(name)).unwrap())
        };
        memory.rebound(900_000_000, 900_000_000).unwrap();
        assert_eq!(limits(), ["900000000", "1571088640"]);
        memory.rebound(400_000_000, 400_000_000).unwrap();
        assert_eq!(limits(), ["400000000", "1071088640"]);
        let busy = memory.rebound(100_000_000, 100_000_000).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(limits()[1], "1071088640", "more than that is in use");
        memory.set_limit(600_000_000).unwrap();
        assert_eq!(fs::read_to_string(dir.join("memory.high")).unwrap(), "600000000");
        assert!(memory.read().unwrap().stuck);
        assert!(!memory.has_killed());
        file("memory.events", "high 3\noom_kill 1\n");
        assert!(memory.has_killed());

        fs::write(
            dir.parent().unwrap().join("memory.stat"),
            "file 9000\nfile_mapped 1\nfile_dirty 5000\nfile_writeback 300\n",
        )
        .unwrap();
        assert_eq!(cgroups.memory().unwritten().unwrap(), 5300);

        assert_eq!(group.cpu_micros().unwrap(), 42);
        assert_eq!(group.processes().unwrap(), [7, 30]);
        group.thaw().unwrap();
        assert_eq!(fs::read_to_string(dir.join("cgroup.freeze")).unwrap(), "0");
    }

    #[test]
    fn what_is_left_aside_is_listed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let hierarchy = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let layout = Layout::V1 {
            memory: hierarchy("memory"),
            cpu: hierarchy("cpu"),
            cpu_account: hierarchy("cpuacct"),
            pids: hierarchy("pids"),
            freezer: None,
        };
        let cgroups = Cgroups::open(layout, &"abc123".parse().unwrap()).unwrap();
        let aside = dir.path().join("cpu/tarn_abc123_aside");
        assert!(!aside.exists(), "no kernel with idle groups");
        let group = cgroups.sandbox(&id());
        let place = group.aside.clone().unwrap();
        place.create().unwrap();
        assert!(!group.is_aside(), "nothing is started there");
        assert_eq!(group.doors()[1], dir.path().join(format!("cpu/tarn_abc123/{}/tasks", id())));

        fs::create_dir(&aside).unwrap();
        place.create().unwrap();
        assert!(group.is_aside());
        assert_eq!(group.doors()[1], aside.join(id().as_str()).join("tasks"));
        assert_eq!(cgroups.list().unwrap(), [id()]);
        assert!(group.try_remove().unwrap());
        assert!(!group.is_aside() && aside.exists());
        group.end_aside().unwrap();
        cgroups.close();
        assert!(!aside.exists());
    }

    #[test]
    fn a_setting_that_the_kernel_lacks_is_left_out_if_it_may_be() {
        let (_dir, cgroups) = fake();
        let group = cgroups.sandbox(&id());
        let dir = group.dir(Controller::Memory);
        create_group(&dir).unwrap();
        fs::write(dir.join("memory.high"), "").unwrap();
        let setting = |file, need| Setting {
            controller: Controller::Memory,
            file,
            value: "1".to_owned(),
            need,
        };
        let high = setting("memory.high", Need::Must);
        group.set_all(&[setting("memory.swap.max", Need::IfPresent), high]).unwrap();
        assert!(!dir.join("memory.swap.max").exists(), "it was not made");
        assert_eq!(fs::read_to_string(dir.join("memory.high")).unwrap(), "1");
        let refused = group.set_all(&[setting("memory.oom.group", Need::Must)]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn version_2_rings_when_its_events_change() {
        let (_dir, cgroups) = fake();
        let group = cgroups.sandbox(&id());
        let dir = group.dir(Controller::Memory);
        create_group(&dir).unwrap();
        let events = dir.join("memory.events");
        fs::write(&events, "high 0\n").unwrap();
        let mut alarm = group.memory().alarm(1).unwrap();
        for round in 1..3 {
            fs::write(&events, format!("high {round}\n")).unwrap();
            let rang = tokio::time::timeout(Duration::from_secs(10), alarm.ring()).await;
            rang.expect("it rings").unwrap();
        }
    }
}
