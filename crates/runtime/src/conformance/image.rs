//! Pause, checkpoint and restore, for runtimes with memory snapshots.

use std::path::Path;

use super::{
    Case, Outcome,
    harness::{Harness, SILENCE},
    life::{expect_exists, expect_not_found},
    probe::answers,
};
use crate::{Adopted, CpuShare, RuntimeError, RuntimeSpec, Started};

pub(super) const CASES: &[Case] = &[
    Case::new("a paused sandbox is silent until it is resumed", |h| Box::pin(silent(h))),
    Case::new("pausing and resuming twice is once", |h| Box::pin(twice(h))),
    Case::new("what runs is not resumed, by the next server neither", |h| Box::pin(idle(h))),
    Case::new("a paused sandbox is adopted paused, and resumed", |h| Box::pin(adopted(h))),
    Case::new("a pause that its caller gave up is undone", |h| Box::pin(given_up(h))),
    Case::new("a paused sandbox can be deleted", |h| Box::pin(deleted(h))),
    Case::new("a paused sandbox that is killed is reported", |h| Box::pin(killed(h))),
    Case::new("a checkpoint leaves its sandbox paused and whole", |h| Box::pin(whole(h))),
    Case::new("a running sandbox is not written down", |h| Box::pin(not_paused(h))),
    Case::new("a failed checkpoint leaves its sandbox paused", |h| Box::pin(no_room(h))),
    Case::new("copies go on beside their source", |h| Box::pin(copies(h))),
    Case::new("a copy is watched, adopted, and written down again", |h| Box::pin(copy_lives(h))),
    Case::new("a sandbox goes on in its own place", |h| Box::pin(own_place(h))),
    Case::new("a restore under an id in use is refused", |h| Box::pin(id_in_use(h))),
    Case::new("what was staged is restored into, once", |h| Box::pin(staged(h))),
    Case::new("what was staged is nothing without its image", |h| Box::pin(staged_alone(h))),
    Case::new("a broken image leaves nothing", |h| Box::pin(broken(h))),
    Case::new("an image names what it depends on", |h| Box::pin(facts(h))),
    Case::new("a runtime without memory snapshots says so", |h| Box::pin(refused(h))),
];

const CANNOT: Outcome = Outcome::Skipped("the runtime has no memory snapshots");

fn can(harness: &Harness) -> bool {
    harness.runtime().capabilities().memory_snapshots
}

async fn expect_silent(started: &Started) {
    assert!(!answers(started.daemon, SILENCE).await, "it answers although it is paused");
}

/// Writes a running sandbox down; it is paused then.
async fn write_down(harness: &Harness, spec: &RuntimeSpec) -> std::path::PathBuf {
    let image = harness.empty_dir().await;
    harness.runtime().pause(&spec.id).await.expect("it pauses");
    harness.runtime().checkpoint(&spec.id, &image).await.expect("it is written down");
    image
}

async fn restore(harness: &mut Harness, image: &Path) -> (RuntimeSpec, Started) {
    let spec = harness.prepare().await;
    let started = harness.runtime().restore(&spec, image).await.expect("a whole image");
    harness.expect_reachable(&started).await;
    (spec, started)
}

async fn silent(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, started) = harness.start().await;
    let runtime = harness.runtime();
    for _ in 0..2 {
        runtime.pause(&spec.id).await.expect("it pauses");
        expect_silent(&started).await;
        assert!(harness.lives(&spec).await, "paused, it lives");
        assert_eq!(harness.list().await, std::slice::from_ref(&spec.id), "paused is listed");
        runtime.stats(&spec.id).await.expect("a paused one has stats");
        runtime.resume(&spec.id).await.expect("it resumes");
        harness.expect_reachable(&started).await;
    }
    harness.expect_no_event().await;
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn twice(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, started) = harness.start().await;
    let runtime = harness.runtime();
    for _ in 0..2 {
        runtime.pause(&spec.id).await.expect("it pauses");
    }
    for _ in 0..2 {
        runtime.resume(&spec.id).await.expect("it resumes");
        harness.expect_reachable(&started).await;
    }
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn idle(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, started) = harness.start().await;
    harness.runtime().resume(&spec.id).await.expect("there is nothing to do");
    harness.expect_reachable(&started).await;
    for _ in 0..2 {
        harness.restart().await;
        harness.runtime().adopt(&spec).await.expect("its state is known");
        harness.runtime().resume(&spec.id).await.expect("there is nothing to do");
        harness.expect_reachable(&started).await;
        harness.runtime().pause(&spec.id).await.expect("it pauses");
        harness.runtime().resume(&spec.id).await.expect("it resumes");
        harness.expect_reachable(&started).await;
    }
    harness.expect_no_event().await;
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn adopted(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, started) = harness.start().await;
    harness.runtime().pause(&spec.id).await.expect("it pauses");
    for _ in 0..2 {
        harness.restart().await;
        let adopted = harness.runtime().adopt(&spec).await.expect("its state is known");
        assert_eq!(adopted, Adopted::Running(started.clone()));
        expect_silent(&started).await;
    }
    // It is paused once, whoever asks again.
    harness.runtime().pause(&spec.id).await.expect("it is paused");
    harness.runtime().resume(&spec.id).await.expect("it resumes");
    harness.expect_reachable(&started).await;
    harness.expect_no_event().await;
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn given_up(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, started) = harness.start().await;
    let runtime = harness.runtime();
    for _ in 0..10 {
        let mut pause = runtime.pause(&spec.id);
        // Polled once: it is under way, or done, when it is dropped.
        let done = std::future::poll_fn(|context| {
            std::task::Poll::Ready(pause.as_mut().poll(context).is_ready())
        });
        if done.await {
            runtime.resume(&spec.id).await.expect("it resumes");
        }
        drop(pause);
        harness.expect_reachable(&started).await;
    }
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn deleted(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, _) = harness.start().await;
    harness.runtime().pause(&spec.id).await.expect("it pauses");
    harness.delete(&spec).await;
    harness.delete(&spec).await;
    expect_not_found(&harness.runtime().pause(&spec.id).await, &spec.id);
    expect_not_found(&harness.runtime().resume(&spec.id).await, &spec.id);
    let image = harness.empty_dir().await;
    expect_not_found(&harness.runtime().checkpoint(&spec.id, &image).await, &spec.id);
    Outcome::Passed
}

async fn killed(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, started) = harness.start().await;
    harness.runtime().pause(&spec.id).await.expect("it pauses");
    harness.kill(&spec, &started).await;
    harness.expect_exit(&spec.id).await;
    expect_not_found(&harness.runtime().resume(&spec.id).await, &spec.id);
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn whole(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, started) = harness.start().await;
    for _ in 0..2 {
        write_down(harness, &spec).await;
        expect_silent(&started).await;
        // Another image of the same moment.
        let again = harness.empty_dir().await;
        harness.runtime().checkpoint(&spec.id, &again).await.expect("it is paused still");
        harness.runtime().resume(&spec.id).await.expect("it resumes");
        harness.expect_reachable(&started).await;
    }
    // The server may go between the two.
    write_down(harness, &spec).await;
    harness.restart().await;
    harness.runtime().adopt(&spec).await.expect("its state is known");
    expect_silent(&started).await;
    harness.runtime().resume(&spec.id).await.expect("it resumes");
    harness.expect_reachable(&started).await;
    harness.expect_no_event().await;
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn not_paused(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, started) = harness.start().await;
    let image = harness.empty_dir().await;
    let refused = harness.runtime().checkpoint(&spec.id, &image).await;
    assert!(matches!(refused, Err(RuntimeError::Backend { .. })), "{refused:?}");
    harness.expect_reachable(&started).await;
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn no_room(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, started) = harness.start().await;
    let runtime = harness.runtime();
    runtime.pause(&spec.id).await.expect("it pauses");
    let nowhere = harness.empty_dir().await.join("no-such-directory");
    let failed = runtime.checkpoint(&spec.id, &nowhere).await;
    assert!(failed.is_err(), "{failed:?}");
    expect_silent(&started).await;
    runtime.resume(&spec.id).await.expect("it resumes");
    harness.expect_reachable(&started).await;
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn copies(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, started) = harness.start().await;
    let image = write_down(harness, &spec).await;
    let (first, _) = restore(harness, &image).await;
    harness.runtime().resume(&spec.id).await.expect("it resumes");
    harness.expect_reachable(&started).await;
    let (second, other) = restore(harness, &image).await;
    assert_ne!(other.daemon, started.daemon);
    assert_eq!(harness.list().await.len(), 3);
    // Each goes its own way.
    harness.delete(&spec).await;
    harness.runtime().delete(&first.id).await.expect("a delete succeeds");
    harness.expect_reachable(&other).await;
    harness.delete(&second).await;
    Outcome::Passed
}

async fn copy_lives(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, _) = harness.start().await;
    let image = write_down(harness, &spec).await;
    harness.delete(&spec).await;
    let (copy, started) = restore(harness, &image).await;
    harness.runtime().stats(&copy.id).await.expect("a restored one has stats");
    harness.restart().await;
    let adopted = harness.runtime().adopt(&copy).await.expect("its state is known");
    assert_eq!(adopted, Adopted::Running(started.clone()));
    harness.expect_reachable(&started).await;
    let image = write_down(harness, &copy).await;
    harness.runtime().resume(&copy.id).await.expect("it resumes");
    let (grandchild, grown) = restore(harness, &image).await;
    harness.kill(&copy, &started).await;
    harness.expect_exit(&copy.id).await;
    harness.kill(&grandchild, &grown).await;
    harness.expect_exit(&grandchild.id).await;
    harness.runtime().delete(&copy.id).await.expect("a delete succeeds");
    harness.delete(&grandchild).await;
    Outcome::Passed
}

async fn own_place(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, first) = harness.start().await;
    let image = write_down(harness, &spec).await;
    harness.delete(&spec).await;
    let second = harness.runtime().restore(&spec, &image).await.expect("the id is free again");
    harness.expect_reachable(&second).await;
    let process = |started: &Started| (started.pid, started.pid_started);
    assert_ne!(process(&first), process(&second), "another process");
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn id_in_use(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (spec, started) = harness.start().await;
    let image = write_down(harness, &spec).await;
    harness.runtime().resume(&spec.id).await.expect("it resumes");
    expect_exists(&harness.runtime().restore(&spec, &image).await, &spec.id);
    harness.expect_reachable(&started).await;
    let (copy, other) = restore(harness, &image).await;
    expect_exists(&harness.runtime().create(&copy).await, &copy.id);
    harness.expect_reachable(&other).await;
    harness.runtime().delete(&copy.id).await.expect("a delete succeeds");
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn staged(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (source, _) = harness.start().await;
    let image = write_down(harness, &source).await;
    let own = harness.prepare().await;
    let least = RuntimeSpec { share: CpuShare::Least, ..harness.prepare().await };
    for spec in [own, least] {
        harness.runtime().stage(&spec).await.expect("it is staged");
        expect_exists(&harness.runtime().stage(&spec).await, &spec.id);
        expect_exists(&harness.runtime().create(&spec).await, &spec.id);
        let spec = RuntimeSpec { share: CpuShare::Own, ..spec };
        let started = harness.runtime().restore(&spec, &image).await.expect("a whole image");
        harness.expect_reachable(&started).await;
        expect_exists(&harness.runtime().restore(&spec, &image).await, &spec.id);
        harness.expect_reachable(&started).await;
        // It is watched as any other.
        harness.kill(&spec, &started).await;
        harness.expect_exit(&spec.id).await;
        harness.runtime().delete(&spec.id).await.expect("a delete succeeds");
    }
    harness.delete(&source).await;
    Outcome::Passed
}

async fn staged_alone(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let spec = harness.prepare().await;
    harness.runtime().stage(&spec).await.expect("it is staged");
    assert_eq!(harness.list().await, std::slice::from_ref(&spec.id), "it is listed");
    assert!(harness.runtime().start(&spec.id).await.is_err(), "it has nothing to start");
    harness.restart().await;
    let adopted = harness.runtime().adopt(&spec).await.expect("it can be told");
    assert_eq!(adopted, Adopted::Gone, "nobody knows what it was for");
    harness.runtime().delete(&spec.id).await.expect("a delete succeeds");
    harness.expect_gone(&spec).await;
    // A broken image takes it along.
    harness.runtime().stage(&spec).await.expect("the id is free again");
    let nothing = harness.empty_dir().await;
    assert!(harness.runtime().restore(&spec, &nothing).await.is_err(), "there is no image");
    harness.expect_gone(&spec).await;
    harness.expect_no_event().await;
    Outcome::Passed
}

async fn broken(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let (source, _) = harness.start().await;
    let image = write_down(harness, &source).await;
    harness.delete(&source).await;
    let spec = harness.prepare().await;
    let nothing = harness.empty_dir().await;
    let mut broken = vec![nothing];
    for entry in std::fs::read_dir(&image).expect("the image is a directory") {
        let damaged = entry.expect("an entry").file_name();
        let copy = harness.empty_dir().await;
        for entry in std::fs::read_dir(&image).expect("the image is a directory") {
            let name = entry.expect("an entry").file_name();
            let mut bytes = std::fs::read(image.join(&name)).expect("a file");
            if name == damaged {
                bytes.truncate(bytes.len() / 2);
            }
            std::fs::write(copy.join(&name), bytes).expect("a writable directory");
        }
        broken.push(copy);
    }
    for image in broken {
        let failed = harness.runtime().restore(&spec, &image).await;
        assert!(failed.is_err(), "{} is broken: {failed:?}", image.display());
        harness.expect_gone(&spec).await;
    }
    // What failed does not stand in the way.
    let started = harness.runtime().restore(&spec, &image).await.expect("the whole image");
    harness.expect_reachable(&started).await;
    harness.delete(&spec).await;
    Outcome::Passed
}

async fn facts(harness: &mut Harness) -> Outcome {
    if !can(harness) {
        return CANNOT;
    }
    let facts = harness.runtime().image_facts();
    assert_eq!(facts.runtime, harness.runtime().kind());
    assert!(!facts.version.is_empty());
    assert!(facts.cpu_features.is_sorted(), "{facts:?}");
    harness.restart().await;
    assert_eq!(harness.runtime().image_facts(), facts, "a restart changes nothing");
    Outcome::Passed
}

async fn refused(harness: &mut Harness) -> Outcome {
    if can(harness) {
        return Outcome::Skipped("the runtime has them");
    }
    let (spec, started) = harness.start().await;
    let image = harness.empty_dir().await;
    for refused in [
        harness.runtime().pause(&spec.id).await,
        harness.runtime().resume(&spec.id).await,
        harness.runtime().checkpoint(&spec.id, &image).await,
    ] {
        assert!(matches!(refused, Err(RuntimeError::NotSupported { .. })), "{refused:?}");
    }
    harness.expect_reachable(&started).await;
    harness.delete(&spec).await;
    Outcome::Passed
}
