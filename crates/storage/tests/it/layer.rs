//! Layers: build, fill, find again, remove.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use tarn_host::{LayerError, Layers as _};
use tarn_storage::{Pool, PoolChoice, PoolKind, PoolOptions};
use tarn_types::{ByteSize, InstanceTag};

use crate::stage::{Census, Stage, id, small, unmount, until};

const MIB: u64 = 1 << 20;

/// Writes until the disk is full; returns how many bytes fitted.
fn fill(path: &Path) -> Result<u64> {
    let mut file = File::create(path)?;
    let chunk = vec![0x5A; 1 << 20];
    let mut written = 0;
    loop {
        match file.write(&chunk) {
            Ok(count) => written += u64::try_from(count)?,
            Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
            Err(error) => return Err(error).context("write"),
        }
    }
    file.sync_all().context("everything accepted reaches the disk")?;
    Ok(written)
}

#[tokio::test]
async fn a_layer_lives_and_goes() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let before = stage.census()?;
    let root = server.layers.build(&id(1), &stage.template(), ByteSize::from_mib(64)).await?.path;

    assert_eq!(fs::read_to_string(root.join("etc/name"))?, "template");
    fs::write(root.join("etc/name"), "changed")?;
    fs::rename(root.join("etc/deep"), root.join("etc/moved")).context("directories move")?;
    let meta = fs::metadata(&root)?;
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o755, 0, 0));
    let lower = stage.template().root;
    assert_eq!(fs::read_to_string(lower.join("etc/name"))?, "template");
    assert!(lower.join("etc/deep").exists());
    assert_eq!(server.layers.list().await?, [id(1)]);
    assert_eq!(server.layers.adopt(&id(1)).await?.path, root);

    server.layers.release(&id(1)).await?;
    assert_eq!(server.layers.list().await?, []);
    server.layers.release(&id(1)).await.context("once more")?;
    server.layers.release(&id(2)).await.context("one that never was")?;
    let gone = server.layers.adopt(&id(1)).await.expect_err("it is gone");
    assert!(matches!(gone, LayerError::Missing { .. }), "{gone}");
    stage.settles_at(&before).await?;
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn the_size_is_enforced_and_all_of_it_is_there() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    for (number, size) in [(1, 32), (2, 128)] {
        let size_bytes = size * MIB;
        let layer =
            server.layers.build(&id(number), &stage.template(), ByteSize::from_mib(size)).await?;
        let stat = rustix::fs::statvfs(&layer.path)?;
        let shown = stat.f_blocks * stat.f_frsize;
        let written = fill(&layer.path.join("filler"))?;
        ensure!(shown > size_bytes * 7 / 10 && shown <= size_bytes, "df of {size} MiB: {shown}");
        ensure!(written > shown * 9 / 10 && written <= size_bytes, "{size} MiB: {written}");
        server.layers.release(&id(number)).await?;
    }
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_is_deleted_inside_goes_back_to_the_pool() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let root = server.layers.build(&id(1), &stage.template(), ByteSize::from_mib(256)).await?.path;
    let image = root.with_file_name("disk.img");
    let used = || Ok::<_, io::Error>(fs::metadata(&image)?.blocks() * 512);
    let filler = root.join("filler");
    fs::write(&filler, vec![1; 100 << 20])?;
    File::open(&filler)?.sync_all()?;
    let full = used()?;
    ensure!(full >= 100 * MIB, "{full}");
    fs::remove_file(&filler)?;
    rustix::fs::syncfs(File::open(&root)?)?;
    until("the blocks to come back", || Ok(used()? < 20 * MIB)).await?;
    server.layers.release(&id(1)).await?;
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_second_build_of_a_sandbox_is_refused_and_harms_nothing() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let size = ByteSize::from_mib(64);
    let root = server.layers.build(&id(1), &stage.template(), size).await?.path;
    fs::write(root.join("work"), "mine")?;
    let error = server.layers.build(&id(1), &stage.template(), size).await;
    let Err(LayerError::Step { source, .. }) = error else { bail!("it must be refused") };
    assert_eq!(source.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read_to_string(root.join("work"))?, "mine");
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_failed_build_leaves_nothing() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let before = stage.census()?;
    let mut template = stage.template();
    template.root.push("absent");
    let error = server.layers.build(&id(1), &template, ByteSize::from_mib(64)).await;
    assert!(matches!(error, Err(LayerError::Step { step: "mount", .. })), "{error:?}");
    assert_eq!(server.layers.list().await?, []);
    stage.settles_at(&before).await?;
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn an_abandoned_build_is_ended_by_release() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let before = stage.census()?;
    for number in 0..10 {
        // Polled once or twice, then dropped: somewhere on its way.
        let (name, template) = (id(number), stage.template());
        let mut build =
            std::pin::pin!(server.layers.build(&name, &template, ByteSize::from_mib(64)));
        let given_up = std::time::Duration::from_micros(u64::from(number) * 700);
        let early = tokio::time::timeout(given_up, &mut build).await.is_err();
        ensure!(early || number > 0, "the first one is given up at once");
    }
    for number in 0..10 {
        server.layers.release(&id(number)).await?;
    }
    assert_eq!(server.layers.list().await?, []);
    stage.settles_at(&before).await?;
    server.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_at_once() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let before = stage.census()?;
    let layers = std::sync::Arc::new(server.layers);
    let mut builds = Vec::new();
    for number in 0..20 {
        let (layers, template) = (layers.clone(), stage.template());
        builds.push(server.tasks.spawn("build", async move {
            layers.build(&id(number), &template, ByteSize::from_mib(64)).await
        }));
    }
    for (number, build) in builds.into_iter().enumerate() {
        fs::write(build.await??.path.join("number"), number.to_string())?;
    }
    let census = stage.census()?;
    assert_eq!((census.loops, census.mounts), (before.loops + 20, before.mounts + 40));
    assert_eq!(layers.list().await?.len(), 20);
    let mut releases = Vec::new();
    for number in 0..20 {
        let layers = layers.clone();
        releases
            .push(server.tasks.spawn("release", async move { layers.release(&id(number)).await }));
    }
    for release in releases {
        release.await??;
    }
    stage.settles_at(&before).await?;
    Ok(())
}

#[tokio::test]
async fn layers_outlive_their_server() -> Result<()> {
    let stage = Stage::new()?;
    let first = stage.server()?;
    let empty = stage.census()?;
    let size = ByteSize::from_mib(64);
    let root = first.layers.build(&id(1), &stage.template(), size).await?.path;
    fs::write(root.join("counter"), "7")?;
    let open = File::open(root.join("counter"))?;
    first.stop().await;

    let second = stage.server()?;
    assert_eq!(second.layers.list().await?, [id(1)]);
    let adopted = second.layers.adopt(&id(1)).await?.path;
    assert_eq!(fs::read_to_string(adopted.join("counter"))?, "7");
    drop(open);
    second.layers.release(&id(1)).await?;
    stage.settles_at(&empty).await?;
    second.stop().await;
    Ok(())
}

#[tokio::test]
async fn after_a_reboot_layers_are_listed_and_not_adopted() -> Result<()> {
    let stage = Stage::new()?;
    let first = stage.server()?;
    let empty = stage.census()?;
    first.layers.build(&id(1), &stage.template(), ByteSize::from_mib(64)).await?;
    first.stop().await;
    tarn_storage::remove_all_mounts(&stage.data())?;
    assert_eq!(stage.census()?, Census { mounts: 0, loops: 0, files: 0 });

    let second = stage.server()?;
    assert_eq!(second.layers.list().await?, [id(1)]);
    let error = second.layers.adopt(&id(1)).await;
    assert!(matches!(error, Err(LayerError::Step { .. })), "{error:?}");
    second.layers.release(&id(1)).await?;
    stage.settles_at(&empty).await?;
    second.stop().await;
    Ok(())
}

#[tokio::test]
async fn after_a_reboot_a_layer_opens_with_its_files() -> Result<()> {
    let stage = Stage::new()?;
    let first = stage.server()?;
    let empty = stage.census()?;
    let size = ByteSize::from_mib(64);
    let root = first.layers.build(&id(1), &stage.template(), size).await?.path;
    fs::write(root.join("counter"), "7")?;
    fs::remove_file(root.join("etc/name"))?;
    first.stop().await;
    tarn_storage::remove_all_mounts(&stage.data())?;

    let second = stage.server()?;
    second.layers.close(&id(1)).await.context("nothing is mounted")?;
    let root = second.layers.reopen(&id(1), &stage.template(), size).await?.path;
    assert_eq!(fs::read_to_string(root.join("counter"))?, "7");
    assert!(!root.join("etc/name").exists(), "what was removed stays removed");
    fs::write(root.join("counter"), "8")?;
    let open = stage.census()?;
    for _ in 0..2 {
        second
            .layers
            .reopen(&id(1), &stage.template(), size)
            .await
            .context("whatever is mounted")?;
        assert_eq!(stage.census()?, open);
    }
    assert_eq!(fs::read_to_string(root.join("counter"))?, "8");

    // A template that is gone: the mount fails, the files stay.
    let gone = tarn_host::Template { root: "/nowhere".into(), ..stage.template() };
    second.layers.reopen(&id(1), &gone, size).await.expect_err("it has nothing to lie over");
    second.layers.close(&id(1)).await?;
    let root = second.layers.reopen(&id(1), &stage.template(), size).await?.path;
    assert_eq!(fs::read_to_string(root.join("counter"))?, "8");
    let none = second.layers.reopen(&id(2), &stage.template(), size).await;
    assert!(matches!(none, Err(LayerError::Missing { .. })), "{none:?}");
    second.layers.close(&id(2)).await.context("one that never was")?;
    second.layers.release(&id(1)).await?;
    stage.settles_at(&empty).await?;
    second.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_a_crash_leaves_is_listed_and_released() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let empty = stage.census()?;
    let size = ByteSize::from_mib(64);
    // Killed after each step of a build or a release, as far as files and mounts show it.
    let layer = |number: u8| server.pool.dir().join("layers").join(id(number).as_str());
    fs::create_dir(layer(1))?;
    for part in ["layer", "root"] {
        fs::create_dir_all(layer(2).join(part))?;
    }
    fs::write(layer(2).join("disk.img"), "half a clone")?;
    for number in [3, 4, 5] {
        server.layers.build(&id(number), &stage.template(), size).await?;
    }
    let root = layer(3).join("root");
    unmount(&root).await?;
    for part in ["root", "layer"] {
        unmount(&layer(4).join(part)).await?;
    }
    fs::remove_dir(layer(4).join("root"))?;
    // And trash that was never emptied.
    fs::create_dir(server.pool.dir().join("trash").join(format!("{}.1.1", id(9))))?;
    server.stop().await;

    let next = stage.server()?;
    let all = [1, 2, 3, 4, 5].map(id);
    assert_eq!(next.layers.list().await?, all);
    for id in &all {
        let live = next.layers.adopt(id).await.is_ok();
        assert_eq!(live, *id == all[4], "{id}");
        next.layers.release(id).await?;
    }
    stage.settles_at(&empty).await?;
    next.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_release_waits_for_the_last_user() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let empty = stage.census()?;
    let root = server.layers.build(&id(1), &stage.template(), ByteSize::from_mib(64)).await?.path;
    fs::write(root.join("held"), vec![1; 2 << 20])?;
    let user = File::open(root.join("held"))?;
    let name = id(1);
    let (released, freed) = tokio::join!(server.layers.release(&name), async {
        // That a large file is emptied shows that the removal has begun.
        until("the removal to begin", || Ok(user.metadata()?.len() == 0)).await?;
        drop(user);
        Ok::<_, anyhow::Error>(())
    });
    freed?;
    released?;
    stage.settles_at(&empty).await?;
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_layer_that_stays_in_use_stays_listed_until_it_is_free() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let empty = stage.census()?;
    let root = server.layers.build(&id(1), &stage.template(), ByteSize::from_mib(64)).await?.path;
    let user = File::create(root.join("held"))?;
    let error = server.layers.release(&id(1)).await;
    assert!(matches!(error, Err(LayerError::Step { .. })), "{error:?}");
    assert_eq!(server.layers.list().await?, [id(1)]);
    drop(user);
    server.layers.release(&id(1)).await?;
    stage.settles_at(&empty).await?;
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn copies_in_other_mount_namespaces_go_along() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let empty = stage.census()?;
    for number in [1, 2] {
        server.layers.build(&id(number), &stage.template(), ByteSize::from_mib(64)).await?;
    }
    // As a container runtime or a service with a private /tmp would.
    let mut other = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sleep", "60"])
        .spawn()?;
    let namespace = |who: &str| fs::read_link(format!("/proc/{who}/ns/mnt"));
    let (own, pid) = (namespace("self")?, other.id().to_string());
    until("the copy", || Ok(namespace(&pid)? != own)).await?;

    let released = server.layers.release(&id(1)).await;
    let settled = stage.census();
    server.stop().await;
    let removed = tarn_storage::remove_all_mounts(&stage.data());
    other.kill()?;
    other.wait()?;
    released?;
    removed?;
    assert_eq!(settled?.loops, empty.loops + 1);
    assert_eq!(stage.census()?.loops, 0);
    Ok(())
}

#[tokio::test]
async fn two_data_directories_do_not_meet() -> Result<()> {
    let stages = [Stage::new()?, Stage::new()?];
    let servers = [stages[0].server()?, stages[1].server()?];
    let size = ByteSize::from_mib(64);
    let mut roots = Vec::new();
    for (stage, server) in stages.iter().zip(&servers) {
        roots.push(server.layers.build(&id(1), &stage.template(), size).await?.path);
    }
    fs::write(roots[0].join("only"), "first")?;
    assert!(!roots[1].join("only").exists());
    servers[0].layers.release(&id(1)).await?;
    assert_eq!(servers[1].layers.list().await?, [id(1)]);
    servers[1].layers.adopt(&id(1)).await?;
    Ok(())
}

#[tokio::test]
async fn odd_characters_in_the_path_do_no_harm() -> Result<()> {
    let stage = Stage::named("tarn storage,a:b\\c-")?;
    let server = stage.server()?;
    let root = server.layers.build(&id(1), &stage.template(), ByteSize::from_mib(64)).await?.path;
    assert_eq!(fs::read_to_string(root.join("etc/name"))?, "template");
    assert_eq!(server.layers.list().await?, [id(1)]);
    server.layers.release(&id(1)).await?;
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn without_clones_layers_are_copied() -> Result<()> {
    let stage = Stage::new()?;
    let options = PoolOptions { choice: PoolChoice::NoImage, ..small() };
    let server = stage.server_with(options)?;
    // The file system below the tests decides.
    ensure!(server.pool.kind() != PoolKind::XfsImage, "{:?}", server.pool.kind());
    assert_eq!(stage.census()?, Census { mounts: 0, loops: 0, files: 0 });
    server.layers.build(&id(1), &stage.template(), ByteSize::from_mib(64)).await?;
    server.stop().await;

    // A pool in use is never hidden below an image, even if one could now be had.
    let tag = InstanceTag::from_hash([0; 6]);
    let pool = Pool::open(&stage.data(), &tag, small())?;
    ensure!(pool.kind() != PoolKind::XfsImage, "{:?}", pool.kind());
    let next = stage.server_with(options)?;
    next.layers.adopt(&id(1)).await?;
    next.layers.release(&id(1)).await?;
    stage.settles_at(&Census { mounts: 0, loops: 0, files: 0 }).await?;
    next.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_is_not_yet_written_is_not_written_for_a_removal() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let root = server.layers.build(&id(1), &stage.template(), ByteSize::from_mib(256)).await?.path;
    let image = File::open(root.with_file_name("disk.img"))?;
    let before = image.metadata()?.blocks() * 512;
    fs::write(root.join("filler"), vec![1; 100 << 20])?;
    server.layers.release(&id(1)).await?;
    let after = image.metadata()?.blocks() * 512;
    // Some may have been written by the kernel meanwhile, on a busy machine all of it.
    ensure!(after < before + 110 * MIB, "{before} {after}");
    server.stop().await;
    Ok(())
}
