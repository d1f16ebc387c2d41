//! The names that a server answers to, as certificates say them.

use std::{collections::BTreeSet, net::IpAddr};

use rustls::pki_types::ServerName;
use thiserror::Error;

use crate::pair::Pair;

/// The names and addresses under which clients come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerNames {
    hosts: BTreeSet<String>,
    /// Every name one label below these.
    domains: BTreeSet<String>,
}

/// Says that a text is no name of a host.
#[derive(Debug, Error)]
#[error("`{name}` is not a host name that a certificate can hold")]
pub struct NameError {
    name: String,
}

// === impl ServerNames ===

impl ServerNames {
    /// Adds a host, by name or by address.
    ///
    /// # Errors
    /// Fails when it is neither.
    pub fn add_host(&mut self, host: &str) -> Result<(), NameError> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let name = match bare.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().to_string(),
            Err(_name) => dns_name(host)?,
        };
        self.hosts.insert(name);
        Ok(())
    }

    /// Adds a domain: itself, and every name one label below it.
    ///
    /// # Errors
    /// Fails when it is no name of a domain; an address is none.
    pub fn add_domain(&mut self, domain: &str) -> Result<(), NameError> {
        if domain.parse::<IpAddr>().is_ok() {
            return Err(NameError { name: domain.to_owned() });
        }
        let name = dns_name(domain)?;
        self.hosts.insert(name.clone());
        self.domains.insert(name);
        Ok(())
    }

    /// Returns what a certificate for all of them says.
    ///
    /// Clients accept no `*.localhost`: OpenSSL, webpki, Node and browsers want two labels after
    /// the star. Names below such a domain need a certificate each: [`Self::needs_own`].
    pub(crate) fn alternative_names(&self) -> Vec<String> {
        let wildcards = self.domains.iter().filter(|domain| domain.contains('.'));
        self.hosts.iter().cloned().chain(wildcards.map(|domain| format!("*.{domain}"))).collect()
    }

    /// Returns the names to ask an authority for: none that a wildcard covers, as some refuse an
    /// order with both.
    #[must_use]
    pub fn names_to_order(&self) -> Vec<String> {
        let is_covered = |name: &String| {
            let domain = name.split_once('.').map(|(_label, domain)| domain);
            domain.is_some_and(|domain| domain.contains('.') && self.domains.contains(domain))
        };
        self.alternative_names()
            .into_iter()
            .filter(|name| name.starts_with('*') || !is_covered(name))
            .collect()
    }

    /// Returns the domains below which every name is ours.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        self.domains.iter().map(String::as_str)
    }

    /// Says whether a name is one of ours that no wildcard can cover.
    pub(crate) fn needs_own(&self, name: &str) -> bool {
        name.split_once('.').is_some_and(|(label, domain)| {
            !label.is_empty() && !domain.contains('.') && self.domains.contains(domain)
        })
    }

    /// Returns the names that a certificate lacks, domains as `*.domain`.
    pub(crate) fn lacking_in(&self, pair: &Pair) -> Vec<String> {
        let hosts = self.hosts.iter().filter(|host| !pair.covers(host)).cloned();
        let below = |domain: &&String| !pair.covers(&format!("any.{domain}"));
        let domains = self.domains.iter().filter(below).map(|domain| format!("*.{domain}"));
        hosts.chain(domains).collect()
    }
}

/// Returns a name as certificates hold it: lower case, no dot at the end.
fn dns_name(text: &str) -> Result<String, NameError> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    match ServerName::try_from(name.as_str()) {
        Ok(ServerName::DnsName(_)) => Ok(name),
        Ok(_) | Err(_) => Err(NameError { name: text.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_domains_become_the_names_of_a_certificate() {
        let mut names = ServerNames::default();
        for host in ["127.0.0.1", "::1", "[fd00::1]", "Tarn.Example.COM.", "::ffff:10.0.0.1"] {
            names.add_host(host).expect(host);
        }
        for domain in ["localhost", "Sandbox.example.com", "boxes"] {
            names.add_domain(domain).expect(domain);
        }
        assert_eq!(
            names.alternative_names(),
            [
                "10.0.0.1",
                "127.0.0.1",
                "::1",
                "boxes",
                "fd00::1",
                "localhost",
                "sandbox.example.com",
                "tarn.example.com",
                "*.sandbox.example.com",
            ]
        );
        let own = ["8000-box.localhost", "x.boxes"];
        let none = ["localhost", "a.b.localhost", ".localhost", "a.sandbox.example.com", "a.other"];
        assert!(own.iter().all(|name| names.needs_own(name)), "{names:?}");
        assert!(!none.iter().any(|name| names.needs_own(name)), "{names:?}");
    }

    #[test]
    fn what_a_wildcard_covers_is_not_ordered() {
        for (hosts, domains, expected) in [
            (&["api.a.com"][..], &[][..], &["api.a.com"][..]),
            (&["api.a.com", "sandbox.a.com"], &["a.com"], &["a.com", "*.a.com"]),
            (&["api.a.com"], &["sb.a.com"], &["api.a.com", "sb.a.com", "*.sb.a.com"]),
            (&["x.y.a.com"], &["a.com"], &["a.com", "x.y.a.com", "*.a.com"]),
            (&[], &["a.com", "sb.a.com"], &["a.com", "*.a.com", "*.sb.a.com"]),
            (&["a.localhost"], &["localhost"], &["a.localhost", "localhost"]),
        ] {
            let mut names = ServerNames::default();
            hosts.iter().for_each(|host| names.add_host(host).expect(host));
            domains.iter().for_each(|domain| names.add_domain(domain).expect(domain));
            assert_eq!(names.names_to_order(), expected, "{hosts:?} {domains:?}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let mut names = ServerNames::default();
        for text in ["", ".", "a b", "*.example.com", "exämple.com", "a..b", "https://a"] {
            assert!(names.add_host(text).is_err(), "{text}");
            assert!(names.add_domain(text).is_err(), "{text}");
        }
        assert!(names.add_domain("10.0.0.1").is_err(), "nothing is below an address");
        assert_eq!(names, ServerNames::default());
    }
}
