//! Captures: drafted, made whole, found again, found damaged, removed.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tarn_host::{Capture, CaptureError, Captures, Layers as _, sim::SimCaptures};
use tarn_storage::{PoolChoice, PoolKind, PoolOptions, PoolSizing};
use tarn_types::{ByteSize, ErrorClass, Pace};

use crate::stage::{Server, Stage, id, small, until};

const MIB: u64 = 1 << 20;
const NONE: ByteSize = ByteSize::from_bytes(0);

/// A memory image: its files and their bytes; the last is too large to be read at each opening.
fn write_memory(dir: &Path) -> Result<()> {
    fs::write(dir.join("checkpoint.img"), [1; 1000])?;
    fs::write(dir.join("pages.img"), vec![2; 17 << 20])?;
    Ok(())
}

/// Makes a capture of sandbox 1, with a memory image.
async fn capture(server: &Server, name: &str, note: Value) -> Result<Capture> {
    let draft = server.captures.begin(name, ByteSize::from_mib(20)).await?;
    write_memory(&draft.memory)?;
    server.captures.clone_layer(name, &id(1)).await?;
    Ok(server.captures.commit(name, note).await?)
}

async fn build(stage: &Stage, server: &Server) -> Result<PathBuf> {
    Ok(server.layers.build(&id(1), &stage.template(), ByteSize::from_mib(64)).await?.path)
}

/// Says whether the journal of an ext4 image holds what a mount would have to put in its place:
/// `s_feature_incompat` of the superblock has `EXT4_FEATURE_INCOMPAT_RECOVER` then.
fn needs_recovery(image: &Path) -> Result<bool> {
    let mut features = [0; 4];
    File::open(image)?.read_exact_at(&mut features, 1024 + 0x60)?;
    Ok(u32::from_le_bytes(features) & 4 != 0)
}

fn place(server: &Server, name: &str) -> PathBuf {
    server.pool.dir().join("captures").join(name)
}

/// What every store of captures does, the simulated one too.
async fn conforms(captures: &dyn Captures) -> Result<()> {
    let open = async || captures.open("one").await;
    let draft = captures.begin("one", ByteSize::from_mib(1)).await?;
    fs::write(draft.memory.join("pages.img"), "memory")?;
    let uncloned = captures.commit("one", Value::Null).await;
    assert!(matches!(uncloned, Err(CaptureError::Step { .. })), "{uncloned:?}");
    captures.clone_layer("one", &id(1)).await?;
    assert!(matches!(open().await, Err(CaptureError::Missing { .. })));
    let made = captures.commit("one", json!({"number": 1})).await?;
    assert_eq!((open().await?, captures.list().await?), (made.clone(), vec!["one".to_owned()]));
    assert_eq!(fs::read_to_string(made.memory.join("pages.img"))?, "memory");
    ensure!(made.layer.is_file() && made.memory_size.bytes() == 6 && made.layer_size > NONE);

    // Another of that name: it replaces the draft, and at last the whole one.
    let draft = captures.begin("one", NONE).await?;
    fs::write(draft.memory.join("half"), "")?;
    let draft = captures.begin("one", NONE).await?;
    assert_eq!(fs::read_dir(&draft.memory)?.count(), 0);
    assert_eq!(open().await?, made);
    captures.clone_layer("one", &id(1)).await?;
    captures.commit("one", json!({"number": 2})).await?;
    assert_eq!(open().await?.note["number"], 2);
    captures.verify("one", Pace::Full).await?;

    let room = captures.begin("two", ByteSize::from_bytes(u64::MAX)).await;
    assert!(matches!(room, Err(CaptureError::PoolFull { .. })), "{room:?}");
    captures.begin("two", NONE).await?;
    for name in ["one", "two", "three"] {
        captures.discard(name).await?;
    }
    for outcome in [open().await.map(drop), captures.verify("one", Pace::Full).await.map(drop)] {
        assert!(matches!(outcome, Err(CaptureError::Missing { .. })), "{outcome:?}");
    }
    assert_eq!(captures.list().await?, [""; 0]);
    let gone = captures.commit("two", Value::Null).await;
    assert!(matches!(gone, Err(CaptureError::Step { .. })), "{gone:?}");
    Ok(())
}

#[tokio::test]
async fn the_host_and_the_simulation_do_the_same() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    build(&stage, &server).await?;
    conforms(&*server.captures).await?;
    server.stop().await;

    let dir = tempfile::tempdir()?;
    let captures = SimCaptures::new(dir.path());
    conforms(&captures).await?;
    assert_eq!(fs::read_dir(dir.path())?.count(), 0, "nothing is left");
    captures.begin("one", NONE).await?;
    captures.clone_layer("one", &id(1)).await?;
    captures.fail_commit(1);
    captures.commit("one", Value::Null).await.expect_err("it was made to");
    captures.commit("one", Value::Null).await?;
    captures.damage("one", "a test did it");
    let damaged = captures.open("one").await;
    assert!(matches!(damaged, Err(CaptureError::Damaged { .. })), "{damaged:?}");
    Ok(())
}

#[tokio::test]
async fn a_capture_lives_and_goes() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let root = build(&stage, &server).await?;
    let before = stage.census()?;
    fs::write(root.join("work"), vec![7; 3 << 20])?;
    let draft = server.captures.begin("snap_1", ByteSize::from_mib(20)).await?;
    assert_eq!(fs::read_dir(&draft.memory)?.count(), 0);
    assert_eq!(fs::metadata(&draft.memory)?.permissions().mode() & 0o777, 0o700);
    write_memory(&draft.memory)?;
    server.captures.clone_layer("snap_1", &id(1)).await?;
    assert_eq!(server.captures.list().await?, [""; 0]);
    let missing = server.captures.open("snap_1").await;
    assert!(matches!(missing, Err(CaptureError::Missing { .. })), "{missing:?}");

    let made = server.captures.commit("snap_1", json!({"of": 1})).await?;
    assert_eq!(server.captures.list().await?, ["snap_1"]);
    let capture = server.captures.open("snap_1").await?;
    assert_eq!(capture, made);
    assert_eq!(capture.note, json!({"of": 1}));
    assert_eq!(capture.memory_size.bytes(), 17 * MIB + 1000);
    ensure!((3 * MIB..20 * MIB).contains(&capture.layer_size.bytes()), "{}", capture.layer_size);
    assert_eq!(fs::metadata(&capture.layer)?.len(), 64 * MIB);
    assert_eq!(fs::read(capture.memory.join("checkpoint.img"))?, [1; 1000]);
    let in_use = server.pool.dir().join("layers").join(id(1).as_str()).join("disk.img");
    // Nobody has waited for its journal; who reads all of it does.
    assert_eq!((needs_recovery(&in_use)?, needs_recovery(&capture.layer)?), (true, true));
    server.captures.verify("snap_1", Pace::Full).await?;
    assert!(!needs_recovery(&capture.layer)?);
    assert_eq!(fs::metadata(&capture.layer)?.permissions().mode() & 0o777, 0o600);
    let beside: Vec<_> = fs::read_dir(place(&server, "snap_1"))?.flatten().collect();
    assert_eq!(beside.len(), 4, "the layer, memory, manifest and checksums: {beside:?}");
    server.captures.verify("snap_1", Pace::Full).await?;

    server.captures.discard("snap_1").await?;
    for outcome in [
        server.captures.open("snap_1").await.map(drop),
        server.captures.verify("snap_1", Pace::Full).await.map(drop),
    ] {
        let Err(error @ CaptureError::Missing { .. }) = outcome else {
            anyhow::bail!("it must be gone: {outcome:?}")
        };
        assert_eq!(error.class(), ErrorClass::NotFound);
    }
    server.captures.discard("snap_1").await?;
    stage.settles_at(&before).await?;
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn the_clone_is_of_the_moment_however_long_it_takes() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let root = server.layers.build(&id(1), &stage.template(), ByteSize::from_mib(160)).await?.path;
    let marker = File::create(root.join("marker"))?;
    marker.write_all_at(b"before", 0)?;
    let scattered = File::create(root.join("scattered"))?;
    scattered.write_all_at(&vec![1; 100 << 20], 0)?;
    // What is written over a shared file becomes extents of its own: many make a slow clone.
    capture(&server, "first", Value::Null).await?;
    for number in 0..5000 {
        scattered.write_all_at(&[2; 4096], number * 5 * 4096)?;
    }
    server.layers.sync(&id(1)).await?;

    server.captures.begin("second", NONE).await?;
    server.captures.clone_layer("second", &id(1)).await?;
    marker.write_all_at(b"after ", 0)?;
    scattered.write_all_at(&[3; 4096], 99 << 20)?;
    server.layers.sync(&id(1)).await?;
    let capture = server.captures.commit("second", Value::Null).await?;
    let size = ByteSize::from_mib(160);
    let root =
        server.layers.build_from(&id(2), &stage.template(), &capture.layer, size).await?.path;
    assert_eq!(fs::read_to_string(root.join("marker"))?, "before");
    let mut block = [0; 4096];
    let scattered = File::open(root.join("scattered"))?;
    scattered.read_exact_at(&mut block, 99 << 20)?;
    assert_eq!(block, [1; 4096]);
    scattered.read_exact_at(&mut block, 4999 * 5 * 4096)?;
    assert_eq!(block, [2; 4096], "what was in memory alone is in the clone");
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_whole_one_stays_until_another_is_committed() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    build(&stage, &server).await?;
    capture(&server, "box", json!(1)).await?;
    let one = stage.census()?;
    let draft = server.captures.begin("box", NONE).await?;
    fs::write(draft.memory.join("half"), "of a try that ended")?;
    assert_eq!(server.captures.open("box").await?.note, json!(1));
    let unfinished = server.captures.commit("box", json!(2)).await;
    assert!(matches!(unfinished, Err(CaptureError::Step { .. })), "no layer: {unfinished:?}");
    assert_eq!(server.captures.open("box").await?.note, json!(1));

    let draft = server.captures.begin("box", NONE).await?;
    assert_eq!(fs::read_dir(&draft.memory)?.count(), 0, "a draft begins empty");
    server.captures.clone_layer("box", &id(1)).await?;
    server.captures.commit("box", json!(3)).await?;
    let capture = server.captures.open("box").await?;
    assert_eq!((capture.note, capture.memory_size), (json!(3), NONE));
    assert_eq!(fs::read_dir(&capture.memory)?.count(), 0);
    server.captures.verify("box", Pace::Full).await?;
    stage.settles_at(&one).await?;
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_block_written_to_what_a_capture_shares_takes_a_block() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    if server.pool.kind() == PoolKind::PlainCopies {
        return Ok(());
    }
    let size = ByteSize::from_mib(128);
    let root = server.layers.build(&id(1), &stage.template(), size).await?.path;
    fs::write(root.join("file"), vec![1; 64 << 20])?;
    let captured = capture(&server, "a", Value::Null).await?;
    let clone =
        server.layers.build_from(&id(2), &stage.template(), &captured.layer, size).await?.path;
    let before = server.layers.space().await?.available;
    for root in [root, clone] {
        let file = File::options().write(true).open(root.join("file"))?;
        // One in 32, as scattered as can be.
        for at in (0..64 << 20).step_by(128 << 10) {
            file.write_all_at(&[2; 4096], at)?;
        }
        file.sync_all()?;
    }
    let taken = before.saturating_sub(server.layers.space().await?.available);
    ensure!(taken < ByteSize::from_mib(16), "{taken} for 4 MiB");
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn room_is_asked_for_first_and_promised_once() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    build(&stage, &server).await?;
    let free = server.layers.space().await?.available;
    let most = ByteSize::from_bytes(free.bytes() / 2);
    let Err(error) = server.captures.begin("a", free).await else {
        anyhow::bail!("the reserve is not for it")
    };
    let CaptureError::PoolFull { needed, available, reserve } = error else {
        return Err(error.into());
    };
    ensure!(needed > free && available == free && reserve.bytes() > 40 * MIB, "{error}");
    assert_eq!(error.class(), ErrorClass::Unavailable);
    ensure!(error.to_string().contains(&needed.to_string()), "{error}");

    let draft = server.captures.begin("a", most).await?;
    ensure!(server.layers.space().await?.available.bytes() <= free.bytes() - most.bytes());
    let second = server.captures.begin("b", most).await;
    assert!(matches!(second, Err(CaptureError::PoolFull { .. })), "{second:?}");
    // What is written of it counts once.
    let promised = server.layers.space().await?.available;
    let file = File::create(draft.memory.join("pages.img"))?;
    file.write_all_at(&vec![1; 50 << 20], 0)?;
    file.sync_all()?;
    let written = server.layers.space().await?.available;
    ensure!(promised.bytes().abs_diff(written.bytes()) < 2 * MIB, "{promised} {written}");
    drop(file);
    server.captures.discard("a").await?;
    until("its room to come back", || {
        Ok(server.pool.space()?.available.bytes() > free.bytes() - 2 * MIB)
    })
    .await?;
    let draft = server.captures.begin("b", most).await?;
    assert_eq!(draft.room, needed_for(most));
    // One that has grown meanwhile is promised more, if there is more, and in place of before.
    let quarter = ByteSize::from_bytes(most.bytes() / 2);
    server.captures.extend("b", quarter).await?;
    let extended = server.layers.space().await?.available;
    ensure!(extended.bytes().abs_diff(free.bytes() - needed_for(quarter).bytes()) < 4 * MIB);
    let more = server.captures.extend("b", free).await;
    assert!(matches!(more, Err(CaptureError::PoolFull { .. })), "{more:?}");
    server.stop().await;
    Ok(())
}

/// What a capture of so much memory is promised.
fn needed_for(memory: ByteSize) -> ByteSize {
    memory.saturating_add(ByteSize::from_mib(16))
}

#[tokio::test]
async fn the_pool_grows_ahead_of_a_large_memory() -> Result<()> {
    let stage = Stage::new()?;
    let sizing = PoolSizing {
        initial: ByteSize::from_mib(512),
        max: Some(ByteSize::from_mib(2048)),
        low_water: ByteSize::from_mib(64),
        step: ByteSize::from_mib(64),
        ..PoolSizing::default()
    };
    let server = stage.server_with(PoolOptions { sizing, ..PoolOptions::default() })?;
    if server.pool.kind() != PoolKind::XfsImage {
        return Ok(());
    }
    server.captures.begin("large", ByteSize::from_mib(900)).await?;
    let stat = rustix::fs::statvfs(server.pool.dir())?;
    ensure!(stat.f_bavail * stat.f_frsize >= 900 * MIB, "it has grown before a byte is written");
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_lasts_for_a_boot_outlives_the_server_but_not_the_host() -> Result<()> {
    let stage = Stage::new()?;
    let first = stage.server()?;
    build(&stage, &first).await?;
    let draft = first.captures.begin("copies", ByteSize::from_mib(20)).await?;
    write_memory(&draft.memory)?;
    first.captures.clone_layer("copies", &id(1)).await?;
    let copies = first.captures.commit_for_boot("copies", json!("of one"), 50).await?;
    assert!(!needs_recovery(&copies.layer)?, "each of 50 would replay the journal");
    let mark = place(&first, "copies").join("boot");
    assert!(mark.exists());
    let marked = fs::read(&mark)?;
    first.stop().await;

    // The server died, and no more.
    let second = stage.server()?;
    assert_eq!(second.captures.open("copies").await?.note, json!("of one"));
    second.captures.verify("copies", Pace::Full).await?;
    until("the mark to go, as it is durable", || Ok(!mark.exists())).await?;
    second.stop().await;

    // So the host may go, too.
    let third = stage.server_of(small(), "the next boot")?;
    assert_eq!(third.captures.list().await?, ["copies"]);
    third.stop().await;

    // If it goes before; and in the middle of writing that.
    for marked in [marked, vec![]] {
        let last = stage.server()?;
        capture(&last, "copies", json!("again")).await?;
        last.stop().await;
        fs::write(&mark, marked)?;
        let next = stage.server_of(small(), "the next boot")?;
        assert!(next.captures.list().await?.is_empty());
        let gone = next.captures.open("copies").await;
        assert!(matches!(gone, Err(CaptureError::Missing { .. })), "{gone:?}");
        next.stop().await;
    }
    Ok(())
}

#[tokio::test]
async fn what_a_crash_leaves_is_the_old_or_the_new() -> Result<()> {
    let stage = Stage::new()?;
    let first = stage.server()?;
    build(&stage, &first).await?;
    capture(&first, "old", json!("old")).await?;
    capture(&first, "new", json!("new")).await?;
    for name in ["old", "new"] {
        first.captures.verify(name, Pace::Full).await?;
    }
    let one = stage.census()?;
    // In the middle of a draft, before and after its manifest, and before and after the exchange.
    let captures = first.pool.dir().join("captures");
    fs::create_dir_all(captures.join(".draft-begun/memory"))?;
    first.captures.begin("old", NONE).await?;
    first.captures.clone_layer("old", &id(1)).await?;
    fs::write(captures.join(".draft-old/manifest.json"), "{}")?;
    fs::create_dir(captures.join(".draft-new"))?;
    fs::copy(
        place(&first, "old").join("manifest.json"),
        captures.join(".draft-new/manifest.json"),
    )?;
    // While the checksums were written, and before they were.
    fs::write(place(&first, "old").join("checksums.new"), "{")?;
    fs::remove_file(place(&first, "new").join("checksums.json"))?;
    fs::create_dir(first.pool.dir().join("trash/capture-gone.1.1"))?;
    first.stop().await;

    let second = stage.server()?;
    stage.settles_at(&one).await?;
    assert_eq!(second.captures.list().await?, ["new", "old"]);
    for name in ["old", "new"] {
        assert_eq!(second.captures.open(name).await?.note, json!(name));
        second.captures.verify(name, Pace::Full).await?;
    }
    let begun = second.captures.commit("begun", Value::Null).await;
    assert!(matches!(begun, Err(CaptureError::Step { .. })), "{begun:?}");
    let known = place(&second, "new").join("checksums.json");
    until("the checksums", || Ok(known.exists())).await?;
    second.stop().await;
    Ok(())
}

#[tokio::test]
async fn damage_is_found_and_named() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    build(&stage, &server).await?;
    let flip = |path: PathBuf| -> Result<()> {
        let file = File::options().read(true).write(true).open(path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, 500)?;
        Ok(file.write_all_at(&[byte[0] ^ 1], 500)?)
    };
    let edit = |path: PathBuf| -> Result<()> {
        let text = fs::read_to_string(&path)?;
        Ok(fs::write(path, text.replace("\"size\": 1000", "\"size\": 1001"))?)
    };
    let cut = |path: PathBuf| -> Result<()> {
        let file = File::options().write(true).open(path)?;
        Ok(file.set_len(file.metadata()?.len() - 1)?)
    };
    let newer = |path: PathBuf| -> Result<()> {
        let text = fs::read_to_string(&path)?;
        Ok(fs::write(path, text.replace("\"format_version\":1", "\"format_version\":2"))?)
    };
    type Damage<'a> = &'a dyn Fn(PathBuf) -> Result<()>;
    let remove: Damage<'_> = &|path| Ok(fs::remove_file(path)?);
    // (what is done, to what, what is said, whether an opening sees it)
    let table: [(Damage<'_>, &str, &str, bool); 10] = [
        (&edit, "manifest.json", "manifest.json differs from its own checksum", true),
        (&cut, "manifest.json", "manifest.json", true),
        (&newer, "manifest.json", "format 2", true),
        (remove, "manifest.json", "manifest.json is missing", true),
        (&flip, "memory/checkpoint.img", "the content of memory/checkpoint.img", true),
        (&cut, "memory/pages.img", "memory/pages.img has", true),
        (remove, "memory/pages.img", "memory/pages.img is missing", true),
        (&cut, "layer.img", "layer.img has", true),
        (&flip, "memory/pages.img", "the content of memory/pages.img", false),
        (&flip, "layer.img", "the content of layer.img", false),
    ];
    for (number, (damage, part, expected, at_opening)) in table.into_iter().enumerate() {
        let name = format!("snap_{number}");
        capture(&server, &name, Value::Null).await?;
        server.captures.verify(&name, Pace::Full).await?;
        damage(place(&server, &name).join(part))?;
        let opened = server.captures.open(&name).await.map(drop);
        assert_eq!(opened.is_err(), at_opening, "{expected}: {opened:?}");
        let verified = server.captures.verify(&name, Pace::Full).await.map(drop);
        for outcome in [verified].into_iter().chain(at_opening.then_some(opened)) {
            let Err(error @ CaptureError::Damaged { .. }) = outcome else {
                anyhow::bail!("{expected}: {outcome:?}")
            };
            let text = error.to_string();
            ensure!(text.contains(expected) && text.contains(&name), "{expected}: {text}");
        }
        server.captures.discard(&name).await?;
    }
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn odd_names_and_absent_layers_are_refused() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    for name in ["", "..", "../layers", "a/b", ".draft-a"] {
        let outcomes = [
            server.captures.begin(name, NONE).await.map(drop),
            server.captures.open(name).await.map(drop),
            server.captures.discard(name).await,
        ];
        for outcome in outcomes {
            let refused = matches!(outcome, Err(CaptureError::Step { step: "use the name", .. }));
            assert!(refused, "{name}: {outcome:?}");
        }
    }
    server.captures.begin("snap", NONE).await?;
    let error = server.captures.clone_layer("snap", &id(1)).await;
    assert!(matches!(error, Err(CaptureError::Step { .. })), "{error:?}");
    let undrafted = server.captures.commit("other", Value::Null).await;
    assert!(matches!(undrafted, Err(CaptureError::Step { .. })), "{undrafted:?}");
    server.captures.discard("snap").await?;
    assert_eq!(server.captures.list().await?, [""; 0]);
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_pool_that_copies_captures_too() -> Result<()> {
    let stage = Stage::new()?;
    let options = PoolOptions { choice: PoolChoice::NoImage, ..small() };
    let server = stage.server_with(options)?;
    let root = build(&stage, &server).await?;
    fs::write(root.join("work"), "captured")?;
    let made = capture(&server, "snap", Value::Null).await?;
    fs::write(root.join("work"), "later")?;
    server.captures.verify("snap", Pace::Full).await?;
    let (size, template) = (ByteSize::from_mib(64), stage.template());
    let root = server.layers.build_from(&id(2), &template, &made.layer, size).await?.path;
    assert_eq!(fs::read_to_string(root.join("work"))?, "captured");
    server.stop().await;
    Ok(())
}
