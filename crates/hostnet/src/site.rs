//! Slots as objects of the host: a namespace, a pair of interfaces, addresses.
//!
//! Blocking. A slot is a file in the run directory on which its namespace is mounted, and an
//! interface of the same name; whatever has only one of them was left by a crash.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{NSFS_MAGIC, statfs},
};
use tarn_host::SlotId;

use crate::{
    error::{Step as _, StepFailure},
    netlink::{
        Place, Rate, Spared, add_address, add_neighbour, add_route, change_routes,
        delete_interface, forward, interfaces, is_running, lift, make_no_addresses, new_veth,
        shape, unshape,
    },
    plan::{
        Face, GATEWAY, GATEWAY_MAC, GATEWAY6, INSIDE, INSIDE_MAC, INSIDE6, LINK_PREFIX,
        LINK_PREFIX6, Names,
    },
};

/// The interface inside, as runtimes expect it.
const INSIDE_INTERFACE: &str = "eth0";
/// The kernel connects a link in less than one; this is for machines that are very busy.
const LINK_PATIENCE_MS: u32 = 5000;
/// The kernel has no IPv6 on links that take less (RFC 8200 §5).
const LEAST_MTU6: u32 = 1280;
/// The namespace of the calling thread.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// The kernel's settings of IPv6, by interface.
const IPV6: &str = "/proc/sys/net/ipv6/conf";

/// Where slots are built.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) names: Names,
    pub(crate) run_dir: PathBuf,
    /// What passes between a sandbox and the world in a second, each way; none if unlimited.
    pub(crate) rate: Option<Rate>,
    /// Whether slots have IPv6.
    pub(crate) has_ipv6: bool,
}

/// The slots that the host has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Those with both a namespace and an interface.
    pub(crate) whole: BTreeSet<SlotId>,
    /// Those that a crash left half built or half removed.
    pub(crate) broken: BTreeSet<SlotId>,
}

// === impl Site ===

impl Site {
    /// Returns the file that is a slot's namespace.
    pub(crate) fn netns(&self, slot: SlotId) -> PathBuf {
        self.run_dir.join(self.names.interface(slot))
    }

    /// Says whether a slot has both a namespace and an interface.
    pub(crate) fn is_whole(&self, slot: SlotId) -> Result<bool, StepFailure> {
        let interface = self.names.interface(slot);
        let linked = match if_nametoindex(interface.as_str()) {
            Ok(_index) => true,
            Err(Errno::ENODEV | Errno::ENXIO) => false,
            Err(error) => return Err(error).step("find interface"),
        };
        let namespace = match statfs(&self.netns(slot)) {
            Ok(status) => status.filesystem_type() == NSFS_MAGIC,
            Err(Errno::ENOENT) => false,
            Err(error) => return Err(error).step("look at namespace"),
        };
        Ok(linked && namespace)
    }

    /// Looks at what the host has.
    pub(crate) fn survey(&self) -> Result<Survey, StepFailure> {
        let linked: BTreeSet<SlotId> = interfaces()
            .step("list interfaces")?
            .iter()
            .filter_map(|interface| self.names.slot(&interface.name))
            .collect();
        let mut filed = BTreeSet::new();
        let entries = match fs::read_dir(&self.run_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            entries => Some(entries.step("read run directory")?),
        };
        for entry in entries.into_iter().flatten() {
            let entry = entry.step("read run directory")?;
            filed.extend(entry.file_name().to_str().and_then(|name| self.names.slot(name)));
        }
        let whole: BTreeSet<SlotId> = linked
            .intersection(&filed)
            .copied()
            .filter(|slot| is_namespace(&self.netns(*slot)))
            .collect();
        let broken = linked.union(&filed).copied().filter(|slot| !whole.contains(slot)).collect();
        Ok(Survey { whole, broken })
    }

    /// Builds a slot. Nothing of it stays if that fails.
    pub(crate) fn build(&self, face: &Face, mtu: u32) -> Result<(), StepFailure> {
        let built = self.raise(face, mtu);
        if built.is_err() {
            // The first failure is the one to tell; what stays is found again by the next survey.
            drop(self.demolish(face.slot));
        }
        built
    }

    /// Puts the addresses inside back, which a runtime takes away at start
    /// (`runtime-gvisor.md` §7).
    fn refresh(&self, slot: SlotId) -> Result<(), StepFailure> {
        let netns = File::open(self.netns(slot)).step("open namespace")?;
        in_thread(move || {
            setns(netns, CloneFlags::CLONE_NEWNET).step("enter namespace")?;
            furnish_inside()
        })
    }

    /// Says whether a slot has IPv6; one that was built without has none until it is built anew.
    pub(crate) fn has_ipv6(&self, slot: SlotId) -> bool {
        has_ipv6(&self.names.interface(slot))
    }

    /// Makes a closed slot fit for another sandbox.
    pub(crate) fn renew(&self, slot: SlotId, mtu: u32) -> Result<(), StepFailure> {
        if self.has_ipv6(slot) != self.gets_ipv6(mtu) {
            let detail = "it was built for another set of address families".into();
            return Err(StepFailure { step: "look at its addresses", detail });
        }
        if self.rate.is_some() {
            // What still waits is the last sandbox's, addressed as the next one's would be.
            self.reshape(slot)?;
        }
        self.refresh(slot)
    }

    /// Holds a slot that an earlier life of this server built to the rate of this one.
    pub(crate) fn reshape(&self, slot: SlotId) -> Result<(), StepFailure> {
        let (name, rate) = (self.names.interface(slot), self.rate);
        reshape_end(&name, rate, Spared::From(GATEWAY))?;
        let netns = File::open(self.netns(slot)).step("open namespace")?;
        in_thread(move || {
            setns(netns, CloneFlags::CLONE_NEWNET).step("enter namespace")?;
            reshape_end(INSIDE_INTERFACE, rate, Spared::To(GATEWAY))
        })
    }

    /// Removes all of a slot that there is.
    pub(crate) fn demolish(&self, slot: SlotId) -> Result<(), StepFailure> {
        match change_routes(vec![delete_interface(&self.names.interface(slot))]) {
            Ok(()) => {}
            Err(error) if error.errno == Errno::ENODEV => {}
            Err(error) => return Err(error).step("delete interface"),
        }
        let file = self.netns(slot);
        // Once for each mount on the file; more than one only after a crash between two builds.
        while is_namespace(&file) {
            umount2(&file, MntFlags::MNT_DETACH).step("unmount namespace")?;
        }
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).step("remove namespace file")
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn gets_ipv6(&self, mtu: u32) -> bool {
        self.has_ipv6 && mtu >= LEAST_MTU6
    }

    fn raise(&self, face: &Face, mtu: u32) -> Result<(), StepFailure> {
        let (slot, gets_ipv6) = (face.slot, self.gets_ipv6(mtu));
        let file = self.netns(slot);
        if file.exists() {
            // Left by a build that failed and could not be undone.
            self.demolish(slot)?;
        }
        File::create(&file).step("create namespace file")?;
        let host = File::open(OWN_NETNS).step("open own namespace")?;
        let (name, near, rate) = (&face.interface, face.interface.clone(), self.rate);
        in_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET).step("make namespace")?;
            mount(Some(OWN_NETNS), &file, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .step("mount namespace")?;
            // Interfaces are made with what is set here.
            if gets_ipv6 {
                open_ipv6("default")?;
            } else {
                close_ipv6("default");
            }
            keep_ipv6_loopback();
            let inside = Place { name: INSIDE_INTERFACE, mac: INSIDE_MAC, netns: None };
            let outside = Place { name: &near, mac: GATEWAY_MAC, netns: Some(host.as_fd()) };
            change_routes(vec![new_veth(inside, outside, mtu)]).step("make interfaces")?;
            if gets_ipv6 {
                let index = if_nametoindex(INSIDE_INTERFACE).step("find interface inside")?;
                change_routes(vec![make_no_addresses(index)]).step("set up IPv6 inside")?;
            }
            shape_end(INSIDE_INTERFACE, rate, Spared::To(GATEWAY))
        })?;
        shape_end(name, rate, Spared::From(GATEWAY))?;
        if gets_ipv6 {
            open_ipv6(name)?;
            forward_ipv6(name)?;
        } else {
            close_ipv6(name);
        }
        furnish_outside(face)?;
        self.refresh(slot)?;
        wait_until_running(name)
    }
}

/// Holds what goes out of a new end of a link to a rate. Before it is lifted: the kernel waits for
/// nobody then.
///
/// What the host itself says and is told is spared: it is the server's, and goes before the rest.
fn shape_end(name: &str, rate: Option<Rate>, spared: Spared) -> Result<(), StepFailure> {
    let Some(rate) = rate else { return Ok(()) };
    let index = if_nametoindex(name).step("find interface")?;
    change_routes(shape(index, rate, spared)).step("limit bandwidth")
}

/// Tries on a namespace that is gone afterwards whether the kernel holds it to a rate. Blocking.
pub(crate) fn try_rate(rate: Rate) -> Result<(), StepFailure> {
    in_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET).step("make namespace")?;
        shape_end("lo", Some(rate), Spared::To(GATEWAY))
    })
}

/// Holds an end to another rate, or to none.
fn reshape_end(name: &str, rate: Option<Rate>, spared: Spared) -> Result<(), StepFailure> {
    let index = if_nametoindex(name).step("find interface")?;
    match change_routes(vec![unshape(index)]) {
        Ok(()) => {}
        // It had none.
        Err(error) if matches!(error.errno, Errno::ENOENT | Errno::EINVAL) => {}
        Err(error) => return Err(error).step("lift the limit of bandwidth"),
    }
    shape_end(name, rate, spared)
}

/// Sets up the host's end.
fn furnish_outside(face: &Face) -> Result<(), StepFailure> {
    let name = face.interface.as_str();
    // The strict reverse-path check is the net below the rules: it drops whatever still has its
    // inside address.
    for (key, value) in [
        ("rp_filter", "1"),
        ("accept_redirects", "0"),
        // A packet may not name the routers it goes by, whatever the host allows elsewhere.
        ("accept_source_route", "0"),
    ] {
        fs::write(format!("/proc/sys/net/ipv4/conf/{name}/{key}"), value)
            .step("set interface options")?;
    }
    let index = if_nametoindex(name).step("find interface")?;
    // Forwarding is asked of the interface that a packet comes in by; the host's own setting
    // stays as it is.
    let mut changes = vec![forward(index), add_address(index, GATEWAY, 32)];
    if has_ipv6(name) {
        changes.push(make_no_addresses(index));
    }
    changes.extend([
        lift(index),
        add_route(index, face.v4, 32, None, Some(GATEWAY)),
        // The rewriting comes before the neighbour is looked up.
        add_neighbour(index, INSIDE, INSIDE_MAC),
    ]);
    if has_ipv6(name) {
        // No address: nobody here is to be spoken to.
        changes.push(add_route(index, face.v6, 128, None, None));
        changes.push(add_neighbour(index, INSIDE6, INSIDE_MAC));
    }
    change_routes(changes).step("set up the host's end")
}

/// Waits for the end that was lifted first, the host's: the kernel connects it in the background,
/// and drops what is sent by it until then.
fn wait_until_running(name: &str) -> Result<(), StepFailure> {
    for _ in 0..LINK_PATIENCE_MS {
        if is_running(name).step("look at interface")? {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(StepFailure { step: "wait for interface", detail: "its link does not come up".into() })
}

/// Sets up loopback and the end inside, as the calling thread's namespace has them.
fn furnish_inside() -> Result<(), StepFailure> {
    let loopback = if_nametoindex("lo").step("find loopback")?;
    let index = if_nametoindex(INSIDE_INTERFACE).step("find interface inside")?;
    let mut changes = vec![
        lift(loopback),
        add_address(index, INSIDE, LINK_PREFIX),
        lift(index),
        add_route(index, Ipv4Addr::UNSPECIFIED, 0, Some(GATEWAY.into()), None),
        // Fixed, so that nobody needs to answer ARP, which the reverse-path check would forbid.
        add_neighbour(index, GATEWAY, GATEWAY_MAC),
    ];
    if has_ipv6(INSIDE_INTERFACE) {
        changes.extend([
            add_address(index, INSIDE6, LINK_PREFIX6),
            add_route(index, Ipv6Addr::UNSPECIFIED, 0, Some(GATEWAY6.into()), None),
            add_neighbour(index, GATEWAY6, GATEWAY_MAC),
        ]);
    }
    change_routes(changes).step("set up the end inside")
}

/// Says whether an interface of the calling thread's namespace has IPv6.
fn has_ipv6(interface: &str) -> bool {
    fs::read_to_string(format!("{IPV6}/{interface}/disable_ipv6"))
        .is_ok_and(|value| value.trim() == "0")
}

/// Has an end that is down, or every one to come, take and send IPv6, with the addresses and routes
/// alone that it is given. That it makes itself none is asked for apart ([`make_no_addresses`]).
fn open_ipv6(interface: &str) -> Result<(), StepFailure> {
    let conf = Path::new(IPV6).join(interface);
    for (key, value) in [
        // Nothing that a neighbour says is believed.
        ("accept_ra", "0"),
        ("autoconf", "0"),
        ("accept_redirects", "0"),
    ] {
        fs::write(conf.join(key), value).step("set interface options of IPv6")?;
    }
    switch(interface, true).step("set interface options of IPv6")
}

/// Has the host take what a slot sends out; where the kernel knows no such thing, the host
/// forwards.
fn forward_ipv6(interface: &str) -> Result<(), StepFailure> {
    let forwarding = format!("{IPV6}/{interface}/force_forwarding");
    match fs::write(forwarding, "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written.step("switch forwarding of IPv6 on"),
    }
}

/// Takes IPv6 off an interface. The rules drop it anyway; a kernel without IPv6 has no such file.
fn close_ipv6(interface: &str) {
    drop(switch(interface, false));
}

/// Leaves `::1` to the sandbox: programs that listen on `localhost` expect both families, and its
/// loopback reaches nobody. Best effort as above.
fn keep_ipv6_loopback() {
    drop(switch("lo", true));
}

/// Switches IPv6 on or off.
///
/// A write that changes nothing is not made: while anybody changes interfaces, the kernel has the
/// writer try again and again, and takes a processor for that.
fn switch(interface: &str, on: bool) -> io::Result<()> {
    if has_ipv6(interface) == on {
        return Ok(());
    }
    fs::write(format!("{IPV6}/{interface}/disable_ipv6"), if on { "0" } else { "1" })
}

/// Runs work in a thread of its own, which may change its namespace and then ends.
fn in_thread<T: Send>(
    work: impl FnOnce() -> Result<T, StepFailure> + Send,
) -> Result<T, StepFailure> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("slot-netns".into()).spawn_scoped(scope, work);
        thread.step("start thread")?.join().unwrap_or_else(|_| {
            Err(StepFailure { step: "run in namespace", detail: "the thread panicked".into() })
        })
    })
}

fn is_namespace(file: &Path) -> bool {
    statfs(file).is_ok_and(|status| status.filesystem_type() == NSFS_MAGIC)
}
