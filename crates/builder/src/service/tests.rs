use super::{testing::Site, *};

/// Gives tasks time to come as far as they can.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_build_is_admitted_although_its_caller_hangs_up() {
    let site = Site::start(0).await;
    let (project, ask) = Site::ask("a", None);
    let turn = site.builder.0.turn.lock().await;
    tokio::select! {
        biased;
        _ = site.builder.create(&project, ask) => unreachable!("it waits for its turn"),
        () = settle() => {}
    }
    drop(turn);
    settle().await;
    let known = site.builder.records(|_all| true);
    assert_eq!(known.len(), 1);
    let stored = site.builder.0.control.build_list().await.expect("a list");
    assert_eq!(stored, known, "what is stored is known");
}

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

#[tokio::test]
async fn the_same_request_is_answered_before_anything_is_checked() {
    let site = Site::start(0).await;
    let (project, ask) = Site::ask("a", Some("key"));
    let first = site.builder.create(&project, ask).await.expect("it is accepted");
    // No image may have that name.
    let (_, again) = Site::ask("a--b", Some("key"));
    let again = site.builder.create(&project, again).await.expect("it is the same");
    assert_eq!(first, again);
    let (_, other) = Site::ask("a--b", Some("other"));
    assert!(site.builder.create(&project, other).await.is_err());
}

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
