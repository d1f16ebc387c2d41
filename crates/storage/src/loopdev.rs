//! Loop devices by their ioctls: attach, enlarge, and find by backing file.
//!
//! Every device is attached with `AUTOCLEAR`: the kernel detaches it when its last user is gone.
//! So a device lives exactly as long as its mount (or, before that, as the returned handle), and
//! a server killed between the two leaves nothing behind. Nothing is ever detached by number:
//! between looking at `/dev/loop7` and detaching it, it could have become somebody else's.
//!
//! Source: `include/uapi/linux/loop.h`, loop(4).

#![allow(unsafe_code, reason = "the loop ioctls have no safe wrapper in nix or rustix")]

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use rustix::{
    fs::{OFlags, major, minor, stat},
    io::Errno,
};

use crate::step::{HostStepError, StepContext as _};

/// Where a device in sysfs names the file behind it.
const BACKING_FILE: &str = "loop/backing_file";
const CONTROL: &str = "/dev/loop-control";
/// Loop devices are block devices of this major number (kernel `devices.txt`).
const LOOP_MAJOR: u32 = 7;
const NAME_SIZE: usize = 64;
const FLAG_AUTOCLEAR: u32 = 4;
const FLAG_DIRECT_IO: u32 = 16;
/// How often a device that somebody else took first is given up for another.
const ATTACH_TRIES: usize = 64;

/// Held while a device is chosen and attached (under 1 ms).
static ATTACHING: Mutex<()> = Mutex::new(());

/// An attached loop device; it stays attached while this or a mount holds it.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    path: PathBuf,
    /// Keeps the device attached until it is mounted.
    _device: File,
}

/// A loop device that is attached to some file, as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttachedLoop {
    /// The device node.
    pub(crate) device: PathBuf,
    /// The file behind it, as an absolute path; a removed file keeps its last path.
    pub(crate) backing: PathBuf,
}

/// `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; NAME_SIZE],
    crypt_name: [u8; NAME_SIZE],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

mod request {
    //! The ioctls themselves, each named after its `LOOP_` constant.
    #![allow(missing_docs, reason = "macros write these functions and give them no place for docs")]

    use super::LoopConfig;

    nix::ioctl_none_bad!(ctl_get_free, 0x4C82);
    nix::ioctl_write_ptr_bad!(configure, 0x4C0A, LoopConfig);
    nix::ioctl_none_bad!(set_capacity, 0x4C07);
}

// === impl LoopDevice ===

impl LoopDevice {
    /// Attaches a free device to a file, with direct I/O.
    ///
    /// `name` is what `losetup` and the kernel show beside the device; it carries the instance tag.
    pub(crate) fn attach(file: &Path, name: &str) -> Result<Self, HostStepError> {
        let control = open_device(Path::new(CONTROL)).step("open", Path::new(CONTROL))?;
        let (backing, flags) = open_backing(file).step("open", file)?;
        let config = LoopConfig::new(backing.as_raw_fd(), name, flags).step("attach", file)?;
        // One at a time: the kernel names the same free device to all who ask at once. Making one
        // for each instead would leave the host with ever more of them.
        let _turn = ATTACHING.lock();
        for _ in 0..ATTACH_TRIES {
            let index = free_index(&control).step("find a free loop device for", file)?;
            let path = PathBuf::from(format!("/dev/loop{index}"));
            let device = open_device(&path).step("open", &path)?;
            // SAFETY: the descriptor is an open loop device and `config` is a complete
            // `struct loop_config` that outlives the call.
            match unsafe { request::configure(device.as_raw_fd(), &raw const config) } {
                Ok(_) => return Ok(Self { path, _device: device }),
                // Another process was faster.
                Err(nix::errno::Errno::EBUSY) => {}
                Err(errno) => return Err(HostStepError::new("attach", file, errno)),
            }
        }
        Err(HostStepError::new("attach", file, Errno::BUSY))
    }

    /// Returns the device node.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

// === impl LoopConfig ===

impl LoopConfig {
    fn new(backing: RawFd, name: &str, flags: u32) -> io::Result<Self> {
        let mut file_name = [0; NAME_SIZE];
        // The last byte stays zero: the kernel wants a terminated string.
        let length = name.len().min(NAME_SIZE - 1);
        file_name[..length].copy_from_slice(&name.as_bytes()[..length]);
        Ok(Self {
            fd: u32::try_from(backing).map_err(|_negative| Errno::BADF)?,
            // The kernel takes what direct I/O on the file's own device needs.
            block_size: 0,
            info: LoopInfo {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset: 0,
                size_limit: 0,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags,
                file_name,
                crypt_name: [0; NAME_SIZE],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        })
    }
}

// === impl AttachedLoop ===

impl AttachedLoop {
    /// Says whether the device still holds that file.
    pub(crate) fn is_attached(&self) -> bool {
        let Some(name) = self.device.file_name() else { return false };
        let backing = fs::read_to_string(Path::new("/sys/block").join(name).join(BACKING_FILE));
        backing.is_ok_and(|it| backing_path(&it) == self.backing)
    }

    /// Takes over the new size of the backing file.
    pub(crate) fn refresh_capacity(&self) -> Result<(), HostStepError> {
        let device = open_device(&self.device).step("open", &self.device)?;
        // SAFETY: the descriptor is an open loop device; the call takes no argument.
        unsafe { request::set_capacity(device.as_raw_fd()) }.step("enlarge", &self.device)?;
        Ok(())
    }
}

/// Returns every loop device whose backing file lies beneath a directory.
pub(crate) fn attached_beneath(dir: &Path) -> Result<Vec<AttachedLoop>, HostStepError> {
    let blocks = Path::new("/sys/block");
    let mut found = Vec::new();
    for entry in fs::read_dir(blocks).step("list", blocks)? {
        let entry = entry.step("list", blocks)?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b"loop") {
            continue;
        }
        // A device that is free, or was freed a moment ago, has no such file.
        let Ok(backing) = fs::read_to_string(entry.path().join(BACKING_FILE)) else {
            continue;
        };
        let backing = backing_path(&backing);
        if backing.starts_with(dir) {
            found.push(AttachedLoop { device: Path::new("/dev").join(name), backing });
        }
    }
    Ok(found)
}

/// Returns the loop device below the file system that a path is on, if one is.
pub(crate) fn below(path: &Path) -> Option<AttachedLoop> {
    let device = stat(path).ok()?.st_dev;
    let (major, minor) = (major(device), minor(device));
    if major != LOOP_MAJOR {
        return None;
    }
    let backing = fs::read_to_string(format!("/sys/block/loop{minor}/{BACKING_FILE}")).ok()?;
    Some(AttachedLoop {
        device: PathBuf::from(format!("/dev/loop{minor}")),
        backing: backing_path(&backing),
    })
}

/// Says whether this process may use loop devices.
pub(crate) fn probe() -> io::Result<()> {
    open_device(Path::new(CONTROL)).map(drop)
}

/// Strips what the kernel adds to the path of a backing file.
fn backing_path(text: &str) -> PathBuf {
    let text = text.trim_end_matches('\n');
    PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(text))
}

fn open_device(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Opens a backing file past the page cache where its file system can: what is cached above the
/// device need not be cached below it once more.
fn open_backing(file: &Path) -> io::Result<(File, u32)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    // O_DIRECT is a small positive flag on every architecture.
    let direct = OFlags::DIRECT.bits().cast_signed();
    match options.clone().custom_flags(direct).open(file) {
        Ok(backing) => Ok((backing, FLAG_AUTOCLEAR | FLAG_DIRECT_IO)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Ok((options.open(file)?, FLAG_AUTOCLEAR))
        }
        Err(error) => Err(error),
    }
}

fn free_index(control: &File) -> nix::Result<i32> {
    // SAFETY: the descriptor is an open /dev/loop-control; the call takes no argument.
    unsafe { request::ctl_get_free(control.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_size() {
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }

    #[test]
    fn a_removed_backing_file_keeps_its_path() {
        for (text, path) in [
            ("/data/pool.img\n", "/data/pool.img"),
            ("/data/pool/x (deleted)\n", "/data/pool/x"),
            ("/data/with space\n", "/data/with space"),
        ] {
            assert_eq!(backing_path(text), PathBuf::from(path));
        }
    }
}
