use tarn_types::EgressPolicy;

use super::*;

/// A query for `example.com A` with recursion desired.
fn query() -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(b"\x07example\x03com\0\0\x01\0\x01");
    bytes
}

/// As with IPv6.
fn judge(query: &[u8], egress: &Egress) -> Judgement {
    super::judge(query, egress, Families::Both)
}

fn open() -> Egress {
    Egress::compile(&EgressPolicy::OPEN)
}

fn question_of(query: &[u8]) -> Question {
    Question { query: query.to_vec(), name: HostName::read("example.com") }
}

fn edited(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = query();
    edit(&mut bytes);
    bytes
}

fn code(judgement: &Judgement) -> Option<u8> {
    match judgement {
        Judgement::Answer(answer) => Some(answer[3] & 0x0f),
        Judgement::Refuse(_) => Some(REFUSED),
        Judgement::Ignore | Judgement::Forward(_) => None,
    }
}

#[test]
fn queries_are_forwarded_or_answered() {
    let open = open();
    assert_eq!(judge(&query(), &open), Judgement::Forward(question_of(&query())));
    assert_eq!(code(&judge(&query(), &Egress::default())), Some(REFUSED));
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
        assert!(!matches!(judge(&query()[..cut], &open()), Judgement::Forward(_)), "{cut}");
    }
    let endless = [vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], vec![1; 600]].concat();
    assert_eq!(code(&judge(&endless, &open())), Some(FORMERR));
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

#[test]
fn under_an_allow_list_only_plain_questions_for_its_names_go_out() {
    let listed = |allow: &str| {
        Egress::compile(&EgressPolicy {
            allow_out: vec![allow.parse().expect("a good entry")],
            ..EgressPolicy::OPEN
        })
    };
    let egress = listed("Example.com");
    let of_type = |kind: u16| {
        edited(|q| {
            let at = q.len() - 4;
            q[at..at + 2].copy_from_slice(&kind.to_be_bytes());
        })
    };
    for kind in [1, 2, 5, 12, 15, 16, 28, 33, 257] {
        let query = of_type(kind);
        assert_eq!(judge(&query, &egress), Judgement::Forward(question_of(&query)), "{kind}");
        assert_eq!(code(&judge(&query, &listed("example.org"))), Some(REFUSED), "{kind}");
        assert_eq!(code(&judge(&query, &listed("203.0.113.7"))), Some(REFUSED), "{kind}");
    }
    for kind in [10, 41, 64, 65, 251, 252, 253, 254, 255, 0xff00, 0xffff] {
        assert_eq!(code(&judge(&of_type(kind), &egress)), Some(REFUSED), "{kind}");
    }
    let chaos = edited(|q| *q.last_mut().expect("not empty") = 3);
    assert_eq!(code(&judge(&chaos, &egress)), Some(REFUSED));
    assert_eq!(code(&judge(&query(), &listed("a.example.com"))), Some(REFUSED), "exactly");
    assert_eq!(code(&judge(&query(), &listed("com"))), Some(REFUSED), "exactly");
}

#[test]
fn nothing_but_the_question_goes_out_under_an_allow_list() {
    let egress = Egress::compile(&EgressPolicy {
        allow_out: vec!["example.com".parse().expect("a good entry")],
        ..EgressPolicy::OPEN
    });
    let talkative = edited(|q| {
        q[2] = 0x05;
        q[3] = 0x7f;
        q[11] = 1;
        q.extend_from_slice(b"\0\0\x29\x10\0\0\0\0\0\0\x0a\xff\xff\0\x06secret");
    });
    let Judgement::Forward(question) = judge(&talkative, &egress) else { panic!("a good name") };
    let expected = edited(|q| {
        q[11] = 1;
        q.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
    });
    assert_eq!(question.query, expected);
}

#[test]
fn without_ipv6_no_name_has_such_an_address() {
    let listed = Egress::compile(&EgressPolicy {
        allow_out: vec!["example.com".parse().expect("a good entry")],
        ..EgressPolicy::OPEN
    });
    let six = edited(|q| *q.iter_mut().nth_back(2).expect("a type") = 28);
    for egress in [open(), listed] {
        let Judgement::Answer(answer) = super::judge(&six, &egress, Families::V4) else {
            panic!("we answer that")
        };
        assert_eq!((answer[3] & 0x0f, &answer[4..8]), (0, &[0, 1, 0, 0][..]), "a name, no record");
        let forwarded = |query: &[u8], families| {
            matches!(super::judge(query, &egress, families), Judgement::Forward(_))
        };
        assert!(forwarded(&six, Families::Both) && forwarded(&query(), Families::V4));
    }
    let closed = super::judge(&six, &Egress::default(), Families::V4);
    assert_eq!(code(&closed), Some(REFUSED), "the policy is asked first");
}

#[test]
fn our_own_question_is_one() {
    let name = HostName::read("example.com").expect("a good name");
    let mut asked = query();
    asked[..2].copy_from_slice(&[0, 0]);
    assert_eq!(address_query(&name, TYPE_A), asked);
    *asked.iter_mut().nth_back(2).expect("a type") = 28;
    assert_eq!(address_query(&name, TYPE_AAAA), asked);
}

#[test]
fn names_are_shown_whatever_is_in_them() {
    let named = |name: &[u8]| [&query()[..12], name, b"\0\0\x01\0\x01"].concat();
    for (name, expected) in [
        (&b"\x07Example\x03com"[..], "example.com"),
        (b"\x03a.b\x01c", "a\\.b.c"),
        (b"\x04\x1b[2J", "\\027[2j"),
        (b"\x02\xc3\xa9", "\\195\\169"),
        (b"", "."),
    ] {
        assert_eq!(shown_name(&named(name)), expected);
    }
    assert_eq!(shown_name(&query()[..20]), "");
}

#[test]
fn a_refusal_has_a_reason() {
    let egress = |internet, allow: &[&str], deny: &[&str]| {
        let read = |list: &[&str]| {
            list.iter().map(|text| text.parse().expect("a good entry")).collect::<Vec<_>>()
        };
        Egress::compile(&EgressPolicy {
            allow_internet_access: internet,
            allow_out: read(allow),
            deny_out: read(deny),
        })
    };
    let refuse = Judgement::Refuse;
    let any = edited(|q| *q.iter_mut().nth_back(2).unwrap() = 255);
    for (query, egress, expected) in [
        (query(), egress(false, &[], &[]), DenialReason::InternetOff),
        (query(), egress(false, &["1.1.1.1"], &[]), DenialReason::NotInAllowOut),
        (query(), egress(true, &[], &["169.254.77.1"]), DenialReason::DenyOut),
        (query(), egress(true, &[], &["example.com"]), DenialReason::DenyOut),
        (query(), egress(true, &["a.com"], &["example.com"]), DenialReason::DenyOut),
        (query(), egress(true, &["a.com"], &[]), DenialReason::NotInAllowOut),
        (any, egress(true, &["example.com"], &[]), DenialReason::QueryType),
    ] {
        assert_eq!(judge(&query, &egress), refuse(expected));
    }
}
