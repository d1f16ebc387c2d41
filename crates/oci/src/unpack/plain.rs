//! The uncompressed bytes of a layer: decompressed, counted, bounded and hashed as they are read.

use std::{
    io::{self, BufRead, BufReader, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flate2::bufread::MultiGzDecoder;

use crate::{Bounds, Digest, OciError, digest::Hasher};

/// How much is decompressed at a time.
const CHUNK: usize = 128 << 10;
/// How much is read at a time.
const READ_AHEAD: usize = 128 << 10;
/// The largest window of zstd, as a power of two, that is taken: what its own tool takes unasked.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The bytes of one layer.
pub(crate) struct Plain<R: Read> {
    input: Decoder<Counted<R>>,
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
    hasher: Hasher,
    /// The bytes that were read of it compressed, and that came of them.
    taken: Arc<AtomicU64>,
    made: u64,
    /// What all layers may still unpack to.
    left: u64,
    bounds: Bounds,
}

/// Counts what is read through it.
struct Counted<R> {
    input: R,
    taken: Arc<AtomicU64>,
}

/// By what a layer is compressed; its first bytes tell.
enum Decoder<R: Read> {
    Raw(BufReader<R>),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<R>>>),
}

// === impl Plain ===

impl<R: Read> Plain<R> {
    /// Begins to read a layer; its first bytes tell how it is compressed. All layers may unpack to
    /// `left` bytes from here on.
    pub(crate) fn new(
        input: R,
        left: u64,
        diff_id: &Digest,
        bounds: &Bounds,
    ) -> Result<Self, OciError> {
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Counted { input, taken: Arc::clone(&taken) };
        let input = Decoder::new(counted).map_err(super::tar::unwrap)?;
        let buffer = vec![0; CHUNK].into_boxed_slice();
        let (hasher, bounds) = (diff_id.hasher(), bounds.clone());
        Ok(Self { input, buffer, at: 0, end: 0, hasher, taken, made: 0, left, bounds })
    }

    /// Returns what came of it, and the digest of that. Call it at the end.
    pub(crate) fn finish(self) -> (u64, Digest) {
        (self.made, self.hasher.finish())
    }

    /// Takes account of bytes that came.
    fn count(&mut self, count: usize) -> Result<(), OciError> {
        let count = count as u64;
        self.made += count;
        self.left = self.left.checked_sub(count).ok_or(OciError::TooLarge {
            what: "the size of its unpacked layers",
            limit: self.bounds.unpacked_bytes,
        })?;
        let taken = self.taken.load(Ordering::Relaxed);
        if self.made > self.bounds.ratio_free_bytes && self.made / self.bounds.ratio.max(1) > taken
        {
            let limit = self.bounds.ratio;
            return Err(OciError::TooLarge { what: "the compression ratio of a layer", limit });
        }
        Ok(())
    }
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = {
            let mut available = self.fill_buf()?;
            available.read(into)?
        };
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> BufRead for Plain<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.end {
            // Whole chunks, so that hashing and writing are worth their calls.
            let mut have = 0;
            while have < self.buffer.len() {
                match self.input.read(&mut self.buffer[have..]) {
                    Ok(0) => break,
                    Ok(count) => have += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            (self.at, self.end) = (0, have);
            self.count(have).map_err(io::Error::other)?;
            self.hasher.update(&self.buffer[..have]);
        }
        Ok(&self.buffer[self.at..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.at = self.end.min(self.at + count);
    }
}

// === impl Counted ===

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(into)?;
        self.taken.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

// === impl Decoder ===

impl<R: Read> Decoder<R> {
    fn new(input: R) -> io::Result<Self> {
        let mut input = BufReader::with_capacity(READ_AHEAD, input);
        let first = input.fill_buf()?;
        // A tar begins with a name, which has none of these.
        if first.starts_with(&[0x1f, 0x8b]) {
            return Ok(Self::Gzip(Box::new(MultiGzDecoder::new(input))));
        }
        let zstd = first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
            // Frames to be skipped, as those of indexes, may come first.
            || (first.len() >= 4 && first[0] & 0xf0 == 0x50 && first[1..4] == [0x2a, 0x4d, 0x18]);
        if zstd {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            return Ok(Self::Zstd(Box::new(decoder)));
        }
        Ok(Self::Raw(input))
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Raw(input) => input.read(into),
            Self::Gzip(input) => input.read(into),
            Self::Zstd(input) => input.read(into),
        }
    }
}
