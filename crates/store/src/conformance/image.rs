//! Names of images, and what projects show to registries.

use std::sync::Arc;

use tarn_types::{BootImage, ImageDigest, ImageNameRecord, ImagePin, RegistryLoginRecord};

use super::{
    Case,
    sample::{T0, project},
    sandbox::expect_not_found,
    snapshot::snapshot,
};
use crate::{SealedLogin, Store};

pub(super) const CASES: &[Case] = &[
    Case::new("names of images are listed by project and name", |s| Box::pin(names(s))),
    Case::new("a name that is given again keeps its first time", |s| Box::pin(given_again(s))),
    Case::new("a deleted name is gone from its project alone", |s| Box::pin(delete_name(s))),
    Case::new("a registry login is of one project alone", |s| Box::pin(logins(s))),
    Case::new("the images of all snapshots are known", |s| Box::pin(below_snapshots(s))),
];

fn digest(digit: char) -> ImageDigest {
    format!("sha256:{}", digit.to_string().repeat(64)).parse().expect("a good digest")
}

fn given(owner: Option<u8>, name: &str, digit: char) -> ImageNameRecord {
    ImageNameRecord {
        project: owner.map(project),
        name: name.parse().expect("a good name"),
        pin: ImagePin { digest: digest(digit), source: Some(format!("h/{name}")) },
        created_at: T0,
        updated_at: T0,
    }
}

async fn names(store: Arc<dyn Store>) {
    assert_eq!(store.image_name_list().await.expect("a list"), []);
    let all = [
        given(None, "a", 'a'),
        given(None, "b:V1", 'b'),
        given(Some(1), "a", 'c'),
        given(Some(2), "a", 'd'),
    ];
    for record in [3, 0, 2, 1].map(|at| &all[at]) {
        assert_eq!(store.image_name_put(record).await.expect("given"), *record);
    }
    let mut list = store.image_name_list().await.expect("a list");
    list.sort_by(|a, b| (&a.project, &a.name).cmp(&(&b.project, &b.name)));
    assert_eq!(list, all);
}

async fn given_again(store: Arc<dyn Store>) {
    let first = given(None, "a", 'a');
    store.image_name_put(&first).await.expect("given");
    let mut again = given(None, "a", 'b');
    again.pin.source = None;
    (again.created_at, again.updated_at) = (T0.plus_millis(5), T0.plus_millis(5));
    let kept = ImageNameRecord { created_at: first.created_at, ..again.clone() };
    assert_eq!(store.image_name_put(&again).await.expect("given"), kept);
    assert_eq!(store.image_name_list().await.expect("a list"), [kept]);
}

async fn delete_name(store: Arc<dyn Store>) {
    let (theirs, all) = (given(Some(1), "a", 'a'), given(None, "a", 'a'));
    for record in [&theirs, &all] {
        store.image_name_put(record).await.expect("given");
    }
    let name = &theirs.name;
    store.image_name_delete(Some(&project(1)), name).await.expect("deleted");
    expect_not_found(&store.image_name_delete(Some(&project(1)), name).await, "image name");
    assert_eq!(store.image_name_list().await.expect("a list"), [all]);
    store.image_name_delete(None, name).await.expect("deleted");
    assert_eq!(store.image_name_list().await.expect("a list"), []);
}

async fn logins(store: Arc<dyn Store>) {
    let login = |owner: u8, registry: &str, sealed: u8| SealedLogin {
        record: RegistryLoginRecord {
            project: project(owner),
            registry: registry.to_owned(),
            username: format!("user {sealed}"),
            updated_at: T0,
        },
        sealed: vec![sealed, 0, 0xff],
    };
    let (first, again) = (login(1, "h:5000", 1), login(1, "h:5000", 2));
    let theirs = login(2, "h:5000", 3);
    for login in [&first, &again, &theirs] {
        store.login_put(login).await.expect("set");
    }
    let find = async |owner, registry| store.login_find(&project(owner), registry).await;
    assert_eq!(find(1, "h:5000").await.expect("found"), Some(again.clone()));
    assert_eq!(find(1, "h").await.expect("none"), None);
    assert_eq!(store.login_list().await.expect("a list"), [again.record, theirs.record.clone()]);
    store.login_delete(&project(1), "h:5000").await.expect("deleted");
    expect_not_found(&store.login_delete(&project(1), "h:5000").await, "registry login");
    assert_eq!(find(1, "h:5000").await.expect("none"), None);
    assert_eq!(find(2, "h:5000").await.expect("found"), Some(theirs));
}

async fn below_snapshots(store: Arc<dyn Store>) {
    let plain = snapshot(1);
    let pin = ImagePin { digest: digest('a'), source: None };
    let mut hidden = snapshot(2);
    hidden.captured.image.pin = Some(pin.clone());
    hidden.hidden = true;
    let mut same = snapshot(3);
    same.captured.image.pin = Some(pin);
    for record in [&plain, &hidden, &same] {
        store.snapshot_insert(record).await.expect("inserted");
    }
    let mut images: Vec<BootImage> = store.snapshot_images().await.expect("images");
    images.sort();
    assert_eq!(images, [plain.captured.image, hidden.captured.image]);
}
