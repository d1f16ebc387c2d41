use std::{
    collections::BTreeMap,
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_build::Run;
use tarn_types::BootImage;
use tokio::sync::oneshot;

use super::*;
use crate::workshop::{BaseImage, Parcel};

/// Notes what is done, and does nothing.
#[derive(Default)]
struct Notes {
    said: Mutex<Vec<String>>,
    kept: Mutex<BTreeMap<CacheKey, SnapshotId>>,
    opened: AtomicUsize,
    open: AtomicUsize,
    /// A command that fails.
    fails: Option<&'static str>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Notes>);

struct FakeBench(Fake);

// === impl Fake ===

impl Fake {
    fn say(&self, text: String) {
        self.0.said.lock().push(text);
    }

    async fn build(&self, text: &str) -> Result<Outcome, StepError> {
        self.build_with(text, None, &Tasks::new()).await
    }

    async fn build_with(
        &self,
        text: &str,
        context: Option<Arc<Context>>,
        tasks: &Tasks,
    ) -> Result<Outcome, StepError> {
        let file = Dockerfile::parse(text, &BTreeMap::new()).expect("a good Dockerfile");
        let (file, (journal, _lines)) = (&Arc::new(file), Journal::new());
        let (workshop, journal) = (self, &journal);
        let begun = UnixMillis(0);
        let engine = Engine { file, context, workshop, journal, disk_bytes: 1, begun, tasks };
        engine.run().await
    }

    fn said(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.said.lock())
    }
}

#[async_trait]
impl Workshop for Fake {
    async fn base(&self, name: &str) -> Result<BaseImage, StepError> {
        if name == "nowhere" {
            return Err(StepError::Failed("no image is named `nowhere`".to_owned()));
        }
        let image: BootImage = name.parse().expect("a good name");
        let env = vec![("BASE".to_owned(), name.to_owned())];
        let config = BuildConfig { env, ..BuildConfig::default() };
        Ok(BaseImage { image, identity: name.to_owned(), config })
    }

    async fn kept(&self, key: CacheKey) -> Option<SnapshotId> {
        self.0.kept.lock().get(&key).cloned()
    }

    async fn open(&self, files: &Files) -> Result<Box<dyn Bench>, StepError> {
        self.0.opened.fetch_add(1, Ordering::SeqCst);
        self.0.open.fetch_add(1, Ordering::SeqCst);
        match files {
            Files::Image(image) => self.say(format!("open {}", image.name)),
            Files::Kept(_) => self.say("open kept".to_owned()),
        }
        Ok(Box::new(FakeBench(self.clone())))
    }
}

#[async_trait]
impl Bench for FakeBench {
    async fn run(&self, run: &Run, _journal: &Journal) -> Result<(), StepError> {
        let command = run.argv.last().cloned().unwrap_or_default();
        self.0.say(format!("run {command}"));
        match self.0.0.fails == Some(command.as_str()) {
            true => Err(StepError::Failed("it ended with exit code 1".to_owned())),
            false => Ok(()),
        }
    }

    async fn copy_in(&self, ask: &CopyIn, parcel: Parcel) -> Result<(), StepError> {
        self.0.say(format!("in {}", ask.dest));
        drop(parcel.stream);
        Ok(())
    }

    async fn copy_out(&self, ask: &CopyOut) -> Result<Parcel, StepError> {
        self.0.say(format!("out {}", ask.sources.join(" ")));
        let (_tell, done) = oneshot::channel();
        Ok(Parcel { stream: Box::new(tokio::io::empty()), done })
    }

    async fn keep(&self, key: CacheKey) -> Result<SnapshotId, StepError> {
        let mut kept = self.0.0.kept.lock();
        let number = u8::try_from(kept.len()).expect("a few");
        let id = SnapshotId::from_random([number; 16]);
        kept.insert(key, id.clone());
        Ok(id)
    }

    async fn close(self: Box<Self>) {
        self.0.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

const STAGES: &str = "FROM a AS one\nRUN make\nFROM b\nWORKDIR /w\nENV X=1\n\
                      COPY --from=one /out /w/\nRUN test\nCMD [\"go\"]\n";

#[tokio::test]
async fn stages_are_built_in_order() {
    let fake = Fake::default();
    let outcome = fake.build(STAGES).await.expect("it is built");
    let expected =
        ["open a", "run make", "open b", "in /w/", "open kept", "out /out", "in /w/", "run test"];
    assert_eq!(fake.said(), expected);
    assert_eq!(outcome.config.cmd, ["go"]);
    assert_eq!(outcome.config.working_dir.as_deref(), Some("/w"));
    assert_eq!(fake.0.open.load(Ordering::SeqCst), 0, "every bench is given back");
}

#[tokio::test]
async fn what_is_kept_is_not_done_again() {
    let fake = Fake::default();
    let first = fake.build(STAGES).await.expect("it is built");
    fake.said();
    let opened = fake.0.opened.load(Ordering::SeqCst);
    let second = fake.build(STAGES).await.expect("it is built");
    assert_eq!((first, fake.said()), (second, Vec::<String>::new()));
    assert_eq!(fake.0.opened.load(Ordering::SeqCst), opened);
    // From the first step that differs on, all is done.
    fake.build(&STAGES.replace("RUN test", "RUN other")).await.expect("it is built");
    assert_eq!(fake.said(), ["open kept", "run other"]);
    fake.build(&STAGES.replace("RUN make", "RUN make all")).await.expect("it is built");
    let expected =
        ["open a", "run make all", "open kept", "open kept", "out /out", "in /w/", "run test"];
    assert_eq!(fake.said(), expected);
}

#[tokio::test]
async fn a_base_alone_is_an_image() {
    let fake = Fake::default();
    let first = fake.build("FROM a\nCMD x\n").await.expect("it is built");
    assert_eq!(fake.said(), ["open a"]);
    let second = fake.build("FROM a\nCMD y\n").await.expect("it is built");
    assert_eq!(fake.said(), Vec::<String>::new());
    assert_eq!(first.snapshot, second.snapshot);
    assert_ne!(first.config, second.config);
}

#[tokio::test]
async fn a_step_that_fails_ends_the_build_and_is_not_kept() {
    let fake = Fake(Arc::new(Notes { fails: Some("bad"), ..Notes::default() }));
    let failed = fake.build("FROM a\nRUN good\nRUN bad\nRUN never\n").await;
    assert!(matches!(failed, Err(StepError::Failed(text)) if text.contains("exit code 1")));
    assert_eq!(fake.said(), ["open a", "run good", "run bad"]);
    assert_eq!(fake.0.kept.lock().len(), 1);
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let fake = Fake::default();
    for (text, said) in [
        ("FROM nowhere\n", "nowhere"),
        ("FROM a\nCOPY x y\n", "no context"),
        ("FROM a\nUSER $NONE\n", "line 2"),
    ] {
        let failed = fake.build(text).await.expect_err(text);
        assert!(failed.to_string().contains(said), "{text}: {failed}");
    }
}

#[tokio::test]
async fn a_copy_that_takes_long_holds_nobody_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("context.tar");
    let mut archive = tar::Builder::new(File::create(&path).expect("a file"));
    for n in 0..2000 {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        let name = format!("{}{n}", "a".repeat(4000));
        archive.append_data(&mut header, name, io::empty()).expect("it is added");
    }
    archive.into_inner().expect("the archive is whole");
    let context = Context::read(&path, &AtomicBool::new(false)).expect("it is good");
    let (fake, tasks) = (Fake::default(), Tasks::new());
    // Minutes, if it is let.
    let text = format!("FROM a\nCOPY *{}b /x\n", "a".repeat(2000));
    let building = fake.build_with(&text, Some(Arc::new(context)), &tasks);
    assert!(tokio::time::timeout(Duration::from_millis(50), building).await.is_err());
    assert_eq!(tasks.shutdown(Duration::from_secs(30)).await, 0, "its thread has ended");
}
