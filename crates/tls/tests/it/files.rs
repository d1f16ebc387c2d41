//! A pair of files: what is refused, and what becomes of changes.

use std::{fs, sync::Arc};

use tarn_task::ManualClock;
use tarn_tls::{Certificates, PairError, Protocols, ServerNames};

use crate::world::{DAY_MS, Echo, Issued, NOW, PATIENCE, client, clock, replace, say};

fn open(issued: &Issued) -> Result<(Certificates, Arc<ManualClock>), PairError> {
    let clock = clock();
    let own = Arc::clone(&clock);
    Certificates::from_files(issued.files(), ServerNames::default(), own).map(|it| (it, clock))
}

/// Looks often enough for a change to be read.
fn settle(certificates: &Certificates) {
    certificates.check();
    certificates.check();
}

#[test]
fn what_cannot_be_served_with_is_named() {
    let issued = Issued::new();
    let write = |name: &str, text: &str| fs::write(issued.path(name), text).expect("written");
    let (certificate, key) = issued.sign(&["localhost"], (-1, 90));
    let (_other, other_key) = issued.sign(&["localhost"], (-1, 90));
    let (expired, expired_key) = issued.sign(&["localhost"], (-90, -1));
    let (early, early_key) = issued.sign(&["localhost"], (1, 90));
    let root = pem_of_root(&issued);
    let garbled = certificate.replacen("MII", "M!I", 1);
    let cut = &certificate[..certificate.len() / 2];
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let nonsense = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let odd_key = "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n";
    for (certificate, key, words) in [
        ("", &*key, ["cert.pem", "holds no certificate"]),
        (&key, &key, ["cert.pem", "holds no certificate"]),
        (&garbled, &key, ["cert.pem", "not sound PEM"]),
        (cut, &key, ["cert.pem", "not sound PEM"]),
        (nonsense, &key, ["cert.pem", "understand the first certificate"]),
        (&certificate, "", ["key.pem", "holds no private key"]),
        (&certificate, &certificate, ["key.pem", "holds no private key"]),
        (&certificate, &encrypted, ["key.pem", "not encrypted"]),
        (&certificate, odd_key, ["key.pem", "use the key"]),
        (&certificate, &other_key, ["key.pem", "does not fit"]),
        (&format!("{root}{certificate}"), &key, ["cert.pem", "must come first"]),
        (&expired, &expired_key, ["cert.pem", "expired on 2027-01-14T08:00:00Z"]),
        (&early, &early_key, ["cert.pem", "not valid before 2027-01-16T08:00:00Z"]),
    ] {
        write("cert.pem", certificate);
        write("key.pem", key);
        let said = open(&issued).expect_err(words[1]).to_string();
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    write("cert.pem", &certificate);
    write("key.pem", &key);
    assert!(open(&issued).is_ok());
    for missing in ["cert.pem", "key.pem"] {
        fs::rename(issued.path(missing), issued.path("away")).expect("renamed");
        let said = open(&issued).expect_err("missing").to_string();
        assert!(said.contains(missing), "{said}");
        fs::rename(issued.path("away"), issued.path(missing)).expect("renamed");
    }
}

#[test]
fn a_pair_that_comes_too_early_is_taken_when_its_time_has_come() {
    let issued = Issued::new();
    issued.issue(&["localhost"], (-1, 20));
    let (certificates, clock) = open(&issued).expect("a pair");
    issued.issue(&["localhost"], (1, 90));
    settle(&certificates);
    certificates.check();
    assert_eq!(certificates.not_after().0, NOW.0 + 20 * DAY_MS, "not yet");
    clock.advance_millis(DAY_MS);
    certificates.check();
    assert_eq!(certificates.not_after().0, NOW.0 + 90 * DAY_MS, "the files are the same");
}

fn pem_of_root(issued: &Issued) -> String {
    let files = issued.issue(&["localhost"], (-1, 90));
    let chain = fs::read_to_string(files.certificate).expect("written");
    chain.split_inclusive("-----END CERTIFICATE-----\n").nth(1).expect("the root").to_owned()
}

#[tokio::test]
async fn a_new_pair_is_taken_and_open_connections_go_on() {
    let issued = Issued::new();
    issued.issue(&["localhost"], (-1, 20));
    let (certificates, _clock) = open(&issued).expect("a pair");
    let server = Echo::start(certificates.acceptor(Protocols::Http2), PATIENCE).await;
    let config = || client(issued.root(), NOW);
    let mut before = server.connect(config(), "localhost").await.expect("trusted");
    assert_eq!(say(&mut before, "before").await, "BEFORE");
    assert!(server.connect(config(), "new.example").await.is_err(), "not its name");

    let (certificate, key) = issued.sign(&["new.example"], (-1, 90));
    replace(&issued.files().certificate, &certificate);
    settle(&certificates);
    assert_eq!(certificates.not_after().0, NOW.0 + 20 * DAY_MS, "half a pair is none");
    assert!(server.connect(config(), "localhost").await.is_ok());
    replace(&issued.files().key, &key);
    certificates.check();
    assert_eq!(certificates.not_after().0, NOW.0 + 20 * DAY_MS, "it has only just changed");
    certificates.check();
    assert_eq!(certificates.not_after().0, NOW.0 + 90 * DAY_MS);
    assert!(server.connect(config(), "new.example").await.is_ok());
    assert!(server.connect(config(), "localhost").await.is_err(), "not its name any more");
    assert_eq!(say(&mut before, "still").await, "STILL");
}

#[tokio::test]
async fn a_bad_pair_leaves_the_one_before() {
    let issued = Issued::new();
    issued.issue(&["localhost"], (-1, 20));
    let (certificates, clock) = open(&issued).expect("a pair");
    let server = Echo::start(certificates.acceptor(Protocols::Http1), PATIENCE).await;
    for bad in ["", "-----BEGIN CERTIFICATE-----\nnonsense"] {
        replace(&issued.files().certificate, bad);
        settle(&certificates);
        assert!(server.connect(client(issued.root(), NOW), "localhost").await.is_ok(), "{bad}");
    }
    issued.issue(&["localhost"], (-90, -1));
    settle(&certificates);
    assert_eq!(certificates.not_after().0, NOW.0 + 20 * DAY_MS, "an expired one is none");
    fs::remove_file(issued.files().certificate).expect("removed");
    fs::remove_file(issued.files().key).expect("removed");
    settle(&certificates);
    assert!(server.connect(client(issued.root(), NOW), "localhost").await.is_ok());
    // Even an expired one is shown: what is there is better than nothing for who does not look.
    clock.advance_millis(21 * DAY_MS);
    certificates.check();
    let late = client(issued.root(), tarn_types::UnixMillis(NOW.0 + 21 * DAY_MS));
    let refused = server.connect(late, "localhost").await.expect_err("it is over").to_string();
    assert!(refused.contains("xpired"), "{refused}");
    issued.issue(&["localhost"], (-1, 60));
    settle(&certificates);
    let late = client(issued.root(), tarn_types::UnixMillis(NOW.0 + 21 * DAY_MS));
    assert!(server.connect(late, "localhost").await.is_ok(), "and a good one helps");
}
