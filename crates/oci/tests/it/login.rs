//! Registries that want to know who asks, and where what they are told must not go.

use base64::Engine as _;
use tarn_oci::{Credentials, OciError};
use tarn_types::ErrorClass;

use crate::{
    image::{By, Image, Place, progress},
    registry::{Answer, Request, Server, puller, serve},
    tar::Tar,
};

const PASSWORD: &str = "hunter2-π";

fn image() -> Image {
    Image::new(&[(&Tar::new().file("a", b"a").end(), By::Gzip)])
}

fn credentials(password: &str) -> Credentials {
    Credentials { username: "robot".to_owned(), password: password.to_owned().into() }
}

fn basic() -> String {
    let pair = format!("robot:{PASSWORD}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// A registry that wants a token of its own making; `open` gives one to anybody.
async fn token_registry(image: Image, open: bool) -> Server {
    Server::start(move |request| {
        let authorization = request.header("authorization");
        if request.path.starts_with("/token?") {
            assert!(request.path.contains("scope=repository%3Aapp%3Apull"), "{}", request.path);
            assert!(request.path.contains("service=reg"), "{}", request.path);
            return match authorization {
                None if open => Answer::new(200, r#"{"access_token":"for-all"}"#),
                Some(given) if given == basic() => Answer::new(200, r#"{"token":"for-robot"}"#),
                _ => Answer::new(401, ""),
            };
        }
        match authorization {
            Some("Bearer for-robot") => serve(&image, request),
            Some("Bearer for-all") if open => serve(&image, request),
            _ => {
                let realm = format!("http://{}/token", request.header("host").unwrap());
                let challenge =
                    format!(r#"Bearer realm="{realm}",service="reg",scope="repository:app:pull""#);
                Answer::new(401, "").with("WWW-Authenticate", challenge)
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_with_and_without_credentials() {
    for (open, credentials) in
        [(true, None), (false, Some(credentials(PASSWORD))), (true, Some(credentials(PASSWORD)))]
    {
        let server = token_registry(image(), open).await;
        let place = Place::new();
        let given = credentials.as_ref();
        let found = puller().look_up(&server.reference("app"), given).await.unwrap();
        puller().pull(&found, given, &place.work(), progress()).await.unwrap();
        assert_eq!(place.read("a"), "a");
        let tokens = server.requests().iter().filter(|it| it.path.starts_with("/token")).count();
        assert_eq!(tokens, 2, "once for each conversation");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_so_without_the_password() {
    for given in [None, Some(credentials("wrong-secret"))] {
        let server = token_registry(image(), false).await;
        let error = puller().look_up(&server.reference("app"), given.as_ref()).await.unwrap_err();
        assert!(matches!(error, OciError::Unauthorized { .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::Denied);
        let text = format!("{error} {error:?} {given:?}");
        assert!(!text.contains("wrong-secret"), "{text}");
    }
    let server = Server::start(|_| Answer::new(403, "")).await;
    let error = puller().look_up(&server.reference("app"), None).await.unwrap_err();
    assert!(matches!(error, OciError::Unauthorized { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn name_and_password_are_shown_to_who_asks_for_them() {
    let image = image();
    let server = Server::start(move |request| match request.header("authorization") {
        Some(given) if given == basic() => serve(&image, request),
        _ => Answer::new(401, "").with("WWW-Authenticate", r#"Basic realm="r""#),
    })
    .await;
    let given = credentials(PASSWORD);
    puller().look_up(&server.reference("app"), Some(&given)).await.unwrap();
    assert_eq!(server.requests()[0].header("authorization"), None, "only when it is asked for");
    let error = puller().look_up(&server.reference("app"), None).await.unwrap_err();
    assert!(matches!(error, OciError::Unauthorized { .. }), "{error}");
    let wrong = credentials("other");
    let error = puller().look_up(&server.reference("app"), Some(&wrong)).await.unwrap_err();
    assert!(matches!(error, OciError::Unauthorized { .. }), "{error}");
}

/// A registry whose tokens are to be had for an identity token.
async fn identity_registry(image: Image) -> Server {
    Server::start(move |request| {
        if request.path.starts_with("/token") {
            assert_eq!(request.header("authorization"), None, "it is no password");
            let form = "application/x-www-form-urlencoded";
            let good = "grant_type=refresh_token&client_id=tarn&refresh_token=id%2F1%2B2\
                        &scope=repository%3Aapp%3Apull&service=reg";
            assert_eq!((&*request.path, request.header("content-type")), ("/token", Some(form)));
            return match request.body == good {
                true => Answer::new(200, r#"{"access_token":"for-robot","refresh_token":"x"}"#),
                false => Answer::new(400, r#"{"error":"invalid_grant"}"#),
            };
        }
        if request.header("authorization") == Some("Bearer for-robot") {
            return serve(&image, request);
        }
        let realm = format!("http://{}/token", request.header("host").unwrap());
        let challenge =
            format!(r#"Bearer realm="{realm}",service="reg",scope="repository:app:pull""#);
        Answer::new(401, "").with("WWW-Authenticate", challenge)
    })
    .await
}

fn identity(token: &str) -> Credentials {
    Credentials { username: "<token>".to_owned(), password: token.to_owned().into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_exchanged_for_one_of_the_registry() {
    let server = identity_registry(image()).await;
    let place = Place::new();
    let given = identity("id/1+2");
    let found = puller().look_up(&server.reference("app"), Some(&given)).await.unwrap();
    puller().pull(&found, Some(&given), &place.work(), progress()).await.unwrap();
    assert_eq!(place.read("a"), "a");
    let wrong = identity("wrong-secret");
    let error = puller().look_up(&server.reference("app"), Some(&wrong)).await.unwrap_err();
    assert!(matches!(error, OciError::Unauthorized { .. }), "{error}");
    let text = format!("{error} {error:?} {wrong:?}");
    assert!(!text.contains("wrong-secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_identity_token_is_not_shown_it_as_a_password() {
    let server = Server::start(|request| {
        assert_eq!(request.header("authorization"), None);
        Answer::new(401, "").with("WWW-Authenticate", r#"Basic realm="r""#)
    })
    .await;
    let given = identity("id");
    let error = puller().look_up(&server.reference("app"), Some(&given)).await.unwrap_err();
    assert!(matches!(error, OciError::Unauthorized { .. }), "{error}");
    let server = Server::start(|request| {
        if request.path.starts_with("/token") {
            return Answer::new(405, "");
        }
        let realm = format!("http://{}/token", request.header("host").unwrap());
        Answer::new(401, "").with("WWW-Authenticate", format!(r#"Bearer realm="{realm}""#))
    })
    .await;
    let error = puller().look_up(&server.reference("app"), Some(&given)).await.unwrap_err();
    assert!(matches!(error, OciError::Refused { status: 405, .. }), "{error}");
    assert!(error.to_string().contains("no identity token"), "{error}");
}

/// A registry with a password whose blobs are elsewhere.
async fn redirecting(
    image: Image,
    to: impl Fn(&Request) -> String + Send + Sync + 'static,
) -> Server {
    Server::start(move |request| match request.header("authorization") {
        Some(given) if given == basic() && request.is_blob() => Answer::redirect(to(request)),
        Some(given) if given == basic() => serve(&image, request),
        _ => Answer::new(401, "").with("WWW-Authenticate", r#"Basic realm="r""#),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_takes_the_range_along_and_leaves_the_password() {
    let image = image();
    let served = image.clone();
    let store = Server::start(move |request| serve(&served, request)).await;
    let address = store.address;
    let server = redirecting(image, move |request| {
        format!("http://{address}{}?signature=s", request.path).replace("?signature=s", "")
    })
    .await;
    let place = Place::new();
    let given = credentials(PASSWORD);
    let found = puller().look_up(&server.reference("app"), Some(&given)).await.unwrap();
    puller().pull(&found, Some(&given), &place.work(), progress()).await.unwrap();
    assert_eq!(place.read("a"), "a");
    assert_eq!(store.requests().len(), 2);
    for request in store.requests() {
        assert_eq!(request.header("authorization"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_cannot_send_us_anywhere() {
    for to in [
        "http://192.0.2.1/blob",
        "http://169.254.169.254/latest/meta-data/",
        "ftp://127.0.0.1/blob",
        "file:///etc/passwd",
        "http://user:secret@127.0.0.1/blob",
        "http://",
    ] {
        let server = redirecting(image(), move |_| to.to_owned()).await;
        let place = Place::new();
        let given = credentials(PASSWORD);
        let found = puller().look_up(&server.reference("app"), Some(&given)).await.unwrap();
        let pulled = puller().pull(&found, Some(&given), &place.work(), progress()).await;
        let error = pulled.unwrap_err();
        assert!(matches!(error, OciError::Refused { status: 307, .. }), "{to}: {error}");
    }
    let server = Server::start(|request| Answer::redirect(request.path.clone())).await;
    let error = puller().look_up(&server.reference("app"), None).await.unwrap_err();
    assert!(matches!(error, OciError::Refused { .. }), "{error}");
    assert_eq!(server.requests().len(), 6, "no loop is followed for long");
    // A token from where plain HTTP does not go.
    let server = Server::start(|_| {
        let challenge = r#"Bearer realm="http://192.0.2.1/token",service="s""#;
        Answer::new(401, "").with("WWW-Authenticate", challenge)
    })
    .await;
    let error = puller().look_up(&server.reference("app"), None).await.unwrap_err();
    assert!(matches!(error, OciError::Refused { status: 401, .. }), "{error}");
}
