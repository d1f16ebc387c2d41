//! Reads from a sentry's goroutines whether its sandbox is paused. Pure.
//!
//! The sentry has no call that tells, and a resume of a sandbox that runs is a panic of its
//! kernel. But it lists the stacks of its goroutines, and every thread of the sandbox is one:
//!
//! - paused, each of them waits in `Task.doStop`; the call to pause returns when the last one does;
//! - running, at least one does not: in there without a pause are only threads that a signal or
//!   a debugger stopped, or whose child of `vfork` has not gone its way.
//!
//! A sandbox all of whose threads, the daemon's too, were stopped by signals looks paused.

/// What the stacks show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Some thread is free to run.
    Running,
    /// Every thread stands.
    Paused,
    /// A call that pauses or resumes is under way: look again.
    Busy,
}

/// The calls that change whether it is paused. Each runs to its end, whoever asked for it.
const CALLS: [&str; 3] = [
    "boot.(*containerManager).Pause(",
    "boot.(*containerManager).Resume(",
    "boot.(*containerManager).Checkpoint(",
];

const TASK: &str = "kernel.(*Task).run(";
const STOPPED: &str = "kernel.(*Task).doStop(";

/// Reads the stacks of all goroutines, as the runtime of Go writes them.
pub(crate) fn seen(stacks: &str) -> Seen {
    let mut tasks = 0_usize;
    let mut stopped = 0_usize;
    for goroutine in stacks.split("\n\n") {
        if CALLS.iter().any(|call| goroutine.contains(call)) {
            return Seen::Busy;
        }
        if goroutine.contains(TASK) {
            tasks += 1;
            stopped += usize::from(goroutine.contains(STOPPED));
        }
    }
    // Without any thread there is nothing to resume.
    if tasks > 0 && tasks == stopped { Seen::Paused } else { Seen::Running }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "goroutine 1 [chan receive]:\n\
        gvisor.dev/gvisor/runsc/boot.(*Loader).WaitExit(...)\n\t/m/loader.go:1 +0x1\n";
    const FREE: &str = "goroutine 90 [select]:\n\
        gvisor.dev/gvisor/pkg/sentry/kernel.(*Task).block(0xc0)\n\t/m/task_block.go:1 +0x1\n\
        gvisor.dev/gvisor/pkg/sentry/kernel.(*Task).run(0xc0, 0x1)\n\t/m/task_run.go:89 +0x2\n\
        created by gvisor.dev/gvisor/pkg/sentry/kernel.(*Task).Start in goroutine 1\n";
    const STANDS: &str = "goroutine 91 [sync.Cond.Wait, 2 minutes]:\n\
        sync.(*Cond).Wait(0xc0)\n\t/g/cond.go:71 +0x85\n\
        gvisor.dev/gvisor/pkg/sentry/kernel.(*Task).doStop(0xc0)\n\t/m/task_run.go:130 +0x2\n\
        gvisor.dev/gvisor/pkg/sentry/kernel.(*Task).run(0xc0, 0x2)\n\t/m/task_run.go:88 +0x2\n";

    #[test]
    fn paused_is_when_every_thread_stands() {
        for (goroutines, expected) in [
            (vec![MAIN, STANDS, STANDS], Seen::Paused),
            (vec![MAIN, STANDS, FREE], Seen::Running),
            (vec![MAIN, FREE], Seen::Running),
            (vec![MAIN], Seen::Running),
            (vec![], Seen::Running),
        ] {
            assert_eq!(seen(&goroutines.join("\n")), expected, "{goroutines:?}");
        }
    }

    #[test]
    fn a_call_under_way_is_waited_for() {
        for name in ["Pause", "Resume", "Checkpoint"] {
            let call = format!(
                "goroutine 7 [sync.WaitGroup.Wait]:\n\
                 gvisor.dev/gvisor/runsc/boot.(*containerManager).{name}(0xc0, 0x0, 0x0)\n"
            );
            for task in [FREE, STANDS] {
                assert_eq!(seen(&[MAIN, task, &call].join("\n")), Seen::Busy, "{name}");
            }
        }
    }
}
