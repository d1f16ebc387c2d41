//! Pulls that go well.

use std::{
    os::unix::fs::MetadataExt as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tarn_oci::{OciError, Phase, Progress, RegistryOptions};

use crate::{
    image::{By, Image, Place, architecture, progress},
    registry::{Answer, PATIENCE, Server, puller, puller_with, serve},
    tar::Tar,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_becomes_a_tree_by_way_of_its_index() {
    let lower = Tar::new().dir("etc/").file("etc/name", b"lower").file("etc/gone", b"x").end();
    let middle = Tar::new().file("etc/.wh.gone", b"").end();
    let upper = Tar::new().file_as("etc/name", b"upper", 0o4755, (12, 34)).end();
    let layers = [
        (&*lower, By::Gzip),
        (&*middle, By::Nothing),
        (&*upper, By::Zstd),
        (&*middle, By::Nothing),
    ];
    let mut image = Image::new(&layers);
    let other = Image::new(&[(&lower, By::Gzip)]);
    let manifest = image.manifest.clone();
    image.manifest = image.index(&[(&other.manifest, "riscv64"), (&manifest, architecture())]);
    let server = Server::honest(image.clone()).await;
    let place = Place::new();

    let found = puller().look_up(&server.reference("some/app:1"), None).await.unwrap();
    assert_eq!(found.manifest(), &manifest);
    assert_eq!(found.layer_bytes().len(), 4);
    let progress = progress();
    let pulled = puller().pull(&found, None, &place.work(), progress.clone()).await.unwrap();

    assert_eq!(pulled.manifest, manifest);
    assert_eq!((pulled.bytes, pulled.entries), (5 + 1 + 5, 6));
    assert_eq!(pulled.config.env, [("PATH".to_owned(), "/bin".to_owned())]);
    assert_eq!(place.read("etc/name"), "upper");
    assert!(!place.exists("etc/gone"));
    let meta = place.root("etc/name").metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o4755, 12, 34));
    let total = found.layer_bytes().iter().sum();
    let twice = found.layer_bytes()[3];
    let done = Progress {
        phase: Phase::Done,
        layers_total: 4,
        layers_done: 4,
        bytes_total: total,
        bytes_done: total - twice,
    };
    assert_eq!(*progress.borrow(), done, "the layer that is there twice came once");
    let left: Vec<_> = std::fs::read_dir(place.work()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    place.check_sentinels("pull");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_digest_is_asked_for_and_counts() {
    let layer = Tar::new().file("a", b"a").end();
    let image = Image::new(&[(&layer, By::Gzip)]);
    let server = Server::honest(image.clone()).await;
    let reference = server.reference(&format!("app:tag@{}", image.manifest));
    let found = puller().look_up(&reference, None).await.unwrap();
    assert_eq!(found.manifest(), &image.manifest);
    assert!(server.requests()[0].path.ends_with(image.manifest.as_str()));

    let missing = format!("app@sha256:{}", "0".repeat(64));
    let error = puller().look_up(&server.reference(&missing), None).await.unwrap_err();
    assert!(matches!(error, OciError::NotFound { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_layers_come_at_once_than_are_allowed() {
    let tars: Vec<_> =
        (0..8).map(|number| Tar::new().file(&format!("f{number}"), &[number; 9]).end()).collect();
    let layers: Vec<_> = tars.iter().map(|tar| (&**tar, By::Gzip)).collect();
    let image = Image::new(&layers);
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (open_there, most_there) = (Arc::clone(&open), Arc::clone(&most));
    let config = image.config.clone();
    let server = Server::start(move |request| {
        if request.is_blob() && !request.path.ends_with(config.as_str()) {
            let now = open_there.fetch_add(1, Ordering::SeqCst) + 1;
            most_there.fetch_max(now, Ordering::SeqCst);
            // Others have the time to come, should they not be held back.
            std::thread::yield_now();
            open_there.fetch_sub(1, Ordering::SeqCst);
        }
        serve(&image, request)
    })
    .await;
    let place = Place::new();
    let puller = puller_with(RegistryOptions { parallel: 2, ..RegistryOptions::default() });
    let found = puller.look_up(&server.reference("app"), None).await.unwrap();
    puller.pull(&found, None, &place.work(), progress()).await.unwrap();
    assert!(most.load(Ordering::SeqCst) <= 2);
    assert_eq!(server.blob_requests().len(), 9);
    assert!((0..8).all(|number| place.exists(&format!("f{number}"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_dropped_stops_and_lets_the_next_one_in() {
    let layer = Tar::new().file("a", &vec![7; 300_000]).end();
    let image = Image::new(&[(&layer, By::Nothing)]);
    let first = Arc::new(AtomicUsize::new(0));
    let (served, wanted) = (image.clone(), image.layers[0].clone());
    let server = Server::start(move |request| {
        let mut answer = serve(&served, request);
        if request.path.ends_with(wanted.as_str()) && first.fetch_add(1, Ordering::SeqCst) == 0 {
            // Half of it, and an honest promise of the rest that is not kept.
            answer.status = 503;
            answer.headers.push(("Retry-After", "3600".to_owned()));
        }
        answer
    })
    .await;
    let place = Place::new();
    let options = RegistryOptions { retries: u32::MAX, ..RegistryOptions::default() };
    let puller = puller_with(options);
    let found = puller.look_up(&server.reference("app"), None).await.unwrap();
    {
        let work = place.work();
        let mut pull = Box::pin(puller.pull(&found, None, &work, progress()));
        let asked = async {
            while server.blob_requests().len() < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            done = &mut pull => panic!("it cannot be done: {done:?}"),
            waited = tokio::time::timeout(PATIENCE, asked) => waited.unwrap(),
        }
    }
    let work = place.work();
    let next = puller.pull(&found, None, &work, progress());
    tokio::time::timeout(PATIENCE, next).await.expect("the lock is free").unwrap();
    assert_eq!(place.root("a").metadata().unwrap().len(), 300_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_gives_its_pulls_up() {
    let layer = Tar::new().file("a", b"a").end();
    let image = Image::new(&[(&layer, By::Nothing)]);
    let (served, wanted) = (image.clone(), image.layers[0].clone());
    let server = Server::start(move |request| {
        if request.path.ends_with(wanted.as_str()) {
            return Answer::new(503, "").with("Retry-After", "3600");
        }
        serve(&served, request)
    })
    .await;
    let place = Place::new();
    let tasks = tarn_task::Tasks::new();
    let options =
        RegistryOptions { backoff: Duration::from_secs(10), ..RegistryOptions::default() };
    let puller = tarn_oci::Puller::new(options, tarn_oci::Bounds::default(), tasks.clone());
    let found = puller.look_up(&server.reference("app"), None).await.unwrap();
    let work = place.work();
    let pull = puller.pull(&found, None, &work, progress());
    let stop = async {
        while server.blob_requests().len() < 2 {
            tokio::task::yield_now().await;
        }
        tasks.stop();
    };
    let (pulled, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(pull, stop) })
        .await
        .expect("it does not wait for the registry");
    assert!(matches!(pulled, Err(OciError::Cancelled)), "{pulled:?}");
}
