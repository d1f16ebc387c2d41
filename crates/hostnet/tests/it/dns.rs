//! The resolver of a sandbox.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use tarn_host::Slots as _;
use tarn_types::EgressPolicy;

use crate::host::{
    GATEWAY, PATIENCE, RESOLVER, SILENCE, Server, ask, ask_over_tcp, ask_with, in_internet,
    on_a_host, query, sh, within,
};

#[test]
fn a_silent_upstream_is_passed_over_and_then_avoided() {
    on_a_host(|host| async move {
        let silent = Ipv4Addr::new(203, 0, 113, 54);
        sh("ip -n internet addr add 203.0.113.54/32 dev lo");
        let _deaf = in_internet(|| UdpSocket::bind((silent, 53)).expect("bind"));
        let mut config = host.config("aaaaaa");
        config.dns_upstreams = [silent, RESOLVER].map(|ip| SocketAddr::from((ip, 53))).into();
        let server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        within(&slot.netns, || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.set_read_timeout(Some(PATIENCE)).expect("set timeout");
            assert_eq!(ask_with(&socket, GATEWAY), Some(0));
            #[allow(clippy::disallowed_methods, reason = "the wall is what is measured")]
            let begun = Instant::now();
            assert_eq!(ask_with(&socket, GATEWAY), Some(0));
            assert!(begun.elapsed() < Duration::from_secs(1), "the silent one was asked first");
        });
    });
}

#[test]
fn one_who_asks_too_much_delays_nobody_else() {
    on_a_host(|host| async move {
        // Answers only what comes last: everything of the flood stays open.
        let selective = Ipv4Addr::new(203, 0, 113, 55);
        sh("ip -n internet addr add 203.0.113.55/32 dev lo");
        let upstream = in_internet(|| UdpSocket::bind((selective, 53)).expect("bind"));
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((size, from)) = upstream.recv_from(&mut buffer) {
                if buffer[13] == b'e' {
                    buffer[2] |= 0x80;
                    drop(upstream.send_to(&buffer[..size], from));
                }
            }
        });
        let mut config = host.config("aaaaaa");
        config.dns_upstreams = vec![SocketAddr::from((selective, 53))];
        let server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        // More than all slots together may have open.
        let mut loud = Vec::new();
        for number in 0..10 {
            loud.push(server.claim(&format!("a{number}"), EgressPolicy::OPEN).await);
        }
        let quiet = server.claim("b", EgressPolicy::OPEN).await;
        for loud in &loud {
            within(&loud.netns, || {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
                let mut flood = query();
                flood[13] = b'z';
                for _ in 0..500 {
                    drop(socket.send_to(&flood, (GATEWAY, 53)));
                }
            });
        }
        within(&quiet.netns, || {
            for _ in 0..20 {
                assert_eq!(ask(GATEWAY), Some(0));
            }
        });
    });
}

#[test]
fn no_upstream_is_said_so_and_bad_queries_are_not_passed_on() {
    on_a_host(|host| async move {
        sh("ip -n internet addr add 203.0.113.56/32 dev lo");
        let mut config = host.config("aaaaaa");
        config.dns_upstreams = vec!["203.0.113.56:53".parse().expect("an address")];
        let server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        within(&slot.netns, || {
            assert_eq!(ask(GATEWAY), Some(2), "SERVFAIL: the port is closed");
            assert_eq!(ask_over_tcp(GATEWAY), Some(2));
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.set_read_timeout(Some(SILENCE)).expect("set timeout");
            socket.send_to(b"short", (GATEWAY, 53)).expect("send");
            assert!(socket.recv(&mut [0; 64]).is_err());
            socket.send_to(&[0xff; 60], (GATEWAY, 53)).expect("send");
            assert!(socket.recv(&mut [0; 64]).is_err(), "an answer is not answered");
        });
    });
}

#[test]
fn a_resolver_of_the_hosts_own_is_not_in_the_way() {
    on_a_host(|host| async move {
        crate::host::resolver(Ipv4Addr::UNSPECIFIED);
        let server = host.server("aaaaaa").await;
        let slot = server.claim("a", EgressPolicy::CLOSED).await;
        within(&slot.netns, || {
            assert_eq!(ask(GATEWAY), Some(5), "ours answers, not the host's");
            assert_eq!(ask_over_tcp(GATEWAY), Some(5));
        });
        assert_eq!(ask(Ipv4Addr::LOCALHOST), Some(0), "and the host's still answers the host");
    });
}
