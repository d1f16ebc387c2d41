//! What one sandbox may ask of the network, as packets on real namespaces.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    path::Path,
    thread,
    time::Duration,
};

use tarn_host::{Slot, Slots as _};
use tarn_hostnet::SlotLimits;
use tarn_types::EgressPolicy;
use tokio::time::Instant;

use crate::host::{
    GATEWAY, Host, PATIENCE, SERVER, SILENCE, Server, ask, in_internet, no_answer, on_a_host,
    sandbox, sh, until, within,
};

const STREAMS: u16 = 81;
const DATAGRAMS: u16 = 999;

/// Starts a server whose sandboxes have these limits.
async fn server(host: &Host, limits: SlotLimits) -> Server {
    let config = tarn_hostnet::SlotsConfig { limits, maximum: 2, ..host.config("aaaaaa") };
    let server = Server::start(config).await;
    server.slots.settle().await.expect("settle");
    server
}

/// Takes connections on the internet's server and gives back what is sent.
fn echo() {
    give_back(in_internet(|| TcpListener::bind((SERVER, STREAMS)).expect("listen")));
}

fn give_back(listener: TcpListener) {
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(size) = stream.read(&mut buffer) {
                    if size == 0 || stream.write_all(&buffer[..size]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn connect(netns: &Path) -> Result<TcpStream, ErrorKind> {
    within(netns, || {
        TcpStream::connect_timeout(&(SERVER, STREAMS).into(), PATIENCE).map_err(|e| e.kind())
    })
}

fn beats(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).expect("set timeout");
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

#[test]
fn connections_at_a_time_are_bounded_for_each_sandbox_alone() {
    on_a_host(|host| async move {
        let limits = SlotLimits { connections: 8, ..SlotLimits::default() };
        let server = server(&host, limits).await;
        echo();
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let mut held: Vec<_> =
            (0..8).map(|_| connect(&slot.netns).expect("there is room")).collect();
        for _ in 0..3 {
            let refused = connect(&slot.netns).err();
            assert_eq!(refused, Some(ErrorKind::ConnectionRefused), "said at once");
        }
        assert!(held.iter_mut().all(beats), "those that stand go on");
        within(&slot.netns, || assert_eq!(ask(GATEWAY), Some(0), "the resolver is no such flow"));
        let other = server.claim("b", EgressPolicy::OPEN).await;
        assert!(connect(&other.netns).is_ok(), "another has its own");
        drop(held.split_off(4));
        until("there is room again", || connect(&slot.netns).is_ok()).await;

        // Whoever comes next begins with all of it.
        drop(held);
        server.slots.release(slot.id, &sandbox("a")).await;
        until("the slot is ready again", || server.slots.ready() == 1).await;
        let next = server.claim("c", EgressPolicy::OPEN).await;
        assert_eq!(next.id, slot.id, "there is but one left");
        let held: Vec<_> = (0..8).map(|_| connect(&next.netns)).collect();
        assert!(held.iter().all(Result::is_ok), "{held:?}");
    });
}

#[test]
fn conversations_by_datagram_count_once_each() {
    on_a_host(|host| async move {
        let limits = SlotLimits { connections: 8, ..SlotLimits::default() };
        let server = server(&host, limits).await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let heard = in_internet(|| UdpSocket::bind((SERVER, DATAGRAMS)).expect("bind"));
        heard.set_read_timeout(Some(SILENCE)).expect("set timeout");
        let sent = |socket: &UdpSocket| socket.send_to(b"x", (SERVER, DATAGRAMS)).expect("send");
        let mut buffer = [0; 16];
        let sockets: Vec<_> = (0..20)
            .map(|_| within(&slot.netns, || UdpSocket::bind("0.0.0.0:0").expect("bind")))
            .collect();
        for _ in 0..50 {
            sent(&sockets[0]);
            assert!(heard.recv(&mut buffer).is_ok(), "one that is never answered goes on");
        }
        sockets.iter().for_each(|socket| {
            sent(socket);
        });
        let arrived = std::iter::from_fn(|| heard.recv(&mut buffer).ok()).count();
        assert_eq!(arrived, 8);
    });
}

#[test]
fn new_connections_are_bounded_in_rate() {
    on_a_host(|host| async move {
        let limits = SlotLimits {
            new_connections_per_sec: 1,
            new_connections_burst: 10,
            ..SlotLimits::default()
        };
        let server = server(&host, limits).await;
        echo();
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let mut stands = connect(&slot.netns).expect("the first");
        let heard = in_internet(|| UdpSocket::bind((SERVER, DATAGRAMS)).expect("bind"));
        heard.set_read_timeout(Some(SILENCE)).expect("set timeout");
        let flood = || {
            for _ in 0..200 {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
                socket.send_to(b"x", (SERVER, DATAGRAMS)).expect("send");
            }
        };
        let began = Instant::now();
        within(&slot.netns, flood);
        let took = began.elapsed().as_secs();
        let mut buffer = [0; 16];
        let arrived = std::iter::from_fn(|| heard.recv(&mut buffer).ok()).count() as u64;
        assert!((9..=11 + took).contains(&arrived), "{arrived} in {took} s");
        assert!(beats(&mut stands), "what stands goes on");
        until("a question finds no room either", || {
            within(&slot.netns, || {
                flood();
                no_answer(GATEWAY)
            })
        })
        .await;
        let other = server.claim("b", EgressPolicy::OPEN).await;
        assert!(connect(&other.netns).is_ok(), "another has its own");
        // Not refused but late: the kernel inside tries again.
        assert!(connect(&slot.netns).is_ok());
    });
}

#[test]
fn what_a_slot_used_is_nowhere_after_its_release() {
    on_a_host(|host| async move {
        let server = server(&host, SlotLimits::default()).await;
        echo();
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        assert!(beats(&mut connect(&slot.netns).expect("connect")));
        let sets = ["starts", "flows"];
        let listed = |set: &str| sh(&format!("nft list set inet tarn_aaaaaa {set}"));
        for set in sets {
            let link = slot.netns.file_name().and_then(|name| name.to_str()).expect("a name");
            assert!(listed(set).contains(link), "{}", listed(set));
        }
        server.slots.release(slot.id, &sandbox("a")).await;
        until("it is ready again", || server.slots.ready() == 2).await;
        for set in sets {
            assert!(!listed(set).contains("elements"), "{}", listed(set));
        }
        // Nor does a slot that used nothing keep from being released.
        let slot = server.claim("b", EgressPolicy::CLOSED).await;
        server.slots.release(slot.id, &sandbox("b")).await;
        until("it is ready again", || server.slots.ready() == 2).await;
    });
}

/// Sends bytes to a server that gives them back, and takes them; returns how long it took.
fn round_trip(mut stream: TcpStream, bytes: usize) -> Duration {
    let began = Instant::now();
    let back = stream.try_clone().expect("clone");
    let sending = thread::spawn(move || stream.write_all(&vec![0; bytes]).expect("send"));
    io::copy(&mut back.take(bytes as u64), &mut io::sink()).expect("receive");
    sending.join().expect("the sender ends");
    began.elapsed()
}

#[test]
fn bytes_are_bounded_in_rate_for_each_sandbox_alone_and_not_for_the_host() {
    on_a_host(|host| async move {
        const BYTES: usize = 1_000_000;
        let limits = SlotLimits { bandwidth_mbit: 8, ..SlotLimits::default() };
        let server = server(&host, limits).await;
        echo();
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        // A megabyte a second each way, but what a burst and the queue take at once.
        let took = round_trip(connect(&slot.netns).expect("connect"), BYTES);
        assert!(took > Duration::from_millis(600), "{took:?}");
        // The host's own is not even counted.
        let listener = within(&slot.netns, || TcpListener::bind("0.0.0.0:81").expect("listen"));
        give_back(listener);
        let before = held(&slot);
        assert!(before.iter().all(|bytes| *bytes >= BYTES), "{before:?}");
        let stream = TcpStream::connect((slot.address, 81)).expect("connect to the sandbox");
        round_trip(stream, 5 * BYTES);
        let after = held(&slot);
        let passed = before.iter().zip(&after).all(|(before, after)| after - before < BYTES / 2);
        assert!(passed, "{before:?} {after:?}");
    });
}

#[test]
fn another_limit_holds_for_sandboxes_that_live_on() {
    on_a_host(|host| async move {
        let limits = |bandwidth_mbit| SlotLimits { bandwidth_mbit, ..SlotLimits::default() };
        let first = server(&host, limits(0)).await;
        let slot = first.claim("a", EgressPolicy::OPEN).await;
        assert_eq!(ends(&slot.netns, ""), ["", ""]);
        // So that the meters, too, have members to be read back.
        echo();
        let mut stands = connect(&slot.netns).expect("connect");
        let mut config = first.kill().await;
        for (megabits, shown) in [(8, "rate 8Mbit ceil 8Mbit"), (16, "rate 16Mbit"), (0, "")] {
            config.limits = limits(megabits);
            let next = Server::start(config).await;
            let policy = EgressPolicy::OPEN;
            let adopted = next.slots.adopt(slot.id, &sandbox("a"), &policy).await.expect("adopt");
            next.slots.settle().await.expect("settle");
            for end in ends(&adopted.netns, "") {
                assert!(end.contains(shown) && (megabits > 0 || end.is_empty()), "{end}");
            }
            assert!(beats(&mut stands), "what stands goes on");
            config = next.kill().await;
        }
    });
}

#[test]
fn what_waits_is_not_the_next_sandbox_s() {
    on_a_host(|host| async move {
        // Two seconds wait.
        let limits = SlotLimits { bandwidth_mbit: 1, ..SlotLimits::default() };
        let config = tarn_hostnet::SlotsConfig { limits, maximum: 1, ..host.config("aaaaaa") };
        let server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        let world = in_internet(|| UdpSocket::bind((SERVER, DATAGRAMS)).expect("bind"));
        world.set_nonblocking(true).expect("do not block");
        let inside =
            |slot: &Slot| within(&slot.netns, || UdpSocket::bind("0.0.0.0:4000").expect("bind"));
        let mut buffer = [0; 16];
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let first = inside(&slot);
        first.send_to(b"x", (SERVER, DATAGRAMS)).expect("send");
        let mut seen = None;
        until("it is heard", || {
            seen = world.recv_from(&mut buffer).ok();
            seen.is_some()
        })
        .await;
        let (_, back) = seen.expect("it was heard");
        within(&slot.netns, || pour((SERVER, DATAGRAMS).into()));
        // From the one socket that the flow knows; what does not fit is lost.
        for _ in 0..400 {
            drop(world.send_to(&[0; 1200], back));
        }
        server.slots.release(slot.id, &sandbox("a")).await;
        drop(first);
        until("the slot is ready again", || server.slots.ready() == 1).await;
        while world.recv(&mut buffer).is_ok() {}
        let next = server.claim("b", EgressPolicy::OPEN).await;
        assert_eq!(next.id, slot.id, "there is but one");
        let second = inside(&next);
        second.set_read_timeout(Some(SILENCE)).expect("set timeout");
        world.set_nonblocking(false).expect("block");
        world.set_read_timeout(Some(SILENCE)).expect("set timeout");
        assert!(second.recv(&mut buffer).is_err(), "what was sent to the one before");
        assert!(world.recv(&mut buffer).is_err(), "what was sent by the one before");
        world.set_read_timeout(Some(PATIENCE)).expect("set timeout");
        second.send_to(b"x", (SERVER, DATAGRAMS)).expect("send");
        assert!(world.recv(&mut buffer).is_ok(), "what is its own goes");
    });
}

/// How many bytes went through the queues of a slot's ends, inside and on the host.
fn held(slot: &Slot) -> [usize; 2] {
    ends(&slot.netns, "-s").map(|shown| {
        let sent = shown.split("Sent ").nth(1).and_then(|rest| rest.split(' ').next());
        sent.and_then(|bytes| bytes.parse().ok()).expect("a class has sent bytes")
    })
}

/// Shows the class of a slot's ends, inside and on the host.
fn ends(netns: &Path, options: &str) -> [String; 2] {
    let inside = format!("nsenter --net={}", netns.display());
    let link = netns.file_name().expect("it has a name").to_string_lossy().into_owned();
    let show = |place: &str, link: &str| sh(&format!("{place} tc {options} class show dev {link}"));
    [show(&inside, "eth0"), show("", &link)]
}

/// Sends more than waits, from several sockets: what waits fills the buffer of its socket.
fn pour(to: std::net::SocketAddr) {
    for _ in 0..8 {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.set_nonblocking(true).expect("do not block");
        for _ in 0..60 {
            drop(socket.send_to(&[0; 1200], to));
        }
    }
}
