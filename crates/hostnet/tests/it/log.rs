//! What the network log of a sandbox says of what its packets met.

use std::{
    net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket},
    time::Duration,
};

use tarn_host::{Slot, Slots as _};
use tarn_types::{
    DenialReason, EgressPolicy, NetworkEntry, NetworkLog, NetworkProtocol, NetworkVerdict,
};

use crate::host::{
    CLOSED, GATEWAY, HOST, PATIENCE, PORT, RESOLVER, SERVER, Server, ask_for, greet, greeting,
    in_internet, names, no_echo, no_greeting, on_a_host, sandbox, sh, until, within,
};

const NAMED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const NAMES_AT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 54);
const TYPE_A: u16 = 1;

fn policy(internet: bool, allow: &[&str], deny: &[&str]) -> EgressPolicy {
    let read = |list: &[&str]| {
        list.iter().map(|text| text.parse().expect("a good entry")).collect::<Vec<_>>()
    };
    EgressPolicy { allow_internet_access: internet, allow_out: read(allow), deny_out: read(deny) }
}

async fn log(server: &Server, name: &str) -> NetworkLog {
    let log = server.slots.network_log(&sandbox(name)).await.expect("read");
    log.expect("there is one")
}

/// Reads a log until it says something: what was sent may still be on its way.
async fn until_log(
    server: &Server,
    name: &str,
    what: &str,
    says: impl Fn(&NetworkLog) -> bool,
) -> NetworkLog {
    let reading = async {
        loop {
            let log = log(server, name).await;
            if says(&log) {
                return log;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect(what)
}

/// Finds the one entry of a destination.
fn entry(log: &NetworkLog, to: Ipv4Addr, port: u16) -> &NetworkEntry {
    let is_it =
        |entry: &&NetworkEntry| entry.address == Some(IpAddr::V4(to)) && entry.port == Some(port);
    let found: Vec<_> = log.entries.iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{to}:{port} in {log:#?}");
    found[0]
}

fn denied(reason: DenialReason) -> NetworkVerdict {
    NetworkVerdict::Denied(reason)
}

/// Adds a server with a name to the internet.
fn named_server() {
    sh(&format!(
        "ip -n internet addr add {NAMED}/32 dev lo; ip -n internet addr add {NAMES_AT}/32 dev lo"
    ));
    in_internet(|| {
        greet(NAMED, PORT);
        names(NAMES_AT, &[("a.example", &["203.0.113.9"])]);
    });
}

async fn server(host: &crate::host::Host, maximum: u16) -> Server {
    let mut config = host.config("aaaaaa");
    config.dns_upstreams = vec![(NAMES_AT, 53).into()];
    config.maximum = maximum;
    let server = Server::start(config).await;
    server.slots.settle().await.expect("settle");
    server
}

#[test]
fn a_log_says_where_to_and_why_not() {
    on_a_host(|host| async move {
        named_server();
        let server = server(&host, 10).await;
        let lists = policy(true, &["a.example", "203.0.113.0/28"], &["203.0.113.7"]);
        let slot = server.claim("a", lists).await;
        within(&slot.netns, || {
            assert_eq!(ask_for(GATEWAY, "a.example", TYPE_A), Some((0, Some(NAMED))));
            assert_eq!(ask_for(GATEWAY, "other.example", TYPE_A).map(|(code, _)| code), Some(5));
            assert!(greeting(NAMED, PORT).is_ok());
            for to in [SERVER, RESOLVER, CLOSED[0], CLOSED[2]] {
                assert!(no_greeting(to, PORT), "{to}");
            }
            assert!(no_greeting(HOST, PORT));
            assert!(no_echo(SERVER, 53));
        });
        let log = log(&server, "a").await;
        let reached = entry(&log, NAMED, PORT);
        assert_eq!(reached.verdict, NetworkVerdict::Allowed);
        assert_eq!((reached.name.as_deref(), reached.count), (Some("a.example"), 1));
        assert_eq!(reached.protocol, NetworkProtocol::Tcp);
        assert!(reached.sent > 40 && reached.received > 40, "{reached:?}");
        for (to, port, reason) in [
            (SERVER, PORT, DenialReason::DenyOut),
            (RESOLVER, PORT, DenialReason::NotInAllowOut),
            (CLOSED[0], PORT, DenialReason::Closed),
            (CLOSED[2], PORT, DenialReason::Closed),
            (HOST, PORT, DenialReason::Closed),
            (SERVER, 53, DenialReason::ForeignResolver),
        ] {
            let entry = entry(&log, to, port);
            assert_eq!((entry.verdict, entry.name.as_deref()), (denied(reason), None), "{to}");
        }
        let refused = log.entries.iter().find(|entry| entry.protocol == NetworkProtocol::Dns);
        let refused = refused.expect("a refused name is noted");
        assert_eq!(refused.name.as_deref(), Some("other.example"));
        assert_eq!(refused.verdict, denied(DenialReason::NotInAllowOut));
        let counters = log.counters;
        assert_eq!((counters.dns_answered, counters.dns_refused), (1, 1));
        assert_eq!(counters.connections, 1);
        assert!(
            counters.sent_bytes >= reached.sent && counters.denied_packets >= 6,
            "{counters:?}"
        );
        assert!(counters.received_bytes >= reached.received, "{counters:?}");
        assert!(!log.lost.is_any() && log.until.is_none(), "{log:?}");
    });
}

#[test]
fn what_is_closed_as_a_whole_is_noted_too() {
    on_a_host(|host| async move {
        named_server();
        let server = server(&host, 10).await;
        let slot = server.claim("a", EgressPolicy::CLOSED).await;
        within(&slot.netns, || {
            assert!(no_greeting(SERVER, PORT));
            assert_eq!(ask_for(GATEWAY, "a.example", TYPE_A).map(|(code, _)| code), Some(5));
        });
        let log = log(&server, "a").await;
        let off = denied(DenialReason::InternetOff);
        assert_eq!(entry(&log, SERVER, PORT).verdict, off);
        assert!(log.entries.iter().any(|it| it.name.is_some() && it.verdict == off), "{log:?}");
        assert_eq!(log.counters.connections, 0);
    });
}

/// Sends datagrams to many ports that are denied.
fn flood(slot: &Slot, rounds: u32) {
    within(&slot.netns, || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        for round in 0..rounds {
            let port = 1024 + u16::try_from(round % 60_000).expect("a port");
            // What the queue of the link does not take is not sent.
            drop(socket.send_to(b"x", (CLOSED[0], port)));
        }
    });
}

#[test]
fn a_flood_is_bounded_and_hides_nothing_else() {
    on_a_host(|host| async move {
        named_server();
        let server = server(&host, 10).await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let other = server.claim("b", EgressPolicy::CLOSED).await;
        within(&slot.netns, || assert!(greeting(SERVER, PORT).is_ok()));
        flood(&slot, 20_000);
        within(&other.netns, || assert!(no_greeting(SERVER, PORT)));
        within(&slot.netns, || assert!(greeting(NAMED, PORT).is_ok()));
        let accounted = |log: &NetworkLog| {
            let noted: u64 = log.entries.iter().map(|entry| entry.count).sum();
            let lost = log.lost.rate + log.lost.room + log.lost.node;
            lost > 0 && noted + lost >= log.counters.denied_packets
        };
        let flooded = until_log(&server, "a", "all is noted or counted as lost", accounted).await;
        assert!(flooded.entries.len() <= 1000, "{}", flooded.entries.len());
        assert_eq!(entry(&flooded, SERVER, PORT).verdict, NetworkVerdict::Allowed);
        assert_eq!(entry(&flooded, NAMED, PORT).verdict, NetworkVerdict::Allowed);
        let quiet = log(&server, "b").await;
        assert_eq!(entry(&quiet, SERVER, PORT).verdict, denied(DenialReason::InternetOff));
    });
}

#[test]
fn nothing_of_one_sandbox_is_the_next_one_s() {
    on_a_host(|host| async move {
        named_server();
        let server = server(&host, 1).await;
        for round in 0..10 {
            let name = format!("a{round}");
            let slot = server.claim(&name, EgressPolicy::OPEN).await;
            let started = log(&server, &name).await;
            assert_eq!((started.entries, started.counters.denied_packets), (vec![], 0));
            let stands = within(&slot.netns, || {
                flood(&slot, 600);
                assert!(greeting(SERVER, PORT).is_ok());
                TcpStream::connect_timeout(&(NAMED, PORT).into(), PATIENCE).expect("connect")
            });
            server.slots.release(slot.id, &sandbox(&name)).await;
            drop(stands);
            until("the slot is ready again", || server.slots.ready() == 1).await;
            let left = log(&server, &name).await;
            assert!(left.until.is_some());
            assert_eq!(entry(&left, SERVER, PORT).open, 0);
            assert!(entry(&left, NAMED, PORT).sent > 0, "its end was heard: {left:?}");
            assert!(left.counters.denied_packets > 0, "{left:?}");
        }
        assert_eq!(server.slots.network_log(&sandbox("never")).await.expect("read"), None);
    });
}

#[test]
fn a_restart_begins_anew_and_says_so() {
    on_a_host(|host| async move {
        named_server();
        let first = server(&host, 10).await;
        let slot = first.claim("a", EgressPolicy::OPEN).await;
        within(&slot.netns, || assert!(greeting(SERVER, PORT).is_ok()));
        let before = log(&first, "a").await;
        let next = Server::start(first.kill().await).await;
        next.slots.adopt(slot.id, &sandbox("a"), &EgressPolicy::OPEN).await.expect("adopt");
        next.slots.settle().await.expect("settle");
        let after = log(&next, "a").await;
        assert!(after.since >= before.since && after.entries.is_empty(), "{after:?}");
        within(&slot.netns, || assert!(greeting(NAMED, PORT).is_ok()));
        assert_eq!(entry(&log(&next, "a").await, NAMED, PORT).count, 1);
    });
}
