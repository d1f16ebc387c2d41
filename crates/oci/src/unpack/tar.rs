//! Reading a tar archive as a stream: the formats of layers, and nothing that a layer never has.
//!
//! Ours, because the crates for it keep headers of any length in memory, split binary values of
//! extended attributes at their line ends, and leave the sparse files of GNU tar aside. The rules
//! are those of POSIX `pax`, of the GNU tar manual ("Basic Tar Format"), and, where these differ,
//! those of Go's `archive/tar`, by which all other engines read layers.

use std::io::{self, BufRead};

use crate::{Bounds, OciError};

use super::{
    field::{self, Field},
    pax::{Pax, PaxSparse},
};

/// The size of everything in a tar.
pub(crate) const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Dir,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// A stretch of a sparse file that has bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The header of an entry, all extensions applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    /// What a link leads to; empty for all else.
    pub(crate) target: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, u32),
    /// The bytes that follow in the archive.
    pub(crate) stored: u64,
    /// The size of the file; larger than what is stored if it is sparse.
    pub(crate) size: u64,
    /// What is stored, if not the whole file.
    pub(crate) extents: Option<Vec<Extent>>,
    /// Extended attributes as the archive has them.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads one entry after the other.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    input: R,
    header_bytes: u64,
    /// What is left of the bytes of the present entry, and of the block that they end in.
    left: u64,
    padding: u64,
    /// Where in the archive we are.
    offset: u64,
}

// === impl TarReader ===

impl<R: BufRead> TarReader<R> {
    pub(crate) fn new(input: R, bounds: &Bounds) -> Self {
        Self { input, header_bytes: bounds.header_bytes, left: 0, padding: 0, offset: 0 }
    }

    /// Returns where in the archive the next byte is.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the next entry; what is left of the present one is skipped. `None` = the end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, OciError> {
        self.skip(self.left.saturating_add(self.padding))?;
        (self.left, self.padding) = (0, 0);
        let mut long = Extensions::default();
        let mut budget = self.header_bytes;
        loop {
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            field::verify_checksum(&block).map_err(|detail| self.bad(detail))?;
            let number = |name, field| {
                field::number(field).ok_or_else(|| self.bad(&format!("its {name} is no number")))
            };
            let size = number("size", Field::Size.of(&block))?;
            let size = u64::try_from(size).map_err(|_negative| self.bad("its size is negative"))?;
            match block[156] {
                flag @ (b'L' | b'K' | b'x' | b'g' | b'V' | b'X') => {
                    let cost = size.saturating_add(BLOCK as u64);
                    budget = budget.checked_sub(cost).ok_or(OciError::TooLarge {
                        what: "the header of an entry",
                        limit: self.header_bytes,
                    })?;
                    let bytes = self.extension(size)?;
                    long.take(flag, bytes).map_err(|detail| self.bad(&detail))?;
                }
                _ => return self.entry(&block, size, long, budget).map(Some),
            }
        }
    }

    /// Returns some of the bytes of the present entry; none at its end. They stay until
    /// [`TarReader::consume`].
    pub(crate) fn data(&mut self) -> Result<&[u8], OciError> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let buffer = fill(&mut self.input)?;
        if buffer.is_empty() {
            return Err(cut());
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        Ok(&buffer[..most])
    }

    /// Goes on by so many of the bytes that [`TarReader::data`] returned.
    pub(crate) fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.left = self.left.saturating_sub(count as u64);
        self.offset += count as u64;
    }

    /// Reads on to the end of what the archive is in: it may be padded.
    pub(crate) fn finish(mut self) -> Result<R, OciError> {
        loop {
            let count = fill(&mut self.input)?.len();
            if count == 0 {
                return Ok(self.input);
            }
            self.input.consume(count);
        }
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        size: u64,
        long: Extensions,
        budget: u64,
    ) -> Result<Entry, OciError> {
        let mut entry = self.plain(block, size, &long.pax)?;
        if let Some(name) = long.name {
            entry.path = name;
        }
        if let Some(link) = long.link {
            entry.target = link;
        }
        let mut pax = long.pax;
        if let Some(path) = pax.path.take() {
            entry.path = path;
        }
        if let Some(link) = pax.link.take() {
            entry.target = link;
        }
        entry.xattrs = std::mem::take(&mut pax.xattrs);
        if entry.kind == Kind::File && block[156] != b'S' && entry.path.ends_with(b"/") {
            // Archives from before there was a type for directories.
            entry.kind = Kind::Dir;
        }
        if !matches!(entry.kind, Kind::HardLink | Kind::Symlink) {
            entry.target.clear();
        }
        if entry.kind != Kind::File {
            // As everywhere but in some old archives, whose links come with bytes.
            (entry.stored, entry.size) = (0, 0);
            return Ok(entry);
        }
        self.left = entry.stored;
        self.padding = entry.stored.wrapping_neg() % BLOCK as u64;
        if block[156] == b'S' {
            self.gnu_sparse(block, &mut entry, budget)?;
        } else if let Some(sparse) = pax.sparse.take() {
            self.pax_sparse(sparse, &mut entry, budget)?;
        }
        self.check_extents(&entry)?;
        Ok(entry)
    }

    /// Reads what a header says by itself.
    fn plain(&self, block: &[u8; BLOCK], size: u64, pax: &Pax) -> Result<Entry, OciError> {
        let kind = match block[156] {
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            flag => {
                let flag = char::from(flag).escape_default();
                return Err(self.bad(&format!("it has the unknown type `{flag}`")));
            }
        };
        let number = |name: &str, field: Field| {
            let number = field::number(field.of(block));
            number.ok_or_else(|| self.bad(&format!("its {name} is no number")))
        };
        let id = |name: &str, number: i64| {
            // The last one means "leave it as it is" to the kernel.
            let id = u32::try_from(number).ok().filter(|id| *id != u32::MAX);
            id.ok_or_else(|| self.bad(&format!("its {name} is out of range")))
        };
        let uid = pax.uid.map_or_else(|| number("owner", Field::Uid), Ok)?;
        let gid = pax.gid.map_or_else(|| number("group", Field::Gid), Ok)?;
        let mode = number("mode", Field::Mode)? & 0o7777;
        let mtime = pax.mtime.map_or_else(|| Ok((number("time", Field::Mtime)?, 0)), Ok)?;
        let stored = pax.size.unwrap_or(size);
        let mut path = field::text(&block[..100]).to_vec();
        // GNU tar keeps other things where POSIX keeps the beginning of a long path.
        let prefix = field::text(&block[345..500]);
        if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
            path = [prefix, b"/", &path].concat();
        }
        Ok(Entry {
            path,
            target: field::text(&block[157..257]).to_vec(),
            kind,
            mode: u32::try_from(mode).expect("a number of 12 bits"),
            uid: id("owner", uid)?,
            gid: id("group", gid)?,
            mtime,
            stored,
            size: stored,
            extents: None,
            xattrs: Vec::new(),
        })
    }

    /// Reads the map of a sparse file from its header and the blocks after it.
    fn gnu_sparse(
        &mut self,
        block: &[u8; BLOCK],
        entry: &mut Entry,
        mut budget: u64,
    ) -> Result<(), OciError> {
        let mut extents = Vec::new();
        let size = field::number(&block[483..495]).and_then(|size| u64::try_from(size).ok());
        entry.size = size.ok_or_else(|| self.bad("its real size is no number"))?;
        field::extents(&block[386..482], &mut extents).map_err(|detail| self.bad(detail))?;
        let mut more = block[482] != 0;
        while more {
            budget = budget.checked_sub(BLOCK as u64).ok_or(OciError::TooLarge {
                what: "the map of a sparse file",
                limit: self.header_bytes,
            })?;
            let block = self.block()?.ok_or_else(cut)?;
            field::extents(&block[..504], &mut extents).map_err(|detail| self.bad(detail))?;
            more = block[504] != 0;
        }
        entry.extents = Some(extents);
        Ok(())
    }

    /// Takes the map of a sparse file from its extensions, or from before its bytes.
    fn pax_sparse(
        &mut self,
        sparse: PaxSparse,
        entry: &mut Entry,
        budget: u64,
    ) -> Result<(), OciError> {
        if let Some(name) = sparse.name {
            entry.path = name;
        }
        entry.size = sparse.size.ok_or_else(|| self.bad("a sparse file without its size"))?;
        if !sparse.map_before_data {
            entry.extents = Some(sparse.extents);
            return Ok(());
        }
        let count = self.map_number()?;
        if count > budget / 4 {
            let limit = self.header_bytes;
            return Err(OciError::TooLarge { what: "the map of a sparse file", limit });
        }
        let mut extents = Vec::new();
        for _ in 0..count {
            let (offset, length) = (self.map_number()?, self.map_number()?);
            extents.push(Extent { offset, length });
        }
        // The map is padded to whole blocks; the bytes before it are whole blocks, too.
        let map = entry.stored - self.left;
        let rest = map.wrapping_neg() % BLOCK as u64;
        if rest > self.left {
            return Err(self.bad("the map of a sparse file is cut"));
        }
        self.skip(rest)?;
        self.left -= rest;
        entry.stored = self.left;
        entry.extents = Some(extents);
        Ok(())
    }

    /// Reads one line of the map that stands before the bytes of a sparse file.
    fn map_number(&mut self) -> Result<u64, OciError> {
        let mut number: u64 = 0;
        for digits in 0.. {
            let Some(byte) = self.data()?.first().copied() else {
                return Err(self.bad("the map of a sparse file is cut"));
            };
            self.consume(1);
            let digit = match byte {
                b'\n' if digits > 0 => return Ok(number),
                b'0'..=b'9' => u64::from(byte - b'0'),
                _ => break,
            };
            let next = number.checked_mul(10).and_then(|number| number.checked_add(digit));
            let Some(next) = next else { break };
            number = next;
        }
        Err(self.bad("the map of a sparse file is no list of numbers"))
    }

    /// Checks that the stretches of a sparse file are in order, within it, and all that is stored.
    fn check_extents(&self, entry: &Entry) -> Result<(), OciError> {
        let Some(extents) = &entry.extents else { return Ok(()) };
        let (mut end, mut stored) = (0, 0);
        for extent in extents {
            let next = extent.offset.checked_add(extent.length);
            match next.filter(|next| extent.offset >= end && *next <= entry.size) {
                Some(next) => end = next,
                None => return Err(self.bad("the map of a sparse file is not in order")),
            }
            stored += extent.length;
        }
        if stored != entry.stored {
            return Err(self.bad("the map of a sparse file is not that of its bytes"));
        }
        Ok(())
    }

    /// Reads the bytes of an extension; their number is within the budget already.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, OciError> {
        let mut bytes = Vec::new();
        self.left = size;
        loop {
            let data = self.data()?;
            let count = data.len();
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(data);
            self.consume(count);
        }
        self.skip(size.wrapping_neg() % BLOCK as u64)?;
        Ok(bytes)
    }

    /// Reads one block; `None` where the archive ends between two.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, OciError> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            let buffer = fill(&mut self.input)?;
            if buffer.is_empty() {
                return if have == 0 { Ok(None) } else { Err(cut()) };
            }
            let count = buffer.len().min(BLOCK - have);
            block[have..have + count].copy_from_slice(&buffer[..count]);
            self.input.consume(count);
            have += count;
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    fn skip(&mut self, mut count: u64) -> Result<(), OciError> {
        while count > 0 {
            let buffer = fill(&mut self.input)?;
            if buffer.is_empty() {
                return Err(cut());
            }
            let some = usize::try_from(count).unwrap_or(usize::MAX).min(buffer.len());
            self.input.consume(some);
            self.offset += some as u64;
            count -= some as u64;
        }
        Ok(())
    }

    fn bad(&self, detail: &str) -> OciError {
        let at = self.offset;
        OciError::malformed("a tar archive", format!("the entry before byte {at}: {detail}"))
    }
}

/// What stands before an entry to extend its header.
#[derive(Debug, Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Pax,
}

// === impl Extensions ===

impl Extensions {
    fn take(&mut self, flag: u8, bytes: Vec<u8>) -> Result<(), String> {
        match flag {
            b'L' => self.name = Some(field::text(&bytes).to_vec()),
            b'K' => self.link = Some(field::text(&bytes).to_vec()),
            b'x' | b'X' => self.pax = Pax::parse(&bytes)?,
            // Comments and labels for the whole archive: no engine applies them to entries.
            _ => drop(bytes),
        }
        Ok(())
    }
}

/// Returns what comes next, as [`BufRead::fill_buf`], with our own errors taken out of the
/// wrapping that readers need.
fn fill<R: BufRead>(input: &mut R) -> Result<&[u8], OciError> {
    // The first borrow would last into the error's arm.
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unwrap(error)),
        }
    }
    input.fill_buf().map_err(unwrap)
}

/// Returns the error that a reader of ours reports, or says that what it reads is damaged.
pub(crate) fn unwrap(error: io::Error) -> OciError {
    match error.downcast::<OciError>() {
        Ok(ours) => ours,
        Err(error) => OciError::malformed("a layer", error.to_string()),
    }
}

fn cut() -> OciError {
    OciError::malformed("a tar archive", "it ends in the middle of an entry")
}
