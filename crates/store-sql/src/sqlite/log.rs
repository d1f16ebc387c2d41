//! Persisted output in an SQLite file of its own.
//!
//! It shares the writer's design with the store beside it and nothing else: not its file, not its
//! queue, and not its promise. `synchronous=NORMAL` means that a commit asks no disk: it survives
//! the death of the server, not that of the host, where the sandboxes die too. So a flood of lines
//! never makes the create of a sandbox wait for an fsync.
//!
//! A batch is one row. A row a line would cost some thirty times the writing, and every removal is
//! of whole batches anyway; what a reader filters it must look at in either case.

mod append;
mod chunk;
mod cut;
mod read;

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt as _, path::Path, time::Duration};

use async_trait::async_trait;
use sqlx::{
    ConnectOptions as _, SqlitePool,
    sqlite::{
        SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions,
        SqliteSynchronous,
    },
};
use tarn_store::{
    StoreError,
    log::{LogAppended, LogLimits, LogPage, LogProcessRecord, LogQuery, LogStore},
};
use tarn_task::Tasks;
use tarn_types::{LogBatch, ProjectId, SandboxId, UnixMillis};

use super::{
    SqliteOpenError, WriteCounts,
    schema::{self, LOG},
    writer::Writer,
};

/// Connections for reading; each reads one batch at a time.
const READERS: u32 = 2;

/// How long somebody else may hold the file before a verb fails.
const BUSY: Duration = Duration::from_secs(5);

/// How long a read waits for a free connection.
const ACQUIRE: Duration = Duration::from_secs(10);

/// To what the write-ahead log is cut after a flood.
const WAL_LIMIT: &str = "16777216";

/// Keeps the output of processes in one SQLite file.
#[derive(Debug)]
pub struct SqliteLogStore {
    readers: SqlitePool,
    writer: Writer,
    limits: LogLimits,
}

// === impl SqliteLogStore ===

impl SqliteLogStore {
    /// Opens a file, making it readable by its owner alone if it is not there.
    ///
    /// The writer is a task of `tasks`, as that of [`SqliteStore`](super::SqliteStore) is.
    ///
    /// # Errors
    /// Says why the file cannot be used. A file that was there is unchanged then.
    pub async fn open(
        path: &Path,
        limits: LogLimits,
        tasks: &Tasks,
    ) -> Result<Self, SqliteOpenError> {
        let open = |source| SqliteOpenError::Open { path: path.to_owned(), source };
        // What processes print may be secret; SQLite gives its other files the mode of this one.
        make_private(path).map_err(|error| open(sqlx::Error::Io(error)))?;
        let options = options(path);
        let mut connection = options.connect().await.map_err(open)?;
        schema::migrate(&mut connection, path, &LOG).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options.create_if_missing(false).pragma("query_only", "on"));
        Ok(Self { readers, writer: Writer::spawn(connection, tasks), limits })
    }

    /// Returns how many verbs were written, and in how many commits.
    #[must_use]
    pub fn write_counts(&self) -> WriteCounts {
        self.writer.counts()
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .pragma("journal_size_limit", WAL_LIMIT)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .disable_statement_logging()
}

#[async_trait]
impl LogStore for SqliteLogStore {
    async fn log_append(
        &self,
        batch: &LogBatch,
        at: UnixMillis,
    ) -> Result<LogAppended, StoreError> {
        // The writer is one for all, so the encoding is done before.
        self.writer.write(append::Append::new(batch, at, self.limits)?).await
    }

    async fn log_read(&self, query: &LogQuery) -> Result<LogPage, StoreError> {
        read::page(&self.readers, query).await
    }

    async fn log_process_list(
        &self,
        sandbox: &SandboxId,
    ) -> Result<Vec<LogProcessRecord>, StoreError> {
        read::processes(&self.readers, sandbox).await
    }

    async fn log_owner(&self, sandbox: &SandboxId) -> Result<ProjectId, StoreError> {
        read::owner(&self.readers, sandbox).await
    }

    async fn log_expire(&self, before: UnixMillis, limit: usize) -> Result<usize, StoreError> {
        self.writer.write(cut::Expire { before, limit }).await
    }
}
