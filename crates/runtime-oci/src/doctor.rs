//! Says whether a machine can run the driver, and what to do where it cannot.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::process::Command;

use crate::{
    cgroup::{CgroupVersion, Layout},
    config::GvisorConfig,
};

/// One requirement, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What is required.
    pub name: &'static str,
    /// Whether it is there.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do when it is not there.
    pub remedy: &'static str,
}

/// The answer of our prewarmer to `--identify`.
const PREWARMER: &str = "tarn-prewarmer 1\n";

/// The sentry and what it needs beside `runsc`, besides the prewarmer.
const SIDECARS: [&str; 2] = ["gvisor_sentry", "checkpointgofer"];

const SETUP: &str = "./x setup";
const BUILD: &str = "./x build";

/// How long a trial may take; they take milliseconds.
const TRIAL: Duration = Duration::from_secs(20);

/// Checks everything that the driver needs. Changes nothing.
pub async fn examine(config: &GvisorConfig) -> Vec<Fact> {
    let dir = &config.runsc_dir;
    let mut facts = vec![
        fact("gVisor (runsc)", SETUP, version(dir).await),
        fact("gVisor's other programs", SETUP, sidecars(dir)),
        fact("tarn's prewarmer for gVisor", BUILD, prewarmer(dir).await),
        fact("cgroup controllers", "mount memory, cpu, cpuacct and pids", controllers()),
        fact("a process that reaps orphans", "in a container: docker run --init", reaper()),
    ];
    if facts.iter().all(|fact| fact.ok) {
        let remedy = "allow seccomp, ptrace and user namespaces: in a container --privileged, never a chroot";
        facts.push(fact("gVisor starts a sandbox", remedy, trial(dir).await));
    }
    facts
}

/// Checks the installation alone, and returns gVisor's version; the error says what is the matter.
pub(crate) async fn check_installation(dir: &Path) -> Result<String, String> {
    let version = version(dir).await?;
    sidecars(dir)?;
    prewarmer(dir).await?;
    Ok(version)
}

/// Says why sandboxes cannot use a version of NVIDIA's driver, if they cannot: gVisor speaks to the
/// driver in its place, and knows the words of some versions.
pub async fn driver_obstacle(config: &GvisorConfig, driver: &str) -> Option<String> {
    let program = config.runsc_dir.join("runsc");
    match output(&program, &["nvproxy", "list-supported-drivers"]).await {
        Err(trouble) => Some(format!("which drivers gVisor speaks is not known: {trouble}")),
        Ok(list) if list.lines().any(|known| known.trim() == driver) => None,
        Ok(list) => {
            let (first, last) = (list.lines().next(), list.lines().last());
            let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
            Some(format!(
                "this version of gVisor does not speak driver {driver}; `{} nvproxy \
                 list-supported-drivers` names those that it does, from {first} to {last}",
                program.display()
            ))
        }
    }
}

fn fact(name: &'static str, remedy: &'static str, found: Result<String, String>) -> Fact {
    let ok = found.is_ok();
    Fact { name, ok, detail: found.unwrap_or_else(|problem| problem), remedy }
}

async fn version(dir: &Path) -> Result<String, String> {
    let program = dir.join("runsc");
    let text = output(&program, &["--version"]).await?;
    let version = text.lines().next().and_then(|line| line.strip_prefix("runsc version "));
    version.map(str::to_owned).ok_or_else(|| format!("{} names no version", program.display()))
}

fn sidecars(dir: &Path) -> Result<String, String> {
    for name in SIDECARS {
        let path = dir.join("gvisor-bin").join(name);
        if !path.is_file() {
            return Err(format!("{} is missing", path.display()));
        }
    }
    Ok(SIDECARS.join(", "))
}

/// gVisor's own program of that name would do, but would show each sandbox the host's memory.
async fn prewarmer(dir: &Path) -> Result<String, String> {
    let path = dir.join("gvisor-bin").join("gvisor-sentry-prewarmer");
    let answer = output(&path, &["--identify"]).await?;
    if answer == PREWARMER {
        return Ok(answer.trim().to_owned());
    }
    Err(format!("{} is not tarn's, or not of this version", path.display()))
}

fn controllers() -> Result<String, String> {
    let layout = Layout::detect().map_err(|error| error.to_string())?;
    Ok(match layout.version() {
        CgroupVersion::V1 => "cgroup version 1".to_owned(),
        CgroupVersion::V2 => "cgroup version 2".to_owned(),
    })
}

/// Sandboxes are nobody's children, so that they outlive the server; their end is heard through
/// descriptors, but the last of them, their entries in the process table, are for process 1.
fn reaper() -> Result<String, String> {
    if std::process::id() == 1 {
        return Err("tarn is process 1: ended sandboxes stay as zombies".to_owned());
    }
    Ok("process 1".to_owned())
}

/// Runs a command in a throw-away sandbox, on the platform that ours use.
async fn trial(dir: &Path) -> Result<String, String> {
    let flags = [
        "--platform=systrap",
        "--network=none",
        "--ignore-cgroups",
        "--host-settings=ignore",
        "--sidecar-usage-policy=STRICT",
        "--gofer-network-namespace=new",
        "do",
        "--quiet",
        "/bin/true",
    ];
    output(&dir.join("runsc"), &flags).await.map(|_| "systrap".to_owned())
}

/// Returns what a program prints when it succeeds, else why it did not.
async fn output(program: &Path, words: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).env_clear().kill_on_drop(true);
    let shown = program.display();
    let done = match tokio::time::timeout(TRIAL, command.output()).await {
        Ok(done) => done.map_err(|error| format!("{shown} cannot be run: {error}"))?,
        Err(_elapsed) => return Err(format!("{shown} did not end in {} s", TRIAL.as_secs())),
    };
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&done.stderr);
    let last = complaint.lines().last().unwrap_or_default();
    Err(format!("{shown} ended with {}: {last}", done.status))
}
