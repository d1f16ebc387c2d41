//! The pool: made once, found again, grown, full.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
};

use anyhow::{Result, bail, ensure};
use rustix::fs::{FallocateFlags, fallocate};
use tarn_host::{CaptureError, Captures as _, LayerError, Layers as _};
use tarn_storage::{
    Pool, PoolChoice, PoolError, PoolKind, PoolOptions, PoolSizing, remove_all_mounts,
};
use tarn_types::{ByteSize, InstanceTag};

use crate::stage::{Census, Stage, id, small, unmount, until};

const MIB: u64 = 1 << 20;

fn tag() -> InstanceTag {
    InstanceTag::from_hash([9; 6])
}

/// Takes room in the pool.
fn occupy(pool: &Pool, name: &str, mib: u64) -> Result<()> {
    let file = File::create(pool.dir().join(name))?;
    fallocate(&file, FallocateFlags::empty(), 0, mib * MIB)?;
    Ok(())
}

#[tokio::test]
async fn the_image_is_allocated_mounted_once_and_mounted_again() -> Result<()> {
    let stage = Stage::new()?;
    let one = Census { mounts: 1, loops: 1, files: 0 };
    let pool = Pool::open(&stage.data(), &tag(), small())?;
    if pool.kind() == PoolKind::DataDir {
        // Below these tests lies a file system that clones: there is no image to look at.
        return Ok(());
    }
    assert_eq!(pool.kind(), PoolKind::XfsImage, "{:?}", pool.shortcoming());
    let image = stage.data().join("pool.img");
    let allocated = fs::metadata(&image)?.blocks() * 512;
    ensure!(allocated >= 512 * MIB, "really allocated: {allocated}");
    assert_eq!(stage.census()?, one);
    fs::write(pool.dir().join("mark"), "kept")?;
    drop(pool);
    assert_eq!(stage.census()?, one, "it stays mounted");

    let again = Pool::open(&stage.data(), &tag(), small())?;
    assert_eq!(stage.census()?, one, "it is found");
    drop(again);
    remove_all_mounts(&stage.data())?;
    assert_eq!(stage.census()?, Census { mounts: 0, loops: 0, files: 0 });

    let rebooted = Pool::open(&stage.data(), &tag(), small())?;
    assert_eq!(fs::read_to_string(rebooted.dir().join("mark"))?, "kept");
    ensure!(rebooted.facts().iter().all(|fact| fact.ok), "{:?}", rebooted.facts());
    Ok(())
}

#[tokio::test]
async fn two_openings_at_once_make_one_pool() -> Result<()> {
    let stage = Stage::new()?;
    let data = stage.data();
    let open = |data: std::path::PathBuf| {
        tokio::task::spawn_blocking(move || Pool::open(&data, &tag(), small()))
    };
    let (first, second) = tokio::join!(open(data.clone()), open(data));
    let kinds = [first??.kind(), second??.kind()];
    assert_eq!(kinds[0], kinds[1]);
    ensure!(stage.census()?.mounts <= 1);
    Ok(())
}

#[tokio::test]
async fn it_grows_when_it_runs_low_and_up_to_its_maximum() -> Result<()> {
    let stage = Stage::new()?;
    let sizing = PoolSizing {
        initial: ByteSize::from_mib(512),
        max: Some(ByteSize::from_mib(1024)),
        low_water: ByteSize::from_mib(300),
        step: ByteSize::from_mib(256),
        disk_reserve: ByteSize::from_mib(512),
        freeze_below: None,
    };
    let server = stage.server_with(PoolOptions { sizing, ..PoolOptions::default() })?;
    if server.pool.kind() == PoolKind::DataDir {
        return Ok(());
    }
    let image = stage.data().join("pool.img");
    let size = || Ok::<_, std::io::Error>(fs::metadata(&image)?.len() / MIB);
    assert_eq!(size()?, 512);
    let total = server.layers.space().await?.total;
    ensure!(total.mib() > 900, "what it can grow by counts: {total}");
    let layer = server.layers.build(&id(1), &stage.template(), ByteSize::from_mib(700)).await?;
    // By its own watcher, below a writer, and past its first size.
    let write = |name: &str| {
        let path = layer.path.join(name);
        fs::write(&path, vec![3; 270 << 20])?;
        File::open(&path)?.sync_all()
    };
    write("one")?;
    until("the pool to grow", || Ok(size()? == 768)).await?;
    write("two")?;
    until("the pool to grow again", || Ok(size()? == 1024)).await?;
    let allocated = fs::metadata(&image)?.blocks() * 512 / MIB;
    ensure!(allocated >= 1024, "{allocated}");
    ensure!(!server.pool.grow_if_low()?, "the maximum is reached");
    for name in ["one", "two"] {
        ensure!(fs::read(layer.path.join(name))? == vec![3; 270 << 20], "{name} is whole");
    }
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_growth_cut_short_is_finished_at_the_next_start() -> Result<()> {
    let stage = Stage::new()?;
    let pool = Pool::open(&stage.data(), &tag(), small())?;
    if pool.kind() == PoolKind::DataDir {
        return Ok(());
    }
    let before = pool.space()?.total;
    drop(pool);
    let image = File::options().write(true).open(stage.data().join("pool.img"))?;
    fallocate(&image, FallocateFlags::empty(), 512 * MIB, 128 * MIB)?;
    let after = Pool::open(&stage.data(), &tag(), small())?.space()?.total;
    ensure!(after.mib() >= before.mib() + 120, "{before} {after}");
    Ok(())
}

#[tokio::test]
async fn a_full_pool_takes_no_more_layers_until_there_is_room() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    if server.pool.kind() == PoolKind::DataDir {
        return Ok(());
    }
    let size = ByteSize::from_mib(64);
    let available = server.layers.space().await?.available;
    occupy(&server.pool, "ballast", available.mib() - 20)?;
    let error = server.layers.build(&id(1), &stage.template(), size).await;
    let Err(LayerError::PoolFull { available, reserve }) = error else {
        anyhow::bail!("{error:?}")
    };
    ensure!(available < reserve && reserve.mib() < 60, "{available} {reserve}");
    ensure!(server.pool.facts().iter().any(|fact| !fact.ok), "doctor says so");
    assert_eq!(server.layers.list().await?, []);

    fs::remove_file(server.pool.dir().join("ballast"))?;
    until("the room to come back", || Ok(server.pool.check_room().is_ok())).await?;
    server.layers.build(&id(1), &stage.template(), size).await?;
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_pool_too_small_to_be_one_is_refused() -> Result<()> {
    let stage = Stage::new()?;
    let mut options = small();
    options.sizing.max = Some(ByteSize::from_mib(100));
    match Pool::open(&stage.data(), &tag(), options) {
        Ok(pool) => assert_eq!(pool.kind(), PoolKind::DataDir),
        Err(error) => assert!(matches!(error, PoolError::NoRoom { .. }), "{error}"),
    }
    assert!(!stage.data().join("pool.img").exists());
    Ok(())
}

#[tokio::test]
async fn something_else_mounted_over_the_pool_is_an_error() -> Result<()> {
    let stage = Stage::new()?;
    let pool = Pool::open(&stage.data(), &tag(), small())?;
    if pool.kind() == PoolKind::DataDir {
        return Ok(());
    }
    drop(pool);
    remove_all_mounts(&stage.data())?;
    let over = stage.data().join("pool");
    rustix::mount::mount("none", &over, "tmpfs", rustix::mount::MountFlags::empty(), None)?;
    let error = Pool::open(&stage.data(), &tag(), small());
    let removed = remove_all_mounts(&stage.data());
    let kept = stage.census()?.mounts;
    unmount(&over).await?;
    assert!(matches!(error, Err(PoolError::Step(_))), "{error:?}");
    removed?;
    assert_eq!(kept, 1, "what is not ours is left alone");
    Ok(())
}

/// A data directory on a tmpfs of its own, which cannot clone.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(dir: std::path::PathBuf, size: &std::ffi::CStr) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &dir, "tmpfs", flags, size)?;
        Ok(Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // What cannot be unmounted any more goes with the test's mount of it.
        drop(remove_all_mounts(&self.0));
        _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_capture_by_copy_leaves_the_reserve() -> Result<()> {
    let stage = Stage::new()?;
    let _tmpfs = Tmpfs::mount(stage.data(), c"size=192m")?;
    let options = PoolOptions { choice: PoolChoice::NoImage, ..small() };
    let server = stage.server_with(options)?;
    assert_eq!(server.pool.kind(), PoolKind::PlainCopies);
    let root = server.layers.build(&id(1), &stage.template(), ByteSize::from_mib(128)).await?.path;
    fs::write(root.join("filler"), vec![1; 80 << 20])?;
    server.layers.sync(&id(1)).await?;
    let captures = &server.captures;
    captures.begin("full", ByteSize::default()).await?;
    let refused = captures.clone_layer("full", &id(1)).await;
    let Err(CaptureError::PoolFull { needed, available, reserve }) = refused else {
        bail!("{refused:?}")
    };
    let mib = ByteSize::from_mib;
    ensure!(needed >= mib(80) && available < reserve.saturating_add(needed), "{available}");
    ensure!(available > mib(40), "what is refused takes nothing: {available}");
    captures.discard("full").await?;
    fs::remove_file(root.join("filler"))?;
    // What is deleted is given back some time after it is durable.
    server.layers.sync(&id(1)).await?;
    let image = root.with_file_name("disk.img");
    until("the room", || Ok(fs::metadata(&image)?.blocks() * 512 < 40 * MIB)).await?;
    captures.begin("small", ByteSize::default()).await?;
    captures.clone_layer("small", &id(1)).await?;
    captures.commit("small", serde_json::Value::Null).await?;
    server.layers.release(&id(1)).await?;
    server.stop().await;
    Ok(())
}
