//! What became of what a node makes ready ahead of requests.

/// Counts since the start of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AheadCounts {
    /// Ready now.
    pub ready: u64,
    /// Being built now.
    pub building: u64,
    /// Requests that found one.
    pub hits: u64,
    /// Requests that found one that was being built.
    pub joined: u64,
    /// Requests that found none.
    pub misses: u64,
    /// Built.
    pub built: u64,
    /// Not built, for a reason that is in the log.
    pub failed: u64,
    /// Removed without having been used.
    pub dropped: u64,
    /// What building took, of all that were built, in microseconds.
    pub build_micros: u64,
}
