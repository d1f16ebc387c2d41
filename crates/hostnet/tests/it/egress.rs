//! Egress lists, as packets on real namespaces.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use tarn_host::Slots as _;
use tarn_types::EgressPolicy;

use crate::{
    host::{
        GATEWAY, Host, PATIENCE, PORT, RESOLVER, SERVER, Server, TYPE_AAAA, ask_for, at_once,
        greeting, in_internet, names, no_echo, no_greeting, on_a_host, sandbox, sh, until, within,
    },
    table::{CASES, Case, NAMES},
};

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
    let mut addresses: Vec<&str> =
        CASES.iter().flat_map(|case| case.open.iter().chain(case.shut)).copied().collect();
    addresses.sort_unstable();
    addresses.dedup();
    for address in addresses {
        let rest = match address.parse().expect("an address") {
            // The sandbox's own gateway, which is the host's to answer at.
            IpAddr::V4(GATEWAY) => continue,
            IpAddr::V4(_) => "32 dev lo",
            IpAddr::V6(_) => "128 dev lo nodad",
        };
        // Some can be nobody's address; what matters then is that nothing is reached.
        sh(&format!("ip -n internet addr add {address}/{rest} 2>/dev/null || true"));
    }
    let resolver = Ipv4Addr::new(203, 0, 113, 57);
    in_internet(|| {
        sh("ip addr add 203.0.113.57/32 dev lo");
        crate::host::greet(Ipv6Addr::UNSPECIFIED, 8000);
        names(resolver, &NAMES);
    });
    let mut config = host.config("aaaaaa");
    config.dns_upstreams = vec![(IpAddr::V4(resolver), 53).into()];
    let server = Server::start(config).await;
    server.slots.settle().await.expect("settle");
    server
}

/// Checks one policy of the table from inside a slot. Returns how many destinations were tried.
fn check(netns: &Path, case: &Case, path: &str) -> usize {
    within(netns, || {
        for name in case.allow {
            // A name is asked for before it is used, as by every program. Where DNS is off, its
            // addresses are let in all the same, and before the policy counts as in force.
            for kind in [1, TYPE_AAAA] {
                assert!(ask_for(GATEWAY, name, kind).is_some(), "{name}");
            }
        }
        for to in case.open {
            let to: IpAddr = to.parse().expect("an address");
            let host = if to.is_ipv4() { "192.0.2.1" } else { "2001:db8:2::1" };
            assert_eq!(
                greeting(to, 8000).as_deref(),
                Ok(host),
                "{path}, {:?} {:?}: {to}",
                case.allow,
                case.deny
            );
        }
        at_once(case.shut.to_vec(), |to| {
            let to: IpAddr = to.parse().expect("an address");
            assert!(no_greeting(to, 8000), "{path}, {:?} {:?}: {to}", case.allow, case.deny);
        });
        case.open.len() + case.shut.len()
    })
}

#[test]
fn every_policy_opens_what_the_table_says_on_every_path() {
    on_a_host(|host| async move {
        let mut server = server_with_names(&host).await;
        let reached = greeting(Ipv4Addr::new(203, 0, 113, 13), 8000);
        assert_eq!(reached.as_deref(), Ok("192.0.2.1"), "control");
        for closed in ["fd00:9::9", "64:ff9b::203.0.113.7", "2002:cb00:7107::1"] {
            let closed = closed.parse::<IpAddr>().expect("an address");
            assert!(greeting(closed, 8000).is_ok(), "control: the host reaches {closed}");
        }
        let mut count = 0;
        // A slot that takes one policy after the other, and a new one for each.
        let changed = server.claim("a", EgressPolicy::OPEN).await;
        for case in &CASES {
            let policy = of_case(case);
            let claimed = server.claim("b", policy.clone()).await;
            count += check(&claimed.netns, case, "claimed");
            server.slots.release(claimed.id, &sandbox("b")).await;
            let id = sandbox("a");
            server.slots.set_policy(changed.id, &id, &policy).await.expect("change");
            count += check(&changed.netns, case, "changed");
        }
        for case in CASES.iter().skip(2).step_by(5) {
            let policy = of_case(case);
            server.slots.set_policy(changed.id, &sandbox("a"), &policy).await.expect("change");
            server = Server::start(server.kill().await).await;
            server.slots.adopt(changed.id, &sandbox("a"), &policy).await.expect("adopt");
            server.slots.settle().await.expect("settle");
            count += check(&changed.netns, case, "adopted");
        }
        assert!(count > 400, "{count}");
    });
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
        for round in 0..100 {
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
