//! Lines that break, and what is fetched again after that.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tarn_oci::{OciError, RegistryOptions};
use tarn_types::ErrorClass;

use crate::{
    image::{By, Image, Place, progress},
    registry::{Answer, Request, Server, puller, puller_with, serve},
    tar::Tar,
};

const SIZE: usize = 200_000;

/// An image of one layer whose bytes cannot be guessed from each other.
fn image() -> Image {
    let mut state: u32 = 1;
    let content = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let content: Vec<u8> = content.take(SIZE).collect();
    Image::new(&[(&Tar::new().file("a", &content).end(), By::Nothing)])
}

/// Serves an image; its layer as `layer` says, given how often it was asked for before.
async fn start(
    image: Image,
    layer: impl Fn(usize, &Request, Answer) -> Answer + Send + Sync + 'static,
) -> Server {
    let asked = AtomicUsize::new(0);
    Server::start(move |request| {
        let answer = serve(&image, request);
        if !request.path.ends_with(image.layers[0].as_str()) {
            return answer;
        }
        layer(asked.fetch_add(1, Ordering::SeqCst), request, answer)
    })
    .await
}

/// The ranges that were asked of the layer.
fn ranges(server: &Server, image: &Image) -> Vec<usize> {
    let requests = server.blob_requests().into_iter();
    let layer = requests.filter(|request| request.path.ends_with(image.layers[0].as_str()));
    layer.map(|request| request.from()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_transfer_goes_on_where_it_was() {
    let image = image();
    let server = start(image.clone(), |before, _, answer| match before {
        0 => Answer { cut: Some(70_000), ..answer },
        1 => Answer { cut: Some(50_000), ..answer },
        _ => answer,
    })
    .await;
    let place = Place::new();
    let found = puller().look_up(&server.reference("app"), None).await.unwrap();
    let progress = progress();
    puller().pull(&found, None, &place.work(), progress.clone()).await.unwrap();
    assert_eq!(ranges(&server, &image), [0, 70_000, 120_000]);
    assert_eq!(place.root("a").metadata().unwrap().len(), SIZE as u64);
    assert_eq!(progress.borrow().bytes_done, found.layer_bytes()[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_no_ranges_sends_it_all_again() {
    let image = image();
    let whole = image.blobs[&image.layers[0]].clone();
    let server = start(image.clone(), move |before, _, _| {
        let answer = Answer::new(200, &*whole);
        if before < 3 { Answer { cut: Some(50_000 * (before + 1)), ..answer } } else { answer }
    })
    .await;
    let place = Place::new();
    let found = puller().look_up(&server.reference("app"), None).await.unwrap();
    puller().pull(&found, None, &place.work(), progress()).await.unwrap();
    assert_eq!(ranges(&server, &image), [0, 50_000, 100_000, 150_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_range_is_asked_without() {
    let image = image();
    let server = start(image.clone(), |before, request, answer| match before {
        0 => Answer { cut: Some(70_000), ..answer },
        _ if request.from() > 0 => Answer::new(416, ""),
        _ => answer,
    })
    .await;
    let place = Place::new();
    let found = puller().look_up(&server.reference("app"), None).await.unwrap();
    puller().pull(&found, None, &place.work(), progress()).await.unwrap();
    assert_eq!(ranges(&server, &image), [0, 70_000, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_from_elsewhere_is_refused() {
    let image = image();
    let server = start(image.clone(), |before, _, answer| match before {
        0 => Answer { cut: Some(70_000), ..answer },
        _ => {
            let range = format!("bytes 80000-{}/{}", SIZE - 1, SIZE);
            Answer { headers: vec![("Content-Range", range)], ..answer }
        }
    })
    .await;
    let place = Place::new();
    let found = puller().look_up(&server.reference("app"), None).await.unwrap();
    let error = puller().pull(&found, None, &place.work(), progress()).await.unwrap_err();
    assert!(matches!(error, OciError::Refused { status: 206, .. }), "{error}");
    assert!(!place.exists(""));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_pull_goes_on_where_the_last_one_failed() {
    let image = image();
    let working = Arc::new(AtomicUsize::new(0));
    let is_working = Arc::clone(&working);
    let server = start(image.clone(), move |before, _, answer| match before {
        0 => Answer { cut: Some(70_000), ..answer },
        _ if is_working.load(Ordering::SeqCst) == 0 => Answer { cut: Some(0), ..answer },
        _ => answer,
    })
    .await;
    let place = Place::new();
    let puller = puller_with(RegistryOptions { retries: 2, ..RegistryOptions::default() });
    let found = puller.look_up(&server.reference("app"), None).await.unwrap();
    let error = puller.pull(&found, None, &place.work(), progress()).await.unwrap_err();
    assert!(matches!(error, OciError::Unreachable { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Unavailable);
    assert_eq!(ranges(&server, &image), [0, 70_000, 70_000]);
    assert!(!place.exists(""), "no half tree is left");

    working.store(1, Ordering::SeqCst);
    puller.pull(&found, None, &place.work(), progress()).await.unwrap();
    assert_eq!(ranges(&server, &image)[3..], [70_000]);
    assert_eq!(place.root("a").metadata().unwrap().len(), SIZE as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_pull_is_not_trusted() {
    let image = image();
    let layer = &image.layers[0];
    for (case, left) in [
        ("another beginning", vec![0; 70_000]),
        ("all of it, but wrong", vec![0; image.blobs[layer].len()]),
        ("more than all", vec![0; image.blobs[layer].len() + 1]),
        ("nothing", vec![]),
    ] {
        let server = Server::honest(image.clone()).await;
        let place = Place::new();
        let blobs = place.work().join("blobs");
        std::fs::create_dir(&blobs).unwrap();
        std::fs::write(blobs.join(format!("sha256-{}", layer.hex())), left).unwrap();
        std::fs::write(blobs.join("of-another-image"), "x").unwrap();
        let found = puller().look_up(&server.reference("app"), None).await.unwrap();
        let pulled = puller().pull(&found, None, &place.work(), progress()).await;
        pulled.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(place.root("a").metadata().unwrap().len(), SIZE as u64, "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_busy_is_asked_again_and_what_is_broken_is_not() {
    let image = image();
    for (status, tries) in [(429, 3), (500, 3), (503, 3), (408, 3), (400, 1), (410, 1)] {
        let served = image.clone();
        let server = Server::start(move |request| {
            let _ = &served;
            let _ = request;
            Answer::new(status, r#"{"errors":[{"message":"no\u0007pe"}]}"#)
        })
        .await;
        let puller = puller_with(RegistryOptions { retries: 2, ..RegistryOptions::default() });
        let error = puller.look_up(&server.reference("app"), None).await.unwrap_err();
        let OciError::Refused { status: found, detail, .. } = &error else { panic!("{error}") };
        assert_eq!((*found, detail.as_str()), (status, ": no\\u{7}pe"));
        assert_eq!(server.requests().len(), tries, "{status}");
    }
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |request| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::new(503, ""),
        _ => serve(&image, request),
    })
    .await;
    puller().look_up(&server.reference("app"), None).await.unwrap();
}
