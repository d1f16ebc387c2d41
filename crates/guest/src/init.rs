//! `init`: a closed daemon becomes this sandbox's.
//!
//! Nothing is kept until everything was found usable, so a refused `init` may be followed by a
//! better one.

use std::{
    cell::RefCell,
    fs,
    io::{self, Write as _},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    rc::Rc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tarn_daemon_api::StartRequest;
use tarn_guest_api::{Environment, InitRequest, InitResponse, PROTOCOL, Secret, code};

use crate::{
    account::{Account, AccountFiles},
    daemon::{Daemon, Opened, Role, VERSION},
    environment,
    http::ApiError,
    process::{
        PidsGroup, guard,
        start::{Audience, StartError, start},
    },
};

const TOKEN_CHARS: usize = 64;
const MIN_ENTROPY_BYTES: usize = 32;
const MAX_HOSTNAME_BYTES: usize = 64;

/// Opens the daemon and starts the entrypoint.
pub(crate) fn init(daemon: &Rc<Daemon>, request: InitRequest) -> Result<InitResponse, ApiError> {
    if daemon.opened().is_some() {
        let text = "this daemon was initialised before";
        return Err(ApiError::conflict(code::ALREADY_INITIALIZED, text));
    }
    check_protocol(request.protocol)?;
    let entropy = check_form(&request)?;
    let account = resolve_account(request.default_user.as_deref())?;
    let working_dir = working_dir(&account, request.working_dir.as_deref())?;
    let opened = Opened {
        token: RefCell::new(request.token),
        account,
        env: RefCell::new(request.env.0),
        working_dir,
        limits: request.limits,
        rlimit_processes: match daemon.role() {
            Role::Init => Some(request.limits.processes.into()),
            Role::Ordinary => None,
        },
    };
    if daemon.role() == Role::Init {
        set_machine_up(daemon, &request.hostname, &entropy);
        bound_processes(daemon, request.limits.processes);
    }
    let entrypoint_pid = match request.entrypoint {
        None => None,
        Some(command) => Some(start_entrypoint(daemon, &opened, command)?),
    };
    tokio::task::spawn_local(guard::run(Rc::clone(daemon), opened.max_processes()));
    daemon.open(opened);
    Ok(InitResponse { protocol: PROTOCOL, version: VERSION.to_owned(), entrypoint_pid })
}

/// Checks what the node alone decides; returns the entropy.
fn check_form(request: &InitRequest) -> Result<Vec<u8>, ApiError> {
    check_token(&request.token)?;
    let entropy = decode_entropy(&request.entropy)?;
    if request.hostname.is_empty() || request.hostname.len() > MAX_HOSTNAME_BYTES {
        return Err(ApiError::invalid("`hostname` must have 1 to 64 bytes"));
    }
    if request.limits.processes == 0 || request.limits.output_bytes == 0 {
        return Err(ApiError::invalid("`limits` must not be 0"));
    }
    check_env(&request.env)?;
    Ok(entropy)
}

pub(crate) fn check_protocol(protocol: u32) -> Result<(), ApiError> {
    if protocol == PROTOCOL {
        return Ok(());
    }
    let text = format!("protocol {protocol} is unknown: this daemon speaks {PROTOCOL}");
    Err(ApiError::bad_request(code::UNSUPPORTED_PROTOCOL, text))
}

pub(crate) fn check_token(token: &Secret) -> Result<(), ApiError> {
    let token = token.reveal();
    if token.len() != TOKEN_CHARS || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ApiError::invalid("`token` is not 64 hex digits"));
    }
    Ok(())
}

pub(crate) fn decode_entropy(entropy: &Secret) -> Result<Vec<u8>, ApiError> {
    let entropy = STANDARD.decode(entropy.reveal()).unwrap_or_default();
    if entropy.len() < MIN_ENTROPY_BYTES {
        return Err(ApiError::invalid("`entropy` is not base64 of at least 32 bytes"));
    }
    Ok(entropy)
}

pub(crate) fn check_env(env: &Environment) -> Result<(), ApiError> {
    for (name, value) in &env.0 {
        environment::check(name, value)
            .map_err(|bad| ApiError::bad_request(code::CONFIGURATION_ERROR, bad.0))?;
    }
    Ok(())
}

fn resolve_account(user: Option<&str>) -> Result<Account, ApiError> {
    let files = AccountFiles::read();
    match user {
        None | Some("") => Ok(files.root()),
        Some(user) => files
            .resolve_text(user)
            .map_err(|error| ApiError::bad_request(code::CONFIGURATION_ERROR, error.to_string())),
    }
}

/// The image's directory, made if it is missing as Docker does; else the home, if there is one.
fn working_dir(account: &Account, asked: Option<&str>) -> Result<PathBuf, ApiError> {
    let Some(asked) = asked.filter(|path| !path.is_empty()) else {
        let home = PathBuf::from(&account.home);
        return Ok(if home.is_dir() { home } else { PathBuf::from("/") });
    };
    let path = Path::new("/").join(asked);
    let failed = |error: io::Error| {
        let text = format!("cannot use working directory '{}': {error}", path.display());
        ApiError::bad_request(code::CONFIGURATION_ERROR, text)
    };
    match fs::metadata(&path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(failed(io::ErrorKind::NotADirectory.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(&path).map_err(failed)?;
            let identity = &account.identity;
            chown(&path, Some(identity.uid), Some(identity.gid)).map_err(failed)?;
        }
        Err(error) => return Err(failed(error)),
    }
    Ok(path)
}

/// What only a sandbox's PID 1 may do to its machine. Best effort: a kernel that refuses the
/// name shows the runtime's, and gVisor takes its randomness from the host anyway.
fn set_machine_up(daemon: &Daemon, hostname: &str, entropy: &[u8]) {
    _ = nix::unistd::sethostname(hostname);
    drop(daemon.mix_in(entropy));
}

/// Has the kernel bound the processes, root's included. A runtime without the controller has a
/// bound of its own around the sandbox, or none: that is for its log, and the guard goes on.
fn bound_processes(daemon: &Daemon, max_processes: u32) {
    if daemon.has_pids_group() {
        return;
    }
    match PidsGroup::create(max_processes) {
        Ok(group) => daemon.use_pids_group(group),
        Err(error) => {
            let text = "tarnd: no cgroup bounds the processes of root";
            drop(writeln!(io::stderr(), "{text}: {error}"));
        }
    }
}

fn start_entrypoint(
    daemon: &Rc<Daemon>,
    opened: &Opened,
    command: Vec<String>,
) -> Result<i32, ApiError> {
    let mut words = command.into_iter();
    let request = StartRequest {
        command: words.next().unwrap_or_default(),
        args: words.collect(),
        ..StartRequest::default()
    };
    match start(daemon, opened, request, Audience::Followers) {
        Ok(process) => Ok(process.pid().as_raw()),
        Err(StartError::Invalid(text) | StartError::Failed(text)) => {
            let text = format!("cannot start the entrypoint: {text}");
            Err(ApiError::bad_request(code::CONFIGURATION_ERROR, text))
        }
    }
}
