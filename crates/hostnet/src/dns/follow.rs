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
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    answer::read,
    forward::{Asker, Forwarder, Transport},
    learn::Learner,
    message::{TYPE_A, TYPE_AAAA, address_query, is_good, is_truncated},
};
use crate::{
    egress::{Egress, is_never_reachable},
    filter::{Found, Record},
};

/// How soon and how late a name is looked at again, whatever its records say.
const SOONEST: Duration = Duration::from_secs(30);
const LATEST: Duration = Duration::from_secs(300);
/// How soon when nobody answered.
const AGAIN: Duration = Duration::from_secs(5);
/// Questions asked at a time.
const AT_A_TIME: usize = 16;

/// How long a policy waits for the addresses of names before it is installed. A resolver that is
/// silent must not keep sandboxes from starting; who answers later is known later.
const PATIENCE: Duration = Duration::from_secs(1);

/// Looks names up before a policy that has them is installed; returns what was found in time.
pub(crate) async fn look_up(names: Vec<HostName>, forwarder: &Forwarder) -> Vec<Found> {
    let questions: Vec<(HostName, u16)> = names
        .iter()
        .flat_map(|name| [TYPE_A, TYPE_AAAA].map(|kind| (name.clone(), kind)))
        .collect();
    let (wanted, asker) = (questions.len(), &Asker::default());
    let mut found = Vec::with_capacity(wanted);
    let mut answers = stream::iter(questions)
        .map(|(name, kind)| async move {
            let records = resolve(&name, kind, forwarder, asker).await;
            (name, records)
        })
        .buffer_unordered(AT_A_TIME);
    let deadline = Instant::now() + PATIENCE;
    while let Ok(Some((name, records))) = timeout_at(deadline, answers.next()).await {
        found.extend(records.map(|records| Found { name, records }));
    }
    if found.len() < wanted {
        tracing::warn!(
            questions = wanted,
            answered = found.len(),
            "names of an egress list are not resolved yet; they are in force once they are"
        );
    }
    found
}

/// Follows the names of a slot's policy until dropped.
pub(crate) async fn follow(
    mut policy: watch::Receiver<Arc<Egress>>,
    learner: Learner,
    forwarder: Arc<Forwarder>,
) {
    loop {
        let egress = Arc::clone(&policy.borrow_and_update());
        tokio::select! {
            () = follow_under(&egress, &learner, &forwarder) => return,
            changed = policy.changed() => if changed.is_err() { return },
        }
    }
}

/// Follows the names of one policy for ever.
async fn follow_under(egress: &Arc<Egress>, learner: &Learner, forwarder: &Forwarder) {
    let (start, asker) = (Instant::now(), &Asker::default());
    let mut due: BTreeMap<HostName, Instant> =
        egress.names().map(|name| (name.clone(), start)).collect();
    loop {
        let now = Instant::now();
        let names: Vec<HostName> =
            due.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        let mut looked_up = stream::iter(names)
            .map(|name| async move {
                let good_for = renew(egress, &name, learner, forwarder, asker).await;
                (name, good_for)
            })
            .buffer_unordered(AT_A_TIME);
        while let Some((name, good_for)) = looked_up.next().await {
            let pause = good_for.map_or(AGAIN, |ttl| ttl.clamp(SOONEST, LATEST));
            due.insert(name, Instant::now() + pause);
        }
        match due.values().min() {
            Some(next) => sleep_until(*next).await,
            None => std::future::pending().await,
        }
    }
}

/// Looks one name up and has its addresses known; returns for how long they are good.
///
/// It asks for both families, for those of IPv6 also while there is no way to them: there may be
/// one any moment. A resolver that is silent about one does not keep the other from being known.
async fn renew(
    egress: &Arc<Egress>,
    name: &HostName,
    learner: &Learner,
    forwarder: &Forwarder,
    asker: &Asker,
) -> Option<Duration> {
    let of = |kind| async move {
        let records = resolve(name, kind, forwarder, asker).await?;
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
    };
    let (v4, v6) = tokio::join!(of(TYPE_A), of(TYPE_AAAA));
    Some(v4?.min(v6?))
}

/// Asks for the addresses of a name of one family; `None` if nobody said.
async fn resolve(
    name: &HostName,
    kind: u16,
    forwarder: &Forwarder,
    asker: &Asker,
) -> Option<Vec<Record>> {
    let query = address_query(name, kind);
    let mut reply = forwarder.ask(&query, Transport::Udp, asker).await;
    if is_truncated(&reply) {
        reply = forwarder.ask(&query, Transport::Tcp, asker).await;
    }
    if !is_good(&reply) {
        return None;
    }
    let opened = &forwarder.opened;
    let mut records = read(&reply, opened)?.records;
    records.retain(|it| opened.has(it.address) || !is_never_reachable(it.address));
    Some(records)
}
