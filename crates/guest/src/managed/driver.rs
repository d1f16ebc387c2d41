//! Performing what the machine decides: one task per managed process, while there is anything
//! to do for it.
//!
//! Everything that the machine waits for is one future here that ends in one event. A change of
//! phase drops them all, so nothing armed for one run can hit the next.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tarn_daemon_api::ManagedExit;
use tokio::sync::{mpsc, oneshot};

use super::{
    Managed,
    machine::{Check, Effect, Event, Manner, Phase},
    standstill::{self, Clock},
};

/// How long a tree that was asked to end may take (spec 05 §2).
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// Requests that wait for a busy driver, which only starts runs and takes no time; the next one
/// waits to be queued.
pub(super) const MAX_COMMANDS: usize = 16;

/// What callers ask of a managed process.
#[derive(Debug)]
pub(super) enum Command {
    /// End it and leave it so.
    Stop,
    /// End the run, if there is one, and start another; told when that was tried.
    Restart(oneshot::Sender<Result<(), String>>),
    /// Start nothing any more.
    Retire,
}

/// What a driver can do to the world.
pub(super) trait Host {
    /// Starts a run and makes it the current one; the error is in a shell's words.
    fn start(&self) -> Result<(), String>;

    /// Waits before a start.
    async fn pause(&self, pause: Duration);

    /// Waits for the end of the current run.
    async fn wait_end(&self) -> ManagedExit;

    /// Asks the tree of the current run to end.
    fn terminate(&self);

    /// Waits until nobody of that tree is left.
    async fn wait_empty(&self);

    /// Kills that tree; returns when nobody is left, or after some time of trying.
    async fn kill(&self);

    /// Checks the health of the current run, however long it takes.
    async fn probe(&self) -> Result<(), String>;

    /// Returns how long a check may take.
    fn probe_limit(&self) -> Duration;
}

type Pending<'a> = Pin<Box<dyn Future<Output = Event> + 'a>>;

/// One life of the driver: from a start to the next time that nothing is to be done.
struct Driver<'a, H> {
    managed: &'a Managed,
    host: &'a H,
    pending: Vec<Pending<'a>>,
    callers: Vec<oneshot::Sender<Result<(), String>>>,
}

enum Turn {
    Event(Event),
    Command(Command),
}

/// Drives until the process has stopped and no request waits; begins with what its last step
/// left to do.
pub(super) async fn run<H: Host>(
    managed: &Managed,
    host: &H,
    effects: Vec<Effect>,
    mut commands: mpsc::Receiver<Command>,
) {
    let mut driver = Driver { managed, host, pending: Vec::new(), callers: Vec::new() };
    driver.await_end(managed.phase());
    // A run that has just started leaves no start to do, whose answer this would be.
    drop(driver.perform(effects));
    loop {
        let turn = if managed.phase().is_live() {
            poll_fn(|context| driver.poll(&mut commands, context)).await
        } else if let Ok(command) = commands.try_recv() {
            Turn::Command(command)
        } else {
            // Nothing yields between here and the end of the task.
            managed.undriven();
            return;
        };
        match turn {
            Turn::Event(event) => driver.take(event),
            Turn::Command(Command::Stop) => driver.take(Event::StopAsked),
            Turn::Command(Command::Retire) => driver.take(Event::Retired),
            Turn::Command(Command::Restart(caller)) => {
                driver.callers.push(caller);
                driver.take(Event::RestartAsked);
            }
        }
    }
}

// === impl Driver ===

impl<'a, H: Host> Driver<'a, H> {
    /// The first thing that is ready; requests come first, so that a stop precedes the end that
    /// it is about.
    fn poll(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        context: &mut Context<'_>,
    ) -> Poll<Turn> {
        if let Poll::Ready(Some(command)) = commands.poll_recv(context) {
            return Poll::Ready(Turn::Command(command));
        }
        for at in 0..self.pending.len() {
            let Some(pending) = self.pending.get_mut(at) else { break };
            if let Poll::Ready(event) = pending.as_mut().poll(context) {
                drop(self.pending.remove(at));
                return Poll::Ready(Turn::Event(event));
            }
        }
        Poll::Pending
    }

    /// Steps the machine, and performs what it says until there is nothing to answer at once.
    fn take(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            match &event {
                Event::Started => self.answer(&Ok(())),
                Event::StartFailed(cause) => self.answer(&Err(cause.clone())),
                Event::Ended(_)
                | Event::Cleared
                | Event::BackoffOver
                | Event::Checked(_)
                | Event::StopAsked
                | Event::RestartAsked
                | Event::Retired => {}
            }
            let before = self.managed.phase();
            let effects = self.managed.step(event);
            let after = self.managed.phase();
            if std::mem::discriminant(&before) != std::mem::discriminant(&after) {
                self.pending.clear();
                self.await_end(after);
            }
            next = self.perform(effects);
        }
        if !self.managed.phase().is_live() {
            // Whoever waits for a restart learns by this that there is none.
            self.callers.clear();
        }
        self.managed.notify();
    }

    /// Arms what takes time, and returns the answer of what does not.
    fn perform(&mut self, effects: Vec<Effect>) -> Option<Event> {
        let host = self.host;
        let mut answer = None;
        for effect in effects {
            match effect {
                Effect::Start => {
                    answer = Some(match host.start() {
                        Ok(()) => Event::Started,
                        Err(cause) => Event::StartFailed(cause),
                    });
                }
                Effect::Check(after) => self.pending.push(Box::pin(check(host, after))),
                Effect::Clear(manner) => self.pending.push(Box::pin(clear(host, manner))),
                Effect::Backoff(pause) => self.pending.push(Box::pin(async move {
                    host.pause(pause).await;
                    Event::BackoffOver
                })),
            }
        }
        answer
    }

    /// As long as there is a run, its end is waited for.
    fn await_end(&mut self, phase: Phase) {
        match phase {
            Phase::Running { .. } | Phase::Ending { ended: false, .. } => {
                let host = self.host;
                self.pending.push(Box::pin(async { Event::Ended(host.wait_end().await) }));
            }
            Phase::Ending { ended: true, .. }
            | Phase::Starting
            | Phase::BackingOff(_)
            | Phase::Stopped => {}
        }
    }

    fn answer(&mut self, outcome: &Result<(), String>) {
        for caller in self.callers.drain(..) {
            // One that has hung up needs no answer.
            drop(caller.send(outcome.clone()));
        }
    }
}

async fn check<H: Host>(host: &H, after: Duration) -> Event {
    standstill::sleep(after).await;
    Event::Checked(match standstill::timeout(host.probe_limit(), host.probe()).await {
        (Some(Ok(())), _) => Check::Passed,
        (Some(Err(_)) | None, Clock::Jumped) => Check::Void,
        (Some(Err(cause)), Clock::Steady) => Check::Failed(cause),
        (None, Clock::Steady) => {
            Check::Failed(format!("no answer within {} ms", host.probe_limit().as_millis()))
        }
    })
}

async fn clear<H: Host>(host: &H, manner: Manner) -> Event {
    if manner == Manner::Gentle {
        host.terminate();
        let graceful = tokio::select! {
            () = host.wait_empty() => true,
            () = standstill::sleep(GRACE) => false,
        };
        if graceful {
            return Event::Cleared;
        }
    }
    host.kill().await;
    Event::Cleared
}

#[cfg(test)]
mod tests;
