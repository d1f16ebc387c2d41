//! `tarn-prewarmer`: the program that gVisor runs in front of its sentry.
//!
//! gVisor starts `<prewarmer> <sentry> <argv[0]> <boot flags…> <id>`. This program does two
//! things and then becomes the sentry:
//!
//! - It grows its table of descriptors while it has a single thread. The sentry needs number 253,
//!   and growing the table of a process with many threads waits for an RCU grace period (25 ms).
//! - It tells the sentry the sandbox's own memory and CPUs. Run with `--ignore-cgroups`, gVisor
//!   passes the host's, and programs inside would see those. The shape is read from a file named
//!   after the id, as gVisor hands on no environment: `<--root>/shape/<id>`.
//!
//! Without a shape file the command line is passed on as it is.

mod rewrite;

use std::{
    ffi::OsString,
    fs, io,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
};

use crate::rewrite::Shape;

/// What the runtime asks, to tell this program from gVisor's own of the same name.
const IDENTIFY: &str = "--identify";

/// The answer. The number grows when the shape file or the rewriting changes.
const IDENTITY: &[u8] = b"tarn-prewarmer 1\n";

/// One below the descriptor that the sentry asks for first.
const LAST_DESCRIPTOR: i32 = 252;

/// What a shell says of a command that it cannot run.
const EXIT_NOT_RUN: u8 = 126;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        return fail("usage", &io::Error::other("tarn-prewarmer SENTRY ARGV0 [FLAGS…] ID"));
    };
    if program == IDENTIFY {
        return match io::stdout().write_all(IDENTITY) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail("answer", &error),
        };
    }
    let name = arguments.next().unwrap_or_else(|| program.clone());
    let mut boot: Vec<OsString> = arguments.collect();
    match shape_of(&boot) {
        Ok(Some(shape)) => boot = rewrite::apply(boot, shape),
        Ok(None) => {}
        // A sandbox that shows the wrong size is worse than none.
        Err(error) => return fail("read shape", &error),
    }
    grow_descriptor_table();
    // `exec` gives the sentry the default SIGPIPE back, which Rust's start-up code had ignored.
    let error = Command::new(&program).arg0(name).args(boot).exec();
    fail("run sentry", &error)
}

/// Reads the shape meant for this sandbox, if there is one.
fn shape_of(boot: &[OsString]) -> io::Result<Option<Shape>> {
    let (Some(root), Some(id)) = (rewrite::root(boot), boot.last()) else {
        return Ok(None);
    };
    let path = PathBuf::from(root).join("shape").join(id);
    match fs::read_to_string(path) {
        Ok(text) => match text.parse() {
            Ok(shape) => Ok(Some(shape)),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes room for 256 descriptors. A refusal only costs time later.
fn grow_descriptor_table() {
    drop(rustix::io::fcntl_dupfd_cloexec(io::stdin(), LAST_DESCRIPTOR));
}

fn fail(step: &str, error: &io::Error) -> ExitCode {
    // gVisor connects this to the null device; it serves whoever runs the program by hand.
    drop(writeln!(io::stderr(), "tarn-prewarmer: {step}: {error}"));
    ExitCode::from(EXIT_NOT_RUN)
}
