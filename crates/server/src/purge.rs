//! `tarn purge`: takes everything of a data directory off the machine.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use tarn_storage::Pool;

use crate::{config::DataDir, identity};

/// The directories beneath the data directory in which mounts are the server's own.
const MOUNTED_IN: [&str; 4] = ["pool", "programs", "run", "runsc"];

/// What `tarn purge` takes.
#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// Say that everything may go: sandboxes, their files, keys and records.
    #[arg(long)]
    yes: bool,
}

/// Ends every sandbox of the data directory, removes every host object with its tag, and then the
/// directory itself. What is already gone is no error.
#[allow(clippy::print_stderr, reason = "this is the command line")]
pub(crate) fn run(args: &PurgeArgs, asked: &DataDir) -> anyhow::Result<()> {
    let Some(data) = find(&asked.root)? else {
        eprintln!("tarn: there is nothing to purge: {} does not exist", asked.root.display());
        return Ok(());
    };
    refuse_foreign(&data)?;
    if !args.yes {
        bail!(
            "this ends every sandbox of {} and removes all its files{}; say --yes if that is meant",
            data.root.display(),
            if holds_key_of_others(&data) {
                ", and master.key with them: without it nobody can read what is in the object \
                 store, so keep a copy of it first"
            } else {
                ""
            }
        );
    }
    let own = MOUNTED_IN.map(|dir| data.root.join(dir));
    refuse_mounts(&data, |mount| own.iter().any(|dir| mount.starts_with(dir)))?;
    let lock = identity::lock(&data, "")?;
    let tag = identity::tag(&data);
    identity::block_on(async {
        tarn_runtime_oci::remove_all(&data.runsc(), &tag).await.context("end the sandboxes")
    })?;
    tarn_storage::remove_all_mounts(&data.root).context("unmount layers and pool")?;
    tarn_hostnet::remove_all(&tag, &data.netns()).context("remove the network slots")?;
    // Such as a disk of the operator's on `pool`, which nobody could unmount before.
    refuse_mounts(&data, |_| false)?;
    drop(lock);
    remove(&data).with_context(|| format!("remove {}", data.root.display()))
}

/// Says whether a key goes that something is read with that stays: an object store was used with
/// the one that is made unless `object_store.key_file` names another.
fn holds_key_of_others(data: &DataDir) -> bool {
    data.object_store_used().exists() && data.master_key().exists()
}

/// Returns the data directory under its real path, if it is there.
fn find(root: &Path) -> anyhow::Result<Option<DataDir>> {
    match fs::canonicalize(root) {
        Err(absent) if absent.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(bad) => Err(bad).with_context(|| format!("find the real path of {}", root.display())),
        Ok(root) => Ok(Some(DataDir { root })),
    }
}

/// Refuses a directory over which no server was started: whatever is in it would go.
fn refuse_foreign(data: &DataDir) -> anyhow::Result<()> {
    if data.node_id().exists() || data.store().exists() || holds_no_more_than_made(data)? {
        return Ok(());
    }
    bail!(
        "{} is not the data directory of a tarn server, for it has neither node.id nor \
         store/tarn.sqlite; nothing was removed. Name the right one with --data-dir",
        data.root.display()
    )
}

/// Says whether a directory has nothing but what a start makes that ends before it has an id.
fn holds_no_more_than_made(data: &DataDir) -> anyhow::Result<bool> {
    let look = || -> io::Result<bool> {
        for entry in fs::read_dir(&data.root)? {
            let path = entry?.path();
            let is_made = if path == data.run() || path == data.root.join("store") {
                path.is_dir() && fs::read_dir(&path)?.next().is_none()
            } else if path == data.root.join("tarn.toml") {
                data.run().is_dir()
            } else {
                path == data.lock() || path == data.node_id().with_extension("new")
            };
            if !is_made {
                return Ok(false);
            }
        }
        Ok(true)
    };
    look().with_context(|| format!("look into {}", data.root.display()))
}

/// Refuses to go on while something is mounted beneath the directory that is to stay.
fn refuse_mounts(data: &DataDir, is_to_go: impl Fn(&Path) -> bool) -> anyhow::Result<()> {
    let mounts = Pool::mounts_beneath(&data.root).context("look for mounts")?;
    let staying: Option<PathBuf> = mounts.into_iter().find(|mount| !is_to_go(mount));
    let Some(mount) = staying else { return Ok(()) };
    bail!(
        "something is mounted on {} that is not tarn's, and its files would go, too; unmount it, \
         and purge again",
        mount.display()
    )
}

/// Removes the directory. Its id goes last: by it a second purge knows the directory if this one
/// is cut short.
fn remove(data: &DataDir) -> io::Result<()> {
    let entries: Vec<_> = fs::read_dir(&data.root)?.collect::<io::Result<_>>()?;
    for entry in entries.iter().filter(|entry| entry.path() != data.node_id()) {
        unless_gone(if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())
        } else {
            fs::remove_file(entry.path())
        })?;
    }
    unless_gone(fs::remove_dir_all(&data.root))
}

/// Takes what is already gone for removed.
fn unless_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(absent) if absent.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use tarn_task::SeededEntropy;

    use super::*;

    /// Purges a directory, and returns what was said against it.
    fn refusal(root: &Path) -> String {
        let refused = run(&PurgeArgs { yes: true }, &DataDir { root: root.to_owned() });
        refused.expect_err("it is not ours").to_string()
    }

    fn names(root: &Path) -> Vec<String> {
        let entries = fs::read_dir(root)
            .expect("it is there")
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_of_somebody_elses_stays_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path();
        fs::write(root.join("thesis.tex"), "years").expect("written");
        assert!(refusal(root).contains("not the data directory of a tarn server"));
        assert_eq!(names(root), ["thesis.tex"], "nothing is made there, either");
        fs::remove_file(root.join("thesis.tex")).expect("removed");
        fs::write(root.join("tarn.toml"), "").expect("written");
        refusal(root);
        fs::remove_file(root.join("tarn.toml")).expect("removed");
        fs::create_dir_all(root.join("store/of-another-kind")).expect("made");
        assert!(refusal(root).contains(&*root.to_string_lossy()));
        assert_eq!(names(root), ["store"]);
    }

    #[test]
    fn a_directory_that_is_not_there_is_purged() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir { root: dir.path().join("absent") };
        run(&PurgeArgs { yes: true }, &data).expect("nothing to do");
        assert!(!data.root.exists());
    }

    #[test]
    fn what_goes_is_said_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir { root: dir.path().join("data") };
        let data = identity::open_data_dir(&data).expect("made");
        let refusal = || {
            let refused = run(&PurgeArgs { yes: false }, &data).expect_err("nobody said --yes");
            refused.to_string()
        };
        fs::write(data.master_key(), "").expect("written");
        fs::write(data.node_id(), "").expect("written");
        assert!(!refusal().contains("master.key"), "no object store was used: {}", refusal());
        fs::write(data.object_store_used(), "").expect("written");
        assert!(
            refusal().contains("master.key") && refusal().ends_with("say --yes if that is meant")
        );
        assert!(data.master_key().exists());
    }

    #[test]
    fn what_a_start_leaves_is_ours_however_early_it_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir { root: dir.path().join("data") };
        let data = identity::open_data_dir(&data).expect("made");
        refuse_foreign(&data).expect("the directories alone");
        fs::write(data.root.join("tarn.toml"), "nonsense").expect("written");
        refuse_foreign(&data).expect("with a configuration that is refused");
        drop(identity::lock(&data, "").expect("free"));
        refuse_foreign(&data).expect("with its lock");
        identity::node_id(&data, &SeededEntropy::new(1)).expect("an id");
        fs::write(data.root.join("pool.img"), "").expect("written");
        refuse_foreign(&data).expect("with its id");
        remove(&data).expect("removed");
        assert!(!data.root.exists());
    }
}
