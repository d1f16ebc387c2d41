//! Registered images: put, list, delete, and what they mean for snapshots.

use std::sync::Arc;

use tarn_types::{
    Archival, ByteSize, ImageConfig, ImageDigest, ImageFamily, ImageId, ImageNameRecord, ImagePin,
    ImageRecord, SnapshotRecord, SnapshotStatus,
};
use tokio::task::JoinSet;

use super::{
    Case,
    sample::{T0, id, project},
    sandbox::expect_not_found,
    snapshot::snapshot,
};
use crate::{Store, StoreError};

pub(super) const CASES: &[Case] = &[
    Case::new("an image comes back as it was registered", |s| Box::pin(round_trip(s))),
    Case::new("an image that takes a name takes its id", |s| Box::pin(replace(s))),
    Case::new("images of several scopes have the same name", |s| Box::pin(scopes(s))),
    Case::new("a name for all is of the project that gave it", |s| Box::pin(taken(s))),
    Case::new("an image takes its name from a pulled one", |s| Box::pin(over_pulled(s))),
    Case::new("a deleted image is gone", |s| Box::pin(delete(s))),
    Case::new("of racing images of one name one is left", |s| Box::pin(race(s))),
    Case::new("a hidden snapshot of an image is settled", |s| Box::pin(settled(s))),
];

fn image(number: u8, owner: u8, name: &str) -> ImageRecord {
    ImageRecord {
        id: ImageId::from_random([number; 16]),
        project: project(owner),
        global: false,
        name: name.parse().expect("a good name"),
        family: ImageFamily::Cas,
        snapshot: snapshot(number).id,
        sandbox: id(1),
        config: None,
        dockerfile: None,
        size: ByteSize::from_mib(3),
        disk: ByteSize::from_mib(10_240),
        created_at: T0.plus_millis(u64::from(number)),
        updated_at: T0.plus_millis(u64::from(number)),
    }
}

async fn put(store: &Arc<dyn Store>, record: &ImageRecord) -> ImageRecord {
    store.image_put(record).await.expect("registered")
}

async fn list(store: &Arc<dyn Store>) -> Vec<ImageRecord> {
    store.image_list().await.expect("a list")
}

fn expect_exists(got: &Result<ImageRecord, StoreError>) {
    assert!(matches!(got, Err(StoreError::Exists { what: "image" })), "{got:?}");
}

async fn round_trip(store: Arc<dyn Store>) {
    assert_eq!(list(&store).await, []);
    let mut full = image(2, 1, "team/app:v1");
    (full.family, full.global) = (ImageFamily::Legacy, true);
    full.dockerfile = Some("FROM x\nRUN \u{1f980} \"'\0".to_owned());
    full.config = Some(ImageConfig {
        env: vec![("A".to_owned(), "1".to_owned()), ("A".to_owned(), String::new())],
        user: Some("u".to_owned()),
        working_dir: Some("/w".to_owned()),
        entrypoint: vec!["e".to_owned()],
        cmd: vec![String::new()],
    });
    let older = image(1, 1, "a");
    for record in [&full, &older] {
        assert_eq!(put(&store, record).await, *record);
    }
    assert_eq!(list(&store).await, [older, full], "oldest first");
}

async fn replace(store: Arc<dyn Store>) {
    let first = image(1, 1, "a");
    put(&store, &first).await;
    let second = ImageRecord { family: ImageFamily::Legacy, ..image(2, 1, "a") };
    let stored = put(&store, &second).await;
    let expected = ImageRecord { id: first.id, created_at: first.created_at, ..second };
    assert_eq!(stored, expected);
    assert_eq!(list(&store).await, [expected]);
}

async fn scopes(store: Arc<dyn Store>) {
    let all = [
        image(1, 1, "a"),
        image(2, 2, "a"),
        ImageRecord { global: true, ..image(3, 1, "a") },
        image(4, 1, "b"),
    ];
    for record in &all {
        put(&store, record).await;
    }
    assert_eq!(list(&store).await, all);
    let same_id = ImageRecord { id: all[0].id.clone(), ..image(5, 1, "c") };
    expect_exists(&store.image_put(&same_id).await);
    assert_eq!(list(&store).await, all);
}

async fn taken(store: Arc<dyn Store>) {
    let first = ImageRecord { global: true, ..image(1, 1, "a") };
    put(&store, &first).await;
    let other = ImageRecord { global: true, ..image(2, 2, "a") };
    expect_exists(&store.image_put(&other).await);
    assert_eq!(list(&store).await, std::slice::from_ref(&first));
    store.image_delete(&first.id).await.expect("deleted");
    assert_eq!(put(&store, &other).await, other);
}

async fn over_pulled(store: Arc<dyn Store>) {
    let digest: ImageDigest = format!("sha256:{}", "a".repeat(64)).parse().expect("a digest");
    let given = |owner: Option<u8>, name: &str| ImageNameRecord {
        project: owner.map(project),
        name: name.parse().expect("a good name"),
        pin: ImagePin { digest: digest.clone(), source: None },
        created_at: T0,
        updated_at: T0,
    };
    let kept = [given(None, "a"), given(Some(1), "b"), given(Some(2), "a")];
    for record in kept.iter().chain(&[given(Some(1), "a")]) {
        store.image_name_put(record).await.expect("given");
    }
    put(&store, &image(1, 1, "a")).await;
    let mut names = store.image_name_list().await.expect("a list");
    names.sort_by(|a, b| (&a.project, &a.name).cmp(&(&b.project, &b.name)));
    assert_eq!(names, kept);
}

async fn delete(store: Arc<dyn Store>) {
    let (first, second) = (image(1, 1, "a"), image(2, 1, "b"));
    for record in [&first, &second] {
        put(&store, record).await;
    }
    store.image_delete(&first.id).await.expect("deleted");
    expect_not_found(&store.image_delete(&first.id).await, "image");
    assert_eq!(list(&store).await, [second]);
    let again = image(3, 1, "a");
    assert_eq!(put(&store, &again).await, again, "nothing is left of the first");
}

async fn race(store: Arc<dyn Store>) {
    let mut racing = JoinSet::new();
    for number in 1..=16 {
        let store = Arc::clone(&store);
        racing.spawn(async move { store.image_put(&image(number, 1, "a")).await });
    }
    let stored: Vec<_> = racing.join_all().await.into_iter().map(|it| it.expect("put")).collect();
    let left = list(&store).await;
    assert_eq!(left.len(), 1);
    assert!(stored.iter().all(|record| record.id == left[0].id), "the first one's id");
    assert!(stored.contains(&left[0]));
}

async fn settled(store: Arc<dyn Store>) {
    let whole = |number, status, archive| SnapshotRecord {
        hidden: true,
        status,
        archive,
        ..snapshot(number)
    };
    let completed = whole(1, SnapshotStatus::Completed, Archival::Nothing);
    let on_the_way = [
        whole(2, SnapshotStatus::Completed, Archival::Begun),
        whole(3, SnapshotStatus::LocalReady, Archival::Nothing),
        whole(4, SnapshotStatus::InProgress, Archival::Nothing),
    ];
    for record in on_the_way.iter().chain([&completed]) {
        store.snapshot_insert(record).await.expect("inserted");
    }
    let unsettled = async || store.snapshot_list_unsettled().await.expect("a list");
    assert_eq!(unsettled().await.len(), 4);
    for number in 1..=4 {
        put(&store, &image(number, 1, &format!("a{number}"))).await;
    }
    assert_eq!(unsettled().await, on_the_way);
    put(&store, &ImageRecord { snapshot: snapshot(5).id, ..image(6, 1, "a1") }).await;
    assert_eq!(unsettled().await.len(), 4, "no image is made of the first any more");
}
