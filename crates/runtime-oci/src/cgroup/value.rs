//! What is written into which file, by version, and how files are read. Pure.

use super::{CgroupVersion, layout::Controller};
use crate::limits::Limits;

/// One value for one file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) controller: Controller,
    pub(crate) file: &'static str,
    pub(crate) value: String,
    pub(crate) need: Need,
}

/// Whether a kernel without the file will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Must,
    /// Kernels without swap accounting, without swap, or before 5.15 (`cpu.idle`) lack it.
    IfPresent,
}

/// On version 2 memory may grow this far beyond the throttle before the kernel kills: more than
/// the policy ever lends.
const V2_KILL_MARGIN: u64 = 10 * (64 << 20);

/// The settings of a new sandbox.
pub(crate) fn at_create(version: CgroupVersion, limits: &Limits) -> Vec<Setting> {
    let memory = limits.memory.hard;
    let must = |controller, file, value: u64| Setting {
        controller,
        file,
        value: value.to_string(),
        need: Need::Must,
    };
    let may = |controller, file, value| Setting {
        need: Need::IfPresent,
        ..must(controller, file, value)
    };
    let mut settings = match version {
        CgroupVersion::V1 => vec![
            // Total with swap may never be below memory alone, so memory is lowered first.
            must(Controller::Memory, "memory.limit_in_bytes", memory),
            may(Controller::Memory, "memory.memsw.limit_in_bytes", memory),
            may(Controller::Memory, "memory.swappiness", 0),
            // At the limit everything waits for us; the kernel would end the whole sandbox.
            must(Controller::Memory, "memory.oom_control", 1),
            must(Controller::Pids, "pids.max", limits.host_processes),
        ],
        CgroupVersion::V2 => vec![
            must(Controller::Memory, "memory.high", memory),
            must(Controller::Memory, "memory.max", v2_kill_limit(memory)),
            may(Controller::Memory, "memory.swap.max", 0),
            // Half a sandbox is worse than none.
            must(Controller::Memory, "memory.oom.group", 1),
            must(Controller::Pids, "pids.max", limits.host_processes),
        ],
    };
    settings.extend(cpu_share(version, limits));
    settings
}

/// Where the kernel kills on version 2, for a hard bound.
pub(crate) fn v2_kill_limit(hard: u64) -> u64 {
    hard.saturating_add(V2_KILL_MARGIN)
}

/// The settings of how much of a busy CPU a sandbox gets.
///
/// The least share alone is not enough: the kernel takes a CPU on which somebody runs for a busy
/// one, so whoever wakes goes to another, and takes that from a sandbox that computes there.
pub(crate) fn cpu_share(version: CgroupVersion, limits: &Limits) -> Vec<Setting> {
    let (file, value) = match version {
        CgroupVersion::V1 => ("cpu.shares", limits.cpu_shares),
        CgroupVersion::V2 => ("cpu.weight", limits.cpu_weight()),
    };
    let setting = |file, value: u64, need| Setting {
        controller: Controller::Cpu,
        file,
        value: value.to_string(),
        need,
    };
    let idle = |value| setting("cpu.idle", value, Need::IfPresent);
    // The share of an idle group cannot be set.
    let mut settings = vec![idle(0), setting(file, value, Need::Must)];
    if limits.cpu_idle {
        settings.push(idle(1));
    }
    settings
}

/// The settings that wait until it has started.
pub(crate) fn at_start(version: CgroupVersion, limits: &Limits) -> Vec<Setting> {
    let (quota, period) = (limits.cpu_quota_micros, limits.cpu_period_micros);
    let setting =
        |file, value| Setting { controller: Controller::Cpu, file, value, need: Need::Must };
    match version {
        CgroupVersion::V1 => vec![
            setting("cpu.cfs_period_us", period.to_string()),
            setting("cpu.cfs_quota_us", quota.to_string()),
        ],
        CgroupVersion::V2 => vec![setting("cpu.max", format!("{quota} {period}"))],
    }
}

/// Finds `<name> <number>` among lines of that form.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Reads a file that holds one number. `max`, and anything beyond, is the largest.
pub(crate) fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MemoryBounds;

    const LIMITS: Limits = Limits {
        visible_memory: 100,
        visible_cpus: 1,
        memory: MemoryBounds { soft: 200, hard: 300 },
        cpu_quota_micros: 50_000,
        cpu_period_micros: 100_000,
        cpu_shares: 512,
        cpu_idle: false,
        host_processes: 500,
    };

    fn lines(settings: &[Setting]) -> Vec<String> {
        settings.iter().map(|set| format!("{}={}", set.file, set.value)).collect()
    }

    #[test]
    fn version_1_never_lets_the_kernel_kill() {
        assert_eq!(
            lines(&at_create(CgroupVersion::V1, &LIMITS)),
            [
                "memory.limit_in_bytes=300",
                "memory.memsw.limit_in_bytes=300",
                "memory.swappiness=0",
                "memory.oom_control=1",
                "pids.max=500",
                "cpu.idle=0",
                "cpu.shares=512",
            ]
        );
        assert_eq!(
            lines(&at_start(CgroupVersion::V1, &LIMITS)),
            ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000"]
        );
    }

    #[test]
    fn version_2_throttles_long_before_it_kills() {
        assert_eq!(
            lines(&at_create(CgroupVersion::V2, &LIMITS)),
            [
                "memory.high=300",
                "memory.max=671088940",
                "memory.swap.max=0",
                "memory.oom.group=1",
                "pids.max=500",
                "cpu.idle=0",
                "cpu.weight=20",
            ]
        );
        assert_eq!(lines(&at_start(CgroupVersion::V2, &LIMITS)), ["cpu.max=50000 100000"]);
    }

    #[test]
    fn what_nobody_waits_for_leaves_its_cpu_to_whoever_wakes() {
        let least = Limits { cpu_shares: 2, cpu_idle: true, ..LIMITS };
        for (version, share) in
            [(CgroupVersion::V1, "cpu.shares=2"), (CgroupVersion::V2, "cpu.weight=1")]
        {
            let settings = cpu_share(version, &least);
            assert_eq!(lines(&settings), ["cpu.idle=0", share, "cpu.idle=1"]);
        }
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "active_file 1\ninactive_file 22\nfrozen 1\n";
        assert_eq!(field(text, "inactive_file"), Some(22));
        assert_eq!(field(text, "active_file"), Some(1));
        assert_eq!(field(text, "file"), None);
        assert_eq!([number("12\n"), number("max\n")], [12, u64::MAX]);
    }
}
