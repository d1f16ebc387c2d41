//! Slots over time: reuse, restarts, two servers, and what is left behind.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    thread,
};

use tarn_host::{SlotError, SlotId, Slots as _};
use tarn_hostnet::{HostSlots, SlotsConfig, facts, remove_all};
use tarn_task::Tasks;
use tarn_types::EgressPolicy;

use crate::host::{
    GATEWAY, HOST6, PATIENCE, PORT, RESOLVER, SERVER, SERVER6, SILENCE, Server, ask, echoes, greet,
    greeting, in_internet, no_answer, no_echo, no_greeting, on_a_host, sandbox, sh, until, within,
};

/// Counts everything that a server could leave on a host; which slots there are may change.
fn inventory(run_dir: &Path) -> String {
    let dir = run_dir.display();
    sh(&format!(
        "echo links $(ip -o link | wc -l) routes $(ip -4 route show table all | wc -l) \
              by IPv6 $(ip -6 route show table all | grep -c fd74) rules $(ip -6 rule | wc -l) \
              addresses $(ip -4 -o addr | wc -l) neighbours $(ip neigh show nud permanent | wc -l) \
              tables $(nft list tables | wc -l) \
              files $(ls {dir} 2>/dev/null | wc -l) mounts $(grep -c {dir} /proc/self/mounts) \
              forwarding $(cat /proc/sys/net/ipv4/conf/up0/forwarding \
                               /proc/sys/net/ipv6/conf/up0/f*forwarding)"
    ))
}

#[test]
fn a_released_slot_is_ready_again_with_nothing_of_its_last_sandbox() {
    on_a_host(|host| async move {
        let mut config = host.config("aaaaaa");
        (config.spare, config.maximum) = (1, 1);
        let server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        let peer = in_internet(|| UdpSocket::bind((SERVER, 999)).expect("bind"));
        peer.set_read_timeout(Some(PATIENCE)).expect("set timeout");
        let from = |name: &'static str| async move { sandbox(name) };
        let first = server.claim("a", EgressPolicy::OPEN).await;
        let refused = server.slots.claim(&from("b").await, &EgressPolicy::OPEN).await;
        assert!(matches!(refused, Err(SlotError::Exhausted(1))), "{refused:?}");

        let socket = within(&first.netns, || UdpSocket::bind("0.0.0.0:4000").expect("bind"));
        socket.send_to(b"hello", (SERVER, 999)).expect("send");
        let mut buffer = [0; 16];
        let (_, flow) = peer.recv_from(&mut buffer).expect("the flow begins");
        drop(socket);
        // What gVisor does to a namespace it starts in.
        within(&first.netns, || sh("ip addr flush dev eth0"));
        server.slots.release(first.id, &sandbox("a")).await;

        let second = server.claim("b", EgressPolicy::OPEN).await;
        assert_eq!(second, first, "the one slot is used again");
        let socket = within(&second.netns, || UdpSocket::bind("0.0.0.0:4000").expect("bind"));
        socket.set_read_timeout(Some(SILENCE)).expect("set timeout");
        peer.send_to(b"for the first", flow).expect("send");
        assert!(socket.recv_from(&mut buffer).is_err(), "a packet for the last sandbox came");
        within(&second.netns, || {
            assert!(echoes(SERVER, PORT));
            assert_eq!(ask(GATEWAY), Some(0));
        });
    });
}

#[test]
fn a_release_closes_at_once_and_a_late_policy_does_not_open_again() {
    on_a_host(|host| async move {
        let server = host.server("aaaaaa").await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        within(&slot.netns, || greet(Ipv4Addr::UNSPECIFIED, 9501));
        assert!(greeting(slot.address, 9501).is_ok(), "control");
        server.slots.release(slot.id, &sandbox("a")).await;
        assert!(no_greeting(slot.address, 9501));
        let late = server.slots.set_policy(slot.id, &sandbox("a"), &EgressPolicy::OPEN).await;
        assert!(matches!(late, Err(SlotError::Missing { .. })), "{late:?}");
        server.slots.release(slot.id, &sandbox("a")).await;
        let never = server.slots.set_policy(SlotId(77), &sandbox("a"), &EgressPolicy::OPEN).await;
        assert!(matches!(never, Err(SlotError::Missing { .. })), "{never:?}");
    });
}

#[test]
fn a_sandbox_keeps_its_flows_while_the_server_is_killed_and_started_again() {
    on_a_host(|host| async move {
        let server = host.server("aaaaaa").await;
        let early = server.slots.claim(&sandbox("x"), &EgressPolicy::OPEN).await.expect("claim");
        let open = server.claim("a", EgressPolicy::OPEN).await;
        let closed = server.claim("b", EgressPolicy::CLOSED).await;
        let listener = in_internet(|| TcpListener::bind((SERVER, 81)).expect("listen"));
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() {
                stream.write_all(&byte).expect("write");
            }
        });
        let mut flow = within(&open.netns, || TcpStream::connect((SERVER, 81)).expect("connect"));
        flow.set_read_timeout(Some(PATIENCE)).expect("set timeout");
        let mut beat = move || {
            flow.write_all(b"x").expect("write");
            flow.read_exact(&mut [0]).expect("the flow stands");
        };
        beat();
        let config = server.kill().await;
        beat();
        within(&closed.netns, || assert!(no_greeting(SERVER, PORT)));
        within(&open.netns, || assert!(no_answer(GATEWAY), "nobody answers for the moment"));

        // As crashes in the middle of building and of removing leave them.
        let run_dir = config.run_dir.clone();
        sh(&format!(
            "touch {}/taaaaaa101; ip link add taaaaaa102 type veth peer name left",
            run_dir.display()
        ));
        let server = Server::start(config).await;
        beat();
        let missing = server.slots.adopt(SlotId(0x101), &sandbox("c"), &EgressPolicy::OPEN).await;
        assert!(matches!(missing, Err(SlotError::Missing { .. })), "{missing:?}");
        let adopted = server.slots.adopt(open.id, &sandbox("a"), &EgressPolicy::OPEN).await;
        assert_eq!(adopted.expect("adopt"), open);
        let twice = server.slots.adopt(open.id, &sandbox("d"), &EgressPolicy::OPEN).await;
        assert!(matches!(twice, Err(SlotError::Missing { .. })), "{twice:?}");
        server.slots.adopt(closed.id, &sandbox("b"), &EgressPolicy::CLOSED).await.expect("adopt");
        let too_early = server.slots.claim(&sandbox("e"), &EgressPolicy::OPEN).await;
        assert!(too_early.is_err(), "{too_early:?}");
        server.slots.settle().await.expect("settle");
        beat();
        assert!(!early.netns.exists() || no_greeting(early.address, 9501));
        for left in ["taaaaaa101", "taaaaaa102"] {
            assert!(!run_dir.join(left).exists());
            assert!(!Path::new("/sys/class/net").join(left).exists());
        }
        within(&open.netns, || assert_eq!(ask(GATEWAY), Some(0)));
        within(&closed.netns, || assert_eq!(ask(GATEWAY), Some(5)));
        let fresh = server.claim("f", EgressPolicy::OPEN).await;
        within(&fresh.netns, || assert!(greeting(SERVER, PORT).is_ok()));
    });
}

#[test]
fn a_slot_that_cannot_be_adopted_now_stays_its_sandbox_s() {
    on_a_host(|host| async move {
        let server = host.server("aaaaaa").await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let lost = server.claim("b", EgressPolicy::OPEN).await;
        within(&slot.netns, || greet(Ipv4Addr::UNSPECIFIED, 9501));
        let mut config = server.kill().await;
        // One that is built anew would take the number of the one that is lost.
        config.spare = 0;
        sh(&format!("umount -l {}", lost.netns.display()));
        // Somebody has the place of the resolvers.
        let other = UdpSocket::bind((GATEWAY, 453)).expect("bind");
        let server = Server::start(config).await;
        let (id, policy) = (sandbox("a"), EgressPolicy::OPEN);
        let busy = server.slots.adopt(slot.id, &id, &policy).await;
        assert!(matches!(busy, Err(SlotError::Step { .. })), "{busy:?}");
        let missing = server.slots.adopt(lost.id, &sandbox("b"), &policy).await;
        assert!(matches!(missing, Err(SlotError::Missing { .. })), "{missing:?}");
        server.slots.settle().await.expect("settle");
        assert!(!lost.netns.exists(), "what is left of it is removed");
        let reaches = || {
            assert!(greeting(slot.address, 9501).is_ok(), "the host reaches it");
            within(&slot.netns, || assert!(greeting(SERVER, PORT).is_ok(), "it reaches others"));
        };
        reaches();
        drop(other);
        for _ in 0..2 {
            let adopted = server.slots.adopt(slot.id, &id, &policy).await;
            assert_eq!(adopted.expect("adopt"), slot);
        }
        within(&slot.netns, || assert_eq!(ask(GATEWAY), Some(0)));
        reaches();
        server.slots.release(slot.id, &id).await;
        assert!(no_greeting(slot.address, 9501), "it is closed");
    });
}

#[test]
fn what_is_left_of_a_sandbox_cannot_close_a_slot_that_another_has_now() {
    on_a_host(|host| async move {
        let mut config = host.config("aaaaaa");
        (config.spare, config.maximum) = (1, 1);
        let server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let config = server.kill().await;
        let server = Server::start(config).await;
        // Nobody adopts: the sandbox had ended, and only its ledger still names the slot.
        server.slots.settle().await.expect("settle");
        let again = server.claim("b", EgressPolicy::OPEN).await;
        assert_eq!(again.id, slot.id, "there is but one number");
        server.slots.release(slot.id, &sandbox("a")).await;
        let foreign = server.slots.set_policy(slot.id, &sandbox("a"), &EgressPolicy::CLOSED).await;
        assert!(matches!(foreign, Err(SlotError::Missing { .. })), "{foreign:?}");
        within(&again.netns, || {
            greet(Ipv4Addr::UNSPECIFIED, 9501);
            assert!(greeting(SERVER, PORT).is_ok());
        });
        assert!(greeting(again.address, 9501).is_ok(), "the host still reaches it");
    });
}

#[test]
fn two_servers_live_side_by_side() {
    on_a_host(|host| async move {
        let (one, two) = tokio::join!(host.server("aaaaaa"), host.server("bbbbbb"));
        let a = one.claim("a", EgressPolicy::OPEN).await;
        let b = two.claim("b", EgressPolicy::OPEN).await;
        assert_ne!(a.address, b.address);
        for slot in [&a, &b] {
            within(&slot.netns, || {
                greet(Ipv4Addr::UNSPECIFIED, 9501);
                assert!(greeting(SERVER, PORT).is_ok() && greeting(SERVER6, PORT).is_ok());
                assert_eq!(ask(GATEWAY), Some(0));
            });
            assert!(greeting(slot.address, 9501).is_ok(), "the host reaches both");
        }
        within(&a.netns, || assert!(no_greeting(b.address, 9501)));
        within(&b.netns, || assert!(no_greeting(a.address, 9501)));
        let config = one.kill().await;
        remove_all(&config.tag, &config.run_dir).expect("remove");
        within(&b.netns, || {
            assert!(greeting(SERVER, PORT).is_ok() && greeting(SERVER6, PORT).is_ok());
            assert_eq!(ask(GATEWAY), Some(0));
        });
    });
}

#[test]
fn servers_that_start_together_take_different_addresses() {
    on_a_host(|host| async move {
        // Two blocks and a host that uses one of them: room for one.
        sh("ip route add 100.64.4.0/24 via 192.0.2.2");
        let start = |tag: &'static str| {
            let mut config = host.config(tag);
            config.range = "100.64.0.0/21".parse().expect("a range");
            async move { HostSlots::start(config, Tasks::new()).await }
        };
        let (one, two) = tokio::join!(start("aaaaaa"), start("bbbbbb"));
        let (won, lost) = if one.is_ok() { (one, two) } else { (two, one) };
        drop(won.expect("there is room for one"));
        let text = lost.expect_err("there is no room for two").to_string();
        assert!(text.contains("no free /22 in 100.64.0.0/21"), "{text}");
    });
}

#[test]
fn nothing_is_left_after_a_hundred_lives_and_removal() {
    on_a_host(|host| async move {
        // Twice as many as are used at once: slots more would be kept for a while.
        let config = SlotsConfig { spare: 8, ..host.config("aaaaaa") };
        let bare = inventory(&config.run_dir);
        let server = Server::start(config.clone()).await;
        server.slots.settle().await.expect("settle");
        let settled = |server: &Server| server.slots.ready() == 8;
        until("slots are ready", || settled(&server)).await;
        let before = inventory(&config.run_dir);
        for _ in 0..25 {
            let names = ["a", "b", "c", "d"];
            let claims = names.map(|name| server.claim(name, EgressPolicy::OPEN));
            for (name, slot) in names.iter().zip(futures::future::join_all(claims).await) {
                server.slots.release(slot.id, &sandbox(name)).await;
            }
        }
        until("all are released", || settled(&server) && inventory(&config.run_dir) == before)
            .await;
        let config = server.kill().await;
        remove_all(&config.tag, &config.run_dir).expect("remove");
        assert_eq!(inventory(&config.run_dir), bare);
        remove_all(&config.tag, &config.run_dir).expect("remove what is not there");
    });
}

#[test]
fn a_claim_given_up_half_way_leaves_no_slot_behind() {
    on_a_host(|host| async move {
        let server = host.server("aaaaaa").await;
        until("slots are ready", || server.slots.ready() == 2).await;
        for round in 0..50 {
            let id = sandbox("a");
            let policy = EgressPolicy::OPEN;
            let claim = server.slots.claim(&id, &policy);
            // Polled a different number of times each round, then dropped.
            let mut claim = std::pin::pin!(claim);
            for _ in 0..round % 5 {
                if let std::task::Poll::Ready(slot) = futures::poll!(claim.as_mut()) {
                    server.slots.release(slot.expect("claim").id, &id).await;
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        until("all come back", || server.slots.ready() == 2).await;
    });
}

#[test]
fn flushed_rules_leave_sandboxes_closed_and_come_back() {
    on_a_host(|host| async move {
        greet(std::net::Ipv6Addr::UNSPECIFIED, 8900);
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward
            ip -n internet route add 169.254.77.2/32 via 192.0.2.1");
        let server = host.server("aaaaaa").await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        within(&slot.netns, || assert!(echoes(SERVER, PORT)));
        let heard = in_internet(|| UdpSocket::bind((SERVER, 999)).expect("bind"));
        heard.set_read_timeout(Some(SILENCE)).expect("set timeout");
        let table = sh("nft list table inet tarn_aaaaaa");
        let heard6 = in_internet(|| UdpSocket::bind((SERVER6, 999)).expect("bind"));
        heard6.set_read_timeout(Some(SILENCE)).expect("set timeout");
        sh("nft delete table inet tarn_aaaaaa");
        within(&slot.netns, || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.send_to(b"let out", (SERVER, 999)).expect("send");
            let socket = UdpSocket::bind("[::]:0").expect("bind");
            socket.send_to(b"let out", (SERVER6, 999)).expect("send");
            assert!(no_greeting(HOST6, 8900), "nothing of the host answers");
        });
        assert!(heard.recv(&mut [0; 16]).is_err(), "a packet was let out without rules");
        assert!(heard6.recv(&mut [0; 16]).is_err(), "nor by IPv6");
        until("the rules are back", || !within(&slot.netns, || no_echo(SERVER, PORT))).await;
        assert_eq!(sh("nft list table inet tarn_aaaaaa"), table);
    });
}

/// Lists the flows that an address began, as the kernel remembers them.
fn begun_by(address: IpAddr) -> Vec<String> {
    let begun = |line: &&str| {
        let source = line.split_whitespace().find_map(|word| word.strip_prefix("src="));
        source == Some(address.to_string().as_str())
    };
    sh("cat /proc/net/nf_conntrack").lines().filter(begun).map(str::to_owned).collect()
}

#[test]
fn no_flow_is_left_of_a_sandbox_whatever_began_it() {
    on_a_host(|host| async move {
        let config = SlotsConfig { maximum: 1, ..host.config("aaaaaa") };
        let mut server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        let starts = "nft list set inet tarn_aaaaaa starts";
        for way in ["nothing", "a connection", "a question", "before a restart", "before a flush"] {
            let slot = server.claim("a", EgressPolicy::OPEN).await;
            within(&slot.netns, || match way {
                "nothing" => {}
                "a question" => assert_eq!(ask(GATEWAY), Some(0)),
                _ => assert!(echoes(SERVER, PORT)),
            });
            assert_eq!(begun_by(slot.address).is_empty(), way == "nothing", "{way}");
            assert_eq!(sh(starts).contains("taaaaaa001"), way != "nothing", "{way}");
            match way {
                "before a restart" => {
                    server = Server::start(server.kill().await).await;
                    let (id, policy) = (sandbox("a"), EgressPolicy::OPEN);
                    server.slots.adopt(slot.id, &id, &policy).await.expect("adopt");
                    server.slots.settle().await.expect("settle");
                }
                "before a flush" => {
                    sh("nft delete table inet tarn_aaaaaa");
                    let back = || sh("nft list tables").contains("tarn_aaaaaa");
                    until("the rules are back", back).await;
                }
                _ => {}
            }
            server.slots.release(slot.id, &sandbox("a")).await;
            until("the slot is ready again", || server.slots.ready() == 1).await;
            assert_eq!(begun_by(slot.address), Vec::<String>::new(), "{way}");
            assert!(!sh(starts).contains("taaaaaa001"), "the next one begins anew: {way}");
        }
    });
}

#[test]
fn the_rules_do_not_touch_what_others_do() {
    on_a_host(|host| async move {
        // Another tool's bridge-like network with its own translation, as Docker has.
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward
            ip netns add box
            ip link add box0 type veth peer name eth0 netns box
            ip addr add 172.17.0.1/24 dev box0
            ip link set box0 up
            ip -n box addr add 172.17.0.2/24 dev eth0
            ip -n box link set eth0 up
            ip -n box route add default via 172.17.0.1
            nft 'add table ip other
                 add chain ip other post { type nat hook postrouting priority 100; }
                 add rule ip other post ip saddr 172.17.0.0/24 oifname up0 masquerade'");
        let others = sh("nft list table ip other");
        let server = host.server("aaaaaa").await;
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let container = Path::new("/run/netns/box");
        within(container, || greet(Ipv4Addr::UNSPECIFIED, PORT));
        assert_eq!(within(container, || greeting(SERVER, PORT)).as_deref(), Ok("192.0.2.1"));
        assert!(greeting(Ipv4Addr::new(172, 17, 0, 2), PORT).is_ok());
        assert!(within(&slot.netns, || no_greeting(Ipv4Addr::new(172, 17, 0, 2), PORT)));
        assert!(within(container, || no_greeting(slot.address, 9501)));
        assert_eq!(sh("nft list table ip other"), others);
    });
}

#[test]
fn the_doctor_names_what_stands_in_the_way() {
    on_a_host(|host| async move {
        let config = host.config("aaaaaa");
        let bad = |facts: Vec<tarn_hostnet::Fact>| -> Vec<String> {
            facts.into_iter().filter(|fact| !fact.ok).map(|fact| fact.detail).collect()
        };
        assert!(bad(facts(&config)).is_empty(), "{:?}", facts(&config));
        sh("nft 'add table ip filter; add chain ip filter FORWARD \
             { type filter hook forward priority 0; policy drop; }'");
        assert_eq!(bad(facts(&config)), ["ip filter FORWARD drops by default"]);
        sh("ip route del default; ip addr flush dev up0");
        assert_eq!(bad(facts(&config)).len(), 2);
        assert_eq!(IpAddr::V4(RESOLVER), config.dns_upstreams[0].ip());
    });
}
