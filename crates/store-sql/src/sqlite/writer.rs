//! The one writer, and its group commit.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use sqlx::{Connection as _, SqliteConnection};
use tarn_store::StoreError;
use tarn_task::Tasks;
use tarn_types::{ErrorClass, Lasting};
use tokio::sync::{mpsc, oneshot};

use super::error::failed;

/// Verbs that may wait for the writer. Whoever comes later waits to be let into the queue, which
/// is the back-pressure; two full commits of work are enough to keep the writer busy.
const QUEUE: usize = 2 * BATCH;

/// The most verbs in one commit: at some 30 µs each they take no longer than a slow fsync.
const BATCH: usize = 128;

/// Something to write. Its changes are kept if it succeeds, and undone if it fails.
pub(super) trait Verb: Send + Sync + 'static {
    /// What the caller gets.
    type Output: Send + 'static;

    /// Says what its changes have to outlast.
    fn lasting(&self) -> Lasting {
        Lasting::Always
    }

    /// Does it, inside a transaction.
    fn apply(
        &self,
        connection: &mut SqliteConnection,
    ) -> impl Future<Output = Result<Self::Output, StoreError>> + Send;
}

/// Does nothing, to see that the writer is there.
pub(super) struct Nothing;

/// How much was written, and how often the disk was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteCounts {
    /// Verbs that were answered, well or not.
    pub verbs: u64,
    /// Transactions that were committed.
    pub commits: u64,
    /// How many of them outlast a crash of the host; in the store each is one fsync.
    pub lasting: u64,
}

/// Sends verbs to the writer.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn Job>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    verbs: AtomicU64,
    commits: AtomicU64,
    lasting: AtomicU64,
}

/// The task that writes.
struct WriterTask {
    connection: SqliteConnection,
    queue: mpsc::Receiver<Box<dyn Job>>,
    counts: Arc<Counts>,
    /// What the next commit outlasts as the connection is set, if that is known.
    set: Option<Lasting>,
}

/// A verb together with who waits for it, whatever its output.
#[async_trait]
trait Job: Send {
    /// Says what the verb's changes have to outlast.
    fn lasting(&self) -> Lasting;

    /// Applies the verb and keeps its output; says whether its changes are to be kept.
    async fn apply(&mut self, connection: &mut SqliteConnection) -> Applied;

    /// Returns why it failed, if it was applied and failed.
    fn failure(&self) -> Option<&StoreError>;

    /// Tells who waits, now that the outcome lasts as it has to.
    fn answer(self: Box<Self>);

    /// Tells who waits that nothing was done.
    fn refuse(self: Box<Self>, error: StoreError);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applied {
    Keep,
    Undo,
}

/// Why nothing of a batch was kept.
struct Lost {
    class: ErrorClass,
    detail: String,
}

struct Waiting<V: Verb> {
    verb: V,
    outcome: Option<Result<V::Output, StoreError>>,
    caller: oneshot::Sender<Result<V::Output, StoreError>>,
}

// === impl Nothing ===

impl Verb for Nothing {
    type Output = ();

    async fn apply(&self, _connection: &mut SqliteConnection) -> Result<(), StoreError> {
        Ok(())
    }
}

// === impl Writer ===

impl Writer {
    pub(super) fn spawn(connection: SqliteConnection, tasks: &Tasks) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        let counts = Arc::new(Counts::default());
        let task = WriterTask {
            connection,
            queue,
            counts: Arc::clone(&counts),
            set: Some(Lasting::Always),
        };
        tasks.spawn("store_writer", task.run(tasks.stopping()));
        Self { queue: sender, counts }
    }

    /// Has a verb written, and returns when it is there for as long as it has to be.
    ///
    /// Once queued it is done even if the caller goes away.
    pub(super) async fn write<V: Verb>(&self, verb: V) -> Result<V::Output, StoreError> {
        let (caller, answer) = oneshot::channel();
        let job = Box::new(Waiting { verb, outcome: None, caller });
        self.queue.send(job).await.map_err(|_closed| closed())?;
        answer.await.map_err(|_dropped| closed())?
    }

    pub(super) fn counts(&self) -> WriteCounts {
        WriteCounts {
            verbs: self.counts.verbs.load(Ordering::Relaxed),
            commits: self.counts.commits.load(Ordering::Relaxed),
            lasting: self.counts.lasting.load(Ordering::Relaxed),
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable { detail: "the store is closed".to_owned() }
}

// === impl WriterTask ===

impl WriterTask {
    async fn run(mut self, stopping: impl Future<Output = ()> + Send) {
        tokio::pin!(stopping);
        let mut open = true;
        loop {
            let first = tokio::select! {
                biased;
                first = self.queue.recv() => first,
                () = &mut stopping, if open => {
                    // What is queued is still done; the channel then ends.
                    self.queue.close();
                    open = false;
                    continue;
                }
            };
            let Some(first) = first else { break };
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(next) = self.queue.try_recv()
            {
                batch.push(next);
            }
            self.commit(batch).await;
        }
        if let Err(error) = self.connection.close().await {
            tracing::warn!(error = %error, "database not closed cleanly; its log is replayed at the next start");
        }
    }

    /// Writes a batch in one transaction, then tells everybody.
    async fn commit(&mut self, mut batch: Vec<Box<dyn Job>>) {
        let verbs = batch.len() as u64;
        let boot = batch.iter().all(|job| job.lasting() == Lasting::Boot);
        let outcome = match self.set(if boot { Lasting::Boot } else { Lasting::Always }).await {
            Ok(()) => transact(&mut self.connection, &mut batch).await,
            Err(lost) => Err(lost),
        };
        self.counts.verbs.fetch_add(verbs, Ordering::Relaxed);
        match outcome {
            Ok(()) => {
                self.counts.commits.fetch_add(1, Ordering::Relaxed);
                self.counts.lasting.fetch_add(u64::from(!boot), Ordering::Relaxed);
                batch.into_iter().for_each(Job::answer);
            }
            Err(lost) => {
                // Many of SQLite's errors have rolled back already, and then this fails.
                drop(sqlx::query("ROLLBACK").execute(&mut self.connection).await);
                tracing::error!(verbs, error = %lost.error(), "store commit failed");
                // Even a verb that failed by itself may have met a neighbour's undone change.
                for job in batch {
                    job.refuse(lost.error());
                }
            }
        }
    }

    /// Has the following commits outlast that. The log has them in order: what lasts takes along
    /// all that came before.
    async fn set(&mut self, lasting: Lasting) -> Result<(), Lost> {
        if self.set == Some(lasting) {
            return Ok(());
        }
        self.set = None;
        let pragma = match lasting {
            Lasting::Always => "PRAGMA synchronous = FULL",
            Lasting::Boot => "PRAGMA synchronous = NORMAL",
        };
        // It is prepared anew each time: that is when it takes effect.
        let done = sqlx::query(pragma).persistent(false).execute(&mut self.connection).await;
        done.map_err(|error| Lost::new(&failed("say how long a commit lasts", &error)))?;
        self.set = Some(lasting);
        Ok(())
    }
}

/// Applies every job and commits; an error means that nothing is kept.
async fn transact(
    connection: &mut SqliteConnection,
    batch: &mut [Box<dyn Job>],
) -> Result<(), Lost> {
    let commit = |error: sqlx::Error| Lost::new(&failed("commit", &error));
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await.map_err(commit)?;
    if let [alone] = batch {
        if alone.apply(&mut *connection).await == Applied::Undo {
            // A full disk has rolled back already, and then this fails.
            drop(sqlx::query("ROLLBACK").execute(connection).await);
            return Ok(());
        }
        sqlx::query("COMMIT").execute(connection).await.map_err(commit)?;
        return Ok(());
    }
    for job in batch {
        sqlx::query("SAVEPOINT verb").execute(&mut *connection).await.map_err(commit)?;
        if job.apply(&mut *connection).await == Applied::Undo {
            let undone = sqlx::query("ROLLBACK TO verb").execute(&mut *connection).await;
            // The failure took the whole transaction along: nobody may be told success.
            undone.map_err(|error| job.failure().map_or_else(|| commit(error), Lost::new))?;
        }
        sqlx::query("RELEASE verb").execute(&mut *connection).await.map_err(commit)?;
    }
    sqlx::query("COMMIT").execute(connection).await.map_err(commit)?;
    Ok(())
}

// === impl Lost ===

impl Lost {
    fn new(error: &StoreError) -> Self {
        let detail = match error {
            StoreError::Unavailable { detail } | StoreError::Internal { detail } => detail.clone(),
            StoreError::NameTaken { .. }
            | StoreError::Conflict { .. }
            | StoreError::SnapshotConflict { .. }
            | StoreError::PoolConflict { .. }
            | StoreError::NotFound { .. }
            | StoreError::Exists { .. } => error.to_string(),
        };
        Self { class: error.class(), detail }
    }

    fn error(&self) -> StoreError {
        let detail = self.detail.clone();
        match self.class {
            ErrorClass::Internal => StoreError::Internal { detail },
            ErrorClass::Unavailable
            | ErrorClass::Invalid
            | ErrorClass::NotFound
            | ErrorClass::Conflict
            | ErrorClass::Denied
            | ErrorClass::Quota
            | ErrorClass::Cancelled => StoreError::Unavailable { detail },
        }
    }
}

// === impl Waiting ===

#[async_trait]
impl<V: Verb> Job for Waiting<V> {
    fn lasting(&self) -> Lasting {
        self.verb.lasting()
    }

    async fn apply(&mut self, connection: &mut SqliteConnection) -> Applied {
        let outcome = self.verb.apply(connection).await;
        let applied = if outcome.is_ok() { Applied::Keep } else { Applied::Undo };
        self.outcome = Some(outcome);
        applied
    }

    fn failure(&self) -> Option<&StoreError> {
        self.outcome.as_ref()?.as_ref().err()
    }

    fn answer(self: Box<Self>) {
        let outcome = self.outcome.expect("every job of a committed batch was applied");
        // A caller that went away no longer wants to know.
        drop(self.caller.send(outcome));
    }

    fn refuse(self: Box<Self>, error: StoreError) {
        drop(self.caller.send(Err(error)));
    }
}
