//! What an upstream's answer says, and whether a sandbox may have it (RFC 1035 §4.1). Pure.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use tarn_types::HostName;

use super::message::{HEADER, TYPE_A, TYPE_AAAA, question};
use crate::{
    egress::{Answers, Egress, is_never_reachable, leads_astray},
    filter::Record,
    opened::OpenedNetworks,
};

const TYPE_CNAME: u16 = 5;
const CLASS_IN: u16 = 1;
/// Pointers followed for one name; a name has at most 128 labels.
const MOST_JUMPS: usize = 128;

/// What an answer says, as far as it matters to a policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Answer {
    /// Every name on the way, that which was asked for included.
    pub(super) names: BTreeSet<HostName>,
    /// The addresses answered.
    pub(super) records: Vec<Record>,
    /// Whether it names a private address.
    pub(super) leads_astray: bool,
    /// Whether it names another that no sandbox can ever reach.
    pub(super) leads_nowhere: bool,
}

/// Whether a sandbox may have an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may, once the addresses of this name are let in.
    After(HostName, Vec<Record>),
    /// It may.
    Now,
    /// It may know that there is a name, and no record: the addresses are of no use.
    Empty,
    /// It may not.
    Refused,
    /// It may not, and the addresses of this name are to be blocked.
    Denied(HostName, Vec<Record>),
}

/// Decides on an answer under a policy; `asked` is the name of the question.
pub(super) fn admit(answer: &Answer, egress: &Egress, asked: Option<&HostName>) -> Admission {
    let denied = answer.names.iter().find(|name| egress.deny_names.contains(*name));
    if let Some(denied) = denied {
        return Admission::Denied(denied.clone(), answer.records.clone());
    }
    if answer.leads_astray {
        return Admission::Refused;
    }
    if answer.leads_nowhere {
        return Admission::Empty;
    }
    match (egress.answers, asked) {
        (Answers::Listed, Some(asked)) if !answer.records.is_empty() => {
            Admission::After(asked.clone(), answer.records.clone())
        }
        (Answers::Listed | Answers::Open | Answers::Nothing, _) => Admission::Now,
    }
}

/// Reads an answer; `None` if it is cut or contradicts itself. An address that is opened is as good
/// as a public one.
pub(super) fn read(message: &[u8], opened: &OpenedNetworks) -> Option<Answer> {
    let header = message.get(..HEADER)?;
    let count = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
    let mut answer = Answer::default();
    let mut at = HEADER;
    if count(4) > 0 {
        let asked = question(message)?;
        answer.names.extend(name_at(message, HEADER)?.0);
        at += asked.len();
    }
    let answers = count(6);
    for number in 0..answers + count(8) + count(10) {
        let (owner, behind) = name_at(message, at)?;
        let fixed = message.get(behind..behind + 10)?;
        let field = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let (kind, class, size) = (field(0), field(2), usize::from(field(8)));
        let ttl = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        let start = behind + 10;
        let data = message.get(start..start + size)?;
        at = start + size;
        let is_answer = number < answers;
        if is_answer {
            answer.names.extend(owner);
        }
        let address: IpAddr = match (kind, class) {
            (TYPE_A, CLASS_IN) => Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into(),
            (TYPE_AAAA, CLASS_IN) => Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into(),
            (TYPE_CNAME, CLASS_IN) if is_answer => {
                answer.names.extend(name_at(message, start)?.0);
                continue;
            }
            _ => continue,
        };
        if !opened.has(address) {
            answer.leads_astray |= leads_astray(address);
            answer.leads_nowhere |= is_answer && is_never_reachable(address);
        }
        if is_answer {
            answer.records.push(Record { address, ttl: Duration::from_secs(u64::from(ttl)) });
        }
    }
    Some(answer)
}

/// Reads a name that may be compressed; returns it with the index behind it. A name that no list
/// can hold is none, but has an end.
fn name_at(message: &[u8], start: usize) -> Option<(Option<HostName>, usize)> {
    let (mut at, mut behind, mut jumps) = (start, None, 0);
    let mut text = String::new();
    let mut plain = true;
    loop {
        let size = *message.get(at)?;
        match size {
            0 => break,
            1..=63 => {
                let label = message.get(at + 1..at + 1 + usize::from(size))?;
                plain &= is_plain(label);
                if plain && text.len() < 256 {
                    text.push_str(&String::from_utf8_lossy(label));
                    text.push('.');
                }
                at += 1 + usize::from(size);
            }
            192.. => {
                behind.get_or_insert(at + 2);
                at = usize::from(u16::from_be_bytes([size & 0x3f, *message.get(at + 1)?]));
                jumps += 1;
                if jumps > MOST_JUMPS {
                    return None;
                }
            }
            64..=191 => return None,
        }
    }
    let name = plain.then(|| HostName::read(&text)).flatten();
    Some((name, behind.unwrap_or(at + 1)))
}

/// Reads the name of a question, which is never compressed.
pub(super) fn asked_name(query: &[u8]) -> Option<HostName> {
    question(query)?;
    name_at(query, HEADER)?.0
}

/// Says whether a label has only characters of host names; a dot within one must not pass for the
/// dot between two.
fn is_plain(label: &[u8]) -> bool {
    label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
