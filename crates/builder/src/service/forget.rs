//! What is forgotten of builds, and when.
//!
//! An ended build is kept for a while, so that whoever asked for it learns what became of it. The
//! one that led to an image is kept as long as that is the image of its name.

use tarn_control::ImageKey;
use tarn_types::{BuildId, BuildRecord, BuildStatus, ProjectId, UnixMillis};

use super::{Builder, BuilderError};

/// How long an ended build is kept that is no image's, in seconds.
const KEEP_ENDED_SECS: u64 = 7 * 24 * 3600;

/// How many ended builds of a project are kept, whatever became of their images.
const MOST_ENDED: usize = 1000;

/// An ended build: whose it is, and when it last changed.
type Ended = (ProjectId, UnixMillis, BuildId);

// === impl Builder ===

impl Builder {
    /// Forgets what ended long ago, and the oldest where a project has too many.
    pub(super) async fn forget_old(&self) -> Result<(), BuilderError> {
        let now = self.0.clock.now();
        let mut old = self.records(|record| {
            is_over(record) && record.updated_at.plus_secs(KEEP_ENDED_SECS) <= now
        });
        old.retain(|record| !self.is_image(record));
        let mut forgotten: Vec<BuildId> = old.into_iter().map(|record| record.id).collect();
        let ended: Vec<Ended> = {
            let builds = self.0.builds.lock();
            let records = builds.values().map(|entry| &entry.record);
            let over = records.filter(|record| is_over(record) && !forgotten.contains(&record.id));
            over.map(|it| (it.project.clone(), it.updated_at, it.id.clone())).collect()
        };
        forgotten.extend(surplus(ended, MOST_ENDED));
        for id in forgotten {
            let _turn = self.0.turn.lock().await;
            self.forget(&id).await?;
        }
        Ok(())
    }

    /// Says whether the image that a build led to is still the one of its name.
    fn is_image(&self, record: &BuildRecord) -> bool {
        let Some(image) = &record.image else { return false };
        let key = ImageKey::Id(image.id.clone());
        let now = self.0.control.image_fetch(&record.project, &key);
        record.status == BuildStatus::Succeeded
            && now.is_ok_and(|now| now.snapshot == image.snapshot)
    }
}

/// Says whether nothing of a build is left but its record.
fn is_over(record: &BuildRecord) -> bool {
    record.status.is_terminal() && record.sandboxes.is_empty()
}

/// Returns the oldest of each project that are more than it may have.
fn surplus(mut ended: Vec<Ended>, most: usize) -> Vec<BuildId> {
    ended.sort_by(|(project, at, _), (other, then, _)| project.cmp(other).then(then.cmp(at)));
    let projects = ended.chunk_by(|one, other| one.0 == other.0);
    projects.flat_map(|of_one| of_one.iter().skip(most)).map(|(.., id)| id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Site, *};

    const DAY_MILLIS: i64 = 24 * 3600 * 1000;

    #[tokio::test(start_paused = true)]
    async fn ended_builds_are_kept_for_a_week() {
        let site = Site::start(0).await;
        let (failed, done) = (site.build("a").await, site.build("b").await);
        for (build, status) in [(&failed, BuildStatus::Failed), (&done, BuildStatus::Succeeded)] {
            site.builder.end(&build.id, status, None).await.expect("it is stored");
        }
        let going = site.build("c").await;
        let kept = || site.builder.records(|_all| true).len();
        site.clock.advance_millis(7 * DAY_MILLIS - 1);
        site.builder.forget_old().await.expect("the store is there");
        assert_eq!(kept(), 3);
        site.clock.advance_millis(1);
        site.builder.forget_old().await.expect("the store is there");
        // The image of the one that succeeded is gone.
        assert_eq!(kept(), 1);
        assert!(site.builder.record(&going.id).is_some(), "it has not ended");
    }

    #[test]
    fn the_oldest_of_too_many_go_first() {
        let build = |number: u8| BuildId::from_random([number; 16]);
        let project = |number: u8| ProjectId::from_random([number; 16]);
        let ended = |whose, at, number| (project(whose), UnixMillis(at), build(number));
        let all = vec![ended(1, 3, 1), ended(1, 1, 2), ended(2, 1, 3), ended(1, 2, 4)];
        assert_eq!(surplus(all.clone(), 2), [build(2)]);
        assert_eq!(surplus(all.clone(), 1), [build(4), build(2)]);
        assert_eq!(surplus(all, 3), []);
    }
}
