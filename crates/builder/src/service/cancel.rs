//! Builds that nobody wants any more, and the wait for an end.

use std::time::Duration;

use tarn_types::{BuildId, BuildRecord, BuildStatus, ProjectId};

use super::{Builder, BuilderError};

/// How long a cancel waits for the build to stop.
const CANCEL_WAIT: Duration = Duration::from_secs(30);

/// What became of a wish to cancel a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancel {
    /// It is cancelled now.
    Cancelled(BuildRecord),
    /// It was before.
    AlreadyCancelled(BuildRecord),
    /// Its image is registered.
    AlreadyCompleted(BuildRecord),
    /// It failed.
    AlreadyFailed(BuildRecord),
    /// There is none of that request.
    NotAdmitted,
}

// === impl Builder ===

impl Builder {
    /// Cancels a build, and waits until nothing of it goes on.
    ///
    /// # Errors
    /// Fails when the project has none of that id.
    pub async fn cancel(&self, project: &ProjectId, id: &str) -> Result<Cancel, BuilderError> {
        let record = self.fetch(project, id)?.record;
        self.stop(record).await
    }

    /// Cancels the build of a request.
    ///
    /// # Errors
    /// Fails only when the store does.
    pub async fn cancel_request(
        &self,
        project: &ProjectId,
        request: &str,
    ) -> Result<Cancel, BuilderError> {
        let known = {
            // One that is just being admitted has its turn first.
            let _turn = self.0.turn.lock().await;
            self.find_request(project, request)
        };
        match known {
            Some(record) => self.stop(record).await,
            None => Ok(Cancel::NotAdmitted),
        }
    }

    async fn stop(&self, record: BuildRecord) -> Result<Cancel, BuilderError> {
        let id = record.id.clone();
        match record.status {
            BuildStatus::Succeeded => return Ok(Cancel::AlreadyCompleted(record)),
            BuildStatus::Failed => return Ok(Cancel::AlreadyFailed(record)),
            BuildStatus::Cancelled => return Ok(Cancel::AlreadyCancelled(record)),
            BuildStatus::Pending => {
                self.give_up(&id).await?;
                // It may have been sealed before that had its turn.
                self.interrupt(&id);
            }
            BuildStatus::Running => self.interrupt(&id),
        }
        match tokio::time::timeout(CANCEL_WAIT, self.ended(&id)).await {
            Ok(Some(record)) if record.status == BuildStatus::Succeeded => {
                Ok(Cancel::AlreadyCompleted(record))
            }
            Ok(Some(record)) if record.status == BuildStatus::Failed => {
                Ok(Cancel::AlreadyFailed(record))
            }
            Ok(Some(record)) => Ok(Cancel::Cancelled(record)),
            Ok(None) => Err(BuilderError::NotFound(id.to_string())),
            Err(_elapsed) => {
                Err(BuilderError::Unavailable("the build does not stop yet".to_owned()))
            }
        }
    }

    /// Waits until a build has ended; `None` = it was forgotten meanwhile.
    pub(super) async fn ended(&self, id: &BuildId) -> Option<BuildRecord> {
        let mut changes = self.0.changes.subscribe();
        loop {
            changes.mark_unchanged();
            match self.record(id) {
                Some(record) if !record.status.is_terminal() => {}
                Some(record) => return Some(record),
                None => return None,
            }
            // The sender is ours.
            drop(changes.changed().await);
        }
    }

    /// Tells the run of a build that nobody wants it any more; if there is none, nothing happens.
    fn interrupt(&self, id: &BuildId) {
        if let Some(entry) = self.0.builds.lock().get(id) {
            entry.cancel.send_replace(true);
        }
    }

    /// Ends a build that still awaits its context.
    pub(super) async fn give_up(&self, id: &BuildId) -> Result<(), BuilderError> {
        let _turn = self.0.turn.lock().await;
        let awaits = self.record(id).is_some_and(|now| now.status == BuildStatus::Pending);
        if awaits {
            self.end(id, BuildStatus::Cancelled, None).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Site, settle},
        *,
    };

    #[tokio::test]
    async fn a_cancel_by_its_key_meets_a_build_that_is_being_admitted() {
        let site = Site::start(0).await;
        let (project, ask) = Site::ask("a", Some("key"));
        let turn = site.builder.0.turn.lock().await;
        let (created, cancelled, ()) = tokio::join!(
            biased;
            site.builder.create(&project, ask),
            async {
                settle().await;
                site.builder.cancel_request(&project, "key").await
            },
            async {
                settle().await;
                settle().await;
                drop(turn);
            },
        );
        let build = created.expect("it is accepted").record;
        assert!(
            matches!(&cancelled, Ok(Cancel::Cancelled(record)) if record.id == build.id),
            "{cancelled:?}"
        );
        let none = site.builder.cancel_request(&project, "other").await;
        assert!(matches!(none, Ok(Cancel::NotAdmitted)), "{none:?}");
    }
}
