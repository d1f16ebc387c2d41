//! Tar archives, honest and otherwise, block by block.

/// An archive being written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tar(Vec<u8>);

/// A header to be changed before it is written.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) name: Vec<u8>,
    pub(crate) flag: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: u64,
    pub(crate) mtime: u64,
    pub(crate) link: Vec<u8>,
    pub(crate) magic: [u8; 8],
}

impl Header {
    pub(crate) fn new(name: &str, flag: u8) -> Self {
        Self {
            name: name.into(),
            flag,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 1_000_000_000,
            link: Vec::new(),
            magic: *b"ustar\x0000",
        }
    }

    pub(crate) fn block(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, format!("{:07o}\0", self.mode).as_bytes());
        put(108, format!("{:07o}\0", self.uid).as_bytes());
        put(116, format!("{:07o}\0", self.gid).as_bytes());
        put(124, format!("{:011o}\0", self.size).as_bytes());
        put(136, format!("{:011o}\0", self.mtime).as_bytes());
        put(156, &[self.flag]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, &self.magic);
        seal(&mut block);
        block
    }
}

/// Writes the sum of a header into it.
pub(crate) fn seal(block: &mut [u8; 512]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Writes a record of a pax header.
pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut length = body.len();
    while format!("{length}").len() + body.len() != length {
        length = format!("{length}").len() + body.len();
    }
    [format!("{length}").as_bytes(), &body].concat()
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds bytes and fills their last block.
    pub(crate) fn data(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn header(self, header: &Header) -> Self {
        self.raw(&header.block())
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        let size = body.len() as u64;
        self.header(&Header { size, ..Header::new("pax", b'x') }).data(&body)
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.file_as(name, content, 0o644, (0, 0))
    }

    pub(crate) fn file_as(self, name: &str, content: &[u8], mode: u32, ids: (u64, u64)) -> Self {
        let (size, (uid, gid)) = (content.len() as u64, ids);
        self.header(&Header { size, mode, uid, gid, ..Header::new(name, b'0') }).data(content)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.dir_as(name, 0o755, (0, 0))
    }

    pub(crate) fn dir_as(self, name: &str, mode: u32, (uid, gid): (u64, u64)) -> Self {
        self.header(&Header { mode, uid, gid, ..Header::new(name, b'5') })
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.header(&Header { link: target.into(), mode: 0o777, ..Header::new(name, b'2') })
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.header(&Header { link: target.into(), ..Header::new(name, b'1') })
    }

    /// An entry of a type that has nothing but a name.
    pub(crate) fn other(self, name: &str, flag: u8) -> Self {
        self.header(&Header::new(name, flag))
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }

    /// Without the blocks that end an archive.
    pub(crate) fn cut(self) -> Vec<u8> {
        self.0
    }
}
