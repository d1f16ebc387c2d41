//! What an image may cost.

/// The most of everything that an image may make us read, keep or write.
///
/// The defaults let every image through that is in use and stop every bomb: the largest public
/// images have some 40 GB, a million files and a hundred layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// The bytes of all layers as they are transferred.
    pub fetched_bytes: u64,
    /// The bytes of all files together, unpacked.
    pub unpacked_bytes: u64,
    /// The entries of all layers together.
    pub entries: u64,
    /// How many bytes one byte of a layer may unpack to, once it unpacked to `ratio_free_bytes`.
    pub ratio: u64,
    /// What a layer may unpack to whatever its ratio: zeros compress a thousand times.
    pub ratio_free_bytes: u64,
    /// The layers.
    pub layers: usize,
    /// The bytes of a manifest or an index. Registries take 4 MiB.
    pub manifest_bytes: u64,
    /// The bytes of an image's configuration.
    pub config_bytes: u64,
    /// The bytes of an entry's whole path and of a link's target. The kernel takes 4095.
    pub path_bytes: usize,
    /// How many directories deep the tree may be.
    pub depth: usize,
    /// The bytes of memory that the directories of one layer may take: their times and paths are
    /// kept until its end.
    pub dir_bytes: u64,
    /// The bytes of the headers of one entry: long names, extended attributes.
    pub header_bytes: u64,
}

// === impl Bounds ===

impl Default for Bounds {
    fn default() -> Self {
        Self {
            fetched_bytes: 64 << 30,
            unpacked_bytes: 128 << 30,
            entries: 4_000_000,
            ratio: 200,
            ratio_free_bytes: 256 << 20,
            layers: 256,
            manifest_bytes: 4 << 20,
            config_bytes: 4 << 20,
            path_bytes: 3072,
            depth: 128,
            dir_bytes: 64 << 20,
            header_bytes: 1 << 20,
        }
    }
}
