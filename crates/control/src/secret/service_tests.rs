//! Data keys under a key service: there and back, and when it fails or lies.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_seal::{Key, KeyService, KeyServiceError};
use tarn_store::DataKeyRecord;
use tarn_task::SeededEntropy;
use tarn_types::{ProjectId, UnixMillis};
use zeroize::Zeroizing;

use super::{SecretKeyError, SecretKeys, ServiceKey};

const NOW: UnixMillis = UnixMillis(1_000_000);

/// Seals by turning bits over, and counts what it is asked.
#[derive(Debug, Default)]
struct Service {
    asked: Mutex<usize>,
    mood: Mutex<Mood>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Mood {
    #[default]
    Well,
    Away,
    /// What it opens is not what it sealed.
    Lying,
}

impl Service {
    fn answer(&self, bytes: &[u8]) -> Result<Vec<u8>, KeyServiceError> {
        *self.asked.lock() += 1;
        match *self.mood.lock() {
            Mood::Well => Ok(bytes.iter().map(|byte| !byte).collect()),
            Mood::Away => Err(KeyServiceError { detail: "it is away".to_owned() }),
            Mood::Lying => Ok(vec![7; bytes.len()]),
        }
    }
}

#[async_trait]
impl KeyService for Service {
    async fn wrap(&self, key_id: &str, plain: &[u8]) -> Result<Vec<u8>, KeyServiceError> {
        let mut wrapped = self.answer(plain)?;
        wrapped.push(u8::try_from(key_id.len()).expect("short"));
        Ok(wrapped)
    }

    async fn unwrap(
        &self,
        key_id: &str,
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
        let (last, rest) = wrapped.split_last().expect("something");
        assert_eq!(usize::from(*last), key_id.len(), "the key that it was sealed with");
        self.answer(rest).map(Zeroizing::new)
    }
}

fn project(number: u8) -> ProjectId {
    ProjectId::from_random([number; 16])
}

fn keys(dir: &Path, service: Option<(&Arc<Service>, &str, bool)>, kept_secs: u64) -> SecretKeys {
    let service = service.map(|(service, key_id, is_master)| ServiceKey {
        service: Arc::<Service>::clone(service),
        key_id: key_id.to_owned(),
        is_master,
        kept_secs,
    });
    SecretKeys::open_with(&dir.join("secrets.key"), service).expect("they open")
}

async fn made(keys: &SecretKeys, number: u8) -> (Key, DataKeyRecord) {
    let entropy = SeededEntropy::new(u64::from(number));
    let key = Key::random(&entropy);
    let record = keys.wrap(&project(number), &key, &entropy).await.expect("it is sealed");
    (key, record)
}

#[tokio::test]
async fn a_key_goes_to_the_service_and_back_and_each_names_what_sealed_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = Arc::new(Service::default());
    let (key, of_file) = made(&keys(dir.path(), None, 0), 1).await;
    // The file's are opened beside the service's, which seals the new ones.
    let both = keys(dir.path(), Some((&service, "k", true)), 0);
    assert!(!both.is_of_master(&of_file));
    let opened = both.unwrap(&of_file, NOW).await.expect("the file is there");
    assert_eq!(opened.bytes(), key.bytes());
    let of_service = both.wrap(&project(1), &opened, &SeededEntropy::new(1)).await;
    let of_service = of_service.expect("it is sealed");
    assert_eq!(of_service.wrapping, "kms:k");
    assert!(both.is_of_master(&of_service));
    // Without the file, and with another key of the service.
    std::fs::remove_file(dir.path().join("secrets.key")).expect("it was there");
    let alone = keys(dir.path(), Some((&service, "other", true)), 0);
    let opened = alone.unwrap(&of_service, NOW).await.expect("by the key that it names");
    assert_eq!(opened.bytes(), key.bytes());
    assert!(!dir.path().join("secrets.key").exists(), "none is made");
    let foreign = alone.check(&of_file).await.expect_err("its key is gone");
    assert!(matches!(foreign, SecretKeyError::Foreign { .. }), "{foreign}");
    // Back to a file.
    let back = keys(dir.path(), Some((&service, "k", false)), 0);
    let opened = back.unwrap(&of_service, NOW).await.expect("it still opens");
    let (_, of_file) = made(&back, 1).await;
    assert!(back.is_of_master(&of_file) && !back.is_of_master(&of_service));
    assert_eq!(opened.bytes(), key.bytes());
    let none = keys(dir.path(), None, 0).check(&of_service).await.expect_err("no service");
    let none = none.to_string();
    assert!(none.contains("`k`") && none.contains("secrets.kms_command"), "{none}");
}

#[tokio::test]
async fn a_row_that_was_moved_or_a_wrong_answer_does_not_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = Arc::new(Service::default());
    let keys = keys(dir.path(), Some((&service, "k", true)), 0);
    let (_, record) = made(&keys, 1).await;
    let moved = DataKeyRecord { project: project(2), ..record.clone() };
    let refused = keys.unwrap(&moved, NOW).await.expect_err("it was moved");
    assert!(matches!(refused, SecretKeyError::WrongAnswer { .. }), "{refused}");
    for key_id in ["-k", "a b", "a\n"] {
        let wrapping = format!("kms:{key_id}");
        let odd = DataKeyRecord { wrapping, ..record.clone() };
        let refused = keys.unwrap(&odd, NOW).await.expect_err("no argument for a program");
        assert!(matches!(refused, SecretKeyError::Damaged { .. }), "{refused}");
    }
    *service.mood.lock() = Mood::Lying;
    let refused = keys.unwrap(&record, NOW).await.expect_err("a wrong answer");
    assert!(matches!(refused, SecretKeyError::WrongAnswer { .. }), "{refused}");
    // And nothing is stored under a key that does not open.
    let entropy = SeededEntropy::new(3);
    let refused = keys.wrap(&project(3), &Key::random(&entropy), &entropy).await;
    assert!(matches!(refused, Err(SecretKeyError::WrongAnswer { .. })), "{refused:?}");
}

#[tokio::test]
async fn what_was_opened_is_kept_while_the_service_is_away() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = Arc::new(Service::default());
    let keys = keys(dir.path(), Some((&service, "k", true)), 60);
    let (key, record) = made(&keys, 1).await;
    keys.unwrap(&record, NOW).await.expect("it opens");
    let asked = *service.asked.lock();
    *service.mood.lock() = Mood::Away;
    for secs in [0, 30, 59] {
        let kept = keys.unwrap(&record, NOW.plus_secs(secs)).await.expect("it is kept");
        assert_eq!(kept.bytes(), key.bytes());
    }
    assert_eq!(*service.asked.lock(), asked);
    keys.check(&record).await.expect("a start asks nobody");
    let away = keys.unwrap(&record, NOW.plus_secs(60)).await.expect_err("no longer");
    assert!(matches!(away, SecretKeyError::Service { verb: "unwrap", .. }), "{away}");
    *service.mood.lock() = Mood::Well;
    keys.unwrap(&record, NOW.plus_secs(60)).await.expect("it answers again");
}
