//! The daemon of one simulated sandbox: a scripted part of spec 05 over real HTTP.
//!
//! What it does not do it refuses with 400 `NOT_SUPPORTED`.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tarn_daemon_api::{ExitReason, Health, Info, MAX_JSON_BYTES, OutputStream, PREFIX, code};
use tarn_guest_api::{INIT_PATH, INTERNAL_PREFIX, LOGS_PATH, SEAL_PATH, TOKEN_HEADER, UNSEAL_PATH};
use tarn_task::{Clock, Tasks};
use tarn_types::{ByteSize, UnixMillis};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use self::seal::{Connection, Seal};
use super::{
    answer::{self, Answer, Body, Refusal},
    fault::Faults,
    file::FileTree,
    image::DaemonImage,
    process::Sleeper,
};

mod file;
mod log;
mod private;
mod process;
mod seal;

pub(super) use self::log::LogImage;

/// What every sandbox seems to use before it does anything.
const BASE_MEMORY: ByteSize = ByteSize::from_mib(16);

/// What every request seems to cost, so that stats move.
const MICROS_PER_REQUEST: u64 = 100;

/// The daemon of one sandbox.
pub(super) struct Daemon {
    tasks: Tasks,
    clock: Arc<dyn Clock>,
    faults: Faults,
    booted_at: UnixMillis,
    identity: Mutex<Option<Arc<Identity>>>,
    files: Mutex<FileTree>,
    processes: super::process::Processes,
    log: log::LogReader,
    seal: Seal,
    stops: watch::Sender<Stops>,
    end: CancellationToken,
    requests: AtomicU64,
    /// It never answers: a fault.
    mute: bool,
}

/// What holds everything inside.
#[derive(Debug, Clone, Copy, Default)]
struct Stops {
    frozen: bool,
    paused: bool,
}

/// What `init` brought, and `unseal` replaces in part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Identity {
    token: String,
    pub(super) hostname: String,
    env: BTreeMap<String, String>,
    working_dir: String,
}

// === impl Daemon ===

impl Daemon {
    pub(super) fn new(
        tasks: Tasks,
        clock: Arc<dyn Clock>,
        faults: Faults,
        mute: bool,
        image: DaemonImage,
    ) -> Self {
        Self {
            booted_at: image.booted_at,
            tasks,
            clock,
            faults,
            identity: Mutex::new(image.identity.map(Arc::new)),
            files: Mutex::new(image.files),
            processes: super::process::Processes::new(image.processes),
            log: log::LogReader::new(image.log),
            seal: Seal::new(image.sealed),
            stops: watch::Sender::default(),
            end: CancellationToken::new(),
            requests: AtomicU64::new(0),
            mute,
        }
    }

    /// Has the processes of an image go on.
    pub(super) fn wake(self: &Arc<Self>) {
        for sleeper in self.processes.sleepers(&*self.clock) {
            let Sleeper { process, nap, limit } = sleeper;
            self.tasks.spawn("sim_process", Arc::clone(self).drive(process, nap, limit));
        }
    }

    /// Returns the memory image of a paused sandbox; `None` while it runs.
    pub(super) fn image(&self) -> Option<DaemonImage> {
        self.stops.borrow().paused.then(|| DaemonImage {
            booted_at: self.booted_at,
            identity: self.identity.lock().as_deref().cloned(),
            sealed: self.seal.is_closed(),
            files: self.files.lock().clone(),
            processes: self.processes.image(),
            log: self.log.image(),
        })
    }

    /// Accepts connections until the sandbox ends.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let stopping = self.tasks.stopping();
        tokio::pin!(stopping);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.end.cancelled() => return,
                () = &mut stopping => return,
            };
            // A connection that broke before it was accepted concerns nobody.
            let Ok((stream, _peer)) = accepted else { continue };
            self.tasks.spawn("sim_connection", Arc::clone(&self).converse(stream));
        }
    }

    /// Ends the sandbox: its port closes, its connections break, its processes are gone.
    pub(super) fn end(&self) {
        self.end.cancel();
    }

    /// Stops or continues everything inside.
    pub(super) fn set_frozen(&self, frozen: bool) {
        self.stops.send_modify(|stops| stops.frozen = frozen);
    }

    /// Stops or continues everything inside, beside freezing.
    pub(super) fn set_paused(&self, paused: bool) {
        self.stops.send_modify(|stops| stops.paused = paused);
    }

    /// Returns the memory and the CPU time, in microseconds, that it seems to use.
    pub(super) fn usage(&self) -> (ByteSize, u64) {
        let files = ByteSize::from_bytes(self.files.lock().bytes());
        let requests = self.requests.load(Ordering::Relaxed) + 1;
        (BASE_MEMORY.saturating_add(files), requests * MICROS_PER_REQUEST)
    }

    async fn converse(self: Arc<Self>, stream: TcpStream) {
        // Without it an answer in two writes waits for the client's delayed acknowledgement.
        let nodelay = stream.set_nodelay(true);
        let known = self.seal.connection();
        let service = service_fn(|request| Arc::clone(&self).answer(&known, request));
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        if nodelay.is_err() {
            return;
        }
        tokio::select! {
            // In this order: what an unseal lets go on must not go on where it ends the connection.
            biased;
            () = self.seal.outlived(&known) => {}
            () = self.end.cancelled() => {}
            () = self.tasks.stopping() => {}
            // How a client leaves is its own affair.
            _left = connection => {}
        }
    }

    async fn answer(
        self: Arc<Self>,
        connection: &Connection,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.thawed().await;
        if self.mute {
            std::future::pending::<()>().await;
        }
        Ok(self.route(connection, request).await.unwrap_or_else(Refusal::into_response))
    }

    async fn thawed(&self) {
        // The sender lives in `self`, so the channel cannot close while this waits.
        let free = |stops: &Stops| !stops.frozen && !stops.paused;
        drop(self.stops.subscribe().wait_for(free).await);
    }

    async fn route(
        self: &Arc<Self>,
        connection: &Connection,
        request: Request<Incoming>,
    ) -> Answer {
        if request.uri().path() == INIT_PATH && request.method() == Method::POST {
            return self.init(request).await;
        }
        match (request.method(), request.uri().path()) {
            (&Method::POST, SEAL_PATH) => return self.seal(request).await,
            (&Method::POST, UNSEAL_PATH) => return self.unseal(connection, request).await,
            _ => self.seal.opened().await,
        }
        // Only now: it is the token of whoever the sandbox is after an unseal.
        let identity = self.authorise(&request)?;
        if request.uri().path() == LOGS_PATH && request.method() == Method::POST {
            return self.logs(request).await;
        }
        if request.uri().path().starts_with(INTERNAL_PREFIX) {
            return self.route_internal(&request);
        }
        let Some(path) = request.uri().path().strip_prefix(PREFIX) else {
            return Err(Refusal::new(404, code::NOT_FOUND, "no such route"));
        };
        let path = path.to_owned();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (request.method().as_str(), parts.as_slice()) {
            ("GET", ["health"]) => Ok(answer::json(200, &Health { healthy: true })),
            ("GET", ["info"]) => Ok(answer::json(200, &self.info())),
            ("GET", ["processes"]) => Ok(self.process_list()),
            ("POST", ["processes"]) => self.process_start(&identity, request).await,
            ("POST", ["processes", "run"]) => self.process_run(&identity, request).await,
            ("GET", ["processes", pid]) => Ok(answer::json(200, &self.process(pid)?.info())),
            ("DELETE", ["processes", pid]) => {
                self.process(pid)?.kill(9, ExitReason::Signaled, &*self.clock);
                Ok(answer::done())
            }
            ("GET", ["processes", pid, "stdout"]) => self.output(pid, Some(OutputStream::Stdout)),
            ("GET", ["processes", pid, "stderr"]) => self.output(pid, Some(OutputStream::Stderr)),
            ("GET", ["processes", pid, "output"]) => self.output(pid, None),
            ("GET", ["files", "list"]) => self.file_list(&request),
            ("GET", ["files"]) => self.file_read(&request),
            ("PUT", ["files"]) => self.file_write(request).await,
            ("DELETE", ["files"]) => self.file_remove(&request),
            (method, _) => {
                let text = format!("the simulated runtime has no {method} {path}");
                Err(Refusal::new(400, code::NOT_SUPPORTED, text))
            }
        }
    }

    /// Checks the token, once there is one.
    fn authorise(&self, request: &Request<Incoming>) -> Result<Arc<Identity>, Refusal> {
        use tarn_guest_api::code::{SANDBOX_NOT_READY, UNAUTHENTICATED};
        let Some(identity) = self.identity.lock().clone() else {
            return Err(Refusal::new(503, SANDBOX_NOT_READY, "the sandbox is not ready yet"));
        };
        let given = request.headers().get(TOKEN_HEADER);
        if given.is_none_or(|given| given.as_bytes() != identity.token.as_bytes()) {
            return Err(Refusal::new(
                401,
                UNAUTHENTICATED,
                "the daemon's token is missing or wrong",
            ));
        }
        Ok(identity)
    }

    fn info(&self) -> Info {
        Info {
            version: format!("{}-sim", env!("CARGO_PKG_VERSION")),
            uptime_secs: self.clock.now().millis_since(self.booted_at) / 1000,
            running_processes: self.running_processes(),
            total_processes: u64::from(self.processes.started()),
        }
    }

    fn running_processes(&self) -> u32 {
        u32::try_from(self.processes.running().len()).unwrap_or(u32::MAX)
    }
}

/// Says why a body could not be read.
enum Unread {
    TooLong,
    Broken,
}

async fn collect(request: Request<Incoming>, limit: usize) -> Result<Bytes, Unread> {
    match Limited::new(request.into_body(), limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Unread::TooLong),
        Err(_broken) => Err(Unread::Broken),
    }
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let bytes = collect(request, MAX_JSON_BYTES).await.map_err(|error| match error {
        Unread::TooLong => {
            Refusal::new(413, code::PAYLOAD_TOO_LARGE, "a JSON body has at most 4 MiB")
        }
        Unread::Broken => Refusal::invalid("the body broke off"),
    })?;
    serde_json::from_slice(&bytes).map_err(|error| Refusal::invalid(error.to_string()))
}
