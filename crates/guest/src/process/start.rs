//! Starting a process: everything is checked and prepared before anything runs.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    rc::Rc,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    unistd::{Pid, pipe2},
};
use tarn_daemon_api::{OutputMode, OutputStream, StartRequest, StdinMode};
use tokio::{net::unix::pipe, sync::oneshot};

use super::{End, NewProcess, Process, Stdin, collect, output::Output};
use crate::{
    account::{Account, AccountFiles, UnknownAccount},
    daemon::{Daemon, Opened},
    environment::{BadVariable, ProcessEnvironment},
    sys::{self, ControllingTerminal, Launch, SpawnError, SpawnStep},
};

/// Why nothing was started.
#[derive(Debug)]
pub(crate) enum StartError {
    /// The request can't mean anything: its field, and what is wrong with it.
    Invalid(String),
    /// The sandbox can't do it; in a shell's words.
    Failed(String),
}

/// Who reads the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Followers, if any: they never slow the process.
    Followers,
    /// A run, which must miss nothing.
    Run,
}

/// A program that was started on a terminal.
pub(crate) struct OnTerminal {
    /// Its origin.
    pub(crate) handle: u64,
    /// Its pid, which is its session's number too.
    pub(crate) pid: Pid,
    /// Told of its end.
    pub(crate) ended: oneshot::Receiver<End>,
}

/// What a program's three standard streams are.
#[derive(Clone, Copy)]
struct Stdio {
    fds: [RawFd; 3],
    terminal: ControllingTerminal,
}

/// Everything a launch needs, owned.
struct Plan {
    handle: u64,
    limit_mark: u64,
    account: Account,
    programs: Vec<CString>,
    args: Vec<CString>,
    env: Vec<CString>,
    working_dir: CString,
}

/// The two sides of the three standard streams.
struct Streams {
    child: [OwnedFd; 3],
    stdin: Stdin,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

/// Starts what a request asks for and begins to collect its output.
pub(crate) fn start(
    daemon: &Rc<Daemon>,
    opened: &Opened,
    request: StartRequest,
    audience: Audience,
) -> Result<Rc<Process>, StartError> {
    check_room(daemon, opened)?;
    let plan = plan(daemon, opened, &request)?;
    let streams = streams(daemon, &request)
        .map_err(|error| StartError::Failed(format!("cannot connect its streams: {error}")))?;
    let stdio = Stdio {
        fds: [0, 1, 2].map(|at: usize| streams.child[at].as_raw_fd()),
        terminal: ControllingTerminal::None,
    };
    let pid = launch(daemon, opened, &plan, stdio)
        .map_err(|error| StartError::Failed(describe(&request, &plan, error)))?;

    let Streams { child, stdin, stdout, stderr } = streams;
    drop(child);
    let output = match audience {
        Audience::Followers => Output::default(),
        Audience::Run => Output::gated(),
    };
    let StartRequest { command, args, .. } = request;
    let process = Rc::new(Process::new(NewProcess {
        handle: plan.handle,
        pid,
        command,
        args,
        stdin,
        output,
    }));
    daemon.processes.insert(&process);
    daemon.started.notify_one();
    collect_stream(daemon, &process, OutputStream::Stdout, stdout);
    collect_stream(daemon, &process, OutputStream::Stderr, stderr);
    Ok(process)
}

/// Starts what a request asks for on a terminal; it is no listed process.
pub(crate) fn start_on_terminal(
    daemon: &Rc<Daemon>,
    opened: &Opened,
    request: &StartRequest,
    terminal: &OwnedFd,
) -> Result<OnTerminal, StartError> {
    check_room(daemon, opened)?;
    let plan = plan(daemon, opened, request)?;
    let stdio = Stdio { fds: [terminal.as_raw_fd(); 3], terminal: ControllingTerminal::Stdin };
    let pid = launch(daemon, opened, &plan, stdio)
        .map_err(|error| StartError::Failed(describe(request, &plan, error)))?;
    let ended = daemon.processes.insert_unlisted(pid, plan.handle);
    daemon.started.notify_one();
    Ok(OnTerminal { handle: plan.handle, pid, ended })
}

fn check_room(daemon: &Daemon, opened: &Opened) -> Result<(), StartError> {
    let max = opened.max_processes();
    // One read where the kernel counts, instead of a look at every process.
    if daemon.tasks().is_some_and(|tasks| tasks < max) {
        return Ok(());
    }
    let mut census = daemon.census.borrow_mut();
    census.refresh(&daemon.processes);
    let count = census.guest_count();
    if count >= max {
        return Err(StartError::Failed(format!(
            "this sandbox runs {count} processes already, of at most {max}: end some first"
        )));
    }
    Ok(())
}

fn plan(daemon: &Daemon, opened: &Opened, request: &StartRequest) -> Result<Plan, StartError> {
    if request.command.is_empty() {
        return Err(StartError::Invalid("`command` is empty".to_owned()));
    }
    let account = match &request.user {
        None => opened.account.clone(),
        Some(user) => AccountFiles::read().resolve(user)?,
    };
    let handle = daemon.processes.next_handle();
    let (mark, limit_mark) = {
        let census = daemon.census.borrow();
        (census.mark(handle), census.limit_mark(handle))
    };
    let env = ProcessEnvironment::new(&account, &opened.env.borrow(), &request.env, mark)?;
    let programs = env
        .search(&request.command)
        .into_iter()
        .map(|program| c_string("command", program))
        .collect::<Result<_, _>>()?;
    let args = std::iter::once(&request.command)
        .chain(&request.args)
        .map(|arg| c_string("args", arg.as_str()))
        .collect::<Result<_, _>>()?;
    let working_dir = match request.working_dir.as_deref() {
        None | Some("") => opened.working_dir.clone(),
        Some(path) => opened.working_dir.join(path),
    };
    let working_dir = c_string("working_dir", working_dir.into_os_string().into_encoded_bytes())?;
    let env = env.to_strings();
    Ok(Plan { handle, limit_mark, account, programs, args, env, working_dir })
}

fn c_string(field: &str, text: impl Into<Vec<u8>>) -> Result<CString, StartError> {
    CString::new(text).map_err(|_nul| StartError::Invalid(format!("`{field}` holds a NUL")))
}

fn streams(daemon: &Daemon, request: &StartRequest) -> io::Result<Streams> {
    let (stdin_child, stdin) = match request.stdin_mode {
        StdinMode::Closed => (daemon.null()?, Stdin::closed()),
        StdinMode::Pipe => {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            (read, Stdin::pipe(pipe::Sender::from_owned_fd(write)?))
        }
    };
    let output = |mode| match mode {
        OutputMode::Discard => Ok((daemon.null()?, None)),
        OutputMode::Capture => {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            io::Result::Ok((write, Some(pipe::Receiver::from_owned_fd(read)?)))
        }
    };
    let (stdout_child, stdout) = output(request.stdout_mode)?;
    let (stderr_child, stderr) = output(request.stderr_mode)?;
    Ok(Streams { child: [stdin_child, stdout_child, stderr_child], stdin, stdout, stderr })
}

fn launch(daemon: &Daemon, opened: &Opened, plan: &Plan, stdio: Stdio) -> Result<Pid, SpawnError> {
    let launch = Launch {
        programs: &plan.programs,
        args: &plan.args,
        env: &plan.env,
        working_dir: &plan.working_dir,
        identity: &plan.account.identity,
        stdio: stdio.fds,
        process_group_file: daemon.pids_group_file(),
        max_processes: opened.rlimit_processes,
        limit_mark: plan.limit_mark,
        terminal: stdio.terminal,
    };
    match sys::spawn(&launch) {
        // A script without `#!` line: the shell runs it, as execvp and every shell do.
        Err(SpawnError { step: SpawnStep::Exec, errno: libc::ENOEXEC, program }) => {
            let mut args = vec![c"/bin/sh".to_owned()];
            args.extend(plan.programs.get(program).cloned());
            args.extend(plan.args.iter().skip(1).cloned());
            sys::spawn(&Launch { programs: &[c"/bin/sh".to_owned()], args: &args, ..launch })
        }
        outcome => outcome,
    }
}

/// Says it as a shell would.
fn describe(request: &StartRequest, plan: &Plan, error: SpawnError) -> String {
    let cause = Errno::from_raw(error.errno).desc();
    let command = &request.command;
    match error.step {
        SpawnStep::Clone => format!("cannot create a process: {cause}"),
        SpawnStep::Prepare => format!("cannot set the process up: {cause}"),
        SpawnStep::Identity => {
            format!("cannot become user '{}': {cause}", plan.account.name)
        }
        SpawnStep::WorkingDir => {
            format!("cannot enter directory '{}': {cause}", plan.working_dir.to_string_lossy())
        }
        SpawnStep::Exec if error.errno == libc::ENOENT && !command.contains('/') => {
            format!("{command}: command not found")
        }
        SpawnStep::Exec => format!("{command}: {cause}"),
    }
}

fn collect_stream(
    daemon: &Daemon,
    process: &Rc<Process>,
    stream: OutputStream,
    pipe: Option<pipe::Receiver>,
) {
    match pipe {
        None => process.output.borrow_mut().settle(stream, 0),
        Some(pipe) => {
            let table = Rc::clone(&daemon.processes);
            tokio::task::spawn_local(collect::run(table, Rc::clone(process), stream, pipe));
        }
    }
}

// === impl StartError ===

impl From<UnknownAccount> for StartError {
    fn from(error: UnknownAccount) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<BadVariable> for StartError {
    fn from(BadVariable(text): BadVariable) -> Self {
        Self::Invalid(format!("`env`: {text}"))
    }
}
