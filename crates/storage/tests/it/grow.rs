//! Layers that grow: in use where the host allows it, else before they are mounted again; and
//! growth that a crash cut short.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use tarn_host::{Captures as _, LayerError, Layers as _};
use tarn_types::ByteSize;

use crate::stage::{Stage, id};

const MIB: u64 = 1 << 20;
const SMALL: ByteSize = ByteSize::from_mib(64);
const LARGE: ByteSize = ByteSize::from_mib(200);

/// What `df` says, in MiB.
fn shown(root: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(root)?;
    Ok(stat.f_blocks * stat.f_frsize / MIB)
}

fn image(root: &Path) -> PathBuf {
    root.with_file_name("disk.img")
}

fn lengthen(root: &Path) -> Result<()> {
    Ok(OpenOptions::new().write(true).open(image(root))?.set_len(LARGE.bytes())?)
}

#[tokio::test]
async fn a_layer_grows_in_use_or_stays_as_it_is() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let root = server.layers.build(&id(1), &stage.template(), SMALL).await?.path;
    let content = vec![0x5A; 20 << 20];
    fs::write(root.join("work"), &content)?;
    let before = shown(&root)?;
    for _ in 0..2 {
        match server.layers.grow(&id(1), LARGE).await {
            Ok(()) => {
                ensure!((150..=200).contains(&shown(&root)?), "df says {}", shown(&root)?);
                fs::write(root.join("more"), vec![0xA5; 100 << 20])?;
            }
            Err(LayerError::Unprivileged) => {
                assert_eq!(
                    (shown(&root)?, fs::metadata(image(&root))?.len()),
                    (before, SMALL.bytes())
                );
                fs::write(root.join("more"), "fits")?;
            }
            Err(other) => bail!("{other:?}"),
        }
    }
    // What it has already needs no privilege. It shrinks in no case, and what was in it is there.
    let now = shown(&root)?;
    server.layers.grow(&id(1), ByteSize::from_mib(32)).await?;
    server.layers.grow(&id(1), ByteSize::from_bytes(fs::metadata(image(&root))?.len())).await?;
    assert_eq!(shown(&root)?, now);
    ensure!(fs::read(root.join("work"))? == content);
    File::open(root.join("work"))?.sync_all().context("it can be written still")?;
    let none = server.layers.grow(&id(2), LARGE).await;
    assert!(matches!(none, Err(LayerError::Missing { .. })), "{none:?}");
    server.layers.release(&id(1)).await?;
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_layer_is_enlarged_before_it_is_opened_again() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let template = stage.template();
    let root = server.layers.build(&id(1), &template, SMALL).await?.path;
    fs::write(root.join("work"), "kept")?;
    server.layers.close(&id(1)).await?;
    let root = server.layers.reopen(&id(1), &template, LARGE).await?.path;
    ensure!((150..=200).contains(&shown(&root)?), "df says {}", shown(&root)?);
    assert_eq!(fs::read_to_string(root.join("work"))?, "kept");
    server.layers.reopen(&id(1), &template, SMALL).await.context("it does not shrink")?;
    ensure!(shown(&root)? >= 150);
    server.layers.release(&id(1)).await?;
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_growth_that_a_crash_cut_short_is_finished() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.server()?;
    let template = stage.template();
    let root = server.layers.build(&id(1), &template, SMALL).await?.path;
    fs::write(root.join("work"), "kept")?;
    let before = shown(&root)?;
    // The server dies when the file is longer, and nothing else knows.
    lengthen(&root)?;
    assert_eq!(shown(&root)?, before);
    server.layers.sync(&id(1)).await?;

    // It goes on from a capture, which is as long as the file.
    server.captures.begin("cut", ByteSize::default()).await?;
    server.captures.clone_layer("cut", &id(1)).await?;
    let clone = server.captures.commit("cut", serde_json::Value::Null).await?.layer;
    let copy = server.layers.build_from(&id(2), &template, &clone, LARGE).await?.path;
    ensure!((150..=200).contains(&shown(&copy)?), "df says {}", shown(&copy)?);
    assert_eq!(fs::read_to_string(copy.join("work"))?, "kept");

    // It goes on from its own files.
    let root = server.layers.reopen(&id(1), &template, LARGE).await?.path;
    ensure!((150..=200).contains(&shown(&root)?), "df says {}", shown(&root)?);
    assert_eq!(fs::read_to_string(root.join("work"))?, "kept");
    for number in [1, 2] {
        server.layers.release(&id(number)).await?;
    }
    server.stop().await;
    Ok(())
}
