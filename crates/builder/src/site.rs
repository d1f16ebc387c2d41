//! The workshop of a build: sandboxes of its project, driven through their daemons.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use tarn_build::{BuildConfig, CacheKey, Run};
use tarn_control::{BuildBase, BuildSandbox, Control, ControlError};
use tarn_daemon_api::{RunRequest, UserSpec};
use tarn_guest_api::{COPY_ANNOUNCEMENT, CopyIn, CopyOut, DAEMON_PATH};
use tarn_task::Tasks;
use tarn_types::{
    BuildId, EndCause, ImageName, ProjectId, RegistryLogin, Resources, SandboxId, SnapshotId,
};
use tokio::{
    io::{AsyncRead, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Notify, oneshot},
};

use crate::{
    daemon::{Daemon, DaemonError, RunEnd, RunEvent, RunStream},
    journal::Journal,
    service::Builder,
    workshop::{BaseImage, Bench, Files, Parcel, StepError, Workshop},
};

/// How long the program at the other end of a copy may take to listen.
const LISTEN: Duration = Duration::from_secs(30);

/// How much of a command an error repeats.
const SHOWN_COMMAND: usize = 200;

/// What is told to whoever builds when memory or disk ran out (spec 06 §3).
const OUT_OF_MEMORY: &str =
    "The builder sandbox ran out of memory. Build again with more (`memory_mb`).";
const DISK_FULL: &str =
    "The builder sandbox ran out of disk space. Build again with more (`disk_mb`).";

/// The sandboxes of a build.
pub(crate) struct Site {
    pub(crate) builder: Builder,
    pub(crate) build: BuildId,
    pub(crate) project: ProjectId,
    pub(crate) resources: Resources,
    /// When they end, whatever becomes of the build.
    pub(crate) timeout_secs: u64,
    /// What the build shows to registries, by their hosts.
    pub(crate) logins: BTreeMap<String, RegistryLogin>,
    /// Whether an image is taken over as its registry has it.
    pub(crate) is_import: bool,
    /// The images that references are to mean, by their ids.
    pub(crate) parents: BTreeMap<String, String>,
    /// Rung when there is something that a log can tell of.
    pub(crate) opened: Arc<Notify>,
    pub(crate) tasks: Tasks,
}

/// A sandbox in which steps are done.
pub(crate) struct SandboxBench {
    pub(crate) control: Control,
    pub(crate) tasks: Tasks,
    pub(crate) project: ProjectId,
    pub(crate) id: SandboxId,
    pub(crate) daemon: Daemon,
}

// === impl Site ===

impl Site {
    fn control(&self) -> &Control {
        self.builder.control()
    }
}

#[async_trait]
impl Workshop for Site {
    async fn base(&self, name: &str) -> Result<BaseImage, StepError> {
        let name = self.parents.get(name).map_or(name, String::as_str);
        let parsed: ImageName =
            name.parse().map_err(|bad| StepError::Failed(format!("`{name}`: {bad}")))?;
        let login = self.control().registry_of(name).and_then(|host| self.logins.get(&host));
        let (control, login) = (self.control(), login.cloned());
        let base = control.build_base(&self.project, &parsed, login, self.is_import).await;
        let BuildBase { image, identity, config, stock_user } =
            base.map_err(|failed| step_error(&failed))?;
        let runs_as = config.user.clone().filter(|user| Some(user) != stock_user.as_ref());
        let config = BuildConfig {
            env: config.env,
            user: config.user,
            runs_as,
            working_dir: config.working_dir,
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            shell: Vec::new(),
        };
        Ok(BaseImage { image, identity, config })
    }

    async fn kept(&self, key: CacheKey) -> Option<SnapshotId> {
        self.control().build_kept(&self.project, &key.to_string()).await
    }

    async fn open(&self, files: &Files) -> Result<Box<dyn Bench>, StepError> {
        let (image, snapshot) = match files {
            Files::Image(image) => (Some(image.clone()), None),
            Files::Kept(snapshot) => (None, Some(snapshot.clone())),
        };
        let ask = BuildSandbox {
            image,
            snapshot,
            resources: self.resources,
            timeout_secs: self.timeout_secs,
        };
        let control = self.control();
        let (builder, build, project) =
            (self.builder.clone(), self.build.clone(), self.project.clone());
        // A build that is cancelled meanwhile must know of it all the same.
        let begun = self.tasks.spawn("build_sandbox", async move {
            let id = builder
                .control()
                .build_sandbox(&project, ask)
                .await
                .map_err(|failed| step_error(&failed))?;
            builder.note_sandbox(&build, &id).await?;
            Ok(id)
        });
        let id = begun.await.map_err(|lost| StepError::Internal(lost.to_string()))??;
        self.opened.notify_one();
        let endpoint = match control.build_sandbox_ready(&id).await {
            Ok(endpoint) => endpoint,
            Err(failed) => return Err(why_ended(control, &id, step_error(&failed)).await),
        };
        let daemon = Daemon { address: endpoint.daemon, token: endpoint.token };
        Ok(Box::new(SandboxBench {
            control: control.clone(),
            tasks: self.tasks.clone(),
            project: self.project.clone(),
            id,
            daemon,
        }))
    }
}

// === impl SandboxBench ===

impl SandboxBench {
    /// Starts a program that listens at a port it prints, and connects to it.
    pub(crate) async fn copier(
        &self,
        args: &[String],
    ) -> Result<(RunStream, TcpStream), StepError> {
        let request = RunRequest {
            command: DAEMON_PATH.to_owned(),
            args: args.to_vec(),
            user: Some(root()),
            working_dir: Some("/".to_owned()),
            ..RunRequest::default()
        };
        let mut run = match self.daemon.run(&request).await {
            Ok(run) => run,
            Err(failed) => return Err(self.broken(failed).await),
        };
        let listening = tokio::time::timeout(LISTEN, run.next()).await;
        let first = match listening {
            Ok(Ok(event)) => event,
            Ok(Err(failed)) => return Err(self.broken(failed).await),
            Err(_elapsed) => return Err(StepError::Internal("copy: nobody listens".to_owned())),
        };
        let port = match &first {
            RunEvent::Line(line) => {
                line.strip_prefix(COPY_ANNOUNCEMENT).and_then(|port| port.parse::<u16>().ok())
            }
            RunEvent::End(_) => None,
        };
        let Some(port) = port else { return Err(self.copied(&mut run, Some(first)).await) };
        let address = SocketAddr::new(self.daemon.address.ip(), port);
        let peer = TcpStream::connect(address).await;
        let peer = peer.map_err(|error| StepError::Internal(format!("copy: connect: {error}")))?;
        Ok((run, peer))
    }

    /// Hears a copy out; what it ends with is an error unless it worked.
    async fn copy_end(&self, run: &mut RunStream) -> Result<(), StepError> {
        let end = listen_to_end(run, None).await;
        match end {
            Ok((RunEnd { exit_code: Some(0), .. }, _)) => Ok(()),
            Ok((end, said)) => Err(copy_error(&end, &said)),
            Err(failed) => Err(self.broken(failed).await),
        }
    }

    async fn copied(&self, run: &mut RunStream, first: Option<RunEvent>) -> StepError {
        match listen_to_end(run, first).await {
            Ok((end, said)) => copy_error(&end, &said),
            Err(failed) => self.broken(failed).await,
        }
    }

    async fn broken(&self, failed: DaemonError) -> StepError {
        match failed {
            DaemonError::Refused(said) => StepError::Failed(said),
            DaemonError::Broken(detail) => {
                why_ended(&self.control, &self.id, StepError::Internal(detail)).await
            }
        }
    }
}

#[async_trait]
impl Bench for SandboxBench {
    async fn run(&self, run: &Run, journal: &Journal) -> Result<(), StepError> {
        let (command, args) = run.argv.split_first().unzip();
        let request = RunRequest {
            command: command.cloned().unwrap_or_default(),
            args: args.map(<[String]>::to_vec).unwrap_or_default(),
            env: run.env.iter().cloned().collect(),
            working_dir: Some(run.dir.clone()),
            user: Some(run.user.clone().map_or_else(root, UserSpec::Text)),
            ..RunRequest::default()
        };
        let shown = run.argv.join(" ");
        let shown = &shown[..shown.floor_char_boundary(SHOWN_COMMAND)];
        let mut stream = match self.daemon.run(&request).await {
            Ok(stream) => stream,
            Err(DaemonError::Refused(said)) => {
                return Err(StepError::Failed(format!("`{shown}` was not started: {said}")));
            }
            Err(failed) => return Err(self.broken(failed).await),
        };
        loop {
            match stream.next().await {
                Ok(RunEvent::Line(line)) => journal.output(&line),
                Ok(RunEvent::End(RunEnd { exit_code: Some(0), .. })) => return Ok(()),
                Ok(RunEvent::End(end)) => return Err(run_error(shown, &end, &journal.tail())),
                Err(failed) => return Err(self.broken(failed).await),
            }
        }
    }

    async fn copy_in(&self, ask: &CopyIn, parcel: Parcel) -> Result<(), StepError> {
        let ask = serde_json::to_string(ask).map_err(|bad| StepError::Internal(bad.to_string()))?;
        let (mut run, mut peer) = self.copier(&["copy-in".to_owned(), ask]).await?;
        let Parcel { mut stream, done } = parcel;
        let sent = async {
            tokio::io::copy(&mut stream, &mut peer).await?;
            peer.shutdown().await
        };
        let sent = sent.await;
        // What the program says is worth more than that it does not listen any more.
        self.copy_end(&mut run).await?;
        sent.map_err(|error| StepError::Internal(format!("copy: {error}")))?;
        drop(stream);
        match done.await {
            Ok(done) => done,
            Err(_gone) => Err(StepError::Internal("copy: its source went away".to_owned())),
        }
    }

    async fn copy_out(&self, ask: &CopyOut) -> Result<Parcel, StepError> {
        let ask = serde_json::to_string(ask).map_err(|bad| StepError::Internal(bad.to_string()))?;
        let (mut run, peer) = self.copier(&["copy-out".to_owned(), ask]).await?;
        let (tell, done) = oneshot::channel();
        let bench = Self {
            control: self.control.clone(),
            tasks: self.tasks.clone(),
            project: self.project.clone(),
            id: self.id.clone(),
            daemon: self.daemon.clone(),
        };
        drop(self.tasks.spawn("build_copy", async move {
            let ended = bench.copy_end(&mut run).await;
            // Whoever does not wait for it has given the copy up.
            drop(tell.send(ended));
        }));
        let stream: Box<dyn AsyncRead + Send + Unpin> = Box::new(peer);
        Ok(Parcel { stream, done })
    }

    async fn keep(&self, key: CacheKey) -> Result<SnapshotId, StepError> {
        let kept = self.control.build_keep(&self.project, &self.id, key.to_string()).await;
        match kept {
            Ok(snapshot) => Ok(snapshot),
            Err(failed) => Err(why_ended(&self.control, &self.id, step_error(&failed)).await),
        }
    }

    async fn close(self: Box<Self>) {
        self.control.build_sandbox_delete(&self.id).await;
    }
}

fn root() -> UserSpec {
    UserSpec::Ids { uid: 0, gid: Some(0) }
}

/// Says why a sandbox does not answer: its end, if that explains it.
async fn why_ended(control: &Control, id: &SandboxId, otherwise: StepError) -> StepError {
    // Its end is told by its node, a moment after it stops to answer.
    for _ in 0..20 {
        match control.build_sandbox_end(id).await {
            Some(EndCause::OutOfMemory) => return StepError::OutOfMemory(OUT_OF_MEMORY.to_owned()),
            Some(EndCause::NoCapacity) => {
                let said = "no node had room for the builder sandbox; build again later, or with \
                            less memory";
                return StepError::Failed(said.to_owned());
            }
            Some(cause) => {
                let text = cause.error_message().unwrap_or_else(|| cause.outcome().to_string());
                return StepError::Failed(format!("the builder sandbox ended: {text}"));
            }
            None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    otherwise
}

/// Sorts what control says into what whoever builds may know and what not.
fn step_error(failed: &ControlError) -> StepError {
    match failed.detail() {
        Some(detail) => StepError::Internal(format!("{failed}: {detail}")),
        None => StepError::Failed(failed.to_string()),
    }
}

fn run_error(shown: &str, end: &RunEnd, tail: &str) -> StepError {
    let how = match (end.exit_code, end.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown state".to_owned(),
    };
    let text = format!("`{shown}` ended with {how}");
    if end.oom_killed {
        return StepError::OutOfMemory(format!("{text}. {OUT_OF_MEMORY}{tail}"));
    }
    if is_disk_full(tail) {
        return StepError::DiskFull(format!("{text}. {DISK_FULL}{tail}"));
    }
    StepError::Failed(format!("{text}{tail}"))
}

fn copy_error(end: &RunEnd, said: &str) -> StepError {
    if end.oom_killed {
        return StepError::OutOfMemory(format!("copying failed. {OUT_OF_MEMORY}"));
    }
    if is_disk_full(said) {
        return StepError::DiskFull(format!("copying failed: {said}. {DISK_FULL}"));
    }
    StepError::Failed(format!("copying failed: {said}"))
}

fn is_disk_full(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("no space left") || text.contains("enospc")
}

/// Listens to a program that says little, and returns its end and the last line of what it said.
async fn listen_to_end(
    run: &mut RunStream,
    first: Option<RunEvent>,
) -> Result<(RunEnd, String), DaemonError> {
    let mut said = String::new();
    let mut next = first;
    loop {
        let event = match next.take() {
            Some(event) => event,
            None => run.next().await?,
        };
        match event {
            RunEvent::Line(line) => said = line,
            RunEvent::End(end) => return Ok((end, said)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_advise() {
        let end = |exit_code, oom_killed| RunEnd { exit_code, signal: None, oom_killed };
        let plain = run_error("make", &end(Some(2), false), "\nerror: x");
        assert_eq!(plain, StepError::Failed("`make` ended with exit code 2\nerror: x".to_owned()));
        let memory = run_error("make", &end(Some(137), true), "");
        assert!(
            matches!(memory, StepError::OutOfMemory(text) if text.contains("ran out of memory."))
        );
        let disk = run_error("dd", &end(Some(1), false), "\ndd: No space left on device");
        assert!(
            matches!(disk, StepError::DiskFull(text) if text.contains("ran out of disk space."))
        );
        let disk = copy_error(&end(Some(1), false), "/x: No space left on device (os error 28)");
        assert!(matches!(disk, StepError::DiskFull(_)));
    }
}
