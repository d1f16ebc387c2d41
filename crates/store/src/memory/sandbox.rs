//! Sandboxes: their rows, and the pages of their lists.

use tarn_types::{ProjectId, SandboxId, SandboxName, SandboxRecord, SandboxStatus, UnixMillis};

use super::Tables;
use crate::{ListQuery, Order, Page, PageKey, StoreError, format, rule};

/// A sandbox as its bytes, and what is looked up without reading them.
#[derive(Debug)]
pub(super) struct Row {
    id: SandboxId,
    project: ProjectId,
    name: Option<SandboxName>,
    status: SandboxStatus,
    created_at: UnixMillis,
    terminated_at: Option<UnixMillis>,
    sequence: u64,
    unclaimed: bool,
    bytes: String,
}

// === impl Tables ===

impl Tables {
    pub(super) fn sandbox(&self, id: &SandboxId) -> Result<&Row, StoreError> {
        self.sandboxes.get(id).ok_or(StoreError::NotFound { what: "sandbox" })
    }

    pub(super) fn sandbox_insert(&mut self, row: Row) -> Result<(), StoreError> {
        if self.sandboxes.contains_key(&row.id) {
            return Err(StoreError::Exists { what: "sandbox" });
        }
        self.check_name(&row)?;
        self.sandboxes.insert(row.id.clone(), row);
        Ok(())
    }

    pub(super) fn sandbox_update(
        &mut self,
        record: &SandboxRecord,
        row: Row,
    ) -> Result<(), StoreError> {
        let stored = self.sandbox(&row.id)?;
        if record.sequence.checked_sub(1) != Some(stored.sequence) {
            return Err(StoreError::Conflict { id: row.id });
        }
        rule::check_change(&stored.fixed(), record)?;
        self.check_name(&row)?;
        self.sandboxes.insert(row.id.clone(), row);
        Ok(())
    }

    pub(super) fn sandbox_fetch_by_name(
        &self,
        project: &ProjectId,
        name: &SandboxName,
    ) -> Result<SandboxRecord, StoreError> {
        let holder = self.sandboxes.values().find(|row| row.holds(project, name));
        holder.ok_or(StoreError::NotFound { what: "sandbox" })?.record()
    }

    pub(super) fn sandbox_list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let mut rows: Vec<_> = self.sandboxes.values().filter(|row| row.matches(query)).collect();
        rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.key()));
        let (start, end) = bounds(&rows, query);
        let items = rows[start..end].iter().map(|row| row.record()).collect::<Result<_, _>>()?;
        Ok(Page { items, has_newer: start > 0, has_older: end < rows.len() })
    }

    pub(super) fn sandbox_list_live(&self) -> Result<Vec<SandboxRecord>, StoreError> {
        let mut rows: Vec<_> =
            self.sandboxes.values().filter(|row| row.terminated_at.is_none()).collect();
        rows.sort_unstable_by_key(|row| row.key());
        rows.into_iter().map(Row::record).collect()
    }

    pub(super) fn sandbox_purge(&mut self, before: UnixMillis, limit: usize) -> usize {
        let mut ended: Vec<_> = self
            .sandboxes
            .values()
            .filter_map(|row| Some((row.terminated_at?, row.id.clone())))
            .filter(|(at, _)| *at < before)
            .collect();
        ended.sort_unstable();
        ended.truncate(limit);
        for (_, id) in &ended {
            self.sandboxes.remove(id);
        }
        ended.len()
    }

    /// Refuses a live row whose name another live row of the project has.
    fn check_name(&self, row: &Row) -> Result<(), StoreError> {
        let (Some(name), None) = (&row.name, row.terminated_at) else { return Ok(()) };
        let mut others = self.sandboxes.values().filter(|other| other.id != row.id);
        match others.find(|other| other.holds(&row.project, name)) {
            Some(other) => {
                Err(StoreError::NameTaken { name: name.clone(), holder: other.id.clone() })
            }
            None => Ok(()),
        }
    }
}

// === impl Row ===

impl Row {
    pub(super) fn new(record: &SandboxRecord, status: SandboxStatus) -> Result<Self, StoreError> {
        rule::check_record(record, status)?;
        Ok(Self {
            id: record.id.clone(),
            project: record.project.clone(),
            name: record.asked.name.clone(),
            status,
            created_at: record.created_at,
            terminated_at: record.terminated_at,
            sequence: record.sequence,
            unclaimed: record.is_unclaimed(),
            bytes: format::encode(record)?,
        })
    }

    pub(super) fn record(&self) -> Result<SandboxRecord, StoreError> {
        format::decode(format::RECORD_FORMAT, self.id.as_str(), &self.bytes)
    }

    fn key(&self) -> (UnixMillis, &SandboxId) {
        (self.created_at, &self.id)
    }

    fn fixed(&self) -> rule::Stored<'_> {
        rule::Stored {
            project: self.project.as_str(),
            created_at: self.created_at,
            terminated_at: self.terminated_at,
            unclaimed: self.unclaimed,
        }
    }

    fn holds(&self, project: &ProjectId, name: &SandboxName) -> bool {
        self.terminated_at.is_none() && self.project == *project && self.name.as_ref() == Some(name)
    }

    fn matches(&self, query: &ListQuery) -> bool {
        let archived = self.terminated_at.is_some_and(|at| at <= query.archived_before);
        !self.unclaimed
            && self.project == query.project
            && archived == query.archived
            && query.status.is_none_or(|status| status == self.status)
    }
}

/// Returns which of the rows, newest first, a page holds.
fn bounds(rows: &[&Row], query: &ListQuery) -> (usize, usize) {
    let from = query.from.as_ref().map(|PageKey { created_at, id }| (*created_at, id));
    match query.order {
        Order::Forward => {
            let start = from.map_or(0, |from| rows.partition_point(|row| row.key() >= from));
            (start, start.saturating_add(query.limit).min(rows.len()))
        }
        Order::Backward => {
            let end = from.map_or(rows.len(), |from| rows.partition_point(|row| row.key() > from));
            (end.saturating_sub(query.limit), end)
        }
    }
}
