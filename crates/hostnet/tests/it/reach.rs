//! What a sandbox can reach, and what can reach it.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use tarn_host::Slots as _;
use tarn_types::EgressPolicy;

use crate::host::{
    CLOSED, GATEWAY, HOST, PORT, SERVER, SILENCE, ask, ask_over_tcp, at_once, echo_server, echoes,
    greet, greeting, in_internet, no_answer, no_echo, no_greeting, on_a_host, sandbox, sh, until,
    within,
};

/// A port of the host's own, like the API's.
const HOST_PORT: u16 = 8900;

#[test]
fn an_open_slot_reaches_the_internet_and_nothing_else() {
    on_a_host(|host| async move {
        greet(Ipv4Addr::UNSPECIFIED, HOST_PORT);
        echo_server(Ipv4Addr::UNSPECIFIED, HOST_PORT);
        let server = host.server("aaaaaa").await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let other = server.claim("b", EgressPolicy::OPEN).await;
        within(&other.netns, || greet(Ipv4Addr::UNSPECIFIED, PORT));
        let IpAddr::V4(other_address) = other.address else { panic!("addresses are IPv4") };
        for closed in CLOSED {
            assert_eq!(greeting(closed, PORT).as_deref(), Ok("192.0.2.1"), "control: {closed}");
        }
        assert_eq!(greeting(other_address, PORT).as_deref(), Ok("169.254.77.1"), "control");
        within(&slot.netns, || {
            assert_eq!(greeting(SERVER, PORT).as_deref(), Ok("192.0.2.1"), "by masquerade");
            assert!(echoes(SERVER, PORT));
            assert_eq!(ask(GATEWAY), Some(0));
            assert_eq!(ask_over_tcp(GATEWAY), Some(0));
            let mut refused = Vec::new();
            for address in CLOSED.into_iter().chain([other_address]) {
                refused.push((address, PORT));
            }
            for address in [HOST, GATEWAY, Ipv4Addr::new(127, 0, 0, 1)] {
                refused.push((address, HOST_PORT));
            }
            refused.extend([(SERVER, 53), (SERVER, 853)]);
            at_once(refused, |(address, port)| {
                assert!(no_greeting(address, port), "TCP to {address}:{port}");
                assert!(no_echo(address, port), "UDP to {address}:{port}");
            });
        });
    });
}

#[test]
fn a_closed_slot_reaches_nothing_but_can_be_reached_by_the_host() {
    on_a_host(|host| async move {
        let server = host.server("aaaaaa").await;
        let slot = server.claim("a", EgressPolicy::CLOSED).await;
        within(&slot.netns, || {
            greet(Ipv4Addr::UNSPECIFIED, 9501);
            assert!(no_greeting(SERVER, PORT));
            assert!(no_echo(SERVER, PORT));
            assert_eq!(ask(GATEWAY), Some(5), "REFUSED");
            assert_eq!(ask_over_tcp(GATEWAY), Some(5), "REFUSED");
        });
        assert_eq!(greeting(slot.address, 9501).as_deref(), Ok("169.254.77.1"));
    });
}

#[test]
fn only_the_host_itself_reaches_a_sandbox() {
    on_a_host(|host| async move {
        let server = host.server("aaaaaa").await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        within(&slot.netns, || greet(Ipv4Addr::UNSPECIFIED, 9501));
        sh("ip -n internet route add 198.18.0.0/16 via 192.0.2.1
            ip -n internet route add 169.254.77.0/30 via 192.0.2.1");
        in_internet(|| {
            assert!(no_greeting(slot.address, 9501));
            assert!(no_greeting(Ipv4Addr::new(169, 254, 77, 2), 9501));
        });
        assert!(greeting(slot.address, 9501).is_ok(), "control");
    });
}

#[test]
fn a_free_slot_is_closed_both_ways() {
    on_a_host(|host| async move {
        let server = host.server("aaaaaa").await;
        until("slots are ready", || server.slots.ready() == 2).await;
        let netns = server.config.run_dir.join("taaaaaa001");
        within(&netns, || {
            greet(Ipv4Addr::UNSPECIFIED, 9501);
            assert!(no_greeting(SERVER, PORT));
            assert!(no_echo(SERVER, PORT));
            assert!(no_answer(GATEWAY), "nobody answers");
        });
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        assert_eq!(slot.netns, netns, "the lowest number is taken first");
        assert!(greeting(slot.address, 9501).is_ok(), "control");
        let IpAddr::V4(address) = slot.address else { panic!("addresses are IPv4") };
        let free = Ipv4Addr::from_bits(address.to_bits() + 1);
        assert!(no_greeting(free, 9501), "a free slot answered");
    });
}

#[test]
fn a_sandbox_cannot_speak_for_another() {
    on_a_host(|host| async move {
        let server = host.server("aaaaaa").await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let other = server.claim("b", EgressPolicy::OPEN).await;
        let heard = in_internet(|| UdpSocket::bind((SERVER, 999)).expect("bind"));
        heard.set_read_timeout(Some(SILENCE)).expect("set timeout");
        within(&slot.netns, || {
            for forged in [other.address.to_string(), "198.51.100.1".into(), HOST.to_string()] {
                sh(&format!("ip addr add {forged}/32 dev eth0"));
                let socket = UdpSocket::bind((forged.as_str(), 0)).expect("bind");
                socket.send_to(b"forged", (SERVER, 999)).expect("send");
            }
            let socket = UdpSocket::bind("169.254.77.2:0").expect("bind");
            socket.send_to(b"honest", (SERVER, 999)).expect("send");
        });
        let mut buffer = [0; 16];
        let size = heard.recv(&mut buffer).expect("the honest one arrives");
        assert_eq!(&buffer[..size], b"honest");
        assert_eq!(heard.recv(&mut buffer).map_err(|e| e.kind()), Err(ErrorKind::WouldBlock));
    });
}

#[test]
fn a_change_of_policy_cuts_flows_and_opens_again() {
    on_a_host(|host| async move {
        let server = host.server("aaaaaa").await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let listener = in_internet(|| TcpListener::bind((SERVER, 81)).expect("listen"));
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() {
                stream.write_all(&byte).expect("write");
            }
        });
        let mut flow =
            within(&slot.netns, || TcpStream::connect((SERVER, 81)).expect("the policy is open"));
        flow.set_read_timeout(Some(SILENCE)).expect("set timeout");
        let mut beat = move || {
            flow.write_all(b"x").expect("write to the buffer");
            let mut byte = [0];
            flow.read_exact(&mut byte).is_ok()
        };
        assert!(beat(), "the flow stands");
        server
            .slots
            .set_policy(slot.id, &sandbox("a"), &EgressPolicy::CLOSED)
            .await
            .expect("close");
        assert!(!beat(), "the flow is cut");
        within(&slot.netns, || {
            assert!(no_greeting(SERVER, PORT));
            assert_eq!(ask(GATEWAY), Some(5));
            greet(Ipv4Addr::UNSPECIFIED, 9501);
        });
        assert!(greeting(slot.address, 9501).is_ok(), "the host still reaches it");
        server.slots.set_policy(slot.id, &sandbox("a"), &EgressPolicy::OPEN).await.expect("open");
        within(&slot.netns, || {
            assert!(greeting(SERVER, PORT).is_ok());
            assert_eq!(ask(GATEWAY), Some(0));
        });
    });
}

#[test]
fn the_host_becomes_a_router_for_nobody() {
    on_a_host(|host| async move {
        // Another network of the host, which its neighbours cannot reach through it.
        sh("ip netns add lan
            ip link add lan0 type veth peer name eth0 netns lan
            ip addr add 10.20.0.1/24 dev lan0
            ip link set lan0 up
            ip -n lan addr add 10.20.0.2/24 dev eth0
            ip -n lan link set eth0 up
            ip -n lan route add default via 10.20.0.1
            ip -n internet route add 10.20.0.0/24 via 192.0.2.1");
        let forwarding = |name: &str| sh(&format!("cat /proc/sys/net/ipv4/conf/{name}/forwarding"));
        within("/run/netns/lan".as_ref(), || greet(Ipv4Addr::UNSPECIFIED, PORT));
        let lan = Ipv4Addr::new(10, 20, 0, 2);
        assert!(greeting(lan, PORT).is_ok(), "control: the host reaches it");
        let server = host.server("aaaaaa").await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        assert!(within(&slot.netns, || greeting(SERVER, PORT)).is_ok());
        assert!(within(&slot.netns, || no_greeting(lan, PORT)));
        assert!(in_internet(|| no_greeting(lan, PORT)));
        assert_eq!(forwarding("all"), "0\n");
        assert_eq!(forwarding("lan0"), "0\n");
        assert_eq!(forwarding("up0"), "1\n");
        // Once the operator wants a router, tarn is not in the way.
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        until("the guard is taken down", || !in_internet(|| no_greeting(lan, PORT))).await;
        assert!(within(&slot.netns, || greeting(SERVER, PORT)).is_ok());
    });
}
