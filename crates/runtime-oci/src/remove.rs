//! Removes everything of a server from the host, apart from files.

use std::{fs, io, path::Path};

use tarn_types::InstanceTag;

use crate::{
    cgroup::{Cgroups, Layout},
    netns,
    paths::Paths,
    process,
};

/// Ends every sandbox of a tag and removes its cgroups and mounts. For uninstalling, and for
/// tests; no server of that tag may be running. The files below `state_dir` stay.
///
/// # Errors
/// Fails when the host refuses a step; the call may be repeated.
pub async fn remove_all(state_dir: &Path, tag: &InstanceTag) -> io::Result<()> {
    let layout = Layout::detect().map_err(io::Error::other)?;
    let cgroups = Cgroups::open(layout, tag)?;
    for id in cgroups.list()? {
        let cgroup = cgroups.sandbox(&id);
        process::end_all(&cgroup).await?;
        cgroup.remove().await?;
    }
    for parent in cgroups.parents() {
        match fs::remove_dir(&parent) {
            Err(refused) if refused.kind() != io::ErrorKind::NotFound => return Err(refused),
            Ok(()) | Err(_) => {}
        }
    }
    netns::unpin(&Paths::new(state_dir).null_netns())
}
