//! What an operator may choose.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use tarn_types::InstanceTag;

use crate::{
    error::SlotsStartError,
    netlink::Rate,
    opened::OpenedNetworks,
    plan::{AddressRange, GATEWAY, MOST_SLOTS},
};

/// The port of resolvers named by address alone.
const DNS_PORT: u16 = 53;

/// The largest limit of connections; the kernel counts each new flow against all that there are.
const MOST_CONNECTIONS: u32 = 1_000_000;
/// The largest limit of bandwidth, in megabits a second: its bytes fit the kernel's field.
const MOST_MEGABITS: u32 = 30_000;

/// Says how the slots of one server are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotsConfig {
    /// Marks everything made on the host.
    pub tag: InstanceTag,
    /// Holds one file for each slot, on which its namespace is mounted. Made if missing.
    pub run_dir: PathBuf,
    /// Where host-side addresses are taken from.
    pub range: AddressRange,
    /// How many slots are kept ready. Default: 8.
    pub spare: u16,
    /// How many slots there may be, at most 1000, which is the default.
    pub maximum: u16,
    /// The resolvers that sandboxes are answered from, in order of preference. If empty, those of
    /// `/etc/resolv.conf`, as they are at the start.
    pub dns_upstreams: Vec<SocketAddr>,
    /// What one sandbox may ask of the network.
    pub limits: SlotLimits,
    /// Whether sandboxes have IPv6 where the host has it. Default: true.
    pub ipv6: bool,
    /// Private networks that sandboxes may reach. Default: none.
    pub opened: OpenedNetworks,
}

/// What one sandbox may ask of the network beyond the host (`docs/decisions/0021`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotLimits {
    /// How many flows it may have at a time, UDP's among them. Default: 4096.
    pub connections: u32,
    /// How many it may begin in a second over time, questions to the resolver among them.
    /// Default: 500.
    pub new_connections_per_sec: u32,
    /// How many of them at once, after a silence. Default: 1000.
    pub new_connections_burst: u32,
    /// How many megabits may pass in a second, each way; 0 is without limit. What the host itself
    /// sends and is sent does not count. Default: 1000.
    pub bandwidth_mbit: u32,
}

// === impl SlotsConfig ===

impl SlotsConfig {
    /// Makes a configuration of defaults.
    #[must_use]
    pub fn new(tag: InstanceTag, run_dir: PathBuf) -> Self {
        Self {
            tag,
            run_dir,
            range: AddressRange::DEFAULT,
            spare: 8,
            maximum: MOST_SLOTS,
            dns_upstreams: Vec::new(),
            limits: SlotLimits::default(),
            ipv6: true,
            opened: OpenedNetworks::default(),
        }
    }

    /// Refuses what cannot be.
    pub(crate) fn check(&self) -> Result<(), SlotsStartError> {
        if !(1..=MOST_SLOTS).contains(&self.maximum) {
            return Err(SlotsStartError::Config(format!(
                "{} network slots are not possible: choose 1 to {MOST_SLOTS}",
                self.maximum
            )));
        }
        self.limits.check()
    }

    /// Returns the resolvers to ask.
    pub(crate) fn upstreams(&self) -> Vec<SocketAddr> {
        if !self.dns_upstreams.is_empty() {
            return self.dns_upstreams.clone();
        }
        // A host without the file has no resolver; sandboxes are then told that none answers.
        parse_resolv_conf(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    }
}

// === impl SlotLimits ===

impl SlotLimits {
    /// Refuses what the kernel's meters cannot hold, and a sandbox without any network.
    fn check(&self) -> Result<(), SlotsStartError> {
        let Self { connections, new_connections_per_sec, new_connections_burst, bandwidth_mbit } =
            *self;
        for (what, value) in [
            ("connections", connections),
            ("new connections a second", new_connections_per_sec),
            ("new connections at once", new_connections_burst),
        ] {
            if !(1..=MOST_CONNECTIONS).contains(&value) {
                return Err(SlotsStartError::Config(format!(
                    "a limit of {value} {what} is not possible: choose 1 to {MOST_CONNECTIONS}"
                )));
            }
        }
        if bandwidth_mbit > MOST_MEGABITS {
            return Err(SlotsStartError::Config(format!(
                "a limit of {bandwidth_mbit} Mbit/s is not possible: choose 1 to {MOST_MEGABITS}, \
                 or 0 for none"
            )));
        }
        Ok(())
    }

    /// Returns the rate to hold sandboxes to.
    pub(crate) fn rate(&self) -> Option<Rate> {
        (self.bandwidth_mbit > 0).then(|| Rate::of_megabits(self.bandwidth_mbit))
    }
}

impl Default for SlotLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            new_connections_per_sec: 500,
            new_connections_burst: 1000,
            bandwidth_mbit: 1000,
        }
    }
}

/// Reads the resolvers out of a `resolv.conf`.
fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
        // Ours is not one to ask; it would be us again.
        .filter(|address: &IpAddr| *address != IpAddr::V4(GATEWAY))
        .map(|address| SocketAddr::new(address, DNS_PORT))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_in_order_and_nonsense_is_passed_over() {
        let text = "# by hand\nsearch example.com\nnameserver 10.0.0.53\n nameserver\t::1\n\
                    nameserver fe80::1%eth0\nnameserver 169.254.77.1\nnameserver\noptions edns0\n";
        let found: Vec<String> = parse_resolv_conf(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.53:53", "[::1]:53"]);
    }

    #[test]
    fn limits_are_bounded() {
        let check = |change: &dyn Fn(&mut SlotLimits)| {
            let mut limits = SlotLimits::default();
            change(&mut limits);
            limits.check().is_ok()
        };
        assert!(check(&|_| {}));
        assert!(check(&|limits| limits.connections = 1));
        assert!(!check(&|limits| limits.connections = 0));
        assert!(!check(&|limits| limits.new_connections_per_sec = 0));
        assert!(!check(&|limits| limits.new_connections_burst = 2_000_000));
        assert!(check(&|limits| limits.bandwidth_mbit = 0));
        assert!(check(&|limits| limits.bandwidth_mbit = 30_000));
        assert!(!check(&|limits| limits.bandwidth_mbit = 30_001));
    }

    #[test]
    fn the_number_of_slots_is_bounded() {
        let tag: InstanceTag = "abc123".parse().expect("the test writes a good tag");
        for (maximum, good) in [(0, false), (1, true), (1000, true), (1001, false)] {
            let config = SlotsConfig { maximum, ..SlotsConfig::new(tag.clone(), PathBuf::new()) };
            assert_eq!(config.check().is_ok(), good, "{maximum}");
        }
    }
}
