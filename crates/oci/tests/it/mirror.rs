//! Mirrors: asked first, trusted with nothing.

use tarn_oci::{Credentials, OciError, Puller, Reach, RegistryOptions};

use crate::{
    image::{By, Image, Place, progress},
    registry::{Answer, Server, puller_with, serve},
    tar::Tar,
};

fn image() -> Image {
    Image::new(&[(&Tar::new().file("a", b"from the registry").end(), By::Gzip)])
}

/// A puller that asks a mirror before a registry.
fn mirrored(registry: &Server, mirror: &Server) -> Puller {
    let url = format!("http://{}/prefix/", mirror.address).parse().unwrap();
    let mirrors = [(registry.address.to_string(), vec![url])].into();
    puller_with(RegistryOptions { mirrors, retries: 1, ..RegistryOptions::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_has_it_serves_alone_and_sees_no_credentials() {
    let image = image();
    let (registry, mirror) = (Server::honest(image.clone()).await, Server::honest(image).await);
    let puller = mirrored(&registry, &mirror);
    let place = Place::new();
    let given = Credentials { username: "u".to_owned(), password: "p".to_owned().into() };
    let found = puller.look_up(&registry.reference("app"), Some(&given)).await.unwrap();
    puller.pull(&found, Some(&given), &place.work(), progress()).await.unwrap();
    assert_eq!(registry.requests().len(), 0);
    assert_eq!(mirror.requests().len(), 3);
    for request in mirror.requests() {
        assert!(request.path.starts_with("/prefix/v2/app/"), "{}", request.path);
        assert_eq!(request.header("authorization"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mirror_lacks_or_spoils_comes_from_the_registry() {
    type Spoil = fn(&Image, Answer, bool) -> Answer;
    let cases: [(&str, Spoil); 7] = [
        ("has nothing", |_, _, _| Answer::new(404, "")),
        ("wants a password", |_, _, _| {
            Answer::new(401, "").with("WWW-Authenticate", r#"Basic realm="r""#)
        }),
        ("is broken", |_, _, _| Answer::new(500, "")),
        ("hangs up", |_, answer, _| Answer { cut: Some(5), ..answer }),
        ("has another layer", |_, answer, layer| {
            let body = if layer { vec![0; answer.body.len()] } else { answer.body.clone() };
            Answer { body, ..answer }
        }),
        ("has a longer layer", |_, answer, layer| {
            let more = if layer { vec![0; 9] } else { vec![] };
            Answer { body: [answer.body.clone(), more].concat(), ..answer }
        }),
        ("leads elsewhere", |_, _, _| Answer::redirect("http://192.0.2.1/")),
    ];
    for (case, spoil) in cases {
        let image = image();
        let registry = Server::honest(image.clone()).await;
        let mirror = Server::start(move |request| {
            let layer = request.path.ends_with(image.layers[0].as_str());
            spoil(&image, serve(&image, request), layer)
        })
        .await;
        let puller = mirrored(&registry, &mirror);
        let place = Place::new();
        let found = puller.look_up(&registry.reference("app"), None).await;
        let found = found.unwrap_or_else(|error| panic!("{case}: {error}"));
        let pulled = puller.pull(&found, None, &place.work(), progress()).await;
        pulled.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(place.read("a"), "from the registry", "{case}");
        assert!(!mirror.requests().is_empty(), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_manifest_of_a_mirror_is_verified() {
    let image = image();
    let other = Image::new(&[(&Tar::new().file("a", b"evil").end(), By::Gzip)]);
    let forged = other.blobs[&other.manifest].clone();
    let registry = Server::honest(image.clone()).await;
    let mirror = Server::start(move |_| Answer::new(200, &*forged)).await;
    let puller = mirrored(&registry, &mirror);
    let reference = registry.reference(&format!("app@{}", image.manifest));
    let found = puller.look_up(&reference, None).await.unwrap();
    assert_eq!(found.manifest(), &image.manifest);
    drop(registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_is_said_of_the_registry() {
    let registry = Server::start(|_| Answer::new(404, "")).await;
    let mirror = Server::start(|_| Answer::new(500, "")).await;
    let puller = mirrored(&registry, &mirror);
    let error = puller.look_up(&registry.reference("app"), None).await.unwrap_err();
    assert!(matches!(error, OciError::NotFound { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_what_is_allowed_is_asked_at_addresses_that_are_not_public() {
    let image = image();
    let inner = Server::honest(image.clone()).await;
    let target = format!("http://{}/v2/app/manifests/latest", inner.address);
    let leading = Server::start(move |_| Answer::redirect(&target)).await;
    let realm = format!("Bearer realm=\"http://{}/token\"", inner.address);
    let wanting =
        Server::start(move |_| Answer::new(401, "").with("WWW-Authenticate", realm.as_str())).await;
    let reach = |hosts: &[&Server]| {
        let hosts = hosts.iter().map(|server| server.address.to_string());
        let reach = Reach::PublicAnd(hosts.collect());
        puller_with(RegistryOptions { reach, ..RegistryOptions::default() })
    };
    let localhost = format!("localhost:{}/app", inner.address.port()).parse().unwrap();
    for (case, puller, reference) in [
        ("its address", reach(&[]), inner.reference("app")),
        ("a name of it", reach(&[]), localhost),
        ("a redirect to it", reach(&[&leading]), leading.reference("app")),
        ("a token from it", reach(&[&wanting]), wanting.reference("app")),
    ] {
        let refused = puller.look_up(&reference, None).await.unwrap_err();
        assert!(matches!(refused, OciError::NotPublic { .. }), "{case}: {refused}");
    }
    assert_eq!(inner.requests().len(), 0);
    reach(&[&leading, &inner]).look_up(&leading.reference("app"), None).await.unwrap();
}
