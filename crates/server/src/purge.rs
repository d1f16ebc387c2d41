//! `tarn purge`: takes everything of a data directory off the machine.

use std::{fs, io};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::{config::DataDir, identity};

/// What `tarn purge` takes.
#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// Say that everything may go: sandboxes, their files, keys and records.
    #[arg(long)]
    yes: bool,
}

/// Ends every sandbox of the data directory, removes every host object with its tag, and then the
/// directory itself. What is already gone is no error.
pub(crate) fn run(args: &PurgeArgs, data: &DataDir) -> anyhow::Result<()> {
    if !data.root.exists() {
        return Ok(());
    }
    if !args.yes {
        bail!(
            "this ends every sandbox of {} and removes all its files; say --yes if that is meant",
            data.root.display()
        );
    }
    let data = identity::open_data_dir(data)?;
    let lock = identity::lock(&data)?;
    let tag = identity::tag(&data);
    identity::block_on(async {
        tarn_runtime_oci::remove_all(&data.runsc(), &tag).await.context("end the sandboxes")
    })?;
    tarn_storage::remove_all_mounts(&data.root).context("unmount layers and pool")?;
    tarn_hostnet::remove_all(&tag, &data.netns()).context("remove the network slots")?;
    drop(lock);
    match fs::remove_dir_all(&data.root) {
        Err(bad) if bad.kind() != io::ErrorKind::NotFound => {
            Err(bad).with_context(|| format!("remove {}", data.root.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
