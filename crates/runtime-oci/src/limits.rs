//! From a sandbox's shape to the numbers that the host enforces. Pure.
//!
//! A sandbox with `memory_mb: M` shows M inside, and a program in it can use M:
//!
//! ```text
//!  0 ──────────── M ──────── soft ───────────── hard
//!                 │ overhead │     headroom      │
//!                 │          │                   └ the cgroup's limit: everything stands still
//!                 │          └ the largest process is ended
//!                 └ `free` inside says this much in all
//! ```
//!
//! *Overhead* is what tarn and gVisor need for the sandbox and the host charges to it: 15–18 MiB
//! for an idle sentry and its gofer, and page tables, which grow with the memory in use (twice
//! 1/512, as the sentry and the process both map it). *Headroom* is what a program takes at full
//! speed (1.5 GB/s measured) in the 40 ms until its death; without it the whole sandbox would
//! stand still at its limit each time, the daemon that is to act included.

use tarn_runtime::{CpuShare, RuntimeSpec};
use tarn_types::MilliCpu;

const MIB: u64 = 1 << 20;

/// An idle sentry with its gofer, measured at 15 MiB (at most 18), and slack.
const BASE_OVERHEAD: u64 = 24 * MIB;

/// One part in this many of the memory goes into page tables and the sentry's own books.
const BOOKKEEPING_SHARE: u64 = 64;

/// The least that the kernel takes.
const LEAST_SHARES: u64 = 2;

const HEADROOM: u64 = 64 * MIB;

/// A process inside is two on the host, the sentry has its threads, and at this limit the whole
/// sandbox dies: so it lies far beyond what the inside may reach, and is only a fuse.
const HOST_PROCESSES_EACH: u64 = 8;
const HOST_PROCESSES_BASE: u64 = 200;

/// The kernel's default; quotas are relative to it.
const CPU_PERIOD_MICROS: u64 = 100_000;

/// The kernel refuses a quota below a millisecond.
const CPU_QUOTA_LEAST_MICROS: u64 = 1_000;

/// The memory limits of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryBounds {
    /// More than this in use, page cache aside: the sandbox has run out.
    pub(crate) soft: u64,
    /// The cgroup's limit.
    pub(crate) hard: u64,
}

/// Everything the host enforces or shows for one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The memory that programs inside see, in bytes.
    pub(crate) visible_memory: u64,
    /// The CPUs that programs inside see.
    pub(crate) visible_cpus: u32,
    pub(crate) memory: MemoryBounds,
    pub(crate) cpu_quota_micros: u64,
    pub(crate) cpu_period_micros: u64,
    /// Relative to 1024 for one CPU (cgroup v1's scale).
    pub(crate) cpu_shares: u64,
    /// Whether the CPU that it runs on counts as idle: whoever wakes is put there, and goes first.
    pub(crate) cpu_idle: bool,
    /// The fuse on processes and threads.
    pub(crate) host_processes: u64,
}

// === impl Limits ===

impl Limits {
    pub(crate) fn of(spec: &RuntimeSpec) -> Self {
        let memory = spec.resources.memory.bytes();
        let cpu = spec.resources.cpu;
        Self {
            visible_memory: memory,
            visible_cpus: cpu.visible_cpus(),
            memory: MemoryBounds::of(memory),
            cpu_quota_micros: quota(cpu),
            cpu_period_micros: CPU_PERIOD_MICROS,
            cpu_shares: match spec.share {
                CpuShare::Own => (u64::from(cpu.milli()) * 1024 / 1000).max(LEAST_SHARES),
                CpuShare::Least => LEAST_SHARES,
            }
            .min(262_144),
            cpu_idle: spec.share == CpuShare::Least,
            host_processes: u64::from(spec.processes) * HOST_PROCESSES_EACH + HOST_PROCESSES_BASE,
        }
    }

    /// The shares on cgroup v2's scale of 1 to 10000 (the kernel's own conversion).
    pub(crate) fn cpu_weight(&self) -> u64 {
        1 + (self.cpu_shares - 2) * 9999 / 262_142
    }

    /// The text that `tarn-prewarmer` reads.
    pub(crate) fn shape(&self) -> String {
        format!("{} {}\n", self.visible_memory, self.visible_cpus)
    }
}

fn quota(cpu: MilliCpu) -> u64 {
    (u64::from(cpu.milli()) * CPU_PERIOD_MICROS / 1000).max(CPU_QUOTA_LEAST_MICROS)
}

// === impl MemoryBounds ===

impl MemoryBounds {
    fn of(memory: u64) -> Self {
        let soft = memory.saturating_add(BASE_OVERHEAD + memory / BOOKKEEPING_SHARE);
        Self { soft, hard: soft.saturating_add(HEADROOM) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use tarn_types::{ByteSize, Resources, SandboxId};

    use super::*;

    fn limits(milli: u32, mib: u64, processes: u32) -> Limits {
        Limits::of(&RuntimeSpec {
            id: SandboxId::from_random([0; 21]),
            rootfs: "/r".into(),
            netns: "/n".into(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            hostname: "h".into(),
            resources: Resources {
                cpu: MilliCpu::from_milli(milli),
                memory: ByteSize::from_mib(mib),
                disk: ByteSize::from_mib(1),
                gpus: None,
            },
            tarnd: "/t".into(),
            processes,
            share: CpuShare::Own,
            gpus: None,
        })
    }

    #[test]
    fn memory_inside_is_what_was_asked_and_the_limit_lies_above() {
        for (mib, soft, hard) in [(256, 284, 348), (1024, 1064, 1128), (64, 89, 153)] {
            let limits = limits(1000, mib, 1);
            assert_eq!(limits.visible_memory, mib * MIB);
            assert_eq!(limits.memory, MemoryBounds { soft: soft * MIB, hard: hard * MIB });
        }
    }

    #[test]
    fn cpu_is_a_quota_and_a_weight() {
        for (milli, quota, shares, weight, visible) in [
            (500, 50_000, 512, 20, 1),
            (1000, 100_000, 1024, 39, 1),
            (2500, 250_000, 2560, 98, 3),
            (1, 1_000, 2, 1, 1),
            (0, 1_000, 2, 1, 1),
        ] {
            let limits = limits(milli, 256, 1);
            assert_eq!(limits.cpu_quota_micros, quota, "{milli}");
            assert_eq!(limits.cpu_shares, shares, "{milli}");
            assert_eq!(limits.cpu_weight(), weight, "{milli}");
            assert_eq!(limits.visible_cpus, visible, "{milli}");
        }
    }

    #[test]
    fn the_process_fuse_lies_far_beyond_the_inner_bound() {
        assert_eq!(limits(1000, 256, 1000).host_processes, 8200);
    }

    #[test]
    fn the_shape_is_what_the_prewarmer_reads() {
        assert_eq!(limits(1500, 256, 1).shape(), "268435456 2\n");
    }
}
