//! IPv6 beside IPv4: what a sandbox reaches by it, what it does not, and a host that has none.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    time::Duration,
};

use tarn_host::{Slot, Slots as _};
use tarn_hostnet::{SlotLimits, SlotsConfig, facts};
use tarn_types::{DenialReason, EgressPolicy, NetworkProtocol, NetworkVerdict};
use tokio::time::Instant;

use crate::host::{
    CLOSED6, GATEWAY, HOST6, Host, NEIGHBOUR6, PATIENCE, PORT, SERVER, SERVER6, SILENCE, Server,
    TYPE_AAAA, ask_for, at_once, echo_server, echoes, greet, greeting, in_internet, names, no_echo,
    no_greeting, on_a_host, sandbox, sh, until, within,
};

/// A port of the host's own, like the API's.
const HOST_PORT: u16 = 8900;
/// What every sandbox has inside.
const INSIDE6: Ipv6Addr = Ipv6Addr::new(0xfd74, 0x6172, 0x6e00, 0x77, 0, 0, 0, 2);
const NOERROR: u8 = 0;

/// The host-side address of a slot in IPv6.
fn beside(slot: &Slot) -> Ipv6Addr {
    let address = match slot.address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let address = address.expect("sandboxes are spoken to by IPv4");
    let host_side = Ipv6Addr::new(0xfd74, 0x6172, 0x6e00, 1, 0, 0, 0, 0);
    Ipv6Addr::from_bits(host_side.to_bits() | u128::from(address.to_bits()))
}

/// Starts a server whose resolver knows `six.example`.
async fn server_with_names(host: &Host, change: impl FnOnce(&mut SlotsConfig)) -> Server {
    let resolver = Ipv4Addr::new(203, 0, 113, 57);
    in_internet(|| {
        sh("ip addr add 203.0.113.57/32 dev lo");
        names(resolver, &[("six.example", &["2001:db8:7::7"])]);
    });
    let mut config = host.config("aaaaaa");
    config.dns_upstreams = vec![(resolver, 53).into()];
    change(&mut config);
    let server = Server::start(config).await;
    server.slots.settle().await.expect("settle");
    server
}

/// How a connection ends that is not let through, and how soon.
fn ends(netns: &Path, to: Ipv6Addr) -> (Option<ErrorKind>, Duration) {
    within(netns, || {
        let began = Instant::now();
        let end = TcpStream::connect_timeout(&(to, PORT).into(), PATIENCE);
        (end.err().map(|error| error.kind()), began.elapsed())
    })
}

/// Whether the resolver tells the address of `six.example`.
fn tells_six(netns: &Path) -> bool {
    within(netns, || {
        let (code, last) = ask_for(GATEWAY, "six.example", TYPE_AAAA).expect("it answers");
        assert_eq!(code, NOERROR);
        last.is_some()
    })
}

#[test]
fn an_open_slot_reaches_the_internet_by_ipv6_and_nothing_else() {
    on_a_host(|host| async move {
        greet(Ipv6Addr::UNSPECIFIED, HOST_PORT);
        echo_server(Ipv6Addr::UNSPECIFIED, HOST_PORT);
        let server = host.server("aaaaaa").await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let other = server.claim("b", EgressPolicy::OPEN).await;
        within(&other.netns, || greet(Ipv6Addr::UNSPECIFIED, PORT));
        for closed in CLOSED6 {
            assert_eq!(greeting(closed, PORT).as_deref(), Ok("2001:db8:2::1"), "control: {closed}");
        }
        assert!(greeting(HOST6, HOST_PORT).is_ok() && echoes(HOST6, HOST_PORT), "control");
        within(&other.netns, || assert!(greeting(INSIDE6, PORT).is_ok(), "control"));
        within(&slot.netns, || {
            assert_eq!(greeting(SERVER6, PORT).as_deref(), Ok("2001:db8:2::1"), "by masquerade");
            assert!(echoes(SERVER6, PORT));
            let mut refused: Vec<_> = CLOSED6.into_iter().map(|address| (address, PORT)).collect();
            refused.extend([(beside(&other), PORT), (beside(&slot), HOST_PORT)]);
            refused.extend([(HOST6, HOST_PORT), (SERVER6, 53), (SERVER6, 853)]);
            at_once(refused, |(address, port)| {
                assert!(no_greeting(address, port), "TCP to {address}:{port}");
                assert!(no_echo(address, port), "UDP to {address}:{port}");
            });
        });
        // Nobody speaks to a sandbox by IPv6, the host neither.
        within(&slot.netns, || greet(Ipv6Addr::UNSPECIFIED, 9501));
        assert!(no_greeting(beside(&slot), 9501));
        sh("ip -n internet -6 route add fd74:6172:6e00::/48 via 2001:db8:2::1");
        in_internet(|| {
            assert!(no_greeting(beside(&slot), 9501));
            assert!(no_greeting(INSIDE6, 9501));
        });
    });
}

#[test]
fn a_sandbox_cannot_speak_for_another_nor_about_neighbours() {
    on_a_host(|host| async move {
        greet(Ipv6Addr::UNSPECIFIED, HOST_PORT);
        let server = host.server("aaaaaa").await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let other = server.claim("b", EgressPolicy::OPEN).await;
        let heard = in_internet(|| UdpSocket::bind((SERVER6, 999)).expect("bind"));
        heard.set_read_timeout(Some(SILENCE)).expect("set timeout");
        let known = || {
            sh(
                "ip -6 route show default; ip -6 neigh show dev taaaaaa001; ip -6 addr show scope global; ip -6 addr show dev taaaaaa001",
            )
        };
        let before = known();
        within(&slot.netns, || {
            let foreign =
                [beside(&other), beside(&slot), HOST6, "2001:db8:99::1".parse().expect("ok")];
            for forged in foreign {
                sh(&format!("ip addr add {forged}/128 dev eth0 nodad"));
                let socket = UdpSocket::bind((forged, 0)).expect("bind");
                socket.send_to(b"forged", (SERVER6, 999)).expect("send");
            }
            // The kernel asks and tells about neighbours, and listens to routers, of itself.
            sh("ip addr add fe80::2/64 dev eth0 nodad
                ip neigh del fd74:6172:6e00:77::1 dev eth0");
            let index = nix::net::if_::if_nametoindex("eth0").expect("find eth0");
            for link in ["fe80::ff:fe00:7701", "ff02::1", "ff02::2"] {
                let link = link.parse().expect("an address");
                let to = std::net::SocketAddrV6::new(link, HOST_PORT, 0, index);
                let socket = UdpSocket::bind("[::]:0").expect("bind");
                drop(socket.send_to(b"forged", to));
                assert!(TcpStream::connect_timeout(&SocketAddr::V6(to), SILENCE).is_err());
            }
            assert!(no_greeting(SERVER6, PORT), "nobody answers for the gateway");
            sh(
                "ip neigh replace fd74:6172:6e00:77::1 lladdr 02:00:00:00:77:01 dev eth0 nud permanent",
            );
            let socket = UdpSocket::bind((INSIDE6, 0)).expect("bind");
            socket.send_to(b"honest", (SERVER6, 999)).expect("send");
        });
        let mut buffer = [0; 16];
        let (size, from) = heard.recv_from(&mut buffer).expect("the honest one arrives");
        assert_eq!((&buffer[..size], from.ip()), (&b"honest"[..], IpAddr::V6(HOST6)));
        assert_eq!(heard.recv(&mut buffer).map_err(|e| e.kind()), Err(ErrorKind::WouldBlock));
        assert_eq!(known(), before);
    });
}

#[test]
fn without_a_way_out_nothing_stalls() {
    on_a_host(|host| async move {
        sh("ip -6 route del default");
        let server = server_with_names(&host, |_| {}).await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let fact = |config: &SlotsConfig| {
            let fact = facts(config).into_iter().find(|fact| fact.name == "IPv6");
            fact.map(|fact| (fact.ok, fact.detail)).expect("doctor looks at it")
        };
        let (ok, detail) = fact(&server.config);
        assert!(ok && detail.contains("no route leads to public addresses"), "{detail}");
        let closed = |netns: &Path| {
            let (end, after) = ends(netns, SERVER6);
            assert_eq!(end, Some(ErrorKind::ConnectionRefused), "said at once");
            assert!(after < PATIENCE / 3, "{after:?}");
            assert!(!tells_six(netns), "a name has no such address");
            assert!(within(netns, || greeting(SERVER, PORT)).is_ok(), "IPv4 goes on");
        };
        closed(&slot.netns);
        let again = async |server: Server| {
            let server = Server::start(server.kill().await).await;
            let adopted = server.slots.adopt(slot.id, &sandbox("a"), &EgressPolicy::OPEN).await;
            adopted.expect("adopt");
            server.slots.settle().await.expect("settle");
            server
        };
        sh("ip -6 route add default via 2001:db8:2::2");
        let server = again(server).await;
        assert!(tells_six(&slot.netns), "to whom it was closed, too");
        assert!(within(&slot.netns, || greeting(SERVER6, PORT)).is_ok());
        let (ok, detail) = fact(&server.config);
        assert!(ok && detail == "open to sandboxes; uplinks: up0", "{detail}");
        // A host whose address is no public one prefers IPv4 itself.
        sh("ip addr add fd00:2::1/64 dev up0 nodad; ip addr del 2001:db8:2::1/64 dev up0
            ip -n internet addr add fd00:2::2/64 dev eth0 nodad
            ip -6 route replace default via fd00:2::2");
        drop(again(server).await);
        closed(&slot.netns);
    });
}

#[test]
fn the_host_becomes_a_router_of_ipv6_for_nobody() {
    on_a_host(|host| async move {
        sh("ip netns add lan
            ip link add lan0 type veth peer name eth0 netns lan
            ip addr add 2001:db8:20::1/64 dev lan0 nodad
            ip link set lan0 up
            ip -n lan addr add 2001:db8:20::2/64 dev eth0 nodad
            ip -n lan link set eth0 up
            ip -n lan route add default via 2001:db8:20::1
            ip -n internet route add 2001:db8:20::/64 via 2001:db8:2::1");
        let lan: Ipv6Addr = "2001:db8:20::2".parse().expect("an address");
        within("/run/netns/lan".as_ref(), || greet(Ipv6Addr::UNSPECIFIED, PORT));
        until("the host reaches it", || !no_greeting(lan, PORT)).await;
        let setting =
            |path: &str| sh(&format!("cat /proc/sys/net/ipv6/conf/{path} 2>/dev/null || true"));
        let own = setting("all/forwarding");
        let server = host.server("aaaaaa").await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        assert!(within(&slot.netns, || greeting(SERVER6, PORT)).is_ok());
        assert!(within(&slot.netns, || no_greeting(lan, PORT)), "a network of the host's");
        assert!(within(&slot.netns, || no_greeting(NEIGHBOUR6, PORT)), "and another");
        assert_eq!(setting("all/forwarding"), own);
        if own != "0\n" {
            return;
        }
        assert!(in_internet(|| no_greeting(lan, PORT)), "through the host");
        assert_eq!(setting("up0/forwarding"), "0\n", "it still listens to routers");
        assert_eq!(setting("up0/force_forwarding") + &setting("lan0/force_forwarding"), "1\n0\n");
    });
}

#[test]
fn a_sandbox_from_before_goes_on_without_it_and_its_slot_gets_it_afterwards() {
    on_a_host(|host| async move {
        let before = server_with_names(&host, |config| config.ipv6 = false).await;
        let slot = before.claim("a", EgressPolicy::OPEN).await;
        assert_eq!(within(&slot.netns, || sh("ip -6 addr show dev eth0")), "");
        let check = |slot: &Slot| {
            assert!(within(&slot.netns, || greeting(SERVER, PORT)).is_ok());
            assert!(!tells_six(&slot.netns));
        };
        check(&slot);
        let config = SlotsConfig { ipv6: true, spare: 1, ..before.kill().await };
        let server = Server::start(config).await;
        server.slots.adopt(slot.id, &sandbox("a"), &EgressPolicy::OPEN).await.expect("adopt");
        server.slots.settle().await.expect("settle");
        check(&slot);
        server.slots.release(slot.id, &sandbox("a")).await;
        let next = server.claim("b", EgressPolicy::OPEN).await;
        assert!(tells_six(&next.netns));
        assert!(within(&next.netns, || greeting(SERVER6, PORT)).is_ok());
        // And back: who has it keeps the addresses, but no way.
        let config = SlotsConfig { ipv6: false, ..server.kill().await };
        let server = Server::start(config).await;
        server.slots.adopt(next.id, &sandbox("b"), &EgressPolicy::OPEN).await.expect("adopt");
        assert!(!tells_six(&next.netns) && within(&next.netns, || no_greeting(SERVER6, PORT)));
    });
}

#[test]
fn a_used_slot_has_its_addresses_again() {
    on_a_host(|host| async move {
        let mut config = host.config("aaaaaa");
        config.maximum = 1;
        let server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        for name in ["a", "b"] {
            let slot = server.claim(name, EgressPolicy::OPEN).await;
            assert!(within(&slot.netns, || greeting(SERVER6, PORT)).is_ok(), "{name}");
            // As a runtime does at its start.
            within(&slot.netns, || sh("ip addr flush dev eth0"));
            server.slots.release(slot.id, &sandbox(name)).await;
            until("the slot is ready again", || server.slots.ready() == 1).await;
        }
    });
}

#[test]
fn limits_and_log_are_of_both_families_together() {
    on_a_host(|host| async move {
        let limits = SlotLimits { connections: 4, ..SlotLimits::default() };
        let server = server_with_names(&host, |config| config.limits = limits).await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let listeners = in_internet(|| {
            [SERVER.into(), SERVER6.into()]
                .map(|at: IpAddr| TcpListener::bind((at, 81)).expect("listen"))
        });
        within(&slot.netns, || {
            assert!(ask_for(GATEWAY, "six.example", TYPE_AAAA).is_some());
            let connect = |to: IpAddr| {
                TcpStream::connect_timeout(&(to, 81).into(), PATIENCE).map_err(|e| e.kind())
            };
            let to: [IpAddr; 4] = [SERVER.into(), SERVER6.into(), SERVER.into(), SERVER6.into()];
            let held: Vec<_> = to.into_iter().map(connect).collect();
            assert!(held.iter().all(Result::is_ok), "{held:?}");
            for one_more in [SERVER.into(), SERVER6.into()] {
                assert_eq!(connect(one_more).err(), Some(ErrorKind::ConnectionRefused));
            }
        });
        drop(listeners);
        // One flow less makes room for one more, which may be the one that asks.
        let reaches = |to: IpAddr| within(&slot.netns, || !no_greeting(to, PORT));
        until("there is room again", || reaches(SERVER.into())).await;
        until("and for IPv6", || reaches(SERVER6.into())).await;
        within(&slot.netns, || {
            assert!(no_greeting(NEIGHBOUR6, PORT));
        });
        let log = server.slots.network_log(&sandbox("a")).await.expect("read").expect("a log");
        let of = |to: Ipv6Addr, verdict: NetworkVerdict| {
            let found = log.entries.iter().find(|entry| {
                let what = (entry.address, entry.port, entry.verdict);
                what == (Some(to.into()), Some(PORT), verdict)
            });
            found.unwrap_or_else(|| panic!("{to} {verdict:?} in {log:#?}"))
        };
        let open = of(SERVER6, NetworkVerdict::Allowed);
        assert_eq!(open.protocol, NetworkProtocol::Tcp);
        assert_eq!(open.name.as_deref(), Some("six.example"));
        assert!(open.sent > 0 && open.received > 0, "{open:?}");
        of(NEIGHBOUR6, NetworkVerdict::Denied(DenialReason::Closed));
        let ours = || sh("cat /proc/net/nf_conntrack").contains("src=fd74:6172:6e00");
        assert!(ours(), "control");
        server.slots.release(slot.id, &sandbox("a")).await;
        until("nothing of it is left for the next", || !ours()).await;
    });
}
