//! The private routes of a simulated daemon.

use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use tarn_daemon_api::{ExitReason, StartRequest, code};
use tarn_guest_api::{
    CONNECT_PATH, InitRequest, InitResponse, KilledProcess, MEMORY_PRESSURE_PATH,
    MemoryPressureResponse, PROTOCOL, SHUTDOWN_PATH, STATS_PATH, Secret, ShutdownResponse, Stats,
};

use super::{
    Daemon, Identity, body,
    process::{Command, acts},
};
use crate::sim::{
    answer::{self, Answer, Refusal},
    fault::SimStep,
    file::FileTree,
};

/// The accounts of the simulated image.
const ACCOUNTS: [&str; 2] = ["root", "tl-user"];

impl Daemon {
    pub(super) async fn init(self: &Arc<Self>, request: Request<Incoming>) -> Answer {
        use tarn_guest_api::code::{
            ALREADY_INITIALIZED, CONFIGURATION_ERROR, UNSUPPORTED_PROTOCOL,
        };
        let init: InitRequest = body(request).await?;
        if self.faults.meet(SimStep::Init).await {
            return Err(Refusal::new(500, code::INTERNAL_ERROR, "init was made to fail"));
        }
        if init.protocol != PROTOCOL {
            let text = format!("this daemon speaks protocol {PROTOCOL}, not {}", init.protocol);
            return Err(Refusal::new(400, UNSUPPORTED_PROTOCOL, text));
        }
        let token = check_token(&init.token)?;
        if let Some(user) = &init.default_user
            && !is_user(user)
        {
            let text = format!("default_user: no user `{user}`");
            return Err(Refusal::new(400, CONFIGURATION_ERROR, text));
        }
        let working_dir = init.working_dir.clone().unwrap_or_else(|| "/home/tl-user".to_owned());
        let files = FileTree::new(&working_dir);
        let identity = Identity {
            token,
            hostname: init.hostname.clone(),
            env: init.env.0.iter().cloned().collect(),
            working_dir,
        };
        let entrypoint = match init.entrypoint.as_deref() {
            None | Some([]) => None,
            Some([command, args @ ..]) => {
                let start = StartRequest {
                    command: command.clone(),
                    args: args.to_vec(),
                    ..StartRequest::default()
                };
                let acts = acts(&start, &identity, &files);
                let acts = acts.map_err(|refusal| refusal.recoded(CONFIGURATION_ERROR))?;
                Some((start, acts))
            }
        };
        {
            let mut current = self.identity.lock();
            if current.is_some() {
                return Err(Refusal::new(409, ALREADY_INITIALIZED, "init was done before"));
            }
            *self.files.lock() = files;
            *current = Some(Arc::new(identity));
        }
        let entrypoint_pid = entrypoint
            .map(|(start, acts)| self.start(Command { start, limit: None }, acts).info().pid);
        let version = self.info().version;
        Ok(answer::json(200, &InitResponse { protocol: PROTOCOL, version, entrypoint_pid }))
    }

    pub(super) fn route_internal(&self, request: &Request<Incoming>) -> Answer {
        match (request.method().as_str(), request.uri().path()) {
            ("POST", MEMORY_PRESSURE_PATH) => {
                // The newest is the largest here; nothing inside has a size.
                let victim = self.processes.running().into_iter().next();
                let killed = victim.map(|victim| {
                    victim.kill(9, ExitReason::OomKilled, &*self.clock);
                    KilledProcess { pid: victim.info().pid, rss_bytes: 1 << 20 }
                });
                Ok(answer::json(200, &MemoryPressureResponse { killed }))
            }
            ("GET", STATS_PATH) => {
                let running_processes = self.running_processes();
                let stats = Stats {
                    running_processes,
                    total_processes: u64::from(self.processes.started()),
                    guest_processes: running_processes,
                };
                Ok(answer::json(200, &stats))
            }
            ("POST", SHUTDOWN_PATH) => {
                let running = self.processes.running();
                for process in &running {
                    process.kill(15, ExitReason::Signaled, &*self.clock);
                }
                let signaled = u32::try_from(running.len()).unwrap_or(u32::MAX);
                Ok(answer::json(200, &ShutdownResponse { signaled }))
            }
            // Nothing inside has a network of its own, so nothing listens on loopback.
            ("GET", CONNECT_PATH) => {
                let text = "nothing accepts connections on that port";
                Err(Refusal::new(502, code::CONNECTION_REFUSED, text))
            }
            _ => Err(Refusal::new(404, code::NOT_FOUND, "no such private route")),
        }
    }
}

/// Returns a token that will do.
pub(super) fn check_token(token: &Secret) -> Result<String, Refusal> {
    let token = token.reveal();
    if token.len() != 64 || !token.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Refusal::invalid("token: 64 hex digits"));
    }
    Ok(token.to_owned())
}

fn is_user(user: &str) -> bool {
    let name = user.split(':').next().unwrap_or_default();
    ACCOUNTS.contains(&name) || name.parse::<u32>().is_ok()
}
