//! From one sandbox of a slot to the next: what the host still has of the last one, and what
//! becomes of slots that cannot be closed, or are many.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
};

use tarn_host::Slots as _;
use tarn_hostnet::SlotsConfig;
use tarn_types::EgressPolicy;

use crate::host::{
    PATIENCE, PORT, SERVER, SILENCE, Server, echoes, greeting, no_greeting, on_a_host, sandbox, sh,
    until, within,
};

/// Lists the flows that somebody began with an address, as the kernel remembers them.
fn begun_with(address: IpAddr) -> Vec<String> {
    let begun = |line: &&str| {
        let target = line.split_whitespace().find_map(|word| word.strip_prefix("dst="));
        target == Some(address.to_string().as_str())
    };
    sh("cat /proc/net/nf_conntrack").lines().filter(begun).map(str::to_owned).collect()
}

#[test]
fn what_the_host_still_sends_to_the_last_sandbox_does_not_reach_the_next() {
    on_a_host(|host| async move {
        let config = SlotsConfig { maximum: 1, ..host.config("aaaaaa") };
        let server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        for (strict, begins) in [(false, false), (false, true), (true, false)] {
            let what = format!("strict: {strict}, it begins flows itself: {begins}");
            let loose = u8::from(!strict);
            sh(&format!("echo {loose} > /proc/sys/net/netfilter/nf_conntrack_tcp_loose"));
            let first = server.claim("a", EgressPolicy::OPEN).await;
            // The sockets inside stay, and stand for a next one that reads whatever comes.
            let listener = within(&first.netns, || {
                assert!(!begins || echoes(SERVER, PORT));
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9501)).expect("listen")
            });
            let mut from_host = TcpStream::connect((first.address, 9501)).expect("connect");
            let (mut inside, _) = listener.accept().expect("accept");
            from_host.write_all(b"x").expect("write");
            inside.read_exact(&mut [0]).expect("control: it arrives");
            server.slots.release(first.id, &sandbox("a")).await;
            from_host.write_all(b"for the first").expect("write to the buffer");
            until("the slot is ready again", || server.slots.ready() == 1).await;
            assert_eq!(begun_with(first.address), Vec::<String>::new(), "{what}");

            let second = server.claim("b", EgressPolicy::OPEN).await;
            assert_eq!(second, first, "the one slot is used again");
            if !strict {
                from_host.set_read_timeout(Some(PATIENCE)).expect("set timeout");
                let ended = from_host.read(&mut [0]).map_err(|error| error.kind());
                assert_eq!(ended, Err(ErrorKind::ConnectionReset), "{what}");
            }
            // Longer than the host waits before it sends again.
            inside.set_read_timeout(Some(4 * SILENCE)).expect("set timeout");
            assert!(inside.read(&mut [0]).is_err(), "it came to the next one, {what}");
            let anew = TcpStream::connect((second.address, 9501)).map_err(|error| error.kind());
            assert!(anew.is_ok(), "control: it is in the same place, {what}: {anew:?}");
            server.slots.release(second.id, &sandbox("b")).await;
            until("the slot is ready again", || server.slots.ready() == 1).await;
        }
    });
}

#[test]
fn whoever_comes_after_a_slot_that_could_not_be_closed_gets_what_its_policy_says() {
    on_a_host(|host| async move {
        let config = SlotsConfig { maximum: 1, spare: 0, ..host.config("aaaaaa") };
        let server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        let listed = EgressPolicy {
            allow_internet_access: true,
            allow_out: vec!["203.0.113.0/24".parse().expect("a good entry")],
            deny_out: Vec::new(),
        };
        let first = server.claim("a", listed).await;
        within(&first.netns, || assert!(greeting(SERVER, PORT).is_ok(), "control"));
        let internet = || sh("nft list set inet tarn_aaaaaa internet");
        assert!(internet().contains("taaaaaa001"), "control");
        // A set is missing that closing empties, so the kernel refuses all of it.
        sh("nft 'flush map inet tarn_aaaaaa lists_from
                 flush map inet tarn_aaaaaa lists_to
                 delete chain inet tarn_aaaaaa from_001
                 delete chain inet tarn_aaaaaa to_001
                 delete set inet tarn_aaaaaa allowed_001'");
        server.slots.release(first.id, &sandbox("a")).await;
        until("the slot is removed", || !first.netns.exists()).await;
        assert!(internet().contains("taaaaaa001"), "control: it could not be closed");
        sh("nft 'add set inet tarn_aaaaaa allowed_001 { type ipv4_addr; flags interval; }'");

        let second = server.claim("b", EgressPolicy::CLOSED).await;
        assert_eq!(second.id, first.id, "there is but one number");
        assert!(!internet().contains("taaaaaa001"));
        within(&second.netns, || assert!(no_greeting(SERVER, PORT)));
    });
}

#[test]
fn any_number_of_slots_that_nobody_adopts_is_closed() {
    const SLOTS: u16 = 900;
    on_a_host(|host| async move {
        let server = host.server("aaaaaa").await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let config = server.kill().await;
        let IpAddr::V4(address) = slot.address else { panic!("addresses are IPv4") };
        // As if an earlier life had left so many, some with hundreds of addresses of names.
        let interfaces = (10..SLOTS).map(|number| format!("\"taaaaaa{number:03x}\""));
        let interfaces = interfaces.collect::<Vec<_>>().join(", ");
        let base = address.to_bits() - u32::from(slot.id.0);
        let known = (10..30).flat_map(|number| {
            let own = Ipv4Addr::from_bits(base + number);
            let others = (0..400).map(|other| Ipv4Addr::from_bits(0xcb00_7000 + other));
            others.map(move |other| format!("{own} . {other}"))
        });
        let known = known.collect::<Vec<_>>().join(", ");
        let script = host.dir.path().join("script");
        let elements = format!(
            "add element inet tarn_aaaaaa live {{ {interfaces} }}\n\
             add element inet tarn_aaaaaa internet {{ {interfaces} }}\n\
             add element inet tarn_aaaaaa known {{ {known} }}\n"
        );
        fs::write(&script, elements).expect("write");
        sh(&format!("nft -f {}", script.display()));
        let server = Server::start(config).await;
        server.slots.adopt(slot.id, &sandbox("a"), &EgressPolicy::OPEN).await.expect("adopt");
        server.slots.settle().await.expect("settle");
        for set in ["live", "internet"] {
            let left = sh(&format!("nft list set inet tarn_aaaaaa {set}"));
            assert_eq!(left.matches("taaaaaa").count(), 1, "{left}");
        }
        assert!(!sh("nft list set inet tarn_aaaaaa known").contains("203.0."));
        within(&slot.netns, || assert!(greeting(SERVER, PORT).is_ok(), "the adopted one goes on"));
    });
}
