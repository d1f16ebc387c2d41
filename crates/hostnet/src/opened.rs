//! Private networks that the operator has opened to sandboxes (spec 07). Pure.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use thiserror::Error;

use crate::{
    egress::{Span, merge},
    plan::{AddressRange, INSIDE6, mask, mask6},
};

/// What may be opened: what private networks number their hosts from (RFC 1918, 6598 and 4193).
/// Never loopback, link-local with the metadata address, multicast, or what has no meaning.
const MAY_BE_OPENED: [(IpAddr, u8); 5] = [
    (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)), 10),
    (IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)), 12),
    (IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0)), 16),
    (IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 7),
];

/// The prefix length of the IPv6 network that sandboxes are in.
const OWN_PREFIX6: u8 = 48;

/// Private networks that sandboxes may reach as they may any public one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenedNetworks(BTreeSet<Span>);

/// Says why a network cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenedNetworksError {
    /// It is no network.
    #[error("`{0}` is no network: write it as in 10.1.2.0/24, with no bits behind the prefix")]
    NoNetwork(String),
    /// It is not private, or never to be opened.
    #[error(
        "`{0}` is in no private network; those are 10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, \
         192.168.0.0/16 and fc00::/7"
    )]
    NotPrivate(String),
    /// Sandboxes themselves are in it.
    #[error("`{0}` has the addresses of sandboxes, which never reach each other")]
    OfSandboxes(String),
}

// === impl OpenedNetworks ===

impl OpenedNetworks {
    /// Reads networks, as `10.1.2.0/24` or a single address. `range` is where the addresses of
    /// sandboxes are taken from.
    ///
    /// # Errors
    /// Names the first that cannot be opened.
    pub fn read(texts: &[String], range: AddressRange) -> Result<Self, OpenedNetworksError> {
        let own = [range.span(), Span::of(own6(), OWN_PREFIX6)];
        let mut spans = Vec::with_capacity(texts.len());
        for text in texts {
            let no_network = || OpenedNetworksError::NoNetwork(text.clone());
            let span = read(text).ok_or_else(no_network)?;
            let within = |(network, prefix): &(IpAddr, u8)| {
                let may = Span::of(*network, *prefix);
                may.has(span.first) && may.has(span.last)
            };
            if !MAY_BE_OPENED.iter().any(within) {
                return Err(OpenedNetworksError::NotPrivate(text.clone()));
            }
            if own.iter().any(|own| touch(own, &span)) {
                return Err(OpenedNetworksError::OfSandboxes(text.clone()));
            }
            spans.push(span);
        }
        Ok(Self(merge(spans)))
    }

    /// Says whether an address is in one of them.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|span| span.has(address))
    }

    /// Says whether a network has an address of theirs.
    pub(crate) fn touch(&self, network: IpAddr, prefix: u8) -> bool {
        let network = Span::of(network, prefix);
        self.0.iter().any(|span| touch(span, &network))
    }

    /// Takes them out of a closed network.
    pub(crate) fn out_of(&self, network: IpAddr, prefix: u8) -> Vec<Span> {
        let whole = Span::of(network, prefix);
        let Span { mut first, last } = whole;
        let mut left = Vec::new();
        for span in self.0.iter().filter(|span| touch(span, &whole)) {
            if let Some(end) = before(span.first).filter(|end| *end >= first) {
                left.push(Span { first, last: end });
            }
            match crate::egress::behind(span.last) {
                Some(next) if next <= last => first = next,
                Some(_) | None => return left,
            }
        }
        left.push(Span { first, last });
        left
    }
}

/// The network that all sandboxes are in by IPv6.
fn own6() -> IpAddr {
    Ipv6Addr::from_bits(INSIDE6.to_bits() & mask6(OWN_PREFIX6)).into()
}

fn read(text: &str) -> Option<Span> {
    let Some((network, prefix)) = text.split_once('/') else {
        return text.parse().ok().map(Span::alone);
    };
    let (network, prefix): (IpAddr, u8) = (network.parse().ok()?, prefix.parse().ok()?);
    let (most, stray) = match network {
        IpAddr::V4(it) => (32, prefix <= 32 && it.to_bits() & !mask(prefix) != 0),
        IpAddr::V6(it) => (128, prefix <= 128 && it.to_bits() & !mask6(prefix) != 0),
    };
    (prefix <= most && !stray).then(|| Span::of(network, prefix))
}

/// Says whether two spans have an address in common.
fn touch(one: &Span, other: &Span) -> bool {
    one.first.is_ipv4() == other.first.is_ipv4()
        && one.first <= other.last
        && other.first <= one.last
}

/// Returns the address before another, if there is one.
fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(it) => it.to_bits().checked_sub(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(it) => it.to_bits().checked_sub(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(texts: &[&str]) -> Result<OpenedNetworks, OpenedNetworksError> {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        OpenedNetworks::read(&texts, "10.128.0.0/9".parse().expect("a range"))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn only_private_networks_that_are_nobody_elses_are_opened() {
        use OpenedNetworksError::{NoNetwork, NotPrivate, OfSandboxes};
        type Why = fn(String) -> OpenedNetworksError;
        let table: [(&str, Why); 13] = [
            ("10.1.2.3/24", NoNetwork),
            ("10.1.2.0/33", NoNetwork),
            ("mirror.example", NoNetwork),
            ("", NoNetwork),
            ("8.8.8.8", NotPrivate),
            ("0.0.0.0/0", NotPrivate),
            ("10.0.0.0/7", NotPrivate),
            ("169.254.169.254", NotPrivate),
            ("127.0.0.1", NotPrivate),
            ("2001:db8::/32", NotPrivate),
            ("fe80::/10", NotPrivate),
            ("10.0.0.0/8", OfSandboxes),
            ("fd74:6172:6e00:1::/64", OfSandboxes),
        ];
        for (text, error) in table {
            assert_eq!(opened(&["192.168.1.0/24", text]), Err(error(text.to_owned())), "{text}");
        }
        let opened = opened(&["10.1.2.0/24", "192.168.7.9", "fd00:1::/64"]).expect("private");
        for (text, expected) in [
            ("10.1.2.0", true),
            ("10.1.2.255", true),
            ("10.1.3.0", false),
            ("192.168.7.9", true),
            ("192.168.7.8", false),
            ("fd00:1::5", true),
            ("fd00:2::5", false),
        ] {
            assert_eq!(opened.has(address(text)), expected, "{text}");
        }
        assert!(opened.touch(address("10.0.0.0"), 8) && !opened.touch(address("10.2.0.0"), 16));
    }

    #[test]
    fn what_is_opened_is_taken_out_of_what_is_closed() {
        /// Where each span begins and ends.
        type Ends = &'static [(&'static str, &'static str)];
        let table: [(&[&str], Ends); 5] = [
            (&[], &[("10.0.0.0", "10.255.255.255")]),
            (&["192.168.0.0/16"], &[("10.0.0.0", "10.255.255.255")]),
            (&["10.0.0.0/24"], &[("10.0.1.0", "10.255.255.255")]),
            (
                &["10.1.2.0/24", "10.1.4.7"],
                &[
                    ("10.0.0.0", "10.1.1.255"),
                    ("10.1.3.0", "10.1.4.6"),
                    ("10.1.4.8", "10.255.255.255"),
                ],
            ),
            (&["10.0.0.0/10", "10.64.0.0/10"], &[("10.128.0.0", "10.255.255.255")]),
        ];
        for (texts, expected) in table {
            let left = opened(texts).expect("private").out_of(address("10.0.0.0"), 8);
            let spans = expected
                .iter()
                .map(|(first, last)| Span { first: address(first), last: address(last) });
            assert_eq!(left, spans.collect::<Vec<_>>(), "{texts:?}");
        }
        let range = AddressRange::DEFAULT;
        let whole = OpenedNetworks::read(&["10.0.0.0/8".to_owned()], range).expect("private");
        assert_eq!(whole.out_of(address("10.0.0.0"), 8), []);
    }
}
