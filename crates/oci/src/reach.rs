//! Where requests may go. Who names an image is often not who runs the machine that fetches it, and
//! must not have it ask the services of that machine and its network.

use std::{
    collections::BTreeSet,
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Where requests may go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Reach {
    /// Anywhere: whoever names images may reach all that this machine does.
    #[default]
    Anywhere,
    /// To public addresses, to mirrors, and to these hosts wherever they are: `host`, or
    /// `host:port` for one port alone.
    PublicAnd(BTreeSet<String>),
}

/// Says that a name leads to where no request may go.
#[derive(Debug)]
pub(crate) struct NotPublic;

/// Resolves names to public addresses alone. What is connected to is what was checked, so that a
/// name which resolves to something else a moment later does not help.
#[derive(Debug)]
pub(crate) struct PublicResolver;

// === impl Reach ===

impl Reach {
    /// Says whether a host may be anywhere.
    pub(crate) fn is_free(&self, url: &Url) -> bool {
        let Self::PublicAnd(hosts) = self else { return true };
        let Some(host) = url.host_str() else { return false };
        let port = url.port_or_known_default().unwrap_or(0);
        hosts.contains(host) || hosts.contains(&format!("{host}:{port}"))
    }

    /// Says whether a host that may not be anywhere can be asked: a name, whose addresses are
    /// checked when it is resolved, or a public address.
    pub(crate) fn may_be_public(url: &Url) -> bool {
        match url.host() {
            Some(Host::Domain(_)) => true,
            Some(Host::Ipv4(address)) => is_public(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => is_public(IpAddr::V6(address)),
            None => false,
        }
    }
}

// === impl NotPublic ===

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is at no public address")
    }
}

impl Error for NotPublic {}

impl NotPublic {
    /// Says whether an error has this for its cause.
    pub(crate) fn is_cause_of(error: &(dyn Error + 'static)) -> bool {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.is::<Self>() {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

// === impl PublicResolver ===

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let resolved = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = resolved.filter(|it| is_public(it.ip())).collect();
            if public.is_empty() {
                return Err(NotPublic.into());
            }
            let addresses: Addrs = Box::new(public.into_iter());
            Ok(addresses)
        })
    }
}

/// Says whether an address is one of the public internet (IANA's special-purpose registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        // Shared address space, IETF protocol assignments, 6to4 relays, benchmarks, reserved.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19))
        || a >= 240;
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // Only 2000::/3 is given out for the internet; what carries an IPv4 address is judged by that.
    match segments {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x0064, 0xff9b, 0, 0, 0, 0, high, low] => {
            is_public_v4(v4(high, low))
        }
        [0x2002, high, low, ..] => is_public_v4(v4(high, low)),
        // IETF protocol assignments, Teredo among them, and documentation.
        [0x2001, second, ..] if second < 0x0200 || second == 0x0db8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for text in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "64:ff9b::101:101"] {
            assert!(is_public(text.parse().expect("an address")), "{text}");
        }
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "3fff::1",
        ] {
            assert!(!is_public(text.parse().expect("an address")), "{text}");
        }
    }

    #[test]
    fn hosts_are_free_by_name_or_by_name_and_port() {
        let hosts = ["registry.lan", "127.0.0.1:5000", "[::1]"].map(str::to_owned).into();
        let reach = Reach::PublicAnd(hosts);
        for (url, free) in [
            ("https://registry.lan/v2/", true),
            ("https://registry.lan:8443/v2/", true),
            ("http://127.0.0.1:5000/v2/", true),
            ("http://127.0.0.1:5001/v2/", false),
            ("http://0x7f000001:5001/v2/", false),
            ("http://[::1]:9/v2/", true),
            ("https://other.lan/", false),
        ] {
            let url: Url = url.parse().expect("a URL");
            assert_eq!(reach.is_free(&url), free, "{url}");
            assert!(Reach::Anywhere.is_free(&url));
        }
        for (url, may) in [
            ("http://127.1/", false),
            ("http://2130706433/", false),
            ("http://[::ffff:169.254.169.254]/", false),
            ("https://1.1.1.1/", true),
            ("https://anything.example/", true),
        ] {
            assert_eq!(Reach::may_be_public(&url.parse().expect("a URL")), may, "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_here_is_resolved_to_nothing() {
        let name: Name = "localhost".parse().expect("a name");
        let resolved = PublicResolver.resolve(name).await.map(drop).expect_err("it is not public");
        assert!(NotPublic::is_cause_of(&*resolved), "{resolved}");
    }
}
