//! What a sandbox did with the network, as its node tells it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::UnixMillis;

/// The network log of one sandbox: what it reached, what it was denied, and counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkLog {
    /// When the log began: with the sandbox's last start, resume or the server's last start.
    pub since: UnixMillis,
    /// When it ended; `None` while the sandbox has a place in the network.
    pub until: Option<UnixMillis>,
    /// What happened, oldest first.
    pub entries: Vec<NetworkEntry>,
    /// Sums over everything since then, whether an entry of it is kept or not.
    pub counters: NetworkCounters,
    /// What has no entry, or has none any more.
    pub lost: NetworkLost,
}

/// Attempts that are alike and came within a short time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkEntry {
    /// When the first of them came.
    pub first: UnixMillis,
    /// When the last of them came.
    pub last: UnixMillis,
    /// The name that the sandbox asked tarn's resolver for and got this address; of a question
    /// that was refused, its name.
    pub name: Option<String>,
    /// Where to; `None` of a question that was refused.
    pub address: Option<IpAddr>,
    /// To which port; `None` where the protocol has none.
    pub port: Option<u16>,
    /// How.
    pub protocol: NetworkProtocol,
    /// What became of it.
    pub verdict: NetworkVerdict,
    /// How many they are: connections that were opened, packets or questions that were denied.
    pub count: u64,
    /// How many of the connections stand.
    pub open: u64,
    /// Bytes sent over them, headers included.
    pub sent: u64,
    /// Bytes received over them, headers included.
    pub received: u64,
}

/// How something was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP.
    Icmp,
    /// A question to tarn's resolver.
    Dns,
    /// Another protocol of IP, by its number.
    Ip(u8),
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkVerdict {
    /// It was let out.
    Allowed,
    /// It was not.
    Denied(DenialReason),
}

/// Why something was not let out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DenialReason {
    /// The policy has no internet access.
    InternetOff,
    /// `deny_out` has it.
    DenyOut,
    /// There is an `allow_out`, and it does not have it.
    NotInAllowOut,
    /// It is closed whatever a policy says: the host, other sandboxes, private ranges, metadata.
    Closed,
    /// It is a resolver other than tarn's own.
    ForeignResolver,
    /// A kind of question that is not answered.
    QueryType,
    /// It is beyond a limit.
    Limit,
}

/// Sums of one sandbox. Packets and bytes are those that went beyond the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkCounters {
    /// Packets let out.
    pub sent_packets: u64,
    /// Their bytes, headers included.
    pub sent_bytes: u64,
    /// Packets let in.
    pub received_packets: u64,
    /// Their bytes, headers included.
    pub received_bytes: u64,
    /// Connections let out, conversations of other protocols than TCP among them.
    pub connections: u64,
    /// Packets that were denied.
    pub denied_packets: u64,
    /// Questions that the resolver answered, if only with a failure.
    pub dns_answered: u64,
    /// Questions that it refused.
    pub dns_refused: u64,
}

/// Counts what the entries do not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkLost {
    /// Attempts that came faster than they are noted.
    pub rate: u64,
    /// Entries that gave way to newer ones.
    pub room: u64,
    /// Notes that were lost for all sandboxes of the node together, since nobody could take them.
    pub node: u64,
}

// === impl NetworkLost ===

impl NetworkLost {
    /// Says whether anything was lost.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.rate > 0 || self.room > 0 || self.node > 0
    }
}

// === impl DenialReason ===

impl DenialReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::InternetOff,
        Self::DenyOut,
        Self::NotInAllowOut,
        Self::Closed,
        Self::ForeignResolver,
        Self::QueryType,
        Self::Limit,
    ];

    /// Returns its word on the wire, and in the notes of the kernel.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InternetOff => "internet_off",
            Self::DenyOut => "deny_out",
            Self::NotInAllowOut => "not_in_allow_out",
            Self::Closed => "closed",
            Self::ForeignResolver => "foreign_resolver",
            Self::QueryType => "query_type",
            Self::Limit => "limit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_the_same_word_everywhere() {
        for reason in DenialReason::ALL {
            assert_eq!(serde_json::json!(reason), reason.as_str());
        }
    }
}
