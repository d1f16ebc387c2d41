//! What an earlier run left of builds: none outlives the server.
//!
//! Contexts, credentials and pinned images are gone with that run, and so is whoever built, so a
//! build that had not ended has failed. Only one that had given its image the name has succeeded,
//! even if the run died before it could note that.

use tarn_control::ImageKey;
use tarn_types::{BuildPhase, BuildRecord, BuildStatus, ImageRecord};

use super::{Builder, BuilderError};

const RESTARTED: &str = "the server was restarted while the image was built; build it again";

// === impl Builder ===

impl Builder {
    /// Ends the builds that an earlier run left, and their sandboxes. Nobody else may be there yet.
    pub(super) async fn end_lost(&self) -> Result<(), BuilderError> {
        for record in self.records(|record| !record.status.is_terminal()) {
            if let Some(image) = self.unnoted(&record) {
                self.change(&record.id, |now| now.image = Some(image)).await?;
            }
            self.end(&record.id, BuildStatus::Failed, Some(RESTARTED.to_owned())).await?;
        }
        // A death between the end of a build and the end of its sandboxes.
        for record in self.records(|record| !record.sandboxes.is_empty()) {
            self.clear_sandboxes(&record.id).await?;
        }
        Ok(())
    }

    /// Returns the image of a build that was registered and not noted.
    fn unnoted(&self, record: &BuildRecord) -> Option<ImageRecord> {
        if record.image.is_some() {
            return None;
        }
        let key = ImageKey::Name(record.name.clone());
        let image = self.0.control.image_fetch(&record.project, &key).ok()?;
        // The text of the Dockerfile is kept with the image alone.
        made_by(record, &image).then_some(ImageRecord { dockerfile: None, ..image })
    }
}

/// Says whether an image was certainly made by a build: its files are those of a sandbox that the
/// build began. Of a build all of whose steps were kept it cannot be told.
fn made_by(record: &BuildRecord, image: &ImageRecord) -> bool {
    record.phase == BuildPhase::Publishing
        && image.global == record.global
        && record.sandboxes.contains(&image.sandbox)
}

#[cfg(test)]
mod tests {
    use tarn_types::{ByteSize, ImageFamily, ImageId, SandboxId, SnapshotId};

    use super::{super::testing::Site, *};

    fn sandbox(number: u8) -> SandboxId {
        SandboxId::from_random([number; 21])
    }

    fn image(record: &BuildRecord, from: u8) -> ImageRecord {
        ImageRecord {
            id: ImageId::from_random([1; 16]),
            project: record.project.clone(),
            global: record.global,
            name: record.name.clone(),
            family: ImageFamily::Cas,
            snapshot: SnapshotId::from_random([1; 16]),
            sandbox: sandbox(from),
            config: None,
            dockerfile: None,
            size: ByteSize::from_mib(1),
            disk: ByteSize::from_mib(1),
            created_at: record.created_at,
            updated_at: record.created_at,
        }
    }

    #[tokio::test]
    async fn no_build_outlives_the_server_but_one_whose_image_is_registered() {
        let site = Site::start(0).await;
        let (pending, running, done) =
            (site.build("a").await, site.build("b").await, site.build("c").await);
        for build in [&running, &done] {
            let started = site.builder.change(&build.id, |now| now.status = BuildStatus::Running);
            started.await.expect("it is stored");
        }
        let registered = image(&done, 1);
        let noted = site.builder.change(&done.id, |now| now.image = Some(registered.clone()));
        noted.await.expect("it is stored");
        let next = site.restart().await;
        for build in [&pending, &running] {
            let now = next.record(&build.id).expect("it is kept");
            assert_eq!((now.status, now.upload_token), (BuildStatus::Failed, None));
            assert_eq!(now.error.as_deref(), Some(RESTARTED));
        }
        let now = next.record(&done.id).expect("it is kept");
        assert_eq!((now.status, now.error), (BuildStatus::Succeeded, None));
        assert_eq!(now.image, Some(registered));
    }

    #[tokio::test]
    async fn an_image_is_a_builds_whose_sandbox_it_was_made_in() {
        let site = Site::start(0).await;
        let mut build = site.build("a").await;
        build.sandboxes = vec![sandbox(1), sandbox(2)];
        build.phase = BuildPhase::Publishing;
        assert!(made_by(&build, &image(&build, 2)));
        assert!(!made_by(&build, &image(&build, 3)), "that of an earlier build");
        let global = ImageRecord { global: true, ..image(&build, 2) };
        assert!(!made_by(&build, &global), "another name");
        build.phase = BuildPhase::Snapshotting;
        assert!(!made_by(&build, &image(&build, 2)));
    }
}
