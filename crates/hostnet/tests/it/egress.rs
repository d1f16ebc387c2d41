//! Egress lists, as packets on real namespaces.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    path::Path,
    thread,
    time::Duration,
};

use futures::future::{join_all, try_join_all};
use socket2::{Domain, Protocol, Socket, Type};
use tarn_host::{Slot, Slots as _};
use tarn_hostnet::OpenedNetworks;
use tarn_types::{EgressPolicy, EgressTarget, SandboxId};
use tokio::time::Instant;

use crate::{
    host::{
        GATEWAY, Host, PATIENCE, PORT, RESOLVER, SERVER, SILENCE, Server, TYPE_AAAA, ask_for,
        at_once, echo_on, echoes, greeting, in_internet, names, no_echo, no_greeting, on_a_host,
        sandbox, sh, until, within,
    },
    table::{CASES, Case, NAMES},
};

/// The port of the table's servers: any but those that no list opens.
const ANY_PORT: u16 = 8000;
/// How many policies of the table are tried at once on each path.
const SLOTS: usize = 41;
/// The codes of answers (RFC 1035 §4.1.1).
const NOERROR: u8 = 0;
const REFUSED: u8 = 5;

fn policy(internet: bool, allow: &[&str], deny: &[&str]) -> EgressPolicy {
    let read = |list: &[&str]| {
        list.iter().map(|text| text.parse().expect("a good entry")).collect::<Vec<_>>()
    };
    EgressPolicy { allow_internet_access: internet, allow_out: read(allow), deny_out: read(deny) }
}

fn of_case(case: &Case) -> EgressPolicy {
    policy(case.internet, case.allow, case.deny)
}

/// Has the internet answer at every address of the table, and its resolver at every name.
async fn server_with_names(host: &Host) -> Server {
    server_that_opens(host, &[]).await
}

/// The same, of an operator who has opened private networks.
async fn server_that_opens(host: &Host, networks: &[&str]) -> Server {
    let resolver = Ipv4Addr::new(203, 0, 113, 57);
    let addresses: BTreeSet<IpAddr> = CASES
        .iter()
        .flat_map(|case| case.open.iter().chain(case.shut))
        .map(|text| text.parse().expect("an address"))
        // The sandbox's own gateway is the host's to answer at.
        .filter(|address| *address != IpAddr::V4(GATEWAY))
        .collect();
    let add = |address: &IpAddr| {
        let rest = if address.is_ipv4() { "32 dev lo" } else { "128 dev lo nodad" };
        format!("addr add {address}/{rest}")
    };
    let lines: Vec<String> = addresses.iter().map(add).collect();
    in_internet(|| {
        // Some can be nobody's address; what matters then is that nothing is reached.
        sh(&format!("ip -force -batch - 2>/dev/null <<'.' || true\n{}\n.", lines.join("\n")));
        sh("ip addr add 203.0.113.57/32 dev lo");
        crate::host::greet(Ipv6Addr::UNSPECIFIED, ANY_PORT);
        for address in addresses {
            // Not asked first and bound later: a program that a test starts meanwhile holds on to
            // every socket for a moment.
            if let Ok(socket) = UdpSocket::bind((address, ANY_PORT)) {
                echo_on(socket);
            }
        }
        names(resolver, &NAMES);
    });
    let mut config = host.config("aaaaaa");
    config.dns_upstreams = vec![(IpAddr::V4(resolver), 53).into()];
    let networks: Vec<String> = networks.iter().map(|&network| network.to_owned()).collect();
    config.opened = OpenedNetworks::read(&networks, config.range).expect("private networks");
    let server = Server::start(config).await;
    server.slots.settle().await.expect("settle");
    server
}

/// Checks one policy of the table from inside a slot.
fn check(netns: &Path, case: &Case, path: &str) {
    let what = format!("{path}, internet {}, {:?} {:?}", case.internet, case.allow, case.deny);
    let read = |list: &[&str]| -> Vec<IpAddr> {
        list.iter().map(|text| text.parse().expect("an address")).collect()
    };
    let (open, shut) = (read(case.open), read(case.shut));
    within(netns, || {
        sh("echo 0 0 > /proc/sys/net/ipv4/ping_group_range");
        for entry in of_case(case).allow_out {
            // A name is asked for before it is used, as by every program. Where DNS is off, its
            // addresses are let in all the same, and before the policy counts as in force.
            if let EgressTarget::Name(name) = entry.target() {
                for kind in [1, TYPE_AAAA] {
                    assert!(ask_for(GATEWAY, name.as_str(), kind).is_some(), "{what}: {name}");
                }
            }
        }
        for (names, expected) in [(case.told, true), (case.untold, false)] {
            for name in names {
                let (code, _) = ask_for(GATEWAY, name, 1).expect("it answers");
                assert_eq!(code != REFUSED, expected, "{what}: {name}");
            }
        }
        // All at once: what is not answered is waited for together.
        let means = [Asked::Datagram, Asked::Echo];
        let ask = |list: &[IpAddr]| -> Vec<_> {
            let each = list.iter().flat_map(|to| means.map(|means| (*to, means)));
            // A kernel answers its own echo requests.
            let each = each.filter(|(to, means)| !(to.is_loopback() && *means == Asked::Echo));
            each.map(|(to, means)| (to, means, means.send(to))).collect()
        };
        let (answered, silent) = (ask(&open), ask(&shut));
        let began = Instant::now();
        for to in open {
            let host = if to.is_ipv4() { "192.0.2.1" } else { "2001:db8:2::1" };
            assert_eq!(greeting(to, ANY_PORT).as_deref(), Ok(host), "{what}: {to}");
        }
        for (to, means, mut socket) in answered {
            // What many send at the same moment can be lost on the way.
            while !means.is_answered(socket, SILENCE) {
                assert!(began.elapsed() < PATIENCE, "{what}: {means:?} to {to}");
                socket = means.send(to);
            }
        }
        at_once(shut, |to| assert!(no_greeting(to, ANY_PORT), "{what}: {to}"));
        for (to, means, socket) in silent {
            let left = SILENCE.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
            assert!(!means.is_answered(socket, left), "{what}: {means:?} to {to}");
        }
    });
}

/// Checks policies, each in a slot, all at once.
fn check_all(slots: &[Slot], cases: &[Case], path: &str) {
    at_once(slots.iter().zip(cases).collect(), |(slot, case)| check(&slot.netns, case, path));
}

#[test]
fn every_policy_opens_what_the_table_says_on_every_path() {
    on_a_host(|host| async move {
        let mut server = server_with_names(&host).await;
        let reached = greeting(Ipv4Addr::new(203, 0, 113, 13), ANY_PORT);
        assert_eq!(reached.as_deref(), Ok("192.0.2.1"), "control");
        for closed in ["fd00:9::9", "64:ff9b::203.0.113.7", "2002:cb00:7107::1", "10.9.9.9"] {
            let closed = closed.parse::<IpAddr>().expect("an address");
            assert!(greeting(closed, ANY_PORT).is_ok(), "control: the host reaches {closed}");
            assert!(echoes(closed, ANY_PORT), "control: the host reaches {closed}");
        }
        // Slots that take one policy after the other, and new ones for each.
        let name = |kind: &str, number: usize| sandbox(&format!("{kind}{number}"));
        let kept: Vec<_> = (0..SLOTS).map(|number| name("a", number)).collect();
        let fresh: Vec<_> = (0..SLOTS).map(|number| name("b", number)).collect();
        let changed = claim_all(&server, &kept, &vec![EgressPolicy::OPEN; SLOTS]).await;
        for cases in CASES.chunks(SLOTS) {
            let policies: Vec<_> = cases.iter().map(of_case).collect();
            let claimed = claim_all(&server, &fresh, &policies).await;
            let each = || changed.iter().zip(&kept).zip(&policies);
            let changes =
                each().map(|((slot, id), policy)| server.slots.set_policy(slot.id, id, policy));
            try_join_all(changes).await.expect("change");
            thread::scope(|scope| {
                scope.spawn(|| check_all(&claimed, cases, "claimed"));
                check_all(&changed, cases, "changed");
            });
            let releases = claimed.iter().zip(&fresh);
            join_all(releases.map(|(slot, id)| server.slots.release(slot.id, id))).await;
            server = Server::start(server.kill().await).await;
            let adoptions =
                each().map(|((slot, id), policy)| server.slots.adopt(slot.id, id, policy));
            try_join_all(adoptions).await.expect("adopt");
            server.slots.settle().await.expect("settle");
            check_all(&changed, cases, "adopted");
        }
    });
}

/// Claims a slot for each policy.
async fn claim_all(server: &Server, ids: &[SandboxId], policies: &[EgressPolicy]) -> Vec<Slot> {
    let claims = ids.iter().zip(policies).map(|(id, policy)| server.slots.claim(id, policy));
    try_join_all(claims).await.expect("claim")
}

#[test]
fn a_change_cuts_what_it_forbids_and_nothing_else() {
    on_a_host(|host| async move {
        let server = server_with_names(&host).await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let (kept, cut) = (Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 11));
        in_internet(|| echo_stream(81));
        let mut kept = within(&slot.netns, || Flow::open(kept));
        let mut cut = within(&slot.netns, || Flow::open(cut));
        assert!(kept.beats() && cut.beats(), "both stand");
        let id = sandbox("a");
        for (policy, cut_stands) in [
            (policy(true, &["203.0.113.0/28"], &[]), true),
            (policy(false, &["203.0.113.10"], &[]), false),
            (policy(true, &[], &["203.0.113.11"]), false),
            (policy(true, &["a.example"], &[]), false),
        ] {
            server.slots.set_policy(slot.id, &id, &policy).await.expect("change");
            assert!(kept.beats(), "{policy:?}");
            assert_eq!(cut.beats(), cut_stands, "{policy:?}");
        }
        assert_eq!(cut.error, Some(ErrorKind::ConnectionReset), "said at once");
    });
}

#[test]
fn an_address_lives_as_long_as_its_record_and_its_flows_longer() {
    on_a_host(|host| async move {
        let server = server_with_names(&host).await;
        let slot = server.claim("a", policy(true, &["a.example"], &[])).await;
        in_internet(|| echo_stream(81));
        let to = Ipv4Addr::new(203, 0, 113, 10);
        let mut flow = within(&slot.netns, || {
            assert_eq!(ask_for(GATEWAY, "A.Example", 1), Some((NOERROR, Some(to))));
            Flow::open(to)
        });
        assert!(flow.beats());
        let table = "tarn_aaaaaa";
        let listed = sh(&format!("nft list set inet {table} fresh"));
        assert!(listed.contains("203.0.113.10 timeout 1m30s"), "{listed}");
        // As if its time were up.
        sh(&format!("nft flush set inet {table} fresh"));
        within(&slot.netns, || assert!(no_greeting(to, PORT), "no new flow"));
        assert!(flow.beats(), "a flow that stands is not cut");
        let server = Server::start(server.kill().await).await;
        assert!(flow.beats(), "nor by a restart");
        let policy = policy(true, &["a.example"], &[]);
        server.slots.adopt(slot.id, &sandbox("a"), &policy).await.expect("adopt");
        server.slots.settle().await.expect("settle");
        assert!(flow.beats(), "nor by its adoption");
    });
}

#[test]
fn a_private_network_that_the_operator_opened_is_reached_as_any_is() {
    on_a_host(|host| async move {
        let server = server_that_opens(&host, &["10.9.9.8/29", "fd00:9::/64"]).await;
        let [four, six] = ["10.9.9.9", "fd00:9::9"].map(|text| text.parse().expect("an address"));
        let reaches =
            |slot: &Slot, to: IpAddr| within(&slot.netns, || greeting(to, ANY_PORT).is_ok());
        let open = server.claim("a", EgressPolicy::OPEN).await;
        assert!(reaches(&open, four) && reaches(&open, six));
        within(&open.netns, || {
            let told = ask_for(GATEWAY, "rebind.example", 1);
            assert_eq!(told, Some((NOERROR, Some(Ipv4Addr::new(10, 9, 9, 9)))));
        });
        for (name, policy, expected) in [
            ("b", policy(true, &[], &["10.0.0.0/8"]), false),
            ("c", policy(true, &["203.0.113.7"], &[]), false),
            ("d", policy(true, &["10.9.9.9"], &[]), true),
            ("e", EgressPolicy::CLOSED, false),
        ] {
            let slot = server.claim(name, policy).await;
            assert_eq!(reaches(&slot, four), expected, "{name}");
        }
    });
}

#[test]
fn names_outside_the_lists_are_refused_and_nothing_is_asked_for_them() {
    on_a_host(|host| async move {
        let server = server_with_names(&host).await;
        let slot = server.claim("a", policy(true, &["a.example"], &[])).await;
        let open = server.claim("b", EgressPolicy::OPEN).await;
        let denied = server.claim("c", policy(true, &[], &["a.example", "10.0.0.0/8"])).await;
        let off = server.claim("d", policy(true, &[], &["169.254.77.1"])).await;
        let to = Ipv4Addr::new(203, 0, 113, 10);
        within(&slot.netns, || {
            assert_eq!(ask_for(GATEWAY, "a.example", 1), Some((NOERROR, Some(to))));
            for name in ["b.example", "x.a.example", "example", "secret.b.example"] {
                for kind in [1, 16, 255] {
                    let got = ask_for(GATEWAY, name, kind);
                    assert_eq!(got, Some((REFUSED, None)), "{name} {kind}");
                }
            }
            for kind in [10, 65, 255] {
                assert_eq!(ask_for(GATEWAY, "a.example", kind), Some((REFUSED, None)), "{kind}");
            }
            assert!(no_greeting(RESOLVER, 53) && no_echo(SERVER, 53), "nobody else is asked");
        });
        within(&open.netns, || {
            assert_eq!(ask_for(GATEWAY, "a.example", 1), Some((NOERROR, Some(to))));
            let rebound = ask_for(GATEWAY, "rebind.example", 1);
            assert_eq!(rebound, Some((REFUSED, None)), "it leads to a private address");
        });
        within(&denied.netns, || {
            assert_eq!(ask_for(GATEWAY, "a.example", 1), Some((REFUSED, None)));
            let alias = ask_for(GATEWAY, "alias.a.example", 1);
            assert_eq!(alias, Some((REFUSED, None)), "nor by another name");
            assert!(ask_for(GATEWAY, "b.example", 1).is_some_and(|(code, _)| code == NOERROR));
            // Looked up before the claim returned.
            assert!(no_greeting(to, PORT), "its address is blocked");
        });
        within(&off.netns, || {
            assert_eq!(ask_for(GATEWAY, "b.example", 1), Some((REFUSED, None)));
            assert!(greeting(SERVER, PORT).is_ok(), "only DNS is off");
        });
    });
}

#[test]
fn many_changes_leave_nothing_behind_and_no_open_moment() {
    on_a_host(|host| async move {
        let server = server_with_names(&host).await;
        let slot = server.claim("a", policy(true, &["203.0.113.7"], &[])).await;
        let shut = Ipv4Addr::new(203, 0, 113, 11);
        let netns = slot.netns.clone();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let probe = thread::spawn(move || {
            within(&netns, move || {
                let mut tries = 0;
                while stopped.try_recv().is_err() {
                    assert!(no_greeting(shut, 8000), "an open moment after {tries} tries");
                    tries += 1;
                }
                tries
            })
        });
        let id = sandbox("a");
        let policies = [
            policy(true, &["203.0.113.8/31", "a.example"], &["1.2.3.4"]),
            policy(true, &[], &["203.0.113.0/28"]),
            EgressPolicy::CLOSED,
            policy(false, &["203.0.113.7"], &[]),
        ];
        for round in 0..1_000 {
            let policy = &policies[round % policies.len()];
            server.slots.set_policy(slot.id, &id, policy).await.expect("change");
        }
        stop.send(()).expect("the probe runs");
        let tries = probe.join().expect("no open moment");
        assert!(tries > 10, "only {tries} probes");
        server.slots.release(slot.id, &id).await;
        let own = ["allowed", "denied"].map(|kind| format!("{kind}_{:03x}", slot.id.0));
        let shared = ["listed", "fresh", "known", "blocked"].map(str::to_owned);
        for set in own.into_iter().chain(shared) {
            let shown = sh(&format!("nft list set inet tarn_aaaaaa {set}"));
            assert!(!shown.contains("elements"), "{shown}");
        }
        // A table that is lost comes back with its filters.
        let slot = server.claim("b", policy(true, &["203.0.113.7", "a.example"], &[])).await;
        sh("nft delete table inet tarn_aaaaaa");
        until("the table is back", || within(&slot.netns, || !no_greeting(SERVER, PORT))).await;
        within(&slot.netns, || assert!(no_greeting(shut, 8000)));
    });
}

/// A connection that echoes.
struct Flow {
    stream: TcpStream,
    error: Option<ErrorKind>,
}

/// What is answered in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Datagram,
    Echo,
}

// === impl Asked ===

impl Asked {
    /// Sends it, if there is a way at all.
    fn send(self, to: IpAddr) -> Option<UdpSocket> {
        // An echo request (RFC 792, RFC 4443) without its number and sum, which the kernel sets.
        let (domain, protocol, echo) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
        };
        let (protocol, message) = match self {
            Self::Datagram => (Protocol::UDP, b"datagram"),
            Self::Echo => (protocol, &[echo, 0, 0, 0, 0, 0, 0, 1]),
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(protocol)).expect("make socket");
        let socket = UdpSocket::from(OwnedFd::from(socket));
        socket.connect((to, ANY_PORT)).ok()?;
        socket.send(message).ok()?;
        Some(socket)
    }

    fn is_answered(self, socket: Option<UdpSocket>, patience: Duration) -> bool {
        let Some(socket) = socket else { return false };
        socket.set_read_timeout(Some(patience)).expect("set timeout");
        let mut buffer = [0; 64];
        let received = socket.recv(&mut buffer).map(|size| &buffer[..size]);
        match self {
            Self::Datagram => received.is_ok_and(|answer| answer == b"datagram"),
            Self::Echo => received.is_ok_and(|answer| matches!(answer[0], 0 | 129)),
        }
    }
}

impl Flow {
    fn open(to: Ipv4Addr) -> Self {
        let stream = TcpStream::connect_timeout(&(to, 81).into(), PATIENCE).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(3))).expect("set timeout");
        stream.set_nodelay(true).expect("set option");
        Self { stream, error: None }
    }

    /// Says whether a byte still comes back.
    fn beats(&mut self) -> bool {
        let mut byte = [0];
        let sent = self.stream.write_all(b"x").and_then(|()| self.stream.read_exact(&mut byte));
        if let Err(error) = &sent {
            self.error.get_or_insert(error.kind());
        }
        sent.is_ok()
    }
}

/// Echoes bytes on every address of the calling thread's namespace.
fn echo_stream(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("listen");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() {
                    drop(stream.write_all(&byte));
                }
            });
        }
    });
}
