//! What a sandbox may reach.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Says what a sandbox may reach (spec 07). Private ranges, the host and other sandboxes are
/// closed whatever it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressPolicy {
    /// Whether the internet, and with it our resolver, is open. Default: true.
    pub allow_internet_access: bool,
    /// If not empty, what alone may be reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_out: Vec<EgressEntry>,
    /// What may not be reached. Wins over `allow_out`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_out: Vec<EgressEntry>,
}

/// A destination in a list, as the caller wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EgressEntry {
    text: Arc<str>,
    target: EgressTarget,
}

/// What an entry means. A port behind it says nothing (spec 07).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EgressTarget {
    /// An IPv4 network; the bits behind the prefix are zero.
    V4 {
        /// Its first address.
        network: Ipv4Addr,
        /// How many bits are fixed, at most 32.
        prefix: u8,
    },
    /// An IPv6 network; the bits behind the prefix are zero. Never the IPv4-mapped form of one.
    V6 {
        /// Its first address.
        network: Ipv6Addr,
        /// How many bits are fixed, at most 128.
        prefix: u8,
    },
    /// Exactly this name, and the addresses it has.
    Name(HostName),
}

/// A DNS name, lower-cased, without the dot at its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

/// Says why a text is no entry of an egress list.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EgressEntryError {
    /// The text is neither address, prefix nor name.
    #[error(
        "`{0}` is none of: an IPv4 or IPv6 address, a prefix such as 203.0.113.0/24, a host name"
    )]
    Unknown(String),
    /// The text has a wildcard.
    #[error("`{0}` has a wildcard; a host name matches exactly, list each name")]
    Wildcard(String),
    /// What follows the slash is no prefix length of that family.
    #[error("`{0}` has no good prefix length: 0 to 32 for IPv4, 0 to 128 for IPv6")]
    Prefix(String),
    /// What follows the colon is no port.
    #[error("`{0}` has no good port: 1 to 65535")]
    Port(String),
}

/// How much of a wrong entry is shown.
const SHOWN: usize = 80;
/// The longest name (RFC 1035 §2.3.4, without the length bytes and the root).
const LONGEST_NAME: usize = 253;

// === impl EgressPolicy ===

impl EgressPolicy {
    /// Nothing may be reached.
    pub const CLOSED: Self =
        Self { allow_internet_access: false, allow_out: Vec::new(), deny_out: Vec::new() };
    /// The internet may be reached: what a create without `network` gets.
    pub const OPEN: Self =
        Self { allow_internet_access: true, allow_out: Vec::new(), deny_out: Vec::new() };
    /// The most entries of one list (spec 07).
    pub const MOST_ENTRIES: usize = 256;
}

impl Default for EgressPolicy {
    fn default() -> Self {
        Self::OPEN
    }
}

// === impl EgressEntry ===

impl EgressEntry {
    /// Returns the entry as the caller wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns what it means.
    #[must_use]
    pub fn target(&self) -> &EgressTarget {
        &self.target
    }
}

impl FromStr for EgressEntry {
    type Err = EgressEntryError;

    fn from_str(text: &str) -> Result<Self, EgressEntryError> {
        let target = EgressTarget::read(text)?;
        Ok(Self { text: text.into(), target })
    }
}

impl TryFrom<String> for EgressEntry {
    type Error = EgressEntryError;

    fn try_from(text: String) -> Result<Self, EgressEntryError> {
        text.parse()
    }
}

impl From<EgressEntry> for String {
    fn from(entry: EgressEntry) -> Self {
        entry.text.to_string()
    }
}

// === impl EgressTarget ===

impl EgressTarget {
    fn read(text: &str) -> Result<Self, EgressEntryError> {
        let wrong = || EgressEntryError::Unknown(shorten(text));
        if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or_else(wrong)?;
            let address: Ipv6Addr = address.parse().map_err(|_no_address| wrong())?;
            let (length, port) = cut_port(rest);
            check_port(port, text)?;
            return match (length.strip_prefix('/'), length) {
                (Some(length), _) => Self::v6(address, Some(length), text),
                (None, "") => Self::v6(address, None, text),
                (None, _) => Err(wrong()),
            };
        }
        if let Some((address, rest)) = text.split_once('/') {
            let (length, port) = cut_port(rest);
            check_port(port, text)?;
            return match (address.parse::<Ipv4Addr>(), address.parse::<Ipv6Addr>()) {
                (Ok(address), _) => Self::v4(address, Some(length), text),
                (_, Ok(address)) => Self::v6(address, Some(length), text),
                (Err(_), Err(_)) => Err(wrong()),
            };
        }
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Self::v6(address, None, text);
        }
        let (host, port) = cut_port(text);
        check_port(port, text)?;
        if let Ok(address) = host.parse::<Ipv4Addr>() {
            return Self::v4(address, None, text);
        }
        if host.contains('*') {
            return Err(EgressEntryError::Wildcard(shorten(text)));
        }
        HostName::read(host).map(Self::Name).ok_or_else(wrong)
    }

    fn v4(address: Ipv4Addr, length: Option<&str>, text: &str) -> Result<Self, EgressEntryError> {
        let prefix = read_length(length, 32, text)?;
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Ok(Self::V4 { network: Ipv4Addr::from_bits(address.to_bits() & mask), prefix })
    }

    fn v6(address: Ipv6Addr, length: Option<&str>, text: &str) -> Result<Self, EgressEntryError> {
        let prefix = read_length(length, 128, text)?;
        if let (Some(mapped), Some(length)) = (address.to_ipv4_mapped(), prefix.checked_sub(96)) {
            return Self::v4(mapped, Some(&length.to_string()), text);
        }
        let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
        Ok(Self::V6 { network: Ipv6Addr::from_bits(address.to_bits() & mask), prefix })
    }
}

// === impl HostName ===

impl HostName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a name in any case, with or without the dot at its end; `None` if it is none.
    ///
    /// Besides RFC 1123 §2.1 the underscore is taken, which names in use have.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let good = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        // A last label of digits alone is an address that somebody mistyped.
        let numeric = text.rsplit('.').next()?.bytes().all(|byte| byte.is_ascii_digit());
        let is_name = text.len() <= LONGEST_NAME && !numeric && text.split('.').all(good);
        is_name.then(|| Self(text.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Cuts what follows the last colon off.
fn cut_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    }
}

fn check_port(port: Option<&str>, text: &str) -> Result<(), EgressEntryError> {
    let good = port.is_none_or(|port| matches!(read_number(port), Some(1..=65535)));
    if good { Ok(()) } else { Err(EgressEntryError::Port(shorten(text))) }
}

fn read_length(length: Option<&str>, longest: u8, text: &str) -> Result<u8, EgressEntryError> {
    let Some(length) = length else { return Ok(longest) };
    read_number(length)
        .and_then(|number| u8::try_from(number).ok())
        .filter(|number| *number <= longest)
        .ok_or_else(|| EgressEntryError::Prefix(shorten(text)))
}

/// Reads digits alone; `parse` would take a sign.
fn read_number(text: &str) -> Option<u32> {
    let digits = text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

fn shorten(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
