//! What the way through the ingress costs, on a kept connection.

use std::time::Duration;

use http::Response;
use tokio::time::Instant;

use crate::{
    client::{Raw, full},
    sandbox::serve,
    world::{KEY, World},
};

const ROUNDS: usize = 500;

async fn p50(address: std::net::SocketAddr, request: &str) -> Duration {
    let mut raw = Raw::connect(address).await;
    let mut samples = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        raw.received.clear();
        let begun = Instant::now();
        raw.write(request).await;
        raw.read_until("\r\n\r\nok").await;
        samples.push(begun.elapsed());
    }
    samples.sort_unstable();
    samples[ROUNDS / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_detour_is_short() {
    let world = World::start().await;
    let daemon = serve(&world.tasks, |_request| async { Response::new(full("ok")) }).await;
    let id = world.sandbox(daemon);
    let request =
        format!("GET / HTTP/1.1\r\nHost: {id}.local\r\nAuthorization: Bearer {KEY}\r\n\r\n");
    let direct = p50(daemon, &request).await;
    let through = p50(world.address, &request).await;
    let stats = world.stats();
    println!(
        "p50 direct {direct:?}, through {through:?}, detour {:?}; {} connections, {} requests",
        through.saturating_sub(direct),
        stats.upstream_opened,
        ROUNDS
    );
    // Loose: this machine is shared, and the build is not optimised.
    assert!(through < direct + Duration::from_millis(20), "{direct:?} {through:?}");
    assert!(stats.upstream_opened <= 25, "connections are not kept: {stats:?}");
}
