//! The ways from this host to the internet, and forwarding on them.
//!
//! IPv4 asks the interface a packet comes in by whether it may be forwarded. Ours say yes; answers
//! come in by the uplink, so it must say yes as well. Where the host forwards already, nothing is
//! touched. Where it doesn't, each uplink is switched on and *guarded*: the rules drop whatever
//! others try to send through the host by it, so it becomes a router for nobody.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use nix::errno::Errno;

use crate::{
    egress::{Span, merge},
    error::{Step as _, StepFailure},
    netlink::{
        Interface, Route, addresses6, change_routes, forbid_source, interfaces, permit_source,
        routes, routes6,
    },
    opened::OpenedNetworks,
    plan::{AddressRange, INSIDE6, mask6},
    ruleset::{Ways, is_closed},
};

/// The size of packets where no uplink says otherwise.
const ETHERNET_MTU: u32 = 1500;
/// The smallest size that an uplink may ask for.
const LEAST_MTU: u32 = 576;
/// From this length on the prefix of an IPv6 route without a router is a network that the host is
/// on; shorter ones are a tunnel's way to everywhere.
const NETWORK6: u8 = 16;

/// Ways out, and the largest packet that all of them take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uplinks {
    pub(crate) names: BTreeSet<String>,
    pub(crate) mtu: u32,
    pub(crate) six: Six,
}

/// Ways out by IPv6.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Six {
    pub(crate) names: BTreeSet<String>,
    /// Networks that the host itself is on.
    pub(crate) near: BTreeSet<Span>,
    /// Why there is no way, if there is none.
    pub(crate) lack: Option<Lack>,
}

/// Why sandboxes have no IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The configuration says so.
    Configured,
    /// The kernel has none, or it is switched off.
    Off,
    /// No route leads to public addresses.
    NoRoute,
    /// The host has no public address, so its own programs prefer IPv4, too.
    NoAddress,
    /// The host does not forward, and its kernel cannot do so for single interfaces.
    OldKernel,
}

/// A family that is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IpFamily {
    V4,
    V6,
}

/// Finds the ways out. Blocking.
pub(crate) fn find(range: AddressRange, opened: &OpenedNetworks) -> Result<Uplinks, StepFailure> {
    let interfaces = interfaces().step("list interfaces")?;
    let uplinks = choose(&interfaces, &routes().step("list routes")?, range, opened);
    let six = match kernel_lack() {
        // A kernel without IPv6 may refuse the questions; IPv4 goes on.
        Some(lack) => Six { lack: Some(lack), ..Six::default() },
        // What is not known must not pass for a host without neighbours.
        None => {
            let routes = routes6().step("list routes of IPv6")?;
            let addresses = addresses6().step("list addresses of IPv6")?;
            choose6(&interfaces, &routes, &addresses, opened)
        }
    };
    let of_six = interfaces.iter().filter(|interface| six.names.contains(&interface.name));
    let mtu = of_six.map(|interface| interface.mtu).fold(uplinks.mtu, u32::min).max(LEAST_MTU);
    Ok(Uplinks { six, mtu, ..uplinks })
}

/// Says what the kernel lacks for IPv6, if anything. Blocking.
pub(crate) fn kernel_lack() -> Option<Lack> {
    let all = Path::new("/proc/sys/net/ipv6/conf/all");
    let is_on = |key: &str| fs::read_to_string(all.join(key)).is_ok_and(|it| it.trim() != "0");
    if !all.exists() || is_on("disable_ipv6") {
        return Some(Lack::Off);
    }
    (!is_on("forwarding") && !all.join("force_forwarding").exists()).then_some(Lack::OldKernel)
}

/// Says what the rules are to know of the ways out, as they will be once forwarding is on.
/// Blocking.
///
/// Takes what they know so far.
pub(crate) fn lead(uplinks: &Uplinks, so_far: &Ways) -> Result<Ways, StepFailure> {
    let has_ipv6 = uplinks.six.lack.is_none();
    let none = BTreeSet::new();
    let names6 = if has_ipv6 { &uplinks.six.names } else { &none };
    Ok(Ways {
        guarded: forward_on(IpFamily::V4, &uplinks.names, &so_far.guarded)?,
        guarded6: forward_on(IpFamily::V6, names6, &so_far.guarded6)?,
        near6: uplinks.six.near.clone(),
        has_ipv6,
    })
}

/// Makes sure that packets can come back by the uplinks.
///
/// Takes the interfaces that are guarded so far and returns those that must be from now on.
fn forward_on(
    family: IpFamily,
    uplinks: &BTreeSet<String>,
    guarded: &BTreeSet<String>,
) -> Result<BTreeSet<String>, StepFailure> {
    // Nothing to do, and perhaps no such kernel.
    if uplinks.is_empty() && guarded.is_empty() || family.host_forwards()? {
        return Ok(BTreeSet::new());
    }
    let mut now = BTreeSet::new();
    for name in uplinks {
        if family.read(name)? {
            // On before we came: the host's own wish, and none of ours to guard.
            now.extend(guarded.get(name).cloned());
            continue;
        }
        now.insert(name.clone());
    }
    // Interfaces that are no way out for the moment stay guarded as long as they forward.
    for name in guarded.difference(uplinks) {
        if family.read(name).unwrap_or(false) {
            now.insert(name.clone());
        }
    }
    Ok(now)
}

/// Switches forwarding on where it is off. Call it once the guard is up.
pub(crate) fn switch_on(ways: &Ways) -> Result<(), StepFailure> {
    for (family, interfaces) in [(IpFamily::V4, &ways.guarded), (IpFamily::V6, &ways.guarded6)] {
        for name in interfaces.iter().filter(|name| matches!(family.read(name), Ok(false))) {
            fs::write(family.path(name), "1").step("switch forwarding on")?;
        }
    }
    Ok(())
}

/// Switches forwarding off again where we switched it on, unless the host forwards by now.
pub(crate) fn switch_off(
    family: IpFamily,
    interfaces: &BTreeSet<String>,
) -> Result<(), StepFailure> {
    if interfaces.is_empty() || family.host_forwards()? {
        return Ok(());
    }
    interfaces
        .iter()
        .filter(|name| matches!(family.read(name), Ok(true)))
        .try_for_each(|name| fs::write(family.path(name), "0").step("switch forwarding off"))
}

/// Has the kernel lead nothing onward by IPv6 that still has its inside address, as it has without
/// our rules: IPv6 has no reverse-path check. One rule serves every server of the host.
pub(crate) fn keep_unwritten_in() {
    match change_routes(vec![forbid_source(INSIDE6)]) {
        Ok(()) => {}
        Err(error) if error.errno == Errno::EEXIST => {}
        Err(error) => tracing::warn!(
            %error,
            "while another program has removed tarn's rules, what sandboxes send by IPv6 leaves the host"
        ),
    }
}

/// Takes that back.
pub(crate) fn forget_unwritten() {
    // Not there on a host without IPv6.
    drop(change_routes(vec![permit_source(INSIDE6)]));
}

/// Has the kernel count the bytes of flows that begin from now on, for network logs. It stays so:
/// others may rely on it by the time we are gone.
pub(crate) fn count_flows() {
    let path = "/proc/sys/net/netfilter/nf_conntrack_acct";
    let is_on = fs::read_to_string(path).is_ok_and(|value| value.trim() == "1");
    if !is_on && let Err(error) = fs::write(path, "1") {
        tracing::warn!(path, %error, "network logs show no bytes of single connections");
    }
}

fn choose(
    interfaces: &[Interface],
    routes: &[Route],
    range: AddressRange,
    opened: &OpenedNetworks,
) -> Uplinks {
    let out: BTreeSet<u32> = routes
        .iter()
        .filter(|route| {
            let own = matches!(route.network, IpAddr::V4(it) if range.contains(it, route.prefix));
            route.onward && may_lead(route, opened) && !own
        })
        .flat_map(|route| route.interfaces.iter().copied())
        .collect();
    let chosen = interfaces.iter().filter(|interface| out.contains(&interface.index));
    let mtu = chosen.clone().map(|interface| interface.mtu).min().unwrap_or(ETHERNET_MTU);
    Uplinks {
        names: chosen.map(|interface| interface.name.clone()).collect(),
        mtu: mtu.clamp(LEAST_MTU, ETHERNET_MTU),
        six: Six::default(),
    }
}

/// Says whether a route leads to addresses that a sandbox may reach.
fn may_lead(route: &Route, opened: &OpenedNetworks) -> bool {
    !is_closed(route.network, route.prefix) || opened.touch(route.network, route.prefix)
}

fn choose6(
    interfaces: &[Interface],
    routes: &[Route],
    addresses: &[IpAddr],
    opened: &OpenedNetworks,
) -> Six {
    let leading = routes.iter().filter(|it| it.onward && may_lead(it, opened));
    // A private network that is opened may be one that the host is on.
    let (near, far): (Vec<&Route>, Vec<&Route>) = leading.partition(|route| {
        route.near && route.prefix >= NETWORK6 && !is_closed(route.network, route.prefix)
    });
    let out: BTreeSet<u32> = far.iter().flat_map(|it| it.interfaces.iter().copied()).collect();
    let names = interfaces.iter().filter(|interface| out.contains(&interface.index));
    let names: BTreeSet<String> = names.map(|interface| interface.name.clone()).collect();
    let is_public = |route: &&Route| !is_closed(route.network, route.prefix);
    let lack = if !far.iter().any(is_public) || names.is_empty() {
        Some(Lack::NoRoute)
    } else if addresses.iter().all(|address| is_closed(*address, 128)) {
        Some(Lack::NoAddress)
    } else {
        None
    };
    Six { names, near: merge(near.iter().filter_map(|route| span_of(route)).collect()), lack }
}

/// Returns the addresses of a route in IPv6; its network may have bits behind its prefix.
fn span_of(route: &Route) -> Option<Span> {
    let IpAddr::V6(network) = route.network else { return None };
    let first = Ipv6Addr::from_bits(network.to_bits() & mask6(route.prefix));
    Some(Span::of(first.into(), route.prefix))
}

// === impl Lack ===

impl Lack {
    /// Says it, and what to do.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Configured => "network.ipv6 is false",
            Self::Off => "the kernel has none, or net.ipv6.conf.all.disable_ipv6 is 1",
            Self::NoRoute => "no route leads to public addresses",
            Self::NoAddress => "the host has a route, but no public address",
            Self::OldKernel => {
                "the host does not forward, and only Linux 6.17 and newer forward for single \
                 interfaces (force_forwarding); sysctl net.ipv6.conf.all.forwarding=1 opens it, \
                 and makes the host a router"
            }
        }
    }
}

// === impl IpFamily ===

impl IpFamily {
    /// Says whether the host forwards between all its interfaces.
    pub(crate) fn host_forwards(self) -> Result<bool, StepFailure> {
        read(match self {
            Self::V4 => "/proc/sys/net/ipv4/conf/all/forwarding",
            Self::V6 => "/proc/sys/net/ipv6/conf/all/forwarding",
        })
    }

    fn read(self, interface: &str) -> Result<bool, StepFailure> {
        read(&self.path(interface))
    }

    /// Names what makes an interface take packets for others, whatever the host does.
    fn path(self, interface: &str) -> String {
        match self {
            Self::V4 => format!("/proc/sys/net/ipv4/conf/{interface}/forwarding"),
            Self::V6 => format!("/proc/sys/net/ipv6/conf/{interface}/force_forwarding"),
        }
    }
}

fn read(path: &str) -> Result<bool, StepFailure> {
    Ok(fs::read_to_string(path).step("read forwarding")?.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str, mtu: u32) -> Interface {
        Interface { index, name: name.into(), mtu }
    }

    fn route(network: [u8; 4], prefix: u8, index: u32) -> Route {
        let network = network.into();
        Route { network, prefix, onward: true, near: false, interfaces: vec![index] }
    }

    fn route6(network: &str, prefix: u8, near: bool, index: u32) -> Route {
        let network = network.parse().expect("an address");
        Route { network, prefix, onward: true, near, interfaces: vec![index] }
    }

    #[test]
    fn uplinks_lead_to_addresses_that_a_sandbox_may_reach() {
        let interfaces = [
            interface(1, "lo", 65536),
            interface(2, "eth0", 1400),
            interface(3, "docker0", 1500),
            interface(4, "tabc123001", 1500),
            interface(5, "wg0", 1420),
        ];
        let routes = [
            route([0, 0, 0, 0], 0, 2),
            route([172, 17, 0, 0], 16, 3),
            route([198, 18, 4, 1], 32, 4),
            route([203, 0, 113, 0], 24, 5),
            Route { onward: false, ..route([198, 51, 100, 1], 32, 1) },
        ];
        let nothing = OpenedNetworks::default();
        let found = choose(&interfaces, &routes, AddressRange::DEFAULT, &nothing);
        assert_eq!(found.names, ["eth0".to_owned(), "wg0".to_owned()].into());
        assert_eq!(found.mtu, 1400);
        let none = choose(&interfaces, &routes[1..3], AddressRange::DEFAULT, &nothing);
        let six = Six::default();
        assert_eq!(none, Uplinks { names: BTreeSet::new(), mtu: 1500, six });
        let opened = OpenedNetworks::read(&["172.17.0.5".to_owned()], AddressRange::DEFAULT);
        let opened = opened.expect("it is private");
        let found = choose(&interfaces, &routes[1..3], AddressRange::DEFAULT, &opened);
        assert_eq!(found.names, ["docker0".to_owned()].into(), "the way to what is opened");
    }

    #[test]
    fn ipv6_needs_a_way_out_and_an_address_and_spares_the_hosts_own_networks() {
        let interfaces = [interface(2, "eth0", 1500), interface(5, "wg0", 1420)];
        let own = route6("2001:db8:1::", 64, true, 2);
        let (default, tunnel) = (route6("::", 0, false, 2), route6("::", 0, true, 5));
        let (link, unique) = (route6("fe80::", 64, true, 2), route6("fd00::", 64, true, 2));
        let lan: BTreeSet<Span> = [Span::of("2001:db8:1::".parse().expect("ok"), 64)].into();
        let public = &["2001:db8:1::5", "fd00::5"][..];
        for (routes, addresses, names, near, lack) in [
            (vec![&own, &default, &link, &unique], public, &["eth0"][..], &lan, None),
            (vec![&own, &default, &tunnel], public, &["eth0", "wg0"], &lan, None),
            (vec![&tunnel], public, &["wg0"], &BTreeSet::new(), None),
            (vec![&own, &link, &unique], public, &[], &lan, Some(Lack::NoRoute)),
            (
                vec![&unique, &default],
                &public[1..],
                &["eth0"],
                &BTreeSet::new(),
                Some(Lack::NoAddress),
            ),
            (vec![], &[], &[], &BTreeSet::new(), Some(Lack::NoRoute)),
        ] {
            let routes: Vec<Route> = routes.into_iter().cloned().collect();
            let addresses: Vec<IpAddr> =
                addresses.iter().map(|text| text.parse().expect("an address")).collect();
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let expected = Six { names, near: near.clone(), lack };
            let nothing = OpenedNetworks::default();
            let found = choose6(&interfaces, &routes, &addresses, &nothing);
            assert_eq!(found, expected, "{routes:?}");
        }
        let opened = OpenedNetworks::read(&["fd00::/64".to_owned()], AddressRange::DEFAULT);
        let opened = opened.expect("it is private");
        let public = ["2001:db8:1::5".parse().expect("an address")];
        let found = choose6(&interfaces, &[unique, own], &public, &opened);
        assert_eq!((found.names, found.near), (["eth0".to_owned()].into(), lan), "no neighbour");
        assert_eq!(found.lack, Some(Lack::NoRoute), "what is opened is no way out");
    }
}
