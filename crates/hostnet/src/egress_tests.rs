use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::*;
use crate::{
    filter::{Filter, Record},
    plan::AddressRange,
};

#[path = "../tests/it/table.rs"]
mod table;

use self::table::{CASES, Case, NAMES};

fn policy(case: &Case) -> EgressPolicy {
    let read = |list: &[&str]| {
        list.iter().map(|text| text.parse().expect("a good entry")).collect::<Vec<_>>()
    };
    EgressPolicy {
        allow_internet_access: case.internet,
        allow_out: read(case.allow),
        deny_out: read(case.deny),
    }
}

/// Asks what the rules ask, of the sets that they would ask.
fn passes(filter: &Filter, forwards: bool, to: IpAddr) -> bool {
    let range: AddressRange = AddressRange::DEFAULT;
    let own = matches!(to, IpAddr::V4(to) if range.contains(to, 32));
    let closed = is_never_reachable(to) || own;
    let members = &filter.members;
    let within = |spans: &BTreeSet<Span>| spans.iter().any(|span| span.has(to));
    if !forwards || closed || within(&members.denied) || members.blocked.contains_key(&to) {
        return false;
    }
    !members.listed || within(&members.allowed) || members.fresh.contains_key(&to)
}

/// The filter of a policy whose names have been looked up.
fn filter(egress: &Arc<Egress>) -> Filter {
    let now = Instant::now();
    let mut filter = Filter::default().under(egress, &[], now);
    for (name, addresses) in NAMES {
        let name = HostName::read(name).expect("a good name");
        let records: Vec<Record> = addresses
            .iter()
            .map(|text| text.parse().expect("an address"))
            .filter(|address: &IpAddr| !is_never_reachable(*address))
            .map(|address| Record { address, ttl: Duration::from_secs(60) })
            .collect();
        filter = filter.learned(&name, &records, now).unwrap_or(filter);
    }
    filter
}

#[test]
fn every_policy_opens_what_the_table_says() {
    let mut count = 0;
    for case in CASES {
        let egress = Arc::new(Egress::compile(&policy(case)));
        let filter = filter(&egress);
        let told =
            case.open.iter().map(|to| (to, true)).chain(case.shut.iter().map(|to| (to, false)));
        for (to, expected) in told {
            count += 1;
            let Case { internet, allow, deny, .. } = case;
            let verdict = passes(&filter, egress.forwards, to.parse().expect("an address"));
            assert_eq!(
                verdict, expected,
                "internet {internet}, allow {allow:?}, deny {deny:?}: {to}"
            );
        }
        let told = case.told.iter().map(|name| (name, true));
        for (name, expected) in told.chain(case.untold.iter().map(|name| (name, false))) {
            count += 1;
            let answered = egress.refusal(HostName::read(name).as_ref()).is_none();
            let Case { internet, allow, deny, .. } = case;
            assert_eq!(
                answered, expected,
                "internet {internet}, allow {allow:?}, deny {deny:?}: {name}"
            );
        }
    }
    assert!(CASES.len() >= 100 && count >= 600, "only {} cases, {count} questions", CASES.len());
}

#[test]
fn the_resolver_answers_what_the_policy_says() {
    let name = |text: &str| HostName::read(text);
    for (internet, allow, deny, listed, other, odd) in [
        (true, &[][..], &[][..], true, true, true),
        (true, &[][..], &["a.example"][..], false, true, true),
        (true, &[][..], &["169.254.77.1"][..], false, false, false),
        (true, &[][..], &["169.254.0.0/16"][..], false, false, false),
        (true, &[][..], &["0.0.0.0/0"][..], false, false, false),
        (true, &[][..], &["10.0.0.0/8"][..], true, true, true),
        (true, &["a.example"][..], &[][..], true, false, false),
        (false, &["A.Example"][..], &[][..], false, false, false),
        (false, &["A.Example", "169.254.77.1"][..], &[][..], true, false, false),
        (false, &["a.example", "0.0.0.0/0"][..], &[][..], true, false, false),
        (false, &["a.example", "169.254.77.1"][..], &["169.254.0.0/16"][..], false, false, false),
        (true, &["a.example"][..], &["a.example"][..], false, false, false),
        (true, &["a.example"][..], &["169.254.77.0/30"][..], false, false, false),
        (true, &["203.0.113.7"][..], &[][..], false, false, false),
        (false, &["203.0.113.7"][..], &[][..], false, false, false),
        (false, &[][..], &[][..], false, false, false),
        (false, &[][..], &["b.example"][..], false, false, false),
    ] {
        let case = Case { internet, allow, deny, open: &[], shut: &[], told: &[], untold: &[] };
        let egress = Egress::compile(&policy(&case));
        let got = (
            egress.refusal(name("a.example").as_ref()).is_none(),
            egress.refusal(name("low.a.example").as_ref()).is_none(),
            egress.refusal(None).is_none(),
        );
        assert_eq!(
            got,
            (listed, other, odd),
            "internet {internet}, allow {allow:?}, deny {deny:?}"
        );
    }
}

#[test]
fn spans_are_joined() {
    let span = |text: &str| {
        let (first, last) = text.split_once('-').expect("two ends");
        Span { first: first.parse().expect("one"), last: last.parse().expect("one") }
    };
    for (given, expected) in [
        (&["1.0.0.0-1.0.0.9", "1.0.0.5-1.0.0.20"][..], &["1.0.0.0-1.0.0.20"][..]),
        (&["1.0.0.10-1.0.0.20", "1.0.0.0-1.0.0.9"], &["1.0.0.0-1.0.0.20"]),
        (&["1.0.0.0-1.0.0.9", "1.0.0.11-1.0.0.20"], &["1.0.0.0-1.0.0.9", "1.0.0.11-1.0.0.20"]),
        (&["1.0.0.0-1.0.0.90", "1.0.0.1-1.0.0.2"], &["1.0.0.0-1.0.0.90"]),
        (
            &["0.0.0.0-255.255.255.255", "255.255.255.255-255.255.255.255"],
            &["0.0.0.0-255.255.255.255"],
        ),
        (&["2001:db8::-2001:db8::9", "2001:db8::a-2001:db8::f"], &["2001:db8::-2001:db8::f"]),
        (
            &["255.255.255.255-255.255.255.255", "::-::1"],
            &["255.255.255.255-255.255.255.255", "::-::1"],
        ),
        (
            &["::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::5-::9"],
            &["::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
        ),
    ] {
        let merged = merge(given.iter().map(|text| span(text)).collect());
        assert_eq!(merged, expected.iter().map(|text| span(text)).collect(), "{given:?}");
    }
}

#[test]
fn no_form_of_a_private_address_is_answered_or_reachable() {
    for (text, expected) in [
        ("10.0.0.1", true),
        ("0.0.0.0", true),
        ("240.0.0.1", true),
        ("203.0.113.7", false),
        ("::", true),
        ("::1", true),
        ("fd00::1", true),
        ("fe80::1", true),
        ("fec0::1", true),
        ("ff02::1", true),
        ("::ffff:10.0.0.1", true),
        ("::ffff:203.0.113.7", false),
        ("64:ff9b::10.0.0.1", true),
        ("64:ff9b::203.0.113.7", false),
        ("64:ff9b:1::203.0.113.7", true),
        ("2002:a00:1::1", true),
        ("2002:cb00:7107::1", false),
        ("2001:db8::1", false),
        ("2606:4700::1111", false),
    ] {
        let address = text.parse().expect("an address");
        assert_eq!(leads_astray(address), expected, "{text}");
        assert!(!expected || is_never_reachable(address), "{text}");
    }
}

#[test]
fn what_a_resolver_may_honestly_answer_can_be_out_of_reach() {
    for text in ["64:ff9b::203.0.113.7", "2002:cb00:7107::1", "::ffff:203.0.113.7", "2001::1"] {
        let address = text.parse().expect("an address");
        assert!(is_never_reachable(address) && !leads_astray(address), "{text}");
    }
    for text in ["2001:db8::1", "2606:4700::1111", "3fff::1", "203.0.113.7"] {
        assert!(!is_never_reachable(text.parse().expect("an address")), "{text}");
    }
}
