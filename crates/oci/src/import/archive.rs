//! A tar that holds an image, indexed so that its files can be read in any order.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use crate::{
    Bounds, Digest, OciError,
    unpack::{
        path::TreePath,
        plain::Plain,
        tar::{self, Kind, TarReader},
    },
};

use super::{Content, Effort, Store};

/// The most files that an archive of images may hold: blobs and lists, not the files of images.
const MOST_FILES: usize = 65_536;
/// How many links may lead from one name to the next.
const MOST_LINKS: usize = 8;

/// An open tar and where its files are in it.
#[derive(Debug)]
pub(super) struct Archive {
    file: File,
    places: HashMap<Vec<u8>, Place>,
}

/// Where a file of an archive is.
#[derive(Debug, Clone)]
enum Place {
    Bytes {
        offset: u64,
        size: u64,
    },
    /// The same as under another name: `docker save` writes layers that occur twice like this.
    Link(Vec<u8>),
}

// === impl Archive ===

impl Archive {
    /// Indexes an archive; a compressed one is decompressed into the work directory first.
    pub(super) fn open(path: &Path, effort: Effort<'_>) -> Result<Self, OciError> {
        let fail = |error| OciError::disk("read", path, error);
        let mut file = File::open(path).map_err(fail)?;
        let mut first = [0; 4];
        let count = file.read(&mut first).map_err(fail)?;
        file.seek(SeekFrom::Start(0)).map_err(fail)?;
        if first[..count].starts_with(&[0x1f, 0x8b])
            || first[..count].starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        {
            file = decompress(file, effort)?;
        }
        let places = index(&file, effort)?;
        Ok(Self { file, places })
    }
}

impl Store for Archive {
    fn open(&self, name: &str) -> Result<Option<Content>, OciError> {
        let clean = |name: &[u8]| -> Vec<u8> {
            let parts = name.split(|byte| *byte == b'/');
            let parts: Vec<_> = parts.filter(|part| !matches!(*part, b"" | b".")).collect();
            parts.join(&b'/')
        };
        let mut name = clean(name.as_bytes());
        for _ in 0..=MOST_LINKS {
            match self.places.get(&name) {
                None => return Ok(None),
                Some(Place::Bytes { offset, size }) => {
                    let file = self.file.try_clone();
                    let file =
                        file.map_err(|error| OciError::disk("open", "the archive", error))?;
                    return Ok(Some(Content { file, offset: *offset, size: *size }));
                }
                Some(Place::Link(target)) => name.clone_from(target),
            }
        }
        Ok(None)
    }
}

/// Decompresses an archive beside where its layers will be.
fn decompress(file: File, effort: Effort<'_>) -> Result<File, OciError> {
    let Effort { work, bounds, .. } = effort;
    let place = work.blob_dir()?.join("archive");
    let fail = |error| OciError::disk("write", &place, error);
    let removed = std::fs::remove_file(&place);
    if let Err(error) = removed.as_ref()
        && error.kind() != io::ErrorKind::NotFound
    {
        return removed.map(|()| file).map_err(fail);
    }
    let mut plain_file =
        File::options().read(true).write(true).create_new(true).open(&place).map_err(fail)?;
    // Nobody else needs its name, and a crash leaves nothing.
    std::fs::remove_file(&place).map_err(fail)?;
    let bounds = Bounds { unpacked_bytes: bounds.fetched_bytes, ..bounds.clone() };
    let mut plain = Plain::new(file, bounds.unpacked_bytes, &Digest::of(b""), &bounds)?;
    loop {
        effort.go_on()?;
        let count = {
            let bytes = plain.fill_buf().map_err(tar::unwrap)?;
            plain_file.write_all(bytes).map_err(fail)?;
            bytes.len()
        };
        if count == 0 {
            return Ok(plain_file);
        }
        plain.consume(count);
    }
}

/// Goes through an archive once; of two files with one name the later counts.
fn index(file: &File, effort: Effort<'_>) -> Result<HashMap<Vec<u8>, Place>, OciError> {
    let bounds = effort.bounds;
    let file = file.try_clone().map_err(|error| OciError::disk("open", "the archive", error))?;
    let mut input = BufReader::with_capacity(128 << 10, file);
    let rewound = input.seek(SeekFrom::Start(0));
    rewound.map_err(|error| OciError::disk("read", "the archive", error))?;
    let mut tar = TarReader::new(input, bounds);
    let mut places = HashMap::new();
    while let Some(entry) = tar.next_entry()? {
        effort.go_on()?;
        let path = TreePath::parse(&entry.path, bounds)?;
        let place = match entry.kind {
            Kind::File if entry.extents.is_none() => {
                Place::Bytes { offset: tar.offset(), size: entry.stored }
            }
            Kind::Symlink => Place::Link(beside(&path, &entry.target)),
            Kind::HardLink => {
                Place::Link(TreePath::parse(&entry.target, bounds)?.as_bytes().to_vec())
            }
            Kind::Dir => continue,
            Kind::File | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let what = "is nothing that an archive of images holds";
                let entry = crate::unpack::path::shown(&entry.path);
                return Err(OciError::Hostile { entry, what });
            }
        };
        places.insert(path.as_bytes().to_vec(), place);
        if places.len() > MOST_FILES {
            let limit = MOST_FILES as u64;
            return Err(OciError::TooLarge { what: "the number of files in the archive", limit });
        }
    }
    Ok(places)
}

/// Returns the name within the archive that a link leads to, as text: nothing is followed.
fn beside(link: &TreePath, target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = link.as_bytes().split(|byte| *byte == b'/').collect();
    parts.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::work::Work;

    #[test]
    fn a_compressed_archive_is_not_read_on_once_nobody_wants_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("archive.zst");
        // An archive of nothing: blocks of zeros.
        let packed = zstd::encode_all(vec![0_u8; 4 << 20].as_slice(), 1).expect("it is packed");
        std::fs::write(&path, packed).expect("it is written");
        let work = Work::lock(dir.path().to_owned()).expect("it is ours");
        let bounds = Bounds::default();
        let open = |stop: bool| {
            let effort = Effort { work: &work, bounds: &bounds, stop: &AtomicBool::new(stop) };
            Archive::open(&path, effort)
        };
        assert!(open(false).expect("it is read").places.is_empty());
        let stopped = open(true).expect_err("it was told to stop");
        assert!(matches!(stopped, OciError::Cancelled), "{stopped:?}");
        let blobs = work.blob_dir().expect("a directory");
        assert_eq!(std::fs::read_dir(blobs).expect("it is there").count(), 0, "nothing is left");
    }
}
