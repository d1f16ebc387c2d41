//! Persisted output of a sandbox's processes, as it travels from node to store (spec 08 §3).

use crate::{ProjectId, SandboxId, UnixMillis};

/// How severe a line is; the numbers are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// 1.
    Trace,
    /// 2.
    Debug,
    /// 3: standard output.
    Info,
    /// 4: what tarn itself says in the place of lines that are gone.
    Warn,
    /// 5: standard error.
    Error,
    /// 6.
    Fatal,
}

/// A process of a sandbox, as far as its lines need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogProcess {
    /// Its stable number in the sandbox: pids are used again, this is not.
    pub id: u64,
    /// Its pid inside the sandbox.
    pub pid: i32,
    /// Its command line, shortened.
    pub command: String,
    /// The id of the managed process that it is an incarnation of.
    pub managed_id: Option<String>,
    /// That one's name.
    pub managed_name: Option<String>,
}

/// One line of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The [`LogProcess::id`] of its process.
    pub process: u64,
    /// Standard output or standard error.
    pub level: LogLevel,
    /// When it was read from the process, by the sandbox's clock.
    pub at: UnixMillis,
    /// How many lines are gone where this one stands; 0 for a line of output.
    pub dropped: u64,
    /// The text.
    pub body: String,
}

/// Lines that are stored together or not at all.
///
/// `boot` and `number` are its version: a batch that was stored before is recognised by them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogBatch {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Whose it is.
    pub project: ProjectId,
    /// Names one life of the sandbox's daemon.
    pub boot: String,
    /// Counts from 1 within a boot.
    pub number: u64,
    /// Every process that a line mentions.
    pub processes: Vec<LogProcess>,
    /// The lines, oldest first.
    pub lines: Vec<LogLine>,
}

// === impl LogLevel ===

impl LogLevel {
    /// Every level, the least severe first.
    pub const ALL: [Self; 6] =
        [Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error, Self::Fatal];

    /// Returns the number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Trace => 1,
            Self::Debug => 2,
            Self::Info => 3,
            Self::Warn => 4,
            Self::Error => 5,
            Self::Fatal => 6,
        }
    }

    /// Returns the level of a number on the wire.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.number() == number)
    }
}

// === impl LogLine ===

impl LogLine {
    /// Says what stands in the place of lines that are gone.
    #[must_use]
    pub fn dropped_text(count: u64) -> String {
        format!("[tarn: {count} earlier lines dropped]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_its_number() {
        for (level, number) in LogLevel::ALL.into_iter().zip(1..) {
            assert_eq!(level.number(), number);
            assert_eq!(LogLevel::from_number(number), Some(level));
        }
        assert_eq!(LogLevel::from_number(0), None);
        assert_eq!(LogLevel::from_number(7), None);
    }
}
