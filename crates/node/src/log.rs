//! What the processes of a running sandbox print, on its way to the store (spec 08 §3).
//!
//! One pump a sandbox. It asks the daemon for the next batch, which waits for a line; hands it to
//! the sink; and acknowledges it with the next question. So nothing is lost when the server dies
//! between two steps: the daemon repeats what was not acknowledged, and the store knows what it
//! has. A sandbox that prints more than its budget allows is read more slowly; what its daemon
//! cannot hold is counted there.
//!
//! The daemon is not trusted: a tenant may have replaced it. Answers are bounded, and no answer,
//! however quick, makes the pump faster than [`MIN_ROUND`].

mod budget;
mod wire;

use std::{sync::Arc, time::Duration};

use tarn_guest_api::LogsRequest;
use tarn_node_api::Endpoint;
use tarn_types::{LogBatch, ProjectId, SandboxId};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};

pub use budget::LogRate;
pub(crate) use wire::ROOM;

use budget::Budget;

use crate::{
    daemon::{DaemonConnection, DaemonError},
    service::Shared,
};

/// How long after its start a sandbox is first asked: its first commands are those that somebody
/// waits for.
const START_DELAY: Duration = Duration::from_millis(500);

/// How much longer it is left alone while others are being made that somebody waits for, at most:
/// the first question takes milliseconds of a processor, on both sides.
const CROWD_DELAY: Duration = Duration::from_secs(3);

/// How often it is looked whether that is over.
const CROWD_GLANCE: Duration = Duration::from_millis(100);

/// How long the daemon waits for a line. Each wait that ends costs a turn of the sandbox's kernel.
const WAIT: Duration = Duration::from_secs(120);

/// How long it gathers more lines after the first.
const GATHER: Duration = Duration::from_millis(100);

/// How long beyond the wait an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// The least time from one question to the next.
const MIN_ROUND: Duration = Duration::from_millis(20);

/// How long to rest after a failure, at first and at most.
const REST_FIRST: Duration = Duration::from_millis(200);
const REST_MOST: Duration = Duration::from_secs(30);

/// How long an ending sandbox is asked for its last lines.
const DRAIN_DEADLINE: Duration = Duration::from_millis(500);

/// The least that an answer with lines counts as, so that many small ones have a price.
const MIN_CHARGE: u64 = 1024;

/// The pump of one sandbox. Dropping it stops the pump.
pub(crate) struct LogPump {
    /// Closed without a word: stop. A word: read what is there, then stop.
    last_call: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// The state of a pump.
struct Pump {
    shared: Arc<Shared>,
    sandbox: SandboxId,
    project: ProjectId,
    endpoint: Endpoint,
    connection: Option<DaemonConnection>,
    /// The last batch that is stored.
    stored: u64,
    budget: Budget,
}

/// Why a pump has nothing more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// The daemon is of before persisted logs.
    NotSpoken,
}

/// What a round led to.
enum Round {
    /// Lines were stored; they cost so much.
    Stored(u64),
    /// There was nothing.
    Quiet,
    /// The daemon did not answer, or the store did not take it.
    Failed(String),
}

// === impl LogPump ===

impl LogPump {
    /// Begins to read a running sandbox.
    pub(crate) fn spawn(
        shared: &Arc<Shared>,
        sandbox: &SandboxId,
        project: &ProjectId,
        endpoint: Endpoint,
    ) -> Self {
        let pump = Pump {
            shared: Arc::clone(shared),
            sandbox: sandbox.clone(),
            project: project.clone(),
            endpoint,
            connection: None,
            stored: 0,
            budget: Budget::new(shared.config.log_rate, Instant::now()),
        };
        let (last_call, called) = oneshot::channel();
        let task = shared.parts.tasks.spawn("log_pump", pump.run(called));
        Self { last_call, task }
    }

    /// Reads what is there, within a short deadline, and stops.
    pub(crate) async fn drain(self) {
        let Self { last_call, mut task } = self;
        // A pump that is over has nothing to say.
        _ = last_call.send(());
        if timeout(DRAIN_DEADLINE, &mut task).await.is_err() {
            task.abort();
        }
    }
}

// === impl Pump ===

impl Pump {
    async fn run(mut self, mut called: oneshot::Receiver<()>) {
        let stopping = self.shared.parts.tasks.stopping();
        let last_call = tokio::select! {
            _over = self.read_on() => return,
            () = stopping => return,
            last_call = &mut called => last_call,
        };
        if last_call.is_ok() {
            // The question under way was dropped, and its answer with it.
            self.connection = None;
            self.read_rest().await;
        }
    }

    /// Reads until the daemon turns out not to speak of logs. Dropping the future loses nothing.
    async fn read_on(&mut self) -> Over {
        self.wait_for_its_turn().await;
        let mut rest = REST_FIRST;
        loop {
            let begun = Instant::now();
            match self.round(WAIT).await {
                Ok(Round::Stored(bytes)) => {
                    rest = REST_FIRST;
                    self.budget.spend(bytes.max(MIN_CHARGE), Instant::now());
                    let pause = self.budget.pause(Instant::now());
                    tokio::time::sleep(pause.max(MIN_ROUND.saturating_sub(begun.elapsed()))).await;
                }
                Ok(Round::Quiet) => {
                    rest = REST_FIRST;
                    tokio::time::sleep(MIN_ROUND.saturating_sub(begun.elapsed())).await;
                }
                Ok(Round::Failed(error)) => {
                    tracing::debug!(
                        sandbox.id = %self.sandbox, error,
                        rest_ms = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX),
                        "persisted logs: no batch; trying again"
                    );
                    tokio::time::sleep(rest).await;
                    rest = (rest * 2).min(REST_MOST);
                }
                Err(over) => {
                    tracing::info!(
                        sandbox.id = %self.sandbox,
                        "the sandbox's daemon is older than persisted logs; it has none"
                    );
                    return over;
                }
            }
        }
    }

    async fn wait_for_its_turn(&self) {
        tokio::time::sleep(START_DELAY).await;
        let latest = Instant::now() + CROWD_DELAY;
        while self.shared.prestarts.is_making() && Instant::now() < latest {
            tokio::time::sleep(CROWD_GLANCE).await;
        }
    }

    /// Reads what is there now.
    async fn read_rest(&mut self) {
        while let Ok(Round::Stored(_)) = self.round(Duration::ZERO).await {}
    }

    async fn round(&mut self, wait: Duration) -> Result<Round, Over> {
        let (batch, _room) = match self.ask(wait).await {
            Ok((Some(batch), room)) => (batch, room),
            Ok((None, _)) => return Ok(Round::Quiet),
            Err(DaemonError::Refused { status: 404 | 405, .. }) => return Err(Over::NotSpoken),
            Err(error) => {
                self.connection = None;
                return Ok(Round::Failed(error.to_string()));
            }
        };
        let bytes = batch.lines.iter().map(|line| line.body.len() as u64 + 48).sum();
        // The daemon repeats it until it is acknowledged, so a failure here loses nothing.
        match self.shared.parts.log_sink.store(&batch).await {
            Ok(()) => {
                self.stored = batch.number;
                Ok(Round::Stored(bytes))
            }
            Err(error) => Ok(Round::Failed(error.to_string())),
        }
    }

    /// Asks for the next batch; `None` when there was none. The permit is for its memory.
    async fn ask(
        &mut self,
        wait: Duration,
    ) -> Result<(Option<LogBatch>, OwnedSemaphorePermit), DaemonError> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let request =
            LogsRequest { ack: self.stored, wait_ms: millis(wait), gather_ms: millis(GATHER) };
        let exchange = async {
            let connection = match self.connection.take() {
                Some(connection) => connection,
                None => DaemonConnection::open(self.endpoint.daemon).await?,
            };
            let connection = self.connection.insert(connection);
            let room = &self.shared.log_room;
            wire::fetch(connection, &self.endpoint.token, &request, room).await
        };
        let limit = wait + GATHER + PATIENCE;
        let (answer, room) = timeout(limit, exchange)
            .await
            .map_err(|late| DaemonError::Broken(late.to_string()))??;
        Ok((wire::batch(&self.sandbox, &self.project, answer), room))
    }
}
