//! How long the steps take. The bounds are wide, for busy machines; the figures are printed.

use std::time::{Duration, Instant};

use tarn_host::{SlotId, Slots as _};
use tarn_types::EgressPolicy;

use crate::host::{PORT, SERVER, Server, on_a_host, sandbox, until, within};

#[allow(clippy::disallowed_methods, reason = "the wall is what is measured")]
fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::print_stdout, reason = "the figures are for whoever runs it with --nocapture")]
fn say(line: &str) {
    println!("{line}");
}

fn report(what: &str, mut samples: Vec<Duration>) -> Duration {
    samples.sort();
    let (middle, late) = (samples[samples.len() / 2], samples[samples.len() * 95 / 100]);
    say(&format!("{what}: p50 {middle:?}, p95 {late:?}, n={}", samples.len()));
    middle
}

/// A policy of 20 networks and one name, others for each number.
fn listed(number: u32) -> EgressPolicy {
    let network = |entry| format!("203.{}.{}.0/28", number % 250, entry * 2);
    let deny = vec![format!("198.51.100.{}", number % 250).parse().expect("a good entry")];
    let allow = (0..20).map(network).chain(["example.com".to_owned()]);
    EgressPolicy {
        allow_internet_access: true,
        allow_out: allow.map(|text| text.parse().expect("a good entry")).collect(),
        deny_out: deny,
    }
}

#[test]
fn lists_take_milliseconds_beside_many_others() {
    on_a_host(|host| async move {
        let mut config = host.config("aaaaaa");
        config.spare = 130;
        let server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        until("slots are ready", || server.slots.ready() == 130).await;
        let mut others = 0;
        for beside in [0, 20, 100] {
            while others < beside {
                server.claim(&format!("x{others}"), listed(others)).await;
                others += 1;
            }
            let (mut claims, mut changes, mut answers, mut plain) =
                (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for round in 0..40 {
                let begun = now();
                let slot = server.claim("a", listed(round)).await;
                claims.push(begun.elapsed());
                within(&slot.netns, || {
                    let begun = now();
                    assert_eq!(crate::host::ask(crate::host::GATEWAY), Some(0));
                    answers.push(begun.elapsed());
                });
                let policy = listed(round + 1);
                let begun = now();
                server.slots.set_policy(slot.id, &sandbox("a"), &policy).await.expect("change");
                changes.push(begun.elapsed());
                server.slots.release(slot.id, &sandbox("a")).await;
                let begun = now();
                let slot = server.claim("b", EgressPolicy::OPEN).await;
                plain.push(begun.elapsed());
                server.slots.release(slot.id, &sandbox("b")).await;
            }
            say(&format!("beside {beside} slots of 21 networks:"));
            let claim = report("  claim with lists", claims);
            let change = report("  change of lists", changes);
            report("  question and answer", answers);
            report("  claim without lists", plain);
            assert!(claim < Duration::from_millis(25), "a claim takes {claim:?}");
            assert!(change < Duration::from_millis(50), "a change takes {change:?}");
        }
    });
}

#[test]
fn steps_take_milliseconds() {
    on_a_host(|host| async move {
        let mut config = host.config("aaaaaa");
        config.spare = 30;
        let begun = now();
        let server = Server::start(config).await;
        say(&format!("start: {:?}", begun.elapsed()));
        let begun = now();
        server.slots.settle().await.expect("settle");
        until("slots are ready", || server.slots.ready() == 30).await;
        say(&format!("build of 30: {:?}", begun.elapsed()));

        let (mut claims, mut policies, mut releases, mut reuses) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..100 {
            let begun = now();
            let slot = server.claim("a", EgressPolicy::OPEN).await;
            claims.push(begun.elapsed());
            let begun = now();
            server
                .slots
                .set_policy(slot.id, &sandbox("a"), &EgressPolicy::CLOSED)
                .await
                .expect("change");
            policies.push(begun.elapsed());
            within(&slot.netns, || crate::host::sh("ip addr flush dev eth0"));
            let begun = now();
            server.slots.release(slot.id, &sandbox("a")).await;
            releases.push(begun.elapsed());
            until("it is ready again", || server.slots.ready() == 30).await;
            reuses.push(begun.elapsed());
            assert_eq!(slot.id, SlotId(1), "round {round}");
        }
        let claim = report("claim", claims);
        report("set_policy", policies);
        report("release", releases);
        report("release to ready (5 ms steps)", reuses);
        assert!(claim < Duration::from_millis(10), "a claim takes {claim:?}");

        let begun = now();
        let ids: Vec<_> = (0..20).map(|number| sandbox(&format!("b{number}"))).collect();
        let policy = EgressPolicy::OPEN;
        let burst = ids.iter().map(|id| server.slots.claim(id, &policy));
        let claimed = futures::future::join_all(burst).await;
        say(&format!("20 claims at once: {:?}", begun.elapsed()));
        assert!(claimed.iter().all(Result::is_ok));
    });
}

#[test]
fn connections_begin_in_fractions_of_a_millisecond() {
    on_a_host(|host| async move {
        let mut config = host.config("aaaaaa");
        config.limits.new_connections_per_sec = 100_000;
        config.limits.new_connections_burst = 100_000;
        let server = Server::start(config).await;
        server.slots.settle().await.expect("settle");
        let slot = server.claim("a", EgressPolicy::OPEN).await;
        let mut rounds = Vec::new();
        within(&slot.netns, || {
            for _ in 0..10 {
                let begun = now();
                for _ in 0..200 {
                    std::net::TcpStream::connect((SERVER, PORT)).expect("connect");
                }
                rounds.push(begun.elapsed() / 200);
            }
        });
        let connect = report("connection", rounds);
        assert!(connect < Duration::from_millis(10), "a connection takes {connect:?}");
    });
}
