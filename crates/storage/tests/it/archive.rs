//! Captures in an object store: sent, brought back, found damaged, collected. In a directory; the
//! last ones on a real S3 server.

mod scene;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tarn_host::{Archive as _, ArchiveError, CaptureError, Captures as _, Progress};
use tarn_storage::{Claimed, ExpectedMark, MasterKey, ObjectArchive, ObjectStoreConfig};
use tarn_types::{ByteSize, Pace};
use tokio::sync::Notify;

use self::scene::{
    HOUR, MIB, Middle, Scene, bring, content, damage, files, noise, project, send, silent,
};
use crate::{s3::S3Server, stage::until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_goes_and_comes_back() -> Result<()> {
    let scene = Scene::new().await?;
    fs::write(scene.root.join("noise"), noise(1, 10 << 20))?;
    fs::write(scene.root.join("text"), "compressible ".repeat(400_000))?;
    scene.capture("snap_1").await?;
    scene.captures.verify("snap_1", Pace::Full).await?;
    let archive = scene.archive()?;
    archive.check().await?;
    let original = content(&scene.server, "snap_1")?;

    let seen = parking_lot::Mutex::new(Vec::new());
    let note = |progress: Progress| seen.lock().push((progress.done, progress.total));
    let sent = archive.store(&project(1), "snap_1", &note).await?;
    let place = format!("snapshots/{}/snap_1", project(1));
    assert_eq!(sent.uri, format!("file://{}/{place}", scene.store().display()));
    ensure!((21 * MIB..26 * MIB).contains(&sent.size.bytes()), "{sent:?}");
    ensure!((16 * MIB..18 * MIB).contains(&sent.sent.bytes()), "text shrinks: {sent:?}");
    {
        let seen = seen.lock();
        assert!(seen.len() > 10 && seen.is_sorted() && seen.iter().all(|it| it.1 == seen[0].1));
        assert_eq!(seen.last().context("some")?.0, seen[0].1);
    }
    let stored: u64 = files(&scene.store())?.iter().map(|it| it.metadata().unwrap().len()).sum();
    assert_eq!(sent.sent.bytes(), stored, "it is what there is");
    assert_eq!(scene.objects("probes")?.len(), 0);
    let again = send(&archive, "snap_1").await?;
    assert_eq!((again.uri, again.size, again.sent.bytes()), (sent.uri, sent.size, 0));
    assert_eq!(archive.list(&project(1)).await?, BTreeSet::from(["snap_1".to_owned()]));
    assert_eq!(archive.list(&project(2)).await?, BTreeSet::new());
    archive.verify(&project(1), "snap_1").await?;

    // It is here: nothing is fetched.
    bring(&archive, "snap_1").await?;
    scene.captures.discard("snap_1").await?;
    let both = tokio::join!(bring(&archive, "snap_1"), bring(&archive, "snap_1"));
    assert!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
    assert!(content(&scene.server, "snap_1")? == original, "every byte, and the checksums");
    scene.captures.verify("snap_1", Pace::Full).await?;
    assert_eq!(scene.captures.open("snap_1").await?.note, json!({"of": "snap_1"}));
    let layer = fs::metadata(scene.captures.open("snap_1").await?.layer)?;
    let allocated = std::os::unix::fs::MetadataExt::blocks(&layer) * 512;
    ensure!(allocated < 22 * MIB, "holes stay holes: {allocated}");

    archive.remove(&project(1), "snap_1").await?;
    archive.remove(&project(1), "snap_1").await?;
    scene.captures.discard("snap_1").await?;
    let gone = [archive.verify(&project(1), "snap_1").await, bring(&archive, "snap_1").await];
    assert!(gone.iter().all(|it| matches!(it, Err(ArchiveError::Missing { .. }))), "{gone:?}");
    let unknown = archive.store(&project(1), "snap_1", &silent).await;
    let missing = matches!(unknown, Err(ArchiveError::Capture(CaptureError::Missing { .. })));
    assert!(missing, "{unknown:?}");
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_in_an_object_store_that_is_not_ours() -> Result<()> {
    let scene = Scene::new().await?;
    scene.capture("snap_1").await?;
    let archive = scene.archive()?.insisting_on_mark();
    // As a server that knew no marks left it.
    send(&archive, "snap_1").await?;
    let other = MasterKey::open_or_create(&scene.stage.data().join("other"))?;
    let other = ObjectArchive::open(&scene.config(), other, scene.captures.clone())?;
    let other = other.insisting_on_mark();
    let strange = other.claim(ExpectedMark::Unknown).await?;
    assert!(matches!(strange, Claimed::Unreadable { .. }), "{strange:?}");
    assert_eq!(archive.claim(ExpectedMark::Unknown).await?, Claimed::Ours);
    assert_eq!(archive.claim(ExpectedMark::Present).await?, Claimed::Ours);
    let strange = other.claim(ExpectedMark::Unknown).await?;
    assert!(matches!(&strange, Claimed::Strange { detail } if detail.contains("marks/store")));
    archive.verify(&project(1), "snap_1").await?;
    let unsaid = other.verify(&project(1), "snap_1").await;
    assert!(matches!(unsaid, Err(ArchiveError::Store { .. })), "{unsaid:?}");
    let missing = archive.verify(&project(1), "snap_2").await;
    assert!(matches!(missing, Err(ArchiveError::Missing { .. })), "{missing:?}");

    // As a directory whose disk is not mounted.
    let (store, away) = (scene.store(), scene.store().with_extension("away"));
    fs::rename(&store, &away)?;
    fs::create_dir(&store)?;
    let unsaid = archive.verify(&project(1), "snap_1").await;
    assert!(matches!(unsaid, Err(ArchiveError::Store { .. })), "{unsaid:?}");
    assert_eq!(archive.claim(ExpectedMark::Present).await?, Claimed::Blank);
    assert!(files(&store)?.is_empty(), "nothing is marked");
    assert_eq!(archive.claim(ExpectedMark::Unknown).await?, Claimed::Ours);
    fs::remove_dir_all(&store)?;
    fs::rename(&away, &store)?;
    archive.verify(&project(1), "snap_1").await?;
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_not_sent_again() -> Result<()> {
    let scene = Scene::new().await?;
    fs::write(scene.root.join("noise"), noise(1, 40 << 20))?;
    scene.capture("snap_1").await?;
    let archive = scene.archive()?;
    let first = send(&archive, "snap_1").await?;
    File::options().write(true).open(scene.root.join("noise"))?.write_all_at(b"new", 20 * MIB)?;
    scene.capture("snap_2").await?;
    let second = send(&archive, "snap_2").await?;
    ensure!(first.sent.bytes() > 45 * MIB, "{first:?}");
    ensure!(second.sent.bytes() < 10 * MIB, "{second:?}");
    // Another capture of a name takes the place of the one before.
    scene.capture("snap_1").await?;
    let third = send(&archive, "snap_1").await?;
    ensure!((1..10 * MIB).contains(&third.sent.bytes()), "{third:?}");
    assert_eq!(send(&archive, "snap_1").await?.sent.bytes(), 0);
    archive.verify(&project(1), "snap_1").await?;
    // Another project knows nothing of it, not even the ids.
    let other = archive.store(&project(2), "snap_2", &silent).await?;
    ensure!(other.sent.bytes() > 45 * MIB, "{other:?}");
    let names = |number| -> Result<BTreeSet<_>> {
        let chunks = scene.objects(&format!("chunks/{}", project(number)))?;
        Ok(chunks.iter().filter_map(|path| path.file_name()).map(ToOwned::to_owned).collect())
    };
    assert!(names(1)?.is_disjoint(&names(2)?));
    let not_theirs = archive.fetch(&project(2), "snap_1", &silent).await;
    assert!(not_theirs.is_ok(), "it is on the node");
    scene.captures.discard("snap_1").await?;
    let not_theirs = archive.fetch(&project(2), "snap_1", &silent).await;
    assert!(matches!(not_theirs, Err(ArchiveError::Missing { .. })), "{not_theirs:?}");
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_upload_goes_on_where_it_was_cut() -> Result<()> {
    let scene = Scene::new().await?;
    fs::write(scene.root.join("noise"), noise(1, 40 << 20))?;
    scene.capture("snap_1").await?;
    let archive = scene.archive()?;
    // As a server that is killed: at some moment nothing goes on.
    let (owner, middle) = (project(1), Middle::after(10));
    let note = |_| middle.count();
    middle.cut(archive.store(&owner, "snap_1", &note)).await?;
    let drafts = || Ok(files(&scene.store())?.iter().any(|it| it.to_string_lossy().contains('#')));
    until("what was on its way to arrive", || drafts().map(|any: bool| !any)).await?;
    let before: u64 = files(&scene.store())?.iter().map(|it| it.metadata().unwrap().len()).sum();
    assert_eq!(scene.objects("snapshots")?.len(), 0, "what needs the missing ones is not there");
    // How many of the ten it began with are written is the disk's affair.
    ensure!(before > 2 * MIB, "{before}");
    let sent = send(&archive, "snap_1").await?;
    let after: u64 = files(&scene.store())?.iter().map(|it| it.metadata().unwrap().len()).sum();
    // One may have been on its way still.
    ensure!(sent.sent.bytes() <= after - before + 4 * MIB, "{sent:?} of {after}, after {before}");
    archive.verify(&project(1), "snap_1").await?;

    // A fetch that is cut leaves no draft.
    scene.captures.discard("snap_1").await?;
    let captures = scene.server.pool.dir().join("captures");
    let empty = files(&captures)?;
    let middle = Middle::after(10);
    let note = |_| middle.count();
    middle.cut(archive.fetch(&owner, "snap_1", &note)).await?;
    until("the draft to go", || Ok(files(&captures)? == empty)).await?;
    bring(&archive, "snap_1").await?;
    scene.captures.verify("snap_1", Pace::Full).await?;
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_that_goes_while_it_is_sent_is_missing() -> Result<()> {
    let scene = Scene::new().await?;
    fs::write(scene.root.join("noise"), noise(1, 20 << 20))?;
    scene.capture("snap_1").await?;
    let archive = scene.archive()?;
    let (told, owner) = (Notify::new(), project(1));
    let note = |_| told.notify_one();
    let discard = async {
        told.notified().await;
        scene.captures.discard("snap_1").await
    };
    let (sent, discarded) = tokio::join!(archive.store(&owner, "snap_1", &note), discard);
    discarded?;
    let missing = matches!(sent, Err(ArchiveError::Capture(CaptureError::Missing { .. })));
    assert!(missing, "{sent:?}");
    assert_eq!(scene.objects("snapshots")?.len(), 0);
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_that_rotted_on_the_node_is_not_sent() -> Result<()> {
    let scene = Scene::new().await?;
    scene.capture("snap_1").await?;
    scene.captures.verify("snap_1", Pace::Full).await?;
    let pages = scene.captures.open("snap_1").await?.memory.join("pages.img");
    File::options().write(true).open(pages)?.write_all_at(b"rot", 10 * MIB)?;
    let sent = scene.archive()?.store(&project(1), "snap_1", &silent).await;
    let Err(ArchiveError::Capture(CaptureError::Damaged { detail, .. })) = sent else {
        anyhow::bail!("it was sent: {sent:?}");
    };
    assert_eq!(detail, "the content of memory/pages.img has changed");
    assert_eq!(scene.objects("snapshots")?.len(), 0);
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_is_named() -> Result<()> {
    let scene = Scene::new().await?;
    fs::write(scene.root.join("noise"), noise(1, 10 << 20))?;
    scene.capture("snap_1").await?;
    let archive = scene.archive()?;
    send(&archive, "snap_1").await?;
    scene.captures.discard("snap_1").await?;
    let chunks: Vec<PathBuf> = scene.objects("chunks")?.into_iter().collect();
    let named = |path: &Path| -> Result<String> {
        Ok(path.strip_prefix(scene.store())?.display().to_string())
    };
    let (one, two) = (&chunks[0], &chunks[chunks.len() / 2]);
    let (first, second) = (fs::read(one)?, fs::read(two)?);

    let mut changed = first.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    let larger = vec![0; 5 << 20];
    for (bytes, expected) in [
        (&changed, "it has changed, or was written with another key"),
        (&second, "it has changed, or was written with another key"),
        (&first[..first.len() / 2].to_vec(), "it has changed, or was written with another key"),
        (&larger, "it has 5242880 bytes, and nothing that is written there has so many"),
        (&Vec::new(), "it is too short"),
    ] {
        fs::write(one, bytes)?;
        let said = damage(&scene, &archive, "snap_1").await?;
        let wanted =
            format!("snapshot snap_1 in the object store is damaged: {}: {expected}", named(one)?);
        assert_eq!(said, wanted);
    }
    fs::remove_file(one)?;
    let said = damage(&scene, &archive, "snap_1").await?;
    assert!(said.ends_with(&format!("{}: it is missing", named(one)?)), "{said}");
    fs::write(one, &first)?;
    archive.verify(&project(1), "snap_1").await?;

    // The description of one capture in the place of another.
    let place = scene.store().join(format!("snapshots/{}/snap_1", project(1)));
    let moved = place.with_file_name("snap_2");
    fs::copy(&place, &moved)?;
    let said = damage(&scene, &archive, "snap_2").await?;
    assert!(said.contains(&named(&moved)?), "{said}");

    // Another key.
    let key = MasterKey::open_or_create(&scene.stage.data().join("other"))?;
    let other = ObjectArchive::open(&scene.config(), key, scene.captures.clone())?;
    let said = damage(&scene, &other, "snap_1").await?;
    assert!(said.contains("was written with another key"), "{said}");

    // What is damaged on the node is fetched again; in the object store, it is written again.
    bring(&archive, "snap_1").await?;
    let layer = scene.captures.open("snap_1").await?.layer;
    File::options().write(true).open(&layer)?.set_len(1)?;
    bring(&archive, "snap_1").await?;
    scene.captures.verify("snap_1", Pace::Full).await?;
    fs::write(&place, "not a description")?;
    send(&archive, "snap_1").await?;
    archive.verify(&project(1), "snap_1").await?;
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_there_is_mended_from_the_node() -> Result<()> {
    let scene = Scene::new().await?;
    fs::write(scene.root.join("noise"), noise(1, 10 << 20))?;
    scene.capture("snap_1").await?;
    let archive = scene.archive()?;
    send(&archive, "snap_1").await?;
    let chunks: Vec<PathBuf> = scene.objects("chunks")?.into_iter().collect();
    let whole =
        |path: &PathBuf| -> Result<_> { Ok((fs::read(path)?, fs::metadata(path)?.modified()?)) };
    let kept = chunks[3..].iter().map(whole).collect::<Result<Vec<_>>>()?;
    // One is missing, one of the right size is another, one was cut off.
    fs::remove_file(&chunks[0])?;
    let mut changed = fs::read(&chunks[1])?;
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    fs::write(&chunks[1], changed)?;
    File::options().write(true).open(&chunks[2])?.set_len(100)?;
    assert_eq!(send(&archive, "snap_1").await?.sent.bytes(), 0, "there is a description");
    let damaged = archive.verify(&project(1), "snap_1").await;
    assert!(matches!(damaged, Err(ArchiveError::Damaged { .. })), "{damaged:?}");

    let mended = archive.mend(&project(1), "snap_1", &silent).await?;
    ensure!((1..13 * MIB).contains(&mended.sent.bytes()), "three and the description: {mended:?}");
    archive.verify(&project(1), "snap_1").await?;
    assert_eq!(scene.objects("chunks")?.into_iter().collect::<Vec<_>>(), chunks);
    assert!(chunks[3..].iter().map(whole).collect::<Result<Vec<_>>>()? == kept, "not touched");
    let again = archive.mend(&project(1), "snap_1", &silent).await?;
    ensure!(again.sent.bytes() < MIB / 4, "only the description: {again:?}");

    // What describes it, and all of it.
    let place = scene.store().join(format!("snapshots/{}/snap_1", project(1)));
    fs::write(&place, "not a description")?;
    archive.mend(&project(1), "snap_1", &silent).await?;
    archive.verify(&project(1), "snap_1").await?;
    for object in files(&scene.store())? {
        fs::remove_file(object)?;
    }
    archive.mend(&project(1), "snap_1", &silent).await?;
    archive.verify(&project(1), "snap_1").await?;
    scene.captures.verify("snap_1", Pace::Full).await?;

    // What has rotted here is no cure, though nobody knew what it was when it was sent.
    scene.capture("snap_2").await?;
    send(&archive, "snap_2").await?;
    let pages = scene.captures.open("snap_2").await?.memory.join("pages.img");
    File::options().write(true).open(pages)?.write_all_at(b"rot", 10 * MIB)?;
    let refused = archive.mend(&project(1), "snap_2", &silent).await;
    // The second is said of it on a machine so slow that it was looked at meanwhile.
    let is_refused = matches!(
        refused,
        Err(ArchiveError::Store { step: "mend", .. }
            | ArchiveError::Capture(CaptureError::Damaged { .. }))
    );
    assert!(is_refused, "{refused:?}");
    archive.verify(&project(1), "snap_2").await?;
    scene.captures.discard("snap_1").await?;
    let missing = archive.mend(&project(1), "snap_1", &silent).await;
    let missing_here = matches!(missing, Err(ArchiveError::Capture(CaptureError::Missing { .. })));
    assert!(missing_here, "{missing:?}");
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_fetched_without_room() -> Result<()> {
    let scene = Scene::new().await?;
    fs::write(scene.root.join("noise"), noise(1, 60 << 20))?;
    scene.capture("snap_1").await?;
    let archive = scene.archive()?;
    send(&archive, "snap_1").await?;
    scene.captures.discard("snap_1").await?;
    let space = scene.server.pool.space()?.available;
    let reserve = ByteSize::from_mib(60);
    let hog = space.saturating_sub(reserve);
    scene.captures.begin("hog", hog.saturating_sub(ByteSize::from_mib(40))).await?;
    let full = bring(&archive, "snap_1").await;
    let refused = matches!(full, Err(ArchiveError::Capture(CaptureError::PoolFull { .. })));
    assert!(refused, "{full:?}");
    scene.captures.discard("hog").await?;
    until("what was promised to end", || {
        Ok(scene.server.pool.space()?.available.bytes() + MIB > space.bytes())
    })
    .await?;
    bring(&archive, "snap_1").await?;
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_needs_goes_after_the_grace() -> Result<()> {
    let scene = Scene::new().await?;
    fs::write(scene.root.join("noise"), noise(1, 10 << 20))?;
    scene.capture("snap_1").await?;
    let archive = scene.archive()?;
    send(&archive, "snap_1").await?;
    fs::write(scene.root.join("more"), noise(2, 10 << 20))?;
    scene.capture("snap_2").await?;
    send(&archive, "snap_2").await?;
    archive.store(&project(2), "snap_1", &silent).await?;
    let all = scene.objects("chunks")?;

    archive.remove(&project(1), "snap_2").await?;
    let young = archive.collect(HOUR).await?;
    assert_eq!((young.kept, young.removed), (all.len() as u64, 0));
    scene.age(2 * HOUR)?;
    // Something that we did not write stays.
    let foreign = scene.store().join("chunks/readme");
    fs::write(&foreign, "not a chunk")?;
    File::options().write(true).open(&foreign)?.set_modified(std::time::UNIX_EPOCH)?;
    let probe = scene.store().join("probes/left");
    fs::create_dir_all(scene.store().join("probes"))?;
    fs::write(&probe, "by a server that was killed")?;
    File::options().write(true).open(&probe)?.set_modified(std::time::UNIX_EPOCH)?;
    // As `object_store` leaves them when it is killed.
    let drafts =
        ["1", "2"].map(|number| all.first().map(|chunk| format!("{}#{number}", chunk.display())));
    let [old_draft, young_draft] = drafts.map(|draft| PathBuf::from(draft.unwrap_or_default()));
    fs::write(&old_draft, "half")?;
    File::options().write(true).open(&old_draft)?.set_modified(std::time::UNIX_EPOCH)?;
    fs::write(&young_draft, "half")?;
    let old = archive.collect(HOUR).await?;
    assert!(!old_draft.exists() && young_draft.exists());
    fs::remove_file(&young_draft)?;
    ensure!(old.removed >= 3 && old.freed.bytes() > 9 * MIB, "{old:?}");
    assert_eq!(old.kept + old.removed, all.len() as u64);
    assert!(foreign.exists() && !probe.exists());
    for owner in [1, 2] {
        archive.verify(&project(owner), "snap_1").await?;
    }

    // One that cannot be read stops it, whosever it is.
    archive.remove(&project(1), "snap_1").await?;
    let place = scene.store().join(format!("snapshots/{}/snap_1", project(2)));
    let good = fs::read(&place)?;
    let before = scene.objects("chunks")?;
    fs::write(&place, "damaged")?;
    let stopped = archive.collect(HOUR).await;
    assert!(matches!(stopped, Err(ArchiveError::Damaged { .. })), "{stopped:?}");
    fs::write(&place, good)?;
    let odd = scene.store().join("snapshots/odd");
    fs::write(&odd, "")?;
    let stopped = archive.collect(HOUR).await;
    assert!(matches!(stopped, Err(ArchiveError::Damaged { .. })), "{stopped:?}");
    assert_eq!(scene.objects("chunks")?, before);
    fs::remove_file(odd)?;
    archive.collect(HOUR).await?;
    archive.verify(&project(2), "snap_1").await?;
    assert_eq!(scene.objects(&format!("chunks/{}", project(1)))?.len(), 0);
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_collected_that_an_upload_counts_on() -> Result<()> {
    let scene = Scene::new().await?;
    fs::write(scene.root.join("noise"), noise(1, 40 << 20))?;
    scene.capture("snap_1").await?;
    let archive = scene.archive()?;
    send(&archive, "snap_1").await?;
    archive.remove(&project(1), "snap_1").await?;
    // Not needed and old, but not so old that they were renewed.
    scene.age(10 * HOUR)?;
    let collecting = async {
        let mut removed = 0;
        for _ in 0..4 {
            removed += archive.collect(HOUR).await?.removed;
        }
        Ok::<_, ArchiveError>(removed)
    };
    let owner = project(1);
    let (sent, removed) = tokio::join!(archive.store(&owner, "snap_1", &silent), collecting);
    sent?;
    removed?;
    archive.verify(&project(1), "snap_1").await?;

    // Older: they are renewed, and then young for everybody.
    archive.remove(&project(1), "snap_1").await?;
    scene.age(20 * HOUR)?;
    let renewed = send(&archive, "snap_1").await?;
    ensure!(renewed.sent.bytes() > 40 * MIB, "{renewed:?}");
    archive.remove(&project(1), "snap_1").await?;
    assert_eq!(archive.collect(HOUR).await?.removed, 0);
    // However many they are.
    scene.age(20 * HOUR)?;
    let all = scene.objects("chunks")?.len() as u64;
    let collected = archive.collect(HOUR).await?;
    assert!(all > 32 && (collected.kept, collected.removed) == (0, all), "{all}: {collected:?}");
    assert_eq!(scene.objects("chunks")?.len(), 0);

    // One that takes too long for its grace does not end well.
    let config = ObjectStoreConfig { grace: Duration::from_millis(1), ..scene.config() };
    let hasty = ObjectArchive::open(&config, scene.key()?, scene.captures.clone())?;
    let late = hasty.store(&project(1), "snap_1", &silent).await;
    assert!(matches!(late, Err(ArchiveError::Store { step: "put", .. })), "{late:?}");
    assert_eq!(scene.objects("snapshots")?.len(), 0);
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_configuration_says_what_is_wrong() -> Result<()> {
    let scene = Scene::new().await?;
    let s3 = || ObjectStoreConfig {
        access_key: Some("a".to_owned()),
        secret_key: Some("s".to_owned().into()),
        ..ObjectStoreConfig::new("s3://bucket/prefix")
    };
    let with = |endpoint: &str| ObjectStoreConfig { endpoint: Some(endpoint.to_owned()), ..s3() };
    for (config, expected) in [
        (ObjectStoreConfig::new("ftp://x/y"), "must be file:///directory or s3://bucket/prefix"),
        (ObjectStoreConfig::new("file:///"), "must be file:///directory"),
        (ObjectStoreConfig::new("s3:///x"), "must be file:///directory"),
        (ObjectStoreConfig::new("s3://user:hidden@x"), "must be file:///directory"),
        (ObjectStoreConfig::new("/data"), "must be file:///directory"),
        (ObjectStoreConfig { access_key: None, ..s3() }, "needs an access key"),
        (ObjectStoreConfig { secret_key: None, ..s3() }, "needs a secret key"),
        (with("http://127.0.0.1:9"), "is not encrypted; use https, or allow http"),
        (with("ftp://user:hidden@x"), "must begin with https:// or http://"),
        (with("127.0.0.1:9"), "must begin with https:// or http://"),
    ] {
        let error = config.check().expect_err(expected).to_string();
        assert!(error.contains(expected) && !error.contains("hidden"), "{error}");
        let opened = ObjectArchive::open(&config, scene.key()?, scene.captures.clone());
        assert!(matches!(opened, Err(ArchiveError::Store { step: "open", .. })), "{opened:?}");
    }
    s3().check()?;
    // Nobody listens there: it is said at once, and why.
    let nobody = with("http://127.0.0.1:9");
    let nobody = ObjectStoreConfig { allow_http: true, ..nobody };
    let unreachable = ObjectArchive::open(&nobody, scene.key()?, scene.captures.clone())?;
    let refused = tokio::time::timeout(Duration::from_secs(10), unreachable.check()).await?;
    let refused = format!("{:#}", anyhow::Error::from(refused.expect_err("nobody is there")));
    assert!(refused.contains("Connection refused"), "{refused}");
    let config = ObjectStoreConfig { allow_http: true, ..with("http://127.0.0.1:9") };
    let text = format!("{:?}", ObjectArchive::open(&config, scene.key()?, scene.captures.clone())?);
    assert!(!text.contains("Some(\"s\")") && !format!("{config:?}").contains("\"s\""), "{text}");
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_s3_server_does_the_same() -> Result<()> {
    let Some(mut s3) = S3Server::start().await? else { return Ok(()) };
    let scene = Scene::new().await?;
    fs::write(scene.root.join("noise"), noise(1, 20 << 20))?;
    scene.capture("snap_1").await?;
    scene.captures.verify("snap_1", Pace::Full).await?;
    let original = content(&scene.server, "snap_1")?;
    let archive = ObjectArchive::open(&s3.config(), scene.key()?, scene.captures.clone())?;
    archive.check().await?;
    let sent = send(&archive, "snap_1").await?;
    assert_eq!(sent.uri, format!("s3://bucket/some/prefix/snapshots/{}/snap_1", project(1)));
    assert_eq!(send(&archive, "snap_1").await?.sent.bytes(), 0);
    assert_eq!(archive.list(&project(1)).await?, BTreeSet::from(["snap_1".to_owned()]));
    archive.verify(&project(1), "snap_1").await?;
    scene.captures.discard("snap_1").await?;
    bring(&archive, "snap_1").await?;
    assert!(content(&scene.server, "snap_1")? == original, "every byte");

    let wrong =
        ObjectStoreConfig { secret_key: Some("wrong-secret".to_owned().into()), ..s3.config() };
    let wrong = ObjectArchive::open(&wrong, scene.key()?, scene.captures.clone())?;
    let refused = wrong.check().await;
    assert!(matches!(refused, Err(ArchiveError::Store { step: "put", .. })), "{refused:?}");

    archive.remove(&project(1), "snap_1").await?;
    let kept = archive.collect(HOUR).await?;
    assert!(kept.kept > 10 && kept.removed == 0, "{kept:?}");
    s3.age(2 * HOUR)?;
    let collected = archive.collect(HOUR).await?;
    assert_eq!((collected.kept, collected.removed), (0, kept.kept));
    let gone = archive.verify(&project(1), "snap_1").await;
    assert!(matches!(gone, Err(ArchiveError::Missing { .. })), "{gone:?}");

    // It goes away in the middle, and comes back.
    let (owner, middle) = (project(1), Middle::after(5));
    let note = |_| middle.count();
    let away = async {
        middle.reached.notified().await;
        s3.kill()?;
        // While it is away, requests are tried again.
        s3.refuse_one().await?;
        s3.restart().await
    };
    let (sent, back) = tokio::join!(archive.store(&owner, "snap_1", &note), away);
    back?;
    sent?;
    archive.verify(&project(1), "snap_1").await?;
    scene.end().await;
    Ok(())
}
