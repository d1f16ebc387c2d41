//! Certificates that somebody else gets issued: a temporary one first, challenges, exchange.

use std::fs;

use tarn_tls::{CertificateFiles, Certificates, IssuedCertificate, Protocols, ServerNames};
use tarn_types::UnixMillis;

use crate::world::{DAY_MS, Echo, Issued, NOW, PATIENCE, client, clock, replace, say};

fn names() -> ServerNames {
    let mut names = ServerNames::default();
    names.add_host("api.example.com").expect("a name");
    names.add_domain("box.example.com").expect("a name");
    names
}

/// One file with key and chain.
fn files(issued: &Issued) -> CertificateFiles {
    let path = issued.path("both.pem");
    CertificateFiles { certificate: path.clone(), key: path }
}

fn issue(issued: &Issued, names: &[&str], until_days: i64) {
    let (certificate, key) = issued.sign(names, (-1, until_days));
    replace(&files(issued).certificate, &format!("{key}{certificate}"));
}

#[tokio::test]
async fn a_temporary_one_is_shown_until_one_is_issued() {
    let issued = Issued::new();
    let certificates = Certificates::from_issued(files(&issued), names(), clock());
    let certificates = certificates.expect("a temporary one");
    assert_eq!((certificates.issued(), certificates.issued_der()), (None, None));
    let server = Echo::start(certificates.acceptor(Protocols::Http1), PATIENCE).await;
    let config = || client(issued.root(), NOW);
    let refused = server.connect(config(), "api.example.com").await.expect_err("nobody vouches");
    assert!(refused.to_string().contains("invalid peer certificate"), "{refused}");
    assert!(certificates.reload().is_err(), "there is none yet");

    issue(&issued, &["api.example.com"], 20);
    certificates.reload().expect("usable");
    let until = |days| UnixMillis(NOW.0 + days * DAY_MS);
    let expected = IssuedCertificate { from: until(-1), until: until(20), has_all_names: false };
    assert_eq!(certificates.issued(), Some(expected));
    let mut kept = server.connect(config(), "api.example.com").await.expect("trusted");

    issue(&issued, &["api.example.com", "box.example.com", "*.box.example.com"], 90);
    certificates.reload().expect("usable");
    let expected = IssuedCertificate { from: until(-1), until: until(90), has_all_names: true };
    assert_eq!(certificates.issued(), Some(expected));
    assert!(server.connect(config(), "8000-a.box.example.com").await.is_ok());
    assert_eq!(say(&mut kept, "still").await, "STILL");

    fs::write(files(&issued).certificate, "nonsense").expect("written");
    assert!(certificates.reload().is_err());
    assert!(server.connect(config(), "box.example.com").await.is_ok(), "the one before stays");
    // The next start has a temporary one again.
    let again = Certificates::from_issued(files(&issued), names(), clock()).expect("temporary");
    assert_eq!(again.issued(), None);
}

#[tokio::test]
async fn who_asks_whose_name_it_is_is_answered_while_that_is_expected() {
    let issued = Issued::new();
    let certificates = Certificates::from_issued(files(&issued), names(), clock());
    let certificates = certificates.expect("a temporary one");
    let acceptor = certificates.acceptor(Protocols::Http2);
    let stats = acceptor.stats();
    let server = Echo::start(acceptor, PATIENCE).await;
    let asked = || {
        let mut config = client(issued.root(), NOW);
        config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        let server = &server;
        async move { server.connect(config, "api.example.com").await.map(drop) }
    };
    let refused = asked().await.expect_err("nothing is expected").to_string();
    assert!(!refused.contains("invalid peer certificate"), "{refused}");
    let answer = certificates.answer_challenge("api.example.com", &[7; 32]).expect("made");
    let shown = asked().await.expect_err("signed by itself").to_string();
    assert!(shown.contains("invalid peer certificate"), "{shown}");
    let other = certificates.answer_challenge("box.example.com", &[7; 32]).expect("made");
    drop(answer);
    let refused = asked().await.expect_err("it is over").to_string();
    assert!(!refused.contains("invalid peer certificate"), "{refused}");
    drop(other);
    assert_eq!(stats.counts().done, 0, "such handshakes are no clients");
}
