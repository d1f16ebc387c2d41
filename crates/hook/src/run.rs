//! One run of a program.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};
use zeroize::Zeroizing;

use crate::check::{HookCheckError, check};

/// How much of the end of what a program complains about is repeated.
const SAID_MOST: usize = 400;

/// A program and how it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    program: PathBuf,
    arguments: Vec<String>,
    deadline: Duration,
}

/// Says why a program did not do what it was run for.
#[derive(Debug, Error)]
pub enum HookError {
    /// It could not be started.
    #[error("start {}", .program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It did not end in time, and was ended.
    #[error("{} did not end within {} s", .program.display(), .after.as_secs())]
    Slow {
        /// The program.
        program: PathBuf,
        /// Its deadline.
        after: Duration,
    },
    /// It said that it failed.
    #[error("{} failed ({status}){said}", .program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it complained about; empty, or after a colon.
        said: String,
    },
    /// It wrote more than anybody asked for.
    #[error("{} wrote more than {most} bytes", .program.display())]
    TooMuch {
        /// The program.
        program: PathBuf,
        /// The bound.
        most: usize,
    },
    /// Its pipes failed.
    #[error("talk to {}", .program.display())]
    Pipe {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Ends a program, and all that it started in its group, unless it has ended.
struct Group(Option<Pid>);

// === impl Hook ===

impl Hook {
    /// Takes a program with its first arguments, after a look at it. Blocks.
    ///
    /// # Errors
    /// Fails when it is no program, or others than its owner may change it.
    pub fn new(command: &[String], deadline: Duration) -> Result<Self, HookCheckError> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(HookCheckError::Empty);
        };
        let program = PathBuf::from(program);
        check(&program)?;
        Ok(Self { program, arguments: arguments.to_vec(), deadline })
    }

    /// Returns the program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs it with further arguments and some input, and returns what it wrote, which is at most
    /// so many bytes.
    ///
    /// Dropping the future ends the program and what it started.
    ///
    /// # Errors
    /// Fails when it cannot be started, does not end in time, or says that it failed.
    pub async fn run<A: AsRef<OsStr>>(
        &self,
        arguments: &[A],
        input: &[u8],
        most: usize,
    ) -> Result<Zeroizing<Vec<u8>>, HookError> {
        let program = || self.program.clone();
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let spawned = command.spawn();
        let child = spawned.map_err(|source| HookError::Start { program: program(), source })?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let mut group = Group(id);
        let Ok(talked) = timeout(self.deadline, talk(child, input, most)).await else {
            return Err(HookError::Slow { program: program(), after: self.deadline });
        };
        let talked = talked.map_err(|source| HookError::Pipe { program: program(), source })?;
        let Talked { status, output, complaints } = talked;
        // Its number may be another's from now on.
        group.0 = None;
        // First, since it may have died of our not reading on.
        if output.len() > most {
            return Err(HookError::TooMuch { program: program(), most });
        }
        if !status.success() {
            return Err(HookError::Failed { program: program(), status, said: said(&complaints) });
        }
        Ok(output)
    }
}

// === impl Group ===

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended just now.
            _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// What came of a run.
struct Talked {
    status: ExitStatus,
    output: Zeroizing<Vec<u8>>,
    complaints: Vec<u8>,
}

async fn talk(mut child: Child, input: &[u8], most: usize) -> io::Result<Talked> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        let Some(mut stdin) = stdin else { return Ok(()) };
        match stdin.write_all(input).await {
            // It needs no input, or not all of it: its status says whether that is well.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    };
    let output = async {
        // Room from the start: a buffer that grows leaves copies behind.
        let mut output = Zeroizing::new(Vec::with_capacity(most + 1));
        if let Some(stdout) = stdout {
            let bound = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
            stdout.take(bound).read_to_end(&mut output).await?;
        }
        io::Result::Ok(output)
    };
    let complaints = async {
        match stderr {
            Some(stderr) => last_of(stderr).await,
            None => Ok(Vec::new()),
        }
    };
    let ((), output, complaints) = tokio::try_join!(write, output, complaints)?;
    Ok(Talked { status: child.wait().await?, output, complaints })
}

/// Reads to the end, and keeps the last of it.
async fn last_of(mut pipe: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let (mut kept, mut part) = (Vec::new(), [0; SAID_MOST]);
    loop {
        let count = pipe.read(&mut part).await?;
        if count == 0 {
            return Ok(kept);
        }
        kept.extend_from_slice(&part[..count]);
        let surplus = kept.len().saturating_sub(SAID_MOST);
        kept.drain(..surplus);
    }
}

/// Writes complaints as the end of a sentence: one line, nothing that moves a terminal's cursor.
fn said(complaints: &[u8]) -> String {
    let text = String::from_utf8_lossy(complaints);
    let words: Vec<String> = text
        .split_whitespace()
        .map(|word| word.chars().filter(|char| !char.is_control()).collect())
        .collect();
    if words.is_empty() { String::new() } else { format!(": {}", words.join(" ")) }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    const NONE: [&str; 0] = [];

    /// Not a file that was just written: it may still be open for writing in another test's child.
    fn hook(script: &str, deadline: Duration) -> Hook {
        let command = ["/bin/sh", "-c", script, "hook", "first"].map(str::to_owned);
        Hook::new(&command, deadline).expect("a program")
    }

    fn soon() -> Duration {
        Duration::from_secs(60)
    }

    #[tokio::test]
    async fn arguments_and_input_go_in_and_output_comes_out() {
        let hook = hook("echo \"$@\"; cat", soon());
        let out = hook.run(&["set", "a b"], b"input", 100).await.expect("it ran");
        assert_eq!(&**out, b"first set a b\ninput");
        let out = hook.run(&NONE, &[7; 1 << 17], 100).await;
        assert!(matches!(out, Err(HookError::TooMuch { most: 100, .. })), "{out:?}");
    }

    #[tokio::test]
    async fn a_failure_is_told_with_the_end_of_its_complaints() {
        let script = "head -c 100000 /dev/zero | tr '\\0' x >&2\necho >&2\n\
                      printf 'no such\\033[1m zone\\n' >&2; exit 3";
        let failed = hook(script, soon()).run(&NONE, b"unread", 10).await;
        let text = failed.expect_err("it failed").to_string();
        assert!(text.contains("exit status: 3") && text.ends_with("no such[1m zone"), "{text}");
        assert!(text.len() < SAID_MOST + 200, "{text}");
        // What is written is not repeated: it may be a secret.
        let script = "echo hush; exit 1";
        let failed = hook(script, soon()).run(&NONE, b"", 10).await;
        let text = failed.expect_err("it failed").to_string();
        assert!(!text.contains("hush") && text.ends_with("(exit status: 1)"), "{text}");
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_ended_with_all_it_started() {
        let dir = tempfile::tempdir().expect("a directory");
        let fifo = dir.path().join("fifo");
        // The child holds the pipe open for as long as it lives.
        let script = format!("mkfifo {0}; sleep 600 > {0} & sleep 600", fifo.display());
        let slow = hook(&script, Duration::from_millis(300));
        let waiting = tokio::task::spawn_blocking({
            let fifo = fifo.clone();
            move || {
                while !fifo.exists() {
                    std::thread::yield_now();
                }
                fs::read(fifo).expect("read to its end")
            }
        });
        let late = slow.run(&NONE, b"", 10).await;
        assert!(matches!(late, Err(HookError::Slow { .. })), "{late:?}");
        let read = timeout(soon(), waiting).await.expect("the child is gone").expect("no panic");
        assert!(read.is_empty());
    }

    #[tokio::test]
    async fn one_that_cannot_be_started_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hook");
        fs::write(&path, "#!/no/such/shell\n").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("changed");
        let hook = Hook::new(&[path.display().to_string()], soon()).expect("a program");
        let text = hook.run(&NONE, b"", 0).await.expect_err("no shell").to_string();
        assert!(text.starts_with("start ") && text.ends_with("/hook"), "{text}");
    }
}
