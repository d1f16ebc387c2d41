//! Pauses a running sandbox, writes it down, and resumes it.
//!
//! It is the backend that stops the programs, never the cgroup freezer: the sentry has some system
//! calls made by the processes that run the programs, and hears of them by seccomp's user
//! notification. The freezer interrupts whoever waits for an answer, the kernel takes the question
//! back, and the sentry, finding none, takes the process for dead and ends all that ran in it.
//!
//! Pauses nest inside the sentry, and a resume too many is a panic of its kernel. So a pause or a
//! resume is asked for only by who knows that the sandbox is not, or is, paused:
//!
//! ```text
//!             pause answered                 a call was cut short, or
//!  Running ───────────────────▶ Paused       another server may have made one
//!     ▲     resume answered       │                 │
//!     └───────────────────────────┘              Unknown: ask for the stacks (see `stack`)
//!                                                   until no call is under way
//! ```
//!
//! What is known dies with the server, and nothing is written down that could be wrong: the next
//! one begins with Unknown. One call is made at a time, and a pause whose caller gave up is
//! undone as soon as it is answered, so nothing is left paused that nobody wanted.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tarn_runtime::RuntimeError;
use tarn_task::Tasks;
use tarn_types::SandboxId;
use tokio::sync::{Mutex, oneshot, watch};
use tracing::{debug, warn};

use crate::{
    cgroup::MemoryGauge,
    config::GvisorDeadlines,
    image,
    limits::MemoryBounds,
    remains::host,
    stack::{self, Seen},
    urpc::{CallError, Caller},
};

/// Between two looks at a sandbox in which a call is under way.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// The control socket of one running sandbox, and what is known of it.
#[derive(Debug)]
pub(crate) struct Control {
    id: SandboxId,
    caller: Caller,
    memory: MemoryGauge,
    bounds: parking_lot::Mutex<MemoryBounds>,
    deadlines: GvisorDeadlines,
    tasks: Tasks,
    /// Held while a call is under way.
    standing: Mutex<Standing>,
    /// Whether every process is known to stand still.
    still: watch::Sender<bool>,
}

/// What a [`Control`] begins with.
pub(crate) struct ControlParts {
    pub(crate) id: SandboxId,
    pub(crate) socket: PathBuf,
    pub(crate) memory: MemoryGauge,
    pub(crate) bounds: MemoryBounds,
    pub(crate) deadlines: GvisorDeadlines,
    pub(crate) tasks: Tasks,
    pub(crate) standing: Standing,
}

/// What is known of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It runs.
    Running,
    /// It is paused, once.
    Paused,
    /// It may be either.
    Unknown,
}

// === impl Control ===

impl Control {
    pub(crate) fn new(parts: ControlParts) -> Self {
        let ControlParts { id, socket, memory, bounds, deadlines, tasks, standing } = parts;
        let (standing, still) = (Mutex::new(standing), watch::Sender::new(false));
        let (caller, bounds) = (Caller::new(socket), parking_lot::Mutex::new(bounds));
        Self { id, caller, memory, bounds, deadlines, tasks, standing, still }
    }

    /// Connects to the sentry while that is sure to work: before its memory is used up.
    pub(crate) async fn connect(&self) {
        // Whoever calls connects in any case.
        let Ok(_standing) = self.standing.try_lock() else { return };
        if let Err(error) = self.caller.connect().await {
            debug!(sandbox.id = %self.id, %error, "not connected to its sentry");
        }
    }

    /// Notes the bounds that a resize has set.
    pub(crate) fn set_bounds(&self, bounds: MemoryBounds) {
        *self.bounds.lock() = bounds;
    }

    /// Tells when every process is known to stand still.
    pub(crate) fn still(&self) -> watch::Receiver<bool> {
        self.still.subscribe()
    }

    /// Pauses it, unless it is paused. Cut short, it is undone.
    pub(crate) async fn pause(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let (told, answer) = oneshot::channel();
        let (taken, heard) = oneshot::channel();
        let control = Arc::clone(self);
        self.tasks.spawn("gvisor-pause", async move {
            tokio::select! {
                () = control.tasks.stopping() => {}
                () = control.pause_for(told, heard) => {}
            }
        });
        self.within("pause", self.deadlines.pause, async {
            let stopping = || CallError::Lost(io::Error::other("the server is stopping"));
            let paused = answer.await.unwrap_or_else(|_closed| Err(stopping()));
            // Nobody else waits for it: it fails only when the server is stopping.
            let _told = taken.send(());
            paused
        })
        .await
    }

    /// Pauses it for somebody who may stop to wait, but not to want it resumed then.
    ///
    /// An answer that was sent may still never be read, so whoever reads it says so.
    async fn pause_for(
        &self,
        told: oneshot::Sender<Result<(), CallError>>,
        heard: oneshot::Receiver<()>,
    ) {
        let mut standing = self.standing.lock().await;
        if told.is_closed() {
            return;
        }
        let paused = self.pause_now(&mut standing).await;
        let is_heard = told.send(paused).is_ok() && heard.await.is_ok();
        if is_heard || *standing != Standing::Paused {
            return;
        }
        if let Err(error) = self.resume_now(&mut standing).await {
            warn!(sandbox.id = %self.id, %error, "a pause that came too late could not be undone");
        }
    }

    async fn pause_now(&self, standing: &mut Standing) -> Result<(), CallError> {
        if self.learn(standing).await? == Standing::Paused {
            return Ok(());
        }
        *standing = Standing::Unknown;
        self.call("containerManager.Pause", &Value::Null, &[]).await?;
        self.note(standing, Standing::Paused);
        Ok(())
    }

    /// Resumes it, if it is paused.
    pub(crate) async fn resume(&self) -> Result<(), RuntimeError> {
        self.within("resume", self.deadlines.pause, async {
            let mut standing = self.standing.lock().await;
            self.resume_now(&mut standing).await
        })
        .await
    }

    async fn resume_now(&self, standing: &mut Standing) -> Result<(), CallError> {
        if self.learn(standing).await? != Standing::Paused {
            return Ok(());
        }
        *standing = Standing::Unknown;
        self.call("containerManager.Resume", &Value::Null, &[]).await?;
        self.note(standing, Standing::Running);
        Ok(())
    }

    /// Writes it down into new files of a directory; it must be paused, and stays so.
    ///
    /// The image's pages count as the sandbox's until they are on the disk, and it would stand
    /// still until there is room for them. So it is lent that much, and the watch takes it back
    /// after the resume.
    ///
    /// Fails as well when a restore would refuse what was written, as the sandbox is there still.
    pub(crate) async fn checkpoint(&self, dir: &Path) -> Result<(), RuntimeError> {
        let reading = self.memory.read();
        let demand = reading.map_err(host("read the memory", &self.id))?.demand;
        let limit = image::deadline(self.deadlines.checkpoint, demand);
        let bounds = *self.bounds.lock();
        let files = self.make_files(dir).await?;
        // `Resume` undoes the pause of the call's own: without it the sandbox would end.
        let arg = json!({
            "metadata": { "compression": "none" },
            "have_pages_file": true,
            "Resume": true,
        });
        self.within("checkpoint", limit, async {
            let mut standing = self.standing.lock().await;
            if self.learn(&mut standing).await? != Standing::Paused {
                return Err(CallError::Refused("it is not paused".to_owned()));
            }
            let lent = image::lent(bounds, demand);
            if let Err(error) = self.memory.set_limit(lent) {
                warn!(sandbox.id = %self.id, %error, "memory cannot be lent for an image");
            }
            *standing = Standing::Unknown;
            let done = self.call("containerManager.Checkpoint", &arg, &files).await;
            if !matches!(done, Err(CallError::Lost(_))) {
                *standing = Standing::Paused;
            }
            done
        })
        .await?;
        let memory = image::memory(dir).map_err(host("read the image", &self.id))?;
        match image::too_large(memory, bounds) {
            Some(detail) => {
                Err(RuntimeError::Backend { step: "checkpoint", id: self.id.clone(), detail })
            }
            None => Ok(()),
        }
    }

    async fn make_files(&self, dir: &Path) -> Result<Vec<OwnedFd>, RuntimeError> {
        let dir = dir.to_owned();
        let made = self.tasks.spawn_blocking(move || {
            let make = |name| {
                let path = dir.join(name);
                let mut options = fs::OpenOptions::new();
                options.read(true).write(true).create_new(true).mode(0o600);
                options.open(path).map(OwnedFd::from)
            };
            image::FILES.into_iter().map(make).collect::<io::Result<Vec<_>>>()
        });
        let made = made.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        made.map_err(host("make the image's files", &self.id))
    }

    /// Returns whether it is paused, never [`Standing::Unknown`].
    async fn learn(&self, standing: &mut Standing) -> Result<Standing, CallError> {
        while *standing == Standing::Unknown {
            let stacks = self.caller.call::<_, String>("debug.Stacks", &Value::Null, &[]);
            match stack::seen(&stacks.await?.unwrap_or_default()) {
                Seen::Running => self.note(standing, Standing::Running),
                Seen::Paused => self.note(standing, Standing::Paused),
                Seen::Busy => tokio::time::sleep(BUSY_PAUSE).await,
            }
        }
        Ok(*standing)
    }

    fn note(&self, standing: &mut Standing, now: Standing) {
        *standing = now;
        self.still.send_replace(now == Standing::Paused);
    }

    async fn call(&self, method: &str, arg: &Value, files: &[OwnedFd]) -> Result<(), CallError> {
        self.caller.call::<_, Value>(method, arg, files).await.map(drop)
    }

    async fn within(
        &self,
        step: &'static str,
        limit: Duration,
        work: impl Future<Output = Result<(), CallError>>,
    ) -> Result<(), RuntimeError> {
        let id = self.id.clone();
        match tokio::time::timeout(limit, work).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(CallError::Refused(detail))) => Err(RuntimeError::Backend { step, id, detail }),
            Ok(Err(CallError::Lost(source))) => Err(RuntimeError::Host { step, id, source }),
            Err(_elapsed) => {
                let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                Err(RuntimeError::Timeout { step, id, limit_ms })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future,
        sync::atomic::{AtomicU64, Ordering},
        task::Poll,
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixListener,
    };

    use super::*;
    use crate::cgroup::{Cgroups, Layout};

    /// Answers every call with success when it has acted on it, and tells which were made.
    async fn sentry(
        listener: UnixListener,
        called: watch::Sender<Vec<String>>,
        act: impl Fn(&str),
    ) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 1024];
        loop {
            let length = stream.read(&mut asked).await.unwrap();
            if length == 0 {
                return;
            }
            let request: Value = serde_json::from_slice(&asked[..length]).unwrap();
            let method = request["method"].as_str().unwrap().to_owned();
            act(&method);
            called.send_modify(|methods| methods.push(method));
            stream.write_all(br#"{"success":true,"err":"","result":null}"#).await.unwrap();
        }
    }

    // On one thread: what was answered is sent before anybody can see that it stands still.
    #[tokio::test]
    async fn a_pause_whose_answer_nobody_read_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let (called, mut calls) = watch::channel(Vec::new());
        let tasks = Tasks::new();
        tasks.spawn("sentry", sentry(listener, called, |_| {}));
        let layout = Layout::V2 { base: dir.path().to_owned() };
        let cgroups = Cgroups::open(layout, &"abc123".parse().unwrap()).unwrap();
        let id = SandboxId::from_random([1; SandboxId::LENGTH]);
        let control = Arc::new(Control::new(ControlParts {
            memory: cgroups.sandbox(&id).memory(),
            bounds: MemoryBounds { soft: 1, hard: 1 },
            id,
            socket,
            deadlines: GvisorDeadlines::default(),
            tasks: tasks.clone(),
            standing: Standing::Running,
        }));
        let mut still = control.still();

        let mut pause = Box::pin(control.pause());
        let polled = future::poll_fn(|context| Poll::Ready(pause.as_mut().poll(context)));
        assert!(polled.await.is_pending());
        still.wait_for(|still| *still).await.unwrap();
        drop(pause);
        calls.wait_for(|methods| methods.len() == 2).await.unwrap();
        assert_eq!(*calls.borrow(), ["containerManager.Pause", "containerManager.Resume"]);

        control.pause().await.unwrap();
        control.resume().await.unwrap();
        assert_eq!(calls.borrow()[2..], ["containerManager.Pause", "containerManager.Resume"]);
    }

    #[tokio::test]
    async fn an_image_that_no_restore_takes_is_refused_while_the_sandbox_is_there() {
        const MIB: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let [socket, image] = ["s", "image"].map(|name| dir.path().join(name));
        let listener = UnixListener::bind(&socket).unwrap();
        let (called, calls) = watch::channel(Vec::new());
        let (tasks, size) = (Tasks::new(), Arc::new(AtomicU64::new(0)));
        let (pages, written) = (image.join("pages.img"), Arc::clone(&size));
        let write = move |method: &str| {
            if method == "containerManager.Checkpoint" {
                let pages = fs::OpenOptions::new().write(true).open(&pages).unwrap();
                pages.set_len(written.load(Ordering::Relaxed)).unwrap();
            }
        };
        tasks.spawn("sentry", sentry(listener, called, write));
        let layout = Layout::V2 { base: dir.path().to_owned() };
        let cgroups = Cgroups::open(layout, &"abc123".parse().unwrap()).unwrap();
        let id = SandboxId::from_random([1; SandboxId::LENGTH]);
        let group = dir.path().join("tarn_abc123").join(id.as_str());
        fs::create_dir(&group).unwrap();
        for (file, text) in [("memory.current", "1"), ("memory.stat", ""), ("memory.high", "9")] {
            fs::write(group.join(file), text).unwrap();
        }
        let control = Arc::new(Control::new(ControlParts {
            memory: cgroups.sandbox(&id).memory(),
            bounds: MemoryBounds { soft: 284 * MIB, hard: 348 * MIB },
            id,
            socket,
            deadlines: GvisorDeadlines::default(),
            tasks: tasks.clone(),
            standing: Standing::Running,
        }));
        for (mib, fits) in [(284, true), (340, true), (600, false)] {
            size.store(mib * MIB, Ordering::Relaxed);
            fs::create_dir(&image).unwrap();
            control.pause().await.unwrap();
            let checkpoint = control.checkpoint(&image).await;
            assert_eq!(checkpoint.is_ok(), fits, "{mib}: {checkpoint:?}");
            if let Err(error) = checkpoint {
                assert!(error.to_string().contains("give it more memory"), "{error}");
            }
            // It goes on, whatever became of the image.
            control.resume().await.unwrap();
            assert_eq!(calls.borrow().last().unwrap(), "containerManager.Resume");
            fs::remove_dir_all(&image).unwrap();
        }
    }
}
