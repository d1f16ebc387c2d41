//! Runs the backend's command line, with a deadline.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use tarn_runtime::{CpuShare, RuntimeError, RuntimeSpec};
use tarn_types::SandboxId;
use tokio::process::{Child, Command};
use tracing::warn;

use crate::paths::Paths;

/// The flags of every command, besides the paths. They are part of a memory snapshot: a change
/// makes older ones useless.
pub(crate) const FLAGS: [&str; 13] = [
    "--platform=systrap",
    "--network=sandbox",
    // The layer below is ours, so disk limits, fsync and snapshots are real.
    "--overlay2=none",
    "--file-access=exclusive",
    "--file-access-mounts=exclusive",
    "--ignore-cgroups",
    "--host-settings=ignore",
    // Else a control connection left open delays the end of a sandbox by 15 s.
    "--control-rpc-stop-timeout=0",
    // Its default depends on the date of the build.
    "--sidecar-usage-policy=STRICT",
    // sudo.
    "--allow-suid",
    // ping. Packets are filtered outside the sandbox in any case.
    "--net-raw",
    "--gofer-network-namespace=null",
    // The daemon bounds the processes of everybody inside, root too, by a cgroup of the guest
    // kernel. Its version 1 charges one hierarchy of seven at random; version 2 is exact.
    "--in-sandbox-cgroup=v2",
];

/// What is said besides of a sandbox with GPUs. They are asked for by the nodes in its bundle, too;
/// drawing and video are not proxied.
const GPU_FLAGS: [&str; 2] = ["--nvproxy", "--nvproxy-allowed-driver-capabilities=utility,compute"];

/// The most of a complaint that goes into an error.
pub(crate) const MOST_DETAIL: usize = 500;

/// Enters cgroups, is from then on among the first to go when the host runs out of memory, and
/// becomes a command; what it starts inherits both. Says in the log why it cannot, and gives up
/// where there is no log: of what is in the braces nothing was done then.
const ENTER: &str = r#"log=$1
shift
{
    while [ "$1" != -- ]; do
        echo 0 > "$1" || exit
        shift
    done
    echo 500 > /proc/self/oom_score_adj || exit
} 2>> "$log" || exit
shift
exec "$@""#;

/// How far the heap of a command grows before it is swept, in percent of what is in use: most end
/// before that, and each sweep takes a processor from the sandbox that the command makes. A gofer
/// inherits it; the sandbox's kernel does not.
const HEAP: (&str, &str) = ("GOGC", "400");

/// The backend's program and where its files go.
#[derive(Debug, Clone)]
pub(crate) struct Runsc {
    program: PathBuf,
    paths: Paths,
}

/// What a sandbox is made from.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// It waits for its start.
    Nothing,
    /// It waits for a memory image.
    Later,
    /// It goes on from the memory image in a directory.
    Image(PathBuf),
}

/// One command on one sandbox.
pub(crate) struct Call<'a> {
    /// What it does, for errors.
    pub(crate) step: &'static str,
    pub(crate) id: &'a SandboxId,
    pub(crate) limit: Duration,
}

// === impl Runsc ===

impl Runsc {
    pub(crate) fn new(runsc_dir: &Path, paths: Paths) -> Self {
        Self { program: runsc_dir.join("runsc"), paths }
    }

    fn command(&self, id: &SandboxId, words: &[OsString]) -> Command {
        self.completed(Command::new(&self.program), id, words)
    }

    /// Gives a program the backend's words.
    fn completed(&self, mut command: Command, id: &SandboxId, words: &[OsString]) -> Command {
        command
            .arg(joined("--root=", self.paths.root()))
            .arg(joined("--log=", &self.paths.log(id)))
            .args(FLAGS)
            .args(words)
            // What is inherited stays with the sandbox for life: no pipe, which would break with
            // us, and no file, which would grow.
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env_clear()
            .env(HEAP.0, HEAP.1)
            .current_dir("/")
            // A key pressed on our terminal is not meant for it.
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// Spawns the command that makes a sandbox, inside the sandbox's cgroups.
    ///
    /// A shell goes in first and becomes the command. Code of ours between fork and exec would need
    /// a fork of the whole server, which takes many times as long.
    pub(crate) fn spawn_making(
        &self,
        spec: &RuntimeSpec,
        origin: &Origin,
        doors: &[PathBuf],
    ) -> std::io::Result<Child> {
        let id = &spec.id;
        let bundle = joined("--bundle=", &self.paths.bundle(id));
        let action = match origin {
            Origin::Nothing | Origin::Later => vec!["create".into(), bundle, id.as_str().into()],
            Origin::Image(image) => vec![
                "restore".into(),
                "--detach".into(),
                bundle,
                joined("--image-path=", image),
                id.as_str().into(),
            ],
        };
        self.entering(id, doors, &[flags_for(spec), action].concat()).spawn()
    }

    /// Spawns the command that starts a sandbox. If we are killed it goes on, until the next server
    /// ends it (see [`crate::straggler`]).
    ///
    /// Where nobody waits for the sandbox it gets what that gets of the CPU, by its cgroups.
    pub(crate) fn spawn_start(
        &self,
        spec: &RuntimeSpec,
        doors: &[PathBuf],
    ) -> std::io::Result<Child> {
        let action = vec!["start".into(), spec.id.as_str().into()];
        let words = [flags_for(spec), action].concat();
        match spec.share {
            CpuShare::Own => self.command(&spec.id, &words),
            CpuShare::Least => self.entering(&spec.id, doors, &words),
        }
        .spawn()
    }

    fn entering(&self, id: &SandboxId, doors: &[PathBuf], words: &[OsString]) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", ENTER, "sh"]).arg(self.paths.log(id)).args(doors).arg("--");
        shell.arg(&self.program);
        self.completed(shell, id, words)
    }

    /// Spawns the command that restores an image into a sandbox that was made for one.
    ///
    /// It is told no bundle: where it finds no sandbox, it must not make one outside the cgroups.
    pub(crate) fn spawn_filling(&self, id: &SandboxId, image: &Path) -> std::io::Result<Child> {
        let image = joined("--image-path=", image);
        self.command(id, &["restore".into(), "--detach".into(), image, id.as_str().into()]).spawn()
    }

    /// Waits for a command's success.
    pub(crate) async fn finish(
        &self,
        call: &Call<'_>,
        mut child: Child,
    ) -> Result<(), RuntimeError> {
        let Call { step, id, limit } = *call;
        let status = match tokio::time::timeout(limit, child.wait()).await {
            Ok(status) => {
                status.map_err(|source| RuntimeError::Host { step, id: id.clone(), source })?
            }
            Err(_elapsed) => {
                let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                // Waited for: what comes next must not meet it.
                if let Ok(Err(error)) = tokio::time::timeout(limit, child.kill()).await {
                    warn!(sandbox.id = %id, step, %error, "a command that is late cannot be ended");
                }
                return Err(RuntimeError::Timeout { step, id: id.clone(), limit_ms });
            }
        };
        if status.success() {
            return Ok(());
        }
        let log = fs::read_to_string(self.paths.log(id)).unwrap_or_default();
        let detail = match complaint(&log) {
            Some(text) => text,
            None => format!("runsc ended with {status} and said nothing"),
        };
        Err(RuntimeError::Backend { step, id: id.clone(), detail })
    }
}

/// Returns the flags that only some sandboxes have. With them gVisor asks for a driver: GPUs
/// without nodes, which are a test's, need none.
fn flags_for(spec: &RuntimeSpec) -> Vec<OsString> {
    let has_nodes = spec.gpus.as_ref().is_some_and(|gpus| !gpus.devices.is_empty());
    if has_nodes { GPU_FLAGS.map(OsString::from).to_vec() } else { Vec::new() }
}

fn joined(flag: &str, path: &Path) -> OsString {
    let mut word = OsString::from(flag);
    word.push(path);
    word
}

/// Finds what a log says went wrong: the message of its last line.
fn complaint(log: &str) -> Option<String> {
    let last = log.lines().rev().find(|line| !line.trim().is_empty())?;
    let parsed: Option<LogLine> = serde_json::from_str(last).ok();
    let message = parsed.map_or_else(|| last.trim().to_owned(), |line| line.msg);
    Some(message.chars().take(MOST_DETAIL).collect())
}

/// A line of the backend's log.
#[derive(Deserialize)]
struct LogLine {
    msg: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_the_last_message() {
        for (log, expected) in [
            (
                r#"{"msg":"first","level":"warning"}
{"msg":"last: \"x\"","level":"error"}
"#,
                Some("last: \"x\""),
            ),
            ("panic: boom\n\n", Some("panic: boom")),
            ("", None),
            ("\n", None),
        ] {
            assert_eq!(complaint(log).as_deref(), expected, "{log}");
        }
        assert_eq!(complaint(&"x".repeat(9999)).map(|text| text.len()), Some(MOST_DETAIL));
    }

    /// Runs [`ENTER`] by these doors; returns whether the command that follows ended well, and what
    /// the log says.
    fn enter(log: &Path, doors: &[&Path]) -> (bool, String) {
        enter_in("/bin/sh", log, doors)
    }

    fn enter_in(shell: &str, log: &Path, doors: &[&Path]) -> (bool, String) {
        let mut shell = std::process::Command::new(shell);
        shell.args(["-c", ENTER, "sh"]).arg(log).args(doors).arg("--").env_clear();
        // Fails if it is not among the first to go.
        shell.args(["/bin/grep", "-qx", "500", "/proc/self/oom_score_adj"]);
        let ended = shell.status().expect("there is a shell");
        (
            ended.success(),
            complaint(&fs::read_to_string(log).unwrap_or_default()).unwrap_or_default(),
        )
    }

    #[test]
    fn every_group_is_entered_before_the_command_or_the_log_says_why_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let [one, other, log] = ["a door", "other", "log"].map(|name| dir.path().join(name));
        assert_eq!(enter(&log, &[&one, &other]), (true, String::new()));
        for door in [&one, &other] {
            assert_eq!(fs::read_to_string(door).expect("it was written"), "0\n");
        }
        let absent = dir.path().join("absent/tasks");
        let (entered, said) = enter(&log, &[&one, &absent]);
        assert!(!entered && said.contains("absent/tasks"), "{said}");
    }

    /// The shells go on differently after a redirection that failed.
    #[test]
    fn without_a_log_nothing_is_entered_and_nothing_run() {
        let dir = tempfile::tempdir().expect("a directory");
        let [door, ran, log] = ["door", "ran", "absent/log"].map(|name| dir.path().join(name));
        for shell in ["/bin/sh", "/bin/dash", "/bin/bash"] {
            if !Path::new(shell).exists() {
                continue;
            }
            let mut shell = std::process::Command::new(shell);
            shell.args(["-c", ENTER, "sh"]).arg(&log).arg(&door).args(["--", "/bin/mkdir"]);
            let ended = shell.arg(&ran).stderr(Stdio::null()).status().expect("there is a shell");
            assert!(!ended.success() && !door.exists() && !ran.exists(), "{shell:?}");
            let log = dir.path().join("log");
            let program = shell.get_program().to_str().expect("its path is ours");
            assert_eq!(enter_in(program, &log, &[&door]), (true, String::new()), "{program}");
            fs::remove_file(&door).expect("it was entered");
        }
    }
}
