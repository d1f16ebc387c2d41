//! The ways from this host to the internet, and forwarding on them.
//!
//! IPv4 asks the interface a packet comes in by whether it may be forwarded. Ours say yes; answers
//! come in by the uplink, so it must say yes as well. Where the host forwards already, nothing is
//! touched. Where it doesn't, each uplink is switched on and *guarded*: the rules drop whatever
//! others try to send through the host by it, so it becomes a router for nobody.

use std::{collections::BTreeSet, fs};

use crate::{
    error::{Step as _, StepFailure},
    netlink::{Interface, Route, interfaces, routes},
    plan::AddressRange,
    ruleset::is_closed,
};

/// The size of packets where no uplink says otherwise.
const ETHERNET_MTU: u32 = 1500;

/// Ways out, and the largest packet that all of them take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uplinks {
    pub(crate) names: BTreeSet<String>,
    pub(crate) mtu: u32,
}

/// Finds the ways out. Blocking.
pub(crate) fn find(range: AddressRange) -> Result<Uplinks, StepFailure> {
    let interfaces = interfaces().step("list interfaces")?;
    Ok(choose(&interfaces, &routes().step("list routes")?, range))
}

/// Makes sure that packets can come back by the uplinks. Blocking.
///
/// Takes the interfaces that are guarded so far and returns those that must be from now on.
pub(crate) fn forward_on(
    uplinks: &Uplinks,
    guarded: &BTreeSet<String>,
) -> Result<BTreeSet<String>, StepFailure> {
    if host_forwards()? {
        return Ok(BTreeSet::new());
    }
    let mut now = BTreeSet::new();
    for name in &uplinks.names {
        if read(name)? {
            // On before we came: the host's own wish, and none of ours to guard.
            now.extend(guarded.get(name).cloned());
            continue;
        }
        now.insert(name.clone());
    }
    // Interfaces that are no way out for the moment stay guarded as long as they forward.
    for name in guarded.difference(&uplinks.names) {
        if read(name).unwrap_or(false) {
            now.insert(name.clone());
        }
    }
    Ok(now)
}

/// Switches forwarding on where it is off. Call it once the guard is up.
pub(crate) fn switch_on(interfaces: &BTreeSet<String>) -> Result<(), StepFailure> {
    interfaces
        .iter()
        .filter(|name| matches!(read(name), Ok(false)))
        .try_for_each(|name| fs::write(path(name), "1").step("switch forwarding on"))
}

/// Switches forwarding off again where we switched it on, unless the host forwards by now.
pub(crate) fn switch_off(interfaces: &BTreeSet<String>) -> Result<(), StepFailure> {
    if host_forwards()? {
        return Ok(());
    }
    interfaces
        .iter()
        .filter(|name| matches!(read(name), Ok(true)))
        .try_for_each(|name| fs::write(path(name), "0").step("switch forwarding off"))
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

/// Says whether the host forwards between all its interfaces.
pub(crate) fn host_forwards() -> Result<bool, StepFailure> {
    read("all")
}

fn choose(interfaces: &[Interface], routes: &[Route], range: AddressRange) -> Uplinks {
    let out: BTreeSet<u32> = routes
        .iter()
        .filter(|route| {
            route.onward
                && !is_closed(route.network, route.prefix)
                && !range.contains(route.network, route.prefix)
        })
        .flat_map(|route| route.interfaces.iter().copied())
        .collect();
    let chosen = interfaces.iter().filter(|interface| out.contains(&interface.index));
    let mtu = chosen.clone().map(|interface| interface.mtu).min().unwrap_or(ETHERNET_MTU);
    Uplinks {
        names: chosen.map(|interface| interface.name.clone()).collect(),
        mtu: mtu.clamp(576, ETHERNET_MTU),
    }
}

fn read(interface: &str) -> Result<bool, StepFailure> {
    Ok(fs::read_to_string(path(interface)).step("read forwarding")?.trim() != "0")
}

fn path(interface: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{interface}/forwarding")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str, mtu: u32) -> Interface {
        Interface { index, name: name.into(), mtu }
    }

    fn route(network: [u8; 4], prefix: u8, index: u32) -> Route {
        Route { network: network.into(), prefix, onward: true, interfaces: vec![index] }
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
        let found = choose(&interfaces, &routes, AddressRange::DEFAULT);
        assert_eq!(found.names, ["eth0".to_owned(), "wg0".to_owned()].into());
        assert_eq!(found.mtu, 1400);
        let none = choose(&interfaces, &routes[1..3], AddressRange::DEFAULT);
        assert_eq!(none, Uplinks { names: BTreeSet::new(), mtu: 1500 });
    }
}
