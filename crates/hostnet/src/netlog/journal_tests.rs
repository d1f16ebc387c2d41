use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

fn flow(last: u8, from_port: u16) -> Flow {
    Flow { protocol: 6, to: IpAddr::from([203, 0, 113, last]), from_port, to_port: 443 }
}

fn bytes(sent: u64, received: u64) -> FlowBytes {
    FlowBytes { sent, received }
}

fn shown(journal: &Journal) -> NetworkLog {
    journal.show(&HashMap::new(), Counted::default())
}

#[test]
fn connections_to_one_place_are_one_entry_with_all_their_bytes() {
    let mut journal = Journal::new(UnixMillis(0));
    journal.answered("a.example", [SERVER].into_iter());
    for port in 1..=3 {
        journal.opened(flow(7, port), UnixMillis(10));
    }
    journal.closed(flow(7, 1), bytes(100, 1000));
    journal.closed(flow(7, 9), bytes(7, 7));
    let live = |open, sent| FlowState { open, bytes: bytes(sent, 0) };
    let standing = [(flow(7, 2), live(true, 20)), (flow(7, 3), live(false, 3))].into();
    let log = journal.show(&standing, Counted::default());
    let [entry] = &log.entries[..] else { panic!("{log:?}") };
    assert_eq!((entry.count, entry.open), (3, 1));
    assert_eq!((entry.sent, entry.received), (123, 1000), "of strangers nothing");
    assert_eq!((entry.name.as_deref(), entry.port), (Some("a.example"), Some(443)));
    assert_eq!(entry.address, Some(SERVER));
}

#[test]
fn what_ends_late_still_belongs_to_it_and_what_counts_is_what_counted_then() {
    let mut journal = Journal::new(UnixMillis(5));
    journal.opened(flow(7, 1), UnixMillis(10));
    let counted = Counted { sent_bytes: 9, unnoted: 2, ..Counted::default() };
    journal.end(UnixMillis(20), counted);
    journal.end(UnixMillis(30), Counted::default());
    journal.closed(flow(7, 1), bytes(1, 2));
    let log = journal.show(&HashMap::new(), Counted { sent_bytes: 77, ..Counted::default() });
    assert_eq!((log.since, log.until), (UnixMillis(5), Some(UnixMillis(20))));
    assert_eq!((log.counters.sent_bytes, log.lost.rate), (9, 2));
    assert_eq!((log.entries[0].open, log.entries[0].received), (0, 2));
}

#[test]
fn no_flood_pushes_another_kind_out() {
    let mut journal = Journal::new(UnixMillis(0));
    journal.opened(flow(7, 1), UnixMillis(0));
    journal.denied(flow(8, 1), DenialReason::Closed, UnixMillis(0));
    journal.refused("a.example", DenialReason::DenyOut, UnixMillis(0));
    for port in 0..5000 {
        let flow = Flow { to_port: port, ..flow(9, 1) };
        journal.denied(flow, DenialReason::Closed, UnixMillis(1));
    }
    let log = shown(&journal);
    assert!(log.entries.iter().any(|entry| entry.verdict == NetworkVerdict::Allowed));
    assert!(log.entries.iter().any(|entry| entry.protocol == NetworkProtocol::Dns));
    assert_eq!(log.entries.len(), 402);
    assert_eq!(log.lost.room, 4601);
}

#[test]
fn protocols_without_ports_have_none() {
    let mut journal = Journal::new(UnixMillis(0));
    for (protocol, expected) in [
        (1, (NetworkProtocol::Icmp, None)),
        (6, (NetworkProtocol::Tcp, Some(443))),
        (17, (NetworkProtocol::Udp, Some(443))),
        (47, (NetworkProtocol::Ip(47), None)),
    ] {
        journal.denied(Flow { protocol, ..flow(7, 1) }, DenialReason::Limit, UnixMillis(0));
        let log = shown(&journal);
        let entry = log.entries.last().expect("it is there");
        assert_eq!((entry.protocol, entry.port), expected);
    }
}

#[test]
fn questions_are_counted_and_the_refused_are_entries() {
    let mut journal = Journal::new(UnixMillis(0));
    journal.answered("a.example", std::iter::empty());
    journal.refused("b.example", DenialReason::NotInAllowOut, UnixMillis(1));
    journal.refused("b.example", DenialReason::NotInAllowOut, UnixMillis(2));
    journal.unheard(UnixMillis(3));
    let log = shown(&journal);
    assert_eq!((log.counters.dns_answered, log.counters.dns_refused), (1, 3));
    let entries: Vec<_> =
        log.entries.iter().map(|entry| (entry.name.as_deref(), entry.count)).collect();
    assert_eq!(entries, [(Some("b.example"), 2), (None, 1)]);
}

#[test]
fn the_newest_name_of_an_address_counts_and_names_are_bounded() {
    let mut names = Names::default();
    let (old, new): (Arc<str>, Arc<str>) = ("old".into(), "new".into());
    names.learn(SERVER, &old);
    names.learn(SERVER, &new);
    assert_eq!(names.by_address.get(&SERVER), Some(&new));
    for number in 0..5000 {
        names.learn(Ipv4Addr::from_bits(number).into(), &old);
    }
    assert_eq!((names.by_address.len(), names.oldest.len()), (MOST_NAMES, MOST_NAMES));
    assert_eq!(names.by_address.get(&SERVER), None);
}

proptest! {
    #[test]
    fn whatever_happens_it_stays_bounded(
        events in proptest::collection::vec((0..4_u8, 0..8_u8, 0..50_u16, 0..300_000_i64), 0..500)
    ) {
        let mut journal = Journal::new(UnixMillis(0));
        let (mut opened, mut denied) = (0, 0);
        for (event, last, port, at) in events {
            let flow = Flow { to_port: port, ..flow(last, port) };
            match event {
                0 => {
                    opened += 1;
                    journal.opened(flow, UnixMillis(at));
                }
                1 => journal.closed(flow, bytes(1, 1)),
                2 => {
                    denied += 1;
                    journal.denied(flow, DenialReason::Closed, UnixMillis(at));
                }
                _ => journal.answered("a", [flow.to].into_iter()),
            }
        }
        let log = shown(&journal);
        let sum = |allowed: bool| -> u64 {
            let of = |entry: &&NetworkEntry| (entry.verdict == NetworkVerdict::Allowed) == allowed;
            log.entries.iter().filter(of).map(|entry| entry.count).sum()
        };
        prop_assert!(log.entries.len() <= 1000 && journal.flows.len() <= MOST_FLOWS);
        prop_assert!(sum(true) <= opened && sum(false) <= denied);
        if log.lost.room == 0 {
            prop_assert_eq!((sum(true), sum(false)), (opened, denied));
        }
        prop_assert!(log.entries.iter().all(|entry| entry.first <= entry.last));
    }
}
