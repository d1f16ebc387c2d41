//! How long the steps take. The bounds are wide, for busy machines; the figures are printed.

use std::time::{Duration, Instant};

use tarn_host::{SlotId, Slots as _};
use tarn_types::EgressPolicy;

use crate::host::{Server, on_a_host, sandbox, until, within};

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
        let burst = ids.iter().map(|id| server.slots.claim(id, &EgressPolicy::OPEN));
        let claimed = futures::future::join_all(burst).await;
        say(&format!("20 claims at once: {:?}", begun.elapsed()));
        assert!(claimed.iter().all(Result::is_ok));
    });
}
