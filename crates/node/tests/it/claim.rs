//! What a claim from a pool changes on the node: when the clock begins, and what it does.

use tarn_node_api::NodeTarget;
use tarn_types::{EndCause, Launch, ObservedPhase};

use crate::world::{World, id, launch};

#[tokio::test]
async fn the_clock_of_a_claimed_one_begins_with_its_claim_and_suspends_it() {
    let world = World::new().await;
    let waits = Launch { timeout_secs: 0, ..launch() };
    world.apply(&id(1), 1, NodeTarget::Running(waits.clone())).await;
    world.reach(&id(1), 1, ObservedPhase::Running).await;
    // It may wait for any time.
    world.host.clock.advance_millis(3_600_000);
    let claimed_at = tarn_task::Clock::now(&*world.host.clock);
    let claimed = Launch { timeout_secs: 30, claimed_at: Some(claimed_at), ..waits };
    world.apply(&id(1), 2, NodeTarget::Running(claimed.clone())).await;
    world.reach(&id(1), 2, ObservedPhase::Running).await;
    // A server that comes next knows when it began.
    let world = world.restart().await;
    world.host.clock.advance_millis(30_001);
    world.reach(&id(1), 2, ObservedPhase::Suspended).await;
    assert!(!world.sink.phases(&id(1)).contains(&ObservedPhase::Ended(EndCause::TimedOut)));
    // It goes on with all of its time.
    world.apply(&id(1), 3, NodeTarget::Running(claimed)).await;
    world.reach(&id(1), 3, ObservedPhase::Running).await;
    world.host.clock.advance_millis(30_001);
    world.reach(&id(1), 3, ObservedPhase::Suspended).await;
    world.apply(&id(1), 4, NodeTarget::Terminated(EndCause::Deleted)).await;
    world.wait_end(&id(1)).await;
    world.assert_clean(1).await;
}

#[tokio::test]
async fn a_claim_while_it_is_being_started_is_heard_of_afterwards() {
    let world = World::new().await;
    let waits = Launch { timeout_secs: 0, ..launch() };
    world.apply(&id(1), 1, NodeTarget::Running(waits.clone())).await;
    let claimed_at = Some(tarn_task::Clock::now(&*world.host.clock));
    let claimed = Launch { timeout_secs: 30, claimed_at, ..waits };
    world.apply(&id(1), 2, NodeTarget::Running(claimed)).await;
    world.reach(&id(1), 2, ObservedPhase::Running).await;
    world.host.clock.advance_millis(40_000);
    world.reach(&id(1), 2, ObservedPhase::Suspended).await;
}
