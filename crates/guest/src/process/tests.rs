//! What a process says of its end: every combination.

use super::*;

fn process() -> Process {
    Process::new(NewProcess {
        handle: 3,
        pid: Pid::from_raw(77),
        command: "x".to_owned(),
        args: vec![],
        stdin: Stdin::closed(),
        output: Output::default(),
    })
}

#[test]
fn the_end_is_told_alike_in_info_and_exit_frame() {
    use EndStatus::{Exited, Signaled};
    use MemoryVerdict::{DescendantKilled, Killed, Spared};

    let table = [
        (Exited(0), Spared, false, ProcessStatus::Exited, ExitReason::Exited, None),
        (Exited(3), Spared, true, ProcessStatus::Exited, ExitReason::TimedOut, None),
        (Signaled(9), Spared, false, ProcessStatus::Signaled, ExitReason::Signaled, None),
        (Signaled(9), Spared, true, ProcessStatus::Signaled, ExitReason::TimedOut, None),
        (Signaled(9), Killed, false, ProcessStatus::OomKilled, ExitReason::OomKilled, Some(true)),
        (Signaled(9), Killed, true, ProcessStatus::OomKilled, ExitReason::OomKilled, Some(true)),
        (Exited(0), Killed, false, ProcessStatus::Exited, ExitReason::Exited, None),
        (Exited(0), DescendantKilled, false, ProcessStatus::Exited, ExitReason::Exited, None),
        (Exited(1), DescendantKilled, false, ProcessStatus::Exited, ExitReason::Exited, Some(true)),
    ];
    for (status, verdict, timed_out, expected, reason, oom_killed) in table {
        let process = process();
        assert_eq!(process.info().status, ProcessStatus::Running);
        assert_eq!(process.exit_frame(), None);
        process.set_memory_verdict(verdict);
        if timed_out {
            process.set_timed_out();
        }
        process.set_end(End { status, at_ms: 5 });
        let (info, frame) = (process.info(), process.exit_frame().expect("it has ended"));
        let case = format!("{status:?} {verdict:?} {timed_out}");
        assert_eq!(info.status, expected, "{case}");
        assert_eq!(frame.reason, reason, "{case}");
        assert_eq!((info.oom_killed, frame.oom_killed), (oom_killed, oom_killed), "{case}");
        assert_eq!((info.exit_code, info.signal), (frame.exit_code, frame.signal), "{case}");
        assert_eq!(info.ended_at, Some(5));
    }
}
