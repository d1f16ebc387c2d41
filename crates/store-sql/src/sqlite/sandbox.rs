//! Sandboxes: the record as JSON, and the columns that queries need.

use sqlx::{SqliteConnection, SqlitePool};
use tarn_store::{ListQuery, Order, Page, PageKey, StoreError, format, rule};
use tarn_types::{
    Lasting, ProjectId, SandboxId, SandboxName, SandboxRecord, SandboxStatus, UnixMillis,
};

use super::{
    error::{failed, is_duplicate},
    row::StoredRow,
    writer::Verb,
};

/// A row as it is written.
pub(super) struct Row {
    record: SandboxRecord,
    status: SandboxStatus,
    sequence: i64,
    text: String,
}

/// Adds a row.
pub(super) struct Insert(pub(super) Row);

/// Replaces a row.
pub(super) struct Update {
    pub(super) row: Row,
    pub(super) lasting: Lasting,
}

/// Removes rows of sandboxes that ended long ago.
pub(super) struct Purge {
    pub(super) before: UnixMillis,
    pub(super) limit: usize,
}

// === impl Row ===

impl Row {
    pub(super) fn new(record: &SandboxRecord, status: SandboxStatus) -> Result<Self, StoreError> {
        rule::check_record(record, status)?;
        let text = format::encode(record)?;
        // A sequence beyond that cannot follow any stored one.
        let sequence = i64::try_from(record.sequence)
            .map_err(|_huge| StoreError::Conflict { id: record.id.clone() })?;
        Ok(Self { record: record.clone(), status, sequence, text })
    }

    fn id(&self) -> &str {
        self.record.id.as_str()
    }

    fn name(&self) -> Option<&str> {
        self.record.asked.name.as_ref().map(SandboxName::as_str)
    }

    fn terminated_at(&self) -> Option<i64> {
        self.record.terminated_at.map(|at| at.0)
    }

    /// Finds out which unique thing a row has in common with another.
    async fn duplicate(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<StoreError, sqlx::Error> {
        let holder: Option<String> = sqlx::query_scalar(
            "SELECT id FROM sandbox
             WHERE project = ? AND name = ? AND terminated_at IS NULL AND id <> ?",
        )
        .bind(self.record.project.as_str())
        .bind(self.name())
        .bind(self.id())
        .fetch_optional(connection)
        .await?;
        let name = self.record.asked.name.clone();
        Ok(match (name, holder.map(|holder| holder.parse())) {
            (Some(name), Some(Ok(holder))) => StoreError::NameTaken { name, holder },
            (_, Some(Err(error))) => StoreError::Internal { detail: error.to_string() },
            (None, Some(Ok(_))) | (_, None) => StoreError::Exists { what: "sandbox" },
        })
    }
}

// === impl Insert ===

impl Verb for Insert {
    type Output = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let Self(row) = self;
        // An id that is taken counts before a name that is, so it is looked for first.
        let inserted = sqlx::query(
            "INSERT INTO sandbox (id, project, name, status, created_at, terminated_at,
                                  sequence, format_version, record, unclaimed)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        )
        .bind(row.id())
        .bind(row.record.project.as_str())
        .bind(row.name())
        .bind(row.status.as_str())
        .bind(row.record.created_at.0)
        .bind(row.terminated_at())
        .bind(row.sequence)
        .bind(i64::from(format::RECORD_FORMAT))
        .bind(&row.text)
        .bind(row.record.is_unclaimed())
        .execute(&mut *connection)
        .await;
        match inserted {
            Ok(done) if done.rows_affected() == 1 => Ok(()),
            Ok(_) => Err(StoreError::Exists { what: "sandbox" }),
            Err(error) if is_duplicate(&error) => {
                let duplicate = row.duplicate(connection).await;
                Err(duplicate.unwrap_or_else(|error| failed("look for a name", &error)))
            }
            Err(error) => Err(failed("insert a sandbox", &error)),
        }
    }
}

// === impl Update ===

impl Verb for Update {
    type Output = ();

    fn lasting(&self) -> Lasting {
        self.lasting
    }

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let Self { row, .. } = self;
        // Everything that `rule::check_change` demands is in the condition, so that the usual case
        // is one statement.
        let updated = sqlx::query(
            "UPDATE sandbox SET name = ?1, status = ?2, terminated_at = ?3, sequence = ?4,
                                format_version = ?5, record = ?6, created_at = ?9,
                                unclaimed = ?10
             WHERE id = ?7 AND sequence = ?4 - 1 AND project = ?8
               AND unclaimed >= ?10 AND (created_at = ?9 OR unclaimed > ?10)
               AND (terminated_at IS NULL OR ?3 IS NOT NULL)",
        )
        .bind(row.name())
        .bind(row.status.as_str())
        .bind(row.terminated_at())
        .bind(row.sequence)
        .bind(i64::from(format::RECORD_FORMAT))
        .bind(&row.text)
        .bind(row.id())
        .bind(row.record.project.as_str())
        .bind(row.record.created_at.0)
        .bind(row.record.is_unclaimed())
        .execute(&mut *connection)
        .await;
        match updated {
            Ok(done) if done.rows_affected() == 1 => Ok(()),
            Ok(_) => Err(self.refused(connection).await),
            Err(error) if is_duplicate(&error) => {
                let duplicate = row.duplicate(connection).await;
                Err(duplicate.unwrap_or_else(|error| failed("look for a name", &error)))
            }
            Err(error) => Err(failed("update a sandbox", &error)),
        }
    }
}

impl Update {
    /// Finds out why no row was changed.
    async fn refused(&self, connection: &mut SqliteConnection) -> StoreError {
        let Self { row, .. } = self;
        /// Project, creation, end, sequence, unclaimed.
        type Fixed = (String, i64, Option<i64>, i64, bool);
        let stored: Result<Option<Fixed>, _> = sqlx::query_as(
            "SELECT project, created_at, terminated_at, sequence, unclaimed FROM sandbox
             WHERE id = ?",
        )
        .bind(row.id())
        .fetch_optional(connection)
        .await;
        let (project, created_at, terminated_at, sequence, unclaimed) = match stored {
            Ok(Some(stored)) => stored,
            Ok(None) => return StoreError::NotFound { what: "sandbox" },
            Err(error) => return failed("read a sandbox", &error),
        };
        if row.sequence - 1 != sequence {
            return StoreError::Conflict { id: row.record.id.clone() };
        }
        let stored = rule::Stored {
            project: &project,
            created_at: UnixMillis(created_at),
            terminated_at: terminated_at.map(UnixMillis),
            unclaimed,
        };
        match rule::check_change(&stored, &row.record) {
            Err(error) => error,
            Ok(()) => StoreError::Internal {
                detail: format!("sandbox {} was not updated for no known reason", row.id()),
            },
        }
    }
}

// === impl Purge ===

impl Verb for Purge {
    type Output = usize;

    async fn apply(&self, connection: &mut SqliteConnection) -> Result<usize, StoreError> {
        let purged = sqlx::query(
            "DELETE FROM sandbox WHERE id IN (
                 SELECT id FROM sandbox WHERE terminated_at < ?
                 ORDER BY terminated_at, id LIMIT ?)",
        )
        .bind(self.before.0)
        .bind(limit(self.limit))
        .execute(connection)
        .await
        .map_err(|error| failed("purge sandboxes", &error))?;
        Ok(usize::try_from(purged.rows_affected()).unwrap_or(usize::MAX))
    }
}

/// Reads a sandbox.
pub(super) async fn fetch(
    readers: &SqlitePool,
    id: &SandboxId,
) -> Result<SandboxRecord, StoreError> {
    let stored = sqlx::query_as("SELECT id, format_version, record FROM sandbox WHERE id = ?")
        .bind(id.as_str());
    one(stored.fetch_optional(readers).await)
}

/// Reads the live sandbox of a name.
pub(super) async fn fetch_by_name(
    readers: &SqlitePool,
    project: &ProjectId,
    name: &SandboxName,
) -> Result<SandboxRecord, StoreError> {
    let stored = sqlx::query_as(
        "SELECT id, format_version, record FROM sandbox
         WHERE project = ? AND name = ? AND terminated_at IS NULL",
    )
    .bind(project.as_str())
    .bind(name.as_str());
    one(stored.fetch_optional(readers).await)
}

/// Reads every live sandbox, oldest first.
pub(super) async fn list_live(readers: &SqlitePool) -> Result<Vec<SandboxRecord>, StoreError> {
    let stored = sqlx::query_as(
        "SELECT id, format_version, record FROM sandbox
         WHERE terminated_at IS NULL ORDER BY created_at, id",
    );
    all(stored.fetch_all(readers).await)
}

/// Reads a page.
pub(super) async fn list(readers: &SqlitePool, query: &ListQuery) -> Result<Page, StoreError> {
    let error = |error: sqlx::Error| failed("list sandboxes", &error);
    // One snapshot for the page and for what lies beyond it.
    let mut snapshot = readers.begin().await.map_err(error)?;
    let beyond = match &query.from {
        Some(from) => exists_behind(&mut snapshot, query, from).await.map_err(error)?,
        None => false,
    };
    let mut items = all(page_rows(&mut snapshot, query).await)?;
    snapshot.commit().await.map_err(error)?;
    let more = items.len() > query.limit;
    items.truncate(query.limit);
    Ok(match query.order {
        Order::Forward => Page { items, has_newer: beyond, has_older: more },
        Order::Backward => {
            items.reverse();
            Page { items, has_newer: more, has_older: beyond }
        }
    })
}

/// Reads one row more than the page has, from its key outward.
async fn page_rows(
    connection: &mut SqliteConnection,
    query: &ListQuery,
) -> Result<Vec<StoredRow>, sqlx::Error> {
    let sql = match query.order {
        Order::Forward => {
            "SELECT id, format_version, record FROM sandbox
             WHERE project = ?1 AND unclaimed = 0 AND (created_at, id) < (?2, ?3)
               AND coalesce(terminated_at <= ?4, 0) = ?5 AND (?6 IS NULL OR status = ?6)
             ORDER BY created_at DESC, id DESC LIMIT ?7"
        }
        Order::Backward => {
            "SELECT id, format_version, record FROM sandbox
             WHERE project = ?1 AND unclaimed = 0 AND (created_at, id) > (?2, ?3)
               AND coalesce(terminated_at <= ?4, 0) = ?5 AND (?6 IS NULL OR status = ?6)
             ORDER BY created_at, id LIMIT ?7"
        }
    };
    let (created_at, id) = match (&query.from, query.order) {
        (Some(from), _) => (from.created_at.0, from.id.as_str()),
        // Before and after every place there is: ids are made of digits and letters.
        (None, Order::Forward) => (i64::MAX, "~"),
        (None, Order::Backward) => (i64::MIN, ""),
    };
    sqlx::query_as(sql)
        .bind(query.project.as_str())
        .bind(created_at)
        .bind(id)
        .bind(query.archived_before.0)
        .bind(query.archived)
        .bind(query.status.map(SandboxStatus::as_str))
        .bind(limit(query.limit.saturating_add(1)))
        .fetch_all(connection)
        .await
}

/// Says whether anything lies on the other side of a page's key, the key itself included.
async fn exists_behind(
    connection: &mut SqliteConnection,
    query: &ListQuery,
    from: &PageKey,
) -> Result<bool, sqlx::Error> {
    let sql = match query.order {
        Order::Forward => {
            "SELECT EXISTS (SELECT 1 FROM sandbox
             WHERE project = ?1 AND unclaimed = 0 AND (created_at, id) >= (?2, ?3)
               AND coalesce(terminated_at <= ?4, 0) = ?5 AND (?6 IS NULL OR status = ?6))"
        }
        Order::Backward => {
            "SELECT EXISTS (SELECT 1 FROM sandbox
             WHERE project = ?1 AND unclaimed = 0 AND (created_at, id) <= (?2, ?3)
               AND coalesce(terminated_at <= ?4, 0) = ?5 AND (?6 IS NULL OR status = ?6))"
        }
    };
    sqlx::query_scalar(sql)
        .bind(query.project.as_str())
        .bind(from.created_at.0)
        .bind(from.id.as_str())
        .bind(query.archived_before.0)
        .bind(query.archived)
        .bind(query.status.map(SandboxStatus::as_str))
        .fetch_one(connection)
        .await
}

fn one(read: Result<Option<StoredRow>, sqlx::Error>) -> Result<SandboxRecord, StoreError> {
    let read = read.map_err(|error| failed("read a sandbox", &error))?;
    read.ok_or(StoreError::NotFound { what: "sandbox" })?.read(format::decode)
}

fn all(read: Result<Vec<StoredRow>, sqlx::Error>) -> Result<Vec<SandboxRecord>, StoreError> {
    let read = read.map_err(|error| failed("list sandboxes", &error))?;
    read.into_iter().map(|row| row.read(format::decode)).collect()
}

fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
