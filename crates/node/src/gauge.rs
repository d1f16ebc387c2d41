//! How much memory the host has left.

use tarn_types::ByteSize;

/// A host's memory at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryFacts {
    /// All of it.
    pub total: ByteSize,
    /// What could be used without swapping, as the kernel estimates.
    pub available: ByteSize,
}

/// Reads a host's memory.
pub trait MemoryGauge: Send + Sync + 'static {
    /// Returns the memory now; nothing available when it cannot be read.
    fn read(&self) -> MemoryFacts;
}

/// Reads `/proc/meminfo`.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcMemory;

/// Always says the same; for simulated nodes.
#[derive(Debug, Clone, Copy)]
pub struct FixedMemory(pub MemoryFacts);

// === impl ProcMemory ===

impl MemoryGauge for ProcMemory {
    fn read(&self) -> MemoryFacts {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        parse(&text)
    }
}

// === impl FixedMemory ===

impl MemoryGauge for FixedMemory {
    fn read(&self) -> MemoryFacts {
        self.0
    }
}

fn parse(meminfo: &str) -> MemoryFacts {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        ByteSize::from_bytes(kib.unwrap_or(0).saturating_mul(1024))
    };
    MemoryFacts { total: field("MemTotal:"), available: field("MemAvailable:") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_kib() {
        let facts = parse("MemTotal:       2048 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\n");
        assert_eq!((facts.total, facts.available), (ByteSize::from_mib(2), ByteSize::from_mib(1)));
        assert_eq!(parse("").available, ByteSize::from_bytes(0));
    }
}
