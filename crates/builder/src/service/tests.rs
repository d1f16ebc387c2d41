use super::testing::{Site, settle};

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
