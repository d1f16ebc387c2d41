//! The steps of one layer's life on the host; all of them block.
//!
//! A layer is one directory of the pool, `layers/<id>`:
//! - `disk.img`: the sparse ext4 image, a clone of a blank;
//! - `layer/`: the image, mounted by a loop device;
//! - `root/`: the overlay of the template and the layer.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use rustix::{io::Errno, mount::MountFlags};

use super::forget::forget_large_files;
use crate::{
    blank::{UPPER, WORK},
    loopdev::{self, AttachedLoop, LoopDevice},
    mount::{self, EXT4_MAGIC, OVERLAY_MAGIC},
    step::{HostStepError, StepContext as _},
};

/// `noinit_itable`: blanks have nothing left to initialise. `discard`: what is deleted inside is
/// given back to the pool.
const LAYER_OPTIONS: &str = "noinit_itable,discard";

/// How template and layer are joined.
///
/// - `redirect_dir=on`: a directory of the image can be renamed, as on any disk; redirections are
///   confined to the template, which all of its sandboxes may read anyway.
/// - `index=off`: the index ties a layer to file handles of one template tree, which breaks when
///   a clone is mounted elsewhere.
/// - `metacopy=off`: a layer then holds whole files, never a part whose rest lies in the template.
/// - `xino=on`: inode numbers stay the same through a copy-up; gVisor tells files apart by them.
/// - not `volatile`: an fsync inside is an fsync.
const ROOT_OPTIONS: &str = "redirect_dir=on,index=off,metacopy=off,xino=on";

/// The places of one layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerDisk {
    dir: PathBuf,
}

/// How long to wait for something the kernel still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    FiveSeconds,
    /// That long was waited already.
    None,
}

// === impl LayerDisk ===

impl LayerDisk {
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.dir.join("disk.img")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    pub(super) fn layer(&self) -> PathBuf {
        self.dir.join("layer")
    }

    /// Makes the directories; refuses if the layer is there, for it may be somebody's work.
    pub(crate) fn make_dirs(&self) -> Result<(), HostStepError> {
        fs::create_dir(&self.dir).step("make", &self.dir)?;
        self.make_mount_points()
    }

    /// Makes the directories to mount on.
    pub(crate) fn make_mount_points(&self) -> Result<(), HostStepError> {
        for dir in [&self.layer(), &self.root()] {
            fs::create_dir(dir).step("make", dir)?;
        }
        Ok(())
    }

    /// Mounts the image and the root over a template.
    pub(crate) fn mount(&self, template: &Path, loop_name: &str) -> Result<(), HostStepError> {
        let layer = self.layer();
        // The sandbox's kernel reads setuid bits by itself; to the host an image's mean nothing.
        let flags = MountFlags::NOATIME | MountFlags::NODEV | MountFlags::NOSUID;
        {
            // From the mount on, the mount alone keeps the device.
            let device = LoopDevice::attach(&self.image(), loop_name)?;
            mount::mount(device.path(), &layer, "ext4", flags, OsStr::new(LAYER_OPTIONS))?;
        }
        let options = root_options(template, &layer);
        mount::mount(Path::new("overlay"), &self.root(), "overlay", flags, &options)
    }

    /// Writes to the image what the layer's files have in memory.
    pub(crate) fn sync(&self) -> Result<(), HostStepError> {
        let layer = self.layer();
        File::open(&layer).and_then(|dir| Ok(rustix::fs::syncfs(dir)?)).step("sync", &layer)
    }

    /// Says whether the layer's directory is there at all.
    pub(crate) fn exists(&self) -> bool {
        self.dir.exists()
    }

    /// Says whether both mounts are there.
    pub(crate) fn is_mounted(&self) -> Result<bool, HostStepError> {
        Ok(mount::is_on(&self.root(), OVERLAY_MAGIC)?
            && mount::is_on(&self.layer(), EXT4_MAGIC)?
            // On a host whose own disk is ext4, a bare directory is "on ext4" too.
            && self.layer().join(UPPER).is_dir())
    }

    /// Unmounts everything and moves what is left out of the way, to `trash`.
    ///
    /// Starts from whatever is there: a layer half built, half removed, or whole. One that
    /// somebody still uses leaves the tree after 5 s, but stays known until it is free: that is an
    /// error, and may be tried again.
    pub(crate) fn remove(&self, trash: &Path) -> Result<(), HostStepError> {
        if !self.exists() {
            return Ok(());
        }
        if mount::is_on(&self.root(), OVERLAY_MAGIC)? {
            forget_large_files(&self.layer().join(UPPER));
        }
        self.close()?;
        match fs::rename(&self.dir, trash) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(HostStepError::new("move to the trash", &self.dir, error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Unmounts everything, and waits until nobody holds the image; from whatever is there, as
    /// [`LayerDisk::remove`].
    pub(crate) fn close(&self) -> Result<(), HostStepError> {
        if !self.exists() {
            return Ok(());
        }
        // Asked while it is mounted: looking through all devices takes longer the more there are.
        let device = loopdev::below(&self.layer()).filter(|it| it.backing == self.image());
        let mut patience = Patience::FiveSeconds;
        for target in [self.root(), self.layer()] {
            if mount::unmount(&target)? == mount::Unmounted::Detached {
                tracing::warn!(path = %target.display(), "still in use after 5 s, detached");
                patience = Patience::None;
            }
            // Copies in other mount namespaces go with the mount point.
            mount::remove_mount_point(&target)?;
        }
        self.wait_for_loop(device.as_ref(), patience)
    }

    /// Waits until no loop device holds the image: only then is the layer truly gone.
    fn wait_for_loop(
        &self,
        device: Option<&AttachedLoop>,
        patience: Patience,
    ) -> Result<(), HostStepError> {
        let is_free = || match device {
            Some(device) => Ok(!device.is_attached()),
            None => Ok(loopdev::attached_beneath(&self.dir)?.is_empty()),
        };
        let detached = match patience {
            Patience::FiveSeconds => mount::wait_until(is_free)?,
            Patience::None => is_free()?,
        };
        if detached {
            return Ok(());
        }
        Err(HostStepError::new("detach the loop device of", &self.image(), Errno::BUSY))
    }
}

/// Writes the overlay's options, with the paths escaped as overlayfs reads them.
fn root_options(template: &Path, layer: &Path) -> OsString {
    let mut options = ROOT_OPTIONS.as_bytes().to_vec();
    for (key, path) in [
        ("lowerdir", template.to_owned()),
        ("upperdir", layer.join(UPPER)),
        ("workdir", layer.join(WORK)),
    ] {
        options.extend(format!(",{key}=").into_bytes());
        for byte in path.as_os_str().as_bytes() {
            // A colon divides lower directories, a comma options.
            if matches!(byte, b'\\' | b',') || (*byte == b':' && key == "lowerdir") {
                options.push(b'\\');
            }
            options.push(*byte);
        }
    }
    OsString::from_vec(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_options_are_escaped() {
        let options = root_options(Path::new("/t:1,a"), Path::new("/d:2,b"));
        let options = options.to_string_lossy();
        let (_, paths) = options.split_once(",lowerdir=").unwrap_or_default();
        assert_eq!(paths, r"/t\:1\,a,upperdir=/d:2\,b/upper,workdir=/d:2\,b/work");
    }
}
