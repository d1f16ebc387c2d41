//! Starting a program the way `vfork` does.
//!
//! The child shares our memory until it executes, so nothing is copied: inside gVisor a `fork`
//! of even a small process costs a millisecond more. The price: between `clone` and `execve` the
//! child may only make system calls on data prepared before, on a stack of its own, with every
//! signal blocked. It reports the step that failed through that shared memory; `CLONE_VFORK`
//! holds our thread until it has executed or ended, so the report needs no pipe.
//!
//! Rejected: `posix_spawn` (no `setgroups`, no `chdir` in every libc, no cgroup) and
//! `std::process::Command` (only an error number, no step; and it forks when ids are set).
#![allow(unsafe_code, reason = "clone, execve and their set-up have no safe wrapper")]

use std::{
    ffi::{CString, c_char, c_int, c_void},
    io,
    os::fd::RawFd,
    ptr,
};

use nix::{
    sys::{
        signal::{SigSet, SigmaskHow, pthread_sigmask},
        wait::waitpid,
    },
    unistd::Pid,
};

use super::{Identity, descriptor_limit_before};

/// Enough for `execve` and a few small calls, none of which recurses.
const CHILD_STACK_BYTES: usize = 64 << 10;

/// What to start. Everything is prepared before the child exists.
pub(crate) struct Launch<'a> {
    /// The paths to try, in order, as `execvp` does.
    pub(crate) programs: &'a [CString],
    /// The arguments, the program's name first.
    pub(crate) args: &'a [CString],
    /// `NAME=value` each.
    pub(crate) env: &'a [CString],
    /// Where it starts.
    pub(crate) working_dir: &'a CString,
    /// Who runs it.
    pub(crate) identity: &'a Identity,
    /// Its standard input, output and error; each must be above 2 here.
    pub(crate) stdio: [RawFd; 3],
    /// The open `cgroup.procs` of the group that bounds the number of processes.
    pub(crate) process_group_file: Option<RawFd>,
    /// Its `RLIMIT_NPROC`, which does not bind root.
    pub(crate) max_processes: Option<u64>,
    /// By which its descendants are known, see [`limit_mark`].
    pub(crate) limit_mark: u64,
    /// Whether its session has a terminal.
    pub(crate) terminal: ControllingTerminal,
}

/// Whether a program's session has a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ControllingTerminal {
    /// It has none.
    None,
    /// Its standard input is its terminal.
    Stdin,
}

/// Nothing was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpawnError {
    /// The step that failed.
    pub(crate) step: SpawnStep,
    /// The error number.
    pub(crate) errno: i32,
    /// For [`SpawnStep::Exec`]: which of the programs it was.
    pub(crate) program: usize,
}

/// What the child does before it executes, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpawnStep {
    /// The process itself.
    Clone,
    /// Its session, signals, files or limits.
    Prepare,
    /// Its user and groups.
    Identity,
    /// Its working directory, entered with the rights of that user.
    WorkingDir,
    /// The program.
    Exec,
}

/// What the child reads and writes; it lives on the parent's stack.
struct Shared<'a> {
    launch: &'a Launch<'a>,
    argv: &'a [*const c_char],
    envp: &'a [*const c_char],
    failure: Option<SpawnError>,
}

/// Starts a program as the leader of a new session and process group.
///
/// Blocks until it has executed: microseconds natively, a few milliseconds in gVisor.
pub(crate) fn spawn(launch: &Launch<'_>) -> Result<Pid, SpawnError> {
    let argv = pointers(launch.args);
    let envp = pointers(launch.env);
    let mut shared = Shared { launch, argv: &argv, envp: &envp, failure: None };
    // Not zeroed: what the child does not reach is no memory.
    let mut stack = Box::<[u128]>::new_uninit_slice(CHILD_STACK_BYTES / size_of::<u128>());
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();

    // No handler of ours may run in the child, where it would write to our memory.
    let mut previous = SigSet::empty();
    let blocked =
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut previous));
    if let Err(errno) = blocked {
        return Err(SpawnError { step: SpawnStep::Clone, errno: errno as i32, program: 0 });
    }
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: `top` is the 16-byte aligned end of a live stack that only the child uses; `shared`
    // outlives the child's use of our memory, because CLONE_VFORK suspends this thread until the
    // child has executed or ended.
    let pid = unsafe { libc::clone(child, top, flags, (&raw mut shared).cast::<c_void>()) };
    let clone_errno = last_errno();
    // Restoring a mask that this thread had before cannot fail.
    _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&previous), None);

    if pid < 0 {
        return Err(SpawnError { step: SpawnStep::Clone, errno: clone_errno, program: 0 });
    }
    let pid = Pid::from_raw(pid);
    match shared.failure {
        None => Ok(pid),
        Some(failure) => {
            // It has ended already; the reaper runs on this very thread, so it cannot be first.
            _ = waitpid(pid, None);
            Err(failure)
        }
    }
}

/// Reads the limit by which a process and all its descendants are marked, or whatever it has.
///
/// `RLIMIT_RSS` has had no effect since Linux 2.4, and none in gVisor. Like every limit it is
/// inherited by `fork`, survives `execve`, `setsid`, another user and an empty environment, and
/// is read with one system call; only `ulimit -m` wipes it. Rejected: `RLIMIT_LOCKS` and its
/// like, which gVisor lets nobody set.
pub(crate) fn limit_mark(pid: Pid) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no new limit; a live structure to write the old one to.
    let result =
        unsafe { libc::prlimit(pid.as_raw(), libc::RLIMIT_RSS, ptr::null(), &raw mut limit) };
    (result == 0).then_some(limit.rlim_max)
}

/// Runs in the child: system calls only, no allocation, no destructor, no return to the caller.
extern "C" fn child(shared: *mut c_void) -> c_int {
    // SAFETY: the pointer is the `Shared` of the suspended parent, used by nobody else meanwhile.
    let shared = unsafe { &mut *shared.cast::<Shared<'_>>() };
    shared.failure = Some(become_program(shared.launch, shared.argv, shared.envp));
    // SAFETY: ends the child at once, without running anything registered in our memory.
    unsafe { libc::_exit(127) }
}

/// Returns only if it failed.
fn become_program(
    launch: &Launch<'_>,
    argv: &[*const c_char],
    envp: &[*const c_char],
) -> SpawnError {
    let failed = |step| SpawnError { step, errno: last_errno(), program: 0 };
    if !prepare(launch) {
        return failed(SpawnStep::Prepare);
    }
    if !take_identity(launch.identity) {
        return failed(SpawnStep::Identity);
    }
    // SAFETY: a NUL-terminated string that the suspended parent keeps alive.
    if unsafe { libc::chdir(launch.working_dir.as_ptr()) } != 0 {
        return failed(SpawnStep::WorkingDir);
    }
    unblock_signals();
    execute(launch.programs, argv, envp)
}

/// Session, cgroup, limits, descriptors, terminal.
fn prepare(launch: &Launch<'_>) -> bool {
    // SAFETY: no arguments.
    if unsafe { libc::setsid() } < 0 {
        return false;
    }
    if let Some(file) = launch.process_group_file {
        // Best effort: without it the guard task still bounds the number of processes.
        // SAFETY: the buffer is one live byte; "0" names the writing process.
        _ = unsafe { libc::write(file, b"0".as_ptr().cast::<c_void>(), 1) };
    }
    if let Some(max) = launch.max_processes {
        let limit = libc::rlimit { rlim_cur: max, rlim_max: max };
        // Best effort for the same reason.
        // SAFETY: a live, initialised structure, only read.
        _ = unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit) };
    }
    let mark = libc::rlimit { rlim_cur: launch.limit_mark, rlim_max: launch.limit_mark };
    // Best effort: there are other traces.
    // SAFETY: a live, initialised structure, only read.
    _ = unsafe { libc::setrlimit(libc::RLIMIT_RSS, &raw const mark) };
    if let Some((soft, hard)) = descriptor_limit_before() {
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // Best effort: a program with our bound instead of its own runs, too.
        // SAFETY: a live, initialised structure, only read.
        _ = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
    for (target, source) in (0..).zip(launch.stdio) {
        // SAFETY: plain integers.
        if unsafe { libc::dup2(source, target) } < 0 {
            return false;
        }
    }
    if launch.terminal == ControllingTerminal::Stdin {
        // SAFETY: plain integers; the last 0 means that another session's terminal is not stolen.
        if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 {
            return false;
        }
    }
    // Everything of ours is close-on-exec already; this is for what we may have inherited.
    // SAFETY: plain integers; the child's table of descriptors is its own (no CLONE_FILES).
    _ = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    true
}

/// Raw calls: the C library's would signal the threads of the parent.
fn take_identity(identity: &Identity) -> bool {
    // SAFETY: no arguments.
    if unsafe { libc::getuid() } != 0 {
        // A tarnd that is not root (a test) can start programs only as itself.
        return identity.uid == nix::unistd::getuid().as_raw();
    }
    let groups = &identity.groups;
    // SAFETY: the pointer and the length are those of one live slice.
    if unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) } != 0 {
        return false;
    }
    let (gid, uid) = (identity.gid, identity.uid);
    // SAFETY: plain integers.
    if unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) } != 0 {
        return false;
    }
    // SAFETY: plain integers.
    unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0 }
}

/// Gives the program what a login shell would: default actions, nothing blocked.
fn unblock_signals() {
    // Handlers vanish at execve, ignored signals do not: Rust ignores SIGPIPE.
    for signal in [libc::SIGPIPE, libc::SIGCHLD] {
        // The kernel's own structure, all zero: SIG_DFL, no flags, no restorer, empty mask. Not
        // the C library's `sigaction`, which keeps books in the memory we share.
        let default = [0_u64; 4];
        // SAFETY: a live structure of the kernel's size; 8 is the size of its signal mask.
        _ = unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0_usize, 8_usize)
        };
    }
    let none = 0_u64;
    // SAFETY: as above; replaces the child's own mask.
    _ = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            0_usize,
            8_usize,
        )
    };
}

/// Tries each program like `execvp`: on to the next if it isn't there or may not be run.
fn execute(programs: &[CString], argv: &[*const c_char], envp: &[*const c_char]) -> SpawnError {
    let mut worst = SpawnError { step: SpawnStep::Exec, errno: libc::ENOENT, program: 0 };
    for (index, program) in programs.iter().enumerate() {
        // SAFETY: all three are NUL-terminated and kept alive by the suspended parent.
        unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        let errno = last_errno();
        match errno {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = SpawnError { errno, program: index, ..worst },
            _ => return SpawnError { errno, program: index, ..worst },
        }
    }
    worst
}

/// A NULL-terminated array of pointers to the strings.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
