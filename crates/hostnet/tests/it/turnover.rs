//! From one sandbox of a slot to the next: what the host still has of the last one, and what
//! becomes of slots that cannot be closed, or are many.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use socket2::{Domain, Socket, Type};
use tarn_host::Slots as _;
use tarn_hostnet::SlotsConfig;
use tarn_types::EgressPolicy;

use crate::host::{
    HOST, PATIENCE, PORT, SERVER, SILENCE, Server, echoes, greeting, no_greeting, on_a_host,
    sandbox, sh, until, within,
};

/// Lists the flows that somebody began with an address, as the kernel remembers them.
fn begun_with(address: IpAddr) -> Vec<String> {
    let begun = |line: &&str| {
        let target = line.split_whitespace().find_map(|word| word.strip_prefix("dst="));
        target == Some(address.to_string().as_str())
    };
    sh("cat /proc/net/nf_conntrack").lines().filter(begun).map(str::to_owned).collect()
}

/// What is different in one run of [`hand_over`].
#[derive(Debug, Clone, Copy)]
struct Case {
    /// Whether the host is strict about TCP that it knows nothing of.
    strict: bool,
    /// Whether the sandbox begins flows itself.
    begins: bool,
    /// By which of its addresses the host connects.
    from: Ipv4Addr,
}

/// Has the host send something over a connection to a sandbox that has left its slot to another.
/// Returns the flows that were remembered when the slot was ready again.
async fn hand_over(server: &Server, case: Case) -> Vec<String> {
    let loose = u8::from(!case.strict);
    sh(&format!("echo {loose} > /proc/sys/net/netfilter/nf_conntrack_tcp_loose"));
    let first = server.claim("a", EgressPolicy::OPEN).await;
    // The sockets inside stay, and stand for a next one that reads whatever comes.
    let listener = within(&first.netns, || {
        assert!(!case.begins || echoes(SERVER, PORT));
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9501)).expect("listen")
    });
    let mut from_host = connect(case.from, first.address);
    let (mut inside, _) = listener.accept().expect("accept");
    from_host.write_all(b"x").expect("write");
    inside.read_exact(&mut [0]).expect("control: it arrives");
    inside.write_all(b"x").expect("write");
    from_host.read_exact(&mut [0]).expect("control: it arrives");
    server.slots.release(first.id, &sandbox("a")).await;
    from_host.write_all(b"for the first").expect("write to the buffer");
    until("the slot is ready again", || server.slots.ready() == 1).await;
    let remembered = begun_with(first.address);

    let second = server.claim("b", EgressPolicy::OPEN).await;
    assert_eq!(second, first, "the one slot is used again");
    if !case.strict {
        from_host.set_read_timeout(Some(PATIENCE)).expect("set timeout");
        let ended = from_host.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(ended, Err(ErrorKind::ConnectionReset), "{case:?}");
    }
    // Longer than the host waits before it sends again.
    inside.set_read_timeout(Some(4 * SILENCE)).expect("set timeout");
    assert!(inside.read(&mut [0]).is_err(), "it came to the next one, {case:?}");
    let mut anew = connect(case.from, second.address);
    let (mut inside, _) = listener.accept().expect("accept");
    anew.write_all(b"x").expect("write");
    inside.read_exact(&mut [0]).expect("control: it is in the same place");
    server.slots.release(second.id, &sandbox("b")).await;
    until("the slot is ready again", || server.slots.ready() == 1).await;
    remembered
}

fn connect(from: Ipv4Addr, to: IpAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("make a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("bind");
    socket.connect(&SocketAddr::from((to, 9501)).into()).expect("connect");
    socket.into()
}

const CASES: [Case; 4] = [
    Case { strict: false, begins: false, from: Ipv4Addr::UNSPECIFIED },
    Case { strict: false, begins: true, from: Ipv4Addr::UNSPECIFIED },
    Case { strict: true, begins: false, from: Ipv4Addr::UNSPECIFIED },
    Case { strict: false, begins: false, from: HOST },
];

#[test]
fn what_the_host_still_sends_to_the_last_sandbox_does_not_reach_the_next() {
    on_a_host(|host| async move {
        let config = SlotsConfig { maximum: 1, ..host.config("aaaaaa") };
        let server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        let mut without_a_walk = 0;
        for case in CASES {
            let remembered = hand_over(&server, case).await;
            if !case.begins && !remembered.is_empty() {
                without_a_walk += 1;
            }
        }
        // It is swept every 5 seconds, which may have been at that very moment.
        assert!(without_a_walk > 0, "the kernel's table is walked over with each release");
        let slot = server.claim("c", EgressPolicy::OPEN).await;
        let listener = within(&slot.netns, || {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9501)).expect("listen")
        });
        let mut stands = connect(Ipv4Addr::UNSPECIFIED, slot.address);
        let (mut inside, _) = listener.accept().expect("accept");
        until("what is left is forgotten", || begun_with(slot.address).len() == 1).await;
        stands.write_all(b"x").expect("write");
        inside.read_exact(&mut [0]).expect("what stands goes on");
    });
}

#[test]
fn where_there_are_no_zones_the_host_forgets_with_each_release() {
    on_a_host(|host| async move {
        let dir = host.dir.path().display();
        // As old versions are, or the kernel behind it.
        sh(&format!(
            r#"nft=$(readlink -f "$(command -v nft)")
            cp "$nft" {dir}/real
            cat > {dir}/old <<'END'
#!/bin/sh
[ "$1" = -f ] || exec {dir}/real "$@"
script=$(cat)
case "$script" in *"ct zone"*) echo no zones >&2; exit 1;; esac
printf '%s
' "$script" | {dir}/real "$@"
END
            chmod +x {dir}/old
            mount --bind {dir}/old "$nft""#
        ));
        let config = SlotsConfig { maximum: 1, ..host.config("aaaaaa") };
        let server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        assert!(!sh("nft list table inet tarn_aaaaaa").contains("ct zone"), "control");
        for case in CASES {
            assert_eq!(hand_over(&server, case).await, Vec::<String>::new(), "{case:?}");
        }
    });
}

#[test]
fn what_the_next_sandbox_sends_over_a_connection_of_the_last_reaches_nobody() {
    on_a_host(|host| async move {
        let config = SlotsConfig { maximum: 1, ..host.config("aaaaaa") };
        let server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        let first = server.claim("a", EgressPolicy::OPEN).await;
        let listener = within(&first.netns, || {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9501)).expect("listen")
        });
        let mut from_host = connect(Ipv4Addr::UNSPECIFIED, first.address);
        let (mut inside, _) = listener.accept().expect("accept");
        server.slots.release(first.id, &sandbox("a")).await;
        until("the slot is ready again", || server.slots.ready() == 1).await;
        let second = server.claim("b", EgressPolicy::OPEN).await;
        assert_eq!(second, first, "the one slot is used again");
        inside.write_all(b"as if from the first").expect("write to the buffer");
        from_host.set_read_timeout(Some(2 * SILENCE)).expect("set timeout");
        assert!(from_host.read(&mut [0]).is_err());
    });
}

#[test]
fn what_the_host_has_begun_outlives_a_restart_as_the_sandbox_does() {
    on_a_host(|host| async move {
        let config = SlotsConfig { maximum: 1, ..host.config("aaaaaa") };
        let server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let listener = within(&slot.netns, || {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9501)).expect("listen")
        });
        let talk = |from_host: &mut TcpStream, inside: &mut TcpStream| {
            from_host.write_all(b"x").expect("write");
            inside.read_exact(&mut [0]).expect("it arrives");
            inside.write_all(b"x").expect("write");
            from_host.read_exact(&mut [0]).expect("it comes back");
        };
        let mut from_host = connect(Ipv4Addr::UNSPECIFIED, slot.address);
        let (mut inside, _) = listener.accept().expect("accept");
        let config = server.kill().await;
        let server = Server::start(config).await;
        server.slots.adopt(slot.id, &sandbox("a"), &EgressPolicy::OPEN).await.expect("adopt");
        server.slots.settle().await.expect("settle");
        talk(&mut from_host, &mut inside);

        let config = server.kill().await;
        sh("nft delete table inet tarn_aaaaaa");
        let server = Server::start(config).await;
        server.slots.adopt(slot.id, &sandbox("a"), &EgressPolicy::OPEN).await.expect("adopt");
        server.slots.settle().await.expect("settle");
        let mut anew = connect(Ipv4Addr::UNSPECIFIED, slot.address);
        let (mut inside, _) = listener.accept().expect("accept");
        talk(&mut anew, &mut inside);
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
