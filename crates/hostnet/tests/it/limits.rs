//! What one sandbox may ask of the network, as packets on real namespaces.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    path::Path,
    thread,
};

use tarn_host::Slots as _;
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
    let listener = in_internet(|| TcpListener::bind((SERVER, STREAMS)).expect("listen"));
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
            assert!(listed(set).contains(&slot.address.to_string()), "{}", listed(set));
        }
        server.slots.release(slot.id, &sandbox("a")).await;
        for set in sets {
            assert!(!listed(set).contains("elements"), "{}", listed(set));
        }
        // Nor does a slot that used nothing keep from being released.
        let slot = server.claim("b", EgressPolicy::CLOSED).await;
        server.slots.release(slot.id, &sandbox("b")).await;
        until("it is ready again", || server.slots.ready() == 2).await;
    });
}
