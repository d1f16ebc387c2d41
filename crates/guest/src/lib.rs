//! `tarnd`, the daemon inside every sandbox (spec 05).
//!
//! As PID 1 of the sandbox it starts and reaps every process, keeps their output, serves the
//! files, and answers the node's private calls, all on port 9501. It runs inside the tenant's
//! walls: a tenant who is root there can stop it and loses only the own sandbox. What it must
//! withstand is everybody else's input, and a tenant's honest accidents: fork bombs, memory hogs,
//! endless output, strange files in strange places.
//!
//! It is static and small (one binary serves every image, and every idle sandbox pays for it),
//! so: one thread, no TLS, no logging, no regular expressions.
//!
//! A library, so that its parsers can be fuzzed; the program is one call of [`main`].

use std::{
    io::{self, Write as _},
    process::ExitCode,
    rc::Rc,
};

use tokio::{net::TcpListener, runtime, task::LocalSet};

mod account;
mod clock;
mod copy;
mod daemon;
mod environment;
mod file;
#[doc(hidden)]
pub mod fuzz;
mod http;
mod init;
mod managed;
mod options;
mod process;
mod pty;
mod random;
mod rootfs;
mod scratch;
mod seal;
mod server;
mod sys;
mod tunnel;
mod unseal;
mod websocket;

pub use crate::sys::Memory;
use crate::{
    copy::CopyCommand,
    daemon::{Daemon, Role},
    options::Options,
    rootfs::RootfsCommand,
};

/// Threads for file operations; requests beyond that wait for one.
const FILE_THREADS: usize = 4;

/// File operations need little stack, and four idle threads should cost little.
const FILE_THREAD_STACK_BYTES: usize = 256 << 10;

/// Runs the daemon until it fails, or a copy or a build until it is done; `args` is the command
/// line without the program's name.
pub fn main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.into_iter().collect();
    if let Some(copy) = CopyCommand::parse(&args) {
        return match copy {
            Ok(copy) => copy.run(),
            Err(said) => {
                drop(writeln!(io::stderr(), "tarnd: {said}"));
                ExitCode::FAILURE
            }
        };
    }
    if let Some(rootfs) = RootfsCommand::parse(&args) {
        return match rootfs {
            Ok(rootfs) => rootfs.run(),
            Err(said) => {
                drop(writeln!(io::stderr(), "tarnd: {said}"));
                ExitCode::FAILURE
            }
        };
    }
    let outcome = Options::parse(args).map_err(io::Error::other).and_then(|options| run(&options));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The runtime keeps a sandbox's standard error; there is nobody else to tell.
            drop(writeln!(io::stderr(), "tarnd: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    sys::raise_descriptor_limit();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let runtime = runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(FILE_THREADS)
        .thread_stack_size(FILE_THREAD_STACK_BYTES)
        .build()?;
    LocalSet::new().block_on(&runtime, serve(options))
}

async fn serve(options: &Options) -> io::Result<()> {
    let listener = TcpListener::bind(options.listen).await?;
    if options.announce {
        writeln!(io::stdout(), "listening on {}", listener.local_addr()?)?;
    }
    let daemon = Rc::new(Daemon::new(options.internal_peers)?);
    if daemon.role() == Role::Ordinary {
        // Orphans of what we start come to us, as they do to PID 1.
        nix::sys::prctl::set_child_subreaper(true)?;
    }
    let reaper = tokio::task::spawn_local(process::reaper::run(Rc::clone(&daemon.processes)));
    tokio::select! {
        outcome = server::run(listener, daemon) => outcome,
        outcome = reaper => outcome.map_err(io::Error::other)?,
    }
}
