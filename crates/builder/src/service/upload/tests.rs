use tarn_types::{BuildRecord, ErrorClass};

use super::*;
use crate::service::{Cancel, testing::Site};

/// The SHA-256 of a context in which there is nothing.
const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

// === impl Site ===

impl Site {
    async fn upload(&self, build: &BuildRecord) -> Result<Upload, BuilderError> {
        let token = build.upload_token.clone().expect("it awaits a context");
        self.builder.upload(build.id.as_str(), &token).await
    }

    /// Begins a build whose context, in which there is nothing, lies there and is not sealed.
    async fn unsealed(&self, name: &str) -> BuildRecord {
        let build = self.build(name).await;
        let upload = self.upload(&build).await.expect("it awaits a context");
        upload.finish().await.expect("it is whole");
        build
    }

    async fn seal(&self, build: &BuildRecord) -> Result<BuildStatus, BuilderError> {
        let sealed = self.builder.seal(&build.project, build.id.as_str(), NOTHING).await;
        sealed.map(|view| view.record.status)
    }

    async fn cancel(&self, build: &BuildRecord) -> Result<Cancel, BuilderError> {
        self.builder.cancel(&build.project, build.id.as_str()).await
    }

    fn status(&self, build: &BuildRecord) -> BuildStatus {
        let view = self.builder.fetch(&build.project, build.id.as_str());
        view.expect("it is kept").record.status
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("builds")).expect("it is there").count()
    }
}

#[tokio::test]
async fn one_context_of_a_build_comes_at_a_time() {
    let site = Site::configured(0, |config| config.context_max_bytes = 10).await;
    let build = site.build("a").await;
    let mut first = site.upload(&build).await.expect("it begins");
    let second = site.upload(&build).await.map(drop).expect_err("one comes already");
    assert!(matches!(second, BuilderError::Uploading(_)) && second.class() == ErrorClass::Conflict);
    let other = site.build("b").await;
    drop(site.upload(&other).await.expect("that of another build"));
    first.write(&Bytes::from_static(b"0123456789")).await.expect("as much as may be");
    assert!(matches!(
        first.write(&Bytes::from_static(b"x")).await,
        Err(BuilderError::TooLarge(10))
    ));
    drop(first);
    assert_eq!(site.files(), 0, "nothing unfinished stays");
    site.upload(&build).await.expect("it has ended").finish().await.expect("it is whole");
    drop(site.upload(&build).await.expect("it may be replaced"));
    assert_eq!(site.files(), 1);
    site.builder.cancel(&build.project, build.id.as_str()).await.expect("it awaits its context");
    assert_eq!(site.files(), 0);
}

#[tokio::test]
async fn the_contexts_of_a_project_are_bounded() {
    let site = Site::configured(0, |config| config.contexts_max_bytes = 2 * GRANT_BYTES).await;
    let (a, b, c) = (site.build("a").await, site.build("b").await, site.build("c").await);
    let mut one = site.upload(&a).await.expect("there is room");
    let two = site.upload(&b).await.expect("there is room");
    let crowded = |refused: Option<BuilderError>| matches!(refused, Some(BuilderError::Crowded(_)));
    assert!(crowded(site.upload(&c).await.err()));
    // Nor does one that has begun come further.
    let half = Bytes::from(vec![0; 9 << 20]);
    one.write(&half).await.expect("it was set aside");
    assert!(crowded(one.write(&half).await.err()));
    two.finish().await.expect("it is whole");
    one.write(&half).await.expect("what it does not need is free again");
    site.builder.cancel(&a.project, a.id.as_str()).await.expect("it awaits its context");
    let refused = one.write(&half).await.expect_err("nobody wants it");
    assert!(matches!(refused, BuilderError::NotAwaiting { .. }), "{refused:?}");
    drop(one);
    site.upload(&c).await.expect("there is room again");
}

#[tokio::test]
async fn a_full_disk_takes_no_context() {
    let site = Site::configured(0, |config| config.reserve_bytes = u64::MAX).await;
    let build = site.build("a").await;
    let refused = site.upload(&build).await.map(drop).expect_err("there is no room");
    assert_eq!(refused.class(), ErrorClass::Unavailable);
    assert_eq!(site.files(), 0);
}

// Below, all wait for the turn in the order in which they stand, until the last one lets it go.

#[tokio::test]
async fn what_is_cancelled_before_its_seal_stays_cancelled() {
    let site = Site::configured(0, |_defaults| {}).await;
    let build = site.unsealed("a").await;
    let turn = site.builder.0.turn.lock().await;
    let (cancelled, sealed, ()) = tokio::join!(
        biased;
        site.cancel(&build),
        site.seal(&build),
        async { drop(turn) },
    );
    assert!(matches!(cancelled, Ok(Cancel::Cancelled(_))), "{cancelled:?}");
    for sealed in [sealed, site.seal(&build).await] {
        let refused = sealed.expect_err("it is cancelled");
        let is_told =
            matches!(refused, BuilderError::NotAwaiting { status: BuildStatus::Cancelled, .. });
        assert!(is_told, "{refused:?}");
    }
    assert_eq!(site.status(&build), BuildStatus::Cancelled);
}

#[tokio::test]
async fn two_seals_begin_one_run() {
    let site = Site::configured(0, |_defaults| {}).await;
    let build = site.unsealed("a").await;
    let turn = site.builder.0.turn.lock().await;
    let (first, second, turn) = tokio::join!(
        biased;
        site.seal(&build),
        site.seal(&build),
        async {
            drop(turn);
            site.builder.0.turn.lock().await
        },
    );
    assert_eq!(first.expect("it awaits its context"), BuildStatus::Running);
    assert_eq!(second.expect("it is the same"), BuildStatus::Running);
    // They have time to begin, and without the turn none can end.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let runs = site.builder.0.builds.lock()[&build.id].cancel.receiver_count();
    assert_eq!(runs, 1);
    drop(turn);
}

#[tokio::test]
async fn a_cancel_behind_the_seal_ends_the_run() {
    let site = Site::configured(0, |_defaults| {}).await;
    let build = site.unsealed("a").await;
    let turn = site.builder.0.turn.lock().await;
    let (sealed, cancelled, ()) = tokio::join!(
        biased;
        site.seal(&build),
        site.cancel(&build),
        async {
            drop(turn);
            let _turn = site.builder.0.turn.lock().await;
            let is_told = *site.builder.0.builds.lock()[&build.id].cancel.borrow();
            assert!(is_told, "nobody told the run");
        },
    );
    assert_eq!(sealed.expect("it awaits its context"), BuildStatus::Running);
    // There is no Dockerfile in its context: it may have failed just before.
    assert!(
        matches!(cancelled, Ok(Cancel::Cancelled(_) | Cancel::AlreadyFailed(_))),
        "{cancelled:?}"
    );
    assert!(site.status(&build).is_terminal());
}
