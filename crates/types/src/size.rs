//! Amounts with their unit in the type.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Says why a number is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SizeError {
    /// The number of CPUs is negative, not finite, or beyond a million.
    #[error("a number of CPUs is a finite number from 0 to 1000000")]
    CpuOutOfRange,
}

/// An amount of memory or disk, in bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteSize(u64);

/// An amount of CPU, in thousandths of one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MilliCpu(u32);

// === impl ByteSize ===

impl ByteSize {
    /// Takes an amount in bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Takes an amount in MiB.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }

    /// Returns the amount in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Returns the amount in whole MiB, rounded down.
    #[must_use]
    pub const fn mib(self) -> u64 {
        self.0 >> 20
    }

    /// Adds, stopping at the largest amount.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Subtracts, stopping at zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1 << 20) {
            write!(f, "{} MiB", self.mib())
        } else {
            write!(f, "{} bytes", self.0)
        }
    }
}

// === impl MilliCpu ===

impl MilliCpu {
    /// Takes an amount in thousandths of a CPU.
    #[must_use]
    pub const fn from_milli(milli: u32) -> Self {
        Self(milli)
    }

    /// Takes a number of CPUs, fractions included, rounded to thousandths.
    ///
    /// # Errors
    /// Fails for a number that is negative, not finite or above a million.
    pub fn from_cpus(cpus: f64) -> Result<Self, SizeError> {
        if !cpus.is_finite() || !(0.0..=1_000_000.0).contains(&cpus) {
            return Err(SizeError::CpuOutOfRange);
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was checked above"
        )]
        let milli = (cpus * 1000.0).round() as u32;
        Ok(Self(milli))
    }

    /// Returns the amount in thousandths of a CPU.
    #[must_use]
    pub const fn milli(self) -> u32 {
        self.0
    }

    /// Returns the number of CPUs.
    #[must_use]
    pub fn cpus(self) -> f64 {
        f64::from(self.0) / 1000.0
    }

    /// Subtracts, stopping at zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Returns the number of whole CPUs a program inside should see: rounded up, at least 1.
    #[must_use]
    pub const fn visible_cpus(self) -> u32 {
        let whole = self.0.div_ceil(1000);
        if whole == 0 { 1 } else { whole }
    }
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cpus().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_kept_in_thousandths() {
        assert_eq!(MilliCpu::from_cpus(0.5).map(MilliCpu::milli), Ok(500));
        assert_eq!(MilliCpu::from_cpus(0.0004).map(MilliCpu::milli), Ok(0));
        for bad in [-0.1, f64::NAN, f64::INFINITY, 1e9] {
            assert_eq!(MilliCpu::from_cpus(bad), Err(SizeError::CpuOutOfRange));
        }
    }

    #[test]
    fn a_fraction_of_a_cpu_looks_like_one() {
        let visible = |milli| MilliCpu::from_milli(milli).visible_cpus();
        assert_eq!([visible(0), visible(500), visible(1000), visible(1001)], [1, 1, 1, 2]);
    }
}
