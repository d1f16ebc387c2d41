//! The process routes of a simulated daemon.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use tarn_daemon_api::{
    BadField, ExitReason, OutputStream, ProcessList, RunRequest, StartRequest, code,
};

use super::{Daemon, Identity, body};
use crate::sim::{
    answer::{self, Answer, Body, Refusal},
    file::FileTree,
    process::{Pause, Process},
    script::{self, Act, Surroundings},
};

/// What a command is started with, whichever route it came by.
pub(super) struct Command {
    pub(super) start: StartRequest,
    pub(super) limit: Option<Duration>,
}

impl Daemon {
    pub(super) fn process(&self, pid: &str) -> Result<Arc<Process>, Refusal> {
        self.processes.find(pid).ok_or_else(|| {
            Refusal::new(404, code::PROCESS_NOT_FOUND, format!("no process `{pid}`"))
        })
    }

    pub(super) fn process_list(&self) -> Response<Body> {
        let processes = self.processes.list().iter().map(|process| process.info()).collect();
        answer::json(200, &ProcessList { processes })
    }

    pub(super) async fn process_start(
        self: &Arc<Self>,
        identity: &Identity,
        request: Request<Incoming>,
    ) -> Answer {
        let start: StartRequest = body(request).await?;
        let managed = start.managed().map_err(|BadField(text)| Refusal::invalid(text))?;
        if managed.is_some() {
            let text = "managed processes are not supported by the simulated runtime";
            return Err(Refusal::new(400, code::NOT_SUPPORTED, text));
        }
        let process = self.start_checked(identity, Command { start, limit: None })?;
        Ok(answer::json(201, &process.info()))
    }

    pub(super) async fn process_run(
        self: &Arc<Self>,
        identity: &Identity,
        request: Request<Incoming>,
    ) -> Answer {
        let run: RunRequest = body(request).await?;
        let limit = match run.time_limit_secs().map(Duration::try_from_secs_f64) {
            None => None,
            Some(Ok(limit)) => Some(limit),
            Some(Err(error)) => return Err(Refusal::invalid(format!("timeout: {error}"))),
        };
        let command = Command { start: run.into_start(), limit };
        Ok(answer::events(self.start_checked(identity, command)?.events()))
    }

    pub(super) fn start_checked(
        self: &Arc<Self>,
        identity: &Identity,
        command: Command,
    ) -> Result<Arc<Process>, Refusal> {
        let acts = acts(&command.start, identity, &self.files.lock())?;
        Ok(self.start(command, acts))
    }

    /// Starts a process; one that never waits has ended when this returns.
    pub(super) fn start(self: &Arc<Self>, command: Command, acts: Vec<Act>) -> Arc<Process> {
        let Command { start, limit } = command;
        let process = self.processes.start(&start.command, &start.args, acts, &*self.clock);
        if let Pause::Asleep(nap) = process.advance(&*self.clock) {
            if let Some(limit) = limit {
                process.set_limit(limit, &*self.clock);
            }
            let daemon = Arc::clone(self);
            self.tasks.spawn("sim_process", daemon.drive(Arc::clone(&process), nap, limit));
        }
        process
    }

    /// Takes a process from nap to nap until it, its limit or its sandbox ends.
    pub(super) async fn drive(
        self: Arc<Self>,
        process: Arc<Process>,
        nap: Duration,
        limit: Option<Duration>,
    ) {
        let live = async {
            let mut pause = Pause::Asleep(nap);
            while let Pause::Asleep(nap) = pause {
                tokio::time::sleep(nap).await;
                self.thawed().await;
                pause = process.advance(&*self.clock);
            }
        };
        let late = async {
            tokio::time::sleep(limit.unwrap_or(Duration::MAX)).await;
            self.thawed().await;
        };
        tokio::select! {
            () = live => {}
            () = process.ended() => {}
            () = late => {
                process.kill(9, ExitReason::TimedOut, &*self.clock);
            }
            () = self.end.cancelled() => {}
            () = self.tasks.stopping() => {}
        }
    }

    pub(super) fn output(&self, pid: &str, stream: Option<OutputStream>) -> Answer {
        Ok(answer::json(200, &self.process(pid)?.output(stream)))
    }
}

/// Finds out what a command does.
pub(super) fn acts(
    start: &StartRequest,
    identity: &Identity,
    files: &FileTree,
) -> Result<Vec<Act>, Refusal> {
    let mut env = identity.env.clone();
    env.extend(start.env.clone());
    let around = Surroundings {
        files,
        env: &env,
        hostname: &identity.hostname,
        working_dir: start.working_dir.as_deref().unwrap_or(&identity.working_dir),
    };
    script::acts(&start.command, &start.args, &around).ok_or_else(|| {
        let text = format!("{}: no such command in the simulated runtime", start.command);
        Refusal::new(400, code::PROCESS_START_FAILED, text)
    })
}
