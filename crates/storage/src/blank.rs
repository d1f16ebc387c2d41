//! Blanks: empty, formatted layers of each size asked for, ready to be cloned.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use tarn_types::ByteSize;

use crate::{
    durable,
    step::{HostStepError, StepContext as _},
    tool,
};

/// The part of a blank's name that changes when blanks are made differently.
const FORMAT: &str = "v1";
/// How many sizes are kept; a blank takes about 300 KiB and 10 ms to make.
const KEPT: usize = 16;
/// Where the overlay's upper directory lies within a layer.
pub(crate) const UPPER: &str = "upper";
/// Where the overlay's work directory lies within a layer.
pub(crate) const WORK: &str = "work";

/// What ext4 is given: what every kernel since 5.10 knows, written out so that a distribution's
/// defaults change nothing. `metadata_csum` is also what lets inode tables be marked as zeroed.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,\
    flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// The blanks of a pool.
#[derive(Debug)]
pub(crate) struct Blanks {
    dir: PathBuf,
    /// Held while a blank is made, so that a burst of one new size makes it once.
    making: Mutex<()>,
    uses: Mutex<Uses>,
}

/// Which blanks were used when, by counting.
#[derive(Debug, Default)]
struct Uses {
    count: u64,
    last: HashMap<PathBuf, u64>,
}

// === impl Blanks ===

impl Blanks {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, making: Mutex::new(()), uses: Mutex::default() }
    }

    /// Opens the blank of a size, formatting it if there is none.
    pub(crate) fn open(&self, size: ByteSize) -> Result<File, HostStepError> {
        let path = self.dir.join(format!("{FORMAT}-{}.img", size.bytes()));
        self.uses.lock().note(&path);
        if let Ok(blank) = File::open(&path) {
            return Ok(blank);
        }
        let _making = self.making.lock();
        if !path.exists() {
            self.evict(KEPT - 1)?;
            self.make(&path, size)?;
        }
        // While the lock is held nobody evicts it; later, the open file is enough.
        File::open(&path).step("open", &path)
    }

    fn make(&self, path: &Path, size: ByteSize) -> Result<(), HostStepError> {
        // The skeleton becomes the blank's content; its modes become those of the root directory
        // inside every sandbox.
        let skeleton = self.dir.join("skeleton");
        for part in [UPPER, WORK] {
            let part = skeleton.join(part);
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&part).step("make", &part)?;
        }
        let draft = self.dir.join("draft.img");
        // Not written over: whoever still works on the old one does not work on this one.
        durable::remove(&draft)?;
        let file = File::create_new(&draft).step("make", &draft)?;
        file.set_len(size.bytes()).step("size", &draft)?;
        format(&draft, &skeleton, size)?;
        // Clones are durable as soon as anything in them is; the blank must not lag behind.
        file.sync_all().step("sync", &draft)?;
        fs::rename(&draft, path).step("rename", &draft)?;
        tracing::debug!(path = %path.display(), "blank layer made");
        Ok(())
    }

    /// Removes the blanks longest unused but some; a clone needs its blank no more.
    fn evict(&self, keep: usize) -> Result<(), HostStepError> {
        let mut blanks = Vec::new();
        for entry in fs::read_dir(&self.dir).step("list", &self.dir)? {
            let path = entry.step("list", &self.dir)?.path();
            if path.extension().is_some_and(|it| it == "img") {
                blanks.push((self.uses.lock().last.get(&path).copied(), path));
            }
        }
        // Those that this server never used come first.
        blanks.sort_unstable();
        let surplus = blanks.len().saturating_sub(keep);
        for (_, path) in &blanks[..surplus] {
            fs::remove_file(path).step("remove", path)?;
            self.uses.lock().last.remove(path);
        }
        Ok(())
    }
}

// === impl Uses ===

impl Uses {
    fn note(&mut self, path: &Path) {
        self.count += 1;
        self.last.insert(path.to_owned(), self.count);
    }
}

fn format(image: &Path, skeleton: &Path, size: ByteSize) -> Result<(), HostStepError> {
    let journal = format!("size={}", journal_mib(size));
    let arguments = [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-O",
        FEATURES,
        "-b",
        "4096",
        "-I",
        "256",
        "-i",
        "16384",
        // No blocks kept for root: the user inside is to have them all.
        "-m",
        "0",
        "-e",
        "remount-ro",
        "-J",
        &journal,
        // Everything is laid out now, in one piece at the front: no kernel thread writes to each
        // clone later, and a clone begins with few extents.
        "-E",
        "lazy_itable_init=0,lazy_journal_init=0,packed_meta_blocks=1,root_owner=0:0",
        "-d",
    ];
    let mut arguments: Vec<_> = arguments.iter().map(OsStr::new).collect();
    arguments.extend([skeleton.as_os_str(), image.as_os_str()]);
    tool::run("mkfs.ext4", &arguments).step("format", image)
}

/// Returns the size of the journal: enough for bursts of small files, little beside the layer.
/// mke2fs accepts no less than 4 MiB.
fn journal_mib(size: ByteSize) -> u64 {
    (size.mib() / 32).clamp(4, 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_follows_the_size() {
        for (layer, journal) in [(64, 4), (256, 8), (1024, 32), (10240, 32)] {
            assert_eq!(journal_mib(ByteSize::from_mib(layer)), journal, "{layer}");
        }
    }

    #[test]
    fn a_blank_is_made_once_and_the_longest_unused_go() -> anyhow::Result<()> {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir()?;
        let blanks = Blanks::new(dir.path().to_owned());
        let inode = |mib| -> anyhow::Result<u64> {
            let meta = blanks.open(ByteSize::from_mib(mib))?.metadata()?;
            assert_eq!(meta.len(), mib << 20);
            Ok(meta.ino())
        };
        let (first, second) = (inode(64)?, inode(65)?);
        assert_ne!(first, second);
        assert_eq!(inode(64)?, first, "the very same file");

        fs::write(dir.path().join("v0-1.img"), "of an older server")?;
        blanks.evict(1)?;
        assert!(dir.path().join(format!("{FORMAT}-{}.img", 64 << 20)).exists());
        assert_eq!(fs::read_dir(dir.path())?.count(), 2, "it and the skeleton");
        Ok(())
    }

    #[test]
    fn what_an_earlier_server_is_still_making_does_not_become_a_blank() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let draft = dir.path().join("draft.img");
        fs::write(&draft, "half made")?;
        let theirs = File::options().write(true).open(&draft)?;
        let blank = Blanks::new(dir.path().to_owned()).open(ByteSize::from_mib(64))?;
        assert_eq!(theirs.metadata()?.len(), 9, "it is another file");
        assert_eq!(blank.metadata()?.len(), 64 << 20);
        Ok(())
    }
}
