//! Content that is not what its digest or its size says.

use serde_json::json;
use tarn_oci::{Bounds, Digest, OciError, Puller, RegistryOptions};
use tarn_task::Tasks;

use crate::{
    image::{By, Image, Place, progress},
    registry::{Answer, Server, puller, serve},
    tar::Tar,
};

fn layer() -> Vec<u8> {
    Tar::new().file("a", &[5; 5000]).end()
}

/// Pulls an image from a registry that spoils one of its blobs.
async fn pull_spoilt(
    image: &Image,
    spoilt: &Digest,
    spoil: impl Fn(Answer) -> Answer + Send + Sync + 'static,
) -> OciError {
    let (served, name) = (image.clone(), spoilt.to_string());
    let server = Server::start(move |request| {
        let answer = serve(&served, request);
        if request.path.ends_with(&name) { spoil(answer) } else { answer }
    })
    .await;
    let place = Place::new();
    let reference = server.reference(&format!("app@{}", image.manifest));
    let found = match puller().look_up(&reference, None).await {
        Ok(found) => found,
        Err(error) => return error,
    };
    let error = puller().pull(&found, None, &place.work(), progress()).await.unwrap_err();
    assert!(!place.exists(""), "nothing that was refused stays");
    place.check_sentinels("wrong");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_has_another_digest_is_refused() {
    for by in [By::Gzip, By::Zstd, By::Nothing] {
        let image = Image::new(&[(&layer(), by)]);
        for blob in [&image.manifest, &image.config, &image.layers[0]] {
            let error = pull_spoilt(&image, blob, |mut answer| {
                let middle = answer.body.len() / 2;
                answer.body[middle] ^= 1;
                answer
            });
            let error = error.await;
            let OciError::BadDigest { expected, found, .. } = &error else { panic!("{error:?}") };
            assert!(expected == blob && found != blob, "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_has_another_size_is_refused() {
    let image = Image::new(&[(&layer(), By::Gzip)]);
    let longer = |mut answer: Answer| {
        answer.body.push(0);
        answer
    };
    let endless = |mut answer: Answer| {
        answer.body.extend_from_slice(&[0; 100_000]);
        answer.chunked = true;
        answer
    };
    let shorter = |mut answer: Answer| {
        answer.body.pop();
        answer
    };
    for blob in [&image.config, &image.layers[0]] {
        for error in [
            pull_spoilt(&image, blob, longer).await,
            pull_spoilt(&image, blob, endless).await,
            pull_spoilt(&image, blob, shorter).await,
        ] {
            assert!(matches!(error, OciError::BadSize { .. }), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_unpacks_to_something_else_is_refused() {
    let other = Digest::of(b"something else");
    let image = Image::with(
        &[(&layer(), By::Gzip)],
        |config| config["rootfs"]["diff_ids"] = json!([other]),
        |_| {},
    );
    let error = pull_spoilt(&image, &other, |answer| answer).await;
    let OciError::BadDigest { expected, .. } = &error else { panic!("{error:?}") };
    assert_eq!(expected, &Digest::of(b"something else"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_layer_of_two_sizes_is_refused() {
    let image = Image::with(
        &[(&layer(), By::Gzip), (&layer(), By::Gzip)],
        |_| {},
        |manifest| manifest["layers"][1]["size"] = json!(1),
    );
    let error = pull_spoilt(&image, &Digest::of(b""), |answer| answer).await;
    assert!(matches!(error, OciError::BadSize { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_without_end_are_not_read() {
    let bounds = Bounds { manifest_bytes: 1000, ..Bounds::default() };
    for chunked in [false, true] {
        let server =
            Server::start(move |_| Answer { chunked, ..Answer::new(200, vec![b' '; 1_000_000]) })
                .await;
        let puller = Puller::new(RegistryOptions::default(), bounds.clone(), Tasks::new());
        let error = puller.look_up(&server.reference("app"), None).await.unwrap_err();
        assert!(matches!(error, OciError::TooLarge { limit: 1000, .. }), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_do_not_lead_in_circles_or_to_other_machines() {
    let mut image = Image::new(&[(&layer(), By::Gzip)]);
    let mut top = image.manifest.clone();
    for _ in 0..8 {
        top = image.index(&[(&top, crate::image::architecture())]);
    }
    image.manifest = top;
    let server = Server::honest(image.clone()).await;
    let error = puller().look_up(&server.reference("app"), None).await.unwrap_err();
    assert!(matches!(error, OciError::Malformed { .. }), "{error:?}");

    let mut image = Image::new(&[(&layer(), By::Gzip)]);
    image.manifest = image.index(&[(&image.manifest.clone(), "s390x")]);
    let server = Server::honest(image).await;
    let error = puller().look_up(&server.reference("app"), None).await.unwrap_err();
    let OciError::NoPlatform { offered, .. } = &error else { panic!("{error:?}") };
    assert_eq!(offered, "linux/s390x");
}
