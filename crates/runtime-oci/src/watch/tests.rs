//! A watch over a group that is a directory of files. The sentry is a program that sleeps.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command},
};

use tarn_types::InstanceTag;

use super::*;
use crate::cgroup::{Cgroups, Layout};

const MIB: u64 = 1 << 20;
const BOUNDS: MemoryBounds = MemoryBounds { soft: 284 * MIB, hard: 348 * MIB };

/// The file that the alarm is for.
const EVENTS: &str = "memory.events";

/// How often it is looked whether something was announced. The clock stands still but for whoever
/// waits for it, and an alarm is heard when it moves.
const TICK: Duration = Duration::from_millis(5);

struct Scene {
    id: SandboxId,
    /// Removed at the end.
    _dir: tempfile::TempDir,
    group: PathBuf,
    sentry: Child,
    events: mpsc::Receiver<RuntimeEvent>,
    wishes: mpsc::Sender<Rebound>,
    watch: Option<Watch>,
    tasks: Tasks,
}

// === impl Scene ===

impl Scene {
    /// A sandbox with so much memory, not watched yet.
    fn new(mib: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tag: InstanceTag = "abc123".parse().unwrap();
        let id = SandboxId::from_random([1; SandboxId::LENGTH]);
        let layout = Layout::V2 { base: dir.path().to_owned() };
        let cgroup = Cgroups::find(layout, &tag).sandbox(&id);
        let group = dir.path().join(format!("tarn_{tag}")).join(id.as_str());
        fs::create_dir_all(&group).unwrap();
        let sentry = Command::new("sleep").arg("1000").spawn().unwrap();
        let (tell, events) = mpsc::channel(64);
        let (wishes, heard) = mpsc::channel(1);
        // Nobody can pause it.
        let (_, still) = watch::channel(false);
        let tasks = Tasks::new();
        let watch = Watch {
            id: id.clone(),
            sentry: Process::open(sentry.id()).unwrap().unwrap(),
            cgroup,
            bounds: BOUNDS,
            wishes: heard,
            still,
            events: tell,
            tasks: tasks.clone(),
        };
        let watch = Some(watch);
        let scene = Self { id, _dir: dir, group, sentry, events, wishes, watch, tasks };
        scene.take(mib);
        scene.write("memory.stat", "inactive_file 0\nactive_file 0\n");
        scene.write("memory.high", &BOUNDS.hard.to_string());
        scene.write("memory.max", "max");
        scene.write(EVENTS, "high 0\n");
        scene
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.group.join(file), text).unwrap();
    }

    /// Has it use so much memory from now on.
    fn take(&self, mib: u64) {
        self.write("memory.current", &(mib * MIB).to_string());
    }

    fn begin(&mut self) {
        let watch = self.watch.take().unwrap();
        self.tasks.spawn("watch", watch.run(Round::default()));
    }

    /// Counts how often it is said for a while that the sandbox is out of memory.
    async fn wait_and_count(&mut self, during: Duration) -> usize {
        let begun = Instant::now();
        let mut count = 0;
        while begun.elapsed() < during {
            tokio::time::sleep(TICK).await;
            while let Ok(event) = self.events.try_recv() {
                assert_eq!(event, RuntimeEvent::MemoryPressure { id: self.id.clone() });
                count += 1;
            }
        }
        count
    }

    async fn wish(&self, bounds: MemoryBounds) {
        let (told, answer) = oneshot::channel();
        assert!(self.wishes.send(Rebound { bounds, told }).await.is_ok(), "it is watched");
        answer.await.unwrap().unwrap();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(self.sentry.kill());
        drop(self.sentry.wait());
    }
}

#[tokio::test(start_paused = true)]
async fn a_wish_amid_pressure_does_not_silence_it() {
    let mut scene = Scene::new(300);
    scene.begin();
    // By now they come every five seconds.
    assert!(scene.wait_and_count(Duration::from_secs(60)).await > 10);
    // Not enough to end it.
    scene.wish(MemoryBounds { soft: 285 * MIB, hard: 349 * MIB }).await;
    let more = scene.wait_and_count(Duration::from_secs(11)).await;
    assert!((1..4).contains(&more), "{more}, as before");

    // What comes after it is another bout, and announced at once.
    scene.take(20);
    assert_eq!(scene.wait_and_count(Duration::from_secs(60)).await, 0);
    scene.wish(BOUNDS).await;
    scene.take(300);
    scene.write(EVENTS, "high 1\n");
    assert!(scene.wait_and_count(Duration::from_millis(500)).await > 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_read_again() {
    let mut scene = Scene::new(300);
    let [stat, away] = ["memory.stat", "away"].map(|name| scene.group.join(name));
    fs::rename(&stat, &away).unwrap();
    scene.begin();
    assert_eq!(scene.wait_and_count(Duration::from_secs(5)).await, 0);
    fs::rename(&away, &stat).unwrap();
    assert!(scene.wait_and_count(Duration::from_millis(300)).await > 0);
}

#[tokio::test(start_paused = true)]
async fn without_an_alarm_it_is_looked_at_until_there_is_one() {
    let mut scene = Scene::new(20);
    let alarm = scene.group.join(EVENTS);
    fs::remove_file(&alarm).unwrap();
    scene.begin();
    assert_eq!(scene.wait_and_count(Duration::from_secs(5)).await, 0);
    // Nobody rings.
    scene.take(300);
    assert!(scene.wait_and_count(ALARM_PAUSE * 2).await > 0);

    scene.take(20);
    scene.write(EVENTS, "high 0\n");
    assert_eq!(scene.wait_and_count(ALARM_PAUSE * 3).await, 0);
    scene.take(300);
    assert_eq!(scene.wait_and_count(ALARM_PAUSE * 3).await, 0, "it waits for the alarm");
    scene.write(EVENTS, "high 1\n");
    assert!(scene.wait_and_count(ALARM_PAUSE).await > 0);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_one_without_a_group_is_seen() {
    let mut scene = Scene::new(300);
    fs::remove_dir_all(&scene.group).unwrap();
    scene.begin();
    scene.sentry.kill().unwrap();
    let exited =
        RuntimeEvent::Exited { id: scene.id.clone(), exit: RuntimeExit::Died("sentry_ended") };
    assert_eq!(scene.events.recv().await, Some(exited));
}
