//! How far a pull is.

/// What a pull is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Nothing yet, or waiting for an earlier pull into the same directory.
    #[default]
    Waiting,
    /// Fetching layers and unpacking those that came.
    Fetching,
    /// Everything came; the rest is being unpacked.
    Unpacking,
    /// Waiting for the disk.
    Syncing,
    /// The tree is whole.
    Done,
}

/// How far a pull is. Its numbers fall only when what came was not right and is fetched anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// The layers of the image.
    pub layers_total: usize,
    /// Those that are unpacked.
    pub layers_done: usize,
    /// The bytes to transfer.
    pub bytes_total: u64,
    /// Those that are here.
    pub bytes_done: u64,
}
