//! Projects, and what each may have: sandboxes at a time, and how much that stays until somebody
//! deletes it.

use std::collections::HashMap;

use parking_lot::RwLock;
use tarn_store::{ProjectRecord, QuotaRecord};
use tarn_types::ProjectId;
use tokio::sync::MutexGuard;

use crate::{Control, ControlError, ProjectView, table::Place};

/// What projects may have.
#[derive(Debug)]
pub(crate) struct Quotas {
    /// How many sandboxes that are not suspended; 0 = without limit.
    default: u32,
    /// Where that is another number.
    own: RwLock<HashMap<ProjectId, u32>>,
    /// Held while what a project keeps is counted and more of it is stored: of requests at one time
    /// as many pass as there may be.
    turn: tokio::sync::Mutex<()>,
}

// === impl Quotas ===

impl Quotas {
    pub(crate) fn new(default: u32, own: Vec<QuotaRecord>) -> Self {
        let own = own.into_iter().map(|quota| (quota.project, quota.sandboxes)).collect();
        Self { default, own: RwLock::new(own), turn: tokio::sync::Mutex::default() }
    }

    /// Returns how many sandboxes a project may have; 0 = any number.
    pub(crate) fn most(&self, project: &ProjectId) -> u32 {
        self.own.read().get(project).copied().unwrap_or(self.default)
    }

    /// Waits for the turn to count what a project keeps, and to store more of it.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

// === impl Control ===

impl Control {
    /// Returns a project.
    ///
    /// # Errors
    /// Fails when there is none of that id.
    pub async fn project_fetch(&self, id: &ProjectId) -> Result<ProjectRecord, ControlError> {
        Ok(self.0.parts.store.project_fetch(id).await?)
    }

    /// Returns every project with what it may have and what it has, oldest first.
    ///
    /// # Errors
    /// Fails only when the store does.
    pub async fn project_list(&self) -> Result<Vec<ProjectView>, ControlError> {
        let records = self.0.parts.store.project_list().await?;
        Ok(records.into_iter().map(|record| self.project_view(record)).collect())
    }

    /// Sets how many sandboxes a project may have that are not suspended: 0 = any number, `None` =
    /// the server's default. It counts from when this returns; what is there stays.
    ///
    /// # Errors
    /// Fails when there is no project of that id or name.
    pub async fn quota_set(
        &self,
        project: &str,
        sandboxes: Option<u32>,
    ) -> Result<ProjectView, ControlError> {
        let records = self.0.parts.store.project_list().await?;
        let named =
            |record: &ProjectRecord| record.id.as_str() == project || record.name == project;
        let record = records
            .into_iter()
            .find(named)
            .ok_or(ControlError::NotFound("project; `tarn project list` shows those there are"))?;
        let (control, id) = (self.clone(), record.id.clone());
        self.finish("quota_set", async move { control.put_quota(&id, sandboxes).await }).await?;
        Ok(self.project_view(record))
    }

    async fn put_quota(
        &self,
        project: &ProjectId,
        sandboxes: Option<u32>,
    ) -> Result<(), ControlError> {
        self.0.parts.store.quota_set(project, sandboxes).await?;
        {
            let mut own = self.0.quotas.own.write();
            match sandboxes {
                Some(sandboxes) => own.insert(project.clone(), sandboxes),
                None => own.remove(project),
            };
        }
        tracing::info!(project.id = %project, sandboxes, "quota set");
        // Somebody may be waiting for that.
        self.0.placement.notify_one();
        self.0.pools.ring();
        Ok(())
    }

    /// Takes places in a project's quota, all or none. What does not become a sandbox gives its
    /// place back.
    ///
    /// # Errors
    /// Fails when the quota leaves less.
    pub(crate) fn promise(
        &self,
        project: &ProjectId,
        places: u32,
    ) -> Result<Vec<Place>, ControlError> {
        let most = self.0.quotas.most(project);
        self.0.table.promise(project, places, most).map_err(|taken| ControlError::QuotaExceeded {
            taken,
            asked: places,
            most,
        })
    }

    /// Says whether a pool of a project may start one more container that nobody has claimed.
    pub(crate) fn has_room_in_store(&self, project: &ProjectId) -> bool {
        self.0.table.usage(project).has_room_in_store(self.0.quotas.most(project))
    }

    fn project_view(&self, record: ProjectRecord) -> ProjectView {
        let is_default = !self.0.quotas.own.read().contains_key(&record.id);
        ProjectView {
            sandboxes: self.0.table.usage(&record.id).counted,
            quota: self.0.quotas.most(&record.id),
            is_default,
            record,
        }
    }
}

/// Refuses what would give a project more of something than `most` of it; 0 = any number. `what`
/// is its name, and the key that says how many. What takes the place of another is nothing new.
///
/// # Errors
/// Says how many there are, and how many there may be.
pub(crate) fn check_count(
    (what, key): (&'static str, &'static str),
    there: usize,
    new: usize,
    most: u32,
) -> Result<(), ControlError> {
    if most > 0 && new > 0 && there.saturating_add(new) > most as usize {
        return Err(ControlError::TooMany { what, key, there, most });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_gets_no_more_than_it_may_have() {
        for (there, new, most, passes) in [
            (0, 1, 1, true),
            (1, 1, 1, false),
            (998, 2, 1000, true),
            (999, 2, 1000, false),
            (0, 2, 1, false),
            // What is there may change, and stays when the limit is lowered.
            (1000, 0, 1000, true),
            (1000, 0, 10, true),
            (1000, 1, 10, false),
            (1_000_000, 1, 0, true),
            (usize::MAX, 1, u32::MAX, false),
        ] {
            let checked = check_count(("pools", "quota.pools"), there, new, most);
            assert_eq!(checked.is_ok(), passes, "{there} and {new} of {most}");
        }
        let refused = check_count(("pools", "quota.pools"), 3, 1, 3).expect_err("too many");
        let text = refused.to_string();
        assert!(
            text.starts_with("the project may have 3 pools (`quota.pools`), and has 3"),
            "{text}"
        );
    }
}
