//! The records of builds: what changes is stored first, then seen.

use tarn_types::{BuildId, BuildPhase, BuildRecord, BuildStatus, ProjectId, SandboxId};

use super::{Builder, BuilderError};
use crate::workshop::StepError;

/// How long an ended build is kept whatever is built after it, for who asks once more how it ended,
/// in seconds.
const KEEP_REPLACED_SECS: u64 = 10 * 60;

// === impl Builder ===

impl Builder {
    /// Notes a sandbox that a build began, so that it is ended whatever happens.
    pub(crate) async fn note_sandbox(
        &self,
        build: &BuildId,
        sandbox: &SandboxId,
    ) -> Result<(), StepError> {
        let _turn = self.0.turn.lock().await;
        let over = self.record(build).is_none_or(|record| record.status.is_terminal());
        let noted = match over {
            true => Err(BuilderError::NotFound(build.to_string())),
            false => self.change(build, |now| now.sandboxes.push(sandbox.clone())).await,
        };
        if let Err(failed) = noted {
            self.0.control.build_sandbox_delete(sandbox).await;
            return Err(StepError::Internal(failed.to_string()));
        }
        Ok(())
    }

    /// Changes a record: stored first, then seen. The turn must be held.
    pub(super) async fn change(
        &self,
        id: &BuildId,
        change: impl FnOnce(&mut BuildRecord),
    ) -> Result<BuildRecord, BuilderError> {
        let Some(mut record) = self.record(id) else {
            return Err(BuilderError::NotFound(id.to_string()));
        };
        change(&mut record);
        record.updated_at = self.0.clock.now();
        self.0.control.build_put(&record).await?;
        if let Some(entry) = self.0.builds.lock().get_mut(id) {
            entry.record = record.clone();
        }
        self.0.changes.send_modify(|changes| *changes += 1);
        Ok(record)
    }

    /// Ends a build, and forgets those of the same name that ended a while ago. One whose image is
    /// registered has succeeded, whatever came after that. The turn must be held, or nobody else be
    /// there yet.
    pub(super) async fn end(
        &self,
        id: &BuildId,
        status: BuildStatus,
        error: Option<String>,
    ) -> Result<(), BuilderError> {
        let record = self
            .change(id, |record| {
                let is_registered = record.image.is_some();
                record.status = if is_registered { BuildStatus::Succeeded } else { status };
                record.phase = BuildPhase::Finished;
                record.error = error.filter(|_| !is_registered);
                record.upload_token = None;
                record.log_sandbox = None;
            })
            .await?;
        let status = record.status;
        tracing::info!(
            build.id = %id, project.id = %record.project, image = %record.name,
            status = status.as_str(), "build ended"
        );
        if let Some(entry) = self.0.builds.lock().get_mut(id) {
            (entry.built, entry.legacy, entry.uploaded) = (None, None, None);
        }
        self.remove_context(id).await;
        let older = self.records(|other| {
            other.id != record.id
                && other.project == record.project
                && other.name == record.name
                && other.status.is_terminal()
                && other.sandboxes.is_empty()
                && other.updated_at.plus_secs(KEEP_REPLACED_SECS) <= record.updated_at
                // A build that failed leaves the image, and the build that made it.
                && (status == BuildStatus::Succeeded || other.status != BuildStatus::Succeeded)
        });
        for other in older {
            self.forget(&other.id).await?;
        }
        Ok(())
    }

    pub(super) async fn forget(&self, id: &BuildId) -> Result<(), BuilderError> {
        self.0.control.build_delete(id).await?;
        self.0.builds.lock().remove(id);
        Ok(())
    }

    /// Ends the sandboxes of a build.
    pub(super) async fn clear_sandboxes(&self, id: &BuildId) -> Result<(), BuilderError> {
        self.clear_sandboxes_but(id, None).await
    }

    pub(super) fn record(&self, id: &BuildId) -> Option<BuildRecord> {
        self.0.builds.lock().get(id).map(|entry| entry.record.clone())
    }

    pub(super) fn records(&self, wanted: impl Fn(&BuildRecord) -> bool) -> Vec<BuildRecord> {
        let builds = self.0.builds.lock();
        builds
            .values()
            .map(|entry| &entry.record)
            .filter(|record| wanted(record))
            .cloned()
            .collect()
    }

    pub(super) fn find_request(&self, project: &ProjectId, request: &str) -> Option<BuildRecord> {
        let same = |record: &BuildRecord| {
            record.project == *project && record.request_id.as_deref() == Some(request)
        };
        self.records(same).pop()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Site, *};

    #[tokio::test]
    async fn who_asks_once_more_learns_how_a_build_ended_before_it_is_replaced() {
        let site = Site::start(0).await;
        let end = async |status: BuildStatus| {
            let build = site.build("a").await;
            site.builder.end(&build.id, status, None).await.expect("it is stored");
            build.id
        };
        let made = end(BuildStatus::Succeeded).await;
        let failed = end(BuildStatus::Failed).await;
        let again = end(BuildStatus::Succeeded).await;
        let kept = |id: &BuildId| site.builder.record(id).is_some();
        assert!(kept(&made) && kept(&failed) && kept(&again));
        let pause = i64::try_from(KEEP_REPLACED_SECS * 1000).expect("some minutes");
        site.clock.advance_millis(pause - 1);
        end(BuildStatus::Failed).await;
        assert!(kept(&made) && kept(&failed) && kept(&again));
        site.clock.advance_millis(1);
        let last = end(BuildStatus::Failed).await;
        assert!(kept(&made) && !kept(&failed) && kept(&again), "a failed one leaves the image's");
        end(BuildStatus::Succeeded).await;
        assert!(!kept(&made) && !kept(&again) && kept(&last));
    }
}
