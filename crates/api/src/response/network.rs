//! What a sandbox did with the network, for operators.

use serde::{Deserialize, Serialize};
use tarn_types::{
    DenialReason, NetworkCounters, NetworkEntry, NetworkLog, NetworkLost, NetworkProtocol,
    NetworkVerdict,
};
use utoipa::ToSchema;

/// The network log of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkReport {
    /// The sandbox.
    pub sandbox_id: String,
    /// When the log began, in milliseconds since the epoch: with the sandbox's last start or
    /// resume, or the server's last start.
    pub since: i64,
    /// When it ended, in milliseconds since the epoch; null = it goes on.
    pub until: Option<i64>,
    /// What happened, oldest first.
    pub entries: Vec<NetworkReportEntry>,
    /// Sums over everything since then.
    pub counters: NetworkSums,
    /// What the entries do not show.
    pub lost: NetworkMissing,
}

/// Attempts that are alike and came within a minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkReportEntry {
    /// When the first of them came, in milliseconds since the epoch.
    pub first_at: i64,
    /// When the last of them came, in milliseconds since the epoch.
    pub last_at: i64,
    /// `out`: the sandbox began it.
    pub direction: String,
    /// The name that the sandbox was told this address for; of a refused question, its name.
    pub name: Option<String>,
    /// Where to.
    pub address: Option<String>,
    /// To which port.
    pub port: Option<u16>,
    /// `tcp`, `udp`, `icmp`, `dns` (a question to tarn's resolver), or `ip-` and a number.
    pub protocol: String,
    /// `allowed` or `denied`.
    pub verdict: String,
    /// Why it was denied.
    pub reason: Option<String>,
    /// How many they are: connections that were opened; packets or questions that were denied.
    pub count: u64,
    /// How many of the connections stand.
    pub open: u64,
    /// Bytes sent over the connections, headers included.
    pub bytes_sent: u64,
    /// Bytes received over them, headers included.
    pub bytes_received: u64,
    /// What would let it out.
    pub advice: Option<String>,
}

/// Sums of one sandbox; packets and bytes are those that went beyond the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkSums {
    /// Packets sent.
    pub packets_sent: u64,
    /// Bytes sent, headers included.
    pub bytes_sent: u64,
    /// Packets received.
    pub packets_received: u64,
    /// Bytes received, headers included.
    pub bytes_received: u64,
    /// Connections let out, conversations of other protocols than TCP among them.
    pub connections: u64,
    /// Packets that were denied.
    pub packets_denied: u64,
    /// Questions to the resolver that were answered.
    pub dns_answered: u64,
    /// Questions that it refused.
    pub dns_refused: u64,
}

/// Counts what the entries do not show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkMissing {
    /// Attempts that came faster than they are noted.
    pub rate: u64,
    /// Entries that gave way to newer ones.
    pub room: u64,
    /// Notes that were lost for all sandboxes of the node together.
    pub node: u64,
}

// === impl NetworkReport ===

impl NetworkReport {
    /// Makes the answer out of what a node says.
    #[must_use]
    pub fn new(sandbox_id: String, log: &NetworkLog) -> Self {
        let NetworkCounters {
            sent_packets,
            sent_bytes,
            received_packets,
            received_bytes,
            connections,
            denied_packets,
            dns_answered,
            dns_refused,
        } = log.counters;
        let NetworkLost { rate, room, node } = log.lost;
        Self {
            sandbox_id,
            since: log.since.0,
            until: log.until.map(|at| at.0),
            entries: log.entries.iter().map(NetworkReportEntry::from).collect(),
            counters: NetworkSums {
                packets_sent: sent_packets,
                bytes_sent: sent_bytes,
                packets_received: received_packets,
                bytes_received: received_bytes,
                connections,
                packets_denied: denied_packets,
                dns_answered,
                dns_refused,
            },
            lost: NetworkMissing { rate, room, node },
        }
    }
}

// === impl NetworkReportEntry ===

impl From<&NetworkEntry> for NetworkReportEntry {
    fn from(entry: &NetworkEntry) -> Self {
        let (verdict, reason) = match entry.verdict {
            NetworkVerdict::Allowed => ("allowed", None),
            NetworkVerdict::Denied(reason) => ("denied", Some(reason)),
        };
        Self {
            first_at: entry.first.0,
            last_at: entry.last.0,
            direction: "out".to_owned(),
            name: entry.name.clone(),
            address: entry.address.map(|address| address.to_string()),
            port: entry.port,
            protocol: match entry.protocol {
                NetworkProtocol::Tcp => "tcp".to_owned(),
                NetworkProtocol::Udp => "udp".to_owned(),
                NetworkProtocol::Icmp => "icmp".to_owned(),
                NetworkProtocol::Dns => "dns".to_owned(),
                NetworkProtocol::Ip(number) => format!("ip-{number}"),
            },
            verdict: verdict.to_owned(),
            reason: reason.map(|reason| reason.as_str().to_owned()),
            count: entry.count,
            open: entry.open,
            bytes_sent: entry.sent,
            bytes_received: entry.received,
            advice: reason.map(|reason| advice(reason, entry)),
        }
    }
}

/// Says what would let something out, in the words of a policy.
fn advice(reason: DenialReason, entry: &NetworkEntry) -> String {
    let target = entry.name.clone().or_else(|| entry.address.map(|address| address.to_string()));
    let target = target.unwrap_or_default();
    let listed = match entry.port {
        Some(port) if entry.address.is_some_and(|address| address.is_ipv4()) => {
            format!("{target}:{port}")
        }
        Some(_) | None => target.clone(),
    };
    match reason {
        DenialReason::InternetOff => {
            format!("set `allow_internet_access`, or add `{listed}` to `allow_out`")
        }
        DenialReason::DenyOut => format!("take what covers `{target}` out of `deny_out`"),
        DenialReason::NotInAllowOut => format!("add `{listed}` to `allow_out`"),
        DenialReason::Closed => {
            "no policy opens it: the host, other sandboxes, private ranges and metadata are closed"
                .to_owned()
        }
        DenialReason::ForeignResolver => {
            "ask 169.254.77.1, the only resolver a sandbox reaches".to_owned()
        }
        DenialReason::QueryType => {
            "ask for an ordinary record such as `A`: this type is not answered".to_owned()
        }
        DenialReason::Limit => {
            "slow down, or raise the limits of `[network]` in the configuration".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tarn_types::UnixMillis;

    use super::*;

    fn entry() -> NetworkEntry {
        NetworkEntry {
            first: UnixMillis(1),
            last: UnixMillis(2),
            name: Some("example.com".to_owned()),
            address: Some([203, 0, 113, 7].into()),
            port: Some(443),
            protocol: NetworkProtocol::Tcp,
            verdict: NetworkVerdict::Denied(DenialReason::NotInAllowOut),
            count: 3,
            open: 0,
            sent: 0,
            received: 0,
        }
    }

    #[test]
    fn an_entry_has_these_bytes() {
        assert_eq!(
            json!(NetworkReportEntry::from(&entry())),
            json!({
                "first_at": 1, "last_at": 2, "direction": "out", "name": "example.com",
                "address": "203.0.113.7", "port": 443, "protocol": "tcp", "verdict": "denied",
                "reason": "not_in_allow_out", "count": 3, "open": 0, "bytes_sent": 0,
                "bytes_received": 0, "advice": "add `example.com:443` to `allow_out`",
            })
        );
    }

    #[test]
    fn advice_names_what_a_policy_would() {
        let of = |reason, entry: NetworkEntry| advice(reason, &entry);
        let bare = NetworkEntry { name: None, ..entry() };
        let question = NetworkEntry { address: None, port: None, ..entry() };
        for (text, expected) in [
            (of(DenialReason::NotInAllowOut, bare.clone()), "add `203.0.113.7:443` to"),
            (of(DenialReason::NotInAllowOut, question.clone()), "add `example.com` to"),
            (of(DenialReason::InternetOff, bare), "or add `203.0.113.7:443` to"),
            (of(DenialReason::DenyOut, question), "covers `example.com` out of `deny_out`"),
        ] {
            assert!(text.contains(expected), "{text}");
        }
        for reason in DenialReason::ALL {
            assert!(!advice(reason, &entry()).is_empty());
        }
    }
}
