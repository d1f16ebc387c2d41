//! Follows the names of one slot's lists as their addresses change.
//!
//! A denied name is never answered, so nobody else would learn what to block; nor is an allowed
//! one where the policy turns DNS off. Else an allowed one is learned when it is asked for; but a
//! sandbox that was restored asks its own memory first.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use tarn_types::HostName;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    answer::read,
    forward::{Forwarder, Transport},
    learn::Learner,
    message::{address_query, is_good, is_truncated},
};
use crate::egress::{Egress, is_never_reachable};

/// How soon and how late a name is looked at again, whatever its records say.
const SOONEST: Duration = Duration::from_secs(30);
const LATEST: Duration = Duration::from_secs(300);
/// How soon when nobody answered.
const AGAIN: Duration = Duration::from_secs(5);
/// Names asked for at a time.
const AT_A_TIME: usize = 8;

/// Follows the names of a slot's policy until dropped. Says by `settled` under which policy the
/// names that nobody else asks for have been looked up once.
pub(crate) async fn follow(
    mut policy: watch::Receiver<Arc<Egress>>,
    settled: watch::Sender<Option<Arc<Egress>>>,
    learner: Learner,
    forwarder: Arc<Forwarder>,
) {
    loop {
        let egress = Arc::clone(&policy.borrow_and_update());
        tokio::select! {
            () = follow_under(&egress, &settled, &learner, &forwarder) => return,
            changed = policy.changed() => if changed.is_err() { return },
        }
    }
}

/// Follows the names of one policy for ever.
async fn follow_under(
    egress: &Arc<Egress>,
    settled: &watch::Sender<Option<Arc<Egress>>>,
    learner: &Learner,
    forwarder: &Forwarder,
) {
    let mut due = BTreeMap::new();
    let unasked = egress.unasked_names().cloned().collect();
    look_up(egress, unasked, &mut due, learner, forwarder).await;
    settled.send_replace(Some(Arc::clone(egress)));
    for name in &egress.allow_names {
        due.entry(name.clone()).or_insert_with(Instant::now);
    }
    loop {
        let now = Instant::now();
        let names =
            due.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        look_up(egress, names, &mut due, learner, forwarder).await;
        match due.values().min() {
            Some(next) => sleep_until(*next).await,
            None => std::future::pending().await,
        }
    }
}

/// Looks names up, and notes when to look again.
async fn look_up(
    egress: &Arc<Egress>,
    names: Vec<HostName>,
    due: &mut BTreeMap<HostName, Instant>,
    learner: &Learner,
    forwarder: &Forwarder,
) {
    let mut found = stream::iter(names)
        .map(|name| async move {
            let good_for = resolve(egress, &name, learner, forwarder).await;
            (name, good_for)
        })
        .buffer_unordered(AT_A_TIME);
    while let Some((name, good_for)) = found.next().await {
        let pause = good_for.map_or(AGAIN, |ttl| ttl.clamp(SOONEST, LATEST));
        due.insert(name, Instant::now() + pause);
    }
}

/// Resolves one name and has its addresses known; returns for how long they are good.
async fn resolve(
    egress: &Arc<Egress>,
    name: &HostName,
    learner: &Learner,
    forwarder: &Forwarder,
) -> Option<Duration> {
    let query = address_query(name);
    let mut reply = forwarder.ask(&query, Transport::Udp).await;
    if is_truncated(&reply) {
        reply = forwarder.ask(&query, Transport::Tcp).await;
    }
    if !is_good(&reply) {
        return None;
    }
    let mut records = read(&reply)?.records;
    records.retain(|record| !is_never_reachable(record.address.into()));
    let shortest = records.iter().map(|record| record.ttl).min().unwrap_or(LATEST);
    if !records.is_empty()
        && let Err(failure) = learner.learn(egress, name.clone(), records).await
    {
        tracing::warn!(
            slot = learner.slot.0,
            step = failure.step,
            detail = failure.detail,
            "addresses of a name in an egress list are not in force"
        );
        return None;
    }
    Some(shortest)
}
