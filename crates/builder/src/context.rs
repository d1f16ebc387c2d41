//! The context of a build: a tar archive in a file of ours, which is read and never unpacked.

use std::{
    cell::Cell,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use sha2::{Digest as _, Sha256};
use tar::{Archive, Builder, EntryType, Header};
use tarn_build::{CacheKey, ContextIndex, ContextNode, Copy, Inline, MAX_PATH, NodeKind, Picked};
use tarn_guest_api::CopyHead;
use tarn_task::Tasks;
use tarn_types::UnixMillis;
use tokio::{io::DuplexStream, sync::oneshot};
use tokio_util::io::SyncIoBridge;

use crate::{
    aside::aside,
    workshop::{Parcel, StepError},
};

/// The most bytes of the headers of one entry: long names, extended attributes.
const HEADER_BYTES: u64 = 1 << 20;

/// How much of a name that is refused an error repeats.
const SHOWN_NAME: usize = 80;

/// The largest Dockerfile.
const MAX_DOCKERFILE: u64 = 1 << 20;

/// How much of a copy is on its way.
const PIPE_BYTES: usize = 512 << 10;

/// The permissions of what stands in a Dockerfile itself.
const INLINE_MODE: u32 = 0o644;

/// The latest time that a plain header says: eleven octal digits.
const LATEST_SECS: u64 = (1 << 33) - 1;

/// A context that was read through.
#[derive(Debug)]
pub(crate) struct Context {
    file: PathBuf,
    index: ContextIndex,
}

/// An archive that is read, as far as it may be: the crate keeps headers of any length in memory.
struct Metered {
    file: File,
    left: Rc<Cell<u64>>,
}

/// A file to be sent.
struct Item {
    path: String,
    mode: u32,
    modified_secs: u64,
    kind: NodeKind,
}

// === impl Context ===

impl Context {
    /// Reads an archive through and notes what is in it. Blocks; gives up soon after `stop` is set.
    pub(crate) fn read(file: &Path, stop: &AtomicBool) -> Result<Self, String> {
        let mut index = ContextIndex::default();
        let broken = |error: io::Error| format!("the context is no tar archive: {error}");
        let left = Rc::new(Cell::new(HEADER_BYTES));
        let opened = File::open(file).map_err(broken)?;
        let mut archive = Archive::new(Metered { file: opened, left: Rc::clone(&left) });
        let mut entries = archive.entries_with_seek().map_err(broken)?;
        loop {
            left.set(HEADER_BYTES);
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(broken)?;
            left.set(u64::MAX);
            if stop.load(Ordering::Relaxed) {
                return Err("nobody waits for the build any more".to_owned());
            }
            let path = text(&entry.path_bytes())?;
            let mode = entry.header().mode().map_err(broken)? & 0o7777;
            let modified_secs = modified_secs(entry.header());
            let kind = entry.header().entry_type();
            let kind = if kind.is_dir() {
                NodeKind::Dir
            } else if kind.is_symlink() {
                NodeKind::Link(text(&entry.link_name_bytes().unwrap_or_default())?)
            } else if kind.is_hard_link() {
                let target = text(&entry.link_name_bytes().unwrap_or_default())?;
                let Some(node) = index.get(&target).cloned() else {
                    return Err(format!(
                        "the context: `{path}` is linked to `{target}`, which is not there"
                    ));
                };
                index.insert(&path, node)?;
                continue;
            } else if kind.is_file() || kind.is_contiguous() {
                let (offset, size) = (entry.raw_file_position(), entry.size());
                NodeKind::File { offset, size, digest: digest(&mut entry).map_err(broken)? }
            } else {
                // What else there may be in an archive is nothing that can be copied.
                continue;
            };
            index.insert(&path, ContextNode { mode, modified_secs, kind })?;
        }
        Ok(Self { file: file.to_owned(), index })
    }

    /// Returns the text of the Dockerfile. Blocks.
    pub(crate) fn dockerfile(&self, path: &str) -> Result<String, String> {
        let Some(ContextNode { kind: NodeKind::File { offset, size, .. }, .. }) =
            self.index.get(path)
        else {
            return Err(format!("the context has no file `{path}` to build by"));
        };
        if *size > MAX_DOCKERFILE {
            return Err(format!("`{path}` has {size} bytes; at most {MAX_DOCKERFILE} are read"));
        }
        let bytes = part(&self.file, *offset, *size);
        let bytes = bytes.map_err(|error| format!("`{path}` cannot be read: {error}"))?;
        String::from_utf8(bytes).map_err(|_bad| format!("`{path}` is no UTF-8 text"))
    }

    /// Names what a copy takes, and refuses files that `ADD` would have to unpack.
    pub(crate) async fn content(
        self: &Arc<Self>,
        copy: &Copy,
        tasks: &Tasks,
    ) -> Result<CacheKey, StepError> {
        let (context, sources, adds) = (Arc::clone(self), copy.sources.clone(), copy.adds);
        let named = aside(tasks, move |stop| {
            let selection = context.index.select(&sources, stop).map_err(StepError::Failed)?;
            if adds {
                context.refuse_archives(&selection.picked, stop)?;
            }
            Ok(selection.key)
        });
        named.await?
    }

    fn refuse_archives(&self, picked: &[Picked<'_>], stop: &AtomicBool) -> Result<(), StepError> {
        for item in picked {
            let NodeKind::File { offset, size, .. } = item.node.kind else { continue };
            // In a directory they are files like others.
            if item.path.contains('/') {
                continue;
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let head = part(&self.file, offset, size.min(512));
            let head = head.map_err(|error| StepError::Internal(error.to_string()))?;
            if is_archive(&head) {
                return Err(StepError::Failed(format!(
                    "ADD would unpack `{}`, which is not offered: COPY it, and RUN tar",
                    item.path
                )));
            }
        }
        Ok(())
    }

    /// Sends what some sources name.
    pub(crate) async fn parcel(
        self: &Arc<Self>,
        sources: &[String],
        tasks: &Tasks,
    ) -> Result<Parcel, StepError> {
        let (context, sources) = (Arc::clone(self), sources.to_vec());
        let picking = aside(tasks, move |stop| {
            let selection = context.index.select(&sources, stop).map_err(StepError::Failed)?;
            let head = CopyHead { is_one_file: selection.is_one_file };
            let items = selection.picked.into_iter().map(|picked| Item {
                path: picked.path.to_owned(),
                mode: picked.node.mode,
                modified_secs: picked.node.modified_secs,
                kind: picked.node.kind.clone(),
            });
            Ok((head, items.collect::<Vec<_>>()))
        });
        let (head, items) = picking.await??;
        let file = self.file.clone();
        Ok(send(head, move |archive| {
            let mut source = File::open(&file)?;
            items.iter().try_for_each(|item| append(archive, item, &mut source))
        }))
    }

    /// Sends files that stand in a Dockerfile, as old as the build is.
    pub(crate) fn inline(files: &[Inline], begun: UnixMillis) -> Parcel {
        let head = CopyHead { is_one_file: files.len() == 1 };
        let files = files.to_vec();
        let begun_secs = begun.millis_since(UnixMillis(0)) / 1000;
        send(head, move |archive| {
            files.iter().try_for_each(|file| {
                let mut header = header(EntryType::Regular, INLINE_MODE, begun_secs);
                header.set_size(file.text.len() as u64);
                archive.append_data(&mut header, &file.name, file.text.as_bytes())
            })
        })
    }
}

// === impl Metered ===

impl Read for Metered {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(into)?;
        let left = self.left.get().checked_sub(count as u64).ok_or_else(|| {
            io::Error::other(format!("an entry has headers of more than {HEADER_BYTES} bytes"))
        })?;
        self.left.set(left);
        Ok(count)
    }
}

impl Seek for Metered {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

type Pipe = SyncIoBridge<DuplexStream>;

fn send(
    head: CopyHead,
    write: impl FnOnce(&mut Builder<&mut Pipe>) -> io::Result<()> + Send + 'static,
) -> Parcel {
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let (tell, done) = oneshot::channel();
    let mut pipe = SyncIoBridge::new(ours);
    let sending = move || {
        let sent = (|| {
            let mut line = serde_json::to_vec(&head)?;
            line.push(b'\n');
            pipe.write_all(&line)?;
            let mut archive = Builder::new(&mut pipe);
            write(&mut archive)?;
            archive.finish()?;
            drop(archive);
            pipe.shutdown()
        })();
        // Whoever does not wait for it knows why it ended.
        drop(tell.send(sent.map_err(|error: io::Error| {
            StepError::Internal(format!("read the context: {error}"))
        })));
    };
    // It ends when the other side does.
    drop(tokio::task::spawn_blocking(sending));
    Parcel { stream: Box::new(theirs), done }
}

fn append(archive: &mut Builder<&mut Pipe>, item: &Item, source: &mut File) -> io::Result<()> {
    match &item.kind {
        NodeKind::Dir => {
            let mut header = header(EntryType::Directory, item.mode, item.modified_secs);
            archive.append_data(&mut header, &item.path, io::empty())
        }
        NodeKind::Link(to) => {
            let mut header = header(EntryType::Symlink, item.mode, item.modified_secs);
            archive.append_link(&mut header, &item.path, to)
        }
        NodeKind::File { offset, size, .. } => {
            let mut header = header(EntryType::Regular, item.mode, item.modified_secs);
            header.set_size(*size);
            source.seek(SeekFrom::Start(*offset))?;
            archive.append_data(&mut header, &item.path, source.take(*size))
        }
    }
}

/// Returns when a file last changed. What is before 1970 or makes no sense counts as then.
fn modified_secs(header: &Header) -> u64 {
    header.mtime().ok().filter(|secs| *secs <= LATEST_SECS).unwrap_or(0)
}

/// Files of a context are root's.
fn header(kind: EntryType, mode: u32, modified_secs: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(modified_secs);
    header.set_size(0);
    header
}

fn digest(file: &mut impl Read) -> io::Result<CacheKey> {
    let mut hash = Sha256::new();
    io::copy(file, &mut hash)?;
    Ok(CacheKey::of(&[&hash.finalize()]))
}

fn part(file: &Path, offset: u64, size: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(file)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(bytes: &[u8]) -> Result<String, String> {
    let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_NAME)]).into_owned();
    if bytes.len() > MAX_PATH {
        return Err(format!(
            "the context: the name `{}…` has {} bytes; a name has {MAX_PATH} at most",
            shown(),
            bytes.len()
        ));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_bad) => Err(format!("the context: the name `{}` is no UTF-8 text", shown())),
    }
}

fn is_archive(head: &[u8]) -> bool {
    let begins = |magic: &[u8]| head.starts_with(magic);
    begins(b"\x1f\x8b")
        || begins(b"BZh")
        || begins(b"\xfd7zXZ\0")
        || begins(b"\x28\xb5\x2f\xfd")
        || head.get(257..262) == Some(b"ustar")
}

#[cfg(test)]
mod tests;
