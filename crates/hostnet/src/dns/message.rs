//! What to do with a query, and the few answers we make ourselves (RFC 1035 §4). Pure.

use tarn_types::{DenialReason, HostName};

use super::answer::asked_name;
use crate::egress::{Answers, Egress};

/// A query longer than this is no query, and an answer over UDP no answer.
pub(super) const LONGEST_UDP: usize = 4096;

pub(super) const HEADER: usize = 12;
/// The longest answer that we ask for over UDP (RFC 9715 §3.1).
const ASKED_UDP: u16 = 1232;
const FORMERR: u8 = 1;
const SERVFAIL: u8 = 2;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;
const CLASS_IN: u16 = 1;
pub(super) const TYPE_A: u16 = 1;
const TYPE_NULL: u16 = 10;
pub(super) const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
const TYPE_SVCB: u16 = 64;
const TYPE_HTTPS: u16 = 65;
const TYPE_IXFR: u16 = 251;
const TYPE_AXFR: u16 = 252;
const TYPE_ANY: u16 = 255;
/// Types from here on are for private use (RFC 6895 §3.1).
const TYPE_PRIVATE: u16 = 0xff00;

/// Which families of addresses are of use to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Families {
    /// IPv4 alone: told of an IPv6 address, a program would try it in vain first.
    V4,
    /// IPv4 and IPv6.
    Both,
}

/// What becomes of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Not a query; not answered.
    Ignore,
    /// Answered by us.
    Answer(Vec<u8>),
    /// Refused.
    Refuse(DenialReason),
    /// Asked of an upstream.
    Forward(Question),
}

/// A query that is asked of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// What is sent.
    pub(super) query: Vec<u8>,
    /// The name in it; `None` is one that no list can hold.
    pub(super) name: Option<HostName>,
}

/// Judges a query under a policy.
pub(super) fn judge(query: &[u8], egress: &Egress, families: Families) -> Judgement {
    let Some(header) = query.get(..HEADER) else { return Judgement::Ignore };
    let is_response = header[2] & 0x80 != 0;
    if is_response {
        return Judgement::Ignore;
    }
    let opcode = (header[2] >> 3) & 0x0f;
    if opcode != 0 {
        return Judgement::Answer(reply(query, NOTIMP));
    }
    let Some(question) = question(query) else { return Judgement::Answer(reply(query, FORMERR)) };
    let kind = u16::from_be_bytes([question[question.len() - 4], question[question.len() - 3]]);
    let class = u16::from_be_bytes([question[question.len() - 2], question[question.len() - 1]]);
    let name = asked_name(query);
    if let Some(reason) = egress.refusal(name.as_ref()) {
        return Judgement::Refuse(reason);
    }
    if [TYPE_IXFR, TYPE_AXFR].contains(&kind) {
        return Judgement::Refuse(DenialReason::QueryType);
    }
    if families == Families::V4 && (kind, class) == (TYPE_AAAA, CLASS_IN) {
        return Judgement::Answer(empty(query));
    }
    match egress.answers {
        Answers::Listed if class != CLASS_IN || !is_plain(kind) => {
            Judgement::Refuse(DenialReason::QueryType)
        }
        Answers::Listed => Judgement::Forward(Question { query: bare(query), name }),
        Answers::Open | Answers::Nothing => {
            Judgement::Forward(Question { query: query.to_vec(), name })
        }
    }
}

/// Says whether a type may be asked for under an allow list. `NULL`, `ANY` and private types are
/// for tunnels; `SVCB` and `HTTPS` carry addresses that nobody could connect to, since only those
/// of `A` and `AAAA` records are let in, and without them clients ask for these.
fn is_plain(kind: u16) -> bool {
    ![TYPE_NULL, TYPE_OPT, TYPE_SVCB, TYPE_HTTPS].contains(&kind)
        && !(TYPE_IXFR..=TYPE_ANY).contains(&kind)
        && kind < TYPE_PRIVATE
}

/// Makes a query of the question alone: nothing else of what a sandbox wrote reaches an upstream.
fn bare(query: &[u8]) -> Vec<u8> {
    let additional = query[10..12] != [0, 0];
    let mut bare = query[..2].to_vec();
    bare.extend_from_slice(&[0x01, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(additional)]);
    bare.extend_from_slice(question(query).unwrap_or_default());
    if additional {
        // Who speaks EDNS(0) (RFC 6891 §6.1.1) may be answered at length.
        bare.push(0);
        bare.extend_from_slice(&TYPE_OPT.to_be_bytes());
        bare.extend_from_slice(&ASKED_UDP.to_be_bytes());
        bare.extend_from_slice(&[0; 6]);
    }
    bare
}

/// Asks for a name's records of a type.
pub(super) fn address_query(name: &HostName, kind: u16) -> Vec<u8> {
    let mut query = vec![0, 0, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.as_str().split('.') {
        query.push(u8::try_from(label.len()).expect("a label has at most 63 characters"));
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&kind.to_be_bytes());
    query.extend_from_slice(&CLASS_IN.to_be_bytes());
    query
}

/// Returns the name in a question as text, whatever is in it.
pub(super) fn shown_name(query: &[u8]) -> String {
    let Some(question) = question(query) else { return String::new() };
    let mut text = String::new();
    let mut rest = &question[..question.len() - 4];
    while let Some((&size, behind)) = rest.split_first()
        && let Some((label, next)) = behind.split_at_checked(usize::from(size))
        && size > 0
    {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            // As in a zone file (RFC 1035 §5.1).
            match byte {
                b'.' | b'\\' => text.extend(['\\', char::from(*byte)]),
                0x21..=0x7e => text.push(char::from(byte.to_ascii_lowercase())),
                _ => text.push_str(&format!("\\{byte:03}")),
            }
        }
        rest = next;
    }
    if text.is_empty() { ".".to_owned() } else { text }
}

/// Says whether an answer found something out.
pub(super) fn is_good(answer: &[u8]) -> bool {
    answer.len() >= HEADER && answer[3] & 0x0f == 0
}

/// Says whether an answer was cut for UDP.
pub(super) fn is_truncated(answer: &[u8]) -> bool {
    answer.len() >= HEADER && answer[2] & 0x02 != 0
}

/// Answers that we will not say.
pub(super) fn refused(query: &[u8]) -> Vec<u8> {
    reply(query, REFUSED)
}

/// Answers that the name has no such record.
pub(super) fn empty(query: &[u8]) -> Vec<u8> {
    reply(query, 0)
}

/// Answers that no upstream answered.
pub(super) fn failed(query: &[u8]) -> Vec<u8> {
    reply(query, SERVFAIL)
}

/// Answers that the answer is too long for UDP.
pub(super) fn truncated(query: &[u8]) -> Vec<u8> {
    let mut answer = reply(query, 0);
    answer[2] |= 0x02;
    answer
}

/// Says whether a message answers a query that was sent with an id.
pub(super) fn answers(message: &[u8], id: [u8; 2], query: &[u8]) -> bool {
    let is_response = message.len() >= HEADER && message[2] & 0x80 != 0;
    if !is_response || message[..2] != id {
        return false;
    }
    match (question(message), question(query)) {
        (Some(theirs), Some(ours)) => theirs.eq_ignore_ascii_case(ours),
        // Some servers leave the question out of a refusal.
        (None, Some(_)) => message[4..6] == [0, 0] && message[3] & 0x0f != 0,
        (_, None) => false,
    }
}

/// Copies a message under another id.
pub(super) fn with_id(message: &[u8], id: [u8; 2]) -> Vec<u8> {
    let mut copy = message.to_vec();
    copy[..2].copy_from_slice(&id);
    copy
}

/// Finds the one question: name, type, class.
pub(super) fn question(message: &[u8]) -> Option<&[u8]> {
    let header = message.get(..HEADER)?;
    if header[4..6] != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        let size = usize::from(*message.get(at)?);
        at += 1 + size;
        // A label is at most 63 long (more would be a pointer, which nothing precedes), a name 255.
        if size > 63 || at - HEADER > 255 {
            return None;
        }
        if size == 0 {
            return message.get(HEADER..at + 4);
        }
    }
}

fn reply(query: &[u8], code: u8) -> Vec<u8> {
    let question = question(query);
    let mut answer = Vec::with_capacity(HEADER + question.map_or(0, <[u8]>::len));
    answer.extend_from_slice(&query[..2]);
    // Response; opcode and "recursion desired" as asked; recursion available.
    answer.push(0x80 | (query[2] & 0x79));
    answer.push(0x80 | code);
    answer.extend_from_slice(&[0, u8::from(question.is_some()), 0, 0, 0, 0, 0, 0]);
    answer.extend_from_slice(question.unwrap_or_default());
    answer
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
