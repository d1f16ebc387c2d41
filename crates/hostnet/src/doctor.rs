//! What this host has, lacks, or has that stands in the way.

use serde_json::Value;
use tokio::time::Instant;

use crate::{
    config::SlotsConfig,
    error::StepFailure,
    plan::Names,
    rules::{list, nft},
    ruleset::{Openings, compile, tenancy::Zones},
    site::try_rate,
    uplink::{self, IpFamily, Lack, Six},
};

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What it is, in a few words.
    pub name: &'static str,
    /// Whether it is as tarn needs it.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do, if it isn't.
    pub remedy: Option<String>,
}

/// Checks what network slots need of the host. Changes nothing. Blocking.
#[must_use]
pub fn facts(config: &SlotsConfig) -> Vec<Fact> {
    let mut facts = vec![nft_version(), rules_accepted(config), forwarding(config), ipv6(config)];
    facts.push(resolvers(config));
    facts.extend(bandwidth(config));
    facts.extend(foreign_drops(config));
    facts
}

fn nft_version() -> Fact {
    let name = "nftables";
    match nft(&["--version"], "") {
        Ok(version) => Fact::good(name, version.trim().to_owned()),
        Err(failure) => Fact::bad(name, text(&failure), "apt-get install nftables".into()),
    }
}

/// Has the kernel check the whole rule set without loading it.
fn rules_accepted(config: &SlotsConfig) -> Fact {
    let name = "kernel rules";
    let names = Names::new(config.tag.clone());
    let Some(block) = config.range.candidates(&config.tag).next() else {
        return Fact::bad(
            name,
            "the address range is empty".into(),
            "set another network.range".into(),
        );
    };
    let checked = |openings: &Openings| {
        let now = Instant::now();
        nft(
            &["-c", "-f", "-"],
            &compile(&names, (config.range, &config.opened), block, &config.limits, openings, now),
        )
    };
    let zoned = Openings { zones: Some(Zones::default()), ..Openings::default() };
    if checked(&zoned).is_ok() {
        return Fact::good(name, "the kernel takes tarn's rules".into());
    }
    match checked(&Openings::default()) {
        Ok(_) => Fact::good(
            name,
            "the kernel takes tarn's rules, but has no CONFIG_NF_CONNTRACK_ZONES (or nft is too \
             old): a release takes longer"
                .into(),
        ),
        Err(failure) => Fact::bad(
            name,
            text(&failure),
            "run as root, on a kernel with nf_tables (inet family, nat, fib, conntrack) and \
             nfnetlink_log as of Linux 5.10"
                .into(),
        ),
    }
}

fn forwarding(config: &SlotsConfig) -> Fact {
    let name = "forwarding";
    let uplinks = match uplink::find(config.range, &config.opened) {
        Ok(uplinks) => uplinks,
        Err(failure) => return Fact::bad(name, text(&failure), "run as root on Linux".into()),
    };
    if uplinks.names.is_empty() {
        return Fact::bad(
            name,
            "no route leads to the internet".into(),
            "add a default route, or use sandboxes without internet".into(),
        );
    }
    let list = uplinks.names.into_iter().collect::<Vec<_>>().join(", ");
    match IpFamily::V4.host_forwards() {
        Ok(true) => Fact::good(name, format!("the host forwards; uplinks: {list}")),
        Ok(false) => Fact::good(
            name,
            format!("off; tarn switches it on for {list} alone and lets nobody else use it"),
        ),
        Err(failure) => {
            Fact::bad(name, text(&failure), "mount /proc/sys writable where tarn runs".into())
        }
    }
}

/// Says whether sandboxes have IPv6. A host without is as good as any.
fn ipv6(config: &SlotsConfig) -> Fact {
    let name = "IPv6";
    let uplinks = match uplink::find(config.range, &config.opened) {
        Ok(uplinks) => uplinks,
        Err(failure) => return Fact::bad(name, text(&failure), "run as root on Linux".into()),
    };
    let configured = (!config.ipv6).then_some(Lack::Configured);
    Fact::good(name, six(&uplinks.six, configured))
}

fn six(six: &Six, configured: Option<Lack>) -> String {
    match configured.or(six.lack) {
        Some(lack) => format!("closed to sandboxes, which have IPv4 alone: {}", lack.as_str()),
        None => {
            let list = six.names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            format!("open to sandboxes; uplinks: {list}")
        }
    }
}

fn resolvers(config: &SlotsConfig) -> Fact {
    let name = "resolvers";
    let upstreams = config.upstreams();
    if upstreams.is_empty() {
        return Fact::bad(
            name,
            "none is configured and /etc/resolv.conf names none: sandboxes get SERVFAIL".into(),
            "set dns.upstream in tarn.toml, or TARN_DNS_UPSTREAM".into(),
        );
    }
    let list = upstreams.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Fact::good(name, list)
}

/// Has the kernel hold a namespace of its own, which is gone afterwards, to the rate.
fn bandwidth(config: &SlotsConfig) -> Option<Fact> {
    let name = "bandwidth";
    let rate = config.limits.rate()?;
    Some(match try_rate(rate) {
        Ok(()) => {
            let megabits = config.limits.bandwidth_mbit;
            Fact::good(name, format!("each sandbox is held to {megabits} Mbit/s"))
        }
        Err(failure) => Fact::bad(
            name,
            text(&failure),
            "run as root, on a kernel with sch_htb and cls_u32 (modprobe sch_htb cls_u32), or set \
             network.bandwidth_mbit = 0"
                .into(),
        ),
    })
}

/// Finds chains of others that drop by default what sandboxes send or are sent: an accept of ours
/// does not overrule them, and we do not touch them.
fn foreign_drops(config: &SlotsConfig) -> Vec<Fact> {
    let chains = match list("chains") {
        Ok(chains) => chains,
        Err(failure) => {
            return vec![Fact::bad("other firewalls", text(&failure), "run as root".into())];
        }
    };
    let has_ipv6 = config.ipv6
        && uplink::find(config.range, &config.opened).is_ok_and(|it| it.six.lack.is_none());
    let forwarding: &[&str] = if has_ipv6 { &["ip", "ip6", "inet"] } else { &["ip", "inet"] };
    let found = dropping_chains(&chains, forwarding);
    if found.is_empty() {
        return vec![Fact::good("other firewalls", "none drops by default".into())];
    }
    let prefix = Names::new(config.tag.clone()).interface_prefix();
    found.into_iter().map(|(hook, place)| foreign_drop(&prefix, hook, &place)).collect()
}

fn foreign_drop(prefix: &str, hook: &str, place: &str) -> Fact {
    let remedy = if hook == "forward" {
        let iptables = if place.starts_with("ip6 ") { "ip6tables" } else { "iptables" };
        format!(
            "let tarn's interfaces through, with Docker: {iptables} -I DOCKER-USER -i {prefix}+ -j \
             ACCEPT && {iptables} -I DOCKER-USER -o {prefix}+ -m conntrack --ctstate \
             ESTABLISHED,RELATED -j ACCEPT; otherwise the same in its own configuration. tarn's \
             own rules still decide what a sandbox may reach"
        )
    } else {
        let port = crate::plan::RESOLVER_PORT;
        format!(
            "let sandboxes ask tarn's resolver: accept udp and tcp port {port} from interfaces \
             {prefix}+ to {}, for instance with ufw: ufw allow in proto udp to {0} port {port}",
            crate::plan::GATEWAY
        )
    };
    Fact::bad("other firewalls", format!("{place} drops by default"), remedy)
}

/// Returns hook and name of base chains with policy drop that are not ours, of the families that
/// sandboxes are forwarded by, and that they ask the host by.
fn dropping_chains(chains: &[Value], forwarding: &[&str]) -> Vec<(&'static str, String)> {
    chains
        .iter()
        .filter_map(|entry| {
            let chain = entry.get("chain")?;
            let field = |key: &str| chain.get(key).and_then(Value::as_str);
            let hook = ["forward", "input"].into_iter().find(|hook| field("hook") == Some(hook))?;
            let (family, table, name) = (field("family")?, field("table")?, field("name")?);
            let families = if hook == "forward" { forwarding } else { &["ip", "inet"] };
            let concerns = families.contains(&family) && !table.starts_with("tarn_");
            (concerns && field("policy") == Some("drop"))
                .then(|| (hook, format!("{family} {table} {name}")))
        })
        .collect()
}

fn text(failure: &StepFailure) -> String {
    format!("{}: {}", failure.step, failure.detail.trim())
}

// === impl Fact ===

impl Fact {
    fn good(name: &'static str, detail: String) -> Self {
        Self { name, ok: true, detail, remedy: None }
    }

    fn bad(name: &'static str, detail: String, remedy: String) -> Self {
        Self { name, ok: false, detail, remedy: Some(remedy) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_open_or_the_reason_is_said() {
        let names = ["eth0".to_owned(), "wg0".to_owned()].into();
        let open = Six { names, ..Six::default() };
        assert_eq!(six(&open, None), "open to sandboxes; uplinks: eth0, wg0");
        for lack in [Lack::Off, Lack::NoRoute, Lack::NoAddress, Lack::OldKernel] {
            let said = six(&Six { lack: Some(lack), ..open.clone() }, None);
            assert!(said.starts_with("closed") && said.ends_with(lack.as_str()), "{said}");
        }
        assert!(six(&open, Some(Lack::Configured)).ends_with("network.ipv6 is false"));
    }

    #[test]
    fn chains_of_others_that_drop_are_named() {
        let base = |family: &str, table: &str, name: &str, hook: &str, policy: &str| {
            serde_json::json!({"chain": {
                "family": family, "table": table, "name": name, "hook": hook, "policy": policy,
            }})
        };
        let chains = [
            base("ip", "filter", "FORWARD", "forward", "drop"),
            base("inet", "ufw", "in", "input", "drop"),
            base("ip6", "filter", "FORWARD", "forward", "drop"),
            base("ip6", "filter", "INPUT", "input", "drop"),
            base("ip", "filter", "INPUT", "input", "accept"),
            serde_json::json!({"chain": {"family": "ip", "table": "filter", "name": "DOCKER"}}),
            base("inet", "tarn_x", "x", "input", "drop"),
        ];
        let found = dropping_chains(&chains, &["ip", "ip6", "inet"]);
        let expected = [
            ("forward", "ip filter FORWARD"),
            ("input", "inet ufw in"),
            ("forward", "ip6 filter FORWARD"),
        ];
        assert_eq!(found, expected.map(|(hook, place)| (hook, place.to_owned())));
        assert_eq!(dropping_chains(&chains, &["ip", "inet"]), found[..2], "no IPv6, no matter");
        for (number, program) in [(0, " iptables -I"), (2, " ip6tables -I")] {
            let fact = foreign_drop("tabc123", "forward", &found[number].1);
            let remedy = fact.remedy.expect("it has one");
            assert!(!fact.ok && remedy.contains("-i tabc123+ -j ACCEPT"), "{remedy}");
            assert!(remedy.contains(program), "{remedy}");
        }
    }
}
