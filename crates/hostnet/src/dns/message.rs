//! What to do with a query, and the few answers we make ourselves (RFC 1035 §4). Pure.

use tarn_types::EgressPolicy;

/// Over UDP a query longer than this is no query.
pub(super) const LONGEST_UDP: usize = 4096;

const HEADER: usize = 12;
const FORMERR: u8 = 1;
const SERVFAIL: u8 = 2;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;
const TYPE_IXFR: u16 = 251;
const TYPE_AXFR: u16 = 252;

/// What becomes of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Not a query; not answered.
    Ignore,
    /// Answered by us.
    Answer(Vec<u8>),
    /// Asked of an upstream.
    Forward,
}

/// Judges a query under a policy.
pub(super) fn judge(query: &[u8], policy: &EgressPolicy) -> Judgement {
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
    if !policy.allow_internet_access || [TYPE_IXFR, TYPE_AXFR].contains(&kind) {
        return Judgement::Answer(refused(query));
    }
    Judgement::Forward
}

/// Answers that we will not say.
pub(super) fn refused(query: &[u8]) -> Vec<u8> {
    reply(query, REFUSED)
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
fn question(message: &[u8]) -> Option<&[u8]> {
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
mod tests {
    use super::*;

    /// A query for `example.com A` with recursion desired.
    fn query() -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(b"\x07example\x03com\0\0\x01\0\x01");
        bytes
    }

    fn edited(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = query();
        edit(&mut bytes);
        bytes
    }

    fn code(judgement: &Judgement) -> Option<u8> {
        match judgement {
            Judgement::Answer(answer) => Some(answer[3] & 0x0f),
            Judgement::Ignore | Judgement::Forward => None,
        }
    }

    #[test]
    fn queries_are_forwarded_or_answered() {
        let open = EgressPolicy::OPEN;
        assert_eq!(judge(&query(), &open), Judgement::Forward);
        assert_eq!(code(&judge(&query(), &EgressPolicy::CLOSED)), Some(REFUSED));
        for (what, bytes, expected) in [
            ("transfer", edited(|q| *q.iter_mut().nth_back(2).unwrap() = 252), REFUSED),
            ("status", edited(|q| q[2] = 0x10), NOTIMP),
            ("two questions", edited(|q| q[5] = 2), FORMERR),
            ("no question", edited(|q| q[5] = 0), FORMERR),
            ("cut", edited(|q| q.truncate(20)), FORMERR),
            ("pointer", edited(|q| q[12] = 0xc0), FORMERR),
        ] {
            assert_eq!(code(&judge(&bytes, &open)), Some(expected), "{what}");
        }
        assert_eq!(judge(&edited(|q| q[2] |= 0x80), &open), Judgement::Ignore);
        assert_eq!(judge(&[1, 2, 3], &open), Judgement::Ignore);
    }

    #[test]
    fn no_cut_query_panics() {
        for cut in 0..query().len() {
            assert_ne!(judge(&query()[..cut], &EgressPolicy::OPEN), Judgement::Forward);
        }
        let endless = [vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], vec![1; 600]].concat();
        assert_eq!(code(&judge(&endless, &EgressPolicy::OPEN)), Some(FORMERR));
    }

    #[test]
    fn our_answers_carry_id_and_question() {
        let answer = refused(&query());
        assert_eq!(answer[..4], [0xab, 0xcd, 0x81, 0x85]);
        assert_eq!(answer[4..12], [0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(answer[12..], query()[12..]);
        assert_eq!(truncated(&query())[2] & 0x02, 0x02);
        assert_eq!(failed(&query())[3] & 0x0f, SERVFAIL);
    }

    #[test]
    fn only_an_answer_to_the_same_question_under_our_id_counts() {
        let sent = [0x12, 0x34];
        let answer = with_id(&failed(&query()), sent);
        assert!(answers(&answer, sent, &query()));
        let shouted = with_id(&failed(&edited(|q| q.make_ascii_uppercase())), sent);
        assert!(answers(&shouted, sent, &query()), "names have no case");
        assert!(!answers(&answer, [0, 0], &query()));
        assert!(!answers(&with_id(&query(), sent), sent, &query()), "a query is no answer");
        let other = with_id(&failed(&edited(|q| q[13] = b'X')), sent);
        assert!(!answers(&other, sent, &query()));
        let bare = [0x12, 0x34, 0x81, 0x85, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(answers(&bare, sent, &query()));
        assert!(!answers(&[0x12, 0x34, 0x81, 0x80, 0, 0, 0, 0, 0, 0, 0, 0], sent, &query()));
    }
}
