//! The local CA: made once, trusted for our names and no others, renewed.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use tarn_task::Clock as _;
use tarn_tls::{AuthorityCertificate, Certificates, LocalAuthority, Protocols, ServerNames};
use tarn_types::UnixMillis;

use crate::world::{DAY_MS, Echo, Issued, NOW, PATIENCE, client, clock, pem, say};

fn names() -> ServerNames {
    let mut names = ServerNames::default();
    for host in ["127.0.0.1", "::1", "tarn.example.com"] {
        names.add_host(host).expect("a host");
    }
    for domain in ["localhost", "sandbox.example.com"] {
        names.add_domain(domain).expect("a domain");
    }
    names
}

fn open(dir: &Path) -> LocalAuthority {
    LocalAuthority::open_or_make(dir, NOW).expect("an authority")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

#[test]
fn it_is_made_once_and_its_key_is_its_owners() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(AuthorityCertificate::read(dir.path()).expect("readable").is_none());
    let made = open(dir.path()).certificate().clone();
    let again = open(dir.path()).certificate().clone();
    assert_eq!(made.pem(), again.pem());
    assert_eq!(made.path(), dir.path().join("ca.pem"));
    assert_eq!((mode(&dir.path().join("ca.key")), mode(made.path())), (0o600, 0o644));
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 2, "no draft is left");
    let fingerprint = made.fingerprint();
    let pairs: Vec<_> = fingerprint.split(':').collect();
    assert!(pairs.len() == 32 && pairs.iter().all(|pair| pair.len() == 2), "{fingerprint}");
    let other = tempfile::tempdir().expect("a directory");
    assert_ne!(open(other.path()).certificate().fingerprint(), fingerprint);
}

#[tokio::test]
async fn a_lost_certificate_is_made_again_from_the_key() {
    // The same as a start leaves that was cut between the two files.
    let dir = tempfile::tempdir().expect("a directory");
    let before = open(dir.path()).certificate().clone();
    fs::remove_file(before.path()).expect("removed");
    let authority = open(dir.path());
    let after = pem(authority.certificate().pem());
    let certificates =
        Certificates::from_authority(authority, names(), clock()).expect("a certificate");
    let server = Echo::start(certificates.acceptor(Protocols::Http2), PATIENCE).await;
    for root in [pem(before.pem()), after] {
        assert!(server.connect(client(&root, NOW), "localhost").await.is_ok());
    }
}

#[test]
fn a_broken_one_is_refused_and_never_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let certificate = open(dir.path()).certificate().clone();
    let key = dir.path().join("ca.key");
    let refused = |now: UnixMillis| {
        let refused = LocalAuthority::open_or_make(dir.path(), now).expect_err("refused");
        refused.to_string()
    };
    let late = refused(UnixMillis(NOW.0 + 3651 * DAY_MS));
    assert!(late.contains("expired on 2037-01-12") && late.contains("ca.key"), "{late}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("changed");
    assert!(refused(NOW).contains("chmod 600"), "{}", refused(NOW));
    fs::remove_file(&key).expect("removed");
    assert!(refused(NOW).contains("ca.key is missing"), "{}", refused(NOW));
    let other = tempfile::tempdir().expect("a directory");
    open(other.path());
    fs::copy(other.path().join("ca.key"), &key).expect("copied");
    assert!(refused(NOW).contains("does not fit"), "{}", refused(NOW));
    // Another program's authority: its names are not what we sign with.
    let (foreign, foreign_key) = Issued::new().authority();
    fs::write(certificate.path(), foreign).expect("written");
    fs::write(&key, foreign_key).expect("written");
    assert!(refused(NOW).contains("does not fit"), "{}", refused(NOW));
    fs::write(certificate.path(), "").expect("written");
    assert!(refused(NOW).contains("is no certificate"), "{}", refused(NOW));
}

#[tokio::test]
async fn clients_that_trust_it_accept_our_names_and_no_others() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(open(dir.path()));
    // The second start: the issuer is made again from the key.
    let authority = open(dir.path());
    let root = pem(authority.certificate().pem());
    let certificates =
        Certificates::from_authority(authority, names(), clock()).expect("a certificate");
    let server = Echo::start(certificates.acceptor(Protocols::Http2), PATIENCE).await;
    for name in [
        "localhost",
        "127.0.0.1",
        "::1",
        "tarn.example.com",
        "sandbox.example.com",
        "8000-box.sandbox.example.com",
        // OpenSSL, webpki and Node refuse `*.localhost`: each of these has its own certificate.
        "8000-box.localhost",
        "8000-box.localhost",
        "another.localhost",
    ] {
        let stream = server.connect(client(&root, NOW), name).await;
        assert_eq!(say(&mut stream.expect(name), "hello").await, "HELLO");
    }
    for name in ["a.b.localhost", "10.0.0.1", "any.tarn.example.com", "example.org"] {
        assert!(server.connect(client(&root, NOW), name).await.is_err(), "{name}");
    }
    let other = tempfile::tempdir().expect("a directory");
    let stranger = pem(open(other.path()).certificate().pem());
    assert!(server.connect(client(&stranger, NOW), "localhost").await.is_err());
}

#[tokio::test]
async fn it_is_renewed_before_it_ends_and_no_longer_than_the_authority() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = open(dir.path());
    let root = pem(authority.certificate().pem());
    let last = authority.certificate().not_after();
    let clock = clock();
    let own = Arc::clone(&clock);
    let certificates =
        Certificates::from_authority(authority, names(), own).expect("a certificate");
    let server = Echo::start(certificates.acceptor(Protocols::Http2), PATIENCE).await;
    let ends = |days: i64| assert_eq!(certificates.not_after().0, NOW.0 + days * DAY_MS);
    ends(90);
    clock.advance_millis(59 * DAY_MS);
    certificates.check();
    ends(90);
    clock.advance_millis(DAY_MS);
    certificates.check();
    ends(150);
    for name in ["localhost", "8000-box.localhost"] {
        let late = UnixMillis(NOW.0 + 120 * DAY_MS);
        assert!(server.connect(client(&root, late), name).await.is_ok(), "{name}");
    }
    clock.advance_millis(last.0 - clock.now().0 - 10 * DAY_MS);
    certificates.check();
    assert_eq!(certificates.not_after(), last);
    certificates.check();
    assert_eq!(certificates.not_after(), last);
    assert!(Certificates::is_soon(last, clock.now()));
}
