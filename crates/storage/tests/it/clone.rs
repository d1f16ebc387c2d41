//! Layers made from captures: each its own, grown, and with its own identity.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
};

use anyhow::{Result, ensure};
use tarn_host::{Captures as _, LayerError, Layers as _};
use tarn_types::{ByteSize, ErrorClass};

use crate::stage::{Server, Stage, id};

const MIB: u64 = 1 << 20;

/// Captures the files of a sandbox; returns the clone of its layer.
async fn capture(server: &Server, name: &str, number: u8) -> Result<std::path::PathBuf> {
    server.captures.begin(name, ByteSize::default()).await?;
    server.captures.clone_layer(name, &id(number)).await?;
    Ok(server.captures.commit(name, serde_json::Value::Null).await?.layer)
}

fn machine_id(root: &Path) -> Result<String> {
    Ok(fs::read_to_string(root.join("etc/machine-id"))?)
}

#[tokio::test]
async fn clones_are_alike_at_first_and_then_their_own() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let (size, template) = (ByteSize::from_mib(64), stage.template());
    let root = server.layers.build(&id(1), &template, size).await?.path;
    fs::write(root.join("work"), "captured")?;
    fs::write(root.join("etc/name"), "changed")?;
    let first_id = machine_id(&root)?;
    let clone = capture(&server, "snap", 1).await?;
    fs::write(root.join("work"), "later")?;
    server.layers.release(&id(1)).await?;

    let mut ids = vec![first_id.clone()];
    for number in [2, 3] {
        let root = server.layers.build_from(&id(number), &template, &clone, size).await?.path;
        assert_eq!(fs::read_to_string(root.join("work"))?, "captured");
        assert_eq!(fs::read_to_string(root.join("etc/name"))?, "changed");
        ids.push(machine_id(&root)?);
        fs::write(root.join("work"), format!("of {number}"))?;
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3, "{ids:?}");
    let adopted = server.layers.adopt(&id(2)).await?.path;
    assert_eq!(fs::read_to_string(adopted.join("work"))?, "of 2");

    // The first one is resumed: it is the machine that it was.
    let root = server.layers.build_from(&id(1), &template, &clone, size).await?.path;
    assert_eq!(fs::read_to_string(root.join("work"))?, "captured");
    assert_eq!(machine_id(&root)?, first_id);
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_clone_grows_and_keeps_what_it_had() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let template = stage.template();
    let root = server.layers.build(&id(1), &template, ByteSize::from_mib(64)).await?.path;
    let content = vec![0x5A; 30 << 20];
    fs::write(root.join("large"), &content)?;
    let clone = capture(&server, "small", 1).await?;

    // Still mounted and written to: the clone's journal has something to replay.
    let grown =
        server.layers.build_from(&id(2), &template, &clone, ByteSize::from_mib(200)).await?;
    let stat = rustix::fs::statvfs(&grown.path)?;
    let shown = stat.f_blocks * stat.f_frsize;
    ensure!(shown > 150 * MIB && shown <= 200 * MIB, "df says {shown}");
    ensure!(fs::read(grown.path.join("large"))? == content);
    let more = File::create(grown.path.join("more"))?;
    more.write_all_at(&vec![0xA5; 100 << 20], 0)?;
    more.sync_all()?;

    let again = capture(&server, "large", 2).await?;
    let error = server.layers.build_from(&id(3), &template, &again, ByteSize::from_mib(64)).await;
    let Err(error @ LayerError::TooSmall { .. }) = error else {
        anyhow::bail!("it must be refused: {error:?}")
    };
    assert_eq!(error.class(), ErrorClass::Invalid);
    for size in [ByteSize::from_mib(64), ByteSize::from_mib(200)] {
        ensure!(error.to_string().contains(&size.to_string()), "{error}");
    }
    assert_eq!(server.layers.list().await?, [id(1), id(2)], "nothing was begun");
    let same = server.layers.build_from(&id(3), &template, &again, ByteSize::from_mib(200)).await?;
    ensure!(fs::read(same.path.join("large"))? == content);
    assert_eq!(fs::metadata(same.path.join("more"))?.len(), 100 * MIB);
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_clone_that_is_full_is_restored_all_the_same() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let (size, template) = (ByteSize::from_mib(32), stage.template());
    let root = server.layers.build(&id(1), &template, size).await?.path;
    let filler = File::create(root.join("filler"))?;
    let mut at = 0;
    while filler.write_all_at(&[1; 4096], at).is_ok() {
        at += 4096;
    }
    server.layers.sync(&id(1)).await?;
    let clone = capture(&server, "full", 1).await?;
    let root = server.layers.build_from(&id(2), &template, &clone, size).await?.path;
    assert_ne!(
        machine_id(&root)?,
        machine_id(&stage.data().join("pool/layers").join(id(1).as_str()).join("root"))?
    );
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_is_not_there_is_said() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let absent = stage.data().join("absent");
    let (size, template) = (ByteSize::from_mib(64), stage.template());
    let error = server.layers.build_from(&id(1), &template, &absent, size).await;
    assert!(matches!(error, Err(LayerError::Step { step: "open", .. })), "{error:?}");
    let error = server.layers.sync(&id(1)).await;
    assert!(matches!(error, Err(LayerError::Missing { .. })), "{error:?}");
    assert_eq!(server.layers.list().await?, []);
    server.stop().await;
    Ok(())
}
