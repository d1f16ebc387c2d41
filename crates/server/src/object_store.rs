//! The object store that snapshots are kept in: opened, cleared of what nobody needs, and counted.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use secrecy::SecretString;
use serde::Deserialize;
use tarn_host::Archive;
use tarn_http::MetricsSource;
use tarn_node::{DirectionCounts, NodeService, TransferCounts};
use tarn_storage::{
    Claimed, ExpectedMark, HostCaptures, MasterKey, ObjectArchive, ObjectStoreConfig,
    ObjectStoreConfigError,
};
use tarn_task::Tasks;

use crate::{config::DataDir, identity};

/// The least that `gc_grace_secs` may be: an upload must be over within half of it.
const GRACE_LEAST_SECS: u64 = 3600;

/// How long after a start the first collection is, at most.
const FIRST_COLLECTION: Duration = Duration::from_secs(600);

/// How long the object store may take to answer at the start.
const CHECK_DEADLINE: Duration = Duration::from_secs(10);

/// What `object_store.used` ends with once that object store has our mark.
const MARKED: &str = "marked\n";

/// `[object_store]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ObjectStoreSection {
    /// `s3://bucket/prefix` or `file:///directory`. Without it snapshots stay on the node's disk.
    pub(crate) url: Option<String>,
    /// Where S3 answers; without it AWS itself.
    pub(crate) endpoint: Option<String>,
    /// The region of the bucket. Without it `us-east-1`.
    pub(crate) region: Option<String>,
    /// The access key of S3.
    pub(crate) access_key: Option<String>,
    /// Its secret, in this file, which others must then not read.
    pub(crate) secret_key: Option<SecretString>,
    /// The file that has its secret.
    pub(crate) secret_key_file: Option<PathBuf>,
    /// Allows an endpoint that is not encrypted. Default: false.
    pub(crate) allow_http: bool,
    /// The key that everything there is encrypted with, made at the first start. Without it
    /// `master.key` in the data directory.
    pub(crate) key_file: Option<PathBuf>,
    /// How long what no snapshot needs any more stays there, in seconds. Default: 24 h.
    pub(crate) gc_grace_secs: u64,
    /// How often it is looked for, in seconds. Default: 6 h.
    pub(crate) gc_every_secs: u64,
}

/// An object store that answers.
#[derive(Clone)]
pub(crate) struct OpenObjectStore {
    pub(crate) archive: Arc<dyn Archive>,
    /// Where it is.
    pub(crate) place: String,
    pub(crate) key_file: PathBuf,
    every: Duration,
    grace: Duration,
    counts: Arc<CollectionCounts>,
}

/// What the data directory knows of an object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Used {
    /// Nothing.
    Never,
    /// It answered at a start, but as somebody else, or elsewhere.
    Otherwise,
    /// It answered at a start.
    Before,
    /// And it has our mark.
    Marked,
}

/// What became of collections since the start.
#[derive(Debug, Default)]
struct CollectionCounts {
    done: AtomicU64,
    failed: AtomicU64,
    chunks: AtomicU64,
    bytes: AtomicU64,
}

// === impl ObjectStoreSection ===

impl Default for ObjectStoreSection {
    fn default() -> Self {
        Self {
            url: None,
            endpoint: None,
            region: None,
            access_key: None,
            secret_key: None,
            secret_key_file: None,
            allow_http: false,
            key_file: None,
            gc_grace_secs: 24 * 3600,
            gc_every_secs: 6 * 3600,
        }
    }
}

impl ObjectStoreSection {
    /// Checks all that can be checked without asking anybody.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.gc_grace_secs >= GRACE_LEAST_SECS,
            "object_store.gc_grace_secs must be at least {GRACE_LEAST_SECS}: an upload that takes \
             longer than half of it would lose what it sent"
        );
        anyhow::ensure!(self.gc_every_secs >= 1, "object_store.gc_every_secs must be at least 1");
        anyhow::ensure!(
            self.secret_key.is_none() || self.secret_key_file.is_none(),
            "object_store.secret_key and object_store.secret_key_file are both there; say one"
        );
        let Some(url) = &self.url else {
            let others = [
                ("endpoint", self.endpoint.is_some()),
                ("region", self.region.is_some()),
                ("access_key", self.access_key.is_some()),
                ("secret_key", self.secret_key.is_some()),
                ("secret_key_file", self.secret_key_file.is_some()),
                ("key_file", self.key_file.is_some()),
                ("allow_http", self.allow_http),
            ];
            let other = others.into_iter().find(|(_, there)| *there);
            anyhow::ensure!(
                other.is_none(),
                "object_store.{} is there and object_store.url is not; say where the object store \
                 is, or leave both out",
                other.map_or("url", |(key, _)| key)
            );
            return Ok(());
        };
        let mut config = self.config(url);
        if self.secret_key_file.is_some() {
            // Which is read at the start.
            config.secret_key = Some(SecretString::from(String::new()));
        }
        config.check().map_err(|wrong| in_keys(&wrong))
    }

    fn config(&self, url: &str) -> ObjectStoreConfig {
        ObjectStoreConfig {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            access_key: self.access_key.clone(),
            secret_key: self.secret_key.clone(),
            allow_http: self.allow_http,
            grace: Duration::from_secs(self.gc_grace_secs),
            ..ObjectStoreConfig::new(url)
        }
    }

    /// Opens the object store, if there is one, and checks that it answers.
    pub(crate) async fn open(
        &self,
        data: &DataDir,
        captures: &Arc<HostCaptures>,
    ) -> anyhow::Result<Option<OpenObjectStore>> {
        let Some(url) = &self.url else { return Ok(None) };
        let mut config = self.config(url);
        if let Some(path) = &self.secret_key_file {
            let path = data.root.join(path);
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("read object_store.secret_key_file {}", path.display()))?;
            config.secret_key = Some(SecretString::from(text.trim().to_owned()));
        }
        let grace = config.grace;
        // A relative path is one in the data directory.
        let key_file =
            self.key_file.as_ref().map_or_else(|| data.master_key(), |path| data.root.join(path));
        let used = self.used(url, data);
        check_key(&key_file, url, used)?;
        let key = MasterKey::open_or_create(&key_file)
            .with_context(|| format!("open object_store.key_file {}", key_file.display()))?;
        let archive = ObjectArchive::open(&config, key, Arc::clone(captures))
            .with_context(|| format!("open object_store.url {url}"))?
            .insisting_on_mark();
        let expected = match used {
            Used::Marked => ExpectedMark::Present,
            Used::Never | Used::Otherwise | Used::Before => ExpectedMark::Unknown,
        };
        let checking = async {
            archive.check().await?;
            archive.claim(expected).await
        };
        let claimed = match tokio::time::timeout(CHECK_DEADLINE, checking).await {
            Ok(claimed) => claimed.map_err(anyhow::Error::from),
            Err(_late) => Err(anyhow!("no answer within {} s", CHECK_DEADLINE.as_secs())),
        };
        self.heed(claimed, url, &key_file, data)?;
        Ok(Some(OpenObjectStore {
            archive: Arc::new(archive),
            place: url.clone(),
            key_file,
            every: Duration::from_secs(self.gc_every_secs),
            grace,
            counts: Arc::default(),
        }))
    }

    /// Tells the object store, and who we are to it, from others.
    fn spelled(&self, url: &str) -> String {
        format!("{url} {:?} {:?} {:?}\n", self.endpoint, self.region, self.access_key)
    }

    fn used(&self, url: &str, data: &DataDir) -> Used {
        let text = std::fs::read_to_string(data.object_store_used()).unwrap_or_default();
        match text.strip_prefix(&self.spelled(url)) {
            Some(MARKED) => Used::Marked,
            Some(_) => Used::Before,
            None if text.starts_with(&format!("{url} ")) => Used::Otherwise,
            None => Used::Never,
        }
    }

    /// Ends the start if the object store cannot be used, or is not ours. One that was used before
    /// may be away: sandboxes must not wait for it to be taken over, and snapshots can.
    fn heed(
        &self,
        claimed: anyhow::Result<Claimed>,
        url: &str,
        key_file: &Path,
        data: &DataDir,
    ) -> anyhow::Result<()> {
        let used = self.used(url, data);
        match claimed {
            Ok(Claimed::Ours) if used == Used::Marked => Ok(()),
            Ok(Claimed::Ours) => {
                let text = format!("{}{MARKED}", self.spelled(url));
                identity::write_private(&data.object_store_used(), &text)
            }
            Ok(Claimed::Blank) => Err(anyhow!(
                "the object store {url} is not the one that was used before: it is empty. If it is \
                 a directory, see that its disk is mounted there; if it is a bucket, look at \
                 object_store.url and endpoint. To begin anew in it, with every snapshot lost that \
                 is there alone, remove {}",
                data.object_store_used().display()
            )),
            // It was so before anybody marked object stores: nothing of it is called lost.
            Ok(Claimed::Unreadable { detail }) if used == Used::Before => {
                tracing::warn!(
                    detail,
                    key_file = %key_file.display(),
                    "what was tried in the object store does not open with its key; if the key is \
                     another one, bring the right one back"
                );
                Ok(())
            }
            Ok(Claimed::Strange { detail } | Claimed::Unreadable { detail }) => Err(anyhow!(
                "the object store {url} is encrypted with another key than that in \
                 object_store.key_file {} ({detail}): bring the right key back to that place, or \
                 choose an empty place for the snapshots, such as another prefix",
                key_file.display()
            )),
            Err(failed) if matches!(used, Used::Before | Used::Marked) => {
                let error = format!("{failed:#}");
                tracing::warn!(error, "the object store cannot be used now; snapshots wait here");
                Ok(())
            }
            Err(failed) => Err(failed).with_context(|| {
                format!(
                    "use the object store {url}: see that it is reachable and may be written to, \
                     and look at object_store.url, endpoint, access_key and secret_key; without \
                     object_store.url snapshots stay on this machine"
                )
            }),
        }
    }
}

/// Refuses to make a new key for an object store that is encrypted with another.
fn check_key(key_file: &Path, url: &str, used: Used) -> anyhow::Result<()> {
    // What cannot be looked at is not taken for absent: reading it says why.
    let there = key_file.try_exists().unwrap_or(true);
    anyhow::ensure!(
        there || used == Used::Never,
        "object_store.key_file {} is not there, and the object store {url} was used before: \
         everything in it is encrypted with that key. Bring the file back from its copy, or look \
         at object_store.key_file",
        key_file.display()
    );
    Ok(())
}

/// Says which key of the configuration is wrong.
fn in_keys(wrong: &ObjectStoreConfigError) -> anyhow::Error {
    let key = match wrong {
        ObjectStoreConfigError::Url { .. } => "object_store.url",
        ObjectStoreConfigError::Absent { .. } => {
            "object_store.access_key, and secret_key or secret_key_file"
        }
        ObjectStoreConfigError::Endpoint { .. } => "object_store.endpoint",
        ObjectStoreConfigError::Http { .. } => "object_store.endpoint, or allow_http = true",
    };
    anyhow!("{wrong}; look at {key}")
}

// === impl OpenObjectStore ===

impl OpenObjectStore {
    /// Begins to remove, from time to time, what no snapshot needs.
    pub(crate) fn spawn_collector(&self, tasks: &Tasks) {
        let (this, stop) = (self.clone(), tasks.clone());
        drop(tasks.spawn("object_store_collector", async move {
            let mut pause = this.every.min(FIRST_COLLECTION);
            loop {
                tokio::select! {
                    () = stop.stopping() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                tokio::select! {
                    () = stop.stopping() => return,
                    () = this.collect() => {}
                }
                pause = this.every;
            }
        }));
    }

    async fn collect(&self) {
        match self.archive.collect(self.grace).await {
            Ok(collected) => {
                add(&self.counts.done, 1);
                add(&self.counts.chunks, collected.removed);
                add(&self.counts.bytes, collected.freed.bytes());
                tracing::info!(
                    kept = collected.kept,
                    removed = collected.removed,
                    freed_bytes = collected.freed.bytes(),
                    "object store cleared"
                );
            }
            Err(failed) => {
                add(&self.counts.failed, 1);
                let error = format!("{:#}", anyhow::Error::from(failed));
                tracing::warn!(error, "object store not cleared; trying again later");
            }
        }
    }

    /// Returns the metrics of everything that has to do with it.
    pub(crate) fn metrics(&self, node: &NodeService) -> MetricsSource {
        let (counts, node) = (Arc::clone(&self.counts), node.clone());
        Arc::new(move || render(&node.transfer_counts(), &counts))
    }
}

/// Writes the metrics in the Prometheus text format.
fn render(now: &TransferCounts, collections: &CollectionCounts) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, rows: &[(&str, String)]| {
        crate::metric::family(&mut text, name, kind, help, rows);
    };
    let both = |value: fn(&DirectionCounts) -> String| {
        [
            ("{direction=\"upload\"}", value(&now.uploads)),
            ("{direction=\"fetch\"}", value(&now.fetches)),
        ]
    };
    family(
        "object_store_transfers_total",
        "counter",
        "Snapshots uploaded and fetched.",
        &both(|counts| counts.done.to_string()),
    );
    family(
        "object_store_failures_total",
        "counter",
        "Transfers that failed; uploads are tried again.",
        &both(|counts| counts.failed.to_string()),
    );
    family(
        "object_store_duration_seconds_total",
        "counter",
        "How long transfers took that were done.",
        &both(|counts| format!("{}.{:03}", counts.millis / 1000, counts.millis % 1000)),
    );
    family(
        "object_store_bytes_total",
        "counter",
        "Bytes sent by uploads, and bytes of the snapshots fetched.",
        &both(|counts| counts.bytes.to_string()),
    );
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let rows: [(&str, &str, &str, u64); 8] = [
        ("uploads_queued", "gauge", "Uploads that wait for their turn.", now.queued),
        ("uploads_active", "gauge", "Uploads that go on.", now.uploading),
        ("fetches_active", "gauge", "Fetches that go on.", now.fetching),
        (
            "removal_failures_total",
            "counter",
            "Removals that failed; they are tried again.",
            now.removals_failed,
        ),
        ("collections_total", "counter", "Collections of garbage.", get(&collections.done)),
        (
            "collection_failures_total",
            "counter",
            "Collections of garbage that failed.",
            get(&collections.failed),
        ),
        ("chunks_removed_total", "counter", "Chunks removed as garbage.", get(&collections.chunks)),
        ("bytes_freed_total", "counter", "Bytes of those chunks.", get(&collections.bytes)),
    ];
    for (name, kind, help, value) in rows {
        family(&format!("object_store_{name}"), kind, help, &[("", value.to_string())]);
    }
    text
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> ObjectStoreSection {
        toml::from_str(text).expect("it is understood")
    }

    #[test]
    fn what_is_wrong_names_its_key() {
        let s3 = "url = \"s3://bucket/p\"\naccess_key = \"a\"\nsecret_key = \"b\"\n";
        let table = [
            ("gc_grace_secs = 60".to_owned(), "object_store.gc_grace_secs"),
            ("gc_every_secs = 0".to_owned(), "object_store.gc_every_secs"),
            ("access_key = \"a\"".to_owned(), "object_store.url"),
            ("url = \"ftp://there\"".to_owned(), "object_store.url"),
            ("url = \"s3://bucket\"".to_owned(), "object_store.access_key"),
            ("url = \"s3://bucket\"\naccess_key = \"a\"".to_owned(), "secret_key_file"),
            (format!("{s3}secret_key_file = \"f\""), "secret_key_file are both"),
            (format!("{s3}endpoint = \"there\""), "object_store.endpoint"),
            (format!("{s3}endpoint = \"http://127.0.0.1:1\""), "allow_http"),
        ];
        for (text, key) in table {
            let wrong = format!("{:#}", section(&text).check().expect_err(&text));
            assert!(wrong.contains(key), "{text}: {wrong}");
        }
        for good in [
            String::new(),
            s3.to_owned(),
            format!("{s3}endpoint = \"http://127.0.0.1:1\"\nallow_http = true"),
            "url = \"s3://b\"\naccess_key = \"a\"\nsecret_key_file = \"f\"".to_owned(),
            "url = \"file:///srv/snapshots\"".to_owned(),
        ] {
            section(&good).check().expect(&good);
        }
    }

    #[test]
    fn only_one_that_was_used_before_may_be_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir { root: dir.path().to_owned() };
        let away = || Err(anyhow!("connection refused"));
        let key = dir.path().join("master.key");
        let section = ObjectStoreSection::default();
        let ended = section.heed(away(), "s3://b", &key, &data).expect_err("it was never used");
        let ended = format!("{ended:#}");
        assert!(ended.contains("object_store.url") && ended.contains("refused"), "{ended}");
        section.heed(Ok(Claimed::Ours), "s3://b", &key, &data).expect("it answers");
        section.heed(away(), "s3://b", &key, &data).expect("it comes back");
        section.heed(away(), "s3://other", &key, &data).expect_err("another one");
        let other = ObjectStoreSection { access_key: Some("a".to_owned()), ..section };
        other.heed(away(), "s3://b", &key, &data).expect_err("as somebody else");
    }

    #[test]
    fn one_that_is_not_ours_ends_the_start_and_says_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir { root: dir.path().to_owned() };
        let key = dir.path().join("master.key");
        let section = ObjectStoreSection::default();
        assert_eq!(section.used("s3://b", &data), Used::Never);
        check_key(&key, "s3://b", Used::Never).expect("the first start makes it");
        // As a server wrote it that knew no marks.
        std::fs::write(data.object_store_used(), section.spelled("s3://b")).expect("written");
        assert_eq!(section.used("s3://b", &data), Used::Before);
        section.heed(Ok(Claimed::Ours), "s3://b", &key, &data).expect("it is marked now");
        assert_eq!(section.used("s3://b", &data), Used::Marked);
        let other = ObjectStoreSection { access_key: Some("a".to_owned()), ..section.clone() };
        assert_eq!(other.used("s3://b", &data), Used::Otherwise);
        assert_eq!(section.used("s3://bb", &data), Used::Never);
        for used in [Used::Otherwise, Used::Before, Used::Marked] {
            let ended = check_key(&key, "s3://b", used).expect_err("no new key is made");
            assert!(ended.to_string().contains("master.key"), "{ended}");
        }
        std::fs::write(&key, "a key").expect("written");
        check_key(&key, "s3://b", Used::Marked).expect("it is there");
        let strange = Claimed::Strange { detail: "marks/store: it has changed".to_owned() };
        let unreadable = Claimed::Unreadable { detail: "snapshots/a: it has changed".to_owned() };
        let ends = [
            (Claimed::Blank, "mounted"),
            (strange, "master.key"),
            (unreadable.clone(), "master.key"),
        ];
        for (claimed, said) in ends {
            let ended = section.heed(Ok(claimed), "s3://b", &key, &data).expect_err("not ours");
            assert!(ended.to_string().contains(said), "{ended}");
        }
        // As a server that knew no marks left it.
        std::fs::write(data.object_store_used(), section.spelled("s3://b")).expect("written");
        assert_eq!(section.used("s3://b", &data), Used::Before);
        section.heed(Ok(unreadable), "s3://b", &key, &data).expect("it started before, too");
        assert_eq!(section.used("s3://b", &data), Used::Before, "and is not marked");
    }

    #[test]
    fn a_secret_is_not_printed() {
        let text = "url = \"s3://b\"\naccess_key = \"a\"\nsecret_key = \"hush-hush\"";
        let shown = format!("{:?}", section(text));
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let uploads = DirectionCounts { done: 3, failed: 1, bytes: 99, millis: 2_005 };
        let counts = TransferCounts { queued: 2, uploads, ..TransferCounts::default() };
        let text = render(&counts, &CollectionCounts::default());
        for line in [
            "tarn_object_store_transfers_total{direction=\"upload\"} 3",
            "tarn_object_store_failures_total{direction=\"fetch\"} 0",
            "tarn_object_store_duration_seconds_total{direction=\"upload\"} 2.005",
            "tarn_object_store_bytes_total{direction=\"upload\"} 99",
            "tarn_object_store_uploads_queued 2",
            "tarn_object_store_collections_total 0",
        ] {
            assert!(text.lines().any(|each| each == line), "{line}\n{text}");
        }
    }
}
